"""Stores with an image to run, and commands on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from tests.support.commands import Commands, copy_store, make_box_store
from tests.support.rootfs import no_busybox


@pytest.fixture
def store(store_root: Path) -> Iterator[Store]:
    """An empty store; at the end it is flushed."""
    with Store.open(store_root) as store:
        yield store


@pytest.fixture(scope="session")
def box_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = no_busybox()
    if reason:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("box")
    make_box_store(directory / "store", directory / "rootfs")
    return directory / "store"


@pytest.fixture
def box(
    box_template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    """Commands on a store that holds the image `box`."""
    commands = Commands(copy_store(box_template, tmp_path / "store"), capfd)
    yield commands
    ids = commands("ps", "-aq").lines
    if ids:
        commands("rm", "-f", *ids)


@pytest.fixture
def bare(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Commands:
    """Commands on a store that is yet to be made."""
    return Commands(tmp_path / "store", capfd)
