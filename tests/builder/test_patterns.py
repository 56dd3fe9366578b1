"""Go's filepath.Match, compared with a slow matcher that is written differently."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import patterns
from builder.patterns import BadPatternError, check, component_regex, has_wildcard, ignore_regex


def go_match(pattern: str, name: str) -> bool:
    """An oracle: Go's documented grammar as a recursive function without regular expressions."""
    if not pattern:
        return not name
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        if go_match(rest, name):
            return True
        return bool(name) and name[0] != "/" and go_match(pattern, name[1:])
    if not name:
        return False
    if head == "?":
        return name[0] != "/" and go_match(rest, name[1:])
    if head == "[":
        matched, rest = in_class(rest, name[0])
        return matched and go_match(rest, name[1:])
    if head == "\\":
        head, rest = rest[0], rest[1:]
    return head == name[0] and go_match(rest, name[1:])


def in_class(text: str, char: str) -> tuple[bool, str]:
    negated = text.startswith("^")
    text = text.removeprefix("^")
    matched = False
    first = True
    while first or text[0] != "]":
        first = False
        low, text = class_char(text)
        high = low
        if text[0] == "-":
            high, text = class_char(text[1:])
        matched = matched or low <= char <= high
    return matched != negated, text[1:]


def class_char(text: str) -> tuple[str, str]:
    return (text[1], text[2:]) if text[0] == "\\" else (text[0], text[1:])


# The table of Go's own match_test.go, in so far as it has no slash in a class.
GO_TABLE = [
    ("abc", "abc", True),
    ("*", "abc", True),
    ("*c", "abc", True),
    ("a*", "a", True),
    ("a*", "abc", True),
    ("a*", "ab/c", False),
    ("a*/b", "abc/b", True),
    ("a*/b", "a/c/b", False),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
    ("a*b?c*x", "abxbbxdbxebxczzx", True),
    ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("ab[c]", "abc", True),
    ("ab[b-d]", "abc", True),
    ("ab[e-g]", "abc", False),
    ("ab[^c]", "abc", False),
    ("ab[^b-d]", "abc", False),
    ("ab[^e-g]", "abc", True),
    ("a\\*b", "a*b", True),
    ("a\\*b", "ab", False),
    ("a?b", "a☺b", True),
    ("a[^a]b", "a☺b", True),
    ("a???b", "a☺b", False),
    ("a[^a][^a][^a]b", "a☺b", False),
    ("[a-ζ]*", "α", True),
    ("*[a-ζ]", "A", False),
    ("a?b", "a/b", False),
    ("a*b", "a/b", False),
    ("[\\]a]", "]", True),
    ("[\\-]", "-", True),
    ("[x\\-]", "x", True),
    ("[x\\-]", "-", True),
    ("[x\\-]", "z", False),
    ("[\\-x]", "x", True),
    ("[\\-x]", "-", True),
    ("[\\-x]", "a", False),
    ("*x", "xxx", True),
]

MALFORMED = [
    "[]a]",
    "[-]",
    "[x-]",
    "[-x]",
    "[a-b-c]",
    "[",
    "[^",
    "[^bc",
    "a[",
    "a\\",
    "[\\",
    "[a\\",
]


@pytest.mark.parametrize(("pattern", "name", "expected"), GO_TABLE)
def test_component_patterns_match_as_go_does(pattern: str, name: str, expected: bool) -> None:
    assert bool(component_regex(pattern).match(name)) is expected
    assert go_match(pattern, name) is expected


@pytest.mark.parametrize("pattern", MALFORMED)
def test_malformed_patterns_are_refused_wherever_they_are_used(pattern: str) -> None:
    for use in (check, component_regex, ignore_regex):
        with pytest.raises(BadPatternError, match="syntax error in pattern") as caught:
            use(pattern)
        assert caught.value.pattern


def test_a_malformed_class_behind_a_mismatch_is_still_refused() -> None:
    """Go scans the whole pattern, also where the name can not match any more."""
    with pytest.raises(BadPatternError):
        check("x/y/z[")


