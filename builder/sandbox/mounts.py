"""The file systems of a sandbox, as a list of operations: planned, described, performed.

Everything happens in the sandbox's own mount namespace before its root is entered, while the host's
/proc still names our descriptors: a target is opened first (inside the new root, where links and
`..` of an image lead nowhere else), and the mount goes onto /proc/self/fd/N of what was opened.

    attach point   a host directory (workdir, or the plain root itself) that the new root covers;
                   the pivot takes it away together with the rest of the host
    generated      a private tmpfs below the root at the same place; files of it are bound to where
                   they are wanted, and nothing of it can be reached by another name
    stubs          mount targets that the root lacks. An overlay gets them as its topmost lower
                   layer, so that the upper directory, which becomes the next layer, never sees
                   them; directories on the way there repeat the attributes of the merged ones.
                   A plain root gets real ones, which are taken away again after the program.

Rules:
  1. /proc, /sys and /dev must be real directories of the root, or missing.
  2. No mount but single device files lets devices be opened: what an image or a program makes with
     mknod stays without effect. The host's device files are bound read-only, so that their mode
     and owner cannot be changed (reading and writing a device needs no writable mount).
  3. Masks and read-only views go onto descriptors below the mount made here, checked by file system
     type; nothing of the image can be in their place.
  4. Mounts asked for by name may lie anywhere but inside /proc and /sys.

Sources: OCI runtime-spec config-linux.md "Default Filesystems"; moby oci/defaults.go (masked and
read-only paths); Documentation/filesystems/overlayfs.rst.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.sandbox import syscalls as sys
from builder.sandbox.errors import SandboxError, UnsupportedHostError
from builder.sandbox.resolve import Place, locate, make_directories, open_beneath, open_in_root
from builder.sandbox.spec import (
    BindMount,
    FileMount,
    Mount,
    OverlayRoot,
    PlainRoot,
    Root,
    SandboxSpec,
    TmpfsMount,
)

_NO_DEVICES = sys.MS_NOSUID | sys.MS_NODEV
_NOTHING = _NO_DEVICES | sys.MS_NOEXEC
_DEVICE_ATTRIBUTES = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC
_OPTIONS_MAX_BYTES = 4000  # mount(2) copies one page

# linux/magic.h
_MAGIC = {"proc": 0x9FA0, "sysfs": 0x62656572, "tmpfs": 0x01021994}
CGROUP2_MAGIC = 0x63677270

MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the plan has to know about where it will be carried out."""

    user_namespace: bool = False  # not the initial one
    unified_cgroups: bool = True
    has_tty_group: bool = True  # gid 5 exists in the user namespace
    cgroup_controllers: tuple[str, ...] = ()  # v1 hierarchies the sandbox has a group of its own in
    thermal_throttle: tuple[str, ...] = ()  # /sys/devices/system/cpu/cpuN/thermal_throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach:
    """Stop mounts from being seen by, or coming from, other namespaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Make the private tmpfs of generated files at the attach point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRoot:
    root: Root
    targets: tuple[tuple[str, Literal["dir", "file"]], ...]
    userxattr: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem:
    """A new file system on a directory that is ours: `target` starts with /proc, /sys or /dev."""

    kind: str
    target: str
    flags: int
    options: str = ""
    make: bool = False  # the directory is made first (in our /dev)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindSys:
    """The host's /sys, read-only, where a new one cannot be mounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDevice:
    name: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeLink:
    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeReadOnly:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place_:
    """A mount of the specification."""

    mount: Mount


MountOp = (
    Detach
    | Generate
    | MountRoot
    | MountFilesystem
    | BindSys
    | BindDevice
    | MakeLink
    | Mask
    | MakeReadOnly
    | Place_
)
