"""What is special about blobs as files; the rest: tests/contracts/test_blobs.py."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore.backends.directory import DirectoryBlobs, has_blob, read_small
from layerstore.blobs import get, put
from layerstore.digest import Digest
from layerstore.errors import CorruptBlobError, MalformedDocumentError, NotFoundError

DIGEST = Digest.of(b"content")


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "blobs"
    path.mkdir()
    return path


@pytest.fixture
def blobs(directory: Path, tmp: Path) -> DirectoryBlobs:
    return open_blobs(directory, tmp)


def open_blobs(directory: Path, tmp: Path) -> DirectoryBlobs:
    return DirectoryBlobs(directory, lambda: tmp / os.urandom(8).hex(), lambda _: None)


def open_fds() -> set[int]:
    """The open descriptors of this process, without the one that lists them."""
    fds = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    return {fd for fd in fds if Path(f"/proc/self/fd/{fd}").exists()}


def test_nothing_stands_under_its_name_before_sync(
    blobs: DirectoryBlobs, directory: Path, tmp: Path
) -> None:
    put(blobs, b"content")
    assert list(directory.iterdir()) == []
    assert len(list(tmp.iterdir())) == 1

    blobs.sync()

    assert [path.name for path in directory.iterdir()] == [DIGEST.hex]
    assert list(tmp.iterdir()) == []


def test_another_process_sees_it_after_sync(
    blobs: DirectoryBlobs, directory: Path, tmp: Path
) -> None:
    other = open_blobs(directory, tmp)
    put(blobs, b"content")
    assert not other.has(DIGEST)
    blobs.sync()
    assert get(other, DIGEST) == b"content"


def test_a_blob_cannot_be_written_to_by_accident(blobs: DirectoryBlobs, directory: Path) -> None:
    put(blobs, b"content")
    blobs.sync()
    assert stat.S_IMODE((directory / DIGEST.hex).stat().st_mode) == 0o444


def test_the_mode_does_not_depend_on_the_umask(blobs: DirectoryBlobs, directory: Path) -> None:
    before = os.umask(0o777)
    try:
        put(blobs, b"content")
        blobs.sync()
    finally:
        os.umask(before)
    assert stat.S_IMODE((directory / DIGEST.hex).stat().st_mode) == 0o444


def test_temporary_files_go_on_every_path(blobs: DirectoryBlobs, tmp: Path) -> None:
    with blobs.writer() as writer:
        writer.write(b"dropped")
    put(blobs, b"content")
    put(blobs, b"content")
    blobs.sync()
    put(blobs, b"content")
    put(blobs, b"discarded")
    blobs.discard(Digest.of(b"discarded"))
    put(blobs, b"removed")
    blobs.remove(Digest.of(b"removed"))
    with blobs.writer() as writer, pytest.raises(CorruptBlobError):
        writer.commit(expected_size_bytes=1)
    assert list(tmp.iterdir()) == []


def test_what_is_there_and_good_is_not_replaced(blobs: DirectoryBlobs, directory: Path) -> None:
    put(blobs, b"content")
    blobs.sync()
    inode = (directory / DIGEST.hex).stat().st_ino

    put(blobs, b"content")
    blobs.sync()

    assert (directory / DIGEST.hex).stat().st_ino == inode


def make_link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(b"content")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_link, Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_a_damaged_blob(
    blobs: DirectoryBlobs, directory: Path, make: Callable[[Path], object]
) -> None:
    make(directory / DIGEST.hex)
    before = open_fds()
    with pytest.raises(CorruptBlobError, match="expected a file"):
        blobs.open(DIGEST)
    assert open_fds() == before


def test_names_that_are_no_digests_are_no_blobs(blobs: DirectoryBlobs, directory: Path) -> None:
    (directory / "README").touch()
    (directory / ("A" * 64)).touch()
    put(blobs, b"content")
    assert list(blobs.digests()) == [DIGEST]


def test_a_failed_sync_can_be_repeated(
    blobs: DirectoryBlobs, directory: Path, tmp_path: Path
) -> None:
    put(blobs, b"content")
    directory.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        blobs.sync()
    assert get(blobs, DIGEST) == b"content"

    (tmp_path / "away").rename(directory)
    blobs.sync()

    assert (directory / DIGEST.hex).read_bytes() == b"content"


def test_open_files_are_closed_and_not_inherited(blobs: DirectoryBlobs) -> None:
    put(blobs, b"content")
    before = open_fds()
    with blobs.writer() as writer:
        writer.write(b"x")
        (fd,) = open_fds() - before
        assert not os.get_inheritable(fd)
    with blobs.open(DIGEST):
        pass
    with pytest.raises(CorruptBlobError):
        blobs.open(DIGEST, size_bytes=1)
    assert open_fds() == before


def test_a_reader_may_be_closed_twice(blobs: DirectoryBlobs) -> None:
    put(blobs, b"content")
    reader = blobs.open(DIGEST)
    reader.close()
    reader.close()


def test_a_blob_that_vanishes_is_not_found(blobs: DirectoryBlobs, directory: Path) -> None:
    put(blobs, b"content")
    blobs.sync()
    (directory / DIGEST.hex).unlink()
    with pytest.raises(NotFoundError):
        blobs.open(DIGEST)
    assert blobs.stamp(DIGEST) is None


def test_a_blob_of_any_directory_is_there_when_all_of_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "it"
    assert not has_blob(path, DIGEST, 7)
    path.write_bytes(b"content")
    assert has_blob(path, DIGEST, 7)
    assert not has_blob(path, DIGEST, 8)
    assert not has_blob(path, Digest.of(b"other"), 7)
    (tmp_path / "link").symlink_to(path)
    assert not has_blob(tmp_path / "link", DIGEST, 7)
    assert not has_blob(path / "below", DIGEST, 7)


def test_a_small_file_of_any_directory_is_a_file_and_small(tmp_path: Path) -> None:
    path = tmp_path / "it"
    assert read_small(path) is None
    path.write_bytes(b"x" * (4 << 20))
    assert read_small(path) == b"x" * (4 << 20)
    assert read_small(path / "below") is None
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        read_small(tmp_path / "link")
    path.write_bytes(b"x" * (4 << 20) + b"y")
    with pytest.raises(MalformedDocumentError, match="too large"):
        read_small(path)
