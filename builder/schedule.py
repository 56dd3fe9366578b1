"""Many pieces of work side by side, in one thread.

A piece of work is a generator that yields what it cannot go on without:

    Readable(fds)   until one of the descriptors can be read (its program has written, or ended)
    PAUSE           nothing: others may have a turn
    Later(seconds)  for what nobody tells of, such as a lock: asked for again after a while
    Needs(piece)    until the piece of that number has ended

and returns its result. Programs run as processes of their own; what is done here in between (keys,
packing, hashing) takes turns, so that nothing of a build has to be locked, and no thread is alive
when a process is forked.

Invariants (tests/builder/test_schedule.py):
  1. A piece is begun after all that it is known to need has ended, and at most `jobs` are begun
     and neither ended nor waiting for another piece.
  2. When one fails, or the user interrupts, the others are closed, each once, before the error
     leaves.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack
from typing import Generic, NamedTuple, TypeVar


class Readable(NamedTuple):
    descriptors: tuple[int, ...]


class Needs(NamedTuple):
    piece: int


class Later(NamedTuple):
    seconds: float


Wait = Readable | Needs | Later
PAUSE = Readable(())

Result = TypeVar("Result")
Work = Generator[Wait, None, Result]


def run_all(
    pieces: Mapping[int, Iterable[int]],
    begin: "Callable[[int], Work[Result]]",
    *,
    jobs: int,
    idle: Callable[[], float | None] = lambda: None,
) -> dict[int, Result]:
    """Run pieces to their ends.

    Args:
        pieces: the numbers of the pieces, in the order in which they are begun if nothing speaks
            against it, and the numbers of the pieces that each is known to need.
        begin: makes the work of a number; also called for one that another piece needs and that
            is not in `pieces`.
        jobs: how many to have under way at once, at least 1.
        idle: called before everybody waits; says in how many seconds to be called again if they
            still do then, None for never.

    Returns:
        The results of all that was run, by number.
    """
    running = _Running(pieces, begin, jobs, idle)
    try:
        while running.turn():
            pass
    finally:
        running.close()
    return running.results


class _Running(Generic[Result]):
    def __init__(
        self,
        pieces: Mapping[int, Iterable[int]],
        begin: "Callable[[int], Work[Result]]",
        jobs: int,
        idle: Callable[[], float | None],
    ) -> None:
        self.results: dict[int, Result] = {}
        self._waiting = {index: set(needs) for index, needs in pieces.items()}
        self._begin = begin
        self._jobs = jobs
        self._idle = idle
        self._active: dict[int, Work[Result]] = {}
        self._ready: deque[int] = deque()
        self._reading: dict[int, tuple[int, ...]] = {}
        self._sleeping: dict[int, float] = {}  # until when, on the monotonic clock
        self._needing: dict[int, int] = {}  # who waits for whom

    def turn(self) -> bool:
        """Give everybody who can go on one turn; False when there is nobody left."""
        self._begin_more()
        if self._reading or self._sleeping:
            self._await()
        if not (self._ready or self._reading or self._sleeping):
            assert not (self._waiting or self._needing), "pieces wait for one another"
            return False
        for _ in range(len(self._ready)):
            self._advance(self._ready.popleft())
        return True

    def close(self) -> None:
        """End what has not ended."""
        with ExitStack() as all_of_them:
            for work in self._active.values():
                all_of_them.callback(work.close)

    def _begin_more(self) -> None:
        for index in [index for index, needs in self._waiting.items() if not needs]:
            if len(self._active) - len(self._needing) >= self._jobs:
                return
            del self._waiting[index]
            self._active[index] = self._begin(index)
            self._ready.append(index)

    def _await(self) -> None:
        """Wait until somebody can read or has slept enough; look only, when others are ready."""
        poller = select.poll()
        owners = {fd: index for index, fds in self._reading.items() for fd in fds}
        for fd in owners:
            poller.register(fd, select.POLLIN)
        found = poller.poll(self._timeout_ms())
        for index in dict.fromkeys(owners[fd] for fd, _ in found):
            del self._reading[index]
            self._ready.append(index)
        now = time.monotonic()
        for index in [index for index, end in self._sleeping.items() if end <= now]:
            del self._sleeping[index]
            self._ready.append(index)

    def _timeout_ms(self) -> float | None:
        if self._ready:
            return 0
        asked_s = self._idle()
        left_s = [] if asked_s is None else [asked_s]
        if self._sleeping:
            left_s.append(min(self._sleeping.values()) - time.monotonic())
        return max(0.0, min(left_s) * 1000) if left_s else None

    def _advance(self, index: int) -> None:
        work = self._active.pop(index)
        try:
            wait = next(work)
        except StopIteration as end:
            self._finish(index, end.value)
            return
        self._active[index] = work
        match wait:
            case Readable(descriptors=()):
                self._ready.append(index)
            case Readable(descriptors=descriptors):
                self._reading[index] = descriptors
            case Later(seconds=seconds):
                self._sleeping[index] = time.monotonic() + seconds
            case Needs(piece=other) if other in self.results:
                self._ready.append(index)
            case Needs(piece=other):
                self._needing[index] = other
                if other not in self._active:
                    self._waiting.setdefault(other, set())

    def _finish(self, index: int, result: Result) -> None:
        self.results[index] = result
        for needs in self._waiting.values():
            needs.discard(index)
        for one in [one for one, other in self._needing.items() if other == index]:
            del self._needing[one]
            self._ready.append(one)
