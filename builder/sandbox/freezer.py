"""Stop all processes of a sandbox where they are, and let them go on: `pause`, `unpause`.

    v2   the group that the sandbox has for its limits
    v1   the one of the freezer hierarchy, where it has one

Where there is none it is made now, and every process of the sandbox is moved into it. It is named
after the sandbox's PID 1 and goes with the sandbox (`remove_freezer`), or, where nobody is left to
see to that, with the next one that is made (see cgroups).

Spec: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst "cgroup.freeze".
"""

import contextlib
import os
import select
import time
from pathlib import Path

from builder.sandbox import cgroups
from builder.sandbox.errors import SandboxError, UnsupportedHostError

_ROUNDS = 500
_ROUNDS_EACH = 50  # a group of v1 may stay FREEZING for ever: runc begins anew as well
_PAUSE_S = 0.01


def freeze(init_pid: int) -> None:
    """Stop every process of the sandbox with this PID 1.

    Raises:
        UnsupportedHostError: there can be no such group.
        SandboxError: they do not stop.
    """
    try:
        directory = _existing_group(init_pid) or _make_group(init_pid)
        if directory.name.endswith("-frozen"):
            _gather(init_pid, directory)
        _set(directory, frozen=True)
        for number in range(1, _ROUNDS + 1):
            # what was forked while the others were moved is where its parent was
            if _is_still(directory) and not _outside(init_pid, directory):
                return
            _gather(init_pid, directory)
            _await_change(directory)
            if number % _ROUNDS_EACH == 0:
                _set(directory, frozen=False)
                time.sleep(_PAUSE_S)  # they are to run for a moment
                _set(directory, frozen=True)
    except OSError as error:
        raise UnsupportedHostError(
            feature="pausing (the freezer of control groups)",
            reason=f"{error.filename}: {error.strerror}",
            errno=error.errno or 0,
            hint="run as root, or have the controller delegated",
        ) from error
    _set(directory, frozen=False)
    raise SandboxError(phase="pause", message="some processes do not stop")


def thaw(init_pid: int) -> None:
    """Let the processes of the sandbox go on; nothing happens to those that do."""
    for directory in _candidates(init_pid):
        if directory.is_dir():
            _set(directory, frozen=False)


def is_frozen(init_pid: int) -> bool:
    """Whether the sandbox has been stopped by `freeze`."""
    for directory in _candidates(init_pid):
        for name, state in (("freezer.state", ("FROZEN", "FREEZING")), ("cgroup.freeze", ("1",))):
            try:
                if (directory / name).read_text().strip() in state:
                    return True
            except OSError:
                continue
    return False


def remove_freezer(init_pid: int) -> None:
    """Remove the group of a sandbox that has ended, if one was made."""
    with contextlib.suppress(OSError):  # never stopped; or it shares processes, and some go on
        _place(init_pid).rmdir()


def _candidates(init_pid: int) -> list[Path]:
    own = _existing_group(init_pid)
    return [*([own] if own else []), _place(init_pid)]


def _existing_group(init_pid: int) -> Path | None:
    """The group that a sandbox has already, and must not leave: in v1 that of this hierarchy."""
    for file in cgroups.groups_of(init_pid):
        if cgroups.is_unified() or file.startswith(f"{cgroups.hierarchy('freezer')}/"):
            return Path(file).parent
    return None


def _place(init_pid: int) -> Path:
    # Where this process itself is does not matter: whoever unpauses may be elsewhere.
    return Path(cgroups.hierarchy("freezer"), cgroups.group_name(init_pid, "frozen"))


def _make_group(init_pid: int) -> Path:
    directory = _place(init_pid)
    cgroups.sweep(str(directory.parent))
    directory.mkdir(0o755, exist_ok=True)
    return directory


def _gather(init_pid: int, directory: Path) -> None:
    for pid in _outside(init_pid, directory):
        try:
            (directory / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            continue


def _outside(init_pid: int, directory: Path) -> list[int]:
    """Processes of the sandbox that are not in the group."""
    inside = {int(word) for word in (directory / "cgroup.procs").read_text().split()}
    kind = "pid" if _namespace(init_pid, "pid") != _namespace(os.getpid(), "pid") else "mnt"
    theirs = _namespace(init_pid, kind)
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return [pid for pid in pids if pid not in inside and theirs == _namespace(pid, kind) != ""]


def _namespace(pid: int, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")  # noqa: PTH115 - of every process
    except OSError:  # it has ended
        return ""


def _set(directory: Path, *, frozen: bool) -> None:
    if (directory / "freezer.state").exists():
        (directory / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
    else:
        (directory / "cgroup.freeze").write_text("1" if frozen else "0")


def _await_change(directory: Path) -> None:
    """A moment; in v2 no longer than until they have stopped, of which v1 says nothing."""
    try:
        fd = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        time.sleep(_PAUSE_S)  # in v1 there is nothing to wait for
        return
    try:
        os.read(fd, 4096)  # changes from now on are told
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        poller.poll(_PAUSE_S * 1000)
    finally:
        os.close(fd)


def _is_still(directory: Path) -> bool:
    """Whether all of them have stopped: that takes a moment."""
    try:
        return (directory / "freezer.state").read_text().strip() == "FROZEN"
    except FileNotFoundError:
        return "frozen 1" in (directory / "cgroup.events").read_text().splitlines()
