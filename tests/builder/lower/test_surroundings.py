"""What surrounds lowering: values that are made with names, and the expansion of words."""

from dataclasses import FrozenInstanceError, replace

import pytest

from builder.lower import Lowered, Surroundings, lower
from builder.lower.surroundings import expanded
from builder.state import StageState
from grammar import From, SourceText, Span, Word, parse
from layerstore import ContainerConfig
from tests.support.sources import DictTree

NOWHERE = Span(start_line=1, start_column=1, end_line=1, end_column=1)
AROUND = Surroundings(
    find_source=lambda name: DictTree({}),
    build_args={},
    global_args={},
    escape="\\",
    network="none",
)
STATE = StageState(config=ContainerConfig(env=("A=1",)), args=(("B", "2"), ("C", None)))


def word(text: str) -> Word:
    return Word(text=text, span=NOWHERE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A${B}", "12"),
        ("${C:-unset}", "unset"),
        ("'$A'\"$A\"", "$A1"),
        ("\\$A", "$A"),
        ("a\\ b", "a b"),
        ("", ""),
    ],
)
def test_a_word_sees_env_and_args_and_loses_its_quotes(text: str, expected: str) -> None:
    assert expanded(word(text), STATE, AROUND) == expected


def test_the_escape_character_is_the_one_of_the_file() -> None:
    assert expanded(word("`$A \\x"), STATE, replace(AROUND, escape="`")) == "$A \\x"


def test_surroundings_and_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        AROUND.escape = "`"  # type: ignore[misc]
    lowered = Lowered(state=STATE, created_by="x")
    assert (lowered.step, lowered.notices) == (None, ())
    with pytest.raises(FrozenInstanceError):
        lowered.created_by = "y"  # type: ignore[misc]


def test_lowering_never_changes_the_state_it_is_given() -> None:
    before = replace(STATE)
    for instruction in (
        parse("FROM x\nENV A=2\nUSER me\nRUN true\nWORKDIR /w\n").stages[0].instructions
    ):
        lower(instruction, STATE, AROUND)
    assert before == STATE


def test_from_is_no_instruction_of_a_stage() -> None:
    parsed = parse("FROM scratch\n")
    assert isinstance(parsed.source, SourceText)
    node = parsed.stages[0].base
    assert isinstance(node, From)
    with pytest.raises(AssertionError, match="never lowered"):
        lower(node, STATE, AROUND)
