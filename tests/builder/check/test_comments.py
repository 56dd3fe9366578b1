"""Which comments belong to an instruction, and what they say."""

import pytest

from builder.check.comments import comments_of, description, instructions_of, options_in
from builder.check.options import NO_OPTIONS
from tests.support.images import dockerfile


def above(text: str) -> dict[int, tuple[str, ...]]:
    return dict(comments_of(dockerfile(text)))


def test_instructions_come_in_file_order() -> None:
    tree = dockerfile("ARG A\nARG B\nFROM x\nRUN y\nFROM z\nCMD w\n")
    lines = [instruction.written.start_line for instruction in instructions_of(tree)]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_comments_belong_to_the_instruction_below() -> None:
    text = "# one\n# two\nFROM x\n#three\nRUN y\nRUN z\n# the last\n"
    assert above(text) == {3: ("one", "two"), 5: ("three",)}


def test_a_blank_line_does_not_cut_comments_off() -> None:
    assert above("# one\n\nFROM x\n") == {3: ("one",)}


def test_an_empty_comment_does() -> None:
    assert above("# one\n#\nFROM x\n#a\n# \n#b\nRUN y\n") == {7: ("b",)}


def test_directives_are_no_comments() -> None:
    text = "# syntax=docker/dockerfile:1\n# check=skip=all\n# one\nFROM x\n"
    assert above(text) == {4: ("one",)}


@pytest.mark.parametrize("first", ["", "# a comment\n", "#!/bin/x\n"])
def test_what_looks_like_one_further_down_is_a_comment(first: str) -> None:
    text = f"{first}\n# check=skip=all\nFROM x\n"
    (comments,) = above(text).values()
    assert comments[-1] == "check=skip=all"


def test_comments_inside_an_instruction_belong_to_nobody() -> None:
    assert above("FROM x\nRUN a \\\n # inside\n  b\nRUN c\n") == {}


def test_lines_of_a_heredoc_are_no_comments() -> None:
    assert above("FROM x\nRUN <<E\n# no comment\nE\n# one\nRUN c\n") == {6: ("one",)}


def test_an_indented_comment_keeps_its_sign() -> None:
    """BuildKit cuts off the first character, whatever it is."""
    assert above("  # one\nFROM x\n") == {2: ("# one",)}


def test_options_stand_in_the_first_check_comment() -> None:
    assert options_in(("one", "check=skip=A", "check=skip=B")).skip == {"A"}
    assert options_in(("Check = skip=A",)).skip == {"A"}
    assert options_in(("check=skip=A // because of B",)).skip == {"A"}


@pytest.mark.parametrize(
    "comment", ["check", "check=", "check=nonsense", "skip=A", "a check=skip=A"]
)
def test_a_comment_without_options_sets_none(comment: str) -> None:
    assert options_in((comment,)) == NO_OPTIONS
    assert options_in(()) == NO_OPTIONS


def test_a_description_begins_with_the_name() -> None:
    comments = ("check=skip=A", "build compiles it", "build twice")
    assert description(comments, "build") == "compiles it"
    assert description(comments, "buil") == ""
    assert description(comments, "Build") == ""
    assert description(comments, "") == ""
    assert description((), "build") == ""
