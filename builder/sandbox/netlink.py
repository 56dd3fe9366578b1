"""Netlink: what the kernel is told about network devices, addresses, routes and packet filters.

    message  = header (length, kind, flags, sequence number, port) + body
    body     = a fixed part, then attributes
    attribute = length, kind, payload; padded to 4 bytes, nested at will

The first half packs and reads messages (pure), the second sends them. One `Channel` belongs to the
network namespace in which it was opened, whoever uses it afterwards: that is how PID 1, inside
already, makes both ends of its veth.

Nothing is imported when it is used after a fork; a start of a container pays for `struct` alone.

Sources: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,veth}.h; netlink(7), rtnetlink(7).
"""

import _socket
import os
import struct
from typing import NamedTuple

# netlink.h
ROUTE = 0
NETFILTER = 12
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
NESTED = 0x8000
_KIND_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 16

# rtnetlink.h
NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, GET_ADDRESS = 20, 22
NEW_ROUTE, GET_ROUTE = 24, 26
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1
RTA_DESTINATION, RTA_OUT, RTA_GATEWAY = 1, 4, 5
# if_link.h
_IFLA_ADDRESS, IFLA_NAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_INFO, _IFLA_NAMESPACE_FD = (
    *(1, 3, 4),
    *(10, 18, 28),
)
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFF_UP = 1
# if_addr.h
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")


class Message(NamedTuple):
    kind: int
    body: bytes
    flags: int = 0


class Answer(NamedTuple):
    kind: int
    body: bytes


def attribute(kind: int, *payload: bytes) -> bytes:
    """One attribute; several payloads are nested attributes, one after the other."""
    data = b"".join(payload)
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def text(kind: int, value: str) -> bytes:
    """An attribute with a string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute with an unsigned number of this machine's byte order."""
    return attribute(kind, struct.pack("=I", value))


