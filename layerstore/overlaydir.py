"""A changeset as a directory of overlayfs, in both directions.

The form is the kernel's: a removal is a character device 0:0 (or an empty file with the xattr
overlay.whiteout), a directory that hides what lies beneath it has the xattr overlay.opaque "y".
The xattrs are `trusted.overlay.*`, or `user.overlay.*` for a mount with `userxattr`. There
owners and devices that the kernel refuses to make are recorded, too (owners.py).

    changes      directory -> changeset    what a step left in its upperdir
    write        changeset -> directory    a layer as a lowerdir
    survey       changeset -> table        what `write` would make, without making it
    remove_tree  directory -> nothing

Invariants (tests/layerstore/test_overlaydir.py):
  1. write makes, changes and deletes nothing outside its directory, whatever the changes say. It
     keeps the layer's tree in memory and resolves every parent there, links included; the kernel
     gets single names beneath descriptors of directories that write itself has made.
  2. changes(write(c)) == c for every c in canonical order that puts the parents of what it puts.
  3. Depth is not limited by PATH_MAX, nor by the number of descriptors.

Spec: Linux, Documentation/filesystems/overlayfs.rst ("whiteouts and opaque directories", "Nesting
overlayfs mounts"); OCI image-spec v1.1, layer.md ("Applying Changesets").
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from layerstore import owners
from layerstore.changeset import (
    Change,
    Meta,
    NodeKind,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.digest import Digest
from layerstore.errors import (
    MalformedDocumentError,
    StoreBusyError,
    StoreError,
    UnsafePathError,
)
from layerstore.tarcodec import InOrder, is_layer_xattr
from layerstore.toc import NO_META, TocEntry
from layerstore.treepath import ROOT, TreePath

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

_SMALL_BYTES = 1024 * 1024  # contents up to here are delivered as bytes
_PIECE_BYTES = 1024 * 1024

OnSkip = Callable[[TreePath, str], None]


def changes(
    upperdir: Path,
    *,
    userxattr: bool = False,
    with_root: bool = False,
    has_lower_dir: Callable[[TreePath], bool] | None = None,
    on_skip: OnSkip | None = None,
) -> Iterator[Change]:
    """Read an overlayfs upper directory as a changeset.

    Args:
        userxattr: the overlay was mounted so.
        with_root: begin with the attributes of the root itself.
        has_lower_dir: whether the layers below have a directory of that path. The kernel marks
            new directories as opaque, too; where this says no, those marks are left out, and
            removed: as a checkout the directory may come to lie on other layers, which have one.
        on_skip: called for what a layer cannot hold (sockets), with the reason.

    Yields:
        Changes in canonical order. Contents up to 1 MiB are bytes, larger ones are opened when
        asked for, so `upperdir` must outlive them.

    Raises:
        StoreError: something that has no place in a changeset (a redirected directory).
    """
    scan = _Scan("user.overlay." if userxattr else "trusted.overlay.", has_lower_dir, on_skip)
    return InOrder(scan.changes(upperdir, with_root=with_root))


class _Scan:
    def __init__(
        self,
        prefix: str,
        has_lower_dir: Callable[[TreePath], bool] | None,
        on_skip: OnSkip | None,
    ) -> None:
        self._records = prefix.startswith("user.")
        self._opaque = prefix + "opaque"
        self._whiteout = prefix + "whiteout"
        self._refused = (prefix + "redirect", prefix + "metacopy")
        self._has_lower_dir = has_lower_dir
        self._on_skip = on_skip
        self._first_path: dict[tuple[int, int], TreePath] = {}

    def changes(self, upperdir: Path, *, with_root: bool) -> Iterator[Change]:
        root = Root(upperdir)
        with Cursor(os.dup(root.fd)) as cursor:
            meta, opaque = self._read_dir(cursor.fd, ROOT)
            if with_root:
                yield PutDir(ROOT, meta)
            if opaque == b"y":
                yield Opaque(ROOT)
            pending = [self._listing(cursor.fd, opaque)]
            prefixes = [""]
            while pending:
                names = pending[-1]
                if not names:
                    pending.pop()
                    prefixes.pop()
                    if pending:
                        os.close(cursor.up())
                    continue
                name, kind = names.pop()
                path = TreePath(prefixes[-1] + name)
                if kind == _IS_FILE:
                    yield self._file(root, cursor.fd, name, path)
                elif kind == _IS_DIR:
                    cursor.down(name)
                    meta, opaque = self._read_dir(cursor.fd, path)
                    yield PutDir(path, meta)
                    if opaque == b"y":
                        if self._has_lower_dir is None or self._has_lower_dir(path):
                            yield Opaque(path)
                        else:
                            os.removexattr(cursor.fd, self._opaque)
                    pending.append(self._listing(cursor.fd, opaque))
                    prefixes.append(path + "/")
                elif kind == _IS_REMOVED:
                    yield Remove(path)
                else:
                    change = self._special(cursor.fd, name, path)
                    if change is not None:
                        yield change

    def _read_dir(self, fd: int, path: TreePath) -> tuple[Meta, bytes]:
        status = os.fstat(fd)
        names = os.listxattr(fd)
        opaque = os.getxattr(fd, self._opaque) if self._opaque in names else b""
        self._check(names, path)
        return meta_of(status, fd, names, recorded=self._records), opaque

    def _check(self, names: list[str], path: TreePath) -> None:
        for name in self._refused:
            if name in names:
                raise StoreError(
                    f"{path!r} has the attribute {name}: its content lies elsewhere",
                    hint="mount the overlay with redirect_dir=off,metacopy=off",
                )

    def _listing(self, fd: int, opaque: bytes) -> list[tuple[str, int]]:
        """What is in a directory, last first: removals, then the rest in byte order."""
        names = list_directory(fd)
        for index, (name, kind) in enumerate(names):
            if kind == _IS_OTHER:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    names[index] = (name, _IS_REMOVED)
            elif opaque == b"x" and kind == _IS_FILE and self._whiteout in _list_xattrs(fd, name):
                names[index] = (name, _IS_REMOVED)
        names.sort(key=_removals_first, reverse=True)
        return names

    def _file(self, root: "Root", dir_fd: int, name: str, path: TreePath) -> Change:
        fd = os.open(name, _FILE_FLAGS, dir_fd=dir_fd)
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1:
                first = self._first_path.setdefault((status.st_dev, status.st_ino), path)
                if first is not path:
                    return PutHardlink(path, first)
            names = os.listxattr(fd)
            if names:
                self._check(names, path)
                if self._whiteout in names and status.st_size == 0:
                    return Remove(path)
            meta = meta_of(status, fd, names, recorded=self._records)
            size = status.st_size
            if self._records and size == 0 and owners.XATTR in names:
                record = owners.read(fd)
                if record is not None and record.device is not None:
                    return PutNode(path, meta, *record.device)
            if size > _SMALL_BYTES:
                return PutFile(path, meta, size, LargeFile(root, path, status))
            content = os.read(fd, size + 1)
            if len(content) != size:
                content = read_all(fd, content, size, path)
            return PutFile(path, meta, size, content)
        finally:
            os.close(fd)

    def _special(self, dir_fd: int, name: str, path: TreePath) -> Change | None:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            if self._on_skip is not None:
                self._on_skip(path, "a layer cannot hold sockets")
            return None
        if status.st_nlink > 1:
            first = self._first_path.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                return PutHardlink(path, first)
        return special_change(dir_fd, name, path, status)


_IS_FILE, _IS_DIR, _IS_OTHER, _IS_REMOVED = range(4)


def list_directory(fd: int) -> list[tuple[str, int]]:
    """Names with their kinds, in no order."""
    with os.scandir(fd) as entries:
        return [
            (
                entry.name,
                _IS_FILE
                if entry.is_file(follow_symlinks=False)
                else _IS_DIR
                if entry.is_dir(follow_symlinks=False)
                else _IS_OTHER,
            )
            for entry in entries
        ]


def _removals_first(item: tuple[str, int]) -> tuple[bool, bytes]:
    return item[1] != _IS_REMOVED, os.fsencode(item[0])


def meta_of(status: os.stat_result, fd: int, names: list[str], *, recorded: bool = False) -> Meta:
    """The Meta of an open inode, given the names of its xattrs.

    `recorded`: whether a recorded owner is believed.
    """
    xattrs: tuple[tuple[str, bytes], ...] = ()
    uid, gid = status.st_uid, status.st_gid
    if names:
        kept = sorted(name for name in names if is_layer_xattr(name))
        xattrs = tuple((name, os.getxattr(fd, name)) for name in kept)
        if recorded and owners.XATTR in names:
            uid, gid = owners.owner_of(fd)
    return Meta(status.st_mode & 0o7777, uid, gid, status.st_mtime_ns, xattrs)


def special_change(
    dir_fd: int, name: str, path: TreePath, status: os.stat_result
) -> PutSymlink | PutNode:
    """The change that puts a symbolic link, a device or a fifo."""
    kept = sorted(key for key in _list_xattrs(dir_fd, name) if is_layer_xattr(key))
    place = f"/proc/self/fd/{dir_fd}/{name}"
    xattrs = tuple((key, os.getxattr(place, key, follow_symlinks=False)) for key in kept)
    mode = status.st_mode
    meta = Meta(mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)
    if stat.S_ISLNK(mode):
        return PutSymlink(path, meta, os.readlink(name, dir_fd=dir_fd))
    if stat.S_ISFIFO(mode):
        return PutNode(path, meta, "fifo")
    kind: NodeKind = "char" if stat.S_ISCHR(mode) else "block"
    return PutNode(path, meta, kind, os.major(status.st_rdev), os.minor(status.st_rdev))


def _list_xattrs(dir_fd: int, name: str) -> list[str]:
    # There is no listxattrat before Linux 6.13; the last component is not followed.
    return os.listxattr(f"/proc/self/fd/{dir_fd}/{name}", follow_symlinks=False)


def read_all(fd: int, content: bytes, size: int, path: str) -> bytes:
    """Finish a read that came back short; it must end up with `size` bytes."""
    while len(content) < size:
        piece = os.read(fd, size + 1 - len(content))
        if not piece:
            break
        content += piece
    if len(content) != size:
        raise _changed(path)
    return content


def _changed(path: str) -> StoreError:
    return StoreError(f"{path!r} changed while it was read", hint="run the step again")


class Root:
    """An open directory that lives as long as the contents which are read through it."""

    def __init__(self, directory: Path) -> None:
        self.fd = -1
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def open_file(self, path: str) -> int:
        """Open a regular file beneath, following no link."""
        *parents, name = path.split("/")
        dir_fd = self.fd
        try:
            for parent in parents:
                next_fd = os.open(parent, _DIR_FLAGS, dir_fd=dir_fd)
                if dir_fd != self.fd:
                    os.close(dir_fd)
                dir_fd = next_fd
            return os.open(name, _FILE_FLAGS, dir_fd=dir_fd)
        finally:
            if dir_fd != self.fd:
                os.close(dir_fd)


class LargeFile:
    """The content of a file, read when asked for."""

    __slots__ = ("_path", "_root", "_status")

    def __init__(self, root: Root, path: str, status: os.stat_result) -> None:
        self._root = root
        self._path = path
        self._status = status

    def __call__(self) -> Iterator[bytes]:
        """Read it from the start."""
        fd = self._root.open_file(self._path)
        try:
            if _identity(os.fstat(fd)) != _identity(self._status):
                raise _changed(self._path)
            while piece := os.read(fd, _PIECE_BYTES):
                yield piece
        finally:
            os.close(fd)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Cursor:
    """A directory somewhere in a tree, to be moved down and up by one step at a time.

    It holds descriptors of the last few levels only; those above are found again through `..`,
    and must then be the directories they were.
    """

    _OPEN_MAX = 64

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self._identities: list[tuple[int, int]] = []  # of the levels whose descriptors are closed

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    @property
    def fd(self) -> int:
        """The directory it is at."""
        return self._fds[-1]

    def down(self, name: str) -> None:
        """Enter the directory `name`; never through a link."""
        self._fds.append(os.open(name, _DIR_FLAGS, dir_fd=self._fds[-1]))
        if len(self._fds) > self._OPEN_MAX:
            fd = self._fds.pop(0)
            status = os.fstat(fd)
            self._identities.append((status.st_dev, status.st_ino))
            os.close(fd)

    def up(self) -> int:
        """Go back to the parent.

        Returns:
            A descriptor of the directory that was left; the caller closes it.
        """
        left = self._fds.pop()
        if not self._fds:
            try:
                fd = os.open("..", _DIR_FLAGS, dir_fd=left)
            except OSError:
                os.close(left)
                raise
            self._fds.append(fd)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != self._identities.pop():
                os.close(left)
                raise StoreError("a directory was moved while its tree was read")
        return left


def write(
    changes: Iterable[Change],
    directory: Path,
    *,
    userxattr: bool = False,
    chown: bool = True,
) -> list[TocEntry]:
    """Make `directory`, which must be empty, the overlayfs form of `changes`.

    The changes are carried out one after the other, as if unpacked over one another: a later one
    replaces an earlier one, parents may be symbolic links of the same layer, removals mean the
    layers below wherever they stand. Parents that no change puts get mode 0755 and owner root.

    Args:
        chown: False leaves every owner to be the caller's.

    Returns:
        The table of contents, in canonical order.

    Raises:
        UnsafePathError: a name no file can have.
        MalformedDocumentError: changes that contradict each other.
        StoreError: the file system refuses a name, owner or attribute.
        OSError: it fails (no space, input/output error); `directory` is then incomplete.
    """
    root_fd = os.open(directory, _DIR_FLAGS)
    with _OverlayDisk(root_fd, userxattr=userxattr, chown=chown) as disk:
        return _Layer(disk).take(changes)


def survey(changes: Iterable[Change]) -> list[TocEntry]:
    """The table of contents that `write` would return. Raises as `write` does."""
    return _Layer(_NoDisk()).take(changes)


class _Dir:
    """A directory of the layer that is being made."""

    __slots__ = ("entries", "fd", "meta", "name", "opaque", "parent", "path", "removed")

    def __init__(self, parent: "_Dir | None", name: str, path: str) -> None:
        self.parent = parent
        self.name = name
        self.path = path
        self.entries: dict[str, _Dir | TocEntry] = {}  # hard links share one TocEntry
        self.removed: set[str] | None = None
        self.opaque = False
        self.meta: Meta | None = None  # None: implied by what is in it
        self.fd = -1

    def join(self, name: str) -> TreePath:
        return TreePath(f"{self.path}/{name}" if self.path else name)


def _is_beneath(directory: _Dir, node: "_Dir | TocEntry | None") -> bool:
    """Whether `directory` is `node`, or in it."""
    if isinstance(node, _Dir):
        above: _Dir | None = directory
        while above is not None:
            if above is node:
                return True
            above = above.parent
    return False


_HOPS_MAX = 40  # as the kernel's MAXSYMLINKS
_LINK_STEPS_MAX = 2_000_000  # components of link targets walked for one layer
_IMPLIED_BYTES_MAX = 256 * 1024 * 1024  # of the paths of implied directories


class _Layer:
    """The layer's tree in memory, and the one place where names are resolved."""

    def __init__(self, disk: "_NoDisk | _OverlayDisk") -> None:
        self._disk = disk
        self._root = _Dir(None, "", "")
        self._known: dict[str, _Dir] = {"": self._root}
        self._has_hardlinks = False
        self._link_steps = 0
        self._implied_bytes = 0

    def take(self, changes: Iterable[Change]) -> list[TocEntry]:
        for change in changes:
            try:
                self._add(change)
            except OSError as error:
                raise _explained(error, change.path) from error
        return self._finish()

    def _add(self, change: Change) -> None:
        path = change.path
        head, _, name = path.rpartition("/")
        if not name:
            self._add_root(change)
            return
        if "\0" in path or name in (".", "..") or name.startswith(".wh."):
            raise UnsafePathError(path=path, reason="no file of a layer can be called that")
        parent = self._known.get(head) or self._directory(head)
        if isinstance(change, PutFile):
            if name in parent.entries:
                self._clear(parent, name)
            real_path = path if parent.path == head else parent.join(name)
            parent.entries[name] = self._disk.put_file(parent, name, change, real_path)
            return
        match change:
            case PutDir():
                self._subdirectory(parent, name).meta = change.meta
            case PutSymlink():
                self._clear(parent, name)
                self._disk.put_symlink(parent, name, change)
                parent.entries[name] = TocEntry(
                    parent.join(name), "symlink", change.meta, target=change.target
                )
            case PutHardlink():
                self._add_hardlink(parent, name, change)
            case PutNode():
                if change.kind == "char" and change.major == change.minor == 0:
                    raise UnsafePathError(path=path, reason="a 0:0 device is overlayfs's removal")
                self._clear(parent, name)
                self._disk.put_node(parent, name, change)
                parent.entries[name] = TocEntry(
                    parent.join(name),
                    change.kind,
                    change.meta,
                    major=change.major,
                    minor=change.minor,
                )
            case Remove():
                if parent.removed is None:
                    parent.removed = set()
                parent.removed.add(name)
            case Opaque():
                self._directory(path).opaque = True

    def _add_root(self, change: Change) -> None:
        match change:
            case PutDir(path="", meta=meta):
                self._root.meta = meta
            case Opaque(path=""):
                self._root.opaque = True
            case _:
                raise UnsafePathError(path=change.path, reason="the root is a directory")

    def _add_hardlink(self, parent: _Dir, name: str, change: PutHardlink) -> None:
        head, _, target_name = change.target.rpartition("/")
        if "\0" in head or target_name in ("", ".", ".."):
            raise UnsafePathError(path=change.target, reason="no file can be called that")
        source = self._known.get(head) or self._directory(head)
        inode = source.entries.get(target_name)
        if (
            inode is None
            or isinstance(inode, _Dir)
            or _is_beneath(source, parent.entries.get(name))
        ):
            raise MalformedDocumentError(
                context="layer",
                problem=f"hard link {change.path[:200]!r} names {change.target[:200]!r}, "
                "which the same layer does not hold",
            )
        if source is parent and target_name == name:
            return
        self._clear(parent, name)
        self._disk.link(source, target_name, parent, name)
        parent.entries[name] = inode
        self._has_hardlinks = True

    def _directory(self, path: str) -> _Dir:
        """The directory `path` leads to, inside this layer; what is missing is implied."""
        head, _, last = path.rpartition("/")
        current = self._known.get(head)
        todo = [last]
        if current is None:
            current = self._root
            todo = path.split("/")[::-1]
        hops = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                current = current.parent or self._root
                continue
            node = current.entries.get(name)
            if isinstance(node, _Dir):
                current = node
            elif isinstance(node, TocEntry) and node.kind == "symlink":
                steps = node.target.split("/")
                hops += 1
                self._link_steps += len(steps)
                if hops > _HOPS_MAX or self._link_steps > _LINK_STEPS_MAX:
                    raise UnsafePathError(path=path[:200], reason="too many links lead to it")
                if not steps[0]:
                    current = self._root
                todo.extend(reversed(steps))
            else:
                current = self._subdirectory(current, name)
        self._known[path] = current
        return current

    def _subdirectory(self, parent: _Dir, name: str) -> _Dir:
        """The directory `name`: the one that is there, else a new one."""
        node = parent.entries.get(name)
        if isinstance(node, _Dir):
            return node
        directory = _Dir(parent, name, parent.join(name))
        self._implied_bytes += len(directory.path)
        if self._implied_bytes > _IMPLIED_BYTES_MAX:
            raise MalformedDocumentError(context="layer", problem="too many deep directories")
        if node is not None:
            # The file had hidden what is below; its successor must, too.
            self._clear(parent, name)
            directory.opaque = True
        self._disk.make_dir(parent, name)
        parent.entries[name] = directory
        return directory

    def _clear(self, parent: _Dir, name: str) -> None:
        node = parent.entries.pop(name, None)
        if node is None:
            return
        if isinstance(node, _Dir) or node.kind == "symlink":
            self._known = {"": self._root}
        self._disk.remove(parent, name, is_dir=isinstance(node, _Dir))

    def _finish(self) -> list[TocEntry]:
        """Set what can be set only when nothing is put any more; make the table."""
        toc: list[TocEntry] = []
        first: dict[int, TreePath] = {}
        self._disk.begin_finish()
        open_dirs: list[tuple[_Dir, list[str], bool]] = []
        entered: _Dir | None = self._root
        hidden = False
        while True:
            if entered is not None:
                open_dirs.append(self._enter(entered, hidden, toc))
                entered = None
            directory, names, hidden = open_dirs[-1]
            if not names:
                open_dirs.pop()
                self._disk.leave(directory)
                if not open_dirs:
                    return toc
                continue
            name = names.pop()
            node = directory.entries[name]
            if isinstance(node, _Dir):
                entered = node
                continue
            path = directory.join(name)
            if self._has_hardlinks:
                leader = first.setdefault(id(node), path)
                if leader is not path:
                    toc.append(TocEntry(path, "hardlink", node.meta, target=leader))
                    continue
            toc.append(node if node.path == path else node._replace(path=path))

    def _enter(
        self, directory: _Dir, hidden: bool, toc: list[TocEntry]
    ) -> tuple[_Dir, list[str], bool]:
        """Write the head of a directory: itself, its opaque mark, its removals."""
        path = TreePath(directory.path)
        parent = directory.parent
        if parent is not None and parent.removed and directory.name in parent.removed:
            directory.opaque = True
        if directory.meta is not None:
            toc.append(TocEntry(path, "dir", directory.meta))
        if directory.opaque:
            toc.append(TocEntry(path, "opaque", NO_META))
            hidden = True
        removed: list[str] = []
        if directory.removed and not hidden:
            removed = sorted(directory.removed - directory.entries.keys(), key=os.fsencode)
            toc.extend(TocEntry(directory.join(name), "remove", NO_META) for name in removed)
        self._disk.enter(directory, removed)
        names = sorted(directory.entries, key=os.fsencode, reverse=True)
        return directory, names, hidden


