"""The pass as a whole: which stages, which errors, and where it ends.

The texts and the order of many files are in test_conformance.
"""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.check import Subject, excerpt_of, outline_of, survey_of, targets_of
from builder.errors import CheckFailedError, LoweringError, PlanError, UnknownTargetError
from grammar import ExpansionError
from tests.support.checks import HOST, look, said
from tests.support.images import dockerfile
from tests.support.strategies import DockerfileText, dockerfiles

# Which stages, which checks.


def test_a_check_looks_at_all_stages_and_a_build_at_those_it_needs() -> None:
    text = "FROM a AS b\nCMD b\nFROM a AS c\nCMD c\nFROM a\nCOPY --from=c x x\nCMD d\n"
    assert [line for _rule, line in said(text)] == [2, 4, 7]
    assert [line for _rule, line in said(text, all_stages=False)] == [4, 7]
    assert [line for _rule, line in said(text, all_stages=False, target="b")] == [2]


def test_the_text_of_other_stages_is_looked_at_in_a_build_too() -> None:
    assert said("FROM a as b\nFROM a\n", all_stages=False) == [("FromAsCasing", 1)]


def test_a_comment_above_an_instruction_skips_checks_for_it_alone() -> None:
    text = "FROM a\n# check=skip=JSONArgsRecommended\nCMD b\nFROM a\nCMD c\n"
    assert said(text) == [("JSONArgsRecommended", 5)]
    text = "\n# check=skip=StageNameCasing\nFROM a AS B\nFROM a AS C\n"
    assert said(text) == [("StageNameCasing", 4)]


def test_the_build_argument_replaces_the_directive() -> None:
    text = "# check=skip=all\nFROM a\nCMD b\n"
    assert said(text) == []
    for value in ("", "skip=StageNameCasing"):
        arguments = {"BUILDKIT_DOCKERFILE_CHECK": value}
        assert said(text, build_args=arguments) == [("JSONArgsRecommended", 3)]


def test_warnings_are_an_error_where_the_file_says_so() -> None:
    found = look("# check=error=true\nFROM a as b\nCMD c\nCMD d\n")
    assert isinstance(found.failure, CheckFailedError)
    assert found.failure.rules == (
        "FromAsCasing",
        "JSONArgsRecommended",
        "MultipleInstructionsDisallowed",
    )
    assert "FromAsCasing, JSONArgsRecommended" in found.failure.message
    assert "2 | >>> FROM a as b" in found.failure.excerpt
    assert look("# check=error=true\nFROM a AS b\n").failure is None


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PlanError, match="invalid check option"):
        look("# check=nonsense\nFROM a\n")


# Errors.


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("EXPOSE nope", LoweringError),
        ("EXPOSE 80/XYZ", LoweringError),
        ("STOPSIGNAL nope", LoweringError),
        ("ENV A=${B", ExpansionError),
        ("COPY ${A:?none} /a", ExpansionError),
        ("COPY <<E /a\n${A!}\nE", ExpansionError),
    ],
)
def test_an_error_ends_the_pass_and_keeps_the_warnings_before_it(
    line: str, kind: type[Exception]
) -> None:
    found = look(f"FROM a\nCMD x\n{line}\nWORKDIR rel\n")
    assert isinstance(found.failure, kind)
    assert found.failure_span is not None
    assert found.failure_span.start_line == 3
    rules = [each.rule for each in found.warnings]
    assert rules[0] == "JSONArgsRecommended"
    assert "WorkdirRelativePath" not in rules


def test_a_user_or_directory_out_of_unknown_variables_is_no_error() -> None:
    assert said("FROM a\nUSER $X\nWORKDIR $Y\n") == [
        ("UndefinedVar", 2),
        ("UndefinedVar", 3),
        ("WorkdirRelativePath", 3),
    ]


def test_an_unknown_target_and_a_file_without_stages_are_errors() -> None:
    assert isinstance(look("FROM a\n", target="b").failure, UnknownTargetError)
    failure = look("ARG A\n").failure
    assert isinstance(failure, PlanError)
    assert "no stages" in failure.message


def test_a_global_arg_that_cannot_be_expanded_is_an_error_with_its_place() -> None:
    failure = look("ARG A=${B:?give B}\nFROM x\n").failure
    assert isinstance(failure, ExpansionError)
    assert str(failure).startswith("Dockerfile:1:")


def test_a_malformed_pattern_of_the_ignore_file_is_an_error() -> None:
    failure = look("FROM a\nCOPY a /a\n", ignore="[\n").failure
    assert isinstance(failure, PlanError)
    assert ".dockerignore" in failure.message


def test_a_hostile_file_is_looked_at_in_seconds() -> None:
    """Guessing names costs most; it is given up when there is too much to guess."""
    name = "x" * 50
    text = "FROM a\n" + "".join(f"ENV {name}{number:03}=1\n" for number in range(150))
    text += "COPY " + " ".join(f"${name}{number:03}yyy" for number in range(1000)) + " /x\n"
    subject = Subject(dockerfile=dockerfile(text), platform=HOST)
    started = time.monotonic()
    assert len(survey_of(subject, all_stages=True).warnings) == 1000
    assert time.monotonic() - started < 5


# Any file.


@settings(max_examples=200, deadline=None)
@given(dockerfiles(), st.booleans())
def test_any_file_has_warnings_and_perhaps_an_error_and_both_can_be_shown(
    text: DockerfileText, all_stages: bool
) -> None:
    tree = dockerfile(text.text)
    found = survey_of(Subject(dockerfile=tree, ignore_file=b"a\n"), all_stages=all_stages)
    last = len(tree.source.lines)
    for warning in found.warnings:
        assert 1 <= warning.line <= warning.end_line <= last
        assert ">>>" in excerpt_of(tree, warning.line, warning.end_line)
    assert found.failure is None or found.failure.message
    assert targets_of(tree)[-1].is_default
    if found.failure is None:
        assert outline_of(Subject(dockerfile=tree)).name == (tree.stages[-1].base.alias or "")
