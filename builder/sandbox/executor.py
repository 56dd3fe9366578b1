"""Executors: what callers hold. `LocalExecutor` forks by itself, `ForkServer` lets a server fork.

Both differ only in who forks and who reaps; the handshake, and `SandboxRunning`, are the same.
"""

import _socket
import errno
import marshal
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from builder.sandbox import cgroups, namespaces, signals
from builder.sandbox.cgroups import Group
from builder.sandbox.errors import (
    ProgramNotExecutableError,
    ProgramNotFoundError,
    SandboxError,
    decode,
)
from builder.sandbox.mounts import remove_made, remove_stubs, stubs_of
from builder.sandbox.namespaces import Channels, Home, Started
from builder.sandbox.network import opened
from builder.sandbox.spec import (
    ExitStatus,
    OverlayRoot,
    PlainRoot,
    Program,
    Root,
    SandboxSpec,
    Stdio,
)

if TYPE_CHECKING:
    import resource

_MESSAGE_MAX_BYTES = 64 << 10
_DESCRIPTORS_MAX = 4
_ERRNO_MAX = 4096
_STATUS_BYTES = 4  # a wait status; all other messages are longer


@dataclass(slots=True, kw_only=True)
class Handshake:
    """The caller's ends of the two channels to a sandbox that is being started."""

    errors: int
    report: _socket.socket
    theirs: tuple[int, int]  # the other ends, to give away

    @classmethod
    def open(cls) -> Self:
        errors, their_errors = os.pipe2(os.O_CLOEXEC)
        report, their_report = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return cls(errors=errors, report=report, theirs=(their_errors, their_report.detach()))

    def channels(self, stdio: Stdio) -> Channels:
        return Channels(
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            errors=self.theirs[0],
            report=self.theirs[1],
        )

    def give_away(self) -> None:
        """Close the ends that the sandbox has copies of by now."""
        for fd in self.theirs:
            os.close(fd)

    def read_errors(self) -> bytes:
        """Wait until the program is executed (empty) or has failed to be."""
        parts = []
        while part := os.read(self.errors, _MESSAGE_MAX_BYTES):
            parts.append(part)
        os.close(self.errors)
        return b"".join(parts)

    def close(self) -> None:
        """Give up before anything was started."""
        os.close(self.errors)
        self.report.close()


