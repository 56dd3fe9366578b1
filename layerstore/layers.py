"""Layers at rest: changesets in, digests out.

A layer is committed once and never changes. Its names:
    diff_id         the tar, uncompressed                what an image config lists
    digest          the blob, as stored                  what a manifest lists
    content_digest  the table of contents but for times  what tells equal results from new ones

Three things are kept of it: the blob, which is the truth; `toc/HEX`, its table of contents;
`snapshots/HEX32`, its overlayfs form (32 digits keep the option string of a mount of many layers
short). The last two are made again from the blob when they are missing. They appear by rename, so
what is there is complete.

Invariants (tests/layerstore/test_layers.py):
  1. commit is deterministic: equal changes, equal diff_id, in any order of arrival.
  2. Nothing is believed about bytes from outside: digest, size and diff_id are checked while
     reading, before the layer is known.
  3. checkout serves a snapshot only under the diff_id whose tar it was made from, and not one that
     was changed since: such a one is made again.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from layerstore.blobs import HEAL_HINT, BlobStore, BlobWriter, fsync, is_intact
from layerstore.database import Database, Row, Statement, Value, checksum
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsafePathError,
)

if TYPE_CHECKING:
    from typing import BinaryIO

    from layerstore.changeset import Change, Content
    from layerstore.compression import Compression, Reader
    from layerstore.layerfiles import LayerFiles
    from layerstore.packing import Packing
    from layerstore.tarcodec import Packed
    from layerstore.toc import TocEntry
    from layerstore.treeindex import Node, TreeIndex

# is told which blob is on its way, how many bytes of it have come, and how many it has
Came = Callable[[Digest, int, int], object]

_COLUMNS = (
    "diff_id, media_type, digest, blob_bytes, size_bytes, tar_bytes, content_digest,"
    " files, dirs, removed"
)
_PIECE_BYTES = 256 * 1024
_QUERY_MAX = 500  # variables of one statement; SQLite allows 999 or more
_SMALL_BYTES = 1024 * 1024
_SMALL_ENTRIES = 500  # a checkout of so many is looked at whenever its layer is looked up
_TAR_BYTES_MIN = 1 << 30  # a tar up to here may be unpacked whatever the disk has free


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A committed changeset. `size_bytes` is the sum of its files.

    Layers of the same changeset are equal, however their blobs are compressed.
    """

    diff_id: Digest
    blob: "Descriptor | Packing" = field(compare=False, repr=False)
    size_bytes: int
    tar_size_bytes: int
    content_digest: Digest
    files: int
    dirs: int
    removed: int

    @property
    def descriptor(self) -> Descriptor:
        """What names its blob; while that is still being written, this waits.

        Raises:
            OSError: it could not be written.
        """
        return self.blob if isinstance(self.blob, Descriptor) else self.blob.finish()

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.files or self.dirs or self.removed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobElsewhere:
    """A blob, and the repository of a registry (`host/path`) that it is in; empty elsewhere."""

    blob: Descriptor
    origin: str


class Offer(Protocol):
    """A layer that lies elsewhere (in an imported cache), and is fetched when its bytes matter."""

    @property
    def layer(self) -> Layer:
        """What it is said to be."""

    @property
    def origin(self) -> str:
        """The repository of a registry (`host/path`) that its blob is in; empty elsewhere."""

    @property
    def table(self) -> "BlobElsewhere | None":
        """Its table of contents as a blob; None where there is none."""

    def read_toc(self) -> "list[TocEntry]":
        """Its table of contents. Raises UnusableLayerError."""

    def bring(self, offers: "Sequence[Offer]", came: "Came") -> None:
        """Have the bytes of those of `offers` come that lie in the same place, side by side.

        What does not come well is left to `fetch`, which says why.
        """

    def fetch(self) -> Layer:
        """Take it into the store. Raises UnusableLayerError."""


