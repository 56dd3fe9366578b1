"""A changeset as an OCI layer: a tar, in both directions.

pack is deterministic: equal changes, whatever their order, give equal bytes. It writes ustar
headers of its own making (stdlib tarfile is seven times slower) and PAX records only for what ustar
cannot say. unpack reads what any tool wrote and trusts nothing: bounded memory, no recursion, typed
errors (stdlib tarfile hangs or raises undeclared exceptions on malformed input).

Rules of pack:
  - entries stand in the canonical order (toc.py); times are whole seconds; no user or group names;
  - `Remove` of x is an empty file `.wh.x`, `Opaque` an empty file `.wh..wh..opq`;
  - of several hard links to one inode the first carries the content;
  - holes are written as zeros ("no sparse files": OCI), sockets do not exist in a changeset;
  - a real file whose name begins with `.wh.` is refused.

Rules of unpack:
  - `./a`, `/a`, `a/`, `b/../a` are all the path `a`; a `..` that would leave the root is refused
    in names, and stays at the root in targets of hard links;
  - the private xattrs of overlayfs and those of the host's security modules are dropped;
  - sparse files of all GNU formats come out with their holes as zeros.

Spec: POSIX.1-2017 pax ("ustar Interchange Format", "pax Extended Header"); GNU tar manual, "Tar
Internals" (long names, base-256 numbers, sparse formats); OCI image-spec v1.1, layer.md.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from layerstore.changeset import (
    Change,
    Content,
    Meta,
    NodeKind,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.compression import Reader
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError, StoreError, UnsafePathError
from layerstore.toc import NO_META, Kind, TocEntry, order
from layerstore.treepath import ROOT, TreePath

BLOCK_BYTES = 512
_ZEROS = bytes(BLOCK_BYTES)
_PADDING = [bytes(-size % BLOCK_BYTES) for size in range(BLOCK_BYTES)]

_WHITEOUT = ".wh."
# What AUFS kept at the root of a layer for itself. Docker passes over it, too; hard links to it are
# refused as all others to what is not in the layer.
_OF_AUFS = frozenset((".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.plnk"))
_OPAQUE = ".wh..wh..opq"
_XATTR = b"SCHILY.xattr."

_TYPES: dict[Kind, bytes] = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}


def is_layer_xattr(name: str) -> bool:
    """Whether a layer carries the extended attribute `name`.

    Left out: what overlayfs and we keep for ourselves, and labels of the host's security modules,
    which mean nothing on another machine.
    """
    if name.startswith(("user.", "trusted.")):
        return not name.startswith(("user.overlay.", "trusted.overlay.", "user.lamina."))
    return name in ("security.capability", "system.posix_acl_access", "system.posix_acl_default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was written: the digest and size of the tar, and its table of contents."""

    diff_id: Digest
    size_bytes: int
    toc: list[TocEntry]


class InOrder(Iterator[Change]):
    """Changes that come in canonical order, hard links already naming the first path.

    `pack` streams these; other changes it must first collect.
    """

    def __init__(self, changes: Iterator[Change]) -> None:
        self._changes = changes

    def __next__(self) -> Change:
        return next(self._changes)


def pack(
    changes: Iterable[Change], write: Callable[[bytes], object], *, mtime_max_s: int | None = None
) -> Packed:
    """Write `changes` as a tar, in pieces of about a megabyte.

    Contents are read once, while they are written. `changes` may be in any order; only an
    `InOrder` is not held in memory (contents above 64 MiB in total wait in an unnamed file).

    Args:
        mtime_max_s: later times are written as this one (SOURCE_DATE_EPOCH).

    Raises:
        UnsafePathError: a name that begins with `.wh.`.
        StoreError: a file did not have the size it was announced with; or the changes contradict
            each other.
    """
    packer = _Packer(write, mtime_max_s)
    if isinstance(changes, InOrder):
        packer.add_all(changes)
    else:
        with _Spool() as spool:
            packer.add_all(_sorted(spool.keep(change) for change in changes))
    return packer.finish()


class _Spool:
    """Keeps collected contents from filling the memory."""

    _HELD_BYTES_MAX = 64 * 1024 * 1024

    def __init__(self) -> None:
        self._held_bytes = 0
        self._fd = -1
        self._end = 0

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def keep(self, change: Change) -> Change:
        if not isinstance(change, PutFile) or not isinstance(change.content, bytes):
            return change
        self._held_bytes += len(change.content)
        if self._held_bytes <= self._HELD_BYTES_MAX:
            return change
        return PutFile(change.path, change.meta, change.size_bytes, self._spill(change.content))

    def _spill(self, content: bytes) -> Content:
        if self._fd < 0:
            import tempfile

            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        start = self._end
        for done in _write_at(self._fd, content, start):
            self._end = start + done
        return lambda: [os.pread(self._fd, len(content), start)]


def _write_at(fd: int, content: bytes, start: int) -> Iterator[int]:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], start + done)
        yield done


def _sorted(changes: Iterable[Change]) -> list[Change]:
    collected = list(changes)
    links = [change for change in collected if isinstance(change, PutHardlink)]
    if links:
        collected = _first_path_carries(collected, links)
    collected.sort(key=_change_order)
    return collected


def _change_order(change: Change) -> bytes:
    if isinstance(change, Remove):
        return order(change.path, "remove")
    if isinstance(change, Opaque):
        return order(change.path, "opaque")
    return os.fsencode(change.path).replace(b"/", b"\0")


