"""Contents of cache mounts in a directory of cached steps, for builds elsewhere to begin with.

    DIR/blobs/sha256/HEX      what was in a cache mount: a tar, compressed, as a layer is
    DIR/lamina/mounts/HEX     which blob that is, under the key of the mount

As with steps, each file stands by itself, and directories are merged by copying one over the
other. The blobs are content for a mount and for nothing else: no layer, image or key knows them.

Nothing is believed. The tar must be just what `export_mount` writes: every parent before what is
in it, directories, files, links and fifos, nothing beneath a link, no removal, no device. What is
anything else is not used, with a notice: the mount then begins as it would have without.

Owners that cannot be set (a user without subordinate ids) are recorded. Sockets stay behind.

Invariants (tests/layerstore/transports/test_cached_mounts.py):
  1. A blob is read only when a program is about to use the mount, and there is none yet.
  2. Whatever bytes lie in the directory: a mount has all of a verified content, or none of it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from layerstore.changeset import Change, PutDir, PutFile, PutHardlink, PutNode, PutSymlink
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import Reader, canonical_json, descriptor_json, parse_descriptor
from layerstore.errors import MalformedDocumentError, StoreError
from layerstore.layers import in_user_namespace
from layerstore.toc import order
from layerstore.transports.cache_directory import MOUNTS
from layerstore.transports.cached_steps import CachePlace
from layerstore.transports.layout_directory import LayoutDirectory
from layerstore.treepath import ROOT

if TYPE_CHECKING:
    from layerstore.store import Store

Filter = Callable[[Iterator[Change]], Iterator[Change]]

_SCHEMA = 1
_WAIT_S = 10.0
_PIECE_BYTES = 1 << 20


def export_mount(
    store: "Store",
    key: str,
    root: Path,
    *,
    filtered: Filter = iter,
    wait_s: float = _WAIT_S,
) -> tuple[str, ...]:
    """Write what is in a cache mount into `root`, in place of what is there under the same key.

    Nobody else uses the mount while it is read. One that is not here, but in a directory that this
    store looks into, is copied from there.

    Args:
        filtered: what the content goes through; an error that it raises ends the export.
        wait_s: how long to wait for others to end their use.

    Returns:
        The sockets in it, which stay behind.

    Raises:
        StoreBusyError: others have used it all the time.
        StoreError: there is none; or it holds what cannot be exported.
    """
    layout = LayoutDirectory(root)
    sockets: list[str] = []
    held = store.cache_mounts.borrow(key, wait_s=wait_s)
    if held is None:
        found = (source.copy(key, layout) for source in store.cache_mounts.sources)
        data = next((data for data in found if data is not None), None)
        if data is None:
            raise StoreError("there is none in this store")
    else:
        with store.layers.temporary_file() as file:
            with held:
                entry = _pack(key, held.path, file, filtered, sockets)
            layout.put(entry.blob.digest, entry.blob.size_bytes, lambda: _pieces(file))
        data = entry.encode()
    layout.write(f"{MOUNTS}/{key}", data)
    return tuple(sockets)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """The file of a mount: its key, and the blob with its content."""

    key: str
    blob: Descriptor
    diff_id: Digest

    @classmethod
    def decode(cls, data: bytes, key: str) -> Self:
        reader = Reader.of(data, context=f"cache mount {key[:12]}")
        blob = reader.child("blob")
        if reader.integer("schema") != _SCHEMA or blob is None:
            raise reader.error("schema", f"is not {_SCHEMA}, or there is no blob")
        if reader.text("key") != key:
            raise reader.error("key", "is not that of the file's name")
        diff_id = Digest.parse(reader.text("diffId", required=True))
        return cls(key=key, blob=parse_descriptor(blob), diff_id=diff_id)

    def encode(self) -> bytes:
        return canonical_json(
            {
                "schema": _SCHEMA,
                "key": self.key,
                "blob": descriptor_json(self.blob),
                "diffId": self.diff_id,
            }
        )


def _pack(
    key: str, directory: Path, file: BinaryIO, filtered: Filter, sockets: list[str]
) -> MountEntry:
    from layerstore import compression, tarcodec, treediff

    digest = hashlib.sha256()

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    def skip(path: str, reason: str) -> None:
        sockets.append(path)

    changes = treediff.changes(
        None, directory, with_root=True, recorded=in_user_namespace(), on_skip=skip
    )
    compressor = compression.compressor(compression.DEFAULT, write)
    packed = tarcodec.pack(tarcodec.InOrder(_checked(filtered(changes))), compressor.write)
    compressor.close()
    blob = Descriptor(
        media_type=compression.media_type(compression.DEFAULT),
        digest=Digest("sha256:" + digest.hexdigest()),
        size_bytes=file.tell(),
    )
    return MountEntry(key=key, blob=blob, diff_id=packed.diff_id)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        yield piece


def _checked(changes: Iterable[Change]) -> Iterator[Change]:
    """The same changes, if they are the whole of a tree: see the rules above."""
    directories: set[str] = set()
    last: bytes | None = None
    for change in changes:
        path = change.path
        match change:
            case PutDir() | PutFile() | PutSymlink() | PutHardlink() | PutNode(kind="fifo"):
                place = order(path, "file")
            case PutNode():
                raise _unfit(path, "is a device")
            case _:
                raise _unfit(path, "is removed, but nothing was there")
        if last is not None and place <= last:
            raise _unfit(path, "is out of order")
        if path != ROOT and path.rpartition("/")[0] not in directories:
            raise _unfit(path, "is in no directory of the cache mount")
        if isinstance(change, PutDir):
            directories.add(path)
        elif path == ROOT:
            raise _unfit(path, "is the top, but no directory")
        last = place
        yield change


def _unfit(path: str, problem: str) -> MalformedDocumentError:
    return MalformedDocumentError(context="content of a cache mount", problem=f"{path!r} {problem}")


class CachedMounts:
    """The cache mounts of a place: a MountSource for `CacheMounts.add_source`.

    Args:
        notice: told, in a sentence, of everything that could not be used.
    """

    def __init__(self, place: CachePlace, store: "Store", notice: Callable[[str], None]) -> None:
        self._place = place
        self._store = store
        self._notice = notice

    def fill(self, key: str, directory: Path) -> bool:
        """Unpack what the mount had into `directory`, which is empty.

        False when there is nothing of it, or nothing that can be used; what then is in
        `directory` means nothing.
        """
        try:
            entry = self._find(key)
            if entry is None:
                return False
            self._unpack(entry, directory)
        except (StoreError, OSError) as error:
            self._tell(error)
            return False
        return True

    def copy(self, key: str, layout: LayoutDirectory) -> bytes | None:
        """Put what the mount had into another directory; returns the mount's file."""
        try:
            entry = self._find(key)
        except (StoreError, OSError) as error:
            self._tell(error)
            return None
        if entry is None:
            return None
        blob = entry.blob

        def pieces() -> Iterator[bytes]:
            return self._place.open(blob).pieces()

        layout.put(blob.digest, blob.size_bytes, pieces)
        return entry.encode()

    def _find(self, key: str) -> MountEntry | None:
        data = self._place.mount(key)
        return None if data is None else MountEntry.decode(data, key)

    def _unpack(self, entry: MountEntry, directory: Path) -> None:
        from layerstore import overlaydir

        blob = entry.blob
        with self._place.open(blob) as reader:
            changes = self._store.layers.read_foreign(reader, blob, entry.diff_id)
            overlaydir.write(_checked(changes), directory, userxattr=in_user_namespace())
            reader.drain()

    def _tell(self, error: Exception) -> None:
        self._notice(f"not used of the build cache in {self._place.label}: {error}")
