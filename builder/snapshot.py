"""Snapshots: a writable view over a stack of layers, before its changes are committed.

    lowerdirs   one directory per layer, topmost first (the only place where the order is reversed
                is LayerStore.lowerdirs)
    upperdir    what the step changes; after the commit it is renamed to be that layer's directory
    workdir     overlayfs's own; removed with the rest, whatever mode it was left in

Where the store is on a file system that carries no overlay (that of a container, or of another
machine), the layers are copied twice, and what the step did to one copy is found by comparing it
with the other: slower, the same result.

The overlay is mounted inside the sandbox, never here, so a killed build leaves no mount.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.sandbox import OverlayRoot, PlainRoot, in_user_namespace, why_no_overlay
from layerstore import (
    Change,
    Layer,
    Store,
    TreePath,
    give_file,
    merged_changes,
    overlay_changes,
    owner_of,
    tree_changes,
    write_overlay,
)

_USUAL_ROOT = (0o755, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Valid inside the `with` that opened it. `upperdir` is that of `root` as seen from here."""

    root: OverlayRoot
    upperdir: Path

    @property
    def directory(self) -> Path:
        """Where the step writes. It becomes the directory of its layer."""
        return self.upperdir

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedSnapshot:
    """The same without overlayfs: two copies, of which the step changes one."""

    root: PlainRoot
    before: Path

    @property
    def directory(self) -> Path:
        """Where the step writes. It is no layer's directory."""
        return self.root.path

    def changes(self) -> Iterator[Change]:
        """What the step did. Both copies must still be there while this is read."""
        return tree_changes(
            self.before, self.root.path, with_root=True, recorded=in_user_namespace()
        )


def open_root(
    layers: tuple[Layer, ...], store: Store
) -> AbstractContextManager[Snapshot | CopiedSnapshot]:
    """Open a writable view over `layers` (bottom first), of the kind that the store allows."""
    return (open_copies if why_no_overlay(store.private) else open_snapshot)(layers, store)


@contextmanager
def open_copies(layers: tuple[Layer, ...], store: Store) -> Iterator[CopiedSnapshot]:
    """Open a writable copy of `layers` (bottom first)."""
    with store.new_tmpdir() as directory:
        before, after = directory / "before", directory / "after"
        for copy in (before, after):
            copy_layers(layers, store, copy)
        yield CopiedSnapshot(root=PlainRoot(path=after), before=before)


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


def copy_layers(layers: tuple[Layer, ...], store: Store, directory: Path) -> None:
    """Make what a container of `layers` sees in `directory`, which is not there yet, or empty."""
    directory.mkdir(mode=0o755, exist_ok=True)
    changes = merged_changes(store.layers, layers)
    write_overlay(changes, directory, userxattr=in_user_namespace())


def _attributes(directory: Path) -> tuple[int, int, int]:
    return stat.S_IMODE(directory.stat().st_mode), *owner_of(directory)


def take_root_attributes(lower: Path, upper: Path) -> None:
    """The merged root shows the upper directory's attributes: make them the image's."""
    status = lower.stat()
    give_file(upper, *owner_of(lower))
    upper.chmod(status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))
