import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.sandbox import PIDS_MAX_DEFAULT, Limits, UnsupportedHostError, cgroups, namespaces
from tests.support import host

needs_root = pytest.mark.needs_root


def ours() -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob("**/lamina-*") if path.is_dir()]


def test_without_limits_there_is_no_group() -> None:
    assert cgroups.make_group(Limits()) is None


@needs_root
def test_a_group_has_its_limits_and_goes_away() -> None:
    group = cgroups.make_group(Limits(pids_max=17, memory_bytes=64 << 20))
    assert group is not None
    values = {}
    for directory in map(Path, group.directories):
        for name in ("pids.max", "memory.max", "memory.limit_in_bytes"):
            if (directory / name).exists():
                values[name.partition(".")[0]] = int((directory / name).read_text())
    group.remove()
    assert values == {"pids": 17, "memory": 64 << 20}
    assert not any(Path(directory).exists() for directory in group.directories)


@needs_root
def test_the_default_limit_costs_no_group_where_the_kernel_has_better() -> None:
    group = cgroups.make_group(Limits(pids_max=PIDS_MAX_DEFAULT))
    assert (group is None) == cgroups.has_own_pid_max()
    if group:
        group.remove()


def test_only_the_default_limit_is_one_of_process_numbers() -> None:
    assert cgroups.pid_max(Limits()) is None
    assert cgroups.pid_max(Limits(pids_max=100)) is None
    greatest = cgroups.pid_max(Limits(pids_max=PIDS_MAX_DEFAULT))
    assert greatest is not None
    assert PIDS_MAX_DEFAULT <= greatest <= PIDS_MAX_DEFAULT + 1000


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.13.9", False),
        ("6.14.0-rc1", True),
        ("6.18.44-fc-v595", True),
        ("5.15.0-91-generic", False),
        ("7.0", True),
        ("6.9+", False),
        ("strange", False),
    ],
)
def test_kernel_releases_are_read(
    release: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.uname()
    fake = os.uname_result((real.sysname, real.nodename, release, real.version, real.machine))
    monkeypatch.setattr(os, "uname", lambda: fake)
    assert cgroups.has_own_pid_max() is expected


@needs_root
def test_what_a_killed_process_left_is_swept_by_the_next() -> None:
    script = (
        "import os, signal; from builder.sandbox import Limits, cgroups;"
        "group = cgroups.make_group(Limits(pids_max=9)); print(*group.directories, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    left = [Path(word) for word in done.stdout.split()]
    assert left
    assert all(path.exists() for path in left)
    group = cgroups.make_group(Limits(pids_max=9))
    assert group is not None
    group.remove()
    assert not any(path.exists() for path in left)


@needs_root
def test_a_group_in_use_is_not_swept() -> None:
    group = cgroups.make_group(Limits(pids_max=9))
    other = cgroups.make_group(Limits(pids_max=9))
    assert group is not None
    assert other is not None
    assert set(group.directories).isdisjoint(other.directories)
    for one in (group, other):
        assert all(Path(directory).exists() for directory in one.directories)
        one.remove()


def test_without_rights_a_limit_is_refused_and_the_default_left_out() -> None:
    def play() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        assert cgroups.make_group(Limits(pids_max=PIDS_MAX_DEFAULT)) is None
        try:
            cgroups.make_group(Limits(memory_bytes=1 << 20))
        except UnsupportedHostError as error:
            assert "memory" in str(error)
            assert error.hint
        else:
            raise OSError(1, "it was made")

    assert namespaces.attempt(play) == 0


@needs_root
def test_groups_of_a_process_are_found_by_name() -> None:
    group = cgroups.make_group(Limits(pids_max=9))
    assert group is not None
    reader, writer = os.pipe()
    pid = namespaces.fork_process()
    if pid == 0:
        os.close(writer)
        for path in group.processes_files:
            Path(path).write_text("0")
        os.write(1, b"")
        os.read(reader, 1)
        os._exit(0)
    try:
        while not cgroups.groups_of(pid):
            pass
        assert cgroups.groups_of(pid) == group.processes_files
        assert cgroups.groups_of(os.getpid()) == ()
        expected = () if cgroups.is_unified() else ("pids",)
        assert cgroups.controllers_of(group.processes_files) == expected
    finally:
        os.close(writer)
        os.waitpid(pid, 0)
        os.close(reader)
        group.remove()
    assert cgroups.groups_of(pid) == ()


@needs_root
def test_every_limit_has_its_file() -> None:
    limits = Limits(
        pids_max=17,
        memory_bytes=64 << 20,
        memory_swap_bytes=96 << 20,
        memory_reservation_bytes=32 << 20,
        cpu_quota_us=50_000,
        cpu_period_us=200_000,
        cpu_shares=512,
        cpuset_cpus="0",
        cpuset_mems="0",
    )
    group = cgroups.make_group(limits)
    assert group is not None
    found = {}
    for directory in map(Path, group.directories):
        for path in directory.iterdir():
            if path.name in UNIFIED | V1:
                found[path.name] = path.read_text().strip()
    group.remove()
    expected = UNIFIED if cgroups.is_unified() else V1
    assert {name: found[name] for name in expected} == expected


UNIFIED = {
    "pids.max": "17",
    "memory.max": str(64 << 20),
    "memory.swap.max": str(32 << 20),
    "memory.low": str(32 << 20),
    "cpu.max": "50000 200000",
    "cpu.weight": "20",
    "cpuset.cpus": "0",
    "cpuset.mems": "0",
}
V1 = {
    "pids.max": "17",
    "memory.limit_in_bytes": str(64 << 20),
    "memory.memsw.limit_in_bytes": str(96 << 20),
    "memory.soft_limit_in_bytes": str(32 << 20),
    "cpu.cfs_quota_us": "50000",
    "cpu.cfs_period_us": "200000",
    "cpu.shares": "512",
    "cpuset.cpus": "0",
    "cpuset.mems": "0",
}


class TestFiles:
    """What is written where. Pure, for both versions."""

    def test_memory_alone_limits_swap_to_as_much(self) -> None:
        limits = Limits(memory_bytes=100)
        assert cgroups._v1_files(limits)["memory"] == {
            "memory.limit_in_bytes": "100",
            "memory.memsw.limit_in_bytes": "200",
        }
        assert cgroups._unified_files(limits)["memory"] == {
            "memory.max": "100",
            "memory.swap.max": "100",
            "memory.oom.group": "1",
        }

    def test_swap_without_a_limit(self) -> None:
        limits = Limits(memory_bytes=100, memory_swap_bytes=-1)
        assert cgroups._v1_files(limits)["memory"]["memory.memsw.limit_in_bytes"] == "-1"
        assert cgroups._unified_files(limits)["memory"]["memory.swap.max"] == "max"

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            (Limits(cpu_quota_us=1000), "1000 100000"),
            (Limits(cpu_period_us=5000), "max 5000"),
            (Limits(cpu_quota_us=1000, cpu_period_us=5000), "1000 5000"),
        ],
    )
    def test_processor_time(self, limits: Limits, expected: str) -> None:
        assert cgroups._unified_files(limits) == {"cpu": {"cpu.max": expected}}

    @pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000)])
    def test_shares_become_weights(self, shares: int, weight: int) -> None:
        files = cgroups._unified_files(Limits(cpu_shares=shares))
        assert files == {"cpu": {"cpu.weight": str(weight)}}

    def test_swappiness_is_for_the_first_version_alone(self) -> None:
        limits = Limits(memory_swappiness=0)
        assert cgroups._v1_files(limits) == {"memory": {"memory.swappiness": "0"}}
        with pytest.raises(UnsupportedHostError, match="swappiness"):
            cgroups._unified_files(limits)

    def test_nothing_asked_for_is_nothing_written(self) -> None:
        assert cgroups._v1_files(Limits()) == cgroups._unified_files(Limits()) == {}


