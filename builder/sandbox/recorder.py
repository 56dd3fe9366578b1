"""The recorder: a process that gives owners to programs in a user namespace that has one id.

    program ---- chown, stat, setuid, ... ----> kernel holds the call back
                                                  |  notification
    recorder <------------------------------------+
       | chown, mknod    written into an attribute of the file (user.lamina.owner)
       | stat            answered with what is written there; where nothing is, the kernel answers
       | setuid, getuid  remembered for the process and its children
       | open, mkdir     of somebody who is not root: made here, and given to them

One for each sandbox and each program that joins it: a process outside of the sandbox's pid
namespace, in its mount namespace, whose root is the sandbox's. Its working directory is the /proc
it came with. This file starts it, enters that root and serves, and touches no file of a program:
questions.py reads what is asked, answers.py answers, identities.py knows who asks, and
ownerattribute.py is what is written.

Everything that is read comes from an enemy. Nothing that protects depends on an answer: the filter
beside this one has decided already, and what the recorder does by itself it does in the sandbox's
root, with no more rights than the program's user has there.

What cannot be understood is left to the kernel, as if there were no recorder.

Differs: a program of 32 bits is not asked about.
"""

import _socket
import errno
import marshal
import os
import select
import struct
from typing import NamedTuple, NoReturn

from builder.sandbox import notification, syscalls
from builder.sandbox.answers import Answers
from builder.sandbox.credentials import Credentials
from builder.sandbox.errors import encode
from builder.sandbox.identities import Identities
from builder.sandbox.limits import RESOURCES
from builder.sandbox.notification import Call
from builder.sandbox.questions import Failed, Listener, Sent, Unclear

ARGV0 = b"lamina-recorder"

_MESSAGE_MAX_BYTES = 1 << 20


class Start(NamedTuple):
    """What the program tells about itself, before it is executed."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int


def is_offered() -> bool:
    """Whether this kernel can do it: Linux 5.14 has all that is needed."""
    words = os.uname().release.split(".")
    return [int(word) for word in words[:2] if word.isdigit()] >= [5, 14]


def submit(socket_fd: int, started: Start) -> bytes:
    """Called by the program: load the filter, and give the other side away.

    Returns:
        Nothing when the recorder is at work; else the record of what went wrong.
    """
    listener = syscalls.load_seccomp_listener(notification.program())
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=socket_fd)
    rights = b"".join([fd.to_bytes(4, "little") for fd in (listener, mounts)])
    sock.sendmsg(
        [marshal.dumps(tuple(started))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    )
    os.close(listener)
    os.close(mounts)
    answer = sock.recv(_MESSAGE_MAX_BYTES)
    sock.close()
    return b"" if answer == b"\0" else answer or encode(OSError(errno.EPIPE, ""), "record owners")


def be_recorder(sock: _socket.socket, command_line: tuple[int, int]) -> NoReturn:
    """The life of a forked process, which has one thread and every signal blocked.

    It ends when no process is left that it would be asked about, or when nobody holds the other
    end of the socket before it was given anything.
    """
    try:
        os.setsid()
        _keep_only(sock)
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=3)
        syscalls.overwrite_command_line(command_line, ARGV0)
        syscalls.set_process_name(ARGV0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        _, most = syscalls.prlimit(RESOURCES["nofile"])
        syscalls.prlimit(RESOURCES["nofile"], (most, most))  # one for each process it knows
        os.umask(0)
        received = _receive(sock)
        if received is not None:
            started, listener, mounts_fd = received
            try:
                recorder = _Recorder(listener, started)
                recorder.enter(mounts_fd)
            except OSError as error:
                sock.send(encode(error, "record owners"))
                os._exit(1)
            sock.send(b"\0")
            sock.close()
            recorder.serve()
    finally:
        os._exit(0)


def _keep_only(sock: _socket.socket) -> None:
    """Let go of everything of the caller, whose pipes are to end when the caller closes them."""
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    copy = syscalls.duplicate(sock.detach(), 16)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    os.dup2(copy, 3, inheritable=False)
    syscalls.close_from(4)


def _receive(sock: _socket.socket) -> tuple[Start, int, int] | None:
    data, ancillary, _, _ = sock.recvmsg(
        _MESSAGE_MAX_BYTES, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC
    )
    if not data or not ancillary:
        return None
    rights = ancillary[0][2]
    listener, mounts = (int.from_bytes(rights[at : at + 4], "little") for at in (0, 4))
    return Start(*marshal.loads(data)), listener, mounts


class _Recorder:
    """Serves one listener."""

    def __init__(self, listener_fd: int, started: Start) -> None:
        self._listener = Listener(listener_fd)
        self._poller = select.poll()
        first = Credentials.of(started.uid, started.gid, tuple(sorted(started.groups)))
        self._identities = Identities(first, self._listener.confirm, self._poller)
        self._answers = Answers(self._listener, self._identities, started.capabilities)
        self._root_fd = self._proc_fd = -1

    def enter(self, mounts_fd: int) -> None:
        """Take the sandbox's root for one's own."""
        proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.setns(mounts_fd, syscalls.CLONE_NEWNS)
        os.close(mounts_fd)
        self._root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc_fd = proc_fd
        os.fchdir(proc_fd)
        self._listener.speed_up()

    def serve(self) -> None:
        """Answer until nobody is left who could ask."""
        self._poller.register(self._listener.fd, select.POLLIN)
        while True:
            for fd, events in self._poller.poll():
                if fd != self._listener.fd:
                    self._identities.forget(fd)
                elif events & select.POLLIN:
                    self._serve_one()
                elif events & (select.POLLHUP | select.POLLERR):
                    return

    def _serve_one(self) -> None:
        call = self._listener.receive()
        response = self._answer(call) if call is not None else None
        if response is not None:
            self._listener.send(response)

    def _answer(self, call: Call) -> bytes | None:
        try:
            if self._answers.has_chrooted:
                return notification.result(call.id, self._in_its_root(call))
            return notification.result(call.id, self._answers.to(call))
        except Sent:
            return None
        except Failed as failed:
            return notification.failure(call.id, failed.number)
        except (Unclear, OSError, ValueError, OverflowError, struct.error):
            return notification.carry_on(call.id)

    def _in_its_root(self, call: Call) -> int:
        """Answer with the root that the process has chosen for itself."""
        fd = os.open(f"{call.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.path.sameopenfile(fd, self._root_fd):
                return self._answers.to(call)
            self._change_root(fd)
            try:
                return self._answers.to(call)
            finally:
                self._change_root(self._root_fd)
        finally:
            os.close(fd)

    def _change_root(self, fd: int) -> None:
        os.fchdir(fd)
        os.chroot(".")
        os.fchdir(self._proc_fd)
