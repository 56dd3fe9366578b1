"""Cache mounts: who excludes whom, who gets a directory of their own, what prune may take."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from layerstore import CacheMounts, Store, prune, usage
from layerstore.cachemounts import Sharing
from layerstore.collect import CacheChoice
from layerstore.errors import StoreBusyError
from tests.support.stores import hold_mount, kill

KEY = "0123456789abcdef" * 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def mounts(store: Store) -> CacheMounts:
    return store.cache_mounts


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Holds what is taken in a test."""
    with ExitStack() as held:
        yield held


def nothing(path: Path) -> None:
    pass


def take(mounts: CacheMounts, held: ExitStack, sharing: Sharing = "shared", key: str = KEY) -> Path:
    """The directory, which nobody keeps us from."""
    found = mounts.hold(key, sharing, nothing)
    assert found is not None
    return held.enter_context(found).path


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_was_written_is_there_the_next_time(mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        path = take(mounts, held)
        (path / "file").write_text("kept")
        assert path.stat().st_mode & 0o777 == 0o755
    assert take(mounts, held, "locked") == path
    assert (path / "file").read_text() == "kept"


def test_another_key_is_another_directory(mounts: CacheMounts, held: ExitStack) -> None:
    assert take(mounts, held, "locked") != take(mounts, held, "locked", KEY[::-1])


def test_a_new_one_is_filled_once(mounts: CacheMounts) -> None:
    def fill(path: Path) -> None:
        (path / "initial").touch()

    for expected in (["initial"], []):
        found = mounts.hold(KEY, "shared", fill)
        assert found is not None
        with found:
            assert [each.name for each in found.path.iterdir()] == expected
            for each in found.path.iterdir():
                each.unlink()


def test_one_that_cannot_be_filled_is_not_there(mounts: CacheMounts, store: Store) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        mounts.hold(KEY, "shared", fail)
    assert mounts.paths() == []
    assert not list(store.lease().path.glob("cachemount*"))


def test_two_that_begin_at_once_agree_on_one(mounts: CacheMounts, store: Store) -> None:
    def beaten(path: Path) -> None:
        winner = mounts.hold(KEY, "shared", nothing)
        assert winner is not None
        with winner:
            (winner.path / "theirs").touch()

    found = mounts.hold(KEY, "shared", beaten)
    assert found is not None
    with found:
        assert [each.name for each in found.path.iterdir()] == ["theirs"]
    assert not list(store.lease().path.glob("cachemount*"))


def test_sharers_use_one_directory_at_a_time(mounts: CacheMounts, held: ExitStack) -> None:
    assert take(mounts, held) == take(mounts, held)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("locked", "locked"), ("locked", "shared"), ("shared", "locked")]
)
def test_a_lock_excludes_others(
    mounts: CacheMounts, held: ExitStack, theirs: Sharing, ours: Sharing
) -> None:
    with held:
        path = take(mounts, held, theirs)
        assert mounts.hold(KEY, ours, nothing) is None
    assert take(mounts, held, ours) == path


