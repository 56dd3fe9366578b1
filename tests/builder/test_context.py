"""The build context: what is seen, what is remembered, and what happens when it changes."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import sources
from builder.context import ContextTree
from builder.errors import ContextError
from builder.ignorefile import NO_RULES, parse_ignore_file
from builder.sources import SourceEntry
from layerstore import Digest, FileStamp, TreePath, remove_tree
from tests.support.sources import (
    LONG_AGO_S,
    Dir,
    Fifo,
    File,
    Hard,
    Items,
    Link,
    Socket,
    write_files,
)
from tests.support.traces import open_descriptors


@contextmanager
def context(
    root: Path, ignore: str = "", stamps: dict[str, FileStamp] | None = None
) -> Iterator[ContextTree]:
    rules = parse_ignore_file(ignore.encode()) if ignore else NO_RULES
    tree = ContextTree(root, rules, stamps=stamps)
    try:
        yield tree
    finally:
        tree.close()


def entry_of(tree: ContextTree, path: str) -> SourceEntry:
    entry = tree.get(TreePath(path))
    assert entry is not None, path
    return entry


def all_paths(tree: ContextTree) -> list[str]:
    return [relative for relative, _, _ in sources.walk(tree, TreePath(""))]


def content_of(tree: ContextTree, path: str) -> bytes:
    content = tree.content(entry_of(tree, path))
    return content if isinstance(content, bytes) else b"".join(content())


def digest_of(tree: ContextTree, path: str) -> str:
    return tree.digest(entry_of(tree, path))


def age(path: Path, seconds_ago: float = 1000) -> None:
    """Wait until the file's ctime is old enough for its digest to be remembered."""
    os.utime(path, (time.time() - seconds_ago,) * 2)
    time.sleep(0.03)


def seen(root: Path, ignore: str) -> list[str]:
    with context(root, ignore) as tree:
        return all_paths(tree)


# What is seen.


def test_every_kind_of_file_is_seen_with_its_attributes(tmp_path: Path) -> None:
    items: Items = {
        "file": File(content=b"hello", mode=0o640, mtime_s=5),
        "tool": File(content=b"#!", mode=0o4755),
        "dir": Dir(mode=0o1777, mtime_s=7),
        "link": Link("../outside"),
        "pipe": Fifo(mode=0o620),
        "socket": Socket(),
    }
    with context(write_files(tmp_path, items)) as tree:
        kinds = {path: entry_of(tree, path).kind for path in all_paths(tree)}
        assert kinds == {
            "dir": "dir",
            "file": "file",
            "link": "symlink",
            "pipe": "fifo",
            "socket": "socket",
            "tool": "file",
        }
        file = entry_of(tree, "file")
        assert (file.meta.mode, file.size_bytes, file.meta.mtime_ns) == (0o640, 5, 5_000_000_000)
        assert entry_of(tree, "tool").meta.mode == 0o4755
        assert (entry_of(tree, "dir").meta.mode, entry_of(tree, "dir").meta.mtime_ns) == (
            0o1777,
            7_000_000_000,
        )
        assert entry_of(tree, "link").target == "../outside"
        assert entry_of(tree, "pipe").meta.mode == 0o620


@pytest.mark.needs_root
def test_everything_belongs_to_root_in_the_image(tmp_path: Path) -> None:
    write_files(tmp_path, {"file": File(uid=1000, gid=100)})
    with context(tmp_path) as tree:
        assert (entry_of(tree, "file").meta.uid, entry_of(tree, "file").meta.gid) == (0, 0)


