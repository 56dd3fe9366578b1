"""A blob made beside what goes on: the same bytes, one outcome, and no thread left."""

import errno
import gzip
import os
import threading
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import Compression, Digest
from layerstore.backends.memory import MemoryBlobs, MemoryBlobWriter
from layerstore.blobs import BlobWriter, get
from layerstore.compression import compressor, decompressor, media_type
from layerstore.packing import Packing

PIECE = b"some words, " * (1 << 17)  # 1.5 MiB


class Gated(MemoryBlobWriter):
    """Writes nothing before its gate is opened; then it may fail."""

    def __init__(self, blobs: MemoryBlobs, problem: Exception | None = None) -> None:
        super().__init__(blobs)
        self.gate = threading.Event()
        self.problem = problem
        self.synced = 0
        self.closed = 0

    @classmethod
    def open(cls) -> Self:
        return cls(MemoryBlobs())

    def write(self, data: bytes, /) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.gate.wait(60)
            if self.problem:
                raise self.problem
        super().write(data)

    def sync(self) -> None:
        self.synced += 1

    def close(self) -> None:
        self.closed += 1


def threads() -> int:
    return threading.active_count()


def random(count: int) -> list[bytes]:
    """Pieces that no compressor can hold back."""
    return [os.urandom(1 << 20) for _ in range(count)]


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_blob_is_what_the_compressor_makes(kind: Compression, count: int) -> None:
    out: list[bytes] = []
    plain = compressor(kind, out.append)
    blobs = MemoryBlobs()
    packing = Packing(kind, blobs.writer())
    for _ in range(count):
        plain.write(PIECE)
        packing.write(PIECE)
    plain.close()
    packing.close()
    found = packing.finish()
    assert found.digest == Digest.of(b"".join(out))
    assert found.media_type == media_type(kind)
    assert found.size_bytes == blobs.size_bytes(found.digest)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(min_value=0, max_value=1_200_000), max_size=12))
def test_how_it_is_cut_does_not_matter(sizes: list[int]) -> None:
    data = os.urandom(1 << 16) * (sum(sizes) // (1 << 16) + 1)
    data = data[: sum(sizes)]
    blobs = MemoryBlobs()
    whole, cut = Packing("gzip", blobs.writer()), Packing("gzip", blobs.writer())
    whole.write(data)
    start = 0
    for size in sizes:
        cut.write(data[start : start + size])
        start += size
    for packing in (whole, cut):
        packing.close()
    assert whole.finish() == cut.finish()
    assert gzip.decompress(get(blobs, whole.finish().digest)) == data


def test_a_small_one_has_no_thread() -> None:
    before = threads()
    packing = Packing("gzip", MemoryBlobs().writer())
    packing.write(PIECE)
    packing.close()
    assert threads() == before
    assert packing.is_done
    packing.finish()


def test_whoever_makes_it_goes_on_meanwhile() -> None:
    before = threads()
    writer = Gated.open()
    packing = Packing("none", writer)
    for piece in random(8):
        packing.write(piece)
    packing.close()
    assert threads() == before + 1
    assert not packing.is_done
    writer.gate.set()
    assert packing.finish().size_bytes == 8 << 20
    assert packing.finish() is packing.finish()
    assert packing.is_done
    assert writer.synced == 1
    assert threads() == before


def test_it_waits_when_the_compressor_is_far_behind() -> None:
    writer = Gated.open()
    packing = Packing("none", writer)
    piece = bytes(1 << 20)
    threading.Timer(0.2, writer.gate.set).start()
    for _ in range(100):
        packing.write(piece)
    assert writer.gate.is_set()
    packing.close()
    assert packing.finish().size_bytes == 100 << 20


def test_what_goes_wrong_is_told_to_who_waits() -> None:
    before = threads()
    writer = Gated(MemoryBlobs(), OSError(errno.ENOSPC, "full"))
    packing = Packing("none", writer)
    for piece in random(4):
        packing.write(piece)
    packing.close()
    writer.gate.set()
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            packing.finish()
    packing.abandon()
    assert writer.closed == 1
    assert writer.synced == 0
    assert threads() == before


def test_what_goes_wrong_early_stops_the_maker() -> None:
    writer = Gated(MemoryBlobs(), OSError(errno.ENOSPC, "full"))
    writer.gate.set()
    packing = Packing("none", writer)
    with pytest.raises(OSError, match="full"):
        for _ in range(1000):
            packing.write(PIECE)
    packing.abandon()
    assert writer.closed == 1


def test_one_that_nobody_wants_stops_at_once() -> None:
    before = threads()
    writer = Gated.open()
    packing = Packing("none", writer)
    for piece in random(40):
        packing.write(piece)
    packing.close()
    threading.Timer(0.1, writer.gate.set).start()
    packing.abandon()
    assert threads() == before
    assert len(writer._pieces) < 10
    assert (writer.synced, writer.closed) == (0, 1)


def test_writers_can_be_forced_to_the_disk() -> None:
    """Every backend has it; what it is worth is the backend's business."""
    writer: BlobWriter = MemoryBlobs().writer()
    writer.write(b"x")
    writer.sync()
    assert writer.commit().size_bytes == 1


def test_what_was_packed_can_be_read() -> None:
    blobs = MemoryBlobs()
    packing = Packing("zstd", blobs.writer())
    for _ in range(3):
        packing.write(PIECE)
    packing.close()
    with blobs.open(packing.finish().digest) as reader:
        assert decompressor("zstd", reader).read() == PIECE * 3
