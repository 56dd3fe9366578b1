"""Marked lines, as BuildKit shows them."""

import pytest

from builder.check import excerpt_of
from tests.support.images import dockerfile

TEN = dockerfile("FROM x\n" + "".join(f"RUN {number}\n" for number in range(2, 11)))
RULE = "--------------------"


def lines(first: int, last: int, text: str = "") -> list[str]:
    return excerpt_of(dockerfile(text) if text else TEN, first, last).splitlines()


def test_one_line_has_two_on_each_side() -> None:
    assert lines(5, 5) == [
        "Dockerfile:5",
        RULE,
        "   3 |     RUN 3",
        "   4 |     RUN 4",
        "   5 | >>> RUN 5",
        "   6 |     RUN 6",
        "   7 |     RUN 7",
        RULE,
    ]


def test_several_lines_have_one_on_each_side() -> None:
    assert [line[:8] for line in lines(5, 7)[2:-1]] == [
        "   4 |  ",
        "   5 | >",
        "   6 | >",
        "   7 | >",
        "   8 |  ",
    ]


@pytest.mark.parametrize(("line", "shown"), [(1, [1, 2, 3]), (10, [8, 9, 10])])
def test_at_the_edges_there_is_less_to_show(line: int, shown: list[int]) -> None:
    numbers = [int(text[:4]) for text in lines(line, line)[2:-1]]
    assert numbers == shown


def test_a_short_file_is_shown_whole() -> None:
    assert lines(1, 1, "FROM x\n") == ["Dockerfile:1", RULE, "   1 | >>> FROM x", RULE]


def test_blank_lines_have_no_blanks_at_the_end() -> None:
    assert "   2 |" in lines(1, 1, "FROM x\n\nRUN y\n")


def test_lines_that_are_not_there_give_nothing() -> None:
    assert excerpt_of(TEN, 0, 0) == excerpt_of(TEN, 11, 11) == ""
    assert lines(10, 99)[-2] == "  10 | >>> RUN 10"


def test_nothing_in_it_can_steer_a_terminal() -> None:
    text = excerpt_of(dockerfile("FROM x\nRUN \x1b[2J\tb\n"), 2, 2)
    assert "\x1b" not in text
    assert "\\x1b[2J    b" in text


def test_a_long_line_is_cut() -> None:
    assert max(map(len, lines(2, 2, f"FROM x\nRUN {'y' * 9999}\n"))) < 600
