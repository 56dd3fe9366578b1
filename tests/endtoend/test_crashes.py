"""SIGKILL at random moments: the store is sound each time, and the work can be done again.

How long an undisturbed run takes is measured first; the moments are drawn from 0 to 1.1 of it.
LAMINA_KILLS says how often each command is killed (`LAMINA_KILLS=200` for the whole proof).
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
    pytest.mark.timeout(3600),
]

KILLS = int(os.environ.get("LAMINA_KILLS", "6"))
ENV = {"SOURCE_DATE_EPOCH": "1700000000"}
DOCKERFILE = """\
FROM busybox AS other
ARG ROUND
RUN echo $ROUND > /other && mkdir /d && for n in 1 2 3 4 5 6 7 8 9; do echo $n > /d/$n; done
FROM busybox
ARG ROUND
COPY data /data
RUN md5sum /data > /sum; echo $ROUND >> /sum
WORKDIR /made
RUN rm /data; mkdir /e; ln -s /sum /e/link; ln /sum /e/hard
COPY --from=other /d /d
"""


class Killer:
    """Kills runs of a command, some alone and some with all that they have started."""

    def __init__(self, lamina: Lamina) -> None:
        self.lamina = lamina
        self._chance = random.Random(42)
        self.killed = 0

    def duration_s(self, *args: str | Path) -> float:
        started = time.monotonic()
        self.lamina(*args, env=ENV)
        return time.monotonic() - started

    def kill(self, within_s: float, *args: str | Path) -> None:
        """Start it and kill it, unless it ends before; the store is clean afterwards."""
        process = self.lamina.start(*args, env=ENV)
        delay_s = self._chance.uniform(0, 1.1 * within_s)
        try:
            _, errors = process.communicate(timeout=delay_s)
        except subprocess.TimeoutExpired:
            self.killed += 1
            if self._chance.random() < 0.5:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        else:
            assert process.returncode == 0, errors.decode()
        found = self.lamina("fsck", check=False)
        assert found.returncode == 0, f"killed after {delay_s:.3f} s: {found.stdout}"

    def nothing_is_left(self) -> None:
        self.lamina("images")  # whatever opens the store sweeps it
        assert list((self.lamina.root / "lamina" / "tmp").iterdir()) == []
        self.lamina("fsck")
        assert self.killed >= KILLS // 4, "it was hardly ever killed"


@pytest.fixture
def killer(busybox: Lamina) -> Killer:
    return Killer(busybox)


@pytest.fixture
def digest(busybox: Lamina, context: Path, tmp_path: Path) -> str:
    """What an undisturbed build of round 0 gives, in another store."""
    (context / "data").write_bytes(random.Random(1).randbytes(1 << 20))
    (context / "Dockerfile").write_text(DOCKERFILE)
    undisturbed = Lamina(root=tmp_path / "undisturbed")
    undisturbed("bootstrap", "busybox")
    undisturbed("build", "--build-arg=ROUND=0", "-t", "it", context, env=ENV)
    return OciLayout(undisturbed.root).names()["it:latest"]


def build(context: Path, number: int) -> tuple[str | Path, ...]:
    return ("build", f"--build-arg=ROUND={number}", "-t", f"it:{number}", context)


def test_killed_builds_leave_a_good_store(killer: Killer, context: Path, digest: str) -> None:
    """Some rounds find steps of earlier ones, and some a cache that was emptied."""
    within_s = killer.duration_s(*build(context, 1000))
    for number in range(KILLS):
        if number % 20 == 19:
            killer.lamina("builder", "prune", "--all", "--force")
        killer.kill(within_s, *build(context, number % 7))
    killer.lamina(*build(context, 0), env=ENV)
    assert OciLayout(killer.lamina.root).names()["it:0"] == digest
    killer.nothing_is_left()


def test_killed_loads_leave_a_good_store(
    killer: Killer, context: Path, digest: str, tmp_path: Path
) -> None:
    archive = tmp_path / "it.tar"
    maker = Lamina(root=tmp_path / "undisturbed")
    maker("save", "-o", archive, "it")
    load = ("load", "-i", archive)
    within_s = killer.duration_s(*load)
    for _ in range(KILLS):
        remove_all(killer.lamina)
        killer.kill(within_s, *load)
    killer.lamina(*load)
    assert OciLayout(killer.lamina.root).names()["it:latest"] == digest
    killer.nothing_is_left()


def test_killed_imports_leave_a_good_store(
    killer: Killer, context: Path, digest: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree.tar"
    maker = Lamina(root=tmp_path / "undisturbed")
    maker("build", "--build-arg=ROUND=0", "-o", f"type=tar,dest={tree}", context, env=ENV)
    take = ("import", tree, "tree")
    within_s = killer.duration_s(*take)
    wanted = OciLayout(killer.lamina.root).names()["tree:latest"]
    for _ in range(KILLS):
        remove_all(killer.lamina)
        killer.kill(within_s, *take)
    killer.lamina(*take, env=ENV)
    assert OciLayout(killer.lamina.root).names()["tree:latest"] == wanted
    killer.nothing_is_left()


def remove_all(lamina: Lamina) -> None:
    lamina("system", "prune", "--all", "--force")


@pytest.mark.parametrize(
    "command",
    [
        ("system", "prune", "--all", "--force"),
        ("builder", "prune", "--all", "--force"),
        ("rmi", "it:0"),
    ],
    ids=lambda words: words[0],
)
def test_killed_removals_leave_a_good_store(
    killer: Killer, context: Path, digest: str, command: tuple[str, ...]
) -> None:
    lamina = killer.lamina
    lamina(*build(context, 0), env=ENV)
    within_s = killer.duration_s(*command)
    for _ in range(KILLS):
        lamina("bootstrap", "busybox")
        lamina(*build(context, 0), env=ENV)
        killer.kill(within_s, *command)
    lamina("bootstrap", "busybox")
    lamina(*build(context, 0), env=ENV)
    assert OciLayout(lamina.root).names()["it:0"] == digest
    killer.nothing_is_left()


def test_killed_saves_leave_a_whole_archive_or_none(
    killer: Killer, context: Path, digest: str, tmp_path: Path
) -> None:
    killer.lamina(*build(context, 0), env=ENV)
    folder = tmp_path / "out"
    folder.mkdir()
    archive = folder / "it.tar"
    save = ("save", "-o", archive, "it:0")
    within_s = killer.duration_s(*save)
    whole = archive.read_bytes()
    for _ in range(KILLS):
        archive.unlink(missing_ok=True)
        killer.kill(within_s, *save)
        assert not archive.exists() or archive.read_bytes() == whole
    killer.lamina(*save)
    assert [path.name for path in folder.iterdir()] == [archive.name]
    killer.nothing_is_left()


def test_killed_exports_leave_a_good_layout(
    killer: Killer, context: Path, digest: str, tmp_path: Path
) -> None:
    """What was in the layout before stays, and what is there is whole."""
    layout = tmp_path / "layout"

    def export(number: int) -> tuple[str | Path, ...]:
        output = f"type=oci,tar=false,name=it:{number},dest={layout}"
        return ("build", f"--build-arg=ROUND={number}", "-o", output, context)

    killer.lamina(*export(0), env=ENV)
    wanted = OciLayout(layout).names()["it:0"]
    within_s = killer.duration_s(*export(1000))
    reader = Lamina(root=tmp_path / "reader")
    for number in range(1, KILLS + 1):
        killer.kill(within_s, *export(number))
        reader("load", "-i", layout)
    killer.lamina(*export(0), env=ENV)
    assert OciLayout(layout).names()["it:0"] == wanted
    assert not list(layout.rglob(".lamina*"))
    reader("load", "-i", layout)
    reader("fsck")
    killer.nothing_is_left()
