"""What COPY, ADD and WORKDIR make of a tree, as changes and as the layer that comes of them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import BuilderError, LoweringError
from builder.fileops import FileChanges, Ownership
from builder.filters import Filter, exclusion, inclusion
from builder.modes import parse_mode
from builder.sources import Selection, select
from builder.steps import InlineFile
from layerstore import (
    Change,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
    StoreError,
    TreeIndex,
    TreePath,
    pack,
)
from tests.support.layers import changes_of
from tests.support.sources import DictTree, Dir, Fifo, File, Hard, Items, Link, Socket

NOW_NS = 1_600_000_000 * 10**9
KEEP = Ownership()

BASE: Items = {
    "etc/passwd": b"root",
    "app": Dir(mode=0o750, uid=7, gid=8, mtime_s=5),
    "app/old": b"old",
    "app/sub": Dir(mode=0o700, uid=7, gid=8),
    "usr/lib/x": b"x",
    "lib": Link("usr/lib"),
    "latest": Link("app/old"),
    "dangling": Link("/new/place"),
    "loop": Link("loop"),
    "out": Link("../../../../etc"),
}


class Bench:
    """A file system to work on, and what the work changed."""

    def __init__(self, base: Items | None = None) -> None:
        self.tree = TreeIndex()
        below = changes_of(BASE if base is None else base)
        self.tree.add_layer(pack(below, lambda data: None).toc)
        self.collected = FileChanges(
            self.tree, now_ns=NOW_NS, read=lambda node: f"below: {node.entry.path}".encode()
        )

    def copy(self, items: Items, source: str, destination: str, owner: Ownership = KEEP) -> None:
        self.collected.copy(selected(items, source), destination, owner)

    def unpack(self, *changes: Change, to: str = "/", owner: Ownership = KEEP) -> None:
        self.collected.unpack(iter(changes), to, owner)

    def changes(self) -> dict[str, Change]:
        found = {change.path: change for change in self.collected.changes()}
        return dict(sorted(found.items()))

    def made(self) -> dict[str, Change]:
        """Without the directories that were there and only lead somewhere."""
        before = {change.path for change in changes_of(BASE)}
        return {
            path: change
            for path, change in self.changes().items()
            if not (isinstance(change, PutDir) and path in before)
        }


def selected(items: Items, path: str) -> Selection:
    selection = select(DictTree(items), path)
    assert selection is not None
    return selection


def meta_of(change: Change | None) -> Meta:
    assert isinstance(change, PutDir | PutFile | PutSymlink | PutNode)
    return change.meta


def content_of(change: Change | None) -> bytes:
    assert isinstance(change, PutFile)
    assert isinstance(change.content, bytes)
    return change.content


def packed(changes: dict[str, Change]) -> list[str]:
    """What a layer of the changes holds: proof that the store takes them."""
    return [entry.path for entry in pack(changes.values(), lambda data: None).toc]


# WORKDIR.


def test_a_directory_is_made_with_its_parents() -> None:
    bench = Bench()
    assert bench.collected.make_directory("/a/b/c") == "a/b/c"
    assert list(bench.changes()) == ["a", "a/b", "a/b/c"]
    for change in bench.changes().values():
        assert meta_of(change) == Meta(0o755, 0, 0, NOW_NS)


def test_a_path_that_no_kernel_takes_is_an_error_at_once() -> None:
    bench = Bench()
    longest = "/" + "a/" * 2047 + "a"
    assert len(bench.collected.make_directory(longest)) == 4095
    with pytest.raises(LoweringError, match="longer than 4096 bytes") as caught:
        bench.collected.make_directory("/b" * 20_000)
    assert len(str(caught.value)) < 200
    with pytest.raises(LoweringError, match="longer than"):
        bench.unpack(put("é/" * 1400 + "f"))


def test_directories_on_the_way_are_bounded_together() -> None:
    bench = Bench()
    members = (put(f"{number}/" + "a/" * 2000 + "f") for number in range(1000))
    with pytest.raises(LoweringError, match="too many deep directories"):
        bench.unpack(*members)


def test_the_members_of_an_archive_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.fileops._MEMBERS_MAX", 3)
    Bench().unpack(put("a"), put("b"), put("c"))
    with pytest.raises(LoweringError, match="more than 3 members"):
        Bench().unpack(*[put("a")] * 4)


def test_a_directory_that_is_there_may_be_as_deep_as_it_is() -> None:
    deep = "/".join(["d" * 100] * 50)
    bench = Bench({deep: Dir()})
    assert bench.collected.make_directory("/" + deep) == deep


def test_an_archive_that_replaces_directories_over_and_over_takes_no_longer() -> None:
    bench = Bench()
    members: list[Change] = [put(f"f{number}") for number in range(20_000)]
    for _ in range(2_000):
        members += [put_dir("x"), put("x/y"), put("x")]
    started = time.process_time()
    bench.unpack(*members)
    assert time.process_time() - started < 5
    assert "x/y" not in bench.changes()


def test_a_directory_that_exists_changes_nothing() -> None:
    bench = Bench()
    assert bench.collected.make_directory("/app/sub") == "app/sub"
    assert bench.collected.make_directory("/") == ""
    assert bench.changes() == {}


def test_new_directories_inherit_the_group_of_a_set_group_id_parent() -> None:
    """As mkdir(2) does, whoever makes them."""
    bench = Bench({"home": Dir(mode=0o2755, gid=50)})
    bench.collected.make_directory("/home/a/b")
    bench.collected.make_directory("/home/c", Ownership(uid=1, gid=2))
    metas = {path: meta_of(change) for path, change in bench.changes().items()}
    assert (metas["home/a/b"].mode, metas["home/a/b"].gid) == (0o2755, 50)
    assert (metas["home/c"].mode, metas["home/c"].uid, metas["home/c"].gid) == (0o2755, 1, 2)


def test_new_directories_belong_to_the_owner_and_old_ones_do_not() -> None:
    bench = Bench()
    bench.collected.make_directory("/app/new/deeper", Ownership(uid=1, gid=2))
    made = bench.made()
    assert [(path, meta_of(change).uid, meta_of(change).gid) for path, change in made.items()] == [
        ("app/new", 1, 2),
        ("app/new/deeper", 1, 2),
    ]
    assert meta_of(bench.changes()["app"]) == Meta(0o750, 7, 8, 5 * 10**9)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lib/new", "usr/lib/new"),
        ("/dangling", "new/place"),
        ("/dangling/x", "new/place/x"),
        ("/out/x", "etc/x"),
        ("/../../x", "x"),
        ("/app/../x", "x"),
    ],
)
def test_links_of_the_image_are_followed_inside_of_it(path: str, expected: str) -> None:
    bench = Bench()
    assert bench.collected.make_directory(path) == expected
    assert expected in bench.changes()


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/passwd/x", "/latest", "/latest/x"])
def test_a_directory_never_replaces_a_file(path: str) -> None:
    with pytest.raises((LoweringError, StoreError), match="not a directory"):
        Bench().collected.make_directory(path)


def test_a_loop_of_links_in_the_image_is_an_error() -> None:
    with pytest.raises(StoreError, match="too many levels of symbolic links"):
        Bench().collected.make_directory("/loop/x")


def test_is_directory_follows_links() -> None:
    collected = Bench().collected
    assert [
        path
        for path in ("/", "/app", "/app/", "/lib", "/latest", "/dangling", "/absent", "/etc/passwd")
        if collected.is_directory(path)
    ] == ["/", "/app", "/app/", "/lib"]


# COPY of a file.


FILE: Items = {"f": File(content=b"new", mode=0o640, uid=3, gid=4, mtime_s=9)}


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("/app/", "app/f"),
        ("/app", "app/f"),
        ("/app/g", "app/g"),
        ("/g", "g"),
        ("/", "f"),
        ("/new/", "new/f"),
        ("/new/g", "new/g"),
        ("/lib", "usr/lib/f"),
        ("/lib/", "usr/lib/f"),
        ("/lib/g", "usr/lib/g"),
        ("/latest", "app/old"),
        ("/dangling", "new/place"),
        ("/out/g", "etc/g"),
    ],
)
def test_a_file_goes_into_a_directory_and_else_onto_the_name(
    destination: str, expected: str
) -> None:
    bench = Bench()
    bench.copy(FILE, "f", destination)
    change = bench.changes()[expected]
    assert content_of(change) == b"new"
    assert meta_of(change) == Meta(0o640, 3, 4, 9 * 10**9)
    assert packed(bench.changes())


def test_a_link_in_the_destination_directory_is_replaced_and_not_followed() -> None:
    bench = Bench({"dir/f": Link("/etc/passwd"), "etc/passwd": b"root"})
    bench.copy(FILE, "f", "/dir/")
    assert content_of(bench.changes()["dir/f"]) == b"new"
    assert "etc/passwd" not in bench.changes()


def test_the_name_in_a_directory_is_the_one_that_was_asked_for() -> None:
    bench = Bench()
    bench.copy({"real": b"1", "alias": Link("real")}, "alias", "/app/")
    assert "app/alias" in bench.changes()


def test_missing_parents_are_made_and_owned() -> None:
    bench = Bench()
    bench.copy(FILE, "f", "/a/b/g", Ownership(uid=1, gid=2))
    assert [(path, meta_of(change).uid) for path, change in bench.changes().items()] == [
        ("a", 1),
        ("a/b", 1),
        ("a/b/g", 1),
    ]
    assert meta_of(bench.changes()["a"]).mode == 0o755


def test_a_file_never_replaces_a_directory() -> None:
    bench = Bench({"app/f": Dir()})
    with pytest.raises(LoweringError, match="cannot replace the directory '/app/f' by a file"):
        bench.copy(FILE, "f", "/app/")


def test_directories_that_only_lead_there_keep_what_they_have() -> None:
    bench = Bench()
    bench.copy(FILE, "f", "/app/sub/g", Ownership(uid=1, gid=1))
    assert meta_of(bench.changes()["app"]) == Meta(0o750, 7, 8, 5 * 10**9)
    assert meta_of(bench.changes()["app/sub"]).mode == 0o700
    assert list(bench.made()) == ["app/sub/g"]


def test_ownership_and_mode_are_laid_over_what_the_source_has() -> None:
    bench = Bench()
    bench.copy(FILE, "f", "/g", Ownership(uid=1, gid=2, mode=parse_mode("0755")))
    bench.copy(FILE, "f", "/h", Ownership(mode=parse_mode("u+x")))
    bench.copy(FILE, "f", "/i", Ownership(gid=9))
    metas = {path: meta_of(change) for path, change in bench.changes().items()}
    assert (metas["g"].mode, metas["g"].uid, metas["g"].gid) == (0o755, 1, 2)
    assert (metas["h"].mode, metas["h"].uid, metas["h"].gid) == (0o740, 3, 4)
    assert (metas["i"].mode, metas["i"].uid, metas["i"].gid) == (0o640, 3, 9)


def test_attributes_are_copied() -> None:
    bench = Bench()
    bench.copy({"f": File(xattrs={"user.a": b"1"})}, "f", "/g")
    assert meta_of(bench.changes()["g"]).xattrs == (("user.a", b"1"),)


# COPY of a directory.


DIRECTORY: Items = {
    "d": Dir(mode=0o711, uid=5, gid=6),
    "d/f": b"1",
    "d/sub": Dir(mode=0o1777, uid=5, gid=6, mtime_s=3),
    "d/sub/g": b"2",
    "d/link": Link("../outside"),
    "d/pipe": Fifo(),
    "d/socket": Socket(),
}


@pytest.mark.parametrize("destination", ["/new", "/new/", "/dangling", "/lib/new", "/"])
def test_the_content_of_a_directory_is_copied_and_not_the_directory(destination: str) -> None:
    bench = Bench()
    bench.copy(DIRECTORY, "d", destination)
    top = {"/": "", "/dangling": "new/place/", "/lib/new": "usr/lib/new/"}.get(destination, "new/")
    made = bench.changes()
    assert content_of(made[top + "f"]) == b"1"
    assert content_of(made[top + "sub/g"]) == b"2"
    assert meta_of(made[top + "sub"]) == Meta(0o1777, 5, 6, 3 * 10**9)
    link = made[top + "link"]
    assert isinstance(link, PutSymlink)
    assert link.target == "../outside"
    assert isinstance(made[top + "pipe"], PutNode)
    assert (meta_of(made[top + "socket"]).mode, content_of(made[top + "socket"])) == (0o600, b"")
    assert packed(made)


def test_a_new_destination_does_not_take_the_attributes_of_the_source_directory() -> None:
    bench = Bench()
    bench.copy(DIRECTORY, "d", "/new")
    assert meta_of(bench.changes()["new"]) == Meta(0o755, 0, 0, NOW_NS)


def test_a_directory_is_merged_into_one_that_exists() -> None:
    bench = Bench()
    bench.copy(DIRECTORY, "d", "/app")
    changes = bench.changes()
    assert meta_of(changes["app"]) == Meta(0o750, 7, 8, 5 * 10**9)
    assert meta_of(changes["app/sub"]) == Meta(0o1777, 5, 6, 3 * 10**9)
    assert "app/old" not in changes
    assert not any(isinstance(change, Remove | Opaque) for change in changes.values())


def test_an_empty_directory_is_copied() -> None:
    bench = Bench()
    bench.copy({"d/empty": Dir(mode=0o700)}, "d", "/new")
    assert meta_of(bench.changes()["new/empty"]).mode == 0o700


def test_copying_an_empty_directory_makes_the_destination() -> None:
    bench = Bench()
    bench.copy({"d": Dir()}, "d", "/new/place")
    assert list(bench.changes()) == ["new", "new/place"]


@pytest.mark.parametrize(("name", "item"), [("app/f", Dir()), ("lib", b"file")])
def test_a_directory_and_a_file_never_take_each_others_place(name: str, item: object) -> None:
    bench = Bench({"app/f": Dir()} if name == "app/f" else {"lib": b"file"})
    source: Items = {"d/f": b""} if name == "app/f" else {"d/lib/x": b""}
    with pytest.raises((LoweringError, StoreError), match="director"):
        bench.copy(source, "d", "/app" if name == "app/f" else "/")


def test_a_directory_is_not_merged_through_a_link() -> None:
    """As in BuildKit: only the destination itself is followed, nothing below it."""
    with pytest.raises(LoweringError, match="cannot copy a directory onto '/lib'"):
        Bench().copy({"d/lib/x": b""}, "d", "/")


def test_hard_links_stay_hard_links() -> None:
    bench = Bench()
    items: Items = {"d/a": b"x", "d/b": Hard("d/a"), "d/sub/c": Hard("d/a"), "d/z": b"x"}
    bench.copy(items, "d", "/new")
    links = {path: c.target for path, c in bench.changes().items() if isinstance(c, PutHardlink)}
    assert links == {"new/b": "new/a", "new/sub/c": "new/a"}
    assert packed(bench.changes())


def test_links_to_names_that_were_not_copied_are_plain_files() -> None:
    bench = Bench()
    bench.copy({"d/a": b"x", "e/b": Hard("d/a")}, "e", "/new")
    assert content_of(bench.changes()["new/b"]) == b"x"


def test_replacing_one_name_of_a_hard_link_leaves_the_others_what_they_were() -> None:
    bench = Bench()
    bench.copy({"d/a": b"old", "d/b": Hard("d/a"), "d/c": Hard("d/a")}, "d", "/new")
    bench.copy({"e/a": b"new"}, "e", "/new")
    changes = bench.changes()
    assert content_of(changes["new/a"]) == b"new"
    assert content_of(changes["new/b"]) == b"old"
    assert changes["new/c"] == PutHardlink(TreePath("new/c"), TreePath("new/b"))
    assert packed(changes)


def only(items: Items, path: str, include: str | None, *exclude: str) -> Selection:
    selection = select(
        DictTree(items),
        path,
        only=Filter(
            include=None if include is None else inclusion(include), exclude=exclusion(exclude)
        ),
    )
    assert selection is not None
    return selection


def test_excluded_entries_are_left_out_and_those_on_the_way_are_made_like_their_sources() -> None:
    bench = Bench()
    selection = only(DIRECTORY, "d", None, "f", "link", "so*", "sub", "!sub/g")
    bench.collected.copy(selection, "/new", KEEP)
    assert sorted(bench.changes()) == ["new", "new/pipe", "new/sub", "new/sub/g"]
    assert meta_of(bench.changes()["new/sub"]) == Meta(0o1777, 5, 6, 3 * 10**9)


def test_directories_on_the_way_take_owner_and_mode_when_they_are_new() -> None:
    bench = Bench()
    owner = Ownership(uid=3, gid=4, mode=parse_mode("u+s,o="))
    bench.collected.copy(only(DIRECTORY, "d", "sub/g"), "/new", owner)
    made = meta_of(bench.changes()["new/sub"])
    assert (made.uid, made.gid) == (3, 4)
    assert made.mode == parse_mode("u+s,o=").apply(0o1777, is_dir=True)


def test_directories_on_the_way_that_exist_take_the_mode_of_their_source_alone() -> None:
    """As BuildKit's delayed parents: chmod to the source's mode, and nothing else."""
    bench = Bench()
    items: Items = {"app": Dir(mode=0o711, uid=9), "app/sub": Dir(mode=0o700), "app/sub/f": b""}
    bench.collected.copy(only(items, "", "app/sub/f"), "/", Ownership(uid=3, gid=4))
    app, sub = (meta_of(bench.changes()[path]) for path in ("app", "app/sub"))
    assert (app.mode, app.uid, app.gid, app.mtime_ns) == (0o711, 7, 8, 5 * 10**9)
    assert (sub.mode, sub.uid, sub.gid) == (0o700, 7, 8)


def test_a_directory_on_the_way_cannot_replace_a_file() -> None:
    bench = Bench()
    with pytest.raises(LoweringError, match="cannot copy a directory onto '/app/old'"):
        bench.collected.copy(only({"app/old/f": b""}, "", "app/old/f"), "/", KEEP)


def test_a_selection_of_nothing_makes_the_destination() -> None:
    bench = Bench()
    bench.collected.copy(only(DIRECTORY, "d", None, "*"), "/new/", KEEP)
    assert list(bench.changes()) == ["new"]


@pytest.mark.parametrize(
    ("mode", "expected"), [("0640", 0o640), ("4711", 0o711), ("a=rx", 0o755), ("u=rwX,go=", 0o755)]
)
def test_an_octal_mode_is_that_of_created_parents_too(mode: str, expected: int) -> None:
    """BuildKit's mkdir takes it, without the special bits; symbolic modes are for what exists."""
    owner = Ownership(mode=parse_mode(mode))
    bench = Bench()
    bench.copy({"f": b""}, "f", "/n/m/f", owner)
    bench.copy({"d/f": b""}, "d", "/o/p", owner)
    bench.collected.write_file(InlineFile(name="EOF", content=b""), "/q/", owner)
    bench.unpack(PutFile(TreePath("x"), Meta(0o600), 0, b""), to="/r/s", owner=owner)
    changes = bench.changes()
    for path in ("n", "n/m", "o", "o/p", "q"):
        assert meta_of(changes[path]).mode == expected, path
    for path in ("r", "r/s"):
        assert meta_of(changes[path]).mode == 0o755, path


