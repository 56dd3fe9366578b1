import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import get_args

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.compression import (
    DEFAULT,
    Compression,
    Detected,
    Peeked,
    Reader,
    compressor,
    decompressor,
    default_level,
    detect,
    kind_of,
    levels,
    media_type,
)
from layerstore.errors import MalformedDocumentError, UnsupportedMediaTypeError

KINDS: tuple[Compression, ...] = get_args(Compression)
DETECTED: tuple[Detected, ...] = get_args(Detected)
TEXT = b"".join(b"line %d of a text that repeats itself %d\n" % (n, n % 7) for n in range(40_000))

FOREIGN: dict[Detected, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def compress(kind: Compression, *pieces: bytes) -> bytes:
    written: list[bytes] = []
    made = compressor(kind, written.append)
    for piece in pieces:
        made.write(piece)
    made.close()
    return b"".join(written)


def decompress(kind: Compression | Detected, data: bytes, size: int = -1) -> bytes:
    reader = decompressor(kind, io.BytesIO(data))
    if size < 0:
        return reader.read()
    return b"".join(iter(lambda: reader.read(size), b""))


class Dripping:
    """Gives one byte at a time, whatever is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, _size: int = -1, /) -> bytes:
        return self._data.read(1)


# Round trips


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.one_of(st.binary(max_size=2000), st.sampled_from([TEXT, bytes(1 << 20)])))
def test_what_is_compressed_comes_back(kind: Compression, data: bytes) -> None:
    assert decompress(kind, compress(kind, data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_how_they_were_cut(kind: Compression) -> None:
    data = TEXT + random.Random(1).randbytes(700_000) + bytes(600_000)
    whole = compress(kind, data)
    for size in (1000, 65_536, 262_143, 262_144, 262_145, 1_000_000):
        assert compress(kind, *(data[at : at + size] for at in range(0, len(data), size))) == whole
    assert compress(kind, b"", data[:5], b"", data[5:], b"") == whole


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_may_be_used_again_after_write(kind: Compression) -> None:
    if kind == "none":
        return
    buffer = bytearray(b"a" * 1000)
    written: list[bytes] = []
    made = compressor(kind, written.append)
    made.write(buffer)  # type: ignore[arg-type]
    buffer[:] = b"b" * 1000
    made.close()
    assert decompress(kind, b"".join(written)) == b"a" * 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 1000, 1 << 16])
def test_reading_in_pieces_gives_the_same(kind: Compression, size: int) -> None:
    data = TEXT[:20_000] if size == 1 else TEXT
    assert decompress(kind, compress(kind, data), size) == data


@pytest.mark.parametrize("kind", DETECTED)
def test_a_slow_stream_gives_the_same(kind: Detected) -> None:
    packed = FOREIGN[kind](TEXT[:50_000])
    assert decompressor(kind, Dripping(packed)).read() == TEXT[:50_000]


@pytest.mark.parametrize("kind", DETECTED)
def test_a_read_returns_as_much_as_was_asked_for_until_the_end(kind: Detected) -> None:
    reader = decompressor(kind, io.BytesIO(FOREIGN[kind](TEXT)))
    assert len(reader.read(100_001)) == 100_001
    assert len(reader.read(0)) == 0
    assert reader.read() == TEXT[100_001:]
    assert reader.read(1) == b""
    assert reader.read() == b""


def test_gzip_has_a_header_that_tells_nothing() -> None:
    assert compress("gzip", b"x")[:10] == bytes.fromhex("1f8b08000000000000ff")


def test_foreign_readers_read_what_we_write() -> None:
    data = TEXT + os.urandom(300_000)
    assert gzip.decompress(compress("gzip", data)) == data
    assert zstandard.ZstdDecompressor().decompressobj().decompress(compress("zstd", data)) == data
    programs: tuple[Compression, ...] = ("gzip", "zstd")
    for kind in programs:
        if shutil.which(kind):
            done = subprocess.run(
                [kind, "-dc"], input=compress(kind, data), capture_output=True, check=True
            )
            assert done.stdout == data


def test_the_default_is_what_everybody_reads() -> None:
    assert DEFAULT == "gzip"
    assert len(compress(DEFAULT, TEXT)) < len(TEXT) // 4


# Several members, padding


@pytest.mark.parametrize("kind", DETECTED)
def test_members_are_read_one_after_the_other(kind: Detected) -> None:
    packed = FOREIGN[kind]
    assert decompress(kind, packed(b"one ") + packed(b"") + packed(b"two")) == b"one two"
    many = b"".join(packed(b"%d," % number) for number in range(300))
    assert decompress(kind, many) == b"".join(b"%d," % number for number in range(300))


@pytest.mark.parametrize("kind", DETECTED)
def test_zeros_behind_the_last_member_are_padding(kind: Detected) -> None:
    packed = FOREIGN[kind](b"data")
    for padding in (1, 512, 300_000):
        assert decompress(kind, packed + bytes(padding)) == b"data"


def test_skippable_frames_of_zstd_are_skipped() -> None:
    frame = FOREIGN["zstd"](b"data")
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    assert decompress("zstd", skippable + frame + skippable + frame + skippable) == b"datadata"


# Damage


@pytest.mark.parametrize("kind", DETECTED)
@pytest.mark.parametrize("data", [b"", b"garbage that is no archive", bytes(100)])
def test_garbage_is_a_typed_error(kind: Detected, data: bytes) -> None:
    with pytest.raises(MalformedDocumentError):
        decompress(kind, data)


@pytest.mark.parametrize("kind", DETECTED)
def test_garbage_behind_a_member_is_a_typed_error(kind: Detected) -> None:
    with pytest.raises(MalformedDocumentError):
        decompress(kind, FOREIGN[kind](b"data") + b"garbage that is no member of an archive")


@pytest.mark.parametrize("kind", DETECTED)
def test_every_truncation_is_a_typed_error(kind: Detected) -> None:
    packed = FOREIGN[kind](TEXT[:3000])
    for end in range(len(packed)):
        with pytest.raises(MalformedDocumentError):
            decompress(kind, packed[:end])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_every_truncation_of_our_own_is_a_typed_error(kind: Compression) -> None:
    packed = compress(kind, TEXT)
    for end in (*range(40), *range(len(packed) - 40, len(packed)), len(packed) // 2):
        with pytest.raises(MalformedDocumentError):
            decompress(kind, packed[:end])


@pytest.mark.parametrize("kind", DETECTED)
@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_damage_is_found_or_harmless(kind: Detected, draw: st.DataObject) -> None:
    packed = bytearray(FOREIGN[kind](TEXT[:3000]))
    at = draw.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= draw.draw(st.integers(1, 255))
    try:
        result = decompress(kind, bytes(packed))
    except MalformedDocumentError:
        return
    # gzip's header has bytes that mean nothing; the checksums guard all the rest.
    assert result == TEXT[:3000]


def test_errors_of_the_stream_itself_stay_what_they_are() -> None:
    class Failing:
        def read(self, _size: int = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    for kind in DETECTED:
        with pytest.raises(OSError, match="Input/output"):
            decompressor(kind, Failing()).read()


# Bombs


def _zstd_bomb() -> bytes:
    """A frame of 128 KiB blocks of four bytes each."""
    window = 17 - 10 << 3  # 128 KiB
    header = b"\x28\xb5\x2f\xfd" + bytes([0x00, window])
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return header + block * 8000


BOMBS: dict[Detected, bytes] = {
    "gzip": gzip.compress(bytes(200 << 20), 6),
    "zstd": _zstd_bomb(),
    "bzip2": bz2.compress(bytes(200 << 20), 9),
    "xz": lzma.compress(bytes(100 << 20), preset=1),
}


@pytest.mark.parametrize("kind", DETECTED)
def test_bombs_are_read_in_bounded_memory(kind: Detected) -> None:
    reader = decompressor(kind, io.BytesIO(BOMBS[kind]))
    tracemalloc.start()
    try:
        total = sum(len(reader.read(1 << 16)) for _ in range(1000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 1000 << 16
    # Room for what zstd makes of one feed of 4 KiB, and for the windows.
    assert peak < 160 << 20


def test_a_window_above_128_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=1)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packed.compress(b"x" * 1000) + packed.flush()
    with pytest.raises(MalformedDocumentError):
        decompress("zstd", data)


def test_xz_that_wants_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    packed = bytearray(lzma.compress(b"x" * 100, filters=filters, check=lzma.CHECK_NONE))
    with pytest.raises(MalformedDocumentError):
        decompress("xz", bytes(packed))


def test_speed_is_not_lost_to_bookkeeping() -> None:
    data = TEXT * 8
    for kind in ("gzip", "zstd"):
        packed = compress(kind, data)
        started = time.perf_counter()
        assert len(decompress(kind, packed)) == len(data)
        assert len(data) / (time.perf_counter() - started) > 20e6


# Recognising


@pytest.mark.parametrize("kind", DETECTED)
def test_compressions_are_detected_by_their_first_bytes(kind: Detected) -> None:
    packed = FOREIGN[kind](b"data")
    assert detect(packed) == detect(packed[:6]) == kind


def test_other_bytes_show_no_compression() -> None:
    for data in (b"", b"\x1f", b"BZ", b"text", bytes(512), b"\x1f\x8b\x07", b"\x60\x2a\x4d\x18"):
        assert detect(data) is None
    assert detect(b"\x5f\x2a\x4d\x18") == "zstd"


@pytest.mark.parametrize("kind", KINDS)
def test_media_types_are_known_both_ways(kind: Compression) -> None:
    assert kind_of(media_type(kind)) == kind


def test_docker_media_types_are_known() -> None:
    prefix = "application/vnd.docker.image.rootfs"
    assert kind_of(f"{prefix}.diff.tar.gzip") == "gzip"
    assert kind_of(f"{prefix}.diff.tar") == "none"
    assert kind_of(f"{prefix}.foreign.diff.tar.gzip") == "gzip"
    assert kind_of("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd") == "zstd"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "application/json",
        "application/gzip",
        "application/vnd.oci.image.layer.v1.tar+invalid",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+invalid",
        "application/vnd.oci.image.config.v1+json",
    ],
)
def test_other_media_types_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        kind_of(name)


def test_importing_it_imports_no_library() -> None:
    program = (
        "import sys, layerstore.compression, layerstore.tarcodec, layerstore.overlaydir\n"
        "print([name for name in ('isal', 'zstandard', 'bz2', 'lzma', 'tempfile', 'json')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_plain_is_the_stream_itself() -> None:
    stream: Reader = io.BytesIO(b"x")
    assert decompressor("none", stream) is stream


# Looking at the beginning.


class Sipping:
    """A stream that gives less than it is asked for, as pipes do."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data = io.BytesIO(data)
        self._piece = piece

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(self._piece if size < 0 else min(size, self._piece))


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=1500), piece=st.integers(1, 700), size=st.integers(1, 800))
def test_a_peeked_stream_gives_all_of_its_bytes_once(data: bytes, piece: int, size: int) -> None:
    stream = Peeked(Sipping(data, piece))
    assert stream.head == data[:512]
    assert b"".join(iter(lambda: stream.read(size), b"")) == data


