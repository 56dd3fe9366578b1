"""Contexts and source trees made of dictionaries.

{"a.txt": b"text"}                 a file, 0644
{"d": Dir()}  {"d/e": b""}         a directory; those on the way to something need no entry
{"l": Link("../a")}                a symbolic link
{"h": Hard("a.txt")}               a hard link
{"tool": File(b"...", mode=0o755, mtime_s=5, xattrs={"user.x": b"1"})}
{"p": Fifo()}   {"s": Socket()}
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.sources import EntryKind, SourceEntry
from layerstore import Content, Digest, Meta, TreePath

LONG_AGO_S = 1_000_000_000  # files of a test context are old, so that their digests are remembered


@dataclass(frozen=True, kw_only=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_s: int = LONG_AGO_S
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dir:
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_s: int = LONG_AGO_S


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class Hard:
    target: str


@dataclass(frozen=True)
class Fifo:
    mode: int = 0o600


@dataclass(frozen=True)
class Socket:
    pass


Item = bytes | File | Dir | Link | Hard | Fifo | Socket
Items = Mapping[str, Item]


def write_files(root: Path, items: Items) -> Path:
    """Make `items` beneath `root`, which is made as well; what is there already is replaced."""
    root.mkdir(parents=True, exist_ok=True)
    directories = []
    for name, item in items.items():
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not isinstance(item, Dir):
            path.unlink()
        match item:
            case bytes():
                _write_file(path, File(content=item))
            case File():
                _write_file(path, item)
            case Dir():
                path.mkdir(exist_ok=True)
                path.chmod(item.mode)
                directories.append((path, item.mtime_s))
            case Link(target=target):
                path.symlink_to(target)
            case Hard(target=target):
                path.hardlink_to(root / target)
            case Fifo(mode=mode):
                os.mkfifo(path)
                path.chmod(mode)
            case Socket():
                with socket.socket(socket.AF_UNIX) as listener:
                    _bind(listener, path)
    for path, mtime_s in directories:
        os.utime(path, (mtime_s, mtime_s))
    return root


def _write_file(path: Path, item: File) -> None:
    path.write_bytes(item.content)
    if os.geteuid() == 0:
        os.chown(path, item.uid, item.gid)
    path.chmod(item.mode)
    for name, value in item.xattrs.items():
        os.setxattr(path, name, value)
    os.utime(path, (item.mtime_s, item.mtime_s))


def _bind(listener: socket.socket, path: Path) -> None:
    parent = os.open(path.parent, os.O_DIRECTORY | os.O_PATH)  # names of sockets are short
    try:
        listener.bind(f"/proc/self/fd/{parent}/{path.name}")
    finally:
        os.close(parent)


class DictTree:
    """A `SourceTree` in memory. `reads` counts how often a content was asked for."""

    def __init__(self, items: Items, *, description: str = "the dictionary") -> None:
        self._description = description
        self._entries: dict[str, SourceEntry] = {"": SourceEntry(TreePath(""), "dir", Meta(0o755))}
        self._contents: dict[str, bytes] = {}
        self._children: dict[str, list[str]] = {"": []}
        self.reads = 0
        for name, item in items.items():
            self._add(name, item)

    @property
    def description(self) -> str:
        return self._description

    def get(self, path: TreePath) -> SourceEntry | None:
        return self._entries.get(path)

    def children(self, path: TreePath) -> list[str]:
        return sorted(self._children.get(path, []), key=os.fsencode)

    def digest(self, entry: SourceEntry) -> Digest:
        return Digest.of(self._contents[entry.path])

    def content(self, entry: SourceEntry) -> Content:
        self.reads += 1
        return self._contents[entry.path]

    def _add(self, name: str, item: Item) -> None:
        parent = name.rpartition("/")[0]
        if parent not in self._entries:
            self._add(parent, Dir())
        if name not in self._entries:
            self._children[parent].append(name.rpartition("/")[2])
        path, link = TreePath(name), ""
        match item:
            case Dir(mode=mode, uid=uid, gid=gid, mtime_s=mtime_s):
                self._children.setdefault(name, [])
                entry = SourceEntry(path, "dir", Meta(mode, uid, gid, mtime_s * 10**9))
            case Link(target=target):
                entry = SourceEntry(path, "symlink", Meta(0o777), 0, target)
            case Hard(target=target):
                first = self._entries[target]
                entry, link = self._file(path, first.meta, self._contents[target]), target
            case bytes():
                entry = self._file(path, Meta(0o644, 0, 0, LONG_AGO_S * 10**9), item)
            case File():
                xattrs = tuple(sorted(item.xattrs.items()))
                meta = Meta(item.mode, item.uid, item.gid, item.mtime_s * 10**9, xattrs)
                entry = self._file(path, meta, item.content)
            case Fifo() | Socket():
                kind: EntryKind = "fifo" if isinstance(item, Fifo) else "socket"
                entry = SourceEntry(path, kind, Meta(0o600))
        if link:
            self._link(link, entry)
        else:
            self._entries[name] = entry

    def _file(self, path: TreePath, meta: Meta, content: bytes) -> SourceEntry:
        self._contents[path] = content
        return SourceEntry(path, "file", meta, len(content))

    def _link(self, target: str, entry: SourceEntry) -> None:
        for name, path in ((target, TreePath(target)), (str(entry.path), entry.path)):
            self._entries[name] = SourceEntry(
                path, "file", entry.meta, entry.size_bytes, link_group=("group", target)
            )