def test_modes_apply_to_directories_too_and_x_knows_them() -> None:
    bench = Bench()
    bench.copy(DIRECTORY, "d", "/new", Ownership(uid=1, gid=1, mode=parse_mode("u=rwX,go=rX")))
    modes = {path: meta_of(c).mode for path, c in bench.changes().items() if path != "new"}
    assert modes["new/f"] == 0o644
    assert modes["new/sub"] == 0o1755
    assert {meta_of(c).uid for c in bench.changes().values()} == {1}


def test_contents_are_read_when_the_layer_is_packed_and_not_before() -> None:
    tree = DictTree({"d/a": b"1", "d/b": b"2"})
    selection = select(tree, "d")
    assert selection is not None
    bench = Bench()
    bench.collected.copy(selection, "/new", KEEP)
    assert tree.reads == 2  # a dictionary has nothing to put off; it is asked once for each file


# Here-documents.


@pytest.mark.parametrize(
    ("destination", "expected"), [("/g", "g"), ("/app", "app/EOF"), ("/new/", "new/EOF")]
)
def test_a_here_document_is_written(destination: str, expected: str) -> None:
    bench = Bench()
    bench.collected.write_file(InlineFile(name="EOF", content=b"text"), destination, KEEP)
    change = bench.changes()[expected]
    assert content_of(change) == b"text"
    assert meta_of(change) == Meta(0o644, 0, 0, NOW_NS)


