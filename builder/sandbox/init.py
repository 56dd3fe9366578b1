"""PID 1 of a sandbox: reap what is orphaned, pass signals on, end with the program.

It has every signal blocked and waits for them one by one, so that a signal is never lost between
two steps, and so that those of the host's side arrive at all: the kernel drops signals for a PID 1
without a handler, but keeps blocked ones. SIGKILL and SIGSTOP from outside act as always.

When it exits, the kernel kills whatever is left in the pid namespace; only then is its end seen.
"""

import os

from builder.sandbox import signals


def mind(program_pid: int) -> int:
    """Reap until the program has ended. Returns its wait status."""
    while True:
        status = _reap(program_pid)
        if status is not None:
            return status
        number = signals.wait_for_any()
        if number != signals.SIGCHLD:
            try:
                os.kill(program_pid, number)
            except OSError:  # ended this moment, or a set-uid program that is not ours to signal
                pass


def _reap(program_pid: int) -> int | None:
    """Collect everything that has ended; the program's status when it was among it."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program_pid:
            found = status
