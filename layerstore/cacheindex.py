"""The build cache: which step made which layer, and other things worth remembering.

A step is found by its key (everything it depends on, in one digest), or, after it was executed,
by its result: the same parent, the same content but for times, the same variant. In the second case
the earlier layer can be taken in place of the new one, and all that stands on it stays cached.

Beside the steps, the listings of what they copied are kept, one for each content: bytes that are
found by their own digest. They explain later misses file by file, and are worth no more than that:
the oldest go when all of them together take too much room.

What is not known here is looked for in the sources that were added: caches of other stores.

What is put is seen at once through this object, by others after `Store.flush`. A row whose
checksum is wrong, or whose layer is gone or damaged, is a miss.
"""

import os
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.database import Database, Row, Statement, checksum
from layerstore.digest import Digest
from layerstore.documents import whole_characters
from layerstore.layers import BlobElsewhere, Layer

if TYPE_CHECKING:
    from layerstore.toc import TocEntry

_STEP = (
    "key, diff_id, created, created_by, seconds, document, put_s, parent, variant, content_digest"
)
_FILE_DIGESTS = "digests-of-files-without-xattrs"
_HEX = 64
_NEIGHBOURS_MAX = 500  # of the newest steps, so that asking costs the same in any store
_QUERY_MAX = 500  # variables of one statement; SQLite allows 999 or more
_USE_S = 3600.0
_LISTING_MAX_BYTES = 32 << 20
_LISTINGS_MAX_BYTES = 64 << 20  # of all, compressed
_DROP_OLD_LISTINGS = """
DELETE FROM listings WHERE rowid IN (SELECT id FROM (
    SELECT rowid AS id, sum(length(value)) OVER (ORDER BY rowid DESC) AS total FROM listings
) WHERE total > ?)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedStep:
    """A step that was carried out. `document` is what the key is the digest of.

    `created` is the layer's time, as images show it; `put_s` when the result was last confirmed by
    carrying the step out, in Unix seconds.
    """

    key: Digest
    diff_id: Digest
    created: str
    created_by: str
    seconds: float
    document: bytes
    put_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A step with all that it is found by."""

    step: CachedStep
    parent: Digest | None
    variant: str
    content_digest: Digest

    def values(self) -> Row:
        """What a row of the database has."""
        step = self.step
        return (
            *(step.key, step.diff_id, step.created, step.created_by, step.seconds, step.document),
            *(step.put_s, self.parent or "", self.variant, self.content_digest),
        )


class DescribedLayer(Protocol):
    """What a cache elsewhere says of a layer."""

    @property
    def layer(self) -> Layer:
        """What it is said to be."""

    @property
    def table(self) -> BlobElsewhere | None:
        """Its table of contents as a blob; None where there is none."""

    def read_toc(self) -> "list[TocEntry] | None":
        """Its table of contents, None where that is not known. Raises UnusableLayerError."""

    def check(self, layer: Layer) -> Layer:
        """Return `layer`, which has come. Raises UnusableLayerError: it is not as was said."""


class StepSource(Protocol):
    """A cache elsewhere. It offers the layers of the steps that it gives to the store."""

    def find(self, key: Digest) -> CachedStep | None:
        """The step with this key."""

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        """A step on `parent` whose layer has this time-blind content."""

    def row(self, key: Digest) -> StepRow | None:
        """A step that was found there, and what else it is found by."""

    def describe(self, diff_id: Digest) -> DescribedLayer | None:
        """What is known there of a layer whose blob lies in another place."""


class FileStamp(NamedTuple):
    """A file as it was when its digest was taken. While the rest is equal, so is the digest."""

    dev: int
    ino: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    digest: Digest


