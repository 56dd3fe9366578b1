import os
from pathlib import Path

import pytest

from builder.cli.session import Session
from layerstore import Store
from tests.support.cli import Lamina


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAMINA_ROOT", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


def session(root: str | None = None) -> Session:
    return Session(root=root, debug=False)


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_ROOT", "/from/environment")
    assert session("/given").root == Path("/given")
    assert session().root == Path("/from/environment")


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert session("store").root == tmp_path / "store"
    assert session("../x").root == tmp_path.parent / "x"


@pytest.mark.needs_root
def test_root_has_the_store_of_the_system() -> None:
    assert session().root == Path("/var/lib/lamina")


def test_others_have_one_in_their_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    assert session().root == Path("/home/ada/.local/share/lamina")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert session().root == Path("/data/lamina")


def test_the_private_part_is_inside() -> None:
    assert session("/store").private == Path("/store/lamina")


@pytest.mark.needs_root
def test_opening_makes_a_store(tmp_path: Path) -> None:
    with session(str(tmp_path / "store")).open_store() as store:
        assert isinstance(store, Store)
    assert (tmp_path / "store/oci-layout").exists()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


@pytest.mark.needs_root
def test_root_enters_no_user_namespace() -> None:
    before = Path("/proc/self/ns/user").readlink()
    session("/store").enter()
    assert Path("/proc/self/ns/user").readlink() == before


def test_a_directory_with_other_things_is_no_store(lamina: Lamina) -> None:
    lamina.root.mkdir()
    (lamina.root / "precious").touch()
    done = lamina("images", check=False)
    assert done.returncode == 1
    assert "not empty, and no store" in done.stderr
    assert done.stderr.count("\n") == 1