def test_a_here_document_has_the_owner_and_mode_that_were_asked_for() -> None:
    bench = Bench()
    owner = Ownership(uid=1, gid=2, mode=parse_mode("0700"))
    bench.collected.write_file(InlineFile(name="EOF", content=b""), "/new/tool", owner)
    meta = meta_of(bench.changes()["new/tool"])
    assert (meta.mode, meta.uid, meta.gid) == (0o700, 1, 2)


# Archives.


def put(path: str, content: bytes = b"", mode: int = 0o644, uid: int = 0) -> PutFile:
    return PutFile(TreePath(path), Meta(mode, uid), len(content), content)


def put_dir(path: str, mode: int = 0o755) -> PutDir:
    return PutDir(TreePath(path), Meta(mode))


def symlink(path: str, target: str) -> PutSymlink:
    return PutSymlink(TreePath(path), Meta(0o777), target)


def link(path: str, target: str) -> PutHardlink:
    return PutHardlink(TreePath(path), TreePath(target))


def test_members_keep_their_attributes_beneath_the_destination() -> None:
    bench = Bench()
    bench.unpack(put_dir("d", 0o1777), put("d/f", b"1", 0o4755, uid=9), to="/new/place/")
    changes = bench.changes()
    assert meta_of(changes["new/place/d"]).mode == 0o1777
    assert (meta_of(changes["new/place/d/f"]).mode, meta_of(changes["new/place/d/f"]).uid) == (
        0o4755,
        9,
    )
    assert meta_of(changes["new/place"]).mode == 0o755


