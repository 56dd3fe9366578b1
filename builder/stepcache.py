"""The build cache as one build uses it: which steps it takes from there, and how it gives.

    forced     an option says that a step is carried out, whatever there is
    look_up    the step and its layer, unless it is too old or its layer cannot be used
    claim      nobody else carries it out meanwhile; or somebody has (layerstore/claims.py)
    finished   now and then, what was carried out is made durable and its claims are given up

Invariants (tests/builder/test_stepcache.py):
  1. While a claim of another is waited for, nothing of ours that is finished is held back.
  2. Nobody waits for a layer that is still being written, but who waits for a claim or the end.
"""

import time
from collections.abc import Callable

from builder.errors import PlanError
from builder.plan import BuildPlan, PlannedStage, begin_of
from builder.request import BuildRequest
from builder.schedule import Later, Work
from layerstore import CachedStep, Digest, Layer, Store

_FLUSH_AFTER_S = 0.5
_UNFLUSHED_MAX = 12  # steps; each holds its claim, an open descriptor, until it is flushed
_ASK_AGAIN_S = 0.05


class StepCache:
    """The cached steps of a store, seen by one build."""

    def __init__(self, request: BuildRequest, store: Store) -> None:
        self._request = request
        self._store = store
        self._forced_from = begin_of(request.dockerfile, request.no_cache_from or 0)
        self._last_flush = time.monotonic()
        self._finished: list[Digest] = []  # keys of steps whose results are not flushed

    def forced(self, stage: PlannedStage, line: int) -> str:
        """The option by which a step is carried out whatever is in the cache; empty for none."""
        request = self._request
        if request.no_cache:
            return "--no-cache"
        if stage.is_one_of(request.no_cache_stages):
            return f"--no-cache-filter={stage.name or stage.index}"
        if request.no_cache_from is not None and line >= self._forced_from:
            return f"--no-cache-from={request.no_cache_from}"
        return ""

    def look_up(self, key: Digest) -> tuple[CachedStep, Layer] | None:
        """The step in the cache, unless it is too old or its layer cannot be used."""
        cached = self._store.cache.get(key)
        if cached is None or self.is_expired(cached):
            return None
        layer = self._store.layers.find(cached.diff_id)
        return None if layer is None else (cached, layer)

    def is_expired(self, cached: CachedStep) -> bool:
        """Whether a step is older than the build wants (`--cache-ttl`)."""
        ttl_s = self._request.cache_ttl_s
        return ttl_s is not None and cached.put_s + ttl_s < time.time()

    def claim(
        self, key: Digest, *, tell: Callable[[], None]
    ) -> Work[tuple[CachedStep, Layer] | None]:
        """Begin a step that is not in the cache; its result, if another has carried it out.

        Args:
            tell: called once, if another is carrying it out.
        """
        claims = self._store.claims
        waiting = None
        while not (is_ours := claims.take(key)):
            self._flush()  # others may wait for what is finished here
            if waiting is None:
                waiting = claims.waiting(key)
                tell()
            if waiting.is_in_vain():
                break
            yield Later(_ASK_AGAIN_S)
        result = self.look_up(key)  # once more: whoever had the claim has given it up
        if is_ours and result is not None:
            claims.release((key,))
        return result

    def finished(self, key: Digest) -> None:
        """A step was carried out, and put into the cache if it may be."""
        self._finished.append(key)
        self._flush_when_due()

    def while_waiting(self) -> float | None:
        """Let others see what is finished, and that the rest goes on; when to do so again."""
        if not self._store.claims.held():
            return None
        self._store.claims.show_life()
        self._flush_when_due()
        return _FLUSH_AFTER_S

    def _flush_when_due(self) -> None:
        """A killed build loses little, cheaply.

        Nobody waits here for a layer that is still being written: its turn comes.
        """
        is_due = (
            time.monotonic() - self._last_flush > _FLUSH_AFTER_S
            or len(self._finished) >= _UNFLUSHED_MAX
        )
        if is_due and not self._store.layers.is_writing:
            self._flush()

    def _flush(self) -> None:
        if self._finished:
            self._store.flush()
            self._store.claims.release(self._finished)
            self._finished = []
        self._last_flush = time.monotonic()


def check_forced(request: BuildRequest, plan: BuildPlan) -> None:
    """Refuse options that force nothing.

    Raises:
        PlanError: a stage that is not there, or a line below all that is needed.
    """
    for name in request.no_cache_stages:
        if not any(stage.is_one_of((name,)) for stage in plan.stages):
            known = ", ".join(stage.name for stage in plan.stages if stage.name)
            raise PlanError(
                f"--no-cache-filter={name}: no such stage",
                hint=f"stages with a name: {known}" if known else "number them from 0",
            )
    first = request.no_cache_from
    if first is None:
        return
    needed = [plan.stages[index] for index in plan.needed]
    spans = [each.span for stage in needed for each in (stage.from_node, *stage.instructions)]
    last = max(span.end_line for span in spans)
    if first > last:
        raise PlanError(
            f"--no-cache-from={first}: there is no instruction from that line on",
            hint=f"the last one that the target needs ends in line {last}",
        )
