"""Prediction and build are one fold: what is predicted is what the next build does."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import BuildRequest
from builder.engine import predict
from builder.record import StepRecord
from layerstore import Store
from tests.support.executors import FakeExecutor
from tests.support.images import dockerfile, make_image, run_build
from tests.support.offers import NoSteps
from tests.support.projects import (
    Edit,
    Instruction,
    Project,
    any_edits,
    edit_of,
    edits,
    projects,
)
from tests.support.servers import Page, serve
from tests.support.sources import write_files

EXECUTED = ("executed", "reused")


class Bench:
    """A store with a base image, and a context directory that follows a project."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self.store = store
        self.context = root / "context"
        make_image(store, "base", {"etc/base": b"1"})

    def build(self, project: Project) -> tuple[StepRecord, ...]:
        built = run_build(
            self.store,
            project.dockerfile,
            context=self.context,
            executor=FakeExecutor(),
            build_args=project.build_args,
        )
        return built.result.record.steps

    def predict(self, project: Project, **more: Any) -> tuple[StepRecord, ...]:
        request = BuildRequest(
            dockerfile=dockerfile(project.dockerfile),
            context=self.context,
            build_args=project.build_args,
            network="none",
            **more,
        )
        return predict(request, self.store)

    def edit(self, edit: Edit) -> Project:
        edit.carry_out(self.context)
        return edit.after


@contextmanager
def opened_bench() -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Store.open(Path(directory) / "store") as store,
    ):
        yield Bench(Path(directory), store)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened_bench() as bench:
        yield bench


def place(step: StepRecord) -> tuple[str, int, str]:
    return (step.stage, step.line, step.instruction)


def assert_agree(predicted: tuple[StepRecord, ...], built: tuple[StepRecord, ...]) -> None:
    assert [place(step) for step in predicted] == [place(step) for step in built]
    for before, after in zip(predicted, built, strict=True):
        match before.outcome:
            case "cached" | "metadata":
                assert after.outcome == before.outcome, (before, after)
                assert after.layer == before.layer
            case "miss":
                assert after.outcome in EXECUTED, (before, after)
            case _:
                assert before.outcome == "depends"
                assert after.outcome in (*EXECUTED, "cached")


CAREFUL = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@CAREFUL
@given(data=st.data())
def test_a_prediction_agrees_with_the_build_that_follows(data: st.DataObject) -> None:
    project = data.draw(projects())
    with opened_bench() as bench:
        project.write(bench.context)
        for _ in range(3):
            assert_agree(bench.predict(project), bench.build(project))
            assert {step.outcome for step in bench.predict(project)} <= {"cached", "metadata"}
            project = bench.edit(data.draw(any_edits(project)))
        assert_agree(bench.predict(project), bench.build(project))


@CAREFUL
@given(data=st.data())
def test_a_build_names_exactly_the_ingredient_that_was_edited(data: st.DataObject) -> None:
    project = data.draw(projects())
    edit = data.draw(edits(project))
    with opened_bench() as bench:
        project.write(bench.context)
        bench.build(project)
        steps = bench.build(bench.edit(edit))
    executed = [step for step in steps if step.outcome in EXECUTED]
    if not edit.kind:
        assert executed == []
    for step in executed:
        assert step.explanation is not None
        assert step.explanation.cause == "changed"
        named = {(each.kind, each.name) for each in step.explanation.differences}
        above = {(kind, name) for kind, name in named if kind == "parent"}
        if "--from" in step.instruction or (edit.kind, edit.name) not in named:
            assert {kind for kind, _ in named - above} <= {"file", "files"}
            assert named
        else:
            assert named - above == {(edit.kind, edit.name)}
    first: dict[str, StepRecord] = {}
    for step in executed:
        first.setdefault(step.stage, step)
    if executed:
        told = [
            step
            for step in first.values()
            if step.explanation
            and all(
                (each.kind, each.name) == (edit.kind, edit.name)
                for each in step.explanation.differences
            )
        ]
        assert told, executed