def test_the_archives_own_root_does_not_touch_the_destination() -> None:
    bench = Bench()
    bench.unpack(PutDir(TreePath(""), Meta(0o700, 99, 99)), put("f"), to="/app")
    assert meta_of(bench.changes()["app"]) == Meta(0o750, 7, 8, 5 * 10**9)
    bench = Bench()
    bench.unpack(PutDir(TreePath(""), Meta(0o700, 99, 99)), put("f"), to="/")
    assert list(bench.changes()) == ["f"]


def test_chown_is_for_members_and_chmod_is_not() -> None:
    bench = Bench()
    owner = Ownership(uid=1, gid=2, mode=parse_mode("0700"))
    bench.unpack(put("f", mode=0o644), to="/new", owner=owner)
    meta = meta_of(bench.changes()["new/f"])
    assert (meta.mode, meta.uid, meta.gid) == (0o644, 1, 2)


def test_parents_that_the_archive_lacks_are_roots() -> None:
    bench = Bench()
    bench.unpack(put("a/b/f"), to="/", owner=Ownership(uid=1, gid=1))
    assert [(path, meta_of(change).uid) for path, change in bench.changes().items()] == [
        ("a", 0),
        ("a/b", 0),
        ("a/b/f", 1),
    ]


def test_links_of_an_archive_start_where_it_is_unpacked() -> None:
    """As for tar in a chroot of the destination: `/` and `..` stop there."""
    bench = Bench()
    members = (symlink("up", "../../../etc"), put("up/x"), symlink("abs", "/usr"), put("abs/y"))
    bench.unpack(*members, to="/app")
    assert {"app/etc/x", "app/usr/y"} <= set(bench.changes())
    assert not {"etc/x", "usr/y"} & set(bench.changes())


