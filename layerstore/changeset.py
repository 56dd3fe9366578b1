"""A changeset as a value: what one step did to a root file system.

A changeset has exactly three forms, and this is the first:
    value      an iterable of `Change`             this file
    directory  an overlayfs upper directory        overlaydir.py
    tar        an OCI layer                        tarcodec.py

Rules, for producers and consumers alike:
  - At most one Put or Remove per path (an `Opaque` may stand beside the PutDir of its directory).
  - A Put of another type over an existing path replaces it, with everything beneath.
  - PutHardlink names a PutFile (or PutNode) of the same changeset by its path.
  - `mtime_ns` may carry nanoseconds; a layer keeps whole seconds.

Spec: OCI image-spec v1.1, layer.md ("Change Types", "File Attributes", "Whiteouts").
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from layerstore.treepath import TreePath

# The bytes of a file: as a value when small, else a function that yields them from the start.
# The sum of the pieces must be exactly `size_bytes`.
Content = bytes | Callable[[], Iterable[bytes]]

NodeKind = Literal["char", "block", "fifo"]


@dataclass(frozen=True, slots=True)
class Meta:
    """What every inode has. `mode` is the twelve permission bits; xattrs are sorted by name."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class PutFile:
    path: TreePath
    meta: Meta
    size_bytes: int
    content: Content


@dataclass(frozen=True, slots=True)
class PutDir:
    """Create the directory, or set the attributes of the one that is there; never empties it."""

    path: TreePath
    meta: Meta


@dataclass(frozen=True, slots=True)
class PutSymlink:
    path: TreePath
    meta: Meta
    target: str


@dataclass(frozen=True, slots=True)
class PutHardlink:
    path: TreePath
    target: TreePath


@dataclass(frozen=True, slots=True)
class PutNode:
    path: TreePath
    meta: Meta
    kind: NodeKind
    major: int = 0
    minor: int = 0


@dataclass(frozen=True, slots=True)
class Remove:
    path: TreePath


@dataclass(frozen=True, slots=True)
class Opaque:
    """Hide everything that lower layers have beneath this directory."""

    path: TreePath


Change = PutFile | PutDir | PutSymlink | PutHardlink | PutNode | Remove | Opaque
