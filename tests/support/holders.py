"""Another process that holds something, and is killed with it.

with holder("from x import take; lease = take(); print(lease.name, flush=True)") as said:
    ...                      said: the line it has printed; it holds what it made
...                          it has been killed
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.cli import REPOSITORY


@contextmanager
def holder(program: str) -> Iterator[str]:
    """Run a program of Python until it has printed a line, and to the end of the `with`."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}\ninput()"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
        finally:
            process.kill()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, whoever is to be told of it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
