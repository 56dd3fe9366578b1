import os
import pty
import termios
from collections.abc import Iterator

import pytest

from builder.cli.terminal import RawTerminal, size


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def modes(fd: int) -> list[object]:
    return termios.tcgetattr(fd)


def is_raw(fd: int) -> bool:
    local = termios.tcgetattr(fd)[3]
    return not local & (termios.ICANON | termios.ECHO | termios.ISIG)


def test_the_terminal_is_raw_inside_and_as_before_outside(pair: tuple[int, int]) -> None:
    _, slave = pair
    before = modes(slave)
    assert not is_raw(slave)
    with RawTerminal(slave):
        assert is_raw(slave)
    assert modes(slave) == before


def test_it_is_restored_after_an_error(pair: tuple[int, int]) -> None:
    _, slave = pair
    before = modes(slave)
    with pytest.raises(KeyboardInterrupt), RawTerminal(slave):
        raise KeyboardInterrupt
    assert modes(slave) == before


def test_what_is_no_terminal_is_left_alone() -> None:
    reader, writer = os.pipe()
    with RawTerminal(reader), RawTerminal(-1):
        os.write(writer, b"x")
    os.close(reader)
    os.close(writer)


def test_the_size_is_that_of_the_first_terminal(pair: tuple[int, int]) -> None:
    _, slave = pair
    termios.tcsetwinsize(slave, (33, 111))
    reader, writer = os.pipe()
    assert size(reader, slave) == (33, 111)
    assert size(reader, writer) is None
    os.close(reader)
    os.close(writer)
