"""System calls that are held back: received, read as the program means them, sent answers to.

Touches the notification's descriptor, and of the program that asks its memory, its descriptors and
what /proc says of it; makes and changes no file. Who uses it has the /proc that the numbers of
processes are of as its working directory: `PID/cwd/NAME` and `PID/fd/N` are what a program means
by a name.

Everything that is read comes from an enemy. A process number is used only while the notification is
known to be alive (`confirm`), or to read what decides on nothing.
"""

import _socket
import errno
import fcntl
import os

from builder.sandbox import notification, syscalls
from builder.sandbox.notification import Call

AT_FDCWD = -100
_PATH_MAX = 4096
_USUAL_PATH_BYTES = 256


class Unclear(Exception):
    """The kernel is to answer."""


class Failed(Exception):
    """The call fails with this error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Sent(Exception):
    """The call has been answered already."""


class Listener:
    """The descriptor through which they come."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray(notification.NOTIFICATION_BYTES)

    def speed_up(self) -> None:
        """Let the kernel wake who waits on the same processor."""
        try:
            fcntl.ioctl(self.fd, notification.IOCTL_SET_FLAGS, notification.FLAG_SYNC_WAKE_UP)
        except OSError:
            return  # it came with Linux 6.6, and is only faster

    def receive(self) -> Call | None:
        """The next question; None when who asked has been killed."""
        self._buffer[:] = bytes(notification.NOTIFICATION_BYTES)  # the kernel insists
        try:
            fcntl.ioctl(self.fd, notification.IOCTL_RECEIVE, self._buffer, True)
        except OSError:  # ENOENT
            return None
        return notification.decode(self._buffer)

    def send(self, response: bytes) -> None:
        """Answer; nothing happens when who asked has been killed."""
        try:
            fcntl.ioctl(self.fd, notification.IOCTL_SEND, response)
        except OSError:  # ENOENT
            return

    def confirm(self, call: Call) -> None:
        """From what was opened by its number before, it is the process that asks."""
        try:
            fcntl.ioctl(self.fd, notification.IOCTL_IS_VALID, call.id.to_bytes(8, "little"))
        except OSError as error:
            raise Unclear from error

    def write(self, call: Call, *parts: tuple[int, bytes]) -> None:
        """Write into the program's memory, at each address."""
        fd = os.open(f"{call.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.confirm(call)
            for address, data in parts:
                if os.pwrite(fd, data, address) != len(data):
                    raise Failed(errno.EFAULT)
        except (OSError, OverflowError) as error:
            raise Failed(errno.EFAULT) from error
        finally:
            os.close(fd)

    def anchor(self, call: Call, dir_fd: int) -> int:
        """A descriptor of the program's, or its working directory, surely of that program."""
        name = f"{call.pid}/cwd" if dir_fd == AT_FDCWD else f"{call.pid}/fd/{dir_fd}"
        fd = os.open(name, os.O_PATH | os.O_CLOEXEC)
        try:
            self.confirm(call)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def peer(self, call: Call, fd: int) -> int:
        """The process at the other end of a socket of the program's; 0 where it cannot be told."""
        pidfd = os.pidfd_open(int(status(call.pid)[b"Tgid"]))
        try:
            self.confirm(call)
            copy = syscalls.pidfd_getfd(pidfd, fd)
        finally:
            os.close(pidfd)
        try:
            sock = _socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
        try:
            told = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        finally:
            sock.close()
        return int.from_bytes(told[:4], "little", signed=True)

    def give(self, call: Call, fd: int, flags: int) -> None:
        """Answer with a copy of a descriptor."""
        try:
            fcntl.ioctl(
                self.fd,
                notification.IOCTL_ADD_FD,
                notification.descriptor(call.id, fd, flags),
            )
        except OSError as error:  # EMFILE: its limit, not ours
            raise Failed(error.errno or errno.EIO) from error


class Destination:
    """Where something is to be made: a name, and the descriptor that it starts from."""

    def __init__(self, listener: Listener, call: Call, dir_fd: int, path_at: int) -> None:
        self.path = read_path(call, path_at)
        if not self.path:
            raise Unclear
        self.anchor = listener.anchor(call, dir_fd) if self.path[:1] != b"/" else None
        if self.anchor is None:
            listener.confirm(call)

    def __enter__(self) -> "Destination":
        return self

    def __exit__(self, *_: object) -> None:
        if self.anchor is not None:
            os.close(self.anchor)


def read_path(call: Call, address: int) -> bytes:
    """A name; one that is too long is the kernel's to refuse."""
    for size in (_USUAL_PATH_BYTES, _PATH_MAX):
        path, end, _ = syscalls.read_memory(call.pid, address, size).partition(b"\0")
        if end:
            return path
    raise Unclear


def name_of(call: Call, dir_fd: int, path: bytes) -> bytes:
    """What the program means, as a name for this process. For reading only."""
    if path[:1] == b"/":
        return path
    if dir_fd == AT_FDCWD:
        return b"%d/cwd/%b" % (call.pid, path)
    return b"%d/fd/%d/%b" % (call.pid, dir_fd, path)


def status(pid: int) -> dict[bytes, bytes]:
    """What the kernel says of a process or thread."""
    fd = os.open(f"{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, 4096).splitlines()
    finally:
        os.close(fd)
    return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


def umask(call: Call) -> int:
    """What the program takes away from modes."""
    return int(status(call.pid)[b"Umask"], 8)


def signed(argument: int) -> int:
    """An `int` argument."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
