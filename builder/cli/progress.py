"""Build events -> something to read, on standard error. One class per style, each a `Progress`.

    plain   #5 [2/3] RUN make / #5 0.312 gcc ... / #5 DONE 0.3s     as BuildKit writes it
    tty     a live view: a line per piece of work, the last output of those that run
    json    one JSON object per line and event
    quiet   nothing, unless something fails

Titles come from the Dockerfile and are escaped; what a RUN's program writes is passed through.
To add a style: a class here and a line in `STYLES`.

Source: the plain style is BuildKit's util/progress/progressui.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO, assert_never

from builder.cli.output import printable
from builder.cli.units import human_size
from builder.events import (
    CheckWarning,
    Event,
    ImageSealed,
    Notice,
    VertexCached,
    VertexCanceled,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE_MAX = 16 << 10  # a line longer than this is passed on in pieces
_TAIL_LINES = 20
_LIVE_LINES = 5
_FRAME_S = 0.1

_NAMES: "dict[type[Event], str]" = {
    VertexStarted: "started",
    VertexOutput: "output",
    VertexProgress: "progress",
    VertexCached: "cached",
    VertexDone: "done",
    VertexFailed: "failed",
    VertexCanceled: "canceled",
    Notice: "notice",
    CheckWarning: "warning",
    ImageSealed: "image",
}

Clock = Callable[[], float]


class Progress(Protocol):
    """Shows events as they come; `close` when the build has ended, however it did."""

    def report(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def choose(style: str, stream: TextIO, environment: "dict[str, str]") -> Progress:
    """The `Progress` of a style; `auto` is the live view where there is a terminal for it."""
    if style == "auto":
        is_live = stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        style = "tty" if is_live else "plain"
    return STYLES[style](stream)


class Plain:
    """Lines only, each with the number of the work it belongs to."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._titles: dict[int, str] = {}
        self._started: dict[int, float] = {}
        self._lines: dict[int, _Lines] = {}
        self._last = 0  # the vertex that wrote last
        self._warnings: list[CheckWarning] = []

    def report(self, event: Event) -> None:
        """Write the lines of one event."""
        match event:
            case VertexStarted():
                self._titles[event.vertex] = printable(event.title)
                self._started[event.vertex] = self._clock()
                self._lines[event.vertex] = _Lines()
                self._turn_to(event.vertex)
            case VertexOutput():
                lines = self._lines[event.vertex].add(event.stream, event.data)
                self._write_output(event.vertex, lines)
            case VertexProgress():
                return
            case VertexCached():
                self._write(event.vertex, "CACHED")
                self._end(event.vertex)
            case VertexDone():
                more = ", same result as before" if event.reused else ""
                because = f" ({printable(event.reason)})" if event.reason else ""
                self._flush(event.vertex)
                self._write(event.vertex, f"DONE {event.seconds:.1f}s{more}{because}")
                self._end(event.vertex)
            case VertexFailed():
                self._flush(event.vertex)
                self._write(event.vertex, f"ERROR: {printable(event.message)}")
                self._end(event.vertex)
            case VertexCanceled():
                self._flush(event.vertex)
                self._write(event.vertex, "CANCELED")
                self._end(event.vertex)
            case Notice():
                self._stream.write(_notice(event) + "\n")
            case CheckWarning():
                self._warnings.append(event)
            case ImageSealed():
                self._stream.write(_sealed(event) + "\n")
            case _:
                assert_never(event)
        self._stream.flush()

    def close(self) -> None:
        """Say what the checks had to say, where it is seen: at the end."""
        self._stream.write(_warned(self._warnings))
        self._stream.flush()

    def _turn_to(self, vertex: int) -> None:
        """Say whose lines follow, when they are not those of the one before."""
        if self._last == vertex:
            return
        if self._last:
            self._stream.write(f"#{self._last} ...\n\n")
        self._last = vertex
        self._stream.write(f"#{vertex} {self._titles[vertex]}\n")

    def _write(self, vertex: int, text: str) -> None:
        self._turn_to(vertex)
        self._stream.write(f"#{vertex} {text}\n")

    def _write_output(self, vertex: int, lines: list[str]) -> None:
        """Write what came at once at once: standard error is flushed at every write."""
        if lines:
            begin = f"#{vertex} {self._clock() - self._started[vertex]:.3f} "
            self._turn_to(vertex)
            self._stream.write("".join(f"{begin}{line}\n" for line in lines))

    def _flush(self, vertex: int) -> None:
        self._write_output(vertex, self._lines[vertex].rest())

    def _end(self, vertex: int) -> None:
        self._stream.write("\n")
        self._last = 0
        del self._titles[vertex], self._started[vertex], self._lines[vertex]


