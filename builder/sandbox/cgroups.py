"""Control groups of sandboxes, v1 and v2: made for the limits that were asked for, then removed.

               v2                                v1
    memory     memory.max, swap.max, low         limit, memsw.limit, soft_limit_in_bytes, swappiness
    cpu        cpu.max, cpu.weight               cpu.cfs_quota_us, cfs_period_us, shares
    cpuset     cpuset.cpus, cpuset.mems          the same; what is not asked for is the parent's
    pids       pids.max                          the same
    freezer    cgroup.kill                       freezer.state, while everything is being killed

The default limit of processes is not worth a group, whose entering costs milliseconds at times:
from Linux 6.14 on, `pid_max` belongs to the pid namespace, and PID 1 lowers it there. It counts
numbers and not processes, of which some hundred more may live: good enough against fork bombs, too
coarse for a promise.

A limit that was asked for and cannot be had is an error; the default one is left out.

A group is named `lamina-NAMESPACE-PID-N` after the process that made it and its pid namespace, so
that what a killed process left is found, ended and removed by the next one that makes a group.

Spec: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/ (pids, memory, cpusets, freezer),
scheduler/sched-bwc.rst; runc's libcontainer/cgroups for how the v1 scale becomes that of v2.
"""

import errno
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

from builder.sandbox import signals
from builder.sandbox.errors import UnsupportedHostError
from builder.sandbox.limits import Limits

PIDS_MAX_DEFAULT = 4096  # what the builder gives to a RUN, best effort
CPU_PERIOD_US = 100_000  # the kernel's own

_TOP = "/sys/fs/cgroup"
PREFIX = "lamina-"
_RESERVED_PIDS = 300  # kernel/pid.c: numbers below are not used again
_CONTROLLERS = ("memory", "cpu", "cpuset", "pids", "freezer")
_KILL_ROUNDS = 400
_KILL_PAUSE_S = 0.005
_numbers = itertools.count()

Files = dict[str, dict[str, str]]  # controller -> file -> what is written into it


class Group(NamedTuple):
    """One directory in v2; one in each hierarchy that is needed in v1."""

    directories: tuple[str, ...]

    @property
    def processes_files(self) -> tuple[str, ...]:
        """The files a process writes itself into."""
        return tuple(f"{directory}/cgroup.procs" for directory in self.directories)

    def was_oom_killed(self) -> bool:
        """Whether the kernel has killed a process of the group for its memory limit."""
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                for line in _read(f"{directory}/{name}").splitlines():
                    word, _, count = line.partition(" ")
                    if word == "oom_kill" and count != "0":
                        return True
        return False

    def is_full(self) -> bool | None:
        """Whether it has as many processes as it may have; None where these are not limited."""
        for directory in self.directories:
            most = _read(f"{directory}/pids.max").strip()
            if most.isdigit():
                return int(_read(f"{directory}/pids.current") or 0) >= int(most)
        return None

    def kill(self) -> None:
        """End all processes in the group, also those that fork meanwhile."""
        directory = self.directories[0]
        try:
            _write(f"{directory}/cgroup.kill", "1")
        except OSError:  # v1, or before Linux 5.14
            self._kill_one_by_one()

    def _kill_one_by_one(self) -> None:
        freezers = [f"{directory}/freezer.state" for directory in self.directories]
        freezers = [path for path in freezers if os.access(path, os.F_OK)]
        for _ in range(_KILL_ROUNDS):
            pids = _read(self.processes_files[0]).split()
            if not pids:
                return
            for path in freezers:
                _write(path, "FROZEN")
            for pid in _read(self.processes_files[0]).split():
                try:
                    os.kill(int(pid), signals.SIGKILL)
                except ProcessLookupError:
                    continue
            for path in freezers:
                _write(path, "THAWED")
            time.sleep(_KILL_PAUSE_S)  # v1 says nothing when they have ended

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
                time.sleep(0.002)  # likewise; v2 does, but before it can be removed


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


