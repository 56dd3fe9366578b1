"""Locks between threads of control that are really different processes."""

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import locks
from layerstore.digest import Digest
from layerstore.errors import StoreBusyError
from layerstore.locks import Lease, StoreLock, read_uses
from tests.support.stores import kill, start

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")

HOLD_LOCK = """
import sys
from pathlib import Path
from layerstore.locks import StoreLock
lock = StoreLock(Path(sys.argv[1]))
with getattr(lock, sys.argv[2])():
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_LEASE = """
import sys
from pathlib import Path
from layerstore.digest import Digest
from layerstore.locks import Lease, StoreLock
lease = Lease.take(Path(sys.argv[1]), StoreLock(Path(sys.argv[2])))
lease.hold([Digest(text) for text in sys.argv[3:]])
(lease.new_path("file")).write_text("half a blob")
print(lease.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> StoreLock:
    return StoreLock(tmp_path / "lock")


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_WAIT_S_MAX", 0.1)


@pytest.fixture
def lease(tmp: Path, lock: StoreLock) -> Iterator[Lease]:
    lease = Lease.take(tmp, lock)
    yield lease
    if lease.path.exists():
        lease.release()


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("shared", "shared", True),
        ("shared", "exclusive", False),
        ("exclusive", "shared", False),
        ("exclusive", "exclusive", False),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_who_may_hold_the_lock_together(
    tmp_path: Path, lock: StoreLock, first: str, second: str, both: bool
) -> None:
    process = start(HOLD_LOCK, tmp_path / "lock", first)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        if both:
            with getattr(lock, second)():
                pass
        else:
            with pytest.raises(StoreBusyError, match="lock"), getattr(lock, second)():
                pass
    finally:
        kill(process)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, lock: StoreLock) -> None:
    process = start(HOLD_LOCK, tmp_path / "lock", "exclusive")
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    kill(process)
    with lock.exclusive():
        pass


def test_one_waits_for_the_other(lock: StoreLock) -> None:
    order = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with lock.exclusive():
            order.append("second")

    thread = threading.Thread(target=second)
    with lock.exclusive():
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_error_inside_frees_the_lock(lock: StoreLock) -> None:
    with pytest.raises(KeyError), lock.exclusive():
        raise KeyError
    with lock.exclusive():
        pass


@pytest.mark.usefixtures("impatient")
def test_giving_up_leaves_no_descriptor(lock: StoreLock) -> None:
    with lock.exclusive():
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(StoreBusyError) as caught, lock.shared():
            pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert "stopped" in caught.value.hint


def test_a_lease_is_a_private_directory(lease: Lease, tmp: Path) -> None:
    assert lease.path.parent == tmp
    assert lease.path.stat().st_mode & 0o777 == 0o700


def test_paths_of_a_lease_are_all_different(lease: Lease) -> None:
    paths = [lease.new_path("a"), lease.new_path("a"), lease.new_path("b")]
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {lease.path}


def test_what_is_held_can_be_read_by_others(lease: Lease) -> None:
    assert read_uses(lease.path) == set()
    lease.hold([ONE])
    lease.hold([ONE, TWO])
    assert read_uses(lease.path) == {ONE, TWO}


def test_holding_the_same_again_writes_nothing(lease: Lease) -> None:
    lease.hold([ONE])
    size = (lease.path / "uses").stat().st_size
    lease.hold([ONE])
    lease.hold([])
    assert (lease.path / "uses").stat().st_size == size


def test_a_half_written_note_is_left_out(lease: Lease) -> None:
    lease.hold([ONE])
    with (lease.path / "uses").open("a") as file:
        file.write(TWO[:30])
    assert read_uses(lease.path) == {ONE}


def test_the_uses_of_a_lease_that_is_gone_are_none(tmp: Path) -> None:
    assert read_uses(tmp / "gone") == set()


def test_release_removes_everything(lease: Lease, tmp: Path) -> None:
    lease.hold([ONE])
    directory = lease.new_path("dir")
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "file").write_text("x")
    lease.release()
    assert list(tmp.iterdir()) == []