@dataclass(slots=True, kw_only=True, eq=False)
class SandboxRunning:
    """Implements `Running`.

    `leader` is the process whose end ends it all: PID 1, or the program of a join, where PID 1 is
    somebody else's and `root` is None.
    """

    init_pid: int
    leader: Started
    handshake: Handshake
    argv0: str
    reap: Callable[[Self], int | None]  # waits for the leader; the status of one it could reap
    root: Root | None = None
    group: Group | None = None
    bundle: Path | None = None  # an empty directory to be removed
    has_own_pids: bool = True  # what is left over ends with the leader
    terminal_fd: int | None = None
    oom_killed: bool = False
    network_fd: int | None = None
    is_over: bool = False
    collected: int | None = None  # the leader's wait status, where it is a child of this process
    usage: tuple[float, int] = (0.0, 0)  # CPU seconds and peak bytes, when it has been reaped
    _program_fd: int = -1
    _made: tuple[str, ...] = ()
    _raw_status: int | None = None
    _mount_namespace: str = ""

    def fileno(self) -> int:
        """Implements `Running`."""
        return self.leader.pidfd

    def signal(self, number: int) -> None:
        """Implements `Running`."""
        if not self.is_over:
            signals.send(self._program_fd, number)

    @property
    def program_pid(self) -> int:
        """The program's process, as the host numbers it; 0 once it has been reaped."""
        with open(f"/proc/self/fdinfo/{self._program_fd}", "rb", buffering=0) as file:
            rows = file.read().splitlines()
        return max(next(int(row.split()[1]) for row in rows if row[:4] == b"Pid:"), 0)

    def kill(self) -> None:
        """Implements `Running`."""
        if not self.is_over:
            signals.send(self.leader.pidfd, signals.SIGKILL)

    def is_full(self) -> bool:
        """Implements `Running`."""
        if self.is_over:
            return False
        in_group = self.group.is_full() if self.group else None
        if in_group is not None:
            return in_group
        return self.root is not None and namespaces.is_full(self.leader.pidfd)

    def wait(self) -> ExitStatus:
        """Implements `Running`."""
        if not self.is_over:
            self._end()
        return _exit_status(self._raw_status, *self.usage, oom_killed=self.oom_killed)

    def confirm(self) -> None:
        """Wait until the program is executed.

        Raises:
            SandboxError: it was not; everything of the sandbox is gone.
        """
        errors = self.handshake.read_errors()
        if not errors:
            self._receive()
            if self._program_fd >= 0:
                if not self.has_own_pids:
                    self._mount_namespace = _mount_namespace_of(self.init_pid)
                return
        self.kill()
        self._end()
        if self.terminal_fd is not None:
            os.close(self.terminal_fd)
        raise _start_error(errors, self.argv0)

    def _end(self) -> None:
        reaped = self.reap(self)
        self.is_over = True
        self._receive()
        if self._raw_status is None and self.root is None:
            self._raw_status = reaped  # that of PID 1 is nobody's: it tells the program's itself
        os.close(self.leader.pidfd)
        if self._program_fd >= 0:
            os.close(self._program_fd)
        if self.network_fd is not None:
            os.close(self.network_fd)
            self.network_fd = None
        self.handshake.report.close()
        if not self.has_own_pids:
            self._end_the_rest()
        if self.group:
            self.oom_killed = self.oom_killed or self.group.was_oom_killed()
            self.group.remove()
        if self.bundle:
            self.bundle.rmdir()
        match self.root:
            case OverlayRoot(upperdir=upperdir) as root:
                remove_stubs(stubs_of(root))
                remove_made(upperdir, self._made)
            case PlainRoot(path=path):
                remove_made(path, self._made)
            case None:
                pass

    def _end_the_rest(self) -> None:
        """What the end of PID 1 does not end, where the process numbers are somebody else's.

        Without a group they are known by their mount namespace: best effort, because who may make
        namespaces leaves it.
        """
        if self.group:
            self.group.kill()
            return
        while self._mount_namespace and (rest := _processes_in(self._mount_namespace)):
            for pid in rest:
                signals.kill(pid, signals.SIGKILL)

    @property
    def is_alive(self) -> bool:
        """Whether the leader, a child of this process, has still to be collected."""
        return not self.is_over and self.collected is None

    def collect(self) -> None:
        """Reap the leader, which has ended, and its recorder, which ends with the last process."""
        _, self.collected, usage = os.wait4(self.leader.pid, 0)
        self.usage = usage_of(usage)
        reap_recorder(self.leader, is_last=self.root is not None and self.has_own_pids)

    def receive_all(self) -> None:
        """Take in reports until nobody holds the other end any more."""
        self._receive(0)

    def _receive(self, flags: int = _socket.MSG_DONTWAIT) -> None:
        """Take in what has been reported so far."""
        size = _socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX)
        flags |= _socket.MSG_CMSG_CLOEXEC
        while True:
            try:
                data, ancillary, _, _ = self.handshake.report.recvmsg(
                    _MESSAGE_MAX_BYTES, size, flags
                )
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                return
            if len(data) == _STATUS_BYTES:
                self._raw_status = int.from_bytes(data, "little")
                continue
            kind, value = marshal.loads(data)
            descriptors = [
                int.from_bytes(packed[at : at + 4], "little")
                for _, _, packed in ancillary
                for at in range(0, len(packed) - 3, 4)
            ]
            match kind:
                case "made":
                    self._made = value
                case "network":
                    (self.network_fd,) = descriptors
                case "program":
                    self._made = value
                    self._program_fd, *terminals = descriptors
                    self.terminal_fd = terminals[0] if terminals else None
                case "usage":
                    self.usage = value
                case "oom_killed":
                    self.oom_killed = value
                case _:
                    raise AssertionError(f"unknown report {kind!r}")


