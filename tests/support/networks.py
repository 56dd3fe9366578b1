"""Networks for tests: a namespace in the place of the host's, with nothing of the host in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.network.bridges import HOST_STATE
from builder.sandbox import netlink, syscalls
from builder.sandbox.namespaces import attempt
from layerstore import remove_tree

# Waits until somebody listens on port 80 of the network it runs in.
UNTIL_SERVED = "while ! grep -q ':0050 ' /proc/net/tcp /proc/net/tcp6; do :; done"


@contextmanager
def own_network() -> Iterator[Path]:
    """This thread, and what it starts, is in a new network with loopback alone.

    Gives the path of the namespace, and takes away what is remembered about it.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netlink.Channel() as channel:
            channel.request(netlink.bring_up("lo"))
        yield Path(f"/proc/{os.getpid()}/fd/{own}")
    finally:
        remove_tree(HOST_STATE / str(os.fstat(own).st_ino))
        syscalls.setns(before, syscalls.CLONE_NEWNET)
        os.close(before)
        os.close(own)


@contextmanager
def world(*addresses: str) -> Iterator[Path]:
    """A machine beyond ours: another network, to which our only default route leads.

    It is 198.51.100.1 (and 2001:db8::1), we are 198.51.100.2 (and 2001:db8::2); it knows no way
    back to any address of a container. Gives the path of its namespace.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    there = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    far = netlink.Channel()
    syscalls.setns(here, syscalls.CLONE_NEWNET)
    try:
        with netlink.Channel() as near:
            near.request(netlink.new_bridge("up0", "02:00:00:00:00:01", 1500))
            bridge = index_of("up0")
            peer = netlink.Peer("world0", "02:00:00:00:00:02", there)
            near.request(
                netlink.new_veth("down0", bridge=bridge, mtu=1500, peer=peer),
                netlink.bring_up("down0"),
                netlink.bring_up("up0"),
                netlink.new_address(bridge, "198.51.100.2/24"),
                netlink.new_address(bridge, "2001:db8::2/64"),
                netlink.new_default_route(bridge, "198.51.100.1"),
            )
        syscalls.setns(there, syscalls.CLONE_NEWNET)
        index = index_of("world0")
        far.request(
            netlink.bring_up("lo"),
            netlink.bring_up("world0"),
            netlink.new_address(index, "198.51.100.1/24"),
            netlink.new_address(index, "2001:db8::1/64"),
            *(netlink.new_address(index, each) for each in addresses),
        )
        syscalls.setns(here, syscalls.CLONE_NEWNET)
        yield Path(f"/proc/{os.getpid()}/fd/{there}")
    finally:
        far.close()
        os.close(here)
        os.close(there)


def index_of(device: str) -> int:
    import socket

    return socket.if_nametoindex(device)


def devices() -> set[str]:
    """The network devices of this thread's network."""
    import socket

    return {name for _, name in socket.if_nameindex()}


def no_private_networks() -> str | None:
    """Why this process cannot make them; None where it can."""
    if os.geteuid():
        return "not root"

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        with netlink.Channel() as channel, netlink.Channel(netlink.NETFILTER) as filtering:
            from builder.network import nftables

            channel.request(netlink.new_bridge("try0", "02:00:00:00:00:01", 1500))
            messages = nftables.table_of("try0", (), internal=True)
            filtering.transact(*nftables.batch(messages))

    code = attempt(make)
    return None if code == 0 else f"no bridges or rules: {os.strerror(code)}"
