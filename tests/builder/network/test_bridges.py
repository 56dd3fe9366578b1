"""Bridges and their rules, in a network of the test's own."""

import errno
import json
import os
from pathlib import Path

import pytest

from builder.errors import NetworkError, NetworkUnavailableError
from builder.network import bridges, nftables
from builder.network.bridges import Plan, check_is_free, ensure, known, mac_of, remove
from builder.network.subnets import parse_subnet
from builder.sandbox import netlink
from builder.sandbox.netlink import Channel
from tests.support.networks import devices, index_of, world

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_networks]

DEFAULT = Plan(bridge="lamina0")
NAMED = Plan(bridge="lm-test", subnet="10.9.8.0/24", gateway="10.9.8.1")


@pytest.fixture(autouse=True)
def network(own_network: Path) -> Path:
    return own_network


def generation() -> int:
    with Channel(netlink.NETFILTER) as channel:
        return nftables.generation_of(channel.ask(nftables.generation()))


def has_table(name: str) -> bool:
    with Channel(netlink.NETFILTER) as channel:
        try:
            channel.ask(nftables.find_table(name))
        except FileNotFoundError:
            return False
        return True


def make_foreign_chain(family: int) -> None:
    """What iptables makes when it is called for the first time, with a policy that drops."""
    from struct import pack

    from builder.sandbox.netlink import CREATE, Message, attribute, text

    header = pack(">BBH", family, 0, 0)
    hook = attribute(1, pack(">I", 2)) + attribute(2, pack(">i", 0))
    chain = text(1, "filter") + text(3, "FORWARD") + attribute(0x8000 | 4, hook)
    chain += attribute(5, pack(">I", 0)) + text(7, "filter")
    messages = [
        Message(10 << 8, header + text(1, "filter"), CREATE),
        Message(10 << 8 | 3, header + chain, CREATE),
    ]
    with Channel(netlink.NETFILTER) as channel:
        channel.transact(*nftables.batch(messages))


def foreign_rules(family: int) -> int:
    with Channel(netlink.NETFILTER) as channel:
        return len(channel.dump(nftables.foreign_rules(family)))


def addresses() -> set[str]:
    with Channel() as channel:
        answers = channel.dump(netlink.Message(netlink.GET_ADDRESS, bytes(8)))
    words = [netlink.attributes_of(answer.body[8:]) for answer in answers]
    return {netlink.address_text(each[1]) for each in words}