@pytest.mark.needs_root
def test_devices_keep_their_numbers(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with context(tmp_path) as tree:
        null = entry_of(tree, "null")
        assert (null.kind, null.major, null.minor) == ("char", 1, 3)


def test_the_top_is_a_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with context(tmp_path) as tree:
        top = entry_of(tree, "")
        assert (top.kind, top.path, top.meta.mode) == ("dir", "", 0o711)
        assert tree.children(TreePath("")) == []


def test_names_come_in_byte_order(tmp_path: Path) -> None:
    names = [b"B", b"a", b"\xff", b"\xc3\xa9", b"a.b", b"a-b", b"\n", b" "]
    write_files(tmp_path, {os.fsdecode(name): b"" for name in names})
    with context(tmp_path) as tree:
        found = [os.fsencode(name) for name in tree.children(TreePath(""))]
        assert found == sorted(names)


def test_any_linux_name_can_be_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe" + b"x" * 253)
    write_files(tmp_path, {name: b"content"})
    with context(tmp_path) as tree:
        assert content_of(tree, name) == b"content"


def test_what_is_not_there_is_none_and_has_no_children(tmp_path: Path) -> None:
    write_files(tmp_path, {"file": b"", "dir/inner": b"", "link": Link("dir")})
    with context(tmp_path) as tree:
        for path in ("absent", "absent/deeper", "file/below", "dir/absent", "dir/inner/x"):
            assert tree.get(TreePath(path)) is None, path
        assert tree.children(TreePath("absent")) == []
        assert tree.children(TreePath("file")) == []


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "outside", {"secret": b"secret"})
    write_files(tmp_path / "inside", {"out": Link("../outside"), "abs": Link("/etc")})
    with context(tmp_path / "inside") as tree:
        assert tree.get(TreePath("out/secret")) is None
        assert tree.get(TreePath("abs/passwd")) is None
        assert tree.children(TreePath("out")) == []
        assert tree.children(TreePath("abs")) == []


def test_hard_links_share_a_group_and_single_files_have_none(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"x", "d/b": Hard("a"), "c": b"x"})
    with context(tmp_path) as tree:
        assert entry_of(tree, "a").link_group == entry_of(tree, "d/b").link_group is not None
        assert entry_of(tree, "c").link_group is None


def test_user_attributes_are_kept_and_the_hosts_own_are_not(tmp_path: Path) -> None:
    write_files(tmp_path, {"file": b""})
    try:
        os.setxattr(tmp_path / "file", "user.note", b"kept")
    except OSError as error:
        pytest.skip(f"no user attributes on this file system: {error.strerror}")
    if os.geteuid() == 0:
        os.setxattr(tmp_path / "file", "trusted.note", b"not kept")
    with context(tmp_path) as tree:
        assert entry_of(tree, "file").meta.xattrs == (("user.note", b"kept"),)


def test_a_deep_tree_needs_neither_recursion_nor_long_paths(tmp_path: Path) -> None:
    depth = 1100  # more than Python's recursion limit, and the path is longer than PATH_MAX
    name = "deep"
    fd = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    try:
        with context(tmp_path) as tree:
            paths = all_paths(tree)
            assert len(paths) == depth + 1
            assert paths[-1].endswith("deep/bottom")
            assert digest_of(tree, paths[-1]) == Digest.of(b"")
        with context(tmp_path, "*\n!**/bottom\n") as tree:
            assert len(all_paths(tree)) == depth + 1
    finally:
        remove_tree(tmp_path / name)


# Ignore rules.


TREE: Items = {
    ".git/config": b"",
    "README.md": b"",
    "docs/a.md": b"",
    "docs/b.txt": b"",
    "src/main.c": b"",
    "src/deep/er/keep.o": b"",
    "src/deep/er/drop.o": b"",
}


def test_ignored_files_do_not_exist(tmp_path: Path) -> None:
    write_files(tmp_path, TREE)
    assert seen(tmp_path, ".git\n**/*.o\n*.md\n") == [
        "docs",
        "docs/a.md",
        "docs/b.txt",
        "src",
        "src/deep",
        "src/deep/er",
        "src/main.c",
    ]
    with context(tmp_path, ".git\n") as tree:
        assert tree.get(TreePath(".git")) is None
        assert tree.get(TreePath(".git/config")) is None


def test_an_ignored_directory_exists_as_the_parent_of_what_is_taken_back(tmp_path: Path) -> None:
    write_files(tmp_path, TREE)
    assert seen(tmp_path, "*\n!src/deep/er/keep.o\n") == [
        "src",
        "src/deep",
        "src/deep/er",
        "src/deep/er/keep.o",
    ]
    assert seen(tmp_path, "*\n!**/*.md\n") == ["README.md", "docs", "docs/a.md"]
    assert seen(tmp_path, "src\n!src/deep/none\n") == [
        ".git",
        ".git/config",
        "README.md",
        "docs",
        "docs/a.md",
        "docs/b.txt",
    ]


