"""Cache mounts: who waits for whom, who gets a directory of their own, and what prune may take."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import Store, prune, usage
from layerstore.cachemounts import CacheMounts, Sharing
from tests.support.stores import kill, start, wait_for

KEY = "0123456789abcdef" * 4
HOLDER = """
import sys, time
from pathlib import Path
from layerstore import Store
with Store.open(Path(sys.argv[1])) as store:
    with store.cache_mounts.hold(sys.argv[2], sys.argv[3], fill=lambda path: None) as path:
        Path(sys.argv[4]).write_text(str(path))
        time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def mounts(store: Store) -> CacheMounts:
    return store.cache_mounts


def nothing(path: Path) -> None:
    pass


def unexpected() -> None:
    raise AssertionError("nobody has to be waited for")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def held_by_another(
    tmp_path: Path, sharing: Sharing, said: Path | None = None
) -> Callable[[], None]:
    """Another process that holds the cache; call the result to end it."""
    said = said or tmp_path / "said"
    process = start(HOLDER, tmp_path / "store", KEY, sharing, said)
    wait_for(lambda: said.exists() and said.read_text() != "")
    return lambda: kill(process)


def test_what_was_written_is_there_the_next_time(mounts: CacheMounts) -> None:
    with mounts.hold(KEY, "shared", fill=nothing, waiting=unexpected) as path:
        (path / "file").write_text("kept")
        assert path.stat().st_mode & 0o777 == 0o755
    with mounts.hold(KEY, "locked", fill=nothing, waiting=unexpected) as again:
        assert again == path
        assert (again / "file").read_text() == "kept"


def test_another_key_is_another_directory(mounts: CacheMounts) -> None:
    with (
        mounts.hold(KEY, "locked", fill=nothing) as one,
        mounts.hold(KEY[::-1], "locked", fill=nothing, waiting=unexpected) as other,
    ):
        assert one != other


def test_a_new_one_is_filled_once(mounts: CacheMounts) -> None:
    def fill(path: Path) -> None:
        (path / "initial").touch()

    with mounts.hold(KEY, "shared", fill=fill) as path:
        (path / "initial").unlink()
    with mounts.hold(KEY, "shared", fill=fill) as path:
        assert list(path.iterdir()) == []


def test_one_that_cannot_be_filled_is_not_there(mounts: CacheMounts, store: Store) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), mounts.hold(KEY, "shared", fill=fail):
        raise AssertionError("it was not filled")
    assert mounts.paths() == []
    assert not list(store.lease().path.glob("cachemount*"))


def test_sharers_use_one_directory_at_a_time(mounts: CacheMounts) -> None:
    with (
        mounts.hold(KEY, "shared", fill=nothing) as one,
        mounts.hold(KEY, "shared", fill=nothing, waiting=unexpected) as other,
    ):
        assert one == other


def test_private_users_get_the_first_that_is_free(mounts: CacheMounts) -> None:
    with (
        mounts.hold(KEY, "private", fill=nothing) as one,
        mounts.hold(KEY, "private", fill=nothing, waiting=unexpected) as two,
        mounts.hold(KEY, "private", fill=nothing, waiting=unexpected) as three,
    ):
        assert len({one, two, three}) == 3
    with mounts.hold(KEY, "private", fill=nothing) as again:
        assert again == one
    assert len(mounts.paths()) == 3


@pytest.mark.parametrize(
    ("theirs", "ours"), [("locked", "locked"), ("locked", "shared"), ("shared", "locked")]
)
def test_a_lock_is_waited_for(
    mounts: CacheMounts, tmp_path: Path, theirs: Sharing, ours: Sharing
) -> None:
    end = held_by_another(tmp_path, theirs)
    waited = []

    def waiting() -> None:
        waited.append(True)
        end()

    with mounts.hold(KEY, ours, fill=nothing, waiting=waiting) as path:
        assert str(path) == (tmp_path / "said").read_text()
    assert waited == [True]


