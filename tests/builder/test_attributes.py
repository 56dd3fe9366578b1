"""Attribute lists, as docker's command line has them."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.attributes import Attributes, parse_attributes, split_fields
from builder.errors import OutputError, UnsupportedFeatureError


def split(text: str) -> list[str]:
    return split_fields(text, option="--output")


def attributes(**given: str) -> Attributes:
    names = {name.replace("_", "-"): value for name, value in given.items()}
    return Attributes(names, what="--output type=it")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("out", ["out"]),
        ("", [""]),
        ("type=local,dest=out", ["type=local", "dest=out"]),
        ('type=image,"name=a,b"', ["type=image", "name=a,b"]),
        ('"a ""quoted"" word",b', ['a "quoted" word', "b"]),
        ('""', [""]),
        ('"a","b"', ["a", "b"]),
        ("a,,b,", ["a", "", "b", ""]),
    ],
)
def test_fields(text: str, fields: list[str]) -> None:
    assert split(text) == fields


@pytest.mark.parametrize("text", ['a"b', 'name="a,b"', '"open', '"a"b', '"a",b"', '"""'])
def test_a_quote_out_of_place_is_an_error_that_shows_the_text(text: str) -> None:
    with pytest.raises(OutputError, match="--output"):
        split(text)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0")), min_size=1, max_size=4))
def test_what_a_csv_writer_quotes_is_read_back(fields: list[str]) -> None:
    class Kept:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

    kept = Kept()
    csv.writer(kept, quoting=csv.QUOTE_ALL, lineterminator="").writerow(fields)
    assert split(kept.text) == fields


def test_names_are_in_any_case_and_the_last_of_two_counts() -> None:
    found = parse_attributes([" Type=local", "DEST=Out=1", "dest=b"], option="--output")
    assert found == {"type": "local", "dest": "b"}


def test_a_field_without_a_value_is_an_error() -> None:
    with pytest.raises(OutputError, match="invalid value push"):
        parse_attributes(["type=image", "push"], option="--output")


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("T", True), ("", True), ("false", False), ("0", False)]
)
def test_booleans(value: str, expected: bool) -> None:
    assert attributes(push=value).boolean("push", default=not expected) is expected
    assert attributes().boolean("push", default=True) is True


def test_what_is_no_boolean_is_an_error_that_names_it() -> None:
    with pytest.raises(OutputError, match="--output type=it: push=maybe: neither true nor false"):
        attributes(push="maybe").boolean("push", default=True)


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("12", 12), ("-1", -1)])
def test_numbers(value: str, expected: int) -> None:
    assert attributes(level=value).number("level") == expected
    assert attributes().number("level") is None


@pytest.mark.parametrize("value", ["", "x", "1.5", "1" * 5000, "٣", "--1"])
def test_what_is_no_number_is_an_error(value: str) -> None:
    with pytest.raises(OutputError, match="level="):
        attributes(level=value).number("level")


def test_attributes_of_one_prefix() -> None:
    found = Attributes({"annotation.a": "1", "annotation.b.c": "2", "x": "3"}, what="it")
    assert found.prefixed("annotation.") == {"a": "1", "b.c": "2"}
    assert found.text("x") == "3"
    found.end()


def test_what_nobody_took_is_refused_by_name() -> None:
    found = attributes(platform_split="true")
    with pytest.raises(UnsupportedFeatureError, match="platform-split= of --output type=it"):
        found.end()
