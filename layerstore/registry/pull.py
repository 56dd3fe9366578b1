"""From a registry into the store: only what is missing, verified while it comes.

    manifest (of an index: the one for the platform) -> config -> layers, several at once
    each layer is decompressed, checked and listed while it comes; it is committed when digest, size
    and diff_id were right, and the image is read and named when every layer is there

Layers that come only when they are wanted: offers.py.

Manifest and index are kept byte for byte, so that a name stands for the same digest here and there;
of an index only the images that were asked for are here. A layer that came damaged is fetched once
more. What has come whole before a failure stays for the next try.
"""

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerstore import compression
from layerstore.blobs import put
from layerstore.descriptor import CONFIG_TYPES, Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import ImageConfig, Index, Manifest
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    StoreError,
    UnsafePathError,
    UnsupportedMediaTypeError,
)
from layerstore.images import NESTING_MAX, Image, choose, host_platform
from layerstore.layers import unknown_layer
from layerstore.reference import Reference
from layerstore.registry.errors import RegistryError, UnknownManifestError
from layerstore.registry.repository import RemoteDocument, Repository
from layerstore.registry.transfers import Download, Report, Status, Transfer, Workers, untold

if TYPE_CHECKING:
    from layerstore.registry.client import RegistryClient
    from layerstore.store import Store

_BEGUN_MAX = 16  # downloads that have files open
_PIECE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What came. `root` is what the name stands for: the image's manifest, or an index with it."""

    image: Image
    root: Descriptor
    repository: Repository


def pull_image(
    client: "RegistryClient",
    store: "Store",
    reference: Reference,
    *,
    platform: Platform | None = None,
    report: Report = untold,
) -> Pulled:
    """Take in the image that a registry has under a name, and name it so. Flushing is the caller's.

    Raises:
        RegistryError: it cannot be had; of several mirrors, why the last one fails.
        StoreError: what came is malformed, damaged or unsupported.
    """
    found = RemoteImage.find(client, store, reference, platform)
    image = found.take(found.missing(report), report)
    return Pulled(image=image, root=found.documents[0].descriptor, repository=found.repository)


def is_current(
    client: "RegistryClient", store: "Store", image: Image, reference: Reference
) -> bool:
    """Whether a registry has under `reference` what is in the store, whole; asks for no content.

    Raises:
        RegistryError: it cannot be asked; of several mirrors, why the last one fails.
    """
    failure: StoreError | None = None
    for repository in client.sources(reference):
        try:
            there = repository.find_manifest(reference.digest or reference.tag)
        except StoreError as error:
            failure = error
            continue
        if there is not None:
            is_same = there.digest in (image.entry.digest, image.descriptor.digest)
            return is_same and all(store.layers.find(layer.diff_id) for layer in image.layers)
    if failure is not None:
        raise failure
    return False  # nobody has it: pulling says so


def find_remote(
    client: "RegistryClient", reference: Reference
) -> tuple[Repository, RemoteDocument]:
    """What a name stands for: the first place that has it, mirrors before the registry itself."""
    failure: StoreError | None = None
    for repository in client.sources(reference):
        try:
            return repository, repository.manifest(reference.digest or reference.tag)
        except StoreError as error:
            # a mirror is one place more to look, not one more thing to fail
            failure = error
    assert failure is not None, "there is always the registry itself"
    raise failure