def test_members_go_through_links_of_the_image_and_of_the_archive_but_never_out() -> None:
    bench = Bench()
    bench.unpack(put("lib/f"), symlink("esc", "../../../../etc"), put("esc/g"), put("out/h"))
    assert {"usr/lib/f", "etc/g", "etc/h"} <= set(bench.changes())
    assert isinstance(bench.changes()["esc"], PutSymlink)


def test_a_member_replaces_what_is_there_whatever_it_is() -> None:
    bench = Bench()
    bench.unpack(put("app", b"file now"), put_dir("latest"), symlink("lib", "x"), put("lib2"))
    changes = bench.changes()
    assert content_of(changes["app"]) == b"file now"
    assert isinstance(changes["latest"], PutDir)
    assert isinstance(changes["lib"], PutSymlink)
    assert bench.tree.get("app/old") is None


def test_a_later_member_replaces_an_earlier_one_with_all_beneath_it() -> None:
    bench = Bench({})
    bench.unpack(put("d/f", b"1"), put("d/g"), put("d", b"2"), put("e", b"3"), put("e", b"4"))
    assert sorted(bench.changes()) == ["d", "e"]
    assert content_of(bench.changes()["e"]) == b"4"


def test_hard_links_name_members_wherever_the_archive_is_unpacked() -> None:
    bench = Bench()
    bench.unpack(put("d/a", b"x"), link("d/b", "d/a"), link("c", "d/b"), to="/new")
    links = {path: c.target for path, c in bench.changes().items() if isinstance(c, PutHardlink)}
    assert links == {"new/d/b": "new/d/a", "new/c": "new/d/a"}
    assert packed(bench.changes())


