"""Transfers on standard error, in every style."""

import io
import json
import sys
from pathlib import Path

import pytest

from builder.cli.arguments import UsageError
from builder.cli.transfers import (
    STYLES,
    Bars,
    Json,
    Plain,
    Quiet,
    check_style,
    choose,
    shown,
    words_of,
)
from layerstore import Digest
from layerstore.registry import Transfer

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
EVENTS = (
    Transfer(digest=ONE, status="waiting", size_bytes=2000),
    Transfer(digest=ONE, status="downloading", size_bytes=2000),
    Transfer(digest=ONE, status="downloading", done_bytes=1000, size_bytes=2000),
    Transfer(digest=TWO, status="exists", size_bytes=5),
    Transfer(digest=ONE, status="downloaded", done_bytes=2000, size_bytes=2000),
    Transfer(digest=ONE, status="complete", size_bytes=2000),
)


def test_plain_says_what_is_new() -> None:
    stream = io.StringIO()
    view = Plain(stream, pushing=False)
    for event in EVENTS:
        view.report(event)
    view.close()
    assert stream.getvalue().splitlines() == [
        f"{ONE.short}: Downloading 2kB",
        f"{TWO.short}: Already exists",
        f"{ONE.short}: Download complete",
        f"{ONE.short}: Pull complete",
    ]


def test_json_has_dockers_words_and_numbers() -> None:
    stream = io.StringIO()
    view = Json(stream, pushing=False)
    for event in EVENTS:
        view.report(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [
        *("Waiting", "Downloading", "Already exists", "Download complete", "Pull complete")
    ]
    assert lines[1] == {
        "id": ONE.short,
        "digest": ONE,
        "status": "Downloading",
        "progressDetail": {"current": 0, "total": 2000},
    }


def test_bars_show_every_blob() -> None:
    stream = io.StringIO()
    view = Bars(stream, pushing=False)
    for event in EVENTS:
        view.report(event)
    tasks = {task.fields["id"]: task for task in view._progress.tasks}
    view.close()
    assert (tasks[ONE.short].completed, tasks[ONE.short].description) == (2000, "Pull complete")
    assert tasks[TWO.short].description == "Already exists"
    assert ONE.short in stream.getvalue()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("plain", quiet=True) as view:
        view.report(EVENTS[1])
    assert capsys.readouterr() == ("", "")


def test_a_view_is_closed_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Plain, "close", lambda self: closed.append(1))
    with pytest.raises(ZeroDivisionError), shown("plain", quiet=False):
        raise ZeroDivisionError
    assert closed == [1]


@pytest.mark.parametrize(
    ("style", "kind"),
    [("auto", Plain), ("plain", Plain), ("json", Json), ("rawjson", Json), ("quiet", Quiet)],
)
def test_a_style_has_a_view(style: str, kind: type) -> None:
    assert type(choose(style, io.StringIO(), pushing=False)) is kind


def test_an_unknown_style_is_refused() -> None:
    for style in (None, *STYLES):
        check_style(style)
    with pytest.raises(UsageError, match="'loud' for --progress"):
        check_style("loud")


def test_bars_leave_standard_output_to_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would print there what goes to a file: bars are for a terminal, results may not be."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    before = sys.stdout, sys.stderr
    view = Bars(io.StringIO(), pushing=False)
    try:
        assert (sys.stdout, sys.stderr) == before
    finally:
        view.close()


def test_words_tell_pulling_from_pushing() -> None:
    event = Transfer(digest=ONE, status="exists")
    assert words_of(event, pushing=True) == "Layer already exists"
    assert words_of(event, pushing=False) == "Already exists"
    mounted = Transfer(digest=ONE, status="mounted", source="team/base")
    assert words_of(mounted, pushing=True) == "Mounted from team/base"


def test_what_a_registry_says_cannot_steer_a_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    source = "a\x1b[2Jb"
    Plain(stream, pushing=True).report(Transfer(digest=ONE, status="mounted", source=source))
    assert "\x1b" not in stream.getvalue()
