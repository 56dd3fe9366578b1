import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    DockerfileError,
    DockerfileSyntaxError,
    ExpansionError,
    SourceText,
    Span,
    UnknownInstructionError,
    nearest,
    parse,
    printable,
)


def span(line: int, start: int, end: int, end_line: int | None = None) -> Span:
    return Span(start_line=line, start_column=start, end_line=end_line or line, end_column=end)


def source(*lines: str) -> SourceText:
    return SourceText(name="Dockerfile", lines=lines)


def test_an_unknown_instruction_is_shown_with_its_place_and_a_guess() -> None:
    with pytest.raises(UnknownInstructionError) as caught:
        parse("FROM scratch\n\nRNU echo hi\n")
    assert caught.value.nearest == "RUN"
    assert str(caught.value) == "Dockerfile:3: unknown instruction RNU"
    assert caught.value.render() == (
        "Dockerfile:3: unknown instruction RNU\n"
        "    2 |\n"
        "    3 | RNU echo hi\n"
        "      | ^^^\n"
        "hint: did you mean RUN?"
    )


def test_without_a_place_there_is_the_message_alone() -> None:
    error = DockerfileError("wrong", hint="do it right")
    assert str(error) == "wrong"
    assert error.render() == "wrong\nhint: do it right"


def test_without_a_hint_the_excerpt_is_last() -> None:
    error = DockerfileError("wrong", span=span(1, 1, 4), source=source("FROM x"))
    assert error.render() == "Dockerfile:1: wrong\n    1 | FROM x\n      | ^^^^"


def test_a_span_without_a_source_still_gives_the_line() -> None:
    assert str(DockerfileError("wrong", span=span(7, 1, 1))) == "line 7: wrong"


def test_a_place_can_be_added_later_and_does_not_replace_one() -> None:
    error = ExpansionError("wrong", span=span(2, 1, 1))
    assert error.place(span=span(9, 1, 1), source=source("a", "b")) is error
    assert str(error) == "Dockerfile:2: wrong"


def test_an_excerpt_of_many_lines_is_cut() -> None:
    lines = [f"line {number}" for number in range(1, 21)]
    error = DockerfileError("wrong", span=span(2, 1, 1, end_line=19), source=source(*lines))
    assert error.render().splitlines()[1:] == [
        "    1 | line 1",
        "    2 | line 2",
        "      | ^^^^^^",
        "    3 | line 3",
        "    4 | line 4",
        "    5 | line 5",
        "  ... |",
    ]


def test_a_long_line_is_shown_around_the_caret() -> None:
    line = "x" * 500 + "HERE" + "y" * 500
    error = DockerfileError("wrong", span=span(1, 501, 504), source=source(line))
    _message, shown, carets = error.render().splitlines()
    assert len(shown) < 150
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "HERE"
    assert shown.startswith("    1 | ...x")
    assert shown.endswith("y...")


def test_the_caret_stands_under_its_word_after_tabs_and_escaped_characters() -> None:
    error = DockerfileError("wrong", span=span(1, 4, 7), source=source("\t\x1b HERE"))
    _message, shown, carets = error.render().splitlines()
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "HERE"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grün 한국어", "grün 한국어"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x07\x00\x7f\x9b", "\\x07\\x00\\x7f\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("caf\udce9", "caf\\xe9"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_nothing_of_the_file_reaches_the_terminal_unescaped() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM scratch\n\x1b[2J\x07 \xff\n", name="evil\x1b[0m")
    assert all(char.isprintable() or char == "\n" for char in caught.value.render())


@given(st.text(), st.integers(0, 12), st.integers(0, 80), st.integers(0, 12), st.integers(0, 80))
def test_any_span_of_any_text_can_be_rendered(
    text: str, line: int, column: int, end_line: int, end_column: int
) -> None:
    place = Span(start_line=line, start_column=column, end_line=end_line, end_column=end_column)
    error = DockerfileError(text, span=place, source=source(*text.split("\n")), hint=text)
    assert all(char.isprintable() or char == "\n" for char in error.render())
    assert "\n" not in str(error)
    assert len(str(error).encode()) <= 1000 or len(text) > 100


def test_a_long_message_is_cut() -> None:
    assert len(str(DockerfileError("x" * 10_000)).encode()) < 1000


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("RNU", "RUN"),
        ("FORM", "FROM"),
        ("COPPY", "COPY"),
        ("WORKDIRR", "WORKDIR"),
        ("ENTRYPIONT", "ENTRYPOINT"),
        ("XYZ", ""),
        ("RU", "RUN"),
        ("INSTALL", ""),
        ("", ""),
    ],
)
def test_the_nearest_word_is_one_slip_away(name: str, found: str) -> None:
    assert nearest(name, ("FROM", "RUN", "COPY", "ENTRYPOINT", "WORKDIR", "ENV")) == found


def test_the_nearest_word_is_the_same_whatever_the_order() -> None:
    assert nearest("ab", ["ac", "aa"]) == nearest("ab", ["aa", "ac"]) == "aa"


def test_the_children_tell_what_kind_of_wrong_it_is() -> None:
    assert issubclass(UnknownInstructionError, DockerfileSyntaxError)
    assert issubclass(DockerfileSyntaxError, DockerfileError)
    assert ExpansionError("m", variable="v").variable == "v"
