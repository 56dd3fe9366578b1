"""How a blob is squeezed: none, gzip or zstd. The only importer of zstandard and isal.

The compressed bytes are part of a layer's digest, therefore:
  - levels and parameters are pinned;
  - the gzip header is written here (no time, no name);
  - input is cut into pieces of a fixed size, since both libraries end blocks where a piece ends.

gzip is ISA-L's deflate: 15 times faster than zlib at about the ratio of its level 1. It has the
levels 1 to 3; the others that people ask for are zlib's.

Spec: RFC 1952 (gzip), RFC 8878 (zstd); OCI image-spec v1.1, layer.md ("+gzip Media Types", "+zstd
Media Types").
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from layerstore.errors import MalformedDocumentError, UnsupportedMediaTypeError

Compression = Literal["none", "gzip", "zstd"]
Detected = Literal["gzip", "zstd", "bzip2", "xz"]

# Not zstd, although it is smaller and faster: umoci 0.4 and docker 20 cannot read it.
DEFAULT: Compression = "gzip"

_MEDIA_TYPES: dict[Compression, str] = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
_DOCKER_MEDIA_TYPES: dict[Compression, str] = {
    "none": "application/vnd.docker.image.rootfs.diff.tar",
    "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
}
# Deprecated by the specification, still found. Where the bytes are there, they are a layer's.
_FOREIGN: dict[str, Compression] = {
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "none",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
FOREIGN_TYPES = frozenset(_FOREIGN)
_KINDS: dict[str, Compression] = {
    **{media_type: kind for kind, media_type in _MEDIA_TYPES.items()},
    **{media_type: kind for kind, media_type in _DOCKER_MEDIA_TYPES.items()},
    **_FOREIGN,
}
_MAGICS: tuple[tuple[bytes, Detected], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
)

_PEEK_BYTES = 512
_PIECE_BYTES = 256 * 1024
_LEVELS: dict[Compression, range] = {"none": range(0), "gzip": range(10), "zstd": range(1, 23)}
_GZIP_LEVEL = 1
_ISAL_LEVELS = range(1, 4)
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no flags, no time, unknown system
_ZSTD_LEVEL = 1
_ZSTD_WINDOW_BYTES_MAX = 128 * 1024 * 1024
# A zstd block of 4 bytes can stand for 128 KiB and the library offers no output limit for a call:
# feeding little at a time is what bounds memory (to 128 MiB, as much as the window).
_ZSTD_FEED_BYTES = 4096
_XZ_MEMORY_BYTES_MAX = 256 * 1024 * 1024


class Compressor(Protocol):
    """Takes bytes; hands compressed bytes to the `write` it was made with."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""

    def close(self) -> None:
        """Hand over what is still held back, and the trailer."""


class Reader(Protocol):
    """The part of a binary file that is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, empty at the end only."""


class Peeked:
    """A stream whose first bytes, in `head`, have been looked at before it is read."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        head = b""
        while len(head) < _PEEK_BYTES and (piece := stream.read(_PEEK_BYTES - len(head))):
            head += piece
        self.head = head
        self._held = head

    def read(self, size: int = -1, /) -> bytes:
        if not self._held:
            return self._stream.read(size)
        if size < 0:
            data, self._held = self._held, b""
            return data + self._stream.read()
        data, self._held = self._held[:size], self._held[size:]
        return data


def media_type(kind: Compression, *, docker: bool = False) -> str:
    """The media type of a layer compressed with `kind`, OCI's or Docker's."""
    return (_DOCKER_MEDIA_TYPES if docker else _MEDIA_TYPES)[kind]


def levels(kind: Compression) -> range:
    """The levels that `kind` has."""
    return _LEVELS[kind]


def default_level(kind: Compression) -> int | None:
    """The level that is taken when nobody asks for one; None where there are none."""
    return {"gzip": _GZIP_LEVEL, "zstd": _ZSTD_LEVEL, "none": None}[kind]


def kind_of(media_type: str) -> Compression:
    """How a layer of `media_type` (OCI's or Docker's) is compressed.

    Raises:
        UnsupportedMediaTypeError: it is not a layer's.
    """
    kind = _KINDS.get(media_type)
    if kind is None:
        raise UnsupportedMediaTypeError(
            media_type=media_type, hint="a layer is a tar: plain, +gzip or +zstd, not encrypted"
        )
    return kind


def detect(first_bytes: bytes) -> Detected | None:
    """The compression that `first_bytes` (six are enough) show; None when they show none."""
    for magic, kind in _MAGICS:
        if first_bytes.startswith(magic):
            return kind
    if first_bytes[1:4] == b"\x2a\x4d\x18" and first_bytes[0] & 0xF0 == 0x50:
        return "zstd"  # a skippable frame comes first
    return None


def compressor(
    kind: Compression, write: Callable[[bytes], object], *, level: int | None = None
) -> Compressor:
    """A compressor that hands its output to `write`; `level` is one of `levels(kind)`."""
    assert level is None or level in levels(kind), "levels are checked where they are read"
    match kind:
        case "none":
            return _Plain(write)
        case "gzip":
            return _Pieces(_Gzip(write, _GZIP_LEVEL if level is None else level))
        case "zstd":
            return _Pieces(_Zstd(write, _ZSTD_LEVEL if level is None else level))


class _Plain:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write

    def close(self) -> None:
        """All of it has been handed on."""


class _Pieces:
    """Cuts what is written into equal pieces, however it arrives."""

    def __init__(self, inner: Compressor) -> None:
        self._inner = inner
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        if self._held_bytes + len(data) < _PIECE_BYTES:
            self._held.append(bytes(data))
            self._held_bytes += len(data)
            return
        view = memoryview(data)
        start = _PIECE_BYTES - self._held_bytes
        self._inner.write(b"".join((*self._held, view[:start])))
        while len(view) - start >= _PIECE_BYTES:
            self._inner.write(bytes(view[start : start + _PIECE_BYTES]))
            start += _PIECE_BYTES
        rest = bytes(view[start:])
        self._held = [rest]
        self._held_bytes = len(rest)

    def close(self) -> None:
        self._inner.write(b"".join(self._held))
        self._held = []
        self._inner.close()


class _Gzip:
    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        from isal import isal_zlib

        self._write = write
        self._crc32 = isal_zlib.crc32
        if level in _ISAL_LEVELS:
            self._deflate: Any = isal_zlib.compressobj(level, wbits=-15)
        else:
            import zlib

            self._deflate = zlib.compressobj(level, wbits=-15)
        self._crc = 0
        self._size_bytes = 0
        write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        self._crc = self._crc32(data, self._crc)
        self._size_bytes += len(data)
        if out := self._deflate.compress(data):
            self._write(out)

    def close(self) -> None:
        self._write(
            self._deflate.flush()
            + self._crc.to_bytes(4, "little")
            + (self._size_bytes & 0xFFFFFFFF).to_bytes(4, "little")
        )


class _Zstd:
    def __init__(self, write: Callable[[bytes], object], level: int) -> None:
        import zstandard

        self._write = write
        self._frame = zstandard.ZstdCompressor(
            level=level, write_checksum=True, write_content_size=False
        ).compressobj()

    def write(self, data: bytes) -> None:
        if out := self._frame.compress(data):
            self._write(out)

    def close(self) -> None:
        self._write(self._frame.flush())


def decompressor(kind: Compression | Detected, stream: Reader) -> Reader:
    """A reader of what `stream` stands for.

    It reads every member of `stream` to its very end; zeros after the last one are padding.
    Memory is bounded whatever the input. Closing `stream` stays the caller's.

    Raises (its `read`):
        MalformedDocumentError: damaged, truncated, followed by something else, or (zstd) in need
            of a window above 128 MiB.
    """
    match kind:
        case "none":
            return stream
        case "gzip":
            return _Decompressing(kind, stream, _gzip_member)
        case "bzip2":
            return _Decompressing(kind, stream, _bzip2_member)
        case "xz":
            return _Decompressing(kind, stream, _xz_member)
        case "zstd":
            return _Decompressing(kind, stream, _ZstdMember)


class _Member(Protocol):
    """One gzip member, bzip2 or xz stream, or zstd frame: the interface of bz2.BZ2Decompressor."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _gzip_member() -> _Member:
    from isal import igzip_lib

    member: _Member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return member


