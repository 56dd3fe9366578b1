"""Files that appear whole: written beside their place under a temporary name, then renamed.

    .lamina-write-ID      what the thread ID writes, and removes when that fails

The first thread of a process has the number of the process. One that is killed cannot remove it;
the next one that writes into the directory does.
"""

import errno
import os
from _thread import get_native_id  # `threading` takes longer to load than a file to write
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layerstore.blobs import fsync, write_all

_PREFIX = ".lamina-write-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_beside(path: Path) -> Path:
    """A name in the directory of `path` for one file at a time of this thread."""
    return path.with_name(f"{_PREFIX}{get_native_id()}")


def left_over(directory: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """What threads that are dead have left in `directory`, if there is one, as `prefix` + ID."""
    for path in directory.glob(f"{prefix}*"):
        writer = path.name.removeprefix(prefix)
        if writer.isdecimal() and not Path("/proc", writer).exists():  # threads can be found there
            yield path


def remove_left_over(directory: Path) -> None:
    """Remove what writers that are dead have left in `directory`, if there is one."""
    for path in left_over(directory):
        path.unlink(missing_ok=True)


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when all went well, and is removed if not.

    A link is followed. What is no file (a pipe, /dev/null) is written to as it is, never replaced.

    Raises:
        OSError: `path` is a directory, its directory is missing, or nothing can be made in it.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such directory", str(path.parent))
    if path.exists() and not path.is_file():
        with naming_full(path), path.open("wb") as file:
            yield file
        return
    remove_left_over(path.parent)
    with replacing(path) as file:
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path`, be that a link, when all went well."""
    temporary = temporary_beside(path)
    try:
        with naming_full(path), _open_new(temporary, path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full(path: Path) -> Iterator[None]:
    """Let a file that has no room to grow be told by its name, which the kernel does not say."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _open_new(temporary: Path, path: Path) -> BinaryIO:
    try:
        return temporary.open("xb")
    except OSError as error:  # the name that was asked for is the one to tell
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_durably(path: Path, data: bytes, temporary: Path) -> None:
    """Replace a small file by way of `temporary`: afterwards the old or the new one is there."""
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, data, temporary)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    fsync(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Make or replace a small file, whole and durably, by way of a temporary one beside it."""
    temporary = temporary_beside(path)
    temporary.unlink(missing_ok=True)  # a dead process of our number may have left it
    try:
        write_durably(path, data, temporary)
    finally:
        temporary.unlink(missing_ok=True)
