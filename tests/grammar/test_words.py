import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    ExpansionError,
    Span,
    Word,
    expand,
    expand_content,
    expand_words,
    variables_used,
)
from grammar.words import DEPTH_MAX, INSERTED_LENGTH_MAX, shell_words

ENV = {"v": "value", "empty": "", "path": "/a/b/c.tar.gz", "lines": "one\ntwo\nthree"}


# Plain words and quotes.


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a b", "a b"),
        ("'a $v'", "a $v"),
        ('"a $v"', "a value"),
        ("'it'\"s\"", "its"),
        ("a\\ b", "a b"),
        ("\\$v", "$v"),
        ("\\\\", "\\"),
        ("a\\", "a"),
        ("'a\\'", "a\\"),
        ('"a\\b"', "a\\b"),
        ('"\\"\\$\\\\"', '"$\\'),
        ('"\'"', "'"),
        ("'\"'", '"'),
        ("a<b<<c", "a<b<<c"),
    ],
)
def test_quotes_are_removed(word: str, value: str) -> None:
    assert expand(word, ENV) == value


@pytest.mark.parametrize("word", ["'", '"', "a'b", '"a\\"', "${v", "${v:-'}", '$"', '"${v"'])
def test_what_is_opened_must_be_closed(word: str) -> None:
    with pytest.raises(ExpansionError):
        expand(word, ENV)


def test_the_backtick_may_be_the_escape_character() -> None:
    assert expand("c:\\`$v\\$v", ENV, escape="`") == "c:\\$v\\value"
    assert expand('"`"`$"', ENV, escape="`") == '"$'


# Variables.


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("$v", "value"),
        ("${v}", "value"),
        ("$v/x", "value/x"),
        ("$unset.", "."),
        ("$empty.", "."),
        ("$", "$"),
        ("a$.b", "a$.b"),
        ("$ v", "$ v"),
        ("$vv", ""),
        ("${v}v", "valuev"),
        ("$1x", "x"),
        ("$10x", "x"),
        ("$$v", "v"),
        ("$@$*$#$?$-$!$0", ""),
        ("${@}", ""),
        ("${unset:-d}", "d"),
        ("${empty:-d}", "d"),
        ("${v:-d}", "value"),
        ("${unset-d}", "d"),
        ("${empty-d}", ""),
        ("${unset:+d}", ""),
        ("${empty:+d}", ""),
        ("${v:+d}", "d"),
        ("${empty+d}", "d"),
        ("${unset+d}", ""),
        ("${v:?no}", "value"),
        ("${empty?no}", ""),
        ("${unset:-}", ""),
        ("${unset:-a b}", "a b"),
        ("${unset:-'}'}", "}"),
        ("${unset:-\\}}", "}"),
        ('"${unset:-"a}"}"', "a}"),
        ("${unset:-$v}", "value"),
        ("${unset:-${none:-${v}}}", "value"),
        ("${unset:-$}", "$"),
        ("${v:+${empty:-deep}}", "deep"),
    ],
)
def test_variables_and_their_defaults(word: str, value: str) -> None:
    assert expand(word, ENV) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${unset:?}", "unset: is not allowed to be unset"),
        ("${unset?}", "unset: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${unset:?give $v}", "unset: give value"),
    ],
)
def test_a_demand_that_is_not_met_says_what_was_asked(word: str, message: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(word, ENV)
    assert caught.value.message == f"cannot expand {word}: {message}"
    assert caught.value.variable == message.partition(":")[0]
    assert "--build-arg" in caught.value.hint


@pytest.mark.parametrize(
    "word",
    [
        "${}",
        "${",
        "${:}",
        "${{v}}",
        "${:-a}",
        "${v:}",
        "${v:x}",
        "${v=a}",
        "${v:=a}",
        "${v:#a}",
        "${v:%a}",
        "${v:/a/b}",
        "${v/a}",
        "${v//a}",
        "${v/a/b",
        "${v^}",
        "${v,}",
        "${.}",
        "${v w}",
    ],
)
def test_forms_that_do_not_exist_are_refused(word: str) -> None:
    with pytest.raises(ExpansionError):
        expand(word, ENV)


def test_a_variable_named_in_another_alphabet() -> None:
    assert expand("$größe-${한국어}", {"größe": "1", "한국어": "2"}) == "1-2"


def test_an_error_about_a_node_has_its_place() -> None:
    span = Span(start_line=3, start_column=5, end_line=3, end_column=9)
    with pytest.raises(ExpansionError) as caught:
        expand(Word(text="${v", span=span), ENV)
    assert caught.value.span == span


# Patterns.


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("${path#/a}", "/b/c.tar.gz"),
        ("${path#*/}", "a/b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"),
        ("${path%.*}", "/a/b/c.tar"),
        ("${path%%.*}", "/a/b/c"),
        ("${path%/*}", "/a/b"),
        ("${path#x}", "/a/b/c.tar.gz"),
        ("${path#}", "/a/b/c.tar.gz"),
        ("${path##}", "/a/b/c.tar.gz"),
        ("${path#*}", "/a/b/c.tar.gz"),
        ("${path##*}", ""),
        ("${path%*}", "/a/b/c.tar.gz"),
        ("${path%%*}", ""),
        ("${path#??}", "/b/c.tar.gz"),
        ("${path%?gz}", "/a/b/c.tar"),
        ("${v#${unset:-val}}", "ue"),
        ("${v#$v}", ""),
        ("${unset#a}", ""),
        ("${path/./-}", "/a/b/c-tar.gz"),
        ("${path//./-}", "/a/b/c-tar-gz"),
        ("${path//\\//-}", "-a-b-c.tar.gz"),
        ("${path/a*c/-}", "/-.tar.gz"),
        ("${path//[a]/-}", "/a/b/c.tar.gz"),
        ("${path/\\}/-}", "/a/b/c.tar.gz"),
        ("${v//?/-}", "-----"),
        ("${v/a*/-}", "v-"),
        ("${v//*/-}", "-"),
        ("${v///-}", "-v-a-l-u-e-"),
        ("${v///}", "value"),
        ("${v/x/-}", "value"),
        ("${lines//o*/-}", "-\ntw-\nthree"),
        ("${lines##*}", "\ntwo\nthree"),
        ("${lines%%*}", "one\ntwo\n"),
        ("${lines/n*t/-}", "one\ntwo\nthree"),
        ("${lines//t*e/-}", "one\ntwo\n-"),
    ],
)
def test_patterns_remove_and_replace(word: str, value: str) -> None:
    assert expand(word, ENV) == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("${s#a\\*}", "b?c\\d"),
        ("${s#a\\?}", "a*b?c\\d"),
        ("${s%\\\\d}", "a*b?c"),
        ("${s//\\*/+}", "a+b?c\\d"),
    ],
)
def test_a_backslash_takes_a_star_for_itself(word: str, value: str) -> None:
    assert expand(word, {"s": "a*b?c\\d"}) == value