def _bzip2_member() -> _Member:
    import bz2

    return bz2.BZ2Decompressor()


def _xz_member() -> _Member:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES_MAX)


class _ZstdMember:
    """One zstd frame. Output beyond `max_length` is held here, see _ZSTD_FEED_BYTES."""

    def __init__(self) -> None:
        import zstandard

        self._frame = zstandard.ZstdDecompressor(
            max_window_size=_ZSTD_WINDOW_BYTES_MAX
        ).decompressobj()
        self._input = memoryview(b"")
        self._output = memoryview(b"")
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._input = memoryview(data)
        if not self._output and self._input and not self._frame.eof:
            piece = self._input[:_ZSTD_FEED_BYTES]
            self._output = memoryview(self._frame.decompress(piece))
            self._input = self._input[len(piece) :]
            if self._frame.eof:
                self.unused_data = self._frame.unused_data + bytes(self._input)
                self._input = memoryview(b"")
        out = bytes(self._output[:max_length])
        self._output = self._output[len(out) :]
        return out


class _Decompressing:
    """Reads member after member."""

    def __init__(self, kind: str, stream: Reader, member: Callable[[], _Member]) -> None:
        self._kind = kind
        self._stream = stream
        self._new_member = member
        self._member: _Member | None = None
        self._input = b""
        self._members = 0
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        pieces: list[bytes] = []
        wanted = size
        while wanted and not self._ended:
            piece = self._advance(wanted)
            if piece:
                pieces.append(piece)
                wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _advance(self, max_length: int) -> bytes:
        if self._member is None and not self._start_member():
            self._ended = True
            return b""
        member = self._member
        assert member is not None
        data = b""
        if member.needs_input:
            data = self._input or self._stream.read(_PIECE_BYTES)
            self._input = b""
            if not data:
                raise self._malformed("it ends too early")
        try:
            piece = member.decompress(data, max_length)
        except (MemoryError, OverflowError):
            raise self._malformed("it needs too much memory") from None
        except Exception as error:  # noqa: BLE001 - four libraries, each with errors of its own
            raise self._malformed(str(error)) from None
        if member.eof:
            self._input = member.unused_data
            self._member = None
        return piece

    def _start_member(self) -> bool:
        """Find the next member; False at the end. Zeros after the first member are padding."""
        if self._members:
            self._skip_zeros()
        if not self._input:
            self._input = self._stream.read(_PIECE_BYTES)
        if not self._input and self._members:
            return False
        self._members += 1
        self._member = self._new_member()
        return True

    def _skip_zeros(self) -> None:
        while True:
            self._input = self._input.lstrip(b"\0") or self._stream.read(_PIECE_BYTES)
            if not self._input or self._input[0]:
                return

    def _malformed(self, problem: str) -> MalformedDocumentError:
        return MalformedDocumentError(context=f"{self._kind} data", problem=problem)
