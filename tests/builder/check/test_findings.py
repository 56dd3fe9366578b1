"""Where a warning stands, and whether its check is in force there."""

import pytest

from builder.check import Subject
from builder.check.findings import CHECK_ARG, Environment, Findings
from builder.check.rules import CONSISTENT_INSTRUCTION_CASING, STAGE_NAME_CASING
from builder.errors import PlanError
from tests.support.images import dockerfile


def findings(text: str, **build_args: str) -> Findings:
    return Findings(Subject(dockerfile=dockerfile(text), build_args=build_args))


def test_a_warning_stands_where_the_look_is() -> None:
    found = findings("FROM a \\\n# more\n  AS B\nRUN c\n")
    (stage,) = found.file.stages
    found.enter(stage.base)
    found.warn(STAGE_NAME_CASING, "B")
    found.enter(stage.instructions[0])
    found.warn(CONSISTENT_INSTRUCTION_CASING, "RUN", "lowercase")
    found.warn(STAGE_NAME_CASING, "B", lines=(7, 8))
    assert [(each.line, each.end_line) for each in found.warnings] == [(1, 3), (4, 4), (7, 8)]
    assert found.warnings[0].detail == "Stage name 'B' should be lowercase"
    assert found.warnings[0].description == STAGE_NAME_CASING.description
    assert found.span == stage.instructions[0].span


def test_options_above_an_instruction_count_while_it_is_entered() -> None:
    found = findings("\n# check=skip=StageNameCasing\nFROM a AS B\nRUN c\n")
    (stage,) = found.file.stages
    assert found.enter(stage.base) == ("check=skip=StageNameCasing",)
    found.warn(STAGE_NAME_CASING, "skipped")
    assert not found.warnings
    found.at(stage.base.written)
    found.warn(STAGE_NAME_CASING, "the file says nothing")
    assert found.enter(stage.instructions[0]) == ()
    found.warn(STAGE_NAME_CASING, "another instruction")
    assert [each.line for each in found.warnings] == [3, 4]


def test_options_of_the_file_count_everywhere() -> None:
    found = findings("# check=skip=StageNameCasing\nFROM a AS B\n")
    found.warn(STAGE_NAME_CASING, "B")
    assert not found.warnings
    found = findings("# check=skip=StageNameCasing\nFROM a AS B\n", **{CHECK_ARG: "error=true"})
    found.warn(STAGE_NAME_CASING, "B")
    assert len(found.warnings) == 1
    assert found.options.is_error


def test_options_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(PlanError):
        findings("FROM a\n", **{CHECK_ARG: "nonsense"})


def test_guessing_is_given_up_after_a_while() -> None:
    found = findings("FROM a\n")
    guesses = [found.meant("PAHT", ["PATH"], sign="$") for _ in range(200)]
    assert guesses[0] == " (did you mean $PATH?)"
    assert guesses[-1] == ""


def test_an_environment_remembers_what_it_was_asked_for() -> None:
    environment = Environment({"A": "1", "B": ""})
    assert environment.get("A") == "1"
    assert environment.get("C") is None
    assert environment["B"] == ""
    with pytest.raises(KeyError):
        environment["D"]
    assert (list(environment.found), list(environment.missing)) == (["A", "B"], ["C", "D"])
    assert (list(environment), len(environment)) == (["A", "B"], 2)