def make_group(limits: Limits, *, has_own_pids: bool = True) -> Group | None:
    """Make the group that `limits` need; None when they need none.

    Args:
        limits: what was asked for.
        has_own_pids: the sandbox has a pid namespace of its own. Without one it is the group that
            can end all of it, if there can be one.

    Raises:
        UnsupportedHostError: a limit was asked for that cannot be set here.
    """
    unified = is_unified()
    files = _unified_files(limits) if unified else _v1_files(limits)
    is_default = limits.pids_max == PIDS_MAX_DEFAULT
    if is_default and has_own_pids and has_own_pid_max():
        del files["pids"]
    if not has_own_pids:
        files.setdefault("freezer", {})
    if not files:
        return None
    try:
        return _make_unified(files) if unified else _make_v1(files)
    except OSError as error:
        if all(name == "freezer" or (name == "pids" and is_default) for name in files):
            return None
        raise _refusal(files, error) from error


def _refusal(files: Files, error: OSError) -> UnsupportedHostError:
    """Say which limit it is that cannot be had."""
    path = str(error.filename or "")
    name = path.rpartition("/")[2]
    wanted = [controller for controller in files if name.startswith(f"{controller}.")]
    if not wanted:  # a directory: that of a hierarchy, or the place for our group
        wanted = [controller for controller in files if f"/{controller}/" in f"{path}/"]
    return UnsupportedHostError(
        feature=f"limits of {', '.join(wanted or files)} (control groups)",
        reason=f"{path}: {error.strerror}",
        errno=error.errno or 0,
        hint="run as root, have the controllers delegated, or leave the limit away",
    )


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
    return tuple(name for name in names if name in _CONTROLLERS)


def _v1_files(limits: Limits) -> Files:
    swap_bytes = limits.memory_swap_bytes
    if swap_bytes is None and limits.memory_bytes is not None:
        swap_bytes = 2 * limits.memory_bytes
    return _given(
        memory={
            "memory.limit_in_bytes": limits.memory_bytes,
            "memory.memsw.limit_in_bytes": swap_bytes,
            "memory.soft_limit_in_bytes": limits.memory_reservation_bytes,
            "memory.swappiness": limits.memory_swappiness,
        },
        cpu={
            "cpu.cfs_period_us": limits.cpu_period_us,
            "cpu.cfs_quota_us": limits.cpu_quota_us,
            "cpu.shares": limits.cpu_shares,
        },
        cpuset={"cpuset.cpus": limits.cpuset_cpus, "cpuset.mems": limits.cpuset_mems},
        pids={"pids.max": limits.pids_max},
    )


def _unified_files(limits: Limits) -> Files:
    if limits.memory_swappiness is not None:
        raise UnsupportedHostError(
            feature="a swappiness for each control group",
            reason="version 2 of control groups has none",
            hint="leave --memory-swappiness away",
        )
    swap: int | str | None = limits.memory_bytes
    if limits.memory_swap_bytes == -1:
        swap = "max"
    elif limits.memory_swap_bytes is not None:
        swap = limits.memory_swap_bytes - (limits.memory_bytes or 0)
    quota = None
    if limits.cpu_quota_us is not None or limits.cpu_period_us is not None:
        quota = f"{limits.cpu_quota_us or 'max'} {limits.cpu_period_us or CPU_PERIOD_US}"
    shares = limits.cpu_shares
    return _given(
        memory={
            "memory.max": limits.memory_bytes,
            "memory.swap.max": swap,
            "memory.low": limits.memory_reservation_bytes,
            "memory.oom.group": None if limits.memory_bytes is None else 1,
        },
        cpu={
            "cpu.max": quota,
            # 2..262144 becomes 1..10000
            "cpu.weight": None if shares is None else 1 + (shares - 2) * 9999 // 262142,
        },
        cpuset={"cpuset.cpus": limits.cpuset_cpus, "cpuset.mems": limits.cpuset_mems},
        pids={"pids.max": limits.pids_max},
    )


