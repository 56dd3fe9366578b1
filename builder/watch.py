"""An end for programs that would go on for ever: fork bombs.

The limit of processes alone keeps the machine alive, and a bomb that goes on trying uses up a
processor until somebody looks. A program that has been at its limit for some seconds is ended.
"""

import os

from builder.sandbox import Running, open_timer

INTERVAL_S = 2  # looking costs a fork
PATIENCE = 3  # so many times in a row


class ProcessWatch:
    """Looks at a program now and then. `descriptors` and `serve` as of AgentRelay."""

    def __init__(self, running: Running) -> None:
        self.has_ended_it = False
        self._running = running
        self._timer_fd = open_timer(INTERVAL_S)
        self._times = 0

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to poll for input."""
        return (self._timer_fd,)

    def serve(self, fd: int) -> None:
        """Look at the program, and end it if it is time."""
        os.read(fd, 8)
        self._times = self._times + 1 if self._running.is_full() else 0
        if self._times >= PATIENCE:
            self.has_ended_it = True
            self._running.kill()

    def close(self) -> None:
        os.close(self._timer_fd)
