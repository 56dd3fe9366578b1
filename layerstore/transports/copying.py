"""Images from one place to another, byte for byte: what is copied keeps its digest.

A place is read as a Source and written as a Destination; `places.py` opens them by name. A copy
goes from the bottom up: layers and config before the manifest, manifests before their index, the
name last. So whatever stops it, nothing at the destination names what is not there. Blobs of images
that are named by one index are gone through together, by an Each.

Invariants (tests/layerstore/transports/test_copying.py):
  1. Every byte is verified by its digest before what names it is written.
  2. What the destination has is not read from the source.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from layerstore import descriptor as media
from layerstore.compression import FOREIGN_TYPES
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX, ImageConfig, Index, Manifest
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    UnsupportedMediaTypeError,
)
from layerstore.images import NESTING_MAX, check_platform, choose, host_platform

MANIFESTS_MAX = 1000  # of one copy: an index of every platform there is has some twenty
_HELD_BYTES = 1 << 20  # of manifests whose blobs are copied together


class Source(Protocol):
    """An image, or several under an index, to be read. All that it gives has been verified."""

    def root(self) -> Descriptor:
        """The manifest or index that is copied."""

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest or an index."""

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """A layer or a config; the last piece comes when all of it is right.

        Raises:
            NotFoundError, CorruptBlobError.
        """


class Destination(Protocol):
    """A place that takes an image. `has` and `put` may be called by several threads at once."""

    def has(self, blob: Descriptor) -> bool:
        """Whether the blob is there, whole and right."""

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        """Store a layer or a config. `pieces` verifies what it yields."""

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a manifest or an index; all that it names is there."""

    def finish(self, root: Descriptor) -> None:
        """Give what has been copied its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What has been done for one blob so far. `existed`: it was at the destination already."""

    blob: Descriptor
    done_bytes: int
    existed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing more comes of it."""
        return self.existed or self.done_bytes == self.blob.size_bytes


Report = Callable[[Copied], object]
Take = Callable[[Descriptor, Report], object]


class Each(Protocol):
    """Calls `take` for each blob: one after the other, or side by side where that is faster.

    `report` is called by the caller's thread alone; `take` is given a Report for any thread.
    """

    def __call__(self, blobs: Sequence[Descriptor], take: Take, report: Report) -> None: ...


def one_by_one(blobs: Sequence[Descriptor], take: Take, report: Report) -> None:
    """An Each."""
    for blob in blobs:
        take(blob, report)


def copy_image(
    source: Source,
    destination: Destination,
    *,
    platform: Platform | None = None,
    whole: bool = False,
    report: Report = lambda _: None,
    each: Each = one_by_one,
) -> Descriptor:
    """Copy an image; returns what the destination names now.

    Args:
        platform: which image of an index is copied; None is this host's. What is no index must be
            for it.
        whole: copy an index with all its images.
        each: how the blobs are gone through.

    Raises:
        NoPlatformError: there is nothing for the platform.
        UnsupportedMediaTypeError: what is to be copied is no image.
        MalformedDocumentError, CorruptBlobError, NotFoundError: the source is damaged.
    """
    root = source.root().plain
    if platform is not None and root.media_type in media.MANIFEST_TYPES:
        _check_platform(source, root, platform)
    depth = 0
    while root.media_type in media.INDEX_TYPES and not whole:
        _check_depth(depth := depth + 1)
        index = Index.parse(source.document(root))
        root = choose(index, platform or host_platform()).plain
    copy = _Copy(source=source, destination=destination, report=report, each=each)
    copy.take(root, depth=0)
    copy.write()
    destination.finish(root)
    return root


def _check_platform(source: Source, root: Descriptor, platform: Platform) -> None:
    config = Manifest.parse(source.document(root)).config
    if config.media_type not in media.CONFIG_TYPES:
        return  # no image: it runs nowhere
    if config.size_bytes > DOCUMENT_BYTES_MAX:
        raise MalformedDocumentError(
            context=f"config {config.digest}", problem="too large for a document"
        )
    check_platform(ImageConfig.parse(b"".join(source.pieces(config))), platform)


@dataclass(slots=True, kw_only=True)
class _Copy:
    source: Source
    destination: Destination
    report: Report
    each: Each
    _done: set[Digest] = field(default_factory=set)
    _documents: list[tuple[Descriptor, bytes]] = field(default_factory=list)
    _blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    _held_bytes: int = 0

    def take(self, descriptor: Descriptor, *, depth: int) -> None:
        """Have a manifest or an index copied, after what it names."""
        if descriptor.digest in self._done:
            return
        self._done.add(descriptor.digest)
        _check_depth(depth)
        if len(self._done) > MANIFESTS_MAX:
            raise MalformedDocumentError(
                context="image index", problem=f"more than {MANIFESTS_MAX} manifests"
            )
        if descriptor.media_type in media.INDEX_TYPES:
            data = self.source.document(descriptor)
            for each in Index.parse(data).manifests:
                self.take(each, depth=depth + 1)
        elif descriptor.media_type in media.MANIFEST_TYPES:
            data = self.source.document(descriptor)
            manifest = Manifest.parse(data)
            self._blobs |= {blob.digest: blob for blob in (*manifest.layers, manifest.config)}
        else:
            raise UnsupportedMediaTypeError(
                media_type=descriptor.media_type, hint="only images and indexes are copied"
            )
        self._documents.append((descriptor, data))
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES:
            self.write()

    def write(self) -> None:
        """Copy the blobs of what has been taken, which may be of several images, then name them."""
        self.each(list(self._blobs.values()), self._take_blob, self.report)
        for descriptor, data in self._documents:
            self.destination.put_document(descriptor, data)
        self._blobs, self._documents, self._held_bytes = {}, [], 0

    def _take_blob(self, blob: Descriptor, report: Report) -> None:
        if self.destination.has(blob):
            report(Copied(blob=blob, done_bytes=blob.size_bytes, existed=True))
            return
        report(Copied(blob=blob, done_bytes=0))
        try:
            try:
                self.destination.put(blob, lambda: self._counted(blob, report))
            except CorruptBlobError:  # a byte may be changed on its way, once
                self.destination.put(blob, lambda: self._counted(blob, report))
        except NotFoundError:
            if blob.media_type not in FOREIGN_TYPES:
                raise
            raise UnsupportedMediaTypeError(
                media_type=blob.media_type,
                hint="the layer's bytes are kept by somebody else, and not fetched from there",
            ) from None
        report(Copied(blob=blob, done_bytes=blob.size_bytes))

    def _counted(self, blob: Descriptor, report: Report) -> Iterator[bytes]:
        done_bytes = 0
        for piece in self.source.pieces(blob):
            done_bytes += len(piece)
            if done_bytes < blob.size_bytes:
                report(Copied(blob=blob, done_bytes=done_bytes))
            yield piece


def _check_depth(depth: int) -> None:
    if depth > NESTING_MAX:
        raise MalformedDocumentError(context="image index", problem="indexes nested too deeply")
