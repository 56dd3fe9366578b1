"""What each call means where owners and users are recorded, and what it is answered with.

The only part of the recorder that makes and changes files: those that the program names, in the
root that recorder.py has entered. Nothing that protects depends on an answer.

An answer is the call's result, or one of the exceptions of questions.py; any other error leaves the
call to the kernel.

Differs from real owners: permissions are those of the one real id. Links, fifos and sockets stay
root's (they cannot have the attribute), and so do files made by `openat2`.
"""

import errno
import os
import stat
import struct
from _socket import SOL_SOCKET
from collections.abc import Callable

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
from builder.sandbox.identities import Identities
from builder.sandbox.notification import Call
from builder.sandbox.ownerattribute import DEVICES, ID_MAX, Owned, record, recorded
from builder.sandbox.questions import (
    AT_FDCWD,
    Destination,
    Failed,
    Listener,
    Sent,
    Unclear,
    name_of,
    read_path,
    signed,
    status,
    umask,
)

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_KNOWN = _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH | 0x800  # AT_NO_AUTOMOUNT
_AT_STATX = 0x6000  # AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC
_GROUPS_MAX = 65536
_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_CHOWN, _SETUID, _SETGID, _MKNOD = (
    capabilities.mask(frozenset({name}))
    for name in ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD")
)


