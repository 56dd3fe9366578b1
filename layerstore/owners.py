"""Owners and devices that the kernel does not let us make: recorded beside the inode.

In a user namespace a file can belong only to ids that are mapped, and no device can be made. There
an extended attribute says what the file is meant to be; everything that reads the file for a layer
believes the attribute, and no layer carries it.

    user.lamina.owner   UID:GID                        of a file or a directory
                        UID:GID:KIND:MAJOR:MINOR       an empty file that stands for a device

An attribute goes with its inode: it survives renames, hard links, copying up and the death of
whoever wrote it, and ends with the file. Links, fifos and sockets cannot have attributes of
`user.`, so theirs is the owner they have.

`builder/sandbox/ownerattribute.py` writes the same attribute for programs that change owners.
"""

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from layerstore.changeset import NodeKind

XATTR = "user.lamina.owner"
_ID_MAX = 2**31 - 1
_NUMBER_MAX = 2**32 - 1
_DEVICES: "dict[bytes, NodeKind]" = {b"char": "char", b"block": "block"}


class Device(NamedTuple):
    kind: "NodeKind"
    major: int
    minor: int


class Record(NamedTuple):
    """What a file is meant to be."""

    uid: int
    gid: int
    device: Device | None = None

    def encode(self) -> bytes:
        """The attribute's value."""
        words = [str(self.uid), str(self.gid), *map(str, self.device or ())]
        return ":".join(words).encode()


def decode(value: bytes) -> Record | None:
    """The record; None for what is none: a program may write anything."""
    if len(value) > 64:
        return None
    uid, _, rest = value.partition(b":")
    gid, _, device = rest.partition(b":")
    ids = (_number(uid, _ID_MAX), _number(gid, _ID_MAX))
    if ids[0] is None or ids[1] is None:
        return None
    if not device:
        return Record(ids[0], ids[1])
    word, _, numbers = device.partition(b":")
    major, _, minor = numbers.partition(b":")
    kind, found = _DEVICES.get(word), (_number(major, _NUMBER_MAX), _number(minor, _NUMBER_MAX))
    if kind is None or found[0] is None or found[1] is None or found == (0, 0):
        return None
    return Record(ids[0], ids[1], Device(kind, found[0], found[1]))


def _number(word: bytes, largest: int) -> int | None:
    if not word.isdigit() or len(word) > 10 or int(word) > largest:
        return None
    return int(word)


def read(file: int | str | os.PathLike[str]) -> Record | None:
    """The record of an open file, or of a path whose last part is no link."""
    try:
        return decode(os.getxattr(file, XATTR))
    except OSError:
        return None


def owner_of(file: int | str | os.PathLike[str]) -> tuple[int, int]:
    """Whom a file belongs to, by its record where it has one."""
    record = read(file)
    if record is not None:
        return record.uid, record.gid
    status = os.stat(file)  # noqa: PTH116 - it may be a descriptor
    return status.st_uid, status.st_gid


def give(file: int | str | os.PathLike[str], uid: int, gid: int) -> None:
    """Give a file to somebody; who does not exist here is recorded, where that can be done.

    Raises:
        OSError: neither can be done.
    """
    try:
        os.chown(file, uid, gid)
    except OSError as error:
        if error.errno != errno.EINVAL:  # an id that is not mapped
            raise
        if _can_be_recorded(file):
            os.setxattr(file, XATTR, Record(uid, gid).encode())


def _can_be_recorded(file: int | str | os.PathLike[str]) -> bool:
    mode = os.stat(file).st_mode  # noqa: PTH116 - it may be a descriptor
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