def _first_path_carries(changes: list[Change], links: list[PutHardlink]) -> list[Change]:
    """Make the first path of every group of hard links the one that is put."""
    target_of: dict[TreePath, TreePath] = {link.path: link.target for link in links}
    groups: dict[TreePath, list[TreePath]] = {}
    for link in links:
        target, hops = link.target, 0
        while target in target_of:
            target, hops = target_of[target], hops + 1
            if hops > len(links):
                raise StoreError(f"hard link {link.path!r} leads to itself")
        target_of[link.path] = target
        groups.setdefault(target, [target]).append(link.path)
    result: list[Change] = []
    for change in changes:
        if isinstance(change, PutHardlink):
            continue
        if isinstance(change, PutFile | PutSymlink | PutNode) and change.path in groups:
            first, *others = sorted(groups.pop(change.path), key=lambda path: order(path, "file"))
            result.append(_moved(change, first))
            result.extend(PutHardlink(path, first) for path in others)
        else:
            result.append(change)
    for target, paths in groups.items():
        raise _missing_target(paths[-1], target)
    return result


def _moved(change: PutFile | PutSymlink | PutNode, path: TreePath) -> Change:
    match change:
        case PutFile():
            return PutFile(path, change.meta, change.size_bytes, change.content)
        case PutSymlink():
            return PutSymlink(path, change.meta, change.target)
        case PutNode():
            return PutNode(path, change.meta, change.kind, change.major, change.minor)


def _missing_target(path: str, target: str) -> StoreError:
    return StoreError(f"hard link {path!r} names {target!r}, which the same changes do not put")


_FLUSH_BYTES = 1024 * 1024


