"""Claims: one carries a step out, the others wait, but not for ever."""

import os
from pathlib import Path

import pytest

from layerstore import Digest, Store
from layerstore.claims import Claims
from layerstore.locks import lock_directory
from tests.support.stores import findings, kill, problems, start

KEY = Digest.of(b"key")
OTHER = Digest.of(b"other")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_first_has_it_until_it_gives_it_up(directory: Path) -> None:
    first, second = Claims(directory), Claims(directory)
    assert first.take(KEY)
    assert not second.take(KEY)
    assert first.held() == (KEY,)
    first.release([KEY])
    assert second.take(KEY)
    assert not first.take(KEY)


def test_one_process_has_no_claim_twice(directory: Path) -> None:
    first = Claims(directory)
    assert first.take(KEY)
    assert not first.take(KEY)


def test_keys_do_not_disturb_each_other(directory: Path) -> None:
    first, second = Claims(directory), Claims(directory)
    assert first.take(KEY)
    assert second.take(OTHER)
    assert names(directory) == sorted([KEY.hex, OTHER.hex])


def test_releasing_leaves_nothing_and_may_be_repeated(directory: Path) -> None:
    first = Claims(directory)
    first.take(KEY)
    first.release([KEY, OTHER])
    first.release([KEY])
    assert names(directory) == []
    assert first.held() == ()


def test_a_claim_given_up_between_looking_and_locking_is_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another removed the directory after it was made here and before it was locked."""
    real = lock_directory
    gone: list[Path] = []

    def lock(path: Path) -> int | None:
        if not gone:
            gone.append(path)
            path.rmdir()
            return None
        return real(path)

    monkeypatch.setattr("layerstore.claims.lock_directory", lock)
    assert Claims(directory).take(KEY)
    assert gone


HOLDER = """
import sys, time
from pathlib import Path
from layerstore import Digest, Store
store = Store.open(Path(sys.argv[1]))
store.lease()
store.claims.take(Digest.of(b"key"))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_the_claim_of_a_dead_process_is_free_and_swept(store: Store) -> None:
    process = start(HOLDER, store.root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"claimed\n"
    assert not store.claims.take(KEY)
    kill(process)
    assert store.claims.take(KEY)
    store.claims.release([KEY])

    process = start(HOLDER, store.root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"claimed\n"
    kill(process)
    assert names(store.private / "claims") == [KEY.hex]
    Store.open(store.root).close()
    assert names(store.private / "claims") == []


def test_the_living_are_not_swept(store: Store) -> None:
    store.claims.take(KEY)
    with Store.open(store.root) as other:
        other.claims.sweep()
        assert not other.claims.take(KEY)
    assert names(store.private / "claims") == [KEY.hex]
    assert problems(store.root) == []


def test_sweeping_where_there_is_nothing_is_fine(directory: Path) -> None:
    Claims(directory).sweep()
    assert not directory.exists()


def test_closing_a_store_gives_up_its_claims(store: Store) -> None:
    with Store.open(store.root) as other:
        other.claims.take(KEY)
    assert store.claims.take(KEY)
    assert findings(store) == []


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("layerstore.claims.time.monotonic", lambda: self.now)


def test_who_shows_no_life_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first, second = Claims(directory), Claims(directory)
    first.take(KEY)
    waiting = second.waiting(KEY)
    for _ in range(10):
        clock.now += 20
        first.show_life()
        assert not waiting.is_in_vain()
    clock.now += 20
    assert not waiting.is_in_vain()
    clock.now += 20
    assert waiting.is_in_vain()


def test_nobody_is_waited_for_for_ever(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was stopped, under a build that is alive and well."""
    clock = Clock(monkeypatch)
    first, second = Claims(directory), Claims(directory)
    first.take(KEY)
    waiting = second.waiting(KEY)
    waited_s = 0
    while not waiting.is_in_vain():
        clock.now += 10
        waited_s += 10
        first.show_life()
    assert 600 <= waited_s <= 620


def test_signs_of_life_are_cheap(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Claims(directory)
    first.take(KEY)
    calls: list[int] = []
    real = os.utime

    def utime(fd: int) -> None:
        calls.append(fd)
        real(fd)

    monkeypatch.setattr(os, "utime", utime)
    for _ in range(100):
        clock.now += 0.1
        first.show_life()
    assert 4 <= len(calls) <= 6


def test_a_clock_that_was_set_back_changes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first, second = Claims(directory), Claims(directory)
    first.take(KEY)
    os.utime(directory / KEY.hex, (4_000_000_000, 4_000_000_000))
    waiting = second.waiting(KEY)
    clock.now += 25
    first.show_life()
    clock.now += 25
    assert not waiting.is_in_vain()


def test_a_claim_that_is_gone_ends_the_waiting_soon(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    second = Claims(directory)
    waiting = second.waiting(KEY)
    clock.now += 31
    assert waiting.is_in_vain()
