"""Control groups of sandboxes, v1 and v2: made for the limits that were asked for, then removed.

    pids     pids.max in v2 and v1. The default limit is not worth a group, whose entering costs
             milliseconds at times: from Linux 6.14 on, `pid_max` belongs to the pid namespace,
             and PID 1 lowers it there. It counts numbers and not processes, of which some
             hundred more may live: good enough against fork bombs, too coarse for a promise.
    memory   memory.max in v2, memory.limit_in_bytes in v1; swap as much again, as in Docker.

A limit that was asked for and cannot be had is an error; the default one is left out.

A group is named `lamina-PID-N` after the process that made it, so that what a killed process left
is found, and removed, by the next one that makes a group.

Spec: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{pids,memory}.rst.
"""

import errno
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

from builder.sandbox.errors import UnsupportedHostError
from builder.sandbox.spec import Limits

PIDS_MAX_DEFAULT = 4096  # what the builder gives to a RUN, best effort

_TOP = "/sys/fs/cgroup"
PREFIX = "lamina-"
_RESERVED_PIDS = 300  # kernel/pid.c: numbers below are not used again
_numbers = itertools.count()


class Group(NamedTuple):
    """One directory in v2; one in each hierarchy that is needed in v1."""

    directories: tuple[str, ...]

    @property
    def processes_files(self) -> tuple[str, ...]:
        """The files a process writes itself into."""
        return tuple(f"{directory}/cgroup.procs" for directory in self.directories)

    def remove(self) -> None:
        """Remove the empty group. A process is counted until it has been reaped."""
        for directory in self.directories:
            for _ in range(100):
                try:
                    Path(directory).rmdir()
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        break
                time.sleep(0.002)


def is_unified() -> bool:
    """Whether this host has the v2 hierarchy at the usual place (a hybrid one counts as v1)."""
    return os.access(f"{_TOP}/cgroup.controllers", os.F_OK)


def has_own_pid_max() -> bool:
    """Whether lowering `pid_max` in a pid namespace leaves the others alone (Linux 6.14)."""
    release = os.uname().release.split(".")
    digits = [int("".join(itertools.takewhile(str.isdigit, word)) or 0) for word in release[:2]]
    return digits >= [6, 14]


def pid_max(limits: Limits) -> int | None:
    """What PID 1 has to write to `pid_max`; None when a group has the limit, or there is none.

    Only valid where `has_own_pid_max`.
    """
    if limits.pids_max != PIDS_MAX_DEFAULT:
        return None
    return limits.pids_max + _RESERVED_PIDS


def make_group(limits: Limits) -> Group | None:
    """Make the group that `limits` need; None when they need none.

    Raises:
        UnsupportedHostError: a limit was asked for that cannot be set here.
    """
    files: dict[str, dict[str, int]] = {}
    if limits.memory_bytes is not None:
        files["memory"] = _memory_files(limits.memory_bytes)
    if limits.pids_max is not None and not (
        limits.pids_max == PIDS_MAX_DEFAULT and has_own_pid_max()
    ):
        files["pids"] = {"pids.max": limits.pids_max}
    if not files:
        return None
    try:
        return _make_unified(files) if is_unified() else _make_v1(files)
    except OSError as error:
        if list(files) == ["pids"] and limits.pids_max == PIDS_MAX_DEFAULT:
            return None
        raise UnsupportedHostError(
            feature=f"control groups ({', '.join(files)})",
            reason=f"{error.filename}: {error.strerror}",
            errno=error.errno or 0,
            hint="run as root, have the controllers delegated, or leave the limit away",
        ) from error


def hierarchies() -> tuple[str, ...]:
    """Where the groups of this process can have neighbours: one directory in v2, several in v1."""
    if is_unified():
        return (_TOP,)
    with os.scandir(_TOP) as entries:
        return tuple(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))


