"""Which files ADD takes for archives, and what it finds in them."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from builder import archives
from builder.context import ContextTree
from builder.errors import ContextError
from builder.sources import SourceEntry
from layerstore import (
    Change,
    Digest,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutSymlink,
    Remove,
    TreePath,
)
from tests.support.layers import bytes_of
from tests.support.sources import DictTree, Dir, Fifo, Link, write_files

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


def tar_of(files: dict[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def entry_of(tree: DictTree, path: str = "f") -> SourceEntry:
    entry = tree.get(TreePath(path))
    assert entry is not None
    return entry


def is_archive(data: bytes) -> bool:
    tree = DictTree({"f": data})
    return archives.is_archive(tree, entry_of(tree))


def members(data: bytes) -> list[Change]:
    tree = DictTree({"f": data})
    with ExitStack() as cleanup:
        return list(archives.members(tree, entry_of(tree), cleanup))


# What an archive is.


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_an_archive_in_every_compression_and_format(kind: str, format_: int) -> None:
    assert is_archive(COMPRESSIONS[kind](tar_of({"a": b"1"}, format_)))


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_what_is_compressed_and_no_tar_is_a_file(kind: str) -> None:
    assert not is_archive(COMPRESSIONS[kind](b"some text, not a tar" * 100))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\0" * 512,
        b"\0" * 10240,
        b"ustar" * 200,
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x00garbage that only begins like gzip" * 20,
        b"\x28\xb5\x2f\xfd" + b"garbage" * 100,
        b"BZh9 garbage" * 100,
        b"\xfd7zXZ\x00 garbage" * 100,
        b"PK\x03\x04" + b"\0" * 600,
        b"#!/bin/sh\n" * 100,
    ],
)
def test_other_bytes_are_a_file_whatever_they_begin_with(data: bytes) -> None:
    assert not is_archive(data)


def test_an_entry_without_a_name_is_one_of_the_root() -> None:
    """Some archives begin with one; tar passes over it, and so does who unpacks the members."""
    nameless = bytearray(tar_of({"x": b""}, tarfile.USTAR_FORMAT)[:512])
    nameless[0:1] = b"\0"
    checksum = sum(nameless) - sum(nameless[148:156]) + 8 * ord(" ")
    nameless[148:156] = b"%06o\0 " % checksum
    found = members(bytes(nameless) + tar_of({"a": b"1"}))
    assert [change.path for change in found] == ["", "a"]


def test_a_cut_header_is_no_archive() -> None:
    assert not is_archive(tar_of({"a": b"1"})[:511])
    assert is_archive(tar_of({"a": b"1"})[:1024])


def test_a_damaged_header_is_no_archive() -> None:
    data = bytearray(tar_of({"a": b"1"}))
    data[0] ^= 1
    assert not is_archive(bytes(data))


def test_only_files_are_archives() -> None:
    tree = DictTree({"d": Dir(), "l": Link("f"), "p": Fifo()})
    assert not any(archives.is_archive(tree, entry_of(tree, name)) for name in "dlp")


def test_the_name_plays_no_part() -> None:
    tree = DictTree({"notes.txt": tar_of({"a": b"1"}), "fake.tar.gz": b"text"})
    assert archives.is_archive(tree, entry_of(tree, "notes.txt"))
    assert not archives.is_archive(tree, entry_of(tree, "fake.tar.gz"))


def test_a_file_that_changes_is_an_error_and_not_just_no_archive(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"f": tar_of({"a": b"1"})})
    tree = ContextTree(root)
    entry = tree.get(TreePath("f"))
    assert entry is not None
    (root / "f").unlink()
    with pytest.raises(ContextError, match="'f'"):
        archives.is_archive(tree, entry)
    tree.close()


# What is in it.


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_members_come_with_their_contents(kind: str) -> None:
    found = members(COMPRESSIONS[kind](tar_of({"a": b"1", "d/b": b"22"})))
    assert [
        (change.path, bytes_of(change.content)) for change in found if isinstance(change, PutFile)
    ] == [("a", b"1"), ("d/b", b"22")]


def test_everything_that_gnu_tar_writes_is_understood(tmp_path: Path) -> None:
    root = write_files(
        tmp_path / "in",
        {"d/file": b"content", "d/link": Link("file"), "d/pipe": Fifo(), "x" * 150 + "/y": b"long"},
    )
    (root / "d/hard").hardlink_to(root / "d/file")
    archive = tmp_path / "a.tar"
    subprocess.run(
        ["tar", "--format=gnu", "--sort=name", "-C", root, "-cf", archive, "."], check=True
    )
    found = {change.path: change for change in members(archive.read_bytes())}
    assert isinstance(found[TreePath("d")], PutDir)
    assert isinstance(found[TreePath("d/link")], PutSymlink)
    file, hard = found[TreePath("d/file")], found[TreePath("d/hard")]
    assert isinstance(file, PutFile)
    assert hard == PutHardlink(TreePath("d/hard"), TreePath("d/file"))
    assert TreePath("x" * 150 + "/y") in found


def test_contents_stay_readable_after_the_archive_was_read() -> None:
    large = os.urandom(300_000)
    data = tar_of({"small": b"s", "large": large, "again": large[::-1], "last": b"l"})
    tree = DictTree({"f": gzip.compress(data)})
    with ExitStack() as cleanup:
        found = {
            str(change.path): change.content
            for change in archives.members(tree, entry_of(tree), cleanup)
            if isinstance(change, PutFile)
        }
        for _ in range(2):
            assert {name: bytes_of(content) for name, content in found.items()} == {
                "small": b"s",
                "large": large,
                "again": large[::-1],
                "last": b"l",
            }


def test_large_contents_are_kept_in_a_file_without_a_name(tmp_path: Path) -> None:
    data = tar_of({f"f{number}": os.urandom(100_000) for number in range(3)})
    tree = DictTree({"f": data})
    before = descriptors()
    with ExitStack() as cleanup:
        found = list(archives.members(tree, entry_of(tree), cleanup))
        assert len(found) == 3
        opened = descriptors() - before
        assert len(opened) == 1
        assert all(target.endswith("(deleted)") for target in opened)
    assert descriptors() == before


def descriptors() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except FileNotFoundError:  # the one that lists the directory
            continue
    return {target for target in found if not target.startswith("/proc")}


def test_whiteouts_come_out_as_removals_for_the_caller_to_refuse() -> None:
    assert [type(change) for change in members(tar_of({"d/.wh.f": b""}))] == [Remove]


@pytest.mark.parametrize("name", ["../../etc/passwd", "d/../../x", ".wh.", ".wh..."])
def test_names_that_lead_outside_are_refused(name: str) -> None:
    with pytest.raises(ContextError, match="cannot unpack '/f' of the dictionary"):
        members(tar_of({name: b""}))


def test_absolute_names_are_taken_from_the_root_of_the_archive() -> None:
    assert [change.path for change in members(tar_of({"/etc/x": b"", "./y": b""}))] == [
        "etc/x",
        "y",
    ]


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_a_cut_archive_is_an_error(kind: str) -> None:
    data = COMPRESSIONS[kind](tar_of({"a": os.urandom(200_000)}))
    with pytest.raises(ContextError, match="cannot unpack '/f' of the dictionary") as caught:
        members(data[: len(data) // 2])
    assert "--unpack=false" in caught.value.hint


def test_a_stream_is_read_in_pieces_of_any_size() -> None:
    """The decompressor asks for what it wants, the source gives what it has."""

    class Chopped(DictTree):
        def content(self, entry: SourceEntry) -> Callable[[], Iterator[bytes]]:
            data = bytes_of(super().content(entry))
            return lambda: (data[at : at + 7] for at in range(0, len(data), 7))

    tree = Chopped({"f": gzip.compress(tar_of({"a": b"1" * 1000}))})
    assert archives.is_archive(tree, entry_of(tree))
    with ExitStack() as cleanup:
        (change,) = archives.members(tree, entry_of(tree), cleanup)
        assert isinstance(change, PutFile)
        assert Digest.of(bytes_of(change.content)) == Digest.of(b"1" * 1000)


def test_large_contents_wait_in_the_directory_that_is_named(tmp_path: Path) -> None:
    large = PutFile(TreePath("f"), Meta(0o644), 1 << 20, lambda: iter([b"x" * (1 << 20)]))
    with ExitStack() as cleanup:
        (change,) = archives.kept([large], cleanup, tmp_path)
        assert isinstance(change, PutFile)
        assert list(tmp_path.iterdir()) == []  # without a name
        assert bytes_of(change.content) == b"x" * (1 << 20)
    with ExitStack() as cleanup, pytest.raises(FileNotFoundError):
        list(archives.kept([large], cleanup, tmp_path / "absent"))
