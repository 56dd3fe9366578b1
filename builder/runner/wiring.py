"""The descriptors of a program, and how they lead to ours.

    a pipe, a socket, /dev/null     the program has our own: nothing is copied
    a file, a terminal, a device    a pipe to us, who read and write for it

Whoever is root may open /proc/self/fd/N again, and with other rights than N was opened with: what
was given to be read could be written, a log could be read, and a terminal listened to. Pipes give
nothing away. (A program with a terminal of its own, `-t`, has none of ours.)
"""

import os
import stat
from typing import TYPE_CHECKING

from builder.runner.attend import Feed, Streams, pump
from builder.sandbox import Stdio

if TYPE_CHECKING:
    from builder.sandbox import Running

_NULL = os.makedev(1, 3)


class Wiring:
    """Of one program without a terminal. To be closed; `release` comes after its start."""

    def __init__(self, streams: Streams, *, null: int) -> None:
        self._streams = streams
        self._readers: dict[int, str] = {}
        self._feed: Feed | None = None
        self._theirs: list[int] = []
        outputs = self._outputs(null)
        self.stdio = Stdio(stdin=self._input(null), stdout=outputs[0], stderr=outputs[1])

    def release(self) -> None:
        """Close the ends that are the program's by now: only it holds them from now on."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()

    def serve(self, running: "Running") -> None:
        """Copy what has to be copied, until the program has ended."""
        if self._readers or self._feed is not None:
            pump(self._readers, self._streams, running, self._feed)

    def close(self) -> None:
        self.release()
        for fd in self._readers:
            os.close(fd)
        if self._feed is not None:
            self._feed.close()

    def _input(self, null: int) -> int:
        source = self._streams.stdin
        if source is None:
            return null
        if is_harmless(source):
            return source
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        self._feed = Feed(source, ours)
        self._theirs.append(theirs)
        return theirs

    def _outputs(self, null: int) -> tuple[int, int]:
        given = (self._streams.stdout, self._streams.stderr)
        has_log = self._streams.log is not None
        found = []
        for name, fd in zip(("stdout", "stderr"), given, strict=True):
            if fd is None and not has_log:
                found.append(null)
            elif fd is not None and not has_log and is_harmless(fd):
                found.append(fd)
            elif name == "stderr" and not has_log and self._is_one(given):
                found.append(found[0])  # in the order in which it was written
            else:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                self._readers[reader] = name
                self._theirs.append(writer)
                found.append(writer)
        return found[0], found[1]

    def _is_one(self, given: tuple[int | None, int | None]) -> bool:
        """Whether both outputs lead to one place."""
        first, second = given
        if first is None or second is None:
            return False
        return os.path.samestat(os.fstat(first), os.fstat(second))


def is_harmless(fd: int) -> bool:
    """Whether a program gets no more by opening it again than it has already."""
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == _NULL
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