def _explained(error: OSError, path: str) -> Exception:
    """Errors that the change is to blame for become StoreErrors; the disk's stay what they are."""
    if error.errno in _CHANGE_ERRNOS:
        return StoreError(f"cannot make {path[:200]!r}: {error.strerror}")
    return error


_CHANGE_ERRNOS = frozenset(
    {
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.ERANGE,
        errno.E2BIG,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EMLINK,
        errno.ENOENT,
        errno.EEXIST,
        errno.EOVERFLOW,
        errno.ENOTDIR,
        errno.ELOOP,
    }
)


def _file_pieces(change: PutFile) -> Iterable[bytes]:
    content = change.content
    return (content,) if isinstance(content, bytes) else content()


class _NoDisk:
    """Nothing is made; contents are only hashed."""

    def put_file(self, _parent: _Dir, _name: str, change: PutFile, path: TreePath) -> TocEntry:
        file_hash = hashlib.sha256()
        size = 0
        for piece in _file_pieces(change):
            file_hash.update(piece)
            size += len(piece)
        if size != change.size_bytes:
            raise _changed(path)
        return TocEntry(path, "file", change.meta, size, Digest("sha256:" + file_hash.hexdigest()))

    def make_dir(self, parent: _Dir, name: str) -> None: ...

    def put_symlink(self, parent: _Dir, name: str, change: PutSymlink) -> None: ...

    def put_node(self, parent: _Dir, name: str, change: PutNode) -> None: ...

    def link(self, source: _Dir, source_name: str, parent: _Dir, name: str) -> None: ...

    def remove(self, parent: _Dir, name: str, *, is_dir: bool) -> None: ...

    def begin_finish(self) -> None: ...

    def enter(self, directory: _Dir, removed: list[str]) -> None: ...

    def leave(self, directory: _Dir) -> None: ...


