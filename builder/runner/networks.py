"""Networks with names of their own, in the private part of a store.

    networks/NAME.json      a NetworkRecord; made by link(2), which makes names unique

The bridge of a network is made when a container first needs it, and again after a boot; its name
comes from the network's id. The default network is no record: it is the machine's (bridges.py).
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from builder.errors import NetworkError, NoSuchNetworkError
from builder.network import (
    DEFAULT_NETWORK,
    DEFAULT_PLAN,
    Plan,
    Subnet,
    check_is_free,
    first_choice,
    free_subnet,
    known_bridge,
    parse_subnet,
    remove_bridge,
    taken_subnets,
    unique_local_subnet,
)
from builder.runner.container import ContainerRecord
from builder.runner.names import is_name
from builder.runner.networking import DEFAULT

PREDEFINED = (DEFAULT_NETWORK, "host", "none")
_BRIDGE_ID_DIGITS = 12


class NetworkRecord(NamedTuple):
    """A network as it was created. `subnet6` is empty for one without IPv6."""

    name: str
    id: str
    created: float
    subnet: str
    gateway: str
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def plan(self) -> Plan:
        """Its bridge."""
        bridge = f"lm-{self.id[:_BRIDGE_ID_DIGITS]}"
        return Plan(bridge, self.subnet, self.gateway, self.subnet6, self.gateway6, self.internal)


class NetworkRequest(NamedTuple):
    """What `network create` asks for."""

    name: str
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ipv6: bool = False
    internal: bool = False
    labels: tuple[tuple[str, str], ...] = ()


class NetworkStore:
    """The networks of one store, whose private directory is `private`."""

    def __init__(self, private: Path) -> None:
        self._directory = private / "networks"

    def create(self, request: NetworkRequest) -> NetworkRecord:
        """Make a network.

        Raises:
            NetworkError: the name is taken or none, or a subnet cannot be had.
        """
        if not is_name(request.name, least=1):
            raise NetworkError(
                f"invalid network name {request.name!r}",
                hint="letters, digits, `_`, `.` and `-`, a letter or digit first",
            )
        if request.name in (*PREDEFINED, DEFAULT) or self._path(request.name).exists():
            raise NetworkError(f"network with name {request.name} already exists")
        record = self._planned(request)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._directory / f".{record.id}"
        with temporary.open("w") as file:
            file.write(json.dumps(record._asdict()))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, self._path(request.name))
        except FileExistsError:
            raise NetworkError(f"network with name {request.name} already exists") from None
        finally:
            temporary.unlink()
        return record

    def all(self) -> Iterator[NetworkRecord]:
        """Those that can be read, by name."""
        for path in sorted(self._directory.glob("*.json")):
            record = _load(path)
            if record is not None:
                yield record

    def find(self, word: str) -> NetworkRecord:
        """A network by its name, its id, or a prefix of the id that fits no other.

        Raises:
            NoSuchNetworkError: there is none.
            NetworkError: several fit.
        """
        record = _load(self._path(word)) if is_name(word, least=1) else None
        if record is not None:
            return record
        fitting = [each for each in self.all() if word and each.id.startswith(word)]
        if len(fitting) > 1:
            raise NetworkError(f"several networks have an id that begins with {word!r}")
        if not fitting:
            raise NoSuchNetworkError(name=word)
        return fitting[0]

    def remove(self, record: NetworkRecord, users: Iterable[ContainerRecord]) -> None:
        """Remove a network and its bridge.

        Raises:
            NetworkError: a container that runs is on it.
        """
        active = [user.name for user in users if record.name in user.networks and user.attached]
        if active:
            raise NetworkError(
                f"network {record.name} has active endpoints: {', '.join(sorted(active))}",
                hint="stop them first",
            )
        self._path(record.name).unlink(missing_ok=True)
        if known_bridge(record.plan.bridge) is not None:
            remove_bridge(record.plan.bridge)

    def reserved(self) -> list[Subnet]:
        """The subnets of all networks, whether or not their bridges are there."""
        return [parse_subnet(each) for record in self.all() for each in _subnets(record)]

    def _planned(self, request: NetworkRequest) -> NetworkRecord:
        asked = [parse_subnet(text) for text in request.subnets]
        taken = [*taken_subnets(), *self.reserved(), *_default()]
        for subnet in asked:
            check_is_free(subnet, taken=taken)
        plain = [subnet for subnet in asked if subnet.bits == 32]
        wide = [subnet for subnet in asked if subnet.bits == 128]
        if len(plain) > 1 or len(wide) > 1:
            raise NetworkError("a network has one subnet of IPv4 and one of IPv6 at most")
        subnet = plain[0] if plain else free_subnet(taken)
        subnet6 = wide[0] if wide else None
        if request.ipv6 and subnet6 is None:
            subnet6 = unique_local_subnet(os.urandom(7))
        gateways = {}
        for text in request.gateways:
            mine = next((each for each in (subnet, subnet6) if each and each.contains(text)), None)
            if mine is None:
                raise NetworkError(f"the gateway {text} is in none of the network's subnets")
            gateways[mine] = text
        return NetworkRecord(
            name=request.name,
            id=os.urandom(32).hex(),
            created=time.time(),
            subnet=str(subnet),
            gateway=gateways.get(subnet, subnet.address(1)),
            subnet6=str(subnet6) if subnet6 else "",
            gateway6=gateways.get(subnet6, subnet6.address(1)) if subnet6 else "",
            internal=request.internal,
            labels=request.labels,
        )

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _default() -> list[Subnet]:
    """What the default network has, or will have."""
    bridge = known_bridge(DEFAULT_PLAN.bridge)
    return [first_choice() if bridge is None else parse_subnet(bridge.subnet)]


def default_subnets() -> list[tuple[str, str]]:
    """Subnets and gateways of the default network; empty before it is first needed."""
    bridge = known_bridge(DEFAULT_PLAN.bridge)
    if bridge is None:
        return []
    found = [(bridge.subnet, bridge.gateway)]
    return [*found, (bridge.subnet6, bridge.gateway6)] if bridge.subnet6 else found


def _subnets(record: NetworkRecord) -> list[str]:
    return [each for each in (record.subnet, record.subnet6) if each]


def _load(path: Path) -> NetworkRecord | None:
    try:
        fields = json.loads(path.read_bytes())
        fields["labels"] = tuple((key, value) for key, value in fields["labels"])
        return NetworkRecord(**fields)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
