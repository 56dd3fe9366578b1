"""What a container wants of networks, and what it has got. Pure; part of its record."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from builder.network import Publication

# Words of --network that name no network. `default` is what nobody asked for: the default network
# where there can be one.
HOST: Final = "host"
NONE: Final = "none"
DEFAULT: Final = "default"
OF_CONTAINER = "container:"
UNNAMED = (DEFAULT, "bridge")  # the default network, with and without being asked for


class Endpoint(NamedTuple):
    """What a container wants to be on one network; empty is ours to choose."""

    network: str
    aliases: tuple[str, ...] = ()
    address: str = ""
    address6: str = ""
    mac: str = ""


class Networking(NamedTuple):
    """What was asked for beside the network's name.

    `endpoints` are there for networks with names of their own; `extra_hosts` are names and
    addresses.
    """

    endpoints: tuple[Endpoint, ...] = ()
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    domainname: str = ""
    ports: tuple[Publication, ...] = ()
    publish_all: bool = False
    exposed: tuple[str, ...] = ()  # 80/tcp, those of the image too


class Attached(NamedTuple):
    """What a running container is on one network. `gateway` is empty where it leads nowhere."""

    network: str
    address: str
    prefix: int
    gateway: str
    address6: str
    prefix6: int
    gateway6: str
    mac: str
    interface: str


def dump(networking: Networking) -> dict[str, Any]:
    """The form in `container.json`."""
    return networking._asdict() | {
        "endpoints": [endpoint._asdict() for endpoint in networking.endpoints],
        "ports": [port._asdict() for port in networking.ports],
    }


def load(fields: Mapping[str, Any]) -> Networking:
    """The reverse of `dump`. Raises TypeError, KeyError or ValueError for what it is not."""
    return Networking(
        endpoints=tuple(
            Endpoint(**{**each, "aliases": tuple(each["aliases"])}) for each in fields["endpoints"]
        ),
        servers=tuple(fields["servers"]),
        search=tuple(fields["search"]),
        options=tuple(fields["options"]),
        extra_hosts=tuple((name, address) for name, address in fields["extra_hosts"]),
        domainname=fields["domainname"],
        ports=load_ports(fields["ports"]),
        publish_all=fields["publish_all"],
        exposed=tuple(fields["exposed"]),
    )


def load_attached(fields: Iterable[Mapping[str, Any]]) -> tuple[Attached, ...]:
    """The networks of a record."""
    return tuple(Attached(**each) for each in fields)


def load_ports(fields: Iterable[Mapping[str, Any]]) -> tuple[Publication, ...]:
    """The ports of a record."""
    return tuple(Publication(**each) for each in fields)


def is_private(network: str) -> bool:
    """Whether a word of --network means a network of our own making."""
    return network not in (HOST, NONE) and not network.startswith(OF_CONTAINER)
