"""A store directory: opens it and hands out its parts.

The directory is an OCI image layout that any tool can read in place, plus `lamina/` (drawn in
README.md). `blobs/` and `index.json` are the truth; what lies in `lamina/` says how to find it
faster, holds what is being written, or belongs to other rooms.

Write order, carried out by `flush`:
    0. wait for blobs that are still being written (packing.py)
    1. fsync every new blob, rename them to their names, fsync blobs/sha256; the same for new
       tables of contents in lamina/toc, which have their names already
    2. one SQLite transaction: rows of layers, then of cached steps
    3. under the store's lock: index.json to a temporary file, fsync, rename, fsync the directory
Whatever was done last, everything it leads to was durable before. What a crash leaves:
    before 1   files in tmp/ID, whose lease is dead: the next `open` removes them
    after 1    blobs, tables of contents and checkouts that nothing leads to: they are named in
               the dead lease's `uses`, and the next `open` removes them (after a power cut the
               list may be lost: then they are garbage for `prune`)
    after 2    the same as a build that was not given a name: cached steps
A step of 3 that fails is taken back: who gets an error has named nothing. The directories of a new
store are synced with their parents when it is made.
Checkouts are not synced. They hold for one boot: at the first `open` of another they are thrown
away, and made again from the blobs when needed.

Invariants (tests/layerstore/test_store.py):
  1. After SIGKILL at any moment `verify` finds nothing wrong: test_verify_is_clean_after_kill.
  2. What a dead process left is gone after the next open: test_open_sweeps_what_the_dead_left.
  3. Nothing is visible to others before flush: test_nothing_is_visible_before_flush.
  4. What was flushed survives a power cut, and any failing call leaves a good store:
     tests/endtoend/test_power_cuts.py.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from layerstore.backends.directory import DirectoryBlobs
from layerstore.beside import write_durably
from layerstore.blobs import BlobStore, fsync
from layerstore.cacheindex import CacheIndex
from layerstore.cachemounts import CacheMounts
from layerstore.claims import Claims
from layerstore.database import Database
from layerstore.digest import Digest
from layerstore.errors import DiskFullError, StoreError
from layerstore.images import ImageStore
from layerstore.layers import LayerStore
from layerstore.locks import Lease, StoreLock

_VERSION = b"1\n"
_NUMBER = re.compile(rb"[0-9]+\n")  # anything else is damage, and written anew
_OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_EMPTY_INDEX = (
    b'{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}'
)
_LAYOUT_NAMES = frozenset(("oci-layout", "index.json", "blobs", "lamina"))
_PRIVATE_NAMES = ("toc", "snapshots", "tmp", "containers", "names", "builds", "parsed")
_RESERVE = "reserve"
_RESERVE_BYTES = 1 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def default_root() -> Path:
    """Where the store is when nobody says: LAMINA_ROOT, else by user.

    To be asked before entering a user namespace, in which everybody is root.
    """
    if given := os.environ.get("LAMINA_ROOT"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/lamina")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "lamina"


class Store:
    """An open store. A context manager: left by an exception, it forgets what was not flushed."""

    blobs: BlobStore
    layers: LayerStore
    images: ImageStore
    cache: CacheIndex
    cache_mounts: CacheMounts
    claims: Claims

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / "lamina"
        self.tmp = self.private / "tmp"
        self.lock = StoreLock(self.private / "lock")
        self.database = Database(self.private / "cache.db", self._new_tmp_path)
        self._lease: Lease | None = None
        self.blobs = DirectoryBlobs(
            root / "blobs" / "sha256", lambda: self._new_tmp_path("blob"), self._hold
        )
        self.layers = LayerStore(
            private=self.private,
            blobs=self.blobs,
            database=self.database,
            new_tmp_path=self._new_tmp_path,
            hold=self._hold,
        )
        self.images = ImageStore(
            root=root,
            blobs=self.blobs,
            layers=self.layers,
            lock=self.lock,
            new_tmp_path=self._new_tmp_path,
            hold=self._hold,
        )
        self.cache = CacheIndex(self.database, self.layers.find)
        self.cache_mounts = CacheMounts(self.private / "cachemounts", self._new_tmp_path)
        self.claims = Claims(self.private / "claims")

    @classmethod
    def open(cls, root: Path | None = None, *, with_reserve: bool = False) -> Self:
        """Open the store at `root`, made when it is missing; a plain OCI layout becomes one.

        Args:
            with_reserve: on a disk that is full, give up the room that is kept for those who look
                and remove: without any, neither SQLite nor a new index.json could do anything.

        Raises:
            StoreError: the directory holds something else, or a store of another version.
        """
        root = Path(os.path.abspath(root or default_root()))  # noqa: PTH100 - links stay
        store = cls(root)
        if with_reserve and store._free_bytes() < _RESERVE_BYTES:
            (store.private / _RESERVE).unlink(missing_ok=True)
        if _read(store.private / "version") != _VERSION:
            store._create()
        try:
            store._forget_other_boot()
            store._sweep()
        except BaseException:
            store.close()
            raise
        return store

    def flush(self) -> None:
        """Make everything done so far durable and visible. Nothing was before."""
        self.layers.finish()
        self.blobs.sync()
        self.layers.sync()
        statements = [
            *self.layers.pending_statements(),
            *self.cache.pending_statements(),
            *self.images.pending_statements(),
        ]
        if statements:
            self.database.write(statements)
            self.layers.flushed()
            self.cache.flushed()
        if self.images.flush() and _read(self.root / "oci-layout") != _OCI_LAYOUT:
            write_durably(self.root / "oci-layout", _OCI_LAYOUT, self._new_tmp_path("new"))
        self._keep_reserve()

    def discard(self) -> None:
        """Forget what was not flushed."""
        self.layers.abandon()
        self.images.discard_edits()
        self.layers.flushed()
        self.cache.flushed()

    def lease(self) -> Lease:
        """What protects all that this process looks up or makes, until the store is closed.

        It is taken by the first look-up or write; to hold other things, ask for it.
        """
        if self._lease is None:
            self._lease = Lease.take(self.tmp, self.lock)
        return self._lease

    @contextmanager
    def new_tmpdir(self) -> Iterator[Path]:
        """A new directory (0755) on the store's file system, removed on leaving.

        When this process dies, the next one removes it.
        """
        from layerstore.overlaydir import remove_tree

        path = self._new_tmp_path("dir")
        path.mkdir(mode=0o755)
        path.chmod(0o755)  # whatever the umask
        try:
            yield path
        finally:
            remove_tree(path)

    def check_room(self, size_bytes: int) -> None:
        """Refuse what is announced as larger than the disk has room for, before it is written.

        Raises:
            DiskFullError: it is.
        """
        status = os.statvfs(self.private)
        free_bytes = status.f_bavail * status.f_frsize
        if size_bytes > free_bytes:
            raise DiskFullError(
                f"{self.root}: No space left on device: {size_bytes} bytes are to be stored, and "
                f"{free_bytes} are free"
            )

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob is once it is flushed: any OCI tool finds it there."""
        return self.root / "blobs" / "sha256" / digest.hex

    def close(self) -> None:
        """Drop what was not flushed, and the lease with all temporary files."""
        self.layers.abandon()
        self.images.discard_edits()
        self.claims.release(self.claims.held())
        self.database.close()
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def _new_tmp_path(self, prefix: str) -> Path:
        return self.lease().new_path(prefix)

    def _hold(self, digests: Iterable[Digest]) -> None:
        self.lease().hold(digests)

    def _free_bytes(self) -> int:
        """What the disk has free; much, where there is no store yet."""
        try:
            status = os.statvfs(self.private)
        except OSError:
            return _RESERVE_BYTES
        return status.f_bavail * status.f_frsize

    def _keep_reserve(self) -> None:
        """Put some room aside while there is plenty: see `open`."""
        path = self.private / _RESERVE
        if os.path.lexists(path) or self._free_bytes() < 4 * _RESERVE_BYTES:
            return
        temporary = self._new_tmp_path("reserve")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)
            finally:
                os.close(fd)
            temporary.rename(path)
        except OSError:  # a file system that cannot, or a disk that has just become full
            temporary.unlink(missing_ok=True)

    def _create(self) -> None:
        version = _read(self.private / "version")
        if version is not None and version != _VERSION and _NUMBER.fullmatch(version):
            raise StoreError(
                f"{self.root} is a store of version {version.decode().strip()!r}",
                hint="use the lamina that made it, or another --root",
            )
        self._refuse_foreign()
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for path in (self.root / "blobs" / "sha256", *(self.private / n for n in _PRIVATE_NAMES)):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path in (*(made.parent for made in missing), self.root / "blobs"):
            fsync(path)  # the others are synced with the files below
        for path, data in (
            (self.root / "index.json", _EMPTY_INDEX),
            (self.root / "oci-layout", _OCI_LAYOUT),
        ):
            with self.lock.exclusive():
                if not os.path.lexists(path):
                    write_durably(path, data, self._new_tmp_path("new"))
        write_durably(self.private / "version", _VERSION, self._new_tmp_path("new"))

    def _refuse_foreign(self) -> None:
        try:
            names = set(os.listdir(self.root))  # noqa: PTH208
        except FileNotFoundError:
            return
        if names - _LAYOUT_NAMES:
            raise StoreError(
                f"{self.root} is not empty, and no store",
                hint="choose another directory by --root or LAMINA_ROOT",
            )

    def _forget_other_boot(self) -> None:
        """Checkouts are not synced: after a power cut they may be incomplete."""
        boot_id = _read(Path(_BOOT_ID))
        path = self.private / "boot"
        if boot_id is None or _read(path) == boot_id:
            return
        with self.lock.exclusive():
            if _read(path) == boot_id:
                return
            (self.private / "snapshots").rename(self._new_tmp_path("snapshots"))
            (self.private / "snapshots").mkdir(mode=0o755)
            temporary = self._new_tmp_path("boot")
            temporary.write_bytes(boot_id)
            temporary.rename(path)

    def _sweep(self) -> None:
        """Remove what dead processes left; one scandir when there is nothing."""
        own = None if self._lease is None else self._lease.path.name
        with os.scandir(self.tmp) as entries:
            paths = [Path(entry.path) for entry in entries if entry.name != own]
        dead = [lease for path in paths if (lease := Lease.seize(path, self.lock)) is not None]
        if dead:
            from layerstore import collect

            collect.sweep_dead(self, dead)


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