def test_private_users_get_the_first_that_is_free(mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        first, *others = (take(mounts, held, "private") for _ in range(3))
        assert len({first, *others}) == 3
    assert take(mounts, held, "private") == first
    assert len(mounts.paths()) == 3


def test_processes_exclude_one_another_until_they_die(
    mounts: CacheMounts, held: ExitStack, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    process = hold_mount(tmp_path / "store", KEY, "locked", said)
    assert mounts.hold(KEY, "shared", nothing) is None
    assert str(take(mounts, held, "private")) != said.read_text()
    kill(process)
    assert str(take(mounts, held, "locked")) == said.read_text()


def test_discarding_empties_it_unless_it_is_in_use(mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        path = take(mounts, held)
        (path / "old").touch()
        mounts.discard(KEY)
        assert (path / "old").exists()
    mounts.discard(KEY)
    assert list(take(mounts, held).iterdir()) == []
    assert len(mounts.paths()) == 1
    mounts.discard(KEY[::-1])  # there is none


@pytest.mark.parametrize("cache", ["unused", "all"])
def test_prune_takes_what_nobody_uses(
    store: Store, mounts: CacheMounts, held: ExitStack, cache: CacheChoice
) -> None:
    with held:
        used = take(mounts, held)
        with ExitStack() as shortly:
            unused = take(mounts, shortly, key=KEY[::-1])
            (unused / "file").write_bytes(b"x" * 100_000)
        store.flush()
        planned = prune(store, cache=cache, dry_run=True)
        assert (planned.cache_mounts, unused.exists()) == (1, True)
        pruned = prune(store, cache=cache)
        assert pruned.cache_mounts == 1
        assert pruned.freed_bytes == planned.freed_bytes > 100_000
        assert used.exists()
        assert not unused.exists()
    assert prune(store, cache=cache).cache_mounts == 1
    assert mounts.paths() == []


def test_pruning_images_takes_none(store: Store, mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        take(mounts, held)
    store.flush()
    assert prune(store, images="unused").cache_mounts == 0
    assert len(mounts.paths()) == 1


def test_they_are_measured_as_build_cache(
    store: Store, mounts: CacheMounts, held: ExitStack
) -> None:
    before = usage(store)
    with held:
        (take(mounts, held) / "file").write_bytes(b"x" * 100_000)
        busy = usage(store)
    free = usage(store)
    assert (before.cache_mounts, busy.cache_mounts, free.cache_mounts) == (0, 1, 1)
    assert busy.cache_bytes - before.cache_bytes > 100_000
    assert busy.cache_reclaimable_bytes == before.cache_reclaimable_bytes
    assert free.cache_reclaimable_bytes == free.cache_bytes


class Source:
    """A MountSource that leaves a file in what it is to fill, and may then have failed."""

    def __init__(self, name: str, *, succeeds: bool = True) -> None:
        self.name = name
        self.succeeds = succeeds
        self.asked: list[str] = []

    def fill(self, key: str, directory: Path) -> bool:
        assert list(directory.iterdir()) == []
        self.asked.append(key)
        (directory / self.name).touch()
        directory.chmod(0o700)
        return self.succeeds

    def copy(self, key: str, layout: object) -> bytes | None:
        raise AssertionError("nothing is exported here")


def names(mounts: CacheMounts, *, is_anew: bool = False) -> list[str]:
    """What is in the mount when its user gets it."""
    found = mounts.hold(KEY, "shared", lambda path: (path / "own").touch(), is_anew=is_anew)
    assert found is not None
    with found:
        return [path.name for path in found.path.iterdir()]


def test_a_new_one_has_what_the_first_source_knows(mounts: CacheMounts, store: Store) -> None:
    sources = [Source("bad", succeeds=False), Source("good"), Source("late")]
    for source in sources:
        mounts.add_source(source)
    assert names(mounts) == ["good"]
    assert names(mounts) == ["good"]
    assert [source.asked for source in sources] == [[KEY], [KEY], []]
    assert not list(store.lease().path.glob("cachemount*"))


def test_a_source_that_fails_leaves_nothing(mounts: CacheMounts) -> None:
    mounts.add_source(Source("bad", succeeds=False))
    assert names(mounts) == ["own"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in mounts.paths()[0].iterdir()] == [0o755]


def test_one_that_is_made_anew_asks_no_source(mounts: CacheMounts) -> None:
    source = Source("old")
    mounts.add_source(source)
    assert names(mounts, is_anew=True) == ["own"]
    mounts.discard(KEY)
    assert names(mounts) == ["old"]


def test_who_borrows_one_is_alone_with_it(mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        path = take(mounts, held)
    borrowed = mounts.borrow(KEY, wait_s=0)
    assert borrowed is not None
    with borrowed:
        assert borrowed.path == path
        assert mounts.hold(KEY, "shared", nothing) is None
    assert take(mounts, held) == path


def test_one_that_is_not_there_is_not_made_to_be_borrowed(mounts: CacheMounts) -> None:
    assert mounts.borrow(KEY, wait_s=60) is None
    assert mounts.paths() == []


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_who_borrows_waits_a_while(mounts: CacheMounts, held: ExitStack, sharing: Sharing) -> None:
    take(mounts, held, sharing)
    started = time.monotonic()
    with pytest.raises(StoreBusyError):
        mounts.borrow(KEY, wait_s=0.1)
    assert 0.1 <= time.monotonic() - started < 5


def test_who_borrows_gets_what_becomes_free(
    mounts: CacheMounts, store: Store, tmp_path: Path
) -> None:
    holder = hold_mount(store.root, KEY, "locked", tmp_path / "holds")
    os.kill(holder.pid, signal.SIGSTOP)  # the kernel keeps the lock of one that is stopped
    with pytest.raises(StoreBusyError):
        mounts.borrow(KEY, wait_s=0)
    kill(holder)
    borrowed = mounts.borrow(KEY, wait_s=30)
    assert borrowed is not None
    with borrowed:
        assert str(borrowed.path) == (tmp_path / "holds").read_text()


def test_a_store_from_before_there_were_any_has_none(mounts: CacheMounts) -> None:
    assert mounts.paths() == mounts.unused() == []


def test_nothing_stays_open(mounts: CacheMounts, held: ExitStack) -> None:
    with held:
        take(mounts, held)
    before = descriptors()
    for sharing in ("shared", "locked", "private"):
        with held:
            take(mounts, held, sharing)
            mounts.hold(KEY, "locked", nothing)
        mounts.discard(KEY)
    assert mounts.unused() == mounts.paths()
    assert descriptors() == before


def test_only_what_was_chosen_is_carried_off(
    mounts: CacheMounts, held: ExitStack, store: Store, tmp_path: Path
) -> None:
    with ExitStack() as before:
        one, two = (take(mounts, before, key=key).parent for key in (KEY, KEY[::-1]))
    trash = tmp_path / "store" / "lamina" / "tmp" / "trash"
    trash.mkdir()
    assert mounts.carry_off(trash, {two}) == 1
    assert mounts.paths() == [one]


def test_using_one_makes_it_young(mounts: CacheMounts) -> None:
    with ExitStack() as before:
        path = take(mounts, before).parent
    os.utime(path, (1, 1))
    with ExitStack() as again:
        take(mounts, again)
    assert time.time() - path.stat().st_mtime < 60
