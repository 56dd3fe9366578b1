"""A container's way into its networks, while it runs.

    record --connect--> namespace and devices of the sandbox, /etc/hosts and /etc/resolv.conf

What it takes is the minder's: addresses are leases that end with this process, and the kernel takes
the devices away with the container. So nothing has to be swept.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from builder.errors import NetworkUnavailableError, WrongStateError
from builder.network import (
    DEFAULT_NETWORK,
    HOST_GATEWAY,
    Attachment,
    Publication,
    Resolvers,
    Wish,
    attach,
    host_hosts,
    host_resolv_conf,
    hosts,
    resolv_conf,
)
from builder.runner.container import ContainerRecord
from builder.runner.lookup import start_time
from builder.runner.networking import DEFAULT, HOST, NONE, OF_CONTAINER, Attached
from builder.runner.store import ContainerStore
from builder.sandbox import FileMount, Mount, Network

Warn = Callable[[str], None]


class Connection(NamedTuple):
    """What a sandbox is given, and what the record says of it."""

    network: Network
    files: tuple[Mount, ...]
    attached: tuple[Attached, ...] = ()
    published: tuple[Publication, ...] = ()


def connect(
    record: ContainerRecord, containers: ContainerStore, cleanup: ExitStack, warn: Warn
) -> Connection:
    """Take what a container needs of its networks, until `cleanup` ends.

    Args:
        record: the container, which is about to be started.
        containers: where others are.
        cleanup: the end of the container.
        warn: told when a network that nobody asked for cannot be had.

    Raises:
        NetworkError: one that was asked for cannot be had.
        WrongStateError, NoSuchContainerError: the container whose network it is to share does not
            run.
    """
    network = record.network
    ports = _ports(record)
    if ports and network in (HOST, NONE):
        warn(f"ports are not published: the network is --network {network}")
    if network == HOST:
        return Connection(HOST, _files(record, "", start=host_hosts(), is_host=True))
    if network == NONE:
        return _alone(record)
    if network.startswith(OF_CONTAINER):
        return _shared(record, containers, cleanup)
    try:
        attachment = attach(wish=_wish(record))
    except NetworkUnavailableError as error:
        if network != DEFAULT:
            raise
        warn(f"no network: {error} (--network none says so without a warning)")
        return _alone(record)
    cleanup.callback(attachment.lease.release)
    attached = _attached(DEFAULT_NETWORK, attachment)
    files = _files(record, attached.gateway, names=_own_names(record, attached))
    published: tuple[Publication, ...] = ()
    if ports:
        from builder.network import forward

        forwarding = forward(ports, attached.address)
        cleanup.callback(forwarding.close)
        published = forwarding.published
    return Connection((attachment.link,), files, (attached,), published)


def _ports(record: ContainerRecord) -> tuple[Publication, ...]:
    """What is to be published: with -P every exposed port that -p does not name."""
    asked = record.networking
    if not asked.publish_all:
        return asked.ports
    named = {each.port for each in asked.ports}
    found = list(asked.ports)
    for port in asked.exposed:
        number, _, protocol = port.partition("/")
        if port not in named:
            found.append(Publication(int(number), protocol))
    return tuple(found)


def _wish(record: ContainerRecord) -> Wish:
    for endpoint in record.networking.endpoints:
        if endpoint.network == record.network:
            return Wish(endpoint.address, endpoint.address6, endpoint.mac)
    return Wish()


def _alone(record: ContainerRecord) -> Connection:
    names = (("127.0.1.1", record.hostname),)
    return Connection(NONE, _files(record, "127.0.0.1", names=names))


def _shared(record: ContainerRecord, containers: ContainerStore, cleanup: ExitStack) -> Connection:
    other = containers.find(record.network.removeprefix(OF_CONTAINER))
    path = f"/proc/{other.pid}/ns/net"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        fd = -1
    # asked with the namespace in hand: the number may be another process's by now
    if fd < 0 or start_time(other.pid) != other.pid_started:
        raise WrongStateError(name=other.name, state=other.state, wanted="running")
    cleanup.callback(os.close, fd)
    if not other.attached:
        start = host_hosts() if other.network == HOST else ""
        files = _files(record, "127.0.0.1", start=start, is_host=other.network == HOST)
        return Connection(Path(f"/proc/self/fd/{fd}"), files)
    names = tuple(name for each in other.attached for name in _own_names(other, each))
    files = _files(record, other.attached[0].gateway, names=names)
    return Connection(Path(f"/proc/self/fd/{fd}"), files)


def _own_names(record: ContainerRecord, attached: Attached) -> tuple[tuple[str, str], ...]:
    domain = record.networking.domainname
    known_as = f"{record.hostname}.{domain} {record.hostname}" if domain else record.hostname
    addresses = (attached.address, attached.address6)
    return tuple((address, known_as) for address in addresses if address)


def _files(
    record: ContainerRecord,
    gateway: str,
    *,
    names: tuple[tuple[str, str], ...] = (),
    start: str = "",
    is_host: bool = False,
) -> tuple[FileMount, ...]:
    """/etc/hosts, /etc/resolv.conf and /etc/hostname; `gateway` is what host-gateway stands for."""
    asked = record.networking
    resolvers = Resolvers(asked.servers, asked.search, asked.options)
    extra = [
        (name, (gateway or "127.0.0.1") if address == HOST_GATEWAY else address)
        for name, address in asked.extra_hosts
    ]
    if is_host:
        resolv = host_resolv_conf(resolvers)
    elif record.network == NONE and resolvers == Resolvers():
        resolv = b""
    else:
        resolv = resolv_conf(resolvers).encode()
    contents = {
        "/etc/hosts": hosts(names, extra, start=start).encode("utf-8", "surrogateescape"),
        "/etc/resolv.conf": resolv,
        "/etc/hostname": f"{record.hostname}\n".encode(),
    }
    return tuple(FileMount(target=target, content=data) for target, data in contents.items())


def _attached(network: str, attachment: Attachment) -> Attached:
    bridge, link = attachment.bridge, attachment.link
    return Attached(
        network=network,
        address=attachment.address,
        prefix=int(bridge.subnet.rpartition("/")[2]),
        gateway="" if bridge.internal else bridge.gateway,
        address6=attachment.address6,
        prefix6=int(bridge.subnet6.rpartition("/")[2] or 0),
        gateway6=bridge.gateway6 if bridge.routes6 else "",
        mac=attachment.mac,
        interface=link.name,
    )
