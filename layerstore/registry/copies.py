"""Registries as places that images are copied from and to (layerstore/transports/copying.py).

Blobs come and go several side by side. Between two repositories of one registry they are mounted:
nothing of them comes here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.reference import Reference
from layerstore.registry.pull import find_remote
from layerstore.registry.repository import RemoteDocument, Repository
from layerstore.registry.transfers import Workers
from layerstore.registry.upload import find_there, send
from layerstore.transports.copying import Report, Take

if TYPE_CHECKING:
    from layerstore.registry.client import RegistryClient


class RegistryCopies:
    """Opens repositories for copies: the Registries of `copy_between`.

    Args:
        source: the way to what is copied from; None: the same as to what is copied to.
    """

    def __init__(self, client: "RegistryClient", source: "RegistryClient | None" = None) -> None:
        self._client = client
        self._source_client = source or client

    def source(self, reference: Reference) -> "RemoteSource":
        """The image with that name: a Source. Raises RegistryError."""
        return RemoteSource(*find_remote(self._source_client, reference))

    def destination(
        self, reference: Reference, copied_from: Reference | None
    ) -> "RemoteDestination":
        """What takes an image under that name: a Destination.

        Args:
            copied_from: a name in a registry, perhaps the same, whose blobs are copied.
        """
        is_same = copied_from is not None and copied_from.host == reference.host
        return RemoteDestination(
            self._client,
            reference,
            mount_from=(copied_from.path,) if copied_from is not None and is_same else (),
        )

    def each(self, blobs: Sequence[Descriptor], take: Take, report: Report) -> None:
        """Take several blobs at once: an Each."""
        stops = {self._client.stop, self._source_client.stop}
        with Workers(self._client.settings.jobs, report, *stops) as workers:
            workers.carry_out([partial(take, blob, workers.tell) for blob in blobs])


class RemoteSource:
    """An image in a registry: a Source. What is changed on its way is asked for again."""

    def __init__(self, repository: Repository, root: RemoteDocument) -> None:
        self._repository = repository
        self._root = root

    def root(self) -> Descriptor:
        return self._root.descriptor

    def document(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest == self._root.descriptor.digest:
            return self._root.data
        return self._repository.document(descriptor)

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        return self._repository.pieces(blob)


class RemoteDestination:
    """A name in a registry: a Destination."""

    def __init__(
        self, client: "RegistryClient", reference: Reference, *, mount_from: Sequence[str]
    ) -> None:
        self._repository = client.repository(reference)
        self._tag = "" if reference.digest is not None else reference.tag
        self._mount_from = mount_from
        self._last = b""

    def has(self, blob: Descriptor) -> bool:
        return find_there(self._repository, blob.digest, self._mount_from) is not None

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        send(self._repository, blob, pieces)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._last = data
        self._repository.put_manifest(data, descriptor.media_type)

    def finish(self, root: Descriptor) -> None:
        if self._tag:
            assert Digest.of(self._last) == root.digest, "what names all comes last"
            self._repository.put_manifest(self._last, root.media_type, self._tag)
