"""Empty stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store


@pytest.fixture
def store(store_root: Path) -> Iterator[Store]:
    """Closed at the end without a flush: tests may have damaged it."""
    store = Store.open(store_root)
    yield store
    store.close()
