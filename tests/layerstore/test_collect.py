"""What is needed, what it takes, and what goes."""

import json
import os
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    CachedStep,
    Descriptor,
    Image,
    ImageRecord,
    Index,
    Layer,
    Platform,
    Pruned,
    Reference,
    Store,
    disk_bytes,
    host_platform,
    prune,
    usage,
)
from layerstore.blobs import put
from layerstore.images import named
from layerstore.locks import Lease
from tests.support.stores import (
    CREATED,
    cached_step,
    findings,
    flip_blob,
    kill,
    make_image,
    make_layer,
    problems,
    seal,
    start,
)

OLD_S = time.time() - 7200


def cache(store: Store, name: str, layer: Layer) -> CachedStep:
    step = cached_step(name.encode(), layer, created_by=name)
    store.cache.put(step, parent=None, variant="")
    store.flush()
    return step


def make_container(store: Store, name: str, image: Image) -> None:
    directory = store.private / "containers" / name
    directory.mkdir(parents=True)
    (directory / "upper").mkdir()
    (directory / "upper" / "file").write_bytes(b"x" * 5000)
    record = {
        "manifest_digest": image.descriptor.digest,
        "layers": [layer.diff_id for layer in image.layers],
        "state": "running",
        "more": {"a": [1, 2.5, None]},
    }
    (directory / "container.json").write_text(json.dumps(record))


def stored(store: Store) -> set[str]:
    """Everything that could be collected."""
    places = ("blobs/sha256", "lamina/toc", "lamina/snapshots")
    return {
        f"{place}/{path.name}"
        for place in places
        for path in (store.root / place).iterdir()
        if path.name != "empty"
    }


def paths_of(image: Image) -> set[str]:
    blobs = [image.descriptor.digest, image.id, *(layer.digest for layer in image.manifest.layers)]
    return {f"blobs/sha256/{digest.hex}" for digest in blobs} | {
        f"lamina/toc/{layer.diff_id.hex}" for layer in image.layers
    }


def fresh(store: Store) -> Store:
    """Another process's view: one that holds nothing."""
    store.close()
    return Store.open(store.root)


def run_prune(root: Path, **choices: Any) -> Pruned:
    with Store.open(root) as store:
        return prune(store, **choices)


# ---- what goes and what stays


