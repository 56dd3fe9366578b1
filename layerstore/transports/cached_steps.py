"""Cached steps of other stores, wherever they are kept: what a step's file says, and its layer.

A place (a directory, a repository of a registry) has for each step a small file under its key, and
blobs by digest. Nothing of it is believed. A step whose file is malformed or does not fit its name
is a miss, with a notice. A layer is offered by what the step's file says of it, and fetched when
its bytes matter: when the image is sealed, or a program runs on it. If then anything is not as it
was said, an UnusableLayerError says so, and the same place does not offer that layer again.

Invariants (tests/layerstore/transports/test_cached_steps.py, for every kind of place):
  1. A layer that is never needed is never read.
  2. Whatever bytes lie in the place: a layer is committed only under its own diff_id.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from layerstore.blobs import BlobReader
from layerstore.cacheindex import CachedStep, StepRow
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import Reader, canonical_json, descriptor_json, parse_descriptor
from layerstore.errors import MalformedDocumentError, StoreError, UnusableLayerError
from layerstore.layers import Layer

if TYPE_CHECKING:
    from layerstore.store import Store
    from layerstore.toc import TocEntry

TOC_TYPE = "application/vnd.lamina.layer.toc.v1"
_SCHEMA = 1
_TOC_BYTES_MAX = 256 << 20  # of a million files
_TOC_EMPTY_BYTES = 4096  # above those of its tar, where each file takes at least as many


class CachePlace(Protocol):
    """Where cached steps and contents of cache mounts are kept."""

    @property
    def label(self) -> str:
        """What it is called in messages."""

    @property
    def attempts(self) -> int:
        """How often a blob is read before it counts as damaged: bytes may change on a network."""

    def exists(self) -> bool:
        """Whether there is such a place at all."""

    def step(self, key: Digest) -> bytes | None:
        """The file of a step; None when there is none."""

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        """The key of a step on `parent` whose layer has this content."""

    def mount(self, key: str) -> bytes | None:
        """The file of a cache mount; None when there is none."""

    def check(self, blob: Descriptor) -> None:
        """Raise where it is plain to see that the blob is missing; nothing is read."""

    def open(self, blob: Descriptor) -> BlobReader:
        """A reader of a blob, which verifies it."""


def encode_step(row: StepRow, layer: Layer, table: Digest, table_bytes: int) -> bytes:
    """The file of a step."""
    return canonical_json(
        row_json(row)
        | {
            "schema": _SCHEMA,
            "layer": {
                "blob": descriptor_json(layer.descriptor),
                "toc": {"digest": table, "size": table_bytes},
                "diffId": layer.diff_id,
                "contentDigest": layer.content_digest,
                "size": layer.size_bytes,
                "tarSize": layer.tar_size_bytes,
                "files": layer.files,
                "dirs": layer.dirs,
                "removed": layer.removed,
            },
        }
    )


def row_json(row: StepRow) -> dict[str, object]:
    """A step, but for its layer, as it stands in a document."""
    return {
        "document": row.step.document.decode(),
        "created": row.step.created,
        "createdBy": row.step.created_by,
        "milliseconds": round(row.step.seconds * 1000),
        "parent": row.parent or "",
        "variant": row.variant,
    }


def parse_row(reader: Reader, layer: Layer) -> StepRow:
    """Read a step that made `layer`. Its key is the digest of its document."""
    document = reader.text("document", required=True).encode("utf-8", "surrogatepass")
    parent = reader.text("parent")
    return StepRow(
        step=CachedStep(
            key=Digest.of(document),
            diff_id=layer.diff_id,
            created=reader.time("created"),
            created_by=reader.text("createdBy"),
            seconds=reader.integer("milliseconds") / 1000,
            document=document,
        ),
        parent=Digest.parse(parent) if parent else None,
        variant=reader.text("variant"),
        content_digest=layer.content_digest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """A step's file, read."""

    row: StepRow
    layer: Layer
    table: Digest
    table_bytes: int

    @property
    def blobs(self) -> tuple[Descriptor, Descriptor]:
        """The layer, and its table of contents."""
        return self.layer.descriptor, table_descriptor(self.table, self.table_bytes)


def table_descriptor(digest: Digest, size_bytes: int) -> Descriptor:
    """How a table of contents is listed among blobs."""
    return Descriptor(media_type=TOC_TYPE, digest=digest, size_bytes=size_bytes)


def decode_step(data: bytes, key: Digest) -> StepEntry:
    """Read the file of the step with this key.

    Raises:
        MalformedDocumentError: it is none, or another one's.
    """
    reader = Reader.of(data, context=f"step {key.short}")
    inner = reader.child("layer")
    if reader.integer("schema") != _SCHEMA or inner is None:
        raise reader.error("schema", f"is not {_SCHEMA}, or there is no layer")
    blob, table = inner.child("blob"), inner.child("toc")
    if blob is None or table is None:
        raise inner.error("blob" if blob is None else "toc", "is missing")
    layer = Layer(
        diff_id=_digest(inner, "diffId"),
        blob=parse_descriptor(blob),
        size_bytes=inner.integer("size"),
        tar_size_bytes=inner.integer("tarSize"),
        content_digest=_digest(inner, "contentDigest"),
        files=inner.integer("files"),
        dirs=inner.integer("dirs"),
        removed=inner.integer("removed"),
    )
    row = parse_row(reader, layer)
    if row.step.key != key:
        raise reader.error("document", "is not that of the key")
    return StepEntry(
        row=row,
        layer=layer,
        table=_digest(table, "digest"),
        table_bytes=table.integer("size"),
    )


