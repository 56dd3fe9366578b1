"""Events are values; what they say in which order is tested where they are made (test_engine)."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_args

import pytest

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

EXAMPLES: tuple[Event, ...] = (
    VertexStarted(vertex=1, title="[1/2] RUN make", stage="build", line=3),
    VertexOutput(vertex=1, stream="stderr", data=b"\xff"),
    VertexProgress(vertex=1, size_bytes=1 << 20),
    VertexCached(vertex=1, layer="sha256:1"),
    VertexDone(vertex=1, seconds=0.5, layer="sha256:1", size_bytes=3, reason="", reused=True),
    VertexFailed(vertex=1, seconds=0.5, message="exit code: 1"),
    VertexCanceled(vertex=1, seconds=0.5),
    Notice(message="look here", line=3),
    CheckWarning(rule="A", detail="a is b", line=3, end_line=4, description="b", url="c"),
    ImageSealed(image_id="sha256:2", manifest_digest="sha256:3", names=("a:1",)),
)


def test_the_union_is_complete() -> None:
    assert {type(event) for event in EXAMPLES} == set(get_args(Event))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_events_are_frozen_values(event: Event) -> None:
    assert is_dataclass(event)
    assert event == type(event)(**{each.name: getattr(event, each.name) for each in fields(event)})
    assert hash(event) == hash(event)
    with pytest.raises(FrozenInstanceError):
        setattr(event, fields(event)[0].name, "changed")


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_events_are_made_with_names_alone(event: Event) -> None:
    assert all(each.kw_only for each in fields(event))


def test_everything_about_one_piece_of_work_has_its_number() -> None:
    numbered = [type(event) for event in EXAMPLES if hasattr(event, "vertex")]
    assert set(numbered) == set(get_args(Event)) - {Notice, CheckWarning, ImageSealed}
