"""The list of mounts, without privileges; then what it makes of friendly and hostile roots."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.sandbox import (
    PIDS_MAX_DEFAULT,
    BindMount,
    Device,
    FileMount,
    Limits,
    Mount,
    Namespaces,
    OverlayMount,
    OverlayRoot,
    PlainRoot,
    Program,
    SandboxError,
    SandboxSpec,
    TmpfsMount,
    syscalls,
)
from builder.sandbox import mounts as under_test
from builder.sandbox.mounts import Host, MountFilesystem, describe, plan, stubs_of
from tests.support import rootfs
from tests.support.sandboxes import Bench

needs_overlay = (pytest.mark.needs_root, pytest.mark.needs_overlay)


def spec(*mounts: Mount, **words: Any) -> SandboxSpec:
    root = OverlayRoot(
        lowerdirs=(Path("/l2"), Path("/l1")), upperdir=Path("/upper"), workdir=Path("/work")
    )
    fields = {"root": root, "program": Program(argv=("x",)), "mounts": mounts, **words}
    return SandboxSpec(**fields)


def lines(spec: SandboxSpec, host: Host | None = None) -> list[str]:
    operations = plan(spec, host or Host(), lambda mount: True)
    return [describe(operation) for operation in operations]


OWN = OverlayRoot(
    lowerdirs=(Path("/own/lower"),), upperdir=Path("/own/upper"), workdir=Path("/own/work")
)


class TestPlan:
    """Pure: nothing here needs a privilege."""

    def test_the_list_reads_as_a_story(self) -> None:
        assert lines(spec(TmpfsMount(target="/scratch"))) == [
            "make all mounts private",
            "mount an overlay of 2 layers on /upper",
            "mount proc on /proc",
            "mount sysfs on /sys",
            "mount cgroup2 on /sys/fs/cgroup",
            *(f"mask {path}" for path in under_test.MASKED),
            *(f"make {path} read-only" for path in under_test.READ_ONLY),
            "mount tmpfs on /dev",
            *(f"bind the host's /dev/{name}" for name in under_test.DEVICES),
            *(f"link /dev/{name} to {target}" for name, target in under_test.LINKS.items()),
            "mount devpts on /dev/pts",
            "mount tmpfs on /dev/shm",
            "mount mqueue on /dev/mqueue",
            "mount tmpfs on /scratch",
        ]

    def test_everything_can_be_described(self) -> None:
        told = lines(
            spec(
                BindMount(source=Path("/src"), source_beneath="sub", target="/a"),
                BindMount(source=Path("/src"), target="/b", read_only=True),
                FileMount(target="/c", content=b""),
                OverlayMount(overlay=OWN, target="/d", source_beneath="sub", read_only=True),
                root=PlainRoot(path=Path("/plain")),
                limits=Limits(pids_max=PIDS_MAX_DEFAULT),
            ),
            Host(own_pid_max=True),
        )
        assert "bind /plain as the root" in told
        assert "mount a tmpfs for generated files" in told
        assert "mount an overlay of 1 layers on /own/upper" in told
        assert f"limit process numbers to {PIDS_MAX_DEFAULT + 300}" in told
        assert told[-4:] == [
            "bind /src/sub on /a",
            "bind /src on /b read-only",
            "show a generated file at /c",
            "show an overlay's /sub on /d read-only",
        ]

    def test_generated_files_have_a_place_below_the_root(self) -> None:
        told = lines(spec(FileMount(target="/etc/hosts", content=b"")))
        assert told.index("mount a tmpfs for generated files") < told.index(
            "mount an overlay of 2 layers on /upper"
        )

    def test_outer_mounts_come_first(self) -> None:
        told = lines(spec(*(TmpfsMount(target=path) for path in ("/a/b/c", "/x", "/a/b", "/a"))))
        assert told[-4:] == [f"mount tmpfs on {path}" for path in ("/x", "/a", "/a/b", "/a/b/c")]

    def test_kernel_file_systems_have_dockers_flags(self) -> None:
        from builder.sandbox import syscalls

        found = {
            operation.target: operation
            for operation in plan(spec(shm_size_bytes=4096), Host(), lambda mount: True)
            if isinstance(operation, MountFilesystem)
        }
        nothing = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        assert {target: operation.flags for target, operation in found.items()} == {
            "/proc": nothing,
            "/sys": nothing | syscalls.MS_RDONLY,
            "/sys/fs/cgroup": nothing | syscalls.MS_RDONLY,
            "/dev": syscalls.MS_NOSUID | syscalls.MS_NODEV,
            "/dev/pts": syscalls.MS_NOSUID | syscalls.MS_NOEXEC,
            "/dev/shm": nothing,
            "/dev/mqueue": nothing,
        }
        assert found["/dev/shm"].options == "mode=1777,size=4096"
        assert found["/dev/pts"].options == "newinstance,ptmxmode=0666,mode=0620,gid=5"

    def test_without_a_tty_group_none_is_asked_for(self) -> None:
        (pts,) = (
            operation
            for operation in plan(spec(), Host(has_tty_group=False), lambda mount: True)
            if isinstance(operation, MountFilesystem) and operation.kind == "devpts"
        )
        assert "gid" not in pts.options

    def test_old_control_groups_are_shown_where_there_are_any(self) -> None:
        told = lines(spec(), Host(unified_cgroups=False, cgroup_controllers=("memory", "pids")))
        start = told.index("mount tmpfs on /sys/fs/cgroup")
        assert told[start : start + 4] == [
            "mount tmpfs on /sys/fs/cgroup",
            "mount cgroup on /sys/fs/cgroup/memory",
            "mount cgroup on /sys/fs/cgroup/pids",
            "make /sys/fs/cgroup read-only",
        ]

    def test_thermal_throttles_are_masked(self) -> None:
        told = lines(spec(), Host(throttled_cpus=("cpu0", "cpu1")))
        assert "mask /sys/devices/system/cpu/cpu1/thermal_throttle" in told

    def test_process_numbers_are_only_limited_where_they_are_our_own(self) -> None:
        limited = spec(limits=Limits(pids_max=PIDS_MAX_DEFAULT))
        assert not any("limit" in line for line in lines(limited, Host(own_pid_max=False)))
        assert any("limit" in line for line in lines(limited, Host(own_pid_max=True)))
        asked = spec(limits=Limits(pids_max=PIDS_MAX_DEFAULT - 1))
        assert not any("limit" in line for line in lines(asked, Host(own_pid_max=True)))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rootfs.need_busybox()
    return rootfs.make_bare_root(tmp_path_factory.mktemp("bare") / "root")


def everything_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


NETWORK_FILES = tuple(
    FileMount(target=f"/etc/{name}", content=name.encode())
    for name in ("hosts", "hostname", "resolv.conf")
)


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestStubs:
    """Mount targets that the image lacks leave no trace in what becomes the next layer."""

    def test_an_image_without_anything_is_left_without_anything(
        self, bench: Bench, bare: Path
    ) -> None:
        mounts = (
            *NETWORK_FILES,
            TmpfsMount(target="/var/cache/deep/inside"),
            FileMount(target="/run/secrets/key", content=b"k"),
        )
        script = (
            "cat /etc/hosts /run/secrets/key; ls -d /proc/1 /sys/class /dev/null /var/cache/deep"
        )
        outcome = bench.sh(script, lowerdirs=(bare,), mounts=mounts)
        assert outcome.lines == ["hostsk/dev/null", "/proc/1", "/sys/class", "/var/cache/deep"]
        assert everything_in(bench.upper) == []

    def test_the_layer_of_stubs_is_gone_afterwards(self, bench: Bench, bare: Path) -> None:
        assert bench.run("/bin/true", lowerdirs=(bare,), mounts=NETWORK_FILES).text == ""
        assert sorted(path.name for path in bench.scratch.iterdir()) == ["upper1", "work1"]

    def test_a_killed_sandbox_does_not_stop_the_next_one(self, bench: Bench, bare: Path) -> None:
        root = bench.overlay(bare)
        left = stubs_of(root) / "proc"
        left.mkdir(parents=True)
        (left / "old").touch()
        assert bench.sh("test ! -e /proc/old && echo ok", root=root).lines == ["ok"]
        assert not stubs_of(root).exists()

    def test_what_the_program_adds_beside_a_stub_is_kept(self, bench: Bench, bare: Path) -> None:
        assert bench.sh("echo x > /etc/new", lowerdirs=(bare,), mounts=NETWORK_FILES).text == ""
        assert everything_in(bench.upper) == ["etc", "etc/new"]

    def test_directories_keep_their_attributes(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "srv").mkdir(parents=True)
        os.chown(layer / "srv", 12, 34)
        (layer / "srv").chmod(0o2751)
        os.setxattr(layer / "srv", "user.note", b"kept")
        os.utime(layer / "srv", ns=(10**18, 10**18))
        mount = (FileMount(target="/srv/stub", content=b""),)
        script = "stat -c '%a %u %g %Y' /srv"
        layers = (layer, bench.lower)
        assert bench.sh(script, lowerdirs=layers, mounts=mount).lines == ["2751 12 34 1000000000"]
        assert bench.sh("touch /srv/new", lowerdirs=layers, mounts=mount).text == ""
        copied = bench.upper / "srv"
        status = copied.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o2751, 12, 34)
        assert os.getxattr(copied, "user.note") == b"kept"

    def test_opaque_directories_and_whiteouts_do_not_hide_a_stub(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        top, middle = tmp_path / "top", tmp_path / "middle"
        (top / "cache").mkdir(parents=True)
        os.setxattr(top / "cache", "trusted.overlay.opaque", b"y")
        (middle / "cache/old").mkdir(parents=True)
        (top / "etc").mkdir()
        os.mknod(top / "etc/hosts", stat.S_IFCHR, os.makedev(0, 0))
        mounts = (TmpfsMount(target="/cache/new"), NETWORK_FILES[0])
        script = "ls -A /cache; cat /etc/hosts"
        layers = (top, middle, bench.lower)
        assert bench.sh(script, lowerdirs=layers, mounts=mounts).lines == ["new", "hosts"]
        assert everything_in(bench.upper) == []

    def test_dangling_links_get_a_stub_where_they_lead(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "etc").mkdir(parents=True)
        (layer / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
        outcome = bench.sh(
            "cat /etc/resolv.conf; readlink -f /etc/resolv.conf",
            lowerdirs=(layer, bench.lower),
            mounts=NETWORK_FILES,
        )
        assert outcome.text == "resolv.conf/run/systemd/resolve/stub-resolv.conf\n"
        assert everything_in(bench.upper) == []

    def test_a_used_upper_directory_keeps_what_it_has(self, bench: Bench, bare: Path) -> None:
        """A container that is started again."""
        root = bench.overlay(bare)
        assert bench.sh("mkdir /etc; echo mine > /etc/file", root=root).text == ""
        again = bench.sh("cat /etc/file /etc/hosts", root=root, mounts=NETWORK_FILES)
        assert again.text == "mine\nhosts"
        assert everything_in(bench.upper) == ["etc", "etc/file"]

    def test_stubs_hidden_by_the_upper_directory_are_made_and_taken_away(
        self, bench: Bench
    ) -> None:
        root = bench.overlay()
        assert bench.sh("rm -rf /var && mkdir /var", root=root).text == ""
        mount = (TmpfsMount(target="/var/cache"),)
        assert bench.sh("touch /var/cache/x && echo ok", root=root, mounts=mount).lines == ["ok"]
        assert everything_in(bench.upper) == ["var"]

    def test_a_plain_root_is_cleaned_up(self, bench: Bench, tmp_path: Path) -> None:
        plain = rootfs.make_bare_root(tmp_path / "plain")
        before = everything_in(plain)
        mounts = (*NETWORK_FILES, TmpfsMount(target="/var/cache"))
        root = PlainRoot(path=plain)
        assert bench.sh("cat /etc/hosts > /dev/null", root=root, mounts=mounts).text == ""
        assert everything_in(plain) == before
        assert bench.sh("touch /etc/mine", root=root, mounts=mounts).text == ""
        assert sorted(set(everything_in(plain)) - set(before)) == ["etc", "etc/mine"]

    def test_a_plain_root_is_cleaned_up_after_a_failure_too(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        plain = rootfs.make_bare_root(tmp_path / "plain")
        before = everything_in(plain)
        bad = BindMount(source=tmp_path / "nonesuch", target="/zzz/bad")
        with pytest.raises(SandboxError):
            bench.run("/bin/true", root=PlainRoot(path=plain), mounts=(*NETWORK_FILES, bad))
        assert everything_in(plain) == before


def put_link(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


def put_file(place: Path) -> None:
    place.write_text("a file")


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestHostileRoots:
    @pytest.mark.parametrize("name", ["proc", "sys", "dev"])
    @pytest.mark.parametrize(
        "put", [put_link("/etc"), put_link("/nowhere"), put_link("../../.."), put_file]
    )
    def test_our_own_mounts_want_real_directories(
        self, bench: Bench, bare: Path, tmp_path: Path, name: str, put: Callable[[Path], None]
    ) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        put(layer / name)
        with pytest.raises(SandboxError, match=f"/{name} of the root is") as caught:
            bench.run("/bin/true", lowerdirs=(layer, bare))
        assert caught.value.hint

    def test_devices_of_the_image_do_not_matter(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "dev").mkdir(parents=True)
        os.mknod(layer / "dev/null", 0o666 | stat.S_IFREG)
        (layer / "dev/pts").symlink_to("/etc")
        (layer / "dev/shm").symlink_to("/etc")
        (layer / "dev/console").symlink_to("/etc/passwd")
        script = (
            "echo gone > /dev/null; ls -A /dev/shm; test ! -L /dev/pts; cat /etc/passwd | head -1"
        )
        outcome = bench.sh(script, lowerdirs=(layer, bench.lower))
        assert outcome.lines == ["root:x:0:0:root:/root:/bin/sh"]

    def test_etc_as_a_link_stays_inside(self, bench: Bench, bare: Path, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "config").mkdir(parents=True)
        (layer / "etc").symlink_to("../../../../config")
        outcome = bench.sh("cat /config/hosts", lowerdirs=(layer, bare), mounts=NETWORK_FILES)
        assert outcome.text == "hosts"
        assert everything_in(bench.upper) == []

    @pytest.mark.parametrize("target", ["/etc", "/../../../../../../etc"])
    def test_a_link_to_the_host_leads_into_the_root(
        self, bench: Bench, tmp_path: Path, target: str
    ) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "mnt").symlink_to(target)
        mount = TmpfsMount(target="/mnt/inside")
        assert bench.sh(
            "ls -d /etc/inside", lowerdirs=(layer, bench.lower), mounts=(mount,)
        ).lines == ["/etc/inside"]
        assert not Path("/etc/inside").exists()

    @pytest.mark.parametrize(
        "target",
        [
            *("/proc/sys/kernel", "/proc/1", "/proc/self/attr", "/sys/kernel", "/proc", "/sys"),
            *("/link/1", "/proc/nonesuch", "/sys/fs/cgroup/x"),
        ],
    )
    def test_nothing_can_be_mounted_inside_proc_and_sys(
        self, bench: Bench, tmp_path: Path, target: str
    ) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "link").symlink_to("/proc")
        with pytest.raises(SandboxError, match=r"mount /"):
            bench.run(
                "/bin/true",
                lowerdirs=(layer, bench.lower),
                mounts=(TmpfsMount(target=target),),
            )

    @pytest.mark.parametrize("target", ["/", "", "relative", "/..", "/tmp/.."])
    def test_the_root_itself_is_no_target(self, bench: Bench, target: str) -> None:
        with pytest.raises(SandboxError):
            bench.run("/bin/true", mounts=(TmpfsMount(target=target),))

    def test_kinds_must_match(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for mount in (
            TmpfsMount(target="/etc/passwd"),
            FileMount(target="/etc", content=b""),
            BindMount(source=tmp_path, target="/etc/passwd"),
            BindMount(source=tmp_path / "file", target="/etc"),
        ):
            with pytest.raises(SandboxError, match="director"):
                bench.run("/bin/true", mounts=(mount,))

    def test_redirecting_attributes_of_a_layer_have_no_effect(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        layer = tmp_path / "layer"
        (layer / "redirected").mkdir(parents=True)
        os.setxattr(layer / "redirected", "trusted.overlay.redirect", b"/etc")
        (layer / "metacopied").touch()
        os.setxattr(layer / "metacopied", "trusted.overlay.metacopy", b"")
        os.setxattr(layer / "metacopied", "trusted.overlay.redirect", b"/etc/passwd")
        script = "ls -A /redirected; cat /metacopied 2>&1 | grep -c root; true"
        outcome = bench.sh(script, lowerdirs=(layer, bench.lower))
        assert "passwd" not in outcome.stdout.decode()
        assert b"1" not in outcome.stdout


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestOverlay:
    @pytest.mark.parametrize("count", [2, 100, 300, 499])
    def test_any_number_of_layers_can_be_stacked(
        self, bench: Bench, tmp_path: Path, count: int
    ) -> None:
        layers = [bench.lower]
        for number in range(count - 1):
            layer = tmp_path / f"layer-with-a-rather-long-name-{number}"
            layer.mkdir()
            (layer / f"file{number}").touch()
            layers.insert(0, layer)
        outcome = bench.sh("ls / | grep -c ^file", lowerdirs=layers, mounts=NETWORK_FILES)
        assert outcome.lines == [str(count - 1)]
        assert everything_in(bench.upper) == []

    def test_names_of_layers_may_have_any_character(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "a,b:c\\d e\udcff"
        layer.mkdir()
        (layer / "file").write_text("seen\n")
        root = bench.overlay(layer, bench.lower)
        odd = root.upperdir.with_name("up,per:x")
        root.upperdir.rename(odd)
        root = replace(root, upperdir=odd)
        assert bench.sh("cat /file; touch /new", root=root).lines == ["seen"]
        assert everything_in(odd) == ["new"]

    def test_no_path_of_the_host_shows_inside(self, bench: Bench, tmp_path: Path) -> None:
        mount = BindMount(source=tmp_path, target="/mnt")
        outcome = bench.sh(
            "cat /proc/self/mounts /proc/1/mountinfo | grep overlay", mounts=(mount,)
        )
        assert str(bench.lower) not in outcome.text
        assert str(tmp_path) not in outcome.text

    def test_a_root_that_is_not_volatile_can_be_mounted_again(self, bench: Bench) -> None:
        for volatile in (True, True, False, True, False):
            root = replace(
                bench.overlay() if not bench.uppers else self.again(bench), volatile=volatile
            )
            assert bench.sh("echo x >> /count", root=root).text == ""
        assert (bench.upper / "count").read_text() == "x\n" * 5

    def again(self, bench: Bench) -> OverlayRoot:
        return OverlayRoot(
            lowerdirs=(bench.lower,),
            upperdir=bench.upper,
            workdir=bench.scratch / "work1",
        )

    def test_files_keep_their_identity_when_they_are_changed(
        self, bench: Bench, bare: Path
    ) -> None:
        """All layers, the one of stubs too, share a file system: st_ino is that of the origin."""
        stat_it = "stat -c %d.%i /bin/busybox > /dev/shm"
        script = f"{stat_it}/a; chmod 700 /bin/busybox; {stat_it}/b; cmp /dev/shm/a /dev/shm/b"
        assert bench.sh(script, lowerdirs=(bare,)).text == ""

    def test_deletions_and_renames_work_across_layers(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "dir/sub").mkdir(parents=True)
        (layer / "dir/sub/file").write_text("1")
        outcome = bench.sh(
            "cp -a /dir /moved && rm -r /dir; cat /moved/sub/file",
            lowerdirs=(layer, bench.lower),
        )
        assert outcome.text == "1"
        assert (bench.upper / "dir").is_char_device()


class TestPlanOfMounts:
    """Pure: what mounts asked for do to the list."""

    def test_overlays_of_mounts_are_made_before_the_root_covers_them(self) -> None:
        mount = OverlayMount(overlay=OWN, target="/a")
        told = lines(spec(TmpfsMount(target="/a/b"), mount))
        made = told.index("mount an overlay of 1 layers on /own/upper")
        assert made < told.index("mount an overlay of 2 layers on /upper")
        assert told[-2:] == ["show an overlay's / on /a", "mount tmpfs on /a/b"]

    @pytest.mark.parametrize("target", ["/dev/shm", "/dev/mqueue"])
    def test_a_mount_in_the_place_of_one_of_ours_replaces_it(self, target: str) -> None:
        told = lines(spec(TmpfsMount(target=target)))
        assert [line for line in told if line.endswith(f" on {target}")] == [
            f"mount tmpfs on {target}"
        ]

    def test_nothing_is_masked_where_that_is_asked_for(self) -> None:
        told = lines(spec(unmasked=True), Host(unified_cgroups=False, cgroup_controllers=("pids",)))
        assert not [line for line in told if line.startswith(("mask", "make /"))]
        operations = plan(spec(unmasked=True), Host(), lambda mount: True)
        made = {each.target: each for each in operations if isinstance(each, MountFilesystem)}
        assert not made["/sys"].flags & syscalls.MS_RDONLY
        assert not made["/dev"].flags & syscalls.MS_NODEV

    def test_contents_are_in_no_description(self) -> None:
        mount = FileMount(target="/secret", content=b"hunter2")
        assert "hunter2" not in repr(spec(mount)) + "".join(lines(spec(mount)))


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestMountsAskedFor:
    def overlay(self, bench: Bench, tmp_path: Path) -> OverlayMount:
        lower = tmp_path / "own-lower"
        (lower / "sub").mkdir(parents=True)
        (lower / "sub" / "file").write_text("lower\n")
        (lower / "out").symlink_to("../../../../etc")
        return OverlayMount(overlay=bench.overlay(lower), target="/mnt/own")

    def test_an_overlay_shows_its_layers_and_keeps_them(self, bench: Bench, tmp_path: Path) -> None:
        mount = self.overlay(bench, tmp_path)
        script = "cat /mnt/own/sub/file; echo new > /mnt/own/sub/file; cat /mnt/own/sub/file"
        assert bench.sh(script, mounts=(mount,)).lines == ["lower", "new"]
        assert (tmp_path / "own-lower/sub/file").read_text() == "lower\n"
        assert everything_in(bench.upper) == []

    def test_an_overlay_can_be_used_again_with_what_was_written(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        mount = self.overlay(bench, tmp_path)
        assert mount.overlay.volatile
        bench.sh("echo new > /mnt/own/new", mounts=(mount,))
        assert bench.sh("cat /mnt/own/new", mounts=(mount,)).lines == ["new"]

    def test_a_part_of_an_overlay(self, bench: Bench, tmp_path: Path) -> None:
        mount = self.overlay(bench, tmp_path)
        part = replace(mount, source_beneath="sub")
        assert bench.sh("ls /mnt/own", mounts=(part,)).lines == ["file"]
        file = replace(
            mount, overlay=bench.overlay(tmp_path / "own-lower"), source_beneath="sub/file"
        )
        file = replace(file, is_directory=False, target="/mnt/file")
        assert bench.sh("cat /mnt/file", mounts=(file,)).lines == ["lower"]

    def test_a_part_that_is_a_link_is_not_followed(self, bench: Bench, tmp_path: Path) -> None:
        part = replace(self.overlay(bench, tmp_path), source_beneath="out")
        with pytest.raises(SandboxError, match="Too many levels of symbolic links"):
            bench.sh("ls /mnt/own", mounts=(part,))

    def test_a_read_only_overlay_cannot_be_written_to(self, bench: Bench, tmp_path: Path) -> None:
        mount = replace(self.overlay(bench, tmp_path), read_only=True)
        outcome = bench.sh("echo x > /mnt/own/sub/file || echo refused", mounts=(mount,))
        assert outcome.lines == ["refused"]

    def test_several_overlays_at_once(self, bench: Bench, tmp_path: Path) -> None:
        first = self.overlay(bench, tmp_path)
        second = replace(
            first, overlay=bench.overlay(tmp_path / "own-lower"), target="/mnt/own/sub"
        )
        script = "ls /mnt/own/sub; cat /mnt/own/sub/sub/file"
        assert bench.sh(script, mounts=(first, second)).lines == ["out", "sub", "lower"]

    def test_a_file_belongs_to_whom_it_should(self, bench: Bench) -> None:
        mount = FileMount(target="/s/file", content=b"x", mode=0o440, uid=12, gid=34)
        assert bench.sh("stat -c '%u %g %a' /s/file", mounts=(mount,)).lines == ["12 34 440"]

    @pytest.mark.parametrize("read_only", [False, True])
    def test_a_tmpfs_belongs_to_whom_it_should(self, bench: Bench, *, read_only: bool) -> None:
        mount = TmpfsMount(target="/t", mode=0o1750, uid=12, gid=34, read_only=read_only)
        script = "stat -c '%u %g %a' /t; touch /t/x && echo written"
        written = [] if read_only else ["written"]
        outcome = bench.sh(f"{script} 2> /dev/null; true", mounts=(mount,))
        assert outcome.lines == ["12 34 1750", *written]

    def test_a_tmpfs_of_a_size_and_one_that_is_read_only(self, bench: Bench) -> None:
        mounts = (
            TmpfsMount(target="/t", size_bytes=1 << 20),
            TmpfsMount(target="/r", read_only=True),
        )
        script = (
            "dd if=/dev/zero of=/t/x bs=1k count=2000 2>/dev/null || stat -c %s /t/x;"
            "touch /r/x || echo refused"
        )
        assert bench.sh(script, mounts=mounts).lines == [str(1 << 20), "refused"]

    def test_a_mount_may_take_the_place_of_shared_memory(self, bench: Bench) -> None:
        mount = TmpfsMount(target="/dev/shm", size_bytes=1 << 20)
        outcome = bench.sh("grep -c ' /dev/shm ' /proc/mounts; df -k /dev/shm", mounts=(mount,))
        assert outcome.lines[0] == "1"
        assert " 1024 " in outcome.text

    def test_unmasked_shows_what_is_hidden_and_opens_devices(self, bench: Bench) -> None:
        script = (
            "head -c 1 /proc/keys > /dev/null && echo keys;"
            "mknod /dev/zero2 c 1 5 && head -c 1 /dev/zero2 | wc -c;"
            "mknod /zero c 1 5 && head -c 1 /zero | wc -c;"
            "test -w /proc/sys/kernel && touch -c /proc/sys/kernel/hostname && echo sys"
        )
        open_to_all = bench.sh(script, unmasked=True).text.split()
        assert open_to_all[-3:] == ["1", "1", "sys"]
        masked = bench.sh(script + "; true").text.split()
        assert "sys" not in masked
        assert masked.count("1") == 0


def test_stubs_are_removed_however_deep_they_are(tmp_path: Path) -> None:
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "file").touch()
    fd = os.open(stubs, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below_fd = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below_fd))
        os.close(fd)
        fd = below_fd
    os.close(fd)
    under_test.remove_stubs(stubs)
    assert not list(tmp_path.iterdir())
    under_test.remove_stubs(stubs)


class TestProfile:
    """What can be asked for besides the usual; the plan first, then sandboxes."""

    def test_settings_come_before_the_place_is_read_only(self) -> None:
        found = lines(spec(sysctls=(("net.core.somaxconn", "9"),)))
        at = found.index("set the sysctl net.core.somaxconn to '9'")
        assert found.index("mount proc on /proc") < at < found.index("make /proc/sys read-only")

    def test_what_belongs_to_others_is_left_alone(self) -> None:
        limits = Limits(pids_max=PIDS_MAX_DEFAULT)
        host = Host(own_pid_max=True)
        assert [line for line in lines(spec(limits=limits), host) if "process numbers" in line]
        shared = spec(limits=limits, namespaces=Namespaces(pid="host", ipc=77))
        found = lines(shared, host)
        assert not [line for line in found if "process numbers" in line]
        assert "mount tmpfs on /dev/shm" not in found
        assert "show somebody else's shared memory on /dev/shm" in found

    def test_nothing_hidden_is_not_everything_open(self) -> None:
        found = lines(spec(hide_system_paths=False))
        assert not [line for line in found if line.startswith("mask")]
        assert "make /proc/sys read-only" not in found
        operations = plan(spec(hide_system_paths=False), Host(), lambda mount: True)
        (sysfs,) = [o for o in operations if isinstance(o, MountFilesystem) and o.kind == "sysfs"]
        assert sysfs.flags & syscalls.MS_RDONLY

    def test_no_shared_memory_at_all(self) -> None:
        assert "mount tmpfs on /dev/shm" not in lines(spec(shm_size_bytes=0))

    def test_devices_come_last_and_instead_of_the_usual(self) -> None:
        devices = (
            Device(source=Path("/dev/zero"), target="/dev/null"),
            Device(source=Path("/dev/x"), target="/srv/x"),
        )
        found = lines(spec(TmpfsMount(target="/srv"), devices=devices))
        assert "bind the host's /dev/null" not in found
        assert found[-2:] == [
            "show the device /dev/zero at /dev/null",
            "show the device /dev/x at /srv/x",
        ]

    @pytest.mark.needs_root
    @pytest.mark.needs_overlay
    class TestAtWork:
        def test_settings(self, bench: Bench) -> None:
            names = ("net.core.somaxconn", "kernel.shmmni", "fs.mqueue.msg_max")
            before = {name: Path("/proc/sys", *name.split(".")).read_text() for name in names}
            places = " ".join(f"/proc/sys/{name.replace('.', '/')}" for name in names)
            sysctls = tuple((name, "11") for name in names)
            assert bench.sh(f"cat {places}", sysctls=sysctls).lines == ["11"] * 3
            for name in names:
                assert Path("/proc/sys", *name.split(".")).read_text() == before[name]

        @pytest.mark.parametrize(
            ("name", "value", "message"),
            [
                ("net.no.such", "1", "this kernel has no such setting"),
                ("net.core.somaxconn", "many", "the kernel does not take 'many'"),
            ],
        )
        def test_settings_that_cannot_be(
            self, bench: Bench, name: str, value: str, message: str
        ) -> None:
            with pytest.raises(SandboxError, match=message):
                bench.sh("true", sysctls=((name, value),))

        def test_devices_can_be_opened_and_their_files_not_changed(self, bench: Bench) -> None:
            device = Device(source=Path("/dev/full"), target="/dev/a/b/full")
            script = (
                "head -c 1 /dev/a/b/full | od -An -tx1; echo x > /dev/a/b/full;"
                " chmod 0 /dev/a/b/full; chown 7 /dev/a/b/full; stat -c %a:%u /dev/a/b/full"
            )
            outcome = bench.sh(script, devices=(device,))
            assert outcome.lines[0] == " 00"
            assert b"No space left on device" in outcome.stderr
            mode = stat.S_IMODE(Path("/dev/full").stat().st_mode)
            assert outcome.lines[1] == f"{mode:o}:0"
            assert not list(bench.upper.iterdir())

        def test_a_device_outside_of_dev_leaves_no_trace(self, bench: Bench) -> None:
            device = Device(source=Path("/dev/zero"), target="/srv/zero")
            script = "head -c 1 /srv/zero | od -An -tx1"
            assert bench.sh(script, devices=(device,)).lines == [" 00"]
            assert not (bench.upper / "srv/zero").exists()

        @pytest.mark.parametrize(
            ("source", "message"),
            [("/etc/passwd", "is not a device"), ("/dev/absent", "No such file")],
        )
        def test_what_is_no_device(self, bench: Bench, source: str, message: str) -> None:
            with pytest.raises(SandboxError, match=message):
                bench.sh("true", devices=(Device(source=Path(source), target="/dev/x"),))

        def test_shown_system_paths_can_be_read(self, bench: Bench) -> None:
            script = "wc -c < /proc/interrupts; touch /sys/x 2>&1; ls /proc/sys | wc -l"
            size, refused, _ = bench.sh(script, hide_system_paths=False).lines
            assert int(size) > 0
            assert "Read-only" in refused