def test_a_hard_link_to_itself_is_nothing() -> None:
    bench = Bench({})
    bench.unpack(put("a", b"x"), link("a", "a"))
    assert content_of(bench.changes()["a"]) == b"x"


def test_replacing_a_member_leaves_its_hard_links_what_they_were() -> None:
    bench = Bench({})
    bench.unpack(put("a", b"old"), link("b", "a"), put("a", b"new"))
    assert content_of(bench.changes()["a"]) == b"new"
    assert content_of(bench.changes()["b"]) == b"old"


def test_a_member_that_is_linked_twice_can_be_replaced() -> None:
    bench = Bench({})
    bench.unpack(put("a", b"old"), link("b", "a"), link("b", "a"), put("a", b"new"))
    assert content_of(bench.changes()["b"]) == b"old"


def test_replacing_a_directory_keeps_what_is_linked_from_elsewhere() -> None:
    bench = Bench({})
    bench.unpack(put("d/a", b"x"), link("b", "d/a"), put("d", b"file"))
    assert content_of(bench.changes()["b"]) == b"x"
    assert packed(bench.changes())


def test_a_hard_link_to_a_link_is_taken_as_it_is() -> None:
    bench = Bench({})
    bench.unpack(symlink("a", "nowhere"), link("b", "a"))
    assert bench.changes()["b"] == link("b", "a")


