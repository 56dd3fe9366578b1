import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.sandbox import PIDS_MAX_DEFAULT, Limits, UnsupportedHostError, cgroups, namespaces

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


def test_nothing_is_left() -> None:
    assert [path for path in ours() if f"-{os.getpid()}-" in path.name] == []