class Json:
    """JSON lines: the name of the event, its fields, and the seconds since the first one."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._begin = clock()

    def report(self, event: Event) -> None:
        """Write one event as one line."""
        import json
        from dataclasses import asdict

        fields = asdict(event)
        if isinstance(event, VertexOutput):
            fields["data"] = event.data.decode("utf-8", "replace")
        seconds = round(self._clock() - self._begin, 3)
        document = {"event": _NAMES[type(event)], "time": seconds, **fields}
        self._stream.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


class Quiet:
    """Nothing but notices, and the last output of what failed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tails: dict[int, _Tail] = {}

    def report(self, event: Event) -> None:
        """Remember the last lines, and show them when the program failed."""
        match event:
            case VertexStarted():
                self._tails[event.vertex] = _Tail(event.title)
            case VertexOutput():
                self._tails[event.vertex].add(event)
            case VertexFailed():
                self._stream.write(self._tails[event.vertex].shown())
            case Notice():
                self._stream.write(_notice(event) + "\n")
            case VertexProgress() | VertexCached() | VertexDone() | VertexCanceled():
                pass
            case CheckWarning() | ImageSealed():
                pass
            case _:
                assert_never(event)
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


class Terminal:
    """The live view of a terminal. The only user of rich, which is imported when it begins.

    The view is drawn ten times a second by a thread, so that the seconds of a silent program go
    on. The engine forks its server while that thread lives: drawing holds a lock that a fork
    waits for, so that the thread sleeps, holding nothing, whenever a process is copied.
    """

    def __init__(self, stream: TextIO) -> None:
        import os
        import threading

        from rich.console import Console
        from rich.live import Live

        self._begin = time.monotonic()
        self._work: dict[int, _Work] = {}
        self._warnings: list[CheckWarning] = []
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._console: Console = Console(file=stream, highlight=False)
        self._live: Live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._draw,
        )
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )
        self._live.start()
        self._thread: threading.Thread = threading.Thread(target=self._redraw, daemon=True)
        self._thread.start()

    def report(self, event: Event) -> None:
        """Change the view; what will not change any more is printed above it."""
        with self._lock:
            match event:
                case VertexStarted():
                    self._work[event.vertex] = _Work(event.title)
                case VertexOutput():
                    self._work[event.vertex].tail.add(event)
                case VertexProgress():
                    self._work[event.vertex].size_bytes = event.size_bytes
                case VertexCached():
                    self._settle(event.vertex, "CACHED", style="blue")
                case VertexDone():
                    size = f"  {human_size(event.size_bytes)}" if event.size_bytes else ""
                    size = "  same result as before" if event.reused else size
                    because = f"  ({printable(event.reason)})" if event.reason else ""
                    result = f"{event.seconds:.1f}s{size}{because}"
                    self._settle(event.vertex, result, style="green")
                case VertexFailed():
                    tail = self._work[event.vertex].tail
                    self._settle(event.vertex, f"ERROR {event.seconds:.1f}s", style="red")
                    self._console.file.write(tail.shown())
                case VertexCanceled():
                    self._settle(event.vertex, "CANCELED", style="yellow")
                case Notice():
                    self._print(_notice(event), style="yellow")
                case CheckWarning():
                    self._warnings.append(event)
                case ImageSealed():
                    self._print(_sealed(event), style="bold")
                case _:
                    assert_never(event)

    def close(self) -> None:
        """Take the live lines away, and end the thread."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._work.clear()
            self._live.stop()
            self._console.file.write(_warned(self._warnings))

    def _settle(self, vertex: int, result: str, *, style: str) -> None:
        work = self._work.pop(vertex)
        self._live.refresh()  # else what is printed stands above the last view, with it still there
        self._print(f"=> {printable(work.tail.title)}  {result}", style=style)

    def _print(self, text: str, *, style: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style=style, overflow="ellipsis", no_wrap=True))

    def _redraw(self) -> None:
        while not self._ended.wait(_FRAME_S):
            with self._lock:
                self._live.refresh()

    def _draw(self) -> "RenderableType":
        from rich.text import Text

        view = Text(overflow="ellipsis", no_wrap=True)
        now = time.monotonic()
        for work in self._work.values():
            size = f"  {human_size(work.size_bytes)}" if work.size_bytes else ""
            title = printable(work.tail.title)
            view.append(f"=> {title}  {now - work.started:.1f}s{size}\n", "cyan")
            for text in work.tail.lines()[-_LIVE_LINES:]:
                view.append(f"   {printable(text)[:200]}\n", "dim")
        view.append(f"   {now - self._begin:.1f}s", "dim")
        return view


STYLES: "dict[str, Callable[[TextIO], Progress]]" = {
    "plain": Plain,
    "tty": Terminal,
    "json": Json,
    "rawjson": Json,  # docker's word for it
    "quiet": Quiet,
}


class _Work:
    """What runs, for the live view."""

    def __init__(self, title: str) -> None:
        self.tail = _Tail(title)
        self.started = time.monotonic()
        self.size_bytes = 0  # of its layer, written so far


class _Tail:
    """The last lines of one piece of work."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._kept: list[str] = []
        self._lines = _Lines()

    def add(self, event: VertexOutput) -> None:
        self._kept += self._lines.add(event.stream, event.data)
        del self._kept[:-_TAIL_LINES]

    def lines(self) -> list[str]:
        return [*self._kept, *self._lines.pending()]

    def shown(self) -> str:
        """As BuildKit shows the end of a failed step."""
        lines = self.lines()[-_TAIL_LINES:]
        if not lines:
            return ""
        rule = "------\n"
        return f"{rule} > {printable(self.title)}:\n" + "".join(f"{x}\n" for x in lines) + rule