@pytest.mark.parametrize(
    ("name", "target"),
    [("l", "absent"), ("l", "app"), ("l", "app/absent"), ("l", "out"), ("app", "app/old")],
)
def test_a_hard_link_to_what_is_no_file_is_an_error(name: str, target: str) -> None:
    with pytest.raises(LoweringError, match="no file of it or of the image"):
        Bench().unpack(link(name, target))


def test_a_hard_link_in_the_place_of_the_directory_with_its_target_is_an_error() -> None:
    with pytest.raises(LoweringError, match="no file of it or of the image"):
        Bench({}).unpack(put("a/a", b"1"), link("a", "a/a"))


@pytest.mark.parametrize("target", ["etc/passwd", "out/passwd"])
def test_a_hard_link_to_a_file_of_the_image_takes_it_into_the_layer(target: str) -> None:
    """As overlayfs copies a file up before it is linked."""
    bench = Bench()
    bench.unpack(link("a", target), link("b", "a"))
    changes = bench.changes()
    assert content_of(changes["etc/passwd"]) == b"below: etc/passwd"
    assert changes["a"] == PutHardlink(TreePath("a"), TreePath("etc/passwd"))
    assert changes["b"] == PutHardlink(TreePath("b"), TreePath("etc/passwd"))


def test_fifos_of_an_archive_are_made_and_devices_left_out_with_what_is_there_untouched() -> None:
    bench = Bench()
    bench.unpack(
        PutNode(TreePath("pipe"), Meta(0o640), "fifo"),
        PutNode(TreePath("app"), Meta(0o666), "char", 1, 3),
        PutNode(TreePath("disk"), Meta(0o660), "block", 8, 0),
    )
    assert list(bench.changes()) == ["pipe"]


