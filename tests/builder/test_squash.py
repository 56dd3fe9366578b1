"""Squashed images: the same tree and config in fewer layers, and the same cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import PlanError
from builder.squash import Squash, squashed
from builder.state import StageState
from builder.timetravel import resolve
from layerstore import Store
from tests.support.executors import FakeExecutor
from tests.support.images import EPOCH, Built, make_image, run_build
from tests.support.imagetree import difference, stack
from tests.support.sources import Hard, Item
from tests.support.stores import findings

TEXT = """\
FROM base
ENV A=1
RUN echo one > /one; rm /base/old
RUN echo two > /two; rm /one
RUN mkdir /d; echo three > /d/three; chmod 700 /d
CMD ["x"]
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        make_image(store, "base", {"base/old": b"1", "base/kept": b"2"}, {"more": b"3"})
        yield store


def build(store: Store, text: str = TEXT, squash: Squash | None = None) -> Built:
    return run_build(store, text, executor=FakeExecutor(), squash=squash, epoch=EPOCH)


def trees_differ(store: Store, one: Built, other: Built) -> list[str]:
    trees = [
        stack([store.blob_path(layer.descriptor.digest) for layer in built.image.layers])
        for built in (one, other)
    ]
    return difference(*trees)


def history(built: Built) -> list[tuple[str, str, bool]]:
    return [(h.created_by, h.comment, h.empty_layer) for h in built.image.config.history]


def test_the_layers_of_the_build_become_one_and_those_of_the_base_stay(store: Store) -> None:
    plain, squashed = build(store), build(store, squash=Squash())
    assert len(plain.image.layers) == 5
    assert len(squashed.image.layers) == 3
    assert squashed.image.layers[:2] == plain.image.layers[:2]
    assert trees_differ(store, plain, squashed) == []
    assert squashed.config == plain.config


def test_what_a_later_step_removed_is_in_no_layer(store: Store) -> None:
    squashed = build(store, squash=Squash())
    rows = [(row.kind, row.path) for row in store.layers.toc(squashed.image.layers[-1])]
    assert rows == [
        ("dir", "base"),
        ("remove", "base/old"),
        ("dir", "d"),
        ("file", "d/three"),
        ("file", "two"),
    ]


def test_all_layers_become_one_without_removals(store: Store) -> None:
    plain, squashed = build(store), build(store, squash=Squash(all=True))
    assert len(squashed.image.layers) == 1
    assert squashed.image.layers[0].removed == 0
    assert trees_differ(store, plain, squashed) == []


def test_layers_from_a_line_on_become_one(store: Store) -> None:
    plain, squashed = build(store), build(store, squash=Squash(from_line=4))
    assert squashed.image.layers[:3] == plain.image.layers[:3]
    assert len(squashed.image.layers) == 4
    assert trees_differ(store, plain, squashed) == []


def test_a_line_between_two_instructions_means_the_next_one(store: Store) -> None:
    text = TEXT.replace("RUN echo two", "# a comment\nRUN echo two")
    one, two = (build(store, text, Squash(from_line=line)) for line in (4, 5))
    assert one.digest == two.digest
    assert len(one.image.layers) == 4


def test_a_line_within_an_instruction_means_that_instruction(store: Store) -> None:
    text = TEXT.replace("two; rm", "two; \\\n  rm")
    one, two = (build(store, text, Squash(from_line=line)) for line in (4, 5))
    assert one.digest == two.digest
    assert len(one.image.layers) == 4


def test_a_line_below_all_layers_is_an_error_that_says_where_the_last_is(store: Store) -> None:
    with pytest.raises(PlanError, match="--squash-from=6") as error:
        build(store, squash=Squash(from_line=6))
    assert error.value.hint == "the last one is made by line 5"


