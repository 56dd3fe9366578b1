"""Stores with a base image in them, for whole builds and runs."""

from pathlib import Path

import pytest

from tests.support.cli import Lamina


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
