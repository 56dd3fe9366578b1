"""ForkServer: an executor for callers with threads.

    caller (threads, a large heap)          server (one thread, small, its own session)
      | -- request: length, words, descriptors -->  |  clone ---> PID 1 of a sandbox
      | <-- reply: pid, its pidfd; or an error ---- |  reap; for joined programs, tell the status
      | <------------------- errors, report: from the sandbox itself

The server is forked before the caller's first thread and lives as long as the caller: it ends, and
kills what runs, when the socket closes or when the caller's process has ended. When the server
itself is killed, the kernel kills its sandboxes (parent-death signal), and with each PID 1 its
processes, mounts and namespaces go. Ctrl-C does not reach it: it has a session of its own.

Requests are served one after the other, which costs nothing: a request is one fork, and everything
slow happens in the new process.

A file system in memory for upper directories (`mount_memory`) is mounted in a mount namespace of
the server's own, which its sandboxes begin with: nobody else sees it, and it goes with the server,
or with its directory. The caller reaches what is in it by a descriptor.
"""

import _socket
import gc
import marshal
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, cast

from builder.sandbox import cgroups, limits, namespaces, seccomp, signals, spec, syscalls
from builder.sandbox.capabilities import mask
from builder.sandbox.errors import SandboxError, decode, encode
from builder.sandbox.executor import (
    Handshake,
    SandboxRunning,
    has_own_pids,
    make_group,
    reap_recorder,
    usage_of,
)
from builder.sandbox.namespaces import Channels, Home, Started
from builder.sandbox.network import opened
from builder.sandbox.spec import OverlayRoot, Program, Root, SandboxSpec, Stdio

_REQUEST_DESCRIPTORS_MAX = 6
_CLASSES = {
    value.__name__: value
    for value in (
        *(spec.SandboxSpec, spec.OverlayRoot, spec.PlainRoot, spec.Program, limits.Limits),
        *(spec.BindMount, spec.OverlayMount, spec.TmpfsMount, spec.FileMount, limits.ResourceLimit),
        *(spec.Device, spec.Namespaces, spec.SeccompProfile, spec.SeccompRule),
        *(spec.SeccompArgument, spec.Link),
    )
}


