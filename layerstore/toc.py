"""The table of contents of one layer: what its tar holds, without the bytes of its files.

It is kept beside every layer and answers what would otherwise need the tar: what a COPY --from
sees, what `layers` and `diff` print, whether two layers have the same content.

Canonical order, which is also the order of the tar: parents before children; within a directory the
opaque marker, then removals, then everything else, each in byte order. Of several hard links to one
inode the first in this order is the inode, the others are `hardlink` entries that name it.
Directories that a tar only implies have no entry.

At rest (`dump`, `load`): NUL-separated columns, because a table of ten thousand rows must load in
less than 20 ms, and no value but a name can hold arbitrary bytes:
    lamina-toc-1 ROWS METAS
    METAS x mode, METAS x uid, METAS x gid, METAS x mtime_ns, METAS x xattrs (hex=hex,...)
    ROWS x path, ROWS x target, ROWS x digest, ROWS x size, ROWS x index of meta
    one string of ROWS kind letters, device numbers (row:major:minor,...), sha256 of all before
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, NamedTuple

from layerstore.changeset import Meta
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError
from layerstore.treepath import TreePath, sort_key

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo", "remove", "opaque"]

NO_META = Meta(0)  # of entries that are no inodes: remove, opaque

_LETTERS: dict[Kind, str] = {
    "file": "f",
    "dir": "d",
    "symlink": "s",
    "hardlink": "h",
    "char": "c",
    "block": "b",
    "fifo": "p",
    "remove": "r",
    "opaque": "o",
}
_KINDS: dict[str, Kind] = {letter: kind for kind, letter in _LETTERS.items()}
_MAGIC = "lamina-toc-1"


class TocEntry(NamedTuple):
    """One row. A tuple, not a dataclass: a base image has ten thousand, read at every build.

    `target` is a symlink's text, or the path of the entry a hardlink shares its inode with, whose
    `meta` it repeats. `digest` and `size_bytes` belong to kind "file" alone.
    """

    path: TreePath
    kind: Kind
    meta: Meta
    size_bytes: int = 0
    digest: Digest | None = None
    target: str = ""
    major: int = 0
    minor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How many of what: `files` is everything that is neither a directory nor a removal."""

    files: int
    dirs: int
    removed: int
    size_bytes: int


def order(path: str, kind: str) -> bytes:
    """The sort key of the canonical order."""
    name = sort_key(path)
    if kind == "remove":
        head, slash, tail = name.rpartition(b"\0")
        return head + slash + b"\0" + tail
    if kind == "opaque":
        return name + b"\0\0" if name else b"\0"
    return name


def canonical(entries: Iterable[TocEntry]) -> list[TocEntry]:
    """`entries` in canonical order, every hard link naming the first path of its inode."""
    rows = list(entries)
    if any(row.kind == "hardlink" for row in rows):
        rows = _regroup_hardlinks(rows)
    rows.sort(key=lambda row: order(row.path, row.kind))
    return rows


def _regroup_hardlinks(rows: list[TocEntry]) -> list[TocEntry]:
    inodes = {row.path: row for row in rows if row.kind not in ("hardlink", "remove", "opaque")}
    first: dict[str, str] = {}
    for row in rows:
        if row.kind == "hardlink":
            best = first.get(row.target, row.target)
            first[row.target] = min(best, row.path, key=sort_key)
    regrouped = []
    for row in rows:
        group = row.target if row.kind == "hardlink" else row.path
        leader = first.get(group) if row.kind not in ("remove", "opaque", "dir") else None
        inode = inodes.get(TreePath(group))
        if leader is None or inode is None:
            regrouped.append(row)
        elif row.path == leader:
            regrouped.append(inode._replace(path=row.path))
        else:
            regrouped.append(TocEntry(row.path, "hardlink", inode.meta, target=leader))
    return regrouped


def dump(entries: Sequence[TocEntry]) -> bytes:
    """The table as stored, in the order given."""
    body = b"\0".join((*_columns(entries, with_times=True), b""))
    return body + hashlib.sha256(body).hexdigest().encode()


def content_digest(entries: Iterable[TocEntry]) -> Digest:
    """The digest of everything but the times.

    Equal for two layers that differ in mtimes only, whatever the order of `entries`.
    """
    return Digest.of(b"\0".join(_columns(canonical(entries), with_times=False)))


