"""Owners for programs in a user namespace that has one id: asked for, remembered, shown again.

    program ---- chown, stat, setuid, ... ----> kernel holds the call back
                                                  |  notification
    recorder <------------------------------------+
       | chown, mknod    written into an attribute of the file (user.lamina.owner)
       | stat            answered with what is written there; where nothing is, the kernel answers
       | setuid, getuid  remembered for the process and its children
       | open, mkdir     of somebody who is not root: made here, and given to them

One recorder for each sandbox and each program that joins it: a process outside of the sandbox's
pid namespace, in its mount namespace, whose root is the sandbox's. Its working directory is the
/proc it came with: `PID/cwd/NAME` and `PID/fd/N` are what the program means by a name.

Everything that is read comes from an enemy. Nothing that protects depends on an answer: the filter
beside this one has decided already, and what the recorder does by itself it does in the sandbox's
root, with no more rights than the program's user has there. A process number is used only while
the notification is known to be alive, or to read what decides on nothing.

What cannot be understood is left to the kernel, as if there were no recorder.

Differs from real owners: permissions are those of the one real id. Links, fifos and sockets stay
root's (they cannot have the attribute), and so do files made by `openat2`. A program of 32 bits is
not asked about. A process whose parent ended before its first question is who the first program
was.

`layerstore/owners.py` reads the same attribute.
"""

import _socket
import errno
import fcntl
import marshal
import os
import select
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from builder.sandbox import capabilities, notification, statbuf, syscalls
from builder.sandbox.credentials import (
    KEEP,
    Credentials,
    Ids,
    set_file,
    set_one,
    set_three,
    set_two,
)
from builder.sandbox.errors import encode
from builder.sandbox.limits import RESOURCES
from builder.sandbox.notification import Call
from builder.sandbox.spec import OWNER_XATTR
from builder.sandbox.statbuf import Owned

ARGV0 = b"lamina-recorder"

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_KNOWN = _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH | 0x800  # AT_NO_AUTOMOUNT
_AT_STATX = 0x6000  # AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC
_PATH_MAX = 4096
_USUAL_PATH_BYTES = 256
_ID_MAX = 2**31 - 1
_GROUPS_MAX = 65536
_GENERATIONS_MAX = 64
_MESSAGE_MAX_BYTES = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DEVICES = {b"char": stat.S_IFCHR, b"block": stat.S_IFBLK}
_WORDS = {kind: word for word, kind in _DEVICES.items()}

_CHOWN, _SETUID, _SETGID, _MKNOD = (
    capabilities.mask(frozenset({name}))
    for name in ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD")
)


class _Unclear(Exception):
    """The kernel is to answer."""


