"""Signals without the standard module, whose enumerations cost 2 ms to import and 0.2 ms a mask.

`signal` is a thin layer over `_signal`; this is the part of it that is needed here, with numbers
for names.
"""

import _signal  # type: ignore[import-not-found]  # an extension module that has no stub
import os

from builder.sandbox import syscalls

SIGHUP: int = _signal.SIGHUP
SIGINT: int = _signal.SIGINT
SIGQUIT: int = _signal.SIGQUIT
SIGKILL: int = _signal.SIGKILL
SIGTERM: int = _signal.SIGTERM

_ALL: frozenset[int] = frozenset(_signal.valid_signals())
_OF_THE_C_LIBRARY = (32, 33)  # nptl(7): sigaction(3) refuses them, so only a parent can ignore them


def block_all() -> set[int]:
    """Block every signal for this thread. Returns what was blocked before."""
    before: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL)
    return before


def set_blocked(numbers: set[int]) -> None:
    """Block these and no others."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, numbers)


def send(pidfd: int, number: int) -> None:
    """Signal a process; nothing happens when it has ended."""
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def kill(pid: int, number: int) -> None:
    """Signal a process by its number; nothing happens when it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def ignore(number: int) -> None:
    """Ignore a signal from now on."""
    _signal.signal(number, _signal.SIG_IGN)


def use_default(*numbers: int) -> None:
    """Let signals act as they do by themselves."""
    for number in numbers:
        _signal.signal(number, _signal.SIG_DFL)


def use_defaults_for_ignored() -> None:
    """Before exec, which resets handlers but keeps what is ignored: Python ignores SIGPIPE."""
    use_default(*(n for n in _ALL if _signal.getsignal(n) == _signal.SIG_IGN))
    for number in _OF_THE_C_LIBRARY:
        syscalls.set_signal_action(number, _signal.SIG_DFL)