def _columns(entries: Sequence[TocEntry], *, with_times: bool) -> list[bytes]:
    if not entries:
        return [f"{_MAGIC} 0 0".encode(), b"", b""]
    paths, kinds, metas, sizes, digests, targets, majors, minors = zip(*entries, strict=True)
    table, indexes = _meta_table(metas, with_times=with_times)
    devices = ",".join(
        f"{row}:{major}:{minor}"
        for row, (major, minor) in enumerate(zip(majors, minors, strict=True))
        if major or minor
    )
    return [
        f"{_MAGIC} {len(entries)} {len(table)}".encode(),
        *(f"{meta[0]:o}".encode() for meta in table),
        *(b"%d" % meta[1] for meta in table),
        *(b"%d" % meta[2] for meta in table),
        *(b"%d" % meta[3] for meta in table),
        *(_pack_xattrs(meta[4]) for meta in table),
        os.fsencode("\0".join(paths)),
        os.fsencode("\0".join(targets)),
        "\0".join([digest[7:] if digest else "" for digest in digests]).encode(),
        "\0".join(map(str, sizes)).encode(),
        "\0".join(map(str, indexes)).encode(),
        "".join([_LETTERS[kind] for kind in kinds]).encode(),
        devices.encode(),
    ]


_MetaKey = tuple[int, int, int, int, tuple[tuple[str, bytes], ...]]


def _meta_table(metas: Iterable[Meta], *, with_times: bool) -> tuple[list[_MetaKey], list[int]]:
    table: dict[_MetaKey, int] = {}
    known: dict[int, int] = {}  # id(meta): most rows share their Meta object with others
    indexes = []
    for meta in metas:
        index = known.get(id(meta))
        if index is None:
            mtime_ns = meta.mtime_ns if with_times else 0
            key = (meta.mode, meta.uid, meta.gid, mtime_ns, meta.xattrs)
            index = known[id(meta)] = table.setdefault(key, len(table))
        indexes.append(index)
    return list(table), indexes


def _pack_xattrs(xattrs: tuple[tuple[str, bytes], ...]) -> bytes:
    return ",".join(f"{os.fsencode(name).hex()}={value.hex()}" for name, value in xattrs).encode()


def load(data: bytes) -> list[TocEntry]:
    """Read what `dump` wrote.

    Raises:
        MalformedDocumentError: it is damaged.
    """
    body, checksum = data[:-64], data[-64:]
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise MalformedDocumentError(context="table of contents", problem="checksum mismatch")
    try:
        return _rows(os.fsdecode(body).split("\0"))
    except (ValueError, LookupError) as error:
        raise MalformedDocumentError(context="table of contents", problem=str(error)) from None


def _rows(fields: list[str]) -> list[TocEntry]:
    magic, row_count, meta_count = fields[0].split(" ")
    rows, table_size = int(row_count), int(meta_count)
    if magic != _MAGIC:
        raise ValueError(f"unknown format {magic!r}")
    if rows == 0:
        return []
    if len(fields) != 1 + 5 * table_size + 5 * rows + 3:
        raise ValueError("wrong number of fields")

    def column(number: int, start: int, length: int) -> list[str]:
        return fields[start + number * length : start + (number + 1) * length]

    modes, uids, gids, mtimes, xattrs = (column(number, 1, table_size) for number in range(5))
    table = list(
        map(
            Meta,
            [int(mode, 8) for mode in modes],
            map(int, uids),
            map(int, gids),
            map(int, mtimes),
            [_unpack_xattrs(text) if text else () for text in xattrs],
        )
    )
    paths, targets, digests, sizes, indexes = (
        column(number, 1 + 5 * table_size, rows) for number in range(5)
    )
    letters, devices = fields[-3], fields[-2]
    entries = list(
        map(
            TocEntry,
            map(TreePath, paths),
            [_KINDS[letter] for letter in letters],
            [table[int(index)] for index in indexes],
            map(int, sizes),
            # The checksum stands for Digest.parse, which would take as long as all the rest.
            [Digest("sha256:" + digest) if digest else None for digest in digests],
            targets,
            repeat(0),
            repeat(0),
        )
    )
    if len(entries) != rows:
        raise ValueError("columns of different length")
    for device in filter(None, devices.split(",")):
        row, major, minor = map(int, device.split(":"))
        entries[row] = entries[row]._replace(major=major, minor=minor)
    return entries


def _unpack_xattrs(text: str) -> tuple[tuple[str, bytes], ...]:
    pairs = (pair.partition("=") for pair in text.split(","))
    return tuple(
        (os.fsdecode(bytes.fromhex(name)), bytes.fromhex(value)) for name, _, value in pairs
    )


def summarise(entries: Iterable[TocEntry]) -> Summary:
    """Count `entries` by what they do, and sum up the sizes of the files."""
    files = dirs = removed = size_bytes = 0
    for entry in entries:
        match entry.kind:
            case "dir":
                dirs += 1
            case "remove" | "opaque":
                removed += 1
            case _:
                files += 1
                size_bytes += entry.size_bytes
    return Summary(files=files, dirs=dirs, removed=removed, size_bytes=size_bytes)