def test_the_history_keeps_every_entry_and_gets_one_for_the_layer(store: Store) -> None:
    assert history(build(store, squash=Squash())) == [
        ("layer 0", "", False),
        ("layer 1", "", False),
        ("ENV A=1", "lamina", True),
        ("RUN /bin/sh -c echo one > /one; rm /base/old", "lamina", True),
        ("RUN /bin/sh -c echo two > /two; rm /one", "lamina", True),
        ("RUN /bin/sh -c mkdir /d; echo three > /d/three; chmod 700 /d", "lamina", True),
        ('CMD ["x"]', "lamina", True),
        ("", "merge of 3 layers", False),
    ]


def test_with_all_squashed_the_entries_of_the_base_are_empty_too(store: Store) -> None:
    assert [empty for *_, empty in history(build(store, squash=Squash(all=True)))] == (
        [True] * 7 + [False]
    )


@pytest.mark.parametrize("squash", [Squash(), Squash(all=True), Squash(from_line=4)])
def test_the_next_build_without_squashing_is_fully_cached(store: Store, squash: Squash) -> None:
    first = build(store, squash=squash)
    assert first.outcomes == ["executed"] * 3
    second = build(store)
    assert second.outcomes == ["cached"] * 3
    assert len(second.image.layers) == 5


@pytest.mark.parametrize("squash", [Squash(), Squash(all=True)])
def test_squashing_again_gives_the_same_image(store: Store, squash: Squash) -> None:
    assert build(store, squash=squash).digest == build(store, squash=squash).digest


def test_one_layer_is_left_as_it_is(store: Store) -> None:
    text = "FROM base\nRUN touch /a\n"
    assert build(store, text, Squash()).digest == build(store, text).digest


def test_nothing_made_here_is_nothing_to_squash(store: Store) -> None:
    assert build(store, "FROM base\nENV B=1\n", Squash()).image.layers == (
        store.images.resolve("base").layers
    )


def test_stages_that_the_target_stands_on_are_made_here_too(store: Store) -> None:
    text = "FROM base AS one\nRUN touch /a\nFROM one\nRUN touch /b\nRUN rm /a\n"
    squashed = build(store, text, Squash())
    assert len(squashed.image.layers) == 3
    assert "a" not in squashed.tree
    assert "b" in squashed.tree


def test_hard_links_stay_linked(store: Store) -> None:
    items: dict[str, Item] = {"x": b"same", "y": Hard("x")}
    make_image(store, "linked", items)
    text = "FROM linked\nRUN touch /a\nRUN touch /b\n"
    squashed = build(store, text, Squash(all=True))
    kinds = {str(row.path): row.kind for row in store.layers.toc(squashed.image.layers[0])}
    assert (kinds["x"], kinds["y"]) == ("file", "hardlink")


def test_a_store_with_squashed_images_is_sound(store: Store) -> None:
    for squash in (Squash(), Squash(all=True), Squash(from_line=4)):
        build(store, squash=squash)
    store.flush()
    assert findings(store) == []


def test_the_chain_id_is_that_of_the_new_stack(store: Store) -> None:
    state = StageState()
    for number, name in enumerate(("a", "b", "c")):
        image = make_image(store, name, {name: b""})
        state = state.with_layer(image.layers[0], created="", created_by="", line=number + 1)
    result = squashed(state, Squash(from_line=2), store)
    assert result.own_lines == (1, 3)
    assert result.chain_id != state.chain_id
    assert (
        squashed(state, Squash(), store).chain_id
        == squashed(state, Squash(), store).layers[0].diff_id
    )


def test_a_squashed_image_still_has_its_moments(store: Store) -> None:
    """They are of the steps' own layers, which are in the cache."""
    squashed = run_build(store, TEXT, executor=FakeExecutor(), tag="it", squash=Squash())
    store.flush()
    moment = resolve(store, "it@2")
    assert "one" in {node.entry.path for node in store.layers.tree(moment.layers).walk()}
    assert moment.layers[:2] == squashed.image.layers[:2]
    assert resolve(store, "it@L5").layers[-1].diff_id != squashed.image.layers[-1].diff_id
    assert resolve(store, "it@5").descriptor == squashed.image.descriptor
