"""Published ports: a process that passes on what comes to ports of the host.

    the minder                                    the proxy
      binds the ports, so that what is taken is an error before anything runs
      posix_spawn ---- the sockets, a pipe --->   accepts, connects to the container, copies
      the container ends, or the minder: the pipe is closed -------------> ends

TCP and UDP, on IPv4 and IPv6, from everywhere: also from the host's own loopback, for which rules
of the kernel would have to let the world's packets reach loopback (route_localnet). Nothing of it
is left when both processes are killed, and nothing of it is in the packet filter.

Differs: docker lets the kernel change the addresses of what comes from elsewhere, so that the
container sees where it came from; here it comes from the bridge's address.
"""

import json
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from builder.errors import NetworkError
from builder.interpreter import Companion
from builder.network.ports import Publication

if TYPE_CHECKING:
    import asyncio

_BACKLOG = 1024
_TRIES = 20
_PIECE_BYTES = 256 << 10
_UDP_IDLE_S = 90.0
_UDP_SENDERS_MAX = 4096
_EVERYWHERE = ("0.0.0.0", "::")


class Forwarding:
    """Ports that are passed on until `close`, or until this process ends."""

    def __init__(self, published: tuple[Publication, ...], proxy: Companion) -> None:
        self.published = published
        self._proxy = proxy

    def close(self) -> None:
        """The ports are free when this returns."""
        self._proxy.close()


def forward(
    asked: Iterable[Publication], address: str, *, namespace_fd: int | None = None
) -> Forwarding:
    """Listen on ports of the host, and pass on what comes to a container's address.

    Args:
        asked: the ports.
        address: the container's.
        namespace_fd: a network that the address is only known in.

    Raises:
        NetworkError: a port is taken, or not ours to have.
    """
    bound: list[tuple[socket.socket, Publication]] = []
    try:
        for publication in asked:
            bound += _bind(publication)
        return _spawn(bound, address, namespace_fd)
    finally:
        for sock, _ in bound:
            sock.close()


def _bind(asked: Publication) -> list[tuple[socket.socket, Publication]]:
    last = asked.host_port_last or asked.host_port
    tries = [asked.host_port] * (1 if asked.host_port else _TRIES)
    if asked.host_port_last:
        tries = list(range(asked.host_port, last + 1))
    problem: OSError | None = None
    for port in tries:
        try:
            return _bind_at(asked, port)
        except OSError as error:
            problem = error
    assert problem is not None, "one port at least was tried"
    where = f"{asked.host_ip or _EVERYWHERE[0]}:{asked.host_port}/{asked.protocol}"
    raise NetworkError(
        f"the port {where} cannot be published: {problem.strerror}",
        hint="choose another, or let a free one be chosen: -p CONTAINER_PORT",
    ) from problem


def _bind_at(asked: Publication, port: int) -> list[tuple[socket.socket, Publication]]:
    """At one port, on IPv4 and IPv6 where no address is asked for; a free port is the same one."""
    found: list[tuple[socket.socket, Publication]] = []
    try:
        for address in (asked.host_ip,) if asked.host_ip else _EVERYWHERE:
            try:
                sock = _socket_at(address, port, asked.protocol)
            except OSError:
                if not found or _has_ipv6():
                    raise
                continue  # a host without IPv6
            port = sock.getsockname()[1]
            made = asked._replace(host_ip=address, host_port=port, host_port_last=0)
            found.append((sock, made))
    except OSError:
        for sock, _ in found:
            sock.close()
        raise
    return found


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def _socket_at(address: str, port: int, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _spawn(
    bound: list[tuple[socket.socket, Publication]], address: str, namespace_fd: int | None
) -> Forwarding:
    ports = [[sock.fileno(), made.protocol, made.container_port] for sock, made in bound]
    inherited = [sock.fileno() for sock, _ in bound]
    network = None if namespace_fd is None else os.dup(namespace_fd)  # ours stays uninheritable
    try:
        if network is not None:
            inherited.append(network)
        words = {"network": network, "address": address, "ports": ports}
        proxy = Companion("builder.network.proxy", words, inherited=inherited)
    finally:
        if network is not None:
            os.close(network)
    return Forwarding(tuple(made for _, made in bound), proxy)


# The proxy's side.


def main() -> Never:
    """What the new process does; never returns."""
    import asyncio

    words = json.loads(sys.argv[1])
    os.chdir("/")
    try:
        if words["network"] is not None:
            from builder.sandbox import enter_network

            enter_network(words["network"])  # what is bound stays where it is
        asyncio.run(_serve(words))
    finally:
        os._exit(0)


async def _serve(words: dict[str, Any]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(words["lifeline"], over.set)  # nobody writes: it can be read when it ends
    for fd, protocol, port in words["ports"]:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        if protocol == "tcp":
            await _serve_tcp(sock, words["address"], port)
        else:
            await _serve_udp(sock, words["address"], port)
    await over.wait()


async def _serve_tcp(sock: socket.socket, address: str, port: int) -> None:
    import asyncio

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError:  # nobody listens there: so does nobody here
            near = writer.get_extra_info("socket")
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()  # a reset
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        for each in (writer, far_writer):
            each.close()

    await asyncio.start_server(connected, sock=sock)


async def _copy(reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
    """Until the end, which is passed on too; what breaks ends both ways."""
    try:
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _serve_udp(sock: socket.socket, address: str, port: int) -> None:
    """Every sender has a socket of its own to the container, so that answers find back."""
    import asyncio

    loop = asyncio.get_running_loop()
    senders: dict[Any, tuple[socket.socket, list[float]]] = {}

    def receive() -> None:
        for data, sender in _datagrams(sock):
            if sender not in senders:
                if len(senders) >= _UDP_SENDERS_MAX:
                    continue
                far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                far.setblocking(False)
                far.connect((address, port))
                senders[sender] = far, [0.0]
                loop.add_reader(far.fileno(), answer, sender)
            far, last = senders[sender]
            last[0] = loop.time()
            with suppress(OSError):  # nobody listens, or the buffer is full: datagrams get lost
                far.send(data)

    def answer(sender: Any) -> None:
        far, last = senders[sender]
        last[0] = loop.time()
        for data, _ in _datagrams(far):
            with suppress(OSError):  # likewise
                sock.sendto(data, sender)

    def forget_idle() -> None:
        for sender, (far, last) in list(senders.items()):
            if loop.time() - last[0] > _UDP_IDLE_S:
                loop.remove_reader(far.fileno())
                far.close()
                del senders[sender]
        loop.call_later(_UDP_IDLE_S, forget_idle)

    loop.add_reader(sock.fileno(), receive)
    loop.call_later(_UDP_IDLE_S, forget_idle)


def _datagrams(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """What is there now."""
    while True:
        try:
            yield sock.recvfrom(65536)
        except OSError:  # none any more; or the last one was refused, which is told here
            return
