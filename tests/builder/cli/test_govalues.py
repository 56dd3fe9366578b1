import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cli.govalues import (
    NilList,
    NilMap,
    Struct,
    Value,
    inner,
    is_true,
    plain,
    show,
    to_json,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "<no value>"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (1.0, "1"),
        (0.25, "0.25"),
        ("text", "text"),
        (["a", 1, None], "[a 1 <nil>]"),
        ([], "[]"),
        ({"b": 1, "a": [2]}, "map[a:[2] b:1]"),
        ({}, "map[]"),
        (Struct(A=1, B="x"), "{1 x}"),
        (NilList(), "[]"),
        (NilMap(), "map[]"),
    ],
)
def test_values_print_as_in_go(value: Value, shown: str) -> None:
    assert show(value) == shown


def test_nothing_prints_in_two_ways() -> None:
    assert show(None) == "<no value>"
    assert inner(None) == "<nil>"


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, NilList(), NilMap(), 0.0])
def test_what_if_takes_for_false(value: Value) -> None:
    assert not is_true(value)


@pytest.mark.parametrize("value", [True, 1, "x", [0], {"a": 0}, Struct()])
def test_what_if_takes_for_true(value: Value) -> None:
    assert is_true(value)


def test_json_sorts_maps_and_keeps_the_order_of_fields() -> None:
    assert to_json(Struct(Z=1, A={"b": 1, "a": 2})) == '{"Z":1,"A":{"a":2,"b":1}}'


def test_absent_lists_and_maps_are_null_in_json() -> None:
    assert to_json(Struct(Cmd=NilList(), Labels=NilMap(), Env=[])) == (
        '{"Cmd":null,"Labels":null,"Env":[]}'
    )


def test_fields_may_be_left_out_of_json_while_they_are_empty() -> None:
    class Config(Struct):
        omitted_empty = frozenset(("Shell", "Retries"))

    empty = Config(Shell=NilList(), Retries=0, User="", Ports={})
    assert to_json([empty]) == '[{"User":"","Ports":{}}]'
    assert show(empty) == "{[] 0  map[]}"
    assert to_json(Config(Shell=["sh"], Retries=1)) == '{"Shell":["sh"],"Retries":1}'


def test_json_does_not_escape_what_html_would() -> None:
    assert to_json("<a & b>") == '"<a & b>"'


def test_names_that_are_not_utf8_leave_valid_json() -> None:
    assert json.loads(to_json(["\udcff"])) == ["\ufffd"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(values)
def test_json_of_plain_values_reads_back(value: Value) -> None:
    assert json.loads(to_json(value)) == plain(value)
