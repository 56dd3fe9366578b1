"""The root file system of an image, as a tar or as files in a directory.

The directory may have files already. The tree is first made whole in a private directory inside of
it, then moved into place name by name: what fails half-way changes nothing, and no link that lies
in the directory is ever followed. Files that the image has not stay.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore import overlaydir, tarcodec
from layerstore.beside import left_over, naming_full
from layerstore.changeset import Change, PutDir, PutFile, PutHardlink, PutNode, PutSymlink
from layerstore.layers import Layer, in_user_namespace
from layerstore.merge import merged_changes
from layerstore.treepath import ROOT

if TYPE_CHECKING:
    from layerstore.store import Store

_PRIVATE = ".lamina-export-"


def write_rootfs_tar(
    store: "Store",
    layers: Sequence[Layer],
    write: Callable[[bytes], object],
    *,
    mtime_s: int | None = None,
) -> None:
    """Write what a container of `layers` sees. Equal trees give equal bytes.

    Args:
        mtime_s: the modification time of every file (SOURCE_DATE_EPOCH); None keeps their own.
    """
    tarcodec.pack(_tree(store, layers, mtime_s), write)


def write_rootfs(
    store: "Store",
    layers: Sequence[Layer],
    directory: Path,
    *,
    mtime_s: int | None = None,
    chown: bool,
    on_skip: overlaydir.OnSkip | None = None,
) -> None:
    """Write what a container of `layers` sees into `directory`, which is made if it is missing.

    Args:
        mtime_s: as for a tar.
        chown: False leaves every file to the caller.
        on_skip: called for device nodes, which are left out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in left_over(directory, _PRIVATE):
        overlaydir.remove_tree(path)
    private = directory / f"{_PRIVATE}{os.getpid()}"
    private.mkdir(mode=0o700)
    try:
        with naming_full(directory):
            overlaydir.write(
                _without_devices(_tree(store, layers, mtime_s), on_skip),
                private,
                userxattr=in_user_namespace(),
                chown=chown,
            )
        _move_into_place(private, directory, chown=chown)
    finally:
        overlaydir.remove_tree(private)


def _tree(store: "Store", layers: Sequence[Layer], mtime_s: int | None) -> Iterator[Change]:
    changes = (change for change in merged_changes(store.layers, layers) if change.path != ROOT)
    if mtime_s is not None:
        mtime_ns = mtime_s * 1_000_000_000
        changes = (_at(change, mtime_ns) for change in changes)
    return tarcodec.InOrder(changes)


def _without_devices(
    changes: Iterator[Change], on_skip: overlaydir.OnSkip | None
) -> Iterator[Change]:
    """All but device nodes and links to them.

    Differs: docker makes them when root asks. In a directory of the host they open the host's
    disks to whoever the image says.
    """
    left_out: set[str] = set()
    for change in changes:
        is_device = isinstance(change, PutNode) and change.kind != "fifo"
        if is_device or (isinstance(change, PutHardlink) and change.target in left_out):
            left_out.add(change.path)
            if on_skip is not None:
                on_skip(change.path, "a device node, which would open the host's own device")
            continue
        yield change


def _at(change: Change, mtime_ns: int) -> Change:
    if isinstance(change, PutFile | PutDir | PutSymlink | PutNode):
        return replace(change, meta=replace(change.meta, mtime_ns=mtime_ns))
    return change


def _move_into_place(source: Path, target: Path, *, chown: bool) -> None:
    """Move all that is in `source` into `target`. Where both have a directory, they are merged."""
    with _open(source) as from_, _open(target) as to:
        pending = [overlaydir.list_directory(from_.fd)]
        entered: list[os.stat_result] = []
        while pending:
            if pending[-1]:
                name, _ = pending[-1].pop()
                if _is_directory(from_.fd, name) and _is_directory(to.fd, name):
                    from_.down(name)
                    to.down(name)
                    entered.append(os.fstat(from_.fd))
                    pending.append(overlaydir.list_directory(from_.fd))
                else:
                    _replace(from_.fd, to.fd, name)
                continue
            pending.pop()
            if pending:
                left, reached = from_.up(), to.up()
                try:
                    _copy_attributes(left, reached, entered.pop(), chown=chown)
                finally:
                    os.close(left)
                    os.close(reached)


def _open(directory: Path) -> overlaydir.Cursor:
    return overlaydir.Cursor(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _replace(source_fd: int, target_fd: int, name: str) -> None:
    if _is_directory(source_fd, name) or _is_directory(target_fd, name):
        overlaydir.remove_entry(target_fd, name)  # rename replaces files by files only
    os.rename(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd)


def _copy_attributes(source: int, target: int, status: os.stat_result, *, chown: bool) -> None:
    """Make a directory that was there what the image says. `status` is of before it was emptied."""
    if chown:
        os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if tarcodec.is_layer_xattr(name):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
