"""Layers of images in registries that come when their bytes matter, and not before.

A layer that a build cache describes need not be here for a build to go on: it is offered to the
store (layerstore/layers.py, `Offer`). What comes is compared with what was said of it.

    offer_image     what a build stands on: with the first layer all that are missing come,
                    side by side, and the image is stored and named
    offer_layers    an image that is a cache itself: its layers come one by one, or those that are
                    wanted together
    know_image      what a prediction stands on: nothing comes, and nothing is known of the layers
                    that nobody describes

Invariants (tests/layerstore/registry/test_offers.py):
  1. While layers are missing, the image is neither stored nor named.
  2. A layer is committed only under the diff_id that the image's config has for it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from layerstore import compression
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.errors import StoreError
from layerstore.images import Image
from layerstore.layers import BlobElsewhere, Came, Layer, Offer
from layerstore.reference import Reference
from layerstore.registry.pull import RemoteImage
from layerstore.registry.transfers import Report, reporting, untold

if TYPE_CHECKING:
    from layerstore.cacheindex import DescribedLayer
    from layerstore.registry.client import RegistryClient
    from layerstore.store import Store
    from layerstore.toc import TocEntry

Describe = Callable[[Digest], "DescribedLayer | None"]
Watch = Callable[[Reference], AbstractContextManager[Report]]


def offer_image(
    client: "RegistryClient",
    store: "Store",
    reference: Reference,
    *,
    platform: Platform | None = None,
    report: Report = untold,
    watch: Watch,
) -> Image:
    """The image with that name; what no build cache describes of it comes now.

    Args:
        report: is told of the layers that come now.
        watch: watches what comes later.

    Raises as `pull_image`; the layers may raise it later, and UnusableLayerError.
    """
    image = RemoteImage.find(client, store, reference, platform)
    offers, rest = _sorted(image, store.cache.describe, report)
    if not offers:
        return image.take(rest, report)
    image.fetch(rest, report)
    _offer(image, offers, _Together(image, offers, watch))
    return image.image_of_known()


def know_image(
    client: "RegistryClient",
    store: "Store",
    reference: Reference,
    *,
    platform: Platform | None = None,
) -> Image:
    """The image with that name, none of whose layers is fetched.

    Those that are here, or described, are known to the store; of the others the image has the
    digests alone, and sizes of 0.

    Raises as `pull_image`.
    """
    image = RemoteImage.find(client, store, reference, platform)
    offers, _ = _sorted(image, store.cache.describe, untold)
    _offer(image, offers, _Apart(image))
    return image.image_of_known()


def offer_layers(image: RemoteImage, describe: Describe) -> None:
    """Offer the layers of an image; what nobody describes comes now.

    Raises as `pull_image`.
    """
    offers, rest = _sorted(image, describe, untold)
    image.fetch(rest, untold)
    _offer(image, offers, _Apart(image))


def _sorted(
    image: RemoteImage, describe: Describe, report: Report
) -> "tuple[list[_Offer], list[tuple[Descriptor, Digest]]]":
    """What is missing: layers that somebody describes, and the others.

    A layer that is here in another compression is one of the others: what is built on the image
    lists the blobs that it lists.
    """
    offers, rest = [], []
    for blob, diff_id in image.missing(report):
        is_new = image.store.layers.find_here(diff_id) is None
        described = describe(diff_id) if is_new else None
        if described is None:
            rest.append((blob, diff_id))
        else:
            offers.append(_Offer(image, described, blob))
    return offers, rest


def _offer(image: RemoteImage, offers: "list[_Offer]", way: "_Way") -> None:
    for offer in offers:
        offer.way = way
        image.store.layers.offer(offer)


class _Offer:
    """An Offer: one layer of an image that a build cache describes."""

    way: "_Way"

    def __init__(self, image: RemoteImage, described: "DescribedLayer", blob: Descriptor) -> None:
        self.blob = blob
        self._image = image
        self._described = described
        kind = compression.kind_of(blob.media_type)
        self.layer = replace(
            described.layer, blob=replace(blob.plain, media_type=compression.media_type(kind))
        )

    @property
    def origin(self) -> str:
        """Where the blob is."""
        return self._image.repository.name

    @property
    def table(self) -> BlobElsewhere | None:
        """Where the cache has the table."""
        return self._described.table

    def read_toc(self) -> "list[TocEntry]":
        """The table as the cache has it; else the layer comes for it."""
        table = self._described.read_toc()
        return self._image.store.layers.toc(self.fetch()) if table is None else table

    def bring(self, offers: Sequence[Offer], came: Came) -> None:
        """Have the others that come the same way come with it."""
        self.way.bring(
            [each for each in offers if isinstance(each, _Offer) and each.way is self.way], came
        )

    def fetch(self) -> Layer:
        """The layer, when it is what was said."""
        if not self.is_here():  # else it has come with another image
            self.way.fetch(self)
        return self.check()

    def is_here(self) -> bool:
        """Whether the layer has come."""
        return self._image.store.layers.find_here(self.layer.diff_id) is not None

    def check(self) -> Layer:
        """The layer, which has come, when it is what was said. Raises UnusableLayerError."""
        layer = self._image.store.layers.find_here(self.layer.diff_id)
        assert layer is not None, "it has come"
        return self._described.check(layer)


class _Way(Protocol):
    """How layers come that belong together."""

    def bring(self, offers: list[_Offer], came: Came) -> None:
        """Have several come, as far as they come well."""

    def fetch(self, offer: _Offer) -> None:
        """Have one come, and whatever comes with it."""


class _Together:
    """All with the first."""

    def __init__(self, image: RemoteImage, offers: list[_Offer], watch: Watch) -> None:
        self._image = image
        self._offers = offers
        self._watch = watch

    def bring(self, offers: list[_Offer], came: Came) -> None:
        """Nothing: `fetch` does."""

    def fetch(self, offer: _Offer) -> None:
        with self._watch(self._image.reference) as report:
            self._image.take(self._image.missing(report), report)
        for each in self._offers:
            each.check()


class _Apart:
    """Those that are wanted."""

    def __init__(self, image: RemoteImage) -> None:
        self._image = image

    def bring(self, offers: list[_Offer], came: Came) -> None:
        missing = [(each.blob, each.layer.diff_id) for each in offers if not each.is_here()]
        if len(missing) > 1:
            with suppress(StoreError):  # `fetch` says what it is
                self._image.fetch(missing, reporting(came))

    def fetch(self, offer: _Offer) -> None:
        self._image.fetch([(offer.blob, offer.layer.diff_id)], untold)
