"""`lamina builds`, as its user sees it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.cli.builds import trace_events
from builder.record import BuildRecord, StepRecord
from tests.support.commands import Commands

DOCKERFILE = """FROM box AS one
RUN echo told to the log; echo oops >&2; echo 1 > /one
FROM box
COPY --from=one /one /one
RUN head -c 3000000 /dev/zero > /zeros
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY f /f\nLABEL a=1\n")
    (folder / "f").write_text("f")
    return folder


def ids(run: Commands) -> list[str]:
    return run("builds", "ls", "--format", "{{.Ref}}").lines


def shown(run: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("builds", "show", "--format", "json", *words).out)
    return found


def test_without_builds_there_are_headings(bare: Commands) -> None:
    assert bare("builds", "ls").out.split() == [
        "BUILD", "ID", "NAME", "STATUS", "CREATED", "AT", "DURATION",
    ]  # fmt: skip
    assert json.loads(bare("builds", "ls", "--format", "json").out) == []


def test_builds_are_listed_as_docker_lists_them(bare: Commands, context: Path) -> None:
    bare("build", "-q", "-t", "it", context)
    bare("build", "-q", context)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    bare("build", "-q", context, code=1)
    rows = bare("builds", "ls").lines[1:]
    assert [row.split()[1:3] for row in rows] == [
        ["context/Dockerfile", "Error"],
        ["context/Dockerfile", "Completed"],
        ["context/Dockerfile", "Completed"],
    ]
    assert all("ago" in row for row in rows)
    found = json.loads(bare("buildx", "history", "ls", "--format", "json").out)
    assert [(each["total_steps"], each["cached_steps"]) for each in found] == [
        (0, 0),
        (1, 1),
        (1, 0),
    ]
    assert found[2]["images"] == ["it:latest"]
    assert found[0]["status"] == "Error"
    assert found[0]["created_at"] < found[0]["completed_at"]
    assert [each["ref"] for each in found] == ids(bare)


