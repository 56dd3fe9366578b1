"""Quoting as Go does, and guessing as BuildKit does."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.check.names import did_you_mean, quoted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a\nb\t\x1b", '"a\\nb\\t\\x1b"'),
        ("é\u2028\U000e0001", '"é\\u2028\\U000e0001"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_text_is_quoted_as_go_quotes_it(text: str, expected: str) -> None:
    assert quoted(text) == expected


def test_a_close_name_is_what_was_meant() -> None:
    assert did_you_mean("BULIDPLATFORM", ["TARGETARCH", "BUILDPLATFORM"]) == (
        " (did you mean BUILDPLATFORM?)"
    )
    assert did_you_mean("PAHT", ["PATH"], sign="$") == " (did you mean $PATH?)"


def test_the_closest_one_wins_and_the_first_of_equals() -> None:
    assert did_you_mean("abcd", ["abxy", "abcx", "abcy"]) == " (did you mean abcx?)"
    assert did_you_mean("varB", ["varC", "varA"]) == " (did you mean varC?)"


@pytest.mark.parametrize("known", [[], ["abcdef"], ["xyz"], ["abc", "abx"]])
def test_nothing_is_meant_when_nothing_is_close_or_the_name_is_known(known: list[str]) -> None:
    assert did_you_mean("abc", known) == ""


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_close_is_two_letters_to_insert_drop_or_change(a: str, b: str) -> None:
    found = did_you_mean(a, [b])
    assert bool(found and b) == bool(b and 0 < distance(a, b) <= 2)


def test_guessing_has_an_end() -> None:
    assert did_you_mean("x" * 65, ["x" * 64]) == ""
    assert did_you_mean("abc", itertools.chain(("zzz" for _ in range(100)), ["abd"])) == ""


def distance(a: str, b: str) -> int:
    """Levenshtein's distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0])
    )
