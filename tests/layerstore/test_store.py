"""The store as a whole: opening, flushing, and what is left when a process dies."""

import errno
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import (
    Digest,
    Layer,
    Reference,
    Store,
    default_root,
    overlay_changes,
)
from layerstore.errors import NotFoundError, StoreError
from layerstore.locks import Lease, read_uses
from tests.support.stores import (
    cached_step,
    findings,
    flip,
    kill,
    make_image,
    make_layer,
    problems,
    puts,
    run,
    seal,
    start,
)
from tests.support.waiting import wait_until


def leftovers(root: Path) -> list[str]:
    """Everything temporary."""
    return sorted(path.name for path in (root / "lamina" / "tmp").iterdir())


def tree(root: Path) -> set[str]:
    """All names below `root` but those of SQLite's own files, and of the reserve."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {n for n in found if not n.startswith(("lamina/cache.db", "lamina/reserve"))}


def paths_of(layer: Layer) -> set[str]:
    """The files of a layer, and what is in its checkout."""
    checkout = f"lamina/snapshots/{layer.diff_id.hex[:32]}"
    return {
        f"blobs/sha256/{layer.descriptor.digest.hex}",
        f"lamina/toc/{layer.diff_id.hex}",
        checkout,
        *(f"{checkout}/f{number}" for number in range(20)),
    }


# ---- opening


def test_a_new_store_is_an_oci_layout_of_its_owner_alone(store: Store) -> None:
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_bytes())["manifests"] == []
    assert (store.root / "blobs" / "sha256").is_dir()
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert findings(store) == []


def test_opening_again_changes_nothing(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    store.close()
    before = tree(store.root)
    Store.open(store.root).close()
    assert tree(store.root) == before


def test_a_missing_parent_is_made(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a" / "b") as store:
        assert store.root == tmp_path / "a" / "b"


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(Path("here")) as store:
        assert store.root == tmp_path / "here"


@pytest.mark.parametrize("name", ["notes.txt", ".bashrc", "lost+found"])
def test_a_directory_with_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    mode = tmp_path.stat().st_mode
    with pytest.raises(StoreError, match="no store") as caught:
        Store.open(tmp_path)
    assert "--root" in caught.value.hint
    assert tmp_path.stat().st_mode == mode
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plain_oci_layout_becomes_a_store(store: Store, tmp_path: Path) -> None:
    image = make_image(store, "app", {"a": b"1"})
    layout = tmp_path / "layout"
    for name in ("oci-layout", "index.json", "blobs/sha256"):
        source = store.root / name
        for path in [source] if source.is_file() else source.iterdir():
            target = layout / path.relative_to(store.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    with Store.open(layout) as other:
        assert other.images.resolve("app") == image
        assert findings(other) == []


def test_a_store_of_another_version_is_refused(store: Store) -> None:
    store.close()
    (store.private / "version").write_text("99\n")
    with pytest.raises(StoreError, match="version '99'"):
        Store.open(store.root)


@pytest.mark.parametrize("data", [b"q\n", b"1J", b"", b"1"])
def test_a_damaged_version_is_written_anew(store: Store, data: bytes) -> None:
    image = make_image(store, "app", {"a": b"1"})
    store.close()
    (store.private / "version").write_bytes(data)
    with Store.open(store.root) as again:
        assert again.images.resolve("app") == image
    assert (store.private / "version").read_bytes() == b"1\n"


def test_a_damaged_layout_file_is_written_anew_with_the_next_name(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    flip(store.root / "oci-layout")
    assert [finding.key for finding in findings(store)] == ["oci-layout"]
    make_image(store, "other", {"a": b"2"})
    assert findings(store) == []


def test_a_store_whose_making_was_interrupted_is_completed(store: Store) -> None:
    store.close()
    (store.private / "version").unlink()
    (store.root / "index.json").unlink()
    with Store.open(store.root) as again:
        make_image(again, "app", {"a": b"1"})
        assert findings(again) == []


def test_many_processes_may_make_it_at_once(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from layerstore import Reference, Store
from tests.support.stores import make_image
with Store.open(Path(sys.argv[1])) as store:
    make_image(store, sys.argv[2], {"a": sys.argv[2].encode()})
"""
    processes = [start(program, tmp_path / "store", name) for name in ("one", "two", "three")]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    with Store.open(tmp_path / "store") as store:
        assert len(store.images.list()) == 3
        assert findings(store) == []