def attributes_of(data: bytes) -> dict[int, bytes]:
    """The attributes of a body behind its fixed part, by kind; the last of a kind counts."""
    found = {}
    while len(data) >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < 4:
            break
        found[kind & _KIND_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def address_bytes(address: str) -> bytes:
    """4 or 16 bytes. Raises OSError for what is no address."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    return _socket.inet_pton(family, address)


def address_text(data: bytes) -> str:
    """The reverse of `address_bytes`."""
    return _socket.inet_ntop(_socket.AF_INET if len(data) == 4 else _socket.AF_INET6, data)


def _family(address: bytes) -> int:
    return _socket.AF_INET if len(address) == 4 else _socket.AF_INET6


def new_bridge(name: str, mac: str, mtu: int) -> Message:
    """A bridge. Its address is given: else it would change with the devices on it."""
    info = attribute(_IFLA_INFO, text(_INFO_KIND, "bridge"))
    words = text(IFLA_NAME, name) + attribute(_IFLA_ADDRESS, _mac_bytes(mac))
    words += number(_IFLA_MTU, mtu)
    return Message(NEW_LINK, _IFINFO.pack(0, 0, 0, 0, 0) + words + info, CREATE | EXCLUSIVE)


class Peer(NamedTuple):
    """The far end of a veth, in the network namespace that the descriptor stands for."""

    name: str
    mac: str
    namespace_fd: int


def new_veth(name: str, *, bridge: int, mtu: int, peer: Peer) -> Message:
    """A pair of devices: `name` on a bridge here, its peer elsewhere. Both are down."""
    peer_words = (
        text(IFLA_NAME, peer.name)
        + attribute(_IFLA_ADDRESS, _mac_bytes(peer.mac))
        + number(_IFLA_MTU, mtu)
        + number(_IFLA_NAMESPACE_FD, peer.namespace_fd)
    )
    data = attribute(_VETH_PEER, _IFINFO.pack(0, 0, 0, 0, 0), peer_words)
    info = attribute(_IFLA_INFO, text(_INFO_KIND, "veth"), attribute(_INFO_DATA, data))
    words = text(IFLA_NAME, name) + number(_IFLA_MTU, mtu) + number(_IFLA_MASTER, bridge)
    return Message(NEW_LINK, _IFINFO.pack(0, 0, 0, 0, 0) + words + info, CREATE | EXCLUSIVE)


def bring_up(name: str) -> Message:
    """A device is up from now on. A veth only can be once its peer exists."""
    return Message(NEW_LINK, _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP) + text(IFLA_NAME, name))


def delete_link(name: str) -> Message:
    """A device goes; with one end of a veth the other one does."""
    return Message(DELETE_LINK, _IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_NAME, name))


def new_address(index: int, address: str) -> Message:
    """`10.0.0.2/24` or its like for IPv6, which is used at once: nobody else can have it."""
    plain, _, prefix = address.partition("/")
    data = address_bytes(plain)
    fixed = _IFADDR.pack(_family(data), int(prefix), _IFA_F_NODAD, _RT_SCOPE_UNIVERSE, index)
    words = attribute(_IFA_LOCAL, data) + attribute(_IFA_ADDRESS, data)
    return Message(NEW_ADDRESS, fixed + words, CREATE | EXCLUSIVE)


def new_default_route(index: int, gateway: str) -> Message:
    """Everything that is not near goes to `gateway`."""
    data = address_bytes(gateway)
    fixed = _RTMSG.pack(
        *(_family(data), 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST),
        0,
    )
    words = attribute(RTA_GATEWAY, data) + number(RTA_OUT, index)
    return Message(NEW_ROUTE, fixed + words, CREATE | EXCLUSIVE)


def get_link(index: int) -> Message:
    """Asks for a device."""
    return Message(GET_LINK, _IFINFO.pack(0, 0, index, 0, 0))


def mtu_of(answer: Answer) -> int:
    """The largest packet of the device in the answer."""
    return int.from_bytes(attributes_of(answer.body[_IFINFO.size :])[_IFLA_MTU], "little")


class Route(NamedTuple):
    """`destination` is empty for the default route; `family` is that of _socket; 0 is no device."""

    family: int
    destination: bytes
    prefix: int
    is_unicast: bool
    device: int


def all_routes() -> Message:
    """What `Channel.dump` needs to list the routes of all tables and families."""
    return Message(GET_ROUTE, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))


def route_of(answer: Answer) -> Route:
    """What one answer to `all_routes` says."""
    fixed = _RTMSG.unpack_from(answer.body)
    words = attributes_of(answer.body[_RTMSG.size :])
    return Route(
        family=fixed[0],
        destination=words.get(RTA_DESTINATION, b""),
        prefix=fixed[1],
        is_unicast=fixed[7] == _RTN_UNICAST,
        device=int.from_bytes(words.get(RTA_OUT, b""), "little"),
    )


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


class Channel:
    """A netlink socket. A context manager."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol
        )

    def request(self, *messages: Message) -> None:
        """Send all at once, and wait until each is done.

        Raises:
            OSError: what the kernel says of the first that it refuses.
        """
        self._send(messages, _REQUEST | _ACK)
        waiting = len(messages)
        refused = 0
        while waiting:
            for kind, _, body in self._receive():
                if kind == _ERROR:
                    waiting -= 1
                    refused = refused or -int.from_bytes(body[:4], "little", signed=True)
        if refused:
            raise OSError(refused, os.strerror(refused))

    def transact(self, begin: Message, messages: tuple[Message, ...], end: Message) -> None:
        """All of `messages` or none, as nftables has it: only they are answered."""
        packed = [self._pack(begin, _REQUEST, 0)]
        packed += [self._pack(each, _REQUEST | _ACK, at) for at, each in enumerate(messages, 1)]
        packed.append(self._pack(end, _REQUEST, len(packed)))
        self._socket.send(b"".join(packed))
        answered: set[int] = set()
        while len(answered) < len(messages):
            for kind, sequence, body in self._receive():
                code = -int.from_bytes(body[:4], "little", signed=True) if kind == _ERROR else 0
                if code:
                    raise OSError(code, os.strerror(code))
                answered.add(sequence)

    def ask(self, message: Message) -> Answer:
        """The one answer to a question.

        Raises:
            OSError: the kernel has none.
        """
        self._send((message,), _REQUEST)
        while True:
            for kind, _, body in self._receive():
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], "little", signed=True)
                    raise OSError(code, os.strerror(code))
                return Answer(kind, body)

    def dump(self, message: Message) -> list[Answer]:
        """All answers to a question.

        Raises:
            OSError: the kernel refuses it.
        """
        self._send((message,), _REQUEST | _DUMP)
        found: list[Answer] = []
        while True:
            for kind, _, body in self._receive():
                code = -int.from_bytes(body[:4], "little", signed=True)
                if kind == _ERROR or (kind == _DONE and code > 0):
                    raise OSError(code, os.strerror(code))
                if kind == _DONE:
                    return found
                found.append(Answer(kind, body))

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def _pack(self, message: Message, flags: int, sequence: int) -> bytes:
        kind, body, more = message
        return _HEADER.pack(16 + len(body), kind, flags | more, sequence, 0) + body

    def _send(self, messages: tuple[Message, ...], flags: int) -> None:
        packed = [self._pack(each, flags, at) for at, each in enumerate(messages)]
        self._socket.send(b"".join(packed))

    def _receive(self) -> list[tuple[int, int, bytes]]:
        """One datagram: kind, sequence number and body of its messages."""
        data = self._socket.recv(_RECEIVE_BYTES)
        found = []
        while len(data) >= 16:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            if length < 16:
                break
            found.append((kind, sequence, data[16:length]))
            data = data[(length + 3) & ~3 :]
        return found

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