def test_nothing_goes_from_a_store_in_use(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    before = stored(store)
    pruned = run_prune(store.root)
    assert pruned == Pruned(images=(), steps=0, layers=0, cache_mounts=0, freed_bytes=0)
    assert stored(store) == before == paths_of(image)


def test_a_removed_image_goes_with_all_it_had(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"}, {"b": b"2"})
    store.layers.lowerdirs(image.layers)
    keep = make_image(store, "keep", {"a": b"1"})
    store.images.remove(image)
    store.flush()
    store.close()

    pruned = run_prune(store.root)

    assert pruned.layers == 1
    assert pruned.freed_bytes > 0
    shared = keep.layers[0].diff_id.hex[:32]
    assert stored(store) == paths_of(keep) | {f"lamina/snapshots/{shared}"}
    assert problems(store.root) == []


def test_dangling_images_go_and_named_ones_stay(store: Store) -> None:
    old = make_image(store, "app", {"a": b"1"})
    new = make_image(store, "app", {"a": b"2"})
    store.close()
    pruned = run_prune(store.root, images="dangling")
    assert [record.id for record in pruned.images] == [old.id]
    assert stored(store) == paths_of(new)


def test_unused_images_go_and_those_of_containers_stay(store: Store) -> None:
    used, unused = make_image(store, "used", {"a": b"1"}), make_image(store, "unused", {"b": b"2"})
    make_container(store, "c1", used)
    store.close()
    pruned = run_prune(store.root, images="unused")
    assert [record.names for record in pruned.images] == [("unused:latest",)]
    assert stored(store) == paths_of(used)
    assert unused.id not in {record.id for record in Store.open(store.root).images.list()}


def test_an_image_removed_under_a_container_stays_whole(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    store.layers.lowerdirs(image.layers)
    make_container(store, "c1", image)
    store.images.remove(image)
    store.flush()
    store.close()
    run_prune(store.root, images="unused", cache="all")
    checkout = f"lamina/snapshots/{image.layers[0].diff_id.hex[:32]}"
    assert stored(store) == paths_of(image) | {checkout}


def test_a_container_whose_record_cannot_be_read_stops_nothing(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    make_container(store, "c1", image)
    for name, text in (("bad", "{"), ("other", '{"layers": 5}'), ("empty", "{}")):
        (store.private / "containers" / name).mkdir()
        (store.private / "containers" / name / "container.json").write_text(text)
    (store.private / "containers" / "none").mkdir()
    store.close()
    run_prune(store.root, images="unused")
    assert stored(store) == paths_of(image)


def test_layers_of_cached_steps_stay_until_the_cache_goes(store: Store) -> None:
    layer = make_layer(store, {"a": b"1"})
    step = cache(store, "RUN a", layer)
    store.close()

    assert run_prune(store.root, images="unused").layers == 0
    with Store.open(store.root) as other:
        assert other.cache.get(step.key) == step

    pruned = run_prune(store.root, cache="all")
    assert (pruned.steps, pruned.layers) == (1, 1)
    assert stored(store) == set()
    assert problems(store.root) == []


def test_only_steps_whose_layer_is_in_no_image_are_unused(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    kept = cache(store, "in the image", image.layers[0])
    gone = cache(store, "left over", make_layer(store, {"b": b"2"}))
    store.close()
    assert run_prune(store.root, cache="unused").steps == 1
    with Store.open(store.root) as other:
        assert other.cache.get(kept.key) == kept
        assert other.cache.get(gone.key) is None


def test_the_caller_may_choose_among_images(store: Store) -> None:
    for year in ("2001", "2002", "2003"):
        make_image(store, f"app:{year}", {"a": year.encode()}, created=f"{year}{CREATED[4:]}")
    store.close()

    def before_2003(record: ImageRecord) -> bool:
        return record.created < "2003"

    pruned = run_prune(store.root, images="unused", choose=before_2003)
    assert len(pruned.images) == 2
    with Store.open(store.root) as other:
        assert [record.names for record in other.images.list()] == [("app:2003",)]


def test_a_dry_run_says_what_would_go_and_does_nothing(store: Store) -> None:
    image = make_image(store, "app", {"a": os.urandom(100_000)})
    store.layers.lowerdirs(image.layers)
    cache(store, "step", image.layers[0])
    store.close()
    before = stored(store)
    planned = run_prune(store.root, images="unused", cache="all", dry_run=True)
    assert stored(store) == before
    done = run_prune(store.root, images="unused", cache="all")
    assert done == planned
    assert done.freed_bytes > 200_000


def test_blobs_of_other_tools_have_an_hour(store: Store) -> None:
    young, old = put(store.blobs, b"young").digest, put(store.blobs, b"old").digest
    store.flush()
    os.utime(store.blob_path(old), (OLD_S, OLD_S))
    store.close()
    run_prune(store.root)
    assert stored(store) == {f"blobs/sha256/{young.hex}"}


def test_stray_checkouts_and_tables_go(store: Store) -> None:
    (store.private / "snapshots" / ("a" * 32) / "deep").mkdir(parents=True)
    (store.private / "toc" / ("b" * 64)).write_text("x")
    store.layers.lowerdirs([])
    store.close()
    run_prune(store.root)
    assert stored(store) == set()
    assert (store.private / "snapshots" / "empty").is_dir()


def test_all_platforms_of_an_image_stay(store: Store) -> None:
    ours, theirs = make_image(store, "ours", {"a": b"1"}), make_image(store, "theirs", {"b": b"2"})
    index = Index(
        manifests=(
            replace(ours.descriptor, platform=host_platform()),
            replace(theirs.descriptor, platform=Platform(os="linux", architecture="s390x")),
        )
    )
    info = put(store.blobs, index.encode())
    entry = Descriptor(media_type=index.media_type, digest=info.digest, size_bytes=info.size_bytes)
    store.flush()
    with store.lock.exclusive():
        store.images.rewrite([named(entry, Reference.parse("multi"))])
    store.close()

    run_prune(store.root, images="dangling")
    assert stored(store) == paths_of(ours) | paths_of(theirs) | {f"blobs/sha256/{info.digest.hex}"}

    pruned = run_prune(store.root, images="unused")
    assert [record.names for record in pruned.images] == [("multi:latest",)]
    assert stored(store) == set()


def test_a_damaged_image_can_be_pruned(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    flip_blob(store, image.descriptor.digest)
    store.close()
    pruned = run_prune(store.root, images="unused")
    assert "damaged" in pruned.images[0].problem
    with Store.open(store.root) as other:
        assert other.images.list() == []


def test_pruning_twice_frees_once(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    store.close()
    assert run_prune(store.root, images="unused").freed_bytes > 0
    assert run_prune(store.root, images="unused").freed_bytes == 0


def test_a_pruned_layer_is_forgotten_and_can_be_committed_again(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    prune(store, images="unused")
    assert store.layers.find(image.layers[0].diff_id) is None
    assert make_image(store, "app", {"a": b"1"}) == image
    assert findings(store) == []


# ---- beside others


def test_what_a_living_process_holds_stays(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    with Store.open(store.root) as user:
        user.images.resolve("app")
        store.images.remove(image)
        store.flush()
        store.close()
        run_prune(store.root, images="unused", cache="all")
        assert user.layers.checkout(image.layers[0]).is_dir()
        assert paths_of(image) <= stored(store)
    run_prune(store.root)
    assert stored(store) == set()


def test_a_held_image_is_not_unlisted(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    with Store.open(store.root) as user:
        image = user.images.resolve("app")
        store.close()
        assert run_prune(store.root, images="unused").images == ()
        assert user.images.resolve("app") == image


def test_what_is_pending_elsewhere_is_out_of_reach(store: Store) -> None:
    image = seal(store, [make_layer(store, {"a": b"1"})])
    store.images.tag(image, Reference.parse("app"))
    run_prune(store.root, images="unused", cache="all")
    store.flush()
    assert problems(store.root) == []
    with Store.open(store.root) as other:
        assert other.images.resolve("app") == image


def test_what_a_dead_process_held_may_go(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    process = start(
        """
import sys
from pathlib import Path
from layerstore import Store
store = Store.open(Path(sys.argv[1]))
store.images.resolve("app")
print("ready", flush=True)
sys.stdin.read()
""",
        store.root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    store.close()
    assert run_prune(store.root, images="unused").images == ()
    kill(process)
    assert len(run_prune(store.root, images="unused").images) == 1
    assert stored(store).isdisjoint(paths_of(image))


BUILD = """
import sys
from pathlib import Path
from layerstore import CachedStep, Digest, Reference, Store
from tests.support.stores import make_layer, seal
root, name = Path(sys.argv[1]), sys.argv[2]
for number in range(12):
    with Store.open(root) as store:
        layers = []
        for part in range(4):
            key = Digest.of(f"{part} {number // 3}".encode())
            step = store.cache.get(key)
            if step is None:
                layer = make_layer(store, {"n": f"{part} {number // 3}".encode() * 1000})
                store.cache.put(
                    CachedStep(key=key, diff_id=layer.diff_id, created="", created_by="",
                               seconds=0.0, document=b"d"),
                    parent=None, variant="")
            else:
                layer = store.layers.get(step.diff_id)
            layers.append(layer)
            for directory in store.layers.lowerdirs(layers):
                assert (directory / "n").is_file(), directory
        store.images.tag(seal(store, layers), Reference.parse(f"{name}:{number % 2}"))
        store.flush()
        image = store.images.resolve(f"{name}:{number % 2}")
        assert image.layers == tuple(layers)
"""


def test_builds_succeed_beside_one_that_prunes_in_a_loop(store: Store) -> None:
    store.close()
    builders = [start(BUILD, store.root, name) for name in ("one", "two", "three")]
    chance = random.Random(3)
    while any(builder.poll() is None for builder in builders):
        run_prune(
            store.root,
            images=chance.choice(["none", "dangling", "unused"]),
            cache=chance.choice(["none", "unused", "all"]),
        )
    for builder in builders:
        _, err = builder.communicate(timeout=60)
        assert builder.returncode == 0, err.decode()
    assert problems(store.root) == []
    run_prune(store.root, images="unused", cache="all")
    assert stored(store) == set()


def test_killing_the_one_that_prunes_leaves_a_good_store(store: Store) -> None:
    for number in range(10):
        image = make_image(store, f"app:{number}", {"a": os.urandom(1000)}, {"b": b"2"})
        store.layers.lowerdirs(image.layers)
    store.close()
    program = """
import sys
from pathlib import Path
from layerstore import Store, prune
with Store.open(Path(sys.argv[1])) as store:
    print("open", flush=True)
    prune(store, images="unused", cache="all", choose=lambda record: record.id < "sha256:8")
"""
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        process = start(program, store.root)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        kill(process)
        assert problems(store.root) == []


def test_a_mount_in_a_dead_lease_is_left_for_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerstore.errors import StoreBusyError

    lease = Lease.take(store.tmp, store.lock)
    os.close(lease._fd)

    def busy(seized: Lease) -> None:
        os.close(seized._fd)
        raise StoreBusyError(path="mounted")

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "release", busy)
        Store.open(store.root)
    assert lease.path.exists()
    Store.open(store.root).close()
    assert not lease.path.exists()


# ---- sizes


def test_disk_bytes_agree_with_du(store: Store, tmp_path: Path) -> None:
    image = make_image(store, "app", {"d/a": os.urandom(50_000), "d/e/b": b"x"})
    store.layers.lowerdirs(image.layers)
    os.link(store.root / "oci-layout", tmp_path / "outside")
    (store.private / "toc" / "linked").hardlink_to(store.root / "oci-layout")
    (store.private / "toc" / "symlink").symlink_to("/usr")
    du = subprocess.run(
        ["du", "-s", "--block-size=1", str(store.root)], capture_output=True, text=True, check=True
    )
    assert disk_bytes(store.root) == int(du.stdout.split()[0])


def test_disk_bytes_of_odd_paths(tmp_path: Path) -> None:
    assert disk_bytes(tmp_path / "missing") == 0
    (tmp_path / "file").write_bytes(b"x" * 5000)
    assert disk_bytes(tmp_path / "file") == (tmp_path / "file").stat().st_blocks * 512
    (tmp_path / "link").symlink_to(tmp_path)
    assert disk_bytes(tmp_path / "link") == (tmp_path / "link").lstat().st_blocks * 512


def test_disk_bytes_of_a_tree_beyond_path_max(tmp_path: Path) -> None:
    from layerstore import remove_tree

    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d" * 20, dir_fd=fd)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        assert disk_bytes(tmp_path) == 601 * tmp_path.stat().st_blocks * 512
    finally:
        remove_tree(tmp_path / ("d" * 20))


def test_the_kinds_add_up_to_all_there_is(store: Store) -> None:
    image = make_image(store, "app", {"a": os.urandom(200_000)})
    store.layers.lowerdirs(image.layers)
    cache(store, "cached", make_layer(store, {"c": os.urandom(100_000)}))
    make_container(store, "c1", image)
    found = usage(store)
    assert found.total_bytes == disk_bytes(store.root)
    assert found.images_bytes > 400_000
    assert 100_000 < found.cache_bytes < 200_000
    assert found.containers_bytes == found.containers[0].stored_bytes > 5000


def test_shared_and_unique_bytes_of_images(store: Store) -> None:
    base = {"base": os.urandom(300_000)}
    one = make_image(store, "one", base, {"a": os.urandom(100_000)})
    make_image(store, "two", base)
    by_name = {found.record.names[0]: found for found in usage(store).images}
    first, second = by_name["one:latest"], by_name["two:latest"]
    assert first.record.size_bytes == 400_000
    assert first.shared_bytes == second.shared_bytes > 300_000
    assert 100_000 < first.unique_bytes < 150_000
    assert second.unique_bytes < 50_000, "its manifest and config"
    assert first.record.id == one.id


def test_reclaimable_is_what_pruning_frees(store: Store) -> None:
    used = make_image(store, "used", {"a": os.urandom(50_000)})
    make_image(store, "unused", {"a": b"shared"}, {"b": os.urandom(70_000)})
    store.layers.lowerdirs(used.layers)
    make_container(store, "c1", used)
    cache(store, "cached", make_layer(store, {"c": os.urandom(90_000)}))
    store.close()
    with Store.open(store.root) as other:
        found = usage(other)
        assert 0 < found.images_reclaimable_bytes < found.images_bytes
        assert found.cache_reclaimable_bytes == found.cache_bytes
    expected = found.images_reclaimable_bytes + found.cache_reclaimable_bytes
    assert run_prune(store.root, images="unused", cache="all").freed_bytes == expected


def test_a_container_is_counted_for_its_image(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    make_container(store, "c1", image)
    make_container(store, "c2", image)
    found = usage(store)
    assert found.images[0].containers == ("c1", "c2")
    assert [container.manifest_digest for container in found.containers] == [
        image.descriptor.digest
    ] * 2
    assert found.images_reclaimable_bytes == 0


def test_an_empty_store_takes_nothing_but_itself(store: Store) -> None:
    found = usage(store)
    assert found.images == ()
    assert (found.images_bytes, found.cache_bytes, found.containers_bytes) == (0, 0, 0)
    assert found.other_bytes == found.total_bytes == disk_bytes(store.root)


def test_cached_steps_of_images_count_for_the_images(store: Store) -> None:
    image = make_image(store, "app", {"a": os.urandom(50_000)})
    cache(store, "step", image.layers[0])
    found = usage(store)
    assert found.cache_steps == 1
    assert found.cache_bytes == 0
    assert found.images_bytes > 50_000