class TestEnsure:
    def test_the_default_network_is_made_with_subnets_that_are_free(self) -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        bridge = ensure(DEFAULT)
        assert devices() == {"lo", "lamina0"}
        assert {bridge.gateway, bridge.gateway6} <= addresses()
        assert parse_subnet(bridge.subnet).contains(bridge.gateway)
        assert parse_subnet(bridge.subnet6).contains(bridge.gateway6)
        assert bridge.gateway6.startswith("fd")
        assert has_table("lamina0")
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        assert not bridge.routes6

    def test_one_that_is_there_is_left_alone(self) -> None:
        bridge = ensure(DEFAULT)
        before = generation()
        assert ensure(DEFAULT) == bridge == known("lamina0")
        assert generation() == before

    def test_a_subnet_that_is_routed_is_not_chosen(self) -> None:
        with Channel() as channel:
            channel.request(netlink.new_bridge("br0", "02:00:00:00:00:01", 1500))
            channel.request(
                netlink.new_address(index_of("br0"), "10.117.2.1/24"), netlink.bring_up("br0")
            )
        assert parse_subnet(ensure(DEFAULT).subnet).first == parse_subnet("10.117.4.0/22").first

    def test_nor_is_one_that_is_reserved_or_has_a_resolver(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from builder.network import files

        (tmp_path / "resolv.conf").write_text("nameserver 10.117.5.5\n")
        monkeypatch.setattr(files, "_RESOLV_CONF", tmp_path / "resolv.conf")
        bridge = ensure(DEFAULT, reserved=lambda: [parse_subnet("10.117.0.0/22")])
        assert bridge.subnet == "10.117.8.0/22"

    def test_the_size_of_packets_is_that_of_the_way_out(self) -> None:
        with world(), Channel() as channel:
            index = index_of("up0")
            mtu = netlink.attribute(4, (1400).to_bytes(4, "little"))
            channel.request(netlink.Message(16, netlink._IFINFO.pack(0, 0, index, 0, 0) + mtu))
            bridge = ensure(DEFAULT)
            assert bridge.mtu == 1400
            assert netlink.mtu_of(channel.ask(netlink.get_link(bridge.device))) == 1400

    def test_ipv6_leads_out_where_the_host_has_a_way(self) -> None:
        with world(), Channel() as channel:
            channel.request(netlink.new_default_route(index_of("up0"), "2001:db8::1"))
            settings = Path("/proc/sys/net/ipv6/conf")
            (settings / "up0/accept_ra").write_text("1")
            assert ensure(DEFAULT).routes6
            assert (settings / "all/forwarding").read_text() == "1\n"
            assert (settings / "up0/accept_ra").read_text() == "2\n"

    def test_what_somebody_took_away_is_made_again(self) -> None:
        first = ensure(DEFAULT)
        with Channel() as channel:
            channel.request(netlink.delete_link("lamina0"))
        again = ensure(DEFAULT)
        assert again.subnet == first.subnet
        assert devices() == {"lo", "lamina0"}
        with Channel(netlink.NETFILTER) as channel:
            channel.transact(*nftables.batch([nftables.delete_table("lamina0")]))
        ensure(DEFAULT)
        assert has_table("lamina0")

    @pytest.mark.parametrize("damage", ["", "{", "[]", '[["a"], 1]'])
    def test_a_damaged_note_is_made_again(self, damage: str) -> None:
        bridge = ensure(NAMED)
        path = bridges.state_directory() / "lm-test.json"
        path.write_text(damage)
        assert ensure(NAMED)._replace(device=0) == bridge._replace(device=0)
        assert json.loads(path.read_text())[0][0] == "lm-test"

    def test_a_default_bridge_that_nobody_knows_is_made_anew(self) -> None:
        ensure(DEFAULT)
        (bridges.state_directory() / "lamina0.json").write_text("[[1], 2]")
        bridge = ensure(DEFAULT)
        assert bridge.gateway in addresses()
        assert len([each for each in addresses() if each.startswith("10.117.")]) == 1
        assert has_table("lamina0")
        assert ensure(DEFAULT) == bridge

    def test_a_named_network_is_what_was_planned(self) -> None:
        plan = NAMED._replace(subnet6="fd12::/64", gateway6="fd12::1")
        bridge = ensure(plan)
        assert {"10.9.8.1", "fd12::1"} <= addresses()
        assert bridge.routes6
        assert not bridge.internal

    def test_an_internal_one_asks_for_no_forwarding(self) -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        assert ensure(NAMED._replace(internal=True)).internal
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"

    @pytest.mark.parametrize("family", [nftables.FAMILY_IPV4, nftables.FAMILY_IPV6])
    def test_a_chain_of_iptables_lets_it_pass_and_is_looked_at_again(self, family: int) -> None:
        make_foreign_chain(family)
        ensure(DEFAULT)
        ensure(NAMED)
        assert foreign_rules(family) == 4
        ensure(DEFAULT)
        assert foreign_rules(family) == 4
        remove("lamina0")
        assert foreign_rules(family) == 2

    def test_without_rights_there_is_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Channel, *messages: netlink.Message) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Channel, "request", refuse)
        with pytest.raises(NetworkUnavailableError, match="Operation not permitted") as caught:
            ensure(DEFAULT)
        assert "CAP_NET_ADMIN" in caught.value.hint


class TestRemove:
    def test_nothing_is_left(self) -> None:
        bridge = ensure(NAMED)
        bridge.leases.mkdir()
        (bridge.leases / "10.9.8.2").touch()
        ensure(DEFAULT)
        remove("lm-test")
        assert devices() == {"lo", "lamina0"}
        assert not has_table("lm-test")
        assert has_table("lamina0")
        left = {path.name for path in bridges.state_directory().iterdir()}
        assert left == {"lock", "lamina0.json"}

    def test_what_is_not_there_can_be_removed(self) -> None:
        remove("lm-test")
        assert known("lm-test") is None


def test_a_hardware_address_goes_with_an_address() -> None:
    assert mac_of("10.9.8.2") == "02:4c:0a:09:08:02"


def test_a_subnet_in_use_is_refused() -> None:
    ensure(NAMED)
    taken = bridges.taken_subnets()
    check_is_free(parse_subnet("10.9.9.0/24"), taken=taken)
    with pytest.raises(NetworkError, match=r"10.9.0.0/16 overlaps 10.9.8.0/24"):
        check_is_free(parse_subnet("10.9.0.0/16"), taken=taken)
