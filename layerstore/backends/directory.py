"""Blobs as files `blobs/sha256/HEX` of an OCI image layout.

A blob is written to a temporary file while it is hashed, and stays there, readable through this
object, until `sync`: fsync of every file, rename of every file, one fsync of the directory. So a
name that stands in the directory always stands for complete bytes, and a build of many layers
pays for one fsync each, at its end.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Self

from layerstore.blobs import (
    BlobInfo,
    BlobReader,
    check_commit,
    corrupt_blob,
    fsync,
    is_intact,
    write_all,
)
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX
from layerstore.errors import CorruptBlobError, MalformedDocumentError, NotFoundError

_BUFFER_BYTES = 256 * 1024
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectoryBlobs:
    """A BlobStore in a directory.

    Args:
        new_tmp_path: names files on the same file system.
        hold: keeps a blob from being collected while this process lives.
    """

    def __init__(
        self,
        directory: Path,
        new_tmp_path: Callable[[], Path],
        hold: Callable[[Iterable[Digest]], None],
    ) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"
        self._new_tmp_path = new_tmp_path
        self._hold = hold
        self._pending: dict[Digest, BlobFile] = {}
        self._directory_changed = False

    def has(self, digest: Digest) -> bool:
        return self._status(digest) is not None

    def size_bytes(self, digest: Digest) -> int:
        status = self._status(digest)
        if status is None:
            raise NotFoundError(kind="blob", key=digest)
        return status.st_size

    def stamp(self, digest: Digest) -> str | None:
        status = self._status(digest)
        if status is None:
            return None
        # The ctime cannot be set back by whoever changes the bytes.
        return f"{status.st_ino}:{status.st_size}:{status.st_ctime_ns}"

    def open(self, digest: Digest, *, size_bytes: int | None = None) -> BlobReader:
        return open_blob(self._path(digest), digest, size_bytes=size_bytes)

    def writer(self) -> "DirectoryBlobWriter":
        return DirectoryBlobWriter(self, self._new_tmp_path())

    def keep(self, file: "BlobFile") -> bool:
        """Take over a written file; False when there is a good one. Called by the writer."""
        if file.digest in self._pending:
            file.path.unlink()
            return False
        self._hold((file.digest,))  # before looking: what is there now must stay
        if os.path.lexists(self._prefix + file.digest.hex) and is_intact(self, file.digest):
            file.path.unlink()
            self._directory_changed = True  # another process may have renamed it just now
            return False
        self._pending[file.digest] = file
        return True

    def discard(self, digest: Digest) -> None:
        file = self._pending.pop(digest, None)
        if file is not None:
            file.path.unlink()

    def sync(self) -> None:
        for file in self._pending.values():
            fsync(file.path)
        for digest in list(self._pending):
            self._pending[digest].path.rename(self._prefix + digest.hex)
            self._directory_changed = True
            del self._pending[digest]
        if self._directory_changed:
            fsync(self._directory)
            self._directory_changed = False

    def remove(self, digest: Digest) -> None:
        self.discard(digest)
        Path(self._prefix + digest.hex).unlink(missing_ok=True)

    def digests(self) -> Iterator[Digest]:
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            try:
                yield Digest.parse(f"sha256:{name}")
            except MalformedDocumentError:  # verify.py reports what does not belong here
                continue
        yield from list(self._pending)

    def _path(self, digest: Digest) -> str:
        file = self._pending.get(digest)
        return self._prefix + digest.hex if file is None else str(file.path)

    def _status(self, digest: Digest) -> os.stat_result | None:
        try:
            return os.stat(self._path(digest), follow_symlinks=False)  # noqa: PTH116 - hot
        except FileNotFoundError:
            return None


def open_blob(path: str | Path, digest: Digest, *, size_bytes: int | None = None) -> BlobReader:
    """A verifying reader of a blob in any directory, be it a stranger's. Raises as a store does."""
    try:
        fd = os.open(path, _READ_FLAGS)
    except FileNotFoundError:
        raise NotFoundError(kind="blob", key=digest) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise corrupt_blob(digest, "a file", "a link or socket") from None
        raise
    file = _Descriptor(fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise corrupt_blob(digest, "a file", "a directory or device")
    if size_bytes is not None and status.st_size != size_bytes:
        file.close()
        raise corrupt_blob(digest, f"{size_bytes} bytes", f"{status.st_size} bytes")
    return BlobReader(file.read, file.close, digest=digest, size_bytes=status.st_size)


def has_blob(path: Path, digest: Digest, size_bytes: int) -> bool:
    """Whether there is such a blob, and all of it is right; in any directory."""
    try:
        with open_blob(path, digest, size_bytes=size_bytes) as reader:
            reader.drain()
    except (OSError, NotFoundError, CorruptBlobError):
        return False
    return True


def read_small(path: Path) -> bytes | None:
    """A small file in any directory, be it a stranger's; None when it is not there.

    Raises:
        MalformedDocumentError: it is larger than a document may be.
        OSError: it is a link or a directory, or cannot be read.
    """
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, _READ_FLAGS)) as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > DOCUMENT_BYTES_MAX:
        raise MalformedDocumentError(context=path.name, problem="too large")
    return data


class BlobFile:
    """A complete temporary file."""

    __slots__ = ("digest", "path", "size_bytes")

    def __init__(self, path: Path, digest: Digest, size_bytes: int) -> None:
        self.path = path
        self.digest = digest
        self.size_bytes = size_bytes


class DirectoryBlobWriter:
    """A BlobWriter into a temporary file."""

    def __init__(self, blobs: DirectoryBlobs, path: Path) -> None:
        self._blobs = blobs
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes, /) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _BUFFER_BYTES:
            self._write_held()

    def written(self) -> FileIO:
        return FileIO(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))

    def flush(self) -> None:
        self._write_held()

    def sync(self) -> None:
        self._write_held()
        os.fsync(self._fd)

    def commit(
        self, *, expected_digest: Digest | None = None, expected_size_bytes: int | None = None
    ) -> BlobInfo:
        self._write_held()
        digest = Digest("sha256:" + self._hash.hexdigest())
        check_commit(digest, self._size_bytes, expected_digest, expected_size_bytes)
        os.fchmod(self._fd, 0o444)
        os.close(self._fd)
        self._fd = -1
        is_new = self._blobs.keep(BlobFile(self._path, digest, self._size_bytes))
        return BlobInfo(digest=digest, size_bytes=self._size_bytes, is_new=is_new)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_held(self) -> None:
        data = b"".join(self._held)
        self._held = []
        self._held_bytes = 0
        self._hash.update(data)
        self._size_bytes += len(data)
        write_all(self._fd, data, self._path)


class _Descriptor:
    """A file descriptor that can be closed twice."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        return os.read(self._fd, min(size, _BUFFER_BYTES))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