class LayerStore:
    """The layers of one store.

    Args:
        private: where toc/ and snapshots/ are.
        new_tmp_path: names a file or directory on the same file system that is removed when this
            process dies.
        hold: keeps digests from being collected while this process lives.
    """

    def __init__(
        self,
        *,
        private: Path,
        blobs: BlobStore,
        database: Database,
        new_tmp_path: Callable[[str], Path],
        hold: Callable[[Iterable[Digest]], None],
    ) -> None:
        self._blobs = blobs
        self._database = database
        self._new_tmp_path = new_tmp_path
        self._hold = hold
        self._private = private
        self._snapshots = private / "snapshots"
        self._pending: dict[Digest, Layer] = {}
        self._found: dict[Digest, Layer] = {}  # known to be usable, and held
        self._offers: dict[Digest, Offer] = {}
        self._sound: set[Digest] = set()  # whose checkouts have been looked at
        self._unsynced: set[Digest] = set()  # layers whose table of contents is new
        self._unfinished: list[tuple[Layer, Packing]] = []  # blobs that are still being written

    def commit(
        self,
        changes: "Iterable[Change]",
        *,
        upperdir: Path | None = None,
        compression: "Compression | None" = None,
        mtime_max_s: int | None = None,
        packed_bytes: "Callable[[int], object] | None" = None,
        beside: bool = False,
    ) -> Layer:
        """Pack `changes` into a layer.

        What it is, and its checkout, are there when this returns; with `beside` the blob may still
        be compressed and written: who asks for its descriptor waits, as `flush` does.

        Args:
            upperdir: the overlayfs directory that `changes` are read from. It becomes the
                checkout of the layer, unless there is one; then it stays with the caller.
            mtime_max_s: later times are stored as this one (SOURCE_DATE_EPOCH).
            packed_bytes: called for about every megabyte with the size of the tar so far.

        Raises:
            StoreError: the changes cannot be stored exactly (see tarcodec.pack).
        """
        from layerstore import compression as squeeze
        from layerstore import tarcodec
        from layerstore.packing import Packing

        self.finish()  # one at a time: what made the last one has ended
        packing = Packing(compression or squeeze.DEFAULT, self._blobs.writer())
        try:
            write: Callable[[bytes], object] = packing.write
            if packed_bytes is not None:
                write = _counting(write, packed_bytes)
            packed = tarcodec.pack(changes, write, mtime_max_s=mtime_max_s)
            layer = self._add_packed(packed, packing)
            if not beside:
                self.finish()
        except BaseException:
            packing.abandon()
            raise
        if upperdir is not None:
            self._keep_upperdir(upperdir, layer, packed.toc, mtime_max_s)
        return layer

    def adopt(self, stream: "Reader", descriptor: Descriptor, expected_diff_id: Digest) -> Layer:
        """Take in a layer from outside, its blob byte for byte.

        Raises:
            CorruptBlobError: digest, size or diff_id are not the announced ones.
            MalformedDocumentError, UnsafePathError: the tar is damaged or hostile.
            UnsupportedMediaTypeError: not a layer.
        """
        with self._blobs.writer() as writer:
            tee = _Tee(stream, writer.write, descriptor)
            layer, entries = self._survey(tee, descriptor, expected_diff_id)
            tee.drain()
            writer.commit(
                expected_digest=descriptor.digest, expected_size_bytes=descriptor.size_bytes
            )
        return self._add(layer, entries)

    def adopt_written(
        self,
        stream: "Reader",
        writer: BlobWriter,
        descriptor: Descriptor,
        expected_diff_id: Digest,
    ) -> Layer:
        """As `adopt`, of a blob that another thread writes: `stream` is what has come of it.

        `writer` gets its last byte before `stream` ends, and stays the caller's to close.
        """
        layer, entries = self._survey(stream, descriptor, expected_diff_id)
        while stream.read(_PIECE_BYTES):
            pass
        writer.commit(expected_digest=descriptor.digest, expected_size_bytes=descriptor.size_bytes)
        return self._add(layer, entries)

    def index(self, descriptor: Descriptor, expected_diff_id: Digest) -> Layer:
        """Learn of a layer whose blob is there already: another tool put it there, or load did.

        Raises as `adopt`, and NotFoundError when the blob is missing.
        """
        known = self.find_here(expected_diff_id)
        if known is not None and known.descriptor.digest == descriptor.digest:
            return known
        try:
            return self._indexed(descriptor, expected_diff_id)
        except (NotFoundError, CorruptBlobError, MalformedDocumentError, UnsafePathError):
            if not self._mend(descriptor, expected_diff_id):
                raise
        return self._indexed(descriptor, expected_diff_id)

    def _indexed(self, descriptor: Descriptor, expected_diff_id: Digest) -> Layer:
        with self._blobs.open(descriptor.digest, size_bytes=descriptor.size_bytes) as reader:
            layer, entries = self._survey(reader, descriptor, expected_diff_id)
            reader.drain()
        return self._add(layer, entries)

    def read_foreign(
        self, stream: "Reader", descriptor: Descriptor, expected_diff_id: Digest
    ) -> "Iterator[Change]":
        """Read a blob of a layer's form that stays outside, as the changes it stands for.

        Whether they were the right ones is known when the last has come. `stream` is one that
        verifies itself, to be drained after that.

        Raises:
            CorruptBlobError: the diff_id is not the announced one.
            MalformedDocumentError, UnsafePathError, UnsupportedMediaTypeError: as `adopt`.
        """
        tar = self._tar_reader(stream, descriptor)
        yield from _unpack(tar)
        tar.drain()
        tar.check(expected_diff_id, descriptor)

    def get(self, diff_id: Digest) -> Layer:
        """The layer.

        Raises:
            NotFoundError: there is none, or its blob is missing or damaged.
        """
        layer = self.find(diff_id)
        if layer is None:
            raise NotFoundError(kind="layer", key=diff_id, hint=HEAL_HINT)
        return layer

    def find(self, diff_id: Digest) -> Layer | None:
        """The layer; None when there is none that can be used (blob missing or damaged).

        A blob that is damaged or missing is made again where its checkout is good.
        """
        offer = self._offers.get(diff_id)
        if offer is not None:
            return offer.layer
        found = self.find_here(diff_id)
        if found is None:
            for known in self.find_all((diff_id,)).values():
                if self._mend(known.descriptor, diff_id):
                    found = self.find_here(diff_id)
        return found

    def find_here(self, diff_id: Digest) -> Layer | None:
        """The same, but not one that is only offered."""
        known = self._pending.get(diff_id) or self._found.get(diff_id)
        if known is not None:
            return known
        self._hold((diff_id,))
        rows = self._database.query(
            f"SELECT {_COLUMNS}, checksum, stamp FROM layers WHERE diff_id = ?", (diff_id,)
        )
        for row in rows:
            layer = _from_row(row[:-1])
            if layer is not None and self._is_usable(layer, row[-1]):
                self._found[diff_id] = layer
                return layer
        return None

    def offer(self, offer: Offer) -> bool:
        """Know a layer that can be fetched, while this object lives; False when it is here.

        It takes the place of an earlier offer of that layer.
        """
        if self.find_here(offer.layer.diff_id) is not None:
            return False
        self._offers[offer.layer.diff_id] = offer
        return True

    def is_offered(self, diff_id: Digest) -> bool:
        """Whether the layer is elsewhere, and has not been fetched."""
        return diff_id in self._offers

    def table_of(self, layer: Layer) -> BlobElsewhere | None:
        """Where the table of contents of an offered layer is; None where nobody says so."""
        offer = self._offers.get(layer.diff_id)
        return None if offer is None else offer.table

    def origin_of(self, layer: Layer) -> str:
        """The repository (`host/path`) that offers the layer; empty when none does."""
        offer = self._offers.get(layer.diff_id)
        return "" if offer is None else offer.origin

    def fetch(self, layer: Layer) -> Layer:
        """Make sure that the bytes of `layer` are here.

        Raises:
            UnusableLayerError: it was offered, and what came is not what was said.
        """
        (fetched,) = self.fetch_all((layer,))
        return fetched

    def fetch_all(
        self, layers: Sequence[Layer], came: Came = lambda blob, come_bytes, size_bytes: None
    ) -> list[Layer]:
        """The same for several, side by side where they lie in one place."""
        offers = {
            layer.diff_id: self._offers[layer.diff_id]
            for layer in layers
            if layer.diff_id in self._offers
        }
        if len(offers) > 1:
            for offer in offers.values():
                offer.bring([*offers.values()], came)
        fetched = []
        for layer in layers:
            self._offers.pop(layer.diff_id, None)
            fetched.append(offers[layer.diff_id].fetch() if layer.diff_id in offers else layer)
        return fetched

    def find_all(self, diff_ids: Sequence[Digest]) -> dict[Digest, Layer]:
        """Those of `diff_ids` that are known, by one query. Nothing is held or looked at."""
        found = {
            diff_id: self._pending[diff_id] for diff_id in diff_ids if diff_id in self._pending
        }
        missing = [diff_id for diff_id in dict.fromkeys(diff_ids) if diff_id not in found]
        for start in range(0, len(missing), _QUERY_MAX):
            wanted = missing[start : start + _QUERY_MAX]
            marks = ",".join("?" * len(wanted))
            for row in self._database.query(
                f"SELECT {_COLUMNS}, checksum FROM layers WHERE diff_id IN ({marks})", wanted
            ):
                if (layer := _from_row(row)) is not None:
                    found[layer.diff_id] = layer
        return found

    def all(self) -> Iterator[Layer]:
        """Every layer known, in no order."""
        rows = self._database.query(f"SELECT {_COLUMNS}, checksum FROM layers")
        yield from filter(None, map(_from_row, rows))
        yield from self._pending.values()

    def toc(self, layer: Layer) -> "list[TocEntry]":
        """The table of contents, read again from the blob when the file is missing or damaged."""
        from layerstore import toc

        offer = self._offers.get(layer.diff_id)
        if offer is not None:
            return offer.read_toc()
        try:
            return toc.load(self.toc_path(layer.diff_id).read_bytes())
        except (FileNotFoundError, MalformedDocumentError):
            _, entries = self.reread(layer)
            self._write_toc(layer.diff_id, entries)
            self.sync()
            return entries

    def reread(self, layer: Layer) -> "tuple[Layer, list[TocEntry]]":
        """What the blob itself says of the layer and what is in it. Raises as `adopt`."""
        layer = self.fetch(layer)
        with self._blobs.open(layer.descriptor.digest) as reader:
            found, entries = self._survey(reader, layer.descriptor, layer.diff_id)
            reader.drain()
        return found, entries

    def tar_pieces(self, layer: Layer) -> Iterator[bytes]:
        """The uncompressed tar; the last piece comes only when all of it is right."""
        layer = self.fetch(layer)
        with self._blobs.open(layer.descriptor.digest) as reader:
            tar = self._tar_reader(reader, layer.descriptor)
            held = b""
            while piece := tar.read(_PIECE_BYTES):
                if held:
                    yield held
                held = piece
            reader.drain()
        tar.check(layer.diff_id, layer.descriptor)
        if held:
            yield held

    def checkout(self, layer: Layer) -> Path:
        """The directory with the layer in overlayfs form; extracted now if there is none.

        Raises:
            CorruptBlobError: there is none, and the blob is damaged.
        """
        path = self.snapshot_path(layer.diff_id)
        if os.path.isdir(path) and self._is_sound(layer, path):  # noqa: PTH112 - hot
            return path
        return self._extract(self.fetch(layer), path)

    def lowerdirs(self, layers: Sequence[Layer]) -> tuple[Path, ...]:
        """The directories to stack for `layers` (bottom first), topmost first; at least one.

        Empty layers are left out, and of equal ones all but the topmost: overlayfs refuses to
        stack a directory twice, and the lower one could not be seen anyway.
        """
        stack = dict.fromkeys(layer for layer in reversed(layers) if not layer.is_empty)
        if not stack:
            return (self._empty_directory(),)
        return tuple(self.checkout(layer) for layer in stack)

    def tree(self, layers: Sequence[Layer]) -> "TreeIndex":
        """What a container of `layers` (bottom first) sees."""
        from layerstore.treeindex import TreeIndex

        tree = TreeIndex()
        for layer in layers:
            tree.add_layer(self.toc(layer))
        return tree

    def files(self, layers: Sequence[Layer]) -> "LayerFiles":
        """A reader of the contents of `tree(layers)`; close it when done."""
        from layerstore.layerfiles import LayerFiles

        return LayerFiles(self, layers)

    def read_file(self, layers: Sequence[Layer], node: "Node") -> "Content":
        """The content of one file of `tree(layers)`; for several, `files` is cheaper.

        Raises:
            CorruptBlobError: what is stored is not what the table of contents says (for a large
                file, when it is read).
        """

        def pieces() -> Iterator[bytes]:
            with self.files(layers) as reader:
                yield from reader.pieces(node)

        return b"".join(pieces()) if node.entry.size_bytes <= _SMALL_BYTES else pieces

    def find_checkout(self, layer: Layer) -> Path | None:
        """The directory with the layer in overlayfs form, if there is one."""
        path = self.snapshot_path(layer.diff_id)
        return path if path.is_dir() else None

    def changes(self, layer: Layer) -> "Generator[Change, None, None]":
        """What is in the blob, in the order of its tar, as `tarcodec.unpack` gives it.

        The last byte of the blob is verified only where all is read: compare what you take with
        the table of contents. Close the iterator when it is not read to its end.
        """
        from layerstore import compression

        layer = self.fetch(layer)
        with self._blobs.open(layer.descriptor.digest) as reader:
            kind = compression.kind_of(layer.descriptor.media_type)
            yield from _unpack(compression.decompressor(kind, reader))

    def temporary_file(self) -> "BinaryIO":
        """A file without a name, beside the layers."""
        path = self._new_tmp_path("file")
        file = path.open("w+b")
        path.unlink()
        return file

    def toc_path(self, diff_id: Digest) -> Path:
        """Where the table of contents is, or would be."""
        return self._private / "toc" / diff_id.hex

    def snapshot_path(self, diff_id: Digest) -> Path:
        """Where the checkout is, or would be."""
        return self._snapshots / diff_id.hex[:32]

    def sync(self) -> None:
        """Make new tables of contents safe from a power cut."""
        if not self._unsynced:
            return
        for diff_id in self._unsynced:
            fsync(self.toc_path(diff_id))
        fsync(self._private / "toc")
        self._unsynced = set()

    @property
    def is_writing(self) -> bool:
        """Whether `finish` would have to wait."""
        return not all(packing.is_done for _, packing in self._unfinished)

    def finish(self) -> None:
        """Wait for the blobs that are still being written.

        Raises:
            OSError: one could not be; its layer is forgotten.
        """
        while self._unfinished:
            layer, packing = self._unfinished.pop()
            try:
                packing.finish()
            except BaseException:
                packing.abandon()
                self.forget((layer.diff_id,))
                self._drop_toc(layer.diff_id)
                raise

    def abandon(self) -> None:
        """Stop what is still being written: nobody wants it any more."""
        while self._unfinished:
            layer, packing = self._unfinished.pop()
            packing.abandon()
            self.forget((layer.diff_id,))

    def pending_statements(self) -> Iterator[Statement]:
        """What a flush has to write, after both kinds of sync."""
        for layer in self._pending.values():
            values = _values(layer)
            yield (
                f"INSERT OR REPLACE INTO layers ({_COLUMNS}, checksum, stamp)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (*values, checksum(*values), self._stamp(layer)),
            )

    def flushed(self) -> None:
        """What was pending is in the database now."""
        self._found |= self._pending
        self._pending = {}

    def discard(self, digests: Iterable[Digest]) -> None:
        """Forget layers whose blobs were discarded before a flush; others stay."""
        gone = set(digests)
        for layer in [held for held in self._pending.values() if held.descriptor.digest in gone]:
            del self._pending[layer.diff_id]
            self._drop_toc(layer.diff_id)

    def forget(self, diff_ids: Iterable[Digest]) -> None:
        """Layers that were collected are not known any more."""
        for diff_id in diff_ids:
            self._found.pop(diff_id, None)
            self._pending.pop(diff_id, None)

    def damaged_rows(self) -> Iterator[str]:
        """The diff_ids of rows whose checksum is wrong."""
        for row in self._database.query(f"SELECT {_COLUMNS}, checksum FROM layers"):
            if _from_row(row) is None:
                yield str(row[0])

    def _add_packed(self, packed: "Packed", packing: "Packing") -> Layer:
        """Make a layer known whose blob is at most being written; one that is there stays."""
        from layerstore.packing import Packing

        self._hold((packed.diff_id,))
        self._offers.pop(packed.diff_id, None)
        known = self.find_here(packed.diff_id)
        if known is not None and (
            known.diff_id in self._pending or is_intact(self._blobs, known.descriptor.digest)
        ):
            packing.abandon()
            if not self.toc_path(known.diff_id).exists():
                self._write_toc(known.diff_id, packed.toc)
            return known
        packing.close()
        layer = _layer(
            diff_id=packed.diff_id,
            blob=packing.finish() if packing.is_done else packing,
            tar_size_bytes=packed.size_bytes,
            entries=packed.toc,
        )
        self._write_toc(layer.diff_id, packed.toc)
        self._pending[layer.diff_id] = layer
        if isinstance(layer.blob, Packing):
            self._unfinished.append((layer, packing))
        return layer

    def _add(self, layer: Layer, entries: "Sequence[TocEntry]") -> Layer:
        """Make the layer known; the one that is there stays, if its blob is good."""
        self._hold((layer.diff_id, layer.descriptor.digest))  # a blob of `index` is not held yet
        self._offers.pop(layer.diff_id, None)
        known = self.find_here(layer.diff_id)
        if known is not None and known.descriptor.digest != layer.descriptor.digest:
            if is_intact(self._blobs, known.descriptor.digest):
                return known
            known = None
        if known is None:
            self._pending[layer.diff_id] = layer
        if known is None or not self.toc_path(layer.diff_id).exists():
            self._write_toc(layer.diff_id, entries)
        return known or layer

    def _mend(self, descriptor: Descriptor, diff_id: Digest) -> bool:
        """Make a blob again of its table of contents and its checkout.

        False where these are not there or not good, and where another tool made the blob in
        another way: nothing but the very same bytes will do.
        """
        from layerstore import compression, tarcodec, toc
        from layerstore.layerfiles import checkout_changes

        try:
            entries = toc.load(self.toc_path(diff_id).read_bytes())
        except (FileNotFoundError, MalformedDocumentError):
            return False
        path = self.snapshot_path(diff_id)
        try:
            packed = tarcodec.pack(checkout_changes(entries, path), lambda _: None)
            if packed.diff_id != diff_id:  # cheaper to know than what comes next
                return False
            with self._blobs.writer() as writer:
                squeeze = compression.compressor(
                    compression.kind_of(descriptor.media_type), writer.write
                )
                tarcodec.pack(checkout_changes(entries, path), squeeze.write)
                squeeze.close()
                writer.commit(
                    expected_digest=descriptor.digest, expected_size_bytes=descriptor.size_bytes
                )
        except StoreError:
            return False
        return True

    def _is_usable(self, layer: Layer, stamp: Value) -> bool:
        """Whether the blob is what it was when the row was written.

        What is derived of it and was damaged since is taken away: it will be made again.
        """
        path = self.snapshot_path(layer.diff_id)
        if os.path.isdir(path):  # noqa: PTH112 - hot
            self._is_sound(layer, path, entries_max=_SMALL_ENTRIES)
        found = self._stamp(layer)
        if found == stamp:
            return True
        if not is_intact(self._blobs, layer.descriptor.digest):
            return False
        self.toc(layer)  # which makes a damaged one again
        self._database.write(
            [("UPDATE layers SET stamp = ? WHERE diff_id = ?", (self._stamp(layer), layer.diff_id))]
        )
        return True

    def _stamp(self, layer: Layer) -> str:
        """A text that changes when the blob or the table of contents may have changed."""
        try:
            status = os.stat(self.toc_path(layer.diff_id))  # noqa: PTH116 - hot
            of_toc = f"{status.st_ino}:{status.st_size}:{status.st_ctime_ns}"
        except OSError:
            of_toc = ""
        return f"{self._blobs.stamp(layer.descriptor.digest) or ''};{of_toc}"

    def _survey(
        self, stream: "Reader", descriptor: Descriptor, expected_diff_id: Digest
    ) -> "tuple[Layer, list[TocEntry]]":
        """Read a blob to the end of its tar: what is in it, and whether it is the expected one."""
        from layerstore import compression, overlaydir

        tar = self._tar_reader(stream, descriptor)
        entries = overlaydir.survey(_unpack(tar))
        tar.drain()
        tar.check(expected_diff_id, descriptor)
        layer = _layer(
            diff_id=expected_diff_id,
            # As a manifest of ours names it: with OCI's media type, without foreign annotations.
            blob=Descriptor(
                media_type=compression.media_type(compression.kind_of(descriptor.media_type)),
                digest=descriptor.digest,
                size_bytes=descriptor.size_bytes,
            ),
            tar_size_bytes=tar.size_bytes,
            entries=entries,
        )
        return layer, entries

    def _tar_reader(self, stream: "Reader", descriptor: Descriptor) -> "_TarReader":
        from layerstore import compression

        kind = compression.kind_of(descriptor.media_type)
        status = os.statvfs(self._private)
        limit_bytes = max(_TAR_BYTES_MIN, status.f_bavail * status.f_frsize)
        return _TarReader(compression.decompressor(kind, stream), limit_bytes)

    def _extract(self, layer: Layer, path: Path) -> Path:
        from layerstore import overlaydir

        directory = self._new_tmp_path("extract")
        directory.mkdir(mode=0o755)
        try:
            with self._blobs.open(layer.descriptor.digest) as reader:
                tar = self._tar_reader(reader, layer.descriptor)
                overlaydir.write(_unpack(tar), directory, userxattr=in_user_namespace())
                tar.drain()
                reader.drain()
            tar.check(layer.diff_id, layer.descriptor)
            self._keep_directory(directory, path)
        finally:
            if os.path.lexists(directory):
                overlaydir.remove_tree(directory)
        return path

    def _is_sound(self, layer: Layer, path: Path, *, entries_max: int = 0) -> bool:
        """Whether the checkout may be used; one that is damaged is taken away.

        Once in the life of this object it is looked at whether anything of it was touched (see
        seals.py); then its bytes decide.
        """
        from layerstore import seals

        if layer.diff_id in self._sound or seals.is_as_sealed(path, entries_max=entries_max):
            self._sound.add(layer.diff_id)
            return True
        from layerstore.checkouts import compare_checkout

        if not compare_checkout(self.toc(layer), path, userxattr=in_user_namespace()):
            seals.seal(path)
            self._sound.add(layer.diff_id)
            return True
        try:
            path.rename(self._new_tmp_path("damaged"))
        except FileNotFoundError:  # another process was first
            pass
        return False

    def _keep_directory(self, directory: Path, path: Path) -> bool:
        """Rename `directory` into snapshots/; False when another process was first."""
        from layerstore import seals

        seals.seal(directory)
        try:
            directory.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            return False
        return True

    def _keep_upperdir(
        self,
        upperdir: Path,
        layer: Layer,
        entries: "Iterable[TocEntry]",
        mtime_max_s: int | None,
    ) -> None:
        path = self.snapshot_path(layer.diff_id)
        if layer.is_empty or path.is_dir():
            return
        if mtime_max_s is not None and not _clamp_times(upperdir, entries, mtime_max_s):
            return  # a name beyond PATH_MAX: the layer will be extracted when it is needed
        self._keep_directory(upperdir, path)

    def _empty_directory(self) -> Path:
        path = self._snapshots / "empty"
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)  # it shows as the root of a container, whatever the umask
        return path

    def _drop_toc(self, diff_id: Digest) -> None:
        self._unsynced.discard(diff_id)
        self.toc_path(diff_id).unlink(missing_ok=True)

    def _write_toc(self, diff_id: Digest, entries: "Sequence[TocEntry]") -> None:
        from layerstore import toc

        temporary = self._new_tmp_path("toc")
        temporary.write_bytes(toc.dump(entries))
        temporary.rename(self.toc_path(diff_id))
        self._unsynced.add(diff_id)


