"""Claims: who carries a step out, so that others who need its result wait instead of doing it too.

    lamina/claims/KEY     its flock says that somebody carries out the step with this key;
                          its mtime is the last sign of life of who does

A claim lasts until its result can be looked up by others, or its process has ended: the kernel
drops the lock. So whoever gets a claim looks for the result once more before beginning.

Waiting is bounded, for a stopped process keeps its locks: see `Waiting`. Who gives up carries the
step out as well, which costs time and nothing else: equal work has an equal result, and any number
of processes may commit it.

A process may hold several claims. None is waited for while the result of another is ready but not
to be seen (the engine flushes first), so no two processes wait for one another.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from layerstore.digest import Digest
from layerstore.locks import lock_directory, unlock

_LIFELESS_S_MAX = 30.0
_WAIT_S_MAX = 600.0
_SIGN_EVERY_S = 2.0


class Claims:
    """The claims of one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[Digest, int] = {}
        self._signed = 0.0

    def take(self, key: Digest) -> bool:
        """Claim the step with this key; False while somebody, be it this process, has done so."""
        if key in self._held:
            return False
        path = self._path(key)
        while True:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = lock_directory(path)
            if fd is not None:
                self._held[key] = fd
                return True
            if path.is_dir():  # else it was given up between two of the lines above
                return False

    def release(self, keys: Iterable[Digest]) -> None:
        """Give up claims; those that are not held are none."""
        for key in keys:
            fd = self._held.pop(key, None)
            if fd is not None:
                self._path(key).rmdir()
                unlock(fd)

    def held(self) -> tuple[Digest, ...]:
        """The keys of all claims of this process."""
        return tuple(self._held)

    def show_life(self) -> None:
        """Tell those who wait that this process goes on; cheap enough to be called often."""
        now = time.monotonic()
        if now - self._signed < _SIGN_EVERY_S:
            return
        self._signed = now
        for fd in self._held.values():
            os.utime(fd)

    def waiting(self, key: Digest) -> "Waiting":
        """Begin to wait for the claim on `key`."""
        return Waiting(self._path(key))

    def sweep(self) -> None:
        """Remove what dead processes claimed."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - names are all
        except FileNotFoundError:
            return
        for path in (self._directory / name for name in names):
            fd = lock_directory(path)
            if fd is not None:
                path.rmdir()
                unlock(fd)

    def _path(self, key: Digest) -> Path:
        return self._directory / key.hex


class Waiting:
    """How long to wait for another's claim: ten minutes, half a minute without a sign of life.

    Times are measured here: the clock of who shows signs does not matter, only that they differ.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = self._changed = time.monotonic()
        self._sign = self._read_sign()

    def is_in_vain(self) -> bool:
        """Whether to give up."""
        now = time.monotonic()
        sign = self._read_sign()
        if sign != self._sign:
            self._sign, self._changed = sign, now
        return now - self._changed > _LIFELESS_S_MAX or now - self._began > _WAIT_S_MAX

    def _read_sign(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
