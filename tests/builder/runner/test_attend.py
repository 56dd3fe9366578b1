import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.runner.attend import SignalProxy, Streams, pump, pump_terminal
from builder.runner.logs import LogWriter, read_log
from builder.sandbox import ExitStatus
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.terminals import Typist


class Program:
    """Implements `Running`; writes down which signals come."""

    init_pid = 1
    terminal_fd: int | None = None
    network_fd: int | None = None

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._end = os.eventfd(0)
        self.was_waited_for = False

    def fileno(self) -> int:
        return self._end

    def end(self) -> None:
        os.eventfd_write(self._end, 1)

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        raise AssertionError("nobody asked for that")

    def is_full(self) -> bool:
        return False

    def wait(self) -> ExitStatus:
        self.was_waited_for = True
        return ExitStatus()


def test_signals_go_to_the_program() -> None:
    program = Program()
    with SignalProxy() as proxy:
        proxy.start(lambda: program)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
    assert program.signals == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def test_while_it_starts_they_wait_for_it() -> None:
    """It may run already, and have told whoever signals us."""
    program = Program()

    def start() -> Program:
        os.kill(os.getpid(), signal.SIGTERM)
        return program

    with SignalProxy() as proxy:
        proxy.start(start)
    assert program.signals == [signal.SIGTERM]