def test_a_peeked_stream_can_be_read_at_once() -> None:
    assert Peeked(io.BytesIO(b"x" * 2000)).read() == b"x" * 2000
    assert Peeked(io.BytesIO(b"")).read() == b""


@pytest.mark.parametrize(
    ("kind", "level"), [(kind, level) for kind in KINDS for level in levels(kind) if level < 20]
)
def test_every_level_round_trips_and_is_deterministic(kind: Compression, level: int) -> None:
    one, two = (at_level(kind, level, TEXT[:cut], TEXT[cut:]) for cut in (1, 300_000))
    assert one == two
    assert decompress(kind, one) == TEXT


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_highest_level_makes_less_of_it_than_the_lowest(kind: Compression) -> None:
    words = [f"word{number}" for number in range(300)]
    text = " ".join(random.Random(1).choices(words, k=50_000)).encode()
    low, high = (len(at_level(kind, level, text)) for level in (levels(kind)[1], 9))
    assert high < low


def test_no_level_is_the_pinned_one() -> None:
    assert compress("gzip", TEXT) == at_level("gzip", 1, TEXT)
    assert compress("zstd", TEXT) == at_level("zstd", 1, TEXT)
    assert [default_level(kind) for kind in ("gzip", "zstd", "none")] == [1, 1, None]


def test_gzip_of_level_0_is_stored() -> None:
    assert TEXT[:1000] in at_level("gzip", 0, TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_docker_has_media_types_of_its_own(kind: Compression) -> None:
    name = media_type(kind, docker=True)
    assert name.startswith("application/vnd.docker.image.rootfs.diff.tar")
    assert kind_of(name) == kind


def at_level(kind: Compression, level: int, *pieces: bytes) -> bytes:
    written: list[bytes] = []
    made = compressor(kind, written.append, level=level)
    for piece in pieces:
        made.write(piece)
    made.close()
    return b"".join(written)