def documents_for(
    repository: Repository, root: RemoteDocument, platform: Platform
) -> list[RemoteDocument]:
    """The documents from `root` down to the manifest of a platform, which comes last."""
    found = [root]
    while found[-1].is_index:
        if len(found) > NESTING_MAX:
            raise MalformedDocumentError(context="image index", problem="indexes nested too deeply")
        try:
            entry = choose(Index.parse(found[-1].data), platform).plain
        except NoPlatformError as error:
            raise UnknownManifestError(
                what=f"image for {platform} in {repository.name}",
                detail="no matching manifest in the manifest list entries",
                hint=f"there are {error.offered}",
            ) from error
        found.append(RemoteDocument(descriptor=entry, data=repository.document(entry)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteImage:
    """An image in a registry. `documents` lead from what its name stands for to `manifest`.

    Missing layers are blobs with their diff_ids.
    """

    client: "RegistryClient"
    store: "Store"
    reference: Reference
    platform: Platform
    repository: Repository
    documents: list[RemoteDocument]
    manifest: Manifest
    config: ImageConfig
    config_data: bytes

    @classmethod
    def find(
        cls,
        client: "RegistryClient",
        store: "Store",
        reference: Reference,
        platform: Platform | None = None,
    ) -> "RemoteImage":
        """The image that a registry has under a name. Raises as `pull_image`."""
        store.lease()
        platform = platform or host_platform()
        repository, root = find_remote(client, reference)
        documents = documents_for(repository, root, platform)
        manifest, config, config_data = _read(repository, documents[-1])
        return cls(
            client=client,
            store=store,
            reference=reference,
            platform=platform,
            repository=repository,
            documents=documents,
            manifest=manifest,
            config=config,
            config_data=config_data,
        )

    def missing(self, report: Report) -> list[tuple[Descriptor, Digest]]:
        """The layers that are not here, each once."""
        missing: dict[Digest, tuple[Descriptor, Digest]] = {}
        for blob, diff_id in zip(self.manifest.layers, self.config.diff_ids, strict=True):
            if _is_here(self.store, blob, diff_id):
                report(_event(blob, "exists"))
            elif blob.digest not in missing:
                report(_event(blob, "waiting"))
                missing[blob.digest] = blob, diff_id
        return list(missing.values())

    def fetch(self, missing: list[tuple[Descriptor, Digest]], report: Report) -> None:
        """Take in layers."""
        try:
            fetch_layers(self.client, self.store, self.repository, missing, report)
        except (RegistryError, KeyboardInterrupt):
            self.store.flush()  # layers that have come whole need not come again
            raise

    def take(self, missing: list[tuple[Descriptor, Digest]], report: Report) -> Image:
        """Take in layers, and the image, and name it."""
        store, root = self.store, self.documents[0].descriptor
        self.fetch(missing, report)
        documents = (self.config_data, *(each.data for each in self.documents))
        new = [put(store.blobs, data) for data in documents]
        try:
            image = store.images.open(root, self.platform)
        except StoreError:
            for info in new:
                store.blobs.discard(info.digest)
            raise
        tag = "" if self.reference.digest else self.reference.tag
        store.images.name_entry(root, replace(self.reference, tag=tag))
        return image

    def image_of_known(self) -> Image:
        """The image, with what the store knows of its layers; nothing is stored."""
        root = self.documents[0].descriptor
        descriptor = self.documents[-1].descriptor
        return Image(
            descriptor=descriptor.plain,
            manifest=self.manifest,
            config=self.config,
            id=self.manifest.config.digest,
            layers=tuple(
                self.store.layers.find(diff_id) or unknown_layer(diff_id, blob)
                for diff_id, blob in zip(self.config.diff_ids, self.manifest.layers, strict=True)
            ),
            index=root.plain if self.documents[0].is_index else None,
        )


def _read(repository: Repository, document: RemoteDocument) -> tuple[Manifest, ImageConfig, bytes]:
    """Manifest and config, checked against each other before anything large is fetched."""
    manifest = Manifest.parse(document.data)
    if manifest.config.media_type not in CONFIG_TYPES:
        raise UnsupportedMediaTypeError(
            media_type=manifest.config.media_type, hint="this is no image that could be run"
        )
    for blob in manifest.layers:
        compression.kind_of(blob.media_type)
    data = repository.document(manifest.config)
    config = ImageConfig.parse(data)
    if len(config.diff_ids) != len(manifest.layers):
        raise MalformedDocumentError(
            context=f"image {manifest.config.digest}",
            problem=f"{len(manifest.layers)} layers, but {len(config.diff_ids)} diff_ids",
        )
    return manifest, config, data


def _is_here(store: "Store", blob: Descriptor, diff_id: Digest) -> bool:
    store.lease().hold((blob.digest,))  # before looking: what is there now stays
    if not store.blobs.has(blob.digest):
        return False
    try:
        store.layers.index(blob, diff_id)
    except (CorruptBlobError, NotFoundError, MalformedDocumentError):
        return False  # what comes in its place heals it, or shows that it is not what is said
    return True


def fetch_layers(
    client: "RegistryClient",
    store: "Store",
    repository: Repository,
    missing: list[tuple[Descriptor, Digest]],
    report: Report,
) -> None:
    """Fetch layers side by side, and take them in one after the other, bottom first."""
    store.check_room(sum(blob.size_bytes for blob, _ in missing))
    begun: deque[tuple[Download, Digest]] = deque()
    rest = deque(missing)
    with Workers(client.settings.jobs, report, client.stop) as workers, ExitStack() as cleanup:

        def begin(blob: Descriptor) -> Download:
            writer = cleanup.enter_context(store.blobs.writer())
            download = Download(repository, blob, writer, workers)
            cleanup.callback(download.close)
            workers.add(download.run)
            return download

        while begun or rest:
            while rest and len(begun) < _BEGUN_MAX:
                blob, diff_id = rest.popleft()
                begun.append((begin(blob), diff_id))
            download, diff_id = begun.popleft()
            try:
                _adopt(store, download, diff_id)
            except _DamagedOnItsWayError:
                download = begin(download.descriptor)
                store.layers.adopt_written(download, download.writer, download.descriptor, diff_id)
            download.close()
            workers.tell(_event(download.descriptor, "complete"))
            workers.pump()


class _DamagedOnItsWayError(Exception):
    """The bytes that came are not those of the digest."""


def _adopt(store: "Store", download: Download, diff_id: Digest) -> None:
    blob = download.descriptor
    try:
        store.layers.adopt_written(download, download.writer, blob, diff_id)
    except (CorruptBlobError, MalformedDocumentError, UnsafePathError):
        # Whose fault is it? The digest says: of the registry when it is right.
        try:
            while download.read(_PIECE_BYTES):
                pass
            download.writer.commit(expected_digest=blob.digest)
        except CorruptBlobError:
            raise _DamagedOnItsWayError from None
        store.blobs.discard(blob.digest)
        raise


def _event(blob: Descriptor, status: Status) -> Transfer:
    return Transfer(digest=blob.digest, status=status, size_bytes=blob.size_bytes)
