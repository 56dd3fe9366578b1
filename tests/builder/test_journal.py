"""What is told, and what is written down."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import BuildRequest, record
from builder.events import (
    Event,
    VertexCanceled,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)
from builder.grants import Grants
from builder.journal import Journal, first_line, record_of
from builder.plan import PlannedStage, plan
from grammar import parse
from layerstore import Store, host_platform

TEXT = "FROM scratch AS one\nRUN a\nFROM scratch AS two\nRUN b\n"


class Book:
    """A journal, and what it has told."""

    def __init__(self, store: Store, *, name: str = "Dockerfile", **more: Any) -> None:
        self.file = parse(TEXT, name=name)
        fields: dict[str, Any] = {"dockerfile": self.file, "context": None, **more}
        self.events: list[Event] = []
        self.journal = Journal(BuildRequest(**fields), store, self.events.append)
        self.store = store
        platform = host_platform()
        planned = plan(self.file, target="", build_args={}, platform=platform)
        self.stages: tuple[PlannedStage, ...] = planned.stages

    def noted(self, stage: int, text: str, vertex: int = 0) -> None:
        span = self.stages[stage].instructions[0].span
        step = record_of(text, span, self.stages[stage])
        self.journal.note(self.stages[stage], replace(step, vertex=vertex))


def test_work_is_numbered_in_the_order_it_is_begun(store: Store) -> None:
    book = Book(store)
    assert [book.journal.begin(title, "one", 1) for title in "abc"] == [1, 2, 3]
    assert book.journal.vertices == 3
    assert book.events[1] == VertexStarted(vertex=2, title="b", stage="one", line=1)


def test_steps_are_written_stage_after_stage(store: Store) -> None:
    """Whatever the order in which they ended."""
    book = Book(store)
    book.noted(1, "RUN b")
    book.noted(0, "RUN a")
    assert [(step.stage, step.instruction) for step in book.journal.steps()] == [
        ("one", "RUN a"),
        ("two", "RUN b"),
    ]
    assert book.journal.steps_of(book.stages[1]) == 1


def test_the_bytes_of_a_layer_are_told_ten_times_a_second(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("builder.journal.time.monotonic", lambda: now)
    book = Book(store)
    vertex = book.journal.begin("a", "one", 1)
    for piece in range(1, 101):
        now += 0.01
        book.journal.packed(vertex, piece << 20)
    told = [event for event in book.events if isinstance(event, VertexProgress)]
    assert 9 <= len(told) <= 10
    assert all(event.vertex == vertex for event in told)
    assert [event.size_bytes >> 20 for event in told] == sorted(
        event.size_bytes >> 20 for event in told
    )


def test_output_is_told_at_once_and_kept_for_the_log(store: Store) -> None:
    book = Book(store)
    first, second = book.journal.begin("a", "one", 1), book.journal.begin("b", "two", 2)
    book.journal.output(second, "stderr", b"of b\n")
    book.journal.output(first, "stdout", b"of a\n")
    assert book.events[-1] == VertexOutput(vertex=first, stream="stdout", data=b"of a\n")
    book.noted(0, "RUN a", first)
    book.noted(1, "RUN b", second)
    written = book.journal.write(1_700_000_000.5, None, "failed")
    assert (written.error, written.image_id, written.started) == ("failed", "", 1_700_000_000.5)
    builds = store.private / "builds"
    logs = [record.log_of(written, step, builds) for step in written.steps]
    assert logs == [b"of a\n", b"of b\n"]


def test_no_secret_is_in_the_log(store: Store) -> None:
    book = Book(
        store,
        grants=Grants(secrets={"key": b"open sesame"}),
        build_args={"http_proxy": "http://ada:proxy-password@proxy", "A": "no@secret"},
    )
    assert set(book.journal.secrets) == {"key", "http_proxy", "http_proxy, user and password"}
    vertex = book.journal.begin("a", "one", 1)
    book.journal.output(vertex, "stdout", b"it is open sesame, by ada:proxy-password\n")
    book.noted(0, "RUN a", vertex)
    book.journal.write(0, None, "")
    for path in (store.private / "builds").iterdir():
        assert b"sesame" not in path.read_bytes()
        assert b"proxy-password" not in path.read_bytes()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError("no\nmore"), VertexFailed), (KeyboardInterrupt(), VertexCanceled)],
)
def test_how_work_ended_is_told(store: Store, error: BaseException, kind: type[Event]) -> None:
    book = Book(store)
    with pytest.raises(type(error)), book.journal.failing(7, 0.0):
        raise error
    (event,) = book.events
    assert isinstance(event, kind)
    if isinstance(event, VertexFailed):
        assert event.message == "no"


def test_a_place_is_a_file_that_is_found_again(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    assert Book(store, name=str(file), context=tmp_path).journal.place == str(file)
    assert Book(store, name="-", context=tmp_path).journal.place == "-"
    assert Book(store, name="https://host.invalid/Dockerfile").journal.place == "-"
    assert Book(store, context=tmp_path).journal.context == str(tmp_path)
    assert Book(store).journal.context == ""


def test_an_error_without_words_has_a_name() -> None:
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("a\nb")) == "a"
