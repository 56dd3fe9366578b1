"""Cached steps of other stores, wherever they are kept: what a step's file says, and its layer.

A place (a directory, a repository of a registry) has for each step a small file under its key, and
blobs by digest. Nothing of it is believed. A step whose file is malformed or does not fit its name
is a miss, with a notice. A layer is offered by what the step's file says of it, and fetched when
its bytes matter: when the image is sealed, or a program runs on it. If then anything is not as it
was said, an UnusableLayerError says so, and the same place does not offer that layer again.

The layers of base images are described in the same way; their blobs stay in the registry that the
base image is in (layerstore/registry/offers.py).

Invariants (tests/layerstore/transports/test_cached_steps.py, for every kind of place):
  1. A layer that is never needed is never read.
  2. Whatever bytes lie in the place: a layer is committed only under its own diff_id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from layerstore.blobs import BlobReader
from layerstore.cacheindex import CachedStep, StepRow
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import Reader, canonical_json, descriptor_json, parse_descriptor
from layerstore.errors import MalformedDocumentError, StoreError, UnusableLayerError
from layerstore.layers import BlobElsewhere, Came, Layer, Offer

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

    @property
    def origin(self) -> str:
        """The repository of a registry (`host/path`) that its blobs are in; empty elsewhere."""

    def exists(self) -> bool:
        """Whether there is such a place at all."""

    def step(self, key: Digest) -> bytes | None:
        """The file of a step; None when there is none."""

    def layer(self, diff_id: Digest) -> bytes | None:
        """What is said of a layer; None when nothing is."""

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        """The key of a step on `parent` whose layer has this content."""

    def mount(self, key: str) -> bytes | None:
        """The file of a cache mount; None when there is none."""

    def check(self, blob: Descriptor) -> None:
        """Raise where it is plain to see that the blob is missing; nothing is read."""

    def open(self, blob: Descriptor) -> BlobReader:
        """A reader of a blob, which verifies it."""

    def take_in(self, store: "Store", layers: Sequence[Layer], came: Came) -> None:
        """Take in layers side by side, where that is faster, as far as they come well."""


def encode_step(row: StepRow, layer: Layer, table: Descriptor) -> bytes:
    """The file of a step."""
    return canonical_json(row_json(row) | {"schema": _SCHEMA, "layer": layer_json(layer, table)})


def encode_layer(layer: Layer, table: Descriptor) -> bytes:
    """What is said of a layer that no step of the cache made."""
    return canonical_json({"schema": _SCHEMA, "layer": layer_json(layer, table)})


def layer_json(layer: Layer, table: Descriptor) -> dict[str, object]:
    """A layer as it stands in a document."""
    return described_json(layer) | {
        "blob": descriptor_json(layer.descriptor),
        "toc": {"digest": table.digest, "size": table.size_bytes},
    }


def described_json(layer: Layer) -> dict[str, object]:
    """The same without its blobs."""
    return {
        "diffId": layer.diff_id,
        "contentDigest": layer.content_digest,
        "size": layer.size_bytes,
        "tarSize": layer.tar_size_bytes,
        "files": layer.files,
        "dirs": layer.dirs,
        "removed": layer.removed,
    }


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
class LayerEntry:
    """What is said of a layer, read. `table` is its table of contents, as a blob."""

    layer: Layer
    table: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """A step's file, read."""

    row: StepRow
    made: LayerEntry

    @property
    def blobs(self) -> tuple[Descriptor, Descriptor]:
        """The layer, and its table of contents."""
        return self.made.layer.descriptor, self.made.table


def table_descriptor(digest: Digest, size_bytes: int) -> Descriptor:
    """How a table of contents is listed among blobs."""
    return Descriptor(media_type=TOC_TYPE, digest=digest, size_bytes=size_bytes)


def decode_step(data: bytes, key: Digest) -> StepEntry:
    """Read the file of the step with this key.

    Raises:
        MalformedDocumentError: it is none, or another one's.
    """
    reader = Reader.of(data, context=f"step {key.short}")
    made = _layer_entry(reader)
    row = parse_row(reader, made.layer)
    if row.step.key != key:
        raise reader.error("document", "is not that of the key")
    return StepEntry(row=row, made=made)


def decode_layer(data: bytes, diff_id: Digest) -> LayerEntry:
    """Read what is said of the layer with this diff_id.

    Raises:
        MalformedDocumentError: it is nothing that can be read, or of another one.
    """
    reader = Reader.of(data, context=f"layer {diff_id.short}")
    found = _layer_entry(reader)
    if found.layer.diff_id != diff_id:
        raise reader.error("layer", "is another one")
    return found


def _layer_entry(reader: Reader) -> LayerEntry:
    inner = reader.child("layer")
    if reader.integer("schema") != _SCHEMA or inner is None:
        raise reader.error("schema", f"is not {_SCHEMA}, or there is no layer")
    blob, table = inner.child("blob"), inner.child("toc")
    if blob is None or table is None:
        raise inner.error("blob" if blob is None else "toc", "is missing")
    layer = parse_described(inner, parse_descriptor(blob))
    listed = table_descriptor(_digest(table, "digest"), table.integer("size"))
    return LayerEntry(layer=layer, table=listed)