class CacheIndex:
    """The build cache of one store. `find_layer` answers None for one that cannot be used."""

    def __init__(self, database: Database, find_layer: Callable[[Digest], Layer | None]) -> None:
        self._database = database
        self._find_layer = find_layer
        self._pending: dict[Digest, StepRow] = {}
        self._pending_memos: dict[tuple[str, str], bytes] = {}
        self._pending_listings: dict[Digest, bytes] = {}
        self._used: set[Digest] = set()  # found since the last flush
        self._sources: list[StepSource] = []

    def add_source(self, source: StepSource) -> None:
        """Look into `source`, too, after this store and the sources added before."""
        self._sources.append(source)

    @property
    def has_sources(self) -> bool:
        """Whether steps are looked for elsewhere, too."""
        return bool(self._sources)

    def get(self, key: Digest) -> CachedStep | None:
        """The step with exactly this key, if its layer can still be used."""
        pending = self._pending.get(key)
        if pending is not None:
            return pending.step
        rows = self._database.query(f"SELECT {_STEP}, checksum FROM steps WHERE key = ?", (key,))
        found = next(self._usable(rows), None)
        if found is not None:
            self._used.add(key)
        elsewhere = (source.find(key) for source in self._sources)
        return found or next(filter(None, elsewhere), None)

    def find(self, key: Digest) -> CachedStep | None:
        """The step with exactly this key, whether or not its layer can still be used."""
        row = self.row(key)
        return None if row is None else row.step

    def neighbours(self, parent: Digest | None, created_by: str) -> Iterator[CachedStep]:
        """The newest steps with this parent or this instruction, newest first."""
        created_by = whole_characters(created_by)
        for row in reversed(self._pending.values()):
            if row.parent == parent or row.step.created_by == created_by:
                yield row.step
        rows = self._database.query(
            f"SELECT {_STEP}, checksum FROM"
            " (SELECT rowid AS id, * FROM steps ORDER BY id DESC LIMIT ?)"
            " WHERE parent = ? OR created_by = ? ORDER BY id DESC",
            (_NEIGHBOURS_MAX, parent or "", created_by),
        )
        yield from (_step(row) for row in rows if _is_intact(row))

    def same_content(
        self, parent: Digest | None, content_digest: Digest, variant: str
    ) -> CachedStep | None:
        """The oldest step on `parent` (a chain id) whose layer has this time-blind content."""
        for row in self._pending.values():
            if (row.parent, row.content_digest, row.variant) == (parent, content_digest, variant):
                return row.step
        rows = self._database.query(
            f"SELECT {_STEP}, checksum FROM steps"
            " WHERE parent = ? AND content_digest = ? AND variant = ? ORDER BY rowid",
            (parent or "", content_digest, variant),
        )
        found = next(self._usable(rows), None)
        elsewhere = (
            source.same_content(parent, content_digest, variant) for source in self._sources
        )
        return found or next(filter(None, elsewhere), None)

    def put(self, step: CachedStep, *, parent: Digest | None, variant: str) -> None:
        """Remember `step`, whose layer is committed. An earlier step with the key is replaced."""
        layer = self._find_layer(step.diff_id)
        assert layer is not None, "a step is put after its layer was committed"
        self._pending[step.key] = StepRow(
            step=replace(step, created_by=whole_characters(step.created_by), put_s=time.time()),
            parent=parent,
            variant=variant,
            content_digest=layer.content_digest,
        )

    def row(self, key: Digest) -> StepRow | None:
        """The step of this store with exactly this key, and what else it is found by."""
        pending = self._pending.get(key)
        if pending is not None:
            return pending
        rows = self._database.query(f"SELECT {_STEP}, checksum FROM steps WHERE key = ?", (key,))
        return next((_row(row) for row in rows if _is_intact(row)), None)

    def row_anywhere(self, key: Digest) -> StepRow | None:
        """The same, also where it was found elsewhere and its layer has not come."""
        elsewhere = (source.row(key) for source in self._sources)
        return self.row(key) or next(filter(None, elsewhere), None)

    def describe(self, diff_id: Digest) -> DescribedLayer | None:
        """What a cache elsewhere knows of a layer that is not here."""
        return next(filter(None, (each.describe(diff_id) for each in self._sources)), None)

    def steps(self) -> Iterator[CachedStep]:
        """Every step there is, oldest first."""
        rows = self._database.query(f"SELECT {_STEP}, checksum FROM steps ORDER BY rowid")
        yield from (_step(row) for row in rows if _is_intact(row))
        yield from (row.step for row in self._pending.values())

    def used(self) -> dict[Digest, float]:
        """When each step was found last, in Unix seconds, to the hour; none that never was."""
        rows = self._database.query("SELECT key, used_s FROM used")
        return {Digest(key): used_s for key, used_s in rows if isinstance(used_s, float)}

    def load_file_digests(self, scope: str) -> dict[str, FileStamp]:
        """What `save_file_digests` kept for `scope`; empty when nothing, or it is damaged."""
        data = self.get_memo(_FILE_DIGESTS, scope)
        return {} if data is None else _unpack_stamps(data)

    def save_file_digests(self, scope: str, stamps: dict[str, FileStamp]) -> None:
        """Replace what is kept for `scope` (a context's directory, say)."""
        self.put_memo(_FILE_DIGESTS, scope, _pack_stamps(stamps))

    def get_memo(self, kind: str, key: str) -> bytes | None:
        """A small thing that can be computed again; None when unknown."""
        key = whole_characters(key)
        pending = self._pending_memos.get((kind, key))
        if pending is not None:
            return pending
        rows = self._database.query(
            "SELECT value, checksum FROM memos WHERE kind = ? AND key = ?", (kind, key)
        )
        for value, found in rows:
            if isinstance(value, bytes) and found == _memo_checksum(kind, key, value):
                return value
        return None

    def put_memo(self, kind: str, key: str, value: bytes) -> None:
        """Remember `value`."""
        self._pending_memos[kind, whole_characters(key)] = value

    def get_listing(self, digest: Digest) -> bytes | None:
        """The bytes that `put_listing` kept under their digest; None when they are not there."""
        pending = self._pending_listings.get(digest)
        if pending is not None:
            return pending
        rows = self._database.query("SELECT value FROM listings WHERE digest = ?", (digest,))
        return next((_unpack_listing(digest, row[0]) for row in rows), None)

    def put_listing(self, digest: Digest, listing: bytes) -> None:
        """Keep `listing`, of which `digest` is the digest, unless it is there or very long."""
        if len(listing) <= _LISTING_MAX_BYTES and self.get_listing(digest) is None:
            self._pending_listings[digest] = listing

    def damaged_rows(self) -> Iterator[str]:
        """The keys of rows whose checksum is wrong."""
        for row in self._database.query(f"SELECT {_STEP}, checksum FROM steps"):
            if not _is_intact(row):
                yield f"step {row[0]!s}"
        for kind, key, value, found in self._database.query(
            "SELECT kind, key, value, checksum FROM memos"
        ):
            if not isinstance(value, bytes) or found != _memo_checksum(str(kind), str(key), value):
                yield f"memo {kind!s} {key!s}"
        for digest, value in self._database.query("SELECT digest, value FROM listings"):
            if _unpack_listing(Digest(digest), value) is None:
                yield f"listing {digest!s}"

    def pending_statements(self) -> Iterator[Statement]:
        """What a flush has to write."""
        for row in self._pending.values():
            if self._find_layer(row.step.diff_id) is None:
                continue  # its blob could not be written
            values = row.values()
            yield (
                f"INSERT OR REPLACE INTO steps ({_STEP}, checksum) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (*values, checksum(*values)),
            )
        for (kind, key), value in self._pending_memos.items():
            yield (
                "INSERT OR REPLACE INTO memos (kind, key, value, checksum) VALUES (?,?,?,?)",
                (kind, key, value, _memo_checksum(kind, key, value)),
            )
        yield from self._note_use()
        for digest, listing in self._pending_listings.items():
            yield (
                "INSERT OR REPLACE INTO listings (digest, value) VALUES (?,?)",
                (digest, _pack_listing(listing)),
            )
        if self._pending_listings:
            yield _DROP_OLD_LISTINGS, (_LISTINGS_MAX_BYTES,)

    def flushed(self) -> None:
        """Forget what was pending: it is in the database now."""
        self._pending = {}
        self._pending_memos = {}
        self._pending_listings = {}
        self._used = set()

    def _note_use(self) -> Iterator[Statement]:
        """Once an hour at most: a build in which all is cached has nothing else to write."""
        now = time.time()
        keys = sorted(self._used)
        for start in range(0, len(keys), _QUERY_MAX):
            asked = keys[start : start + _QUERY_MAX]
            marks = ",".join("?" * len(asked))
            rows = self._database.query(
                f"SELECT key FROM used WHERE key IN ({marks}) AND used_s BETWEEN ? AND ?",
                (*asked, now - _USE_S, now + _USE_S),
            )
            for key in set(asked) - {Digest(row[0]) for row in rows}:
                yield "INSERT OR REPLACE INTO used (key, used_s) VALUES (?,?)", (key, now)

    def _usable(self, rows: list[Row]) -> Iterator[CachedStep]:
        for row in rows:
            if _is_intact(row):
                step = _step(row)
                if self._find_layer(step.diff_id) is not None:
                    yield step


