"""Fixtures for all rooms, and the gates: what a machine cannot do is skipped loudly.

A test says what it needs by a marker (`needs_root`, see pyproject.toml). An unmet need is a skip,
listed with its reason at the end of the run; with LAMINA_MUST_CHECK_ALL=1, as in CI, a failure.
What is missing because of who runs the suite stays a skip: CI runs it as root, too.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import conformance, host, networks, tally
from tests.support.cli import Lamina
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.registries import Registry, registry

MUST_CHECK_ALL = os.environ.get("LAMINA_MUST_CHECK_ALL", "") not in ("", "0")


def _peers(mark: pytest.Mark) -> str | None:
    problems = [host.no_peer(name) for name in mark.args or host.PEERS]
    return ", ".join(problem for problem in problems if problem) or None


GATES: dict[str, Callable[[pytest.Mark], str | None]] = {
    "needs_root": lambda _: host.no_root(),
    "needs_ids": lambda _: host.no_ids(),
    "needs_overlay": lambda _: host.no_overlay(),
    "needs_userns": lambda _: host.no_userns(),
    "needs_peers": _peers,
    "needs_public_python": lambda _: host.no_public_python(),
    "needs_cgroup2": lambda _: host.no_cgroup2(),
    "needs_keyrings": lambda _: host.no_keyrings(),
    "needs_registry": lambda _: host.no_registry(),
    "needs_networks": lambda _: networks.no_private_networks(),
    "needs_git": lambda _: host.no_git(),
    "needs_debian": lambda _: host.no_debian(),
    "needs_same_python": lambda _: host.no_same_python(),
    "needs_material": lambda _: conformance.no_material(),
}


# Those that ask who runs the suite, and not what is installed.
OF_THE_USER = ("needs_root", "needs_ids", "needs_networks") if os.geteuid() != 0 else ()


def unmet_needs(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Pairs of a marker's name and the reason."""
    for mark in item.iter_markers():
        reason = GATES[mark.name](mark) if mark.name in GATES else None
        if reason:
            yield mark.name, f"{mark.name}: {reason}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    unmet = dict(unmet_needs(item))
    reason = "; ".join(unmet.values())
    if reason and MUST_CHECK_ALL and not any(name in OF_THE_USER for name in unmet):
        pytest.fail(f"this machine must check everything, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


def pytest_configure() -> None:
    """Signals act as at a terminal, also where the suite runs in the background of a script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the conformance tables, and what was not checked."""
    _show_tables(terminalreporter)
    _show_unchecked(terminalreporter)


def _show_tables(terminalreporter: pytest.TerminalReporter) -> None:
    stats = terminalreporter.stats
    reports = [report for name in ("passed", "failed", "skipped") for report in stats.get(name, ())]
    for title, lines in (
        ("beside buildah", tally.comparison(reports)),
        ("conformance", tally.table(reports)),
    ):
        found = list(lines)
        if found:
            terminalreporter.section(title, sep="=", bold=True)
            terminalreporter.write_line("\n".join(found))


def _show_unchecked(terminalreporter: pytest.TerminalReporter) -> None:
    """List every reason for which something was not checked, with the number of tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons: Counter[str] = Counter()
    for report in skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    terminalreporter.section("this machine could not check", sep="=", yellow=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5} tests  {reason}")


@pytest.fixture(autouse=True, scope="session")
def _no_docker_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Names without a registry lead nowhere, wherever the tests run."""
    conf = tmp_path_factory.mktemp("registries") / "registries.conf"
    conf.write_text('[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:1"\n')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        yield


@pytest.fixture
def own_network() -> Iterator[Path]:
    """A network of the test's own, in the place of the host's."""
    with networks.own_network() as path:
        yield path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    """A registry of the test's own."""
    with registry(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def proxy(server: Registry) -> Iterator[FaultProxy]:
    """Who stands before `server`, counts what is asked of it, and harms what it is told to."""
    with fault_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    """Where a store may be made; nothing is there yet."""
    return tmp_path / "store"


@pytest.fixture
def lamina(store_root: Path) -> Lamina:
    """The command on an empty store."""
    return Lamina(root=store_root)
