import pickle

import pytest

from grammar import SourceText, Span, parse


def test_a_span_counts_as_an_editor_does() -> None:
    user = parse("FROM scratch\n  USER me\n").stages[0].instructions[0]
    assert user.span == Span(start_line=2, start_column=3, end_line=2, end_column=9)


def test_a_span_has_no_order_and_no_defaults() -> None:
    with pytest.raises(TypeError, match="end_column"):
        Span(start_line=1, start_column=1, end_line=1)  # type: ignore[call-arg]


def test_a_source_keeps_its_name_and_its_lines_without_ends() -> None:
    source = parse("FROM a\r\n\r\nUSER b", name="-").source
    assert source == SourceText(name="-", lines=("FROM a", "", "USER b"))
    assert pickle.loads(pickle.dumps(source)) == source
