"""Nothing else is touched, nothing is left behind: after success, failure, Ctrl-C, SIGKILL."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.support import traces
from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout
from tests.support.progress import executed
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A tree that looks like a user's and that nothing has a reason to change."""
    root = tmp_path / "canary"
    for name in ("home/.config/app", "tmp", "etc", "work"):
        (root / name).mkdir(parents=True)
    (root / "home/.bashrc").write_text("alias ll='ls -l'\n")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/passwd").chmod(0o600)
    (root / "work/link").symlink_to("../etc/passwd")
    (root / "work/pipe").touch()
    return root


def test_nothing_outside_the_store_changes(
    busybox: Lamina, context: Path, canary: Path, tmp_path: Path
) -> None:
    """The Dockerfile does its best to reach the canary, by its name and through links."""
    (context / "outside").symlink_to(canary / "etc")
    (context / "relative").symlink_to("../canary/etc")
    (context / "file").write_text("mine now\n")
    (context / "Dockerfile").write_text(
        f"""\
FROM busybox
RUN mkdir -p {canary} && rm -rf {canary} && ln -s {canary}/etc /esc && ln -s / /all
COPY file /esc/passwd
COPY file /all{canary}/etc/passwd
COPY . {canary}/work/
WORKDIR /esc/made
RUN touch {canary}/home/.bashrc /esc/new; chmod 777 /esc; rm -rf {canary}/* /all{canary}/* ; true
USER 1000
RUN rm -rf {canary}; true
"""
    )
    before = traces.snapshot(canary) | traces.snapshot(context)
    env = {"HOME": str(canary / "home"), "TMPDIR": str(canary / "tmp"), "XDG_CACHE_HOME": ""}
    iidfile = tmp_path / "iid"
    options = ["--progress", "plain", "-t", "it", "--iidfile", str(iidfile)]
    busybox("build", *options, context, cwd=canary / "work", env=env)
    assert iidfile.read_text().startswith("sha256:")
    busybox("build", *options, context, cwd=canary / "work", env=env)
    busybox("run", "--rm", "it", "sh", "-c", f"rm -rf {canary}; true", cwd=canary / "work", env=env)
    assert traces.snapshot(canary) | traces.snapshot(context) == before


def test_a_build_leaves_no_process_and_no_mount(busybox: Lamina, context: Path) -> None:
    word = f"1{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(
        f"FROM busybox\nRUN sleep {word} & echo started\nRUN (setsid sleep {word} &) ; echo\n"
        f"RUN sh -c 'trap \"\" TERM INT HUP; sleep {word}' & true\n"
    )
    busybox("build", "-t", "it", context, timeout_s=60)
    assert traces.processes_with(word) == []


def test_a_failed_build_leaves_no_process_and_no_image(busybox: Lamina, context: Path) -> None:
    word = f"2{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN sleep {word} & exit 3\n")
    failed = busybox("build", "-t", "it", context, check=False, timeout_s=60)
    assert failed.returncode == 1
    assert traces.processes_with(word) == []
    assert "it:latest" not in OciLayout(busybox.root).names()
    busybox("fsck")


def started_build(store: Lamina, context: Path, word: str) -> subprocess.Popen[bytes]:
    """A build that is in the middle of its second RUN, two processes deep."""
    (context / "big").write_bytes(os.urandom(1 << 20))
    (context / "Dockerfile").write_text(
        "FROM busybox\nCOPY big /big\nRUN echo done > /first\n"
        f"RUN (setsid sleep {word} &) ; sleep {word}; echo never > /second\n"
    )
    build = store.start("build", "--progress", "plain", "-t", "it", context)
    wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) >= 2)
    return build


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_an_interrupted_build_leaves_nothing(
    busybox: Lamina, context: Path, number: signal.Signals
) -> None:
    word = f"3{uuid.uuid4().int % 10**8:08}"
    build = started_build(busybox, context, word)
    build.send_signal(number)
    _, errors = build.communicate(timeout=15)
    assert build.returncode in (128 + number, 1, -number)
    assert b"Traceback" not in errors
    assert traces.processes_with(word) == []
    _nothing_is_broken(busybox, context)


def test_ctrl_c_at_the_terminal_reaches_the_whole_group(busybox: Lamina, context: Path) -> None:
    """A terminal signals every process of the foreground group, not one."""
    word = f"4{uuid.uuid4().int % 10**8:08}"
    build = started_build(busybox, context, word)
    os.killpg(build.pid, signal.SIGINT)
    _, errors = build.communicate(timeout=15)
    assert build.returncode != 0
    assert b"Traceback" not in errors
    assert traces.processes_with(word) == []
    _nothing_is_broken(busybox, context)


