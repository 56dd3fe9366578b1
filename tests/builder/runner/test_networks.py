"""Networks of a store: their records, and the bridges that go with them."""

from pathlib import Path
from typing import Any

import pytest

from builder.errors import NetworkError
from builder.network import attach, known_bridge, parse_subnet
from builder.runner.networking import Attached
from builder.runner.networks import NetworkRequest, NetworkStore, default_subnets
from tests.support.containers import names_in, record_with
from tests.support.networks import devices

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_networks]


@pytest.fixture
def networks(tmp_path: Path, own_network: Path) -> NetworkStore:
    return NetworkStore(tmp_path)


def ask(name: str = "back", **changes: Any) -> NetworkRequest:
    return NetworkRequest(name=name)._replace(**changes)


def test_a_network_is_found_by_name_and_id(networks: NetworkStore, tmp_path: Path) -> None:
    record = networks.create(ask(labels=(("a", "b"),)))
    for word in ("back", record.id, record.id[:12]):
        assert networks.find(word) == record
    assert list(networks.all()) == [record]
    assert names_in(tmp_path / "networks") == ["back.json"]
    assert devices() == {"lo"}, "its bridge is made when it is needed"


def test_one_letter_is_a_name_as_in_docker(networks: NetworkStore) -> None:
    record = networks.create(ask("x"))
    assert networks.find("x") == record


def test_free_subnets_are_chosen_and_never_twice(networks: NetworkStore) -> None:
    subnets = [parse_subnet(networks.create(ask(f"net{n}")).subnet) for n in range(3)]
    subnets.append(parse_subnet(attach().bridge.subnet))
    subnets.append(parse_subnet(networks.create(ask("last")).subnet))
    for at, subnet in enumerate(subnets):
        assert not any(subnet.overlaps(other) for other in subnets[:at])


def test_what_is_asked_for_is_given(networks: NetworkStore) -> None:
    request = ask(
        subnets=("10.9.1.0/24", "fd12::/64"), gateways=("10.9.1.254", "fd12::ff"), internal=True
    )
    record = networks.create(request)
    assert (record.subnet, record.gateway) == ("10.9.1.0/24", "10.9.1.254")
    assert (record.subnet6, record.gateway6) == ("fd12::/64", "fd12::ff")
    bridge = attach(record.plan).bridge
    assert (bridge.gateway, bridge.internal) == ("10.9.1.254", True)
    assert networks.create(ask("six", ipv6=True)).subnet6.startswith("fd")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "-"}, "invalid network name '-'"),
        ({"name": ""}, "invalid network name ''"),
        ({"name": "../x"}, "invalid network name"),
        ({"name": "host"}, "already exists"),
        ({"name": "bridge"}, "already exists"),
        ({"name": "taken"}, "network with name taken already exists"),
        ({"subnets": ("10.9.1.0",)}, "is no subnet"),
        ({"subnets": ("10.9.9.128/25",)}, r"overlaps 10.9.9.0/24"),
        ({"subnets": ("10.1.0.0/24", "10.2.0.0/24")}, "one subnet of IPv4"),
        ({"gateways": ("10.200.0.1",)}, "in none of the network's subnets"),
    ],
)
def test_what_cannot_be_is_said(
    networks: NetworkStore, changes: dict[str, Any], message: str
) -> None:
    networks.create(ask("taken", subnets=("10.9.9.0/24",)))
    with pytest.raises(NetworkError, match=message):
        networks.create(ask(**changes))
    assert [record.name for record in networks.all()] == ["taken"]


def test_a_network_goes_with_its_bridge(networks: NetworkStore) -> None:
    record = networks.create(ask())
    attach(record.plan).lease.release()
    assert devices() == {"lo", record.plan.bridge}
    networks.remove(record, [])
    assert devices() == {"lo"}
    assert known_bridge(record.plan.bridge) is None
    with pytest.raises(NetworkError, match="no such network: back"):
        networks.find("back")


def test_one_in_use_stays(networks: NetworkStore) -> None:
    record = networks.create(ask())
    attached = Attached("back", "10.0.0.2", 24, "10.0.0.1", "", 0, "", "02::1", "eth0")
    user = record_with(name="web", attached=(attached,))
    with pytest.raises(NetworkError, match="network back has active endpoints: web"):
        networks.remove(record, [user])
    networks.remove(record, [user._replace(attached=())])


def test_the_default_network_is_described_once_it_is_there(networks: NetworkStore) -> None:
    assert default_subnets() == []
    bridge = attach().bridge
    assert default_subnets() == [
        (bridge.subnet, bridge.gateway),
        (bridge.subnet6, bridge.gateway6),
    ]


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"name": 1, "labels": 2}'])
def test_a_damaged_record_is_none(networks: NetworkStore, tmp_path: Path, damage: str) -> None:
    networks.create(ask())
    (tmp_path / "networks/back.json").write_text(damage)
    assert list(networks.all()) == []
    with pytest.raises(NetworkError):
        networks.find("back")
