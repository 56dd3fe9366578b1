"""A checkout beside its table of contents: every difference is named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import Layer, Store
from layerstore.checkouts import compare_checkout
from layerstore.errors import CorruptBlobError
from layerstore.layers import in_user_namespace
from tests.support.stores import findings, flip, flip_blob, make_layer

FILES = {"a": b"1" * 100, "d/b": b"2", "d/c": b"3"}


@pytest.fixture
def layer(store: Store) -> Layer:
    layer = make_layer(store, FILES)
    store.layers.checkout(layer)
    store.flush()
    return layer


def compare(store: Store, layer: Layer) -> str:
    return compare_checkout(
        store.layers.toc(layer),
        store.layers.snapshot_path(layer.diff_id),
        userxattr=in_user_namespace(),
    )


DAMAGES: list[Callable[[Path], object]] = [
    lambda path: flip(path / "a"),
    lambda path: (path / "a").write_bytes(b""),
    lambda path: os.truncate(path / "a", 50),
    lambda path: (path / "d" / "b").unlink(),
    lambda path: (path / "d" / "b").chmod(0o600),
    lambda path: os.setxattr(path / "a", "user.x", b"1"),
    lambda path: (path / "d" / "new").touch(),
    lambda path: os.utime(path / "a", (0, 0)),
]


def test_a_new_checkout_does_not_differ(store: Store, layer: Layer) -> None:
    assert compare(store, layer) == ""


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_damage_is_named_never_served_and_healed(
    store: Store, layer: Layer, damage: Callable[[Path], object]
) -> None:
    path = store.layers.snapshot_path(layer.diff_id)
    damage(path)
    assert "differs from its layer in" in compare(store, layer)
    assert [finding.kind for finding in findings(store)] == ["checkout"]
    with Store.open(store.root) as other:
        assert (other.layers.checkout(layer) / "a").read_bytes() == FILES["a"]
    assert compare(store, layer) == ""
    assert findings(store) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_looking_a_layer_up_heals_its_small_checkout(
    store: Store, layer: Layer, damage: Callable[[Path], object]
) -> None:
    """As a build does in which all is cached."""
    damage(store.layers.snapshot_path(layer.diff_id))
    with Store.open(store.root) as other:
        assert other.layers.find(layer.diff_id) == layer
    assert findings(store) == []


def test_what_was_touched_and_not_changed_stays(store: Store, layer: Layer) -> None:
    path = store.layers.snapshot_path(layer.diff_id)
    (path / "a").chmod(0o600)
    (path / "a").chmod(0o644)
    inode = path.stat().st_ino
    with Store.open(store.root) as other:
        assert other.layers.checkout(layer).stat().st_ino == inode


def test_a_damaged_checkout_of_a_damaged_blob_is_an_error(store: Store, layer: Layer) -> None:
    flip(store.layers.snapshot_path(layer.diff_id) / "a")
    flip_blob(store, layer.descriptor.digest)
    with Store.open(store.root) as other, pytest.raises(CorruptBlobError):
        other.layers.checkout(layer)


def test_many_differences_are_counted(store: Store, layer: Layer) -> None:
    path = store.layers.snapshot_path(layer.diff_id)
    for name in FILES:
        (path / name).unlink()
    (path / "d").rmdir()
    assert compare(store, layer) == "differs from its layer in 'a', 'd', 'd/b' and 1 more"