@pytest.mark.parametrize("word", ["${v#\\a}", "${v#a\\", "${v/\\x/y}", '${v#"\\}'])
def test_a_pattern_escapes_nothing_else(word: str) -> None:
    with pytest.raises(ExpansionError):
        expand(word, ENV)


def test_a_replacement_is_taken_as_it_is() -> None:
    """BuildKit gives it to Go's regexp, which takes `$1` for a group."""
    assert expand("${v//a/$price}", {"v": "banana", "price": "$1"}) == "b$1n$1n$1"


PATTERNS = st.text("ab*?.", max_size=6)
VALUES = st.text("ab.", max_size=10)


@given(PATTERNS, VALUES)
def test_removed_prefixes_are_the_shortest_and_the_longest(pattern: str, value: str) -> None:
    ends = [end for end in range(len(value) + 1) if fnmatchcase(value[:end], pattern)]
    env = {"v": value, "p": pattern}
    if pattern.startswith("#"):
        return
    assert expand("${v#$p}", env) == (value[ends[0] :] if ends else value)
    assert expand("${v##$p}", env) == (value[ends[-1] :] if ends else value)


@given(PATTERNS, VALUES)
def test_removed_suffixes_are_the_shortest_and_the_longest(pattern: str, value: str) -> None:
    starts = [at for at in range(len(value), -1, -1) if fnmatchcase(value[at:], pattern)]
    env = {"v": value, "p": pattern}
    assert expand("${v%$p}", env) == (value[: starts[0]] if starts else value)
    assert expand("${v%%$p}", env) == (value[: starts[-1]] if starts else value)


@given(PATTERNS.filter(bool), VALUES)
def test_what_is_replaced_is_the_leftmost_longest(pattern: str, value: str) -> None:
    found = [
        (start, end)
        for start in range(len(value) + 1)
        for end in range(len(value), start - 1, -1)
        if fnmatchcase(value[start:end], pattern)
    ]
    replaced = expand("${v/$p/-}", {"v": value, "p": pattern})
    if found:
        start, end = found[0]
        assert replaced == f"{value[:start]}-{value[end:]}"
    else:
        assert replaced == value


