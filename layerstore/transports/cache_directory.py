"""Cached steps in a directory: the build cache of one store, for others.

    DIR/oci-layout, index.json    an OCI image layout; its one image stacks all exported layers,
                                  so that any tool that copies layouts copies the cache
    DIR/blobs/sha256/HEX          the layers, byte for byte, and their tables of contents
    DIR/lamina/steps/HEX          one step, under its key
    DIR/lamina/results/HEX        the key of a step, under parent, content and variant
    DIR/lamina/mounts/HEX         the content of a cache mount (cached_mounts.py)

Import relies on the blobs and `lamina` alone. A step's file names its blobs by digest and depends
on no other file, so directories are merged by copying one over the other, in any order.

Nothing is believed. A step whose file is malformed or does not fit its name is a miss, with a
notice. A layer is offered by what the step's file says of it, and fetched when its bytes matter:
when the image is sealed, or a program runs on it. If then anything is not as it was said, an
UnusableLayerError says so, and the same directory does not offer that layer again.

Invariants (tests/layerstore/transports/test_cache_directory.py):
  1. A layer that is never needed is never read.
  2. Whatever bytes lie in the directory: a layer is committed only under its own diff_id.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.backends.directory import open_blob
from layerstore.cacheindex import CachedStep, StepRow
from layerstore.descriptor import OCI_CONFIG, OCI_MANIFEST, REF_NAME, Descriptor
from layerstore.digest import Digest
from layerstore.documents import (
    DOCUMENT_BYTES_MAX,
    LAYERS_MAX,
    History,
    ImageConfig,
    Manifest,
    Reader,
    canonical_json,
    descriptor_json,
    parse_descriptor,
)
from layerstore.errors import MalformedDocumentError, StoreError, UnusableLayerError
from layerstore.images import host_platform
from layerstore.layers import Layer
from layerstore.transports.exports import blob_name, blob_pieces
from layerstore.transports.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from layerstore.store import Store
    from layerstore.toc import TocEntry

_SCHEMA = 1
_STEPS = "lamina/steps"
_RESULTS = "lamina/results"
_TOC_BYTES_MAX = 256 << 20  # of a million files
_TAG = "latest"


def export_steps(store: "Store", keys: Iterable[Digest], root: Path) -> int:
    """Write the steps with these keys, and all they need, into `root`; returns how many.

    What lies in `root` already stays. Left out are steps whose layer is lost or cannot be fetched.
    """
    layout = LayoutDirectory(root)
    layers: dict[Digest, Layer] = {}
    steps = 0
    for key in dict.fromkeys(keys):
        row = store.cache.row(key)
        layer = None if row is None else store.layers.find(row.step.diff_id)
        if row is None or layer is None:
            continue
        try:
            layer = store.layers.fetch(layer)
        except UnusableLayerError:
            continue
        layers[layer.diff_id] = layer
        _write_step(store, layout, row, layer)
        steps += 1
    layout.list_entries([_cache_image(layout, list(layers.values()))])
    return steps


def _write_step(store: "Store", layout: LayoutDirectory, row: StepRow, layer: Layer) -> None:
    """The step's file comes last: what it names is there."""
    from layerstore import toc

    blob = layer.descriptor
    layout.put(
        blob.digest,
        blob.size_bytes,
        partial(blob_pieces, store, blob.digest, blob.size_bytes),
    )
    table = toc.dump(store.layers.toc(layer))
    table_digest = layout.put_document(table)
    layout.write(f"{_STEPS}/{row.step.key.hex}", _encode(row, layer, table_digest, len(table)))
    result = _result_name(row.parent, row.content_digest, row.variant)
    layout.write(result, canonical_json({"key": row.step.key}))


def _result_name(parent: Digest | None, content_digest: Digest, variant: str) -> str:
    return f"{_RESULTS}/{Digest.of(canonical_json([parent, content_digest, variant])).hex}"


def _cache_image(layout: LayoutDirectory, layers: list[Layer]) -> Descriptor:
    """An image of all layers, so that the layout is complete for tools that read images."""
    stack = sorted(layers, key=lambda layer: layer.diff_id)[:LAYERS_MAX]
    platform = host_platform()
    config = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        diff_ids=tuple(layer.diff_id for layer in stack),
        history=tuple(History(created_by="build cache") for _ in stack),
    ).encode()
    manifest = Manifest(
        config=Descriptor(
            media_type=OCI_CONFIG, digest=layout.put_document(config), size_bytes=len(config)
        ),
        layers=tuple(layer.descriptor for layer in stack),
    ).encode()
    return Descriptor(
        media_type=OCI_MANIFEST,
        digest=layout.put_document(manifest),
        size_bytes=len(manifest),
        annotations=((REF_NAME, _TAG),),
    )


