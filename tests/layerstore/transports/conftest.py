"""Pairs of stores that something goes between."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """A second store beside `store`."""
    other = Store.open(tmp_path / "other")
    yield other
    other.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where a directory of cached things may be made."""
    return tmp_path / "cache"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Store]:
    """The store that is exported to `cache`."""
    with Store.open(tmp_path / "there") as store:
        yield store


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Store]:
    """A store that knows nothing."""
    with Store.open(tmp_path / "here") as store:
        yield store
