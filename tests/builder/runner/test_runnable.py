import json
import threading
from pathlib import Path

import pytest

from builder.runner import runnable
from builder.runner.runnable import RunnableImage, prepare, register, remembered
from layerstore import NotFoundError, Reference, Store, StoreError
from tests.support.containers import names_in
from tests.support.stores import flip, make_image

FILES = ({"a": b"1"}, {"b": b"2"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Store.open(tmp_path / "store") as store:
        make_image(store, "hello:1", *FILES)
    return tmp_path / "store"


def prepared(root: Path, name: str = "hello:1") -> RunnableImage:
    with Store.open(root) as store:
        return prepare(store, name)


def memo(root: Path, name: str = "hello:1") -> Path:
    return root / "lamina/run" / f"{name}.json"


def test_a_prepared_image_has_what_a_container_needs(root: Path) -> None:
    image = prepared(root)
    assert image.name == "hello:1"
    assert image.env == ("PATH=/bin",)
    assert image.command == ("/bin/true",)
    assert image.labels == (("a", "b"),)
    assert len(image.layers) == 2
    assert len(image.directories) == 2
    top, bottom = (root / "lamina" / name for name in image.directories)
    assert (top / "b").read_bytes() == b"2"
    assert (bottom / "a").read_bytes() == b"1"


def test_a_prepared_image_is_remembered(root: Path) -> None:
    assert remembered(root, "hello:1") is None
    image = prepared(root)
    assert remembered(root, "hello:1") == image


def test_it_is_remembered_under_the_name_that_was_used(root: Path) -> None:
    image = prepared(root, "docker.io/library/hello:1")
    assert remembered(root, "docker.io/library/hello:1") == image
    assert remembered(root, "hello:1") is None


def test_odd_names_stay_inside_the_directory(root: Path) -> None:
    for name in ("../../x", "a/b%2Fc", "x" * 300, "\0"):
        assert remembered(root, name) is None
        with Store.open(root) as store, pytest.raises(StoreError):
            prepare(store, name)


def test_an_image_that_is_not_there_is_an_error_and_not_remembered(root: Path) -> None:
    with pytest.raises(NotFoundError):
        prepared(root, "nope")
    assert not (root / "lamina/run").exists()


def test_a_new_image_under_the_name_makes_it_void(root: Path) -> None:
    before = prepared(root)
    with Store.open(root) as store:
        make_image(store, "hello:1", {"c": b"3"})
    assert remembered(root, "hello:1") is None
    assert prepared(root).image_id != before.image_id


def test_any_other_change_of_names_makes_it_void_too(root: Path) -> None:
    prepared(root)
    with Store.open(root) as store:
        store.images.tag(store.images.resolve("hello:1"), Reference.parse("other"))
    assert remembered(root, "hello:1") is None


def test_a_missing_layer_directory_makes_it_void(root: Path) -> None:
    image = prepared(root)
    (root / "lamina" / image.directories[0]).rename(root / "lamina/tmp/gone")
    assert remembered(root, "hello:1") is None


def test_a_layer_directory_that_was_changed_makes_it_void(root: Path) -> None:
    image = prepared(root)
    flip(root / "lamina" / image.directories[0] / "b", 0)
    assert remembered(root, "hello:1") is None
    assert prepared(root) == image
    assert (root / "lamina" / image.directories[0] / "b").read_bytes() == b"2"
    assert remembered(root, "hello:1") == image


@pytest.mark.parametrize("at", range(0, 700, 31))
def test_a_flipped_byte_anywhere_makes_it_void(root: Path, at: int) -> None:
    prepared(root)
    flip(memo(root), at % memo(root).stat().st_size)
    assert remembered(root, "hello:1") is None


def test_another_boot_makes_it_void(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(root)
    other = tmp_path / "boot_id"
    other.write_text("another\n")
    monkeypatch.setattr(runnable, "_BOOT_ID", other)
    assert remembered(root, "hello:1") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[1, 2, 3]", b"null", b"[9, [], []]"])
def test_a_damaged_memo_is_no_memo(root: Path, data: bytes) -> None:
    image = prepared(root)
    memo(root).write_bytes(data)
    assert remembered(root, "hello:1") is None
    assert prepared(root) == image
    assert remembered(root, "hello:1") == image


def test_a_memo_of_another_version_is_no_memo(root: Path) -> None:
    prepared(root)
    version, *rest = json.loads(memo(root).read_bytes())
    memo(root).write_text(json.dumps([version + 1, *rest]))
    assert remembered(root, "hello:1") is None


def test_registering_makes_known_what_is_all_there(root: Path) -> None:
    image = prepared(root)
    assert register(root, image, lambda: "done") == "done"


def test_registering_fails_when_a_layer_has_gone(root: Path) -> None:
    image = prepared(root)
    (root / "lamina" / image.directories[1]).rename(root / "lamina/tmp/gone")
    assert register(root, image, lambda: "done") is None


def test_registering_shuts_prune_out_by_the_store_s_own_lock(root: Path) -> None:
    """The lock is taken by hand: it must be the one that StoreLock takes."""
    image = prepared(root)
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def make_known() -> bool:
        inside.set()
        go_on.wait(10)
        order.append("known")
        return True

    def prune() -> None:
        with Store.open(root) as store:
            inside.wait(10)
            threading.Timer(0.1, go_on.set).start()
            with store.lock.exclusive():
                order.append("pruned")

    pruner = threading.Thread(target=prune)
    pruner.start()
    register(root, image, make_known)
    pruner.join(timeout=20)
    assert order == ["known", "pruned"]


def test_an_image_without_layers_has_an_empty_directory(root: Path) -> None:
    with Store.open(root) as store:
        make_image(store, "nothing")
    image = prepared(root, "nothing")
    assert image.layers == ()
    assert len(image.directories) == 1
    assert names_in(root / "lamina" / image.directories[0]) == []
