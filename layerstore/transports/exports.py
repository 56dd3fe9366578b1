"""What goes in and out, and the parts that writers of several formats share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from layerstore import descriptor as media
from layerstore.beside import naming_full
from layerstore.blobs import get
from layerstore.changeset import Change, Content, Meta, PutDir, PutFile
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import Manifest
from layerstore.errors import StoreError
from layerstore.images import Image
from layerstore.reference import Reference
from layerstore.treepath import TreePath

if TYPE_CHECKING:
    from layerstore.store import Store

Format = Literal["docker", "oci-archive", "docker-archive", "oci-dir"]

LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'

_DIR = Meta(0o755)
_FILE = Meta(0o644)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An image with the names it goes by in an archive.

    An image with an `index` stands for all of the index that is in the store.
    """

    image: Image
    names: tuple[Reference, ...] = ()


def directory(path: str) -> PutDir:
    """A directory of an archive."""
    return PutDir(TreePath(path), _DIR)


def small_file(path: str, data: bytes) -> PutFile:
    """A document of an archive."""
    return PutFile(TreePath(path), _FILE, len(data), data)


def large_file(path: str, size_bytes: int, content: Callable[[], Iterator[bytes]]) -> PutFile:
    """A blob of an archive."""
    pieces: Content = content
    return PutFile(TreePath(path), _FILE, size_bytes, pieces)


def blob_name(digest: Digest) -> str:
    """Where an OCI image layout has a blob."""
    return f"blobs/sha256/{digest.hex}"


def blob_pieces(store: "Store", digest: Digest, size_bytes: int) -> Iterator[bytes]:
    """A stored blob, verified while it is read."""
    return store.blobs.open(digest, size_bytes=size_bytes).pieces()


def blobs_of(store: "Store", entry: Descriptor) -> list[Descriptor]:
    """A manifest with all it needs, or an index with those of its images that are here whole."""
    found: dict[Digest, Descriptor] = {}
    for descriptor in store.images.family(entry):
        parts = [descriptor]
        if descriptor.media_type in media.MANIFEST_TYPES:
            data = get(store.blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
            manifest = Manifest.parse(data)
            parts += [manifest.config, *manifest.layers]
        if descriptor.digest == entry.digest or all(store.blobs.has(p.digest) for p in parts):
            found |= {part.digest: part for part in parts}
    return [*found.values()]


def write_archive(changes: Sequence[Change], target: BinaryIO | Path) -> None:
    """Write a tar."""
    from layerstore import tarcodec

    if isinstance(target, Path):
        raise StoreError(f"an archive goes to a file, not to the directory {target}")
    tarcodec.pack(changes, target.write)


def write_directory(changes: Iterable[Change], target: BinaryIO | Path) -> None:
    """Make a directory, which must be empty or missing."""
    from layerstore import overlaydir

    if not isinstance(target, Path):
        raise StoreError("the format oci-dir needs a directory to write to")
    target.mkdir(parents=True, exist_ok=True)
    if next(target.iterdir(), None) is not None:
        raise StoreError(f"{target} is not empty", hint="give a directory that is empty or missing")
    with naming_full(target):
        overlaydir.write(changes, target, chown=False)