class _Failed(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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

    def __init__(self, listener: int, started: Start) -> None:
        self._listener = listener
        self._rights = started.capabilities
        self._first = Credentials.of(started.uid, started.gid, tuple(sorted(started.groups)))
        self._known: dict[int, tuple[Credentials, int]] = {}  # by process; with a pidfd
        self._poller = select.poll()
        self._has_chrooted = False
        self._root_fd = -1
        numbers = notification.numbers()
        self._answers: dict[int, Callable[[Call], int]] = {
            numbers[name]: answer for name, answer in self._table().items() if name in numbers
        }

    def _table(self) -> dict[str, Callable[[Call], int]]:
        """The answers by name. Calls without a directory mean the working directory."""
        nofollow, empty = _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH
        making = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return {
            "stat": lambda c: self._stat(c, _AT_FDCWD, c.a[0], c.a[1], 0),
            "lstat": lambda c: self._stat(c, _AT_FDCWD, c.a[0], c.a[1], nofollow),
            "fstat": lambda c: self._stat(c, _signed(c.a[0]), 0, c.a[1], empty),
            "newfstatat": lambda c: self._stat(c, _signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "statx": self._statx,
            "chown": lambda c: self._chown(c, _AT_FDCWD, c.a[0], c.a[1], c.a[2], 0),
            "lchown": lambda c: self._chown(c, _AT_FDCWD, c.a[0], c.a[1], c.a[2], nofollow),
            "fchown": lambda c: self._chown(c, _signed(c.a[0]), 0, c.a[1], c.a[2], empty),
            "fchownat": lambda c: self._chown(c, _signed(c.a[0]), c.a[1], c.a[2], c.a[3], c.a[4]),
            "mknod": lambda c: self._mknod(c, _AT_FDCWD, c.a[0], c.a[1], c.a[2]),
            "mknodat": lambda c: self._mknod(c, _signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "mkdir": lambda c: self._mkdir(c, _AT_FDCWD, c.a[0], c.a[1]),
            "mkdirat": lambda c: self._mkdir(c, _signed(c.a[0]), c.a[1], c.a[2]),
            "creat": lambda c: self._open(c, _AT_FDCWD, c.a[0], making, c.a[1]),
            "open": lambda c: self._open(c, _AT_FDCWD, c.a[0], c.a[1], c.a[2]),
            "openat": lambda c: self._open(c, _signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "chroot": self._chroot,
            "execve": lambda c: self._execute(c, _AT_FDCWD, c.a[0], 0),
            "execveat": lambda c: self._execute(c, _signed(c.a[0]), c.a[1], c.a[4]),
            "getuid": lambda c: self._credentials(c).users.real,
            "geteuid": lambda c: self._credentials(c).users.effective,
            "getgid": lambda c: self._credentials(c).groups.real,
            "getegid": lambda c: self._credentials(c).groups.effective,
            "getresuid": lambda c: self._get_three(c, self._credentials(c).users),
            "getresgid": lambda c: self._get_three(c, self._credentials(c).groups),
            "getgroups": self._getgroups,
            "setgroups": self._setgroups,
            "setuid": lambda c: self._set_users(c, set_one, 1),
            "setreuid": lambda c: self._set_users(c, set_two, 2),
            "setresuid": lambda c: self._set_users(c, set_three, 3),
            "setgid": lambda c: self._set_groups(c, set_one, 1),
            "setregid": lambda c: self._set_groups(c, set_two, 2),
            "setresgid": lambda c: self._set_groups(c, set_three, 3),
            "setfsuid": self._setfsuid,
            "setfsgid": self._setfsgid,
        }

    def enter(self, mounts_fd: int) -> None:
        """Take the sandbox's root for one's own."""
        proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.setns(mounts_fd, syscalls.CLONE_NEWNS)
        os.close(mounts_fd)
        self._root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc_fd = proc_fd
        os.fchdir(proc_fd)
        try:
            fcntl.ioctl(
                self._listener, notification.IOCTL_SET_FLAGS, notification.FLAG_SYNC_WAKE_UP
            )
        except OSError:  # Linux 6.6: only faster
            pass

    # The loop.

    def serve(self) -> None:
        """Answer until nobody is left who could ask."""
        self._poller.register(self._listener, select.POLLIN)
        buffer = bytearray(notification.NOTIFICATION_BYTES)
        while True:
            for fd, events in self._poller.poll():
                if fd != self._listener:
                    self._forget(fd)
                elif events & select.POLLIN:
                    self._receive(buffer)
                elif events & (select.POLLHUP | select.POLLERR):
                    return

    def _receive(self, buffer: bytearray) -> None:
        buffer[:] = bytes(notification.NOTIFICATION_BYTES)  # the kernel insists
        try:
            fcntl.ioctl(self._listener, notification.IOCTL_RECEIVE, buffer, True)
        except OSError:  # ENOENT: who asked has been killed
            return
        call = notification.decode(buffer)
        response = self._answer(call)
        if response is None:
            return
        try:
            fcntl.ioctl(self._listener, notification.IOCTL_SEND, response)
        except OSError:  # likewise
            pass

    def _answer(self, call: Call) -> bytes | None:
        try:
            if self._has_chrooted:
                return notification.result(call.id, self._in_its_root(call))
            return notification.result(call.id, self._answers[call.number](call))
        except _Sent:
            return None
        except _Failed as failed:
            return notification.failure(call.id, failed.number)
        except (_Unclear, OSError, ValueError, OverflowError, struct.error):
            return notification.carry_on(call.id)

    def _in_its_root(self, call: Call) -> int:
        """Answer with the root that the process has chosen for itself."""
        fd = os.open(f"{call.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.path.sameopenfile(fd, self._root_fd):
                return self._answers[call.number](call)
            self._change_root(fd)
            try:
                return self._answers[call.number](call)
            finally:
                self._change_root(self._root_fd)
        finally:
            os.close(fd)

    def _change_root(self, fd: int) -> None:
        os.fchdir(fd)
        os.chroot(".")
        os.fchdir(self._proc_fd)

    def _chroot(self, call: Call) -> int:
        self._has_chrooted = True
        raise _Unclear

    # Memory of the program, and names in it.

    def _confirm(self, call: Call) -> None:
        """From what was opened by its number before, it is the process that asks."""
        try:
            fcntl.ioctl(self._listener, notification.IOCTL_IS_VALID, call.id.to_bytes(8, "little"))
        except OSError as error:
            raise _Unclear from error

    def _read_path(self, call: Call, address: int) -> bytes:
        """A name; one that is too long is the kernel's to refuse."""
        for size in (_USUAL_PATH_BYTES, _PATH_MAX):
            path, end, _ = syscalls.read_memory(call.pid, address, size).partition(b"\0")
            if end:
                return path
        raise _Unclear

    def _write(self, call: Call, *parts: tuple[int, bytes]) -> None:
        fd = os.open(f"{call.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._confirm(call)
            for address, data in parts:
                if os.pwrite(fd, data, address) != len(data):
                    raise _Failed(errno.EFAULT)
        except (OSError, OverflowError) as error:
            raise _Failed(errno.EFAULT) from error
        finally:
            os.close(fd)

    def _name(self, call: Call, dir_fd: int, path: bytes) -> bytes:
        """What the program means, as a name for this process. For reading only."""
        if path[:1] == b"/":
            return path
        if dir_fd == _AT_FDCWD:
            return b"%d/cwd/%b" % (call.pid, path)
        return b"%d/fd/%d/%b" % (call.pid, dir_fd, path)

    def _anchor(self, call: Call, dir_fd: int) -> int:
        """A descriptor of the program's, or its working directory, surely of that program."""
        name = f"{call.pid}/cwd" if dir_fd == _AT_FDCWD else f"{call.pid}/fd/{dir_fd}"
        fd = os.open(name, os.O_PATH | os.O_CLOEXEC)
        try:
            self._confirm(call)
        except BaseException:
            os.close(fd)
            raise
        return fd

    # Files.

    def _stat(self, call: Call, dir_fd: int, path_at: int, buffer_at: int, flags: int) -> int:
        name, follow = self._file_name(call, dir_fd, path_at, flags)
        owned = _recorded(name, follow=follow)
        if owned is None:
            raise _Unclear
        status = _look_at(name, follow=follow)
        self._write(call, (buffer_at, statbuf.pack(status, owned)))
        return 0

    def _statx(self, call: Call) -> int:
        dir_fd, path_at, flags, mask, buffer_at, _ = call.a
        name, follow = self._file_name(call, _signed(dir_fd), path_at, flags & ~_AT_STATX)
        owned = _recorded(name, follow=follow)
        if owned is None:
            raise _Unclear
        how = flags & _AT_STATX | (0 if follow else _AT_SYMLINK_NOFOLLOW)
        buffer = bytearray(syscalls.statx(name, how, mask & 0xFFFFFFFF))
        statbuf.patch_statx(buffer, owned)
        self._write(call, (buffer_at, bytes(buffer)))
        return 0

    def _file_name(self, call: Call, dir_fd: int, path_at: int, flags: int) -> tuple[bytes, bool]:
        """A name for `*stat`, and whether a link at its end is followed."""
        path = self._read_path(call, path_at) if path_at else b""
        if path and not flags & ~_AT_KNOWN:
            return self._name(call, dir_fd, path), not flags & _AT_SYMLINK_NOFOLLOW
        if not flags & _AT_EMPTY_PATH or flags & ~_AT_KNOWN:
            raise _Unclear
        if dir_fd == _AT_FDCWD:
            return b"%d/cwd" % call.pid, True
        return b"%d/fd/%d" % (call.pid, dir_fd), True

    def _chown(self, call: Call, dir_fd: int, path_at: int, uid: int, gid: int, flags: int) -> int:
        path = self._read_path(call, path_at) if path_at else b""
        if (not path and not flags & _AT_EMPTY_PATH) or flags & ~_AT_KNOWN:
            raise _Unclear
        wanted = (uid & KEEP, gid & KEEP)
        if not self._known and self._first.owner == (0, 0) and not set(wanted) - {0, KEEP}:
            name, follow = self._file_name(call, dir_fd, path_at, flags)
            if _recorded(name, follow=follow) is None:  # root's already: the kernel can do it
                raise _Unclear
        self._confirm(call)
        credentials = self._credentials(call)
        anchor = -1 if path[:1] == b"/" else self._anchor(call, dir_fd)
        try:
            if path:
                follow = not flags & _AT_SYMLINK_NOFOLLOW
                start = None if anchor < 0 else anchor
                self._chown_path(path, start, wanted, credentials, follow=follow)
            else:
                self._chown_path(b"self/fd/%d" % anchor, None, wanted, credentials, follow=True)
        finally:
            if anchor >= 0:
                os.close(anchor)
        return 0

    def _chown_path(
        self,
        path: bytes,
        anchor: int | None,
        wanted: tuple[int, int],
        credentials: Credentials,
        *,
        follow: bool,
    ) -> None:
        status = os.stat(path, dir_fd=anchor, follow_symlinks=follow)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            self._allow(credentials, (status.st_uid, status.st_gid), wanted)
            os.chown(path, -1, -1, dir_fd=anchor, follow_symlinks=follow)  # copies it up
            return
        fd = os.open(path, _OPEN_FLAGS | (0 if follow else os.O_NOFOLLOW), dir_fd=anchor)
        try:
            status = os.fstat(fd)
            real = (status.st_uid, status.st_gid)
            owned = _recorded(fd) or Owned(*real)
            owner = (
                owned.uid if wanted[0] == KEEP else wanted[0],
                owned.gid if wanted[1] == KEEP else wanted[1],
            )
            if max(owner) > _ID_MAX:
                raise _Failed(errno.EINVAL)
            self._allow(credentials, (owned.uid, owned.gid), owner)
            os.fchown(fd, -1, -1)  # what the kernel does besides: set-id bits, times, copying up
            _record(fd, owned._replace(uid=owner[0], gid=owner[1]), real)
        except OSError as error:
            raise _Failed(error.errno or errno.EIO) from error
        finally:
            os.close(fd)

    def _allow(
        self, credentials: Credentials, now: tuple[int, int], wanted: tuple[int, int]
    ) -> None:
        if not self._may(credentials, _CHOWN) and not credentials.may_chown(now, wanted):
            raise _Failed(errno.EPERM)

    def _mknod(self, call: Call, dir_fd: int, path_at: int, mode: int, device: int) -> int:
        mode, device = mode & 0xFFFF, device & 0xFFFFFFFF
        kind = stat.S_IFMT(mode)
        if kind not in _WORDS or not device:
            raise _Unclear
        credentials = self._credentials(call)
        if not self._may(credentials, _MKNOD):
            raise _Failed(errno.EPERM)
        owned = Owned(*credentials.owner, (kind, os.major(device), os.minor(device)))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        with _Place(self, call, dir_fd, path_at) as place:
            mode = mode & 0o7777 & ~self._umask(call)
            try:
                fd = os.open(place.path, flags, mode, dir_fd=place.anchor)
            except OSError as error:
                raise _Failed(error.errno or errno.EIO) from error
            try:
                _record(fd, owned, (0, 0))
            finally:
                os.close(fd)
        return 0

    def _mkdir(self, call: Call, dir_fd: int, path_at: int, mode: int) -> int:
        owner = self._new_owner(call, dir_fd, path_at)
        with _Place(self, call, dir_fd, path_at) as place:
            os.mkdir(place.path, mode & 0o7777 & ~self._umask(call), dir_fd=place.anchor)
            fd = os.open(place.path, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=place.anchor)
            try:
                _record(fd, Owned(*owner), (0, 0))
            finally:
                os.close(fd)
        return 0

    def _open(self, call: Call, dir_fd: int, path_at: int, flags: int, mode: int) -> int:
        """Make the file for somebody else; what is there already is the kernel's to open."""
        owner = self._new_owner(call, dir_fd, path_at)
        ours = flags & 0xFFFFFFFF | os.O_EXCL | os.O_CLOEXEC
        with _Place(self, call, dir_fd, path_at) as place:
            fd = os.open(place.path, ours, mode & 0o7777 & ~self._umask(call), dir_fd=place.anchor)
            try:
                _record(fd, Owned(*owner), (0, 0))
                self._give(call, fd, flags & os.O_CLOEXEC)
            finally:
                os.close(fd)
        raise _Sent

    def _new_owner(self, call: Call, dir_fd: int, path_at: int) -> tuple[int, int]:
        """Whose a new file is to be; the kernel makes those of root by itself."""
        uid, gid = self._credentials(call).owner
        head, slash, _ = self._read_path(call, path_at).rstrip(b"/").rpartition(b"/")
        parent = self._name(call, dir_fd, head or slash or b".")
        status = _look_at(parent)
        if status.st_mode & stat.S_ISGID:
            gid = (_recorded(parent) or Owned(status.st_uid, status.st_gid)).gid
        if (uid, gid) == (0, 0):
            raise _Unclear
        return uid, gid

    def _execute(self, call: Call, dir_fd: int, path_at: int, flags: int) -> int:
        """A set-user-id program changes whom the kernel takes somebody for."""
        old = self._credentials(call)
        if old.users.three == (0, 0, 0):
            raise _Unclear
        name, follow = self._file_name(call, dir_fd, path_at, flags)
        status = _look_at(name, follow=follow)
        mode = status.st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID) and self._may_change_ids(call, name):
            owned = _recorded(name) or Owned(status.st_uid, status.st_gid)
            new = old
            if mode & stat.S_ISUID:
                new = new._replace(users=Ids(old.users.real, owned.uid, owned.uid, owned.uid))
            if mode & stat.S_ISGID and mode & stat.S_IXGRP:
                new = new._replace(groups=Ids(old.groups.real, owned.gid, owned.gid, owned.gid))
            self._change(call, new)
        raise _Unclear

    def _may_change_ids(self, call: Call, name: bytes) -> bool:
        if os.statvfs(name).f_flag & os.ST_NOSUID or not os.access(name, os.X_OK):
            return False
        if self._status(call.pid)[b"NoNewPrivs"] != b"0":
            return False
        fd = os.open(name, _OPEN_FLAGS)
        try:
            return os.read(fd, 2) != b"#!"  # the kernel takes a script for its interpreter
        finally:
            os.close(fd)

    def _give(self, call: Call, fd: int, flags: int) -> None:
        try:
            fcntl.ioctl(
                self._listener,
                notification.IOCTL_ADD_FD,
                notification.descriptor(call.id, fd, flags),
            )
        except OSError as error:  # EMFILE: its limit, not ours
            raise _Failed(error.errno or errno.EIO) from error

    def _umask(self, call: Call) -> int:
        return int(self._status(call.pid)[b"Umask"], 8)

    # Processes.

    def _may(self, credentials: Credentials, right: int) -> bool:
        return credentials.users.effective == 0 and bool(self._rights & right)

    def _credentials(self, call: Call) -> Credentials:
        """Those of the process that asks: its own, else those of the nearest known ancestor."""
        if not self._known:
            return self._first
        number, status = call.pid, self._status(call.pid)
        process = number = int(status[b"Tgid"])
        for _ in range(_GENERATIONS_MAX):
            if number in self._known:
                found = self._known[number][0]
                if number != process:
                    self._remember(call, process, found)
                return found
            parent = int(status[b"PPid"])
            if not parent:
                break
            try:
                number, status = parent, self._status(parent)
            except OSError:
                break
        self._remember(call, process, self._first)
        return self._first

    def _status(self, pid: int) -> dict[bytes, bytes]:
        fd = os.open(f"{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            lines = os.read(fd, 4096).splitlines()
        finally:
            os.close(fd)
        return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}

    def _remember(self, call: Call, process: int, credentials: Credentials) -> None:
        if process in self._known:
            self._known[process] = (credentials, self._known[process][1])
            return
        pidfd = os.pidfd_open(process)
        try:
            self._confirm(call)
        except BaseException:
            os.close(pidfd)
            raise
        self._known[process] = (credentials, pidfd)
        self._poller.register(pidfd, select.POLLIN)

    def _forget(self, pidfd: int) -> None:
        self._poller.unregister(pidfd)
        os.close(pidfd)
        for process, (_, known) in list(self._known.items()):
            if known == pidfd:
                del self._known[process]

    def _change(self, call: Call, credentials: Credentials) -> None:
        process = int(self._status(call.pid)[b"Tgid"])
        self._remember(call, process, credentials)

    def _set_users(self, call: Call, change: Callable[..., Ids], count: int) -> int:
        old = self._credentials(call)
        privileged = self._may(old, _SETUID)
        self._change(call, old._replace(users=_changed(change, old.users, call, count, privileged)))
        return 0

    def _set_groups(self, call: Call, change: Callable[..., Ids], count: int) -> int:
        old = self._credentials(call)
        privileged = self._may(old, _SETGID)
        groups = _changed(change, old.groups, call, count, privileged)
        self._change(call, old._replace(groups=groups))
        return 0

    def _setfsuid(self, call: Call) -> int:
        old = self._credentials(call)
        wanted, privileged = call.a[0] & KEEP, self._may(old, _SETUID)
        self._change(call, old._replace(users=set_file(old.users, wanted, privileged=privileged)))
        return old.users.file

    def _setfsgid(self, call: Call) -> int:
        old = self._credentials(call)
        wanted, privileged = call.a[0] & KEEP, self._may(old, _SETGID)
        self._change(call, old._replace(groups=set_file(old.groups, wanted, privileged=privileged)))
        return old.groups.file

    def _get_three(self, call: Call, ids: Ids) -> int:
        pairs = zip(call.a[:3], ids.three, strict=True)
        self._write(call, *((address, struct.pack("=I", number)) for address, number in pairs))
        return 0

    def _getgroups(self, call: Call) -> int:
        groups = self._credentials(call).others
        room = _signed(call.a[0])
        if room and groups:
            if room < len(groups):
                raise _Failed(errno.EINVAL)
            self._write(call, (call.a[1], struct.pack(f"={len(groups)}I", *groups)))
        return len(groups)

    def _setgroups(self, call: Call) -> int:
        old = self._credentials(call)
        count = call.a[0] & 0xFFFFFFFF
        if not self._may(old, _SETGID):
            raise _Failed(errno.EPERM)
        if count > _GROUPS_MAX:
            raise _Failed(errno.EINVAL)
        try:
            data = syscalls.read_memory(call.pid, call.a[1], 4 * count) if count else b""
        except (OSError, OverflowError) as error:  # the kernel would have another reason
            raise _Failed(errno.EFAULT) from error
        if len(data) != 4 * count:
            raise _Failed(errno.EFAULT)
        groups = tuple(sorted(struct.unpack(f"={count}I", data)))  # as the kernel keeps them
        if groups and max(groups) > _ID_MAX:
            raise _Failed(errno.EINVAL)
        self._change(call, old._replace(others=groups))
        return 0


class _Sent(Exception):
    """The call has been answered already."""


class _Place:
    """Where something is to be made: a name, and the descriptor that it starts from."""

    def __init__(self, recorder: _Recorder, call: Call, dir_fd: int, path_at: int) -> None:
        self.path = recorder._read_path(call, path_at)
        if not self.path:
            raise _Unclear
        self.anchor = recorder._anchor(call, dir_fd) if self.path[:1] != b"/" else None
        if self.anchor is None:
            recorder._confirm(call)

    def __enter__(self) -> "_Place":
        return self

    def __exit__(self, *_: object) -> None:
        if self.anchor is not None:
            os.close(self.anchor)


def _changed(change: Callable[..., Ids], ids: Ids, call: Call, count: int, privileged: bool) -> Ids:
    try:
        wanted = [argument & KEEP for argument in call.a[:count]]
        return change(ids, *wanted, privileged=privileged)
    except PermissionError as error:
        raise _Failed(errno.EPERM) from error
    except ValueError as error:
        raise _Failed(errno.EINVAL) from error


def _signed(argument: int) -> int:
    """An `int` argument."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _look_at(name: bytes, *, follow: bool = True) -> os.stat_result:
    return os.stat(name, follow_symlinks=follow)  # noqa: PTH116 - bytes


def _recorded(file: bytes | int, *, follow: bool = True) -> Owned | None:
    """What is recorded of a file; None where nothing is, or nothing that makes sense."""
    try:
        value = os.getxattr(file, OWNER_XATTR, follow_symlinks=follow)
    except OSError:
        return None
    return decode(value)


def decode(value: bytes) -> Owned | None:
    """The attribute's value. A program may have written anything."""
    words = value.split(b":")
    kind = _DEVICES.get(words[2]) if len(words) == 5 else None
    numbers = words[:2] if kind is None else [*words[:2], *words[3:]]
    if len(words) not in (2, 5) or (len(words) == 5 and kind is None):
        return None
    if not all(word.isdigit() and len(word) <= 10 for word in numbers):
        return None
    ids = [int(word) for word in numbers]
    if max(ids[:2]) > _ID_MAX or max(ids) > 0xFFFFFFFF:
        return None
    return Owned(ids[0], ids[1], None if kind is None else (kind, ids[2], ids[3]))


def encode_owned(owned: Owned) -> bytes:
    """The reverse of `decode`."""
    text = b"%d:%d" % (owned.uid, owned.gid)
    if owned.device is None:
        return text
    kind, major, minor = owned.device
    return text + b":%b:%d:%d" % (_WORDS[kind], major, minor)


def _record(fd: int, owned: Owned, real: tuple[int, int]) -> None:
    """Write it down, or remove what is not needed any more."""
    try:
        if owned == Owned(*real):
            os.removexattr(fd, OWNER_XATTR)
        else:
            os.setxattr(fd, OWNER_XATTR, encode_owned(owned))
    except OSError as error:
        # nothing was recorded; or a file system that cannot: the owner stays what it is
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
