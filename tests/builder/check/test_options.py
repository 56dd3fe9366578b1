"""`skip=...;experimental=...;error=...`."""

import pytest

from builder.check.options import NO_OPTIONS, Options, parse_options
from builder.check.rules import (
    FROM_AS_CASING,
    INVALID_DEFINITION_DESCRIPTION,
    STAGE_NAME_CASING,
)
from builder.errors import PlanError


def test_without_options_all_but_the_experimental_checks_are_in_force() -> None:
    for text in ("", "  ", "error=false"):
        options = parse_options(text)
        assert options == NO_OPTIONS
        assert options.allows(STAGE_NAME_CASING)
        assert not options.allows(INVALID_DEFINITION_DESCRIPTION)


def test_a_named_check_is_skipped() -> None:
    options = parse_options("skip=StageNameCasing, UndefinedVar")
    assert not options.allows(STAGE_NAME_CASING)
    assert options.allows(FROM_AS_CASING)


def test_all_are_skipped_but_the_experimental_ones() -> None:
    options = parse_options("skip=all;experimental=InvalidDefinitionDescription")
    assert not options.allows(STAGE_NAME_CASING)
    assert options.allows(INVALID_DEFINITION_DESCRIPTION)


def test_all_experimental_checks_may_be_asked_for() -> None:
    assert parse_options("experimental=all").allows(INVALID_DEFINITION_DESCRIPTION)


def test_all_is_a_name_like_others_in_a_list() -> None:
    """As in BuildKit, where only `skip=all` says all."""
    assert parse_options("skip=all,FromAsCasing").allows(STAGE_NAME_CASING)


def test_skipping_says_nothing_about_an_experimental_check() -> None:
    text = "experimental=InvalidDefinitionDescription;skip=InvalidDefinitionDescription"
    assert parse_options(text).allows(INVALID_DEFINITION_DESCRIPTION)


@pytest.mark.parametrize(
    ("text", "is_error"),
    [("error=true", True), ("error = 1", True), (" error=T ", True), ("error=0", False)],
)
def test_warnings_may_be_errors(text: str, is_error: bool) -> None:
    assert parse_options(text).is_error is is_error


def test_the_parts_may_stand_in_any_order() -> None:
    assert parse_options("error=true;skip=A") == parse_options(" skip = A ; error = true ")
    assert parse_options("skip=A;skip=B") == Options(skip=frozenset(["B"]))


@pytest.mark.parametrize("text", ["what", "skip", "wrong=1", "error=maybe", "error=", "skip=A;"])
def test_an_option_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_options(text)
    assert "invalid check option" in caught.value.message
    assert caught.value.hint


def test_the_third_part_takes_the_rest() -> None:
    assert parse_options("skip=A;error=1;skip=B;skip=C").skip == {"B;skip=C"}


def test_options_of_an_instruction_are_added_to_those_of_the_file() -> None:
    both = parse_options("skip=A;error=true").with_those_of(parse_options("skip=B"))
    assert both == Options(skip=frozenset(["A", "B"]), is_error=True)
    assert not NO_OPTIONS.with_those_of(parse_options("error=true")).is_error
    everything = parse_options("skip=A").with_those_of(parse_options("skip=all"))
    assert not everything.allows(STAGE_NAME_CASING)
