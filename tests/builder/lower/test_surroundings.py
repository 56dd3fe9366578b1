"""What surrounds lowering: values that are made with names, and the expansion of words."""

from dataclasses import FrozenInstanceError, replace

import pytest

from builder.errors import LoweringError
from builder.lower import Lowered, Surroundings, lower
from builder.lower.surroundings import expanded
from builder.state import StageState
from grammar import From, SourceText, Span, Word, parse
from layerstore import ContainerConfig
from tests.support.lowering import Stage
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPY $v /$w/", "COPY one /two/"),
        ("ADD $v /$w/", "ADD one /two/"),
        ('COPY ["$v", "/a b/${w}/"]', "COPY one /a b/two/"),
        ("COPY --chown=$id:${id} --chmod=$mode $v /", "COPY --chown=7:7 --chmod=640 one /"),
        ("ENV a=$v $w=b", "ENV a=one two=b"),
        ("ENV a $v  $w", "ENV a=one  two"),
        ("LABEL $v=$w", "LABEL one=two"),
        ("ARG a=$v", "ARG a=one"),
        ("EXPOSE $ports", "EXPOSE [80/tcp 81/tcp]"),
        ("STOPSIGNAL $signal", "STOPSIGNAL SIGINT"),
        ("USER $id:$v", "USER 7:one"),
        ("VOLUME /$v $w", "VOLUME [/one two]"),
        ('VOLUME ["/$v"]', "VOLUME [/one]"),
        ("WORKDIR /$v/$w", "WORKDIR /one/two"),
    ],
)
def test_these_instructions_expand_their_words(text: str, expected: str) -> None:
    assert stage().run(text).created_by == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN echo $v", "|1 w=two /bin/sh -c echo $v"),
        ('RUN ["echo", "$v"]', "|1 w=two echo $v"),
        ("CMD echo $v", 'CMD ["/bin/sh" "-c" "echo $v"]'),
        ("ENTRYPOINT $v", 'ENTRYPOINT ["/bin/sh" "-c" "$v"]'),
        ('SHELL ["$v"]', "SHELL [$v]"),
        ("MAINTAINER $v", "MAINTAINER $v"),
        ("HEALTHCHECK CMD $v", 'HEALTHCHECK ["CMD-SHELL" "$v"]'),
        ("ONBUILD ENV a=$v", "ONBUILD ENV a=$v"),
        ("ENV a='$v'", "ENV a=$v"),
        ("ENV a=\\$v", "ENV a=$v"),
    ],
)
def test_these_leave_a_variable_as_it_is(text: str, expected: str) -> None:
    assert stage().run(text).created_by.removeprefix("RUN ") == expected


def test_a_stage_to_copy_from_is_never_a_variable() -> None:
    with pytest.raises(LoweringError, match="variable expansion is not supported for --from"):
        stage().run("COPY --from=$v a b")


def test_one_instruction_sees_the_environment_from_before_it() -> None:
    made = stage()
    assert made.run("ENV v=new a=$v").created_by == "ENV v=new a=one"
    assert made.run("LABEL v=$v a=$a").created_by == "LABEL v=new a=one"
    assert made.run("ENV x=1 x=${x:-unset}").created_by == "ENV x=1 x=unset"


def test_the_arguments_of_one_arg_see_those_before_them() -> None:
    assert stage().run("ARG a=1 b=${a}2 c=$b").created_by == "ARG a=1 b=12 c=12"


def test_the_escape_directive_holds_in_every_word() -> None:
    assert stage().run("LABEL a=`$v b=\\$v", escape="`").created_by == "LABEL a=$v b=\\one"


def stage() -> Stage:
    """A stage with variables of both kinds in it."""
    made = Stage(context={"one": b"file"})
    made.run("ENV v=one id=7 mode=640 signal=SIGINT ports='80 81'\nARG w=two")
    return made


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
