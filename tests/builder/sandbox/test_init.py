"""PID 1 at work. What it does for every executor is in tests/contracts/test_executor.py."""

import os
import signal
import time
from pathlib import Path

import pytest

from builder.sandbox import ExitStatus, init
from tests.support.sandboxes import Bench

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


def test_the_program_is_the_second_process(bench: Bench) -> None:
    assert bench.sh("echo $$ $PPID").lines == [f"{init.PROGRAM_PID} 1"]


def test_it_is_not_the_interpreter_any_more(bench: Bench) -> None:
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        place = Path(f"/proc/{running.init_pid}")
        assert str((place / "exe").readlink()).startswith("/memfd:lamina")
        assert (place / "cmdline").read_bytes() == b"lamina-init\0"
        assert (place / "environ").read_bytes() == b""
        names = sorted(path.name for path in (place / "fd").iterdir())
        assert names == ["0", "1", "2", "3"]
        null = os.makedev(1, 3)
        assert [(place / "fd" / name).stat().st_rdev for name in names[:3]] == [null] * 3
        assert str((place / "fd/3").readlink()).startswith("socket:")
        assert (place / "cwd").readlink() == Path("/")


def test_it_is_behind_the_walls_of_the_program(bench: Bench) -> None:
    lines = bench.sh("grep -E 'Cap(Prm|Eff|Bnd)|^Seccomp:' /proc/1/status").lines
    assert [line.split()[1] for line in lines] == ["00000000a80425fb"] * 3 + ["2"]


def test_it_takes_no_memory_to_speak_of(bench: Bench) -> None:
    assert int(bench.sh("grep VmRSS /proc/1/status").text.split()[1]) < 100


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGTRAP])
def test_programs_inside_cannot_end_or_stop_it(bench: Bench, number: int) -> None:
    script = f"trap '' SEGV TRAP; kill -{number:d} 1; sleep 0.05; grep State /proc/1/status"
    assert bench.sh(script).lines == ["State:\tS (sleeping)"]


def test_many_orphans_are_reaped_while_signals_arrive(bench: Bench) -> None:
    script = (
        "trap : USR1; echo ready; i=0; while [ $i -lt 200 ]; do (sleep 0 &); i=$((i+1)); done;"
        " sleep 0.2; for p in /proc/[0-9]*/stat; do read a b s r < $p; [ $s = Z ] && exit 1; done;"
        " exit 0"
    )
    with bench.background("/bin/sh", "-c", script) as running:
        for _ in range(50):
            os.kill(running.init_pid, signal.SIGUSR1)
            time.sleep(0.001)
        assert running.wait() == ExitStatus()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_signals_from_outside_are_passed_on(bench: Bench, number: int) -> None:
    script = f"trap 'exit 9' {number:d}; echo ready; while :; do sleep 0.01; done"
    with bench.background("/bin/sh", "-c", script) as running:
        os.kill(running.init_pid, number)
        assert running.wait() == ExitStatus(code=9)


@pytest.mark.parametrize("capabilities", [None, frozenset[str]()])
def test_signals_reach_programs_of_other_users(
    bench: Bench, capabilities: frozenset[str] | None
) -> None:
    """Also when the program may not signal anybody itself (CAP_KILL)."""
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    with bench.background(
        "/bin/sh", "-c", script, user="ada", capabilities=capabilities
    ) as running:
        os.kill(running.init_pid, signal.SIGTERM)
        assert running.wait() == ExitStatus(code=9)


def test_a_killed_init_is_told_as_killed(bench: Bench) -> None:
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        os.kill(running.init_pid, signal.SIGKILL)
        assert running.wait() == ExitStatus(signal=signal.SIGKILL)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_number_of_the_program_stands_in_the_code(machine: str) -> None:
    code = bytes.fromhex(init.CODE[machine])
    assert init._with_pid(code, init.PROGRAM_PID, machine) == code
    other = init._with_pid(code, 0x12345, machine)
    assert len(other) == len(code)
    changed = [at for at in range(len(code)) if code[at] != other[at]]
    assert 2 <= len(changed) <= 6
    assert max(changed) - min(changed) < 8
    if machine == "aarch64":  # mov w19, #0x2345; movk w19, #1, lsl #16
        assert bytes.fromhex("b36884523300a072") in other
    else:
        assert bytes.fromhex("bb45230100") in other
