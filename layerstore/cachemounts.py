"""Cache mounts: directories that outlive the builds that fill them, and belong to no layer.

    cachemounts/KEY-N/        its flock says that somebody uses it, and how
    cachemounts/KEY-N/data    what is mounted

KEY is derived from all that decides which directory is meant; N is 0 but for private use, which
takes the first directory that nobody else has.

    shared    a shared lock: any number of users at a time
    locked    an exclusive lock: waits for all others
    private   an exclusive lock on a directory that is free, made when there is none

A directory appears by rename, filled. One that somebody holds is never pruned; who has waited for
one that was pruned meanwhile begins anew. What is in it is nobody's business but its users'.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from layerstore.locks import lock_directory

Sharing = Literal["shared", "private", "locked"]
Fill = Callable[[Path], None]

_KEY_DIGITS = 32


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

    @contextmanager
    def hold(
        self,
        key: str,
        sharing: Sharing,
        *,
        fill: Fill,
        renew: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Path]:
        """Use the directory of `key` (hex digits); nobody else gets in the way of `sharing`.

        Args:
            fill: makes a new one's content in the empty directory it is given.
            renew: begin anew, unless somebody else uses it.
            waiting: called before waiting for others.
        """
        name = key[:_KEY_DIGITS]
        if renew:
            self._discard(self._directory / f"{name}-0")
        number = 0
        with ExitStack() as cleanup:
            while True:
                path = self._directory / f"{name}-{number}"
                fd = self._lock(path, sharing, fill, waiting)
                if fd is not None:
                    cleanup.callback(os.close, fd)
                    yield path / "data"
                    return
                number += 1

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

    def carry_off(self, trash: Path) -> int:
        """Rename those that nobody uses into the directory `trash`. Returns how many."""
        count = 0
        for path in self.paths():
            fd = lock_directory(path)
            if fd is None:
                continue
            try:
                path.rename(trash / f"cachemount{count}")
            finally:
                os.close(fd)
            count += 1
        return count

    def _lock(
        self, path: Path, sharing: Sharing, fill: Fill, waiting: Callable[[], None]
    ) -> int | None:
        """The descriptor that holds the lock; None when a private user finds it taken."""
        exclusive = sharing != "shared"
        while True:
            if not path.is_dir():
                self._make(path, fill)
            fd = lock_directory(path, exclusive=exclusive)
            if fd is None and path.is_dir():
                if sharing == "private":
                    return None
                waiting()
                fd = lock_directory(path, exclusive=exclusive, wait=True)
            if fd is not None:
                return fd

    def _make(self, path: Path, fill: Fill) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        made = self._filled(fill)
        try:
            made.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            _remove_tree(made)  # somebody else was first

    def _discard(self, path: Path) -> None:
        fd = lock_directory(path)
        if fd is None:
            return
        try:
            old = self._new_tmp_path("cachemount")
            path.rename(old)
            _remove_tree(old)
        finally:
            os.close(fd)

    def _filled(self, fill: Fill) -> Path:
        made = self._new_tmp_path("cachemount")
        data = made / "data"
        data.mkdir(mode=0o755, parents=True)
        data.chmod(0o755)  # whatever the umask
        try:
            fill(data)
        except BaseException:
            _remove_tree(made)
            raise
        return made


def _remove_tree(path: Path) -> None:
    from layerstore.overlaydir import remove_tree

    remove_tree(path)
