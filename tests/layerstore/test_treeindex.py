import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.changeset import (
    Change,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.digest import Digest
from layerstore.errors import StoreError
from layerstore.overlaydir import survey, write
from layerstore.toc import TocEntry
from layerstore.treediff import changes as tree_changes
from layerstore.treeindex import TreeIndex
from layerstore.treepath import ROOT, TreePath
from tests.support import strategies
from tests.support.trees import apply, make_tree, memory, read_tree

META = Meta(0o644)
DIR = Meta(0o755)


def put(path: str, content: bytes = b"x") -> PutFile:
    return PutFile(TreePath(path), META, len(content), content)


def directory(path: str, meta: Meta = DIR) -> PutDir:
    return PutDir(TreePath(path), meta)


def symlink(path: str, target: str) -> PutSymlink:
    return PutSymlink(TreePath(path), Meta(0o777), target)


def hardlink(path: str, target: str) -> PutHardlink:
    return PutHardlink(TreePath(path), TreePath(target))


def remove(path: str) -> Remove:
    return Remove(TreePath(path))


def opaque(path: str) -> Opaque:
    return Opaque(TreePath(path))


def stacked(*layers: list[Change]) -> TreeIndex:
    index = TreeIndex()
    for layer in layers:
        index.add_layer(survey(layer))
    return index


def paths(index: TreeIndex) -> list[str]:
    return [node.entry.path for node in index.walk() if node.entry.path]


def kind(index: TreeIndex, path: str) -> str:
    node = index.get(path)
    assert node is not None
    return node.entry.kind


BASE: list[Change] = [
    directory("etc"),
    put("etc/passwd", b"root"),
    directory("usr"),
    directory("usr/lib"),
    put("usr/lib/so"),
    symlink("lib", "usr/lib"),
    directory("data"),
    put("data/a"),
    directory("data/sub"),
    put("data/sub/b"),
]


def test_a_path_belongs_to_the_topmost_layer_that_puts_it() -> None:
    index = stacked(BASE, [directory("etc"), put("etc/passwd", b"new"), put("etc/more")])
    node = index.get("etc/passwd")
    assert node is not None
    assert (node.layer, node.entry.digest) == (1, Digest.of(b"new"))
    below = index.get("usr/lib/so")
    assert below is not None
    assert below.layer == 0
    assert index.get("missing") is None


def test_the_root_is_always_there() -> None:
    node = TreeIndex().get(ROOT)
    assert node is not None
    assert (node.entry.kind, node.layer) == ("dir", None)
    index = stacked([directory("", Meta(0o700)), put("a")], [put("b")])
    root = index.get("")
    assert root is not None
    assert (root.entry.meta.mode, root.layer) == (0o700, 0)
    assert index.children("") == ["a", "b"]


def test_removals_take_all_beneath() -> None:
    index = stacked(BASE, [remove("data"), directory("etc"), remove("etc/passwd")])
    assert paths(index) == ["etc", "lib", "usr", "usr/lib", "usr/lib/so"]
    assert index.children("etc") == []


def test_removals_of_what_is_not_there_change_nothing() -> None:
    index = stacked(BASE, [remove("nothing"), remove("no/where"), remove("lib/so")])
    assert paths(index) == paths(stacked(BASE))


def test_opaque_directories_keep_their_own_layers_content_only() -> None:
    index = stacked(BASE, [directory("data"), opaque("data"), put("data/new")])
    assert index.children("data") == ["new"]
    assert index.get("data/sub/b") is None


def test_an_opaque_root_hides_everything() -> None:
    index = stacked(BASE, [opaque(""), put("alone")])
    assert paths(index) == ["alone"]


def test_directories_merge_and_take_the_upper_attributes() -> None:
    index = stacked(BASE, [directory("data", Meta(0o700))])
    node = index.get("data")
    assert node is not None
    assert (node.entry.meta.mode, node.layer) == (0o700, 1)
    assert index.children("data") == ["a", "sub"]


def test_other_types_replace_with_everything_beneath() -> None:
    index = stacked(BASE, [put("data")], [directory("data"), put("data/c")])
    assert paths(index) == [
        *("data", "data/c", "etc", "etc/passwd", "lib", "usr", "usr/lib", "usr/lib/so")
    ]


def test_parents_that_no_layer_puts_are_implied() -> None:
    index = stacked([put("a/b/c")])
    assert paths(index) == ["a", "a/b", "a/b/c"]
    assert kind(index, "a/b") == "dir"
    index = stacked([put("a"), put("x")], [put("a/b/c")])
    assert paths(index) == ["a", "a/b", "a/b/c", "x"]


def test_hard_links_are_files_of_their_own_that_know_their_content() -> None:
    index = stacked([put("a", b"1"), hardlink("b", "a"), hardlink("c", "a")], [remove("a")])
    node = index.get("b")
    assert node is not None
    assert (node.entry.kind, node.entry.target, node.entry.path) == ("file", "a", "b")
    assert node.entry.digest == Digest.of(b"1")
    assert index.get("a") is None


def test_hard_links_to_links_and_nodes_are_what_these_are() -> None:
    fifo = PutNode(TreePath("n"), META, "fifo")
    index = stacked([symlink("s", "t"), hardlink("s2", "s"), fifo, hardlink("n2", "n")])
    node = index.get("s2")
    assert node is not None
    assert (node.entry.kind, node.entry.target) == ("symlink", "t")
    assert kind(index, "n2") == "fifo"


def test_children_are_in_byte_order() -> None:
    index = stacked([put(name) for name in ("b", "a.b", "a/c", "é", "\udcff", "Z")])
    assert index.children("") == ["Z", "a", "a.b", "b", "é", "\udcff"]
    assert index.children("b") == index.children("missing") == []


def test_walk_gives_parents_first_and_can_start_anywhere() -> None:
    index = stacked([*BASE, put("data-"), put("data.x")])
    assert [node.entry.path for node in index.walk("data")] == [
        *("data", "data/a", "data/sub", "data/sub/b")
    ]
    assert [path for path in paths(index) if path.startswith("data")] == [
        *("data", "data/a", "data/sub", "data/sub/b", "data-", "data.x")
    ]
    assert [node.entry.path for node in index.walk("etc/passwd")] == ["etc/passwd"]
    assert list(index.walk("missing")) == []


def test_copies_are_independent() -> None:
    first = stacked(BASE)
    assert first.children("data") == ["a", "sub"]
    second = first.copy()
    second.add_layer(survey([remove("data"), put("new")]))
    first.apply_change(put("planned"))
    assert first.get("data/a") is not None
    assert first.get("new") is None
    assert second.get("data/a") is None
    assert second.get("planned") is None
    assert first.children("data") == ["a", "sub"]


def test_planned_changes_have_no_layer() -> None:
    index = stacked(BASE)
    index.apply_change(directory("srv"))
    index.apply_change(put("srv/file"))
    index.apply_change(remove("data"))
    index.apply_change(hardlink("etc/again", "etc/passwd"))
    index.apply_change(symlink("srv/link", "file"))
    index.apply_change(PutNode(TreePath("srv/fifo"), META, "fifo"))
    index.apply_change(opaque("usr"))
    node = index.get("srv/file")
    assert node is not None
    assert node.layer is None
    assert index.children("srv") == ["fifo", "file", "link"]
    assert index.children("usr") == []
    assert index.get("data/sub/b") is None
    linked = index.get("etc/again")
    assert linked is not None
    assert linked.entry.digest == Digest.of(b"root")
    with pytest.raises(StoreError):
        index.apply_change(hardlink("x", "missing"))


# What a name leads to


LINKS: list[Change] = [
    *BASE,
    symlink("abs", "/etc"),
    symlink("rel", "../../../etc/passwd"),
    symlink("data/up", ".."),
    symlink("data/sub/loop", "loop"),
    symlink("ring1", "ring2"),
    symlink("ring2", "ring1"),
    symlink("dangling", "no/where"),
    symlink("chain", "data/up/abs"),
    symlink("slash", "/"),
    symlink("dots", "data/./sub/../sub//"),
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ""),
        ("", ""),
        (".", ""),
        ("..", ""),
        ("/../../etc", "etc"),
        ("/etc/passwd", "etc/passwd"),
        ("etc//./passwd", "etc/passwd"),
        ("lib/so", "usr/lib/so"),
        ("lib/../so", "usr/so"),
        ("abs/passwd", "etc/passwd"),
        ("rel", "etc/passwd"),
        ("data/up/etc", "etc"),
        ("data/up/data/up/etc", "etc"),
        ("chain/passwd", "etc/passwd"),
        ("slash/etc", "etc"),
        ("dots/b", "data/sub/b"),
        ("new", "new"),
        ("new/../etc", "etc"),
        ("lib/new/deep", "usr/lib/new/deep"),
        ("dangling", "no/where"),
        ("dangling/x", "no/where/x"),
        ("etc/", "etc"),
    ],
)
def test_names_lead_where_the_kernel_would_go(path: str, expected: str) -> None:
    assert stacked(LINKS).resolve(path) == expected


