"""Local archives that ADD unpacks: is this file one, and what is in it.

A file is an archive when, after decompression (gzip, bzip2, xz, zstd or none), it begins with a
valid tar header; its name plays no part.

Source: Dockerfile reference, "ADD", "Adding local tar archives"; BuildKit file/unpack.go.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ContextError
from builder.sources import SourceEntry, SourceTree
from layerstore import (
    Change,
    Content,
    PutFile,
    StoreError,
    decompressor,
    detect,
    is_tar,
    unpack,
)

if TYPE_CHECKING:
    from layerstore import Reader

_IN_MEMORY_MAX_BYTES = 64 << 10
_IN_MEMORY_TOTAL_MAX_BYTES = 64 << 20
_HEADER_BYTES = 512
_PIECE_BYTES = 1 << 20


class _ContentStream:
    """A source file as a readable stream."""

    def __init__(self, content: Content) -> None:
        self._pieces = iter((content,) if isinstance(content, bytes) else content())
        self._buffer = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        if not self._buffer:
            self._buffer = memoryview(next(self._pieces, b""))
        if size < 0 or size >= len(self._buffer):
            taken, self._buffer = self._buffer, memoryview(b"")
        else:
            taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(taken)


def is_archive(tree: SourceTree, entry: SourceEntry) -> bool:
    """Whether ADD unpacks this file."""
    if entry.kind != "file" or entry.size_bytes == 0:
        return False
    try:
        stream = _open(tree, entry)
        header = b""
        while len(header) < _HEADER_BYTES:
            piece = stream.read(_HEADER_BYTES - len(header))
            if not piece:
                break
            header += piece
    except StoreError:  # its magic number lied: an ordinary file
        return False
    return is_tar(header)


def members(tree: SourceTree, entry: SourceEntry, cleanup: ExitStack) -> Iterator[Change]:
    """The archive's members as changes whose contents stay readable until `cleanup` is closed.

    Raises:
        ContextError: the archive is damaged, or hostile.
    """
    try:
        yield from kept(unpack(_open(tree, entry), is_layer=False), cleanup)
    except StoreError as error:
        raise ContextError(
            f"cannot unpack '/{entry.path}' of {tree.description}: {error}",
            hint="--unpack=false copies it as it is",
        ) from error


def kept(
    changes: Iterable[Change], cleanup: ExitStack, directory: Path | None = None
) -> Iterator[Change]:
    """Changes out of a tar, whose contents can be read but once, made to last until `cleanup`.

    Large ones wait in an unnamed file in `directory`.
    """
    spool = _Spool(cleanup, directory)
    for change in changes:
        if isinstance(change, PutFile):
            change = replace(change, content=spool.keep(change))
        yield change


def _open(tree: SourceTree, entry: SourceEntry) -> "Reader":
    first = _ContentStream(tree.content(entry))
    kind = detect(first.read(16))
    return decompressor(kind or "none", _ContentStream(tree.content(entry)))


class _Spool:
    """Keeps contents: small ones in memory, the rest in one unnamed file."""

    def __init__(self, cleanup: ExitStack, directory: Path | None) -> None:
        self._cleanup = cleanup
        self._directory = directory
        self._in_memory_bytes = 0
        self._fd: int | None = None
        self._end = 0

    def keep(self, change: PutFile) -> Content:
        pieces: Iterable[bytes] = (
            (change.content,) if isinstance(change.content, bytes) else change.content()
        )
        fits = self._in_memory_bytes + change.size_bytes <= _IN_MEMORY_TOTAL_MAX_BYTES
        if change.size_bytes <= _IN_MEMORY_MAX_BYTES and fits:
            self._in_memory_bytes += change.size_bytes
            return b"".join(pieces)
        return self._write(pieces)

    def _write(self, pieces: Iterable[bytes]) -> Content:
        if self._fd is None:
            import tempfile

            file = self._cleanup.enter_context(
                tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  (the stack closes it)
            )
            self._fd = file.fileno()
        fd, start = self._fd, self._end
        for piece in pieces:
            view = memoryview(piece)
            while view:
                written = os.pwrite(fd, view, self._end)
                self._end += written
                view = view[written:]
        end = self._end

        def read() -> Iterator[bytes]:
            position = start
            while position < end:
                piece = os.pread(fd, min(_PIECE_BYTES, end - position), position)
                position += len(piece)
                yield piece

        return read