class _Packer:
    def __init__(self, write: Callable[[bytes], object], mtime_max_s: int | None) -> None:
        self._write = write
        self._mtime_max_s = mtime_max_s
        self._tar_hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._written_bytes = 0
        self._toc: list[TocEntry] = []
        self._put: dict[str, TocEntry] = {}
        self._removed: set[str] = set()
        self._opaque: set[str] = set()
        self._parent: str = ROOT  # the last directory found to be fit to hold entries
        self._metas: dict[tuple[int, int, int, int], tuple[Meta, bytes, bytes, int]] = {}

    def add_all(self, changes: Iterable[Change]) -> None:
        last = None
        for change in changes:
            key = _change_order(change)
            if last is not None and key <= last:
                if key == last:
                    raise StoreError(f"two changes of one path: {change.path!r}")
                raise StoreError(f"changes out of order at {change.path!r}")
            last = key
            self._add(change)

    def finish(self) -> Packed:
        self._emit(_ZEROS * 2)
        self._flush()
        return Packed(
            diff_id=Digest("sha256:" + self._tar_hash.hexdigest()),
            size_bytes=self._written_bytes,
            toc=self._toc,
        )

    def _add(self, change: Change) -> None:
        path = change.path
        if ".wh." in path and (path.startswith(_WHITEOUT) or "/.wh." in path):
            raise UnsafePathError(
                path=path,
                reason="names that begin with .wh. mean removals in a layer",
                hint="rename the file, or remove it in the step that makes it",
            )
        head, _, name = path.rpartition("/")
        if head != self._parent:
            self._check_parents(head)
            self._parent = head
        match change:
            case PutFile():
                self._add_file(change)
            case PutDir():
                meta = self._header(path, "dir", change.meta)
                self._record(TocEntry(path, "dir", meta))
            case PutSymlink():
                target = os.fsencode(change.target)
                meta = self._header(path, "symlink", _link_meta(change.meta), target=target)
                self._record(TocEntry(path, "symlink", meta, target=change.target))
            case PutHardlink():
                inode = self._put.get(change.target)
                if inode is None or inode.kind in ("dir", "hardlink"):
                    raise _missing_target(path, change.target)
                self._header(path, "hardlink", inode.meta, target=os.fsencode(change.target))
                self._record(TocEntry(path, "hardlink", inode.meta, target=change.target))
            case PutNode():
                if change.kind == "char" and change.major == change.minor == 0:
                    raise UnsafePathError(path=path, reason="a 0:0 device is overlayfs's removal")
                device = b"%07o\0%07o\0" % (change.major, change.minor)
                meta = self._header(path, change.kind, change.meta, device=device)
                self._record(
                    TocEntry(path, change.kind, meta, major=change.major, minor=change.minor)
                )
            case Remove():
                if not path:
                    raise UnsafePathError(path=path, reason="the root cannot be removed")
                if self._opaque and self._is_hidden(head):
                    return  # nothing is left there to remove
                self._removed.add(path)
                prefix = head + "/" if head else ""
                self._header(TreePath(f"{prefix}{_WHITEOUT}{name}"), "file", _WHITEOUT_META)
                self._toc.append(TocEntry(path, "remove", NO_META))
            case Opaque():
                self._check_parents(path)
                self._opaque.add(path)
                prefix = path + "/" if path else ""
                self._header(TreePath(prefix + _OPAQUE), "file", _WHITEOUT_META)
                self._toc.append(TocEntry(path, "opaque", NO_META))

    def _check_parents(self, head: str) -> None:
        """Refuse to put something beneath what is not, or no longer, a directory."""
        while head:
            entry = self._put.get(head)
            if entry is not None:
                if entry.kind != "dir":
                    raise StoreError(f"changes beneath {head!r}, which is no directory")
                return
            if head in self._removed:
                raise StoreError(f"changes beneath {head!r}, which is removed by the same changes")
            head = head.rpartition("/")[0]

    def _is_hidden(self, head: str) -> bool:
        while head not in self._opaque:
            if not head:
                return False
            head = head.rpartition("/")[0]
        return True

    def _record(self, entry: TocEntry) -> None:
        if entry.path in self._removed:
            raise StoreError(f"two changes of one path: {entry.path!r}")
        self._put[entry.path] = entry
        self._toc.append(entry)

    def _add_file(self, change: PutFile) -> None:
        content = change.content
        size = change.size_bytes
        meta = self._header(change.path, "file", change.meta, size=size)
        if isinstance(content, bytes):
            if len(content) != size:
                raise _changed(change.path)
            digest = hashlib.sha256(content).hexdigest()
            self._pending.append(content)
            self._pending.append(_PADDING[size % BLOCK_BYTES])
            self._pending_bytes += size + BLOCK_BYTES
            if self._pending_bytes > _FLUSH_BYTES:
                self._flush()
        else:
            digest = self._copy(change.path, content(), size)
            self._emit(_PADDING[size % BLOCK_BYTES])
        self._record(TocEntry(change.path, "file", meta, size, Digest("sha256:" + digest)))

    def _copy(self, path: str, pieces: Iterable[bytes], size: int) -> str:
        file_hash = hashlib.sha256()
        left = size
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise _changed(path)
            file_hash.update(piece)
            self._emit(piece)
        if left:
            raise _changed(path)
        return file_hash.hexdigest()

    def _header(
        self,
        path: TreePath,
        kind: Kind,
        meta: Meta,
        *,
        size: int = 0,
        target: bytes = b"",
        device: bytes = b"",
    ) -> Meta:
        """Write the header; return the attributes that it could say."""
        layer_meta, owner, mtime, meta_sum = self._layer_meta(meta)
        name = os.fsencode(path) if path else b"."
        if kind == "dir":
            name += b"/"
        plain = not target and not device and not layer_meta.xattrs and meta_sum >= 0
        if plain and len(name) <= 100 and size <= _SIZE_MAX:
            length = b"%011o\0" % size
            rest, rest_sum = _RESTS[kind]
            checksum = zlib.adler32(name) & 0xFFFF
            checksum += (zlib.adler32(length) & 0xFFFF) + meta_sum + rest_sum
            parts = (name.ljust(100, b"\0"), owner, length, mtime, b"%06o\0 " % checksum, rest)
            self._pending.append(b"".join(parts))
            self._pending_bytes += BLOCK_BYTES
            return layer_meta
        self._emit(_long_header(name, kind, layer_meta, size, target, device))
        return layer_meta

    def _layer_meta(self, meta: Meta) -> tuple[Meta, bytes, bytes, int]:
        """`meta` with the time a layer keeps; its header fields; their sum (-1: not in ustar)."""
        mtime_s = meta.mtime_ns // 1_000_000_000
        if self._mtime_max_s is not None and mtime_s > self._mtime_max_s:
            mtime_s = self._mtime_max_s
        key = (meta.mode, meta.uid, meta.gid, mtime_s)
        found = self._metas.get(key)
        if found is not None and found[0].xattrs == meta.xattrs:
            return found
        mtime_ns = mtime_s * 1_000_000_000
        layer_meta = Meta(meta.mode, meta.uid, meta.gid, mtime_ns, meta.xattrs)
        owner, mtime, meta_sum = b"", b"", -1
        if meta.uid <= _ID_MAX and meta.gid <= _ID_MAX and 0 <= mtime_s <= _SIZE_MAX:
            owner = b"%07o\0%07o\0%07o\0" % (meta.mode, meta.uid, meta.gid)
            mtime = b"%011o\0" % mtime_s
            # adler32's lower half is 1 + the sum of the bytes, for as few as here.
            meta_sum = (zlib.adler32(owner + mtime) & 0xFFFF) - 3
        result = (layer_meta, owner, mtime, meta_sum)
        self._metas[key] = result
        return result

    def _emit(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending = []
        self._pending_bytes = 0
        self._written_bytes += len(data)
        self._tar_hash.update(data)
        self._write(data)


_WHITEOUT_META = Meta(0o600)
_SIZE_MAX = 0o77777777777
_ID_MAX = 0o7777777


def _link_meta(meta: Meta) -> Meta:
    """Links have one mode on Linux; some tars say otherwise."""
    if meta.mode == 0o777:
        return meta
    return Meta(0o777, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs)


def _changed(path: str) -> StoreError:
    return StoreError(f"{path!r} changed while it was read", hint="run the step again")


def _rest(kind: Kind, target: bytes = b"", device: bytes = b"", prefix: bytes = b"") -> bytes:
    """A header from the type on."""
    return b"".join(
        (
            _TYPES[kind],
            target.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            device or b"0000000\x000000000\0",
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )


# With the type's rest, its sum and that of a checksum field of spaces.
_RESTS = {kind: (_rest(kind), sum(_rest(kind)) + 8 * 32) for kind in _TYPES}


def _long_header(
    name: bytes, kind: Kind, meta: Meta, size: int, target: bytes, device: bytes
) -> bytes:
    """A header, after a PAX header for what does not fit."""
    records: dict[bytes, bytes] = {
        _XATTR + _quote(os.fsencode(key)): value for key, value in meta.xattrs
    }
    prefix = b""
    # Names that are not UTF-8 are written as they are, also into PAX records, which is what GNU tar
    # and Go do; POSIX's `hdrcharset` makes GNU tar complain.
    if len(name) > 100:
        prefix, name = _split(name)
        if len(name) > 100:
            records[b"path"] = name
    if len(target) > 100:
        records[b"linkpath"] = target
    mtime_s = meta.mtime_ns // 1_000_000_000
    numbers = {b"uid": (meta.uid, _ID_MAX), b"gid": (meta.gid, _ID_MAX), b"size": (size, _SIZE_MAX)}
    numbers[b"mtime"] = (mtime_s, _SIZE_MAX)
    fields = {}
    for key, (number, number_max) in numbers.items():
        if 0 <= number <= number_max:
            fields[key] = number
        else:
            fields[key] = 0
            records[key] = b"%d" % number
    header = _checksummed(
        b"%b%07o\0%07o\0%07o\0%011o\0%011o\0"
        % (
            name[:100].ljust(100, b"\0"),
            meta.mode,
            fields[b"uid"],
            fields[b"gid"],
            fields[b"size"],
            fields[b"mtime"],
        ),
        _rest(kind, target[:100], device, prefix),
    )
    return _pax_header(name, records) + header if records else header


def _split(name: bytes) -> tuple[bytes, bytes]:
    """`name` as ustar's prefix and name; an empty prefix when it fits neither way."""
    at = name.rfind(b"/", 0, 156)
    if at > 0 and 1 < len(name) - at <= 101:
        return name[:at], name[at + 1 :]
    return b"", name


def _checksummed(numbers: bytes, rest: bytes) -> bytes:
    return b"%b%06o\0 %b" % (numbers, sum(numbers) + sum(rest) + 8 * 32, rest)


def _pax_header(name: bytes, records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_pax_record(key, value) for key, value in sorted(records.items()))
    label = b"PaxHeaders/" + name.rstrip(b"/").rpartition(b"/")[2][:80]
    header = _checksummed(
        b"%b0000644\x000000000\x000000000\0%011o\x0000000000000\0"
        % (label.ljust(100, b"\0"), len(body)),
        b"x" + _RESTS["file"][0][1:],
    )
    return header + body + _PADDING[len(body) % BLOCK_BYTES]


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value\\n`, where LENGTH counts its own digits."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    if len(rest) + len(str(length)) != length:
        length += 1
    return b"%d%b" % (length, rest)


def _quote(name: bytes) -> bytes:
    """An xattr's name as a PAX keyword, as GNU tar writes it: keywords end at the first `=`."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def _unquote(name: bytes) -> bytes:
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What unpack accepts at most. Nothing in the wild comes near the defaults."""

    entries_max: int = 1_000_000
    path_bytes_max: int = 64 * 1024
    names_bytes_max: int = 256 * 1024 * 1024  # of all paths together
    pax_bytes_max: int = 1024 * 1024  # of one extended header
    xattr_bytes_max: int = 64 * 1024  # of one value, the kernel's limit
    sparse_runs_max: int = 65536  # data runs of one sparse file
    hole_bytes_max: int = 4 * 1024 * 1024 * 1024  # of all sparse files together
    file_bytes_max: int = 1 << 40


_SMALL_BYTES = 1024 * 1024  # contents up to here are delivered as bytes
_READ_BYTES = 256 * 1024
_HEADERS_MAX = 32  # extended headers before one entry


def unpack(
    stream: Reader, *, limits: Limits | None = None, is_layer: bool = True
) -> Iterator[Change]:
    """Read a tar as changes, in its order.

    The result need not follow all rules of a changeset: a hostile or merely odd tar may put a path
    twice, or beneath a link of the same layer. `overlaydir.write` and `overlaydir.survey` sort
    that out.

    Args:
        is_layer: False lets entries of the root have no name, or be of any type: some archives
            have them, and tar passes over them.

    Yields:
        Changes. The content of a PutFile above 1 MiB is a function that can be called once, and
        only until the next change is asked for. `stream` is read to its end.

    Raises:
        MalformedDocumentError: not a tar, or damaged, or beyond `limits`.
        UnsafePathError: a name that leaves the root, or plays tricks with `.wh.`.
    """
    return _Unpacker(stream, limits or Limits(), is_layer=is_layer).changes()


class _Unpacker:
    def __init__(self, stream: Reader, limits: Limits, *, is_layer: bool) -> None:
        self._source = _Source(stream)
        self._is_layer = is_layer
        self._limits = limits
        self._entries = 0
        self._names_bytes = 0
        self._hole_bytes = 0
        self._global: dict[bytes, bytes] = {}
        self._global_bytes = 0
        self._metas: dict[bytes, Meta] = {}

    def changes(self) -> Iterator[Change]:
        source = self._source
        extended = _Extended()
        while True:
            block = source.block()
            if block is None:
                break
            kind = block[156:157]
            if kind in _EXTENSIONS:
                extended = self._extend(extended, block, kind)
                continue
            self._entries += 1
            if self._entries > self._limits.entries_max:
                raise _malformed(f"more than {self._limits.entries_max} entries")
            change, body = self._entry(block, kind, extended)
            extended = _NOTHING_EXTENDED
            if change is not None:
                yield change
            if body is not None:
                body.finish()
        if extended.headers:
            raise _malformed("it ends after an extended header")
        source.drain()

    def _extend(self, extended: "_Extended", block: bytes, kind: bytes) -> "_Extended":
        """Take an extended header: POSIX's x and g, GNU's L and K."""
        size = self._size(block)
        limit = self._limits.path_bytes_max if kind in b"LK" else self._limits.pax_bytes_max
        if size > limit:
            raise _malformed(f"an extended header of {size} bytes")
        data = self._source.take(size)
        self._source.skip_padding(size)
        if kind == b"g":
            self._extend_all(data)
            return extended
        if not extended.headers:
            extended = _Extended()
        extended.headers += 1
        if extended.headers > _HEADERS_MAX:
            raise _malformed("too many extended headers in a row")
        match kind:
            case b"L":
                extended.path = data.rstrip(b"\0")
            case b"K":
                extended.target = data.rstrip(b"\0")
            case _:
                self._extend_next(extended, data)
        return extended

    def _extend_all(self, data: bytes) -> None:
        self._global_bytes += len(data)
        if self._global_bytes > self._limits.pax_bytes_max:
            raise _malformed("too many global headers")
        for key, value in _pax_records(data):
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                # Differs: POSIX allows it; but giving every entry one name is an attack.
                raise _malformed(f"a global header that sets {key.decode()!r}")
            self._global[key] = value

    def _extend_next(self, extended: "_Extended", data: bytes) -> None:
        for key, value in _pax_records(data):
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                extended.sparse.append((key, value))
                if len(extended.sparse) > 2 * self._limits.sparse_runs_max:
                    raise _malformed("a sparse file of too many pieces")
            else:
                extended.pax[key] = value

    def _entry(
        self, block: bytes, kind: bytes, extended: "_Extended"
    ) -> tuple[Change | None, "_Body | None"]:
        """The change that an entry stands for, and its content; None for what is passed over."""
        pax = {**self._global, **extended.pax} if self._global else extended.pax
        raw_name = self._raw_name(block, pax, extended)
        is_dir = kind == b"5" or (kind in b"0\0" and raw_name.endswith(b"/"))
        path = self._path(raw_name)
        if is_dir and ".wh." not in path:
            return PutDir(path, self._meta(block, pax)), None
        is_file = kind in _FILE_TYPES
        if ".wh." in path and (path.startswith(_WHITEOUT) or "/.wh." in path):
            if path.partition("/")[0] in _OF_AUFS:
                return None, _Body(self._source, self._size(block, pax) if is_file else 0)
            empty = not is_dir and (kind == b"1" or (is_file and self._size(block, pax) == 0))
            return _removal(path, empty=empty), None
        if not path and self._is_layer:
            raise UnsafePathError(path=os.fsdecode(raw_name), reason="the root is a directory")
        if is_file:
            return self._file(block, kind, path, pax, extended)
        match kind:
            case b"1":
                target = _normal(os.fsdecode(self._raw_target(block, pax, extended)), clamp=True)
                if not target:
                    raise UnsafePathError(path=path, reason="a hard link to the root")
                return PutHardlink(path, TreePath(target)), None
            case b"2":
                return self._symlink(block, path, pax, extended), None
            case b"3" | b"4" | b"6":
                return self._node(block, kind, path, pax), None
            case _:
                raise _malformed(f"{path!r} is of the unknown type {kind!r}")

    def _raw_name(self, block: bytes, pax: dict[bytes, bytes], extended: "_Extended") -> bytes:
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or extended.path
        if name is None:
            name = _text(block, 0, 100)
            if block[345] and block[257:263] == b"ustar\0":  # GNU's own format has no prefix
                name = _text(block, 345, 155) + b"/" + name
        if name:
            return name
        if self._is_layer:
            raise _malformed("an entry without a name")
        return b"."

    def _raw_target(self, block: bytes, pax: dict[bytes, bytes], extended: "_Extended") -> bytes:
        target = pax.get(b"linkpath") or extended.target
        if target is None:
            target = _text(block, 157, 100)
        if not target or b"\0" in target:
            raise _malformed("a link without a target")
        return target

    def _path(self, raw_name: bytes) -> TreePath:
        length = len(raw_name)
        self._names_bytes += length
        if self._names_bytes > self._limits.names_bytes_max:
            raise _malformed(f"names of more than {self._limits.names_bytes_max} bytes")
        name = os.fsdecode(raw_name)
        if length > 255:
            if length > self._limits.path_bytes_max:
                raise _malformed(f"a name of {length} bytes")
            for part in raw_name.split(b"/"):
                if len(part) > 255 and len(part.removeprefix(b".wh.")) > 255:
                    raise UnsafePathError(
                        path=name[:80] + "...", reason="a part of it is longer than 255 bytes"
                    )
        if "\0" in name:
            raise UnsafePathError(path=name[:200], reason="contains a NUL byte")
        return TreePath(_normal(name, clamp=False))

    def _meta(self, block: bytes, pax: dict[bytes, bytes]) -> Meta:
        key = block[100:124] + block[136:148]
        meta = self._metas.get(key)
        if meta is None:
            meta = Meta(
                _number(block, 100, 8, "mode") & 0o7777,
                _owner(_number(block, 108, 8, "uid"), b"uid" in pax),
                _owner(_number(block, 116, 8, "gid"), b"gid" in pax),
                _bounded_time(_number(block, 136, 12, "mtime") * 1_000_000_000),
            )
            if len(self._metas) > 10_000:
                self._metas.clear()
            if not pax:
                self._metas[key] = meta
        if not pax:
            return meta
        uid, gid, mtime = pax.get(b"uid"), pax.get(b"gid"), pax.get(b"mtime")
        return Meta(
            meta.mode,
            _owner(_decimal(uid, "uid"), overridden=False) if uid else meta.uid,
            _owner(_decimal(gid, "gid"), overridden=False) if gid else meta.gid,
            _bounded_time(_pax_time(mtime)) if mtime else meta.mtime_ns,
            self._xattrs(pax),
        )

    def _xattrs(self, pax: dict[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
        xattrs = []
        for key, value in pax.items():
            if not key.startswith(_XATTR):
                continue
            name = os.fsdecode(_unquote(key[len(_XATTR) :]))
            if not is_layer_xattr(name):
                continue
            if len(value) > self._limits.xattr_bytes_max or len(key) > len(_XATTR) + 255:
                raise _malformed("an extended attribute above the limits of Linux")
            if "\0" in name:
                raise _malformed("an extended attribute's name with a NUL byte")
            xattrs.append((name, value))
        return tuple(sorted(xattrs))

    def _size(self, block: bytes, pax: dict[bytes, bytes] | None = None) -> int:
        override = pax.get(b"size") if pax else None
        size = _decimal(override, "size") if override else _number(block, 124, 12, "size")
        if not 0 <= size <= self._limits.file_bytes_max:
            raise _malformed(f"an entry of {size} bytes")
        return size

    def _file(
        self,
        block: bytes,
        kind: bytes,
        path: TreePath,
        pax: dict[bytes, bytes],
        extended: "_Extended",
    ) -> tuple[PutFile, "_Body | None"]:
        meta = self._meta(block, pax)
        size = self._size(block, pax)
        if kind == b"S" or (pax and any(key.startswith(b"GNU.sparse.") for key in pax)):
            return self._sparse_file(block, kind, path, meta, size, pax, extended)
        if size <= _SMALL_BYTES:
            content = self._source.take(size)
            self._source.skip_padding(size)
            return PutFile(path, meta, size, content), None
        body = _Body(self._source, size)
        return PutFile(path, meta, size, body), body

    def _sparse_file(
        self,
        block: bytes,
        kind: bytes,
        path: TreePath,
        meta: Meta,
        size: int,
        pax: dict[bytes, bytes],
        extended: "_Extended",
    ) -> tuple[PutFile, "_Body | None"]:
        runs, real_size, map_bytes = self._sparse_map(block, kind, size, pax, extended)
        data_bytes = sum(length for _, length in runs)
        end = 0
        for offset, length in runs:
            if offset < end:
                raise _malformed(f"{path!r} has overlapping sparse pieces")
            end = offset + length
        if end > real_size or data_bytes != size - map_bytes:
            raise _malformed(f"{path!r} has sparse pieces that do not fit its size")
        self._hole_bytes += real_size - data_bytes
        if self._hole_bytes > self._limits.hole_bytes_max:
            raise _malformed(
                f"sparse files with more than {self._limits.hole_bytes_max} bytes of holes"
            )
        body = _SparseBody(self._source, size - map_bytes, runs, real_size)
        if real_size > _SMALL_BYTES:
            return PutFile(path, meta, real_size, body), body
        content = b"".join(body())
        body.finish()
        return PutFile(path, meta, real_size, content), None

    def _sparse_map(
        self, block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], extended: "_Extended"
    ) -> tuple[list[tuple[int, int]], int, int]:
        """The data runs (offset, length), the real size, and how much of the data the map took."""
        if kind == b"S":
            return self._old_gnu_map(block)
        real_size_text = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if real_size_text is None:
            raise _malformed("a sparse file without its size")
        real_size = _decimal(real_size_text, "sparse size")
        if real_size > self._limits.file_bytes_max:
            raise _malformed(f"a file of {real_size} bytes")
        map_bytes = 0
        if pax.get(b"GNU.sparse.major") == b"1":
            numbers, map_bytes = self._map_in_data(size)
        elif b"GNU.sparse.map" in pax:
            text = pax[b"GNU.sparse.map"]
            if text.count(b",") > 2 * self._limits.sparse_runs_max:
                raise _malformed("a sparse file of too many pieces")
            numbers = (
                [_decimal(number, "sparse map") for number in text.split(b",")] if text else []
            )
        else:
            numbers = self._map_of_records(extended.sparse)
        if len(numbers) % 2:
            raise _malformed("a sparse map of an odd length")
        return list(zip(numbers[::2], numbers[1::2], strict=True)), real_size, map_bytes

    def _map_of_records(self, records: list[tuple[bytes, bytes]]) -> list[int]:
        expected = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        for index, (key, _) in enumerate(records):
            if key != expected[index % 2]:
                raise _malformed("a sparse map out of order")
        return [_decimal(value, "sparse map") for _, value in records]

    def _map_in_data(self, size: int) -> tuple[list[int], int]:
        """GNU format 1.0: decimal lines at the start of the data, the first is the count."""
        data = b""
        numbers: list[int] = []
        used = 0
        wanted = 1
        while len(numbers) < wanted:
            if used + BLOCK_BYTES > size:
                raise _malformed("a sparse map longer than its file")
            *lines, data = (data + self._source.take(BLOCK_BYTES)).split(b"\n")
            used += BLOCK_BYTES
            numbers.extend(_decimal(line, "sparse map") for line in lines[: wanted - len(numbers)])
            if wanted == 1 and numbers:
                if numbers[0] > self._limits.sparse_runs_max:
                    raise _malformed("a sparse file of too many pieces")
                wanted = 1 + 2 * numbers[0]
                numbers.extend(_decimal(line, "sparse map") for line in lines[1:wanted])
            elif len(data) > 32 and len(numbers) < wanted:
                raise _malformed("a sparse map with too long a number")
        return numbers[1:], used

    def _old_gnu_map(self, block: bytes) -> tuple[list[tuple[int, int]], int, int]:
        runs: list[tuple[int, int]] = []
        real_size = _number(block, 483, 12, "sparse size")
        if not 0 <= real_size <= self._limits.file_bytes_max:
            raise _malformed(f"a file of {real_size} bytes")
        table, more = block[386:482], block[482]
        while True:
            for at in range(0, len(table) - 23, 24):
                if not table[at]:
                    break
                offset = _number(table, at, 12, "sparse map")
                length = _number(table, at + 12, 12, "sparse map")
                if offset < 0 or length < 0:
                    raise _malformed("a sparse map with a negative number")
                runs.append((offset, length))
            if not more:
                return runs, real_size, 0
            if len(runs) > self._limits.sparse_runs_max:
                raise _malformed("a sparse file of too many pieces")
            extension = self._source.take(BLOCK_BYTES)
            table, more = extension[:504], extension[504]

    def _symlink(
        self, block: bytes, path: TreePath, pax: dict[bytes, bytes], extended: "_Extended"
    ) -> PutSymlink:
        target = self._raw_target(block, pax, extended)
        if len(target) > 4095:
            raise UnsafePathError(path=path, reason="a link's target longer than 4095 bytes")
        return PutSymlink(path, _link_meta(self._meta(block, pax)), os.fsdecode(target))

    def _node(self, block: bytes, kind: bytes, path: TreePath, pax: dict[bytes, bytes]) -> PutNode:
        meta = self._meta(block, pax)
        if kind == b"6":
            return PutNode(path, meta, "fifo")
        major, minor = _number(block, 329, 8, "major"), _number(block, 337, 8, "minor")
        if not (0 <= major <= 0xFFF and 0 <= minor <= 0xFFFFF):
            raise _malformed(f"{path!r} is the impossible device {major}:{minor}")
        if kind == b"3" and major == minor == 0:
            raise UnsafePathError(path=path, reason="a 0:0 device is overlayfs's removal")
        node_kind: NodeKind = "char" if kind == b"3" else "block"
        return PutNode(path, meta, node_kind, major, minor)


_EXTENSIONS = (b"x", b"g", b"L", b"K", b"X")
_FILE_TYPES = (b"0", b"\0", b"7", b"S")


class _Extended:
    """What extended headers say about the entry that follows them."""

    __slots__ = ("headers", "path", "pax", "sparse", "target")

    def __init__(self) -> None:
        self.headers = 0
        self.path: bytes | None = None
        self.target: bytes | None = None
        self.pax: dict[bytes, bytes] = {}
        self.sparse: list[tuple[bytes, bytes]] = []


_NOTHING_EXTENDED = _Extended()


class _Source:
    """The stream, buffered."""

    __slots__ = ("_at", "_buffer", "_stream")

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0

    def block(self) -> bytes | None:
        """The next header, its checksum verified; None at the end of the archive."""
        at = self._at
        block = self._buffer[at : at + BLOCK_BYTES]
        if len(block) == BLOCK_BYTES:
            self._at = at + BLOCK_BYTES
        else:
            block = self._take_slowly(BLOCK_BYTES, or_nothing=True)
            if not block:
                return None  # no trailer: accepted, as everybody does
        if block[148:156] == b"\0\0\0\0\0\0\0\0" and block == _ZEROS:
            second = self._take_slowly(BLOCK_BYTES, or_nothing=True)
            if second and second != _ZEROS:
                raise _malformed("a lone block of zeros between entries")
            return None
        # adler32's lower half is 1 + the sum of the bytes, exact for half a block.
        total = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2
        field = block[148:156]
        expected = _number(field, 0, 8, "checksum")
        if total - (zlib.adler32(field) & 0xFFFF) + 1 + 256 != expected:
            signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:])
            if signed + 256 != expected:
                raise _malformed("a header with a wrong checksum, or no tar at all")
        return block

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; only for sizes that are bounded."""
        at = self._at
        data = self._buffer[at : at + size]
        if len(data) == size:
            self._at = at + size
            return data
        return self._take_slowly(size)

    def _take_slowly(self, size: int, *, or_nothing: bool = False) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left:
            piece = self.some(left)
            if not piece:
                if or_nothing and not pieces:
                    return b""
                raise _malformed("it ends too early")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def some(self, size: int) -> bytes:
        """Between one and `size` bytes; empty at the end of the stream."""
        if self._at == len(self._buffer):
            self._buffer = self._stream.read(_READ_BYTES)
            self._at = 0
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def skip(self, size: int) -> None:
        while size:
            piece = self.some(min(size, _READ_BYTES))
            if not piece:
                raise _malformed("it ends too early")
            size -= len(piece)

    def skip_padding(self, size: int) -> None:
        """Skip what fills up the last block of `size` bytes of data."""
        padding = -size % BLOCK_BYTES
        if self._at + padding <= len(self._buffer):
            self._at += padding
        else:
            self.skip(padding)

    def drain(self) -> None:
        self._buffer = b""
        self._at = 0
        while self._stream.read(_READ_BYTES):
            pass


class _Body:
    """The content of a large file: to be read once, before the next entry is asked for."""

    def __init__(self, source: _Source, size_bytes: int) -> None:
        self._source = source
        self._size_bytes = size_bytes
        self._left = size_bytes
        self._started = False
        self._finished = False

    def __call__(self) -> Iterator[bytes]:
        if self._started or self._finished:
            raise StoreError("the content of a file in a tar can be read once only")
        self._started = True
        return self._pieces()

    def finish(self) -> None:
        """Move on behind the content, read or not."""
        self._finished = True
        self._source.skip(self._left)
        self._source.skip_padding(self._size_bytes)
        self._left = 0

    def _pieces(self) -> Iterator[bytes]:
        while self._left:
            yield self._piece(self._left)
            if self._finished:
                raise StoreError("the content of a file was read after its time")

    def _piece(self, size: int) -> bytes:
        piece = self._source.some(min(size, _READ_BYTES))
        if not piece:
            raise _malformed("it ends too early")
        self._left -= len(piece)
        return piece


class _SparseBody(_Body):
    def __init__(
        self, source: _Source, size_bytes: int, runs: list[tuple[int, int]], real_size: int
    ) -> None:
        super().__init__(source, size_bytes)
        self._runs = runs
        self._real_size = real_size

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        for offset, length in (*self._runs, (self._real_size, 0)):
            yield from _zeros(offset - at)
            left = length
            while left:
                if self._finished:
                    raise StoreError("the content of a file was read after its time")
                piece = self._piece(left)
                left -= len(piece)
                yield piece
            at = offset + length


_ZERO_PIECE = bytes(_READ_BYTES)


def _zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // _READ_BYTES):
        yield _ZERO_PIECE
    if size % _READ_BYTES:
        yield bytes(size % _READ_BYTES)


def is_tar(first_block: bytes) -> bool:
    """Whether the first 512 bytes of something (decompressed) are a tar header."""
    try:
        return _Source(_Once(first_block[:BLOCK_BYTES])).block() is not None
    except MalformedDocumentError:
        return False


class _Once:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, _size: int = -1, /) -> bytes:
        data, self._data = self._data, b""
        return data


def _malformed(problem: str) -> MalformedDocumentError:
    return MalformedDocumentError(context="tar archive", problem=problem)


def _removal(path: TreePath, *, empty: bool) -> Change:
    """What a name that begins with `.wh.` stands for."""
    head, _, name = path.rpartition("/")
    victim = name[len(_WHITEOUT) :] if name.startswith(_WHITEOUT) else ""
    if head.startswith(_WHITEOUT) or "/.wh." in head or victim in ("", ".", ".."):
        raise UnsafePathError(path=path, reason="no removal can be called that")
    if not empty:
        raise UnsafePathError(path=path, reason="names that begin with .wh. are empty files")
    if name == _OPAQUE:
        return Opaque(TreePath(head))
    if victim.startswith(_WHITEOUT):
        raise UnsafePathError(path=path, reason="no removal can be called that")
    return Remove(TreePath(f"{head}/{victim}" if head else victim))


def _normal(name: str, *, clamp: bool) -> str:
    """`name` as a TreePath; `..` beyond the root stays there if `clamp`, else is refused."""
    if name[0] not in "./" and name[-1] != "/" and "//" not in name and "/." not in name:
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        elif not clamp:
            raise UnsafePathError(path=name, reason="it leaves the root")
    return "/".join(parts)


def _text(block: bytes, start: int, length: int) -> bytes:
    return block[start : start + length].partition(b"\0")[0]


def _number(block: bytes, start: int, length: int, what: str) -> int:
    """A number of a header: octal digits, or GNU's base 256."""
    field = block[start : start + length]
    if field[0] & 0x80:
        number = int.from_bytes(field, "big")
        if field[0] & 0x40:
            return number - (1 << (8 * length))
        return number - (0x80 << (8 * length - 8))
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        raise _malformed(f"a header whose {what} is no number")
    try:
        return int(digits, 8)
    except ValueError:
        raise _malformed(f"a header whose {what} is no octal number") from None


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise _malformed("a PAX record without its length")
        stop = at + int(digits)
        if stop > len(data) or stop < space + 3 or data[stop - 1] != 0x0A:
            raise _malformed("a PAX record of a wrong length")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not key or not equals:
            raise _malformed("a PAX record without a name")
        yield key, value
        at = stop


def _decimal(text: bytes, what: str) -> int:
    if len(text) > 19 or not text.isdigit():
        raise _malformed(f"a PAX header whose {what} is no number")
    return int(text)


def _pax_time(text: bytes) -> int:
    """Seconds, perhaps negative, perhaps with a fraction, as nanoseconds."""
    sign = -1 if text.startswith(b"-") else 1
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    nanoseconds = (fraction[:9].ljust(9, b"0")) if fraction else b"0"
    return sign * (_decimal(whole, "mtime") * 1_000_000_000 + _decimal(nanoseconds, "mtime"))


# What ext4 can hold: the years 1901 to 2446.
_TIME_NS_MIN = -(1 << 31) * 1_000_000_000
_TIME_NS_MAX = 0x3_7FFF_FFFF * 1_000_000_000


def _bounded_time(time_ns: int) -> int:
    """Times that no file can have become the epoch, as in Docker."""
    return time_ns if _TIME_NS_MIN <= time_ns <= _TIME_NS_MAX else 0


def _owner(number: int, overridden: bool) -> int:
    if overridden:
        return 0
    if not 0 <= number < 0xFFFFFFFF:  # the last one means "do not change" to chown
        raise _malformed(f"the impossible owner {number}")
    return number
