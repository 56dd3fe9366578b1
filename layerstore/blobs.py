"""Blobs: bytes under the name of their digest.

BlobStore is what a backend must be; contract tests: tests/contracts/test_blobs.py. Rules:
  1. A reader never hands out the last byte of a blob before all of it has been verified.
  2. A committed blob is readable through the same BlobStore at once; through others, and after a
     power cut, once `sync` has returned.
  3. Committing bytes that are there already is fine, and replaces a damaged copy.
  4. `remove` of what is not there does nothing; open readers keep working.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX
from layerstore.errors import CorruptBlobError, MalformedDocumentError, NotFoundError

HEAL_HINT = "build, load or pull its image again; `lamina fsck` lists all damage"
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """What was written. `is_new` says that the store did not have it, or a damaged copy."""

    digest: Digest
    size_bytes: int
    is_new: bool = True


class BlobReader:
    """Reads a blob and verifies it on the way. The last piece comes only when all of it is right.

    `read` returns what was asked for, less only at the end. A context manager.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        close: Callable[[], object],
        *,
        digest: Digest,
        size_bytes: int,
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._read = read
        self._close = close
        self._hash = hashlib.sha256()
        self._left_bytes = size_bytes
        self._verified = False

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all that is left when negative.

        Raises:
            CorruptBlobError: the stored bytes are not those of the digest.
        """
        wanted = self._left_bytes if size < 0 else min(size, self._left_bytes)
        pieces = []
        while wanted:
            piece = self._read(wanted)
            if not piece:
                size_found = self.size_bytes - self._left_bytes
                raise self._corrupt(f"{self.size_bytes} bytes", f"{size_found} bytes")
            self._hash.update(piece)
            self._left_bytes -= len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        if not self._left_bytes and not self._verified:
            self._verify()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """All that is left, in pieces; closes the reader at the end."""
        with self:
            while piece := self.read(_PIECE_BYTES):
                yield piece

    def drain(self) -> None:
        """Verify what is left without keeping it."""
        while self.read(_PIECE_BYTES):
            pass

    def close(self) -> None:
        """Release the file."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _verify(self) -> None:
        actual = "sha256:" + self._hash.hexdigest()
        if actual != self.digest:
            raise self._corrupt(self.digest, actual)
        self._verified = True

    def _corrupt(self, expected: str, actual: str) -> CorruptBlobError:
        return corrupt_blob(self.digest, expected, actual)


def corrupt_blob(digest: Digest, expected: str, actual: str) -> CorruptBlobError:
    """The error for a stored blob that is not what its name says."""
    return CorruptBlobError(what=f"blob {digest}", expected=expected, actual=actual, hint=HEAL_HINT)


class WrittenBytes(Protocol):
    """What a BlobWriter has written so far. A context manager."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class BlobWriter(Protocol):
    """Takes the bytes of one blob. A context manager: leaving it without commit drops them."""

    def write(self, data: bytes, /) -> object:
        """Append `data`."""

    def written(self) -> "WrittenBytes":
        """A reader of what is written, from the start; for one other thread, while this writes.

        It comes up empty where nothing more has been flushed yet.
        """

    def flush(self) -> None:
        """Hand everything that was written to such a reader."""

    def sync(self) -> None:
        """Force what was written to the disk now: the store's `sync` has less to do then."""

    def commit(
        self, *, expected_digest: Digest | None = None, expected_size_bytes: int | None = None
    ) -> BlobInfo:
        """Make the blob readable under its digest. Nothing may be written afterwards.

        Raises:
            CorruptBlobError: the bytes are not the expected ones; they are dropped.
        """

    def close(self) -> None:
        """Drop the bytes, unless they were committed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class BlobStore(Protocol):
    """Where blobs are kept. The rules are in the module's docstring."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there (its bytes are not looked at)."""

    def size_bytes(self, digest: Digest) -> int:
        """The size of what is stored.

        Raises:
            NotFoundError: there is no such blob.
        """

    def stamp(self, digest: Digest) -> str | None:
        """A text that changes when the stored bytes may have changed; None without a blob."""

    def open(self, digest: Digest, *, size_bytes: int | None = None) -> BlobReader:
        """A verifying reader, which the caller closes.

        Raises:
            NotFoundError: there is no such blob.
            CorruptBlobError: its size is not `size_bytes`.
        """

    def writer(self) -> BlobWriter:
        """A writer for a new blob."""

    def discard(self, digest: Digest) -> None:
        """Forget a blob that was committed here and not yet synced; others stay."""

    def sync(self) -> None:
        """Make everything committed visible to all, and safe from a power cut."""

    def remove(self, digest: Digest) -> None:
        """Delete the blob."""

    def digests(self) -> Iterator[Digest]:
        """Every blob there is, in no order."""


def get(
    blobs: BlobStore,
    digest: Digest,
    *,
    size_bytes: int | None = None,
    size_bytes_max: int = DOCUMENT_BYTES_MAX,
) -> bytes:
    """A whole small blob, verified.

    Raises:
        NotFoundError: there is no such blob.
        CorruptBlobError: it is damaged, or not of `size_bytes`.
        MalformedDocumentError: it is larger than `size_bytes_max`.
    """
    with blobs.open(digest, size_bytes=size_bytes) as reader:
        if reader.size_bytes > size_bytes_max:
            raise MalformedDocumentError(
                context=f"blob {digest}",
                problem=f"{reader.size_bytes} bytes are more than a document may have",
            )
        return reader.read()


def put(blobs: BlobStore, data: bytes) -> BlobInfo:
    """Commit a small blob."""
    with blobs.writer() as writer:
        writer.write(data)
        return writer.commit()


def is_intact(blobs: BlobStore, digest: Digest) -> bool:
    """Whether the blob is there and its bytes are right; reads all of it."""
    try:
        with blobs.open(digest) as reader:
            reader.drain()
    except (NotFoundError, CorruptBlobError):
        return False
    return True


def check_commit(
    digest: Digest,
    size_bytes: int,
    expected_digest: Digest | None,
    expected_size_bytes: int | None,
) -> None:
    """Compare what was written with what was announced; for backends."""
    if expected_size_bytes is not None and size_bytes != expected_size_bytes:
        named = expected_digest or digest
        raise corrupt_blob(named, f"{expected_size_bytes} bytes", f"{size_bytes} bytes")
    if expected_digest is not None and digest != expected_digest:
        raise corrupt_blob(expected_digest, expected_digest, digest)


def fsync(path: Path) -> None:
    """Force a file, or the names in a directory, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, path: Path) -> None:
    """Write all of `data`; an error names `path`, which the kernel's does not."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
