import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import DockerfileError, SourceText, parse
from grammar.errors import ExpansionError
from grammar.lines import (
    LINE_BYTES_MAX,
    HeredocWord,
    LineReader,
    LogicalLine,
    decode,
    directive_of_line,
    heredoc_of_word,
    heredocs_of_line,
    read_directives,
)
from grammar.nodes import Directives


def lines_of(text: str | bytes, *, escape: str = "\\") -> list[LogicalLine]:
    source, raw = decode(text, name="Dockerfile")
    reader = LineReader(source, raw, escape=escape)
    return list(iter(reader.next_line, None))


def texts(text: str, *, escape: str = "\\") -> list[str]:
    return [line.text for line in lines_of(text, escape=escape)]


def directives_of(text: str) -> Directives:
    return read_directives(decode(text, name="Dockerfile")[0])


# Decoding.


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert decode(b"\xef\xbb\xbfFROM x\n", name="n")[0].lines == ("FROM x",)
    assert decode("\ufeffFROM x\n", name="n")[0].lines == ("FROM x",)


def test_carriage_returns_are_removed_from_lines_and_kept_for_heredocs() -> None:
    source, raw = decode("FROM x\r\nRUN y\r\n", name="n")
    assert source == SourceText(name="n", lines=("FROM x", "RUN y"))
    assert raw == ["FROM x\r", "RUN y\r"]


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("a", 1), ("a\n", 1), ("a\n\n", 2), ("\n", 1)]
)
def test_the_last_line_needs_no_newline(text: str, count: int) -> None:
    assert len(decode(text, name="n")[0].lines) == count


def test_bytes_that_are_not_utf8_survive() -> None:
    assert decode(b"COPY caf\xe9 /\n", name="n")[0].lines == ("COPY caf\udce9 /",)


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ("x" * LINE_BYTES_MAX, True),
        ("x" * (LINE_BYTES_MAX + 1), False),
        ("é" * (LINE_BYTES_MAX // 2), True),
        ("é" * (LINE_BYTES_MAX // 2 + 1), False),
        ("\udcff" * LINE_BYTES_MAX, True),
    ],
)
def test_a_line_may_be_as_long_as_buildkit_reads(line: str, fits: bool) -> None:
    if fits:
        decode(line, name="n")
    else:
        with pytest.raises(DockerfileError, match=r"n:1: the line is longer than 65535 bytes"):
            decode(line, name="n")


def test_a_file_beyond_all_bounds_is_refused_at_once() -> None:
    with pytest.raises(DockerfileError, match="larger than 16 MiB"):
        parse(b"#" * (16 << 20) + b"\n")


# Directives.


def test_directives_are_read_from_the_top() -> None:
    found = directives_of("# syntax=docker/dockerfile:1\n#Escape = `\n# check=skip=all\nFROM x\n")
    assert found == Directives(
        syntax="docker/dockerfile:1", escape="`", check="skip=all", escape_given=True
    )


@pytest.mark.parametrize(
    "above",
    ["\n", "# a comment\n", "FROM x\n", "# unknown=directive\n", "#escape\n", "# escape=\n"],
)
def test_a_line_that_is_no_directive_ends_them(above: str) -> None:
    assert directives_of(f"{above}# escape=`\n") == Directives(
        syntax=None, escape="\\", check=None, escape_given=False
    )


def test_a_shebang_may_come_first_but_hides_the_escape() -> None:
    found = directives_of("#!/usr/bin/lamina\n# syntax=a\n# check=b\n# escape=`\n")
    assert (found.syntax, found.check, found.escape) == ("a", "b", "\\")


def test_an_indented_escape_counts_and_an_indented_syntax_does_not() -> None:
    found = directives_of("  # syntax=a\n  # escape=`\n")
    assert (found.syntax, found.escape) == (None, "`")


@pytest.mark.parametrize(
    ("line", "directive"),
    [
        ("#check=skip=all", ("check", "skip=all")),
        ("# ESCAPE = ` ", ("escape", "`")),
        ("# syntax=a b", ("syntax", "a b")),
        ("# other=a", None),
        ("check=skip=all", None),
        (" # check=skip=all", None),
        ("# check=", None),
    ],
)
def test_one_line_is_a_directive_or_none(line: str, directive: tuple[str, str] | None) -> None:
    assert directive_of_line(line) == directive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# escape=`\n# escape=`\n", "Dockerfile:2: the escape directive is given twice"),
        ("# syntax=a\n# SYNTAX=b\n", "Dockerfile:2: the syntax directive is given twice"),
        ("# escape=/\n", "Dockerfile:1: the escape character must be"),
        ("# escape=\\\\\n", "Dockerfile:1: the escape character must be"),
        ("# escape= \n", "Dockerfile:1: the escape character must be"),
    ],
)
def test_a_wrong_directive_is_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        directives_of(text)
    assert str(caught.value).startswith(message)


# Logical lines.


def test_comments_and_blank_lines_are_left_out() -> None:
    assert texts("# a\n\n  # b\nFROM x\n\t\nRUN y\n") == ["FROM x", "RUN y"]


def test_a_continuation_joins_lines_and_keeps_the_blanks_of_the_next() -> None:
    assert texts("RUN a \\\n    b\\\nc\n") == ["RUN a     bc"]


def test_blanks_may_follow_the_continuation_character() -> None:
    assert texts("RUN a \\ \t\n b\n") == ["RUN a  b"]


def test_comments_and_blank_lines_inside_a_continuation_are_left_out() -> None:
    text = "RUN a && \\\n# comment\n\n   # another, indented\n  b && \\\n\t\n  c\nRUN d\n"
    assert texts(text) == ["RUN a &&   b &&   c", "RUN d"]