def test_the_default_place_depends_on_environment_and_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LAMINA_ROOT", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == Path("/var/lib/lamina")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_root() == Path("/home/ann/.local/share/lamina")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/lamina")
    monkeypatch.setenv("LAMINA_ROOT", "/elsewhere")
    assert default_root() == Path("/elsewhere")


def test_opening_is_quick(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    times = []
    for _ in range(20):
        started = time.perf_counter()
        Store.open(store.root).close()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.002


# ---- one boot


def test_checkouts_of_another_boot_are_dropped_and_made_again(store: Store) -> None:
    layer = make_layer(store, {"a": b"1"})
    store.layers.checkout(layer)
    store.flush()
    store.close()
    (store.private / "boot").write_text("another boot\n")

    with Store.open(store.root) as again:
        assert not again.layers.snapshot_path(layer.diff_id).exists()
        assert (again.layers.checkout(layer) / "a").read_bytes() == b"1"
    assert leftovers(store.root) == []
    with Store.open(store.root) as third:
        assert third.layers.snapshot_path(layer.diff_id).exists()


def test_checkouts_of_this_boot_stay(store: Store) -> None:
    layer = make_layer(store, {"a": b"1"})
    store.layers.checkout(layer)
    store.flush()
    with Store.open(store.root) as other:
        assert other.layers.snapshot_path(layer.diff_id).exists()


# ---- leaving


def test_leaving_in_peace_flushes(store_root: Path) -> None:
    with Store.open(store_root) as store:
        image = seal(store, [make_layer(store, {"a": b"1"})])
        store.images.tag(image, Reference.parse("app"))
    with Store.open(store_root) as store:
        assert store.images.resolve("app") == image


def test_leaving_by_an_error_forgets_what_was_not_flushed(store_root: Path) -> None:
    with pytest.raises(KeyError), Store.open(store_root) as store:
        image = seal(store, [make_layer(store, {"a": b"1"})])
        store.images.tag(image, Reference.parse("app"))
        raise KeyError
    with Store.open(store_root) as store:
        assert store.images.list() == []
        assert list(store.blobs.digests()) == []
    assert leftovers(store_root) == []


def test_nothing_is_visible_before_flush(store: Store) -> None:
    before = {path for path in store.root.rglob("*") if "tmp" not in path.parts}
    layer = make_layer(store, {"a": b"1"})
    image = seal(store, [layer])
    store.images.tag(image, Reference.parse("app"))
    store.cache.put(cached_step(b"k", layer), parent=None, variant="")
    after = {path for path in store.root.rglob("*") if "tmp" not in path.parts}
    assert {path.parent.name for path in after - before} <= {"toc", "lamina"}
    with Store.open(store.root) as other:
        assert other.images.list() == []
        assert other.cache.get(Digest.of(b"k")) is None
        assert list(other.layers.all()) == []


def test_flush_can_be_repeated_and_continued(store: Store) -> None:
    make_image(store, "one", {"a": b"1"})
    store.flush()
    make_image(store, "two", {"a": b"2"})
    store.flush()
    assert problems(store.root) == []


def test_a_failed_flush_can_be_repeated(store: Store) -> None:
    image = seal(store, [make_layer(store, {"a": b"1"})])
    store.images.tag(image, Reference.parse("app"))
    blobs = store.root / "blobs" / "sha256"
    blobs.rename(store.root / "blobs" / "away")
    with pytest.raises(OSError, match="No such file"):
        store.flush()
    (store.root / "blobs" / "away").rename(blobs)
    with Store.open(store.root) as other, pytest.raises(NotFoundError):
        other.images.resolve("app")
    store.flush()
    with Store.open(store.root) as other:
        assert other.images.resolve("app") == image


def test_closing_leaves_nothing_temporary(store_root: Path) -> None:
    store = Store.open(store_root)
    with store.new_tmpdir() as directory:
        (directory / "x").mkdir()
    make_layer(store, {"a": b"1"})
    store.close()
    assert leftovers(store_root) == []


def test_a_temporary_directory_goes_with_its_block(store: Store) -> None:
    before = os.umask(0o077)
    try:
        with store.new_tmpdir() as directory:
            assert directory.stat().st_mode & 0o777 == 0o755
            assert directory.stat().st_dev == store.root.stat().st_dev
            (directory / "deep" / "er").mkdir(parents=True)
    finally:
        os.umask(before)
    assert not directory.exists()
    with pytest.raises(KeyError), store.new_tmpdir() as other:
        raise KeyError
    assert not other.exists()


def test_the_number_of_fsyncs_is_small(store: Store, tmp_path: Path) -> None:
    """Ten layers, a config and a manifest: one for each blob and table, and a handful."""
    log = tmp_path / "fsyncs"
    run(
        """
import os, sys
from pathlib import Path
from layerstore import Reference, Store
from tests.support.stores import make_layer, seal
with Store.open(Path(sys.argv[1])) as store:
    layers = [make_layer(store, {"n": str(number).encode()}) for number in range(10)]
    image = seal(store, layers)
    store.images.tag(image, Reference.parse("app"))
    calls = []
    real = os.fsync
    os.fsync = lambda fd: (calls.append(fd), real(fd))[1]
    store.flush()
    Path(sys.argv[2]).write_text(str(len(calls)))
""",
        store.root,
        log,
    )
    assert int(log.read_text()) == 12 + 1 + 10 + 1 + 2 + 2


# ---- leases


def test_whoever_looks_something_up_holds_it(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    with Store.open(store.root) as other:
        other.images.resolve("app")
        held = read_uses(other.lease().path)
    layer = image.layers[0]
    assert held >= {
        image.descriptor.digest,
        image.id,
        layer.diff_id,
        layer.descriptor.digest,
    }


def test_a_lease_can_hold_more(store: Store) -> None:
    store.lease().hold([Digest.of(b"x")])
    assert Digest.of(b"x") in read_uses(store.lease().path)


def test_listing_images_holds_nothing(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    with Store.open(store.root) as other:
        other.images.list()
        assert (
            not list((store.private / "tmp").glob("*/uses"))
            or read_uses(other.lease().path) == set()
        )


# ---- death

WORK = """
import os, sys, time
from pathlib import Path
from layerstore import CachedStep, Digest, Reference, Store, overlay_changes
from tests.support.stores import make_layer, seal
root, seed = Path(sys.argv[1]), sys.argv[2]
with Store.open(root) as store:
    print("open", flush=True)
    layers = []
    for number in range(6):
        with store.new_tmpdir() as directory:
            upper = directory / "upper"
            upper.mkdir()
            for name in range(20):
                (upper / f"f{name}").write_bytes(f"{seed} {number} {name}".encode() * 500)
            layer = store.layers.commit(overlay_changes(upper), upperdir=upper)
        layers.append(layer)
        store.cache.put(
            CachedStep(key=Digest.of(f"{seed} {number}".encode()), diff_id=layer.diff_id,
                       created="", created_by="", seconds=0.0, document=b"d"),
            parent=None, variant="")
        if number % 2:
            store.flush()
            print("flushed", flush=True)
        if len(sys.argv) > 3 and number == int(sys.argv[3]):
            print("stopped", flush=True)
            sys.stdin.read()
    store.layers.lowerdirs(layers)
    image = seal(store, layers)
    store.images.tag(image, Reference.parse(f"app:{seed}"))
    store.images.tag(image, Reference.parse("app:latest"))
    store.flush()
    print("done", flush=True)
    sys.stdin.read()
"""


def duration_s(root: Path) -> float:
    """How long the work takes from the opening of the store."""
    process = start(WORK, root, "undisturbed")
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    started = time.monotonic()
    while process.stdout.readline() != b"done\n":
        pass
    taken = time.monotonic() - started
    process.communicate(timeout=60)
    return taken


@pytest.mark.needs_root
def test_verify_is_clean_after_kill(store_root: Path) -> None:
    taken_s = duration_s(store_root)
    chance = random.Random(5)
    for number in range(8):
        process = start(WORK, store_root, f"{number}")
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(chance.uniform(0, 1.1 * taken_s))
        kill(process)
        with Store.open(store_root) as store:
            assert findings(store) == [], f"killed in round {number}"
            for record in store.images.list():
                assert record.problem == ""
                image = store.images.resolve(record.id)
                for directory in store.layers.lowerdirs(image.layers):
                    assert len(list(directory.iterdir())) == 20


@pytest.mark.needs_root
@pytest.mark.parametrize(("stop", "flushed"), [(0, 0), (1, 2), (2, 2), (4, 4)])
def test_open_sweeps_what_the_dead_left(store_root: Path, stop: int, flushed: int) -> None:
    Store.open(store_root).close()
    before = tree(store_root)
    process = start(WORK, store_root, "x", str(stop))
    assert process.stdout is not None
    while process.stdout.readline() != b"stopped\n":
        pass
    kill(process)
    with Store.open(store_root) as store:
        layers = list(store.layers.all())
    assert len(layers) == flushed
    wanted = {path for layer in layers for path in paths_of(layer)}
    assert tree(store_root) - before == wanted, "what was flushed is all there is"


def test_a_checkout_without_a_row_is_swept(store_root: Path) -> None:
    """Killed between the commit of an upper directory and the flush."""
    process = start(
        """
import sys
from pathlib import Path
from layerstore import Store, overlay_changes
store = Store.open(Path(sys.argv[1]))
upper = store.lease().new_path("upper")
upper.mkdir()
(upper / "a").write_text("1")
store.layers.commit(overlay_changes(upper), upperdir=upper)
store.blobs.sync()
print("committed", flush=True)
sys.stdin.read()
""",
        store_root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"committed\n"
    kill(process)
    places = ("lamina/snapshots", "lamina/toc", "blobs/sha256", "lamina/tmp")
    assert all(list((store_root / place).iterdir()) for place in places)
    Store.open(store_root).close()
    assert not any(list((store_root / place).iterdir()) for place in places)


def test_the_sweep_leaves_what_others_share_with_the_dead(store: Store) -> None:
    """The dead looked up an image, and began a layer that a living process began as well."""
    image = make_image(store, "app", {"a": b"1"})
    shared = make_layer(store, {"shared": b"1"})
    store.layers.checkout(shared)
    process = start(
        """
import sys
from pathlib import Path
from layerstore import Store
from tests.support.stores import make_layer
store = Store.open(Path(sys.argv[1]))
store.images.resolve("app")
make_layer(store, {"shared": b"1"})
store.blobs.sync()
print("ready", flush=True)
sys.stdin.read()
""",
        store.root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    kill(process)

    Store.open(store.root).close()

    assert store.layers.snapshot_path(shared.diff_id).exists()
    assert store.layers.toc_path(shared.diff_id).exists()
    store.flush()
    with Store.open(store.root) as other:
        assert other.images.resolve("app") == image
        assert other.layers.get(shared.diff_id) == shared
        assert findings(other) == []


def test_the_living_are_not_swept(store: Store) -> None:
    with store.new_tmpdir() as directory:
        make_layer(store, {"a": b"1"})
        Store.open(store.root).close()
        assert directory.exists()
    store.flush()
    assert problems(store.root) == []


def test_a_damaged_index_does_not_keep_the_store_from_opening(store: Store) -> None:
    process = start(
        """
import sys
from pathlib import Path
from layerstore import Store
from tests.support.stores import make_layer
store = Store.open(Path(sys.argv[1]))
make_layer(store, {"a": b"1"})
print("ready", flush=True)
sys.stdin.read()
""",
        store.root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    kill(process)
    flip(store.root / "index.json", 0)
    store.close()
    with pytest.raises(StoreError), Store.open(store.root) as again:
        again.images.list()
    assert leftovers(store.root) == []


def test_two_sweepers_do_not_disturb_each_other(store_root: Path) -> None:
    store = Store.open(store_root)
    for _ in range(5):
        lease = Lease.take(store.tmp, store.lock)
        (lease.path / "file").write_text("x")
        os.close(lease._fd)  # as if its process had died
    store.close()
    program = "import sys; from pathlib import Path; from layerstore import Store\n"
    program += "Store.open(Path(sys.argv[1])).close()"
    processes = [start(program, store_root) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    wait_until(lambda: leftovers(store_root) == [], seconds=30)


# ---- failing I/O


class Faults:
    """Lets the n-th of the calls that change the disk fail, once."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, code: int) -> None:
        self.happened = False
        self._left = number
        self._code = code
        for name in ("write", "fsync", "rename", "mkdir", "open"):
            patch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            writes = real.__name__ != "open" or int(str(args[1])) & (os.O_WRONLY | os.O_CREAT)
            if writes and not self.happened:
                self._left -= 1
                if self._left == 0:
                    self.happened = True
                    raise OSError(self._code, os.strerror(self._code))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_failing_call_is_an_error_and_leaves_a_good_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The first call fails, then the second, and so on, until there is none left to fail."""
    old = make_image(store, "old", {"a": b"1"})
    store.close()
    for number in range(1, 200):
        with monkeypatch.context() as patch:
            faults = Faults(patch, number, code)
            failed = False
            try:
                with Store.open(store.root) as victim:
                    image = make_image(victim, f"new:{number}", {"n": str(number).encode()})
                    victim.layers.lowerdirs(image.layers)
            except (OSError, StoreError):
                failed = True
        if not faults.happened:
            break
        with Store.open(store.root) as fresh:
            assert findings(fresh) == [], f"call {number}"
            assert fresh.images.resolve("old") == old
            if not failed:
                assert fresh.images.resolve(f"new:{number}") == image
    assert 20 < number < 199
    assert leftovers(store.root) == []


@pytest.mark.parametrize("number", range(1, 8))
def test_an_image_has_no_name_until_all_is_synced(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Three blobs and their directory, a table and its directory, then index.json."""
    calls = []

    def failing(fd: int) -> None:
        calls.append(fd)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            make_image(store, "app", {"a": b"1"})
    with Store.open(store.root) as other, pytest.raises(NotFoundError):
        other.images.resolve("app")


# ---- two writers

SAME = """
import os, sys
from pathlib import Path
from layerstore import Reference, Store, overlay_changes
from tests.support.stores import make_layer, seal
with Store.open(Path(sys.argv[1])) as store:
    sys.stdin.readline()
    for number in range(10):
        layers = [make_layer(store, {"n": f"{number} {part}".encode()}) for part in range(3)]
        store.layers.lowerdirs(layers)
        store.images.tag(seal(store, layers), Reference.parse(f"app:{number}"))
        store.flush()
"""


def test_processes_may_commit_the_same_layers_at_once(store_root: Path) -> None:
    Store.open(store_root).close()
    processes = [start(SAME, store_root) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    with Store.open(store_root) as store:
        assert len(store.images.list()) == 10
        assert len(list(store.layers.all())) == 30
        assert findings(store) == []
    assert leftovers(store_root) == []


def test_an_upper_directory_and_an_extraction_of_one_layer_agree(store: Store) -> None:
    with store.new_tmpdir() as directory:
        upper = directory / "upper"
        upper.mkdir()
        (upper / "a").write_bytes(b"1")
        layer = store.layers.commit(overlay_changes(upper), upperdir=upper)
    assert store.layers.commit(puts({})) != layer
    assert findings(store) == []


def test_what_is_discarded_is_not_written(store_root: Path) -> None:
    with Store.open(store_root) as store:
        store.cache.put_memo("kind", "key", b"value")
        store.cache.put_listing(Digest.of(b"listing"), b"listing")
        image = make_image(store, "kept:1", {"a": b"1"})
        store.images.tag(image, Reference.parse("dropped:1"))
        store.cache.put_memo("kind", "other", b"value")
        store.discard()
        assert store.cache.get_memo("kind", "other") is None
    with Store.open(store_root) as store:
        assert store.cache.get_memo("kind", "key") == b"value"
        assert store.cache.get_listing(Digest.of(b"listing")) == b"listing"
        assert store.cache.get_memo("kind", "other") is None
        assert [image.names for image in store.images.list()] == [("kept:1",)]


@pytest.mark.parametrize(("free_mib", "is_kept"), [(5, True), (3, False)])
def test_room_is_put_aside_on_small_disks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, is_kept: bool
) -> None:
    real = os.statvfs(tmp_path)
    free = os.statvfs_result((*real[:4], free_mib * (1 << 20) // real.f_frsize, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    with Store.open(tmp_path / "store") as store:
        store.flush()
    assert (tmp_path / "store/lamina/reserve").exists() == is_kept
