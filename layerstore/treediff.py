"""The changeset between two plain directories: what must be done to `before` to make it `after`.

It reads both trees to the last byte and believes no time stamp. So it is slow and portable: the
snapshot where overlayfs is denied, the import of a root file system, and the oracle for
overlaydir.py in the tests.

Rules:
  - A directory on the way to a change is put as well, changed or not: a layer's parents must have
    their attributes when it is unpacked alone.
  - A directory that replaces something else needs no opaque mark.
  - Hard links: where the names of an inode in `after` were not all one inode in `before`, or other
    names of that inode were cut off, all of them are put. So links are what they are in `after`.

Spec: OCI image-spec v1.1, layer.md ("Creating", "Hardlinks").
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layerstore import owners
from layerstore.changeset import (
    Change,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.overlaydir import Cursor, LargeFile, OnSkip, Root, meta_of, special_change
from layerstore.tarcodec import InOrder
from layerstore.toc import order
from layerstore.treepath import ROOT, TreePath

_PIECE_BYTES = 1024 * 1024


def changes(
    before: Path | None,
    after: Path,
    *,
    with_root: bool = False,
    recorded: bool = False,
    on_skip: OnSkip | None = None,
) -> Iterator[Change]:
    """Compare two trees; `before` None is an empty one.

    Args:
        with_root: begin with the attributes of the root, when they differ.
        recorded: whether recorded owners are believed (owners.py).
        on_skip: called for sockets in `after`, which no layer can hold.

    Yields:
        Changes in canonical order, contents to be opened when asked for: both trees must outlive
        the iteration, and `after` the contents.
    """
    return InOrder(_differences(before, after, with_root, recorded, on_skip))


def _differences(
    before: Path | None, after: Path, with_root: bool, recorded: bool, on_skip: OnSkip | None
) -> Iterator[Change]:
    old = _Tree(before, recorded, None) if before is not None else None
    new = _Tree(after, recorded, on_skip)
    put = _paths_to_put(old, new)
    removed = _removed(old, new)
    for path in (*put, *removed):
        while path:  # the directories on the way
            path = TreePath(path.rpartition("/")[0])
            if path in put:
                break
            if path:
                put.add(path)
    if not with_root:
        put.discard(ROOT)
    todo = [(order(path, "file"), path, False) for path in put]
    todo += [(order(path, "remove"), path, True) for path in removed]
    for _, path, is_removal in sorted(todo):
        yield Remove(path) if is_removal else new.put(path)


def _paths_to_put(old: "_Tree | None", new: "_Tree") -> set[TreePath]:
    if old is None:
        return set(new.inodes)
    put: set[TreePath] = set()
    kept_part_of: set[tuple[TreePath, ...]] = set()  # groups of `old` of which a part is kept
    for path in sorted(new.inodes, key=lambda path: order(path, "file")):
        inode = new.inodes[path]
        group = new.links.get(path, (path,))
        if path != group[0]:
            continue
        old_group = old.links.get(path, (path,))
        is_kept = (
            set(group) <= set(old_group)
            and old_group not in kept_part_of
            and _same(old, new, path, inode)
        )
        if is_kept:
            if len(old_group) > 1:
                kept_part_of.add(old_group)
        else:
            put.update(group)
    return put


def _removed(old: "_Tree | None", new: "_Tree") -> set[TreePath]:
    """The topmost paths that are gone; what replaced a directory has removed all in it."""
    if old is None:
        return set()
    removed: set[TreePath] = set()
    for path in old.inodes:
        if path not in new.inodes:
            parent = new.inodes.get(TreePath(path.rpartition("/")[0]))
            if parent is not None and stat.S_ISDIR(parent.status.st_mode):
                removed.add(path)
    return removed


def _same(old: "_Tree", new: "_Tree", path: TreePath, inode: "_Inode") -> bool:
    other = old.inodes.get(path)
    if other is None or other.meta != inode.meta:
        return False
    mine, its = inode.status, other.status
    if stat.S_IFMT(mine.st_mode) != stat.S_IFMT(its.st_mode):
        return False
    match stat.S_IFMT(mine.st_mode):
        case stat.S_IFREG:
            return mine.st_size == its.st_size and _same_content(old, new, path)
        case stat.S_IFLNK:
            return inode.target == other.target
        case stat.S_IFCHR | stat.S_IFBLK:
            return mine.st_rdev == its.st_rdev
        case _:
            return True


def _same_content(old: "_Tree", new: "_Tree", path: TreePath) -> bool:
    old_fd = old.root.open_file(path)
    try:
        new_fd = new.root.open_file(path)
        try:
            while True:
                piece = os.read(new_fd, _PIECE_BYTES)
                if piece != os.read(old_fd, _PIECE_BYTES):
                    return False
                if not piece:
                    return True
        finally:
            os.close(new_fd)
    finally:
        os.close(old_fd)


@dataclass(frozen=True, slots=True)
class _Inode:
    status: os.stat_result
    meta: Meta
    special: PutSymlink | PutNode | None = None

    @property
    def target(self) -> str:
        return self.special.target if isinstance(self.special, PutSymlink) else ""


class _Tree:
    """All of a tree but its contents, in memory."""

    def __init__(self, directory: Path, recorded: bool, on_skip: OnSkip | None) -> None:
        self.root = Root(directory)
        self._recorded = recorded
        self.inodes: dict[TreePath, _Inode] = {}
        self.links: dict[TreePath, tuple[TreePath, ...]] = {}  # of inodes with several names
        self._on_skip = on_skip
        self._read()
        self._group_links()

    def _read(self) -> None:
        with Cursor(os.dup(self.root.fd)) as cursor:
            self._add_dir(cursor.fd, ROOT)
            pending = [(ROOT, self._read_entries(cursor.fd, ROOT))]
            while pending:
                prefix, names = pending[-1]
                if names:
                    name = names.pop()
                    path = TreePath(f"{prefix}/{name}" if prefix else name)
                    cursor.down(name)
                    self._add_dir(cursor.fd, path)
                    pending.append((path, self._read_entries(cursor.fd, path)))
                else:
                    pending.pop()
                    if pending:
                        os.close(cursor.up())

    def _add_dir(self, fd: int, path: TreePath) -> None:
        status = os.fstat(fd)
        self.inodes[path] = self._inode(status, fd)

    def _file(self, status: os.stat_result, fd: int, path: TreePath) -> _Inode:
        inode = self._inode(status, fd)
        record = owners.read(fd) if self._recorded and status.st_size == 0 else None
        if record is None or record.device is None:
            return inode
        return _Inode(status, inode.meta, PutNode(path, inode.meta, *record.device))

    def _inode(self, status: os.stat_result, fd: int) -> _Inode:
        return _Inode(status, meta_of(status, fd, os.listxattr(fd), recorded=self._recorded))

    def _read_entries(self, dir_fd: int, prefix: str) -> list[str]:
        """Add all that is no directory; return the names of those."""
        with os.scandir(dir_fd) as entries:
            names = [entry.name for entry in entries]
        directories = []
        for name in names:
            path = TreePath(f"{prefix}/{name}" if prefix else name)
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            match stat.S_IFMT(status.st_mode):
                case stat.S_IFDIR:
                    directories.append(name)
                case stat.S_IFREG:
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
                    try:
                        self.inodes[path] = self._file(status, fd, path)
                    finally:
                        os.close(fd)
                case stat.S_IFSOCK:
                    if self._on_skip is not None:
                        self._on_skip(path, "a layer cannot hold sockets")
                case _:
                    special = special_change(dir_fd, name, path, status)
                    self.inodes[path] = _Inode(status, special.meta, special)
        return directories

    def _group_links(self) -> None:
        groups: dict[tuple[int, int], list[TreePath]] = {}
        for path, inode in self.inodes.items():
            status = inode.status
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                groups.setdefault((status.st_dev, status.st_ino), []).append(path)
        for paths in groups.values():
            group = tuple(sorted(paths, key=lambda path: order(path, "file")))
            for path in group:
                self.links[path] = group

    def put(self, path: TreePath) -> Change:
        """The change that makes `path` what it is in this tree."""
        inode = self.inodes[path]
        first = self.links.get(path, (path,))[0]
        if first != path:
            return PutHardlink(path, first)
        if inode.special is not None:
            return inode.special
        if stat.S_ISDIR(inode.status.st_mode):
            return PutDir(path, inode.meta)
        content = LargeFile(self.root, path, inode.status)
        return PutFile(path, inode.meta, inode.status.st_size, content)
