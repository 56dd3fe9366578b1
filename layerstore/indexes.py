"""Indexes of several platforms that are put together here, one image at a time.

An index is an immutable blob as all are: a change makes another one, which takes the name of the
old. Images that are listed in it stay while it does, whether or not they have names of their own.

Spec: OCI image-spec v1.1, image-index.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerstore import descriptor as media
from layerstore.blobs import get, put
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import Index, Pairs
from layerstore.errors import NotFoundError, StoreError
from layerstore.reference import Reference
from layerstore.transports.exports import blobs_of

if TYPE_CHECKING:
    from layerstore.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryWishes:
    """What an entry of an index says otherwise than its image; empty is what the image says."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    annotations: Pairs = ()

    def applied(self, entry: Descriptor) -> Descriptor:
        """`entry` with what is wished; the annotations are added to its own."""
        old = entry.platform or Platform(os="linux", architecture="unknown")
        platform = Platform(
            os=self.os or old.os,
            architecture=self.architecture or old.architecture,
            variant=self.variant or old.variant,
            os_version=self.os_version or old.os_version,
            os_features=self.os_features or old.os_features,
        )
        annotations = dict(entry.annotations) | dict(self.annotations)
        return replace(entry, platform=platform, annotations=tuple(sorted(annotations.items())))


def find_index(store: "Store", name: str) -> tuple[Descriptor, Index]:
    """The index with this name, and what is in it.

    Raises:
        NotFoundError: there is none. StoreError: it is the name of an image.
    """
    descriptor = store.images.find(name)
    if descriptor.media_type not in media.INDEX_TYPES:
        raise StoreError(
            f"{name} is an image, not an index of several",
            hint="`lamina manifest create` makes an index",
        )
    data = get(store.blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
    return descriptor, Index.parse(data)


def name_index(store: "Store", name: Reference, index: Index) -> Descriptor:
    """Give `index` the name, which an older one loses; that goes if it has no other.

    What is here of the images that it lists is held until the store is closed.

    Raises:
        NotFoundError: an image went meanwhile.
    """
    _hold(store, index)
    data = index.encode()
    descriptor = Descriptor(
        media_type=index.media_type,
        digest=put(store.blobs, data).digest,
        size_bytes=len(data),
    )
    try:
        old = store.images.find(name.full)
    except NotFoundError:
        old = None
    store.images.tag_entry(descriptor, name)
    if old is not None and old.digest != descriptor.digest and not store.images.names_of(old):
        store.images.remove_entry(old)
    return descriptor


def _hold(store: "Store", index: Index) -> None:
    here = [entry for entry in index.manifests if store.blobs.has(entry.digest)]
    for entry in here:
        blobs = [blob.digest for blob in blobs_of(store, entry.plain)]
        store.lease().hold(blobs)
        missing = next((digest for digest in blobs if not store.blobs.has(digest)), None)
        if missing is not None and entry.media_type in media.MANIFEST_TYPES:
            raise NotFoundError(kind="blob", key=missing)


def index_with(index: Index, entries: Sequence[Descriptor]) -> Index:
    """`index` with `entries` at its end, in place of older ones of the same image."""
    new = {entry.digest: entry for entry in entries}
    kept = tuple(entry for entry in index.manifests if entry.digest not in new)
    return replace(index, manifests=kept + tuple(new.values()))


def index_changed(index: Index, digest: Digest, wishes: EntryWishes) -> Index:
    """`index` with one entry as it is wished.

    Raises:
        NotFoundError: it has no such entry.
    """
    _check_has(index, digest)
    return replace(
        index,
        manifests=tuple(
            wishes.applied(entry) if entry.digest == digest else entry for entry in index.manifests
        ),
    )


def index_without(index: Index, digest: Digest) -> Index:
    """`index` without one entry.

    Raises:
        NotFoundError: it has no such entry.
    """
    _check_has(index, digest)
    kept = tuple(entry for entry in index.manifests if entry.digest != digest)
    return replace(index, manifests=kept)


def index_entries(store: "Store", image: Descriptor, *, whole: bool) -> list[Descriptor]:
    """How an index lists a stored image, or of another index this host's or all of its images."""
    if image.media_type in media.INDEX_TYPES and whole:
        data = get(store.blobs, image.digest, size_bytes=image.size_bytes)
        return list(Index.parse(data).manifests)
    _, config = store.images.documents(store.images.manifest_of(image))
    platform = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    return [replace(store.images.manifest_of(image).plain, platform=platform)]


def _check_has(index: Index, digest: Digest) -> None:
    if all(entry.digest != digest for entry in index.manifests):
        raise NotFoundError(kind="entry of the index", key=digest)