def test_an_empty_directory_that_is_taken_back_exists(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/empty": Dir(), "a/b/c": Dir()})
    assert seen(tmp_path, "*\n!a/empty\n") == ["a", "a/empty"]
    assert seen(tmp_path, "*\n") == []


def test_ignoring_everything_leaves_an_empty_context(tmp_path: Path) -> None:
    write_files(tmp_path, TREE)
    assert seen(tmp_path, "**\n") == []


def test_a_message_can_tell_ignored_from_absent(tmp_path: Path) -> None:
    write_files(tmp_path, TREE)
    with context(tmp_path, "docs\n") as tree:
        assert tree.exists_ignored("docs/a.md")
        assert tree.exists_ignored("docs")
        assert not tree.exists_ignored("docs/absent")
        assert not tree.exists_ignored("README.md")
        assert not tree.exists_ignored("../README.md")


def test_what_lies_behind_a_link_is_not_told(tmp_path: Path) -> None:
    write_files(tmp_path, {"out": Link("/etc"), "in": Link("docs"), "docs/a": b""})
    with context(tmp_path, "*\n") as tree:
        assert tree.exists_ignored("out")
        assert not tree.exists_ignored("out/passwd")
        assert not tree.exists_ignored("in/a")
        assert tree.exists_ignored("docs/a")


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rules=st.lists(st.tuples(st.booleans(), PATHS | st.just("**/c")), max_size=4))
def test_what_is_seen_is_what_is_not_ignored_and_its_parents(
    tmp_path: Path, rules: list[tuple[bool, str]]
) -> None:
    if not (tmp_path / "a").exists():
        write_files(tmp_path, {f"{x}/{y}/{z}": b"" for x in "abc" for y in "abc" for z in "abc"})
    text = "".join(("!" if keep else "") + pattern + "\n" for keep, pattern in rules)
    compiled = parse_ignore_file(text.encode())
    every = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    kept = [path for path in every if not compiled.ignores(path)]
    parents = {path[:end] for path in kept for end, char in enumerate(path) if char == "/"}
    assert set(seen(tmp_path, text)) == parents | set(kept)


# Reading and remembering.


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/file": b"x", "b/file": b"x"})
    with context(tmp_path) as tree:
        assert tree.children(TreePath("a")) == ["file"]
        (tmp_path / "b" / "later").write_bytes(b"")
        assert tree.children(TreePath("b")) == ["file", "later"]
        assert tree.files_read == 0


def test_a_file_is_read_once_for_its_digest_and_its_content(tmp_path: Path) -> None:
    write_files(tmp_path, {"file": b"content"})
    with context(tmp_path) as tree:
        assert digest_of(tree, "file") == Digest.of(b"content")
        assert digest_of(tree, "file") == Digest.of(b"content")
        (tmp_path / "file").unlink()
        assert tree.content(entry_of(tree, "file")) == b"content"
        assert tree.files_read == 1


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    write_files(tmp_path, {"large": data})
    with context(tmp_path) as tree:
        assert digest_of(tree, "large") == Digest.of(data)
        content = tree.content(entry_of(tree, "large"))
        assert not isinstance(content, bytes)
        assert b"".join(content()) == data
        assert b"".join(content()) == data


def test_an_unchanged_file_is_not_read_by_the_next_build(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "d/b": b"2", "empty": b""})
    time.sleep(0.03)
    with context(tmp_path) as tree:
        digests = {path: digest_of(tree, path) for path in ("a", "d/b", "empty")}
        stamps = tree.fresh_stamps()
    assert stamps is not None
    assert sorted(stamps) == ["a", "d/b", "empty"]
    with context(tmp_path, stamps=stamps) as tree:
        assert {path: digest_of(tree, path) for path in digests} == digests
        assert tree.files_read == 0
        assert tree.fresh_stamps() is None