def test_a_bad_pattern_is_a_value_error_that_names_the_pattern() -> None:
    with pytest.raises(ValueError, match=r"'\[a'"):
        check("[a")


@pytest.mark.parametrize(
    "special", [".", "+", "(", ")", "|", "{", "}", "$", "^", "#", " ", "&", "~", "-", "]"]
)
def test_what_is_special_in_regular_expressions_only_stands_for_itself(special: str) -> None:
    for regex in (component_regex(f"a{special}b*"), ignore_regex(f"a{special}b*")):
        assert regex.match(f"a{special}bc")
        assert not regex.match("aXbc")
        assert not regex.match("abc")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("[.-/]", ".", True),
        ("[&&a]", "&", True),
        ("[||a]", "|", True),
        ("[~~a]", "~", True),
        ("[[a]", "[", True),
        ("[\\^a]", "^", True),
        ("[a^]", "^", True),
        ("[^^]", "^", False),
        ("[^^]", "a", True),
        ("[\\d]", "d", True),
        ("[\\d]", "5", False),
        ("[\\\\]", "\\", True),
        ("[+--]", "-", True),
    ],
)
def test_classes_have_no_meaning_beyond_gos(pattern: str, name: str, expected: bool) -> None:
    if pattern == "[+--]":  # a bare `-` can not stand at the end of a range either
        with pytest.raises(BadPatternError):
            check(pattern)
        return
    assert bool(component_regex(pattern).match(name)) is expected


def test_a_reversed_range_matches_nothing_and_its_complement_anything() -> None:
    assert not component_regex("[z-a]").match("m")
    assert component_regex("[z-ab]").match("b")
    assert component_regex("[^z-a]").match("m")
    assert not component_regex("[^z-a]").match("/")


def test_a_reversed_range_is_refused_in_an_ignore_file() -> None:
    """moby hands the class to Go's regexp, which refuses it."""
    with pytest.raises(BadPatternError):
        ignore_regex("[z-a]")


def test_a_negated_class_never_matches_a_slash_in_a_component() -> None:
    assert not component_regex("a[^x]b").match("a/b")


def test_names_end_where_the_pattern_ends_even_before_a_newline() -> None:
    assert not component_regex("a").match("a\n")
    assert component_regex("a*").match("a\nb")
    assert component_regex("a?").match("a\n")


def test_double_star_is_a_single_star_outside_of_ignore_files() -> None:
    assert component_regex("a**b").match("axxb")
    assert not component_regex("a**b").match("ax/xb")
    assert component_regex("**").match("abc")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**/foo", "foo", True),
        ("**/foo", "a/b/foo", True),
        ("**/foo", "a/xfoo", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a**", "abc/d", True),
        ("**", "any/thing", True),
        ("**/**", "any/thing", True),
        ("*", "a/b", False),
    ],
)
def test_double_star_crosses_components_in_ignore_files(
    pattern: str, path: str, expected: bool
) -> None:
    assert bool(ignore_regex(pattern).match(path)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", False),
        ("a*", True),
        ("a?", True),
        ("a[b", True),
        ("a]b", False),
        ("a\\*b", False),
        ("a\\\\*", True),
        ("\\[\\?\\*", False),
        ("", False),
        ("ends\\", False),
    ],
)
def test_escaped_wildcards_are_none(text: str, expected: bool) -> None:
    assert has_wildcard(text) is expected


def test_unescape_gives_the_name_that_a_plain_pattern_stands_for() -> None:
    assert patterns.unescape("a\\*b\\\\c\\[d") == "a*b\\c[d"
    assert patterns.unescape("a\\\nb") == "a\nb"


HOSTILE_COMPONENTS = ["*" * 60 + "b", "*a" * 12 + "b", "*a" * 12 + "*b", "?*" * 12 + "b"]


