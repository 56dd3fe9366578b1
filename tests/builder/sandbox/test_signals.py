import os
import signal
import time
from pathlib import Path

from builder.sandbox import namespaces, signals, syscalls


def test_numbers_are_those_of_the_standard_module() -> None:
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGTERM"):
        assert getattr(signals, name) == getattr(signal, name)


def test_everything_is_blocked_and_given_back() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    before = signals.block_all()
    try:
        assert before == {signal.SIGUSR1}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert blocked >= set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    finally:
        signals.set_blocked(before)
    assert signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1}) == {signal.SIGUSR1}


def test_signals_to_what_has_ended_are_nothing() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    pidfd = os.pidfd_open(pid)
    signals.send(pidfd, signals.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    signals.send(pidfd, signals.SIGKILL)
    os.close(pidfd)


def test_what_is_ignored_becomes_default() -> None:
    def play() -> None:
        signals.ignore(signals.SIGINT)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signals.use_defaults_for_ignored()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
        assert callable(signal.getsignal(signal.SIGUSR1))  # exec will reset it

    assert namespaces.attempt(play) == 0


def test_so_do_the_signals_of_the_c_library() -> None:
    def ignored() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))

    def play() -> None:
        for number in (32, 33):
            syscalls.set_signal_action(number, signal.SIG_IGN)
        assert ignored() >> 31 & 3 == 3
        signals.use_defaults_for_ignored()
        assert ignored() == 0

    assert namespaces.attempt(play) == 0


def test_it_is_cheap() -> None:
    start = time.perf_counter()
    for _ in range(1000):
        signals.set_blocked(signals.block_all())
    assert time.perf_counter() - start < 0.2


def test_a_process_that_is_gone_cannot_be_killed_and_that_is_fine() -> None:
    signals.kill(os.getpid(), 0)
    signals.kill((1 << 22) - 1, signals.SIGKILL)