@pytest.mark.parametrize("change", ["content", "same size and time", "replaced", "mode"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    file = write_files(tmp_path, {"file": b"old"}) / "file"
    age(file)
    with context(tmp_path) as tree:
        digest_of(tree, "file")
        stamps = tree.fresh_stamps()
    before = file.stat()
    if change == "content":
        file.write_bytes(b"newer")
    elif change == "same size and time":
        file.write_bytes(b"new")
    elif change == "replaced":
        (tmp_path / "other").write_bytes(b"new")
        (tmp_path / "other").rename(file)
    else:
        file.chmod(0o600)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with context(tmp_path, stamps=stamps) as tree:
        assert digest_of(tree, "file") == Digest.of(file.read_bytes())
        assert tree.files_read == 1


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """It could change once more within the clock's grain and look the same."""
    write_files(tmp_path, {"old": b""})
    time.sleep(0.03)
    (tmp_path / "new").write_bytes(b"x")
    with context(tmp_path) as tree:
        digest_of(tree, "old")
        digest_of(tree, "new")
        stamps = tree.fresh_stamps()
    assert stamps is not None
    assert "old" in stamps
    assert "new" not in stamps


def test_a_file_from_the_future_is_not_remembered(tmp_path: Path) -> None:
    write_files(tmp_path, {"file": b"x"})
    os.utime(tmp_path / "file", (time.time() + 3600,) * 2)
    time.sleep(0.03)
    with context(tmp_path) as tree:
        digest_of(tree, "file")
        assert tree.fresh_stamps() == {}


def test_what_other_builds_remembered_is_kept_and_what_is_gone_is_dropped(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1": b"", "a/2": b"", "b/1": b"", "c/d/e": b"", "x": b""})
    time.sleep(0.03)
    with context(tmp_path) as tree:
        for path in ("a/1", "a/2", "b/1", "c/d/e"):
            digest_of(tree, path)
        stamps = tree.fresh_stamps()
    (tmp_path / "a" / "2").unlink()
    (tmp_path / "c" / "d" / "e").unlink()
    (tmp_path / "c" / "d").rmdir()
    (tmp_path / "c").rmdir()
    with context(tmp_path, stamps=stamps) as tree:
        digest_of(tree, "a/1")
        digest_of(tree, "x")
        stamps = tree.fresh_stamps()
    assert stamps is not None
    assert sorted(stamps) == ["a/1", "b/1", "x"]


# Changing under our feet.


def swap(path: Path, how: str, outside: Path) -> None:
    """Replace a file by something else between its listing and its reading."""
    if how == "grown":
        with path.open("ab") as file:
            file.write(b"more")
        return
    if how == "cut":
        os.truncate(path, 1)
        return
    path.unlink()
    if how == "replaced":
        path.write_bytes(b"12345678")
    elif how == "link":
        path.symlink_to(outside)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "directory":
        path.mkdir()


@pytest.mark.parametrize("how", ["gone", "grown", "cut", "replaced", "link", "fifo", "directory"])
@pytest.mark.parametrize("size", [8, 2 << 20])
def test_a_file_that_changes_between_listing_and_reading_is_an_error(
    tmp_path: Path, how: str, size: int
) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"x" * size)
    root = write_files(tmp_path / "context", {"d/file": b"x" * size})
    with context(root) as tree:
        entry = entry_of(tree, "d/file")
        swap(root / "d/file", how, outside)
        with pytest.raises(ContextError, match=r"'d/file'") as caught:
            tree.digest(entry)
        assert caught.value.hint


@pytest.mark.parametrize("how", ["gone", "grown", "replaced", "link", "fifo"])
def test_a_file_that_changes_after_its_digest_was_remembered_is_an_error(
    tmp_path: Path, how: str
) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    root = write_files(tmp_path / "context", {"file": b"content"})
    time.sleep(0.03)
    with context(root) as tree:
        digest_of(tree, "file")
        stamps = tree.fresh_stamps()
    with context(root, stamps=stamps) as tree:
        entry = entry_of(tree, "file")
        tree.digest(entry)
        swap(root / "file", how, outside)
        with pytest.raises(ContextError, match="'file'"):
            content_of(tree, "file")


@pytest.mark.parametrize("size", [8, 3 << 20])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, size: int) -> None:
    file = write_files(tmp_path, {"file": b"x" * size}) / "file"
    with context(tmp_path) as tree:
        content = tree.content(entry_of(tree, "file"))
        assert not isinstance(content, bytes)
        pieces = iter(content())
        next(pieces)
        with file.open("r+b") as writer:
            writer.write(b"y")
        with pytest.raises(ContextError, match="'file' changed while it was being read"):
            list(pieces)


def test_a_directory_that_becomes_a_link_never_leads_outside(tmp_path: Path) -> None:
    write_files(tmp_path / "outside", {"secret": b"secret"})
    root = write_files(tmp_path / "context", {"d/e/file": b"12345678"})
    with context(root) as tree:
        assert tree.children(TreePath("d")) == ["e"]
        (root / "d/e/file").unlink()
        (root / "d/e").rmdir()
        (root / "d/e").symlink_to(tmp_path / "outside")
        with pytest.raises(ContextError, match="'d/e' changed"):
            tree.children(TreePath("d/e"))
    with context(root) as tree:
        assert tree.get(TreePath("d/e/secret")) is None


def test_a_directory_that_is_deleted_between_listing_and_reading_is_an_error(
    tmp_path: Path,
) -> None:
    root = write_files(tmp_path, {"d": Dir()})
    with context(root) as tree:
        assert tree.children(TreePath("")) == ["d"]
        (root / "d").rmdir()
        with pytest.raises(ContextError, match="'d' changed"):
            tree.children(TreePath("d"))


@pytest.mark.needs_root
@pytest.mark.parametrize("what", ["file", "dir"])
def test_what_may_not_be_read_is_an_error_that_names_it(tmp_path: Path, what: str) -> None:
    write_files(tmp_path, {"file": File(content=b"x", mode=0), "dir/inner": b""})
    (tmp_path / "dir").chmod(0)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == 0 and "pytest" in parent.as_posix():
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with context(tmp_path) as tree, pytest.raises(ContextError, match=f"'{what}'") as caught:
            tree.children(TreePath(what)) if what == "dir" else digest_of(tree, what)
        assert ".dockerignore" in caught.value.hint
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["absent", "file", "file/below"])
def test_a_context_that_is_no_directory_is_an_error(tmp_path: Path, what: str) -> None:
    write_files(tmp_path, {"file": b""})
    with pytest.raises(ContextError, match="cannot open the build context") as caught:
        ContextTree(tmp_path / what)
    assert caught.value.hint


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/b/c": b"1", "a/d/e": b"2" * (2 << 20), "f": b"3", "g": b"4"})
    before = open_descriptors()
    with context(tmp_path, "*\n!**/c\n!**/e\n!g\n") as tree:
        for path in all_paths(tree):
            if entry_of(tree, path).kind == "file" and path != "g":
                digest_of(tree, path)
                content_of(tree, path)
        with pytest.raises(ContextError):
            swap(tmp_path / "g", "gone", tmp_path)
            digest_of(tree, "g")
    assert open_descriptors() <= before


