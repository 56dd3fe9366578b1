"""Containers on disk, in the private part of a store.

    containers/ID/       container.json  upper/  work/  log
    names/NAME           a symbolic link to ID: makes names unique, by symlink(2)
    live/ID              locked by the minder of a running container (liveness.py)
    volumes/NAME/_data   named and anonymous volumes (volumes.py)
    run/                 images ready to run (runnable.py)

Rules:
  - Who holds `live/ID` owns containers/ID; nobody else writes there.
  - container.json is replaced by rename. It names the layers and the manifest that the container
    needs: prune reads it, so it is written while the store's lock is held shared.
  - A `--rm` container is not synced: nothing of it is meant to outlive anything. Others are.
  - Whatever a killed command left is put in order by `sweep`, which every command calls first:
    only `live/` is looked at, so it costs nothing when nothing runs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from builder.errors import ContainerError, NoSuchContainerError, WrongStateError
from builder.runner import container, liveness
from builder.runner.container import ContainerRecord
from builder.runner.names import is_name, random_name

KILLED_CODE = 137
_ATTEMPTS = 20


class ContainerStore:
    """The containers of one store, whose private directory is `private`."""

    def __init__(self, private: Path) -> None:
        self.private = private
        self._containers = private / "containers"
        self._names = private / "names"
        self._live = private / "live"

    def directory(self, container_id: str) -> Path:
        """Where a container keeps its files."""
        return self._containers / container_id

    def live_path(self, container_id: str) -> Path:
        """The file that its minder locks."""
        return self._live / container_id

    def log_path(self, container_id: str) -> Path:
        """What it wrote, as logs.py reads it."""
        return self._containers / container_id / "log"

    def prepare(self) -> None:
        """Make the directories that all others are in."""
        for path in (self._containers, self._names, self._live):
            try:
                path.mkdir(0o700)
            except FileExistsError:
                pass

    def claim_name(self, wanted: str | None, container_id: str) -> str:
        """Give a container its name, or one that is free.

        Raises:
            ContainerError: the name is taken, or none.
        """
        if wanted is not None:
            if not is_name(wanted):
                raise ContainerError(
                    f"invalid container name {wanted!r}",
                    hint="letters, digits, `_`, `.` and `-`, at least two, a letter or digit first",
                )
            if self._link_name(wanted, container_id):
                return wanted
            raise ContainerError(
                f"the container name {wanted!r} is in use by {self.id_of_name(wanted)[:12]}",
                hint=f"`lamina rm {wanted}`, or another name",
            )
        for attempt in range(_ATTEMPTS):
            name = random_name(attempt)
            if self._link_name(name, container_id):
                return name
        return container_id[:12]

    def make(self, record: ContainerRecord) -> None:
        """Make the directory of a new container. The caller holds it, or nobody knows it yet."""
        path = self.directory(record.id)
        path.mkdir(0o700)
        (path / "upper").mkdir(0o755)
        (path / "work").mkdir(0o700)
        self.write(record)
        if not record.auto_remove:  # whose name must survive with it
            _sync_directory(self._containers)
            _sync_directory(self._names)

    def write(self, record: ContainerRecord) -> None:
        """Replace the record."""
        path = self.directory(record.id) / "container.json"
        temporary = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        try:
            data = container.dump(record)
            while data:
                data = data[os.write(fd, data) :]
            if not record.auto_remove:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
        if not record.auto_remove:
            _sync_directory(self.directory(record.id))

    def read(self, container_id: str) -> ContainerRecord | None:
        """The record; None when there is none that can be read."""
        try:
            data = (self.directory(container_id) / "container.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return container.load(data)

    def damaged(self) -> Iterator[tuple[str, str]]:
        """The ids of containers whose records are missing or damaged, and which it is."""
        for container_id in self.ids():
            path = self.directory(container_id)
            if (
                self.read(container_id) is None
                and path.exists()
                and not self.is_running(container_id)
            ):
                is_there = (path / "container.json").exists()
                yield container_id, f"its record is {'damaged' if is_there else 'missing'}"

    def all(self) -> Iterator[ContainerRecord]:
        """Every container whose record can be read."""
        for container_id in self.ids():
            record = self.read(container_id)
            if record is not None:
                yield record

    def ids(self) -> list[str]:
        """The ids of all containers."""
        return _names_in(self._containers)

    def find(self, word: str) -> ContainerRecord:
        """A container by its name, its id, or a prefix of the id that fits no other.

        Raises:
            NoSuchContainerError: there is none.
            ContainerError: several fit.
        """
        found = self.id_of_name(word) if is_name(word) else ""
        if not found:
            fitting = [x for x in self.ids() if x.startswith(word)] if word else []
            if len(fitting) > 1 and word not in fitting:
                raise ContainerError(
                    f"{word!r} is the beginning of {len(fitting)} container ids",
                    hint="write more of it",
                )
            found = word if word in fitting else (fitting[0] if fitting else "")
        record = self.read(found) if found else None
        if record is None:
            raise NoSuchContainerError(name=word)
        return record

    def id_of_name(self, name: str) -> str:
        """The id of the container with this very name; empty when there is none."""
        try:
            return str((self._names / name).readlink())
        except OSError:
            return ""

    def is_running(self, container_id: str) -> bool:
        """Whether its minder lives."""
        return liveness.is_held(self.live_path(container_id))

    def own(self, record: ContainerRecord) -> tuple[liveness.Hold, ContainerRecord]:
        """Become the owner of a container that does not run; returns its record as it is now.

        Raises:
            WrongStateError: it runs.
            NoSuchContainerError: it is gone.
        """
        hold = liveness.take(self.live_path(record.id))
        if hold is None:
            raise WrongStateError(name=record.name, state="running", wanted="stopped")
        fresh = self.read(record.id)
        if fresh is None:
            hold.release()
            raise NoSuchContainerError(name=record.name)
        return hold, fresh

    def remove(
        self, record: ContainerRecord, hold: liveness.Hold, *, with_volumes: bool = True
    ) -> None:
        """Remove a container that the caller owns, and give it up."""
        try:
            if record.state != "dead" and not record.auto_remove:
                self.write(record._replace(state="dead"))
            self.remove_files(record, with_volumes=with_volumes)
        finally:
            hold.release(str(record.exit_code))

    def remove_files(self, record: ContainerRecord, *, with_volumes: bool = True) -> None:
        """Remove the directory, the name and the anonymous volumes of a container."""
        _remove_tree(self.directory(record.id))
        if self.id_of_name(record.name) == record.id:
            (self._names / record.name).unlink(missing_ok=True)
        for mount in record.mounts:
            if with_volumes and mount.anonymous:
                from builder.runner import volumes

                volumes.remove(self.private, mount.source)

    def discard(self, container_id: str) -> None:
        """Remove what there is of a container that was never finished; the caller holds it."""
        record = self.read(container_id)
        if record is not None:
            self.remove_files(record)
        else:
            self._discard_without_record(container_id)

    def remove_damaged(self, word: str) -> bool:
        """Remove a container whose record cannot be read; False when there is none of that name.

        Args:
            word: its name, or the beginning of an id that nothing else damaged has.
        """
        if not word:
            return False
        named = self.id_of_name(word)
        ids = [each for each, _ in self.damaged() if each == named or each.startswith(word)]
        hold = liveness.take(self.live_path(ids[0])) if len(ids) == 1 else None
        if hold is None:
            return False
        try:
            self._discard_without_record(ids[0])
        finally:
            hold.release()
        return True

    def sweep(self) -> None:
        """Put in order what commands that were killed left: see the rules above."""
        left: set[str] = set()  # networks
        for container_id in _names_in(self._live):
            hold = liveness.seize(self.live_path(container_id))
            if hold is None:
                continue
            record = self.read(container_id)
            if record is not None and record.attached:
                left.update(record.networks)
            if record is None:
                self._discard_without_record(container_id)
            elif record.auto_remove or record.state == "dead":
                self.remove(record, hold)
                continue
            elif record.state == "running":
                self.write(ended(record, code=KILLED_CODE, error="its minder was killed"))
            hold.release()
        if left:
            from builder.runner import hostfiles

            hostfiles.refresh(self, left)

    def _discard_without_record(self, container_id: str) -> None:
        """Killed before there was a record: only the directory and the name can be there."""
        _remove_tree(self.directory(container_id))
        for name in _names_in(self._names):
            if self.id_of_name(name) == container_id:
                (self._names / name).unlink(missing_ok=True)

    def _link_name(self, name: str, container_id: str) -> bool:
        try:
            (self._names / name).symlink_to(container_id)
        except FileExistsError:
            owner = self.id_of_name(name)
            if os.path.lexists(self.directory(owner)) or os.path.lexists(self.live_path(owner)):
                return False
            (self._names / name).unlink(missing_ok=True)  # its container is gone
            return self._link_name(name, container_id)
        return True


def ended(
    record: ContainerRecord, *, code: int, error: str = "", oom_killed: bool = False
) -> ContainerRecord:
    """The record of a container whose program has ended now."""
    import time

    return record.turned(
        "exited",
        exit_code=code,
        error=error,
        oom_killed=oom_killed,
        finished=time.time(),
        pid=0,
        attached=(),
        published=(),
    )


def _remove_tree(path: Path) -> None:
    """Remove a directory and all in it; quickly, where a container has written nothing."""
    if not os.path.lexists(path) or _remove_untouched(path):
        return
    from layerstore import remove_tree

    remove_tree(path)


def _remove_untouched(path: Path) -> bool:
    """Remove the directory of a container that left nothing; False when there is more to do."""
    try:
        (path / "upper").rmdir()
        (path / "work/work").rmdir()  # the kernel's
        (path / "work").rmdir()
        (path / "hosts").unlink(missing_ok=True)
        (path / "container.json").unlink()
        path.rmdir()
    except OSError:
        return False
    return True


def _names_in(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return []


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