@pytest.mark.parametrize(
    ("path", "cwd", "expected"),
    [
        ("passwd", "/etc", "etc/passwd"),
        ("passwd", "/abs", "etc/passwd"),
        ("../passwd", "/usr/lib", "usr/passwd"),
        ("/passwd", "/etc", "passwd"),
        (".", "/data/sub", "data/sub"),
        ("..", "/lib", "usr"),
        ("x", "etc", "etc/x"),
    ],
)
def test_relative_names_start_at_the_working_directory(path: str, cwd: str, expected: str) -> None:
    assert stacked(LINKS).resolve(path, cwd=cwd) == expected


def test_the_last_link_is_followed_only_when_asked_for() -> None:
    index = stacked(LINKS)
    assert index.resolve("lib", follow_last=False) == "lib"
    assert index.resolve("abs", follow_last=False) == "abs"
    assert index.resolve("data/up/lib", follow_last=False) == "lib"
    assert index.resolve("lib/", follow_last=False) == "usr/lib"
    assert index.resolve("data/sub/loop", follow_last=False) == "data/sub/loop"


@pytest.mark.parametrize("path", ["ring1", "ring1/x", "data/sub/loop", "data/sub/loop/../x"])
def test_loops_are_an_error(path: str) -> None:
    with pytest.raises(StoreError, match="symbolic links"):
        stacked(LINKS).resolve(path)


