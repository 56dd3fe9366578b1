"""Seals: what was touched is noticed, what was not is believed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import seals
from layerstore.seals import is_as_sealed, seal
from tests.support.stores import flip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "d" / "e").mkdir(parents=True)
    (tree / "a").write_bytes(b"a" * 100)
    (tree / "d" / "e" / "b").write_bytes(b"b")
    (tree / "d" / "link").symlink_to("../a")
    (tree / "d" / "hard").hardlink_to(tree / "a")
    seal(tree)
    return tree


def rewrite(tree: Path) -> None:
    """The same size and time, as a careful hand would do it."""
    file = tree / "a"
    status = file.stat()
    flip(file, 0)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


TOUCHES: list[Callable[[Path], object]] = [
    rewrite,
    lambda tree: (tree / "a").unlink(),
    lambda tree: (tree / "new").touch(),
    lambda tree: (tree / "d" / "e" / "b").write_bytes(b"c"),
    lambda tree: (tree / "d" / "e" / "b").chmod(0o600),
    lambda tree: (tree / "d" / "e" / "b").rename(tree / "d" / "e" / "c"),
    lambda tree: (tree / "d" / "link").unlink(),
    lambda tree: (tree / "d" / "e").chmod(0o700),
    lambda tree: os.truncate(tree / "a", 50),
    lambda tree: os.setxattr(tree / "a", "user.x", b"1"),
]


def test_what_nobody_touched_is_as_it_was(tree: Path) -> None:
    assert is_as_sealed(tree)
    (tree / "a").read_bytes()
    list((tree / "d").iterdir())
    assert is_as_sealed(tree)


@pytest.mark.parametrize("touch", TOUCHES, ids=range(len(TOUCHES)))
def test_whatever_was_touched_is_noticed(tree: Path, touch: Callable[[Path], object]) -> None:
    touch(tree)
    assert not is_as_sealed(tree)
    seal(tree)
    assert is_as_sealed(tree)


def test_a_directory_may_be_renamed_and_looked_at_by_its_path(tree: Path) -> None:
    tree.rename(tree.with_name("other"))
    assert is_as_sealed(str(tree.with_name("other")))


def test_without_a_seal_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert is_as_sealed(tmp_path)
    assert is_as_sealed(tmp_path / "missing")


def test_where_there_are_no_attributes_nothing_is_noted(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    seal(tree.parent)
    assert is_as_sealed(tree.parent)


def test_a_seal_that_cannot_be_read_is_none(tree: Path) -> None:
    os.setxattr(tree, "user.lamina.seal", b"nonsense")
    assert is_as_sealed(tree)


def test_large_ones_are_looked_at_once_in_a_while(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "_SMALL", 2)
    seal(tree)
    (tree / "new").touch()
    assert is_as_sealed(tree), "it was sealed a moment ago"
    os.setxattr(tree, "user.lamina.seen", b"1")
    assert not is_as_sealed(tree)


def test_who_has_little_time_looks_at_small_ones(tree: Path) -> None:
    (tree / "new").touch()
    assert is_as_sealed(tree, entries_max=2)
    assert not is_as_sealed(tree, entries_max=100)


def test_no_container_sees_the_seal(tree: Path) -> None:
    """It is on the directory itself, whose attributes an upper directory hides."""
    assert all(not os.listxattr(path) for path in tree.rglob("*") if not path.is_symlink())
    assert sorted(os.listxattr(tree)) == ["user.lamina.seal", "user.lamina.seen"]
