"""Blobs on their way, told as the output of one piece of work of a build.

sha256:06553c40a153 done 3.1MB        a line when a blob has come or gone
4.1MB                                 how many bytes in all, as often as something moves
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from builder.events import VertexDone, VertexOutput
from builder.sizes import human_size

if TYPE_CHECKING:
    from builder.journal import Journal
    from builder.plan import PlannedStage
    from layerstore import Digest, Reference
    from layerstore.registry import Transfer

_ENDS = {
    "complete": "done",
    "uploaded": "done",
    "exists": "already exists",
    "mounted": "mounted from",
}


@contextmanager
def watch_pull(
    journal: "Journal", stage: "PlannedStage", name: "Reference"
) -> "Iterator[Callable[[Transfer], object]]":
    """Show what is pulled for a stage as a piece of work of its own."""
    line = stage.from_node.span.start_line
    vertex = journal.begin(f"[{stage.title}] pull {name.full}", stage.title, line)
    started = time.monotonic()

    def write(text: str) -> None:
        data = f"{text}\n".encode()
        journal.report(VertexOutput(vertex=vertex, stream="stderr", data=data))

    with journal.failing(vertex, started):
        yield Transferred(line=write, total=partial(journal.packed, vertex)).report
    journal.report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))


@dataclass(slots=True, kw_only=True)
class Transferred:
    """Turns events into calls of `line` and `total`."""

    line: Callable[[str], object]
    total: Callable[[int], object]
    _done: "dict[Digest, int]" = field(default_factory=dict)

    def report(self, event: "Transfer") -> None:
        """One event."""
        if event.done_bytes:
            self._done[event.digest] = event.done_bytes
            self.total(sum(self._done.values()))
        end = _ENDS.get(event.status)
        if end is not None:
            more = event.source or human_size(event.size_bytes)
            self.line(f"sha256:{event.digest.short} {end} {more}")
