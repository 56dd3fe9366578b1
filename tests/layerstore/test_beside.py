"""Temporary names, and what is left of them."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from layerstore.beside import (
    left_over,
    remove_left_over,
    replace_file,
    replacing,
    temporary_beside,
    write_durably,
    written_beside,
)


def left_by_the_dead(directory: Path) -> Path:
    """A file that a process has written that is no more."""
    script = (
        "import sys, pathlib; from layerstore.beside import temporary_beside as t;"
        "p = t(pathlib.Path(sys.argv[1], 'x')); p.write_bytes(b'half'); print(p)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], check=True, capture_output=True, text=True
    )
    return Path(done.stdout.strip())


def test_a_temporary_name_is_in_the_same_directory_and_short(tmp_path: Path) -> None:
    path = temporary_beside(tmp_path / ("x" * 255))
    path.write_bytes(b"")
    assert path.parent == tmp_path
    assert str(os.getpid()) in path.name


def test_every_thread_has_a_name_of_its_own_and_what_the_living_write_stays(
    tmp_path: Path,
) -> None:
    written, checked = threading.Event(), threading.Event()

    def write() -> None:
        with replacing(tmp_path / "theirs") as file:
            written.set()
            checked.wait(20)
            file.write(b"theirs")

    thread = threading.Thread(target=write)
    thread.start()
    written.wait(20)
    with replacing(tmp_path / "mine") as file:
        remove_left_over(tmp_path)
        file.write(b"mine")
    checked.set()
    thread.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "mine": "mine",
        "theirs": "theirs",
    }


def test_what_the_dead_have_left_is_removed(tmp_path: Path) -> None:
    left = left_by_the_dead(tmp_path)
    assert left.exists()
    remove_left_over(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_others_write_stays(tmp_path: Path) -> None:
    for name in (f".lamina-write-{os.getppid()}", ".lamina-write-x", ".x.1", "lamina-write-1"):
        (tmp_path / name).write_bytes(b"")
    mine = temporary_beside(tmp_path / "x")
    mine.write_bytes(b"")
    remove_left_over(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    assert mine.exists()


def test_a_link_is_removed_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    left_by_the_dead(tmp_path).unlink()
    left = left_by_the_dead(tmp_path)
    left.unlink()
    left.symlink_to("kept")
    remove_left_over(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    remove_left_over(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"old")
    with written_beside(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"


def test_a_durable_write_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old", tmp_path / "tmp")
    with pytest.raises(FileExistsError):
        (tmp_path / "tmp").touch()
        write_durably(path, b"new", tmp_path / "tmp")
    assert path.read_bytes() == b"old"


def test_a_small_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    temporary_beside(path).write_bytes(b"of a dead process with our number")
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_is_taken_from_the_link_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    path = tmp_path / "it"
    path.symlink_to("there")
    with replacing(path) as file:
        file.writelines((b"n", b"ew"))
    assert (path.is_symlink(), path.read_bytes()) == (False, b"new")
    assert (tmp_path / "there").read_bytes() == b"old"
    with pytest.raises(ZeroDivisionError), replacing(path):
        raise ZeroDivisionError
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "there"]


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with written_beside(pipe) as file:
            file.write(b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    with written_beside(Path("/dev/null")) as file:
        file.write(b"new")
    assert Path("/dev/null").is_char_device()


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/it")
    for content in (b"1", b"2"):
        with written_beside(link) as file:
            file.write(content)
        assert (tmp_path / "there/it").read_bytes() == content
    assert link.is_symlink()


def test_after_an_error_the_old_file_is_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_beside(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "it"])
def test_a_file_without_room_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name if name else Path("/dev/full")
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        written_beside(path) as file,
    ):
        if name:
            fail()
        file.write(b"new")
    assert caught.value.filename == str(path)
    other = PermissionError(errno.EPERM, "no")
    with pytest.raises(PermissionError) as left, written_beside(path):
        raise other
    assert left.value is other


def test_what_is_no_place_for_a_file_is_told_first(tmp_path: Path) -> None:
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "a/b", FileNotFoundError)):
        with pytest.raises(kind), written_beside(path):
            raise AssertionError


def test_where_nothing_can_be_made_the_wanted_name_is_told(tmp_path: Path) -> None:
    wanted = Path(f"/proc/{os.getpid()}/nothing")
    with pytest.raises(OSError, match=f"'{wanted}'"), written_beside(wanted):
        pytest.fail("there is no file to be written")


def test_a_small_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    for call in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="No space"):
                replace_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def fail(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_directories_that_were_left_are_found_by_their_prefix(tmp_path: Path) -> None:
    left = left_by_the_dead(tmp_path)
    left.unlink()
    left.mkdir()
    temporary_beside(tmp_path / "x").mkdir()
    assert list(left_over(tmp_path)) == [left]
