"""Programs in RUN and run that want too much, or do not want to end.

Each ends in bounded time, what it failed for is told, nothing of it is left, and the next build
works. Fork bombs are in tests/builder/test_watch.py, with a limit too small to be noticed.
"""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import traces
from tests.support.cli import Lamina, command
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
]

HOG = "tail /dev/zero"
DEAF = "trap '' HUP INT QUIT TERM USR1 USR2; echo deaf; while :; do sleep 4979; done"


def built(busybox: Lamina, context: Path, text: str, *options: str, code: int = 0) -> str:
    (context / "Dockerfile").write_text(f"FROM busybox\n{text}\n")
    done = busybox("build", "--progress=plain", *options, context, check=False, timeout_s=60)
    assert done.returncode == code, done.stderr
    return done.stderr


class TestMemory:
    def test_a_hog_in_a_build(self, busybox: Lamina, context: Path) -> None:
        said = built(busybox, context, f"RUN {HOG}", "-m", "32m", code=1)
        assert f"process '/bin/sh -c {HOG}' killed: out of memory (limit 32m)" in said
        assert f"RUN {HOG}" in said
        built(busybox, context, "RUN echo fine", "-m", "32m")

    def test_one_that_hides_behind_a_shell(self, busybox: Lamina, context: Path) -> None:
        text = f"RUN {HOG}; echo it went on with $?; exit 3"
        said = built(busybox, context, text, "--resource", "memory=32m", code=1)
        assert "killed: out of memory (limit 32m)" in said

    def test_a_hog_in_a_container(self, busybox: Lamina) -> None:
        line = ("run", "--name=hog", "-m=32m", "busybox", "tail", "/dev/zero")
        done = busybox(*line, check=False)
        assert done.returncode == 137
        assert done.stderr == "lamina: killed: out of memory (limit 32m)\n"
        form = "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}"
        assert busybox("inspect", "-f", form, "hog").stdout == "true 137 exited\n"
        assert "Exited (137)" in busybox("ps", "-a").stdout
        assert "(out of memory)" in busybox("ps", "-a").stdout
        busybox("rm", "hog")

    def test_a_program_within_its_limit_is_no_hog(self, busybox: Lamina) -> None:
        busybox("run", "--name=fine", "-m=32m", "busybox", "true")
        assert busybox("inspect", "-f", "{{.State.OOMKilled}}", "fine").stdout == "false\n"
        busybox("rm", "fine")

    def test_the_least_memory_there_may_be_is_enough_to_start(self, busybox: Lamina) -> None:
        assert busybox("run", "--rm", "-m=6m", "busybox", "echo", "hi").stdout == "hi\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_of_a_program_that_ignores_signals_can_be_interrupted(
    busybox: Lamina, context: Path, number: signal.Signals
) -> None:
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN {DEAF}\n")
    build = busybox.start("build", "--progress=plain", context)
    wait_until(lambda: len(traces.processes_with("sleep\x004979")) > 0)
    start = time.monotonic()
    build.send_signal(number)
    build.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert build.returncode == 128 + number
    assert traces.processes_with("4979") == []
    built(busybox, context, "RUN echo fine")


def test_so_can_one_of_a_program_that_has_stopped_itself(busybox: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN sleep 4981 & kill -STOP $$\n")
    build = busybox.start("build", "--progress=plain", context)
    wait_until(lambda: len(traces.processes_with("sleep\x004981")) > 0)
    build.send_signal(signal.SIGINT)
    build.communicate(timeout=20)
    assert build.returncode == 130
    assert traces.processes_with("4981") == []


def test_what_ignores_signals_beside_the_program_ends_with_it(
    busybox: Lamina, context: Path
) -> None:
    start = time.monotonic()
    text = f'RUN sh -c "{DEAF}" & sleep 0.3; echo done'
    said = built(busybox, context, text.replace("4979", "4980"))
    assert "done" in said
    assert time.monotonic() - start < 20
    assert traces.processes_with("4980") == []


def test_a_container_that_ignores_signals_is_stopped(busybox: Lamina) -> None:
    busybox("run", "-d", "--name=deaf", "busybox", "sh", "-c", DEAF.replace("4979", "4982"))
    wait_until(lambda: "deaf" in busybox("logs", "deaf").stdout)
    start = time.monotonic()
    busybox("stop", "-t", "1", "deaf")
    assert 0.9 < time.monotonic() - start < 8
    assert busybox("inspect", "-f", "{{.State.ExitCode}}", "deaf").stdout == "137\n"
    busybox("rm", "deaf")


@pytest.mark.needs_peers("unshare")
class TestDisk:
    """On a small file system in memory, in a mount namespace of its own."""

    def on_small_disk(self, tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
        small = tmp_path / "small"
        small.mkdir()
        lamina = " ".join(command())
        setup = (
            f'mount -t tmpfs -o size=24m tmpfs {small}; lamina() {{ {lamina} "$@"; }};'
            f" export LAMINA_ROOT={small}/store; cd {tmp_path};"
            " lamina bootstrap busybox >/dev/null;"
        )
        return subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", setup + script],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def test_a_filler_fails_and_the_next_build_works(self, context: Path, tmp_path: Path) -> None:
        (context / "Dockerfile").write_text("FROM busybox\nRUN cat /dev/zero > /big\n")
        (context / "small").write_text("FROM busybox\nRUN echo fine > /small\n")
        done = self.on_small_disk(
            tmp_path,
            "lamina build --progress=plain context; echo code $?;"
            " lamina build -q -t small -f context/small context >/dev/null; echo code $?;"
            " lamina run --rm small cat /small; lamina fsck; echo code $?",
        )
        assert "No space left on device" in done.stderr
        assert "exit code: 1 (the disk of the store is full)" in done.stderr
        lines = done.stdout.splitlines()
        assert [line for line in lines if line.startswith("code")] == ["code 1", "code 0", "code 0"]
        assert "fine" in lines

    def test_one_that_does_not_care_fails_as_well(self, context: Path, tmp_path: Path) -> None:
        """Its layer cannot be written."""
        text = "FROM busybox\nRUN cat /dev/urandom > /big; echo never mind\n"
        (context / "Dockerfile").write_text(text)
        done = self.on_small_disk(
            tmp_path,
            "lamina build --progress=plain -t big context; echo code $?;"
            " lamina images -q big; lamina fsck; echo code $?",
        )
        assert [line for line in done.stdout.splitlines() if line.startswith("code")] == [
            *("code 1", "code 0"),
        ]
        assert "never mind" in done.stderr
        assert "No space left on device" in done.stderr.splitlines()[-1]
