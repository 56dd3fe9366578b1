import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from builder.cli.progress import STYLES, Json, Plain, Progress, Quiet, Shown, Terminal, choose
from builder.events import (
    CheckWarning,
    Event,
    ImageSealed,
    Notice,
    VertexCached,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)


def started(vertex: int, title: str) -> Event:
    return VertexStarted(vertex=vertex, title=title)


def output(vertex: int, data: bytes, stream: str = "stdout") -> Event:
    return VertexOutput(
        vertex=vertex, stream="stderr" if stream == "stderr" else "stdout", data=data
    )


LOG: tuple[Event, ...] = (
    started(1, "[1/3] FROM box"),
    VertexCached(vertex=1),
    started(2, "[2/3] RUN make"),
    output(2, b"one\ntw"),
    output(2, b"o\n"),
    output(2, b"trouble\n", "stderr"),
    output(2, b"no end"),
    VertexProgress(vertex=2, size_bytes=3_000_000),
    VertexDone(vertex=2, seconds=0.34),
    Notice(message="mind the gap", line=7),
    started(3, "[3/3] RUN make"),
    VertexDone(vertex=3, seconds=12.0, reused=True),
    ImageSealed(image_id="sha256:abc", manifest_digest="sha256:def", names=("app:1", "app:2")),
)
WARNING = CheckWarning(
    rule="Casing", detail="not \x1b so", line=3, end_line=4, description="d", url="u"
)
FAILED: tuple[Event, ...] = (
    started(1, "[1/1] RUN false"),
    output(1, b"".join(b"line %d\n" % number for number in range(30))),
    VertexFailed(vertex=1, seconds=0.1, message="exit code: 1"),
)


def ticking() -> Callable[[], float]:
    """A clock that goes on by a millisecond whenever it is looked at."""
    moments: Iterator[int] = iter(range(10**6))
    return lambda: next(moments) / 1000


def shown(progress_of: Callable[[io.StringIO], Progress], events: tuple[Event, ...]) -> str:
    stream = io.StringIO()
    with Shown(progress_of(stream)) as report:
        for event in events:
            report(event)
    return stream.getvalue()


def test_plain_is_what_buildkit_writes() -> None:
    assert shown(lambda stream: Plain(stream, ticking()), LOG) == (
        "#1 [1/3] FROM box\n"
        "#1 CACHED\n"
        "\n"
        "#2 [2/3] RUN make\n"
        "#2 0.001 one\n"
        "#2 0.002 two\n"
        "#2 0.003 trouble\n"
        "#2 0.004 no end\n"
        "#2 DONE 0.3s\n"
        "\n"
        "WARNING: mind the gap (line 7)\n"
        "#3 [3/3] RUN make\n"
        "#3 DONE 12.0s, same result as before\n"
        "\n"
        "image sha256:abc, named app:1, app:2\n"
    )