def unknown_layer(diff_id: Digest, blob: Descriptor) -> Layer:
    """A layer of which nothing is known but its names; no store has it."""
    return Layer(
        diff_id=diff_id,
        blob=blob,
        size_bytes=0,
        tar_size_bytes=0,
        content_digest=diff_id,
        files=0,
        dirs=0,
        removed=0,
    )


def in_user_namespace() -> bool:
    """Whether this process is root of a user namespace only: overlayfs needs `userxattr` there."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:  # a kernel without user namespaces
        return False


def _layer(
    *,
    diff_id: Digest,
    blob: "Descriptor | Packing",
    tar_size_bytes: int,
    entries: "Sequence[TocEntry]",
) -> Layer:
    from layerstore import toc

    summary = toc.summarise(entries)
    return Layer(
        diff_id=diff_id,
        blob=blob,
        size_bytes=summary.size_bytes,
        tar_size_bytes=tar_size_bytes,
        content_digest=toc.content_digest(entries),
        files=summary.files,
        dirs=summary.dirs,
        removed=summary.removed,
    )


def _counting(
    write: Callable[[bytes], object], report: Callable[[int], object]
) -> Callable[[bytes], object]:
    """`write`, and tell how many bytes it has been given."""
    size_bytes = 0

    def count(data: bytes) -> None:
        nonlocal size_bytes
        write(data)
        size_bytes += len(data)
        report(size_bytes)

    return count


def _values(layer: Layer) -> Row:
    descriptor = layer.descriptor
    return (
        *(layer.diff_id, descriptor.media_type, descriptor.digest, descriptor.size_bytes),
        *(layer.size_bytes, layer.tar_size_bytes, layer.content_digest),
        *(layer.files, layer.dirs, layer.removed),
    )


def _from_row(row: Row) -> Layer | None:
    """The layer of `_COLUMNS, checksum`; None when the row is damaged."""
    if row[-1] != checksum(*row[:-1]):
        return None
    diff_id, media_type, digest, blob_bytes, size_bytes, tar_bytes, content, *counts = row[:-1]
    files, dirs, removed = map(_integer, counts)
    return Layer(
        diff_id=Digest(diff_id),
        blob=Descriptor(
            media_type=str(media_type), digest=Digest(digest), size_bytes=_integer(blob_bytes)
        ),
        size_bytes=_integer(size_bytes),
        tar_size_bytes=_integer(tar_bytes),
        content_digest=Digest(content),
        files=files,
        dirs=dirs,
        removed=removed,
    )


def _integer(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _unpack(tar: "Reader") -> "Iterator[Change]":
    from layerstore import tarcodec

    return tarcodec.unpack(tar)


class _TarReader:
    """Hashes a tar on its way, and stops one that would not fit on the disk."""

    def __init__(self, stream: "Reader", limit_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise MalformedDocumentError(
                context="layer",
                problem=f"unpacks to more than {self._limit_bytes} bytes, all that is free",
            )
        return data

    def drain(self) -> None:
        while self.read(_PIECE_BYTES):
            pass

    def check(self, diff_id: Digest, descriptor: Descriptor) -> None:
        """Compare all that was read with the announced diff_id."""
        actual = "sha256:" + self._hash.hexdigest()
        if actual != diff_id:
            raise CorruptBlobError(
                what=f"layer {descriptor.digest}", expected=f"diff_id {diff_id}", actual=actual
            )


class _Tee:
    """Hands on what is read, and stops what is longer than announced."""

    def __init__(
        self, stream: "Reader", write: Callable[[bytes], object], descriptor: Descriptor
    ) -> None:
        self._stream = stream
        self._write = write
        self._descriptor = descriptor
        self._read_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._read_bytes += len(data)
        if self._read_bytes > self._descriptor.size_bytes:
            raise CorruptBlobError(
                what=f"layer {self._descriptor.digest}",
                expected=f"{self._descriptor.size_bytes} bytes",
                actual="more",
            )
        self._write(data)
        return data

    def drain(self) -> None:
        while self.read(_PIECE_BYTES):
            pass


def _clamp_times(upperdir: Path, entries: "Iterable[TocEntry]", mtime_max_s: int) -> bool:
    """Give the files of `upperdir` the times that the layer has; False when a name is too long.

    Directories come last, deepest first, though nothing here touches the time of a parent.
    """
    mtime_ns = mtime_max_s * 1_000_000_000
    for entry in entries:
        if entry.kind in ("remove", "opaque", "hardlink") or entry.meta.mtime_ns != mtime_ns:
            continue
        try:
            os.utime(upperdir / entry.path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        except OSError:
            return False
    return True
