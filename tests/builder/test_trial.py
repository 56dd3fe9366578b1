"""Errors of what is still to come are found before anything is executed."""

from pathlib import Path

import pytest

from builder.errors import (
    BuilderError,
    OutsideContextError,
    SourceNotFoundError,
)
from builder.events import Event, VertexCanceled, VertexDone, VertexFailed, VertexStarted
from grammar import DockerfileError
from layerstore import NotFoundError, Store
from tests.support.executors import FakeExecutor
from tests.support.images import make_image, run_build
from tests.support.sources import write_files


@pytest.fixture
def fake() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_files(tmp_path / "context", {"there": b"1"})


@pytest.mark.parametrize(
    ("below", "line", "kind"),
    [
        ("COPY missing /x", 3, SourceNotFoundError),
        ("COPY ../missing /x", 3, OutsideContextError),
        ("COPY --from=nobody/has-it /a /b", 3, NotFoundError),
        ("LABEL a=${UNSET?it must be set}", 3, DockerfileError),
        ("EXPOSE 99999999", 3, BuilderError),
        ("RUN echo ok\nRUN --mount=type=bind,source=missing,target=/m true", 4, BuilderError),
        ("RUN echo ok\nFROM nobody/has-it", 4, NotFoundError),
    ],
)
def test_nothing_runs_when_something_below_cannot(
    store: Store,
    fake: FakeExecutor,
    context: Path,
    below: str,
    line: int,
    kind: type[Exception],
) -> None:
    text = f"FROM scratch AS first\nRUN echo expensive\n{below}\n"
    if "FROM nobody" in below:
        text += "COPY --from=first / /\n"
    events: list[Event] = []
    with pytest.raises(kind) as caught:
        run_build(store, text, executor=fake, context=context, events=events)
    assert fake.scripts == []
    error = caught.value
    place = error.excerpt if isinstance(error, BuilderError) else ""
    if isinstance(error, DockerfileError):
        place = f"Dockerfile:{error.span.start_line if error.span else 0}"
    assert (place or error.__notes__[0]).startswith(f"Dockerfile:{line}")
    started = {event.vertex for event in events if isinstance(event, VertexStarted)}
    ended = {e.vertex for e in events if isinstance(e, VertexCanceled | VertexDone | VertexFailed)}
    assert started == ended


def test_other_stages_are_tried_too(store: Store, fake: FakeExecutor, context: Path) -> None:
    text = (
        "FROM scratch AS a\nRUN echo a\n"
        "FROM a AS b\nRUN echo b\nCOPY missing /\n"
        "FROM scratch\nCOPY --from=b / /\n"
    )
    with pytest.raises(SourceNotFoundError):
        run_build(store, text, executor=fake, context=context, jobs=1)
    assert fake.scripts == []


def test_stages_that_are_not_needed_are_not(store: Store, fake: FakeExecutor) -> None:
    text = "FROM nobody/has-it AS never\nFROM scratch\nRUN echo a\n"
    run_build(store, text, executor=fake)
    assert fake.scripts == ["echo a"]


def test_what_is_not_there_yet_is_passed_over(store: Store, fake: FakeExecutor) -> None:
    """The file appears when the stage is built; one that does not is an error then."""
    text = (
        "FROM scratch AS a\nRUN echo a > /made\n"
        "FROM scratch\nRUN echo b > /b\nCOPY --from=a /made /\n"
    )
    assert run_build(store, text, executor=fake, jobs=1).read("made") == b"a\n"
    with pytest.raises(SourceNotFoundError):
        run_build(store, text.replace("=a /made", "=a /other"), executor=fake, jobs=1)


def test_triggers_are_tried_where_they_fire(store: Store, fake: FakeExecutor) -> None:
    make_image(store, "base", {"a": b"1"}, on_build=("RUN echo t", "COPY missing /"))
    text = "FROM scratch AS first\nRUN echo expensive\nFROM base\nCOPY --from=first / /\n"
    with pytest.raises(BuilderError) as caught:
        run_build(store, text, executor=fake, jobs=1)
    assert fake.scripts == []
    assert caught.value.excerpt.startswith("Dockerfile:3")


def test_notices_come_once(store: Store, fake: FakeExecutor, context: Path) -> None:
    text = "FROM scratch\nRUN echo a\nCOPY there ../there nothing* /d/\n"
    built = run_build(store, text, executor=fake, context=context)
    assert len(built.notices) == len(set(built.notices)) > 0


def test_a_cached_build_tries_nothing(store: Store, fake: FakeExecutor, context: Path) -> None:
    text = "FROM scratch\nRUN echo a\nCOPY there /\n"
    run_build(store, text, executor=fake, context=context)
    again = run_build(store, text, executor=fake, context=context)
    assert again.outcomes == ["cached", "cached"]
