"""Maps, planned; then the sandbox of an ordinary user."""

import os
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import (
    Executor,
    ExitStatus,
    FileMount,
    ForkServer,
    Limits,
    LocalExecutor,
    OverlayRoot,
    Program,
    SandboxError,
    SandboxSpec,
    Stdio,
    TmpfsMount,
    UnsupportedHostError,
    enter_user_namespace,
    in_user_namespace,
    namespaces,
    recorder,
    syscalls,
)
from builder.sandbox.idmap import Extent, find_program, maps_group, may_set_groups, plan_maps
from tests.support.ordinary import USER, Ordinary


def plan(subuid: str, subgid: str) -> tuple[list[str], list[str]]:
    maps = plan_maps(uid=1000, gid=100, user_name="ada", subuid=subuid, subgid=subgid)
    return [str(extent) for extent in maps.uids], [str(extent) for extent in maps.gids]


def test_without_ranges_only_root_exists() -> None:
    assert plan("", "") == (["0 1000 1"], ["0 100 1"])


def test_ranges_follow_one_after_the_other() -> None:
    subuid = "eve:1:2\nada:100000:65536\nada:300000:10\n"
    assert plan(subuid, "ada:200000:5\n") == (
        ["0 1000 1", "1 100000 65536", "65537 300000 10"],
        ["0 100 1", "1 200000 5"],
    )


def test_a_user_may_be_listed_by_number() -> None:
    assert plan("1000:7:3", "1000:7:3")[0] == ["0 1000 1", "1 7 3"]


@pytest.mark.parametrize(
    ("subuid", "subgid"), [("ada:1:5", ""), ("", "ada:1:5"), ("eve:1:5", "ada:1:5")]
)
def test_one_sided_ranges_are_not_used(subuid: str, subgid: str) -> None:
    maps = plan_maps(uid=1000, gid=100, user_name="ada", subuid=subuid, subgid=subgid)
    assert maps.is_single


@pytest.mark.parametrize(
    "text", ["ada", "ada:", "ada:x:5", "ada:5:x", "ada:5:0", "#ada:1:2", ":::"]
)
def test_lines_without_sense_are_passed_over(text: str) -> None:
    assert plan(text, text) == (["0 1000 1"], ["0 100 1"])


@given(st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(1, 1 << 20)), max_size=5))
def test_inside_there_are_no_gaps_and_no_overlaps(ranges: list[tuple[int, int]]) -> None:
    text = "".join(f"ada:{first}:{count}\n" for first, count in ranges)
    maps = plan_maps(uid=5, gid=5, user_name="ada", subuid=text, subgid=text)
    expected = 0
    for extent in maps.uids:
        assert extent.inside == expected
        expected += extent.count
    assert [(e.outside, e.count) for e in maps.uids[1:]] == ranges


def test_this_process_is_where_it_is() -> None:
    with open("/proc/self/uid_map") as file:
        whole = file.read().split() == ["0", "0", "4294967295"]
    assert in_user_namespace() is not whole


