"""Stages side by side: what runs at once, how a failure stops it, and what is left of it."""

import json
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.support import traces
from tests.support.cli import Lamina, command, describe
from tests.support.progress import executed
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
]


def stages(count: int, run: str) -> str:
    """`count` independent stages, and one that takes a file of each."""
    text = "".join(
        f"FROM busybox AS s{number}\nRUN echo {number} > /f{number} && {run}\n"
        for number in range(count)
    )
    copies = "".join(f"COPY --from=s{number} /f{number} /\n" for number in range(count))
    return f"{text}FROM busybox\n{copies}"


def overlaps(events: list[dict[str, object]]) -> int:
    """The most RUNs that were under way at the same moment."""
    running, most = set(), 0
    for event in events:
        if event["event"] == "started" and " RUN " in str(event["title"]):
            running.add(event["vertex"])
        elif event["event"] in ("done", "failed", "canceled", "cached"):
            running.discard(event["vertex"])
        most = max(most, len(running))
    return most


def build(store: Lamina, context: Path, *options: str) -> list[dict[str, object]]:
    done = store("build", "--progress", "json", "-t", "it", *options, context)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_independent_stages_run_at_the_same_time(busybox: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text(stages(4, "sleep 1"))
    assert overlaps(build(busybox, context, "--jobs", "4")) == 4
    listed = busybox("run", "--rm", "it", "cat", "/f0", "/f1", "/f2", "/f3")
    assert listed.stdout == "0\n1\n2\n3\n"


@pytest.mark.parametrize(("jobs", "most"), [("1", 1), ("2", 2)])
def test_no_more_than_jobs_run_at_once(
    busybox: Lamina, context: Path, jobs: str, most: int
) -> None:
    (context / "Dockerfile").write_text(stages(5, "sleep 0.1"))
    assert overlaps(build(busybox, context, "--jobs", jobs)) == most


def test_the_image_does_not_depend_on_jobs(busybox: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text(stages(4, "true"))
    digests = set()
    for jobs in ("1", "0", "3"):
        options = ("--no-cache", "--jobs", jobs, "--iidfile", str(context / "id"))
        busybox("build", *options, context, env={"SOURCE_DATE_EPOCH": "1700000000"})
        digests.add((context / "id").read_text())
        (context / "id").unlink()
    assert len(digests) == 1


def test_a_failure_stops_the_others(busybox: Lamina, context: Path) -> None:
    """What had ended stays cached; what ran is ended, and said to be canceled."""
    word = f"7{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(
        f"FROM busybox AS a\nRUN echo kept\nRUN sleep {word}\n"
        "FROM busybox AS b\nRUN sleep 1; exit 5\n"
        "FROM busybox\nCOPY --from=a / /\nCOPY --from=b / /\n"
    )
    options = ("--progress", "plain", "--jobs", "2")
    failed = busybox("build", *options, context, check=False, timeout_s=60)
    assert failed.returncode == 1
    assert "exit code: 5" in failed.stderr
    assert len(re.findall(r"#\d+ CANCELED", failed.stderr)) == 1
    assert len(re.findall(r"#\d+ ERROR", failed.stderr)) == 1
    assert traces.processes_with(word) == []
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo kept\n")
    assert executed(busybox("build", *options, context).stderr) == []
    busybox("fsck")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda it: it.name)
def test_nothing_is_left_of_many_stages(
    busybox: Lamina, context: Path, number: signal.Signals
) -> None:
    word = f"8{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(stages(20, f"sleep {word}"))
    running = busybox.start("build", "--progress", "plain", "--jobs", "20", context)
    wait_until(lambda: len(traces.processes_with(f"sleep\0{word}")) == 20, seconds=60)
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert b"Traceback" not in errors
    wait_until(lambda: traces.processes_with(word) == [], seconds=5)
    busybox("fsck")