def test_release_of_an_empty_lease_is_cheap_and_complete(lease: Lease, tmp: Path) -> None:
    lease.hold([ONE])
    lease.release()
    assert list(tmp.iterdir()) == []


def test_a_forked_child_leaves_the_lease_to_its_parent(lease: Lease) -> None:
    lease.hold([ONE])
    child = os.fork()
    if child == 0:
        lease.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert read_uses(lease.path) == {ONE}
    lease.release()
    assert not lease.path.exists()


def test_a_living_lease_cannot_be_seized(tmp: Path, tmp_path: Path, lock: StoreLock) -> None:
    process = start(HOLD_LEASE, tmp, tmp_path / "lock", ONE)
    assert process.stdout is not None
    path = Path(process.stdout.readline().decode().strip())
    try:
        assert Lease.seize(path, lock) is None
        assert read_uses(path) == {ONE}
    finally:
        kill(process)


def test_a_dead_lease_is_seized_and_removed(tmp: Path, tmp_path: Path, lock: StoreLock) -> None:
    process = start(HOLD_LEASE, tmp, tmp_path / "lock", ONE, TWO)
    assert process.stdout is not None
    path = Path(process.stdout.readline().decode().strip())
    kill(process)

    lease = Lease.seize(path, lock)

    assert lease is not None
    assert read_uses(lease.path) == {ONE, TWO}
    assert Lease.seize(path, lock) is None, "only one may sweep it"
    lease.release()
    assert list(tmp.iterdir()) == []


def test_what_is_no_lease_is_not_seized(tmp: Path, lock: StoreLock) -> None:
    (tmp / "file").touch()
    (tmp / "link").symlink_to(tmp)
    for name in ("file", "link", "missing"):
        assert Lease.seize(tmp / name, lock) is None


def test_a_lease_swept_between_making_and_locking_is_made_anew(
    tmp: Path, lock: StoreLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper sees the directory first: it locks it, then removes it."""
    real = locks.lock_directory
    rounds = []

    def swept_first(path: Path) -> int | None:
        rounds.append(path)
        if len(rounds) == 1:  # another process holds it already
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                return real(path)
            finally:
                os.close(fd)
        if len(rounds) == 2:  # it has just been removed
            path.rmdir()
        return real(path)

    monkeypatch.setattr(locks, "lock_directory", swept_first)
    lease = Lease.take(tmp, lock)
    assert len(rounds) == 3
    assert lease.path == rounds[2]
    lease.release()


@pytest.mark.usefixtures("impatient")
def test_holding_waits_for_whoever_collects(lease: Lease, lock: StoreLock) -> None:
    with lock.exclusive(), pytest.raises(StoreBusyError):
        lease.hold([ONE])
    assert read_uses(lease.path) == set()
    lease.hold([ONE])
    assert read_uses(lease.path) == {ONE}


def test_shared_locks_of_a_directory_go_together_and_exclusive_ones_do_not(tmp: Path) -> None:
    first = locks.lock_directory(tmp, exclusive=False)
    second = locks.lock_directory(tmp, exclusive=False)
    assert first is not None
    assert second is not None
    assert locks.lock_directory(tmp) is None
    os.close(first)
    os.close(second)
    alone = locks.lock_directory(tmp)
    assert alone is not None
    assert locks.lock_directory(tmp, exclusive=False) is None
    os.close(alone)


def test_a_directory_is_waited_for_and_not_for_ever(tmp: Path) -> None:
    held = locks.await_directory(tmp, wait_s=0)
    with pytest.raises(StoreBusyError) as caught:
        locks.await_directory(tmp, wait_s=0.05)
    assert "try again" in caught.value.hint
    later = threading.Timer(0.1, locks.unlock, [held])
    later.start()
    locks.unlock(locks.await_directory(tmp, wait_s=10))
    later.join()


def test_unlocking_frees_it_whoever_has_inherited_the_descriptor(tmp: Path) -> None:
    held = locks.await_directory(tmp, wait_s=0)
    inherited = os.dup(held)
    locks.unlock(held)
    locks.unlock(locks.await_directory(tmp, wait_s=0))
    os.close(inherited)
