"""Blobs on their way, on standard error: what pull, push and copy show. One class per style.

plain   06553c40a153: Pull complete          a line when something begins or ends, as docker has it
tty     a bar per blob, redrawn in place
json    {"id":"06553c40a153","status":"Downloading","progressDetail":{"current":1,"total":2}}
quiet   nothing
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from builder.cli.arguments import UsageError
from builder.cli.output import printable
from builder.cli.units import human_size

if TYPE_CHECKING:
    from rich.progress import TaskID

    from layerstore import Digest
    from layerstore.registry import Transfer

_EVENTS_S = 0.1  # between two events of one blob, in JSON

WORDS = {
    "waiting": "Waiting",
    "downloading": "Downloading",
    "downloaded": "Download complete",
    "complete": "Pull complete",
    "exists": "Already exists",
    "uploading": "Pushing",
    "uploaded": "Pushed",
    "mounted": "Mounted from",
    "copying": "Copying",
    "copied": "Copied",
}
_PUSH_EXISTS = "Layer already exists"


class Shown(Protocol):
    """Shows transfers as they come; `close` at the end, however it comes."""

    def report(self, event: "Transfer") -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


STYLES = ("auto", "plain", "tty", "json", "rawjson", "quiet")


def check_style(style: str | None) -> None:
    """Refuse an unknown style before anything is begun.

    Raises:
        UsageError: it is one.
    """
    if style is not None and style not in STYLES:
        hint = "auto, plain, tty, json, quiet"
        raise UsageError(f"invalid argument {style!r} for --progress", hint=hint)


@contextmanager
def shown(style: str | None, *, quiet: bool, pushing: bool = False) -> Iterator[Shown]:
    """What shows transfers, for the length of a `with`; `style` is the value of --progress."""
    view = choose("quiet" if quiet else style or "auto", sys.stderr, pushing=pushing)
    try:
        yield view
    finally:
        view.close()


def choose(style: str, stream: TextIO, *, pushing: bool) -> Shown:
    """The view of a style; `auto` are bars where there is a terminal for them."""
    if style == "auto":
        is_live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        style = "tty" if is_live else "plain"
    match style:
        case "plain":
            return Plain(stream, pushing=pushing)
        case "tty":
            return Bars(stream, pushing=pushing)
        case "json" | "rawjson":
            return Json(stream, pushing=pushing)
        case _:
            return Quiet()


def words_of(event: "Transfer", *, pushing: bool) -> str:
    """Docker's words for what happens to a blob."""
    if event.status == "exists" and pushing:
        return _PUSH_EXISTS
    text = WORDS[event.status]
    return f"{text} {event.source}" if event.source else text


class Quiet:
    """Nothing."""

    def report(self, event: "Transfer") -> None:
        """Show nothing."""

    def close(self) -> None:
        """There is nothing to do."""


class Plain:
    """A line when the status of a blob changes."""

    def __init__(self, stream: TextIO, *, pushing: bool) -> None:
        self._stream = stream
        self._pushing = pushing
        self._told: dict[Digest, str] = {}

    def report(self, event: "Transfer") -> None:
        """Write a line if something is new."""
        text = words_of(event, pushing=self._pushing)
        if event.status == "waiting" or self._told.get(event.digest) == text:
            return
        self._told[event.digest] = text
        size = f" {human_size(event.size_bytes)}" if event.status in _BEGINNINGS else ""
        self._stream.write(printable(f"{event.digest.short}: {text}{size}") + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Every line has been written."""


_ENDS = ("complete", "exists", "uploaded", "mounted", "downloaded", "copied")
_BEGINNINGS = ("downloading", "uploading", "copying")


class Json:
    """An object per line, in the words of docker's API."""

    def __init__(self, stream: TextIO, *, pushing: bool) -> None:
        self._stream = stream
        self._pushing = pushing
        self._last: dict[Digest, tuple[str, float]] = {}

    def report(self, event: "Transfer") -> None:
        """Write an object, ten a second for each blob at most."""
        status, told = self._last.get(event.digest, ("", 0.0))
        now = time.monotonic()
        if status == event.status and now - told < _EVENTS_S:
            return
        self._last[event.digest] = event.status, now
        document: dict[str, object] = {
            "id": event.digest.short,
            "digest": event.digest,
            "status": words_of(event, pushing=self._pushing),
        }
        if event.size_bytes:
            detail = {"current": event.done_bytes, "total": event.size_bytes}
            document["progressDetail"] = detail
        self._stream.write(json.dumps(document, separators=(",", ":")) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Every line has been written."""


class Bars:
    """A bar for each blob."""

    def __init__(self, stream: TextIO, *, pushing: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._pushing = pushing
        self._tasks: dict[Digest, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.fields[id]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(),
            console=Console(file=stream),
            redirect_stdout=False,  # the result may go to a file, and the bars to a terminal
            redirect_stderr=False,
        )
        self._progress.start()

    def report(self, event: "Transfer") -> None:
        """Move the blob's bar."""
        task = self._tasks.get(event.digest)
        if task is None:
            task = self._tasks[event.digest] = self._progress.add_task(
                "", total=event.size_bytes, id=event.digest.short
            )
        is_over = event.status in _ENDS
        self._progress.update(
            task,
            description=printable(words_of(event, pushing=self._pushing)),
            completed=event.size_bytes if is_over else event.done_bytes,
        )

    def close(self) -> None:
        """Leave the last state of the bars, and end the thread that draws them."""
        self._progress.stop()
