import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import DockerfileError, DockerfileSyntaxError, Written, parse_written
from grammar.split import KEYWORDS, Split, split


def written(text: str) -> Written:
    _directives, (one,) = parse_written(text)
    return one


def one_of(text: str) -> Split:
    _source, _directives, (one,) = split(text, name="Dockerfile")
    return one


# Keywords.


@pytest.mark.parametrize("spelling", ["run", "Run", "RUN", "rUn"])
def test_a_keyword_may_be_spelled_in_any_case(spelling: str) -> None:
    assert (written(f"{spelling} a").keyword, written(f"{spelling} a").spelling) == (
        "RUN",
        spelling,
    )


def test_an_unknown_keyword_has_one_empty_argument() -> None:
    assert written("Rnu a b").keyword == "RNU"
    assert written("Rnu a b").args == ("",)


@pytest.mark.parametrize("blank", [" ", "\t", "   ", "\v", "\f", "\t \t"])
def test_blanks_end_a_keyword(blank: str) -> None:
    assert written(f"USER{blank}me").args == ("me",)


def test_a_space_beyond_ascii_ends_no_keyword() -> None:
    assert written("RUN\u00a0a").keyword == "RUN\u00a0A"
    assert written("\u017fHELL []").keyword not in KEYWORDS


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_keyword_may_stand_alone(keyword: str) -> None:
    assert written(keyword).args == ()


# Flags.


@pytest.mark.parametrize(
    ("text", "flags", "args"),
    [
        ("--from=a b c", ("--from=a",), ("b", "c")),
        ("--link --chown=1:2 b c", ("--link", "--chown=1:2"), ("b", "c")),
        ("--link", ("--link",), ()),
        ("b --link c", (), ("b", "--link", "c")),
        ("-- --b c", (), ("--b", "c")),
        ("--link -- --b c", ("--link",), ("--b", "c")),
        ("--", (), ()),
        ('--chown="a b" c d', ("--chown=a b",), ("c", "d")),
        ("--chown='a \"b' c d", ('--chown=a "b',), ("c", "d")),
        ('--chown="a\\"b" c d', ('--chown=a"b',), ("c", "d")),
        ("--chown='a\\'b' c d", ("--chown=a'b",), ("c", "d")),
        ("--chown=a\\ b c d", ("--chown=a b",), ("c", "d")),
        ("--chown=a\\", ("--chown=a",), ()),
        ('--chown="a b', ("--chown=a b",), ()),
        ('--chown="a b\\', ("--chown=a b",), ()),
        ("--chown=größe c d", ("--chown=größe",), ("c", "d")),
        ('--chown="" c d', ("--chown=",), ("c", "d")),
        ("-- c d", (), ("c", "d")),
        ("- c d", (), ("-", "c", "d")),
    ],
)
def test_flags_come_first_and_lose_their_quotes(
    text: str, flags: tuple[str, ...], args: tuple[str, ...]
) -> None:
    found = written(f"COPY {text}")
    assert (found.flags, found.args) == (flags, args)


# Arguments.


@pytest.mark.parametrize("keyword", ["FROM", "EXPOSE"])
def test_lists_are_split_at_blanks_and_keep_quotes(keyword: str) -> None:
    assert written(f"{keyword}  a\t'b c'  ").args == ("a", "'b", "c'")


@pytest.mark.parametrize("keyword", ["ADD", "COPY", "VOLUME"])
def test_paths_are_a_json_array_or_split_at_blanks(keyword: str) -> None:
    assert written(f'{keyword} ["a b", "c"]').args == ("a b", "c")
    assert written(f'{keyword} ["a b", "c"]').is_json
    assert written(f'{keyword} ["a b" "c"]').args == ('["a', 'b"', '"c"]')
    assert not written(f'{keyword} ["a b" "c"]').is_json


@pytest.mark.parametrize("keyword", ["CMD", "ENTRYPOINT", "RUN", "SHELL"])
def test_commands_are_a_json_array_or_one_string(keyword: str) -> None:
    assert written(f'{keyword} [ "a", "b c" ] ').args == ("a", "b c")
    assert written(f"{keyword}  echo  'a  b' ").args == ("echo  'a  b'",)
    assert written(f"{keyword} ['a']").args == ("['a']",)


@pytest.mark.parametrize("keyword", ["MAINTAINER", "STOPSIGNAL", "USER", "WORKDIR"])
def test_texts_are_not_split(keyword: str) -> None:
    assert written(f'{keyword}  a  "b  c" ').args == ('a  "b  c"',)
    assert written(f'{keyword} ["a"]').args == ('["a"]',)


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("a", ("a",)),
        ("a=b c d=", ("a=b", "c", "d=")),
        ('a="b c" d', ('a="b c"', "d")),
        ("a='b \\' c'", ("a='b \\'", "c'")),
        ("a=b\\ c d", ("a=b\\ c", "d")),
        ('a="b\\"c d" e', ('a="b\\"c d"', "e")),
        ("a=b\\", ("a=b",)),
        ('a="b\\', ('a="b',)),
        ("a='b\\", ("a='b\\",)),
        ("a='b c", ("a='b c",)),
        ("\\", ()),
        ("a\u00a0b", ("a", "b")),
    ],
)
def test_declarations_are_split_where_no_quote_protects(text: str, args: tuple[str, ...]) -> None:
    assert written(f"ARG {text}\f").args == args


