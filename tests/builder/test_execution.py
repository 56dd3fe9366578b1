"""Steps that are carried out, in whole builds with a fake executor."""

from pathlib import Path

import pytest

from builder import record
from builder.errors import ForeignPlatformError, StepFailedError
from builder.events import Event, VertexDone, VertexFailed
from builder.grants import Grants
from builder.sandbox import SandboxSpec
from layerstore import Digest, Platform, Store
from tests.support.executors import FakeExecutor
from tests.support.images import rebuilt, run_build

ARM = Platform(os="linux", architecture="arm", variant="v7")


@pytest.fixture
def fake() -> FakeExecutor:
    return FakeExecutor()


# Invariant 1: an equal result keeps everything below it.


def test_a_rewritten_step_with_an_equal_result_runs_alone(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN echo hi > /a\nRUN touch /slow\nCOPY <<EOF /doc\nx\nEOF\nCMD x\n"
    first, ran = rebuilt(store, text, fake)
    assert len(ran) == 2
    rewritten = text.replace("echo hi >", "printf 'hi\\n' >")
    second, ran = rebuilt(store, rewritten, fake)
    assert ran == ["printf 'hi\\n' > /a"]
    assert second.outcomes == ["reused", "cached", "cached"]
    assert second.digest == first.digest
    third, ran = rebuilt(store, rewritten, fake)
    assert (ran, third.digest) == ([], first.digest)


def test_the_same_bytes_of_another_place_keep_their_own_words(
    store: Store, fake: FakeExecutor
) -> None:
    """Nothing that stands in no line of this Dockerfile is in its history."""
    rebuilt(store, "FROM scratch AS other\nRUN echo hi > /a\nRUN touch /b\n", fake)
    text = "FROM scratch AS one\nRUN printf 'hi\\n' > /a\nRUN touch /b\n"
    built, ran = rebuilt(store, text, fake, target="one")
    assert ran == ["printf 'hi\\n' > /a"]
    assert built.outcomes == ["reused", "cached"]
    assert [entry.created_by for entry in built.image.config.history] == [
        "RUN /bin/sh -c printf 'hi\\n' > /a",
        "RUN /bin/sh -c touch /b",
    ]
    again, _ = rebuilt(store, text, fake, target="one")
    assert again.digest == built.digest


def test_a_reused_result_is_told_as_one(store: Store, fake: FakeExecutor) -> None:
    run_build(store, "FROM scratch\nRUN echo hi > /a\n", executor=fake)
    again = run_build(store, "FROM scratch\nRUN printf 'hi\\n' > /a\n", executor=fake)
    (done,) = [event for event in again.events if isinstance(event, VertexDone)]
    assert done.reused
    assert done.layer == again.image.layers[0].diff_id
    assert again.result.record.steps[0].outcome == "reused"


def test_another_result_runs_everything_below_again(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN echo hi > /a\nRUN touch /b\n"
    first, _ = rebuilt(store, text, fake)
    second, ran = rebuilt(store, text.replace("hi", "ho"), fake)
    assert len(ran) == 2
    assert second.digest != first.digest


def test_equal_content_with_another_mode_is_another_result(
    store: Store, fake: FakeExecutor
) -> None:
    text = "FROM scratch\nRUN echo hi > /a; chmod 600 /a\nRUN touch /b\n"
    rebuilt(store, text, fake)
    _, ran = rebuilt(store, text.replace("600", "644"), fake)
    assert len(ran) == 2


def test_the_same_result_on_another_parent_is_not_reused(store: Store, fake: FakeExecutor) -> None:
    rebuilt(store, "FROM scratch\nRUN touch /x\nRUN echo hi > /a\n", fake)
    built, ran = rebuilt(store, "FROM scratch\nRUN touch /y\nRUN echo hi > /a\n", fake)
    assert len(ran) == 2
    assert set(built.outcomes) == {"executed"}


def test_without_cache_everything_runs_and_nothing_is_reused(
    store: Store, fake: FakeExecutor
) -> None:
    text = "FROM scratch\nRUN echo hi > /a\nRUN touch /b\n"
    rebuilt(store, text, fake)
    built, ran = rebuilt(store, text, fake, no_cache=True)
    assert len(ran) == 2
    assert set(built.outcomes) == {"executed"}
    _, ran = rebuilt(store, text, fake)
    assert ran == []


# Invariant 2: failures.


def test_an_interrupted_build_keeps_what_was_done(store: Store) -> None:
    def interrupt(spec: SandboxSpec) -> None:
        if "b" in spec.program.argv[-1]:
            raise KeyboardInterrupt

    text = "FROM scratch\nRUN touch /a\nRUN touch /b\n"
    broken = FakeExecutor(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_build(store, text, executor=broken)
    assert broken.closed == 1
    fake = FakeExecutor()
    rebuilt(store, text, fake)
    assert fake.scripts == ["touch /b"]


def test_a_failed_step_is_not_remembered(store: Store, fake: FakeExecutor) -> None:
    for _ in range(2):
        with pytest.raises(StepFailedError):
            run_build(store, "FROM scratch\nRUN false\n", executor=fake)
    assert fake.scripts == ["false", "false"]


def test_a_failure_is_told_and_nothing_comes_after_it(store: Store, fake: FakeExecutor) -> None:
    events: list[Event] = []
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN echo x; exit 4\n", executor=fake, events=events)
    assert isinstance(events[-1], VertexFailed)
    assert events[-1].message.endswith("exit code: 4")


def test_a_program_of_another_platform_is_not_even_tried(
    store: Store, fake: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.platforms._BINFMT", Path("/nonexistent"))
    text = "FROM scratch\nCOPY <<EOF /f\nEOF\nRUN true\n"
    with pytest.raises(ForeignPlatformError) as caught:
        run_build(store, text, executor=fake, platform=ARM)
    assert caught.value.excerpt.startswith("Dockerfile:4")
    assert fake.scripts == []


# Executors and records.


def test_one_executor_serves_a_build_and_is_closed(store: Store) -> None:
    made: list[FakeExecutor] = []

    def start() -> FakeExecutor:
        made.append(FakeExecutor())
        return made[-1]

    run_build(store, "FROM scratch\nRUN touch /a\nRUN touch /b\n", executor=start)
    assert [(len(each.specs), each.closed) for each in made] == [(2, 1)]
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN false\n", executor=start)
    assert made[1].closed == 1


def test_the_record_of_a_run_has_its_processor_time_and_memory(
    store: Store, fake: FakeExecutor
) -> None:
    fake.usage = (1.5, 7 << 20)
    built = run_build(store, "FROM scratch\nRUN touch /a\n", executor=fake)
    (step,) = built.result.record.steps
    assert (step.cpu_s, step.memory_peak_bytes) == (1.5, 7 << 20)


def test_the_record_of_a_failed_step_has_its_output_and_its_document(
    store: Store, fake: FakeExecutor
) -> None:
    fake.usage = (0.5, 1 << 20)
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN echo out; fail broken\n", executor=fake)
    (found,) = record.read_all(store.private / "builds")
    (step,) = found.steps
    assert step.outcome == "failed"
    assert step.layer == ""
    assert step.cpu_s == 0.5
    assert record.log_of(found, step, store.private / "builds") == b"out\nbroken\n"
    assert step.key == Digest.of(step.document.encode())


def test_what_is_done_when_another_stage_fails_is_recorded_as_canceled(
    store: Store, fake: FakeExecutor
) -> None:
    def interrupted(spec: SandboxSpec) -> None:
        raise KeyboardInterrupt

    fake.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        run_build(store, "FROM scratch\nRUN touch /a\n", executor=fake)
    (found,) = record.read_all(store.private / "builds")
    assert found.error == "interrupted"
    assert [step.outcome for step in found.steps] == ["canceled"]


def test_the_log_that_is_kept_has_stars_for_secrets(store: Store, fake: FakeExecutor) -> None:
    built = run_build(
        store,
        "FROM scratch\nRUN echo a hunter2hunter2 b; env http_proxy; touch /a\n",
        executor=fake,
        build_args={"http_proxy": "http://ada:secret@proxy/"},
        grants=Grants(secrets={"one": b"hunter2hunter2\n"}),
    )
    assert built.output == b"a hunter2hunter2 b\nhttp://ada:secret@proxy/\n"
    found = built.result.record
    assert record.log_of(found, found.steps[0], store.private / "builds") == b"a *** b\n***\n"