def test_a_private_user_waits_for_nobody(mounts: CacheMounts, tmp_path: Path) -> None:
    end = held_by_another(tmp_path, "shared")
    with mounts.hold(KEY, "private", fill=nothing, waiting=unexpected) as path:
        assert str(path) != (tmp_path / "said").read_text()
    end()


def test_renewing_empties_it_unless_it_is_in_use(mounts: CacheMounts) -> None:
    with mounts.hold(KEY, "shared", fill=nothing) as path:
        (path / "old").touch()
        with mounts.hold(KEY, "shared", fill=nothing, renew=True) as same:
            assert (same / "old").exists()
    with mounts.hold(KEY, "shared", fill=nothing, renew=True) as fresh:
        assert list(fresh.iterdir()) == []
    assert len(mounts.paths()) == 1


def test_two_that_begin_at_once_agree_on_one(mounts: CacheMounts) -> None:
    def beaten(path: Path) -> None:
        if not mounts.paths():
            with mounts.hold(KEY, "shared", fill=nothing) as winner:
                (winner / "theirs").touch()

    with mounts.hold(KEY, "shared", fill=beaten) as path:
        assert [each.name for each in path.iterdir()] == ["theirs"]


def test_who_waited_for_one_that_is_pruned_begins_anew(
    mounts: CacheMounts, store: Store, tmp_path: Path
) -> None:
    end = held_by_another(tmp_path, "locked")

    def waiting() -> None:
        mounts.paths()[0].rename(tmp_path / "gone")
        end()

    with mounts.hold(KEY, "locked", fill=nothing, waiting=waiting) as path:
        (path / "new").touch()
    assert mounts.paths() == [path.parent]


@pytest.mark.parametrize("cache", ["unused", "all"])
def test_prune_takes_what_nobody_uses(store: Store, mounts: CacheMounts, cache: str) -> None:
    with mounts.hold(KEY, "shared", fill=nothing) as used:
        with mounts.hold(KEY[::-1], "shared", fill=nothing) as unused:
            (unused / "file").write_bytes(b"x" * 100_000)
        store.flush()
        planned = prune(store, cache=cache, dry_run=True)  # type: ignore[arg-type]
        assert (planned.cache_mounts, unused.exists()) == (1, True)
        pruned = prune(store, cache=cache)  # type: ignore[arg-type]
        assert pruned.cache_mounts == 1
        assert pruned.freed_bytes == planned.freed_bytes > 100_000
        assert used.exists()
        assert not unused.exists()
    assert prune(store, cache=cache).cache_mounts == 1  # type: ignore[arg-type]
    assert mounts.paths() == []


def test_pruning_images_takes_none(store: Store, mounts: CacheMounts) -> None:
    with mounts.hold(KEY, "shared", fill=nothing):
        pass
    store.flush()
    assert prune(store, images="unused").cache_mounts == 0
    assert len(mounts.paths()) == 1


def test_they_are_measured_as_build_cache(store: Store, mounts: CacheMounts) -> None:
    before = usage(store)
    with mounts.hold(KEY, "shared", fill=nothing) as path:
        (path / "file").write_bytes(b"x" * 100_000)
        busy = usage(store)
    free = usage(store)
    assert (before.cache_mounts, busy.cache_mounts, free.cache_mounts) == (0, 1, 1)
    assert busy.cache_bytes - before.cache_bytes > 100_000
    assert busy.cache_reclaimable_bytes == before.cache_reclaimable_bytes
    assert free.cache_reclaimable_bytes == free.cache_bytes


def test_a_store_from_before_there_were_any_has_none(mounts: CacheMounts) -> None:
    assert mounts.paths() == mounts.unused() == []


def test_nothing_stays_open(mounts: CacheMounts) -> None:
    with mounts.hold(KEY, "shared", fill=nothing):
        pass
    before = descriptors()
    for sharing in ("shared", "locked", "private"):
        with mounts.hold(KEY, sharing, fill=nothing, renew=True):
            pass
    assert mounts.unused() == mounts.paths()
    assert descriptors() == before