class Answers:
    """Answers the questions of one listener.

    `has_chrooted`: some process may have another root than the sandbox's since it was answered.
    """

    def __init__(self, listener: Listener, identities: Identities, rights: int) -> None:
        self._listener = listener
        self._identities = identities
        self._rights = rights
        self.has_chrooted = False
        numbers = notification.numbers()
        self._by_number: dict[int, Callable[[Call], int]] = {
            numbers[name]: answer for name, answer in self._table().items() if name in numbers
        }

    def to(self, call: Call) -> int:
        """What the call gives.

        Raises:
            Unclear, Failed, Sent.
        """
        return self._by_number[call.number](call)

    def _table(self) -> dict[str, Callable[[Call], int]]:
        """The answers by name. Calls without a directory mean the working directory."""
        nofollow, empty = _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH
        making = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return {
            "stat": lambda c: self._stat(c, AT_FDCWD, c.a[0], c.a[1], 0),
            "lstat": lambda c: self._stat(c, AT_FDCWD, c.a[0], c.a[1], nofollow),
            "fstat": lambda c: self._stat(c, signed(c.a[0]), 0, c.a[1], empty),
            "newfstatat": lambda c: self._stat(c, signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "statx": self._statx,
            "chown": lambda c: self._chown(c, AT_FDCWD, c.a[0], c.a[1], c.a[2], 0),
            "lchown": lambda c: self._chown(c, AT_FDCWD, c.a[0], c.a[1], c.a[2], nofollow),
            "fchown": lambda c: self._chown(c, signed(c.a[0]), 0, c.a[1], c.a[2], empty),
            "fchownat": lambda c: self._chown(c, signed(c.a[0]), c.a[1], c.a[2], c.a[3], c.a[4]),
            "mknod": lambda c: self._mknod(c, AT_FDCWD, c.a[0], c.a[1], c.a[2]),
            "mknodat": lambda c: self._mknod(c, signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "mkdir": lambda c: self._mkdir(c, AT_FDCWD, c.a[0], c.a[1]),
            "mkdirat": lambda c: self._mkdir(c, signed(c.a[0]), c.a[1], c.a[2]),
            "creat": lambda c: self._open(c, AT_FDCWD, c.a[0], making, c.a[1]),
            "open": lambda c: self._open(c, AT_FDCWD, c.a[0], c.a[1], c.a[2]),
            "openat": lambda c: self._open(c, signed(c.a[0]), c.a[1], c.a[2], c.a[3]),
            "chroot": self._chroot,
            "execve": lambda c: self._execute(c, AT_FDCWD, c.a[0], 0),
            "execveat": lambda c: self._execute(c, signed(c.a[0]), c.a[1], c.a[4]),
            "getuid": lambda c: self._identities.of(c).users.real,
            "geteuid": lambda c: self._identities.of(c).users.effective,
            "getgid": lambda c: self._identities.of(c).groups.real,
            "getegid": lambda c: self._identities.of(c).groups.effective,
            "getresuid": lambda c: self._get_three(c, self._identities.of(c).users),
            "getresgid": lambda c: self._get_three(c, self._identities.of(c).groups),
            "getgroups": self._getgroups,
            "setgroups": self._setgroups,
            "setuid": lambda c: self._set_users(c, set_one, 1),
            "setreuid": lambda c: self._set_users(c, set_two, 2),
            "setresuid": lambda c: self._set_users(c, set_three, 3),
            "setgid": lambda c: self._set_groups(c, set_one, 1),
            "setregid": lambda c: self._set_groups(c, set_two, 2),
            "setresgid": lambda c: self._set_groups(c, set_three, 3),
            "prctl": self._keep_rights,
            "getsockopt": self._peer,
            "setfsuid": self._setfsuid,
            "setfsgid": self._setfsgid,
        }

    def _chroot(self, call: Call) -> int:
        self.has_chrooted = True
        raise Unclear

    # Files.

    def _stat(self, call: Call, dir_fd: int, path_at: int, buffer_at: int, flags: int) -> int:
        name, follow = self._file_name(call, dir_fd, path_at, flags)
        owned = recorded(name, follow=follow)
        if owned is None:
            raise Unclear
        found = _look_at(name, follow=follow)
        self._listener.write(call, (buffer_at, statbuf.pack(found, owned)))
        return 0

    def _statx(self, call: Call) -> int:
        dir_fd, path_at, flags, mask, buffer_at, _ = call.a
        name, follow = self._file_name(call, signed(dir_fd), path_at, flags & ~_AT_STATX)
        owned = recorded(name, follow=follow)
        if owned is None:
            raise Unclear
        how = flags & _AT_STATX | (0 if follow else _AT_SYMLINK_NOFOLLOW)
        buffer = bytearray(syscalls.statx(name, how, mask & 0xFFFFFFFF))
        statbuf.patch_statx(buffer, owned)
        self._listener.write(call, (buffer_at, bytes(buffer)))
        return 0

    def _file_name(self, call: Call, dir_fd: int, path_at: int, flags: int) -> tuple[bytes, bool]:
        """A name for `*stat`, and whether a link at its end is followed."""
        path = read_path(call, path_at) if path_at else b""
        if path and not flags & ~_AT_KNOWN:
            return name_of(call, dir_fd, path), not flags & _AT_SYMLINK_NOFOLLOW
        if not flags & _AT_EMPTY_PATH or flags & ~_AT_KNOWN:
            raise Unclear
        if dir_fd == AT_FDCWD:
            return b"%d/cwd" % call.pid, True
        return b"%d/fd/%d" % (call.pid, dir_fd), True

    def _chown(self, call: Call, dir_fd: int, path_at: int, uid: int, gid: int, flags: int) -> int:
        path = read_path(call, path_at) if path_at else b""
        if (not path and not flags & _AT_EMPTY_PATH) or flags & ~_AT_KNOWN:
            raise Unclear
        wanted = (uid & KEEP, gid & KEEP)
        if self._identities.are_all_root() and not set(wanted) - {0, KEEP}:
            name, follow = self._file_name(call, dir_fd, path_at, flags)
            if recorded(name, follow=follow) is None:  # root's already: the kernel can do it
                raise Unclear
        self._listener.confirm(call)
        may = self._may_chown(call)
        anchor = -1 if path[:1] == b"/" else self._listener.anchor(call, dir_fd)
        try:
            if path:
                follow = not flags & _AT_SYMLINK_NOFOLLOW
                start = None if anchor < 0 else anchor
                self._chown_path(path, start, wanted, may, follow=follow)
            else:
                self._chown_path(b"self/fd/%d" % anchor, None, wanted, may, follow=True)
        finally:
            if anchor >= 0:
                os.close(anchor)
        return 0

    def _chown_path(
        self,
        path: bytes,
        anchor: int | None,
        wanted: tuple[int, int],
        may: Callable[[tuple[int, int], tuple[int, int]], bool],
        *,
        follow: bool,
    ) -> None:
        found = os.stat(path, dir_fd=anchor, follow_symlinks=follow)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            _check(may((found.st_uid, found.st_gid), wanted))
            os.chown(path, -1, -1, dir_fd=anchor, follow_symlinks=follow)  # copies it up
            return
        fd = os.open(path, _OPEN_FLAGS | (0 if follow else os.O_NOFOLLOW), dir_fd=anchor)
        try:
            found = os.fstat(fd)
            real = (found.st_uid, found.st_gid)
            owned = recorded(fd) or Owned(*real)
            owner = (
                owned.uid if wanted[0] == KEEP else wanted[0],
                owned.gid if wanted[1] == KEEP else wanted[1],
            )
            if max(owner) > ID_MAX:
                raise Failed(errno.EINVAL)
            _check(may((owned.uid, owned.gid), owner))
            os.fchown(fd, -1, -1)  # what the kernel does besides: set-id bits, times, copying up
            record(fd, owned._replace(uid=owner[0], gid=owner[1]), real)
        except OSError as error:
            raise Failed(error.errno or errno.EIO) from error
        finally:
            os.close(fd)

    def _may_chown(self, call: Call) -> Callable[[tuple[int, int], tuple[int, int]], bool]:
        """Whether who asks may make another owner of one."""
        credentials = self._identities.of(call)
        if self._may(call, credentials, _CHOWN):
            return lambda now, wanted: True
        return credentials.may_chown

    def _mknod(self, call: Call, dir_fd: int, path_at: int, mode: int, device: int) -> int:
        mode, device = mode & 0xFFFF, device & 0xFFFFFFFF
        kind = stat.S_IFMT(mode)
        if kind not in DEVICES.values() or not device:
            raise Unclear
        credentials = self._identities.of(call)
        _check(self._may(call, credentials, _MKNOD))
        owned = Owned(*credentials.owner, (kind, os.major(device), os.minor(device)))
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        with Destination(self._listener, call, dir_fd, path_at) as place:
            mode = mode & 0o7777 & ~umask(call)
            try:
                fd = os.open(place.path, flags, mode, dir_fd=place.anchor)
            except OSError as error:
                raise Failed(error.errno or errno.EIO) from error
            try:
                record(fd, owned, (0, 0))
            finally:
                os.close(fd)
        return 0

    def _mkdir(self, call: Call, dir_fd: int, path_at: int, mode: int) -> int:
        owner = self._new_owner(call, dir_fd, path_at)
        with Destination(self._listener, call, dir_fd, path_at) as place:
            os.mkdir(place.path, mode & 0o7777 & ~umask(call), dir_fd=place.anchor)
            fd = os.open(place.path, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=place.anchor)
            try:
                record(fd, Owned(*owner), (0, 0))
            finally:
                os.close(fd)
        return 0

    def _open(self, call: Call, dir_fd: int, path_at: int, flags: int, mode: int) -> int:
        """Make the file for somebody else; what is there already is the kernel's to open."""
        owner = self._new_owner(call, dir_fd, path_at)
        ours = flags & 0xFFFFFFFF | os.O_EXCL | os.O_CLOEXEC
        with Destination(self._listener, call, dir_fd, path_at) as place:
            fd = os.open(place.path, ours, mode & 0o7777 & ~umask(call), dir_fd=place.anchor)
            try:
                record(fd, Owned(*owner), (0, 0))
                self._listener.give(call, fd, flags & os.O_CLOEXEC)
            finally:
                os.close(fd)
        raise Sent

    def _new_owner(self, call: Call, dir_fd: int, path_at: int) -> tuple[int, int]:
        """Whose a new file is to be; the kernel makes those of root by itself."""
        uid, gid = self._identities.of(call).owner
        head, slash, _ = read_path(call, path_at).rstrip(b"/").rpartition(b"/")
        parent = name_of(call, dir_fd, head or slash or b".")
        found = _look_at(parent)
        if found.st_mode & stat.S_ISGID:
            gid = (recorded(parent) or Owned(found.st_uid, found.st_gid)).gid
        if (uid, gid) == (0, 0):
            raise Unclear
        return uid, gid

    def _execute(self, call: Call, dir_fd: int, path_at: int, flags: int) -> int:
        """A set-user-id program changes whom the kernel takes somebody for."""
        old = self._identities.of(call)
        if old.users.three == (0, 0, 0) and not old.keeps_rights:
            raise Unclear
        name, follow = self._file_name(call, dir_fd, path_at, flags)
        found = _look_at(name, follow=follow)
        mode = found.st_mode
        new = old._replace(keeps_rights=False)
        if mode & (stat.S_ISUID | stat.S_ISGID) and self._may_change_ids(call, name):
            owned = recorded(name) or Owned(found.st_uid, found.st_gid)
            if mode & stat.S_ISUID:
                new = new._replace(users=Ids(old.users.real, owned.uid, owned.uid, owned.uid))
            if mode & stat.S_ISGID and mode & stat.S_IXGRP:
                new = new._replace(groups=Ids(old.groups.real, owned.gid, owned.gid, owned.gid))
            self._identities.change(call, new)
        elif new != old:
            self._identities.change(call, new)
        raise Unclear

    def _may_change_ids(self, call: Call, name: bytes) -> bool:
        if os.statvfs(name).f_flag & os.ST_NOSUID or not os.access(name, os.X_OK):
            return False
        if status(call.pid)[b"NoNewPrivs"] != b"0":
            return False
        fd = os.open(name, _OPEN_FLAGS)
        try:
            return os.read(fd, 2) != b"#!"  # the kernel takes a script for its interpreter
        finally:
            os.close(fd)

    # Users.

    def _may(self, call: Call, credentials: Credentials, right: int) -> bool:
        if credentials.users.effective == 0:
            return bool(self._rights & right)
        # To the kernel it never was anybody else: what it has given up by itself is gone.
        return credentials.keeps_rights and bool(
            int(status(call.pid)[b"CapEff"], 16) & self._rights & right
        )

    def _keep_rights(self, call: Call) -> int:
        """PR_SET_KEEPCAPS: what it says counts when root becomes somebody else."""
        old = self._identities.of(call)
        keeps = call.a[1] == 1
        if old.users.effective == 0 and keeps != old.keeps_rights:
            self._identities.change(call, old._replace(keeps_rights=keeps))
        raise Unclear

    def _peer(self, call: Call) -> int:
        """SO_PEERCRED: who is at the other end, as far as it is known, and as it is now."""
        fd, level, _, buffer_at, size_at, _ = call.a
        if signed(level) != SOL_SOCKET or self._identities.are_all_root():
            raise Unclear
        if int.from_bytes(syscalls.read_memory(call.pid, size_at, 4), "little") < _PEER.size:
            raise Unclear
        process = self._listener.peer(call, signed(fd))
        if not process:  # it has ended, or there is none
            raise Unclear
        found = self._identities.of_process(process)
        own_number = int(status(process)[b"NSpid"].split()[-1])
        told = _PEER.pack(own_number, found.users.effective, found.groups.effective)
        self._listener.write(call, (buffer_at, told), (size_at, _PEER.size.to_bytes(4, "little")))
        return 0

    def _set_users(self, call: Call, change: Callable[..., Ids], count: int) -> int:
        old = self._identities.of(call)
        privileged = self._may(call, old, _SETUID)
        self._identities.change(
            call, old._replace(users=_changed(change, old.users, call, count, privileged))
        )
        return 0

    def _set_groups(self, call: Call, change: Callable[..., Ids], count: int) -> int:
        old = self._identities.of(call)
        privileged = self._may(call, old, _SETGID)
        groups = _changed(change, old.groups, call, count, privileged)
        self._identities.change(call, old._replace(groups=groups))
        return 0

    def _setfsuid(self, call: Call) -> int:
        old = self._identities.of(call)
        wanted, privileged = call.a[0] & KEEP, self._may(call, old, _SETUID)
        self._identities.change(
            call, old._replace(users=set_file(old.users, wanted, privileged=privileged))
        )
        return old.users.file

    def _setfsgid(self, call: Call) -> int:
        old = self._identities.of(call)
        wanted, privileged = call.a[0] & KEEP, self._may(call, old, _SETGID)
        self._identities.change(
            call, old._replace(groups=set_file(old.groups, wanted, privileged=privileged))
        )
        return old.groups.file

    def _get_three(self, call: Call, ids: Ids) -> int:
        pairs = zip(call.a[:3], ids.three, strict=True)
        self._listener.write(
            call, *((address, struct.pack("=I", number)) for address, number in pairs)
        )
        return 0

    def _getgroups(self, call: Call) -> int:
        groups = self._identities.of(call).others
        room = signed(call.a[0])
        if room and groups:
            if room < len(groups):
                raise Failed(errno.EINVAL)
            self._listener.write(call, (call.a[1], struct.pack(f"={len(groups)}I", *groups)))
        return len(groups)

    def _setgroups(self, call: Call) -> int:
        old = self._identities.of(call)
        count = call.a[0] & 0xFFFFFFFF
        _check(self._may(call, old, _SETGID))
        if count > _GROUPS_MAX:
            raise Failed(errno.EINVAL)
        try:
            data = syscalls.read_memory(call.pid, call.a[1], 4 * count) if count else b""
        except (OSError, OverflowError) as error:  # the kernel would have another reason
            raise Failed(errno.EFAULT) from error
        if len(data) != 4 * count:
            raise Failed(errno.EFAULT)
        groups = tuple(sorted(struct.unpack(f"={count}I", data)))  # as the kernel keeps them
        if groups and max(groups) > ID_MAX:
            raise Failed(errno.EINVAL)
        self._identities.change(call, old._replace(others=groups))
        return 0


def _check(allowed: bool) -> None:
    if not allowed:
        raise Failed(errno.EPERM)


def _changed(change: Callable[..., Ids], ids: Ids, call: Call, count: int, privileged: bool) -> Ids:
    try:
        wanted = [argument & KEEP for argument in call.a[:count]]
        return change(ids, *wanted, privileged=privileged)
    except PermissionError as error:
        raise Failed(errno.EPERM) from error
    except ValueError as error:
        raise Failed(errno.EINVAL) from error


def _look_at(name: bytes, *, follow: bool = True) -> os.stat_result:
    return os.stat(name, follow_symlinks=follow)  # noqa: PTH116 - bytes
