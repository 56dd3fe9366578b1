import errno
import io
import json
import os
import random
import re
import resource
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import overlaydir
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
from layerstore.errors import MalformedDocumentError, StoreError, UnsafePathError
from layerstore.overlaydir import Cursor, changes, remove_tree, survey, write
from layerstore.tarcodec import pack, unpack
from layerstore.toc import TocEntry
from layerstore.treediff import changes as tree_changes
from layerstore.treeindex import TreeIndex
from layerstore.treepath import TreePath
from tests.support import host, strategies
from tests.support.conformance import MATERIAL
from tests.support.rawtar import END, entry, header, pax
from tests.support.trees import (
    Dir,
    Item,
    Node,
    SameFile,
    Seen,
    apply,
    data,
    make_tree,
    memory,
    perform,
    read_tree,
    tree_of,
)

# Layers are written with the owners they say. Ordinary users do so in a namespace, as root.
pytestmark = pytest.mark.needs_root

META = Meta(0o644)
DIR = Meta(0o755)
LINK = Meta(0o777)
WHITEOUT = stat.S_IFCHR


def put(path: str, content: bytes = b"", meta: Meta = META) -> PutFile:
    return PutFile(TreePath(path), meta, len(content), content)


def directory(path: str, meta: Meta = DIR) -> PutDir:
    return PutDir(TreePath(path), meta)


def symlink(path: str, target: str) -> PutSymlink:
    return PutSymlink(TreePath(path), LINK, target)


def hardlink(path: str, target: str) -> PutHardlink:
    return PutHardlink(TreePath(path), TreePath(target))


def remove(path: str) -> Remove:
    return Remove(TreePath(path))


def opaque(path: str) -> Opaque:
    return Opaque(TreePath(path))


def read(found: Iterable[Change]) -> list[Change]:
    """Changes with their contents as bytes."""
    return [
        PutFile(change.path, change.meta, change.size_bytes, data(change.content))
        if isinstance(change, PutFile)
        else change
        for change in found
    ]


def new_dir(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=parent))


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """An empty directory for a layer."""
    made = tmp_path / "layer"
    made.mkdir()
    return made


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """A directory whose content may be too deep for pytest to remove; in memory where possible."""
    made = new_dir(memory() or tmp_path)
    yield made
    remove_tree(made)


# write and changes are inverse


@settings(max_examples=80, deadline=None)
@given(changeset=strategies.changesets(whole_seconds=False, with_root=True))
def test_changes_gives_back_what_was_written(changeset: list[Change]) -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        table = write(changeset, Path(made))
        assert read(changes(Path(made), with_root=True)) == changeset
        assert table == survey(changeset)


@settings(max_examples=40, deadline=None)
@given(changeset=strategies.changesets(removals=False))
def test_what_is_written_is_what_the_changes_say(changeset: list[Change]) -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        write(changeset, Path(made))
        assert read_tree(Path(made)) == tree_of(changeset)


@settings(max_examples=60, deadline=None)
@given(changeset=strategies.changesets(with_root=True))
def test_pack_write_and_survey_make_the_same_table(changeset: list[Change]) -> None:
    pieces: list[bytes] = []
    table = pack(changeset, pieces.append).toc
    tar = b"".join(pieces)
    assert survey(unpack(io.BytesIO(tar))) == table
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        assert write(unpack(io.BytesIO(tar)), Path(made)) == table
        assert pack(changes(Path(made), with_root=True), lambda _: None).toc == table


@settings(max_examples=60, deadline=None)
@given(changeset=strategies.changesets(), shuffler=st.randoms(use_true_random=False))
def test_the_order_of_arrival_matters_only_to_hard_links(
    changeset: list[Change], shuffler: random.Random
) -> None:
    plain = [change for change in changeset if not isinstance(change, PutHardlink)]
    links = [change for change in changeset if isinstance(change, PutHardlink)]
    shuffler.shuffle(plain)
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        table = write([*plain, *links], Path(made))
        assert table == survey(changeset)
        assert read(changes(Path(made))) == changeset


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(layer: Path, umask: int) -> None:
    modes = [0o000, 0o644, 0o666, 0o777, 0o4755, 0o7777]
    changeset: list[Change] = [
        *(put(f"file{mode:o}", b"x", Meta(mode)) for mode in modes),
        *(PutNode(TreePath(f"fifo{mode:o}"), Meta(mode), "fifo") for mode in modes),
        *(directory(f"dir{mode:o}", Meta(mode)) for mode in modes),
    ]
    before = os.umask(umask)
    try:
        write(changeset, layer, chown=False)
    finally:
        os.umask(before)
    for path, seen in read_tree(layer).items():
        assert f"{seen.mode:o}" == path[4 if path.startswith("f") else 3 :]
    assert layer.stat().st_mode & 0o7777 == 0o755


def test_nothing_is_inherited_from_the_directory_above(layer: Path) -> None:
    layer.chmod(0o2777)
    os.chown(layer, 7, 7)
    acl = bytes.fromhex("0200000001000700ffffffff04000700ffffffff10000700ffffffff20000700ffffffff")
    try:
        os.setxattr(layer, "system.posix_acl_default", acl)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    write([put("d/file"), put("top")], layer)
    seen = read_tree(layer)
    assert {(each.uid, each.gid, each.xattrs) for each in seen.values()} == {(0, 0, ())}
    assert seen["d"].mode == 0o755
    assert seen["top"].mode == 0o644


def test_posix_acls_are_kept(layer: Path, tmp_path: Path) -> None:
    acl = bytes.fromhex(
        "0200000001000600ffffffff020004000500000004000400ffffffff10000400ffffffff20000000ffffffff"
    )
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    os.setxattr(probe, "system.posix_acl_access", acl)
    meta = Meta(probe.stat().st_mode & 0o7777, 0, 0, 0, (("system.posix_acl_access", acl),))
    changeset: list[Change] = [put("a", b"x", meta)]
    write(changeset, layer)
    assert read(changes(layer)) == changeset


def test_parents_that_nobody_puts_are_roots_and_not_in_the_table(layer: Path) -> None:
    table = write([put("a/b/c", b"x")], layer)
    assert [row.path for row in table] == ["a/b/c"]
    for path in ("a", "a/b"):
        status = (layer / path).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_mtime_ns) == (0o755, 0, 0)


def test_a_directory_put_after_its_content_gets_its_attributes(layer: Path) -> None:
    meta = Meta(0o500, mtime_ns=5_000_000_005)
    table = write([put("d/a"), directory("d", meta), put("d/b")], layer)
    assert (layer / "d").stat().st_mtime_ns == 5_000_000_005
    assert (layer / "d").stat().st_mode & 0o7777 == 0o500
    assert [row.path for row in table] == ["d", "d/a", "d/b"]


