"""A root file system, and a bench to try programs on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox import ExitStatus, ForkServer, LocalExecutor, enter_user_namespace
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


@pytest.fixture(params=[LocalExecutor, ForkServer])
def shell(request: pytest.FixtureRequest, ordinary: Ordinary) -> Callable[..., str]:
    """Run a script as a user without subordinate ids; gives what it wrote."""

    def run(script: str, status: int = 0, user: str = "") -> str:
        outcome = ordinary.home / "outcome"

        def play() -> None:
            enter_user_namespace()
            with request.param() as executor:
                ended, output = ordinary.run(executor, script, user=user)
            outcome.write_text(output)
            assert ended == ExitStatus(code=status), (ended, output)

        ordinary.act(play)
        return outcome.read_text()

    return run
