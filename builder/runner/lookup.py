"""Which containers run, and which process that is.

A process is known by its number and the time at which it began: a number that was given to another
process since names nobody.
"""

import time
from pathlib import Path

from builder.errors import WrongStateError
from builder.runner.container import ContainerRecord
from builder.runner.store import ContainerStore

_START_WAIT_S = 5.0
_START_POLL_S = 0.005


def running(containers: ContainerStore, word: str) -> ContainerRecord:
    """The container `word`, which must run.

    Raises:
        NoSuchContainerError, WrongStateError.
    """
    record = containers.find(word)
    now = started(containers, record)
    if now is None or start_time(now.pid) != now.pid_started:
        raise WrongStateError(name=record.name, state=record.state, wanted="running")
    return now


def started(containers: ContainerStore, record: ContainerRecord) -> ContainerRecord | None:
    """The record of a running container, None if it does not run.

    Its minder has the lock before it has a program: that moment is waited for. It owes nobody a
    message when it is over, so its record is read again.
    """
    deadline = time.monotonic() + _START_WAIT_S
    while containers.is_running(record.id):
        now = containers.read(record.id)
        if now is None or now.state == "running" or time.monotonic() > deadline:
            return now if now is not None and now.pid else None
        time.sleep(_START_POLL_S)
    return None


def start_time(pid: int) -> int:
    """When a process began, in ticks since boot: with its number it names the process for ever.

    0 for one that has ended, also while nobody has collected it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # from the third of proc(5), the state, on
    return 0 if fields[0] in "ZX" else int(fields[19])