def has_swap_limit() -> bool:
    """Whether the kernel counts swap."""
    v1 = os.access(f"{_TOP}/memory/memory.memsw.limit_in_bytes", os.F_OK)
    return v1 or (is_unified() and os.access("/proc/swaps", os.F_OK))


def groups_of(pid: int) -> tuple[str, ...]:
    """The `cgroup.procs` files of the groups of ours that a process is in."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:  # it has ended: so will what wants to join it
        return ()
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if path.rpartition("/")[2].startswith(PREFIX):
            name = controllers.removeprefix("name=")
            tops = (f"{_TOP}/{name}",) if name else (_TOP, f"{_TOP}/unified")
            files = [f"{top}{path}/cgroup.procs" for top in tops]
            found += [file for file in files if os.access(file, os.F_OK)]
    return tuple(found)


def controllers_of(files: tuple[str, ...]) -> tuple[str, ...]:
    """The v1 hierarchies that `cgroup.procs` files belong to; none in v2."""
    names = [path.removeprefix(f"{_TOP}/").partition("/")[0] for path in files]
    return tuple(name for name in names if name in ("memory", "pids"))


def _memory_files(memory_bytes: int) -> dict[str, int]:
    if is_unified():
        return {
            "memory.max": memory_bytes,
            "memory.swap.max": memory_bytes,
            "memory.oom.group": 1,
        }
    return {
        "memory.limit_in_bytes": memory_bytes,
        "memory.memsw.limit_in_bytes": 2 * memory_bytes,
    }


def _make_unified(files: dict[str, dict[str, int]]) -> Group:
    """Try the top, which is exempt from "no processes in inner groups", then our own group."""
    own = _own_paths().get("", "/").rstrip("/")
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT), _TOP)
    for base in dict.fromkeys((_TOP, f"{_TOP}{own}")):
        try:
            sweep(base)
            directory = _make_directory(base)
        except OSError as error:
            problem = error
            continue
        try:
            if any(not os.access(f"{directory}/{name}.max", os.F_OK) for name in files):
                _write(f"{base}/cgroup.subtree_control", " ".join(f"+{name}" for name in files))
            _write_limits(directory, *files.values())
        except OSError as error:
            problem = error
            Path(directory).rmdir()
            continue
        return Group(directories=(directory,))
    raise problem


def _make_v1(files: dict[str, dict[str, int]]) -> Group:
    own = _own_paths()
    made: list[str] = []
    try:
        for controller, limits in files.items():
            base = f"{_TOP}/{controller}{own.get(controller, '/').rstrip('/')}"
            sweep(base)
            made.append(_make_directory(base))
            _write_limits(made[-1], limits)
    except OSError:
        for directory in made:
            Path(directory).rmdir()
        raise
    return Group(directories=tuple(made))


def _own_paths() -> dict[str, str]:
    """The path of this process in each v1 hierarchy, and in v2 as the one without a name."""
    with open("/proc/self/cgroup") as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    return {name: path for _, names, path in rows for name in names.split(",")}


def _make_directory(base: str) -> str:
    directory = f"{base}/{PREFIX}{os.getpid()}-{next(_numbers)}"
    Path(directory).mkdir(0o755)
    return directory


def _write_limits(directory: str, *groups: dict[str, int]) -> None:
    for limits in groups:
        for name, value in limits.items():
            try:
                _write(f"{directory}/{name}", str(value))
            except FileNotFoundError:
                if "sw" not in name and "oom" not in name:  # no swap accounting, an older kernel
                    raise


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never O_CREAT: a missing file is an answer
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def sweep(base: str) -> None:
    """Remove the groups of processes that are gone. One that is still in use stays: EBUSY."""
    for entry in Path(base).glob(f"{PREFIX}*"):
        words = entry.name.split("-")
        if len(words) != 3 or not words[1].isdigit():
            continue
        if not os.access(f"/proc/{words[1]}", os.F_OK):
            try:
                entry.rmdir()
            except OSError:
                pass
