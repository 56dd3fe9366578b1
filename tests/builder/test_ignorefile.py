"""`.dockerignore` against moby's own tables and against rules written out by hand."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.ignorefile import NO_RULES, compile_rules, parse_ignore_file, read_patterns
from builder.patterns import BadPatternError
from tests.support.conformance import MATERIAL

TABLES = MATERIAL / "dockerignore_patterns.json"


def ignored(text: str, *paths: str) -> list[str]:
    """Which of `paths` the ignore file `text` hides."""
    rules = parse_ignore_file(text.encode())
    return [path for path in paths if rules.ignores(path)]


def tables(kind: str) -> list[Any]:
    if not TABLES.exists():
        reason = f"no conformance material: {TABLES} does not exist"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(TABLES.read_bytes())[kind]]


@pytest.mark.parametrize("case", tables("cases"))
def test_mobys_table_of_patterns(case: Any) -> None:
    if case.get("error"):
        with pytest.raises(BadPatternError):
            compile_rules(case["patterns"]).ignores(case["path"])
        return
    # `matches` looks at the whole path alone; a path without a parent is the same for both
    if case["api"] == "matches-or-parent" or "/" not in case["path"]:
        assert compile_rules(case["patterns"]).ignores(case["path"]) is case["match"]


@pytest.mark.parametrize("case", tables("ignore_files"))
def test_mobys_reading_of_an_ignore_file(case: Any) -> None:
    assert read_patterns(case["content"].encode()) == case["expect"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n\n  \n\t\n", []),
        (b"# a comment\n  # not a comment\n", ["# not a comment"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbf# comment\na", ["a"]),
        (b"a/\n./b\n/c\na//b/../d\n", ["a", "b", "c", "a/d"]),
        (b"!/a/\n! b\n", ["!a", "!b"]),
        (b"/\n.\n..\n", ["/", ".", ".."]),
        (b"  spaces at both ends  ", ["spaces at both ends"]),
        (b"last line without an end", ["last line without an end"]),
        (b"caf\xc3\xa9\n\xff\xfe\n", ["café", "\udcff\udcfe"]),
        (b"//a", ["a"]),
    ],
)
def test_lines_are_read_as_moby_reads_them(text: bytes, expected: list[str]) -> None:
    assert read_patterns(text) == expected


def test_without_rules_everything_is_in_the_context() -> None:
    assert not NO_RULES.ignores("any/thing")
    assert not NO_RULES.may_take_back("any")
    assert ignored("# nothing\n\n", "a", "a/b") == []


def test_a_directory_takes_all_that_is_in_it_along() -> None:
    assert ignored("node_modules\n", "node_modules", "node_modules/a/b", "x/node_modules") == [
        "node_modules",
        "node_modules/a/b",
    ]


def test_a_pattern_is_anchored_at_the_top_with_or_without_a_slash() -> None:
    paths = ("temp", "temp/a", "sub/temp")
    assert ignored("temp\n", *paths) == ignored("/temp/\n", *paths) == ["temp", "temp/a"]


def test_double_star_reaches_every_depth_and_single_star_one_component() -> None:
    paths = ("a.go", "x/a.go", "x/y/a.go", "x/a.py")
    assert ignored("**/*.go", *paths) == ["a.go", "x/a.go", "x/y/a.go"]
    assert ignored("*/*.go", *paths) == ["x/a.go"]
    assert ignored("*.go", *paths) == ["a.go"]


def test_double_star_before_a_plain_end_matches_any_name_that_ends_so() -> None:
    """moby compares the ends of the texts there; a `**` in front of wildcards is different."""
    assert ignored("**.pyc", "a.pyc", "x/b.pyc", "pyc") == ["a.pyc", "x/b.pyc"]
    assert ignored("**foo", "barfoo", "x/barfoo", "foo", "foox") == ["barfoo", "x/barfoo", "foo"]
    assert ignored("**/foo", "barfoo", "x/foo", "foo") == ["x/foo", "foo"]


def test_the_last_pattern_that_matches_decides() -> None:
    paths = ("README.md", "README-secret.md", "NEWS.md")
    text = "*.md\n!README*.md\nREADME-secret.md\n"
    assert ignored(text, *paths) == ["README-secret.md", "NEWS.md"]
    text = "*.md\nREADME-secret.md\n!README*.md\n"
    assert ignored(text, *paths) == ["NEWS.md"]


def test_an_exception_reaches_into_an_ignored_directory() -> None:
    text = "*\n!src\nsrc/*.tmp\n!src/keep.tmp\n"
    paths = ("a", "src", "src/a.c", "src/x.tmp", "src/keep.tmp", "other/src")
    assert ignored(text, *paths) == ["a", "src/x.tmp", "other/src"]


def test_an_ignored_directory_is_worth_a_look_only_where_something_may_be_taken_back() -> None:
    rules = parse_ignore_file(b"node_modules\nvendor\n!vendor/x/keep\n!.env\n")
    assert rules.may_take_back("vendor")
    assert rules.may_take_back("vendor/x")
    assert rules.may_take_back("vendor/x/keep/deeper")
    assert not rules.may_take_back("vendor/y")
    assert not rules.may_take_back("node_modules")
    assert parse_ignore_file(b"node_modules\n!**/keep\n").may_take_back("node_modules/a")
    assert not parse_ignore_file(b"**/drop\n").may_take_back("any")


def test_taking_back_what_was_never_ignored_changes_nothing() -> None:
    assert ignored("!a\nb\n", "a", "b", "a/c") == ["b"]


def test_comments_begin_in_the_first_column_alone() -> None:
    assert ignored("#a\n #b\n", "#a", "#b") == ["#b"]


def test_wildcards_can_be_escaped() -> None:
    assert ignored("\\*\n", "*", "a") == ["*"]
    assert ignored("a\\[1]\n", "a[1]", "a1") == ["a[1]"]
    assert ignored("\\!important\n", "!important", "important") == ["!important"]


def test_names_that_are_not_utf8_can_be_ignored() -> None:
    rules = parse_ignore_file(b"\xff*\n")
    assert rules.ignores("\udcffx")
    assert not rules.ignores("x\udcff")


def test_a_newline_in_a_name_is_a_character_like_any_other() -> None:
    assert ignored("a*b\n", "a\nb", "a\n") == ["a\nb"]


@pytest.mark.parametrize("text", ["[", "a[b", "a\\", "[]", "!", "ok\n![x\n", "!\n"])
def test_a_malformed_pattern_is_an_error_and_not_ignored(text: str) -> None:
    with pytest.raises(BadPatternError):
        parse_ignore_file(text.encode())


def test_patterns_that_lead_outside_match_nothing_inside() -> None:
    assert ignored("../a\n..\n/../b\n", "a", "x/a", "b") == ["b"]  # Clean("/../b") is "/b"


NAMES = st.sampled_from(["a", "b", "ab", ".c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PLAIN_RULES = st.lists(st.tuples(st.booleans(), PATHS), max_size=5)


@settings(max_examples=200, deadline=None)
@given(rules=PLAIN_RULES, path=PATHS)
def test_plain_patterns_follow_the_rule_of_the_last_match(
    rules: list[tuple[bool, str]], path: str
) -> None:
    expected = False
    for keep, pattern in rules:
        if path == pattern or path.startswith(pattern + "/"):
            expected = not keep
    compiled = compile_rules(("!" if keep else "") + pattern for keep, pattern in rules)
    assert compiled.ignores(path) is expected
    beneath = [keep for keep, pattern in rules if f"{pattern}/".startswith(f"{path}/")]
    above = [keep for keep, pattern in rules if f"{path}/".startswith(f"{pattern}/")]
    assert compiled.may_take_back(path) is any([*beneath, *above])


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        rules = parse_ignore_file(data)
    except BadPatternError:
        return
    rules.ignores("some/path")
