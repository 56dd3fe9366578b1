"""Locks and leases: how processes share a store. The only importer of fcntl.

All locks are flock(2): the kernel drops them with their process, so none is ever stale.

StoreLock, the file `lamina/lock`, is held for milliseconds:
    exclusive   index.json is rewritten; prune decides what goes and moves it to tmp/
    shared      a lease notes what it uses, so that prune sees either the note or nothing of it
Lease, a directory `lamina/tmp/ID`, is held by its process until that has finished:
    the directory's own flock says that the process lives;
    in it lie the files that are being written; whoever finds it unlocked may remove it;
    `uses` in it lists the digests that its process needs and prune must leave.
A cache mount, a directory below `lamina/cachemounts`, is locked by those who use it.
A claim, a directory below `lamina/claims`, is locked by who carries out the step it names.

Lock order: a claim before a cache mount, StoreLock before SQLite's. Nothing waits for a lease; for
a cache mount only an export does, and not for long; for a claim as long as claims.py says.
"""

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from layerstore.blobs import write_all
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError, StoreBusyError

_WAIT_S_MAX = 60.0
_PAUSE_S = 0.02
_USES = "uses"


class StoreLock:
    """The store's one lock. Not reentrant: a process that holds it must not ask again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exclusive(self) -> "HeldLock":
        """Shut everybody else out, as a context manager."""
        return HeldLock(self._path, fcntl.LOCK_EX)

    def shared(self) -> "HeldLock":
        """Shut out who wants it exclusively, as a context manager."""
        return HeldLock(self._path, fcntl.LOCK_SH)


class HeldLock:
    """Waits up to a minute on entering (a stopped process may hold the lock), then gives up."""

    def __init__(self, path: Path, operation: int) -> None:
        self._path = path
        self._operation = operation
        self._fd = -1

    def __enter__(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for(fd, self._operation, self._path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _wait_for(fd: int, operation: int, path: Path) -> None:
    deadline = time.monotonic() + _WAIT_S_MAX
    pause_s = 0.0005
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreBusyError(
                    path=str(path), hint="another lamina process seems to be stopped; end it"
                ) from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)
        else:
            return


class Lease:
    """A directory below tmp/ that lives as long as the process that holds it."""

    def __init__(self, path: Path, fd: int, lock: StoreLock) -> None:
        self.path = path
        self._fd = fd
        self._lock = lock
        self._held: set[Digest] = set()
        self._numbers = 0
        self._pid = os.getpid()

    @classmethod
    def take(cls, tmp: Path, lock: StoreLock) -> Self:
        """Make a new one."""
        while True:
            path = tmp / os.urandom(8).hex()
            path.mkdir(mode=0o700)
            fd = lock_directory(path)
            if fd is not None:
                return cls(path, fd, lock)
            # A sweep saw the directory before it was locked, and has taken it away.

    @classmethod
    def seize(cls, path: Path, lock: StoreLock) -> Self | None:
        """Take over the lease of a process that died; None while it lives."""
        fd = lock_directory(path)
        return None if fd is None else cls(path, fd, lock)

    def hold(self, digests: Iterable[Digest]) -> None:
        """Keep blobs and layers (by digest or diff_id) from being collected.

        Hold first, then look whether the thing is there: from then on it stays.
        """
        new = [digest for digest in digests if digest not in self._held]
        if not new:
            return
        data = "".join(f"{digest}\n" for digest in new).encode()
        with self._lock.shared():
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(_USES, flags, 0o600, dir_fd=self._fd)
            try:
                write_all(fd, data, self.path / _USES)
            finally:
                os.close(fd)
        self._held.update(new)

    def new_path(self, prefix: str) -> Path:
        """A path inside that nothing else has."""
        self._numbers += 1
        return self.path / f"{prefix}{self._numbers}"

    def release(self) -> None:
        """Remove the directory with all that is in it. A forked child leaves it to its parent."""
        try:
            if os.getpid() == self._pid and not self._remove_empty():
                from layerstore.overlaydir import remove_tree

                remove_tree(self.path)
        finally:
            os.close(self._fd)
            self._fd = -1

    def _remove_empty(self) -> bool:
        """Remove a directory with nothing but `uses`; False when there is more."""
        try:
            if self._held:
                os.unlink(_USES, dir_fd=self._fd)
            self.path.rmdir()
        except OSError:
            return False
        return True


def read_uses(path: Path) -> set[Digest]:
    """What the lease at `path` holds; nothing when it has just gone."""
    try:
        text = (path / _USES).read_text()
    except OSError:
        return set()
    found = set()
    for line in text.splitlines():
        try:
            found.add(Digest.parse(line))
        except MalformedDocumentError:  # the writer died in the middle of its last line
            continue
    return found


def lock_directory(path: Path, *, exclusive: bool = True) -> int | None:
    """Lock the directory; the descriptor that is returned holds the lock.

    None when another process has it, or when it is gone or was replaced.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if os.stat(path, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:  # noqa: PTH116
            return fd
    except OSError:
        pass  # another has it locked, or has removed it
    os.close(fd)
    return None


def await_directory(path: Path, *, wait_s: float) -> int:
    """Lock a directory that is there; the descriptor that is returned holds the lock.

    Raises:
        StoreBusyError: others have had it for `wait_s`, or it is gone.
    """
    deadline = time.monotonic() + wait_s
    while (fd := lock_directory(path)) is None:
        if time.monotonic() > deadline:
            raise StoreBusyError(path=str(path), hint="try again when it has finished")
        time.sleep(_PAUSE_S)
    return fd


def unlock(fd: int) -> None:
    """Drop a lock that `lock_directory` gave, whoever else has inherited the descriptor."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
