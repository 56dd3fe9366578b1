"""Places that images are copied between, by the names that skopeo and podman have for them.

    NAME                        an image of the store
    oci:DIR[:TAG]               an OCI image layout; TAG as its index.json has it, or @DIGEST
    oci-archive:FILE[:TAG]      the same in a tar
    docker-archive:FILE[:NAME]  what `docker save` wrote; @N is the N-th image, from 0
    dir:DIR                     one image as plain files
    docker://NAME               an image in a registry

A directory is read and written in place. An archive goes through the store's blobs, which forget
it afterwards: a tar cannot be read twice, and what is in it is known only at its end.

Source: containers-transports(5).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

from layerstore import descriptor as media
from layerstore.backends.directory import open_blob
from layerstore.beside import written_beside
from layerstore.blobs import BlobReader, get, is_intact, put
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX, Index
from layerstore.errors import (
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    StoreError,
)
from layerstore.images import read_index
from layerstore.reference import Reference
from layerstore.transports.copying import (
    Destination,
    Report,
    Source,
    Take,
    copy_image,
    one_by_one,
)
from layerstore.transports.exports import blob_name, write_archive
from layerstore.transports.layout_directory import LayoutDirectory
from layerstore.transports.oci_layout import entries_called

if TYPE_CHECKING:
    from layerstore.store import Store
    from layerstore.transports.members import Members


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store, by any name it can be found under; as a target without one as well.

    `entry` is given for what is stored and not listed, such as a moment of an image.
    """

    name: str
    entry: Descriptor | None = None
    is_listed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlace:
    """A layout, as a directory or in a tar."""

    path: Path
    tag: str = ""
    is_archive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerArchive:
    path: Path
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDirectory:
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPlace:
    reference: Reference


Place = StoredImage | LayoutPlace | DockerArchive | PlainDirectory | RegistryPlace


class Registries(Protocol):
    """The way to registries, which this file does not know."""

    def source(self, reference: Reference) -> Source:
        """The image with that name."""

    def destination(self, reference: Reference, copied_from: Reference | None) -> Destination:
        """What takes an image under that name; blobs are copied from another name, if given."""

    def each(self, blobs: Sequence[Descriptor], take: Take, report: Report) -> None:
        """Take blobs that come from a registry, or go to one: an Each."""


TRANSPORTS = ("oci", "oci-archive", "docker-archive", "dir", "docker")
# of the same tools; what they hold is kept by daemons and libraries of others
_FOREIGN = ("docker-daemon", "containers-storage", "ostree", "tarball", "sif", "atomic")

_WHICH = "say which: add :TAG or :@DIGEST"
_WHICH_OF_DOCKER_S = "say which: add :NAME:TAG, or :@N for the N-th, from 0"


def parse_place(text: str) -> Place:
    """Read the name of a place.

    Raises:
        StoreError: it makes no sense. InvalidReferenceError: nor does the image's name in it.
    """
    transport, colon, rest = text.partition(":")
    if not colon or transport not in (*TRANSPORTS, *_FOREIGN):
        return StoredImage(name=text)
    if transport in _FOREIGN:
        raise StoreError(
            f"the transport {transport}: is not supported",
            hint=f"there are {', '.join(TRANSPORTS)}, and names of images of the store",
        )
    if transport == "docker":
        if not rest.startswith("//"):
            raise StoreError(f"{text!r} is no place", hint=f"docker://{rest.lstrip('/')}")
        return RegistryPlace(reference=Reference.parse(rest.removeprefix("//")))
    if not rest:
        raise StoreError(f"{text!r} names no file", hint=f"{transport}:PATH")
    if transport == "dir":
        return PlainDirectory(path=Path(rest))
    path, _, name = rest.partition(":")
    if transport == "docker-archive":
        return DockerArchive(path=Path(path), name=name)
    return LayoutPlace(path=Path(path), tag=name, is_archive=transport == "oci-archive")