def _encode(row: StepRow, layer: Layer, table: Digest, table_bytes: int) -> bytes:
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
class _Entry:
    """A step's file, read."""

    row: StepRow
    layer: Layer
    table: Digest
    table_bytes: int


def _decode(data: bytes, key: Digest) -> _Entry:
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
    return _Entry(
        row=row,
        layer=layer,
        table=_digest(table, "digest"),
        table_bytes=table.integer("size"),
    )


def _digest(reader: Reader, key: str) -> Digest:
    return Digest.parse(reader.text(key, required=True))


class CacheDirectory:
    """A directory of cached steps to look into: a StepSource for `CacheIndex.add_source`.

    Args:
        notice: told, in a sentence, of everything that could not be used.
    """

    def __init__(self, root: Path, store: "Store", notice: Callable[[str], None]) -> None:
        self.root = root
        self._store = store
        self._notice = notice
        self._waiting: dict[Digest, list[StepRow]] = {}  # steps whose layer is not here yet
        self._refused: set[Digest] = set()  # diff_ids and keys that turned out to be unusable
        if not (root / _STEPS).is_dir():
            notice(f"no build cache in {root}")

    def find(self, key: Digest) -> CachedStep | None:
        """The step with this key, whose layer is offered to the store."""
        if key in self._refused:
            return None
        try:
            data = read_small(self.root / _STEPS / key.hex)
            entry = None if data is None else _decode(data, key)
            if entry is not None and entry.row.step.diff_id not in self._refused:
                self._check_blobs(entry)
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
            data = read_small(self.root / _result_name(parent, content_digest, variant))
            if data is None:
                return None
            key = _digest(Reader.of(data, context="result"), "key")
        except (StoreError, OSError) as error:
            self._tell(error)
            return None
        step = self.find(key)
        layer = None if step is None else self._store.layers.find(step.diff_id)
        is_it = layer is not None and layer.content_digest == content_digest
        return step if is_it else None

    def refuse(self, layer: Layer, error: Exception) -> UnusableLayerError:
        """The error for a layer that is not offered any more."""
        self._refused.add(layer.diff_id)
        return UnusableLayerError(source=f"build cache in {self.root}", error=error)

    def has_arrived(self, layer: Layer) -> None:
        """The layer is here: from now on the store itself knows the steps that made it."""
        for row in self._waiting.pop(layer.diff_id, ()):
            self._store.cache.put(row.step, parent=row.parent, variant=row.variant)

    def adopt(self, layer: Layer) -> Layer:
        """Take the blob of `layer` into the store."""
        blob = layer.descriptor
        with open_blob(self.root / blob_name(blob.digest), blob.digest) as reader:
            return self._store.layers.adopt(reader, blob, layer.diff_id)

    def toc_of(self, layer: Layer) -> "list[TocEntry]":
        """The table of a layer that has been adopted."""
        return self._store.layers.toc(layer)

    def table(self, digest: Digest, size_bytes: int) -> bytes:
        """The table of contents of a layer, as bytes that have this digest."""
        if size_bytes > _TOC_BYTES_MAX:
            raise MalformedDocumentError(context="table of contents", problem="too large")
        path = self.root / blob_name(digest)
        with open_blob(path, digest, size_bytes=size_bytes) as reader:
            return reader.read()

    def _offer(self, entry: _Entry) -> None:
        self._waiting.setdefault(entry.layer.diff_id, []).append(entry.row)
        if not self._store.layers.offer(_Offer(self, entry)):
            self.has_arrived(entry.layer)

    def _check_blobs(self, entry: _Entry) -> None:
        """Whether the blobs are there, with the right sizes; no byte of them is read."""
        blob = entry.layer.descriptor
        for digest, size_bytes in (
            (blob.digest, blob.size_bytes),
            (entry.table, entry.table_bytes),
        ):
            open_blob(self.root / blob_name(digest), digest, size_bytes=size_bytes).close()

    def _tell(self, error: Exception) -> None:
        self._notice(f"not used of the build cache in {self.root}: {error}")


class _Offer:
    """An Offer: one layer of a directory."""

    def __init__(self, source: CacheDirectory, entry: _Entry) -> None:
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
                table = toc.load(self._source.table(entry.table, entry.table_bytes))
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


def read_small(path: Path) -> bytes | None:
    """A small file of a stranger's directory; None when it is not there."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    try:
        with open(path, "rb", opener=opener) as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > DOCUMENT_BYTES_MAX:
        raise MalformedDocumentError(context=path.name, problem="too large")
    return data
