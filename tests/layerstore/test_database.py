import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from layerstore import database
from layerstore.database import Database, checksum
from layerstore.errors import StoreBusyError, StoreError
from tests.support.stores import flip, kill, start

PUT = "INSERT INTO memos (kind, key, value, checksum) VALUES (?, ?, ?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Database]:
    opened = Database(path)
    yield opened
    opened.close()


def keys(database: Database) -> list[object]:
    return [row[0] for row in database.query("SELECT key FROM memos ORDER BY key")]


def test_nothing_is_opened_before_it_is_needed(opened: Database, path: Path) -> None:
    assert not path.exists()
    opened.query("SELECT * FROM steps")
    assert path.exists()


def test_it_is_in_wal_mode_and_synced_at_every_commit(opened: Database) -> None:
    assert opened.query("PRAGMA journal_mode") == [("wal",)]
    assert opened.query("PRAGMA synchronous") == [(2,)]


def test_a_transaction_is_seen_by_others(opened: Database, path: Path) -> None:
    opened.write([(PUT, ("k", "a", b"", "")), (PUT, ("k", "b", b"", ""))])
    other = Database(path)
    assert keys(other) == ["a", "b"]
    other.close()


def test_a_transaction_is_all_or_nothing(opened: Database) -> None:
    with pytest.raises(StoreError):
        opened.write([(PUT, ("k", "a", b"", "")), ("INSERT INTO nowhere VALUES (1)", ())])
    assert keys(opened) == []
    opened.write([(PUT, ("k", "a", b"", ""))])
    assert keys(opened) == ["a"]


def test_an_error_while_statements_are_made_rolls_back(opened: Database) -> None:
    def statements() -> Iterator[database.Statement]:
        yield PUT, ("k", "a", b"", "")
        raise KeyError

    with pytest.raises(KeyError):
        opened.write(statements())
    assert keys(opened) == []
    opened.write([])


def test_a_process_killed_in_a_transaction_leaves_nothing(opened: Database, path: Path) -> None:
    opened.write([(PUT, ("k", "before", b"", ""))])
    process = start(
        """
import sys
from pathlib import Path
from types import SimpleNamespace
from layerstore.database import Database
database = Database(Path(sys.argv[1]))
def statements():
    for number in range(1000):
        yield "INSERT INTO memos VALUES ('k', ?, ?, '')", (str(number), b"x" * 10000)
    print("written", flush=True)
    sys.stdin.read()
database.write(statements())
""",
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    kill(process)

    assert keys(opened) == ["before"]
    assert opened.problems(quick=False) == []


def test_a_locked_database_is_busy(
    opened: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.05)
    opened.write([])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    late = Database(path)
    try:
        assert keys(late) == [], "readers are not shut out"
        with pytest.raises(StoreBusyError):
            late.write([(PUT, ("k", "a", b"", ""))])
    finally:
        other.close()
        late.close()


def test_a_full_disk_is_told_in_the_words_of_every_other_file(opened: Database, path: Path) -> None:
    opened.write([(PUT, ("k", "old", b"1", ""))])
    opened._open().execute("PRAGMA max_page_count = 30")
    with pytest.raises(StoreError, match=f"^{path}: No space left on device$") as caught:
        opened.write([(PUT, ("k", "new", b"x" * 200_000, ""))])
    assert "system prune" in caught.value.hint
    assert keys(opened) == ["old"]


@pytest.mark.parametrize(
    ("free_blocks", "problem"), [(10, "No space left on device"), (1 << 20, "Input/output error")]
)
def test_an_input_output_error_is_told_by_the_room_there_is(
    opened: Database,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_blocks: int,
    problem: str,
) -> None:
    """A file may not grow, which SQLite calls a disk I/O error."""

    def statvfs(where: Path) -> SimpleNamespace:
        assert where == path.parent
        return SimpleNamespace(f_bavail=free_blocks, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    assert opened._error(error).message == f"{path}: {problem}"


def test_what_is_no_database_is_explained(path: Path) -> None:
    path.write_bytes(b"this is not SQLite at all, and long enough to be looked at" * 100)
    broken = Database(path)
    with pytest.raises(StoreError) as caught:
        broken.query("SELECT 1")
    assert str(path) in str(caught.value)
    assert "only the build cache is lost" in caught.value.hint
    assert broken.problems(quick=False)
    broken.close()


def test_a_damaged_page_is_found(path: Path) -> None:
    made = Database(path)
    made.write((PUT, ("k", str(number), b"x" * 500, "")) for number in range(500))
    made.close()
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data), 4096):
        data[at : at + 16] = b"\xff" * 16
    path.write_bytes(data)

    broken = Database(path)
    assert broken.problems(quick=True)
    assert broken.problems(quick=False)
    broken.close()


