"""The network of a sandbox: prepared by who forks it, entered by the process that was forked.

none          a new namespace with loopback up
links         the same, with an end of a veth for each link. The other ends are made through a
              netlink socket that was opened outside: it belongs to the network it was opened in
a path        a namespace that is there, opened by the caller: a server has other rights to it
host          nothing is done
"""

import _socket
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from builder.sandbox import syscalls
from builder.sandbox.errors import SandboxError
from builder.sandbox.spec import Link, Network

if TYPE_CHECKING:
    from builder.sandbox.netlink import Channel

_PHASE = "enter the network"
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP = 1


@contextmanager
def opened(network: Network) -> Iterator[int]:
    """The namespace that a specification names; -1 where it names none.

    Raises:
        SandboxError: it is gone.
    """
    if not isinstance(network, Path):
        yield -1
        return
    try:
        fd = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(
            phase=_PHASE,
            message=f"the network {network} cannot be had",
            errno=error.errno or 0,
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


class Way(NamedTuple):
    """What a process that is forked needs to enter its network."""

    network: Network
    namespace_fd: int  # of a network that is there; the caller's to close
    outside: "Channel | None" = None
    bridges: tuple[int, ...] = ()

    @classmethod
    def prepare(cls, network: Network, namespace_fd: int = -1) -> "Way":
        """Look the bridges up. Imports what will be needed inside.

        Raises:
            SandboxError: there is no such bridge.
        """
        if not isinstance(network, tuple):
            return cls(network, namespace_fd)
        from builder.sandbox.netlink import Channel

        bridges = tuple(map(_find_bridge, network))
        return cls(network, -1, Channel(), bridges)

    @property
    def flags(self) -> int:
        """Of the clone."""
        is_new = self.network == "none" or isinstance(self.network, tuple)
        return syscalls.CLONE_NEWNET if is_new else 0

    def enter(self) -> int | None:
        """Be in the network. For one with links, returns a descriptor of its namespace.

        Before sysfs is mounted: that shows the network of who mounts it.
        """
        if self.network == "host":
            return None
        if isinstance(self.network, Path):
            syscalls.setns(self.namespace_fd, syscalls.CLONE_NEWNET)
            return None
        bring_loopback_up()
        if not isinstance(self.network, tuple):
            return None
        namespace_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._connect(self.network, namespace_fd)
        return namespace_fd

    def close(self) -> None:
        """What was opened by `prepare` is not needed any more."""
        if self.outside is not None:
            self.outside.close()

    def _connect(self, links: tuple[Link, ...], namespace_fd: int) -> None:
        from builder.sandbox import netlink

        assert self.outside is not None, "there are links"
        with netlink.Channel() as inside:
            for link, bridge in zip(links, self.bridges, strict=True):
                outer = f"lm{os.urandom(6).hex()}"
                peer = netlink.Peer(link.name, link.mac, namespace_fd)
                veth = netlink.new_veth(outer, bridge=bridge, mtu=link.mtu, peer=peer)
                self.outside.request(veth, netlink.bring_up(outer))
                index = _socket.if_nametoindex(link.name)
                inside.request(
                    netlink.bring_up(link.name),
                    *(netlink.new_address(index, each) for each in link.addresses),
                    *(netlink.new_default_route(index, each) for each in link.gateways),
                )


def enter_network(namespace_fd: int) -> None:
    """This thread is in that network from now on; what it has opened stays where it is."""
    syscalls.setns(namespace_fd, syscalls.CLONE_NEWNET)


def _find_bridge(link: Link) -> int:
    try:
        return _socket.if_nametoindex(link.bridge)
    except OSError as error:
        raise SandboxError(
            phase=_PHASE, message=f"there is no bridge {link.bridge}", errno=error.errno or 0
        ) from error


def bring_loopback_up() -> None:
    """In the network this thread is in."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    # struct ifreq: name, flags
    request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, "little")
    syscalls.ioctl_bytes(sock.fileno(), _SIOCSIFFLAGS, request.ljust(40, b"\0"))
    sock.close()