def test_the_backtick_escapes_words_where_the_directive_says_so() -> None:
    _directives, (one,) = parse_written("# escape=`\nENV a=b` c d=e\\ f=g\n")
    assert one.args == ("a", "b` c", "=", "d", "e\\", "=", "f", "g", "=")


@pytest.mark.parametrize("keyword", ["ENV", "LABEL"])
@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("a=b", ("a", "b", "=")),
        ("a=b c='d e'", ("a", "b", "=", "c", "'d e'", "=")),
        ("a=b=c", ("a", "b=c", "=")),
        ("a=", ("a", "", "=")),
        ("=b", ("", "b", "=")),
        ("a b", ("a", "b", "")),
        ("a   b=c  d ", ("a", "b=c  d", "")),
        ('a "b c"', ("a", '"b c"', "")),
        ('"a b"=c', ('"a b"', "c", "=")),
        ('"a b" c', ('"a', 'b" c', "")),
    ],
)
def test_pairs_have_a_name_a_value_and_what_is_between(
    keyword: str, text: str, args: tuple[str, ...]
) -> None:
    assert written(f"{keyword} {text}").args == args


@pytest.mark.parametrize(
    ("text", "message", "columns"),
    [
        ("ENV a", "ENV needs a name and a value", (5, 5)),
        ("LABEL 'a b'", None, None),
        ("ENV a=b c d=e", "ENV needs the form name=value, and c has no =", (9, 9)),
        ("LABEL a=b 'c d'", "LABEL needs the form name=value", (11, 15)),
    ],
)
def test_a_pair_needs_a_value(
    text: str, message: str | None, columns: tuple[int, int] | None
) -> None:
    if message is None or columns is None:
        parse_written(text)
        return
    with pytest.raises(DockerfileSyntaxError) as caught:
        parse_written(text)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert (caught.value.span.start_column, caught.value.span.end_column) == columns


def test_a_healthcheck_has_a_type_and_a_command() -> None:
    assert written("HEALTHCHECK --retries=2 cmd  a  b").args == ("cmd", "a  b")
    assert written('HEALTHCHECK CMD ["a", "b"]').args == ("CMD", "a", "b")
    assert written('HEALTHCHECK CMD ["a", "b"]').is_json
    assert written("HEALTHCHECK NONE").args == ("NONE",)


def test_onbuild_holds_an_instruction_without_lines() -> None:
    found = written("ONBUILD  copy --from=a b c")
    inner = found.args[0]
    assert isinstance(inner, Written)
    assert (inner.keyword, inner.flags, inner.args) == ("COPY", ("--from=a",), ("b", "c"))
    assert (inner.start_line, inner.end_line, found.start_line) == (0, 0, 1)


def test_onbuild_of_onbuild_of_onbuild_ends_somewhere() -> None:
    parse_written("ONBUILD ONBUILD RUN a")
    with pytest.raises(DockerfileError, match="nested too deep"):
        parse_written("ONBUILD " * 5000 + "RUN a")


# JSON.


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("[]", ()),
        ('["a"]', ("a",)),
        ('[ "a" ,\t"b" ]', ("a", "b")),
        (r'["\"\\\/\b\f\n\r\tA"]', ('"\\/\b\f\n\r\tA',)),
        (r'["\ud83d\ude00"]', ("\U0001f600",)),
        (r'["\ud83d"]', ("\ufffd",)),
        (r'["\ude00\ud83d"]', ("\ufffd\ufffd",)),
        ('["é"]', ("é",)),
    ],
)
def test_a_json_array_of_strings(text: str, args: tuple[str, ...]) -> None:
    found = written(f"CMD {text}")
    assert (found.is_json, found.args) == (True, args)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        '["a"',
        '["a",]',
        '[,"a"]',
        '["a" "b"]',
        '["a"] b',
        "['a']",
        '["a\\x"]',
        '["\\u12"]',
        '["a\tb"]',
        "[01]",
        "[1.]",
        "[NaN]",
        "[-]",
        "[1e999]",
        '[{"a"}]',
        '[{"a":}]',
        '[{"a":1,}]',
        '[{1:"a"}]',
        '["a"}',
        "[}",
        '{"a": "b"}',
        '"a"',
        "[" * 20000 + "]" * 20000,
    ],
)
def test_what_is_no_json_array_is_a_command_line(text: str) -> None:
    found = written(f"CMD {text}")
    assert (found.is_json, found.args) == (False, (text,))


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '["a", 1]',
        "[true]",
        "[null]",
        "[-1.5e3]",
        "[[]]",
        "[{}]",
        '[["a", {"b": ["c"]}], "d"]',
        '[{"a": 1, "b": [1, 2]}]',
        "[" * 9000 + "]" * 9000,
    ],
)
@pytest.mark.parametrize("keyword", ["CMD", "COPY", "VOLUME", "HEALTHCHECK CMD", "ONBUILD RUN"])
def test_a_json_array_of_other_things_is_refused(keyword: str, text: str) -> None:
    with pytest.raises(DockerfileSyntaxError, match="nothing but strings"):
        parse_written(f"{keyword} {text}")


