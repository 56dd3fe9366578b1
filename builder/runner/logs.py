"""What a container wrote: a file of JSON lines, as docker's json-file driver writes it.

    {"log":"hello\\n","stream":"stdout","time":"2026-01-31T12:00:00.123456789Z"}

A line longer than 16 KiB becomes several entries, of which only the last ends in a newline.
Bytes that are not UTF-8 become U+FFFD.

Source: moby daemon/logger/jsonfilelog, logger/copier.go.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_PIECE_MAX = 16 << 10
_POLL_S = 0.1
_READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One line, or a piece of a long one. `time` is RFC 3339 in UTC, with nanoseconds."""

    text: str
    stream: str
    time: str


class LogWriter:
    """Appends what comes from the streams of a program. Whole lines only, until `close`."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._pending = {"stdout": b"", "stderr": b""}

    def add(self, stream: str, data: bytes) -> None:
        """Take a piece of a stream, as it came."""
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        pieces = [piece for line in lines for piece in _pieces(line + b"\n")]
        while len(rest) > _PIECE_MAX:
            pieces.append(rest[:_PIECE_MAX])
            rest = rest[_PIECE_MAX:]
        self._pending[stream] = rest
        self._write(stream, pieces)

    def end_lines(self) -> None:
        """Write what never came to an end of line: the program has ended."""
        for stream, rest in self._pending.items():
            self._write(stream, [rest] if rest else [])
            self._pending[stream] = b""

    def close(self) -> None:
        """Write the rest, and close the file."""
        self.end_lines()
        os.close(self._fd)

    def _write(self, stream: str, pieces: list[bytes]) -> None:
        if not pieces:
            return
        now = time.time_ns()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        tail = f'"stream":"{stream}","time":"{moment}.{now % 10**9:09d}Z"}}\n'
        text = "".join(
            f'{{"log":{json.dumps(piece.decode("utf-8", "replace"), ensure_ascii=False)},{tail}'
            for piece in pieces
        )
        data = text.encode()
        while data:
            data = data[os.write(self._fd, data) :]


def read_log(path: Path) -> Iterator[Entry]:
    """The entries so far; a damaged line is passed over."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            entry = parse(line)
            if entry is not None:
                yield entry


def follow_log(path: Path, is_running: Callable[[], bool]) -> Iterator[Entry]:
    """The entries so far and all that come, until the container has ended.

    There is no event to wait for short of inotify: the file is looked at ten times a second.
    """
    position = 0
    rest = b""
    while True:
        is_last = not is_running()  # asked before reading: what comes after the answer is seen
        while data := _read_from(path, position):
            position += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                entry = parse(line)
                if entry is not None:
                    yield entry
        if is_last:
            return
        time.sleep(_POLL_S)


def parse(line: bytes) -> Entry | None:
    """One line of the file."""
    try:
        fields = json.loads(line)
        return Entry(str(fields["log"]), str(fields["stream"]), str(fields["time"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def last_entries(entries: Iterator[Entry], lines: int) -> list[Entry]:
    """The last `lines` lines; the pieces of a long line count as one."""
    from collections import deque

    kept: deque[list[Entry]] = deque(maxlen=lines)
    open_lines: dict[str, list[Entry]] = {}
    for entry in entries:
        line = open_lines.get(entry.stream)
        if line is None:
            line = open_lines[entry.stream] = []
            kept.append(line)
        line.append(entry)
        if entry.text.endswith("\n"):
            del open_lines[entry.stream]
    return [entry for line in kept for entry in line]


def _pieces(line: bytes) -> list[bytes]:
    if len(line) <= _PIECE_MAX + 1:
        return [line]
    return [line[start : start + _PIECE_MAX] for start in range(0, len(line), _PIECE_MAX)]


def _read_from(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(_READ_BYTES)
    except FileNotFoundError:
        return b""
