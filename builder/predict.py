"""What a build would do: stands in for the work in the engine's own fold (`engine.predict`).

A step that is not in the cache is not performed: it gets an imaginary layer, whose digest is that
of nothing. All that stands on one has a key that is not known yet. Such a step

    misses      if no step in the cache is like it in all but the parent: whatever comes out
                above, it must be carried out
    depends     else: when the step above gives what it gave before, this one is cached

A base image that is not here is not fetched either: its registry is asked what it consists of.
What is copied from files that nobody has seen, those of an imaginary layer or of such an image, is
not known at all, and depends.

Invariant (tests/builder/test_predict.py): a step that is predicted as cached is cached in the next
build, one that is predicted to miss is carried out; nothing in the store changes.
"""

import json
from typing import Literal

from builder.earlier import Missed
from builder.record import StepRecord
from builder.sources import LayerTree, SourceTree, UnreadError
from builder.state import StageState
from layerstore import Descriptor, Digest, Layer, Store, unknown_layer

Judgement = Literal["miss", "depends"]


class Predictor:
    """Judges the steps of one build that are not in the cache, in place of performing them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._imaginary: set[Digest] = set()  # diff_ids
        self._cached: set[str] | None = None
        self._missed: set[str] = set()

    def is_known(self, state: StageState) -> bool:
        """Whether the file system of `state` is one that there is."""
        return self._imaginary.isdisjoint(layer.diff_id for layer in state.layers)

    def check_readable(self, source: SourceTree) -> None:
        """Raise UnreadError where nobody knows what is in a stage or an image."""
        layers = source.layers if isinstance(source, LayerTree) else ()
        if not self._imaginary.isdisjoint(layer.diff_id for layer in layers):
            raise UnreadError("what it copies from is not built yet")
        if not all(self._store.layers.find(layer.diff_id) for layer in layers):
            raise UnreadError("what it copies from is not fetched yet")

    def judge(self, missed: Missed, state: StageState) -> Judgement:
        """Say whether a step must be carried out, or might be found in the cache by then."""
        alike = _without_parent(missed.document)
        known = self.is_known(state)
        # one that an earlier step of this build puts there may be found, or be under way
        depends = alike in self._missed or (not known and self._may_be_cached(alike))
        self._missed.add(alike)
        return "depends" if depends and not missed.forced else "miss"

    def with_imaginary_layer(self, state: StageState, created_by: str) -> StageState:
        """The state after a step that was not performed."""
        after = with_imaginary_layer(state, created_by, number=len(self._imaginary))
        self._imaginary.add(after.layers[-1].diff_id)
        return after

    def estimate(self, step: StepRecord) -> tuple[float, int]:
        """Seconds and bytes of the nearest earlier step; nothing when there is none."""
        nearest = step.explanation.nearest if step.explanation else ""
        cached = self._store.cache.find(Digest(nearest)) if nearest else None
        layer = None if cached is None else self._store.layers.find(cached.diff_id)
        return (
            0.0 if cached is None else cached.seconds,
            0 if layer is None else layer.size_bytes,
        )

    def _may_be_cached(self, alike: str) -> bool:
        return self._store.cache.has_sources or alike in self._get_cached()

    def _get_cached(self) -> set[str]:
        if self._cached is None:
            self._cached = {_without_parent(step.document) for step in self._store.cache.steps()}
        return self._cached


def with_imaginary_layer(state: StageState, created_by: str, *, number: int = 0) -> StageState:
    """A state with one more layer, that is none; another `number` gives another one."""
    layer = _imaginary_layer(number)
    return state.with_layer(layer, created=state.created, created_by=created_by)


def _without_parent(document: bytes) -> str:
    return json.dumps({**json.loads(document), "parent": ""}, sort_keys=True)


def _imaginary_layer(number: int) -> Layer:
    digest = Digest.of(f"imaginary {number}".encode())
    return unknown_layer(digest, Descriptor(media_type="", digest=digest, size_bytes=0))
