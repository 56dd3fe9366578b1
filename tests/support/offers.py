"""Layers that a store does not have, offered to it by another one; a cache without steps.

offer = Offered(layer, there=other, here=store, origin="127.0.0.1:5000/base")
store.layers.offer(offer)
store.layers.fetch(layer); offer.fetched, offer.brought
store.cache.add_source(NoSteps())
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from layerstore import CachedStep, Digest, Layer, Store, TocEntry
from layerstore.cacheindex import DescribedLayer
from layerstore.layers import Came, Offer


@dataclass
class Offered:
    """An Offer of a layer of `there`. With `tells`, it says that it has come with others."""

    layer: Layer
    there: Store
    here: Store
    origin: str = ""
    tells: bool = False
    fetched: int = 0
    brought: list[list[Offer]] = field(default_factory=list)

    @property
    def table(self) -> None:
        return None

    def read_toc(self) -> list[TocEntry]:
        return self.there.layers.toc(self.layer)

    def bring(self, offers: Sequence[Offer], came: Came) -> None:
        self.brought.append(list(offers))
        if self.tells:
            size_bytes = self.layer.descriptor.size_bytes
            came(self.layer.descriptor.digest, size_bytes, size_bytes)

    def fetch(self) -> Layer:
        self.fetched += 1
        with self.there.blobs.open(self.layer.descriptor.digest) as reader:
            return self.here.layers.adopt(reader, self.layer.descriptor, self.layer.diff_id)


class NoSteps:
    """A StepSource that knows nothing."""

    def find(self, key: Digest) -> CachedStep | None:
        return None

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        return None

    def row(self, key: Digest) -> None:
        return None

    def describe(self, diff_id: Digest) -> DescribedLayer | None:
        return None