def test_a_controller_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions, of which nothing is mounted but the place."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(cgroups, "_TOP", str(tmp_path))
    monkeypatch.setattr(cgroups, "_own_paths", dict)
    with pytest.raises(
        UnsupportedHostError, match=r"limits of cpuset \(control groups\)"
    ) as caught:
        cgroups.make_group(Limits(cpuset_cpus="0"))
    assert "leave the limit away" in caught.value.hint
    with pytest.raises(UnsupportedHostError, match=r"limits of memory"):
        cgroups.make_group(Limits(memory_bytes=1 << 20))
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(UnsupportedHostError, match=r"limits of pids"):
        cgroups.make_group(Limits(pids_max=5))
    assert not list(tmp_path.glob("**/lamina-*"))


@needs_root
def test_a_group_can_be_killed_with_all_that_forks_in_it() -> None:
    group = cgroups.make_group(Limits(pids_max=30), has_own_pids=False)
    assert group is not None
    pid = namespaces.fork_process()
    if pid == 0:
        os.setsid()
        for path in group.processes_files:
            Path(path).write_text("0")
        script = "i=0; while :; do sleep 77 & i=$((i+1)); [ $i -gt 15 ] && wait; done"
        os.execv("/bin/sh", ["sh", "-c", script])
    count = 0
    while count < 10:
        count = len(Path(group.processes_files[0]).read_text().split())
    group.kill()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 9
    group.remove()
    assert not any(Path(directory).exists() for directory in group.directories)


