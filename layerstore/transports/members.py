"""The files of an archive, taken into the store's blobs while they are read.

A stream cannot be read twice, and what a file is for is known only when all of it has been seen. So
every file becomes a blob that is not yet synced; when the images are known, what none of them
needs is dropped. Names of members are only keys of a table: nothing is ever written under them.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from layerstore.blobs import BlobInfo, get
from layerstore.changeset import (
    Change,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutSymlink,
)
from layerstore.compression import Peeked, Reader, decompressor, detect
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX
from layerstore.errors import MalformedDocumentError, NotFoundError
from layerstore.tarcodec import unpack
from layerstore.transports.exports import blobs_of
from layerstore.treepath import TreePath

if TYPE_CHECKING:
    from layerstore.store import Store

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_LINKS_MAX = 8
_PIECE_BYTES = 256 * 1024
_LAYOUT_FILES = ("oci-layout", "index.json")


class Members:
    """What an archive has, by name. Links between members are followed inside the archive."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._blobs = store.blobs
        self._files: dict[str, BlobInfo] = {}
        self._links: dict[str, str] = {}
        self._new: set[Digest] = set()
        self._kept: set[Digest] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def find(self, name: str) -> BlobInfo:
        """The file `name`, or the one it is a link to.

        Raises:
            NotFoundError: the archive has no such file.
        """
        path = name
        for _ in range(_LINKS_MAX):
            if path in self._files:
                return self._files[path]
            if path not in self._links:
                break
            path = self._links[path]
        raise NotFoundError(kind="file in the archive", key=name)

    def document(self, name: str) -> bytes:
        """The bytes of a small file."""
        info = self.find(name)
        if info.size_bytes > DOCUMENT_BYTES_MAX:
            raise MalformedDocumentError(
                context=name, problem=f"{info.size_bytes} bytes are more than a document may have"
            )
        return get(self._blobs, info.digest)

    def take(self, changes: Iterable[Change]) -> None:
        """Read everything."""
        for change in changes:
            match change:
                case PutFile():
                    self._take_file(change)
                case PutSymlink():
                    self._links[change.path] = _inside(change.path, change.target)
                case PutHardlink():
                    self._links[change.path] = change.target
                case PutDir():
                    continue
                case _:
                    raise MalformedDocumentError(
                        context="archive", problem=f"{change.path!r} is neither file nor directory"
                    )

    def keep(self, entry: Descriptor) -> None:
        """Do not drop what a manifest needs, or an index with all that is here of it."""
        self._kept |= {blob.digest for blob in blobs_of(self._store, entry)}

    def drop_rest(self) -> None:
        """Forget the files that nothing kept, and which were not in the store before."""
        dropped = self._new - self._kept
        for digest in dropped:
            self._blobs.discard(digest)
        self._store.layers.discard(dropped)

    def _take_file(self, change: PutFile) -> None:
        blob = _BLOB.fullmatch(change.path)
        expected = Digest(f"sha256:{blob[1]}") if blob else None
        self._store.check_room(change.size_bytes)
        with self._blobs.writer() as writer:
            content = change.content
            for piece in (content,) if isinstance(content, bytes) else content():
                writer.write(piece)
            info = writer.commit(expected_digest=expected, expected_size_bytes=change.size_bytes)
        if info.is_new:
            self._new.add(info.digest)
        self._files[change.path] = info


@contextmanager
def read_members(store: "Store", source: Reader | Path) -> Iterator[Members]:
    """Read an archive, or the directory of an OCI image layout.

    On leaving, the files that were not kept are dropped: all of them after an error.
    """
    members = Members(store)
    try:
        if not isinstance(source, Path):
            members.take(_unpack(source))
        elif source.is_dir():
            members.take(_layout_files(source))
        else:
            with source.open("rb", buffering=0) as file:
                members.take(_unpack(_Whole(file.read)))
        yield members
    finally:
        members.drop_rest()


def _unpack(stream: Reader) -> Iterator[Change]:
    peeked = Peeked(stream)
    kind = detect(peeked.head)
    return unpack(peeked if kind is None else decompressor(kind, peeked))


def _layout_files(root: Path) -> Iterator[Change]:
    """The files of an OCI image layout; of a directory that is none, nothing but an error."""
    if not (root / "oci-layout").is_file():
        raise MalformedDocumentError(
            context=str(root), problem="not an OCI image layout: it has no file oci-layout"
        )
    names = [*_LAYOUT_FILES]
    names += [f"blobs/sha256/{entry.name}" for entry in (root / "blobs" / "sha256").iterdir()]
    for name in names:
        with _open_regular(root / name) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            yield PutFile(TreePath(name), Meta(0o644), size_bytes, partial(_pieces, file.read))


def _open_regular(path: Path) -> FileIO:
    """Open a file, not what a link leads to, nor a device."""
    try:
        file = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise MalformedDocumentError(context=str(path), problem=problem) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise MalformedDocumentError(context=str(path), problem="not a regular file")
    return file


def _pieces(read: Callable[[int], bytes | None]) -> Iterator[bytes]:
    while piece := read(_PIECE_BYTES):
        yield piece


def _inside(path: str, target: str) -> str:
    """Where a link of the archive leads."""
    parts = list(PurePosixPath(path).parent.parts)
    for part in target.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == ".." or target.startswith("/"):
            raise MalformedDocumentError(
                context="archive", problem=f"the link {path!r} leads outside"
            )
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class _Whole:
    """A raw file, whose reads may come up empty-handed only at the end."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read

    def read(self, size: int = -1, /) -> bytes:
        return self._read(size) or b""
