"""The parts of blobs.py that belong to no backend; backends: tests/contracts/test_blobs.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.backends.memory import MemoryBlobs
from layerstore.blobs import (
    BlobReader,
    check_commit,
    corrupt_blob,
    fsync,
    get,
    is_intact,
    put,
)
from layerstore.digest import Digest
from layerstore.errors import CorruptBlobError


class Pieces:
    """A source that gives less than it is asked for, and says when it is closed."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)
        self.closed = 0

    def read(self, size: int) -> bytes:
        piece = next(self._pieces, b"")
        assert len(piece) <= size, "the reader asks for no less than there is"
        return piece

    def close(self) -> None:
        self.closed += 1


def reader_of(content: bytes, *pieces: bytes) -> tuple[BlobReader, Pieces]:
    source = Pieces(*pieces)
    reader = BlobReader(
        source.read, source.close, digest=Digest.of(content), size_bytes=len(content)
    )
    return reader, source


def test_short_reads_of_the_source_are_put_together() -> None:
    reader, _ = reader_of(b"abcdef", b"a", b"bc", b"def")
    assert reader.read(6) == b"abcdef"
    assert reader.read(6) == b""


def test_reading_nothing_reads_nothing() -> None:
    reader, _ = reader_of(b"ab", b"ab")
    assert reader.read(0) == b""
    assert reader.read() == b"ab"


def test_no_more_is_read_than_the_blob_has() -> None:
    reader, _ = reader_of(b"ab", b"ab", b"surplus")
    assert reader.read(2) == b"ab"
    assert reader.read(100) == b""


def test_the_end_of_a_truncated_source_is_an_error_each_time() -> None:
    reader, _ = reader_of(b"abcd", b"ab")
    for _ in range(2):
        with pytest.raises(CorruptBlobError, match="expected 4 bytes, found 2 bytes"):
            reader.read(4)


def test_a_wrong_digest_stays_an_error() -> None:
    reader, _ = reader_of(b"abcd", b"ab", b"cX")
    assert reader.read(2) == b"ab"
    for _ in range(2):
        with pytest.raises(CorruptBlobError):
            reader.read(2)


def test_a_wrong_empty_blob_is_found() -> None:
    reader = BlobReader(lambda _: b"", lambda: None, digest=Digest.of(b"x"), size_bytes=0)
    with pytest.raises(CorruptBlobError):
        reader.read(1)


def test_leaving_closes_the_source() -> None:
    reader, source = reader_of(b"ab", b"ab")
    with reader as entered:
        assert entered is reader
    assert source.closed == 1


def test_pieces_close_the_source_also_when_abandoned() -> None:
    reader, source = reader_of(b"ab", b"ab")
    assert list(reader.pieces()) == [b"ab"]
    assert source.closed == 1

    reader, source = reader_of(b"abX", b"ab", b"c")
    abandoned: Iterator[bytes] = reader.pieces()
    with pytest.raises(CorruptBlobError):
        list(abandoned)
    assert source.closed == 1


def test_an_intact_blob_is_told_from_a_damaged_or_missing_one() -> None:
    blobs = MemoryBlobs()
    digest = put(blobs, b"content").digest
    assert is_intact(blobs, digest)
    assert not is_intact(blobs, Digest.of(b"missing"))
    blobs._pending[digest] = b"CONTENT"
    assert not is_intact(blobs, digest)


def test_get_may_know_the_size() -> None:
    blobs = MemoryBlobs()
    digest = put(blobs, b"content").digest
    assert get(blobs, digest, size_bytes=7) == b"content"
    with pytest.raises(CorruptBlobError):
        get(blobs, digest, size_bytes=6)


def test_check_commit_accepts_what_is_expected() -> None:
    digest = Digest.of(b"ab")
    check_commit(digest, 2, None, None)
    check_commit(digest, 2, digest, 2)


def test_check_commit_names_the_expected_blob() -> None:
    expected = Digest.of(b"expected")
    with pytest.raises(CorruptBlobError, match=expected):
        check_commit(Digest.of(b"ab"), 2, expected, 2)
    with pytest.raises(CorruptBlobError, match=f"{expected} is damaged: expected 3 bytes"):
        check_commit(Digest.of(b"ab"), 2, expected, 3)


def test_the_error_for_a_damaged_blob_says_what_to_do() -> None:
    error = corrupt_blob(Digest.of(b"x"), "1 bytes", "2 bytes")
    assert "fsck" in error.hint
    assert error.expected == "1 bytes"


def test_fsync_takes_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    fsync(tmp_path / "file")
    fsync(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync(tmp_path / "missing")
