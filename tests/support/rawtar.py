"""Tars made block by block, so that they can lie."""

from collections.abc import Mapping
from typing import Any

BLOCK = 512


def header(
    name: bytes | str,
    *,
    kind: bytes = b"0",
    size: int = 0,
    target: bytes | str = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    fields: Mapping[int, bytes] | None = None,
    checksum: int | None = None,
) -> bytes:
    """One header block. `fields` overwrites bytes at offsets before the checksum is made."""
    block = bytearray(BLOCK)

    def put(at: int, data: bytes | str) -> None:
        raw = data.encode() if isinstance(data, str) else data
        block[at : at + len(raw)] = raw

    put(0, name)
    put(100, b"%07o\0" % mode)
    put(108, b"%07o\0" % uid)
    put(116, b"%07o\0" % gid)
    put(124, b"%011o\0" % size)
    put(136, b"%011o\0" % mtime)
    put(156, kind)
    put(157, target)
    put(257, magic)
    put(329, b"%07o\0" % device[0])
    put(337, b"%07o\0" % device[1])
    put(345, prefix)
    for at, data in (fields or {}).items():
        put(at, data)
    put(148, b" " * 8)
    put(148, b"%06o\0 " % (sum(block) if checksum is None else checksum))
    assert len(block) == BLOCK
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def entry(name: bytes | str, content: bytes = b"", **attributes: Any) -> bytes:
    """A header and its data."""
    return header(name, size=len(content), **attributes) + padded(content)


def pax(records: bytes | Mapping[str, bytes | str], kind: bytes = b"x") -> bytes:
    """An extended header, of records or of raw bytes."""
    if not isinstance(records, bytes):
        records = b"".join(record(key, value) for key, value in records.items())
    return entry("PaxHeaders/x", records, kind=kind)


def record(key: str, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    rest = b" " + key.encode() + b"=" + raw + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


END = bytes(2 * BLOCK)
