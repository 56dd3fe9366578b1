"""A command on a terminal of its own, with somebody who types and looks."""

import os
import pty
import select
import signal
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cli import Lamina, command


class Typist:
    """`lamina WORDS` on a pty; a context manager."""

    def __init__(
        self, lamina: Lamina, *words: str | Path, size: tuple[int, int] = (24, 80)
    ) -> None:
        self.seen = b""
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, size)
        self.before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [*command(), *map(str, words)],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=lamina.environment({"TERM": "xterm"}),
            start_new_session=True,
        )

    def enter(self, data: bytes) -> None:
        os.write(self._master, data)

    def wait_for(self, data: bytes, timeout_s: float = 20) -> None:
        """Wait until `data` has been shown since the last wait."""
        deadline = time.monotonic() + timeout_s
        while data not in self.seen:
            left = deadline - time.monotonic()
            ready = select.select([self._master], [], [], max(left, 0))[0]
            assert ready, f"{data!r} never came: {self.seen!r}"
            self.seen += os.read(self._master, 4096)
        self.seen = self.seen[self.seen.index(data) + len(data) :]

    def resize(self, rows: int, columns: int) -> None:
        """Another size, and the signal that the kernel sends to who has the terminal."""
        termios.tcsetwinsize(self._master, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    def end(self, timeout_s: float = 20) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            if select.select([self._master], [], [], 0.02)[0]:
                self.seen += os.read(self._master, 4096)
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 4096)
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the command."""
        return termios.tcgetattr(self._slave) == self.before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
