"""Names to descriptors, inside a root: the one home of path resolution for untrusted names.

Two ways, and no other:
    open_in_root   links are followed as a process inside the root would see them; `..` and absolute
                   links stop at the root (mount targets, cwd, /etc/passwd)
    open_beneath   no link is followed at all (what must be exactly what it is called)

Neither follows magic links (/proc/self/exe), whose targets lie outside of every root. What is
checked is the descriptor that is used afterwards.

Spec: openat2(2). The walk below is for kernels or filters that refuse it (ENOSYS, EPERM), and for
`locate`, which answers where a name would lead although its end does not exist.
"""

import errno
import os
import stat
from typing import NamedTuple

from builder.sandbox import syscalls

_LINKS_MAX = 40  # MAXSYMLINKS, linux/namei.h
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_PROC_SUPER_MAGIC = 0x9FA0
_DIRECTORY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """Where a name leads: `path` without links, dots or a leading slash.

    The first `existing` components of `path` are there; the rest would have to be made.
    """

    path: str
    existing: int

    @property
    def is_there(self) -> bool:
        return self.existing == len(self.parts)

    @property
    def parts(self) -> list[str]:
        return self.path.split("/") if self.path else []


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as a process whose root is `root_fd` would, without magic links."""
    try:
        return syscalls.openat2(root_fd, os.fsencode(path), flags, _IN_ROOT, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return walk_in_root(root_fd, path, flags, mode)


def open_beneath(dir_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` (relative) beneath `dir_fd`; a link anywhere in it is ELOOP."""
    try:
        return syscalls.openat2(dir_fd, os.fsencode(path), flags, _BENEATH, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return walk_beneath(dir_fd, path, flags, mode)


def locate(root_fd: int, path: str) -> Place:
    """Follow `path` inside the root as far as it exists.

    Raises:
        OSError: ELOOP, ENOTDIR, ENAMETOOLONG or what else stops a walk.
    """
    place, fd, parent_fd = _walk(root_fd, path, follow_last=True)
    os.close(parent_fd)
    if fd is not None:
        os.close(fd)
    return place


def make_directories(root_fd: int, path: str, mode: int = 0o755) -> int:
    """Open the directory `path` inside the root; what is missing of it is made, owned by us."""
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        place = locate(root_fd, path)
    parts = place.parts
    done = "/".join(parts[: place.existing])
    fd = open_beneath(root_fd, done or ".", os.O_PATH | os.O_DIRECTORY)
    for part in parts[place.existing :]:
        os.mkdir(part, 0o700, dir_fd=fd)
        parent_fd, fd = fd, open_beneath(fd, part, os.O_RDONLY | os.O_DIRECTORY)
        os.close(parent_fd)
        os.fchmod(fd, mode)  # the umask must not decide
    return fd


def walk_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """`open_in_root` without the help of the kernel."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    follow_last = not flags & os.O_NOFOLLOW
    place, fd, parent_fd = _walk(root_fd, path, follow_last=follow_last)
    try:
        if fd is None:
            missing = len(place.parts) - place.existing
            if not flags & os.O_CREAT or missing > 1:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            name = place.parts[-1]
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent_fd)
        name = place.parts[-1] if place.parts else "."
        found = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent_fd)
        if not os.path.samestat(os.fstat(found), os.fstat(fd)):
            os.close(found)
            raise OSError(errno.EAGAIN, "changed while being opened", path)
        return found
    finally:
        os.close(parent_fd)
        if fd is not None:
            os.close(fd)


def walk_beneath(dir_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """`open_beneath` without the help of the kernel."""
    if path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    parts = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    if ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    fd = os.dup(dir_fd)
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        found = os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
    finally:
        os.close(fd)
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return found


def _walk(root_fd: int, path: str, *, follow_last: bool) -> tuple[Place, int | None, int]:
    """Returns the place, its descriptor (None when missing) and that of the last directory."""
    todo = path.split("/")[::-1]
    names: list[str] = []
    stack = [os.dup(root_fd)]  # one descriptor per directory of `names`, and the root below them
    found: int | None = None
    links = 0
    try:
        while todo:
            part = todo.pop()
            if found is not None:  # something follows what is not a directory, be it a slash
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if part in ("", "."):
                continue
            if part == "..":
                if names:
                    names.pop()
                    os.close(stack.pop())
                continue
            try:
                fd = os.open(part, _DIRECTORY, dir_fd=stack[-1])
            except FileNotFoundError:
                rest = [part, *(name for name in todo[::-1] if name not in ("", "."))]
                if ".." in rest:  # the kernel cannot go up from what does not exist, neither do we
                    raise
                place = Place(path="/".join([*names, *rest]), existing=len(names))
                return place, None, stack.pop()
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode) and (follow_last or any(n not in ("", ".") for n in todo)):
                links += 1
                target = _link_target(fd, path, links)
                if target.startswith("/"):
                    names.clear()
                    while len(stack) > 1:
                        os.close(stack.pop())
                todo.extend(target.split("/")[::-1])
            elif stat.S_ISDIR(mode):
                names.append(part)
                stack.append(fd)
            else:
                names.append(part)
                found = fd
        place = Place(path="/".join(names), existing=len(names))
        if found is None:
            found = stack.pop() if len(stack) > 1 else os.dup(stack[0])
        last_directory = stack.pop()
        result, found = found, None
        return place, result, last_directory
    finally:
        if found is not None:
            os.close(found)
        for fd in stack:
            os.close(fd)


def _link_target(fd: int, path: str, links: int) -> str:
    """Read the link `fd` and close it."""
    try:
        if links > _LINKS_MAX or syscalls.filesystem_type(fd) == _PROC_SUPER_MAGIC:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