def test_a_list_can_be_filtered(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    bare("build", "-q", context, code=1)
    failed, fine = ids(bare)
    ls = ("builds", "ls", "--format", "{{.Ref}}", "--filter")
    assert bare(*ls, "status=error").lines == [failed]
    assert bare(*ls, "status=Completed").lines == [fine]
    assert bare(*ls, f"ref={fine}").lines == [fine]
    assert bare(*ls, "name=context/Dockerfile").lines == [failed, fine]
    assert "invalid filter" in bare("builds", "ls", "--filter", "x=y", code=125).err


def test_a_long_name_loses_its_beginning(bare: Commands, context: Path) -> None:
    folder = context.rename(context.with_name("c" * 50))
    bare("build", "-q", folder)
    assert "..." in bare("builds", "ls").out
    assert "c" * 50 in bare("builds", "ls", "--no-trunc").out
    assert "c" * 50 in bare("builds", "ls", "--format", "{{.Name}}").out


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_a_build_is_shown_with_what_each_step_took(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE)
    box("build", "-q", "-t", "it", "--jobs=1", context)
    found = shown(box)
    assert found["status"] == "Completed"
    assert found["names"] == ["it:latest"]
    assert [base["name"] for base in found["bases"]] == ["box", "box"]
    one, copy, zeros = found["steps"]
    assert (one["stage"], one["line"], one["outcome"]) == ("one", 2, "executed")
    assert one["reason"] == "never built before"
    assert one["cpu_s"] >= 0
    assert one["memory_peak_bytes"] > 0
    assert copy["memory_peak_bytes"] == 0
    assert zeros["size_bytes"] == 3_000_000
    assert one["started"] < copy["started"] < zeros["started"]
    assert "document" not in one
    out = box("builds", "show", "it").out
    assert "Images:       it:latest" in out
    assert "Build Steps:  3, 0 of them cached" in out
    assert out.count("█") >= 3
    assert box("buildx", "history", "inspect").out == out


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_logs_are_what_the_programs_wrote(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE)
    box("build", "-q", "--jobs=1", context)
    out = box("builds", "logs").lines
    assert out[1:3] in (
        ["#2 told to the log", "#2 oops"],
        ["#2 oops", "#2 told to the log"],
    )
    assert out[0] == "#2 [one] RUN echo told to the log; echo oops >&2; echo 1 > /one"
    assert out[3].startswith("#2 DONE 0.")
    box("build", "-q", context)
    again = box("buildx", "history", "logs").out
    assert "told to the log" not in again.replace("echo told to the log", "")
    assert again.count(" CACHED") == 3


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_a_failed_build_is_shown_with_its_error_and_its_log(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM box\nRUN printf 'bad \\033[2J\\n'; exit 7\n")
    box("build", "-q", context, code=1)
    found = shown(box)
    assert found["error"].endswith("exit code: 7")
    assert [step["outcome"] for step in found["steps"]] == ["failed"]
    logs = box("builds", "logs").out
    assert "#2 bad \\x1b[2J\n" in logs
    assert "#2 ERROR" in logs
    assert logs.splitlines()[-1].startswith("ERROR: process")
    assert "Error" in box("builds", "show").out
    assert "failed: process" in box("why").out


def test_records_are_removed_and_images_stay(bare: Commands, context: Path) -> None:
    for name in ("one", "two", "three"):
        bare("build", "-q", "-t", name, context)
    third, second, first = ids(bare)
    bare("builds", "rm", second)
    assert ids(bare) == [third, first]
    assert "two" in bare("images").out
    assert "no such build" in bare("buildx", "history", "rm", second, code=1).err
    bare("builds", "rm", "--all")
    assert ids(bare) == []
    assert "three" in bare("images").out
    assert list((bare.root / "lamina/builds").iterdir()) == []


def test_what_to_remove_must_be_said(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    bare("builds", "rm", code=1)
    bare("builds", "rm", "--all", ids(bare)[0], code=1)
    assert len(ids(bare)) == 1


def test_layers_and_history_go_on_working(bare: Commands, context: Path) -> None:
    bare("build", "-q", "-t", "it", context)
    assert "executed" in bare("layers", "it").out
    assert "COPY f /f" in bare("history", "it").out
    bare("builds", "rm", "--all")
    assert "executed" not in bare("layers", "it").out


# Traces.

STEP = StepRecord(
    instruction="RUN make", line=3, stage="one", outcome="executed", reason="why", key="k",
    layer="l", seconds=1.5, vertex=1, started=0.25, cpu_s=1.0, memory_peak_bytes=5,
)  # fmt: skip
RECORD = BuildRecord(
    id="0001-1", started=0, seconds=3, dockerfile="Dockerfile", target="t", names=(),
    image_id="", manifest_digest="", error="", context="/c/app", place="/c/app/Dockerfile",
    steps=(STEP, replace(STEP, stage="two", vertex=2), replace(STEP, vertex=0)),
)  # fmt: skip


def test_a_trace_has_a_row_for_each_stage() -> None:
    document: dict[str, Any] = trace_events(RECORD)
    events = document["traceEvents"]
    assert [(each["ph"], each["tid"]) for each in events] == [
        ("M", 0), ("M", 1), ("M", 2), ("X", 1), ("X", 2),
    ]  # fmt: skip
    assert [each["args"]["name"] for each in events[:3]] == [
        "app/Dockerfile (t)",
        "one",
        "two",
    ]
    assert (events[3]["ts"], events[3]["dur"]) == (250_000, 1_500_000)
    assert events[3]["name"] == "RUN make"
    assert events[3]["args"]["reason"] == "why"


@pytest.mark.parametrize("command", [("builds", "trace"), ("buildx", "history", "trace")])
def test_a_trace_is_json(
    bare: Commands, context: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    bare("build", "-q", context)
    text = bare(*command).out
    events = json.loads(text)["traceEvents"]
    assert all(isinstance(each["ts"], int) and each["dur"] >= 0 for each in events[2:])
    assert bare(*command, "-o", tmp_path / "trace.json").out == ""
    assert (tmp_path / "trace.json").read_text() == text
