"""Several blobs at once: threads that transfer, and one that looks on.

    workers     take jobs in order, a few at a time; each talks HTTP and reads or writes one blob
    the caller  reads what has come, tells what happens, and touches the store; it alone does

So nothing of the store needs a lock. When a job or the caller fails, `stops` end the others: what
they wait for is cut. All threads have ended when `Workers` is left.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

from layerstore.blobs import BlobWriter
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.layers import Came
from layerstore.registry.errors import CanceledError
from layerstore.registry.repository import Repository

if TYPE_CHECKING:
    from layerstore.registry.client import RegistryClient

_PIECE_BYTES = 256 << 10
_TICK_S = 0.1  # in which events are told, however little happens
_JOIN_S = 5.0  # for all: a connection that is being made cannot be cut

Event = TypeVar("Event")

Status = Literal[
    "waiting",
    "downloading",
    "downloaded",
    "complete",
    "exists",
    "uploading",
    "uploaded",
    "mounted",
    "copying",
    "copied",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far one blob is. `source` is the repository it was mounted from."""

    digest: Digest
    status: Status
    done_bytes: int = 0
    size_bytes: int = 0
    source: str = ""


Report = Callable[[Transfer], object]
Job = Callable[[], object]


class Workers(Generic[Event]):
    """Threads for the length of a `with`.

    Args:
        count: how many at the same time.
        report: is told what happens, by the thread that made this.
        stops: are set when the others are to give up.
    """

    def __init__(
        self, count: int, report: Callable[[Event], object], *stops: threading.Event
    ) -> None:
        self._count = count
        self._report = report
        self._stops = stops
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def add(self, job: Job) -> None:
        """Carry out `job` when those before it have been begun. It raises nothing itself."""
        self._jobs.put(job)
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def carry_out(self, jobs: Sequence[Job]) -> None:
        """Carry out jobs, and wait for the last. The first error is raised, and ends the others."""
        changed = threading.Condition()
        left = len(jobs)
        failures: list[BaseException] = []

        def carry_out(job: Job) -> None:
            nonlocal left
            error: BaseException | None = None
            try:
                job()
            except BaseException as caught:  # noqa: BLE001 - it is the caller's, in another thread
                error = caught
            with changed:
                left -= 1
                if error is not None:
                    failures.append(error)
                changed.notify_all()

        for job in jobs:
            self.add(partial(carry_out, job))
        with changed:
            self.wait(changed, lambda: not left or bool(failures))
        if failures:
            raise next((e for e in failures if not isinstance(e, CanceledError)), failures[0])

    def tell(self, event: Event) -> None:
        """Report an event; may be called by any thread."""
        self._events.put(event)

    def pump(self) -> None:
        """Hand on what has been told."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            self._report(event)

    def wait(self, condition: threading.Condition, is_done: Callable[[], bool]) -> None:
        """Wait, holding `condition`, and hand on what is told meanwhile."""
        while not is_done():
            condition.wait(_TICK_S)
            self.pump()
        self.pump()

    def __enter__(self) -> Self:
        self._clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            for stop in self._stops:
                stop.set()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()) if kind is not None else None)
        if not any(thread.is_alive() for thread in self._threads):
            self._clear()
        self.pump()

    def _clear(self) -> None:
        for stop in self._stops:
            stop.clear()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not any(stop.is_set() for stop in self._stops):
                job()


def untold(event: object) -> None:
    """A report to nobody."""


def reporting(came: Came) -> Report:
    """A report that says how many bytes of which blob have come."""

    def report(event: Transfer) -> None:
        done_bytes = event.size_bytes if event.status == "complete" else event.done_bytes
        came(event.digest, done_bytes, event.size_bytes)

    return report


def side_by_side(client: "RegistryClient", jobs: Sequence[Job]) -> None:
    """Carry out jobs, as many at a time as the settings say; see `Workers.carry_out`."""
    with Workers(client.settings.jobs, untold, client.stop) as workers:
        workers.carry_out(jobs)


class Download:
    """A blob on its way here: a worker writes it, the caller reads what has come.

    A Reader for `layers.adopt_written`; the caller closes `writer`.
    """

    def __init__(
        self,
        repository: Repository,
        descriptor: Descriptor,
        writer: BlobWriter,
        workers: Workers[Transfer],
    ) -> None:
        self.descriptor = descriptor
        self.writer = writer
        self._repository = repository
        self._workers = workers
        self._reader = writer.written()
        self._changed = threading.Condition()
        self._come_bytes = 0
        self._read_bytes = 0
        self._error: BaseException | None = None
        self._has_ended = False

    def run(self) -> None:
        """Fetch it; what goes wrong is raised by `read`."""
        error: BaseException | None = None
        try:
            self._fetch()
        except BaseException as caught:  # noqa: BLE001 - it is the caller's, in the other thread
            error = caught
        with self._changed:
            self._error = error
            self._has_ended = True
            self._changed.notify_all()

    def read(self, size: int = -1, /) -> bytes:
        """What was asked for, less only at the end; waits for what has not come yet."""
        wanted = self.descriptor.size_bytes - self._read_bytes
        wanted = wanted if size < 0 else min(size, wanted)
        pieces = []
        while wanted:
            self._wait_for_more()
            piece = self._reader.read(min(wanted, self._come_bytes - self._read_bytes))
            pieces.append(piece)
            wanted -= len(piece)
            self._read_bytes += len(piece)
        if self._read_bytes == self.descriptor.size_bytes:
            self._wait_for_end()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close what `read` reads."""
        self._reader.__exit__(None, None, None)

    def _fetch(self) -> None:
        self._tell("downloading")
        held: list[bytes] = []
        held_bytes = 0
        for piece in self._repository.raw_pieces(self.descriptor):
            held.append(piece)
            held_bytes += len(piece)
            if held_bytes >= _PIECE_BYTES:
                self._write(held)
                held, held_bytes = [], 0
        self._write(held)
        self._tell("downloaded")

    def _write(self, pieces: list[bytes]) -> None:
        self.writer.write(b"".join(pieces))
        self.writer.flush()
        with self._changed:
            self._come_bytes += sum(map(len, pieces))
            self._changed.notify_all()
        self._tell("downloading")

    def _wait_for_more(self) -> None:
        with self._changed:
            self._workers.wait(
                self._changed, lambda: self._has_ended or self._come_bytes > self._read_bytes
            )
        if self._come_bytes == self._read_bytes:
            self._raise()

    def _wait_for_end(self) -> None:
        with self._changed:
            self._workers.wait(self._changed, lambda: self._has_ended)
        if self._error is not None:
            self._raise()

    def _raise(self) -> None:
        raise self._error or CanceledError

    def _tell(self, status: Status) -> None:
        self._workers.tell(
            Transfer(
                digest=self.descriptor.digest,
                status=status,
                done_bytes=self._come_bytes,
                size_bytes=self.descriptor.size_bytes,
            )
        )
