"""Snapshots: a writable view over a stack of layers, before its changes are committed.

    lowerdirs   one directory per layer, topmost first (the only place where the order is reversed
                is LayerStore.lowerdirs)
    upperdir    what the step changes; after the commit it is renamed to be that layer's directory
    workdir     overlayfs's own; removed with the rest, whatever mode it was left in

The overlay is mounted inside the sandbox, never here, so a killed build leaves no mount.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.sandbox import OverlayRoot, in_user_namespace
from layerstore import Change, Layer, Store, TreePath, give_file, overlay_changes, owner_of

_USUAL_ROOT = (0o755, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Valid inside the `with` that opened it. `upperdir` is that of `root` as seen from here."""

    root: OverlayRoot
    upperdir: Path

    def changes(self) -> Iterator[Change]:
        """What the step did. The upper directory must still be there while this is read."""
        roots = {_attributes(self.upperdir), _attributes(self.root.lowerdirs[0])}
        return overlay_changes(
            self.upperdir,
            userxattr=in_user_namespace(),
            # a root that is not the usual one stands in every layer: the topmost one is shown
            with_root=roots != {_USUAL_ROOT},
            has_lower_dir=self._has_lower_dir,
        )

    def _has_lower_dir(self, path: TreePath) -> bool:
        """Whether a layer below has a directory there; where that is not clear, yes."""
        for lower in self.root.lowerdirs:
            try:
                if stat.S_ISDIR((lower / path).lstat().st_mode):
                    return True
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return True
        return False


@contextmanager
def open_snapshot(layers: tuple[Layer, ...], store: Store) -> Iterator[Snapshot]:
    """Open a writable view over `layers` (bottom first); missing layer directories are unpacked."""
    lowerdirs = store.layers.lowerdirs(layers)
    with store.new_tmpdir() as directory:
        upperdir, workdir = directory / "upper", directory / "work"
        upperdir.mkdir()
        workdir.mkdir()
        take_root_attributes(lowerdirs[0], upperdir)
        yield Snapshot(
            root=OverlayRoot(lowerdirs=lowerdirs, upperdir=upperdir, workdir=workdir),
            upperdir=upperdir,
        )


def _attributes(directory: Path) -> tuple[int, int, int]:
    return stat.S_IMODE(directory.stat().st_mode), *owner_of(directory)


def take_root_attributes(lower: Path, upper: Path) -> None:
    """The merged root shows the upper directory's attributes: make them the image's."""
    status = lower.stat()
    give_file(upper, *owner_of(lower))
    upper.chmod(status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))