_OPEN_DIRS_MAX = 128
_OPEN_PATH_BYTES = 3000  # of names joined for one open; below PATH_MAX whatever the encoding
_HOLE_BYTES = 4096
_HOLE = bytes(_HOLE_BYTES)
_HOLE_PIECE = bytes(256 * 1024)
_SPARSE_BYTES_MIN = 64 * 1024  # smaller files are not searched for holes
_IMPLIED_META = Meta(0o755)


class _OverlayDisk:
    """The directory in the file system. Each method makes or takes one name of one directory."""

    def __init__(self, root_fd: int, *, userxattr: bool, chown: bool) -> None:
        self._root_fd = root_fd
        self._prefix = "user.overlay." if userxattr else "trusted.overlay."
        self._userxattr = userxattr
        self._chown = chown
        self._records = userxattr and chown
        self._open: dict[_Dir, None] = {}  # those whose `fd` is open, oldest first
        self._cursor: Cursor | None = None
        self._chmod_mask = 0o7000 | _umask()
        self._own_ids = (os.geteuid(), os.getegid())

    def __enter__(self) -> "_OverlayDisk":
        try:
            self._prepare_root()
        except BaseException:
            os.close(self._root_fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close_dirs()
        if self._cursor is not None:
            self._cursor.__exit__()
        else:
            os.close(self._root_fd)

    def _prepare_root(self) -> None:
        """Make sure that new files get exactly the mode and group they are created with."""
        fd = self._root_fd
        if list_directory(fd):
            raise StoreError("a layer can be written into an empty directory only")
        os.fchmod(fd, 0o700)  # no set-group-id to inherit
        if "system.posix_acl_default" in os.listxattr(fd):
            os.removexattr(fd, "system.posix_acl_default")
        if os.fstat(fd).st_gid != self._own_ids[1]:
            os.fchown(fd, -1, self._own_ids[1])  # a mount with `grpid` would pass it on

    def put_file(self, parent: _Dir, name: str, change: PutFile, path: TreePath) -> TocEntry:
        meta = change.meta
        content = change.content
        dir_fd = parent.fd if parent.fd >= 0 else self._fd(parent)
        fd = os.open(name, _CREATE_FLAGS, meta.mode & 0o777, dir_fd=dir_fd)
        try:
            if isinstance(content, bytes) and len(content) < _SPARSE_BYTES_MIN:
                size = len(content)
                digest = hashlib.sha256(content).hexdigest()
                if size and (written := os.write(fd, content)) != size:
                    _write_at(fd, memoryview(content)[written:], written)
            else:
                size, digest = _write_sparsely(fd, _file_pieces(change), change.size_bytes, path)
            if size != change.size_bytes:
                raise _changed(path)
            chowned = self._chown and (meta.uid, meta.gid) != self._own_ids
            if chowned:
                self._give(fd, meta)
            if chowned or meta.mode & self._chmod_mask:
                os.fchmod(fd, meta.mode)
            if meta.xattrs:
                self._set_xattrs(fd, meta)
            os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
        finally:
            os.close(fd)
        return TocEntry(path, "file", meta, size, Digest("sha256:" + digest))

    def make_dir(self, parent: _Dir, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=self._fd(parent))

    def put_symlink(self, parent: _Dir, name: str, change: PutSymlink) -> None:
        os.symlink(change.target, name, dir_fd=self._fd(parent))
        self._set_meta(self._fd(parent), name, change.meta)

    def put_node(self, parent: _Dir, name: str, change: PutNode) -> None:
        dir_fd = self._fd(parent)
        device = os.makedev(change.major, change.minor) if change.kind != "fifo" else 0
        try:
            os.mknod(name, _NODE_MODES[change.kind] | 0o600, device, dir_fd=dir_fd)
        except PermissionError:
            if not self._records or change.kind == "fifo":
                raise
            self._record_node(dir_fd, name, change)
            return
        self._set_meta(dir_fd, name, change.meta, mode=change.meta.mode)

    def link(self, source: _Dir, source_name: str, parent: _Dir, name: str) -> None:
        # Both are opened before either is used: opening one may close another.
        source_fd, parent_fd = self._fd(source), self._fd(parent)
        if source.fd < 0:
            source_fd = self._fd(source)
        os.link(
            source_name, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False
        )

    def remove(self, parent: _Dir, name: str, *, is_dir: bool) -> None:
        if is_dir:
            self._close_dirs()
            remove_entry(self._fd(parent), name)
            return
        os.unlink(name, dir_fd=self._fd(parent))

    def begin_finish(self) -> None:
        self._close_dirs()
        self._cursor = Cursor(self._root_fd)

    def enter(self, directory: _Dir, removed: list[str]) -> None:
        assert self._cursor is not None
        if directory.parent is not None:
            self._cursor.down(directory.name)
        fd = self._cursor.fd
        for name in removed:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
        if directory.opaque:
            os.setxattr(fd, self._prefix + "opaque", b"y")

    def leave(self, directory: _Dir) -> None:
        assert self._cursor is not None
        meta = directory.meta or _IMPLIED_META
        fd = self._cursor.fd if directory.parent is None else self._cursor.up()
        try:
            if self._chown and (meta.uid, meta.gid) != self._own_ids:
                self._give(fd, meta)
            os.fchmod(fd, meta.mode)
            if meta.xattrs:
                self._set_xattrs(fd, meta)
            os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
        finally:
            if directory.parent is not None:
                os.close(fd)

    def _give(self, fd: int, meta: Meta) -> None:
        if self._records:
            owners.give(fd, meta.uid, meta.gid)
        else:
            os.fchown(fd, meta.uid, meta.gid)

    def _record_node(self, dir_fd: int, name: str, change: PutNode) -> None:
        """An empty file that is recorded to be a device."""
        meta = change.meta
        device = owners.Device(change.kind, change.major, change.minor)
        fd = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=dir_fd)
        try:
            os.setxattr(fd, owners.XATTR, owners.Record(meta.uid, meta.gid, device).encode())
            os.fchmod(fd, meta.mode)
            self._set_xattrs(fd, meta)
            os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
        finally:
            os.close(fd)

    def _set_meta(self, dir_fd: int, name: str, meta: Meta, mode: int | None = None) -> None:
        """For what cannot be opened without effects: links, devices, fifos."""
        if self._chown and (meta.uid, meta.gid) != self._own_ids:
            try:
                os.chown(name, meta.uid, meta.gid, dir_fd=dir_fd, follow_symlinks=False)
            except OSError as error:  # an id that is not mapped, and no place to record it
                if not self._records or error.errno != errno.EINVAL:
                    raise
        if mode is not None:
            # It follows links, but this name is a node made a moment ago in a private directory.
            os.chmod(name, mode, dir_fd=dir_fd)
        for key, value in meta.xattrs:
            if is_layer_xattr(key) and not key.startswith("user."):  # the kernel refuses user.*
                place = f"/proc/self/fd/{dir_fd}/{name}"
                os.setxattr(place, key, value, follow_symlinks=False)
        os.utime(name, ns=(meta.mtime_ns, meta.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)

    def _set_xattrs(self, fd: int, meta: Meta) -> None:
        for key, value in meta.xattrs:
            if not is_layer_xattr(key):
                continue
            try:
                os.setxattr(fd, key, value)
            except PermissionError:
                if not self._userxattr:  # an ordinary user has no trusted.*
                    raise
            except OSError as error:  # the kernel checks what some of them say
                raise OSError(error.errno, f"its attribute {key}: {error.strerror}") from None

    def _fd(self, directory: _Dir) -> int:
        """The open descriptor of `directory`; good until the next call."""
        if directory.fd >= 0:
            return directory.fd
        if directory.parent is None:
            return self._root_fd
        names: list[str] = []
        start = directory
        while start.parent is not None and start.fd < 0:
            names.append(start.name)
            start = start.parent
        fd = start.fd if start.fd >= 0 else self._root_fd
        opened = self._open_beneath(fd, names)
        directory.fd = opened
        self._open[directory] = None
        if len(self._open) > _OPEN_DIRS_MAX:
            oldest = next(iter(self._open))
            del self._open[oldest]
            os.close(oldest.fd)
            oldest.fd = -1
        return opened

    def _open_beneath(self, fd: int, names: list[str]) -> int:
        """Open a directory by its names, deepest first.

        Several at a time: all of them are directories, made here in a private directory, and
        one by one a hostile layer could ask for thirty thousand of them per file.
        """
        opened = -1
        while names:
            path = names.pop()
            while names and len(path) + len(names[-1]) < _OPEN_PATH_BYTES // 4:
                path += "/" + names.pop()
            try:
                next_fd = os.open(path, _DIR_FLAGS, dir_fd=opened if opened >= 0 else fd)
            finally:
                if opened >= 0:
                    os.close(opened)
            opened = next_fd
        return opened

    def _close_dirs(self) -> None:
        for directory in self._open:
            os.close(directory.fd)
            directory.fd = -1
        self._open.clear()


_NODE_MODES: dict[NodeKind, int] = {
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


def _umask() -> int:
    """This process's umask, read without changing it: other threads may be creating files."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line[6:], 8)
    return 0o777


def _write_sparsely(
    fd: int, pieces: Iterable[bytes], size_bytes: int, path: str
) -> tuple[int, str]:
    """Write, leaving holes for blocks of zeros. Returns size and hex digest."""
    file_hash = hashlib.sha256()
    size = 0
    for piece in pieces:
        if size + len(piece) > size_bytes:
            raise _changed(path)
        file_hash.update(piece)
        _write_piece(fd, piece, size)
        size += len(piece)
    os.ftruncate(fd, size)
    return size, file_hash.hexdigest()


def _write_piece(fd: int, piece: bytes, start: int) -> None:
    if len(piece) <= len(_HOLE_PIECE) and piece == _HOLE_PIECE[: len(piece)]:
        return
    view = memoryview(piece)
    if _HOLE not in piece:
        _write_at(fd, view, start)
        return
    end = len(piece)
    at = run = 0  # data from `run` on is still to be written
    step = -start % _HOLE_BYTES or _HOLE_BYTES  # up to the next block of the file
    while at < end:
        block = view[at : at + step]
        if block == _HOLE[: len(block)]:
            _write_at(fd, view[run:at], start + run)
            run = at + len(block)
        at += len(block)
        step = _HOLE_BYTES
    _write_at(fd, view[run:], start + run)


def _write_at(fd: int, view: memoryview, start: int) -> None:
    while view:
        written = os.pwrite(fd, view, start)
        view = view[written:]
        start += written


def remove_tree(path: Path) -> None:
    """Remove `path` and all beneath it, following no link and crossing no mount.

    It works at any depth, and on directories without permissions. A path that does not exist is
    removed already.

    Raises:
        StoreBusyError: something is mounted in it; everything else has been removed.
    """
    try:
        parent_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove_entry(parent_fd, path.name)
    finally:
        os.close(parent_fd)


def remove_entry(parent_fd: int, name: str) -> None:
    """Remove `name` from an open directory; it may also be a file, or not be there."""
    busy: list[str] = []
    left = [_remove_names(parent_fd, [(name, True)], busy)]
    names_above: list[str] = []
    with Cursor(os.dup(parent_fd)) as cursor:
        device = os.fstat(cursor.fd).st_dev
        while left:
            if left[-1]:
                child = left[-1].pop()
                if not _enter_to_remove(cursor, child):
                    continue
                if os.fstat(cursor.fd).st_dev != device:
                    busy.append(child)
                    os.close(cursor.up())
                    continue
                names_above.append(child)
                left.append(_remove_names(cursor.fd, _listing(cursor.fd), busy))
                continue
            left.pop()
            if left:
                os.close(cursor.up())
                if _remove_names(cursor.fd, [(names_above.pop(), True)], busy) and not busy:
                    raise StoreBusyError(path=name, hint="something is still writing to it")
    if busy:
        raise StoreBusyError(path=busy[0], hint="unmount what is mounted there")


def _listing(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _remove_names(fd: int, names: list[tuple[str, bool]], busy: list[str]) -> list[str]:
    """Remove files and empty directories; return the directories that must be emptied first.

    rmdir is also the test for a mount: the kernel says EBUSY before it looks inside.
    """
    full = []
    for name, is_dir in names:
        try:
            if is_dir:
                try:
                    os.rmdir(name, dir_fd=fd)
                except NotADirectoryError:
                    os.unlink(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            continue  # another process was first
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR):
                full.append(name)
            elif error.errno == errno.EBUSY:
                busy.append(name)
            else:
                raise
    return full


def _enter_to_remove(cursor: Cursor, name: str) -> bool:
    """Enter a directory, False if it is gone or no directory any more.

    One without permissions (overlayfs leaves such a `work/work`) is given them.
    """
    try:
        try:
            cursor.down(name)
        except PermissionError:
            path_fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=cursor.fd)
            try:
                Path(f"/proc/self/fd/{path_fd}").chmod(0o700)
            finally:
                os.close(path_fd)
            cursor.down(name)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=cursor.fd)
        return False
    if os.geteuid() != 0 and os.fstat(cursor.fd).st_mode & 0o700 != 0o700:
        os.fchmod(cursor.fd, 0o700)
    return True
