"""Transfers as the output of one piece of work."""

from pathlib import Path

import pytest

from builder.events import (
    Event,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)
from builder.journal import Journal
from builder.plan import PlannedStage, plan
from builder.request import BuildRequest
from builder.transferred import Transferred, fetch_layers, watch_pull
from layerstore import Digest, Reference, Store, host_platform
from layerstore.registry import Transfer
from tests.support.images import dockerfile
from tests.support.offers import Offered
from tests.support.stores import make_layer

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def test_blobs_are_told_when_they_have_come_and_bytes_all_the_time() -> None:
    lines: list[str] = []
    totals: list[int] = []
    shown = Transferred(line=lines.append, total=totals.append)
    for event in (
        Transfer(digest=ONE, status="waiting", size_bytes=3000),
        Transfer(digest=ONE, status="downloading", done_bytes=1000, size_bytes=3000),
        Transfer(digest=TWO, status="downloading", done_bytes=50, size_bytes=100),
        Transfer(digest=ONE, status="downloading", done_bytes=3000, size_bytes=3000),
        Transfer(digest=ONE, status="complete", size_bytes=3000),
        Transfer(digest=TWO, status="mounted", size_bytes=100, source="base"),
    ):
        shown.report(event)
    assert totals == [1000, 1050, 3050]
    assert lines == [f"sha256:{ONE.short} done 3kB", f"sha256:{TWO.short} mounted from base"]


@pytest.mark.parametrize(
    ("status", "word"), [("exists", "already exists"), ("uploaded", "done"), ("complete", "done")]
)
def test_every_end_has_a_word(status: str, word: str) -> None:
    lines: list[str] = []
    shown = Transferred(line=lines.append, total=lambda size: None)
    shown.report(Transfer(digest=ONE, status=status, size_bytes=5))  # type: ignore[arg-type]  # a Status
    assert lines == [f"sha256:{ONE.short} {word} 5B"]


def test_bytes_that_come_are_told_like_transfers() -> None:
    lines: list[str] = []
    totals: list[int] = []
    shown = Transferred(line=lines.append, total=totals.append)
    for blob, come_bytes, size_bytes in (
        *((ONE, 0, 3000), (ONE, 1000, 3000), (TWO, 50, 100), (ONE, 3000, 3000)),
        *((ONE, 3000, 3000), (TWO, 100, 100)),
    ):
        shown.come(blob, come_bytes, size_bytes)
    assert totals == [0, 1000, 1050, 3050, 3100]
    assert lines == [f"sha256:{ONE.short} done 3kB", f"sha256:{TWO.short} done 100B"]


def begun(store: Store, events: list[Event]) -> tuple[Journal, PlannedStage]:
    """A build, and its stage."""
    parsed = dockerfile("FROM a AS first\n")
    request = BuildRequest(dockerfile=parsed, context=None)
    stage = plan(parsed, target="", build_args={}, platform=host_platform()).stages[0]
    return Journal(request, store, events.append), stage


@pytest.mark.parametrize("side_by_side", [False, True])
def test_layers_that_come_side_by_side_are_a_piece_of_work(
    store: Store, tmp_path: Path, side_by_side: bool
) -> None:
    events: list[Event] = []
    journal, stage = begun(store, events)
    with Store.open(tmp_path / "there") as there:
        layers = [make_layer(there, {"a": b"1"}), make_layer(there, {"b": b"2"})]
        for layer in layers:
            store.layers.offer(Offered(layer, there, store, tells=side_by_side))
        fetch_layers(journal, stage, store, layers)
    assert [store.layers.find_here(layer.diff_id) for layer in layers] == layers
    if side_by_side:
        started, first, second, done = [e for e in events if not isinstance(e, VertexProgress)]
        assert isinstance(started, VertexStarted)
        assert started.title == "[first] fetch layers"
        assert isinstance(first, VertexOutput)
        assert isinstance(second, VertexOutput)
        assert first.data.startswith(f"sha256:{layers[0].descriptor.digest.short} done".encode())
        assert isinstance(done, VertexDone)
    else:
        assert events == []


def test_without_offers_nothing_is_shown(store: Store) -> None:
    events: list[Event] = []
    journal, stage = begun(store, events)
    fetch_layers(journal, stage, store, [make_layer(store, {"a": b"1"})])
    assert events == []


def test_a_pull_is_a_piece_of_work(store: Store) -> None:
    events: list[Event] = []
    journal, stage = begun(store, events)
    with watch_pull(journal, stage, Reference.parse("a")) as report:
        report(Transfer(digest=ONE, status="complete", size_bytes=5))
    with (
        pytest.raises(ZeroDivisionError),
        watch_pull(journal, stage, Reference.parse("b.c/d:1")),
    ):
        raise ZeroDivisionError
    started, output, done, again, failed = events
    assert isinstance(started, VertexStarted)
    assert started.title == "[first] pull docker.io/library/a:latest"
    assert started.line == 1
    assert isinstance(output, VertexOutput)
    assert output.data == f"sha256:{ONE.short} done 5B\n".encode()
    assert isinstance(done, VertexDone)
    assert isinstance(again, VertexStarted)
    assert again.title == "[first] pull b.c/d:1"
    assert isinstance(failed, VertexFailed)