def test_a_killed_build_leaves_nothing_that_the_next_command_does_not_sweep(
    busybox: Lamina, context: Path
) -> None:
    word = f"5{uuid.uuid4().int % 10**8:08}"
    build = started_build(busybox, context, word)
    build.kill()
    build.communicate(timeout=15)
    wait_until(lambda: traces.processes_with(word) == [], seconds=5)
    _nothing_is_broken(busybox, context, again=3)  # what was not yet made durable is done again


def _nothing_is_broken(store: Lamina, context: Path, *, again: int = 1) -> None:
    """The store is sound, and a repaired build succeeds; `again` steps had to be executed."""
    store("fsck")
    assert "it:latest" not in OciLayout(store.root).names()
    file = context / "Dockerfile"
    finished = file.read_text().rsplit("RUN", 1)[0]
    file.write_text(finished + "RUN echo now > /second\n")
    plain = store("build", "--progress", "plain", "-t", "it", context).stderr
    assert len(executed(plain)) <= again
    assert store("run", "--rm", "it", "cat", "/first", "/second").stdout == "done\nnow\n"
    assert list((store.root / "lamina" / "tmp").iterdir()) == []
    store("fsck")


@pytest.mark.parametrize("delay_ms", [5, 40, 80, 120, 170, 230, 300])
def test_a_build_killed_at_any_moment_can_be_repeated(
    busybox: Lamina, context: Path, delay_ms: int
) -> None:
    """The undisturbed image, after a kill between start-up and the writing of the index."""
    (context / "data").write_bytes(bytes(range(256)) * 4096)
    (context / "Dockerfile").write_text(
        "FROM busybox\nCOPY data /data\nRUN md5sum /data > /sum\nRUN rm /data; mkdir /d\n"
    )
    env = {"SOURCE_DATE_EPOCH": "1700000000"}
    build = busybox.start("build", "-t", "it", context, env=env)
    try:
        build.communicate(timeout=delay_ms / 1000)
    except subprocess.TimeoutExpired:
        build.kill()
        build.communicate()
    busybox("fsck")
    busybox("build", "-t", "it", context, env=env)
    digest = OciLayout(busybox.root).names()["it:latest"]
    busybox("fsck")
    undisturbed = Lamina(root=busybox.root.with_name("undisturbed"))
    undisturbed("bootstrap", "busybox")
    undisturbed("build", "-t", "it", context, env=env)
    assert OciLayout(undisturbed.root).names()["it:latest"] == digest


def test_a_killed_run_leaves_no_process(busybox: Lamina) -> None:
    word = f"6{uuid.uuid4().int % 10**8:08}"
    run = busybox.start("run", "--rm", "busybox", "sh", "-c", f"sleep {word} & sleep {word}")
    wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) == 2)
    run.kill()
    run.communicate(timeout=15)
    wait_until(lambda: traces.processes_with(word) == [], seconds=5)
    busybox("fsck")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda it: it.name)
def test_an_interrupted_bisect_ends_and_finds_nothing(
    busybox: Lamina, context: Path, number: signal.Signals
) -> None:
    """A command that a signal has killed says nothing about the image."""
    word = f"6{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo 1 > /a\nRUN echo 2 > /b\n")
    busybox("build", "-t", "it", context)
    command = ("sh", "-c", f"echo ready; exec sleep {word}")
    bisect = busybox.start("bisect", "--verbose", "it", "--", *command)
    assert bisect.stdout is not None
    assert bisect.stdout.readline() == b"ready\n"
    bisect.send_signal(number)
    output, errors = bisect.communicate(timeout=15)
    assert (output, errors, bisect.returncode) == (b"", b"lamina: interrupted\n", 128 + number)
    assert traces.processes_with(word) == []
    assert busybox("ps", "-aq").stdout == ""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done", 5),
        ("echo ready; exec sleep 1000", 128 + signal.SIGTERM),
    ],
)
def test_a_signalled_run_ends_as_its_program_does(busybox: Lamina, script: str, code: int) -> None:
    run = busybox.start("run", "--rm", "busybox", "sh", "-c", script)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=15)
    assert output == (b"caught\n" if code == 5 else b"")
    assert run.returncode in (code, 128 - code)  # dying of the same signal is the same to a shell