# Heredocs.


def test_heredocs_belong_to_the_instruction_above_them() -> None:
    _directives, (run, user) = parse_written(
        "RUN <<A cat 3<<-'B C'\na $x\n# no comment\n\nA\n\tb\\\n\tB C\nUSER me\n"
    )
    first, second = run.heredocs
    assert (first.name, first.content) == ("A", "a $x\n# no comment\n\n")
    assert (first.expand, first.chomp, first.file_descriptor) == (True, False, 0)
    assert (second.name, second.content) == ("B C", "\tb\\\n")
    assert (second.expand, second.chomp, second.file_descriptor) == (False, True, 3)
    assert (run.start_line, run.end_line, user.start_line) == (1, 7, 8)


def test_a_terminator_stands_alone_on_its_line() -> None:
    (heredoc,) = written("RUN <<EOF\n EOF\nEOF \n\tEOF\nEOF").heredocs
    assert heredoc.content == " EOF\nEOF \n\tEOF\n"


def test_tabs_before_the_terminator_count_only_after_a_dash() -> None:
    (heredoc,) = written("RUN <<-EOF\n\t\tx\n EOF\n\t\tEOF").heredocs
    assert heredoc.content == "\t\tx\n EOF\n"


def test_a_heredoc_keeps_its_carriage_returns() -> None:
    (heredoc,) = written("RUN <<EOF\r\na\r\nEOF\r\n").heredocs
    assert heredoc.content == "a\r\n"


def test_a_heredoc_may_follow_a_continuation() -> None:
    (heredoc,) = written("RUN cat \\\n  <<EOF > \\\n  /x\nbody\nEOF\n").heredocs
    assert heredoc.content == "body\n"


@pytest.mark.parametrize(
    "text",
    ["RUN", "COPY --chown=me", "ADD", "ONBUILD RUN", "onbuild copy", "run --mount=type=tmpfs"],
)
def test_these_instructions_take_heredocs(text: str) -> None:
    assert len(written(f"{text} <<EOF /x\nbody\nEOF").heredocs) == 1


@pytest.mark.parametrize("text", ["CMD <<EOF", "ENV a=<<EOF", "USER <<EOF", 'RUN ["<<EOF"]'])
def test_these_do_not(text: str) -> None:
    assert written(text).heredocs == ()


def test_a_heredoc_without_end_is_refused_where_it_begins() -> None:
    with pytest.raises(DockerfileSyntaxError) as caught:
        parse_written("FROM x\nRUN cat <<EOF\na\n EOF\n")
    assert str(caught.value) == "Dockerfile:2: the heredoc EOF does not end"
    assert caught.value.span is not None
    assert caught.value.span.start_column == 9


def test_a_heredoc_whose_name_is_not_closed_is_refused() -> None:
    with pytest.raises(DockerfileSyntaxError, match="the name of a heredoc is malformed"):
        parse_written("RUN <<${a-\\'}\n")


# Offsets.


@given(
    st.sampled_from(["RUN", "COPY", "ENV", "ARG", "EXPOSE", "LABEL", "HEALTHCHECK", "ONBUILD RUN"]),
    st.lists(
        st.sampled_from(
            ["a", "b=c", "--d", "--e=f", '"g h"', "'i'", '["j"]', "\\\n", "é=ü", "$x", "  ", "<"]
        ),
        max_size=8,
    ),
)
def test_every_part_stands_where_its_offsets_say(keyword: str, words: list[str]) -> None:
    try:
        _source, _directives, splits = split(f"{keyword} {' '.join(words)}", name="n")
    except DockerfileError:
        return
    for one in splits:
        inner = one.trigger or one
        for part in [*inner.flags, *inner.args]:
            stands = inner.line.text[part.start : part.end]
            assert stands == part.text or inner.is_json or part in inner.flags
            assert 0 <= part.start <= part.end <= len(inner.line.text)


def test_the_span_of_an_instruction_ends_with_its_last_heredoc() -> None:
    one = one_of("\n  RUN <<A <<B\na\nA\nb\n  B\nB\n")
    span = one.span
    assert (span.start_line, span.start_column, span.end_line, span.end_column) == (2, 3, 7, 1)


# The file.


@pytest.mark.parametrize("text", ["", "\n", "# only\n# comments\n", "\ufeff", " \t\n"])
def test_a_file_without_instructions_is_refused(text: str) -> None:
    with pytest.raises(DockerfileSyntaxError, match="the file has no instructions"):
        parse_written(text)


def test_names_of_files_stand_in_messages() -> None:
    with pytest.raises(DockerfileError, match=r"^dir/Containerfile:1: "):
        parse_written("ENV a", name="dir/Containerfile")
