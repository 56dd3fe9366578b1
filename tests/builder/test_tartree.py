"""Tars as sources: what GNU tar's reader would see, and nothing outside."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.errors import LoweringError
from builder.sources import resolve, select, walk
from builder.tartree import TarTree
from layerstore import Digest, StoreError, TreePath, UnsafePathError

Member = tuple[str, dict[str, object], bytes]
MEMBERS: tuple[Member, ...] = (
    ("d", {"type": tarfile.DIRTYPE, "mode": 0o750, "uid": 7}, b""),
    ("d/f", {"mode": 0o640, "uid": 1, "gid": 2, "mtime": 1234}, b"text"),
    ("d/twin", {"type": tarfile.LNKTYPE, "linkname": "d/f"}, b""),
    ("link", {"type": tarfile.SYMTYPE, "linkname": "/d/f"}, b""),
    ("out", {"type": tarfile.SYMTYPE, "linkname": "../../../etc/passwd"}, b""),
    ("pipe", {"type": tarfile.FIFOTYPE}, b""),
    ("a/b/c", {}, b"deep"),
)


def packed(*members: Member) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, fields, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    data.seek(0)
    return data


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def tree_of(cleanup: ExitStack, tmp_path: Path, *members: Member) -> TarTree:
    return TarTree(packed(*members), cleanup, directory=tmp_path, description="the archive")


def read(tree: TarTree, path: str) -> bytes:
    entry = tree.get(TreePath(path))
    assert entry is not None
    content = tree.content(entry)
    return content if isinstance(content, bytes) else b"".join(content())


def test_members_are_entries(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(cleanup, tmp_path, *MEMBERS)
    assert {path: entry.kind for path, entry, _ in walk(tree, TreePath(""))} == {
        "a": "dir",
        "a/b": "dir",
        "a/b/c": "file",
        "d": "dir",
        "d/f": "file",
        "d/twin": "file",
        "link": "symlink",
        "out": "symlink",
        "pipe": "fifo",
    }
    assert tree.children(TreePath("d")) == ["f", "twin"]
    assert tree.get(TreePath("absent")) is None
    assert tree.description == "the archive"


def test_owners_modes_and_times_are_the_archive_s(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(cleanup, tmp_path, *MEMBERS)
    entry = tree.get(TreePath("d/f"))
    assert entry is not None
    meta = entry.meta
    assert (meta.mode, meta.uid, meta.gid, meta.mtime_ns) == (0o640, 1, 2, 1234 * 10**9)
    directory = tree.get(TreePath("d"))
    assert directory is not None
    assert (directory.meta.mode, directory.meta.uid) == (0o750, 7)


def test_contents_can_be_read_again_large_ones_too(cleanup: ExitStack, tmp_path: Path) -> None:
    large = os.urandom(3 << 20)
    tree = tree_of(cleanup, tmp_path, ("large", {}, large), ("small", {}, b"s"))
    for _ in range(2):
        assert read(tree, "large") == large
        assert read(tree, "small") == b"s"
    entry = tree.get(TreePath("large"))
    assert entry is not None
    assert tree.digest(entry) == tree.digest(entry) == Digest.of(large)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_names_of_one_file_are_linked(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(cleanup, tmp_path, *MEMBERS)
    first, second = tree.get(TreePath("d/f")), tree.get(TreePath("d/twin"))
    assert first is not None
    assert second is not None
    assert first.link_group == second.link_group is not None
    assert read(tree, "d/f") == read(tree, "d/twin") == b"text"
    assert tree.digest(second) == Digest.of(b"text")


def test_links_lead_nowhere_but_inside(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(cleanup, tmp_path, *MEMBERS)
    assert resolve(tree, "link") == "d/f"
    assert resolve(tree, "out") == "etc/passwd"  # of the archive, which has none
    assert select(tree, "out") is None


def test_a_later_member_replaces_an_earlier_one(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(
        cleanup,
        tmp_path,
        *[("x", {}, b"first"), ("x", {}, b"second")],
        *[("y/z", {}, b"1"), ("y", {}, b"file")],
    )
    assert read(tree, "x") == b"second"
    assert read(tree, "y") == b"file"
    assert tree.get(TreePath("y/z")) is None


def test_a_member_beneath_a_link_goes_where_the_link_leads(
    cleanup: ExitStack, tmp_path: Path
) -> None:
    link: dict[str, object] = {"type": tarfile.SYMTYPE, "linkname": "/../d"}
    tree = tree_of(cleanup, tmp_path, ("l", link, b""), ("l/f", {}, b"1"))
    assert read(tree, "d/f") == b"1"
    assert not (tmp_path / "d").exists()


def test_absolute_names_begin_at_the_top(cleanup: ExitStack, tmp_path: Path) -> None:
    tree = tree_of(cleanup, tmp_path, ("/abs/f", {}, b"1"), ("./rel", {}, b"2"))
    assert tree.children(TreePath("")) == ["abs", "rel"]


@pytest.mark.parametrize(
    ("member", "error"),
    [
        (("../x", {}, b""), UnsafePathError),
        (("a/../../x", {}, b""), UnsafePathError),
        (("d/.wh.x", {}, b""), LoweringError),
        (("d/.wh..wh..opq", {}, b""), LoweringError),
        (("x", {"type": tarfile.LNKTYPE, "linkname": "absent"}, b""), LoweringError),
    ],
)
def test_what_leads_out_or_plays_tricks_is_refused(
    cleanup: ExitStack,
    tmp_path: Path,
    member: Member,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        tree_of(cleanup, tmp_path, member)


def test_a_tar_that_ends_too_early_is_an_error(cleanup: ExitStack, tmp_path: Path) -> None:
    data = packed(("large", {}, bytes(3 << 20))).getvalue()
    for size in (100, 700, 2 << 20):
        with pytest.raises(StoreError):
            TarTree(io.BytesIO(data[:size]), cleanup, directory=tmp_path, description="x")
