"""What goes in and out of a running program: its streams, its log, its terminal, its signals.

    direct    the program has our descriptors; there is nothing to do but to wait (wiring.py)
    piped     pipes -> our descriptors and the log; our input -> a pipe
    terminal  our terminal (raw) -> pty -> our terminal and the log; also its size

Nothing here knows containers: `exec` attends a program as well.
"""

import _signal  # type: ignore[import-not-found]  # `signal` takes 2 ms for its enumerations
import os
import select
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

    from builder.runner.logs import LogWriter
    from builder.sandbox import Running

_READ_BYTES = 64 << 10
_PENDING_MAX = 1 << 20

Size = tuple[int, int]  # rows, columns


class Streams(NamedTuple):
    """Where the program's streams lead. None: nowhere (`stdin`: /dev/null).

    `size` tells the size of our terminal; None when there is none to follow.
    """

    stdin: int | None
    stdout: int | None
    stderr: int | None
    log: "LogWriter | None" = None
    size: Callable[[], Size | None] | None = None


class SignalProxy:
    """While entered, signals that come to us go to `running` instead.

    Before `start` they interrupt, so that what was prepared is undone; while it starts they wait,
    because the program may run already. A signal that is ignored (nohup) stays ignored.
    """

    _PROXIED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "IO", "PWR")

    def __init__(self, *, resized: Callable[[], None] | None = None) -> None:
        self.running: Running | None = None
        self._is_starting = False
        self._waiting: list[int] = []
        self._resized = resized
        self._before: list[tuple[int, object]] = []

    def __enter__(self) -> "SignalProxy":
        for name in self._PROXIED:
            self._handle(getattr(_signal, f"SIG{name}"), self._forward)
        if self._resized is not None:
            self._handle(_signal.SIGWINCH, self._resize)
        return self

    def start(self, start: "Callable[[], Running]") -> "Running":
        """Call `start`, and let its result have the signals from now on."""
        self._is_starting = True
        try:
            self.running = start()
        finally:
            self._is_starting = False
        for number in self._waiting:
            self.running.signal(number)
        return self.running

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            _signal.signal(number, handler)

    def _handle(self, number: int, handler: "Callable[[int, FrameType | None], None]") -> None:
        before = _signal.signal(number, handler)
        if before is _signal.SIG_IGN:
            _signal.signal(number, before)
        else:
            self._before.append((number, before))

    def _forward(self, number: int, frame: "FrameType | None") -> None:
        if self.running is not None:
            self.running.signal(number)
        elif self._is_starting:
            self._waiting.append(number)
        else:
            raise KeyboardInterrupt(number)

    def _resize(self, number: int, frame: "FrameType | None") -> None:
        if self._resized is not None and self.running is not None:
            self._resized()


class Feed:
    """Our input on its way to the program: `source` is ours, `sink` a pipe that does not block."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._pending = b""

    @property
    def wanted(self) -> tuple[int, int] | None:
        """The descriptor to wait for, and for what; None when there is nothing more to do."""
        if self._sink < 0:
            return None
        return (self._sink, select.POLLOUT) if self._pending else (self.source, select.POLLIN)

    def serve(self) -> None:
        """Read, or write, as `wanted` says."""
        try:
            if self._pending:
                self._pending = self._pending[os.write(self._sink, self._pending) :]
                return
            self._pending = os.read(self.source, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the program does not read any more, or our input is gone
            self._pending = b""
        if not self._pending:
            self.close()

    def close(self) -> None:
        """Let the program see the end of its input."""
        if self._sink >= 0:
            os.close(self._sink)
            self._sink = -1


def pump(
    readers: Mapping[int, str], streams: Streams, running: "Running", feed: Feed | None = None
) -> None:
    """Pass on what comes out of `readers` (descriptor -> "stdout" or "stderr") until all end.

    Who reads us may stop doing so: the program goes on, and so does its log. What outlives the
    program, and still holds its output, is not waited for.

    Args:
        feed: to be served meanwhile, until the program has ended.
    """
    outputs = {"stdout": streams.stdout, "stderr": streams.stderr}
    poller = select.poll()
    for reader in (*readers, running.fileno()):
        poller.register(reader, select.POLLIN)
    left = len(readers)
    has_ended = False
    while left or (feed is not None and not has_ended):
        fed = None if feed is None else feed.wanted
        if fed is not None:
            poller.register(*fed)
        ready = poller.poll(0 if has_ended else None)
        if fed is not None:
            poller.unregister(fed[0])
        if has_ended and not ready:
            return
        for reader, _ in ready:
            if feed is not None and fed is not None and reader == fed[0]:
                feed.serve()
                continue
            if reader not in readers:
                poller.unregister(reader)
                running.wait()
                has_ended, feed = True, None
                continue
            data = os.read(reader, _READ_BYTES)
            if not data:
                poller.unregister(reader)
                left -= 1
                continue
            name = readers[reader]
            if streams.log is not None:
                streams.log.add(name, data)
            output = outputs[name]
            if output is not None and not _write_all(output, data):
                outputs[name] = None


def pump_terminal(master: int, ended: int, streams: Streams) -> None:
    """Pass on between our terminal and the pty until the program has ended.

    Args:
        master: the pty's master side.
        ended: a descriptor that is readable once the program has ended.
        streams: `stdin` is None when nobody types.
    """
    os.set_blocking(master, False)
    poller = select.poll()
    poller.register(master, select.POLLIN)
    poller.register(ended, select.POLLIN)
    stdin = streams.stdin
    if stdin is not None:
        poller.register(stdin, select.POLLIN)
    output = streams.stdout
    pending = b""  # typed, and not yet taken by the program
    while True:
        ready = dict(poller.poll())
        if master in ready:
            if pending and ready[master] & select.POLLOUT:
                pending = pending[_write_some(master, pending) :]
            data = _read_terminal(master)
            if data:
                if streams.log is not None:
                    streams.log.add("stdout", data)
                if output is not None and not _write_all(output, data):
                    output = None
                continue  # all output first: what the program wrote last must not be lost
            if data == b"" and ended not in ready:
                # every process has closed the terminal: only the end is left to wait for
                poller.unregister(master)
                if stdin is not None:
                    poller.unregister(stdin)
                poller.poll()
                return
        if ended in ready:
            return
        if stdin is not None and stdin in ready:
            typed = os.read(stdin, _READ_BYTES)
            pending += typed
            if not typed:
                poller.unregister(stdin)
                stdin = None
        pending = pending[_write_some(master, pending) :] if pending else b""
        poller.modify(master, select.POLLIN | (select.POLLOUT if pending else 0))
        if stdin is not None:  # who types faster than the program reads has to wait
            poller.modify(stdin, select.POLLIN if len(pending) < _PENDING_MAX else 0)


def _read_terminal(master: int) -> bytes | None:
    """What is there; empty when nobody has the other side open, None when there is nothing now.

    EIO says that the other side is closed. The kernel looks for data before it looks for that: what
    was written and closed in between comes with the next read, and only a second EIO is the end.
    """
    for _ in range(2):
        try:
            return os.read(master, _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            continue
    return b""


def _write_some(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _write_all(fd: int, data: bytes) -> bool:
    """Write everything; False when nobody reads any more."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BlockingIOError:  # somebody made our output non-blocking: wait for room
        waiter = select.poll()
        waiter.register(fd, select.POLLOUT)
        waiter.poll()
        return _write_all(fd, bytes(view))
    except OSError:
        return False
    return True