def test_a_failed_start_ends_the_waiting() -> None:
    def start() -> Program:
        raise OSError

    with SignalProxy() as proxy:
        with pytest.raises(OSError):
            proxy.start(start)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_before_there_is_a_program_they_interrupt() -> None:
    with SignalProxy(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.args == (signal.SIGTERM,)


def test_afterwards_they_act_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with SignalProxy():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = Program()
        with SignalProxy() as proxy:
            proxy.start(lambda: program)
            os.kill(os.getpid(), signal.SIGHUP)
        assert program.signals == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_resized_terminal_is_told() -> None:
    told: list[bool] = []
    with SignalProxy(resized=lambda: told.append(True)) as proxy:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert told == []  # nobody to tell
        proxy.start(Program)
        os.kill(os.getpid(), signal.SIGWINCH)
    assert told == [True]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def later(fd: int, data: bytes) -> None:
    """Write in a moment, and close."""

    def act() -> None:
        os.write(fd, data)
        os.close(fd)

    threading.Timer(0.05, act).start()


def test_pumping_goes_on_until_both_streams_end(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log")
    with pipe() as (out, to_out), pipe() as (err, to_err), pipe() as (seen, stdout):
        os.write(to_out, b"out\n")
        os.write(to_err, b"err\n")
        os.close(to_out)
        later(to_err, b"late\n")
        pump({out: "stdout", err: "stderr"}, Streams(None, stdout, None, log=log), Program())
        assert os.read(seen, 100) == b"out\n"
    log.close()
    assert sorted((x.stream, x.text) for x in read_log(tmp_path / "log")) == [
        ("stderr", "err\n"),
        ("stderr", "late\n"),
        ("stdout", "out\n"),
    ]


def test_the_end_of_the_program_is_seen_while_others_hold_its_output() -> None:
    """What shares the host's process numbers with it outlives it, until it is waited for."""

    class Ended(Program):
        def wait(self) -> ExitStatus:
            os.close(to_out)  # all of the sandbox is gone by then
            return super().wait()

    with pipe() as (out, to_out), pipe() as (seen, stdout):
        os.write(to_out, b"last words\n")
        program = Ended()
        program.end()
        pump({out: "stdout"}, Streams(None, stdout, None), program)
        assert program.was_waited_for
        assert os.read(seen, 100) == b"last words\n"


def test_a_reader_that_goes_away_does_not_stop_the_program_or_its_log(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log")
    with pipe() as (out, to_out), pipe() as (seen, stdout):
        os.close(seen)
        os.write(to_out, b"one\n")
        later(to_out, b"two\n")
        pump({out: "stdout"}, Streams(None, stdout, None, log=log), Program())
    log.close()
    assert [entry.text for entry in read_log(tmp_path / "log")] == ["one\n", "two\n"]


def test_an_output_that_does_not_block_gets_everything() -> None:
    data = os.urandom(1 << 20)
    collected: list[bytes] = []
    with pipe() as (out, to_out), pipe() as (seen, stdout):
        os.set_blocking(stdout, False)

        def feed() -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(to_out, view) :]
            os.close(to_out)

        def collect() -> None:
            while sum(map(len, collected)) < len(data):
                time.sleep(0.001)
                collected.append(os.read(seen, 1 << 16))

        threads = [threading.Thread(target=feed), threading.Thread(target=collect)]
        for thread in threads:
            thread.start()
        pump({out: "stdout"}, Streams(None, stdout, None), Program())
        for thread in threads:
            thread.join(timeout=20)
    assert b"".join(collected) == data


def on_terminal(program: str, stdin: int | None, stdout: int) -> int:
    """Run a Python program on a pty that is pumped here."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    ended = os.pidfd_open(process.pid)
    try:
        pump_terminal(master, ended, Streams(stdin, stdout, None))
    finally:
        os.close(master)
        os.close(ended)
    return process.wait(timeout=10)


def test_all_that_a_program_wrote_last_is_shown() -> None:
    with pipe() as (seen, stdout):
        assert on_terminal("print('x' * 3000); print('end')", None, stdout) == 0
        data = os.read(seen, 1 << 16)
    assert data.endswith(b"x\r\nend\r\n")


def test_what_comes_with_the_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may say that the other side is closed before it says what was written last."""
    shown_r, shown = os.pipe()
    master, slave = os.openpty()
    read, late = os.read, [b"last"]

    def once_too_early(fd: int, size: int) -> bytes:
        if fd != master or not late:
            return read(fd, size)
        os.write(slave, late.pop())
        os.close(slave)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    ended, end = os.pipe()
    monkeypatch.setattr(os, "read", once_too_early)
    os.write(slave, b"x")  # there is something to be read, and with it comes the rest
    os.close(end)
    pump_terminal(master, ended, Streams(None, shown, None))
    os.close(shown)
    assert read(shown_r, 100) == b"xlast"
    for fd in (master, ended, shown_r):
        os.close(fd)


def test_what_is_typed_comes_to_the_program() -> None:
    with pipe() as (typed, stdin), pipe() as (seen, stdout):
        os.write(stdin, b"hello\n")
        assert on_terminal("print(input().upper())", typed, stdout) == 0
        assert b"HELLO" in os.read(seen, 1 << 16)


def test_who_types_more_than_is_read_blocks_nothing() -> None:
    """The program reads nothing of it, and its output comes nevertheless."""
    with pipe() as (typed, stdin), tempfile.TemporaryFile() as shown:  # a pipe would fill with echo
        feeder = threading.Thread(target=lambda: os.write(stdin, b"x" * 60_000))
        feeder.start()
        program = "import time; time.sleep(0.3); print('done')"
        assert on_terminal(program, typed, shown.fileno()) == 0
        feeder.join(timeout=10)
        shown.seek(0)
        assert b"done" in shown.read()


def test_an_end_of_typing_is_not_the_end_of_the_program() -> None:
    with pipe() as (typed, stdin), pipe() as (seen, stdout):
        os.close(stdin)
        assert on_terminal("import time; time.sleep(0.2); print('still')", typed, stdout) == 0
        assert b"still" in os.read(seen, 1 << 16)


@pytest.fixture
def lamina_box(box: Commands) -> Lamina:
    return Lamina(root=box.root)


@pytest.mark.needs_overlay
@pytest.mark.parametrize("options", [("-it", "--rm"), ("-it",)], ids=["removed", "kept"])
def test_an_interactive_shell_works(lamina_box: Lamina, options: tuple[str, ...]) -> None:
    with Typist(lamina_box, "run", *options, "box", "sh") as typist:
        typist.wait_for(b"# ")
        typist.enter(b"echo $((6 * 7)) $TERM; tty\r")
        typist.wait_for(b"42 xterm")
        typist.wait_for(b"/dev/")
        typist.enter(b"exit 5\r")
        assert typist.end() == 5
        assert typist.is_restored


@pytest.mark.needs_overlay
def test_control_c_reaches_the_program_and_not_us(lamina_box: Lamina) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while true; do sleep 0.1; done"
    with Typist(lamina_box, "run", "-it", "--rm", "box", "sh", "-c", script) as typist:
        typist.wait_for(b"ready")
        typist.enter(b"\x03")
        typist.wait_for(b"caught")
        assert typist.end() == 9
        assert typist.is_restored


@pytest.mark.needs_overlay
def test_the_size_of_the_terminal_reaches_the_program_at_once_and_later(
    lamina_box: Lamina,
) -> None:
    script = "trap 'stty size' WINCH; stty size; while true; do sleep 0.1; done"
    line = ("run", "-it", "--rm", "box", "sh", "-c", script)
    with Typist(lamina_box, *line, size=(31, 101)) as typist:
        typist.wait_for(b"31 101")
        typist.resize(40, 120)
        typist.wait_for(b"40 120")
        typist.enter(b"\x03")
        assert typist.end() == 130


@pytest.mark.needs_overlay
def test_the_terminal_is_restored_when_we_are_told_to_end(lamina_box: Lamina) -> None:
    with Typist(lamina_box, "run", "-it", "--rm", "box", "sh", "-c", "echo on; sleep 60") as typist:
        typist.wait_for(b"on")
        assert not typist.is_restored
        typist.process.terminate()
        assert typist.end() == 143
        assert typist.is_restored


@pytest.mark.needs_overlay
def test_exec_has_a_terminal_too(lamina_box: Lamina) -> None:
    lamina_box("run", "-d", "--name", "web", "box", "sleep", "60")
    with Typist(lamina_box, "exec", "-it", "web", "sh", size=(17, 71)) as typist:
        typist.wait_for(b"# ")
        typist.enter(b"stty size; exit 4\r")
        typist.wait_for(b"17 71")
        assert typist.end() == 4
        assert typist.is_restored
