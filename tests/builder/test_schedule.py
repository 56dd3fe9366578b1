"""Work side by side: order, limits, waiting, and how it ends."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.schedule import PAUSE, Later, Needs, Readable, Work, run_all
from tests.support.work import run_one


class Log:
    """What happened, and how many pieces were under way at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.running = 0
        self.running_max = 0

    def piece(self, index: int, *, turns: int = 3) -> Work[int]:
        """Takes `turns` turns, and gives ten times its number."""
        self.lines.append(f"begin {index}")
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            for _ in range(turns):
                yield PAUSE
            self.lines.append(f"end {index}")
            return index * 10
        except GeneratorExit:
            self.lines.append(f"close {index}")
            raise
        finally:
            self.running -= 1


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def test_one_piece_gives_its_result() -> None:
    assert run_one(Log().piece(7)) == 70


def test_nothing_to_do_is_done_at_once() -> None:
    assert run_all({}, Log().piece, jobs=1) == {}


def test_pieces_take_turns() -> None:
    log = Log()
    assert run_all({1: (), 2: ()}, log.piece, jobs=2) == {1: 10, 2: 20}
    assert log.lines == ["begin 1", "begin 2", "end 1", "end 2"]


def test_with_one_job_they_come_one_after_the_other() -> None:
    log = Log()
    run_all({1: (), 2: (), 3: ()}, log.piece, jobs=1)
    assert log.lines == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


def test_what_is_needed_comes_first() -> None:
    log = Log()
    run_all({3: (1, 2), 1: (), 2: (1,)}, log.piece, jobs=4)
    assert log.lines == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


@given(
    needs=st.integers(1, 12).flatmap(
        lambda size: st.tuples(
            *(
                st.sets(st.integers(0, index - 1)) if index else st.just(set())
                for index in range(size)
            )
        )
    ),
    jobs=st.integers(1, 4),
    turns=st.lists(st.integers(0, 4), min_size=12, max_size=12),
)
def test_any_graph_is_carried_out(needs: tuple[set[int], ...], jobs: int, turns: list[int]) -> None:
    log = Log()
    pieces = dict(enumerate(needs))
    results = run_all(pieces, lambda index: log.piece(index, turns=turns[index]), jobs=jobs)
    assert results == {index: index * 10 for index in pieces}
    assert log.running_max <= jobs
    for index, needed in pieces.items():
        for other in needed:
            assert log.lines.index(f"end {other}") < log.lines.index(f"begin {index}")


def asking(index: int, log: Log) -> Work[int]:
    if index:
        return log.piece(index)
    return _asking(log)


def _asking(log: Log) -> Work[int]:
    log.lines.append("ask for 5")
    yield Needs(5)
    log.lines.append("got it")
    yield Needs(5)
    return 0


def test_a_need_can_turn_up_later() -> None:
    """Also with one job: who waits for another leaves it its place."""
    log = Log()
    results = run_all({0: (), 5: ()}, lambda index: asking(index, log), jobs=1)
    assert results == {0: 0, 5: 50}
    assert log.lines == ["ask for 5", "begin 5", "end 5", "got it"]


def test_a_piece_that_only_another_one_asks_for_is_begun_too() -> None:
    log = Log()
    assert run_all({0: ()}, lambda index: asking(index, log), jobs=1) == {0: 0, 5: 50}


def test_who_reads_is_waked_when_there_is_something() -> None:
    """One writes after a while what the other waits for; nobody spins meanwhile."""
    with pipe() as (reader, writer):
        turns = 0

        def read() -> Work[bytes]:
            nonlocal turns
            turns += 1
            yield Readable((reader,))
            return os.read(reader, 10)

        def write() -> Work[bytes]:
            for _ in range(100):
                yield PAUSE
            os.write(writer, b"there")
            return b""

        results = run_all({0: (), 1: ()}, lambda index: (read, write)[index](), jobs=2)
    assert results[0] == b"there"
    assert turns == 1


def test_who_sleeps_lets_the_others_go_on() -> None:
    order = []

    def work(index: int) -> Work[int]:
        yield Later(0.05 * index)
        order.append(index)
        yield Later(0)
        return index

    start = time.monotonic()
    assert run_all({3: (), 1: (), 2: ()}, work, jobs=3) == {1: 1, 2: 2, 3: 3}
    assert order == [1, 2, 3]
    assert time.monotonic() - start >= 0.15


def test_programs_run_at_the_same_time() -> None:
    def sleep(_: int) -> Work[int]:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "0.5"], {})
        pidfd = os.pidfd_open(pid)
        yield Readable((pidfd,))
        os.close(pidfd)
        return os.waitpid(pid, 0)[1]

    start = time.monotonic()
    assert run_all(dict.fromkeys(range(8), ()), sleep, jobs=8) == dict.fromkeys(range(8), 0)
    assert time.monotonic() - start < 3.5  # one after the other it is more than 4


class Failed(Exception):
    pass


def failing(error: type[BaseException]) -> Callable[[int], Work[int]]:
    def work(_: int) -> Work[int]:
        yield PAUSE
        raise error

    return work


@pytest.mark.parametrize("error", [Failed, KeyboardInterrupt])
def test_an_error_closes_the_others(error: type[BaseException]) -> None:
    log = Log()

    def begin(index: int) -> Work[int]:
        return failing(error)(index) if index == 1 else log.piece(index, turns=9)

    with pytest.raises(error):
        run_all({0: (), 1: (), 2: (), 3: ()}, begin, jobs=3)
    assert log.lines == ["begin 0", "begin 2", "close 0", "close 2"]
    assert log.running == 0


def test_an_error_while_closing_leaves_none_open() -> None:
    log = Log()

    def stubborn() -> Work[int]:
        try:
            yield PAUSE
            yield PAUSE
        finally:
            raise Failed

    def begin(index: int) -> Work[int]:
        works = [log.piece(0, turns=9), stubborn(), log.piece(2, turns=9), failing(OSError)(3)]
        return works[index]

    with pytest.raises(Failed):
        run_all(dict.fromkeys(range(4), ()), begin, jobs=4)
    assert log.lines[-2:] == ["close 2", "close 0"]


def test_pieces_that_wait_for_one_another_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="wait for one another"):
        run_all({0: (1,), 1: (0,)}, Log().piece, jobs=2)


def test_who_is_idle_is_told_and_asked_when_to_be_told_again() -> None:
    told: list[float] = []

    def idle() -> float:
        told.append(time.monotonic())
        return 0.02

    def sleeper(index: int) -> Work[int]:
        yield Later(0.11)
        return index

    assert run_all({1: ()}, sleeper, jobs=1, idle=idle) == {1: 1}
    assert 3 <= len(told) <= 7
    assert told[-1] - told[0] >= 0.05


def test_a_reader_is_not_kept_from_reading_by_the_idle() -> None:
    with pipe() as (reader, writer):
        told: list[int] = []

        def idle() -> float | None:
            told.append(1)
            if len(told) == 3:
                os.write(writer, b"x")
                return None
            return 0.001

        def read(index: int) -> Work[bytes]:
            yield Readable((reader,))
            return os.read(reader, 1)

        assert run_all({0: ()}, read, jobs=1, idle=idle) == {0: b"x"}
        assert len(told) == 3


def test_nobody_is_idle_while_somebody_is_ready() -> None:
    told: list[int] = []

    def idle() -> float | None:
        told.append(1)
        return None

    assert run_all({1: (), 2: ()}, Log().piece, jobs=2, idle=idle) == {1: 10, 2: 20}
    assert told == []
