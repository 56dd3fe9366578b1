"""Selecting from a tree: links, wildcards, and the digest that is a COPY's identity."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.context import ContextTree
from builder.filters import Filter, exclusion, inclusion
from builder.sources import (
    FileTree,
    LayerTree,
    LazyTree,
    Selection,
    SourceLoopError,
    SourceTree,
    digest_of,
    matches,
    newest_file_s,
    resolve,
    select,
    walk,
)
from layerstore import Digest, Layer, Meta, Opaque, PutFile, Remove, Store, TreePath
from tests.support.layers import bytes_of, changes_of, make_layer
from tests.support.sources import (
    LONG_AGO_S,
    DictTree,
    Dir,
    Fifo,
    File,
    Hard,
    Items,
    Link,
    write_files,
)

TREE: Items = {
    "a.txt": b"a",
    "b.txt": b"b",
    "dir/one.go": b"1",
    "dir/two.go": b"2",
    "dir/sub/three.go": b"3",
    "other/one.go": b"4",
    "link": Link("dir"),
    "abs": Link("/dir/sub"),
    "up": Link("../../../a.txt"),
    "dangling": Link("absent/deep"),
    "loop1": Link("loop2"),
    "loop2": Link("loop1"),
    "dir/back": Link("../a.txt"),
    "star*": b"*",
}


def selected(items: Items, path: str) -> Selection:
    selection = select(DictTree(items), path)
    assert selection is not None
    return selection


def digest(items: Items, path: str = "") -> str:
    return selected(items, path).digest


# Links.


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ""),
        ("/", ""),
        (".", ""),
        ("a.txt", "a.txt"),
        ("/a.txt/", "a.txt"),
        ("./dir/./one.go", "dir/one.go"),
        ("dir/../a.txt", "a.txt"),
        ("../../a.txt", "a.txt"),
        ("link/one.go", "dir/one.go"),
        ("link", "dir"),
        ("abs/three.go", "dir/sub/three.go"),
        ("abs/..", "dir"),
        ("up", "a.txt"),
        ("dir/back", "a.txt"),
        ("link/back", "a.txt"),
        ("dangling", "absent/deep"),
        ("dangling/more", "absent/deep/more"),
        ("absent/x/../y", "absent/y"),
    ],
)
def test_links_are_followed_inside_the_source(path: str, expected: str) -> None:
    assert resolve(DictTree(TREE), path) == expected


def test_a_loop_of_links_is_an_error_that_names_the_path_and_the_source() -> None:
    with pytest.raises(SourceLoopError, match=r"'loop1' in the dictionary"):
        resolve(DictTree(TREE), "loop1")


def test_a_link_that_leads_outside_ends_at_the_top() -> None:
    items: Items = {"passwd": Link("/etc/passwd"), "etc/passwd": b"the context's own"}
    assert resolve(DictTree(items), "passwd") == "etc/passwd"
    assert select(DictTree({"passwd": Link("../../../../etc/passwd")}), "passwd") is None


# Wildcards.


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[b-z].txt", ["b.txt"]),
        ("*/one.go", ["dir/one.go", "other/one.go"]),
        ("dir/*.go", ["dir/one.go", "dir/two.go"]),
        ("d*/*/t*", ["dir/sub/three.go"]),
        ("link/*.go", ["dir/one.go", "dir/two.go"]),
        ("li*/one.go", []),
        ("li*", ["link"]),
        ("o*/o?e.go", ["other/one.go"]),
        ("./dir//*.go", ["dir/one.go", "dir/two.go"]),
        ("star\\*", ["star*"]),
        ("nothing*", []),
        ("absent/*", []),
        ("a.txt/*", []),
        ("*/absent", []),
    ],
)
def test_wildcards_match_component_by_component(pattern: str, expected: list[str]) -> None:
    assert matches(DictTree(TREE), pattern) == expected


def test_names_that_begin_with_a_dot_match_too() -> None:
    assert matches(DictTree({".a": b"", "b": b""}), "*") == [".a", "b"]


def test_matches_come_in_byte_order_directory_by_directory() -> None:
    items: Items = {"B": b"", "a": b"", "é": b"", "\udcff": b""}
    assert matches(DictTree(items), "*") == ["B", "a", "é", "\udcff"]
    assert matches(DictTree({"a-/x": b"", "a/x": b""}), "*/x") == ["a/x", "a-/x"]


# Walking.


def test_a_walk_goes_parents_first_in_byte_order_and_follows_nothing() -> None:
    items: Items = {"d/b/x": b"", "d/a": b"", "d/b.c": b"", "d/l": Link("b")}
    assert [relative for relative, _, _ in walk(DictTree(items), TreePath("d"))] == [
        "a",
        "b",
        "b/x",
        "b.c",
        "l",
    ]


def test_a_walk_of_the_whole_tree_gives_whole_paths() -> None:
    tree = DictTree({"d/e": b"", "f": b""})
    assert [(relative, entry.path) for relative, entry, _ in walk(tree, TreePath(""))] == [
        ("d", "d"),
        ("d/e", "d/e"),
        ("f", "f"),
    ]


def test_a_walk_of_a_file_is_empty() -> None:
    assert list(walk(DictTree({"f": b""}), TreePath("f"))) == []


# Selections.


def test_a_selection_has_the_name_it_was_asked_for() -> None:
    assert selected(TREE, "dir/one.go").name == "one.go"
    assert selected(TREE, "up").name == "up"
    assert selected(TREE, "up").path == "a.txt"
    assert selected(TREE, "link/back").name == "back"


def test_the_name_of_a_directory_does_not_matter() -> None:
    for path in ("link", "dir/", "dir/sub/..", "."):
        assert selected(TREE, path).name == "", path
    assert selected(TREE, "link").path == "dir"


def test_what_is_not_there_is_not_selected() -> None:
    for path in ("absent", "dangling", "a.txt/x", "dir/absent"):
        assert select(DictTree(TREE), path) is None, path


def test_a_selection_is_compared_by_what_it_is_and_not_by_where_it_lies() -> None:
    left = selected({"x/f": b"same"}, "x/f")
    right = selected({"y/z/f": b"same", "more": b""}, "y/z/f")
    assert left == right
    assert hash(left) == hash(right)
    assert left.path != right.path


def test_selecting_a_directory_reads_no_content_that_its_digest_does_not_need() -> None:
    tree = DictTree(TREE)
    select(tree, "dir")
    assert tree.reads == 0


BASE: Items = {
    "d/f": File(content=b"x", mode=0o644),
    "d/g": b"g",
    "d/sub/h": b"h",
    "d/l": Link("f"),
    "d/p": Fifo(),
}


@pytest.mark.parametrize(
    ("what", "items"),
    [
        ("content", {"d/f": File(content=b"y")}),
        ("size", {"d/f": File(content=b"xx")}),
        ("mode", {"d/f": File(content=b"x", mode=0o600)}),
        ("setuid", {"d/f": File(content=b"x", mode=0o4644)}),
        ("owner", {"d/f": File(content=b"x", uid=1)}),
        ("group", {"d/f": File(content=b"x", gid=1)}),
        ("attribute", {"d/f": File(content=b"x", xattrs={"user.a": b"1"})}),
        ("link target", {"d/l": Link("g")}),
        ("kind", {"d/p": b""}),
        ("new file", {"d/new": b""}),
        ("new directory", {"d/new": Dir()}),
        ("directory's mode", {"d/sub": Dir(mode=0o700)}),
        ("hard link", {"d/f": File(content=b"x"), "d/g": Hard("d/f")}),
    ],
)
def test_the_digest_reacts_to(what: str, items: Items) -> None:
    assert digest({**BASE, **items}, "d") != digest(BASE, "d"), what


def test_the_digest_reacts_to_renames_and_removals() -> None:
    renamed = {("d/k" if name == "d/g" else name): item for name, item in BASE.items()}
    removed = {name: item for name, item in BASE.items() if name != "d/g"}
    assert len({digest(tree, "d") for tree in (BASE, renamed, removed)}) == 3


def test_the_digest_does_not_react_to_times_or_to_anything_outside() -> None:
    same = {**BASE, "d/f": File(content=b"x", mtime_s=99), "outside": b"", "d2/f": b""}
    assert digest(same, "d") == digest(BASE, "d")
    moved: Items = {name.replace("d/", "elsewhere/", 1): item for name, item in BASE.items()}
    assert digest(moved, "elsewhere") == digest(BASE, "d")


def test_names_and_contents_can_not_be_shifted_into_one_another() -> None:
    assert digest({"d/ab": b"c"}, "d") != digest({"d/a": b"bc"}, "d")
    assert digest({"d/a": b"", "d/b": b""}, "d") != digest({"d/a": b"", "d/b": Dir()}, "d")
    assert digest({"d/a": Link("b")}, "d") != digest({"d/a": b"b"}, "d")


def test_which_names_are_linked_is_part_of_the_digest() -> None:
    pairs: Items = {"d/a": b"x", "d/b": Hard("d/a"), "d/c": b"x", "d/d": Hard("d/c")}
    crossed: Items = {"d/a": b"x", "d/c": Hard("d/a"), "d/b": b"x", "d/d": Hard("d/b")}
    assert digest(pairs, "d") != digest(crossed, "d")


def test_a_link_to_a_name_outside_of_the_selection_does_not_count() -> None:
    linked: Items = {"d/a": b"x", "outside": Hard("d/a")}
    assert digest(linked, "d") == digest({"d/a": b"x"}, "d")


def filtered(include: str | None, *exclude: str) -> Filter:
    return Filter(
        include=None if include is None else inclusion(include), exclude=exclusion(exclude)
    )


def test_excluded_paths_are_neither_selected_nor_part_of_the_digest() -> None:
    tree = DictTree({"d/keep": b"1", "d/drop": b"2", "d/sub/drop": b"3"})
    only = filtered(None, "**/drop", "sub")
    selection = select(tree, "d", only=only)
    assert selection is not None
    assert selection.digest == digest({"d/keep": b"1"}, "d")
    assert selection.only is only


def test_a_selection_of_nothing_says_so() -> None:
    tree = DictTree({"d/a": b"1", "empty": Dir()})
    for path, only, expected in (
        ("d", None, False),
        ("d", filtered(None, "*"), True),
        ("d", filtered("b"), True),
        ("d/a", filtered("b"), False),
        ("empty", None, True),
    ):
        selection = select(tree, path, only=only)
        assert selection is not None
        assert selection.is_empty is expected, (path, only)


FILTERED: Items = {
    "a/b/c/x": b"x",
    "a/b/c/y": b"y",
    "a/b/z": b"z",
    "a/e/x": b"x",
    "f/x": b"x",
    "x": b"x",
}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("a/b/c", [], ["(a)", "(a/b)", "a/b/c", "a/b/c/x", "a/b/c/y"]),
        ("a/*/x", [], ["(a)", "(a/e)", "a/e/x"]),
        ("**/x", [], ["(a)", "(a/b)", "(a/b/c)", "a/b/c/x", "(a/e)", "a/e/x", "(f)", "f/x", "x"]),
        ("*", ["*/*"], ["a", "f", "x"]),
        ("a", ["**/x", "a/b/z"], ["a", "a/b", "a/b/c", "a/b/c/y", "a/e"]),
        (None, ["a", "!a/b/z", "f"], ["(a)", "(a/b)", "a/b/z", "x"]),
        (None, ["a", "!a/nothing"], ["f", "f/x", "x"]),
        ("nothing/**/x", [], []),
    ],
)
def test_a_filtered_walk_gives_the_way_to_what_it_takes(
    include: str | None, exclude: list[str], expected: list[str]
) -> None:
    found = walk(DictTree(FILTERED), TreePath(""), filtered(include, *exclude))
    assert [path if taken else f"({path})" for path, _, taken in found] == expected


@given(
    include=st.none() | st.sampled_from(["*", "**", "a/*", "**/x", "a/**/x", "a/b", "[af]/?", "x"]),
    exclude=st.lists(
        st.sampled_from(["*", "a", "!a/b", "**/x", "!**/x", "a/b/c", "!a/b/c/y", "f"]), max_size=3
    ),
)
def test_looking_only_where_something_may_be_misses_nothing(
    include: str | None, exclude: list[str]
) -> None:
    only = filtered(include, *exclude)
    everything = [path for path, _, _ in walk(DictTree(FILTERED), TreePath(""))]
    found = [path for path, _, taken in walk(DictTree(FILTERED), TreePath(""), only) if taken]
    assert found == [path for path in everything if only.takes(path)]


def test_a_directory_that_only_leads_somewhere_is_another_selection() -> None:
    tree = DictTree({"d/sub/f": b""})
    whole, part = select(tree, "d"), select(tree, "d", only=filtered("sub/f"))
    assert whole and part
    assert whole.digest != part.digest


def test_looking_beneath_what_cannot_match_is_spared() -> None:
    class Counting(DictTree):
        asked: ClassVar[list[str]] = []

        def children(self, path: TreePath) -> list[str]:
            self.asked.append(path)
            return super().children(path)

    list(walk(Counting(FILTERED), TreePath(""), filtered("a/b/*", "a/b/c")))
    assert Counting.asked == ["", "a", "a/b"]


def test_a_context_and_a_dictionary_of_the_same_files_have_the_same_digest(tmp_path: Path) -> None:
    """The digest belongs to what is selected, not to the kind of source."""
    items: Items = {
        "d": Dir(),
        "d/f": File(content=b"x", mode=0o755),
        "d/l": Link("f"),
        "d/h": Hard("d/f"),
        "d/s": Dir(mode=0o700),
    }
    tree = ContextTree(write_files(tmp_path, items))
    found = select(tree, "d")
    tree.close()
    assert found is not None
    assert found.digest == digest(items, "d")


CONTENTS = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.binary(max_size=3), max_size=4)


@settings(max_examples=100, deadline=None)
@given(left=CONTENTS, right=CONTENTS)
def test_equal_directories_have_equal_digests_and_others_have_not(
    left: dict[str, bytes], right: dict[str, bytes]
) -> None:
    def wrapped(files: dict[str, bytes]) -> Items:
        return {"d": Dir(), **{f"d/{name}": content for name, content in files.items()}}

    assert (digest(wrapped(left), "d") == digest(wrapped(right), "d")) is (left == right)


# Layers as a source.


def layer_tree(store: Store, *layers: Items) -> LayerTree:
    made = tuple(make_layer(store, items) for items in layers)
    return LayerTree(made, store.layers, description="the stage 'build'")


def content_of(tree: LayerTree, path: str) -> bytes:
    entry = tree.get(TreePath(path))
    assert entry is not None
    return bytes_of(tree.content(entry))


def test_a_stack_of_layers_shows_what_is_on_top(store: Store) -> None:
    tree = layer_tree(store, {"a": b"old", "d/b": b"b"}, {"a": b"new", "d/c": b"c"})
    assert tree.description == "the stage 'build'"
    assert tree.children(TreePath("")) == ["a", "d"]
    assert tree.children(TreePath("d")) == ["b", "c"]
    assert tree.children(TreePath("a")) == []
    assert (content_of(tree, "a"), content_of(tree, "d/b")) == (b"new", b"b")
    assert tree.get(TreePath("absent")) is None
    assert tree.get(TreePath("a/x")) is None


def test_removals_and_opaque_directories_never_show(store: Store) -> None:
    lower = make_layer(store, {"gone": b"", "d/old": b"", "kept": b""})
    upper = store.layers.commit(
        [
            Remove(TreePath("gone")),
            *changes_of({"d/new": b""}),
            Opaque(TreePath("d")),
            PutFile(TreePath("d/x"), Meta(0o644), 0, b""),
        ]
    )
    tree = LayerTree((lower, upper), store.layers, description="")
    assert [relative for relative, _, _ in walk(tree, TreePath(""))] == [
        "d",
        "d/new",
        "d/x",
        "kept",
    ]


def test_every_kind_and_attribute_comes_out_of_a_layer(store: Store) -> None:
    tree = layer_tree(
        store,
        {
            "file": File(content=b"x", mode=0o4711, uid=1, gid=2, xattrs={"user.a": b"1"}),
            "link": Link("file"),
            "pipe": Fifo(mode=0o640),
            "dir": Dir(mode=0o1777),
        },
    )
    file, link = tree.get(TreePath("file")), tree.get(TreePath("link"))
    pipe, directory = tree.get(TreePath("pipe")), tree.get(TreePath("dir"))
    assert file and link and pipe and directory
    assert (file.meta.mode, file.meta.uid, file.meta.gid) == (0o4711, 1, 2)
    assert file.meta.xattrs == (("user.a", b"1"),)
    assert (link.kind, link.target) == ("symlink", "file")
    assert (pipe.kind, pipe.meta.mode) == ("fifo", 0o640)
    assert (directory.kind, directory.meta.mode) == ("dir", 0o1777)


def test_hard_links_of_a_layer_are_groups_until_a_layer_above_replaces_one(store: Store) -> None:
    lower: Items = {"a": b"old", "b": Hard("a"), "c": Hard("a"), "d": b"old"}
    tree = layer_tree(store, lower)
    groups = [getattr(tree.get(TreePath(name)), "link_group", None) for name in "abcd"]
    assert groups[0] == groups[1] == groups[2] != groups[3]
    tree = layer_tree(store, lower, {"a": b"new"})
    groups = [getattr(tree.get(TreePath(name)), "link_group", None) for name in "abcd"]
    assert groups[1] == groups[2] != groups[0]
    assert [content_of(tree, name) for name in "abc"] == [b"new", b"old", b"old"]


def test_a_directory_of_a_layer_is_selected_like_any_other(store: Store) -> None:
    items: Items = {"d/f": b"x", "d/g": Hard("d/f"), "d/l": Link("f")}
    found = select(layer_tree(store, items), "d")
    assert found is not None
    assert found.digest == digest(items, "d")


def test_a_large_file_of_a_layer_is_streamed(store: Store) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB
    tree = layer_tree(store, {"large": data})
    assert content_of(tree, "large") == data


def test_no_layers_are_an_empty_directory(store: Store) -> None:
    tree = layer_tree(store)
    top = tree.get(TreePath(""))
    assert top is not None
    assert top.kind == "dir"
    assert tree.children(TreePath("")) == []


# Trees of one file, and trees that are opened late.


def test_one_file_is_a_tree() -> None:
    tree = FileTree("f", Meta(0o600, mtime_ns=5), 4, lambda: iter([b"te", b"xt"]), description="x")
    assert [path for path, _, _ in walk(tree, TreePath(""))] == ["f"]
    entry = tree.get(TreePath("f"))
    assert entry is not None
    assert (entry.meta.mode, entry.size_bytes) == (0o600, 4)
    assert tree.digest(entry) == Digest.of(b"text") == digest_of(b"text")
    assert bytes_of(tree.content(entry)) == b"text"
    assert tree.get(TreePath("g")) is None
    assert tree.children(TreePath("f")) == []
    assert tree.description == "x"


def test_a_lazy_tree_is_opened_when_it_is_looked_into_and_once() -> None:
    opened: list[DictTree] = []

    def open_tree() -> SourceTree:
        opened.append(DictTree({"d/f": b"1"}))
        return opened[-1]

    tree = LazyTree(open_tree, description="far away")
    assert tree.description == "far away"
    assert opened == []
    assert tree.children(TreePath("d")) == ["f"]
    entry = tree.get(TreePath("d/f"))
    assert entry is not None
    assert tree.digest(entry) == Digest.of(b"1")
    assert tree.content(entry) == b"1"
    assert len(opened) == 1


def test_the_newest_file_counts_and_directories_do_not() -> None:
    tree = DictTree({"a": File(mtime_s=1), "d": Dir(mtime_s=9), "d/b": File(mtime_s=3)})
    assert newest_file_s(tree) == 3
    assert newest_file_s(DictTree({"d": Dir()})) is None


def test_all_of_a_stack_is_known_by_what_its_layers_hold(store: Store) -> None:
    def everything(*layers: Layer) -> Selection:
        return LayerTree(layers, store.layers, description="base").everything()

    one = make_layer(store, {"a": b"1"})
    later = store.layers.commit(changes_of({"a": b"1"}, mtime_s=LONG_AGO_S + 1))
    assert (everything(one).kind, everything(one).path) == ("dir", "")
    assert later.diff_id != one.diff_id
    assert everything(later) == everything(one)
    assert everything(make_layer(store, {"a": b"2"})) != everything(one)
    assert everything(one, make_layer(store, {"b": b"1"})) != everything(one)
    assert everything() != everything(one)


@given(
    name=st.text(min_size=1, max_size=12).filter(lambda text: "/" not in text and "\0" not in text),
    content=st.binary(max_size=9),
    mode=st.integers(0, 0o7777),
)
def test_a_listing_is_json_whatever_the_names(name: str, content: bytes, mode: int) -> None:
    """Plain files are written in a faster way; it must be the same line."""
    if name in (".", ".."):
        return
    tree = DictTree({name: File(content=content, mode=mode)})
    selection = select(tree, "/")
    assert selection is not None
    rows = [json.loads(line) for line in selection.listing.splitlines()]
    row = next(row for row in rows if row[0] == name)
    assert row == [name, "file", mode, 0, 0, [], Digest.of(content), 0, 0, None]
    assert json.dumps(row).encode() in selection.listing
