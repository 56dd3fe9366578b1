"""Who each process is taken for: remembered for those that have asked, inherited by their children.

Touches no file but what /proc says of a process (see questions.py), and holds a pidfd for each that
it remembers.

Differs from real users: a process whose parent ended before its first question is who the first
program was.
"""

import os
import select
from collections.abc import Callable

from builder.sandbox.credentials import Credentials
from builder.sandbox.notification import Call
from builder.sandbox.questions import status

_GENERATIONS_MAX = 64


class Identities:
    """Those of all processes that have asked.

    Args:
        first: who the first program is.
        confirm: raises when the process that asks is gone, whose number may be another's.
        poller: is told of the pidfd of each process that is remembered.
    """

    def __init__(
        self, first: Credentials, confirm: Callable[[Call], None], poller: select.poll
    ) -> None:
        self._first = first
        self._confirm = confirm
        self._poller = poller
        self._known: dict[int, tuple[Credentials, int]] = {}  # by process; with a pidfd

    def are_all_root(self) -> bool:
        """Whether nobody has been anybody else."""
        return not self._known and self._first.owner == (0, 0)

    def of(self, call: Call) -> Credentials:
        """Those of the process that asks: its own, else those of the nearest known ancestor."""
        if not self._known:
            return self._first
        process = int(status(call.pid)[b"Tgid"])
        found = self.of_process(process)
        if process not in self._known:
            self._remember(call, process, found)
        return found

    def of_process(self, process: int) -> Credentials:
        """Those of any process: its own, else those of the nearest known ancestor."""
        for _ in range(_GENERATIONS_MAX):
            if process in self._known:
                return self._known[process][0]
            try:
                process = int(status(process)[b"PPid"])
            except OSError:
                break
        return self._first

    def change(self, call: Call, credentials: Credentials) -> None:
        """Who asks is somebody else from now on."""
        process = int(status(call.pid)[b"Tgid"])
        self._remember(call, process, credentials)

    def forget(self, pidfd: int) -> None:
        """A process has ended."""
        self._poller.unregister(pidfd)
        os.close(pidfd)
        for process, (_, known) in list(self._known.items()):
            if known == pidfd:
                del self._known[process]

    def _remember(self, call: Call, process: int, credentials: Credentials) -> None:
        if process in self._known:
            self._known[process] = (credentials, self._known[process][1])
            return
        pidfd = os.pidfd_open(process)
        try:
            self._confirm(call)
        except BaseException:
            os.close(pidfd)
            raise
        self._known[process] = (credentials, pidfd)
        self._poller.register(pidfd, select.POLLIN)
