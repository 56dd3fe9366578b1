"""Blobs on their way, told as the output of one piece of work of a build.

sha256:06553c40a153 done 3.1MB        a line when a blob has come or gone
4.1MB                                 how many bytes in all, as often as something moves
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from builder.events import VertexDone, VertexOutput
from builder.sizes import human_size

if TYPE_CHECKING:
    from builder.journal import Journal
    from builder.plan import PlannedStage
    from layerstore import Digest, Layer, Reference, Store
    from layerstore.registry import Transfer

_ENDS = {
    "complete": "done",
    "uploaded": "done",
    "exists": "already exists",
    "mounted": "mounted from",
}


def fetch_layers(
    journal: "Journal", stage: "PlannedStage", store: "Store", layers: "Sequence[Layer]"
) -> None:
    """Have layers come that build caches offer; several are a piece of work of its own.

    What comes with an image is shown by `watch_pull`.
    """
    with ExitStack() as shown:
        told: Transferred | None = None

        def came(blob: "Digest", come_bytes: int, size_bytes: int) -> None:
            nonlocal told
            if told is None:
                told = shown.enter_context(_work(journal, f"[{stage.title}] fetch layers", stage))
            told.come(blob, come_bytes, size_bytes)

        store.layers.fetch_all(layers, came)


@contextmanager
def watch_pull(
    journal: "Journal", stage: "PlannedStage", name: "Reference"
) -> "Iterator[Callable[[Transfer], object]]":
    """Show what is pulled for a stage as a piece of work of its own."""
    with _work(journal, f"[{stage.title}] pull {name.full}", stage) as shown:
        yield shown.report


@contextmanager
def _work(journal: "Journal", title: str, stage: "PlannedStage") -> "Iterator[Transferred]":
    line = stage.from_node.span.start_line
    vertex = journal.begin(title, stage.title, line)
    started = time.monotonic()

    def write(text: str) -> None:
        data = f"{text}\n".encode()
        journal.report(VertexOutput(vertex=vertex, stream="stderr", data=data))

    with journal.failing(vertex, started):
        yield Transferred(line=write, total=partial(journal.packed, vertex))
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
            self._count(event.digest, event.done_bytes)
        end = _ENDS.get(event.status)
        if end is not None:
            more = event.source or human_size(event.size_bytes)
            self.line(f"sha256:{event.digest.short} {end} {more}")

    def come(self, blob: "Digest", come_bytes: int, size_bytes: int) -> None:
        """So much of a blob has come."""
        if self._done.get(blob) != size_bytes:
            self._count(blob, come_bytes)
            if come_bytes == size_bytes:
                self.line(f"sha256:{blob.short} done {human_size(size_bytes)}")

    def _count(self, blob: "Digest", done_bytes: int) -> None:
        self._done[blob] = done_bytes
        self.total(sum(self._done.values()))
