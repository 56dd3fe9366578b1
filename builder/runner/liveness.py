"""Who minds a container: a file that its minder keeps locked for as long as it lives.

    live/ID     exists while a container runs, or did when its minder was killed

The lock is flock(2)'s: it belongs to the open file, so a minder can hand it to a process it starts,
and the kernel drops it with the last of them, however they end. Process ids are never asked.
An unlocked file is a leftover. Who locks it owns the container and its record, and may sweep.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Self

# A process that asks whether a leftover is held locks it for some microseconds itself.
_PATIENCE_S = 0.05


class Hold:
    """A held lock. The file is there as long as it is held, and gone after `release`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def release(self, last_words: str = "") -> None:
        """Remove the file and give the lock up; who waits for it reads the last words."""
        try:
            if last_words:
                os.write(self.fd, last_words.encode())
            self.path.unlink()  # first: nobody can take a lock that is about to be gone
        finally:
            os.close(self.fd)
            self.fd = -1

    def hand_over(self) -> None:
        """Forget the lock: a process that inherited the descriptor has it now."""
        os.close(self.fd)
        self.fd = -1

    @classmethod
    def inherited(cls, path: Path, fd: int) -> Self:
        """The other side of `hand_over`."""
        os.set_inheritable(fd, False)
        return cls(path, fd)


def take(path: Path) -> Hold | None:
    """Make and lock the file; None when another process has it."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
            continue
        if _is_at(path, fd):
            return Hold(path, fd)
        os.close(fd)  # its holder has just removed it: make a new one


def seize(path: Path) -> Hold | None:
    """Lock a file that is there; None when it is locked or gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if _is_at(path, fd):
        return Hold(path, fd)
    os.close(fd)
    return None


def is_held(path: Path) -> bool:
    """Whether a living process has the lock."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def wait(path: Path, timeout_s: float | None = None) -> str | None:
    """Wait until nobody has the lock; returns the holder's last words, None when time is up."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    try:
        if timeout_s is None:
            fcntl.flock(fd, fcntl.LOCK_SH)
        elif not _wait_some(fd, timeout_s):
            return None
        return os.pread(fd, 64, 0).decode()
    finally:
        os.close(fd)


def _wait_some(fd: int, timeout_s: float) -> bool:
    """Ask again and again: flock has no time limit, and an alarm would disturb the caller's."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.002
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, 0.05)
        else:
            return True


def _is_at(path: Path, fd: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