@pytest.mark.parametrize("at", [0, 20, 5000, -1000])
def test_a_damaged_database_gives_way_to_an_empty_one(path: Path, at: int) -> None:
    whole = Database(path)
    whole.write([(PUT, ("k", f"{number}", b"x" * 500, "")) for number in range(100)])
    whole.close()
    flip(path, at)
    path.write_bytes(path.read_bytes()[:-5000])
    names = iter(range(10))
    opened = Database(path, lambda prefix: path.with_name(f"{prefix}{next(names)}"))
    try:
        opened.write([(PUT, ("k", "new", b"", ""))])
        assert "new" in keys(opened)
        assert opened.query("PRAGMA integrity_check") == [("ok",)]
    finally:
        opened.close()


def test_one_that_another_process_made_anew_is_left_alone(path: Path) -> None:
    first = Database(path, lambda prefix: path.with_name(prefix))
    first.write([(PUT, ("k", "lost", b"", ""))])
    path.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    second = Database(path)
    second.write([(PUT, ("k", "kept", b"", ""))])
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    assert first._begin_anew(error)
    assert keys(first) == ["kept"]
    first.close()
    second.close()


def test_who_looks_for_damage_leaves_it(path: Path) -> None:
    whole = Database(path)
    whole.write([])
    whole.close()
    path.write_bytes(b"no database" * 1000)
    opened = Database(path, lambda prefix: path.with_name(prefix))
    assert opened.problems(quick=False) == [f"{path}: file is not a database"]
    with pytest.raises(StoreError):
        opened.query("SELECT 1")
    opened.close()
    assert path.read_bytes().startswith(b"no database")


def test_a_later_version_is_refused(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreError, match="later version") as caught:
        Database(path).query("SELECT 1")
    assert "only a cache" in caught.value.hint


def test_a_file_that_cannot_be_written_says_why(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError) as caught:
        Database(path).query("SELECT 1")
    assert caught.value.message == f"{path}: Is a directory"


def test_an_earlier_version_is_emptied(path: Path) -> None:
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE memos (old); INSERT INTO memos VALUES (1)")
    other.execute("PRAGMA user_version = 1")
    other.close()
    made = Database(path)
    assert keys(made) == []
    made.write([(PUT, ("k", "a", b"", ""))])
    made.close()


def test_closing_twice_and_using_again_is_fine(opened: Database) -> None:
    opened.close()
    opened.write([(PUT, ("k", "a", b"", ""))])
    opened.close()
    opened.close()
    assert keys(opened) == ["a"]


def test_two_processes_may_make_it_at_once(path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from layerstore.database import Database
database = Database(Path(sys.argv[1]))
for number in range(20):
    database.write([({PUT!r}, ("k", f"{{sys.argv[2]}} {{number}}", b"", ""))])
database.close()
"""
    processes = [start(program, path, name) for name in "abc"]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    made = Database(path)
    assert len(keys(made)) == 60
    made.close()


def test_a_checksum_tells_values_and_their_places_apart() -> None:
    assert checksum("a", "b") == checksum("a", "b")
    others = [("a", "c"), ("ab",), ("b", "a"), ("a", b"b"), ("a", "b", None), (1.0,), (1,), ("1",)]
    assert len({checksum(*values) for values in others} | {checksum("a", "b")}) == len(others) + 1


def test_a_checksum_takes_names_that_are_not_utf8() -> None:
    assert checksum("\udcff") != checksum("\udcfe")