def test_a_comment_ends_no_continuation_and_continues_nothing() -> None:
    assert texts("RUN a \\\n# comment \\\nb\n# comment \\\nRUN c\n") == ["RUN a b", "RUN c"]


def test_two_escape_characters_continue_nothing() -> None:
    assert texts("RUN a \\\\\nRUN b \\\\\\\nRUN c\n") == ["RUN a \\\\", "RUN b \\\\\\", "RUN c"]


def test_an_escape_character_alone_on_its_line_continues() -> None:
    assert texts("\\\nRUN a\\\n\\\n b\n") == ["RUN a b"]


def test_the_end_of_the_file_ends_a_continuation() -> None:
    (line,) = lines_of("RUN a \\\n\n# end\n")
    assert (line.text, line.start_line, line.end_line) == ("RUN a ", 1, 3)


def test_the_backtick_continues_where_it_is_the_escape_character() -> None:
    assert texts("RUN a `\n b\nRUN c\\\nRUN d\n", escape="`") == ["RUN a  b", "RUN c\\", "RUN d"]


def test_a_hash_inside_a_line_is_no_comment() -> None:
    assert texts("RUN a # b\n") == ["RUN a # b"]


def test_lines_are_counted_with_what_is_left_out() -> None:
    found = lines_of("# 1\nFROM x\n\nRUN a \\\n# 5\n b\nRUN c\n")
    assert [(line.start_line, line.end_line) for line in found] == [(2, 2), (4, 6), (7, 7)]


def test_every_piece_knows_where_it_stood() -> None:
    (line,) = lines_of("\n  RUN one \\\n# comment\n   two \\\n three\n")
    for word, at, column in (("RUN", 2, 3), ("one", 2, 7), ("two", 4, 4), ("three", 5, 2)):
        start = line.text.index(word)
        span = line.span(start, start + len(word))
        assert (span.start_line, span.start_column) == (at, column)
        assert (span.end_line, span.end_column) == (at, column + len(word) - 1)


def test_a_span_may_cross_lines() -> None:
    (line,) = lines_of("RUN ab\\\ncd\n")
    span = line.span(4, 8)
    assert (span.start_line, span.start_column, span.end_line, span.end_column) == (1, 5, 2, 2)


@given(st.text("ab #\\\t\n\r\u00a0", max_size=60))
def test_every_character_of_a_logical_line_is_found_where_its_span_says(text: str) -> None:
    for line in lines_of(text):
        for offset, char in enumerate(line.text):
            span = line.span(offset, offset + 1)
            assert line.source.lines[span.start_line - 1][span.start_column - 1] == char
            assert line.start_line <= span.start_line <= line.end_line


@given(st.text("ab #\\\n", max_size=60))
def test_lines_come_in_order_and_do_not_overlap(text: str) -> None:
    found = lines_of(text)
    for before, after in itertools.pairwise(found):
        assert before.end_line < after.start_line


# Heredocs.


@pytest.mark.parametrize(
    ("word", "name", "expand", "chomp", "descriptor"),
    [
        ("<<EOF", "EOF", True, False, 0),
        ("<<-EOF", "EOF", True, True, 0),
        ("3<<EOF", "EOF", True, False, 3),
        ('<<"EOF"', "EOF", False, False, 0),
        ("<<-'EOF'", "EOF", False, True, 0),
        ("<<EO'F'", "EOF", False, False, 0),
        ("<<eo\\'f", "eo'f", True, False, 0),
        ("<<'e'o\\'f", "eo'f", False, False, 0),
        ("<<'one two'", "one two", False, False, 0),
        ("<<$EOF", "$EOF", True, False, 0),
        ("<<${EOF}", "${EOF}", True, False, 0),
        ("<< EOF", "EOF", True, False, 0),
        ("99999999999999999999999<<EOF", "EOF", True, False, (1 << 64) - 1),
    ],
)
def test_a_heredoc_word_says_all_this(
    word: str, name: str, expand: bool, chomp: bool, descriptor: int
) -> None:
    assert heredoc_of_word(word) == HeredocWord(
        name=name, expand=expand, chomp=chomp, file_descriptor=descriptor
    )


@pytest.mark.parametrize(
    "word", ["", "EOF", "<EOF", "<<", "<<-", "<<<EOF", "<<A<<B", "x<<EOF", "<<one two", '<<""']
)
def test_other_words_are_no_heredocs(word: str) -> None:
    assert heredoc_of_word(word) is None


@pytest.mark.parametrize("word", ["<<'EOF", '<<EOF"', "<<${EOF"])
def test_an_unclosed_name_is_an_error(word: str) -> None:
    with pytest.raises(ExpansionError):
        heredoc_of_word(word)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("RUN <<EOF", ["EOF"]),
        ("RUN <<A <<B cat", ["A", "B"]),
        ("RUN cat <<  EOF > /x", ["EOF"]),
        ("RUN << -EOF", ["-EOF"]),
        ("RUN <<- EOF", []),
        ("RUN cat 3<<EOF", ["EOF"]),
        ("RUN '<<EOF'", []),
        ('RUN "<<EOF"', []),
        ("RUN echo \\<<EOF", []),
        ("RUN echo $((1<<2))", []),
        ("RUN a < b", []),
        ("RUN it's <<EOF", []),
        ("COPY --chown=a <<file.txt /b", ["file.txt"]),
    ],
)
def test_the_heredocs_of_a_line(line: str, names: list[str]) -> None:
    assert [word.name for word in heredocs_of_line(line)] == names
