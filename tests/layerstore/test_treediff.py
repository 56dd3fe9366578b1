import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings

from layerstore.changeset import (
    Change,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.errors import StoreError
from layerstore.overlaydir import remove_tree, survey, write
from layerstore.tarcodec import pack
from layerstore.treediff import changes
from layerstore.treepath import ROOT
from tests.support import strategies
from tests.support.conformance import MATERIAL
from tests.support.trees import (
    Dir,
    File,
    Item,
    Node,
    SameFile,
    apply,
    data,
    make_tree,
    memory,
    perform,
    read_tree,
)

BASE: dict[str, Item] = {
    "etc": Dir(),
    "etc/passwd": b"root",
    "etc/link": "passwd",
    "bin": Dir(),
    "bin/a": b"binary",
    "bin/b": SameFile("bin/a"),
    "bin/c": SameFile("bin/a"),
    "fifo": Node(),
    "data": Dir(),
    "data/sub": Dir(),
    "data/sub/file": b"x",
}


def differences(before: Path | None, after: Path) -> list[tuple[str, str]]:
    """Kinds and paths, in order."""
    return [(type(change).__name__, change.path) for change in changes(before, after)]


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal trees of different inodes."""
    before = make_tree(tmp_path / "before", BASE)
    return before, copy_of(before, tmp_path / "after")


def copy_of(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def test_equal_trees_do_not_differ(trees: tuple[Path, Path]) -> None:
    assert differences(*trees) == []


def test_a_tree_does_not_differ_from_itself(trees: tuple[Path, Path]) -> None:
    assert differences(trees[0], trees[0]) == []


def test_contents_are_compared_whatever_the_times_say(trees: tuple[Path, Path]) -> None:
    status = (trees[1] / "etc/passwd").stat()
    (trees[1] / "etc/passwd").write_bytes(b"toor")
    os.utime(trees[1] / "etc/passwd", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert differences(*trees) == [("PutDir", "etc"), ("PutFile", "etc/passwd")]


def test_a_touched_file_differs(trees: tuple[Path, Path]) -> None:
    os.utime(trees[1] / "data/sub/file", ns=(1, 1))
    assert differences(*trees) == [
        ("PutDir", "data"),
        ("PutDir", "data/sub"),
        ("PutFile", "data/sub/file"),
    ]


@pytest.mark.parametrize("attribute", ["mode", "xattr", "time"])
def test_attributes_of_a_directory_differ_without_its_content(
    trees: tuple[Path, Path], attribute: str
) -> None:
    place = trees[1] / "data"
    match attribute:
        case "mode":
            place.chmod(0o700)
        case "xattr":
            os.setxattr(place, "user.a", b"b")
        case _:
            os.utime(place, ns=(5, 5))
    assert differences(*trees) == [("PutDir", "data")]


@pytest.mark.needs_root
def test_owners_differ(trees: tuple[Path, Path]) -> None:
    os.chown(trees[1] / "etc/link", 5, 6, follow_symlinks=False)
    (change,) = [change for change in changes(*trees) if change.path == "etc/link"]
    assert isinstance(change, PutSymlink)
    assert (change.meta.uid, change.meta.gid) == (5, 6)


def test_removals_name_the_topmost_path_and_come_first(trees: tuple[Path, Path]) -> None:
    remove_tree(trees[1] / "data")
    (trees[1] / "etc/passwd").unlink()
    (trees[1] / "etc/new").write_bytes(b"")
    assert differences(*trees) == [
        ("Remove", "data"),
        ("PutDir", "etc"),
        ("Remove", "etc/passwd"),
        ("PutFile", "etc/new"),
    ]


def test_what_replaces_a_directory_needs_no_removals(trees: tuple[Path, Path]) -> None:
    remove_tree(trees[1] / "data")
    (trees[1] / "data").write_bytes(b"a file now")
    assert differences(*trees) == [("PutFile", "data")]


def test_a_directory_may_replace_a_file(trees: tuple[Path, Path]) -> None:
    (trees[1] / "etc/passwd").unlink()
    (trees[1] / "etc/passwd").mkdir()
    assert differences(*trees) == [("PutDir", "etc"), ("PutDir", "etc/passwd")]


def test_a_new_link_to_an_old_file_puts_both(trees: tuple[Path, Path]) -> None:
    os.link(trees[1] / "etc/passwd", trees[1] / "etc/again")
    found = list(changes(*trees))
    assert [(type(change), change.path) for change in found] == [
        (PutDir, "etc"),
        (PutFile, "etc/again"),
        (PutHardlink, "etc/passwd"),
    ]


def test_a_removed_link_leaves_the_others_alone(trees: tuple[Path, Path]) -> None:
    (trees[1] / "bin/a").unlink()
    assert differences(*trees) == [("PutDir", "bin"), ("Remove", "bin/a")]


def test_a_link_that_was_cut_off_is_put_even_with_equal_content(trees: tuple[Path, Path]) -> None:
    place = trees[1] / "bin/c"
    status = place.stat()
    place.unlink()
    place.write_bytes(b"binary")
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert differences(*trees) == [("PutDir", "bin"), ("PutFile", "bin/c")]


def test_a_written_inode_is_put_under_all_its_names(trees: tuple[Path, Path]) -> None:
    (trees[1] / "bin/b").write_bytes(b"written")
    assert differences(*trees) == [
        ("PutDir", "bin"),
        ("PutFile", "bin/a"),
        ("PutHardlink", "bin/b"),
        ("PutHardlink", "bin/c"),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (File(b"x"), "x"),
        ("x", "y"),
        ("x", Node()),
        (Node(), File(b"")),
        (Dir(), "x"),
    ],
)
def test_other_types_and_targets_differ(tmp_path: Path, before: Item, after: Item) -> None:
    first = make_tree(tmp_path / "1", {"a": before})
    second = make_tree(tmp_path / "2", {"a": after})
    assert [path for _, path in differences(first, second)] == ["a"]


@pytest.mark.needs_root
def test_other_devices_differ(tmp_path: Path) -> None:
    device = Node(0o020600, 1, 3)
    first = make_tree(tmp_path / "1", {"a": device, "b": device})
    second = make_tree(tmp_path / "2", {"a": device, "b": Node(0o020600, 1, 5)})
    (change,) = changes(first, second)
    assert isinstance(change, PutNode)
    assert (change.path, change.minor) == ("b", 5)


def test_sockets_are_skipped_with_a_note(trees: tuple[Path, Path]) -> None:
    perform(trees[1], "CreateSocket", "/data/s", 0o600)
    notes: list[str] = []
    found = list(changes(*trees, on_skip=lambda path, _: notes.append(path)))
    assert [change.path for change in found] == ["data"]
    assert notes == ["data/s"]


def test_the_root_is_compared_when_asked_for(trees: tuple[Path, Path]) -> None:
    assert list(changes(*trees, with_root=True)) == []
    trees[1].chmod(0o700)
    assert differences(*trees) == []
    (change,) = changes(*trees, with_root=True)
    assert isinstance(change, PutDir)
    assert (change.path, change.meta.mode) == (ROOT, 0o700)


def test_against_nothing_everything_is_put(trees: tuple[Path, Path]) -> None:
    found = list(changes(None, trees[0], with_root=True))
    assert [change.path for change in found] == ["", *sorted(read_tree(trees[0]))]


def test_contents_are_read_when_asked_for(trees: tuple[Path, Path]) -> None:
    (trees[1] / "etc/passwd").write_bytes(b"first")
    (change,) = [change for change in changes(*trees) if isinstance(change, PutFile)]
    assert data(change.content) == b"first"
    (trees[1] / "etc/passwd").unlink()
    (trees[1] / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        data(change.content)
    (trees[1] / "etc/passwd").unlink()
    (trees[1] / "etc/passwd").write_bytes(b"first")
    with pytest.raises(StoreError, match="changed"):
        data(change.content)


def test_differences_can_be_packed_while_they_are_found(trees: tuple[Path, Path]) -> None:
    (trees[1] / "etc/new").write_bytes(b"x" * 100)
    os.utime(trees[1] / "etc", ns=(1, 7_000_000_000))
    os.utime(trees[1] / "etc/new", ns=(1, 7_000_000_000))
    assert pack(changes(*trees), lambda _: None).toc == survey(changes(*trees))


@pytest.mark.needs_root
@settings(max_examples=40, deadline=None)
@given(strategies.changesets(removals=False), strategies.changesets(removals=False))
def test_the_difference_leads_from_one_tree_to_the_other(
    first: list[Change], second: list[Change]
) -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        before, after = Path(work, "before"), Path(work, "after")
        for place, changeset in ((before, first), (after, second)):
            place.mkdir()
            write(changeset, place)
        found = read(changes(before, after))
        apply(found, before)
        assert read_tree(before) == read_tree(after)
        assert differences(before, after) == []


@pytest.mark.needs_root
@settings(max_examples=40, deadline=None)
@given(strategies.changesets(removals=False, whole_seconds=False))
def test_a_written_tree_differs_from_nothing_by_what_was_written(changeset: list[Change]) -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        write(changeset, Path(work))
        assert read(changes(None, Path(work))) == changeset


def read(found: Iterable[Change]) -> list[Change]:
    return [
        PutFile(change.path, change.meta, change.size_bytes, data(change.content))
        if isinstance(change, PutFile)
        else change
        for change in found
    ]


def test_deep_trees_are_compared(tmp_path: Path) -> None:
    try:
        for name in ("before", "after"):
            (tmp_path / name).mkdir()
            fd = os.open(tmp_path / name, os.O_RDONLY)
            for _ in range(600):
                os.mkdir("d" * 10, dir_fd=fd)
                inner = os.open("d" * 10, os.O_RDONLY, dir_fd=fd)
                os.utime(inner, ns=(1, 1))
                os.close(fd)
                fd = inner
            file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.write(file, name.encode())
            os.close(file)
            os.close(fd)
        found = list(changes(tmp_path / "before", tmp_path / "after"))
        assert len(found) == 601
        last = found[-1]
        assert isinstance(last, PutFile)
        assert data(last.content) == b"after"
    finally:
        for name in ("before", "after"):
            remove_tree(tmp_path / name)


# Cases of containerd


def layer_cases(section: str) -> list[dict[str, list[dict[str, list[str | int]]]]]:
    path = MATERIAL / "oci/layer_cases.json"
    if not path.exists():
        return []
    found: list[dict[str, list[dict[str, list[str | int]]]]] = json.loads(path.read_text())[section]
    return found


needs_cases = pytest.mark.skipif(
    not layer_cases("diff"), reason=f"conformance data is not at {MATERIAL}/oci"
)


@needs_cases
@pytest.mark.parametrize("case", layer_cases("diff"), ids=lambda case: str(case["name"]))
def test_differences_have_the_entries_that_containerd_finds(
    case: dict[str, list[dict[str, list[str | int]]]], tmp_path: Path
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for operation in case["base"]:
        perform(before, str(operation["op"]), *operation["args"])
    after = copy_of(before, tmp_path / "after")
    for operation in case["changes"]:
        perform(after, str(operation["op"]), *operation["args"])
    assert len(list(changes(before, after))) == len(case["expect_entries"])


@needs_cases
@pytest.mark.parametrize("case", layer_cases("roundtrip"), ids=lambda case: str(case["name"]))
def test_layers_of_containerd_lead_to_the_same_tree(
    case: dict[str, list[list[dict[str, list[str | int]]]]], tmp_path: Path
) -> None:
    current = tmp_path / "0"
    current.mkdir()
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    for number, layer in enumerate(case["layers"], start=1):
        before, current = current, copy_of(current, tmp_path / str(number))
        for operation in layer:
            perform(current, str(operation["op"]), *operation["args"])
        found = list(changes(before, current))
        assert not any(isinstance(change, Remove) for change in changes(None, current))
        apply(found, rebuilt)
        assert read_tree(rebuilt) == read_tree(current)