def test_the_directory_may_be_renamed_while_it_is_used(tmp_path: Path) -> None:
    root = write_files(tmp_path / "old", {"d/file": b"content"})
    with context(root) as tree:
        root.rename(tmp_path / "new")
        assert content_of(tree, "d/file") == b"content"


def test_files_of_a_context_are_old_unless_said_otherwise(tmp_path: Path) -> None:
    """The support this file stands on: mtimes are set, so that digests can be remembered."""
    write_files(tmp_path, {"file": b""})
    assert (tmp_path / "file").stat().st_mtime == LONG_AGO_S


def test_everything_may_be_said_to_be_of_one_moment(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "d/b": b"2"})
    tree = ContextTree(tmp_path, mtime_ns=7 * 10**9)
    try:
        entries = [tree.get(TreePath(path)) for path in ("", "a", "d", "d/b")]
        assert {entry and entry.meta.mtime_ns for entry in entries} == {7 * 10**9}
        assert entries[1] is not None
        assert tree.digest(entries[1]) == Digest.of(b"1")
    finally:
        tree.close()


# What may be mounted as it is.


def host_root(tmp_path: Path, items: Items, path: str = "", ignore: str = "") -> Path | None:
    with context(write_files(tmp_path / "context", items), ignore) as tree:
        assert sources.select(tree, path) is not None
        return tree.host_root(TreePath(path))


