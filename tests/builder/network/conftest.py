"""A bench for programs in networks: see tests/builder/sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox import LocalExecutor
from tests.support import rootfs
from tests.support.sandboxes import Bench


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rootfs.need_busybox()
    return rootfs.make_root(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def bench(lower: Path, tmp_path: Path, own_network: Path) -> Iterator[Bench]:
    """Programs on a machine with loopback alone."""
    with LocalExecutor() as executor:
        yield Bench(executor=executor, lower=lower, scratch=tmp_path)
