"""Labels and filters on a command line."""

import pytest

from builder.cli.arguments import UsageError
from builder.cli.labels import has_label, parse_filters, parse_label

LABELS = (("a", "1"), ("b", ""), ("c", "x=y"))


@pytest.mark.parametrize(
    ("text", "label"), [("a=1", ("a", "1")), ("a", ("a", "")), ("a=b=c", ("a", "b=c"))]
)
def test_the_first_equals_sign_ends_the_name(text: str, label: tuple[str, str]) -> None:
    assert parse_label(text) == label


@pytest.mark.parametrize("text", ["", "=1"])
def test_a_label_has_a_name(text: str) -> None:
    with pytest.raises(UsageError, match="no name"):
        parse_label(text)


@pytest.mark.parametrize("wanted", ["a", "a=1", "b", "b=", "c=x=y"])
def test_a_label_is_found_by_its_name_or_with_its_value(wanted: str) -> None:
    assert has_label(LABELS, wanted)


@pytest.mark.parametrize("wanted", ["d", "a=", "a=2", "b=1", "c=x", ""])
def test_another_name_or_value_is_not_found(wanted: str) -> None:
    assert not has_label(LABELS, wanted)


def test_filters_are_grouped_by_their_keys() -> None:
    texts = ["name=a,b", "label=x=y", "name=", "label=z"]
    wanted = {"name": ["a,b", ""], "label": ["x=y", "z"]}
    assert parse_filters(texts, ("label", "name", "id")) == wanted


@pytest.mark.parametrize("text", ["name", "colour=red", "=x", ""])
def test_a_filter_has_a_key_that_is_known(text: str) -> None:
    with pytest.raises(UsageError, match="invalid filter"):
        parse_filters([text], ("name", "label"))
