"""A root file system, and a bench to try programs on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox import LocalExecutor
from tests.support import rootfs
from tests.support.ordinary import Ordinary, ordinary_user
from tests.support.sandboxes import Bench


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rootfs.need_busybox()
    return rootfs.make_root(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def bench(lower: Path, tmp_path: Path) -> Iterator[Bench]:
    with LocalExecutor() as executor:
        yield Bench(executor=executor, lower=lower, scratch=tmp_path)


@pytest.fixture
def ordinary() -> Iterator[Ordinary]:
    """Somebody who is not root; only root can become that (needs_root)."""
    with ordinary_user() as user:
        yield user
