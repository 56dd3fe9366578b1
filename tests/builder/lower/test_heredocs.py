"""Here-documents: which tabs go."""

from builder.lower.heredocs import chomped
from grammar import Heredoc


def heredoc(content: str, *, chomp: bool) -> Heredoc:
    return Heredoc(name="EOF", content=content, expand=True, chomp=chomp)


def test_leading_tabs_of_every_line_go_where_that_was_asked_for() -> None:
    text = "\tone\n\t\ttwo \t\n three\n"
    assert chomped(heredoc(text, chomp=True)) == "one\ntwo \t\n three\n"
    assert chomped(heredoc(text, chomp=False)) == text


def test_nothing_but_tabs_is_an_empty_line() -> None:
    assert chomped(heredoc("\t\t\n\n", chomp=True)) == "\n\n"
