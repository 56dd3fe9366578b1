"""Disks that fail and disks that forget: what the tests of crashes and of bad hardware share.

    Faults      lets the n-th call that changes the disk fail, once or from then on
    Disk        knows what has been synced: what is there after a power cut

The model of `Disk` is as strict as POSIX: the bytes of a file survive that were there at its last
fsync, a name survives when its directory was synced after it was made. `lose_power` makes a tree of
what is left, at worst of two kinds: nothing that was not synced is there; or every name is there
(the journal got through) and files that were not synced are empty.
SQLite syncs in C, unseen: what it has committed is taken as synced, with its names.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerstore.database import Database, Statement

CHANGING = ("write", "fsync", "rename", "mkdir", "open", "link", "symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Lets the n-th of the calls that change the disk fail; `persistent`: all that follow, too.

    On a disk that is full for good, names can be changed still.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        number: int,
        code: int,
        *,
        persistent: bool = False,
    ) -> None:
        self.happened = False
        self._left = number
        self._code = code
        self._persistent = persistent
        for name in CHANGING:
            patch.setattr(os, name, self._wrap(getattr(os, name)))
        patch.setattr(Path, "write_bytes", _write_bytes)  # the real one writes in C, unseen

    def _wrap(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            writes = real.__name__ != "open" or int(str(args[1])) & _WRITING
            if writes and self._is_due(real.__name__):
                self.happened = True
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **kwargs)

        return call

    def _is_due(self, name: str) -> bool:
        if self.happened:
            return self._persistent and name != "rename"
        self._left -= 1
        return self._left == 0


def _write_bytes(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


class Disk:
    """What beneath `root`, all there is on it, would survive a power cut.

    `synced` is called after every sync.
    """

    def __init__(
        self, root: Path, patch: pytest.MonkeyPatch, synced: Callable[[], object] = lambda: None
    ) -> None:
        self.root = root
        self.syncs = 0
        self._synced = synced
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, _Entry]] = {}  # of directories, by inode
        self._kept: dict[int, int] = {}  # inode -> descriptor: no number is used again
        self._is_off = False
        self._sync_all(root)
        self._patch(patch)

    def lose_power(self, target: Path, *, keeps_names: bool) -> None:
        """Make in `target` what is left."""
        names = self._names[self._entry(self.root).inode]
        self._leave(names, target, self.root if keeps_names else None)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Work on other directories, which is none of this disk's business."""
        was, self._is_off = self._is_off, True
        try:
            yield
        finally:
            self._is_off = was

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        real_fsync, real_sync = os.fsync, os.sync
        real_write, real_prepare = Database.write, Database._prepare

        def fsync(fd: int) -> None:
            real_fsync(fd)
            self._note(Path(f"/proc/self/fd/{fd}").readlink())

        def sync() -> None:
            real_sync()
            self._sync_all(self.root)
            self._told()

        def write(database: Database, statements: Iterable[Statement]) -> None:
            real_write(database, statements)
            self._note_database(database._path)

        def prepare(database: Database, connection: sqlite3.Connection) -> None:
            real_prepare(database, connection)
            self._note_database(database._path)

        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "sync", sync)
        patch.setattr(Database, "write", write)
        patch.setattr(Database, "_prepare", prepare)

    def _note(self, path: Path) -> None:
        if not self._is_off and path.is_relative_to(self.root) and path.exists():
            self._sync_one(path)
            self._told()

    def _note_database(self, path: Path) -> None:
        if self._is_off or not path.is_relative_to(self.root):
            return
        names = self._names.setdefault(self._entry(path.parent).inode, {})
        for file in path.parent.glob(f"{path.name}*"):
            self._sync_one(file)
            names[file.name] = self._entry(file)
        self._told()

    def _told(self) -> None:
        self.syncs += 1
        with self.unwatched():
            self._synced()

    def _sync_all(self, path: Path) -> None:
        self._sync_one(path)
        if path.is_dir() and not path.is_symlink():
            for child in path.iterdir():
                self._sync_all(child)

    def _sync_one(self, path: Path) -> None:
        entry = self._entry(path)
        if stat.S_ISDIR(entry.mode):
            self._names[entry.inode] = {child.name: self._entry(child) for child in path.iterdir()}
        elif stat.S_ISREG(entry.mode):
            self._contents[entry.inode] = path.read_bytes()

    def _entry(self, path: Path) -> "_Entry":
        info = path.lstat()
        if info.st_ino not in self._kept:
            self._kept[info.st_ino] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        link = path.readlink() if stat.S_ISLNK(info.st_mode) else Path()
        return _Entry(inode=info.st_ino, mode=info.st_mode, link=link)

    def _leave(self, entries: dict[str, "_Entry"], target: Path, now: Path | None) -> None:
        """Make a directory with `entries`; all that are there `now`, if that is given."""
        target.mkdir(parents=True, exist_ok=True)
        if now is not None:
            entries = {child.name: self._entry(child) for child in now.iterdir()}
        for name, entry in entries.items():
            path = target / name
            if stat.S_ISDIR(entry.mode):
                below = None if now is None else now / name
                self._leave(self._names.get(entry.inode, {}), path, below)
            elif stat.S_ISLNK(entry.mode):
                path.symlink_to(entry.link)
                continue
            elif stat.S_ISREG(entry.mode):
                path.write_bytes(self._contents.get(entry.inode, b""))
            else:
                continue  # sockets, devices: nothing that a store relies on
            path.chmod(stat.S_IMODE(entry.mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    inode: int
    mode: int
    link: Path
