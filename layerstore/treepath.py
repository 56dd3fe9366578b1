"""TreePath: a checked relative path inside a root file system.

Relative, `/`-separated, no empty, `.` or `..` component; the root itself is the empty path.
Bytes that are not UTF-8 are carried by surrogateescape (`os.fsdecode`), so any Linux name fits.
"""

import os
from typing import NewType

from layerstore.errors import UnsafePathError

TreePath = NewType("TreePath", str)

ROOT = TreePath("")


def parse_tree_path(path: str) -> TreePath:
    """Check `path`, which must already be in normal form.

    Raises:
        UnsafePathError: it is absolute, has an empty, `.` or `..` component, or a NUL byte.
    """
    if not path:
        return ROOT
    if "\0" in path:
        raise UnsafePathError(path=path, reason="contains a NUL byte")
    if path.startswith("/"):
        raise UnsafePathError(path=path, reason="is absolute")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise UnsafePathError(path=path, reason=f"has the component {part!r}")
    return TreePath(path)


def join(parent: TreePath, name: str) -> TreePath:
    """`parent/name`, where `name` is one plain component (not checked)."""
    return TreePath(f"{parent}/{name}" if parent else name)


def parent_of(path: TreePath) -> TreePath:
    """The directory that holds `path`; the root for a top-level path and for the root."""
    return TreePath(path.rpartition("/")[0])


def name_of(path: TreePath) -> str:
    """The last component; empty for the root."""
    return path.rpartition("/")[2]


def sort_key(path: str) -> bytes:
    """Parents before children, siblings in byte order."""
    return os.fsencode(path).replace(b"/", b"\0")
