"""Merged layers make the tree that the layers make, and hold nothing more than they must."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import Layer, Store, tree_changes
from layerstore.changeset import (
    Change,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    Remove,
)
from layerstore.layers import in_user_namespace
from layerstore.merge import merged_changes
from layerstore.treepath import TreePath
from tests.support.imagetree import difference, stack
from tests.support.trees import (
    GID,
    TIME_NS,
    UID,
    Dir,
    File,
    Item,
    Node,
    SameFile,
    make_tree,
    memory,
)

META = Meta(0o644)
DIR = Meta(0o755)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def blobs(store: Store, layers: Sequence[Layer]) -> list[Path]:
    store.flush()
    return [store.blob_path(layer.descriptor.digest) for layer in layers]


def merged(store: Store, layers: Sequence[Layer], below: int) -> Layer:
    return store.layers.commit(merged_changes(store.layers, layers, below=below))


def check_same_tree(store: Store, layers: Sequence[Layer], below: int) -> Layer:
    """Read by tarfile and the rules of the specification, not by the code under test."""
    layer = merged(store, layers, below)
    expected = stack(blobs(store, layers))
    actual = stack(blobs(store, [*layers[:below], layer]))
    assert difference(expected, actual) == []
    assert {path: entry.mtime for path, entry in expected.items()} == {
        path: entry.mtime for path, entry in actual.items()
    }
    return layer


def commit(store: Store, *changes: Change) -> Layer:
    return store.layers.commit(changes)


def file(path: str, content: bytes = b"x", meta: Meta = META) -> PutFile:
    return PutFile(TreePath(path), meta, len(content), content)


def directory(path: str, meta: Meta = DIR) -> PutDir:
    return PutDir(TreePath(path), meta)


def rows(store: Store, layer: Layer) -> list[tuple[str, str]]:
    return [(row.kind, row.path) for row in store.layers.toc(layer)]


def test_what_came_and_went_is_not_there(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/base")),
        commit(store, directory("d"), file("d/new"), file("secret")),
        commit(store, Remove(TreePath("secret")), directory("d"), Remove(TreePath("d/new"))),
    ]
    assert rows(store, check_same_tree(store, layers, 1)) == [("dir", "d")]


def test_a_removal_of_what_lies_below_stays_one(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/a"), file("d/b")),
        commit(store, directory("d"), Remove(TreePath("d/a"))),
        commit(store, directory("d"), file("d/c")),
    ]
    layer = check_same_tree(store, layers, 1)
    assert rows(store, layer) == [("dir", "d"), ("remove", "d/a"), ("file", "d/c")]


def test_without_layers_below_nothing_is_removed(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/a"), file("d/b")),
        commit(store, directory("d"), Remove(TreePath("d/a"))),
        commit(store, Remove(TreePath("d"))),
        commit(store, directory("d", Meta(0o700)), Opaque(TreePath("d")), file("d/new")),
    ]
    assert rows(store, check_same_tree(store, layers, 0)) == [("dir", "d"), ("file", "d/new")]


def test_a_directory_that_was_emptied_and_made_again_hides_what_lies_below(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/a"), directory("d/in"), file("d/in/b")),
        commit(store, Remove(TreePath("d"))),
        commit(store, directory("d", Meta(0o711, 5, 6)), file("d/new")),
    ]
    layer = check_same_tree(store, layers, 1)
    assert rows(store, layer) == [
        ("dir", "d"),
        ("remove", "d/a"),
        ("remove", "d/in"),
        ("file", "d/new"),
    ]


def test_a_file_in_place_of_a_directory_needs_no_removal(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/a")),
        commit(store, file("other")),
        commit(store, file("d", b"now a file")),
    ]
    assert rows(store, check_same_tree(store, layers, 1)) == [("file", "d"), ("file", "other")]


def test_a_directory_in_place_of_a_file(store: Store) -> None:
    layers = [
        commit(store, file("p")),
        commit(store, Remove(TreePath("p"))),
        commit(store, directory("p"), file("p/q")),
    ]
    assert rows(store, check_same_tree(store, layers, 1)) == [("dir", "p"), ("file", "p/q")]


def test_directories_on_the_way_have_the_attributes_they_have_below(store: Store) -> None:
    """Also where the layer itself does not put them, as layers of other builders may."""
    layers = [
        commit(
            store, directory("a", Meta(0o700, 3, 4, 5 * 10**9)), directory("a/b"), file("a/b/c")
        ),
        commit(store, directory("a/b"), Remove(TreePath("a/b/c"))),
    ]
    layer = merged(store, layers, 1)
    first = store.layers.toc(layer)[0]
    assert (first.path, first.meta) == ("a", Meta(0o700, 3, 4, 5 * 10**9))


def test_hard_links_stay_linked_when_their_first_name_goes(store: Store) -> None:
    layers = [
        commit(store, file("base")),
        commit(
            store,
            file("a", b"linked"),
            PutHardlink(TreePath("b"), TreePath("a")),
            PutHardlink(TreePath("c"), TreePath("a")),
        ),
        commit(store, Remove(TreePath("a"))),
    ]
    layer = check_same_tree(store, layers, 1)
    assert rows(store, layer) == [("file", "b"), ("hardlink", "c")]


def test_a_name_that_was_replaced_leaves_its_hard_links(store: Store) -> None:
    layers = [
        commit(store, file("a", b"old"), PutHardlink(TreePath("b"), TreePath("a"))),
        commit(store, file("a", b"new")),
    ]
    assert rows(store, check_same_tree(store, layers, 0)) == [("file", "a"), ("file", "b")]


def test_large_contents_are_not_held(store: Store) -> None:
    large = b"0123456789abcdef" * (128 * 1024)
    layers = [commit(store, file("large", large)), commit(store, file("small"))]
    contents = [
        change.content
        for change in merged_changes(store.layers, layers)
        if isinstance(change, PutFile)
    ]
    assert [isinstance(content, bytes) for content in contents] == [False, True]
    check_same_tree(store, layers, 0)


def test_merging_again_gives_the_same_layer(store: Store) -> None:
    layers = [
        commit(store, directory("d"), file("d/a")),
        commit(store, directory("d"), file("d/b"), Remove(TreePath("d/a"))),
    ]
    assert merged(store, layers, 0).diff_id == merged(store, layers, 0).diff_id


NAMES = ("a", "b", "a/x", "a/y", "b/x", "a/x/deep", "c", "c/x")


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Item]:
    """A tree of few names, so that two of them have much to do with each other."""
    items: dict[str, Item] = {}
    files: list[str] = []
    times = st.sampled_from([TIME_NS, TIME_NS + 10**9, 5 * 10**9])
    owners = st.sampled_from([UID] if in_user_namespace() or UID else [0, 1, 1000])
    for name in NAMES:
        parent = name.rpartition("/")[0]
        if parent and not isinstance(items.get(parent), Dir):
            continue
        modes = st.sampled_from([0o755, 0o700, 0o4711, 0o1777])
        match draw(st.sampled_from(["none", "dir", "dir", "file", "file", "link", "same", "fifo"])):
            case "dir":
                items[name] = Dir(draw(modes), draw(owners), GID, draw(times))
            case "file":
                xattrs = draw(st.sampled_from([(), (("user.a", b"1"),)]))
                content = draw(st.sampled_from([b"", b"one", b"two"]))
                items[name] = File(content, draw(modes), draw(owners), GID, draw(times), xattrs)
                files.append(name)
            case "link":
                items[name] = draw(st.sampled_from(["a", "../b", "/etc"]))
            case "same" if files:
                items[name] = SameFile(draw(st.sampled_from(files)))
            case "fifo":
                items[name] = Node()
                files.append(name)  # fifos can be linked, too
            case _:
                continue
    return items


@settings(max_examples=60, deadline=None)
@given(states=st.lists(trees(), min_size=2, max_size=4), data=st.data())
def test_merged_layers_make_the_same_tree(
    states: list[dict[str, Item]], data: st.DataObject
) -> None:
    work = Path(tempfile.mkdtemp(prefix="merge-", dir=memory()))
    try:
        with Store.open(work / "store") as store:
            layers = []
            before: Path | None = None
            for number, items in enumerate(states):
                after = make_tree(work / str(number), items)
                layers.append(store.layers.commit(tree_changes(before, after)))
                before = after
            below = data.draw(st.integers(0, len(layers) - 1))
            layer = check_same_tree(store, layers, below)
            if below == 0:
                assert not {kind for kind, _ in rows(store, layer)} & {"remove", "opaque"}
    finally:
        shutil.rmtree(work)
