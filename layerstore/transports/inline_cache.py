"""Cached steps inside of an image: its config says which step made which of its layers.

The image is its own cache then: who loads it, and names it to a build, has the steps that made its
layers as if they had been built there. Of an image in a registry the layers are known before they
are fetched (layerstore/registry/offers.py).

    lamina.cache.v2    {"layers": [...], "steps": [...]}, as text

Nothing is believed but that a key leads to a layer, as in cached_steps.py: a config that is
malformed holds no steps, a step's layer must be one of the image's, and one that is here must be
what is said of it.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from layerstore.cacheindex import CachedStep, StepRow
from layerstore.digest import Digest
from layerstore.documents import ImageConfig, Manifest, Reader, canonical_json
from layerstore.errors import MalformedDocumentError, StoreError, UnusableLayerError
from layerstore.layers import Layer
from layerstore.transports.cached_steps import (
    described_json,
    parse_described,
    parse_row,
    row_json,
)

if TYPE_CHECKING:
    from layerstore.store import Store
    from layerstore.toc import TocEntry


def inline_steps(store: "Store", keys: Iterable[Digest], layers: Iterable[Layer]) -> str:
    """What the config of an image of `layers` says of the steps with these keys.

    Empty when there are none.
    """
    rows = filter(None, map(store.cache.row_anywhere, dict.fromkeys(keys)))
    steps = [row_json(row) | {"diffId": row.step.diff_id} for row in rows]
    described = [described_json(layer) for layer in dict.fromkeys(layers)]
    document = canonical_json({"layers": described, "steps": steps})
    return document.decode() if steps else ""


class InlineCache:
    """The steps of one image: a StepSource for `CacheIndex.add_source`.

    Args:
        notice: told, in a sentence, why nothing of it can be used.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: ImageConfig,
        store: "Store",
        notice: Callable[[str], None],
    ) -> None:
        self._store = store
        self._name = f"the image {manifest.config.digest.short}"
        self._rows: dict[Digest, StepRow] = {}
        self._layers: dict[Digest, Layer] = {}
        self._refused: set[Digest] = set()
        if not config.inline_cache:
            notice(f"no build cache in {self._name}: build it with type=inline")
            return
        try:
            self._layers, self._rows = _parse(manifest, config)
        except StoreError as error:
            notice(f"not used of the build cache in {self._name}: {error}")

    def find(self, key: Digest) -> CachedStep | None:
        """The step with this key, whose layer is here or offered."""
        row = self._rows.get(key)
        if row is None or row.step.diff_id in self._refused:
            return None
        if self._store.layers.find(row.step.diff_id) != self._layers[row.step.diff_id]:
            return None
        if not self._store.layers.is_offered(row.step.diff_id):
            self._put(row)
        return row.step

    def row(self, key: Digest) -> StepRow | None:
        """The step with this key, and what else it is found by."""
        return self._rows.get(key)

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        """A step on `parent` whose layer has this content."""
        wanted = (parent, content_digest, variant)
        for key, row in self._rows.items():
            if (row.parent, row.content_digest, row.variant) == wanted:
                return self.find(key)
        return None

    def describe(self, diff_id: Digest) -> "_Described | None":
        """What is said of a layer of the image."""
        layer = self._layers.get(diff_id)
        return None if layer is None or diff_id in self._refused else _Described(self, layer)

    def has_arrived(self, layer: Layer) -> None:
        """The layer is here: from now on the store itself knows the steps that made it."""
        for row in self._rows.values():
            if row.step.diff_id == layer.diff_id:
                self._put(row)

    def refuse(self, layer: Layer) -> UnusableLayerError:
        """The error for a layer that is not what was said of it."""
        self._refused.add(layer.diff_id)
        error = MalformedDocumentError(
            context=f"layer {layer.diff_id}", problem="is not as it is described there"
        )
        return UnusableLayerError(source=f"build cache in {self._name}", error=error)

    def _put(self, row: StepRow) -> None:
        self._store.cache.put(row.step, parent=row.parent, variant=row.variant)


class _Described:
    """A DescribedLayer, without a table of contents."""

    def __init__(self, cache: InlineCache, layer: Layer) -> None:
        self._cache = cache
        self.layer = layer

    @property
    def table(self) -> None:
        """There is none."""

    def read_toc(self) -> "list[TocEntry] | None":
        """Nothing: it would make the config too large."""
        return None

    def check(self, layer: Layer) -> Layer:
        """Return `layer`, which has come, if it is what was said of it."""
        if layer != self.layer:
            raise self._cache.refuse(layer)
        self._cache.has_arrived(layer)
        return layer


def _parse(
    manifest: Manifest, config: ImageConfig
) -> tuple[dict[Digest, Layer], dict[Digest, StepRow]]:
    """Layers by diff_id, and steps by key."""
    reader = Reader.of(config.inline_cache.encode(), context="inline cache")
    blobs = dict(zip(config.diff_ids, manifest.layers, strict=False))

    def parse_layer(each: Reader) -> Layer | None:
        blob = blobs.get(Digest(each.text("diffId", required=True)))
        return None if blob is None else parse_described(each, blob)

    known = filter(None, reader.items("layers", parse_layer))
    layers = {layer.diff_id: layer for layer in known}

    def parse_step(each: Reader) -> StepRow | None:
        layer = layers.get(Digest(each.text("diffId", required=True)))
        return None if layer is None else parse_row(each, layer)

    rows = filter(None, reader.items("steps", parse_step))
    return layers, {row.step.key: row for row in rows}
