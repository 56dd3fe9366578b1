"""Who has which address of a network: a file for each, locked by its holder.

The lock is flock(2)'s, so the kernel frees an address however its holder ends, and nothing has to
be swept. The files stay; they are empty, and in /run. Addresses are handed out in turn, so that one
that was just freed is not given to somebody else while the kernel still takes the old device away.
"""

import fcntl
import os
from pathlib import Path

from builder.errors import NetworkError
from builder.network.subnets import Subnet

_LAST = "last"


class Lease:
    """An address that is ours until `release`, or until this process ends."""

    def __init__(self, address: str, fd: int) -> None:
        self.address = address
        self._fd = fd

    def release(self) -> None:
        """Give it back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def take(directory: Path, subnet: Subnet, *, gateway: str) -> Lease:
    """The next free address of a subnet. The directory is made where it is missing.

    Raises:
        NetworkError: all are taken.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    last = _read_last(directory)
    hosts = subnet.size - 2  # without the first, which is the network, and the last, broadcast
    for step in range(hosts):
        host = (last + step) % hosts + 1
        address = subnet.address(host)
        if address == gateway:
            continue
        lease = _lock(directory, address)
        if lease is not None:
            (directory / _LAST).write_text(str(host))
            return lease
    raise NetworkError(
        f"every address of {subnet} is taken", hint="remove containers, or use another network"
    )


def take_this(directory: Path, subnet: Subnet, *, gateway: str, address: str) -> Lease:
    """An address that somebody asked for.

    Raises:
        NetworkError: it is taken, or not to be had there.
    """
    if not subnet.contains(address) or subnet.number_of(address) in (0, subnet.size - 1):
        raise NetworkError(f"the address {address} is none of the subnet {subnet}")
    directory.mkdir(mode=0o700, exist_ok=True)
    lease = None if address == gateway else _lock(directory, address)
    if lease is None:
        raise NetworkError(f"the address {address} is in use")
    return lease


def _lock(directory: Path, address: str) -> Lease | None:
    fd = os.open(directory / address, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return Lease(address, fd)


def _read_last(directory: Path) -> int:
    try:
        return int((directory / _LAST).read_text())
    except (FileNotFoundError, ValueError):  # the first, or somebody is writing it
        return 1