def _digest(reader: Reader, key: str) -> Digest:
    return Digest.parse(reader.text(key, required=True))


class StepCache:
    """Cached steps to look into: a StepSource for `CacheIndex.add_source`.

    Args:
        notice: told, in a sentence, of everything that could not be used.
    """

    def __init__(self, place: CachePlace, store: "Store", notice: Callable[[str], None]) -> None:
        self._place = place
        self._store = store
        self._notice = notice
        self._waiting: dict[Digest, list[StepRow]] = {}  # steps whose layer is not here yet
        self._refused: set[Digest] = set()  # diff_ids and keys that turned out to be unusable
        self._entries: dict[Digest, StepEntry] = {}  # by key: the steps that were asked for
        if not place.exists():
            notice(f"no build cache in {place.label}")

    def find(self, key: Digest) -> CachedStep | None:
        """The step with this key, whose layer is offered to the store."""
        if key in self._refused:
            return None
        try:
            data = self._place.step(key)
            entry = None if data is None else decode_step(data, key)
            if entry is not None and entry.row.step.diff_id not in self._refused:
                for blob in entry.blobs:
                    self._place.check(blob)
                self._offer(entry)
                return entry.row.step
        except (StoreError, OSError) as error:
            self._refused.add(key)
            self._tell(error)
        return None

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        """A step on `parent` whose layer has this content, offered to the store."""
        try:
            key = self._place.result(parent, content_digest, variant)
        except (StoreError, OSError) as error:
            self._tell(error)
            return None
        if key is None:
            return None
        step = self.find(key)
        layer = None if step is None else self._store.layers.find(step.diff_id)
        is_it = layer is not None and layer.content_digest == content_digest
        return step if is_it else None

    def row(self, key: Digest) -> StepRow | None:
        """A step that was found here, whether or not its layer has come."""
        entry = self._entries.get(key)
        usable = entry is not None and entry.row.step.diff_id not in self._refused
        return entry.row if entry is not None and usable else None

    def refuse(self, layer: Layer, error: Exception) -> UnusableLayerError:
        """The error for a layer that is not offered any more."""
        self._refused.add(layer.diff_id)
        return UnusableLayerError(source=f"build cache in {self._place.label}", error=error)

    def has_arrived(self, layer: Layer) -> None:
        """The layer is here: from now on the store itself knows the steps that made it."""
        for row in self._waiting.pop(layer.diff_id, ()):
            self._store.cache.put(row.step, parent=row.parent, variant=row.variant)

    def adopt(self, layer: Layer) -> Layer:
        """Take the blob of `layer` into the store."""
        for attempt in range(self._place.attempts):
            try:
                with self._place.open(layer.descriptor) as reader:
                    return self._store.layers.adopt(reader, layer.descriptor, layer.diff_id)
            except StoreError:
                if attempt + 1 == self._place.attempts:
                    raise
        raise AssertionError("there is at least one attempt")

    def toc_of(self, layer: Layer) -> "list[TocEntry]":
        """The table of a layer that has been adopted."""
        return self._store.layers.toc(layer)

    def table(self, entry: StepEntry) -> bytes:
        """The table of contents of a layer, as bytes that have its digest."""
        if entry.table_bytes > min(_TOC_BYTES_MAX, entry.layer.tar_size_bytes + _TOC_EMPTY_BYTES):
            raise MalformedDocumentError(context="table of contents", problem="too large")
        for attempt in range(self._place.attempts):
            try:
                with self._place.open(entry.blobs[1]) as reader:
                    return reader.read()
            except StoreError:
                if attempt + 1 == self._place.attempts:
                    raise
        raise AssertionError("there is at least one attempt")

    def _offer(self, entry: StepEntry) -> None:
        self._entries[entry.row.step.key] = entry
        self._waiting.setdefault(entry.layer.diff_id, []).append(entry.row)
        if not self._store.layers.offer(_Offer(self, entry)):
            self.has_arrived(entry.layer)

    def _tell(self, error: Exception) -> None:
        self._notice(f"not used of the build cache in {self._place.label}: {error}")


class _Offer:
    """An Offer: one layer of a place."""

    def __init__(self, source: StepCache, entry: StepEntry) -> None:
        self._source = source
        self._entry = entry
        self._table: list[TocEntry] | None = None
        self.layer = entry.layer

    def read_toc(self) -> "list[TocEntry]":
        """The table, which must have the content that the step's file says."""
        from layerstore import toc

        if self._table is None:
            entry = self._entry
            try:
                table = toc.load(self._source.table(entry))
                if toc.content_digest(table) != self.layer.content_digest:
                    raise MalformedDocumentError(
                        context=f"table of contents {entry.table}",
                        problem=f"not that of the layer {self.layer.diff_id}",
                    )
            except (StoreError, OSError) as error:
                raise self._source.refuse(self.layer, error) from error
            self._table = table
        return self._table

    def fetch(self) -> Layer:
        """The layer, adopted, when it is what was said; the step becomes the store's own."""
        try:
            layer = self._source.adopt(self.layer)
            if layer != self.layer:
                raise MalformedDocumentError(
                    context=f"layer {self.layer.diff_id}", problem="is not as the step describes it"
                )
            if self._table is not None and self._source.toc_of(layer) != self._table:
                raise MalformedDocumentError(
                    context=f"layer {self.layer.diff_id}", problem="has other contents"
                )
        except StoreError as error:
            raise self._source.refuse(self.layer, error) from error
        self._source.has_arrived(layer)
        return layer
