"""Networks of RUN: who gets which, and that nothing of one RUN is seen by the next."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import runnetwork
from builder.errors import NetworkUnavailableError
from builder.runnetwork import RunNetworks, StepNetwork, network_files
from builder.sandbox import ForkServer, SandboxSpec
from builder.steps import ExecStep, RunSettings
from tests.support import rootfs
from tests.support.networks import devices
from tests.support.sandboxes import Bench, Outcome, piped
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay, pytest.mark.needs_networks]


def step(**changes: Any) -> ExecStep:
    fields: dict[str, Any] = {"argv": ("true",), "env": (), "cwd": "/", "user": ""}
    return ExecStep(**({"network": "default"} | fields | changes))


def never(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rootfs.need_busybox()
    return rootfs.make_root(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def bench(own_network: Path, lower: Path, tmp_path: Path) -> Iterator[Bench]:
    with ForkServer() as executor:
        yield Bench(executor=executor, lower=lower, scratch=tmp_path)


@pytest.fixture
def networks(own_network: Path) -> Iterator[RunNetworks]:
    networks = RunNetworks()
    yield networks
    networks.close()


def run(bench: Bench, lent: StepNetwork, script: str) -> tuple[Outcome, SandboxSpec]:
    """Run a script as `perform` does; returns also how to start it again."""
    spec = bench.spec("/bin/sh", "-c", script, network=lent.network)
    with piped(b"") as (stdio, outputs):
        running = bench.executor.start(spec, stdio)
        outputs.release()
        spec = lent.started(spec, running)
        stdout, stderr = outputs.read()
        return Outcome(status=running.wait(), stdout=stdout, stderr=stderr), spec


WHICH = "readlink /proc/self/ns/net; ip -o addr show eth0 | grep -o 'inet [^ ]*'"


def test_the_default_is_a_device_on_the_bridge(bench: Bench, networks: RunNetworks) -> None:
    with networks.lend(step(), never) as lent:
        outcome, _ = run(bench, lent, "ls /sys/class/net; ip route | grep -c ^default")
        assert outcome.text.split() == ["eth0", "lo", "1"]


def test_the_next_run_has_the_same_network_and_finds_nothing_in_it(
    bench: Bench, networks: RunNetworks
) -> None:
    with networks.lend(step(), never) as lent:
        leave = "(nc -l -p 7777 &) ; sleep 0.2; nc -z 127.0.0.1 7777 2>/dev/null;"
        first, _ = run(bench, lent, f"{WHICH}; {leave} :")
    with networks.lend(step(), never) as lent:
        second, _ = run(bench, lent, f"{WHICH}; nc -w 1 127.0.0.1 7777 < /dev/null || echo gone")
    assert second.lines == [*first.lines, "gone"]


def test_runs_at_the_same_time_have_their_own(bench: Bench, networks: RunNetworks) -> None:
    with networks.lend(step(), never) as one, networks.lend(step(), never) as two:
        assert run(bench, one, WHICH)[0].lines != run(bench, two, WHICH)[0].lines
    assert len(devices()) == 4
    networks.close()
    wait_until(lambda: devices() == {"lo", "lamina0"})


def test_one_with_all_rights_takes_its_network_along(bench: Bench, networks: RunNetworks) -> None:
    with networks.lend(step(security="insecure"), never) as lent:
        first, _ = run(bench, lent, WHICH)
    with networks.lend(step(), never) as lent:
        assert run(bench, lent, WHICH)[0].lines[1] != first.lines[1]


def test_one_that_never_started_leaves_nothing(networks: RunNetworks) -> None:
    with pytest.raises(ZeroDivisionError), networks.lend(step(), never):
        raise ZeroDivisionError
    with networks.lend(step(), never) as lent:
        assert lent.place is not None
    assert networks._idle == []
    assert devices() == {"lo", "lamina0"}


def test_what_failed_can_be_started_again_in_the_same_network(
    bench: Bench, networks: RunNetworks
) -> None:
    with networks.lend(step(), never) as lent:
        first, spec = run(bench, lent, WHICH)
        root = bench.overlay()
        assert bench.finish(replace(spec, root=root)).lines == first.lines


@pytest.mark.parametrize("network", ["none", "host"])
def test_others_get_what_they_ask_for(networks: RunNetworks, network: Any) -> None:
    with networks.lend(step(network=network), never) as lent:
        assert lent.network == network
    assert devices() == {"lo"}


def test_where_there_can_be_none_there_is_loopback_and_one_warning(
    networks: RunNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise NetworkUnavailableError("not here")

    monkeypatch.setattr(runnetwork, "attach", refuse)
    told: list[str] = []
    for _ in range(3):
        with networks.lend(step(), told.append) as lent:
            assert lent.network == "none"
    assert told == ["no network: not here"]


class TestFiles:
    SETTINGS = RunSettings(extra_hosts=(("db", "192.0.2.1"), ("us", "host-gateway")))

    def files(self, network: Any, lent: StepNetwork) -> dict[str, bytes]:
        found = network_files(step(network=network, settings=self.SETTINGS), "box", lent)
        return {each.target: each.content for each in found}

    def test_without_a_network_nothing_of_the_host_is_shown(self) -> None:
        files = self.files("none", StepNetwork(network="none"))
        assert files["/etc/resolv.conf"] == b""
        assert files["/etc/hostname"] == b"box\n"
        assert files["/etc/hosts"].startswith(b"127.0.0.1\tlocalhost\n")
        assert files["/etc/hosts"].endswith(b"127.0.1.1\tbox\n192.0.2.1\tdb\n127.0.0.1\tus\n")

    def test_with_the_host_s_its_files_are_shown(self) -> None:
        files = self.files("host", StepNetwork(network="host"))
        assert files["/etc/resolv.conf"] == Path("/etc/resolv.conf").read_bytes()
        assert files["/etc/hosts"].startswith(Path("/etc/hosts").read_bytes().rstrip())

    def test_a_private_one_has_resolvers_and_no_address_that_changes(self) -> None:
        lent = StepNetwork(network=(), gateway="10.9.8.1")
        files = self.files("default", lent)
        assert b"nameserver " in files["/etc/resolv.conf"]
        assert files["/etc/hosts"].endswith(b"192.0.2.1\tdb\n10.9.8.1\tus\n")
        assert files == self.files("default", lent)

    def test_where_there_could_be_none_nothing_is_resolved(self) -> None:
        assert self.files("default", StepNetwork(network="none"))["/etc/resolv.conf"] == b""


def test_namespaces_are_closed_in_the_end(bench: Bench) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    networks = RunNetworks()
    for _ in range(3):
        with networks.lend(step(), never) as lent:
            run(bench, lent, "true")
    networks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
