"""What can be laid over what.

Source: linux/magic.h; Documentation/filesystems/overlayfs.rst ("Upper and Lower").
"""

import os
from pathlib import Path

from builder.sandbox import syscalls

# Those that overlayfs takes no upper directory on: itself, which is what a container's root is on,
# and file systems of other machines.
_NO_UPPER = {
    0x794C7630: "overlayfs",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x01021997: "9p",
    0x4D44: "vfat",
}


def why_no_overlay(directory: Path) -> str:
    """The file system that `directory` is on, if nothing there can be an upper directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _NO_UPPER.get(syscalls.filesystem_type(fd) & 0xFFFFFFFF, "")
    finally:
        os.close(fd)
