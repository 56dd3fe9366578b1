"""Volumes: directories that outlive containers, `volumes/NAME/_data` as in docker.

A volume that is empty when it is mounted gets what the image has at that place, owners and modes
included (docker's "copy-up"). A new one appears with its content by rename, so that a killed run
leaves none half filled.

Anonymous volumes have 64 hex digits for a name, and go with their container.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ContainerError
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.names import is_name

if TYPE_CHECKING:
    from layerstore import Change, Layer, Store, TreeIndex


def check(mount: MountPoint) -> None:
    """Refuse a name that could not be a directory's.

    Raises:
        ContainerError: it is none.
    """
    if mount.kind == "volume" and mount.source and not is_name(mount.source):
        raise ContainerError(
            f"invalid volume name {mount.source!r}",
            hint="letters, digits, `_`, `.` and `-`; a host path begins with `/` or `./`",
        )


def data_path(private: Path, name: str) -> Path:
    """What is mounted."""
    return private / "volumes" / name / "_data"


def names(private: Path) -> list[str]:
    """The names of all volumes."""
    try:
        return sorted(os.listdir(private / "volumes"))  # noqa: PTH208 - names are all
    except FileNotFoundError:
        return []


def named(mount: MountPoint) -> MountPoint:
    """The same mount with a name, new if it has none."""
    if mount.kind != "volume" or mount.source:
        return mount
    return mount._replace(source=os.urandom(32).hex(), anonymous=True)


def prepare(store: "Store", record: ContainerRecord) -> None:
    """Make the volumes of a container that are not there, and fill those that are empty."""
    layers: tuple[Layer, ...] | None = None
    tree: TreeIndex | None = None
    for mount in record.mounts:
        if mount.kind != "volume":
            continue
        path = data_path(store.private, mount.source)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and (not mount.copy_up or any(path.iterdir())):
            continue
        if layers is None or tree is None:
            from layerstore import Digest

            layers = tuple(store.layers.get(Digest.parse(x)) for x in record.layers)
            tree = store.layers.tree(layers)
        changes = list(_beneath(tree, layers, mount.target, store)) if mount.copy_up else []
        _fill(path, changes)


def needs_store(private: Path, record: ContainerRecord) -> bool:
    """Whether `prepare` has something to do."""
    for mount in record.mounts:
        if mount.kind != "volume":
            continue
        path = data_path(private, mount.source)
        if not path.exists() or (mount.copy_up and not any(path.iterdir())):
            return True
    return False


def remove(private: Path, name: str) -> None:
    """Remove a volume with all that is in it; nothing happens if there is none."""
    from layerstore import remove_tree

    path = private / "volumes" / name
    if name and path.exists():
        remove_tree(path)


def _beneath(
    tree: "TreeIndex", layers: "tuple[Layer, ...]", target: str, store: "Store"
) -> "Iterator[Change]":
    """What the image has at `target`, as changes to an empty directory."""
    from layerstore import PutDir, PutFile, PutHardlink, PutNode, PutSymlink, TreePath

    top = tree.resolve(target)
    first: dict[tuple[int | None, str], TreePath] = {}
    start = tree.get(top)
    if start is None or start.entry.kind != "dir":
        return
    for node in tree.walk(top):
        entry = node.entry
        path = TreePath(entry.path[len(top) :].lstrip("/"))
        match entry.kind:
            case "dir":
                yield PutDir(path, entry.meta)
            case "file":
                shared = first.setdefault((node.layer, entry.target or entry.path), path)
                if shared != path:
                    yield PutHardlink(path, shared)
                    continue
                content = store.layers.read_file(layers, node)
                yield PutFile(path, entry.meta, entry.size_bytes, content)
            case "symlink":
                yield PutSymlink(path, entry.meta, entry.target)
            case "char" | "block" | "fifo":
                yield PutNode(path, entry.meta, entry.kind, entry.major, entry.minor)
            case _:  # removals and markers are no part of a merged tree
                continue


def _fill(path: Path, changes: "list[Change]") -> None:
    from layerstore import left_over, remove_tree, temporary_beside, write_overlay

    if path.exists():
        write_overlay(changes, path)
        return
    temporary = temporary_beside(path)
    for dead in (*left_over(path.parent), temporary):
        if dead.exists():
            remove_tree(dead)
    temporary.mkdir(0o755)
    try:
        write_overlay(changes, temporary)
        temporary.rename(path)
    except OSError:
        if not path.exists():  # else another run was first
            raise
    finally:
        if temporary.exists():
            remove_tree(temporary)
