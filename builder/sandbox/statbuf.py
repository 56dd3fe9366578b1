"""The kernel's stat structures, for answering in its place. Pure.

Source: asm/stat.h of x86_64, asm-generic/stat.h (aarch64), linux/stat.h (statx).
"""

import os
import stat
import struct

from builder.sandbox import syscalls
from builder.sandbox.ownerattribute import Owned

STATX_BYTES = 256
_X86_64 = struct.Struct("=QQQIII4xQqqqqQqQqQ24x")
_GENERIC = struct.Struct("=QQIIIIQ8xqi4xqqQqQqQ8x")
_STATX_OWNER_AT, _STATX_MODE_AT, _STATX_DEVICE_AT = 20, 28, 128
_SECOND = 1_000_000_000


def pack(status: os.stat_result, owned: Owned, machine: str = syscalls.MACHINE) -> bytes:
    """`struct stat` of a file with another owner than it has."""
    mode, device = status.st_mode, status.st_rdev
    if owned.device is not None:
        kind, major, minor = owned.device
        mode, device = stat.S_IMODE(mode) | kind, os.makedev(major, minor)
    times = [
        part
        for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        for part in divmod(ns, _SECOND)
    ]
    sizes = (status.st_size, status.st_blksize, status.st_blocks)
    place = (status.st_dev, status.st_ino)
    if machine == "x86_64":
        owner = (status.st_nlink, mode, owned.uid, owned.gid)
        return _X86_64.pack(*place, *owner, device, *sizes, *times)
    owner = (mode, status.st_nlink, owned.uid, owned.gid)
    return _GENERIC.pack(*place, *owner, device, *sizes, *times)


def patch_statx(buffer: bytearray, owned: Owned) -> None:
    """Put another owner into a `struct statx`."""
    struct.pack_into("=II", buffer, _STATX_OWNER_AT, owned.uid, owned.gid)
    if owned.device is not None:
        kind, major, minor = owned.device
        (mode,) = struct.unpack_from("=H", buffer, _STATX_MODE_AT)
        struct.pack_into("=H", buffer, _STATX_MODE_AT, stat.S_IMODE(mode) | kind)
        struct.pack_into("=II", buffer, _STATX_DEVICE_AT, major, minor)