@pytest.mark.parametrize("path", ["etc/passwd/x", "rel/x", "etc/passwd/..", "a\0b"])
def test_a_file_on_the_way_is_an_error(path: str) -> None:
    with pytest.raises(StoreError):
        stacked(LINKS).resolve(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "l", "m", "n"]), min_size=1, max_size=8))
def test_resolving_agrees_with_the_kernel(parts: list[str]) -> None:
    """The kernel resolves beneath a chroot; here, beneath a tree whose links stay inside."""
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        root = make_tree(
            Path(work, "root"),
            {"a/b/a": b"", "b/a/b/x": b"", "l": "a", "a/l": "../b", "m": "a/l/a", "b/n": "../l/b"},
        )
        index = TreeIndex()
        index.add_layer(survey(tree_changes(None, root)))
        name = "/".join(parts)
        try:
            real = os.path.realpath(f"{root}/./{name}", strict=True)
        except OSError:
            return
        if not f"{real}/".startswith(f"{root}/") or _leaves(parts):
            return
        assert index.resolve(name) == str(Path(real).relative_to(root)).removeprefix(".")


def _leaves(parts: list[str]) -> bool:
    """Whether `..` could have gone above the root, where a chroot would stop."""
    return parts.count("..") > 2


# Against the real thing


@pytest.mark.needs_root
@settings(max_examples=25, deadline=None)
@given(st.lists(strategies.changesets(), min_size=1, max_size=3))
def test_it_shows_what_applying_the_layers_gives(layers: list[list[Change]]) -> None:
    index = TreeIndex()
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        root = Path(work, "root")
        root.mkdir()
        for number, layer in enumerate(layers):
            place = Path(work, str(number))
            place.mkdir()
            index.add_layer(write(layer, place))
            apply(layer, root)
        expected = read_tree(root)
    shown = {node.entry.path: node.entry for node in index.walk() if node.entry.path}
    assert shown.keys() == expected.keys()
    for path, entry in shown.items():
        seen = expected[path]
        assert (entry.kind, entry.meta.uid, entry.meta.mtime_ns) == (
            seen.type,
            seen.uid,
            seen.mtime_ns,
        )
        if entry.kind == "file":
            assert entry.digest == Digest.of(seen.content)
        elif entry.kind == "symlink":
            assert entry.target == seen.target


def test_a_base_image_is_indexed_in_no_time() -> None:
    rows = [TocEntry(TreePath(f"d{number}"), "dir", DIR) for number in range(500)]
    rows += [
        TocEntry(TreePath(f"d{number % 500}/f{number}"), "file", META) for number in range(10_000)
    ]
    started = time.perf_counter()
    index = TreeIndex()
    index.add_layer(rows)
    for _ in range(100):
        index.copy()
    index.add_layer([TocEntry(TreePath(f"d{number}"), "remove", META) for number in range(400)])
    assert len(paths(index)) == 100 + 2000
    assert time.perf_counter() - started < 1


def test_deep_trees_do_not_recurse() -> None:
    deep = "/".join(["d"] * 3000)
    index = stacked([put(deep)])
    assert len(paths(index)) == 3000
    assert index.resolve(deep) == deep
    index.apply_change(remove("d"))
    assert paths(index) == []
