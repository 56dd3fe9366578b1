"""Root file systems as tars and as directories."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Layer, Store, write_rootfs, write_rootfs_tar
from layerstore.changeset import Change, Meta, PutFile, PutHardlink, PutNode, Remove
from layerstore.errors import StoreBusyError
from layerstore.treepath import TreePath
from tests.support.layers import changes_of
from tests.support.sources import LONG_AGO_S, Dir, Fifo, File, Hard, Item, Items, Link
from tests.support.trees import Seen, read_tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def layer(store: Store, items: Items, *more: Change) -> Layer:
    return store.layers.commit([*changes_of(items), *more])


def write(store: Store, out: Path, *layers: Layer, mtime_s: int | None = None) -> dict[str, Seen]:
    write_rootfs(store, layers, out, chown=os.geteuid() == 0, mtime_s=mtime_s)
    return read_tree(out)


def tar_of(store: Store, *layers: Layer, mtime_s: int | None = None) -> bytes:
    written = io.BytesIO()
    write_rootfs_tar(store, layers, written.write, mtime_s=mtime_s)
    return written.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


SOME: dict[str, Item] = {
    "etc/passwd": File(content=b"root", mode=0o600),
    "bin": Dir(mode=0o711),
    "bin/tool": File(content=b"#!", mode=0o4755, mtime_s=5),
    "bin/twin": Hard("bin/tool"),
    "link": Link("/etc/passwd"),
    "pipe": Fifo(),
}


def test_a_directory_gets_the_merged_tree(store: Store, out: Path) -> None:
    layers = [
        layer(store, SOME | {"gone": b"", "etc/old": b"1"}),
        layer(store, {"etc/old": b"2"}, Remove(TreePath("gone"))),
    ]
    seen = write(store, out, *layers)
    assert sorted(seen) == [
        *("bin", "bin/tool", "bin/twin", "etc", "etc/old", "etc/passwd", "link", "pipe")
    ]
    assert seen["etc/old"].content == b"2"
    assert (seen["bin"].mode, seen["bin/tool"].mode) == (0o711, 0o4755)
    assert seen["bin/twin"].first == "bin/tool"
    assert seen["bin/tool"].mtime_ns == 5 * 10**9
    assert seen["bin"].mtime_ns == LONG_AGO_S * 10**9
    assert (seen["link"].target, seen["pipe"].type) == ("/etc/passwd", "fifo")


@pytest.mark.needs_root
def test_owners_are_set_when_asked_for(store: Store, out: Path, tmp_path: Path) -> None:
    made = layer(store, {"d": Dir(uid=7, gid=8), "d/f": File(uid=1000, gid=1001)})
    seen = write(store, out, made)
    assert [(each.uid, each.gid) for each in (seen["d"], seen["d/f"])] == [(7, 8), (1000, 1001)]
    write_rootfs(store, [made], tmp_path / "mine", chown=False)
    assert {(each.uid, each.gid) for each in read_tree(tmp_path / "mine").values()} == {(0, 0)}


def test_files_that_were_there_are_replaced_and_others_stay(store: Store, out: Path) -> None:
    (out / "etc").mkdir(parents=True)
    (out / "etc/passwd").write_text("old")
    (out / "etc/mine").write_text("mine")
    seen = write(store, out, layer(store, SOME))
    assert seen["etc/passwd"].content == b"root"
    assert seen["etc/mine"].content == b"mine"
    assert seen["etc"].mtime_ns == LONG_AGO_S * 10**9


def test_no_link_in_the_directory_is_followed(store: Store, out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "passwd").write_text("precious")
    out.mkdir()
    (out / "etc").symlink_to(elsewhere)
    (out / "link").symlink_to(elsewhere / "passwd")
    seen = write(store, out, layer(store, SOME | {"link": b"a file"}))
    assert (elsewhere / "passwd").read_text() == "precious"
    assert seen["etc"].type == "dir"
    assert seen["etc/passwd"].content == b"root"
    assert seen["link"].content == b"a file"


def test_another_name_of_a_replaced_file_keeps_its_content(store: Store, out: Path) -> None:
    out.mkdir()
    (out / "other").write_text("old")
    (out / "f").hardlink_to(out / "other")
    seen = write(store, out, layer(store, {"f": b"new"}))
    assert (seen["f"].content, seen["other"].content) == (b"new", b"old")


def test_directories_and_files_take_each_others_place(store: Store, out: Path) -> None:
    (out / "was-dir/with").mkdir(parents=True)
    (out / "was-dir/with/file").write_text("")
    (out / "was-file").write_text("")
    seen = write(store, out, layer(store, {"was-dir": b"file", "was-file/in": b"1"}))
    assert sorted(seen) == ["was-dir", "was-file", "was-file/in"]
    assert seen["was-dir"].content == b"file"


def test_the_directory_itself_stays_as_it_is(store: Store, out: Path) -> None:
    out.mkdir(mode=0o750)
    out.chmod(0o750)
    write(store, out, layer(store, {"": Dir(mode=0o700), "f": b""}))
    assert stat.S_IMODE(out.stat().st_mode) == 0o750


def test_what_cannot_be_written_changes_nothing(store: Store, out: Path) -> None:
    (out / "etc").mkdir(parents=True)
    (out / "etc/passwd").write_text("old")
    made = layer(store, {"a": b"new", "etc/passwd": b"new"})
    broken = store.layers.checkout(made) / "etc/passwd"
    broken.write_bytes(b"bad")
    with pytest.raises(Exception, match="damaged"):
        write(store, out, made)
    assert {path: each.content for path, each in read_tree(out).items()} == {
        "etc": b"",
        "etc/passwd": b"old",
    }


def test_what_a_killed_export_left_goes_with_the_next(store: Store, out: Path) -> None:
    (out / ".lamina-export-999999999").mkdir(parents=True)
    (out / ".lamina-export-999999999/half").write_text("")
    others = [out / f".lamina-export-{os.getppid()}", out / ".lamina-export-mine"]
    for path in others:
        path.mkdir()
    write(store, out, layer(store, {"f": b""}))
    left = sorted(path.name for path in out.iterdir())
    assert left == sorted(["f", *(path.name for path in others)])


@pytest.mark.needs_root
def test_a_mount_in_the_way_is_no_place_to_write_a_file(store: Store, out: Path) -> None:
    (out / "m").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", out / "m"], check=True)
    try:
        with pytest.raises(StoreBusyError):
            write(store, out, layer(store, {"m": b"file"}))
        assert sorted(path.name for path in out.iterdir()) == ["m"]
    finally:
        subprocess.run(["umount", out / "m"], check=True)


def test_deep_trees_are_merged_too(store: Store, out: Path) -> None:
    deep = "/".join(["directory"] * 200)
    write(store, out, layer(store, {f"{deep}/one": b"1"}))
    seen = write(store, out, layer(store, {f"{deep}/two": b"2"}))
    assert [path for path, each in seen.items() if each.type == "file"] == [
        f"{deep}/one",
        f"{deep}/two",
    ]


def test_a_tar_has_the_tree_and_no_removals(store: Store) -> None:
    layers = [
        layer(store, SOME | {"gone": b""}),
        layer(store, {"f": b"1"}, Remove(TreePath("gone"))),
    ]
    found = members(tar_of(store, *layers))
    assert sorted(found) == [
        *("bin", "bin/tool", "bin/twin", "etc", "etc/passwd", "f", "link", "pipe")
    ]
    assert found["bin/twin"].islnk()
    assert found["bin/tool"].mtime == 5


def test_an_epoch_is_the_time_of_every_file(store: Store, out: Path) -> None:
    made = layer(store, SOME)
    data = tar_of(store, made, mtime_s=1234)
    assert {member.mtime for member in members(data).values()} == {1234}
    assert {each.mtime_ns for each in write(store, out, made, mtime_s=1234).values()} == {
        1234 * 10**9
    }


def test_equal_trees_give_equal_tars(store: Store) -> None:
    one = layer(store, SOME)
    two = [
        layer(store, {"etc/passwd": b"old", "x": b""}),
        layer(store, SOME, Remove(TreePath("x"))),
    ]
    assert tar_of(store, one) == tar_of(store, *two)


def test_large_files_arrive_whole(store: Store, out: Path) -> None:
    content = os.urandom(3 << 20)
    change = PutFile(TreePath("large"), Meta(0o644), len(content), content)
    made = store.layers.commit([change])
    assert write(store, out, made)["large"].content == content


def test_devices_are_left_out_of_directories_and_told_of(store: Store, out: Path) -> None:
    nodes = (
        PutNode(TreePath("dev/disk"), Meta(0o666), "block", 8, 0),
        PutHardlink(TreePath("dev/twin"), TreePath("dev/disk")),
        PutNode(TreePath("null"), Meta(0o666), "char", 1, 3),
    )
    made = layer(store, {"dev": Dir(), "pipe": Fifo()}, *nodes)
    skipped: list[str] = []
    write_rootfs(
        store, [made], out, chown=False, on_skip=lambda path, why: skipped.append(f"{path}: {why}")
    )
    assert set(read_tree(out)) - {""} == {"dev", "pipe"}
    assert [each.partition(":")[0] for each in sorted(skipped)] == ["dev/disk", "dev/twin", "null"]
    assert all("a device node" in each for each in skipped)
    write_rootfs(store, [made], out, chown=False)
    assert members(tar_of(store, made))["dev/disk"].isblk()
