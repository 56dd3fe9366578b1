import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import NetworkError
from builder.network.subnets import (
    Subnet,
    address_text,
    free_subnet,
    parse_address,
    parse_subnet,
    unique_local_subnet,
)

addresses = st.ip_addresses()
networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(1, 30)),
    st.tuples(st.ip_addresses(v=6), st.integers(1, 126)),
).map(lambda pair: ipaddress.ip_network((pair[0], pair[1]), strict=False))


@given(addresses)
def test_an_address_is_a_number_and_back(address: ipaddress.IPv4Address) -> None:
    number, bits = parse_address(str(address))
    assert (number, bits) == (int(address), address.max_prefixlen)
    assert ipaddress.ip_address(address_text(number, bits)) == address


@given(networks, addresses)
def test_subnets_are_those_of_the_standard_library(
    network: ipaddress.IPv4Network, address: ipaddress.IPv4Address
) -> None:
    subnet = parse_subnet(str(network))
    assert ipaddress.ip_network(str(subnet)) == network
    assert subnet.size == network.num_addresses
    assert subnet.contains(str(address)) == (address in network)
    host = subnet.size // 2
    assert ipaddress.ip_address(subnet.address(host)) == network[host]
    assert subnet.number_of(subnet.address(host)) == host


@given(networks, networks)
def test_so_is_what_overlaps(one: ipaddress.IPv4Network, two: ipaddress.IPv4Network) -> None:
    both = parse_subnet(str(one)), parse_subnet(str(two))
    expected = type(one) is type(two) and one.overlaps(two)
    assert both[0].overlaps(both[1]) == both[1].overlaps(both[0]) == expected


def test_host_bits_do_not_count() -> None:
    assert str(parse_subnet("10.1.2.3/16")) == "10.1.0.0/16"


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/x", "10.0.0/8", "10.0.0.0/33", "a/8", "::/²"]
)
def test_what_is_no_subnet(text: str) -> None:
    with pytest.raises(NetworkError, match=r"is no|too small"):
        parse_subnet(text)


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.0/32", "0.0.0.0/0", "fd00::/127"])
def test_a_subnet_needs_room_and_must_not_be_everything(text: str) -> None:
    with pytest.raises(NetworkError, match="too small or too large"):
        parse_subnet(text)


def test_a_free_subnet_overlaps_nothing() -> None:
    taken: list[Subnet] = []
    for _ in range(100):
        chosen = free_subnet(taken)
        assert not any(chosen.overlaps(other) for other in taken)
        assert ipaddress.ip_network(str(chosen)).is_private
        taken.append(chosen)


def test_a_large_range_in_use_is_passed_over() -> None:
    assert free_subnet([parse_subnet("10.0.0.0/8")]).address(0).startswith("172.28.")
    taken = [parse_subnet("10.0.0.0/8"), parse_subnet("172.16.0.0/12")]
    assert free_subnet(taken).address(0) == "192.168.64.0"


def test_there_may_be_none_left() -> None:
    ranges = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    with pytest.raises(NetworkError, match="no free range") as caught:
        free_subnet(map(parse_subnet, ranges))
    assert "--subnet" in caught.value.hint


@given(st.binary(min_size=7, max_size=7))
def test_ipv6_subnets_are_unique_local_ones(random: bytes) -> None:
    network = ipaddress.IPv6Network(str(unique_local_subnet(random)))
    assert network.prefixlen == 64
    assert network.subnet_of(ipaddress.IPv6Network("fd00::/8"))