@pytest.mark.parametrize("pattern", HOSTILE_COMPONENTS)
def test_many_stars_do_not_explode(pattern: str) -> None:
    started = time.monotonic()
    assert not component_regex(pattern).match("a" * 250)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "pattern",
    [
        "**/a/" * 9 + "**/b",
        "**/" * 40 + "b",
        "a**" * 5 + "*a" * 9 + "b",
        "*a*/**/" * 9 + "*b",
        "**/*/*/*/*a*a*a*b",
        "****" * 9,
    ],
)
def test_many_double_stars_do_not_explode(pattern: str) -> None:
    started = time.monotonic()
    assert bool(ignore_regex(pattern).match("aaa/" * 500 + "a")) is (pattern == "****" * 9)
    assert time.monotonic() - started < 1


def test_double_stars_inside_of_names_are_taken_and_their_number_is_bounded() -> None:
    assert ignore_regex("a**/*.txt").match("a/dir/dir/file.txt")
    assert ignore_regex("a**/*.txt").match("afile.txt")
    assert ignore_regex("x*a**b").match("xaab")
    with pytest.raises(BadPatternError):
        ignore_regex("a**" * 9 + "b")


WORDS = st.text(alphabet="ab/-", max_size=7)
CLASS = st.builds(
    lambda negated, ranges: "[" + "^" * negated + "".join(ranges) + "]",
    st.booleans(),
    st.lists(st.sampled_from(["a", "b", "a-b", "b-a", "\\-", "\\]", "^", "."]), min_size=1).filter(
        lambda ranges: ranges[0] != "^"
    ),
)
PATTERNS = st.lists(
    st.one_of(st.sampled_from(["a", "b", "*", "**", "?", ".", "\\*", "\\a"]), CLASS), max_size=5
).map("".join)


@settings(max_examples=300, deadline=None)
@given(pattern=PATTERNS, name=WORDS.filter(lambda name: "/" not in name))
def test_components_match_exactly_as_the_oracle_says(pattern: str, name: str) -> None:
    assert bool(component_regex(pattern).match(name)) is go_match(pattern, name)


def moby_regex(pattern: str) -> str:
    """moby's own translation: short, and of exponential cost in a backtracking engine."""
    out, index = "", 0
    while index < len(pattern):
        if pattern.startswith("**", index):
            index += 3 if pattern.startswith("**/", index) else 2
            out += ".*" if index == len(pattern) else "(.*/)?"
            continue
        char = pattern[index]
        out += {"*": "[^/]*", "?": "[^/]", ".": "[.]"}.get(char, char)
        index += 1
    return out


PATHS = st.lists(st.text(alphabet="ab.", min_size=1, max_size=3), min_size=1, max_size=5).map(
    "/".join
)


@settings(max_examples=600, deadline=None)
@given(
    pattern=st.lists(
        st.sampled_from(["a", "b", ".", "*", "**", "?", "/", "/", "**/", "/**/", "*/"]), max_size=7
    ).map("".join),
    path=PATHS,
)
def test_ignore_patterns_match_exactly_as_mobys_translation(pattern: str, path: str) -> None:
    try:
        regex = ignore_regex(pattern)
    except BadPatternError:
        assert pattern.count("**") > 5
        return
    assert bool(regex.match(path)) is bool(re.fullmatch(moby_regex(pattern), path))


@settings(max_examples=200, deadline=None)
@given(name=st.text(alphabet=st.characters(exclude_characters="/\0"), min_size=1, max_size=8))
def test_any_name_escaped_matches_itself_alone(name: str) -> None:
    escaped = "".join("\\" + char for char in name)
    assert not has_wildcard(escaped)
    assert patterns.unescape(escaped) == name
    assert component_regex(escaped).match(name)
    assert not component_regex(escaped).match(name + "x")


@settings(max_examples=200, deadline=None)
@given(pattern=st.text(alphabet="[]^-\\*?ab/", max_size=8))
def test_a_pattern_is_either_refused_or_compiles_everywhere(pattern: str) -> None:
    try:
        check(pattern)
    except BadPatternError:
        with pytest.raises(BadPatternError):
            component_regex(pattern)
    else:
        component_regex(pattern)