@pytest.mark.parametrize(
    "instructions",
    [
        [("RUN", "echo", "one", ">", "/x")],
        [("RUN", "--mount=type=bind,target=/src", "echo", "one", ">", "/x")],
        [("RUN", "<<E\necho", "one", ">", "/x", "\ntouch /here\nE")],
        [("COPY", "<<here.txt", "/h/\n", "one", "\nhere.txt")],
        [("COPY", "--chmod=0600", "a.txt", "/x")],
        [("COPY", "d", "/c/")],
        [("ENV", "ALPHA=one"), ("RUN", "env", "ALPHA", ">", "/x")],
        [("ARG", "ALPHA=one"), ("RUN", "env", "ALPHA", ">", "/x")],
    ],
    ids=lambda instructions: " ".join(instructions[0]).splitlines()[0],
)
def test_every_kind_of_edit_is_predicted_and_named(
    bench: Bench, instructions: list[Instruction]
) -> None:
    project, edit = edit_of(*instructions)
    project.write(bench.context)
    bench.build(project)
    edited = bench.edit(edit)
    predicted = bench.predict(edited)
    built = bench.build(edited)
    assert_agree(predicted, built)
    (step,) = [step for step in built if step.outcome in EXECUTED]
    assert step.explanation is not None
    found = {(each.kind, each.name) for each in step.explanation.differences}
    assert found == {(edit.kind, edit.name)}
    assert [each.reason for each in predicted] == [each.reason for each in built]


@pytest.mark.parametrize("mount", ["target=/src", "source=d,target=/src"])
def test_a_file_that_a_bind_mount_shows_is_named(bench: Bench, mount: str) -> None:
    project, _ = edit_of(("RUN", f"--mount=type=bind,{mount}", "echo", "one", ">", "/x"))
    project.write(bench.context)
    bench.build(project)
    (bench.context / "d/f").write_text("changed")
    (step,) = [step for step in bench.predict(project) if step.outcome == "miss"]
    assert step.explanation is not None
    assert [each.kind for each in step.explanation.differences] == ["file"]
    assert step.explanation.differences[0].name.endswith("f")
    (bench.context / "a.txt").write_text("changed")
    outcomes = [step.outcome for step in bench.build(project)]
    assert outcomes == ["cached", "reused"]


def test_a_bind_mount_of_a_whole_stage_is_named_by_its_target(bench: Bench) -> None:
    text = "FROM base AS one\nRUN echo a > /a\nFROM base\nRUN --mount=from=one,target=/m pwd\n"
    run_build(bench.store, text, executor=FakeExecutor())
    predicted = prediction(bench, text.replace("echo a", "echo b"))
    assert [outcome for outcome, _ in predicted] == ["miss", "depends"]
    built = run_build(bench.store, text.replace("echo a", "echo b"), executor=FakeExecutor())
    assert [step.reason for step in built.result.record.steps] == ["command changed", "/m changed"]


def prediction(bench: Bench, text: str, **more: Any) -> list[tuple[str, str]]:
    """Line by line what is predicted for a Dockerfile."""
    request = BuildRequest(
        dockerfile=dockerfile(text),
        context=bench.context,
        network="none",
        **more,
    )
    steps = predict(request, bench.store)
    return [(step.outcome, step.reason) for step in steps if step.outcome != "metadata"]


def test_what_no_cached_step_is_like_misses_for_sure_also_below_a_miss(bench: Bench) -> None:
    text = "FROM base\nRUN echo a > /a\nRUN echo b > /b\n"
    assert prediction(bench, text) == [("miss", "never built before")] * 2
    run_build(bench.store, text, executor=FakeExecutor())
    edited = text.replace("echo a", "echo x") + "RUN echo c > /c\n"
    assert [outcome for outcome, _ in prediction(bench, edited)] == ["miss", "depends", "miss"]


def test_the_same_step_twice_may_be_found_the_second_time(bench: Bench) -> None:
    text = "FROM base AS one\nRUN echo a > /a\nFROM base AS two\nRUN echo a > /a\nFROM one\n"
    text += "COPY --from=two /a /b\n"
    assert [outcome for outcome, _ in prediction(bench, text)] == ["miss", "depends", "depends"]


