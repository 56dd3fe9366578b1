"""Messages as bytes, and what the kernel makes of them in a network of our own."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import netlink
from builder.sandbox.netlink import Channel
from tests.support.networks import devices, index_of

LOOPBACK = 1


class TestPacking:
    @given(st.binary(max_size=40), st.integers(0, 100))
    def test_attributes_are_padded_and_read_again(self, data: bytes, kind: int) -> None:
        packed = netlink.attribute(kind, data) + netlink.number(kind + 1, 7)
        assert len(packed) % 4 == 0
        assert netlink.attributes_of(packed) == {kind: data, kind + 1: struct.pack("=I", 7)}

    def test_nested_attributes_are_attributes(self) -> None:
        inner = netlink.text(1, "bridge")
        outer = netlink.attribute(netlink.NESTED | 18, inner, netlink.number(2, 1))
        found = netlink.attributes_of(netlink.attributes_of(outer)[18])
        assert found == {1: b"bridge\0", 2: struct.pack("=I", 1)}

    @given(st.binary(max_size=64))
    def test_bytes_that_are_no_attributes_end_somewhere(self, data: bytes) -> None:
        assert isinstance(netlink.attributes_of(data), dict)

    @given(st.ip_addresses())
    def test_addresses_are_bytes_and_back(self, address: object) -> None:
        data = netlink.address_bytes(str(address))
        assert netlink.address_bytes(netlink.address_text(data)) == data

    def test_what_is_no_address_is_refused(self) -> None:
        with pytest.raises(OSError, match="illegal"):
            netlink.address_bytes("10.0.0")


@pytest.mark.needs_networks
class TestKernel:
    @pytest.fixture
    def channel(self, own_network: Path) -> Iterator[Channel]:
        with Channel() as channel:
            yield channel

    def test_a_bridge_has_the_address_and_size_it_was_given(self, channel: Channel) -> None:
        channel.request(netlink.new_bridge("br0", "02:00:00:00:00:07", 1400))
        assert devices() == {"lo", "br0"}
        assert netlink.mtu_of(channel.ask(netlink.get_link(index_of("br0")))) == 1400
        channel.request(netlink.delete_link("br0"))
        assert devices() == {"lo"}

    def test_both_ends_of_a_veth_go_together(self, channel: Channel, own_network: Path) -> None:
        channel.request(netlink.new_bridge("br0", "02:00:00:00:00:07", 1500))
        namespace = os.open(own_network, os.O_RDONLY)
        peer = netlink.Peer("in0", "02:00:00:00:00:08", namespace)
        pair = netlink.new_veth("out0", bridge=index_of("br0"), mtu=1300, peer=peer)
        channel.request(pair, netlink.bring_up("out0"))
        os.close(namespace)
        assert devices() == {"lo", "br0", "in0", "out0"}
        for name in ("in0", "out0"):
            assert netlink.mtu_of(channel.ask(netlink.get_link(index_of(name)))) == 1300
        channel.request(netlink.delete_link("in0"))
        assert devices() == {"lo", "br0"}

    def test_addresses_can_be_used_at_once(self, channel: Channel) -> None:
        channel.request(netlink.new_bridge("br0", "02:00:00:00:00:07", 1500))
        index = index_of("br0")
        channel.request(
            netlink.bring_up("br0"),
            netlink.new_address(index, "10.1.2.3/24"),
            netlink.new_address(index, "fd12::3/64"),
        )
        for family, address in ((socket.AF_INET, "10.1.2.3"), (socket.AF_INET6, "fd12::3")):
            with socket.socket(family) as server:
                server.bind((address, 0))

    def test_routes_are_listed_with_those_of_both_families(self, channel: Channel) -> None:
        channel.request(netlink.new_bridge("br0", "02:00:00:00:00:07", 1500))
        index = index_of("br0")
        channel.request(
            netlink.bring_up("br0"),
            netlink.new_address(index, "10.1.2.3/24"),
            netlink.new_address(index, "fd12::3/64"),
            netlink.new_default_route(index, "10.1.2.1"),
            netlink.new_default_route(index, "fd12::1"),
        )
        routes = [netlink.route_of(each) for each in channel.dump(netlink.all_routes())]
        found = {
            (netlink.address_text(each.destination), each.prefix)
            for each in routes
            if each.destination and each.is_unicast
        }
        assert {("10.1.2.0", 24), ("fd12::", 64)} <= found
        defaults = {
            each.family: each.device for each in routes if not each.destination and each.is_unicast
        }
        assert defaults == {socket.AF_INET: index, socket.AF_INET6: index}

    def test_a_refusal_is_the_kernel_s_error(self, channel: Channel) -> None:
        bridge = netlink.new_bridge("br0", "02:00:00:00:00:07", 1500)
        with pytest.raises(FileExistsError):
            channel.request(bridge, bridge, netlink.bring_up("br0"))
        with pytest.raises(OSError, match="No such device") as caught:
            channel.request(netlink.delete_link("nope"))
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(OSError, match="No such device") as caught:
            channel.ask(netlink.get_link(4711))
        assert caught.value.errno == errno.ENODEV
        assert netlink.mtu_of(channel.ask(netlink.get_link(LOOPBACK))) == 65536

    def test_a_channel_belongs_to_the_network_it_was_opened_in(self, own_network: Path) -> None:
        from builder.sandbox import syscalls

        with Channel() as channel:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            channel.request(netlink.new_bridge("br0", "02:00:00:00:00:07", 1500))
            assert devices() == {"lo"}
            fd = os.open(own_network, os.O_RDONLY)
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            os.close(fd)
            assert devices() == {"lo", "br0"}
