import dataclasses
from typing import get_args

import pytest

from layerstore.changeset import (
    Change,
    Meta,
    NodeKind,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.treepath import TreePath

PATH = TreePath("a/b")
META = Meta(0o644)

ONE_OF_EACH: list[Change] = [
    PutFile(PATH, META, 1, b"x"),
    PutDir(PATH, META),
    PutSymlink(PATH, META, "target"),
    PutHardlink(PATH, TreePath("c")),
    PutNode(PATH, META, "fifo"),
    Remove(PATH),
    Opaque(PATH),
]


def test_the_union_names_every_kind() -> None:
    assert {type(change) for change in ONE_OF_EACH} == set(get_args(Change))


@pytest.mark.parametrize("change", ONE_OF_EACH, ids=lambda change: type(change).__name__)
def test_changes_are_values(change: Change) -> None:
    same = dataclasses.replace(change)
    assert same == change
    assert hash(same) == hash(change)
    assert change.path == PATH
    with pytest.raises(dataclasses.FrozenInstanceError):
        change.path = TreePath("other")  # type: ignore[misc]  # the types forbid it, too
    with pytest.raises((AttributeError, TypeError)):
        change.more = 1  # type: ignore[union-attr]  # and this


def test_changes_of_different_kinds_are_never_equal() -> None:
    assert len(set(ONE_OF_EACH)) == len(ONE_OF_EACH)


def test_everything_but_the_mode_has_a_default() -> None:
    assert Meta(0o755) == Meta(0o755, 0, 0, 0, ())
    assert PutNode(PATH, META, "char") == PutNode(PATH, META, "char", 0, 0)


def test_every_attribute_counts_in_comparisons() -> None:
    metas = {
        META,
        Meta(0o645),
        Meta(0o644, 1),
        Meta(0o644, 0, 1),
        Meta(0o644, 0, 0, 1),
        Meta(0o644, 0, 0, 0, (("user.a", b""),)),
    }
    assert len(metas) == 6


def test_the_kinds_of_nodes_are_those_of_a_layer() -> None:
    assert set(get_args(NodeKind)) == {"char", "block", "fifo"}