def parse_described(reader: Reader, blob: Descriptor) -> Layer:
    """Read what `described_json` wrote of a layer."""
    return Layer(
        diff_id=_digest(reader, "diffId"),
        blob=blob,
        size_bytes=reader.integer("size"),
        tar_size_bytes=reader.integer("tarSize"),
        content_digest=_digest(reader, "contentDigest"),
        files=reader.integer("files"),
        dirs=reader.integer("dirs"),
        removed=reader.integer("removed"),
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
        self._offers: dict[Digest, _Offer] = {}  # by diff_id; each keeps the table it has read
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

    def describe(self, diff_id: Digest) -> "DescribedLayer | None":
        """What is said of a layer that lies in another place."""
        if diff_id in self._refused:
            return None
        try:
            data = self._place.layer(diff_id)
            return None if data is None else DescribedLayer(self, decode_layer(data, diff_id))
        except (StoreError, OSError) as error:
            self._refused.add(diff_id)
            self._tell(error)
            return None

    @property
    def origin(self) -> str:
        """Where the blobs of the place are, as an Offer says it."""
        return self._place.origin

    def refuse(self, layer: Layer, error: Exception) -> UnusableLayerError:
        """The error for a layer that is not offered any more."""
        self._refused.add(layer.diff_id)
        return UnusableLayerError(source=f"build cache in {self._place.label}", error=error)

    def has_arrived(self, layer: Layer) -> None:
        """The layer is here: from now on the store itself knows the steps that made it."""
        for row in self._waiting.pop(layer.diff_id, ()):
            self._store.cache.put(row.step, parent=row.parent, variant=row.variant)

    def adopt(self, layer: Layer) -> Layer:
        """Take the blob of `layer` into the store, unless it has been brought."""
        known = self._store.layers.find_here(layer.diff_id)
        if known is not None:
            return known
        for attempt in range(self._place.attempts):
            try:
                with self._place.open(layer.descriptor) as reader:
                    return self._store.layers.adopt(reader, layer.descriptor, layer.diff_id)
            except StoreError:
                if attempt + 1 == self._place.attempts:
                    raise
        raise AssertionError("there is at least one attempt")

    def bring(self, layers: Sequence[Layer], came: Came) -> None:
        """Have several layers come, as far as they come well."""
        find = self._store.layers.find_here
        missing = [layer for layer in layers if find(layer.diff_id) is None]
        if len(missing) > 1:
            self._place.take_in(self._store, missing, came)

    def toc_of(self, layer: Layer) -> "list[TocEntry]":
        """The table of a layer that has been adopted."""
        return self._store.layers.toc(layer)

    def table(self, entry: LayerEntry) -> bytes:
        """The table of contents of a layer, as bytes that have its digest."""
        limit_bytes = min(_TOC_BYTES_MAX, entry.layer.tar_size_bytes + _TOC_EMPTY_BYTES)
        if entry.table.size_bytes > limit_bytes:
            raise MalformedDocumentError(context="table of contents", problem="too large")
        for attempt in range(self._place.attempts):
            try:
                with self._place.open(entry.table) as reader:
                    return reader.read()
            except StoreError:
                if attempt + 1 == self._place.attempts:
                    raise
        raise AssertionError("there is at least one attempt")

    def _offer(self, entry: StepEntry) -> None:
        self._entries[entry.row.step.key] = entry
        layer = entry.made.layer
        self._waiting.setdefault(layer.diff_id, []).append(entry.row)
        offer = self._offers.setdefault(layer.diff_id, _Offer(self, entry.made))
        if not self._store.layers.offer(offer):
            self.has_arrived(layer)

    def _tell(self, error: Exception) -> None:
        self._notice(f"not used of the build cache in {self._place.label}: {error}")


class DescribedLayer:
    """A layer that a cache knows, wherever its blob lies."""

    def __init__(self, source: StepCache, entry: LayerEntry) -> None:
        self._source = source
        self._entry = entry
        self._table: list[TocEntry] | None = None
        self.layer = entry.layer

    @property
    def table(self) -> BlobElsewhere:
        """The table as a blob of the place."""
        return BlobElsewhere(blob=self._entry.table, origin=self._source.origin)

    def read_toc(self) -> "list[TocEntry]":
        """The table, which must have the content that is said.

        Raises:
            UnusableLayerError: it has another, or cannot be read.
        """
        from layerstore import toc

        if self._table is None:
            entry = self._entry
            try:
                table = toc.load(self._source.table(entry))
                if toc.content_digest(table) != self.layer.content_digest:
                    raise MalformedDocumentError(
                        context=f"table of contents {entry.table.digest}",
                        problem=f"not that of the layer {self.layer.diff_id}",
                    )
            except (StoreError, OSError) as error:
                raise self._source.refuse(self.layer, error) from error
            self._table = table
        return self._table

    def check(self, layer: Layer) -> Layer:
        """Return `layer`, which has come, if it is what was said of it.

        Raises:
            UnusableLayerError: it is not.
        """
        problem = ""
        if layer != self.layer:
            problem = "is not as it is described there"
        elif self._table is not None and self._source.toc_of(layer) != self._table:
            problem = "has other contents"
        if problem:
            error = MalformedDocumentError(context=f"layer {layer.diff_id}", problem=problem)
            raise self._source.refuse(self.layer, error) from error
        return layer


class _Offer(DescribedLayer):
    """An Offer: one layer of a place, with its blob."""

    @property
    def origin(self) -> str:
        """Where the blob is."""
        return self._source.origin

    def bring(self, offers: Sequence[Offer], came: Came) -> None:
        """Have the others of the same place come with it."""
        beside = (each for each in offers if isinstance(each, _Offer))
        same = [each.layer for each in beside if each._source is self._source]
        self._source.bring(same, came)

    def fetch(self) -> Layer:
        """The layer, adopted, when it is what was said; the step becomes the store's own."""
        try:
            layer = self._source.adopt(self.layer)
        except StoreError as error:
            raise self._source.refuse(self.layer, error) from error
        self.check(layer)
        self._source.has_arrived(layer)
        return layer
