"""Another runtime as the executor: what tests/contracts/test_executor.py does not ask of all."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox import (
    BindMount,
    Device,
    ExitStatus,
    FileMount,
    Limits,
    OverlayMount,
    PlainRoot,
    RuntimeExecutor,
    SandboxError,
    UnsupportedHostError,
    cgroups,
    find_runtime,
)
from builder.sandbox.ociruntime import preflight
from tests.support import rootfs, traces
from tests.support.cli import REPOSITORY
from tests.support.sandboxes import PATH, Bench, piped
from tests.support.waiting import wait_until

needs_crun = [pytest.mark.needs_root, pytest.mark.needs_overlay, pytest.mark.needs_peers("crun")]
SECRET = "tr0ub4dor-and-3"


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    rootfs.need_busybox()
    return rootfs.make_root(tmp_path / "root")


@pytest.fixture
def bench(lower: Path, tmp_path: Path) -> Iterator[Bench]:
    with RuntimeExecutor(find_runtime("crun")) as executor:
        yield Bench(executor=executor, lower=lower, scratch=tmp_path)


def fake_runtime(tmp_path: Path, script: str) -> RuntimeExecutor:
    """A runtime that is a shell script: `$command` is what it is asked to do."""
    path = tmp_path / "fake-runtime"
    head = "#!/bin/sh\nfor word; do case $word in create|start|delete) command=$word;; esac; done\n"
    path.write_text(f"{head}echo $command >> {tmp_path}/asked\n{script}\n")
    path.chmod(0o755)
    return RuntimeExecutor(path)


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().split()


class TestFindRuntime:
    def test_a_name_is_looked_up_in_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_runtime(tmp_path, "")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_runtime("fake-runtime") == tmp_path / "fake-runtime"

    def test_a_path_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_runtime(tmp_path, "")
        monkeypatch.chdir(tmp_path)
        assert find_runtime("./fake-runtime") == tmp_path / "fake-runtime"

    @pytest.mark.parametrize("word", ["nonesuch", "/nonesuch", "/etc/passwd", "/etc", ""])
    def test_what_is_none_is_an_error(self, word: str) -> None:
        with pytest.raises(SandboxError, match="not found") as caught:
            find_runtime(word)
        assert "crun" in caught.value.hint


class TestPreflight:
    PLACES = ("proc", "sys", "dev", "run", "etc", "dev/pts", "dev/shm", "sys/fs/cgroup")

    def look(self, root: Path) -> None:
        fd = os.open(root, os.O_PATH)
        try:
            preflight(fd)
        finally:
            os.close(fd)

    def test_an_empty_root_is_fit(self, tmp_path: Path) -> None:
        self.look(tmp_path)

    def test_a_usual_root_is_fit(self, lower: Path) -> None:
        self.look(lower)

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("target", ["/tmp", "../..", "nowhere", "/proc/self/root"])
    def test_a_link_is_not(self, tmp_path: Path, place: str, target: str) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        with pytest.raises(SandboxError, match=f"/{place} of the root is a symbolic link"):
            self.look(tmp_path)

    @pytest.mark.parametrize("place", PLACES)
    def test_a_file_is_not(self, tmp_path: Path, place: str) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with pytest.raises(SandboxError, match=f"/{place} of the root is no directory"):
            self.look(tmp_path)

    def test_what_lies_behind_a_link_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "real/pts").mkdir(parents=True)
        (tmp_path / "dev").symlink_to("real")
        with pytest.raises(SandboxError, match="/dev of the root"):
            self.look(tmp_path)

    @pytest.mark.needs_root
    @pytest.mark.needs_overlay
    @pytest.mark.parametrize("place", ["run", "etc"])
    def test_it_is_asked_before_the_runtime_is(
        self, lower: Path, tmp_path: Path, place: str
    ) -> None:
        if (lower / place).is_dir():
            for file in (lower / place).iterdir():
                file.unlink()
            (lower / place).rmdir()
        (lower / place).symlink_to("/tmp")
        with fake_runtime(tmp_path, "exit 1") as executor:
            bench = Bench(executor=executor, lower=lower, scratch=tmp_path)
            with pytest.raises(SandboxError, match=f"/{place} of the root"):
                bench.run("true")
        assert not (tmp_path / "asked").exists()


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestFakes:
    """What a runtime may do wrong."""

    def bench(self, executor: RuntimeExecutor, lower: Path, tmp_path: Path) -> Bench:
        return Bench(executor=executor, lower=lower, scratch=tmp_path)

    def test_it_is_given_a_bundle(self, lower: Path, tmp_path: Path) -> None:
        copy = f"cp config.json {tmp_path}/seen; cp -a shown {tmp_path}/; exit 1"
        with fake_runtime(tmp_path, copy) as executor:
            bench = self.bench(executor, lower, tmp_path)
            mount = FileMount(target="/key", content=SECRET.encode(), mode=0o400, uid=5, gid=6)
            with pytest.raises(SandboxError):
                bench.run("true", mounts=(mount,), user="ada", hostname="ship")
        document = json.loads((tmp_path / "seen").read_text())
        assert document["process"]["user"]["uid"] == 1000
        assert document["hostname"] == "ship"
        shown = tmp_path / "shown/0"
        assert shown.read_text() == SECRET
        assert shown.stat().st_mode & 0o777 == 0o400
        assert (shown.stat().st_uid, shown.stat().st_gid) == (5, 6)

    def test_what_it_logs_is_the_error(self, lower: Path, tmp_path: Path) -> None:
        script = """echo '{"level": "error", "msg": "the moon is full"}' >> log; exit 1"""
        with fake_runtime(tmp_path, script) as executor:
            bench = self.bench(executor, lower, tmp_path)
            with pytest.raises(SandboxError, match="fake-runtime create: the moon is full"):
                bench.run("true")
        assert asked(tmp_path) == ["create", "delete"]

    @pytest.mark.parametrize("log", ["", "no json", "[1]", "null", '{"msg": 5}', "[" * 10000])
    def test_a_log_that_says_nothing(self, lower: Path, tmp_path: Path, log: str) -> None:
        (tmp_path / "text").write_text(log)
        with fake_runtime(tmp_path, f"cp {tmp_path}/text log; exit 1") as executor:
            bench = self.bench(executor, lower, tmp_path)
            with pytest.raises(SandboxError, match="fake-runtime create: "):
                bench.run("true")

    @pytest.mark.parametrize("pid", ["", "no number", "-1", "0", "999999999", "9" * 30])
    def test_one_that_names_no_process(self, lower: Path, tmp_path: Path, pid: str) -> None:
        with fake_runtime(tmp_path, f"printf '%s' '{pid}' > pid") as executor:
            bench = self.bench(executor, lower, tmp_path)
            with pytest.raises(SandboxError, match=r"create: .* is it an OCI runtime\?"):
                bench.run("true")
        assert asked(tmp_path)[-1] == "delete"

    def test_one_that_cannot_be_executed(self, lower: Path, tmp_path: Path) -> None:
        with fake_runtime(tmp_path, "") as executor:
            executor.path.write_text("#!/nonesuch\n")
            bench = self.bench(executor, lower, tmp_path)
            with pytest.raises(SandboxError, match="fake-runtime create: it has failed"):
                bench.run("true")

    def test_nothing_is_left_when_it_fails(self, lower: Path, tmp_path: Path) -> None:
        with fake_runtime(tmp_path, "exit 1") as executor:
            bench = self.bench(executor, lower, tmp_path)
            before = set(tmp_path.iterdir())
            with pytest.raises(SandboxError):
                bench.run("true")
        left = {path.name for path in set(tmp_path.iterdir()) - before}
        assert left == {"asked", "upper1", "work1"}
        assert traces.mounts_of(tmp_path) == []


class TestRefused:
    pytestmark = needs_crun

    def test_what_it_cannot_carry_out(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="--privileged is not carried out"):
            bench.run("true", unmasked=True)
        with pytest.raises(SandboxError, match="processors is not carried out"):
            bench.run("true", processors=1)

    def test_an_overlay_of_the_callers(self, bench: Bench) -> None:
        mount = OverlayMount(overlay=bench.overlay(), target="/mnt")
        with pytest.raises(SandboxError, match="mount /mnt: an overlay"):
            bench.run("true", mounts=(mount,))

    @pytest.mark.parametrize("words", [("echo", "\udcff"), ("\udcff",)])
    def test_what_is_no_utf_8(self, bench: Bench, words: tuple[str, ...]) -> None:
        with pytest.raises(SandboxError, match="UTF-8"):
            bench.run(*words)

    @pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/1/cwd", "/sys/kernel", "/dev/x"])
    def test_a_working_directory_among_the_kernels_views(self, bench: Bench, cwd: str) -> None:
        with pytest.raises(SandboxError, match="working directory"):
            bench.run("true", cwd=cwd)

    def test_limits_of_an_ordinary_user(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("builder.sandbox.ociruntime.in_user_namespace", lambda: True)
        with pytest.raises(UnsupportedHostError, match="limits by another runtime"):
            bench.run("true", limits=Limits(memory_bytes=64 << 20))

    @pytest.mark.parametrize("user", ["ada", "0:5"])
    def test_another_user_where_there_is_one_id(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, user: str
    ) -> None:
        monkeypatch.setattr("builder.sandbox.ociruntime.has_one_id", lambda: True)
        with pytest.raises(UnsupportedHostError, match="other users by another runtime"):
            bench.run("true", user=user)


class TestRuns:
    pytestmark = needs_crun

    def test_what_is_no_device_is_none(self, bench: Bench) -> None:
        device = Device(source=Path("/etc/passwd"), target="/dev/x")
        with pytest.raises(SandboxError, match=r"device /dev/x: '/etc/passwd' is not a device"):
            bench.run("/bin/true", devices=(device,))

    def test_other_devices_of_the_same_kind_stay_closed(self, bench: Bench) -> None:
        device = Device(source=Path("/dev/full"), target="/dev/x")
        script = (
            "mknod /m c 1 1 && cat /m; head -c 1 /dev/x | od -An -tx1; mount | grep -c ' /dev/x '"
        )
        outcome = bench.sh(script, devices=(device,))
        assert outcome.lines == [" 00", "1"]
        assert b"Operation not permitted" in outcome.stderr

    def test_config_json_and_generated_files_are_on_no_disk(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        mount = FileMount(target="/run/secrets/key", content=SECRET.encode())
        words = ("/bin/sh", "-c", "echo ready; exec sleep 60")
        with bench.background(*words, env=(PATH, f"KEY={SECRET}"), mounts=(mount,)):
            for path in tmp_path.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert SECRET.encode() not in path.read_bytes()
            assert list((tmp_path / "work1.bundle").iterdir()) == []
            assert traces.mounts_of(tmp_path) == []
        assert not (tmp_path / "work1.bundle").exists()

    def test_targets_that_are_links_lead_inside(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/x").write_text("shown\n")
        (bench.lower / "run").mkdir()
        (bench.lower / "var/run").symlink_to("../run")
        (bench.lower / "out").symlink_to("../../../../..")
        binds = [
            BindMount(source=tmp_path / "source", target=target, read_only=True)
            for target in ("/var/run/a", "/out/b")
        ]
        assert bench.sh("cat /run/a/x /b/x", mounts=tuple(binds)).lines == ["shown", "shown"]

    def test_a_resolv_conf_that_leads_out_is_shown_inside(self, bench: Bench) -> None:
        (bench.lower / "etc/resolv.conf").unlink()
        (bench.lower / "etc/resolv.conf").symlink_to("../../../run/systemd/resolv.conf")
        mount = FileMount(target="/etc/resolv.conf", content=b"nameserver 192.0.2.1\n")
        outcome = bench.sh("cat /etc/resolv.conf; readlink /etc/resolv.conf", mounts=(mount,))
        assert outcome.lines == ["nameserver 192.0.2.1", "../../../run/systemd/resolv.conf"]
        assert sorted(path.name for path in bench.upper.rglob("*")) == []

    def test_a_plain_root_is_left_as_it_was(self, bench: Bench) -> None:
        before = sorted(bench.lower.rglob("*"))
        mount = FileMount(target="/new/file", content=b"x")
        root = PlainRoot(path=bench.lower)
        assert bench.sh("cat /new/file", root=root, mounts=(mount,)).stdout == b"x"
        assert sorted(bench.lower.rglob("*")) == before

    def test_a_working_directory_is_made(self, bench: Bench) -> None:
        assert bench.run("pwd", cwd="/a/b").lines == ["/a/b"]
        assert (bench.upper / "a/b").is_dir()

    def test_limits_are_those_of_a_group(self, bench: Bench) -> None:
        limits = Limits(pids_max=20, memory_bytes=64 << 20)
        script = "for i in $(seq 40); do sleep 5 & done; wait; echo all"
        outcome = bench.sh(script, limits=limits)
        assert outcome.status != ExitStatus() or b"all" not in outcome.stdout

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_nothing_outlives_a_caller_that_was_killed(
        self, lower: Path, tmp_path: Path, number: int
    ) -> None:
        script = (
            "import os, sys; from pathlib import Path\n"
            "from builder.sandbox import *\n"
            "upper, work = Path('up'), Path('wk')\n"
            "upper.mkdir(); work.mkdir()\n"
            "root = OverlayRoot(lowerdirs=(Path(sys.argv[1]),), upperdir=upper.absolute(),"
            " workdir=work.absolute())\n"
            "argv = ('/bin/sh', '-c', 'echo ready; sleep 4711 & exec sleep 4711')\n"
            "spec = SandboxSpec(root=root, program=Program(argv=argv))\n"
            "executor = RuntimeExecutor(find_runtime('crun'))\n"
            "running = executor.start(spec, Stdio(stdin=0, stdout=1, stderr=2))\n"
            "running.wait()\n"
        )
        caller = subprocess.Popen(
            [sys.executable, "-c", script, str(lower)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        assert traces.processes_with("4711")
        caller.send_signal(number)
        caller.wait()
        caller.stdout.close()
        wait_until(lambda: traces.processes_with("4711") == [], seconds=10)
        assert traces.mounts_of(tmp_path) == []
        assert list((tmp_path / "wk.bundle").iterdir()) == []

    def test_groups_of_a_caller_that_was_killed_are_swept(self, bench: Bench) -> None:
        own = cgroups.group_name().split("-")
        name = "-".join([*own[:2], str(2**22 - 1), "0"])
        group = Path(f"/sys/fs/cgroup/pids/{name}")
        if not group.parent.is_dir():
            group = Path(f"/sys/fs/cgroup/{name}")
        group.mkdir()
        assert bench.run("true").status == ExitStatus()
        assert not group.exists()

    def test_signals_of_the_terminal_do_not_reach_the_runtime(self, bench: Bench) -> None:
        """It is in a session of its own."""
        spec = bench.spec("/bin/sh", "-c", "echo ready; sleep 0.3; echo still")
        with piped(b"") as (stdio, outputs):
            running = bench.executor.start(spec, stdio)
            outputs.release()
            shim = int(Path(f"/proc/{running.init_pid}/stat").read_text().split()[3])
            assert os.getsid(shim) == shim
            assert outputs.read() == (b"ready\nstill\n", b"")
            assert running.wait() == ExitStatus()

    def test_a_second_sandbox_may_use_the_same_directories(self, bench: Bench) -> None:
        spec = bench.spec("/bin/sh", "-c", "echo x >> /file; cat /file")
        assert bench.finish(spec).lines == ["x"]
        assert bench.finish(spec).lines == ["x", "x"]
