"""The `dir:` directories of skopeo and podman: one image as plain files.

    DIR/version             "Directory Transport Version: 1.1"
    DIR/manifest.json       the manifest, or the index; its bytes as they are
    DIR/HEX                 layers, configs
    DIR/HEX.manifest.json   the manifests of an index

Spec: containers-image, directory transport (its doc: containers-transports(5), "dir:path").
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from layerstore import descriptor as media
from layerstore.backends.directory import has_blob, open_blob, read_small
from layerstore.beside import remove_left_over, replacing
from layerstore.blobs import fsync
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX, Reader
from layerstore.errors import MalformedDocumentError, StoreError, UnsupportedMediaTypeError

VERSION = b"Directory Transport Version: 1.1\n"
_VERSION_START = b"Directory Transport Version: 1."
_MANIFEST = "manifest.json"
_OWN = re.compile(r"[0-9a-f]{64}(\.manifest\.json)?|version|manifest\.json|signature-[0-9]+")


def is_one(root: Path) -> bool:
    """Whether there is such a directory."""
    try:
        return _small(root / "version").startswith(_VERSION_START)
    except MalformedDocumentError:
        return False


class DirectorySource:
    """The image in such a directory: a Source."""

    def __init__(self, root: Path) -> None:
        if not is_one(root):
            raise MalformedDocumentError(
                context=str(root), problem="not a directory that `copy dir:` wrote: no version file"
            )
        self._root = root
        self._data = _small(root / _MANIFEST)
        self._root_descriptor = Descriptor(
            media_type=media_type_of(self._data),
            digest=Digest.of(self._data),
            size_bytes=len(self._data),
        )

    def root(self) -> Descriptor:
        return self._root_descriptor

    def document(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest == self._root_descriptor.digest:
            return self._data
        name = f"{descriptor.digest.hex}.manifest.json"
        with open_blob(
            self._root / name, descriptor.digest, size_bytes=descriptor.size_bytes
        ) as reader:
            if reader.size_bytes > DOCUMENT_BYTES_MAX:
                raise MalformedDocumentError(context=name, problem="too large for a document")
            return reader.read()

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        path = self._root / blob.digest.hex
        return open_blob(path, blob.digest, size_bytes=blob.size_bytes).pieces()


class DirectoryDestination:
    """Such a directory to write: a Destination. What an older one holds is replaced.

    From the first file on it is one, so that a copy that was interrupted can go on in it.

    Raises:
        StoreError: the directory holds something else.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: set[str] = set()
        root.mkdir(parents=True, exist_ok=True)
        remove_left_over(root)
        self._old = {path.name for path in root.iterdir()}
        foreign = [name for name in self._old if not _OWN.fullmatch(name)]
        if foreign or (self._old and not is_one(root)):
            raise StoreError(
                f"{root} is neither empty nor a directory of the dir: format",
                hint="give another directory",
            )
        # No image while it is written: the manifest comes last.
        (root / _MANIFEST).unlink(missing_ok=True)
        self._write("version", iter((VERSION,)))

    def has(self, blob: Descriptor) -> bool:
        if blob.digest.hex not in self._old:
            return False
        is_there = has_blob(self._root / blob.digest.hex, blob.digest, blob.size_bytes)
        if is_there:
            self._written.add(blob.digest.hex)
        return is_there

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        self._write(blob.digest.hex, pieces())

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._write(f"{descriptor.digest.hex}.manifest.json", iter((data,)))

    def finish(self, root: Descriptor) -> None:
        name = f"{root.digest.hex}.manifest.json"
        (self._root / name).rename(self._root / _MANIFEST)
        for old in self._old - self._written - {_MANIFEST}:
            (self._root / old).unlink(missing_ok=True)
        fsync(self._root)

    def _write(self, name: str, pieces: Iterator[bytes]) -> None:
        with replacing(self._root / name) as file:
            file.writelines(pieces)
        self._written.add(name)


def media_type_of(data: bytes) -> str:
    """What a manifest or an index says that it is; where it does not, what it has to be.

    Raises:
        UnsupportedMediaTypeError: neither.
    """
    reader = Reader.of(data, context=_MANIFEST)
    found = reader.text("mediaType")
    if not found:
        found = media.OCI_MANIFEST if reader.value("manifests") is None else media.OCI_INDEX
        reader.check_version()
    if found not in media.MANIFEST_TYPES | media.INDEX_TYPES:
        raise UnsupportedMediaTypeError(media_type=found, hint="neither an image nor an index")
    return found


def _small(path: Path) -> bytes:
    try:
        data = read_small(path)
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise MalformedDocumentError(context=str(path), problem=problem) from None
    if data is None:
        raise MalformedDocumentError(context=str(path), problem="is missing")
    return data