@pytest.mark.needs_root
@pytest.mark.parametrize("path", ["", "d", "d/f"])
def test_a_context_of_root_s_that_hides_nothing_can_be_mounted(tmp_path: Path, path: str) -> None:
    assert host_root(tmp_path, {"d/f": b"1", "g": b"2"}, path) == tmp_path / "context"


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("ignore", "path", "can"),
    [
        ("d/f", "", False),
        ("d/f", "d", False),
        ("d/f", "e", True),
        ("absent", "", True),
        ("e", "d", True),
        ("d\n!d/f\n", "d", False),  # d/g is hidden
        ("e\n!e/f\n", "e", True),  # all of it is taken back
        ("d/deep", "d", False),
    ],
)
def test_what_hides_something_cannot_be_mounted(
    tmp_path: Path, ignore: str, path: str, can: bool
) -> None:
    items: Items = {"d/f": b"1", "d/g": b"2", "d/deep/h": b"3", "e/f": b"4"}
    assert (host_root(tmp_path, items, path, ignore) is not None) is can


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("path", "can"), [("", False), ("d", False), ("d/theirs", False), ("d/ours", True), ("e", True)]
)
def test_what_belongs_to_somebody_else_cannot_be_mounted(
    tmp_path: Path, path: str, can: bool
) -> None:
    items: Items = {"d/theirs": File(uid=7), "d/ours": b"", "e/f": b""}
    assert (host_root(tmp_path, items, path) is not None) is can


@pytest.mark.needs_root
def test_a_context_directory_of_somebody_else_s_cannot_be_mounted(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    os.chown(tmp_path / "context", 7, 7)
    assert host_root(tmp_path, {"f": b""}) is None
    assert host_root(tmp_path, {"f": b""}, "f") is not None


def _touch(folder: Path) -> None:
    os.utime(folder / "d/f", (5, 5))


def _write(folder: Path) -> None:
    (folder / "d/f").write_text("2")


def _add(folder: Path) -> None:
    (folder / "d/new").touch()


def _remove(folder: Path) -> None:
    (folder / "d/f").unlink()


def _elsewhere(folder: Path) -> None:
    (folder / "e").write_text("2")


def _nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "everywhere", "inside"),
    [
        (_nothing, True, True),
        (_touch, False, False),
        (_write, False, False),
        (_add, False, False),
        (_remove, False, False),
        (_elsewhere, False, True),
    ],
)
def test_a_change_of_what_was_found_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], everywhere: bool, inside: bool
) -> None:
    root = write_files(tmp_path / "context", {"d/f": b"1", "e": b"1"})
    with context(root) as tree:
        assert sources.select(tree, "") is not None
        time.sleep(0.01)  # longer than a tick of the clock of files
        change(root)
        assert tree.is_unchanged(TreePath("")) is everywhere
        assert tree.is_unchanged(TreePath("d")) is inside


def test_a_new_file_at_the_top_is_noticed(tmp_path: Path) -> None:
    root = write_files(tmp_path / "context", {"d/f": b"1"})
    with context(root) as tree:
        assert sources.select(tree, "") is not None
        time.sleep(0.01)
        (root / "new").touch()
        assert not tree.is_unchanged(TreePath(""))
        assert tree.is_unchanged(TreePath("d"))


def test_files_with_extended_attributes_are_not_remembered(tmp_path: Path) -> None:
    """So that those of the others need not be asked for."""
    for name in ("plain", "noted"):
        (tmp_path / name).write_text(name)
    try:
        os.setxattr(tmp_path / "noted", "user.note", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    time.sleep(0.05)

    def looked(stamps: dict[str, FileStamp]) -> tuple[ContextTree, dict[str, bytes]]:
        tree = ContextTree(tmp_path, stamps=stamps)
        found = {}
        for name in ("plain", "noted"):
            entry = entry_of(tree, name)
            tree.digest(entry)
            found[name] = dict(entry.meta.xattrs).get("user.note", b"")
        tree.close()
        return tree, found

    first, found = looked({})
    stamps = first.fresh_stamps()
    assert stamps is not None
    assert found == {"plain": b"", "noted": b"1"}
    assert set(stamps) == {"plain"}
    os.setxattr(tmp_path / "plain", "user.note", b"2")  # which changes its ctime
    assert looked(stamps)[1] == {"plain": b"2", "noted": b"1"}
