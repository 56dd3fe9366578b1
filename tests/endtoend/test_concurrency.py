"""Any number of processes on one store: all succeed, and no work is done twice."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import traces
from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout
from tests.support.progress import executed
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
]

# Every run of a step gives something else: equal layers mean that it ran once.
SHARED = """\
FROM busybox
RUN head -c 16 /dev/urandom > /first; sleep 0.2
RUN head -c 16 /dev/urandom > /second
COPY data /data
"""


def start(store: Lamina, context: Path, text: str, tag: str, *more: str) -> subprocess.Popen[bytes]:
    file = context.parent / f"Dockerfile.{tag}"
    file.write_text(text)
    return store.start("build", "--progress=plain", "-t", tag, "-f", file, *more, context)


def ended(process: subprocess.Popen[bytes]) -> str:
    """What it told on its way to success."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return errors.decode()


@pytest.fixture
def filled(context: Path) -> Path:
    (context / "data").write_bytes(os.urandom(1 << 20))
    return context


def test_eight_builds_beside_one_that_prunes(busybox: Lamina, filled: Path) -> None:
    texts = [SHARED] * 4 + [f"{SHARED}RUN echo {number} > /own\n" for number in range(4)]
    builds = [start(busybox, filled, text, f"it{n}") for n, text in enumerate(texts)]
    rounds = 0
    while any(build.poll() is None for build in builds):
        busybox("system", "prune", "--force")
        busybox("builder", "prune", "--force")
        rounds += 1
    told = [ended(build) for build in builds]
    assert rounds >= 2
    busybox("fsck")
    layout = OciLayout(busybox.root)
    shared = {tuple(layout.layers(f"it{number}:latest")[:4]) for number in range(8)}
    assert len(shared) == 1, "every step that they share was carried out once"
    titles = [title.split("] ", 1)[1] for each in told for title in executed(each)]
    assert len(titles) == len(set(titles)) == 3 + 4
    assert not list((busybox.root / "lamina" / "claims").iterdir())


def test_builds_succeed_beside_one_that_prunes_everything(busybox: Lamina, filled: Path) -> None:
    """Nothing is kept for the next build, but what a build uses stays while it does."""
    keep = busybox.start("run", "--rm", "busybox", "sleep", "60")  # the base stays
    try:
        wait_until(lambda: busybox("ps", "-q").stdout != "")
        for number in range(3):
            texts = [f"{SHARED}RUN echo {number} {n} > /own\n" for n in (0, 0, 1, 2)]
            builds = [start(busybox, filled, text, f"it{n}") for n, text in enumerate(texts)]
            while any(build.poll() is None for build in builds):
                busybox("system", "prune", "--all", "--force")
            for build in builds:
                ended(build)
            busybox("fsck")
    finally:
        keep.kill()
        keep.communicate()


def test_a_killed_build_hands_its_step_to_those_who_wait(busybox: Lamina, filled: Path) -> None:
    word = f"3.{os.getpid()}1"
    text = f"FROM busybox\nRUN sleep {word}; head -c 16 /dev/urandom > /a\n"
    first = start(busybox, filled, text, "one")
    wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) >= 1)
    others = [start(busybox, filled, text, f"two{number}") for number in range(2)]
    time.sleep(0.5)
    first.kill()
    first.communicate()
    told = [ended(other) for other in others]
    assert sum(len(executed(each)) for each in told) == 1
    assert sum("waiting for another build" in each for each in told) == 2
    layout = OciLayout(busybox.root)
    assert layout.layers("two0:latest") == layout.layers("two1:latest")
    busybox("fsck")


def test_a_stopped_build_keeps_nobody_else_waiting(busybox: Lamina, filled: Path) -> None:
    word = f"60.{os.getpid()}1"
    stopped = start(busybox, filled, f"FROM busybox\nRUN sleep {word}\n", "one")
    try:
        wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) >= 1)
        os.killpg(stopped.pid, signal.SIGSTOP)
        ended(start(busybox, filled, SHARED, "two"))
        busybox("run", "--rm", "two", "cat", "/data", timeout_s=60)
        busybox("system", "prune", "--force", timeout_s=60)
        busybox("fsck", timeout_s=60)
    finally:
        os.killpg(stopped.pid, signal.SIGCONT)
        stopped.kill()
        stopped.communicate()
    wait_until(lambda: traces.processes_with(f"sleep\0{word}") == [])


def test_a_finished_step_can_be_used_while_the_next_one_runs(busybox: Lamina, filled: Path) -> None:
    word = f"60.{os.getpid()}2"
    quick = "FROM busybox\nRUN head -c 16 /dev/urandom > /first\n"
    long = start(busybox, filled, f"{quick}RUN sleep {word}\n", "long")
    try:
        wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) >= 1)
        told = ended(start(busybox, filled, quick, "quick"))
        assert executed(told) == []
    finally:
        long.kill()
        long.communicate()
