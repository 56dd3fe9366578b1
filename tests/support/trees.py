"""Trees of files from dicts, and back: made and read by plain means, to compare with.

    make_tree(root, {"etc": Dir(), "etc/passwd": b"root", "bin": "usr/bin", "b": SameFile("a")})
    read_tree(root)     path -> Seen: all that a layer should keep of it
    apply(changes, root)    carry out a changeset on a plain tree, the simple way
    tree_of(changes)        the same on nothing, in memory
    perform(root, "CreateFile", "/a", "content", 0o644)     one operation of containerd's fstest

None of it is hardened, and none of it uses the code under test.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from layerstore.changeset import (
    Change,
    Content,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)

TIME_NS = 1_600_000_000_000_000_000
UID, GID = os.geteuid(), os.getegid()


@cache
def memory() -> Path | None:
    """A file system in memory that can hold all a layer can; for tests that write much."""
    try:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as probe:
            os.setxattr(probe, "user.probe", b"")
    except OSError:
        return None
    return Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    uid: int = UID
    gid: int = GID
    mtime_ns: int = TIME_NS
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Dir:
    mode: int = 0o755
    uid: int = UID
    gid: int = GID
    mtime_ns: int = TIME_NS
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SameFile:
    """Another name of the file at `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class Node:
    """A fifo, or the device of `mode`'s type."""

    mode: int = stat.S_IFIFO | 0o600
    major: int = 0
    minor: int = 0


Item = bytes | str | File | Dir | SameFile | Node  # bytes: a file's content; str: a link's target


def make_tree(root: Path, items: Mapping[str, Item]) -> Path:
    """Make `items` in `root`, parents with default attributes where they are not given."""
    root.mkdir(parents=True, exist_ok=True)
    for path, item in items.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        match item:
            case bytes():
                _make_file(place, File(item))
            case File():
                _make_file(place, item)
            case str():
                place.symlink_to(item)
                os.utime(place, ns=(TIME_NS, TIME_NS), follow_symlinks=False)
            case SameFile():
                os.link(root / item.path, place, follow_symlinks=False)
            case Node():
                os.mknod(place, item.mode, os.makedev(item.major, item.minor))
                place.chmod(stat.S_IMODE(item.mode))
                os.utime(place, ns=(TIME_NS, TIME_NS))
            case Dir():
                place.mkdir(exist_ok=True)
    for path, item in sorted(items.items(), reverse=True):
        if isinstance(item, Dir):
            _set_attributes(root / path, item)
    return root


def _make_file(place: Path, item: File) -> None:
    place.write_bytes(item.content)
    _set_attributes(place, item)


def _set_attributes(place: Path, item: File | Dir) -> None:
    if (item.uid, item.gid) != (UID, GID):
        os.chown(place, item.uid, item.gid)
    place.chmod(item.mode)
    for name, value in item.xattrs:
        os.setxattr(place, name, value)
    os.utime(place, ns=(item.mtime_ns, item.mtime_ns))


@dataclass(frozen=True, slots=True)
class Seen:
    """One path as it is. `first` is the smallest path of its hard links, empty when it has none."""

    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    content: bytes = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    first: str = ""


def read_tree(root: Path) -> dict[str, Seen]:
    """All beneath `root` but sockets and the xattrs of overlayfs; the root itself is left out."""
    seen: dict[str, Seen] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for directory, subdirectories, files in os.walk(root):
        for name in (*subdirectories, *files):
            place = Path(directory, name)
            status = place.lstat()
            if stat.S_ISSOCK(status.st_mode):
                continue
            path = str(place.relative_to(root))
            seen[path] = _see(place, status)
            if not place.is_dir() or place.is_symlink():
                names.setdefault((status.st_dev, status.st_ino), []).append(path)
    for paths in names.values():
        first = min(paths)
        for path in paths:
            if len(paths) > 1:
                seen[path] = _with_first(seen[path], first)
    return seen


def _see(place: Path, status: os.stat_result) -> Seen:
    kind = stat.S_IFMT(status.st_mode)
    xattrs = tuple(
        (name, os.getxattr(place, name, follow_symlinks=False))
        for name in sorted(os.listxattr(place, follow_symlinks=False))
        if ".overlay." not in name and name != "security.selinux"
    )
    return Seen(
        _TYPES[kind],
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        xattrs,
        place.read_bytes() if kind == stat.S_IFREG else b"",
        str(place.readlink()) if kind == stat.S_IFLNK else "",
        (os.major(status.st_rdev), os.minor(status.st_rdev)),
    )


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def _with_first(seen: Seen, first: str) -> Seen:
    return Seen(
        seen.type,
        seen.mode,
        seen.uid,
        seen.gid,
        seen.mtime_ns,
        seen.xattrs,
        seen.content,
        seen.target,
        seen.device,
        first,
    )


def data(content: Content) -> bytes:
    """The bytes of a file's content."""
    return content if isinstance(content, bytes) else b"".join(content())


def tree_of(changes: Iterable[Change]) -> dict[str, Seen]:
    """What `changes` make of an empty tree, as `read_tree` would show it."""
    tree: dict[str, Seen] = {}
    groups: dict[str, list[str]] = {}
    for change in changes:
        path: str = change.path
        match change:
            case PutFile():
                tree[path] = _seen("file", change.meta, content=data(change.content))
            case PutDir() if path:
                tree[path] = _seen("dir", change.meta)
            case PutSymlink():
                tree[path] = _seen("symlink", change.meta, target=change.target)
            case PutNode():
                device = (change.major, change.minor)
                tree[path] = _seen(change.kind, change.meta, device=device)
            case PutHardlink():
                groups.setdefault(change.target, [change.target]).append(path)
            case _:
                pass
    for target, paths in groups.items():
        for path in paths:
            tree[path] = _with_first(tree[target], min(paths))
    return tree


def _seen(
    kind: str,
    meta: Meta,
    *,
    content: bytes = b"",
    target: str = "",
    device: tuple[int, int] = (0, 0),
) -> Seen:
    mode = 0o777 if kind == "symlink" else meta.mode
    return Seen(kind, mode, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs, content, target, device)


def apply(changes: Iterable[Change], root: Path) -> None:
    """Carry out `changes` on a plain tree, whose other content stays; removals come first."""
    collected = list(changes)
    for change in collected:
        place = root / change.path
        if isinstance(change, Opaque) and place.is_dir() and not place.is_symlink():
            for child in place.iterdir():
                _remove(child)
        elif isinstance(change, Remove):
            _remove(place)
    for change in collected:
        _put(change, root)
    for change in reversed(collected):
        if isinstance(change, PutDir):
            _apply_meta(root / change.path, change.meta)


def _put(change: Change, root: Path) -> None:
    place = root / change.path
    if isinstance(change, PutDir):
        if place.is_symlink() or not place.is_dir():
            _remove(place)
            place.mkdir()
        return
    if isinstance(change, Remove | Opaque):
        return
    _remove(place)
    match change:
        case PutFile():
            place.write_bytes(data(change.content))
            _apply_meta(place, change.meta)
        case PutSymlink():
            place.symlink_to(change.target)
            meta = change.meta
            os.chown(place, meta.uid, meta.gid, follow_symlinks=False)
            os.utime(place, ns=(meta.mtime_ns, meta.mtime_ns), follow_symlinks=False)
        case PutHardlink():
            os.link(root / change.target, place, follow_symlinks=False)
        case PutNode():
            kind = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[change.kind]
            os.mknod(place, kind | 0o600, os.makedev(change.major, change.minor))
            _apply_meta(place, change.meta)


def _apply_meta(place: Path, meta: Meta) -> None:
    os.chown(place, meta.uid, meta.gid)
    place.chmod(meta.mode)
    for name in os.listxattr(place):
        os.removexattr(place, name)
    for name, value in meta.xattrs:
        os.setxattr(place, name, value)
    os.utime(place, ns=(meta.mtime_ns, meta.mtime_ns))


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def perform(root: Path, op: str, *args: str | int) -> None:
    """One operation of containerd's fstest, as shared/conformance/oci/layer_cases.json names it."""
    first = root / str(args[0]).lstrip("/")
    last = root / str(args[-1]).lstrip("/")
    match op:
        case "CreateDir":
            first.mkdir(parents=True, exist_ok=True)
            first.chmod(int(args[1]))
        case "CreateFile":
            first.write_bytes(str(args[1]).encode())
            first.chmod(int(args[2]))
        case "Symlink":
            last.symlink_to(str(args[0]))
        case "Link":
            os.link(first, last)
        case "Remove":
            first.unlink()
        case "RemoveAll":
            shutil.rmtree(first)
        case "Chmod":
            first.chmod(int(args[1]))
        case "Rename":
            first.rename(last)
        case "CreateSocket":
            os.mknod(first, stat.S_IFSOCK | int(args[1]))
        case _:
            raise ValueError(op)