def test_a_step_on_nothing_is_known_also_below_a_miss(bench: Bench) -> None:
    write_files(bench.context, {"a.txt": b"a"})
    text = "FROM base\nRUN echo a > /a\nCOPY --link a.txt /l/\n"
    run_build(bench.store, text, context=bench.context, executor=FakeExecutor())
    edited = text.replace("echo a", "echo x")
    assert [outcome for outcome, _ in prediction(bench, edited)] == ["miss", "cached"]


def test_triggers_are_predicted_too(bench: Bench) -> None:
    make_image(bench.store, "triggers", {"etc/x": b"1"}, on_build=("RUN echo t > /t",))
    text = "FROM triggers\nRUN echo a > /a\n"
    assert [outcome for outcome, _ in prediction(bench, text)] == ["miss", "miss"]
    run_build(bench.store, text, executor=FakeExecutor())
    assert [outcome for outcome, _ in prediction(bench, text)] == ["cached", "cached"]


def test_stages_that_are_not_needed_are_not_predicted(bench: Bench) -> None:
    text = "FROM base AS one\nRUN echo a > /a\nFROM base AS two\nRUN echo b > /b\n"
    assert len(prediction(bench, text)) == 1
    assert len(prediction(bench, text, target="one")) == 1


def test_an_estimate_is_what_the_step_took_before(bench: Bench) -> None:
    text = "FROM base\nRUN echo aaaa > /a\n"
    built = run_build(bench.store, text, executor=FakeExecutor())
    request = BuildRequest(
        dockerfile=dockerfile(text.replace("aaaa", "b")), context=None, network="none"
    )
    (step,) = predict(request, bench.store)
    assert step.size_bytes == 5
    assert step.seconds == pytest.approx(built.result.record.steps[0].seconds, abs=1e-5)


def test_what_a_cache_elsewhere_may_have_depends(bench: Bench) -> None:
    text = "FROM base\nRUN echo a > /a\nRUN echo b > /b\n"
    bench.store.cache.add_source(NoSteps())
    assert [outcome for outcome, _ in prediction(bench, text)] == ["miss", "depends"]


def test_no_executor_is_started_and_nothing_is_pending(bench: Bench) -> None:
    before = list(bench.store.cache.steps())
    prediction(bench, "FROM base\nRUN echo a > /a\n")
    assert list(bench.store.cache.steps()) == before
    assert not (bench.store.private / "builds").exists() or not list(
        (bench.store.private / "builds").iterdir()
    )


def test_what_is_fetched_is_asked_for_and_nothing_is_kept(bench: Bench) -> None:
    with serve({"/f": Page(b"one", {"ETag": '"1"'})}) as server:
        text = f"FROM scratch\nADD {server.url}/f /f\nRUN echo a > /a\n"
        assert [outcome for outcome, _ in prediction(bench, text)] == ["miss", "miss"]
        run_build(bench.store, text, executor=FakeExecutor())
        assert [outcome for outcome, _ in prediction(bench, text)] == ["cached", "cached"]
        server.pages["/f"] = Page(b"two", {"ETag": '"2"'})
        first, second = prediction(bench, text)
        assert first == ("miss", "f changed")
        assert second[0] == "depends"
        assert second[1].startswith("follows line 2, ADD http")
    assert not list(bench.store.tmp.glob("*/dir*"))


def test_a_named_context_as_a_base_is_predicted_too(bench: Bench) -> None:
    tree = write_files(bench.root / "named", {"a": b"1"})
    text = "FROM named\nRUN echo a > /a\n"
    contexts = {"named": str(tree)}
    assert [outcome for outcome, _ in prediction(bench, text, contexts=contexts)][-1] == "miss"
    run_build(bench.store, text, executor=FakeExecutor(), contexts=contexts)
    found = prediction(bench, text, contexts=contexts)
    assert {outcome for outcome, _ in found} == {"cached"}
    write_files(tree, {"a": b"2"})
    found = prediction(bench, text, contexts=contexts)
    assert [outcome for outcome, _ in found] == ["miss", "depends"]