def copy(
    store: "Store",
    source: Place,
    target: Place,
    *,
    platform: Platform | None = None,
    whole: bool = False,
    report: Report = lambda _: None,
    registries: Registries | None = None,
) -> Descriptor:
    """Copy an image between two places; see `copy_image`. The store is flushed if it is the target.

    Raises:
        StoreError and its children; OSError for a directory or file that cannot be used.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(_source(store, source, registries))
        copied_from = source.reference if isinstance(source, RegistryPlace) else None
        destination = stack.enter_context(_destination(store, target, registries, copied_from))
        is_remote = any(isinstance(place, RegistryPlace) for place in (source, target))
        copied = copy_image(
            opened,
            destination,
            platform=platform,
            whole=whole,
            report=report,
            each=registries.each if registries is not None and is_remote else one_by_one,
        )
        if isinstance(opened, _FromArchive) and isinstance(target, StoredImage):
            opened.members.keep(copied)
    if isinstance(target, StoredImage) and target.is_listed:
        store.flush()
    return copied


def take_in(
    store: "Store",
    source: Place,
    *,
    platform: Platform | None = None,
    whole: bool = False,
    report: Report = lambda _: None,
    registries: Registries | None = None,
) -> Descriptor:
    """Copy an image into the store without listing it: the caller does, or lists what needs it.

    Raises as `copy`.
    """
    target = StoredImage(name="", is_listed=False)
    return copy(
        store,
        source,
        target,
        platform=platform,
        whole=whole,
        report=report,
        registries=registries,
    )


def document_at(store: "Store", place: Place, registries: Registries | None = None) -> bytes:
    """The manifest or index at a place. Raises as `copy`."""
    with _source(store, place, registries) as source:
        return source.document(source.root())


@contextmanager
def _source(store: "Store", place: Place, registries: Registries | None) -> Iterator[Source]:
    match place:
        case StoredImage(name=name, entry=entry):
            yield FromStore(store, entry or store.images.find(name))
        case LayoutPlace(is_archive=False):
            yield _FromLayout(place.path, place.tag)
        case PlainDirectory(path=path):
            from layerstore.transports.dir_format import DirectorySource

            yield DirectorySource(path)
        case LayoutPlace() | DockerArchive():
            from layerstore.transports.members import read_members

            with read_members(store, place.path) as members:
                yield _FromArchive(store, members, _root_of(store, members, place))
        case RegistryPlace(reference=reference):
            assert registries is not None, "who may name a registry gives the way to it"
            yield registries.source(reference)
        case _:
            assert_never(place)


@contextmanager
def _destination(
    store: "Store",
    place: Place,
    registries: Registries | None,
    copied_from: Reference | None,
) -> Iterator[Destination]:
    match place:
        case StoredImage(name=name, is_listed=is_listed):
            reference = Reference.parse(name) if name else None
            destination = IntoStore(store, reference, is_listed=is_listed)
            try:
                yield destination
            except BaseException:
                destination.forget()
                raise
        case LayoutPlace(is_archive=False):
            yield _IntoLayout(place.path, place.tag)
        case PlainDirectory(path=path):
            from layerstore.transports.dir_format import DirectoryDestination

            yield DirectoryDestination(path)
        case LayoutPlace() | DockerArchive():
            staged = _IntoArchive(store, place)
            try:
                yield staged
            finally:
                staged.forget()
        case RegistryPlace(reference=reference):
            assert registries is not None, "who may name a registry gives the way to it"
            yield registries.destination(reference, copied_from)
        case _:
            assert_never(place)


class FromStore:
    """Blobs of the store: a Source."""

    def __init__(self, store: "Store", root: Descriptor) -> None:
        self._store = store
        self._root = root

    def root(self) -> Descriptor:
        return self._root

    def document(self, descriptor: Descriptor) -> bytes:
        try:
            return get(self._store.blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
        except NotFoundError as error:
            if descriptor.digest == self._root.digest:
                raise
            raise NotFoundError(
                kind=f"image for {descriptor.platform or 'another platform'} in the store",
                key=descriptor.digest,
                hint="of its index only this machine's was pulled: copy from the registry itself",
            ) from error

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        return self._store.blobs.open(blob.digest, size_bytes=blob.size_bytes).pieces()


class _FromArchive(FromStore):
    """The same of what has been read from an archive, and is forgotten if nobody keeps it."""

    def __init__(self, store: "Store", members: "Members", root: Descriptor) -> None:
        super().__init__(store, root)
        self.members = members


class IntoStore:
    """The store: a Destination. What is new there is not visible to others before a flush.

    An image must be one that could be run; of an index it is this host's.
    """

    def __init__(self, store: "Store", name: Reference | None, *, is_listed: bool = True) -> None:
        self._store = store
        self._name = name
        self._is_listed = is_listed
        self._new: set[Digest] = set()
        self._lock = threading.Lock()  # for all of the store but the bytes of its blobs

    def has(self, blob: Descriptor) -> bool:
        with self._lock:
            self._store.lease().hold((blob.digest,))  # before looking: what is there now must stay
        return is_intact(self._store.blobs, blob.digest)

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        self._store.check_room(blob.size_bytes)
        with self._lock:
            writer = self._store.blobs.writer()
        with writer:
            for piece in pieces():
                writer.write(piece)
            with self._lock:
                info = writer.commit(
                    expected_digest=blob.digest, expected_size_bytes=blob.size_bytes
                )
                if info.is_new:
                    self._new.add(blob.digest)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        if put(self._store.blobs, data).is_new:
            self._new.add(descriptor.digest)

    def finish(self, root: Descriptor) -> None:
        images = self._store.images
        try:
            images.open(root)
        except NoPlatformError:
            pass  # an index without this host's: the others are believed when they are used
        if self._name is not None:
            images.tag_entry(root, self._name)
        elif self._is_listed:
            images.note_entry(root)

    def forget(self) -> None:
        """Drop what is new, and not flushed."""
        for digest in self._new:
            self._store.blobs.discard(digest)
        self._store.layers.discard(self._new)


class _IntoArchive(IntoStore):
    """An archive: it is written when all is there, from the store, which forgets it then."""

    def __init__(self, store: "Store", place: LayoutPlace | DockerArchive) -> None:
        super().__init__(store, None)
        self._place = place

    def finish(self, root: Descriptor) -> None:
        from layerstore.transports import docker_archive, oci_layout
        from layerstore.transports.exports import Export

        if isinstance(self._place, LayoutPlace):
            changes = oci_layout.contents_of(self._store, [_tagged(root, self._place.tag)])
        else:
            if root.media_type in media.INDEX_TYPES:
                raise StoreError(
                    "docker-archive: has no images of several platforms",
                    hint="leave out --all, or use oci-archive:",
                )
            names = (Reference.parse(self._place.name),) if self._place.name else ()
            image = self._store.images.open(root)
            changes = docker_archive.contents(self._store, [Export(image=image, names=names)])
        with written_beside(self._place.path) as file:
            write_archive(changes, file)


class _FromLayout:
    """An OCI image layout that is read in place: a Source."""

    def __init__(self, root: Path, tag: str) -> None:
        if not (root / "oci-layout").is_file():
            raise MalformedDocumentError(
                context=str(root), problem="not an OCI image layout: it has no file oci-layout"
            )
        self._path = root
        self._root = _only(entries_called(read_index(root), tag), str(root), tag, _WHICH)

    def root(self) -> Descriptor:
        return self._root

    def document(self, descriptor: Descriptor) -> bytes:
        with self._open(descriptor) as reader:
            if reader.size_bytes > DOCUMENT_BYTES_MAX:
                raise MalformedDocumentError(
                    context=f"blob {descriptor.digest}", problem="too large for a document"
                )
            return reader.read()

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        return self._open(blob).pieces()

    def _open(self, blob: Descriptor) -> BlobReader:
        path = self._path / blob_name(blob.digest)
        return open_blob(path, blob.digest, size_bytes=blob.size_bytes)


class _IntoLayout:
    """An OCI image layout that is added to: a Destination."""

    def __init__(self, root: Path, tag: str) -> None:
        self._layout = LayoutDirectory(root)
        self._tag = tag

    def has(self, blob: Descriptor) -> bool:
        return self._layout.has(blob.digest, blob.size_bytes)

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        self._layout.put(blob.digest, blob.size_bytes, pieces)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._layout.put(descriptor.digest, len(data), lambda: (data,))

    def finish(self, root: Descriptor) -> None:
        self._layout.list_entries([_tagged(root, self._tag)])


def _tagged(root: Descriptor, tag: str) -> Descriptor:
    """The entry of an index.json. The tag stands there as it was given, as skopeo does it."""
    return replace(root.plain, annotations=((media.REF_NAME, tag),) if tag else ())


def _root_of(store: "Store", members: "Members", place: LayoutPlace | DockerArchive) -> Descriptor:
    """What is copied out of an archive."""
    from layerstore.transports import docker_archive

    path = str(place.path)
    if isinstance(place, LayoutPlace):
        index = Index.parse(members.document("index.json"))
        return _only(entries_called(index, place.tag), path, place.tag, _WHICH)
    exports = docker_archive.read(store, members)
    if place.name.startswith("@"):
        number = place.name.removeprefix("@")
        found = exports[int(number) :][:1] if number.isdecimal() else []
    elif place.name:
        wanted = Reference.parse(place.name)
        found = [export for export in exports if wanted in export.names]
    else:
        found = exports
    return _only([e.image.descriptor for e in found], path, place.name, _WHICH_OF_DOCKER_S)


def _only(found: list[Descriptor], path: str, wanted: str, hint: str) -> Descriptor:
    if len({each.digest for each in found}) > 1:
        raise StoreError(f"{path} has {len(found)} images", hint=hint)
    if not found:
        raise NotFoundError(kind=f"image in {path}", key=wanted or "it has none")
    first = found[0]
    return Descriptor(media_type=first.media_type, digest=first.digest, size_bytes=first.size_bytes)