def test_a_later_put_replaces_an_earlier_one(layer: Path) -> None:
    changeset: list[Change] = [
        *(put("a", b"1"), put("a", b"2")),
        *(directory("b"), put("b/inner/x"), put("b", b"file")),
        *(put("c", b"file"), directory("c"), put("c/x")),
        *(symlink("d", "nowhere"), put("d", b"file")),
        *(put("e"), put("e/below")),
        *(symlink("f", "nowhere"), directory("f", Meta(0o700))),
        *(PutNode(TreePath("g"), META, "fifo"), symlink("g", "x")),
    ]
    table = write(changeset, layer)
    assert survey(changeset) == table
    assert {row.path: row.kind for row in table if row.kind != "opaque"} == {
        "a": "file",
        "b": "file",
        "c": "dir",
        "c/x": "file",
        "d": "file",
        "e/below": "file",
        "f": "dir",
        "g": "symlink",
    }
    assert [row.path for row in table if row.kind == "opaque"] == ["c", "e", "f"]
    assert (layer / "a").read_bytes() == b"2"
    assert sorted(read_tree(layer)) == ["a", "b", "c", "c/x", "d", "e", "e/below", "f", "g"]


def test_a_replaced_file_stays_under_its_other_names(layer: Path) -> None:
    table = write(
        [put("a", b"old"), hardlink("b", "a"), put("a", b"new"), hardlink("c", "b")], layer
    )
    assert [(row.path, row.kind, row.target) for row in table] == [
        ("a", "file", ""),
        ("b", "file", ""),
        ("c", "hardlink", "b"),
    ]
    assert (layer / "b").read_bytes() == b"old"
    assert (layer / "b").samefile(layer / "c")


def test_a_hard_link_to_itself_changes_nothing(layer: Path) -> None:
    table = write([put("a", b"x"), hardlink("a", "a")], layer)
    assert [(row.path, row.kind) for row in table] == [("a", "file")]


def test_a_hard_link_cannot_replace_the_directory_of_its_target(layer: Path) -> None:
    for path in ("d", "d/e"):
        changeset: list[Change] = [put("d/e/file"), hardlink(path, "d/e/file")]
        with pytest.raises(MalformedDocumentError):
            survey(changeset)
        with pytest.raises(MalformedDocumentError):
            write(changeset, new_dir(layer))


@pytest.mark.parametrize("target", ["missing", "d", "d/missing", "missing/x", ""])
def test_a_hard_link_must_name_a_file_of_the_layer(layer: Path, target: str) -> None:
    (layer.parent / "missing").write_bytes(b"outside")
    with pytest.raises(StoreError):
        write([directory("d"), hardlink("l", target)], layer)


def test_the_directory_must_be_empty(layer: Path) -> None:
    (layer / "x").touch()
    with pytest.raises(StoreError, match="empty"):
        write([], layer)


def test_contents_must_have_their_size(layer: Path) -> None:
    for content in (b"four", lambda: [b"fo", b"ur"]):
        for size in (3, 5):
            with pytest.raises(StoreError, match="changed"):
                write([PutFile(TreePath("a"), META, size, content)], new_dir(layer))
            with pytest.raises(StoreError, match="changed"):
                survey([PutFile(TreePath("a"), META, size, content)])


