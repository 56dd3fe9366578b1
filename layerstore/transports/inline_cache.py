"""Cached steps inside of an image: its config says which step made which of its layers.

The image is its own cache then: who loads it, and names it to a build, has the steps that made its
layers as if they had been built there.

Nothing is believed but that a key leads to a layer, as in cache_directory.py: a config that is
malformed holds no steps, and a step's layer must be one of the image's.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from layerstore.cacheindex import CachedStep, StepRow
from layerstore.digest import Digest
from layerstore.documents import Reader, canonical_json, parse_json
from layerstore.errors import MalformedDocumentError, StoreError
from layerstore.images import Image
from layerstore.transports.cached_steps import parse_row, row_json

if TYPE_CHECKING:
    from layerstore.store import Store


def inline_steps(store: "Store", keys: Iterable[Digest]) -> str:
    """What the config of an image says of the steps with these keys; empty when there are none."""
    rows = filter(None, map(store.cache.row_anywhere, dict.fromkeys(keys)))
    steps = [row_json(row) | {"diffId": row.step.diff_id} for row in rows]
    return canonical_json(steps).decode() if steps else ""


class InlineCache:
    """The steps of one image: a StepSource for `CacheIndex.add_source`.

    Args:
        notice: told, in a sentence, why nothing of it can be used.
    """

    def __init__(self, image: Image, store: "Store", notice: Callable[[str], None]) -> None:
        self._store = store
        self._rows: dict[Digest, StepRow] = {}
        if not image.config.inline_cache:
            notice(f"no build cache in the image {image.id.short}: build it with type=inline")
            return
        try:
            self._rows = {row.step.key: row for row in _parse(image)}
        except StoreError as error:
            notice(f"not used of the build cache in the image {image.id.short}: {error}")

    def find(self, key: Digest) -> CachedStep | None:
        """The step with this key."""
        row = self._rows.get(key)
        if row is None or self._store.layers.find(row.step.diff_id) is None:
            return None
        self._store.cache.put(row.step, parent=row.parent, variant=row.variant)
        return row.step

    def row(self, key: Digest) -> StepRow | None:
        """The step with this key, and what else it is found by."""
        return self._rows.get(key)

    def describe(self, diff_id: Digest) -> None:
        """Nothing: all layers of the image are here."""

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        """A step on `parent` whose layer has this content."""
        wanted = (parent, content_digest, variant)
        for key, row in self._rows.items():
            if (row.parent, row.content_digest, row.variant) == wanted:
                return self.find(key)
        return None


def _parse(image: Image) -> list[StepRow]:
    layers = {layer.diff_id: layer for layer in image.layers}
    document = parse_json(image.config.inline_cache.encode(), context="inline cache")
    rows = []
    for item in document if isinstance(document, list) else ():
        if not isinstance(item, dict):
            raise MalformedDocumentError(context="inline cache", problem="a step is no object")
        reader = Reader(item, "inline cache")
        layer = layers.get(Digest(reader.text("diffId", required=True)))
        if layer is not None:
            rows.append(parse_row(reader, layer))
    return rows