# Splitting.


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("", []),
        ("  ", []),
        ("a b", ["a", "b"]),
        ("  a \t b\n", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        ("a' 'b", ["a b"]),
        ("a\\ b", ["a b"]),
        ("$two", ["one", "two"]),
        ("x$two-y", ["xone", "two-y"]),
        ('"$two"', ["one two"]),
        ("$padded", ["in"]),
        ("a${padded}b", ["a", "in", "b"]),
        ("$unset", []),
        ("'' a", ["a"]),
        ("80${unset:-81}", ["8081"]),
        ("a${unset:-b c}d", ["ab", "cd"]),
        ("<<  a", ["<<  a"]),
    ],
)
def test_words_are_split_at_spaces_that_no_quote_protects(word: str, words: list[str]) -> None:
    assert expand_words(word, {"two": "one two", "padded": "  in  "}) == words


@given(st.lists(st.text("ab'\"$\\{}:-é", min_size=1), max_size=5))
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    quoted = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in words)
    assert expand_words(quoted, {}) == words


# Heredoc contents.


def test_the_content_of_a_heredoc_keeps_its_quotes() -> None:
    assert expand_content("'$v' \"${v}\" \\$v a\\nb\n", ENV) == "'value' \"value\" $v anb\n"
    assert expand_content("it's plain\n", ENV) == "it's plain\n"


# Names.


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("plain", set()),
        ("$a${b}", {"a", "b"}),
        ("${a:-$b}", {"a", "b"}),
        ("${a:+${b:-$c}}", {"a", "b", "c"}),
        ("'$a'\\$b\"$c\"", {"c"}),
        ("${a:?$b}", {"a", "b"}),
        ("${a#$b}${c/$d/$e}", {"a", "b", "c", "d", "e"}),
    ],
)
def test_the_names_in_a_word(word: str, names: set[str]) -> None:
    assert variables_used(word) == names


def test_the_names_in_a_malformed_word_are_not_guessed() -> None:
    with pytest.raises(ExpansionError):
        variables_used("$a${")


@given(
    st.text("ab$ {}:-+?'\"\\#%/*", max_size=20), st.dictionaries(st.sampled_from("ab"), st.text())
)
def test_only_the_named_variables_matter(word: str, env: dict[str, str]) -> None:
    try:
        names = variables_used(word)
        value = expand(word, env)
    except ExpansionError:
        return
    assert expand(word, {name: text for name, text in env.items() if name in names}) == value


# Without an environment.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a '$b'", ["a", "'$b'"]),
        ("$a ${b} ${c:-d} ${e#f} ${g/h/i}", ["$a", "${b}", "${c:-d}", "${e#f}", "${g/h/i}"]),
        ("a\\ b", ["a\\ b"]),
        ('"a\\"b"', ['"a\\"b"']),
    ],
)
def test_raw_words_keep_everything(text: str, words: list[str]) -> None:
    assert shell_words(text, keep_quotes=True, keep_escapes=True) == words


# Bounds.


def test_nesting_is_bounded() -> None:
    fine = "${a:-" * DEPTH_MAX + "x" + "}" * DEPTH_MAX
    assert expand(fine, {}) == "x"
    with pytest.raises(ExpansionError, match="more than 32 nested"):
        expand("${a:-" * 100_000, {})


@pytest.mark.parametrize(
    "word", ["$v" * 2000, "${v//?/$v}", "${v//a*/$v}${v}${v}${v}", "${v///$v}", "${v:+$v$v$v$v}"]
)
def test_the_inserted_text_is_bounded(word: str) -> None:
    env = {"v": "a" * (INSERTED_LENGTH_MAX // 3)}
    with pytest.raises(ExpansionError, match="longer than"):
        expand(word, env)


@pytest.mark.parametrize(
    "word",
    [
        "${v##" + "*a" * 500 + "b}",
        "${v%%b" + "*a?" * 300 + "}",
        "${v//" + "*a?" * 300 + "b/x}",
        "${v//a*?b/x}",
        "${v//*a*a*a*a*a*a*b/x}",
    ],
)
def test_no_pattern_takes_long(word: str) -> None:
    start = time.monotonic()
    for value in ("a" * 50_000, "a\n" * 25_000):
        expand(word, {"v": value})
    assert time.monotonic() - start < 5


def test_a_pattern_and_a_value_that_are_long_together_are_refused() -> None:
    with pytest.raises(ExpansionError, match="too long for a value"):
        expand("${v#" + "a" * 1000 + "}", {"v": "a" * 100_000})


@given(st.text("av$ {}:-+?'\"\\#%/*\n<é", max_size=40))
def test_any_word_is_expanded_or_refused(word: str) -> None:
    for function in (expand, expand_words):
        try:
            function(word, ENV)
        except ExpansionError as error:
            assert error.message
    try:
        expand_content(word, ENV)
    except ExpansionError as error:
        assert error.render()