def _given(**controllers: dict[str, int | str | None]) -> Files:
    """What has a value, as text."""
    found = {
        controller: {name: str(value) for name, value in files.items() if value is not None}
        for controller, files in controllers.items()
    }
    return {controller: files for controller, files in found.items() if files}


def _make_unified(files: Files) -> Group:
    """Try the top, which is exempt from "no processes in inner groups", then our own group."""
    own = _own_paths().get("", "/").rstrip("/")
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT), _TOP)
    names = [name for name in files if name != "freezer"]  # every group can be frozen
    for base in dict.fromkeys((_TOP, f"{_TOP}{own}")):
        try:
            sweep(base)
            directory = _make_directory(base)
        except OSError as error:
            problem = error
            continue
        try:
            enabled = _read(f"{directory}/cgroup.controllers").split()
            if any(name not in enabled for name in names):
                _write(f"{base}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))
            for limits in files.values():
                _write_limits(directory, limits)
        except OSError as error:
            problem = error
            Path(directory).rmdir()
            continue
        return Group(directories=(directory,))
    raise problem


def _make_v1(files: Files) -> Group:
    own = _own_paths()
    made: list[str] = []
    try:
        for controller, limits in files.items():
            base = f"{_TOP}/{controller}{own.get(controller, '/').rstrip('/')}"
            sweep(base)
            made.append(_make_directory(base))
            if controller == "cpuset":  # nothing can be in a group of no processors
                inherited = {
                    name: _read(f"{base}/{name}").strip() for name in ("cpuset.cpus", "cpuset.mems")
                }
                limits = inherited | limits
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
    directory = f"{base}/{group_name()}"
    Path(directory).mkdir(0o755)
    return directory


def group_name(pid: int | None = None, purpose: str = "") -> str:
    """The name of a new group of this process, or of one for a purpose of another process's."""
    if pid is not None:
        return f"{PREFIX}{_pid_namespace()}-{pid}-{purpose}"
    return f"{PREFIX}{_pid_namespace()}-{os.getpid()}-{next(_numbers)}"


def hierarchy(controller: str) -> str:
    """The top of the hierarchy that has a controller."""
    return _TOP if is_unified() else f"{_TOP}/{controller}"


def _pid_namespace() -> int:
    """Process numbers mean something within one namespace alone."""
    return Path("/proc/self/ns/pid").stat().st_ino


def _write_limits(directory: str, limits: dict[str, str]) -> None:
    for name, value in limits.items():
        try:
            _write(f"{directory}/{name}", value)
        except FileNotFoundError:
            # An older kernel; no accounting of swap, where memory alone was asked for.
            if name != "memory.oom.group" and (name not in _SWAP or not _is_implied(name, limits)):
                raise


_SWAP = ("memory.swap.max", "memory.memsw.limit_in_bytes")


def _is_implied(name: str, limits: dict[str, str]) -> bool:
    """Whether the limit of swap is the one that comes with every limit of memory."""
    if name == "memory.swap.max":
        return limits[name] == limits.get("memory.max")
    return int(limits[name]) == 2 * int(limits.get("memory.limit_in_bytes", 0))


def _read(path: str) -> str:
    """The content of a file, nothing if there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never O_CREAT: a missing file is an answer
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def sweep(base: str) -> None:
    """Remove the groups of processes that are gone, with what still runs in them."""
    for entry in Path(base).glob(f"{PREFIX}*"):
        words = entry.name.split("-")
        if len(words) != 4 or words[1] != str(_pid_namespace()) or not words[2].isdigit():
            continue
        if not os.access(f"/proc/{words[2]}", os.F_OK):
            group = Group(directories=(str(entry),))
            try:
                if _read(group.processes_files[0]):
                    group.kill()
                entry.rmdir()
            except OSError:
                pass
