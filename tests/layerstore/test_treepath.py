import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.errors import UnsafePathError
from layerstore.treepath import ROOT, TreePath, join, name_of, parent_of, parse_tree_path, sort_key
from tests.support import strategies


@pytest.mark.parametrize(
    "path", ["", "a", "a/b", ".a", "a.", "...", "a/..b", " ", "\n", "\udcff", "é/x", "a\\b"]
)
def test_normal_forms_are_taken(path: str) -> None:
    assert parse_tree_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "./a",
        "a/.",
        "a/./b",
        "a/..",
        "../a",
        "a/../b",
        "a\0",
        "\0",
    ],
)
def test_everything_else_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        parse_tree_path(path)
    assert caught.value.path == path
    assert caught.value.reason


@given(st.lists(strategies.names(), min_size=1, max_size=4))
def test_paths_are_taken_apart_as_they_were_put_together(parts: list[str]) -> None:
    path = ROOT
    for part in parts:
        inner = join(path, part)
        assert parent_of(inner) == path
        assert name_of(inner) == part
        path = inner
    assert parse_tree_path(path) == path
    assert path.split("/") == parts


def test_the_root_is_its_own_parent() -> None:
    assert parent_of(ROOT) == ROOT
    assert name_of(ROOT) == ""
    assert join(ROOT, "a") == "a"


def test_the_sort_key_puts_parents_first_and_siblings_in_byte_order() -> None:
    paths = ["", "a", "a/b", "a/b/c", "a/c", "a-b", "a.b", "b", "é", "\udcff"]
    assert sorted([*paths[5:], *paths[:5]], key=sort_key) == paths
    assert sort_key(TreePath("a/b")) == b"a\0b"


@given(st.lists(strategies.names(), min_size=1, max_size=3), strategies.names())
def test_everything_beneath_sorts_behind_and_stays_together(parts: list[str], name: str) -> None:
    path = "/".join(parts)
    key = sort_key(path)
    assert key < sort_key(f"{path}/{name}") < key + b"\x01"


@given(st.binary(min_size=1, max_size=20))
def test_any_bytes_can_be_carried(raw: bytes) -> None:
    name = os.fsdecode(raw.replace(b"/", b"").replace(b"\0", b"") or b"x")
    if name not in (".", ".."):
        assert os.fsencode(parse_tree_path(name)) == os.fsencode(name)