def _is_intact(row: Row) -> bool:
    return row[-1] == checksum(*row[:-1])


def _step(row: Row) -> CachedStep:
    key, diff_id, created, created_by, seconds, document, put_s, *_ = row
    assert isinstance(seconds, float)
    assert isinstance(put_s, float)
    assert isinstance(document, bytes)
    return CachedStep(
        key=Digest(key),
        diff_id=Digest(diff_id),
        created=str(created),
        created_by=str(created_by),
        seconds=seconds,
        document=document,
        put_s=put_s,
    )


def _row(row: Row) -> StepRow:
    *_, parent, variant, content_digest, _ = row
    return StepRow(
        step=_step(row),
        parent=Digest(parent) if parent else None,
        variant=str(variant),
        content_digest=Digest(content_digest),
    )


def _pack_listing(listing: bytes) -> bytes:
    return zlib.compress(listing, 1)


def _unpack_listing(digest: Digest, value: object) -> bytes | None:
    """The listing; None when it is not the one of this digest."""
    if not isinstance(value, bytes):
        return None
    try:
        listing = zlib.decompressobj().decompress(value, _LISTING_MAX_BYTES)
    except zlib.error:
        return None
    return listing if Digest.of(listing) == digest else None


def _memo_checksum(kind: str, key: str, value: bytes) -> str:
    return checksum(kind, key, Digest.of(value))


