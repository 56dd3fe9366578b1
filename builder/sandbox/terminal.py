"""A terminal for a sandbox: a pair from its own devpts, and its size.

Numbers of the ioctls: asm-generic/ioctls.h, the same on x86_64 and aarch64.
"""

import os
import struct

from builder.sandbox import syscalls
from builder.sandbox.errors import SandboxError
from builder.sandbox.resolve import open_in_root

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_DEVPTS_MAGIC = 0x1CD1
_OPEN = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def open_pair(root_fd: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """Open a new terminal of the devpts in the root. Returns its master and its other side.

    The other side is taken from the master, not by name: what stands at a name in /dev is for the
    programs inside to decide (CVE-2025-52565).
    """
    master_fd = open_in_root(root_fd, "/dev/pts/ptmx", _OPEN)
    if syscalls.filesystem_type(master_fd) != _DEVPTS_MAGIC:
        raise SandboxError(phase="open a terminal", message="/dev/pts of the root is no devpts")
    syscalls.ioctl_bytes(master_fd, _TIOCSPTLCK, bytes(4))
    peer_fd = syscalls.ioctl(master_fd, _TIOCGPTPEER, _OPEN)
    if size:
        set_terminal_size(master_fd, *size)
    return master_fd, peer_fd


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal how large it is; its foreground programs get SIGWINCH."""
    syscalls.ioctl_bytes(fd, _TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))


def take_control(fd: int) -> None:
    """Make the terminal the controlling one of this process, a session leader."""
    syscalls.ioctl(fd, _TIOCSCTTY, 0)
