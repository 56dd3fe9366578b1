"""Contents of files that lie in stacked layers, each by the cheapest way there is.

    there is a checkout   the file is opened in it
    there is none         the layer's tar is read up to the file, and on from there for the next
    asked for too often   the layer is worth a checkout

Files asked for in the order of their layer (which is that of a changeset) cost one pass over it,
however many they are; nothing but the current file is held. Every content is compared with the
table of contents before its last byte is handed out.
"""

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, assert_never

from layerstore.changeset import (
    Change,
    Content,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.digest import Digest
from layerstore.errors import CorruptBlobError, StoreError
from layerstore.treepath import TreePath

if TYPE_CHECKING:
    from typing import BinaryIO

    from layerstore.layers import Layer, LayerStore
    from layerstore.toc import TocEntry
    from layerstore.treeindex import Node

_PASSES_MAX = 3
_PIECE_BYTES = 256 * 1024
_SMALL_BYTES = 1024 * 1024  # contents up to here are delivered as bytes


def checkout_changes(entries: "Iterable[TocEntry]", checkout: Path) -> Iterator[Change]:
    """A layer as its table of contents has it, with the contents that are in its checkout.

    Raises, also when a content is read:
        CorruptBlobError: a file is not there, or not what the table says.
    """
    for entry in entries:
        match entry.kind:
            case "file":
                read = partial(_checkout_pieces, checkout, entry)
                small = entry.size_bytes <= _SMALL_BYTES
                content: Content = b"".join(read()) if small else read
                yield PutFile(entry.path, entry.meta, entry.size_bytes, content)
            case "dir":
                yield PutDir(entry.path, entry.meta)
            case "symlink":
                yield PutSymlink(entry.path, entry.meta, entry.target)
            case "hardlink":
                yield PutHardlink(entry.path, TreePath(entry.target))
            case "char" | "block" | "fifo":
                yield PutNode(entry.path, entry.meta, entry.kind, entry.major, entry.minor)
            case "remove":
                yield Remove(entry.path)
            case "opaque":
                yield Opaque(entry.path)
            case _:
                assert_never(entry.kind)


def _checkout_pieces(checkout: Path, entry: "TocEntry") -> Iterator[bytes]:
    return _verified(_pieces_of_file(checkout, entry.path), entry)


class LayerFiles:
    """Reads files of a stack of layers (bottom first). A context manager."""

    def __init__(self, store: "LayerStore", layers: "Sequence[Layer]") -> None:
        self._store = store
        self._layers = tuple(layers)
        self._places: dict[int, Path | _Pass] = {}  # where a layer is read: its checkout, its tar

    def content(self, node: "Node") -> Content:
        """The content of a file of the layers' tree, read when it is asked for."""
        return lambda: self.pieces(node)

    def pieces(self, node: "Node") -> Iterator[bytes]:
        """The content in pieces. The next file may be asked for when all have been taken.

        Raises:
            CorruptBlobError: what is stored is not what the table of contents says.
        """
        assert node.layer is not None, "planned changes carry their own content"
        entry = node.entry
        if entry.kind != "file" or entry.digest is None:
            raise StoreError(f"{entry.path!r} is no file")
        place = self._place(node.layer)
        if isinstance(place, _Pass):
            found = place.find(entry)
            if found is not None:
                yield from found
                return
            place.close()
            place = self._places[node.layer] = self._store.checkout(self._layers[node.layer])
        yield from _checkout_pieces(place, entry)

    def close(self) -> None:
        """Release the blobs that are open."""
        for place in self._places.values():
            if isinstance(place, _Pass):
                place.close()
        self._places = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, number: int) -> "Path | _Pass":
        place = self._places.get(number)
        if place is None:
            layer = self._layers[number]
            place = self._store.find_checkout(layer) or _Pass(self._store, layer)
            self._places[number] = place
        return place


class _Pass:
    """One layer's tar, and how far it has been read."""

    def __init__(self, store: "LayerStore", layer: "Layer") -> None:
        self._store = store
        self._layer = layer
        self._changes: Generator[Change, None, None] | None = None
        self._passed: set[str] = set()
        self._started = 0

    def find(self, entry: "TocEntry") -> Iterator[bytes] | None:
        """The content of the file; None when it is not there, or would take one pass too many.

        A tar may hold a path twice, the last one counts: only the digest tells.
        """
        path = entry.target or entry.path  # a hard link's content lies under another name
        if self._changes is None or path in self._passed:
            if self._started == _PASSES_MAX:
                return None
            self._restart()
        assert self._changes is not None, "started above"
        for change in self._changes:
            self._passed.add(change.path)
            if change.path != path or not isinstance(change, PutFile):
                continue
            if change.size_bytes == entry.size_bytes:
                found = self._taken(change, entry)
                if found is not None:
                    return found
        return None

    def close(self) -> None:
        if self._changes is not None:
            self._changes.close()

    def _restart(self) -> None:
        self.close()
        self._started += 1
        self._passed = set()
        self._changes = self._store.changes(self._layer)

    def _taken(self, change: PutFile, entry: "TocEntry") -> Iterator[bytes] | None:
        """The content when it is the right one; a large one waits in a file until that is known."""
        if isinstance(change.content, bytes):
            return iter((change.content,)) if Digest.of(change.content) == entry.digest else None
        with ExitStack() as cleanup:
            file = cleanup.enter_context(self._store.temporary_file())
            content = hashlib.sha256()
            for piece in change.content():
                content.update(piece)
                file.write(piece)
            if "sha256:" + content.hexdigest() != entry.digest:
                return None
            file.seek(0)
            cleanup.pop_all()
            return _pieces_of_open(file)


def _pieces_of_open(file: "BinaryIO") -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _verified(pieces: Iterable[bytes], entry: "TocEntry") -> Iterator[bytes]:
    """Hand on a file's pieces, the last one only when all were right."""
    content = hashlib.sha256()
    held = b""
    for piece in pieces:
        if held:
            yield held
        content.update(piece)
        held = piece
    actual = "sha256:" + content.hexdigest()
    if actual != entry.digest:
        raise CorruptBlobError(
            what=f"file {entry.path!r} of a layer",
            expected=str(entry.digest),
            actual=actual,
            hint="`lamina fsck` names the layer",
        )
    if held:
        yield held


def _pieces_of_file(root: Path, path: str) -> Iterator[bytes]:
    """Read a file below `root` without following any link."""
    fd = -1
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *parents, name = path.split("/")
        for parent in parents:
            inner = os.open(
                parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
            )
            os.close(fd)
            fd = inner
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        os.close(fd)
        fd = inner
        while piece := os.read(fd, _PIECE_BYTES):
            yield piece
    except OSError as error:
        raise CorruptBlobError(
            what=f"checkout {root.name}",
            expected=f"the file {path!r}",
            actual=error.strerror or "none",
            hint="`lamina fsck` lists all damage",
        ) from None
    finally:
        if fd >= 0:
            os.close(fd)
