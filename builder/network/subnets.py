"""Addresses as numbers: reading subnets, comparing them, choosing one that nobody uses. Pure.

The standard library's ipaddress costs a tenth of the start of a container; this is all that is
needed of it.
"""

import _socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from builder.errors import NetworkError

# Tried in this order, of the ranges for private use (RFC 1918). Those in which other tools begin
# (172.17., 10.88., 192.168.0.) come late or not at all.
_RANGES = (("10.117.0.0", 16, 22), ("172.28.0.0", 14, 22), ("192.168.64.0", 18, 24))
_PREFIX6 = 64


class Subnet(NamedTuple):
    """`first` is the address with all host bits 0; `bits` are 32 or 128."""

    first: int
    prefix: int
    bits: int

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (self.bits - self.prefix)

    def contains(self, address: str) -> bool:
        """Whether an address is in it."""
        number, bits = parse_address(address)
        return bits == self.bits and self.first <= number < self.first + self.size

    def overlaps(self, other: "Subnet") -> bool:
        """Whether they have an address in common."""
        shared = min(self.prefix, other.prefix)
        shift = self.bits - shared
        return self.bits == other.bits and self.first >> shift == other.first >> shift

    def address(self, host: int) -> str:
        """The address with this number in it."""
        return address_text(self.first + host, self.bits)

    def number_of(self, address: str) -> int:
        """The reverse of `address`."""
        return parse_address(address)[0] - self.first

    def __str__(self) -> str:
        return f"{self.address(0)}/{self.prefix}"


def parse_address(text: str) -> tuple[int, int]:
    """An address as number, and its bits.

    Raises:
        NetworkError: it is none.
    """
    family, bits = (_socket.AF_INET6, 128) if ":" in text else (_socket.AF_INET, 32)
    try:
        return int.from_bytes(_socket.inet_pton(family, text)), bits
    except (OSError, ValueError):
        raise NetworkError(f"{text!r} is no IP address") from None


def address_text(number: int, bits: int) -> str:
    """The reverse of `parse_address`."""
    family = _socket.AF_INET if bits == 32 else _socket.AF_INET6
    return _socket.inet_ntop(family, number.to_bytes(bits // 8))


def parse_subnet(text: str) -> Subnet:
    """`10.1.0.0/16`; bits behind the prefix are ignored, as docker does.

    Raises:
        NetworkError: it is no subnet, or one without room for a gateway and a container.
    """
    address, slash, prefix = text.partition("/")
    if not slash or not (prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3):
        raise NetworkError(f"{text!r} is no subnet", hint="write 10.20.0.0/16, or fd01::/64")
    number, bits = parse_address(address)
    if not 1 <= int(prefix) <= bits - 2:
        raise NetworkError(
            f"the subnet {text} is too small or too large", hint=f"/1 to /{bits - 2} will do"
        )
    shift = bits - int(prefix)
    return Subnet(number >> shift << shift, int(prefix), bits)


def free_subnet(taken: Iterable[Subnet]) -> Subnet:
    """An IPv4 subnet for private use that overlaps none of `taken`.

    Raises:
        NetworkError: there is none left.
    """
    taken = list(taken)
    for candidate in _candidates():
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise NetworkError("there is no free range of private addresses", hint="choose one by --subnet")


def first_choice() -> Subnet:
    """What the default network has, unless the host uses it: others should not."""
    return next(_candidates())


def unique_local_subnet(random: bytes) -> Subnet:
    """An IPv6 subnet out of 7 random bytes, RFC 4193: 40 bits of global and 16 of subnet ID."""
    assert len(random) == 7, "the prefix is one byte, and it makes 64 bits"
    return Subnet(int.from_bytes(b"\xfd" + random + bytes(8)), _PREFIX6, 128)


def _candidates() -> Iterator[Subnet]:
    for first, prefix, each in _RANGES:
        start, bits = parse_address(first)
        for at in range(start, start + (1 << (bits - prefix)), 1 << (bits - each)):
            yield Subnet(at, each, bits)
