"""Snapshots: a writable view over a stack of layers, before its changes are committed.

    lowerdirs   one directory per layer, topmost first (the only place where the order is reversed
                is LayerStore.lowerdirs)
    upperdir    what the step changes; after the commit it is renamed to be that layer's directory
    workdir     overlayfs's own; removed with the rest, whatever mode it was left in

The overlay is mounted inside the sandbox, never here, so a killed build leaves no mount.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.sandbox import OverlayRoot, in_user_namespace
from layerstore import Change, Layer, Store, overlay_changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Valid inside the `with` that opened it."""

    root: OverlayRoot
    upperdir: Path

    def changes(self) -> Iterator[Change]:
        """What the step did. The upper directory must still be there while this is read."""
        return overlay_changes(self.upperdir, userxattr=in_user_namespace())


@contextmanager
def open_snapshot(layers: tuple[Layer, ...], store: Store) -> Iterator[Snapshot]:
    """Open a writable view over `layers` (bottom first); missing layer directories are unpacked."""
    lowerdirs = store.layers.lowerdirs(layers)
    with store.new_tmpdir() as directory:
        upperdir, workdir = directory / "upper", directory / "work"
        upperdir.mkdir()
        workdir.mkdir()
        _take_root_attributes(lowerdirs[0], upperdir)
        yield Snapshot(
            root=OverlayRoot(lowerdirs=lowerdirs, upperdir=upperdir, workdir=workdir),
            upperdir=upperdir,
        )


def _take_root_attributes(lower: Path, upper: Path) -> None:
    """The merged root shows the upper directory's attributes: make them the image's."""
    status = lower.stat()
    os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))
