"""The attribute that says who owns a file whose owner does not exist here, or that it is a device.

Reads and writes that attribute of the file it is given, and touches nothing else.
`layerstore/owners.py` reads the same.
"""

import errno
import os
import stat
from typing import NamedTuple

OWNER_XATTR = "user.lamina.owner"
ID_MAX = 2**31 - 1
DEVICES = {b"char": stat.S_IFCHR, b"block": stat.S_IFBLK}
_WORDS = {kind: word for word, kind in DEVICES.items()}


class Owned(NamedTuple):
    """What a file is said to be. `device` is (S_IFCHR or S_IFBLK, major, minor)."""

    uid: int
    gid: int
    device: tuple[int, int, int] | None = None


def recorded(file: bytes | int, *, follow: bool = True) -> Owned | None:
    """What is recorded of a file; None where nothing is, or nothing that makes sense."""
    try:
        value = os.getxattr(file, OWNER_XATTR, follow_symlinks=follow)
    except OSError:
        return None
    return decode(value)


def decode(value: bytes) -> Owned | None:
    """The attribute's value. A program may have written anything."""
    words = value.split(b":")
    kind = DEVICES.get(words[2]) if len(words) == 5 else None
    numbers = words[:2] if kind is None else [*words[:2], *words[3:]]
    if len(words) not in (2, 5) or (len(words) == 5 and kind is None):
        return None
    if not all(word.isdigit() and len(word) <= 10 for word in numbers):
        return None
    ids = [int(word) for word in numbers]
    if max(ids[:2]) > ID_MAX or max(ids) > 0xFFFFFFFF:
        return None
    return Owned(ids[0], ids[1], None if kind is None else (kind, ids[2], ids[3]))


def encode(owned: Owned) -> bytes:
    """The reverse of `decode`."""
    text = b"%d:%d" % (owned.uid, owned.gid)
    if owned.device is None:
        return text
    kind, major, minor = owned.device
    return text + b":%b:%d:%d" % (_WORDS[kind], major, minor)


def record(fd: int, owned: Owned, real: tuple[int, int]) -> None:
    """Write it down, or remove what is not needed any more."""
    try:
        if owned == Owned(*real):
            os.removexattr(fd, OWNER_XATTR)
        else:
            os.setxattr(fd, OWNER_XATTR, encode(owned))
    except OSError as error:
        # nothing was recorded; or a file system that cannot: the owner stays what it is
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
