"""Every kind of network, by every executor. Who reaches whom is in tests/builder/network."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.sandbox import Executor, ForkServer, Link, LocalExecutor, SandboxError, netlink
from builder.sandbox.network import Way, opened
from builder.sandbox.ociruntime import RuntimeExecutor, find_runtime
from builder.sandbox.syscalls import CLONE_NEWNET
from tests.support.networks import UNTIL_SERVED, devices
from tests.support.sandboxes import Bench, piped
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay, pytest.mark.needs_networks]

LINK = Link(
    bridge="br0",
    mac="02:00:00:00:00:09",
    addresses=("10.9.1.2/24", "fd12::2/64"),
    gateways=("10.9.1.1", "fd12::1"),
    mtu=1400,
)


@pytest.fixture(autouse=True)
def bridge(own_network: Path) -> None:
    with netlink.Channel() as channel:
        channel.request(netlink.new_bridge("br0", "02:00:00:00:00:01", 1500))
        channel.request(netlink.bring_up("br0"))


def _crun() -> RuntimeExecutor:
    return RuntimeExecutor(find_runtime("crun"))


EXECUTORS = [
    pytest.param(LocalExecutor, id="local"),
    pytest.param(ForkServer, id="server"),
    pytest.param(_crun, id="crun", marks=pytest.mark.needs_peers("crun")),
]


@pytest.fixture(params=EXECUTORS)
def bench(request: pytest.FixtureRequest, lower: Path, tmp_path: Path) -> Iterator[Bench]:
    executor: Executor = request.param()
    try:
        yield Bench(executor=executor, lower=lower, scratch=tmp_path)
    finally:
        executor.close()


SHOW = "ip -o addr show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/mtu"


def test_a_link_is_a_device_with_addresses_and_routes(bench: Bench) -> None:
    written = bench.sh(SHOW, network=(LINK,)).text
    for part in ("10.9.1.2/24", "fd12::2/64", "default via 10.9.1.1 ", "default via fd12::1 "):
        assert part in written
    assert written.endswith("1400\n")


def test_two_links_are_two_devices(bench: Bench) -> None:
    other = replace(
        LINK, name="eth1", addresses=("10.9.2.2/24",), gateways=(), mac="02:00:00:00:00:0a"
    )
    assert bench.sh("ls /sys/class/net", network=(LINK, other)).text.split() == [
        *("eth0", "eth1", "lo"),
    ]


def test_nobody_has_the_right_to_change_it(bench: Bench) -> None:
    assert bench.sh("ip link set eth0 down", network=(LINK,)).status.code != 0


@pytest.mark.parametrize("network", ["none", (LINK,)])
def test_loopback_works(bench: Bench, network: object) -> None:
    script = f"nc -ll -p 80 -e /bin/echo hello & {UNTIL_SERVED}; nc 127.0.0.1 80 < /dev/null"
    assert bench.sh(script, network=network).lines == ["hello"]


def test_its_namespace_can_be_kept_and_entered_again(bench: Bench) -> None:
    spec = bench.spec("/bin/true", network=(LINK,))
    with piped(b"") as (stdio, outputs):
        running = bench.executor.start(spec, stdio)
        outputs.release()
        assert running.network_fd is not None
        kept = os.dup(running.network_fd)
        running.wait()
        assert running.network_fd is None
    try:
        again = bench.sh(SHOW, network=Path(f"/proc/self/fd/{kept}"))
        assert "10.9.1.2/24" in again.text
        assert len(devices()) == 3
    finally:
        os.close(kept)
    wait_until(lambda: devices() == {"lo", "br0"})


def test_a_sandbox_without_links_tells_of_none(bench: Bench) -> None:
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        assert running.network_fd is None


def test_a_namespace_that_is_gone_is_named(bench: Bench) -> None:
    spec = bench.spec("/bin/true", network=Path("/proc/self/fd/4711"))
    with pytest.raises(SandboxError, match="/proc/self/fd/4711 cannot be had"):
        bench.finish(spec)


def test_a_bridge_that_is_not_there_is_named(bench: Bench) -> None:
    spec = bench.spec("/bin/true", network=(replace(LINK, bridge="nope"),))
    with pytest.raises(SandboxError, match="there is no bridge nope"):
        bench.finish(spec)


def test_what_the_kernel_refuses_leaves_no_device(bench: Bench) -> None:
    spec = bench.spec("/bin/true", network=(replace(LINK, addresses=("10.9.1.2/99",)),))
    with pytest.raises(SandboxError, match="enter the network"):
        bench.finish(spec)
    wait_until(lambda: devices() == {"lo", "br0"})


def test_only_new_namespaces_are_asked_for() -> None:
    assert Way.prepare("host").flags == Way.prepare(Path("/proc/self/ns/net")).flags == 0
    assert Way.prepare("none").flags == CLONE_NEWNET
    way = Way.prepare((LINK,))
    assert way.flags == CLONE_NEWNET
    way.close()


def test_what_names_no_namespace_opens_none() -> None:
    with opened("none") as fd:
        assert fd == -1
    with opened(Path("/proc/self/ns/net")) as fd:
        assert os.fstat(fd).st_ino == Path("/proc/self/ns/net").stat().st_ino
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
