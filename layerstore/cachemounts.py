"""Cache mounts: directories that outlive the builds that fill them, and belong to no layer.

    cachemounts/KEY-N/        its flock says that somebody uses it, and how
    cachemounts/KEY-N/data    what is mounted

KEY is derived from all that decides which directory is meant; N is 0 but for private use, which
takes the first directory that nobody else has.

    shared    a shared lock: any number of users at a time
    locked    an exclusive lock: one user
    private   an exclusive lock on a directory that is free, made when there is none

Nobody who wants to use a directory waits here: who cannot have it now is told so, and asks again.
A directory appears by rename, filled: by a source that knows what it had elsewhere, else as its
user says. One that somebody holds is never pruned. What is in it is nobody's business but its
users', and that of whoever exports it (transports/cached_mounts.py), who shuts them out meanwhile.
"""

import os
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from layerstore.errors import StoreBusyError
from layerstore.locks import lock_directory

if TYPE_CHECKING:
    from layerstore.transports.layout_directory import LayoutDirectory

Sharing = Literal["shared", "private", "locked"]
Fill = Callable[[Path], None]

_KEY_DIGITS = 32
_ASK_AGAIN_S = 0.05


class MountSource(Protocol):
    """A place that has what cache mounts of other stores had in them."""

    def fill(self, key: str, directory: Path) -> bool:
        """Fill an empty directory; False for nothing that can be used, whatever is in it then."""

    def copy(self, key: str, layout: "LayoutDirectory") -> bytes | None:
        """Put it into another such place; returns the file that says so, None for nothing."""


class HeldCache:
    """One use of a cache mount: `path` is what to mount. A context manager: left, it is over."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class CacheMounts:
    """The cache mounts of one store.

    Args:
        directory: where they are.
        new_tmp_path: names a file or directory on the same file system that is removed when this
            process dies.
    """

    def __init__(self, directory: Path, new_tmp_path: Callable[[str], Path]) -> None:
        self._directory = directory
        self._new_tmp_path = new_tmp_path
        self.sources: list[MountSource] = []

    def add_source(self, source: MountSource) -> None:
        """Ask `source`, too, what a new directory begins with, after those added before."""
        self.sources.append(source)

    def hold(
        self, key: str, sharing: Sharing, fill: Fill, *, is_anew: bool = False
    ) -> HeldCache | None:
        """Use the directory of `key` (hex digits); None while others exclude it (never "private").

        Args:
            fill: makes a new one's content in the empty directory it is given.
            is_anew: a new one has what `fill` makes, whatever the sources know.
        """
        number = 0
        while True:
            path = self._path(key, number)
            if not path.is_dir():
                self._make(path, key, fill, () if is_anew else self.sources)
            fd = lock_directory(path, exclusive=sharing != "shared")
            if fd is not None:
                os.utime(fd)  # it was used now: prune takes the least recently used first
                return HeldCache(path / "data", fd)
            if not path.is_dir():  # pruned between two of the lines above
                continue
            if sharing != "private":
                return None
            number += 1

    def borrow(self, key: str, *, wait_s: float) -> HeldCache | None:
        """Have the directory of `key` to oneself; None when there is none.

        Of private ones, it is the first.

        Raises:
            StoreBusyError: others have used it for `wait_s`.
        """
        path = self._path(key, 0)
        deadline = time.monotonic() + wait_s
        while path.is_dir():
            fd = lock_directory(path)
            if fd is not None:
                return HeldCache(path / "data", fd)
            if time.monotonic() >= deadline:
                raise StoreBusyError(path=str(path))
            time.sleep(_ASK_AGAIN_S)
        return None

    def discard(self, key: str) -> None:
        """Let the next user of `key` begin anew, unless somebody uses it."""
        path = self._path(key, 0)
        fd = lock_directory(path)
        if fd is None:
            return
        try:
            old = self._new_tmp_path("cachemount")
            path.rename(old)
            _remove_tree(old)
        finally:
            os.close(fd)

    def paths(self) -> list[Path]:
        """All of them, private ones too."""
        try:
            names = sorted(os.listdir(self._directory))  # noqa: PTH208 - names are all
        except FileNotFoundError:  # a store from before there were any
            return []
        return [self._directory / name for name in names]

    def unused(self) -> list[Path]:
        """Those that nobody uses right now."""
        found = []
        for path in self.paths():
            fd = lock_directory(path)
            if fd is not None:
                os.close(fd)
                found.append(path)
        return found

    def carry_off(self, trash: Path, only: Container[object] | None = None) -> int:
        """Rename those that nobody uses into the directory `trash`. Returns how many.

        `only` these, where it is given.
        """
        count = 0
        for path in self.paths():
            if only is not None and path not in only:
                continue
            fd = lock_directory(path)
            if fd is None:
                continue
            try:
                path.rename(trash / f"cachemount{count}")
            finally:
                os.close(fd)
            count += 1
        return count

    def _path(self, key: str, number: int) -> Path:
        return self._directory / f"{key[:_KEY_DIGITS]}-{number}"

    def _make(self, path: Path, key: str, fill: Fill, sources: Sequence[MountSource]) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        made = self._new_tmp_path("cachemount")
        data = made / "data"
        try:
            for source in sources:
                _make_empty(data)
                if source.fill(key, data):
                    break
                _remove_tree(data)
            else:
                _make_empty(data)
                fill(data)
            made.rename(path)
        except BaseException as error:
            _remove_tree(made)
            if not (isinstance(error, OSError) and path.is_dir()):  # else somebody was first
                raise


def _make_empty(data: Path) -> None:
    data.mkdir(mode=0o755, parents=True)
    data.chmod(0o755)  # whatever the umask


def _remove_tree(path: Path) -> None:
    from layerstore.overlaydir import remove_tree

    remove_tree(path)
