"""The text, the stages by their names, and FROM."""

import pytest

from builder.errors import PlanError
from tests.support.checks import details, look, said

# The text.


def test_a_good_file_has_no_warnings() -> None:
    text = 'FROM alpine AS build\nRUN make\nFROM scratch\nCOPY --from=build /a /a\nCMD ["/a"]\n'
    assert said(text) == []


def test_an_empty_continuation_is_told_at_the_end_of_its_line() -> None:
    assert said("FROM a\nRUN b \\\n\n  c \\\n  d\n") == [("NoEmptyContinuation", 5)]
    assert said("FROM a\nRUN b \\\n# comment\n  c\n") == []


def test_an_empty_line_of_a_heredoc_is_no_continuation() -> None:
    assert said("FROM a\nRUN <<E\n\nx\n\nE\n") == []
    assert said("FROM a\nRUN \\\n\n <<E\nx\nE\n") == [("NoEmptyContinuation", 4)]


def test_a_warning_covers_all_lines_of_its_instruction() -> None:
    (warning,) = look("FROM a\nCMD b \\\n c \\\n d\n").warnings
    assert (warning.line, warning.end_line) == (2, 4)
    assert warning.description.startswith("JSON arguments recommended")
    assert warning.url.endswith("/json-args-recommended/")


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [("FROM a as b", True), ("from a AS b", True), ("FROM a AS b", False), ("From a as b", False)],
)
def test_as_is_written_as_from_is(line: str, is_wrong: bool) -> None:
    assert (("FromAsCasing", 1) in said(line + "\n")) is is_wrong


def test_casing_follows_the_majority_and_upper_case_when_there_is_none() -> None:
    assert said("from a\nrun b\nRUN c\n") == [("ConsistentInstructionCasing", 3)]
    assert said("from a\nRUN b\n") == [("ConsistentInstructionCasing", 1)]
    assert said("From a\nrun b\nrun c\n") == [("ConsistentInstructionCasing", 1)]


def test_an_arg_before_from_has_no_say_in_casing() -> None:
    assert said("arg A=1\narg B=2\nFROM a\n") == []


def test_names_of_stages() -> None:
    text = "FROM a AS Up\nFROM a AS up\nFROM a AS scratch\n"
    assert details(text) == [
        "Stage name 'Up' should be lowercase",
        'Duplicate stage name "up", stage names should be unique',
        'Stage name should not use the same name as reserved stage "scratch"',
    ]


def test_descriptions_are_checked_when_asked_for() -> None:
    text = "# nonsense\nARG A\n# b does it\nFROM a AS b\n# wrong\nARG C D\n"
    assert said(text) == []
    found = details("# check=experimental=all\n" + text)
    assert found == [
        "Comment for ARG should follow the format: `# A <description>`",
        "Comment for ARG should follow the format: `# <arg_key> <description>`",
    ]


# FROM.


def test_an_arg_that_from_uses_is_declared() -> None:
    assert details("ARG TAG=1\nFROM a:${TAGS}x\n") == [
        "FROM argument 'TAGS' is not declared (did you mean TAG?)"
    ]
    assert said("ARG TAG\nFROM a:${TAG:-1}\n") == []
    assert said("FROM --platform=$BUILDPLATFORM a\n") == []


def test_the_defaults_make_names_of_images() -> None:
    assert details("ARG A\nFROM $A\n", build_args={"A": "x"}) == [
        "Default value for ARG $A results in empty or invalid base image name"
    ]
    assert said("ARG A=x\nFROM $A:${A}\n") == []
    found = look("ARG A=${B:?give B}\nFROM $A\n", build_args={"A": "x"})
    assert not found.warnings
    assert found.failure is None


def test_a_platform_should_be_neither_fixed_nor_the_default() -> None:
    assert said("FROM --platform=linux/arm64 a\n") == [("FromPlatformFlagConstDisallowed", 1)]
    assert said("FROM --platform=linux/arm64 a AS for-arm64\n") == []
    assert said("FROM --platform=$TARGETPLATFORM a\n") == [("RedundantTargetPlatform", 1)]
    assert said("FROM --platform=${TARGETPLATFORM}/x a\n") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FROM --platform=$NOPE a", "empty platform value from expression $NOPE"),
        ("FROM --platform=no/such/thing/here a", "failed to parse platform no/such/thing/here"),
        ("FROM --platform=$BULIDOS a", "(did you mean BUILDOS?)"),
        ("FROM $NOPE", "base name ($NOPE) should not be blank"),
    ],
)
def test_a_from_that_cannot_be_ends_the_pass_there(line: str, message: str) -> None:
    found = look(f"FROM a\n{line}\nCMD b\n")
    assert isinstance(found.failure, PlanError)
    assert message in found.failure.message
    assert found.failure_span is not None
    assert found.failure_span.start_line == 2
    assert ">>> FROM" in found.failure.excerpt
    assert "JSONArgsRecommended" not in {each.rule for each in found.warnings}
