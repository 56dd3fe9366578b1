"""What a command has of the process it runs in."""

import signal
import subprocess
import sys

import pytest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

BEGIN = """
import os, sys, time
from builder.cli import _interrupt_by_signals
_interrupt_by_signals()
me, number = os.getpid(), int(sys.argv[1])
"""
END = """
try:
    time.sleep(20)
except KeyboardInterrupt as error:
    print("interrupted", *error.args)
"""
# A signal that comes while Python ignores what is raised.
AT_A_FORK = """
os.register_at_fork(after_in_parent=lambda: os.kill(me, number))
if os.fork() == 0:
    os._exit(0)
"""
IN_A_FINALIZER = """
class Last:
    def __del__(self):
        os.kill(me, number)
Last()
"""
TWICE = """
count = 0
class Last:
    def __del__(self):
        global count
        count += 1
        os.kill(me, number)
Last()
Last()
"""


def run(program: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program + END, str(int(number))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("program", [AT_A_FORK, IN_A_FINALIZER, TWICE])
def test_a_signal_is_not_lost_where_exceptions_are_ignored(
    number: signal.Signals, program: str
) -> None:
    done = run(program, number)
    # Ctrl-C raises without a number: what is written of it has none either
    words = [] if number == signal.SIGINT else [str(int(number))]
    assert (done.stdout.split(), done.stderr) == (["interrupted", *words], "")


def test_what_else_is_ignored_is_told_as_ever() -> None:
    program = "class Last:\n    def __del__(self):\n        raise ValueError('odd')\nLast()\n"
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, "2"], capture_output=True, text=True, check=True
    )
    assert "Exception ignored in" in done.stderr
    assert "ValueError: odd" in done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_at_once(number: signal.Signals) -> None:
    done = run("import threading\nthreading.Timer(0.1, os.kill, (me, number)).start()\n", number)
    assert done.stdout.startswith("interrupted")
