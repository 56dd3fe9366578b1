"""A container's way into its networks, while it runs.

    record --connect--> namespace and devices of the sandbox, /etc/hosts and /etc/resolv.conf

What it takes is the minder's: addresses are leases that end with this process, and the kernel takes
the devices away with the container. So nothing has to be swept.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from builder.errors import NetworkUnavailableError, UnsupportedFeatureError, WrongStateError
from builder.network import (
    DEFAULT_NETWORK,
    Publication,
    Resolvers,
    host_hosts,
    host_resolv_conf,
    hosts,
    resolv_conf,
)
from builder.runner import hostfiles
from builder.runner.container import ContainerRecord
from builder.runner.lookup import start_time
from builder.runner.networking import DEFAULT, HOST, NONE, OF_CONTAINER, UNNAMED, Attached, Endpoint
from builder.runner.store import ContainerStore
from builder.sandbox import BindMount, FileMount, Mount, Network, in_user_namespace

if TYPE_CHECKING:
    from builder.network import Attachment, Subnet

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
        if in_user_namespace():
            return _as_user(record, cleanup, ports)
        attachments = _attach_all(record, containers, cleanup)
    except NetworkUnavailableError as error:
        if network != DEFAULT:
            raise
        from builder.network import without_network

        warn(without_network(error))
        return _alone(record)
    attached = tuple(_attached(name, attachment) for name, attachment in attachments.items())
    links = tuple(attachment.link for attachment in attachments.values())
    files: tuple[Mount, ...]
    if hostfiles.named_networks(attached):
        hostfiles.write(containers, record, attached)
        hosts_file = containers.directory(record.id) / "hosts"
        files = (
            BindMount(source=hosts_file, target="/etc/hosts"),
            *_files(record, attached[0].gateway)[1:],
        )
    else:
        names = hostfiles.own_names(record, attached[0])
        files = _files(record, attached[0].gateway, names=names)
    published: tuple[Publication, ...] = ()
    if ports:
        from builder.network import forward

        forwarding = forward(ports, attached[0].address)
        cleanup.callback(forwarding.close)
        published = forwarding.published
    return Connection(links, files, attached, published)


def _as_user(
    record: ContainerRecord, cleanup: ExitStack, ports: tuple[Publication, ...]
) -> Connection:
    """What an ordinary user can have: a network of one container, connected by a program."""
    if record.network not in UNNAMED or len(record.networking.endpoints) > 1:
        raise UnsupportedFeatureError(
            feature=f"--network {record.network} for ordinary users",
            hint="networks with names need root; there are bridge, host and none",
        )
    from builder.network import connect_user, forward

    network = connect_user()
    cleanup.callback(network.close)
    attached = Attached(
        network=DEFAULT_NETWORK,
        address=network.address,
        prefix=network.prefix,
        gateway=network.gateway,
        address6="",
        prefix6=0,
        gateway6="",
        mac="",
        interface="eth0",
    )
    published: tuple[Publication, ...] = ()
    if ports:
        forwarding = forward(ports, network.address, namespace_fd=network.namespace_fd)
        cleanup.callback(forwarding.close)
        published = forwarding.published
    names = hostfiles.own_names(record, attached)
    files = _files(record, network.gateway, names=names, resolvers=network.resolvers)
    return Connection(network.path, files, (attached,), published)


def _attach_all(
    record: ContainerRecord, containers: ContainerStore, cleanup: ExitStack
) -> dict[str, "Attachment"]:
    """An attachment to each network, by its name. The first that leads anywhere is the way out."""
    from builder.network import DEFAULT_PLAN, Wish, attach

    found: dict[str, Attachment] = {}
    leads_out = False
    for endpoint in record.networking.endpoints or (Endpoint(network=record.network),):
        plan, name = DEFAULT_PLAN, endpoint.network
        if name in UNNAMED:
            name = DEFAULT_NETWORK
        else:
            from builder.runner.networks import NetworkStore

            plan = NetworkStore(containers.private).find(name).plan
        wish = Wish(endpoint.address, endpoint.address6, endpoint.mac, f"eth{len(found)}")
        attachment = attach(plan, wish, is_first=not leads_out, reserved=_reserved(containers))
        cleanup.callback(attachment.lease.release)
        leads_out = leads_out or not plan.internal
        found[name] = attachment
    return found


def _reserved(containers: ContainerStore) -> "Callable[[], list[Subnet]]":
    """What the default network must not choose; asked where it has to."""

    def subnets() -> "list[Subnet]":
        from builder.runner.networks import NetworkStore

        return NetworkStore(containers.private).reserved()

    return subnets


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
    names = tuple(name for each in other.attached for name in hostfiles.own_names(other, each))
    files = _files(record, other.attached[0].gateway, names=names)
    return Connection(Path(f"/proc/self/fd/{fd}"), files)


def _files(
    record: ContainerRecord,
    gateway: str,
    *,
    names: tuple[tuple[str, str], ...] = (),
    start: str = "",
    is_host: bool = False,
    resolvers: tuple[str, ...] = (),
) -> tuple[FileMount, ...]:
    """/etc/hosts, /etc/resolv.conf and /etc/hostname; `gateway` is what host-gateway stands for."""
    asked = record.networking
    wanted = Resolvers(asked.servers or resolvers, asked.search, asked.options)
    extra = hostfiles.extra_hosts(record, gateway)
    if is_host:
        resolv = host_resolv_conf(wanted)
    elif record.network == NONE and wanted == Resolvers():
        resolv = b""
    else:
        resolv = resolv_conf(wanted).encode()
    contents = {
        "/etc/hosts": hosts(names, extra, start=start).encode("utf-8", "surrogateescape"),
        "/etc/resolv.conf": resolv,
        "/etc/hostname": f"{record.hostname}\n".encode(),
    }
    return tuple(FileMount(target=target, content=data) for target, data in contents.items())


def _attached(network: str, attachment: "Attachment") -> Attached:
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