class ForkServer:
    """An executor whose sandboxes are forked by a small process of their own.

    Make it before the first thread is started; afterwards any thread may use it.
    """

    def __init__(self) -> None:
        import _thread

        self._lock = _thread.allocate_lock()
        self._socket, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        caller_pidfd = os.pidfd_open(os.getpid())
        self._pid = namespaces.fork_process()
        if self._pid == 0:
            _serve(theirs.detach(), caller_pidfd)
        os.close(caller_pidfd)
        theirs.close()
        self._running: list[SandboxRunning] = []
        self._memories: dict[Path, int] = {}  # mounted at, and a descriptor of it

    def start(self, spec: SandboxSpec, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        group = make_group(spec)
        try:
            words = ("start", to_words(spec), () if group is None else group.processes_files)
            with opened(spec.network) as network_fd:
                extra = () if network_fd < 0 else (network_fd,)
                running = self._launch(words, spec.program, stdio, extra)
        except BaseException:
            if group:
                group.remove()
            raise
        running.root = self._seen_root(spec.root)
        running.group = group
        running.has_own_pids = has_own_pids(spec)
        return self._confirm(running)

    def join(self, init_pid: int, program: Program, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        init_pidfd = namespaces.open_init(init_pid)
        try:
            words = ("join", to_words(program), cgroups.groups_of(init_pid))
            running = self._launch(words, program, stdio, (init_pidfd,))
        finally:
            os.close(init_pidfd)
        running.init_pid = init_pid
        return self._confirm(running)

    @contextmanager
    def mount_memory(self, directory: Path, size_bytes: int) -> Iterator[Path]:
        """Mount a file system in memory at `directory`, for the sandboxes of this server alone.

        Yields the path by which the caller sees what they see at `directory`. It goes when the
        caller removes `directory`, after this.

        Raises:
            SandboxError: the kernel refuses it.
        """
        body = marshal.dumps(("memory", str(directory), size_bytes))
        with self._lock:
            _send_request(self._socket, body, ())
            _, fd = _receive_reply(self._socket)
        self._memories[directory] = fd
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            del self._memories[directory]
            os.close(fd)

    def close(self) -> None:
        """Implements `Executor`."""
        if self._pid:
            self._socket.close()
            os.waitpid(self._pid, 0)
            self._pid = 0
            for running in self._running:
                running.wait()
            self._running.clear()

    def _launch(
        self, words: tuple[Any, ...], program: Program, stdio: Stdio, extra: tuple[int, ...]
    ) -> SandboxRunning:
        handshake = Handshake.open()
        channels = handshake.channels(stdio)
        descriptors = (
            *(channels.stdin, channels.stdout, channels.stderr),
            *(channels.errors, channels.report, *extra),
        )
        try:
            with self._lock:
                _send_request(self._socket, marshal.dumps(words), descriptors)
                pid, pidfd = _receive_reply(self._socket)
        except BaseException:
            handshake.close()
            raise
        finally:
            handshake.give_away()
        return SandboxRunning(
            init_pid=pid,
            leader=Started(pid=pid, pidfd=pidfd),
            handshake=handshake,
            argv0=program.argv[0],
            reap=_await_end,
        )

    def _seen_root(self, root: Root) -> Root:
        """The root by the paths of the caller, who tidies it up."""
        if isinstance(root, OverlayRoot):
            for directory, fd in self._memories.items():
                if root.upperdir.is_relative_to(directory):
                    seen = Path(f"/proc/self/fd/{fd}")
                    return replace(
                        root,
                        upperdir=seen / root.upperdir.relative_to(directory),
                        workdir=seen / root.workdir.relative_to(directory),
                    )
        return root

    def _confirm(self, running: SandboxRunning) -> SandboxRunning:
        running.confirm()
        self._running = [other for other in self._running if not other.is_over]
        self._running.append(running)
        return running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_words(value: Any) -> Any:
    """A specification as tuples, strings and numbers, which `marshal` can carry."""
    if is_dataclass(value):
        return (type(value).__name__, *(to_words(getattr(value, f.name)) for f in fields(value)))
    match value:
        case Path():
            return ("Path", str(value))
        case tuple() if hasattr(value, "_fields"):
            return (type(value).__name__, *map(to_words, value))
        case tuple():
            return ("tuple", *map(to_words, value))
        case frozenset():
            return ("frozenset", *value)
        case _:
            return value


def from_words(words: Any) -> Any:
    """The reverse of `to_words`."""
    if not isinstance(words, tuple):
        return words
    name, *rest = words
    match name:
        case "Path":
            return Path(rest[0])
        case "tuple":
            return tuple(map(from_words, rest))
        case "frozenset":
            return frozenset(rest)
        case _:
            kind = cast(Any, _CLASSES[name])
            if hasattr(kind, "_fields"):
                return kind(*map(from_words, rest))
            names = (field.name for field in fields(kind))
            return kind(**dict(zip(names, map(from_words, rest), strict=True)))


def _send_request(sock: _socket.socket, body: bytes, descriptors: tuple[int, ...]) -> None:
    data = len(body).to_bytes(8, "little") + body
    try:
        sent = sock.sendmsg([data], [_rights(descriptors)])
        while sent < len(data):
            sent += sock.send(data[sent:])
    except OSError as error:
        raise _gone() from error


def _receive_reply(sock: _socket.socket) -> tuple[int, int]:
    size = _socket.CMSG_SPACE(4)
    try:
        data, ancillary, _, _ = sock.recvmsg(1 << 16, size, _socket.MSG_CMSG_CLOEXEC)
    except OSError as error:  # killed with the request unread
        raise _gone() from error
    if not data:
        raise _gone()
    descriptors = _descriptors(ancillary)
    if not descriptors:
        raise decode(data)
    return int.from_bytes(data, "little"), descriptors[0]


def _gone() -> SandboxError:
    return SandboxError(phase="ask the fork server", message="it has ended")


def _rights(descriptors: tuple[int, ...]) -> tuple[int, int, bytes]:
    packed = b"".join([fd.to_bytes(4, "little") for fd in descriptors])
    return (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    return [
        int.from_bytes(packed[at : at + 4], "little")
        for _, _, packed in ancillary
        for at in range(0, len(packed) - 3, 4)
    ]


def _await_end(running: SandboxRunning) -> int | None:
    """The server reaps, then lets go of its copy of the report socket, the last one."""
    running.receive_all()
    return None


# The server's side.


def _serve(socket_fd: int, caller_pidfd: int) -> NoReturn:
    """Become the server and never return."""
    try:
        _Server(socket_fd, caller_pidfd).run()
    finally:
        os._exit(0)


class _Child(NamedTuple):
    started: Started
    report_fd: int  # held until the child is reaped
    is_joined: bool
    ends_all: bool  # what is left over ends with it


class _Server:
    def __init__(self, socket_fd: int, caller_pidfd: int) -> None:
        os.setsid()
        signals.ignore(signals.SIGINT)
        signals.use_default(signals.SIGTERM, signals.SIGHUP, signals.SIGQUIT)
        gc.disable()
        self._keep_only(socket_fd, caller_pidfd)
        self._home = Home.open()
        self._started: dict[int, _Child] = {}  # by pidfd
        self._has_own_mounts = False
        self._poller = select.poll()
        self._poller.register(self._socket.fileno(), select.POLLIN)
        self._poller.register(self._caller_pidfd, select.POLLIN)
        seccomp.program(mask(None))  # compiled while nobody waits for it

    def _keep_only(self, socket_fd: int, caller_pidfd: int) -> None:
        """Let go of everything of the caller: a pipe must end when the caller closes it."""
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        copies = [syscalls.duplicate(fd, 16) for fd in (socket_fd, caller_pidfd)]
        for fd in (0, 1, 2):
            os.dup2(null_fd, fd)
        for number, fd in enumerate(copies, 3):
            os.dup2(fd, number, inheritable=False)
        syscalls.close_from(5)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=3)
        self._caller_pidfd = 4
        os.chdir("/")

    def run(self) -> None:
        """Serve until the caller is gone, then end what runs."""
        while True:
            for fd, _ in self._poller.poll():
                if fd in self._started:
                    self._reap(fd)
                elif fd == self._caller_pidfd or not self._serve_one():
                    self._end()
                    return

    def _serve_one(self) -> bool:
        request = self._receive()
        if request is None:
            return False
        body, descriptors = request
        try:
            kind, *words = marshal.loads(body)
            if kind == "memory":
                self._mount_memory(*words)
                return True
            child = self._launch(kind, words, descriptors)
        except Exception as error:  # noqa: BLE001  (an answer must come, whatever happened)
            for fd in descriptors:
                os.close(fd)
            self._socket.send(encode(error, "ask the fork server"))
            return True
        for fd in descriptors:
            if fd != child.report_fd:
                os.close(fd)
        pid, pidfd = child.started.pid, child.started.pidfd
        self._started[pidfd] = child
        self._poller.register(pidfd, select.POLLIN)
        self._socket.sendmsg([pid.to_bytes(8, "little")], [_rights((pidfd,))])
        return True

    def _mount_memory(self, directory: str, size_bytes: int) -> None:
        if not self._has_own_mounts:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
            self._has_own_mounts = True
        target = os.fsencode(directory)
        options = f"mode=755,size={size_bytes}".encode()
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV  # overlayfs does not pass them on
        syscalls.mount(b"tmpfs", target, b"tmpfs", flags, options)
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket.sendmsg([bytes(8)], [_rights((fd,))])
        os.close(fd)

    def _launch(self, kind: str, words: list[Any], descriptors: list[int]) -> _Child:
        specification, groups = words
        value = from_words(specification)
        stdin, stdout, stderr, errors, report, *extra = descriptors
        channels = Channels(stdin=stdin, stdout=stdout, stderr=stderr, errors=errors, report=report)
        if kind == "start":
            network_fd = extra[0] if extra else -1
            started = namespaces.launch(
                value, channels, self._home, groups=groups, network_fd=network_fd
            )
        else:
            started = namespaces.launch_join(extra[0], value, channels, self._home, groups=groups)
        ends_all = kind == "start" and has_own_pids(value)
        return _Child(started, report, kind == "join", ends_all)

    def _receive(self) -> tuple[bytes, list[int]] | None:
        size = _socket.CMSG_SPACE(4 * _REQUEST_DESCRIPTORS_MAX)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(8, size, _socket.MSG_CMSG_CLOEXEC)
            if len(data) < 8:
                return None
            parts, left = [], int.from_bytes(data, "little")
            while left:
                part = self._socket.recv(min(left, 1 << 20))
                if not part:
                    return None
                parts.append(part)
                left -= len(part)
        except OSError:
            return None
        return b"".join(parts), _descriptors(ancillary)

    def _reap(self, pidfd: int) -> None:
        child = self._started.pop(pidfd)
        self._poller.unregister(pidfd)
        _, status, usage = os.wait4(child.started.pid, 0)
        reap_recorder(child.started, is_last=child.ends_all)
        os.close(pidfd)
        namespaces.report(child.report_fd, marshal.dumps(("usage", usage_of(usage))))
        if child.is_joined:
            namespaces.report(child.report_fd, status.to_bytes(4, "little"))
        os.close(child.report_fd)

    def _end(self) -> None:
        for pidfd in self._started:
            signals.send(pidfd, signals.SIGKILL)
        for pidfd in list(self._started):
            self._reap(pidfd)