class _Lines:
    """Pieces of two streams -> whole lines. Bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._pending = {"stdout": b"", "stderr": b""}

    def add(self, stream: str, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends."""
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        while len(rest) > _LINE_MAX:
            lines.append(rest[:_LINE_MAX])
            rest = rest[_LINE_MAX:]
        self._pending[stream] = rest
        return [_text(line) for line in lines]

    def pending(self) -> list[str]:
        """What has come of lines that have not ended."""
        return [_text(rest) for rest in self._pending.values() if rest]

    def rest(self) -> list[str]:
        """The same, and forget it."""
        lines = self.pending()
        self._pending = {"stdout": b"", "stderr": b""}
        return lines


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


def _notice(event: Notice) -> str:
    where = f" (line {event.line})" if event.line else ""
    return f"WARNING: {printable(event.message)}{where}"


def _warned(warnings: list[CheckWarning]) -> str:
    """The warnings of build checks, as buildx shows them after a build."""
    if not warnings:
        return ""
    count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    lines = [
        f" - {warning.rule}: {printable(warning.detail)} (line {warning.line})\n"
        for warning in warnings
    ]
    return f"\n {count} found (use --check to expand):\n{''.join(lines)}"


def _sealed(event: ImageSealed) -> str:
    more = f", named {', '.join(printable(name) for name in event.names)}" if event.names else ""
    if event.elsewhere:
        layers = "a layer" if event.elsewhere == 1 else f"{event.elsewhere} layers"
        more = f", not kept here: {layers} did not have to be fetched (--load keeps it)"
    return f"image {event.image_id}{more}"


class Shown:
    """A `Progress` for the length of a `with`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __enter__(self) -> Callable[[Event], None]:
        return self._progress.report

    def __exit__(self, *_: object) -> None:
        self._progress.close()
