"""`lamina/cache.db`: what is derived from blobs, and remembered so that nothing is read twice.

Rows for layers (what a blob holds), steps (which key made which layer), listings of what steps
copied, file digests and memos; when steps were used last; and documents of removed images, which
prune need not take for another tool's unfinished work.
Losing it costs time, never an image: index.json and the blobs are the truth. So a database of an
earlier version is emptied, not converted, and one that SQLite finds damaged gives way to an empty
one, but for fsck, which only looks.

SQLite in WAL mode, synchronous=FULL, opened at first use. Each row carries a checksum: SQLite has
none, and a flipped bit must be a miss, not another layer.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.errors import DiskFullError, StoreBusyError, StoreError

if TYPE_CHECKING:
    import sqlite3

Value = str | int | float | bytes | None
Row = tuple[Value, ...]
Statement = tuple[str, Sequence[Value]]

_VERSION = 4
_TABLES = ("layers", "steps", "memos", "listings", "removed", "used")
_BUSY_TIMEOUT_S = 30.0
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_ROOM_BYTES_MIN = 1 << 20
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS layers (
    diff_id TEXT PRIMARY KEY, media_type TEXT, digest TEXT, blob_bytes INTEGER,
    size_bytes INTEGER, tar_bytes INTEGER, content_digest TEXT,
    files INTEGER, dirs INTEGER, removed INTEGER, checksum TEXT, stamp TEXT);
CREATE INDEX IF NOT EXISTS layers_by_digest ON layers (digest);
CREATE TABLE IF NOT EXISTS steps (
    key TEXT PRIMARY KEY, diff_id TEXT, created TEXT, created_by TEXT, seconds REAL,
    document BLOB, put_s REAL, parent TEXT, variant TEXT, content_digest TEXT, checksum TEXT);
CREATE INDEX IF NOT EXISTS steps_by_content ON steps (parent, content_digest, variant);
CREATE TABLE IF NOT EXISTS memos (
    kind TEXT, key TEXT, value BLOB, checksum TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listings (digest TEXT PRIMARY KEY, value BLOB);
CREATE TABLE IF NOT EXISTS used (key TEXT PRIMARY KEY, used_s REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed (digest TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


class Database:
    """One connection, made when it is first needed.

    Args:
        set_aside: names a place for the files of a damaged one, which is then called damaged no
            more; None: it is an error.
    """

    def __init__(self, path: Path, set_aside: Callable[[str], Path] | None = None) -> None:
        self._path = path
        self._set_aside = set_aside
        self._connection: sqlite3.Connection | None = None
        self._inode = 0  # of the file that is, or was, open

    def query(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        """All rows of one SELECT."""
        import sqlite3

        try:
            rows: list[Row] = self._open().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if self._begin_anew(error):
                return self.query(sql, values)
            raise self._error(error) from error
        return rows

    def write(self, statements: Iterable[Statement]) -> None:
        """Carry out all of `statements`, durably, or none."""
        import sqlite3

        statements = tuple(statements)
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    connection.execute(sql, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if self._begin_anew(error):
                self.write(statements)
                return
            raise self._error(error) from error

    def problems(self, *, quick: bool) -> list[str]:
        """What SQLite's own check finds. From then on nothing damaged is set aside.

        Raises:
            DiskFullError: SQLite has no room even to look.
        """
        self._set_aside = None
        try:
            rows = self.query("PRAGMA quick_check" if quick else "PRAGMA integrity_check")
        except DiskFullError:
            raise
        except StoreError as error:
            return [error.message]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def _begin_anew(self, error: "sqlite3.Error") -> bool:
        """Put a damaged database out of the way; False when it is not, or must stay.

        Another process may have it open still: what it writes there is lost, a cache's.
        """
        name = getattr(error, "sqlite_errorname", "")
        if self._set_aside is None or not name.startswith(_DAMAGED):
            return False
        self.close()
        if self._inode not in (0, _inode(self._path)):  # somebody else has done it
            return True
        for suffix in ("-wal", "-shm", ""):
            path = Path(f"{self._path}{suffix}")
            if path.exists():
                path.rename(self._set_aside("damaged"))
        self._set_aside = None  # once is enough
        return True

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> "sqlite3.Connection":
        if self._connection is not None:
            return self._connection
        import sqlite3

        connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._inode = _inode(self._path)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: "sqlite3.Connection") -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreError(
                f"{self._path} is of a later version ({version})",
                hint="use the lamina that wrote it, or remove the file: it is only a cache",
            )
        if version < _VERSION:
            connection.execute("PRAGMA journal_mode = WAL")
            for table in _TABLES if version else ():
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.executescript(_SCHEMA)
        connection.execute("PRAGMA synchronous = FULL")

    def _error(self, error: "sqlite3.Error") -> StoreError:
        """What SQLite says in words of its own, in those of every other file."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreBusyError(path=str(self._path), hint="try again")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            if name.startswith("SQLITE_FULL") or self._is_disk_full():
                return DiskFullError(f"{self._path}: {os.strerror(errno.ENOSPC)}")
            return StoreError(f"{self._path}: {os.strerror(errno.EIO)}")
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")) and (reason := self._refusal()):
            return StoreError(f"{self._path}: {reason}")
        hint = ""
        if "malformed" in str(error) or "not a database" in str(error):
            hint = (
                f"remove {self._path} with its -wal and -shm: layers are read again from their "
                "blobs, only the build cache is lost"
            )
        return StoreError(f"{self._path}: {error}", hint=hint)

    def _refusal(self) -> str:
        """Why the file cannot be opened for writing; empty when it can."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            return error.strerror or ""
        return ""

    def _is_disk_full(self) -> bool:
        """Whether it is want of room that SQLite calls an I/O error (of its shared memory, say)."""
        try:
            status = os.statvfs(self._path.parent)
        except OSError:
            return False
        return status.f_bavail * status.f_frsize < _ROOM_BYTES_MIN


def _inode(path: Path) -> int:
    """Which file it is; 0 for none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def checksum(*values: Value) -> str:
    """What a row keeps beside `values` to be recognised as undamaged."""
    return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()[:16]
