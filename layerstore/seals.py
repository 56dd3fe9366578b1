"""Seals: whether a checkout is still as it was made, by what the kernel says of its inodes.

A checkout is used as it lies there, by overlayfs, and reading all of it at each start would cost
more than the start. So what cannot be set back by whoever changes a file (its change time) is
summed up when the checkout is made, together with inodes, sizes and modes, and kept as an attribute
of its topmost directory, which no container sees. Afterwards a walk tells whether anything was
touched; what was is compared with its layer byte by byte, and made again if it differs (layers.py).

A walk takes some microseconds an entry. Small checkouts are looked at whenever they are used, large
ones once in a while. A disk that changes bytes without a write is not noticed here but by fsck.
"""

import os
import time
import zlib
from pathlib import Path

_NAME = "user.lamina.seal"
_SEEN = "user.lamina.seen"
_SMALL = 500  # entries
_LOOK_AGAIN_S = 3600
_MASK = (1 << 64) - 1


def seal(directory: Path) -> None:
    """Note how `directory` is now. Where there are no attributes, nothing is noted."""
    try:
        os.setxattr(directory, _NAME, _sum(directory))
        os.setxattr(directory, _SEEN, b"%d" % time.time())
    except OSError:  # no attributes here, no room, or a name beyond PATH_MAX: fsck still looks
        pass


def is_as_sealed(directory: str | Path, *, entries_max: int = 0) -> bool:
    """Whether nothing was touched since; True, too, where nothing was noted.

    Args:
        entries_max: larger ones are not looked at now; 0: as is due.
    """
    try:
        noted = os.getxattr(directory, _NAME)
        count = int(noted.partition(b":")[0])
        if entries_max and count > entries_max:
            return True
        if count > _SMALL and not entries_max:
            if 0 <= time.time() - int(os.getxattr(directory, _SEEN)) < _LOOK_AGAIN_S:
                return True
            os.setxattr(directory, _SEEN, b"%d" % time.time())
    except (OSError, ValueError):
        return True
    try:
        return _sum(directory) == noted
    except OSError:
        return False


def _sum(directory: str | Path) -> bytes:
    """The number of entries and a sum over all of them, in any order; without the directory itself.

    The hash of numbers is the same in every process, that of texts is not.
    """
    count = total = 0
    pending = [os.fspath(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                count += 1
                facts = (status.st_ino, status.st_size, status.st_mode, status.st_ctime_ns)
                total += hash(facts) ^ zlib.crc32(os.fsencode(entry.name))
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return b"%d:%x" % (count, total & _MASK)
