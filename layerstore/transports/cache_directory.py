"""Cached steps in a directory: the build cache of one store, for others.

    DIR/oci-layout, index.json    an OCI image layout; its one image stacks all exported layers,
                                  so that any tool that copies layouts copies the cache
    DIR/blobs/sha256/HEX          the layers, byte for byte, and their tables of contents
    DIR/lamina/steps/HEX          one step, under its key
    DIR/lamina/results/HEX        the key of a step, under parent, content and variant
    DIR/lamina/layers/HEX         what is known of a layer of a base image, under its diff_id
    DIR/lamina/mounts/HEX         the content of a cache mount (cached_mounts.py)

Import relies on the blobs and `lamina` alone. A step's file names its blobs by digest and depends
on no other file, so directories are merged by copying one over the other, in any order.

What is made of it, and how little of it is believed: cached_steps.py.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.backends.directory import open_blob, read_small
from layerstore.blobs import BlobReader
from layerstore.cacheindex import StepRow
from layerstore.descriptor import OCI_CONFIG, OCI_MANIFEST, REF_NAME, Descriptor
from layerstore.digest import Digest
from layerstore.documents import (
    LAYERS_MAX,
    History,
    ImageConfig,
    Manifest,
    Reader,
    canonical_json,
)
from layerstore.errors import CorruptBlobError, NotFoundError, UnusableLayerError
from layerstore.images import host_platform
from layerstore.layers import Came, Layer
from layerstore.transports.cached_steps import encode_layer, encode_step, table_descriptor
from layerstore.transports.exports import blob_name, blob_pieces
from layerstore.transports.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from layerstore.store import Store

_STEPS = "lamina/steps"
_RESULTS = "lamina/results"
_LAYERS = "lamina/layers"
MOUNTS = "lamina/mounts"
_TAG = "latest"


def export_steps(store: "Store", keys: Iterable[Digest], root: Path) -> int:
    """Write the steps with these keys, and all they need, into `root`; returns how many.

    What lies in `root` already stays. Left out are steps whose layer is lost or cannot be fetched.
    """
    layout = LayoutDirectory(root)
    layers: dict[Digest, Layer] = {}
    steps = 0
    for key in dict.fromkeys(keys):
        row = store.cache.row_anywhere(key)
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


def export_descriptions(store: "Store", layers: Iterable[Layer], root: Path) -> None:
    """Write what is known of layers into `root`, without their blobs.

    Left out are layers that are lost, or of which nothing can be read.
    """
    layout = LayoutDirectory(root)
    for layer in layers:
        with suppress(NotFoundError, CorruptBlobError, UnusableLayerError):
            table = _put_table(store, layout, layer)
            layout.write(f"{_LAYERS}/{layer.diff_id.hex}", encode_layer(layer, table))


def _write_step(store: "Store", layout: LayoutDirectory, row: StepRow, layer: Layer) -> None:
    """The step's file comes last: what it names is there."""
    blob = layer.descriptor
    layout.put(
        blob.digest,
        blob.size_bytes,
        partial(blob_pieces, store, blob.digest, blob.size_bytes),
    )
    table = _put_table(store, layout, layer)
    layout.write(f"{_STEPS}/{row.step.key.hex}", encode_step(row, layer, table))
    result = _result_name(row.parent, row.content_digest, row.variant)
    layout.write(result, canonical_json({"key": row.step.key}))


def _put_table(store: "Store", layout: LayoutDirectory, layer: Layer) -> Descriptor:
    from layerstore import toc

    table = toc.dump(store.layers.toc(layer))
    return table_descriptor(layout.put_document(table), len(table))


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


class DirectoryPlace:
    """Such a directory as a CachePlace."""

    attempts = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def label(self) -> str:
        return str(self._root)

    def exists(self) -> bool:
        return (self._root / _STEPS).is_dir()

    @property
    def origin(self) -> str:
        return ""

    def step(self, key: Digest) -> bytes | None:
        return read_small(self._root / _STEPS / key.hex)

    def layer(self, diff_id: Digest) -> bytes | None:
        return read_small(self._root / _LAYERS / diff_id.hex)

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        data = read_small(self._root / _result_name(parent, content_digest, variant))
        if data is None:
            return None
        return Digest.parse(Reader.of(data, context="result").text("key", required=True))

    def mount(self, key: str) -> bytes | None:
        return read_small(self._root / MOUNTS / key)

    def check(self, blob: Descriptor) -> None:
        self.open(blob).close()

    def take_in(self, store: "Store", layers: Sequence[Layer], came: Came) -> None:
        """Nothing: files are read as fast one after the other."""

    def open(self, blob: Descriptor) -> BlobReader:
        path = self._root / blob_name(blob.digest)
        return open_blob(path, blob.digest, size_bytes=blob.size_bytes)
