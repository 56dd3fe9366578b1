"""Directories that list their entries in another order than they did the first time.

A file system lists in an order of its own: ext4 by a hash of the names, tmpfs by age. Nobody can
ask for another one, but two things change it:

    what a step makes        its upper directory lies in memory (tmpfs) instead of on the disk
    what was there before    below all layers lies one more, whose names are those of the merged
                             tree, in the reverse order. overlayfs lists the names of the lowest
                             layer first, as that one does, and shows everything else of them from
                             the layers above.

The link count of a directory is 1 then, as of every merged one. The file system goes with its
directory, and nobody but the sandboxes of one fork server sees it.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.sandbox import ForkServer, OverlayRoot
from builder.snapshot import Snapshot, take_root_attributes
from layerstore import Change, Layer, Store, TreeIndex

_MEMINFO = Path("/proc/meminfo")
_LEAST_BYTES = 64 << 10
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class _InMemory(Snapshot):
    """Says so when the memory was used up: a program may have gone on without what it wrote."""

    __slots__ = ()

    def changes(self) -> Iterator[Change]:
        """As of any snapshot.

        Raises:
            OSError: the program has filled the memory.
        """
        status = os.statvfs(self.upperdir)
        if status.f_bavail * status.f_frsize < _LEAST_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Snapshot.changes(self)


@contextmanager
def open_disordered(
    layers: tuple[Layer, ...], store: Store, server: ForkServer
) -> Iterator[Snapshot]:
    """Open a writable view over `layers` (bottom first) that lists in another order.

    Raises:
        OSError, SandboxError: there is not enough memory, or no such file system.
    """
    lowerdirs = store.layers.lowerdirs(layers)
    with (
        store.new_tmpdir() as directory,
        server.mount_memory(directory, free_bytes() // 2) as memory,
    ):
        for name in ("names", "upper", "work"):
            (memory / name).mkdir(mode=0o755)
        copy_names(store.layers.tree(layers), lowerdirs, memory / "names")
        take_root_attributes(lowerdirs[0], memory / "upper")
        yield _InMemory(
            root=OverlayRoot(
                lowerdirs=(*lowerdirs, directory / "names"),
                upperdir=directory / "upper",
                workdir=directory / "work",
            ),
            upperdir=memory / "upper",
        )


def free_bytes() -> int:
    """The memory that programs can have without anybody's being swapped out."""
    for line in _MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def copy_names(tree: TreeIndex, lowerdirs: Sequence[Path], target: Path) -> None:
    """Make the names of `tree` in `target`, each directory's in the reverse of its order.

    Args:
        lowerdirs: whose overlay shows `tree`, topmost first.
        target: an empty directory of a file system that lists by age.
    """
    empty = target.with_name(f"{target.name}.empty")  # a link to it is cheaper than a file
    empty.touch()
    newest_first = _lists_newest_first(target)
    for node in tree.walk():
        path = node.entry.path
        if node.entry.kind != "dir":
            continue
        names = listed(tree, lowerdirs, path)
        for name in names if newest_first else reversed(names):
            child = f"{path}/{name}" if path else name
            below = tree.get(child)
            assert below is not None, "the tree has it"
            try:
                if below.entry.kind == "dir":
                    (target / child).mkdir(mode=0o755)
                else:
                    os.link(empty, target / child)
            except OSError as error:
                if error.errno not in _GONE:
                    raise  # else a path beyond PATH_MAX: it keeps its order


def listed(tree: TreeIndex, lowerdirs: Sequence[Path], path: str) -> list[str]:
    """The names in a directory of the merged tree, in the order in which overlayfs lists them."""
    found: dict[str, None] = {}
    for lower in reversed(lowerdirs):
        try:
            found.update(dict.fromkeys(os.listdir(lower / path)))  # noqa: PTH208 - no paths wanted
        except OSError as error:
            if error.errno not in _GONE:
                raise
    children = tree.children(path)
    visible = set(children)
    return [*(name for name in found if name in visible), *(c for c in children if c not in found)]


def _lists_newest_first(directory: Path) -> bool:
    for name in ("1", "2"):
        (directory / name).mkdir()
    first = os.listdir(directory)[0]  # noqa: PTH208 - no paths wanted
    for name in ("1", "2"):
        (directory / name).rmdir()
    return first == "2"
