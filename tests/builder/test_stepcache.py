"""Which steps a build takes from the cache, and how builds that need the same one get along."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from builder.errors import PlanError
from builder.events import Event, VertexOutput
from layerstore import Digest, Store
from tests.support.executors import FakeExecutor, no_executor
from tests.support.images import EPOCH, run_build
from tests.support.stores import findings
from tests.support.traces import open_descriptors


@pytest.fixture
def fake() -> FakeExecutor:
    return FakeExecutor()


# Steps that are carried out although they are in the cache.

FORCED = """FROM scratch AS one
RUN echo a > /a
FROM scratch AS two
RUN echo b > /b
RUN echo c > /c
FROM two
COPY --from=one /a /a
"""


def forced(store: Store, fake: FakeExecutor, **more: Any) -> dict[int, str]:
    """The reasons by line of what is executed of FORCED when all of it is in the cache."""
    run_build(store, FORCED, executor=fake)
    built = run_build(store, FORCED, executor=fake, **more)
    steps = built.result.record.steps
    return {step.line: step.reason for step in steps if step.outcome != "cached"}


def test_no_cache_carries_out_everything(store: Store, fake: FakeExecutor) -> None:
    assert forced(store, fake, no_cache=True, epoch=EPOCH) == dict.fromkeys(
        (2, 4, 5, 7), "--no-cache"
    )


@pytest.mark.parametrize("name", ["two", "TWO", "1"])
def test_a_filter_carries_out_one_stage(store: Store, fake: FakeExecutor, name: str) -> None:
    found = forced(store, fake, no_cache_stages=(name,))
    assert {line: found[line] for line in (4, 5)} == dict.fromkeys((4, 5), "--no-cache-filter=two")
    assert 2 not in found


def test_a_stage_without_a_name_is_told_by_the_number_that_the_option_takes(
    store: Store, fake: FakeExecutor
) -> None:
    found = forced(store, fake, no_cache_stages=("2",))
    assert found == {7: "--no-cache-filter=2"}


def test_several_stages_can_be_named(store: Store, fake: FakeExecutor) -> None:
    assert {2, 4, 5} <= forced(store, fake, no_cache_stages=("one", "two")).keys()


def test_a_filter_that_names_no_stage_is_an_error(store: Store) -> None:
    with pytest.raises(PlanError, match="no such stage") as caught:
        run_build(store, FORCED, executor=no_executor, no_cache_stages=("thre",))
    assert "one, two" in caught.value.hint


@pytest.mark.parametrize(("line", "lines"), [(5, {5, 7}), (7, {7}), (6, {7}), (1, {2, 4, 5, 7})])
def test_all_steps_from_a_line_on_are_carried_out(
    store: Store, fake: FakeExecutor, line: int, lines: set[int]
) -> None:
    found = forced(store, fake, no_cache_from=line)
    assert found == dict.fromkeys(lines, f"--no-cache-from={line}")


@pytest.mark.parametrize(
    ("line", "lines"), [(3, [2, 5]), (4, [2, 5]), (5, [5]), (6, [5]), (8, [5])]
)
def test_a_line_within_an_instruction_means_that_instruction(
    store: Store, fake: FakeExecutor, line: int, lines: list[int]
) -> None:
    text = "FROM scratch\nRUN echo a > /a && \\\n# why\n  true\nRUN <<E\necho b > /b\ntrue\nE\n"
    run_build(store, text, executor=fake)
    steps = run_build(store, text, executor=fake, no_cache_from=line).result.record.steps
    assert [step.line for step in steps if step.outcome != "cached"] == lines


def test_a_line_without_an_instruction_from_it_on_is_an_error(store: Store) -> None:
    with pytest.raises(PlanError, match="no instruction from that line on") as caught:
        run_build(store, FORCED, executor=no_executor, no_cache_from=8)
    assert caught.value.hint == "the last one that the target needs ends in line 7"


def test_what_is_older_than_its_time_to_live_is_carried_out_again(
    store: Store, fake: FakeExecutor
) -> None:
    assert forced(store, fake, cache_ttl_s=3600.0) == {}
    time.sleep(0.01)
    found = forced(store, fake, cache_ttl_s=0.005)
    assert set(found.values()) == {"older than --cache-ttl"}
    assert found.keys() == {2, 4, 5, 7}


def test_the_time_to_live_begins_anew_when_a_step_gives_the_same_again(
    store: Store, fake: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_build(store, FORCED, executor=fake)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    second = run_build(store, FORCED, executor=fake, cache_ttl_s=60.0)
    third = run_build(store, FORCED, executor=no_executor, cache_ttl_s=60.0)
    assert set(third.outcomes) == {"cached"}
    assert first.digest == second.digest == third.digest


def test_the_age_of_a_step_is_not_that_of_its_files(store: Store, fake: FakeExecutor) -> None:
    run_build(store, FORCED, executor=fake, epoch=EPOCH)
    run_build(store, FORCED, executor=no_executor, epoch=EPOCH, cache_ttl_s=60.0)


# One carries a step out, the others wait.


class Watched(list[Event]):
    """Events; `act` is called when the build begins to wait for another."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, VertexOutput) and b"waiting for another" in event.data:
            self._act()


