"""StageState: what a stage knows, and that every change makes a new one."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.state import UNKNOWN_TIME, StageState, set_env
from layerstore import ContainerConfig, Store, chain_ids
from tests.support.growth import LINEAR, growth
from tests.support.layers import make_layer


def state_with(**config: Any) -> StageState:
    return StageState(config=replace(ContainerConfig(), **config))


def test_a_new_state_is_an_empty_image_at_the_beginning_of_time() -> None:
    state = StageState()
    assert state.shell == ("/bin/sh", "-c")
    assert state.workdir == "/"
    assert state.environment() == {}
    assert (state.layers, state.chain_id, state.history) == ((), None, ())
    assert state.created == UNKNOWN_TIME


def test_shell_and_workdir_come_from_the_config() -> None:
    state = state_with(shell=("/bin/bash", "-e"), working_dir="/src")
    assert state.shell == ("/bin/bash", "-e")
    assert state.workdir == "/src"
    for written, expected in (("/src/", "/src"), ("//a/./b/../c", "/a/c"), ("src", "/src")):
        assert state_with(working_dir=written).workdir == expected


def test_of_env_and_arg_the_later_one_is_seen() -> None:
    state = state_with(env=("A=image",)).with_arg("A", "arg").with_arg("B", None)
    assert state.environment() == {"A": "arg"}
    assert state.config.env == ("A=image",)
    assert state.inherited().environment() == {"A": "image"}
    assert state.with_env({"A": "env"}).environment() == {"A": "env"}
    assert state.with_env({"A": "env"}).with_arg("A", None).environment() == {"A": "env"}
    assert state.with_arg("A", None).args == (("A", "arg"), ("B", None))


def test_an_inherited_env_wins_over_arg_and_an_arg_without_value_is_none() -> None:
    state = replace(
        state_with(env=("A=env", "EMPTY=", "EQ=a=b")),
        args=(("A", "arg"), ("B", "arg"), ("C", None), ("D", "")),
    )
    assert state.environment() == {"A": "env", "B": "arg", "D": "", "EMPTY": "", "EQ": "a=b"}


def test_a_variable_of_a_foreign_image_may_lack_its_value() -> None:
    assert state_with(env=("ODD",)).environment() == {"ODD": ""}


def test_setting_a_variable_keeps_its_place() -> None:
    assert set_env(("A=1", "B=2"), {"A": "3"}) == ("A=3", "B=2")
    assert set_env(("A=1",), {"B": "2"}) == ("A=1", "B=2")
    assert set_env(("AB=1",), {"A": "2"}) == ("AB=1", "A=2")
    assert set_env((), {"A": "x=y"}) == ("A=x=y",)
    assert set_env(("A=1", "B=2"), {"C": "3", "B": "4"}) == ("A=1", "B=4", "C=3")
    assert state_with(env=("A=1",)).with_env({"A": "2"}).config.env == ("A=2",)


def test_a_variable_that_a_foreign_image_has_twice_is_set_twice() -> None:
    assert set_env(("A=1", "B=2", "A=3"), {"A": "4"}) == ("A=4", "B=2", "A=4")
    assert set_env(("A=1", "A=3"), {"B": "4"}) == ("A=1", "A=3", "B=4")
    state = StageState(config=ContainerConfig(env=("A=1", "A=3")))
    assert state.environment() == {"A": "3"}
    assert state.with_env({"B": "2"}).environment() == {"A": "3", "B": "2"}


def test_states_side_by_side_do_not_mix_their_variables() -> None:
    one, two = StageState().with_env({"A": "1"}), StageState().with_env({"A": "2", "B": "3"})
    for _ in range(3):
        one, two = one.with_env({"C": "4"}), two.with_env({"C": "5"})
        assert one.environment() == {"A": "1", "C": "4"}
        assert two.environment() == {"A": "2", "B": "3", "C": "5"}
    one.environment()["A"] = "changed"
    assert one.environment()["A"] == "1"


def test_thousands_of_variables_one_after_the_other_do_not_take_the_square() -> None:
    def set_all(count: int) -> None:
        state = StageState()
        for number in range(count):
            assert len(state.environment()) == number
            state = state.with_env({f"V{number}": "x"})

    assert growth(set_all, 500, 2000) < LINEAR


def test_metadata_leaves_an_empty_history_entry() -> None:
    state = replace(StageState(), config=ContainerConfig(user="me")).with_history("USER me")
    assert state.config.user == "me"
    (entry,) = state.history
    assert (entry.created_by, entry.empty_layer, entry.comment) == ("USER me", True, "lamina")
    assert (state.layers, state.chain_id) == ((), None)


def test_layers_build_the_chain_and_the_history(store: Store) -> None:
    first, second = make_layer(store, {"a": b""}), make_layer(store, {"b": b""})
    state = (
        StageState()
        .with_layer(first, created="2020-01-01T00:00:00Z", created_by="RUN 1")
        .with_history("ENV A=1")
        .with_layer(second, created="2021-01-01T00:00:00Z", created_by="RUN 2")
    )
    assert state.layers == (first, second)
    assert state.chain_id == chain_ids([first.diff_id, second.diff_id])[-1]
    assert [(entry.created_by, entry.empty_layer) for entry in state.history] == [
        ("RUN 1", False),
        ("ENV A=1", True),
        ("RUN 2", False),
    ]
    assert state.created == "2021-01-01T00:00:00Z"


def test_an_old_layer_does_not_make_the_image_older(store: Store) -> None:
    layer = make_layer(store, {"a": b""})
    state = StageState().with_layer(layer, created="2021-01-01T00:00:00Z", created_by="")
    state = state.with_layer(layer, created="2020-01-01T00:00:00Z", created_by="")
    assert state.created == "2021-01-01T00:00:00Z"


def test_metadata_is_as_old_as_what_it_stands_on(store: Store) -> None:
    layer = make_layer(store, {"a": b""})
    state = StageState().with_layer(layer, created="2021-01-01T00:00:00Z", created_by="")
    assert state.with_history("CMD x").history[-1].created == "2021-01-01T00:00:00Z"


def test_a_state_is_never_changed(store: Store) -> None:
    state = StageState()
    state.with_env({"A": "1"}).with_history("x")
    state.with_layer(make_layer(store, {}), created="", created_by="")
    assert state == StageState()
    with pytest.raises(FrozenInstanceError):
        state.author = "me"  # type: ignore[misc]


NAMES = st.sampled_from(["A", "B", "AB"])
VALUES = st.text(max_size=3)


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_setting_variables_is_like_setting_them_in_a_dictionary(
    pairs: list[tuple[str, str]],
) -> None:
    state = StageState()
    for name, value in pairs:
        state = state.with_env({name: value})
    assert state.environment() == dict(pairs)
    assert list(state.environment()) == list(dict(pairs))


def test_the_layers_that_an_image_brought_are_the_base(store: Store) -> None:
    brought, made = make_layer(store, {"a": b"1"}), make_layer(store, {"b": b"2"})
    state = StageState(layers=(brought,), chain_id=brought.diff_id)
    assert state.base == {brought.diff_id}
    state = state.with_layer(made, created="2020-01-01T00:00:00Z", created_by="", line=3)
    assert state.base == {brought.diff_id}
    assert state.own_lines == (3,)
    assert StageState().base == set()