def test_stages_leave_no_descriptor_open(busybox: Lamina, context: Path) -> None:
    """Were it one for each stage, the limit would be reached."""
    (context / "Dockerfile").write_text(stages(60, "true"))
    limited = ["sh", "-c", 'ulimit -n 44; exec "$@"', "sh", *command()]
    words = ("build", "--jobs", "2", "--progress", "plain", "-t", "it", str(context))
    done = subprocess.run(
        [*limited, *words], env=busybox.environment(), capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, describe(done)


def test_a_trigger_waits_for_the_stage_it_copies_from(busybox: Lamina, context: Path) -> None:
    """Nothing says before the base is opened that this stage needs the other one."""
    (context / "Dockerfile").write_text("FROM busybox\nONBUILD COPY --from=slow /made /made\n")
    busybox("build", "-t", "onbuild", context)
    (context / "Dockerfile").write_text(
        "FROM busybox AS slow\nRUN sleep 0.3; echo yes > /made\n"
        "FROM onbuild AS quick\nRUN cat /made\n"
        "FROM quick\nCOPY --from=slow /made /again\n"
    )
    busybox("build", "-t", "it", "--jobs", "3", context)
    assert busybox("run", "--rm", "it", "cat", "/again", "/made").stdout == "yes\nyes\n"


def test_a_wrong_number_of_jobs_is_refused(busybox: Lamina, context: Path) -> None:
    failed = busybox("build", "--jobs", "many", context, check=False)
    assert failed.returncode == 125
    assert "'many' for --jobs" in failed.stderr


LARGE = "head -c 8000000 /dev/urandom > /large"  # large enough to be written beside the next step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_finished_step_is_kept_while_the_next_one_runs(
    busybox: Lamina, context: Path, number: signal.Signals
) -> None:
    """Its layer is written meanwhile, and durable half a second later."""
    word = f"6{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN {LARGE}\nRUN sleep {word}\n")
    running = busybox.start("build", "--progress", "plain", context)
    wait_until(lambda: traces.processes_with(f"sleep\0{word}") != [], seconds=60)
    time.sleep(2)  # four times as long as it may take
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert b"Traceback" not in errors
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN {LARGE}\n")
    assert executed(busybox("build", "--progress", "plain", context).stderr) == []
    busybox("fsck")


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.1, 0.2])
def test_an_interrupt_while_a_layer_is_written_leaves_a_good_store(
    busybox: Lamina, context: Path, after_s: float
) -> None:
    word = f"5{uuid.uuid4().int % 10**8:08}"
    (context / "Dockerfile").write_text(
        f"FROM busybox\nRUN {LARGE}; head -c 60000000 /dev/urandom > /larger\nRUN sleep {word}\n"
    )
    running = busybox.start("build", "--progress", "plain", context)
    wait_until(lambda: traces.processes_with(f"sleep\0{word}") != [], seconds=60)
    time.sleep(after_s)  # the moment is what is tried
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert b"Traceback" not in errors
    assert running.returncode == 130
    (context / "Dockerfile").write_text(
        f"FROM busybox\nRUN {LARGE}; head -c 60000000 /dev/urandom > /larger\n"
    )
    assert executed(busybox("build", "--progress", "plain", context).stderr) == []
    busybox("fsck")


def test_large_layers_of_stages_side_by_side_are_right(busybox: Lamina, context: Path) -> None:
    run = f"{LARGE}; sha256sum /large > /sum"
    (context / "Dockerfile").write_text(
        f"FROM busybox AS a\nRUN {run}\nRUN sha256sum -c /sum && {run}\n"
        f"FROM busybox AS b\nRUN {run}\nRUN sha256sum -c /sum && {run}\n"
        "FROM busybox\nCOPY --from=a /large /sum /a/\nCOPY --from=b /large /sum /b/\n"
    )
    busybox("build", "-t", "it", "--jobs", "2", context)
    check = "for i in a b; do cp /$i/large /large && sha256sum -c /$i/sum || exit 1; done"
    busybox("run", "--rm", "it", "sh", "-c", check)
    busybox("fsck")