@needs_root
def test_what_runs_in_a_group_that_a_killed_process_left_is_ended() -> None:
    script = (
        "import os, signal, subprocess; from builder.sandbox import Limits, cgroups;"
        "group = cgroups.make_group(Limits(pids_max=9), has_own_pids=False);"
        "join = lambda: [open(path, 'w').write('0') for path in group.processes_files];"
        "child = subprocess.Popen(['sleep', '78'], preexec_fn=join, stdout=subprocess.DEVNULL);"
        "print(child.pid, *group.directories, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    pid, *left = done.stdout.split()
    assert Path(f"/proc/{pid}").exists()
    group = cgroups.make_group(Limits(pids_max=9), has_own_pids=False)
    assert group is not None
    group.remove()
    assert not any(Path(path).exists() for path in left)
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


def test_a_group_that_only_ends_things_is_left_out_where_there_can_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_TOP", str(tmp_path))
    monkeypatch.setattr(cgroups, "_own_paths", dict)
    assert cgroups.make_group(Limits(), has_own_pids=False) is None
    default = Limits(pids_max=PIDS_MAX_DEFAULT)
    assert cgroups.make_group(default, has_own_pids=False) is None
    with pytest.raises(UnsupportedHostError):
        cgroups.make_group(Limits(pids_max=9), has_own_pids=False)


class TestReadings:
    """What a group says, in the files of both versions."""

    def group(self, folder: Path, **files: str) -> cgroups.Group:
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return cgroups.Group(directories=(str(folder),))

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("memory__events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n", True),
            ("memory__events", "low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\n", False),
            ("memory__oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
            ("memory__oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
            ("memory__stat", "oom_kill 1\n", False),
        ],
    )
    def test_whether_somebody_was_killed_for_memory(
        self, tmp_path: Path, name: str, text: str, expected: bool
    ) -> None:
        assert self.group(tmp_path, **{name: text}).was_oom_killed() is expected

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({}, None),
            ({"pids__max": "max\n", "pids__current": "7\n"}, None),
            ({"pids__max": "8\n", "pids__current": "7\n"}, False),
            ({"pids__max": "8\n", "pids__current": "8\n"}, True),
        ],
    )
    def test_whether_one_more_process_is_one_too_many(
        self, tmp_path: Path, files: dict[str, str], expected: bool | None
    ) -> None:
        assert self.group(tmp_path, **files).is_full() is expected


@needs_root
@pytest.mark.needs_cgroup2
def test_a_group_of_the_second_version_is_killed_at_once() -> None:
    """Every one can be, whatever controllers it has."""
    top = host.cgroup2()
    assert top is not None
    directory = top / cgroups.group_name()
    directory.mkdir()
    group = cgroups.Group(directories=(str(directory),))
    with subprocess.Popen(["sh", "-c", "sleep 79 & sleep 79"], start_new_session=True) as child:
        (directory / "cgroup.procs").write_text(str(child.pid))
        group.kill()
        assert child.wait() == -9
    group.remove()
    assert not directory.exists()


def test_nothing_is_left() -> None:
    assert [path for path in ours() if f"-{os.getpid()}-" in path.name] == []
