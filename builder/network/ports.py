"""Published ports: how they are written, and what was made of them. Pure.

    -p [[IP:][HOST[-HOST]]:]CONTAINER[-CONTAINER][/tcp|udp]

Source: docker/go-connections nat (ParsePortSpec), docker/cli formatter (DisplayablePorts).
"""

from collections.abc import Iterable
from typing import NamedTuple

from builder.errors import NetworkError

PROTOCOLS = ("tcp", "udp")
_PORT_MAX = 65535


class Publication(NamedTuple):
    """A port of a container at a port of the host.

    What is asked for may leave `host_ip` empty (all addresses), `host_port` 0 (a free one), or give
    a range of which one is to be taken; what there is says all.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_last: int = 0  # 0: no range

    @property
    def port(self) -> str:
        """`80/tcp`."""
        return f"{self.container_port}/{self.protocol}"

    @property
    def address(self) -> str:
        """`0.0.0.0:8080`."""
        return f"{_bracketed(self.host_ip)}:{self.host_port}"


def parse_publication(text: str) -> tuple[Publication, ...]:
    """What one -p asks for: several where it has a range.

    Raises:
        NetworkError: it is not written like that.
    """
    rest, _, protocol = text.partition("/")
    host_ip, host, container = _split(rest, text)
    first, last = _range(container, text)
    protocol = _protocol(protocol, text)
    if not host:
        return tuple(Publication(port, protocol, host_ip) for port in range(first, last + 1))
    host_first, host_last = _range(host, text)
    if host_last - host_first == last - first:
        return tuple(
            Publication(port, protocol, host_ip, host_first + port - first)
            for port in range(first, last + 1)
        )
    if first != last:
        raise _bad(text, "the ranges of the host and of the container differ in length")
    return (Publication(first, protocol, host_ip, host_first, host_last),)


def parse_exposed(text: str) -> tuple[str, ...]:
    """`80`, `80/udp`, `80-90/tcp` as `80/tcp` and so on.

    Raises:
        NetworkError: it is not written like that.
    """
    ports, _, protocol = text.partition("/")
    first, last = _range(ports, text)
    protocol = _protocol(protocol, text)
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def displayed(published: Iterable[Publication], exposed: Iterable[str]) -> str:
    """The column PORTS of `ps`."""
    published = sorted(published, key=lambda each: (each.container_port, each.protocol))
    shown = [f"{each.address}->{each.port}" for each in published]
    taken = {each.port for each in published}
    others = sorted(set(exposed) - taken, key=lambda port: (int(port.partition("/")[0]), port))
    return ", ".join((*shown, *others))


def _split(rest: str, text: str) -> tuple[str, str, str]:
    """Address, host ports and container ports; the address may be IPv6 in brackets."""
    if rest.startswith("["):
        host_ip, bracket, more = rest[1:].partition("]:")
        if not bracket:
            raise _bad(text, "there is nothing behind the address")
        parts = [host_ip, *more.split(":")]
    else:
        parts = rest.split(":")
    if len(parts) > 3:
        raise _bad(text, "an IPv6 address stands in brackets")
    container = parts[-1]
    host = parts[-2] if len(parts) > 1 else ""
    host_ip = parts[0] if len(parts) == 3 else ""
    if rest.startswith("[") and len(parts) == 2:
        host_ip, host = parts[0], ""
    if host_ip and not _is_address(host_ip):
        raise _bad(text, f"{host_ip!r} is no IP address")
    return host_ip, host, container


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = [_port(first, whole), _port(last, whole) if dash else 0]
    if dash and numbers[1] < numbers[0]:
        raise _bad(whole, f"the range {text} is empty")
    return numbers[0], numbers[1] or numbers[0]


def _port(text: str, whole: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 1 <= number <= _PORT_MAX:
        raise _bad(whole, f"{text!r} is no port")
    return number


def _protocol(text: str, whole: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise _bad(whole, f"{text!r} is no protocol", "there are tcp and udp")
    return protocol


def _is_address(text: str) -> bool:
    import _socket

    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        _socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _bad(text: str, problem: str, hint: str = "") -> NetworkError:
    return NetworkError(
        f"invalid port {text!r}: {problem}",
        hint=hint or "write [[IP:]HOST:]CONTAINER[/tcp|udp], as 127.0.0.1:8080:80",
    )
