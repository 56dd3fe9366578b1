"""/etc/hosts of containers, which names those on the same networks.

A container on a network with a name of its own has its file in its directory, mounted, and kept up
to date by those that come and go: by the minder when its program runs and when it has ended, and by
the sweep for one that was killed. Such a network resolves the names, short ids and aliases of its
containers; the default network only a container's own.

Differs: docker has a resolver for that, at 127.0.0.11. A file needs no process; what is resolved
once and kept does not see the change, as with any resolver.
"""

import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from builder.network import DEFAULT_NETWORK, HOST_GATEWAY, hosts
from builder.runner.container import ContainerRecord
from builder.runner.networking import Attached

if TYPE_CHECKING:
    from builder.runner.store import ContainerStore

_SHORT_ID_DIGITS = 12


def named_networks(attached: Iterable[Attached]) -> frozenset[str]:
    """Those on which containers know each other by name."""
    return frozenset(each.network for each in attached if each.network != DEFAULT_NETWORK)


def own_names(record: ContainerRecord, attached: Attached) -> tuple[tuple[str, str], ...]:
    """The addresses of a container on a network, with what it calls itself."""
    domain = record.networking.domainname
    known_as = f"{record.hostname}.{domain} {record.hostname}" if domain else record.hostname
    addresses = (attached.address, attached.address6)
    return tuple((address, known_as) for address in addresses if address)


def extra_hosts(record: ContainerRecord, gateway: str) -> list[tuple[str, str]]:
    """What --add-host asks for; `gateway` is what `host-gateway` stands for."""
    return [
        (name, (gateway or "127.0.0.1") if address == HOST_GATEWAY else address)
        for name, address in record.networking.extra_hosts
    ]


def write(
    containers: "ContainerStore", record: ContainerRecord, attached: tuple[Attached, ...]
) -> None:
    """Write the file of a container on these networks, in place: it may be mounted."""
    names = [name for each in attached for name in own_names(record, each)]
    names += _names_of_others(containers, record.id, named_networks(attached))
    text = hosts(names, extra_hosts(record, attached[0].gateway))
    path = containers.directory(record.id) / "hosts"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644)
    try:
        os.fchmod(fd, 0o644)
        data = text.encode()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def refresh(containers: "ContainerStore", networks: Collection[str]) -> None:
    """Bring the files of all that run on these networks up to date."""
    for record in containers.all():
        if named_networks(record.attached).intersection(networks):
            try:
                write(containers, record, record.attached)
            except FileNotFoundError:  # removed in this moment
                continue


def refresh_others(containers: "ContainerStore", attached: tuple[Attached, ...]) -> None:
    """After a container has come to these networks, or has left them."""
    networks = named_networks(attached)
    if networks:
        refresh(containers, networks)


def _names_of_others(
    containers: "ContainerStore", own_id: str, networks: frozenset[str]
) -> list[tuple[str, str]]:
    found = []
    for other in containers.all():
        if other.id == own_id or other.state != "running":
            continue
        for attached in other.attached:
            if attached.network not in networks:
                continue
            aliases = [
                alias
                for endpoint in other.networking.endpoints
                if endpoint.network == attached.network
                for alias in endpoint.aliases
            ]
            known_as = " ".join((other.name, other.id[:_SHORT_ID_DIGITS], *aliases))
            addresses = (attached.address, attached.address6)
            found += [(address, known_as) for address in addresses if address]
    return sorted(found)
