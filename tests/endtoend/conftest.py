"""Stores with a base image in them, for whole builds and runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import traces
from tests.support.cli import Lamina
from tests.support.waiting import wait_until


@pytest.fixture
def busybox(lamina: Lamina) -> Lamina:
    """The command on a store of its own that holds busybox:latest."""
    lamina("bootstrap", "busybox")
    return lamina


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty build context."""
    folder = tmp_path / "context"
    folder.mkdir()
    return folder


@pytest.fixture
def clean_machine(tmp_path: Path) -> Iterator[None]:
    """What a test ends with: no process, no mount and no control group is left."""
    before = traces.control_groups()
    yield
    wait_until(lambda: traces.processes_in(tmp_path) == [], seconds=10)
    assert traces.mounts_of(tmp_path) == []
    assert traces.control_groups() - before == set()
