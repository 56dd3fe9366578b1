"""Temporary names, and what is left of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore.beside import remove_left_over, temporary_beside, written_beside


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
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_is_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_beside(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_place_for_a_file_is_told_first(tmp_path: Path) -> None:
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "a/b", FileNotFoundError)):
        with pytest.raises(kind), written_beside(path):
            raise AssertionError
