"""Cached steps in a directory: found by others, fetched late, believed never."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    CachedStep,
    Digest,
    DirectoryPlace,
    Layer,
    StepCache,
    Store,
    export_descriptions,
    export_steps,
)
from layerstore.errors import UnusableLayerError
from tests.support.imagetree import OciLayout, stack
from tests.support.stores import cached_step, findings, flip, make_layer, seal

DOCUMENTS = (b'{"step":"one"}', b'{"step":"two"}')
KEYS = tuple(map(Digest.of, DOCUMENTS))
PARENT = Digest.of(b"parent")


def put(store: Store, number: int, layer: Layer, *, parent: Digest | None = PARENT) -> CachedStep:
    step = cached_step(DOCUMENTS[number], layer, created_by=f"RUN {number}", seconds=1.5)
    store.cache.put(step, parent=parent, variant="None")
    store.flush()
    return step


def exported(store: Store, cache: Path, *files: dict[str, bytes]) -> list[Layer]:
    """Steps that made these layers, one each, exported."""
    layers = [make_layer(store, each) for each in files]
    for number, layer in enumerate(layers):
        put(store, number, layer)
    assert export_steps(store, KEYS[: len(layers)], cache) == len(layers)
    return layers


def attach(store: Store, cache: Path) -> list[str]:
    """Look into `cache` from now on; what is told of it comes into the list."""
    notices: list[str] = []
    store.cache.add_source(StepCache(DirectoryPlace(cache), store, notices.append))
    return notices


def blob(cache: Path, digest: str) -> Path:
    return cache / "blobs/sha256" / digest.removeprefix("sha256:")


def step_file(cache: Path, number: int = 0) -> Path:
    return cache / "lamina/steps" / KEYS[number].hex


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_a_step_is_found_as_it_was_made(there: Store, here: Store, cache: Path) -> None:
    made = exported(there, cache, {"a": b"1"})
    notices = attach(here, cache)
    step = here.cache.get(KEYS[0])
    assert step == there.cache.get(KEYS[0])
    assert here.layers.find(made[0].diff_id) == made[0]
    assert here.cache.get(KEYS[1]) is None
    assert notices == []


def test_a_step_is_found_by_its_content(there: Store, here: Store, cache: Path) -> None:
    made = exported(there, cache, {"a": b"1"})
    attach(here, cache)
    content = made[0].content_digest
    step = here.cache.same_content(PARENT, content, "None")
    assert step is not None
    assert step.key == KEYS[0]
    assert here.cache.same_content(PARENT, content, "5") is None
    assert here.cache.same_content(None, content, "None") is None
    assert here.cache.same_content(PARENT, Digest.of(b"other"), "None") is None


def test_nothing_is_copied_before_it_is_needed(there: Store, here: Store, cache: Path) -> None:
    exported(there, cache, {"a": b"1"}, {"b": b"2"})
    attach(here, cache)
    for key in KEYS:
        step = here.cache.get(key)
        assert step is not None
        layer = here.layers.get(step.diff_id)
        assert len(here.layers.toc(layer)) == 1
    here.flush()
    assert list(here.blobs.digests()) == []
    assert list(here.layers.all()) == []
    assert list(here.cache.steps()) == []


def test_an_image_fetches_its_layers_and_no_others(there: Store, here: Store, cache: Path) -> None:
    one, two = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    attach(here, cache)
    for key in KEYS:
        here.cache.get(key)
    image = seal(here, [here.layers.get(one.diff_id)])
    assert image.descriptor == seal(there, [one]).descriptor
    here.images.note_untagged(image)
    here.flush()
    assert [layer.diff_id for layer in here.layers.all()] == [one.diff_id]
    assert [step.key for step in here.cache.steps()] == [KEYS[0]]
    assert not here.blobs.has(two.descriptor.digest)
    assert findings(here) == []


def test_what_was_fetched_is_found_without_the_directory(
    there: Store, tmp_path: Path, cache: Path
) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    with Store.open(tmp_path / "here") as here:
        attach(here, cache)
        here.cache.get(KEYS[0])
        here.layers.checkout(here.layers.get(made.diff_id))
    shutil.rmtree(cache)
    with Store.open(tmp_path / "here") as here:
        assert here.cache.get(KEYS[0]) == there.cache.get(KEYS[0])
        assert here.cache.same_content(PARENT, made.content_digest, "None") is not None


def test_all_steps_of_one_layer_are_kept(there: Store, here: Store, cache: Path) -> None:
    layer = make_layer(there, {"a": b"1"})
    for number in (0, 1):
        put(there, number, layer)
    export_steps(there, KEYS, cache)
    attach(here, cache)
    for key in KEYS:
        here.cache.get(key)
    here.layers.fetch(here.layers.get(layer.diff_id))
    here.flush()
    assert {step.key for step in here.cache.steps()} == set(KEYS)


def test_a_step_whose_layer_is_here_costs_nothing(there: Store, here: Store, cache: Path) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    make_layer(here, {"a": b"1"})
    blob(cache, made.descriptor.digest).chmod(0o600)
    attach(here, cache)
    assert here.cache.get(KEYS[0]) is not None
    here.flush()
    assert [step.key for step in here.cache.steps()] == [KEYS[0]]


@pytest.mark.parametrize("use", ["toc", "checkout", "tar", "reread", "changes", "tree", "file"])
def test_a_layer_can_be_used_as_any_other(there: Store, here: Store, cache: Path, use: str) -> None:
    (made,) = exported(there, cache, {"d/a": b"content"})
    attach(here, cache)
    here.cache.get(KEYS[0])
    layer = here.layers.get(made.diff_id)
    match use:
        case "toc":
            assert here.layers.toc(layer) == there.layers.toc(made)
        case "checkout":
            assert (here.layers.checkout(layer) / "d/a").read_bytes() == b"content"
        case "tar":
            assert Digest.of(b"".join(here.layers.tar_pieces(layer))) == made.diff_id
        case "reread":
            assert here.layers.reread(layer)[0] == made
        case "changes":
            assert [change.path for change in here.layers.changes(layer)] == ["d", "d/a"]
        case "tree":
            assert here.layers.tree([layer]).get("d/a") is not None
        case _:
            node = here.layers.tree([layer]).get("d/a")
            assert node is not None
            assert here.layers.read_file([layer], node) == b"content"


def test_a_layer_that_is_built_here_meanwhile_is_no_longer_the_directorys(
    there: Store, here: Store, cache: Path
) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    attach(here, cache)
    here.cache.get(KEYS[0])
    assert make_layer(here, {"a": b"1"}) == made
    flip(blob(cache, made.descriptor.digest))
    here.layers.fetch(here.layers.get(made.diff_id))
    here.flush()
    assert [layer.diff_id for layer in here.layers.all()] == [made.diff_id]
    assert findings(here) == []


def test_directories_are_merged_by_copying(
    there: Store, here: Store, cache: Path, tmp_path: Path
) -> None:
    """In either order, and whichever index.json wins."""
    for number, content in enumerate((b"1", b"2")):
        put(there, number, make_layer(there, {"a": content}))
        export_steps(there, [KEYS[number]], tmp_path / f"cache-{number}")
    for first, second in ((0, 1), (1, 0)):
        merged = tmp_path / f"merged-{first}"
        shutil.copytree(tmp_path / f"cache-{first}", merged)
        assert os.system(f"cp -rn {tmp_path}/cache-{second}/. {merged}") in (0, 256)
        with Store.open(tmp_path / f"store-{first}") as store:
            notices = attach(store, merged)
            for key in KEYS:
                step = store.cache.get(key)
                assert step is not None
                store.layers.fetch(store.layers.get(step.diff_id))
            assert notices == []


def test_exporting_into_the_same_directory_keeps_what_is_there(
    there: Store, here: Store, cache: Path
) -> None:
    for number, content in enumerate((b"1", b"2")):
        put(there, number, make_layer(there, {"a": content}))
        export_steps(there, [KEYS[number]], cache)
    attach(here, cache)
    assert all(here.cache.get(key) for key in KEYS)


def test_an_export_heals_a_damaged_blob(there: Store, here: Store, cache: Path) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    flip(blob(cache, made.descriptor.digest))
    export_steps(there, KEYS[:1], cache)
    attach(here, cache)
    here.cache.get(KEYS[0])
    assert here.layers.fetch(here.layers.get(made.diff_id)) == made


def test_an_export_without_steps_is_a_valid_layout(there: Store, cache: Path) -> None:
    assert export_steps(there, [Digest.of(b"unknown")], cache) == 0
    assert _manifest(cache)["layers"] == []


def test_the_layout_has_one_image_of_all_layers(there: Store, cache: Path) -> None:
    layers = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    manifest = _manifest(cache)
    digests = [each["digest"] for each in manifest["layers"]]
    config = json.loads(blob(cache, manifest["config"]["digest"]).read_bytes())
    assert sorted(digests) == sorted(each.descriptor.digest for each in layers)
    assert sorted(config["rootfs"]["diff_ids"]) == sorted(each.diff_id for each in layers)
    assert sorted(stack([blob(cache, digest) for digest in digests])) == ["a", "b"]


def _manifest(cache: Path) -> Any:
    return json.loads(blob(cache, OciLayout(cache).names()["latest"]).read_bytes())


def test_steps_can_be_handed_on_without_being_used(
    there: Store, here: Store, cache: Path, tmp_path: Path
) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    attach(here, cache)
    here.cache.get(KEYS[0])
    here.layers.fetch(here.layers.get(made.diff_id))
    assert export_steps(here, KEYS[:1], tmp_path / "next") == 1
    assert step_file(tmp_path / "next").read_bytes() == step_file(cache).read_bytes()


# Damaged and hostile directories: a miss with a notice, or an error that says what to leave out.


def test_a_directory_that_is_not_there_is_told_of(here: Store, cache: Path) -> None:
    notices = attach(here, cache)
    assert notices == [f"no build cache in {cache}"]
    assert here.cache.get(KEYS[0]) is None
    assert here.cache.same_content(PARENT, KEYS[0], "None") is None


HOSTILE: dict[str, Callable[[dict[str, object]], object]] = {
    "schema": lambda step: step.update(schema=2),
    "document of another key": lambda step: step.update(document=DOCUMENTS[1].decode()),
    "no document": lambda step: step.pop("document"),
    "time": lambda step: step.update(created="yesterday"),
    "parent": lambda step: step.update(parent="../../etc/passwd"),
    "no layer": lambda step: step.pop("layer"),
    "layer": lambda step: step.update(layer=[]),
    "diff_id": lambda step: _layer(step).update(diffId="sha256:1"),
    "blob": lambda step: _layer(step).pop("blob"),
    "toc": lambda step: _layer(step).update(toc={"digest": "sha256:../../x", "size": 1}),
    "negative size": lambda step: _layer(step).update(size=-1),
    "size of the blob": lambda step: _blob(step).update(size=1),
    "missing blob": lambda step: _blob(step).update(digest=Digest.of(b"missing")),
}


def _layer(step: dict[str, object]) -> dict[str, object]:
    layer = step["layer"]
    assert isinstance(layer, dict)
    return layer


def _blob(step: dict[str, object]) -> dict[str, object]:
    found = _layer(step)["blob"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("what", HOSTILE)
def test_a_malformed_step_is_a_miss_with_one_notice(
    there: Store, here: Store, cache: Path, what: str
) -> None:
    exported(there, cache, {"a": b"1"})
    edit(step_file(cache), HOSTILE[what])
    notices = attach(here, cache)
    assert here.cache.get(KEYS[0]) is None
    assert here.cache.get(KEYS[0]) is None
    assert len(notices) == 1
    assert str(cache) in notices[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_a_step_that_is_no_document_is_a_miss(
    there: Store, here: Store, cache: Path, content: bytes
) -> None:
    exported(there, cache, {"a": b"1"})
    step_file(cache).write_bytes(content)
    notices = attach(here, cache)
    assert here.cache.get(KEYS[0]) is None
    assert len(notices) == 1


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_step_that_is_no_regular_file_is_a_miss(
    there: Store, here: Store, cache: Path, kind: str
) -> None:
    exported(there, cache, {"a": b"1"})
    path = step_file(cache)
    aside = path.with_name("aside")
    path.rename(aside)
    match kind:
        case "link":
            path.symlink_to(aside)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    notices = attach(here, cache)
    assert here.cache.get(KEYS[0]) is None
    assert len(notices) == 1
    assert path not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]


def test_a_result_that_names_another_step_is_a_miss(there: Store, here: Store, cache: Path) -> None:
    one, _ = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    for path in (cache / "lamina/results").iterdir():
        path.write_text(json.dumps({"key": KEYS[1]}))
    attach(here, cache)
    assert here.cache.same_content(PARENT, one.content_digest, "None") is None


def unusable(store: Store, layer: Layer) -> UnusableLayerError:
    """What fetching says; afterwards the layer is neither here nor offered again."""
    with pytest.raises(UnusableLayerError) as error:
        store.layers.fetch(store.layers.get(layer.diff_id))
    assert store.cache.get(KEYS[0]) is None
    assert store.layers.find(layer.diff_id) is None
    store.flush()
    assert list(store.layers.all()) == []
    assert findings(store) == []
    return error.value


def test_a_damaged_layer_is_never_taken_in(there: Store, here: Store, cache: Path) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    flip(blob(cache, made.descriptor.digest), 20)
    attach(here, cache)
    assert here.cache.get(KEYS[0]) is not None
    assert f"build cache in {cache}" in unusable(here, made).message


def test_a_layer_under_the_diff_id_of_another_is_never_taken_in(
    there: Store, here: Store, cache: Path
) -> None:
    one, two = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    other = json.loads(step_file(cache, 1).read_bytes())
    edit(step_file(cache), lambda step: _layer(step).update(blob=_layer(other)["blob"]))
    attach(here, cache)
    assert here.cache.get(KEYS[0]) is not None
    assert two.descriptor.digest in unusable(here, one).message


def test_a_layer_that_is_not_as_described_is_not_believed(
    there: Store, here: Store, cache: Path
) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    edit(step_file(cache), lambda step: _layer(step).update(files=7))
    attach(here, cache)
    assert here.cache.get(KEYS[0]) is not None
    with pytest.raises(UnusableLayerError, match="not as it is described there"):
        here.layers.fetch(here.layers.get(made.diff_id))
    assert here.cache.get(KEYS[0]) is None


def test_a_table_of_another_layer_is_not_believed(there: Store, here: Store, cache: Path) -> None:
    (made, _) = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    other = json.loads(step_file(cache, 1).read_bytes())
    edit(step_file(cache), lambda step: _layer(step).update(toc=_layer(other)["toc"]))
    attach(here, cache)
    here.cache.get(KEYS[0])
    with pytest.raises(UnusableLayerError, match="not that of the layer"):
        here.layers.toc(here.layers.get(made.diff_id))
    assert here.cache.get(KEYS[0]) is None


def test_a_damaged_table_is_not_believed(there: Store, here: Store, cache: Path) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    table = json.loads(step_file(cache).read_bytes())["layer"]["toc"]["digest"]
    flip(blob(cache, table))
    attach(here, cache)
    here.cache.get(KEYS[0])
    with pytest.raises(UnusableLayerError):
        here.layers.toc(here.layers.get(made.diff_id))


def test_a_damaged_layer_is_not_handed_on(
    there: Store, here: Store, cache: Path, tmp_path: Path
) -> None:
    one, _ = exported(there, cache, {"a": b"1"}, {"b": b"2"})
    attach(here, cache)
    for key in KEYS:
        step = here.cache.get(key)
        assert step is not None
        here.cache.put(step, parent=PARENT, variant="None")
    flip(blob(cache, one.descriptor.digest), 20)
    assert export_steps(here, KEYS, tmp_path / "next") == 1
    assert not step_file(tmp_path / "next").exists()


def test_the_next_directory_is_asked_when_one_is_damaged(
    there: Store, here: Store, cache: Path, tmp_path: Path
) -> None:
    (made,) = exported(there, cache, {"a": b"1"})
    shutil.copytree(cache, tmp_path / "good")
    flip(blob(cache, made.descriptor.digest), 20)
    attach(here, cache)
    attach(here, tmp_path / "good")
    here.cache.get(KEYS[0])
    with pytest.raises(UnusableLayerError):
        here.layers.fetch(here.layers.get(made.diff_id))
    assert here.cache.get(KEYS[0]) is not None
    assert here.layers.fetch(here.layers.get(made.diff_id)) == made


def test_a_layer_that_lies_elsewhere_is_described_without_its_blob(
    there: Store, here: Store, cache: Path
) -> None:
    exported(there, cache, {"a": b"1"})
    base = make_layer(there, {"base": b"2"})
    there.flush()
    export_descriptions(there, [base], cache)
    assert not blob(cache, base.descriptor.digest).exists()
    notices = attach(here, cache)
    found = here.cache.describe(base.diff_id)
    assert found is not None
    assert (found.layer, found.read_toc()) == (base, there.layers.toc(base))
    assert here.cache.describe(KEYS[0]) is None
    assert notices == []


def test_a_layer_of_which_nothing_can_be_read_is_left_out(there: Store, cache: Path) -> None:
    exported(there, cache, {"a": b"1"})
    good, bad = make_layer(there, {"b": b"2"}), make_layer(there, {"c": b"3"})
    there.flush()
    there.layers.toc_path(bad.diff_id).unlink()
    there.blob_path(bad.descriptor.digest).unlink()
    export_descriptions(there, [bad, good], cache)
    assert [path.name for path in (cache / "lamina/layers").iterdir()] == [good.diff_id.hex]