def test_a_new_user_namespace_is_seen() -> None:
    uid, gid = os.geteuid(), os.getegid()

    def play() -> None:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        assert in_user_namespace()
        with open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        with open("/proc/self/uid_map", "w") as file:
            file.write(str(Extent(inside=0, outside=uid, count=1)))
        with open("/proc/self/gid_map", "w") as file:
            file.write(str(Extent(inside=7, outside=gid, count=1)))
        assert in_user_namespace()
        assert not may_set_groups()
        assert maps_group(7)
        assert not maps_group(0)
        assert not maps_group(8)
        assert os.geteuid() == 0

    assert namespaces.attempt(play) == 0


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestOrdinaryUser:
    def test_becoming_root_of_a_namespace(self, ordinary: Ordinary) -> None:
        def play() -> None:
            before = Path("/proc/self/ns/mnt").readlink()
            enter_user_namespace()
            assert os.getresuid() == os.getresgid() == (0, 0, 0)
            assert in_user_namespace()
            assert Path("/proc/self/ns/mnt").readlink() != before
            enter_user_namespace()  # who is root already stays where he is
            (ordinary.home / "mine").touch()

        ordinary.act(play)
        assert (ordinary.home / "mine").stat().st_uid == USER

    def test_root_enters_nothing(self) -> None:
        before = Path("/proc/self/ns/user").readlink()
        enter_user_namespace()
        assert Path("/proc/self/ns/user").readlink() == before

    @pytest.mark.parametrize("network", ["none", "host"])
    @pytest.mark.parametrize("kind", [LocalExecutor, ForkServer])
    def test_the_whole_sandbox_works(
        self, ordinary: Ordinary, kind: type[LocalExecutor | ForkServer], network: str
    ) -> None:
        script = """
id -u; grep CapEff /proc/self/status; grep ^Seccomp: /proc/self/status
echo x > /dev/null; head -c 3 /dev/urandom | wc -c; ls /dev/shm /sys/class >/dev/null && echo views
cat /etc/hosts; echo y > /scratch/y; rm /etc/group; mkdir /new; cat /proc/keys
echo 1 > /proc/sys/kernel/panic; ls /proc | grep -c '^[0-9]'"""

        def play() -> None:
            enter_user_namespace()
            mounts = (FileMount(target="/etc/hosts", content=b"h\n"), TmpfsMount(target="/scratch"))
            with kind() as executor:
                status, output = ordinary.run(executor, script, mounts=mounts, network=network)
                assert status == ExitStatus(), output
                assert output.splitlines() == [
                    *("0", "CapEff:\t00000000a80425fb", "Seccomp:\t2", "3", "views", "h"),
                    "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system",
                    "4",
                ], output

        ordinary.act(play)
        (upper,) = ordinary.home.glob("upper*")
        found = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
        assert found == ["etc", "etc/group", "new"]

    def test_missing_places_leave_no_trace(self, ordinary: Ordinary) -> None:
        for name in ("proc", "sys", "dev"):
            (ordinary.root / name).rmdir()

        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                mounts = (TmpfsMount(target="/a/b"), FileMount(target="/etc/new", content=b""))
                status, output = ordinary.run(executor, "ls /proc/1 > /dev/null", mounts=mounts)
                assert status == ExitStatus(), output

        ordinary.act(play)
        (upper,) = ordinary.home.glob("upper*")
        assert list(upper.iterdir()) == []

    @pytest.mark.parametrize("network", ["none", "host"])
    def test_joining_from_the_same_and_from_another_command(
        self, ordinary: Ordinary, network: Literal["none", "host"]
    ) -> None:
        """The host's network belongs to a user namespace that nobody of us may join."""

        def play() -> None:
            outside_reader, tell = os.pipe()
            done_reader, done = os.pipe()
            pid = namespaces.fork_process()
            if pid == 0:
                try:
                    os.close(done)
                    enter_user_namespace()
                    with LocalExecutor() as executor:
                        self.hold(ordinary, executor, network, tell, done_reader)
                finally:
                    os._exit(0)
            os.close(tell)
            init_pid = int(os.read(outside_reader, 20))
            try:
                with LocalExecutor() as executor:  # the user outside owns the namespace
                    self.check_join(executor, init_pid)
                enter_user_namespace(of_pid=init_pid)
                with ForkServer() as server:
                    self.check_join(server, init_pid)
            finally:
                os.close(done)
                os.waitpid(pid, 0)

        ordinary.act(play)

    def hold(
        self,
        ordinary: Ordinary,
        executor: Executor,
        network: Literal["none", "host"],
        tell: int,
        done: int,
    ) -> None:
        upper, work = ordinary.home / "held", ordinary.home / "heldwork"
        upper.mkdir()
        work.mkdir()
        spec = SandboxSpec(
            root=OverlayRoot(lowerdirs=(ordinary.root,), upperdir=upper, workdir=work),
            program=Program(argv=("/bin/sleep", "60")),
            network=network,
        )
        running = executor.start(spec, Stdio(stdin=0, stdout=1, stderr=2))
        os.write(tell, str(running.init_pid).encode())
        os.read(done, 1)

    def check_join(self, executor: Executor, init_pid: int) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        program = Program(argv=("/bin/sh", "-c", "id -u; cat /proc/2/comm"))
        joined = executor.join(init_pid, program, Stdio(stdin=0, stdout=writer, stderr=writer))
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"0\nsleep\n"
        assert joined.wait() == ExitStatus()

    def test_with_one_id_other_users_are_explained(
        self, ordinary: Ordinary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where this kernel lets nobody answer for them, that is (see recorder.py)."""

        def play() -> None:
            enter_user_namespace()
            monkeypatch.setattr(recorder, "is_offered", lambda: False)
            with LocalExecutor() as executor:
                try:
                    ordinary.run(executor, "true", user="ada")
                except SandboxError as error:
                    assert "uid 1000" in str(error)
                    assert "/etc/subuid" in error.hint
                else:
                    raise AssertionError("there is no uid 1000 here")

        ordinary.act(play)

    def test_limits_that_cannot_be_had_are_refused(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                try:
                    ordinary.run(executor, "true", limits=Limits(memory_bytes=1 << 20))
                except UnsupportedHostError as error:
                    assert "memory" in str(error)
                else:
                    raise AssertionError("an ordinary user has no control groups here")
                status, _ = ordinary.run(executor, "true", limits=Limits(pids_max=4096))
                assert status == ExitStatus()

        ordinary.act(play)

    @pytest.mark.skipif(
        find_program("newuidmap") is None, reason="newuidmap is not installed (package uidmap)"
    )
    def test_subordinate_ids_give_all_users(self, ordinary: Ordinary) -> None:
        """With /etc/subuid of a mount namespace of our own; the machine's is not touched."""
        files = ordinary.home / "files"
        files.mkdir()
        files.chmod(0o755)
        (files / "passwd").write_text(
            f"root:x:0:0::/root:/bin/sh\nlamina-test:x:{USER}:{USER}::/:/bin/sh\n"
        )
        (files / "subuid").write_text("lamina-test:700000:65536\n")
        (files / "subgid").write_text("lamina-test:700000:65536\n")

        def before() -> None:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            for name in ("passwd", "subuid", "subgid"):
                source = os.fsencode(files / name)
                syscalls.mount(source, f"/etc/{name}".encode(), None, syscalls.MS_BIND)

        def play() -> None:
            enter_user_namespace()
            assert may_set_groups()
            with LocalExecutor() as executor:
                script = (
                    "id -u; id -G; touch /tmp/f; stat -c %u:%g /tmp/f; stat -c %g /dev/pts/ptmx"
                )
                status, output = ordinary.run(executor, script, user="ada")
                assert status == ExitStatus(), output
                assert output.splitlines()[:3] == ["1000", "1000 10 50", "1000:1000"]

        ordinary.act(play, before)
        (upper,) = ordinary.home.glob("upper*")
        assert (upper / "tmp/f").stat().st_uid == 700_000 + 1000 - 1
