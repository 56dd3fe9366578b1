"""Which earlier step is compared with, and what above it made the difference."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.earlier import Link, Missed, counterparts, first_difference, lineage
from builder.errors import StepFailedError
from builder.events import Event, VertexDone
from builder.explain import Difference, Explanation
from builder.record import BaseRecord, StepRecord, read_all
from builder.sandbox import SandboxSpec
from layerstore import Digest, Store, prune
from tests.support.executors import FakeExecutor, no_executor
from tests.support.images import make_image, run_build
from tests.support.servers import Page, serve
from tests.support.sources import write_files
from tests.support.stores import findings


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_files(tmp_path / "context", {"a.txt": b"a", "d/f": b"f", "d/g": b"g"})


def explained(store: Store, text: str, **more: Any) -> dict[str, Explanation]:
    """The explanations of what was executed, by instruction."""
    more.setdefault("executor", FakeExecutor())
    built = run_build(store, text, **more)
    return by_instruction(built.result.record.steps)


def by_instruction(steps: tuple[StepRecord, ...]) -> dict[str, Explanation]:
    return {step.instruction: step.explanation for step in steps if step.explanation}


def reasons(store: Store, text: str, **more: Any) -> list[str]:
    return [each.reason for each in explained(store, text, **more).values()]


# The step at the same place.


def test_nothing_is_explained_by_nothing(store: Store) -> None:
    assert reasons(store, "FROM scratch\nRUN echo a > /a\n") == ["never built before"]
    assert reasons(store, "FROM scratch\nRUN echo a > /a\n", executor=no_executor) == []


def test_an_edited_instruction_is_compared_with_what_it_was(store: Store) -> None:
    explained(store, "FROM scratch\nRUN echo a > /a\nRUN echo c > /c\n")
    found = explained(store, "FROM scratch\nRUN echo b > /a\nRUN echo c > /c\n")
    first, second = found.values()
    assert first.differences == (
        Difference(kind="command", name="command", old="echo a > /a", new="echo b > /a"),
    )
    assert second.reason == "follows line 2, RUN echo b > /a"
    assert [each.kind for each in second.differences] == ["parent"]


def test_the_nearest_key_is_that_of_the_step_before(store: Store) -> None:
    built = run_build(store, "FROM scratch\nRUN echo a > /a\n", executor=FakeExecutor())
    (found,) = explained(store, "FROM scratch\nRUN echo b > /a\n").values()
    assert found.nearest == built.result.record.steps[0].key


def test_an_instruction_that_was_put_in_is_new_and_those_below_follow_it(store: Store) -> None:
    explained(store, "FROM scratch\nRUN echo a > /a\nRUN echo c > /c\n")
    found = explained(store, "FROM scratch\nRUN echo a > /a\nRUN echo b > /b\nRUN echo c > /c\n")
    assert found["RUN echo b > /b"].cause == "new"
    assert found["RUN echo c > /c"].reason == "follows line 3, RUN echo b > /b, which was added"


def test_what_differs_in_the_step_itself_comes_before_what_is_above(store: Store) -> None:
    explained(store, "FROM scratch\nRUN echo c > /c\n")
    found = explained(store, "FROM scratch\nWORKDIR /w\nRUN echo c > /c\n")["RUN echo c > /c"]
    assert [(each.kind, each.name) for each in found.differences] == [
        ("field", "cwd"),
        ("parent", "WORKDIR /w"),
    ]
    assert found.reason == "working directory: / -> /w, and 1 more"


def test_an_instruction_that_was_taken_out_is_named_by_those_below(store: Store) -> None:
    explained(store, "FROM scratch\nRUN echo a > /a\nRUN echo b > /b\nRUN echo c > /c\n")
    found = explained(store, "FROM scratch\nRUN echo a > /a\nRUN echo c > /c\n")
    assert [each.reason for each in found.values()] == [
        "follows line 3, RUN echo b > /b, which was removed"
    ]


def test_a_file_is_named_and_what_is_below_follows(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY d /d\nRUN cat /d/f > /r\n"
    explained(store, text, context=context)
    (context / "d/f").write_bytes(b"other")
    assert reasons(store, text, context=context) == ["d/f changed", "follows line 2, COPY d /d"]


def test_a_file_of_a_mount_is_named(store: Store, context: Path) -> None:
    text = "FROM scratch\nRUN --mount=type=bind,source=d,target=/m echo a > /a\n"
    explained(store, text, context=context)
    (context / "d/f").write_bytes(b"other")
    (found,) = explained(store, text, context=context).values()
    assert [(each.kind, each.name, each.what) for each in found.differences] == [
        ("file", "d/f", "content")
    ]
    changed = text.replace("target=/m", "target=/n").replace("type=bind", "type=bind,rw")
    (found,) = explained(store, changed, context=context).values()
    assert {(each.name, each.change) for each in found.differences} == {
        ("mounts[/m]", "removed"),
        ("mounts[/n]", "added"),
    }


def test_a_stage_is_traced_into_the_stage_it_stands_on(store: Store) -> None:
    text = "FROM scratch AS one\nRUN echo {} > /a\nFROM one\nRUN echo c > /c\n"
    explained(store, text.format("a"))
    found = explained(store, text.format("b"))
    assert found["RUN echo c > /c"].reason == "follows line 2, RUN echo b > /a"


def test_what_is_copied_from_a_stage_is_told_by_file(store: Store) -> None:
    text = "FROM scratch AS one\nRUN echo {} > /a\nFROM scratch\nCOPY --from=one /a /b\n"
    explained(store, text.format("a"))
    found = explained(store, text.format("b"))
    assert found["COPY --from=one /a /b"].reason == "/a changed"


def test_what_is_fetched_is_told_as_a_whole(store: Store) -> None:
    with serve() as server:
        text = f"FROM scratch\nADD {server.url}/f /f\n"
        for content in (b"one", b"two"):
            server.pages["/f"] = Page(content)
            found = explained(store, text)
    (explanation,) = found.values()
    assert [(each.kind, each.name) for each in explanation.differences] == [("files", "f")]
    assert explanation.reason == "f changed"
    store.flush()
    assert findings(store) == []


def test_another_base_image_is_named_with_both_digests(store: Store) -> None:
    old = make_image(store, "base", {"a": b"1"})
    explained(store, "FROM base\nRUN echo c > /c\n")
    new = make_image(store, "base", {"a": b"2"})
    (found,) = explained(store, "FROM base\nRUN echo c > /c\n").values()
    assert found.differences == (
        Difference(
            kind="base",
            name="base",
            old=old.descriptor.digest,
            new=new.descriptor.digest,
            line=1,
        ),
    )
    assert found.reason == "base image base changed"


def test_arguments_and_variables_are_told_apart(store: Store) -> None:
    text = "FROM scratch\nARG ONE=1\nENV TWO={}\nRUN echo c > /c\n"
    explained(store, text.format("2"))
    assert reasons(store, text.format("3")) == ["ENV TWO: 2 -> 3"]
    assert reasons(store, text.format("3"), build_args={"ONE": "x"}) == ["ARG ONE: 1 -> x"]


def test_another_target_is_another_place(store: Store) -> None:
    text = "FROM scratch AS one\nRUN echo {} > /a\nFROM scratch AS two\nRUN echo {} > /b\n"
    explained(store, text.format("a", "a"))
    found = explained(store, text.format("b", "b"), target="one")
    assert [each.cause for each in found.values()] == ["new"]


# Why a result that was there cannot be used.


def test_a_layer_that_was_pruned(store: Store) -> None:
    text = "FROM scratch\nRUN echo a > /a\n"
    explained(store, text)
    store.close()
    with Store.open(store.root) as again:
        prune(again, images="unused", cache="all")
        assert reasons(again, text) == ["its layer was pruned"]


def test_a_layer_that_is_damaged(store: Store) -> None:
    text = "FROM scratch\nRUN echo a > /a\n"
    built = run_build(store, text, executor=FakeExecutor())
    store.flush()
    store.close()
    (layer,) = built.image.layers
    store.blob_path(layer.descriptor.digest).unlink()
    (store.layers.snapshot_path(layer.diff_id) / "a").unlink()  # it would be made again of that
    with Store.open(store.root) as again:
        assert reasons(again, text) == ["its layer is gone or damaged"]


def test_a_step_that_failed_is_tried_again(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(StepFailedError):
            run_build(store, "FROM scratch\nRUN exit 3\n", executor=FakeExecutor())
    step = read_all(store.private / "builds")[0].steps[0]
    assert (step.outcome, step.reason) == ("failed", "it failed the last time")


def test_a_step_that_was_interrupted_did_not_fail(store: Store) -> None:
    text = "FROM scratch\nRUN echo a > /a\n"

    def interrupted(spec: SandboxSpec) -> None:
        raise KeyboardInterrupt

    stopped = FakeExecutor()
    stopped.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        run_build(store, text, executor=stopped)
    assert reasons(store, text) == ["it was canceled the last time"]


def test_a_step_that_failed_is_what_its_repair_is_compared_with(store: Store) -> None:
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN exit 3\n", executor=FakeExecutor())
    assert reasons(store, "FROM scratch\nRUN echo a > /a\n") == ["command changed"]


def test_what_a_failed_build_did_not_reach_is_compared_with_the_build_before(store: Store) -> None:
    text = "FROM scratch\nRUN {}\nRUN echo c > /c\n"
    explained(store, text.format("echo a > /a"))
    with pytest.raises(StepFailedError):
        run_build(store, text.format("exit 3"), executor=FakeExecutor())
    found = explained(store, text.format("echo b > /a"))
    first, second = found.values()
    assert (first.reason, first.differences[0].old) == ("command changed", "exit 3")
    assert second.reason == "follows line 2, RUN echo b > /a"


# Neighbours.


def test_without_a_place_the_same_command_on_the_same_parent_is_found(store: Store) -> None:
    explained(store, "FROM scratch\nENV A=1\nRUN echo a > /a\n", target="")
    for path in (store.private / "builds").iterdir():
        path.unlink()
    assert reasons(store, "FROM scratch\nENV A=2\nRUN echo a > /a\n") == ["ENV A: 1 -> 2"]


def test_of_several_the_most_similar_is_taken(store: Store) -> None:
    for env in ("A=1 B=1", "A=1 B=2", "A=3 B=3"):
        explained(store, f"FROM scratch\nENV {env}\nRUN echo a > /a\n")
    for path in (store.private / "builds").iterdir():
        path.unlink()
    assert reasons(store, "FROM scratch\nENV A=3 B=2\nRUN echo a > /a\n") == ["ENV B: 3 -> 2"]


def test_another_command_on_the_same_parent_is_no_neighbour(store: Store) -> None:
    explained(store, "FROM scratch\nRUN echo a > /a\n")
    for path in (store.private / "builds").iterdir():
        path.unlink()
    assert reasons(store, "FROM scratch\nRUN echo b > /b\n") == ["never built before"]


def test_a_copy_with_the_same_words_elsewhere_is_found(store: Store, context: Path) -> None:
    explained(store, "FROM scratch\nRUN echo a > /a\nCOPY d /d\n", context=context)
    for path in (store.private / "builds").iterdir():
        path.unlink()
    (context / "d/f").write_bytes(b"other")
    (found,) = explained(store, "FROM scratch\nCOPY d /d\n", context=context).values()
    assert [(each.kind, each.name) for each in found.differences] == [
        ("file", "d/f"),
        ("parent", ""),
    ]


# What it costs.


def test_an_explanation_takes_less_than_a_millisecond_or_two(store: Store, context: Path) -> None:
    """A bound for a slow machine; without files to compare it is some 0.3 ms."""
    from builder.earlier import Earlier

    text = "FROM scratch\n" + "".join(f"RUN echo {{}} > /f{number}\n" for number in range(20))
    run_build(store, text.replace("{}", "a"), context=context, executor=FakeExecutor())
    spent = []
    explain = Earlier.explain

    def timed(self: Earlier, missed: Missed) -> Explanation:
        start = time.perf_counter()
        try:
            return explain(self, missed)
        finally:
            spent.append(time.perf_counter() - start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Earlier, "explain", timed)
        run_build(store, text.replace("{}", "b"), context=context, executor=FakeExecutor())
    assert len(spent) == 20
    assert sorted(spent)[10] < 0.002


def test_reasons_are_told_with_the_end_of_each_step(store: Store) -> None:
    events: list[Event] = []
    text = "FROM scratch\nRUN echo a > /a\n"
    run_build(store, text, executor=FakeExecutor(), events=events)
    assert [each.reason for each in events if isinstance(each, VertexDone)] == [
        "never built before"
    ]


# Counterparts.


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        ("RUN a|RUN b", "RUN a|RUN b", {0: 0, 1: 1}),
        ("RUN a|RUN b", "RUN a|RUN c", {0: 0, 1: 1}),
        ("RUN a|RUN b", "RUN a|COPY b", {0: 0}),
        ("RUN a|RUN b", "RUN a|RUN x|RUN b", {0: 0, 2: 1}),
        ("RUN a|RUN x|RUN b", "RUN a|RUN b", {0: 0, 1: 2}),
        ("RUN a|COPY x|RUN b", "RUN c|COPY x|RUN d", {0: 0, 1: 1, 2: 2}),
        ("COPY x|RUN a", "RUN a|COPY x", {0: 1}),
        ("", "RUN a", {}),
        ("RUN a", "", {}),
    ],
)
def test_counterparts(old: str, new: str, pairs: dict[int, int]) -> None:
    split = [text.split("|") if text else [] for text in (old, new)]
    assert counterparts(*split) == pairs


INSTRUCTIONS = st.lists(st.sampled_from(["RUN a", "RUN b", "COPY a", "ENV a"]), max_size=6)


@settings(deadline=None)
@given(INSTRUCTIONS, INSTRUCTIONS)
def test_counterparts_are_in_order_and_of_one_keyword(old: list[str], new: list[str]) -> None:
    pairs = counterparts(old, new)
    assert len(set(pairs.values())) == len(pairs)
    assert [pairs[number] for number in sorted(pairs)] == sorted(pairs.values())
    for number, other in pairs.items():
        assert new[number].split()[0] == old[other].split()[0]


@settings(deadline=None)
@given(INSTRUCTIONS)
def test_an_unchanged_stage_is_its_own_counterpart(instructions: list[str]) -> None:
    assert counterparts(instructions, instructions) == {
        number: number for number in range(len(instructions))
    }


# Lineages.

STEP = StepRecord(
    instruction="RUN a", line=2, stage="two", outcome="executed", reason="", key="k",
    layer="l1", seconds=0.0,
)  # fmt: skip


def test_a_lineage_begins_with_the_base_and_goes_through_stages() -> None:
    bases = [BaseRecord("one", 1, "busybox", "sha256:b"), BaseRecord("two", 5, "one", "")]
    steps = [
        replace(STEP, stage="one", line=2, layer="l0"),
        replace(STEP, stage="two", line=6, instruction="ENV A=1", layer=""),
        replace(STEP, stage="two", line=7),
        replace(STEP, stage="three", line=9),
    ]
    assert lineage(bases, steps, "two") == [
        Link(1, "FROM busybox", "sha256:b"),
        Link(2, "RUN a", "l0"),
        Link(7, "RUN a", "l1"),
    ]
    assert lineage([], steps, "three") == [Link(9, "RUN a", "l1")]


def test_stages_that_stand_on_each_other_end() -> None:
    bases = [BaseRecord("one", 1, "two", ""), BaseRecord("two", 2, "one", "")]
    assert lineage(bases, [], "one") == []


A, B, C = (Link(number, f"RUN {number}", f"l{number}") for number in range(3))
B2 = B._replace(content="other")
FROM, FROM2 = Link(1, "FROM x", "sha256:1"), Link(1, "FROM y", "sha256:2")


@pytest.mark.parametrize(
    ("old", "new", "kind", "name", "change"),
    [
        ([A, B, C], [A, B2, C], "parent", "RUN 1", "changed"),
        ([A, B], [A, C], "parent", "RUN 2", "changed"),
        ([A], [A, B], "parent", "RUN 1", "added"),
        ([A, B], [A], "parent", "RUN 1", "removed"),
        ([A, C], [A, B, C], "parent", "RUN 1", "added"),
        ([A, B, C], [A, C], "parent", "RUN 1", "removed"),
        ([FROM, A], [FROM2, A], "base", "y", "changed"),
        ([FROM, A], [A], "base", "x", "changed"),
        ([A, B], [B2, A], "parent", "RUN 1", "changed"),
    ],
)
def test_the_lowest_difference_is_named(
    old: list[Link], new: list[Link], kind: str, name: str, change: str
) -> None:
    found = first_difference(old, new)
    assert found is not None
    assert (found.kind, found.name, found.change) == (kind, name, change)


def test_equal_lineages_have_no_difference() -> None:
    assert first_difference([FROM, A, B], [FROM, A, B]) is None
    assert first_difference([], []) is None


def test_digests_are_found_again(store: Store) -> None:
    """What an explanation calls nearest is a key of the cache."""
    explained(store, "FROM scratch\nRUN echo a > /a\n")
    (found,) = explained(store, "FROM scratch\nRUN echo b > /a\n").values()
    assert store.cache.find(Digest(found.nearest)) is not None