def _pack_stamps(stamps: dict[str, FileStamp]) -> bytes:
    """Columns: 20,000 files must load in a few milliseconds."""
    times = array("q", (time for stamp in stamps.values() for time in stamp[3:5]))
    others = array("Q", (number for stamp in stamps.values() for number in (*stamp[:3], stamp[5])))
    digests = "".join(stamp.digest.hex for stamp in stamps.values())
    header = f"{len(stamps)}\n".encode()
    names = os.fsencode("\0".join(stamps))
    return b"".join((header, times.tobytes(), others.tobytes(), digests.encode(), names))


def _unpack_stamps(data: bytes) -> dict[str, FileStamp]:
    count = int(data[: data.index(b"\n")])
    if not count:
        return {}
    start = data.index(b"\n") + 1
    ends = [start + count * width for width in (16, 48, 48 + _HEX)]
    times = array("q", data[start : ends[0]])
    others = array("Q", data[ends[0] : ends[1]])
    hexes = data[ends[1] : ends[2]].decode()
    digests = [Digest(f"sha256:{hexes[at : at + _HEX]}") for at in range(0, len(hexes), _HEX)]
    dev, ino, size_bytes, mode = (others[offset::4] for offset in range(4))
    stamps = map(FileStamp, dev, ino, size_bytes, times[::2], times[1::2], mode, digests)
    return dict(zip(os.fsdecode(data[ends[2] :]).split("\0"), stamps, strict=True))
