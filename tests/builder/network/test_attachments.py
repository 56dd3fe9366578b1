"""Who can reach whom: programs in sandboxes on networks, and a world beyond."""

import socket
from pathlib import Path

import pytest

from builder.errors import NetworkError
from builder.network.attachments import Attachment, Wish, attach
from builder.network.bridges import Plan
from builder.sandbox import Network, SandboxError
from tests.support.networks import UNTIL_SERVED, devices, world
from tests.support.sandboxes import Bench
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay, pytest.mark.needs_networks]

ONE = Plan(bridge="lm-one", subnet="10.9.1.0/24", gateway="10.9.1.1")
TWO = Plan(bridge="lm-two", subnet="10.9.2.0/24", gateway="10.9.2.1")
SERVE = f"nc -ll -p 80 -e /bin/echo hello & {UNTIL_SERVED}; echo ready; wait"


def get(bench: Bench, network: Network, address: str) -> bool:
    """Whether what serves at `address` can be reached from a network."""
    script = f"nc -w 2 {address} 80 < /dev/null"
    return bench.sh(script, network=network).stdout == b"hello\n"


def test_a_sandbox_has_what_the_attachment_says(bench: Bench) -> None:
    attachment = attach(ONE._replace(subnet6="fd12::/64", gateway6="fd12::1"))
    assert (attachment.address, attachment.address6) == ("10.9.1.2", "fd12::2")
    script = "ip -o addr show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/address"
    written = bench.sh(script, network=(attachment.link,)).text
    assert "inet 10.9.1.2/24 " in written
    assert "inet6 fd12::2/64 " in written
    assert "default via 10.9.1.1 dev eth0" in written
    assert "default via fd12::1 dev eth0" in written
    assert written.splitlines()[-1] == attachment.mac
    attachment.lease.release()


def test_those_on_one_network_reach_each_other_and_nobody_on_another(bench: Bench) -> None:
    server, friend, stranger = attach(ONE), attach(ONE), attach(TWO)
    with bench.background("/bin/sh", "-c", SERVE, network=(server.link,)):
        assert get(bench, (friend.link,), server.address)
        assert not get(bench, (stranger.link,), server.address)
        assert get(bench, "host", server.address)


def test_with_two_devices_both_networks_are_reached(bench: Bench) -> None:
    server, first = attach(TWO), attach(ONE)
    second = attach(TWO, Wish(interface="eth1"), is_first=False)
    assert second.link.gateways == ()
    with bench.background("/bin/sh", "-c", SERVE, network=(server.link,)):
        assert get(bench, (first.link, second.link), server.address)
        assert not get(bench, (first.link,), server.address)


def test_the_world_is_reached_under_the_host_s_address(bench: Bench) -> None:
    """It knows no way to us: an answer proves that the address was changed on the way out."""
    with world() as beyond:
        link = attach(ONE).link
        with bench.background("/bin/sh", "-c", SERVE, network=beyond):
            assert get(bench, (link,), "198.51.100.1")


def test_an_internal_network_leads_nowhere(bench: Bench) -> None:
    with world() as beyond:
        internal = ONE._replace(internal=True)
        server, friend = attach(internal), attach(internal)
        assert friend.link.gateways == ()
        with bench.background("/bin/sh", "-c", SERVE, network=beyond):
            assert not get(bench, (friend.link,), "198.51.100.1")
        with bench.background("/bin/sh", "-c", SERVE, network=(server.link,)):
            assert get(bench, (friend.link,), server.address)


def test_nor_does_it_where_somebody_adds_a_route(bench: Bench) -> None:
    with world() as beyond:
        link = attach(ONE._replace(internal=True)).link
        forced = type(link)(
            bridge=link.bridge, mac=link.mac, addresses=link.addresses, gateways=("10.9.1.1",)
        )
        attach(TWO)  # so that this host forwards
        with bench.background("/bin/sh", "-c", SERVE, network=beyond):
            assert not get(bench, (forced,), "198.51.100.1")


def test_the_world_reaches_nobody_by_itself(bench: Bench, own_network: Path) -> None:
    """Even where it knows the way."""
    with world() as beyond:
        server = attach(ONE)
        with bench.background("/bin/sh", "-c", SERVE, network=(server.link,)):
            script = (
                f"ip route add 10.9.1.0/24 via 198.51.100.2; nc -w 2 {server.address} 80 </dev/null"
            )
            outcome = bench.sh(script, network=beyond, capabilities=frozenset({"CAP_NET_ADMIN"}))
            assert outcome.stdout == b""
            assert b"RTNETLINK" not in outcome.stderr


def test_loopback_of_the_host_is_out_of_reach(bench: Bench) -> None:
    attachment = attach(ONE)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 80))
        server.listen()
        for address in ("127.0.0.1", attachment.bridge.gateway):
            outcome = bench.sh(f"nc -w 1 {address} 80 </dev/null", network=(attachment.link,))
            assert outcome.status.code == 1


def test_an_address_that_is_wished_for_is_given(bench: Bench) -> None:
    wish = Wish(address="10.9.1.77", mac="02:00:00:00:00:77")
    attachment = attach(ONE, wish)
    written = bench.sh("ip -o addr show eth0; ip link show eth0", network=(attachment.link,)).text
    assert "inet 10.9.1.77/24" in written
    assert "02:00:00:00:00:77" in written
    with pytest.raises(NetworkError, match="in use"):
        attach(ONE, wish)


def test_devices_go_with_their_sandbox(bench: Bench) -> None:
    attachment: Attachment = attach(ONE)
    with bench.background("/bin/sh", "-c", SERVE, network=(attachment.link,)):
        assert len(devices()) == 3
    wait_until(lambda: devices() == {"lo", "lm-one"})


def test_a_bridge_that_is_gone_is_an_error_with_its_name(bench: Bench) -> None:
    link = attach(ONE).link
    spec = bench.spec("/bin/true", network=(type(link)(bridge="nope", mac=link.mac, addresses=()),))
    with pytest.raises(SandboxError, match="there is no bridge nope"):
        bench.finish(spec)
    wrong = type(link)(bridge=link.bridge, mac=link.mac, addresses=("10.9.1.2/99",))
    with pytest.raises(SandboxError, match="enter the network"):
        bench.finish(bench.spec("/bin/true", network=(wrong,)))
    wait_until(lambda: devices() == {"lo", "lm-one"})