def test_entries_of_the_root_change_nothing_of_the_destination() -> None:
    bench = Bench()
    root = TreePath("")
    bench.unpack(PutDir(root, Meta(0o700, 9)), PutFile(root, Meta(0o600), 1, b"x"), to="/app")
    assert bench.changes() == {}


@pytest.mark.parametrize("change", [Remove(TreePath("etc")), Opaque(TreePath("etc"))])
def test_whiteouts_in_an_archive_are_an_error_and_remove_nothing(change: Change) -> None:
    with pytest.raises(LoweringError, match=r"whiteout file '/etc'") as caught:
        Bench().unpack(change)
    assert ".wh." in caught.value.hint


# Everything together.


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MEMBERS = st.lists(
    st.one_of(
        st.builds(put, PATHS, st.sampled_from([b"1", b"2"])),
        st.builds(put_dir, PATHS),
        st.builds(symlink, PATHS, st.sampled_from(["/a", "../b", "c", "a/b"])),
        st.builds(link, PATHS, PATHS),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(members=MEMBERS, base=st.dictionaries(PATHS, st.just(b""), max_size=3))
def test_any_archive_gives_changes_that_a_layer_can_be_made_of(
    members: list[Change], base: dict[str, bytes]
) -> None:
    safe = {
        path: item
        for path, item in base.items()
        if not any(other.startswith(path + "/") for other in base)
    }
    bench = Bench(dict(safe))
    try:
        bench.unpack(*members, to="/x")
    except (BuilderError, StoreError):
        return
    changes = bench.changes()
    paths = packed(changes)
    assert sorted(paths) == sorted(changes)
    rebuilt = TreeIndex()
    rebuilt.add_layer(pack(changes_of(dict(safe)), lambda data: None).toc)
    rebuilt.add_layer(pack(changes.values(), lambda data: None).toc)
    assert kinds(rebuilt) == kinds(bench.tree)


def kinds(tree: TreeIndex) -> dict[str, str]:
    return {node.entry.path: node.entry.kind for node in tree.walk()}
