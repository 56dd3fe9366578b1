"""Blobs in memory: for tests, and the smallest example of a backend."""

import io
from collections.abc import Iterator
from typing import Self

from layerstore.blobs import BlobInfo, BlobReader, check_commit, corrupt_blob
from layerstore.digest import Digest
from layerstore.errors import NotFoundError


class MemoryBlobs:
    """A BlobStore in a dictionary."""

    def __init__(self) -> None:
        self._stored: dict[Digest, bytes] = {}
        self._pending: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        return self._find(digest) is not None

    def size_bytes(self, digest: Digest) -> int:
        return len(self._get(digest))

    def stamp(self, digest: Digest) -> str | None:
        data = self._find(digest)
        return None if data is None else f"{len(data)}:{hash(data)}"

    def open(self, digest: Digest, *, size_bytes: int | None = None) -> BlobReader:
        data = self._get(digest)
        if size_bytes is not None and len(data) != size_bytes:
            raise corrupt_blob(digest, f"{size_bytes} bytes", f"{len(data)} bytes")
        file = io.BytesIO(data)
        return BlobReader(file.read, file.close, digest=digest, size_bytes=len(data))

    def writer(self) -> "MemoryBlobWriter":
        return MemoryBlobWriter(self)

    def keep(self, digest: Digest, data: bytes) -> bool:
        """Take over written bytes; False when they are there. Called by the writer."""
        if self._find(digest) == data:
            return False
        self._pending[digest] = data
        return True

    def discard(self, digest: Digest) -> None:
        self._pending.pop(digest, None)

    def sync(self) -> None:
        self._stored |= self._pending
        self._pending = {}

    def remove(self, digest: Digest) -> None:
        self._pending.pop(digest, None)
        self._stored.pop(digest, None)

    def digests(self) -> Iterator[Digest]:
        yield from list(self._stored.keys() | self._pending.keys())

    def _find(self, digest: Digest) -> bytes | None:
        data = self._pending.get(digest)
        return self._stored.get(digest) if data is None else data

    def _get(self, digest: Digest) -> bytes:
        data = self._find(digest)
        if data is None:
            raise NotFoundError(kind="blob", key=digest)
        return data


class MemoryBlobWriter:
    """A BlobWriter into a list."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        self._pieces.append(bytes(data))

    def written(self) -> "_Written":
        return _Written(self._pieces)

    def flush(self) -> None:
        """Every piece can be read as soon as it is in the list."""

    def sync(self) -> None:
        """There is no disk."""

    def commit(
        self, *, expected_digest: Digest | None = None, expected_size_bytes: int | None = None
    ) -> BlobInfo:
        data = b"".join(self._pieces)
        digest = Digest.of(data)
        check_commit(digest, len(data), expected_digest, expected_size_bytes)
        is_new = self._blobs.keep(digest, data)
        return BlobInfo(digest=digest, size_bytes=len(data), is_new=is_new)

    def close(self) -> None:
        self._pieces = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Written:
    """Reads a list that another thread appends to."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._next = 0
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        if not self._rest and self._next < len(self._pieces):
            self._rest = self._pieces[self._next]
            self._next += 1
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""