def test_plain_writes_what_came_at_once_at_once() -> None:
    """Standard error is flushed at every write; a program may write lines by the million."""
    written: list[str] = []

    class Counted(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return super().write(text)

    plain = Plain(Counted(), ticking())
    plain.report(started(1, "[1/1] RUN yes"))
    plain.report(output(1, b"y\n" * 1000))
    assert written == ["#1 [1/1] RUN yes\n", "#1 0.001 y\n" * 1000]


@pytest.mark.parametrize(("count", "layers"), [(1, "a layer"), (3, "3 layers")])
def test_plain_shows_why_an_image_is_not_kept(count: int, layers: str) -> None:
    sealed = ImageSealed(image_id="sha256:abc", manifest_digest="", names=(), elsewhere=count)
    assert shown(Plain, (sealed,)) == (
        f"image sha256:abc, not kept here: {layers} did not have to be fetched (--load keeps it)\n"
    )


def test_plain_shows_what_failed() -> None:
    text = shown(Plain, FAILED)
    assert text.endswith("#1 ERROR: exit code: 1\n\n")
    assert text.count("line ") == 30


def test_plain_says_whose_lines_follow_when_steps_run_side_by_side() -> None:
    events = (
        started(1, "first"),
        started(2, "second"),
        output(1, b"a\n"),
        output(1, b"b\n"),
        output(2, b"c\n"),
        VertexDone(vertex=1, seconds=1),
        VertexDone(vertex=2, seconds=1),
    )
    assert shown(lambda stream: Plain(stream, ticking()), events).splitlines() == [
        "#1 first",
        "#1 ...",
        "",
        "#2 second",
        "#2 ...",
        "",
        "#1 first",
        "#1 0.002 a",
        "#1 0.003 b",
        "#1 ...",
        "",
        "#2 second",
        "#2 0.003 c",
        "#2 ...",
        "",
        "#1 first",
        "#1 DONE 1.0s",
        "",
        "#2 second",
        "#2 DONE 1.0s",
        "",
    ]


def test_a_reason_stands_behind_done() -> None:
    events = (started(1, "x"), VertexDone(vertex=1, seconds=1, reason="a.txt changed"))
    assert "#1 DONE 1.0s (a.txt changed)\n" in shown(Plain, events)


def test_titles_are_escaped_and_output_is_passed_through() -> None:
    events = (started(1, "RUN \x1b[2J"), output(1, b"\x1b[32mgreen\n"))
    text = shown(Plain, events)
    assert "RUN \\x1b[2J\n" in text
    assert "\x1b[32mgreen\n" in text


def test_output_that_is_not_utf8_and_endless_lines_come_through() -> None:
    text = shown(Plain, (started(1, "x"), output(1, b"\xff" * 20_000 + b"\n"), output(1, b"y\r\n")))
    assert text.count("\ufffd") == 20_000
    assert text.endswith(" y\n")


def test_an_endless_line_is_passed_on_in_pieces() -> None:
    events = (started(1, "x"), *(output(1, b"." * 10_000) for _ in range(10)))
    assert shown(Plain, events).count(".") >= 90_000


def test_json_is_a_line_per_event() -> None:
    lines = shown(lambda stream: Json(stream, ticking()), LOG).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [each["event"] for each in documents] == [
        *("started", "cached", "started", "output", "output", "output", "output", "progress"),
        *("done", "notice", "started", "done", "image"),
    ]
    assert documents[3] == {
        "event": "output",
        "time": 0.004,
        "vertex": 2,
        "stream": "stdout",
        "data": "one\ntw",
    }
    assert documents[-1]["names"] == ["app:1", "app:2"]


def test_quiet_says_nothing_but_notices() -> None:
    assert shown(Quiet, LOG) == "WARNING: mind the gap (line 7)\n"


def test_quiet_shows_the_last_lines_of_what_failed() -> None:
    lines = shown(Quiet, FAILED).splitlines()
    assert lines[:2] == ["------", " > [1/1] RUN false:"]
    assert lines[2] == "line 10"
    assert lines[-2:] == ["line 29", "------"]


def test_the_live_view_leaves_a_line_for_each_finished_step() -> None:
    text = shown(Terminal, LOG)
    assert "=> [1/3] FROM box  CACHED" in text
    assert "=> [2/3] RUN make  0.3s" in text
    assert "=> [3/3] RUN make  12.0s  same result as before" in text
    assert "image sha256:abc" in text


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_finished_step_is_gone_from_the_live_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    progress = Terminal(stream)
    progress.report(started(1, "RUN make"))
    progress.report(VertexDone(vertex=1, seconds=1))
    assert stream.getvalue().rpartition("=> RUN make")[2].lstrip().startswith("1.0s")
    progress.close()


def test_the_live_view_says_why_a_step_ran() -> None:
    events = (
        started(1, "RUN make"),
        VertexDone(vertex=1, seconds=1, size_bytes=5, reason="a\x1b changed"),
    )
    assert "=> RUN make  1.0s  5B  (a\\x1b changed)" in shown(Terminal, events)


def test_the_live_view_counts_the_bytes_of_a_layer() -> None:
    stream = io.StringIO()
    progress = Terminal(stream)
    progress.report(started(1, "COPY big /"))
    progress.report(VertexProgress(vertex=1, size_bytes=3_000_000))
    assert "=> COPY big /  0.0s  3MB" in str(progress._draw())
    progress.close()


def test_json_has_the_bytes_of_a_layer() -> None:
    event = json.loads(shown(Json, (VertexProgress(vertex=4, size_bytes=5),)))
    assert (event["event"], event["vertex"], event["size_bytes"]) == ("progress", 4, 5)


def test_the_live_view_shows_the_end_of_what_failed() -> None:
    text = shown(Terminal, FAILED)
    assert "=> [1/1] RUN false  ERROR 0.1s" in text
    assert "line 29\n------\n" in text


def test_the_live_view_ends_its_thread() -> None:
    before = threading.active_count()
    shown(Terminal, LOG)
    assert threading.active_count() == before


def test_a_fork_beside_the_live_view_finds_no_lock_held() -> None:
    """Drawing is done under a lock that a fork waits for, so the child can draw at once."""
    stream = io.StringIO()
    progress = Terminal(stream)
    progress.report(started(1, "RUN something"))
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                progress.report(output(1, b"in the child\n"))
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        progress.close()


@pytest.mark.parametrize("style", [Plain, Terminal])
@pytest.mark.parametrize("events", [LOG, FAILED], ids=["good", "failed"])
def test_warnings_of_checks_are_told_at_the_end(
    style: Callable[[io.StringIO], Progress], events: tuple[Event, ...]
) -> None:
    line = " - Casing: not \\x1b so (line 3)\n"
    one = f"\n 1 warning found (use --check to expand):\n{line}"
    assert shown(style, (WARNING, *events)).endswith(one)
    two = f"\n 2 warnings found (use --check to expand):\n{line}{line}"
    assert shown(style, (WARNING, WARNING, *events)).endswith(two)
    assert "warning" not in shown(style, events)


def test_warnings_of_checks_are_events_in_json_and_nothing_in_quiet() -> None:
    event = json.loads(shown(Json, (WARNING,)))
    assert (event["event"], event["rule"], event["line"]) == ("warning", "Casing", 3)
    assert (event["end_line"], event["detail"], event["url"]) == (4, "not \x1b so", "u")
    assert shown(Quiet, (WARNING,)) == ""


@pytest.mark.parametrize("style", STYLES)
def test_every_style_takes_every_event(style: str) -> None:
    shown(STYLES[style], (*LOG, WARNING))
    shown(STYLES[style], FAILED)


def test_auto_is_plain_where_nobody_looks() -> None:
    assert isinstance(choose("auto", io.StringIO(), {"TERM": "xterm"}), Plain)


def test_auto_is_live_on_a_terminal_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert isinstance(choose("auto", stream, {"TERM": "dumb"}), Plain)
    assert isinstance(choose("auto", stream, {}), Plain)
    with Shown(choose("auto", stream, {"TERM": "xterm"})) as report:
        assert isinstance(report.__self__, Terminal)  # type: ignore[attr-defined]


def test_a_named_style_is_taken() -> None:
    assert isinstance(choose("json", io.StringIO(), {}), Json)
    assert isinstance(choose("rawjson", io.StringIO(), {}), Json)


def test_rich_is_imported_by_the_live_view_alone() -> None:
    import subprocess

    program = (
        "import io, sys; from builder.cli.progress import *\n"
        "[STYLES[style](io.StringIO()) for style in ('plain', 'json', 'quiet')]\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