def _mount_namespace_of(pid: int) -> str:
    """The name of a process's mount namespace, empty where it has ended or is not ours to ask."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115 - of each process
    except OSError:
        return ""


def _processes_in(mount_namespace: str) -> list[int]:
    """Those that live: what has ended has no namespace any more."""
    if mount_namespace == _mount_namespace_of(os.getpid()):
        return []
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return [pid for pid in pids if _mount_namespace_of(pid) == mount_namespace]


def make_group(spec: SandboxSpec) -> Group | None:
    """The control group that a sandbox needs, if it needs one."""
    return cgroups.make_group(spec.limits, has_own_pids=has_own_pids(spec))


def has_own_pids(spec: SandboxSpec) -> bool:
    """Whether the end of PID 1 ends everything."""
    return spec.namespaces.pid == "private"


_left_recorders: set[int] = set()


def reap_recorder(leader: Started, *, is_last: bool) -> None:
    """Reap it, unless it goes on for others; `is_last`: no process of the sandbox is left."""
    if leader.recorder_pid and is_last:
        os.waitpid(leader.recorder_pid, 0)
    elif leader.recorder_pid:
        _left_recorders.add(leader.recorder_pid)
    for pid in list(_left_recorders):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _left_recorders.discard(pid)


def usage_of(usage: "resource.struct_rusage") -> tuple[float, int]:
    """CPU seconds and peak bytes of a process that was reaped, and of all that it had reaped."""
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def _exit_status(
    status: int | None, cpu_s: float, memory_peak_bytes: int, *, oom_killed: bool
) -> ExitStatus:
    """From a wait status; None is a PID 1 that was killed before it could tell."""
    code, signal = 0, 0
    if status is None:
        signal = signals.SIGKILL
    elif os.WIFSIGNALED(status):
        signal = os.WTERMSIG(status)
    else:
        code = os.WEXITSTATUS(status)
    return ExitStatus(
        code=code,
        signal=signal,
        cpu_s=cpu_s,
        memory_peak_bytes=memory_peak_bytes,
        oom_killed=oom_killed,
    )


def _start_error(errors: bytes, argv0: str) -> SandboxError:
    if not errors:
        return SandboxError(phase="start", message="the sandbox ended before its program began")
    word, beginning = errors[:4], errors[4:]
    number = -int.from_bytes(word, "little", signed=True)
    if len(word) < 4 or not 0 < number < _ERRNO_MAX:  # a record, which begins otherwise
        return decode(errors)
    if number == errno.ENOENT:
        hint = _missing_interpreter(beginning)
        return ProgramNotFoundError(argv0=argv0, errno=number, hint=hint)
    hints = {
        errno.ENOEXEC: "it is neither a program for this machine nor a script with a #! line",
    }
    return ProgramNotExecutableError(argv0=argv0, errno=number, hint=hints.get(number, ""))


def _missing_interpreter(beginning: bytes) -> str:
    """What a file asks for that is there itself, by its first bytes."""
    if beginning.startswith(b"#!"):
        words = beginning[2:].partition(b"\n")[0].split()
        name = os.fsdecode(words[0].strip()) if words else ""
        if name.endswith("\r") or b"\r" in beginning.partition(b"\n")[0]:
            return f"its first line asks for {name!r} and ends as on Windows: with a \\r"
        return f"it is there, but what its first line asks for is not: {name!r}"
    if beginning.startswith(b"\x7fELF"):
        loader = os.fsdecode(_loader(beginning))
        wanted = f"the loader {loader!r}" if loader else "the loader that it names"
        return f"it is there, but {wanted} is not: it is made for another C library or machine"
    return ""


def _loader(elf: bytes) -> bytes:
    """The name in PT_INTERP of a 64-bit ELF file, where that is in its beginning."""
    if elf[4:6] != b"\x02\x01" or len(elf) < 64:
        return b""
    start = int.from_bytes(elf[32:40], "little")
    size, count = (int.from_bytes(elf[at : at + 2], "little") for at in (54, 56))
    for number in range(min(count, 64)):
        header = elf[start + number * size :][:56]
        if header[:4] == b"\x03\0\0\0" and len(header) == 56:
            offset = int.from_bytes(header[8:16], "little")
            return elf[offset : offset + 256].partition(b"\0")[0]
    return b""


@dataclass(slots=True)
class LocalExecutor:
    """Forks from this process, which must have no other threads."""

    _home: Home | None = None
    _running: list[SandboxRunning] = field(default_factory=list)

    def start(self, spec: SandboxSpec, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        group = make_group(spec)
        groups = () if group is None else group.processes_files
        handshake = Handshake.open()
        try:
            channels = handshake.channels(stdio)
            with opened(spec.network) as network_fd:
                started = namespaces.launch(
                    spec, channels, self.home(), groups=groups, network_fd=network_fd
                )
        except BaseException:
            handshake.close()
            if group:
                group.remove()
            raise
        finally:
            handshake.give_away()
        running = SandboxRunning(
            init_pid=started.pid,
            leader=started,
            handshake=handshake,
            argv0=spec.program.argv[0],
            reap=self.reap,
            root=spec.root,
            group=group,
            has_own_pids=has_own_pids(spec),
        )
        return self.adopt(running)

    def join(self, init_pid: int, program: Program, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        init_pidfd = namespaces.open_init(init_pid)
        handshake = Handshake.open()
        try:
            started = namespaces.launch_join(
                init_pidfd,
                program,
                handshake.channels(stdio),
                self.home(),
                groups=cgroups.groups_of(init_pid),
            )
        except BaseException:
            handshake.close()
            raise
        finally:
            os.close(init_pidfd)
            handshake.give_away()
        running = SandboxRunning(
            init_pid=init_pid,
            leader=started,
            handshake=handshake,
            argv0=program.argv[0],
            reap=self.reap,
        )
        return self.adopt(running)

    def close(self) -> None:
        """Implements `Executor`."""
        for running in self._running:
            running.kill()
            running.wait()
        self._running.clear()
        if self._home:
            self._home.close()
            self._home = None

    def adopt(self, running: SandboxRunning) -> SandboxRunning:
        """Wait until a program is executed, and answer for it from then on."""
        running.confirm()
        self._running = [other for other in self._running if not other.is_over]
        self._running.append(running)
        return running

    def reap(self, running: SandboxRunning) -> int | None:
        """Wait for a leader, and reap joined programs of its sandbox meanwhile.

        A pid namespace is not gone, and its PID 1 stays, until everything in it has been reaped.
        """
        guests = {
            guest.fileno(): guest
            for guest in self._running
            if guest.init_pid == running.init_pid and guest is not running and guest.is_alive
        }
        poller = select.poll()
        for fd in (running.fileno(), *guests):
            poller.register(fd, select.POLLIN)
        while running.is_alive:
            for fd, _ in poller.poll():
                poller.unregister(fd)
                guests.get(fd, running).collect()
        return running.collected

    def home(self) -> Home:
        """What is prepared once."""
        if self._home is None:
            self._home = Home.open()
        return self._home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
