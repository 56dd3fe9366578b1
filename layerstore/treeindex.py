"""The merged view of stacked layers, from their tables of contents alone.

It answers what a path is, which layer it comes from, and where a name with links in it leads,
without unpacking anything. It shows what overlayfs shows of the same layers.

Hard links disappear here: every name is an inode of its own, since an upper layer may replace one
name and leave the others. `TocEntry.target` of a file that was a hard link is the path under which
its own layer carries the content.
"""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from layerstore.changeset import (
    Change,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.errors import StoreError, UnsafePathError
from layerstore.toc import NO_META, TocEntry
from layerstore.treepath import ROOT, TreePath

_HOPS_MAX = 40  # as the kernel's MAXSYMLINKS
_IMPLIED_META = Meta(0o755)  # what overlaydir.write gives to parents that a layer does not put


class Node(NamedTuple):
    """What stands at a path: its row, and the layer (0 is the bottom) or None if only planned."""

    entry: TocEntry
    layer: int | None


class TreeIndex:
    """A tree made of layers, bottom first, and of changes planned on top of them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {"": Node(TocEntry(ROOT, "dir", _IMPLIED_META), None)}
        self._children: dict[str, dict[str, None]] | None = None  # made when first needed
        self._layers = 0

    def copy(self) -> "TreeIndex":
        """An index that can be changed on its own."""
        other = TreeIndex()
        other._nodes = self._nodes.copy()
        other._layers = self._layers
        return other

    def add_layer(self, entries: Iterable[TocEntry]) -> None:
        """Put a layer on top."""
        self._add(entries, self._layers)
        self._layers += 1

    def apply_change(self, change: Change) -> None:
        """Plan a change on top of all layers. A PutHardlink must name what is there."""
        self._add((_entry_of(change),), None)

    def get(self, path: str) -> Node | None:
        """What stands at `path`, itself not followed if it is a link."""
        return self._nodes.get(path)

    def children(self, path: str) -> list[str]:
        """The names in a directory in byte order; none if it is no directory."""
        return sorted(self._index().get(path, ()), key=os.fsencode)

    def walk(self, path: str = ROOT) -> Iterator[Node]:
        """`path` and all beneath it: parents first, siblings in byte order."""
        node = self._nodes.get(path)
        if node is None:
            return
        yield node
        pending = [(path + "/" if path else "", self.children(path)[::-1])]
        while pending:
            prefix, names = pending[-1]
            if not names:
                pending.pop()
                continue
            child = prefix + names.pop()
            node = self._nodes[child]
            yield node
            if node.entry.kind == "dir":
                pending.append((child + "/", self.children(child)[::-1]))

    def resolve(self, path: str, *, cwd: str = "/", follow_last: bool = True) -> TreePath:
        """Where `path` leads inside the tree, as the kernel would go after chroot.

        Links are followed; `..` at the root stays there. What does not exist is taken as it is
        written, so the result may be a path that is yet to be made.

        Raises:
            StoreError: too many links, or a part of the way is a file.
        """
        todo = _parts(path)
        if not path.startswith("/"):
            todo += _parts(cwd)
        follow_slash = path.endswith(("/", "/.")) or follow_last
        done: list[str] = []
        hops = 0
        while todo:
            name = todo.pop()
            if name == "..":
                if done:
                    done.pop()
                continue
            done.append(name)
            node = self._nodes.get("/".join(done))
            if node is None or node.entry.kind == "dir":
                continue
            if node.entry.kind == "symlink" and (todo or follow_slash):
                hops += 1
                if hops > _HOPS_MAX:
                    raise StoreError(f"too many levels of symbolic links: {path!r}")
                target = node.entry.target
                done = [] if target.startswith("/") else done[:-1]
                todo += _parts(target)
            elif todo:
                raise StoreError(f"{'/'.join(done)!r} is not a directory, on the way to {path!r}")
        return TreePath("/".join(done))

    def _add(self, entries: Iterable[TocEntry], layer: int | None) -> None:
        hidden: list[TocEntry] = []
        shown: list[TocEntry] = []
        inodes: dict[str, TocEntry] = {}
        for entry in entries:
            if entry.kind in ("remove", "opaque"):
                hidden.append(entry)
            else:
                shown.append(entry)
                inodes[entry.path] = entry
        # Removals mean the layers below, wherever they stand.
        for entry in hidden:
            if entry.kind == "remove":
                self._remove(entry.path)
            else:
                for name in self.children(entry.path):
                    self._remove(f"{entry.path}/{name}" if entry.path else name)
                if not entry.path:
                    self._nodes[""] = Node(TocEntry(ROOT, "dir", _IMPLIED_META), layer)
                elif entry.path not in inodes:
                    shown.append(TocEntry(entry.path, "dir", _IMPLIED_META))
        for entry in shown:
            if entry.kind == "hardlink":
                entry = self._unlinked(entry, inodes)
            self._put(entry, layer)

    def _unlinked(self, entry: TocEntry, inodes: dict[str, TocEntry]) -> TocEntry:
        inode = inodes.get(entry.target)
        if inode is None and (node := self._nodes.get(entry.target)) is not None:
            inode = node.entry
        if inode is None or inode.kind in ("hardlink", "dir"):
            raise StoreError(f"hard link {entry.path!r} names {entry.target!r}, which is no file")
        if inode.kind == "file":
            return inode._replace(path=entry.path, target=inode.target or entry.target)
        return inode._replace(path=entry.path)

    def _put(self, entry: TocEntry, layer: int | None) -> None:
        path = entry.path
        old = self._nodes.get(path)
        if old is None:
            head, _, name = path.rpartition("/")
            parent = self._nodes.get(head)
            if parent is None or parent.entry.kind != "dir":
                self._imply(head, layer)
            if self._children is not None:
                self._children.setdefault(head, {})[name] = None
        elif old.entry.kind == "dir" and entry.kind != "dir":
            self._remove_beneath(path)
        self._nodes[path] = Node(entry, layer)

    def _imply(self, path: str, layer: int | None) -> None:
        """Make the directories on the way to something whose layer does not put them."""
        missing: list[str] = []
        while path:
            node = self._nodes.get(path)
            if node is not None and node.entry.kind == "dir":
                break
            missing.append(path)
            path = path.rpartition("/")[0]
        for path in reversed(missing):
            self._put(TocEntry(TreePath(path), "dir", _IMPLIED_META), layer)

    def _remove(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        if node is None:
            return
        if node.entry.kind == "dir":
            self._remove_beneath(path)
        head, _, name = path.rpartition("/")
        if self._children is not None and head in self._children:
            self._children[head].pop(name, None)

    def _remove_beneath(self, path: str) -> None:
        index = self._index()
        todo = [path]
        while todo:
            head = todo.pop()
            for name in index.pop(head, ()):
                child = f"{head}/{name}" if head else name
                self._nodes.pop(child, None)
                todo.append(child)

    def _index(self) -> dict[str, dict[str, None]]:
        if self._children is None:
            self._children = {}
            for path in self._nodes:
                if path:
                    head, _, name = path.rpartition("/")
                    self._children.setdefault(head, {})[name] = None
        return self._children


def _parts(path: str) -> list[str]:
    """The components of a path, last first."""
    if "\0" in path:
        raise UnsafePathError(path=path, reason="contains a NUL byte")
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _entry_of(change: Change) -> TocEntry:
    match change:
        case PutFile(path, meta, size_bytes):
            return TocEntry(path, "file", meta, size_bytes)
        case PutDir(path, meta):
            return TocEntry(path, "dir", meta)
        case PutSymlink(path, meta, target):
            return TocEntry(path, "symlink", meta, target=target)
        case PutHardlink(path, target):
            return TocEntry(path, "hardlink", NO_META, target=target)
        case PutNode(path, meta, kind, major, minor):
            return TocEntry(path, kind, meta, major=major, minor=minor)
        case Remove(path):
            return TocEntry(path, "remove", NO_META)
        case Opaque(path):
            return TocEntry(path, "opaque", NO_META)