def key_of(text: str, store: Store) -> Digest:
    """The key of the only step of `text`, found out in another store."""
    with Store.open(store.root.with_name("elsewhere")) as elsewhere:
        run_build(elsewhere, text, executor=FakeExecutor())
        (step,) = elsewhere.cache.steps()
        return step.key


def test_stages_with_the_same_step_carry_it_out_once(store: Store, fake: FakeExecutor) -> None:
    text = """\
FROM scratch AS one
RUN echo same > /a
FROM scratch AS two
RUN echo same > /a
FROM scratch
COPY --from=one /a /one
COPY --from=two /a /two
"""
    built = run_build(store, text, executor=fake, jobs=2)
    assert fake.scripts == ["echo same > /a"]
    assert built.read("one") == built.read("two") == b"same\n"
    assert store.claims.held() == ()


def test_a_step_that_another_build_carries_out_is_waited_for(
    store: Store, fake: FakeExecutor
) -> None:
    """The other has the claim until its result can be seen."""
    text = "FROM scratch\nRUN echo once > /a\n"
    key = key_of(text, store)
    looked: list[int] = []
    with Store.open(store.root) as other:
        assert other.claims.take(key)

        def finish() -> None:
            looked.append(1)
            run_build(other, text, executor=FakeExecutor(), no_cache=True)
            other.claims.release([key])

        built = run_build(store, text, executor=fake, events=Watched(finish))
    assert looked == [1]
    assert fake.scripts == []
    assert built.outcomes == ["cached"]


def test_a_step_whose_builder_died_is_carried_out(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN echo once > /a\n"
    key = key_of(text, store)
    with Store.open(store.root) as other:
        assert other.claims.take(key)
        run_build(store, text, executor=fake, events=Watched(lambda: other.claims.release([key])))
    assert fake.scripts == ["echo once > /a"]


def test_a_builder_without_a_sign_of_life_is_not_waited_for(
    store: Store, fake: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.claims._LIFELESS_S_MAX", 0.1)
    text = "FROM scratch\nRUN echo once > /a\n"
    key = key_of(text, store)
    with Store.open(store.root) as other:
        assert other.claims.take(key)
        built = run_build(store, text, executor=fake)
        assert other.claims.held() == (key,)
    assert fake.scripts == ["echo once > /a"]
    assert built.outcomes == ["executed"]
    assert findings(store) == []


def test_what_must_be_done_anyway_waits_for_nobody(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN echo once > /a\n"
    key = key_of(text, store)
    with Store.open(store.root) as other:
        assert other.claims.take(key)
        built = run_build(store, text, executor=fake, no_cache=True)
    assert built.output == b""
    assert fake.scripts == ["echo once > /a"]


def test_finished_steps_are_seen_by_others_a_dozen_at_a_time(store: Store) -> None:
    """Each holds an open descriptor until then."""
    seen: list[int] = []
    held: list[int] = []

    class Counting(FakeExecutor):
        def start(self, *args: Any) -> Any:
            with Store.open(store.root) as other:
                seen.append(len(list(other.cache.steps())))
            held.append(len(store.claims.held()))
            return super().start(*args)

    text = "FROM scratch\n" + "".join(f"RUN echo {number} > /f\n" for number in range(40))
    run_build(store, text, executor=Counting())
    assert seen[0] == 0
    assert seen[-1] >= 24
    assert max(held) <= 13
    assert store.claims.held() == ()


def test_no_descriptor_is_left_of_claims(store: Store, fake: FakeExecutor) -> None:
    run_build(store, FORCED, executor=fake)
    before = open_descriptors()
    for number in range(5):
        run_build(store, FORCED.replace("echo a", f"echo {number}"), executor=fake)
    assert open_descriptors() <= before
