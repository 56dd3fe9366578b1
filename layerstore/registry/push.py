"""From the store into a registry: blobs that it has not got, several at once, then the manifest.

    each blob: is it there? -> can it be had from another repository of that registry? -> upload
    config and layers first, the manifest last: the name leads to what is there

The image is sent byte for byte, and has the digest there that it has here. A layer that was only
offered, by a registry or a cache in one, is fetched where the registry has no other way to it.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from layerstore.blobs import get
from layerstore.descriptor import INDEX_TYPES, Descriptor
from layerstore.digest import Digest
from layerstore.documents import Index, Manifest
from layerstore.errors import StoreError
from layerstore.images import Image, name_of_entry
from layerstore.layers import Layer
from layerstore.reference import Reference
from layerstore.registry.repository import Repository
from layerstore.registry.transfers import (
    Report,
    Status,
    Transfer,
    Workers,
    side_by_side,
    untold,
)
from layerstore.registry.upload import Uploaded, find_there, path_at, upload

if TYPE_CHECKING:
    from layerstore.registry.client import RegistryClient
    from layerstore.store import Store

_MOUNTS_MAX = 3  # repositories that are asked for a blob


def push_image(
    client: "RegistryClient",
    store: "Store",
    image: Image,
    reference: Reference,
    *,
    report: Report = untold,
) -> Digest:
    """Store `image` in the registry under `reference`; returns the digest of its manifest.

    Raises:
        RegistryError: the registry does not take it.
        CorruptBlobError: a stored blob is damaged; nothing of it is named then.
    """
    store.lease()
    repository = client.repository(reference)
    blobs = list({blob.digest: blob for blob in _parts(image.manifest)}.values())
    wanted = {blob.digest for blob in blobs}
    sources = _sources(store, reference.host, wanted)
    offered = [
        layer
        for layer in image.layers
        if store.layers.is_offered(layer.diff_id) and layer.descriptor.digest in wanted
    ]
    if offered:
        there = _without_sending(client, store, repository, offered, sources, report)
        blobs = [blob for blob in blobs if blob.digest not in there]
    push_blobs(client, store, repository, blobs, sources, report)
    data = get(store.blobs, image.descriptor.digest, size_bytes=image.descriptor.size_bytes)
    return repository.put_manifest(
        data, image.descriptor.media_type, reference.tag if reference.digest is None else ""
    )


def is_whole(store: "Store", index: Descriptor) -> bool:
    """Whether every image that an index lists is here, not only those that were asked for."""
    for entry in store.images.family(index):
        data = get(store.blobs, entry.digest, size_bytes=entry.size_bytes)
        parts = (
            Index.parse(data).manifests
            if entry.media_type in INDEX_TYPES
            else _parts(Manifest.parse(data))
        )
        if not all(store.blobs.has(part.digest) for part in parts):
            return False
    return True


def push_index(
    client: "RegistryClient",
    store: "Store",
    index: Descriptor,
    reference: Reference,
    *,
    report: Report = untold,
) -> None:
    """Store an index with all its images in the registry. Raises as `push_image`."""
    store.lease()
    repository = client.repository(reference)
    family = store.images.family(index)
    documents = {
        entry: get(store.blobs, entry.digest, size_bytes=entry.size_bytes) for entry in family
    }
    blobs = {
        part.digest: part
        for entry, data in documents.items()
        if entry.media_type not in INDEX_TYPES
        for part in _parts(Manifest.parse(data))
    }
    sources = _sources(store, reference.host, set(blobs))
    push_blobs(client, store, repository, list(blobs.values()), sources, report)
    for entry in reversed(family[1:]):  # what is listed before what lists it
        repository.put_manifest(documents[entry], entry.media_type)
    tag = reference.tag if reference.digest is None else ""
    repository.put_manifest(documents[family[0]], family[0].media_type, tag)


def push_blobs(
    client: "RegistryClient",
    store: "Store",
    repository: Repository,
    blobs: list[Descriptor],
    sources: dict[Digest, list[str]],
    report: Report,
) -> None:
    """Upload stored blobs, several at once.

    Args:
        sources: paths of repositories of that registry that may have a blob.
    """
    for blob in blobs:
        report(Transfer(digest=blob.digest, status="waiting", size_bytes=blob.size_bytes))
    with Workers(client.settings.jobs, report, client.stop) as workers:

        def push(blob: Descriptor) -> None:
            _push_blob(store, repository, blob, sources.get(blob.digest, []), workers)

        workers.carry_out([partial(push, blob) for blob in blobs])


def _without_sending(
    client: "RegistryClient",
    store: "Store",
    repository: Repository,
    offered: list[Layer],
    sources: dict[Digest, list[str]],
    report: Report,
) -> set[Digest]:
    """The blobs of layers that the registry has, or can take from where they are offered.

    The other layers are fetched, and here when this returns.
    """
    there: dict[Digest, tuple[Uploaded, str]] = {}

    def find(layer: Layer) -> None:
        digest = layer.descriptor.digest
        origin = path_at(repository, store.layers.origin_of(layer))
        found = find_there(repository, digest, [*origin, *sources.get(digest, [])])
        if found is not None:
            there[digest] = found

    side_by_side(client, [partial(find, layer) for layer in offered])
    for layer in offered:
        blob = layer.descriptor
        if blob.digest in there:
            how, source = there[blob.digest]
            report(
                Transfer(
                    digest=blob.digest,
                    status="exists" if how == "exists" else "mounted",
                    size_bytes=blob.size_bytes,
                    source=source,
                )
            )
        else:
            store.layers.fetch(layer)
    return set(there)


def _push_blob(
    store: "Store",
    repository: Repository,
    blob: Descriptor,
    mount_from: list[str],
    workers: Workers[Transfer],
) -> None:
    def tell(status: Status, done_bytes: int = 0, source: str = "") -> None:
        workers.tell(
            Transfer(
                digest=blob.digest,
                status=status,
                done_bytes=done_bytes,
                size_bytes=blob.size_bytes,
                source=source,
            )
        )

    def open_blob() -> Iterator[bytes]:
        return store.blobs.open(blob.digest, size_bytes=blob.size_bytes).pieces()

    how, source = upload(
        repository,
        blob,
        open_blob,
        mount_from=mount_from,
        sent=lambda size: tell("uploading", size),
    )
    tell("uploaded" if how == "pushed" else how, blob.size_bytes, source)


def _sources(store: "Store", host: str, wanted: set[Digest]) -> dict[Digest, list[str]]:
    """Where on the registry blobs may be: in the repositories that local names speak of."""
    found: dict[Digest, list[str]] = {}
    for entry in store.images.entries():
        name = name_of_entry(entry)
        if name is None or name.host != host:
            continue
        try:
            manifest, _ = store.images.documents(store.images.manifest_of(entry))
        except StoreError:  # a damaged image must not keep others from being pushed
            continue
        for blob in _parts(manifest):
            paths = found.setdefault(blob.digest, [])
            if blob.digest in wanted and name.path not in paths and len(paths) < _MOUNTS_MAX:
                paths.append(name.path)
    return found


def _parts(manifest: Manifest) -> tuple[Descriptor, ...]:
    return (*manifest.layers, manifest.config)