@pytest.mark.parametrize(
    "content",
    [
        bytes(10 << 20),
        b"a" + bytes(5 << 20) + b"b",
        bytes(4096) * 20 + b"x" * 4096 + bytes(100_000),
        b"x" * 70_001 + bytes(8191) + b"y" * 70_001,
        (b"z" + bytes(8191)) * 50,
    ],
)
def test_zeros_become_holes(layer: Path, content: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        for at in range(0, len(content), 50_001):
            yield content[at : at + 50_001]

    write([put("whole", content), PutFile(TreePath("pieces"), META, len(content), pieces)], layer)
    for name in ("whole", "pieces"):
        assert (layer / name).read_bytes() == content
        if content.count(bytes(8192)) > 10:
            assert (layer / name).stat().st_blocks * 512 < len(content) // 2


def test_digests_in_the_table_are_those_of_the_contents(layer: Path) -> None:
    contents = [b"", b"small", os.urandom(3 << 20), bytes(2 << 20)]
    table = write([put(f"{i}", content) for i, content in enumerate(contents)], layer)
    assert [row.digest for row in table] == [Digest.of(content) for content in contents]
    assert [row.size_bytes for row in table] == [len(content) for content in contents]


# Removals


def test_removals_are_devices_and_opaque_marks_are_attributes(layer: Path) -> None:
    changeset: list[Change] = [
        directory("d"),
        opaque("d"),
        directory("e"),
        remove("e/x"),
        remove("gone"),
    ]
    write(changeset, layer)
    assert os.getxattr(layer / "d", "trusted.overlay.opaque") == b"y"
    for path in ("e/x", "gone"):
        status = (layer / path).lstat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert set(read(changes(layer))) == set(changeset)


@pytest.mark.parametrize("order", [1, -1])
def test_removals_mean_the_layers_below_wherever_they_stand(layer: Path, order: int) -> None:
    changeset: list[Change] = [
        remove("a"),
        put("a", b"x"),
        remove("d"),
        put("d/x"),
        remove("e"),
        directory("e"),
    ]
    table = write(changeset[::order], layer)
    assert [(row.path, row.kind) for row in table] == [
        ("a", "file"),
        ("d", "opaque"),
        ("d/x", "file"),
        ("e", "dir"),
        ("e", "opaque"),
    ]
    assert os.getxattr(layer / "d", "trusted.overlay.opaque") == b"y"


def test_removals_in_an_opaque_directory_leave_no_ghosts(layer: Path) -> None:
    write([directory("d"), remove("d/x"), opaque("d"), directory("d/e"), remove("d/e/f")], layer)
    assert sorted(read_tree(layer)) == ["d", "d/e"]


def test_an_opaque_root_is_kept(layer: Path) -> None:
    changeset: list[Change] = [opaque(""), put("a")]
    assert [row.kind for row in write(changeset, layer)] == ["opaque", "file"]
    assert read(changes(layer)) == changeset


def test_marks_of_new_directories_can_be_left_out(layer: Path) -> None:
    changeset: list[Change] = [directory("new"), opaque("new"), directory("old"), opaque("old")]
    write(changeset, layer)
    found = list(changes(layer, has_lower_dir=lambda path: path == "old"))
    assert found == [directory("new"), directory("old"), opaque("old")]
    assert list(changes(layer)) == found, "on another layer the mark would hide what is there"


def test_user_attributes_are_used_where_the_mount_uses_them(layer: Path) -> None:
    changeset: list[Change] = [directory("d"), opaque("d"), directory("e"), remove("e/x")]
    write(changeset, layer, userxattr=True)
    assert os.getxattr(layer / "d", "user.overlay.opaque") == b"y"
    assert list(changes(layer, userxattr=True)) == changeset
    assert remove("e/x") in changes(layer)
    assert opaque("d") not in changes(layer)


def test_whiteouts_may_be_attributes_of_empty_files(layer: Path) -> None:
    make_tree(
        layer, {"d": Dir(xattrs=(("user.overlay.opaque", b"x"),)), "d/a": b"", "d/b": b"", "c": b""}
    )
    for path in ("d/b", "c"):
        os.setxattr(layer / path, "user.overlay.whiteout", b"y")
    found = list(changes(layer, userxattr=True))
    assert [(type(change), change.path) for change in found] == [
        (Remove, "c"),
        (PutDir, "d"),
        (Remove, "d/b"),
        (PutFile, "d/a"),
    ]


def test_private_attributes_are_never_reported(layer: Path) -> None:
    make_tree(layer, {"f": b"", "d": Dir()})
    for path in ("f", "d"):
        os.setxattr(layer / path, "user.overlay.origin", b"x")
        os.setxattr(layer / path, "user.kept", b"x")
        if os.geteuid() == 0:
            os.setxattr(layer / path, "trusted.overlay.impure", b"y")
    for userxattr in (True, False):
        for change in changes(layer, userxattr=userxattr):
            assert isinstance(change, PutFile | PutDir)
            assert change.meta.xattrs == (("user.kept", b"x"),)


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_content_that_lies_elsewhere_is_refused(layer: Path, name: str) -> None:
    make_tree(layer, {"f": b"", "d": Dir()})
    os.setxattr(layer / ("f" if name == "metacopy" else "d"), f"user.overlay.{name}", b"/elsewhere")
    with pytest.raises(StoreError, match="elsewhere"):
        list(changes(layer, userxattr=True))


# Reading


def test_changes_come_in_order_with_parents_first(layer: Path) -> None:
    make_tree(
        layer, {"b": b"", "a/z": b"", "a/b/c": b"", "a-": b"", "a.": b"", "é": b"", "\udcff": b""}
    )
    paths = [change.path for change in changes(layer)]
    assert paths == ["a", "a/b", "a/b/c", "a/z", "a-", "a.", "b", "é", "\udcff"]


def test_sockets_are_skipped_with_a_note(layer: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(layer)
        try:
            made.bind("socket")
        finally:
            os.chdir(here)
    notes: list[tuple[str, str]] = []
    assert list(changes(layer, on_skip=lambda path, why: notes.append((path, why)))) == []
    assert notes == [("socket", "a layer cannot hold sockets")]


def test_hard_links_are_found_within_the_layer(layer: Path) -> None:
    make_tree(
        layer, {"m": b"x", "a": SameFile("m"), "z/l": SameFile("m"), "s": "t", "t": SameFile("s")}
    )
    os.link(layer / "m", layer.parent / "outside")
    links = [change for change in changes(layer) if isinstance(change, PutHardlink)]
    assert links == [hardlink("m", "a"), hardlink("t", "s"), hardlink("z/l", "a")]


def test_small_files_are_bytes_and_large_ones_are_read_later(layer: Path) -> None:
    make_tree(layer, {"small": b"x" * (1 << 20), "large": b"y" * ((1 << 20) + 1)})
    large, small = changes(layer)
    assert isinstance(large, PutFile)
    assert isinstance(small, PutFile)
    assert isinstance(small.content, bytes)
    assert callable(large.content)
    assert data(large.content) == data(large.content) == b"y" * ((1 << 20) + 1)


def test_a_large_file_that_was_exchanged_is_noticed(layer: Path) -> None:
    make_tree(layer, {"large": bytes(2 << 20)})
    (change,) = changes(layer)
    assert isinstance(change, PutFile)
    (layer / "large").rename(layer / "old")
    (layer / "large").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        data(change.content)
    (layer / "large").unlink()
    (layer / "large").write_bytes(bytes(2 << 20))
    with pytest.raises(StoreError, match="changed"):
        data(change.content)


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(100)]
    first = make_tree(tmp_path / "1", dict.fromkeys(names, b"x"))
    second = make_tree(tmp_path / "2", dict.fromkeys(reversed(names), b"x"))
    assert read(changes(first)) == read(changes(second))


# Depth


def test_trees_deeper_than_a_path_can_say_are_read_and_written(deep_path: Path) -> None:
    depth = 1500
    source, copy = deep_path / "source", deep_path / "copy"
    copy.mkdir()
    names = ["d" * 9] * depth
    changeset: list[Change] = [directory("/".join(names[:level])) for level in range(1, depth + 1)]
    changeset.append(put("/".join(names) + "/file", b"deep"))
    changeset.append(put("/".join(names) + "/large", bytes(2 << 20)))
    source.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        table = write(changeset, source)
        assert len(table) == depth + 2
        assert write(changes(source), copy) == table
        remove_tree(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not copy.exists()


def test_deep_files_in_bad_order_are_written_in_good_time(deep_path: Path) -> None:
    chains = ["/".join([letter] * 1000) for letter in "abc"]
    changeset: list[Change] = [put(f"{chains[number % 3]}/{number}") for number in range(300)]
    started = time.monotonic()
    write(changeset, new_dir(deep_path))
    assert time.monotonic() - started < 20


def test_implied_directories_are_limited(layer: Path) -> None:
    paths = ("/".join([chr(97 + number % 26) * 2] * 20_000) for number in range(100))
    with pytest.raises(MalformedDocumentError, match="deep"):
        survey(put(f"{number}/{path}") for number, path in enumerate(paths))


# Hostile layers: nothing outside is touched, and the error has a type


def hostile(tar: bytes) -> Iterator[Change]:
    return unpack(io.BytesIO(tar + END))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Things outside the layer that must stay as they are."""
    outside = make_tree(
        tmp_path / "outside",
        {"secret": b"secret", "dir/file": b"x", "link": "dir", "empty": Dir(0o700)},
    )
    before = read_tree(outside), outside.stat().st_mtime_ns
    yield outside
    assert (read_tree(outside), outside.stat().st_mtime_ns) == before


ESCAPES: dict[str, list[bytes]] = {
    "through an absolute link": [
        header("l", kind=b"2", target="{outside}"),
        entry("l/secret", b"overwritten"),
    ],
    "through a relative link": [
        header("l", kind=b"2", target="../outside"),
        entry("l/new", b"x"),
    ],
    "through a chain of links": [
        header("a", kind=b"2", target="b"),
        header("b", kind=b"2", target="c/.."),
        header("c", kind=b"2", target="../../../../../.."),
        entry("a/etc/lamina-was-here", b"x"),
    ],
    "through a link and dots": [
        header("d/l", kind=b"2", target="../../outside"),
        entry("d/l/../../outside/secret", b"x"),
    ],
    "a directory through a link": [
        header("l", kind=b"2", target="{outside}"),
        header("l/empty", kind=b"5", mode=0o777),
        header("l/made", kind=b"5"),
    ],
    "attributes of a link's target": [
        header("l", kind=b"2", target="{outside}/secret", uid=1234, mode=0o777, mtime=5),
        header("l", kind=b"2", target="{outside}/secret", uid=1234, mode=0o7777, mtime=6),
    ],
    "a hard link to the outside": [
        header("l", kind=b"2", target="{outside}"),
        header("h", kind=b"1", target="l/secret"),
        entry("h", b"overwritten"),
    ],
    "a hard link to a link, then a file over it": [
        header("l", kind=b"2", target="{outside}/secret"),
        header("h", kind=b"1", target="l"),
        entry("h", b"overwritten"),
        entry("l", b"overwritten"),
    ],
    "a removal through a link": [
        header("l", kind=b"2", target="{outside}"),
        entry("l/.wh.secret"),
        entry("l/.wh..wh..opq"),
    ],
    "an opaque mark on a link": [
        header("l", kind=b"2", target="{outside}"),
        entry("l/.wh..wh..opq"),
        entry(".wh.l"),
    ],
    "a directory over a link": [
        header("l", kind=b"2", target="{outside}"),
        header("l", kind=b"5", mode=0o777),
        entry("l/secret", b"x"),
    ],
    "a link over a directory with content": [
        entry("d/file", b"x"),
        header("d", kind=b"2", target="{outside}"),
        entry("d/secret", b"x"),
        header("d/dir/.wh.file"),
    ],
    "a link at the place of a parent, later": [
        header("d", kind=b"5"),
        entry("d/a", b"x"),
        header("d", kind=b"2", target="{outside}"),
        entry("d/b", b"x"),
        header("d", kind=b"5"),
        entry("d/c", b"x"),
    ],
    "a link in the middle of a deep path": [
        header("a/b/c", kind=b"5"),
        header("a/b", kind=b"2", target="../../outside"),
        entry("a/b/c/d/e", b"x"),
    ],
    "a link to the root": [
        header("r", kind=b"2", target="/"),
        entry("r/r/r/r/x", b"x"),
        entry("r/y", b"x"),
    ],
    "a link to itself": [header("l", kind=b"2", target="l"), entry("l/x", b"x")],
    "links in a circle": [
        header("a", kind=b"2", target="b/x"),
        header("b", kind=b"2", target="a/x"),
        entry("a/y", b"x"),
    ],
    "a fifo, then a file through it": [
        header("f", kind=b"6"),
        entry("f", b"x"),
        entry("f/x", b"x"),
    ],
    "xattrs of a link": [
        pax({"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.b": "2"})
        + header("l", kind=b"2", target="{outside}/secret")
    ],
    "odd xattr names": [pax({"SCHILY.xattr.user.": "1"}) + entry("a")],
    "an ACL that is none": [pax({"SCHILY.xattr.system.posix_acl_access": "nonsense"}) + entry("a")],
    "capabilities that are none": [pax({"SCHILY.xattr.security.capability": "1"}) + entry("a")],
    "absolute names": [entry("{outside}/secret", b"x"), header("{outside}/made", kind=b"5")],
    "a hard link with an absolute name": [
        entry("outside/secret", b"x"),
        header("h", kind=b"1", target="../../../outside/secret"),
        entry("h", b"y"),
    ],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_hostile_layers_stay_inside(layer: Path, canary: Path, name: str) -> None:
    outside = str(canary).encode()
    tar = b"".join(_with_outside(block, outside) for block in ESCAPES[name])
    try:
        table = write(hostile(tar), layer)
    except StoreError:
        with pytest.raises(StoreError):
            survey_or_write(tar, layer.parent)
        return
    assert {row.path for row in table if row.kind != "opaque"} <= {
        *read_tree(layer),
        *(row.path for row in table if row.kind == "remove"),
    }
    assert not Path("/etc/lamina-was-here").exists()


def survey_or_write(tar: bytes, parent: Path) -> None:
    """Some errors only the file system knows."""
    survey(hostile(tar))
    write(hostile(tar), new_dir(parent))


def _with_outside(entry_bytes: bytes, outside: bytes) -> bytes:
    """Put the path in, in the name or target, and mend the checksum."""
    if b"{outside}" not in entry_bytes:
        return entry_bytes
    start = entry_bytes.rfind(b"ustar") - 257
    block = entry_bytes[start : start + 512]
    for at in (0, 157):
        field = block[at : at + 100].replace(b"{outside}", outside).rstrip(b"\0")
        assert len(field) <= 100, "the temporary directory has too long a name"
        block = block[:at] + field.ljust(100, b"\0") + block[at + 100 :]
    block = block[:148] + b" " * 8 + block[156:]
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    return entry_bytes[:start] + block + entry_bytes[start + 512 :]


@pytest.mark.parametrize(
    "change",
    [
        put("a\0b"),
        put("a/.."),
        put("."),
        put("a/."),
        put(".wh.a"),
        put(""),
        symlink("", "x"),
        remove(""),
        hardlink("", "x"),
        hardlink("a", "x/.."),
        put("n" * 256),
        symlink("a", ""),
        symlink("a", "t" * 4096),
        PutNode(TreePath("a"), META, "char", 0, 0),
    ],
)
def test_changes_that_lie_are_refused_with_a_typed_error(layer: Path, change: Change) -> None:
    with pytest.raises(StoreError):
        write([put("x"), change], layer)


def test_dots_in_a_head_stay_in_the_root(layer: Path, canary: Path) -> None:
    write([put("../outside/secret", b"x"), put("../../../../x", b"x")], layer)
    assert sorted(read_tree(layer)) == ["outside", "outside/secret", "x"]


def test_many_links_are_bounded(layer: Path) -> None:
    target = "a/../" * 800 + "a"
    tar = header("a", kind=b"5") + b"".join(
        pax({"linkpath": target}) + header(f"l{number}", kind=b"2") for number in range(30)
    )
    chain = b"".join(
        pax({"linkpath": f"l{number}/../" * 200 + "a"}) + header(f"m{number}", kind=b"2")
        for number in range(30)
    )
    files = b"".join(entry(f"m{number % 30}/x{number}/y") for number in range(3000))
    started = time.monotonic()
    try:
        survey(hostile(tar + chain + files))
    except UnsafePathError:
        pass
    assert time.monotonic() - started < 10


def test_replacing_over_and_over_is_not_quadratic(deep_path: Path) -> None:
    files = b"".join(entry(f"d/{number}") for number in range(5000))
    again = b"".join(header("x", kind=b"5") + entry("x/y") + entry("x") for _ in range(500))
    started = time.monotonic()
    write(hostile(files + again), deep_path)
    survey(hostile(files + again * 20))
    assert time.monotonic() - started < 15


def test_a_full_disk_is_reported_as_it_is(layer: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for content in (b"x" * 2000, b"x" * 200_000):
            with pytest.raises(OSError, match="File too large"):
                write([put("a", content)], new_dir(layer))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_descriptor_is_left_open(layer: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    changeset: list[Change] = [put(f"d{number}/e/f") for number in range(200)]
    write(changeset, layer)
    list(changes(layer))
    with pytest.raises(StoreError):
        write([*changeset, put("a\0")], new_dir(tmp_path))
    with pytest.raises(StoreError):
        write([], layer)
    remove_tree(layer)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


ODD_NAMES = st.lists(st.sampled_from("ablm"), min_size=1, max_size=3).map("/".join)
ODD_PREFIXES = st.sampled_from(["", "", "", "./", "/", "a/../", "l//"])


@st.composite
def odd_entries(draw: st.DrawFn) -> bytes:
    """An entry that a tar can hold, sensible or not."""
    name = draw(ODD_PREFIXES) + draw(ODD_NAMES)
    head, slash, last = name.rpartition("/")
    mode = draw(st.sampled_from([0o644, 0o755, 0o000, 0o4711]))
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return entry(name, draw(st.sampled_from([b"", b"content"])), mode=mode)
        case 3 | 4:
            return header(name, kind=b"5", mode=mode)
        case 5 | 6:
            up = draw(st.sampled_from(["", "/", "../", "../../../"]))
            return header(name, kind=b"2", target=up + draw(ODD_NAMES))
        case 7:
            return header(name, kind=b"1", target=draw(ODD_NAMES))
        case 8:
            marker = draw(st.sampled_from([f".wh.{last}", f".wh.{last}", ".wh..wh..opq"]))
            return entry(head + slash + marker)
        case _:
            return header(name, kind=b"6", mode=mode)


@settings(max_examples=300, deadline=None)
@given(st.lists(odd_entries(), max_size=12))
def test_odd_layers_are_refused_or_become_what_the_table_says(entries: list[bytes]) -> None:
    tar = b"".join(entries)
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        layer = Path(work, "layer")
        layer.mkdir()
        try:
            table = write(hostile(tar), layer)
        except StoreError:
            with pytest.raises(StoreError):
                survey(hostile(tar))
            return
        assert [path.name for path in Path(work).iterdir()] == ["layer"]
        assert survey(hostile(tar)) == table
        again = survey(changes(layer, with_root=True))
        put = {(row.path, row.kind) for row in table}
        implied = [row for row in again if row.kind == "dir" and (row.path, "dir") not in put]
        assert all(row.meta == DIR for row in implied)
        assert [row for row in again if row not in implied] == table
        pack(changes(layer), lambda _: None)


# Cases of other projects


def layer_cases(section: str) -> list[dict[str, object]]:
    path = MATERIAL / "oci/layer_cases.json"
    if not path.exists():
        return []
    found: list[dict[str, object]] = json.loads(path.read_text())[section]
    return found


needs_cases = pytest.mark.skipif(
    not layer_cases("spec"), reason=f"conformance data is not at {MATERIAL}/oci"
)


@needs_cases
@pytest.mark.parametrize("case", layer_cases("spec"), ids=lambda case: str(case["name"]))
def test_layers_of_the_specification_give_its_trees(
    case: dict[str, list[object]], tmp_path: Path
) -> None:
    index = TreeIndex()
    stacked = tmp_path / "stacked"
    stacked.mkdir()
    for number, names in enumerate(case["layers"]):
        assert isinstance(names, list)
        tar = b"".join(
            header(name, kind=b"5", mode=0o755) if name.endswith("/") else entry(name)
            for name in names
        )
        made = tmp_path / f"layer{number}"
        made.mkdir()
        index.add_layer(write(hostile(tar), made))
        apply(changes(made), stacked)
    paths = [
        node.entry.path + "/" * (node.entry.kind == "dir")
        for node in index.walk()
        if node.entry.path
    ]
    assert paths == case["expect"]
    assert (
        sorted(f"{p}/" if s.type == "dir" else p for p, s in read_tree(stacked).items())
        == case["expect"]
    )


@needs_cases
@pytest.mark.parametrize("case", layer_cases("apply"), ids=lambda case: str(case["name"]))
def test_layers_of_containerd_are_applied_as_containerd_does(
    case: Mapping[str, Any], tmp_path: Path, canary: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for operation in case["base"]:
        perform(root, operation["op"], *operation["args"])
    made = tmp_path / "layer"
    made.mkdir()
    tar = b"".join(map(containerd_entry, case["layer"]))
    if case.get("error"):
        with pytest.raises(StoreError):
            write(hostile(tar), made)
        return
    write(hostile(tar), made)
    apply(changes(made), root)
    if "check" in case:
        check(root, case["check"])


def containerd_entry(item: Mapping[str, Any]) -> bytes:
    mode = int(item.get("mode", "0777"), 8)
    xattrs = {f"SCHILY.xattr.{key}": value for key, value in (item.get("xattrs") or {}).items()}
    kinds = {"dir": b"5", "file": b"0", "symlink": b"2", "hardlink": b"1"}
    made = header(
        item["name"],
        kind=kinds[item["type"]],
        target=item.get("target", ""),
        mode=mode,
        size=len(item.get("content", "")),
    )
    content: bytes = item.get("content", "").encode()
    return (pax(xattrs) if xattrs else b"") + made + content + bytes(-len(content) % 512)


def _resolve(root: Path, path: str) -> Path:
    """Follow links inside `root`."""
    index = TreeIndex()
    index.add_layer(survey(tree_changes(None, root)))
    return root / index.resolve(path)


def check(root: Path, expected: Mapping[str, object]) -> None:
    args = expected["args"]
    assert isinstance(args, list)
    match expected["check"]:
        case "fileValue":
            assert _resolve(root, args[0]).read_text() == args[1]
        case "sameFile":
            assert _resolve(root, args[0]).samefile(_resolve(root, args[1]))
        case "notSameFile":
            assert not _resolve(root, args[0]).samefile(_resolve(root, args[1]))
        case "sameSymlinkFile":
            first, second = ((root / arg.lstrip("/")).lstat() for arg in args)
            assert (first.st_ino, first.st_mode) == (second.st_ino, second.st_mode)
        case "fileXattrExist":
            assert os.getxattr(root / args[0], args[1]) == args[2].encode()
        case "directoriesExist":
            assert all((root / arg).is_dir() for arg in args)
        case "all":
            for inner in args:
                check(root, inner)
        case other:
            raise ValueError(other)


# What umoci tests of its layers (only the names are given), and the test here that asks the same.
# Left out: its options and media types (documents), and its maps of ids for rootless tars.
UMOCI = {
    "TestTranslateOverlayWhiteouts_Char00": "removals_are_devices_and_opaque_marks_are_attributes",
    "TestTranslateOverlayWhiteouts_XattrOpaque": (
        "user_attributes_are_used_where_the_mount_uses_them"
    ),
    "TestTranslateOverlayWhiteouts_XattrWhiteout": "whiteouts_may_be_attributes_of_empty_files",
    "TestGenerate": "changes_gives_back_what_was_written",
    "TestGenerateMissingFileError": "a_directory_that_does_not_exist_is_an_error",
    "TestGenerateWrongRootError": "a_directory_that_does_not_exist_is_an_error",
    "TestGenerateInsertWhiteout": "removals_and_opaque_marks_come_before_their_siblings",
    "TestTarGenerateAddFileNormal": "gnu_tar_extracts_exactly_what_we_packed",
    "TestTarGenerateAddFileDirectory": "gnu_tar_extracts_exactly_what_we_packed",
    "TestTarGenerateAddFileSymlink": "gnu_tar_extracts_exactly_what_we_packed",
    "TestTarGenerateAddWhiteout": "removals_and_opaque_marks_come_before_their_siblings",
    "TestTarGenerateSourceDateEpochClamping": "times_are_whole_seconds_and_clamped",
    "TestTarGenerateSourceDateEpochPreservesOldTimestamps": "times_are_whole_seconds_and_clamped",
    "TestTarGenerateWithoutSourceDateEpoch": "times_are_whole_seconds_and_clamped",
    "TestUnpackEntry_OverlayfsRootfs_Whiteout": (
        "a_written_layer_hides_what_it_removes_when_mounted"
    ),
    "TestUnpackEntry_OverlayfsRootfs_OpaqueWhiteout": (
        "a_written_layer_hides_what_it_removes_when_mounted"
    ),
    "TestUnpackEntry_OverlayfsRootfs_Whiteout_MissingDirs": (
        "removals_make_the_directories_they_need"
    ),
    "TestUnpackEntry_OverlayfsRootfs_Whiteout_Nested": (
        "removals_in_an_opaque_directory_leave_no_ghosts"
    ),
    "TestUnpackEntry_OverlayfsRootfs_OpaqueWhiteoutConvert": (
        "removals_mean_the_layers_below_wherever_they_stand"
    ),
    "TestUnpackEntrySanitiseScoping": "dots_in_a_head_stay_in_the_root",
    "TestUnpackEntrySymlinkScoping": "hostile_layers_stay_inside",
    "TestUnpackEntryNonDirParent": "a_later_put_replaces_an_earlier_one",
    "TestUnpackEntryParentDir": "parents_that_nobody_puts_are_roots_and_not_in_the_table",
    "TestUnpackEntryWhiteout": "removals_mean_the_layers_below_wherever_they_stand",
    "TestUnpackOpaqueWhiteout": "removals_in_an_opaque_directory_leave_no_ghosts",
    "TestUnpackHardlink": "hard_links_may_be_to_links",
    "TestUnpackEntryMap": "owners_can_be_left_alone",
    "TestIsDirlink": "a_link_to_a_directory_is_no_directory",
    "TestUnpackGenerateRoundTrip_ComplexXattr_OverlayfsRootfs": (
        "changes_gives_back_what_was_written"
    ),
    "TestUnpackGenerateRoundTrip_MockedSELinux": "overlayfs_attributes_have_no_effect",
    "TestDoesXattrMatch": "layers_carry_these_attributes_and_no_others",
    "TestGetXattrFilter": "layers_carry_these_attributes_and_no_others",
    "TestOverlayXattrFilter": "private_attributes_are_never_reported",
}


def test_every_layer_test_of_umoci_has_its_like_here() -> None:
    path = MATERIAL / "oci/umoci_layer_cases.json"
    if not path.exists():
        pytest.skip(f"conformance data is not at {path}")
    named = {
        case["case"]
        for case in json.loads(path.read_text())["cases"]
        if re.match(r"oci/layer/(generate|tar_|xattr)", case.get("file", ""))
        and case["case"].startswith("Test")
    }
    assert named == set(UMOCI)
    here = Path(__file__).read_text() + (Path(__file__).parent / "test_tarcodec.py").read_text()
    assert all(f"def test_{name}(" in here for name in UMOCI.values())


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(changes(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        write([], tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        list(changes(tmp_path / "file"))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        write([], tmp_path / "link")


def test_removals_make_the_directories_they_need(layer: Path) -> None:
    table = write([remove("a/b/c")], layer)
    assert [(row.path, row.kind) for row in table] == [("a/b/c", "remove")]
    assert list(changes(layer))[-1] == remove("a/b/c")


def test_hard_links_may_be_to_links(layer: Path) -> None:
    table = write([symlink("a", "nowhere"), hardlink("b", "a"), hardlink("c", "b")], layer)
    assert [(row.kind, row.target) for row in table] == [
        ("symlink", "nowhere"),
        ("hardlink", "a"),
        ("hardlink", "a"),
    ]
    assert (layer / "a").lstat().st_ino == (layer / "c").lstat().st_ino


def test_owners_can_be_left_alone(layer: Path) -> None:
    table = write([put("a", b"x", Meta(0o4755, 1234, 5678)), symlink("b", "c")], layer, chown=False)
    assert (layer / "a").stat().st_uid == os.geteuid()
    assert (layer / "a").stat().st_mode & 0o7777 == 0o4755
    assert table[0].meta.uid == 1234


def test_a_link_to_a_directory_is_no_directory(layer: Path) -> None:
    write([directory("d"), symlink("l", "d"), put("l/x", b"1"), directory("l"), put("l/y")], layer)
    assert sorted(read_tree(layer)) == ["d", "d/x", "l", "l/y"]


# An ordinary user


@pytest.mark.needs_userns
@pytest.mark.needs_public_python
def test_an_ordinary_user_in_a_namespace_can_write_and_read_layers(tmp_path: Path) -> None:
    """Everything that needs rights is done with those of the namespace, or recorded."""
    python = host.public_python()
    assert python is not None
    work = Path(tempfile.mkdtemp())  # pytest's directory is closed to others
    try:
        _as_ordinary_user(work, python)
    finally:
        remove_tree(work)


def _as_ordinary_user(work: Path, python: str) -> None:
    os.chown(work, 65534, 65534)
    program = f"""
import sys
sys.path.insert(0, {str(Path(overlaydir.__file__).parents[1])!r})
from pathlib import Path
from layerstore.changeset import *
from layerstore import overlaydir
layer = Path({str(work / "layer")!r})
layer.mkdir()
meta = Meta(0o644, 33, 0, 5, (("trusted.x", b"1"), ("user.y", b"2")))
overlaydir.write(
    [PutDir("d", Meta(0, 7, 2**31 - 1)), Opaque("d"), PutDir("e", Meta(0o755)), Remove("e/gone"),
     PutFile("d/f", meta, 1, b"x"), PutNode("dev", Meta(0o600, 0, 6), "block", 8, 1),
     PutHardlink("dev2", "dev"), PutSymlink("dev", Meta(0o777, 9, 9), "dev2"),
     PutNode("fifo", Meta(0o600, 9, 9), "fifo")],
    layer, userxattr=True)
for change in overlaydir.changes(layer, userxattr=True):
    meta = getattr(change, "meta", None)
    what = [type(change).__name__, change.path, *([meta.uid, meta.gid] if meta else [])]
    print(*what, *((change.kind, change.major, change.minor) if what[0] == "PutNode" else ()))
print([c.meta.xattrs for c in overlaydir.changes(layer, userxattr=True) if c.path == "d/f"])
print([c.meta.uid for c in overlaydir.changes(layer) if c.path == "d/f"])
overlaydir.remove_tree(layer)
print(layer.exists())
"""
    script = work / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *("unshare", "-Urm", python, "-B", str(script)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "PutDir d 7 2147483647",
        "Opaque d",
        "PutFile d/f 33 0",
        "PutSymlink dev 0 0",
        "PutNode dev2 0 6 block 8 1",
        "PutDir e 0 0",
        "Remove e/gone",
        "PutNode fifo 0 0 fifo 0 0",
        "[(('user.y', b'2'),)]",
        "[0]",
        "False",
    ]


# The kernel's own overlayfs


LOWER: dict[str, Item] = {
    "etc": Dir(0o755),
    "etc/passwd": b"root\n",
    "etc/deep/er/file": b"deep",
    "bin/sh": b"#!",
    "bin/bash": SameFile("bin/sh"),
    "lib": "usr/lib",
    "usr/lib/so": b"elf",
    "data/one": b"1",
    "data/two": b"2",
    "data/sub/three": b"3",
    "fifo": Node(),
    "tmp": Dir(0o1777),
}

CAPABILITY = bytes.fromhex("0100000200200000") + bytes(12)


def _set_xattr(path: str, name: str, value: bytes) -> str:
    return f"python3 -c \"import os; os.setxattr('{path}', '{name}', {value!r})\""


STEPS = {
    "nothing": "true",
    "a new file": "echo x > new",
    "a new tree": "mkdir -p a/b/c; echo x > a/b/c/d; ln -s d a/b/c/e",
    "delete a file": "rm etc/passwd",
    "delete a tree": "rm -r data",
    "delete and put back": "rm etc/passwd; echo x > etc/passwd",
    "a file made and deleted": "echo x > new; rm new; mkdir d; rmdir d",
    "a directory becomes a file": "rm -r data; echo x > data",
    "a file becomes a directory": "rm etc/passwd; mkdir etc/passwd; echo x > etc/passwd/x",
    "a directory becomes a link": "rm -r data; ln -s etc data",
    "a link becomes a directory": "rm lib; mkdir lib; echo x > lib/x",
    "an emptied directory": "rm -r data; mkdir data",
    "a refilled directory": "rm -r data; mkdir -p data/sub; echo 4 > data/sub/4; echo 2 > data/two",
    "rename a file": "mv etc/passwd etc/shadow",
    "rename over a file": "mv data/one data/two",
    "rename a directory": "mv data moved",
    "rename a directory twice": "mv data x; mv x data",
    "rename a new directory": "mkdir n; echo x > n/x; mv n etc/n",
    "exchange": "mv data/one t; mv data/two data/one; mv t data/two",
    "a hard link to a lower file": "ln etc/passwd etc/hard",
    "a hard link to a new file": "echo x > a; ln a b; ln b etc/c",
    "one name of a lower inode written": "echo more >> bin/bash",
    "one name of a lower inode removed": "rm bin/bash",
    "a hard link to a linked file": "ln bin/sh bin/dash",
    "a hard link to a symbolic link": "ln -P lib lib2 || ln lib lib2",
    "chmod of a file": "chmod 4711 bin/sh",
    "chmod of a directory": "chmod 700 data/sub",
    "chown": "chown -R 12:34 data",
    "touch": "touch -d @5 etc/passwd data",
    "user xattr": _set_xattr("etc/passwd", "user.a", b"b"),
    "xattr of a directory": _set_xattr("data", "user.a", b"b"),
    "a capability": _set_xattr("bin/sh", "security.capability", CAPABILITY),
    "a fifo": "mkfifo etc/fifo; rm fifo",
    "devices": "mknod etc/null c 1 3; mknod etc/loop b 7 0",
    "a socket": "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('etc/socket')\"",
    "holes": "truncate -s 3M hole; echo x >> hole",
    "append to a file": "echo more >> etc/passwd",
    "truncate a file": ": > etc/passwd",
    "odd names": r"""touch "$(printf '\377\376')" "$(printf 'a\nb')" '*' ' ' '\' -- -x""",
    "a long name": "touch " + "n" * 255,
    "a deep delete": "rm -r etc/deep/er",
    "an mtime in nanoseconds": "touch -d '2001-02-03 04:05:06.123456789' data/one",
    "hide and show": "rm -r data/sub; mkdir data/sub; echo 3 > data/sub/three",
    "nested": "rm -r data; mkdir -p data/x/y; rm -r data/x; mkdir data/x; touch data/x/z",
}


@pytest.mark.needs_overlay
@pytest.mark.parametrize("name", STEPS)
def test_what_overlayfs_leaves_is_what_happened(tmp_path: Path, name: str) -> None:
    lower = make_tree(tmp_path / "lower", LOWER)
    after = tmp_path / "after"
    upper = run_in_overlay(tmp_path, STEPS[name])
    found = read(changes(upper))
    expected = read_tree(after)

    by_overlay = _copy(lower, tmp_path / "by-overlay")
    apply(found, by_overlay)
    assert read_tree(by_overlay) == expected

    by_diff = _copy(lower, tmp_path / "by-diff")
    difference = read(tree_changes(lower, after))
    apply(difference, by_diff)
    assert read_tree(by_diff) == expected

    index = TreeIndex()
    index.add_layer(survey(tree_changes(None, lower)))
    below = index.copy()
    index.add_layer(survey(found))
    assert {node.entry.path for node in index.walk() if node.entry.path} == expected.keys()
    for node in index.walk():
        if node.entry.path and node.entry.kind == "file":
            assert node.entry.digest == Digest.of(expected[node.entry.path].content)
            assert node.entry.meta.mode == expected[node.entry.path].mode
    below.add_layer(survey(difference))
    assert _merged(below) == _merged(index)

    # And back: the same layer, mounted from what `write` makes of the tar.
    pieces: list[bytes] = []
    pack(changes(upper), pieces.append)
    again = tmp_path / "again"
    again.mkdir()
    write(unpack(io.BytesIO(b"".join(pieces))), again)
    shown = tmp_path / "shown"
    _mount_and_copy(f"lowerdir={again}:{lower}", tmp_path / "merged2", shown)
    assert _whole_seconds(read_tree(shown)) == _whole_seconds(expected)


def _merged(index: TreeIndex) -> list[TocEntry]:
    return [node.entry._replace(target="") for node in index.walk() if node.entry.path]


def _whole_seconds(tree: Mapping[str, Seen]) -> dict[str, Seen]:
    return {path: replace(seen, mtime_ns=seen.mtime_ns // 10**9) for path, seen in tree.items()}


def run_in_overlay(work: Path, script: str) -> Path:
    """Run a shell script in an overlay over work/lower; copy the result to work/after."""
    for name in ("upper", "work", "merged"):
        (work / name).mkdir()
    options = f"lowerdir={work}/lower,upperdir={work}/upper,workdir={work}/work"
    options += ",redirect_dir=off,metacopy=off,index=off"
    program = f"""
set -e
mount -t overlay overlay -o {options} {work}/merged
cd {work}/merged
(umask 022; {script})
cd {work}
cp -a {work}/merged {work}/after
"""
    _unshared(program)
    return work / "upper"


def _mount_and_copy(options: str, merged: Path, copy: Path) -> None:
    merged.mkdir()
    _unshared(f"set -e; mount -t overlay overlay -o {options} {merged}; cp -a {merged} {copy}")


def _unshared(program: str) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", program],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def _copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


@pytest.mark.needs_overlay
def test_deep_trees_survive_the_kernels_overlay(tmp_path: Path) -> None:
    make_tree(tmp_path / "lower", LOWER)
    script = tmp_path / "deep.py"
    script.write_text(
        "import os\n"
        "for _ in range(400):\n"
        "    os.mkdir('d' * 30)\n"
        "    os.chdir('d' * 30)\n"
        "open('file', 'w').write('deep')\n"
    )
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    try:
        _unshared(
            f"set -e; mount -t overlay overlay -o {options} {tmp_path}/merged;"
            f" cd {tmp_path}/merged; python3 {script}"
        )
        found = read(changes(tmp_path / "upper"))
        assert found[-1].path == "/".join(["d" * 30] * 400) + "/file"
        assert len(found) > 400
        expected = survey(tree_changes(None, tmp_path / "upper"))
        assert {row.path for row in expected} == {change.path for change in found}
    finally:
        remove_tree(tmp_path / "upper")


@pytest.mark.needs_overlay
def test_an_overlay_of_an_ordinary_user_is_read(tmp_path: Path) -> None:
    """userxattr is what a user namespace must mount with; the kernel then uses user.overlay."""
    make_tree(tmp_path / "lower", LOWER)
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = (
        f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work,userxattr"
    )
    _unshared(
        f"set -e; mount -t overlay overlay -o {options} {tmp_path}/merged;"
        f" cd {tmp_path}/merged; rm -r data; mkdir data; rm etc/passwd; rm -r usr"
    )
    found = list(changes(tmp_path / "upper", userxattr=True))
    assert [change for change in found if isinstance(change, Remove | Opaque)] == [
        remove("usr"),
        opaque("data"),
        remove("etc/passwd"),
    ]


@pytest.mark.needs_overlay
def test_a_written_layer_hides_what_it_removes_when_mounted(tmp_path: Path) -> None:
    for userxattr in (False, True):
        work = tmp_path / str(userxattr)
        lower = make_tree(work / "lower", LOWER)
        made = work / "layer"
        made.mkdir()
        changeset: list[Change] = [
            *(directory("data"), opaque("data"), put("data/new")),
            *(directory("etc"), remove("etc/passwd"), remove("fifo")),
        ]
        write(changeset, made, userxattr=userxattr)
        options = f"lowerdir={made}:{lower}" + ",userxattr" * userxattr
        _mount_and_copy(options, work / "merged", work / "shown")
        shown = read_tree(work / "shown")
        assert {"data/new", "etc/deep", "bin/sh"} <= shown.keys()
        assert not {"data/one", "data/sub", "etc/passwd", "fifo"} & shown.keys()


# remove_tree


def test_remove_tree_removes_everything(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path / "t",
        {"a/b/c": b"", "l": "a", "d": Dir(0o000), "f": Node(), "h": SameFile("a/b/c")},
    )
    remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_takes_files_links_and_nothing_at_all(tmp_path: Path) -> None:
    target = make_tree(tmp_path / "target", {"x": b""})
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "file").touch()
    for name in ("link", "file", "missing", "missing/too"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "x").exists()


def test_remove_tree_follows_no_link(tmp_path: Path, canary: Path) -> None:
    tree = make_tree(tmp_path / "t", {"l": str(canary), "d/l": "../../outside", "d/m": "/"})
    remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_crosses_no_mount(tmp_path: Path, canary: Path) -> None:
    tree = make_tree(tmp_path / "t", {"a": b"", "m/inner": Dir(), "b/c/d": b"", "z": b""})
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(overlaydir.__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from layerstore.overlaydir import remove_tree\n"
        "from layerstore.errors import StoreBusyError\n"
        "for name in sys.argv[1:]:\n"
        "    try: remove_tree(Path(name)); print('removed')\n"
        "    except StoreBusyError as error: print('busy', error.path)\n"
    )
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private", "sh", "-c"),
            f"cd {tree}; mount --bind {canary} m/inner;"
            f" exec python3 -B {program} $PWD $PWD/m/inner",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["busy inner", "busy inner"]
    assert sorted(read_tree(tree)) == ["m", "m/inner"]


def test_remove_tree_works_beyond_path_max(deep_path: Path) -> None:
    root = deep_path / "t"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d" * 20, dir_fd=fd)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    remove_tree(root)
    assert not root.exists()


def test_a_cursor_notices_that_a_directory_was_moved(tmp_path: Path) -> None:
    make_tree(tmp_path / "t", {"/".join(["d"] * 80).lstrip("/"): Dir(), "elsewhere": Dir()})
    with Cursor(os.open(tmp_path / "t", os.O_RDONLY)) as cursor:
        for _ in range(70):
            cursor.down("d")
        fourth = tmp_path / "t/d/d/d/d"
        fourth.rename(tmp_path / "t/elsewhere/d")
        for _ in range(66):
            os.close(cursor.up())
        with pytest.raises(StoreError, match="moved"):
            for _ in range(4):
                os.close(cursor.up())


def test_a_cursor_goes_through_no_link(tmp_path: Path) -> None:
    make_tree(tmp_path / "t", {"l": "d", "d/x": b""})
    with Cursor(os.open(tmp_path / "t", os.O_RDONLY)) as cursor:
        for name in ("l", "d/x"):
            with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
                cursor.down(name)
        cursor.down("d")
        os.close(cursor.up())
        assert overlaydir.list_directory(cursor.fd) != []


@pytest.mark.needs_root
def test_an_attribute_that_the_kernel_refuses_is_named(layer: Path) -> None:
    meta = Meta(0o644, xattrs=(("system.posix_acl_access", b"no list"),))
    with pytest.raises(StoreError, match=r"'f': its attribute system\.posix_acl_access: "):
        write([PutFile(TreePath("f"), meta, 1, b"1")], layer)
