"""Which paths --parents and --exclude take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.filters import Filter, exclusion, inclusion
from builder.patterns import BadPatternError


def takes(include: str | None, *exclude: str) -> Filter:
    return Filter(
        include=None if include is None else inclusion(include), exclude=exclusion(exclude)
    )


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a", "ab", False),
        ("a/b", "a", False),
        ("a/*", "a/b/c", True),
        ("*.go", "x/y.go", False),
        ("**/*.go", "x/y.go", True),
        ("**/*.go", "y.go", True),
        ("a/**/e", "a/e", True),
        ("a/**/e", "a/b/c/e/f", True),
        ("[ab]?", "b1", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
    ],
)
def test_a_pattern_of_parents_takes_what_it_matches_and_all_beneath(
    pattern: str, path: str, expected: bool
) -> None:
    assert takes(pattern).takes(path) is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ([], "a", True),
        (["a"], "a", False),
        (["a"], "a/b", False),
        (["*.md"], "README.md", False),
        (["*.md"], "docs/a.md", True),
        (["**/*.md"], "docs/a.md", False),
        (["*.md", "!README.md"], "README.md", True),
        (["!README.md", "*.md"], "README.md", False),
        (["docs", "!docs/keep"], "docs/keep", True),
        (["a/./b/"], "a/b", False),
        (["/a"], "a", True),  # as in BuildKit: only an ignore file's patterns lose their slash
        ([" ", ""], "a", True),
    ],
)
def test_exclude_has_the_rules_of_an_ignore_file(
    patterns: list[str], path: str, expected: bool
) -> None:
    assert takes(None, *patterns).takes(path) is expected


def test_both_together_take_what_is_included_and_not_excluded() -> None:
    both = takes("src/**/*.go", "**/*_test.go")
    assert both.takes("src/a/b.go")
    assert not both.takes("src/a/b_test.go")
    assert not both.takes("other/b.go")


@pytest.mark.parametrize(
    ("include", "exclude", "directory", "expected"),
    [
        ("a/b/c", [], "a", True),
        ("a/b/c", [], "a/b", True),
        ("a/b/c", [], "b", False),
        ("a/b/c", [], "a/x", False),
        ("a/*", [], "a/b/c", True),
        ("*", [], "a", True),
        ("?/x", [], "ab", False),
        ("a/**/c", [], "a/b/b/b", True),
        ("a/**/c", [], "b", False),
        ("**/c", [], "a/b", True),
        (None, ["a"], "a", False),
        (None, ["a", "!b"], "a", False),
        (None, ["a", "!a/b"], "a", True),
        (None, ["a", "!**/b"], "a", True),
        ("a/b", ["a"], "a", False),
        ("a", ["a/b", "!a/b/c"], "a/b", True),
    ],
)
def test_where_nothing_can_be_taken_nobody_needs_to_look(
    include: str | None, exclude: list[str], directory: str, expected: bool
) -> None:
    assert takes(include, *exclude).may_take_beneath(directory) is expected


PARTS = st.sampled_from(["a", "b", "ab", "*", "?", "**", "a*", "a**", "[ab]", "\\a", "[^/]b"])
PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4)


@given(pattern=st.lists(PARTS, min_size=1, max_size=4).map("/".join), path=PATHS)
def test_every_way_to_what_is_taken_is_open(pattern: str, path: list[str]) -> None:
    only = takes(pattern)
    if only.takes("/".join(path)):
        for length in range(1, len(path)):
            directory = "/".join(path[:length])
            assert only.takes(directory) or only.may_take_beneath(directory), directory


@pytest.mark.parametrize("pattern", ["a[", "a/[b", "[b-a", "x\\"])
def test_a_malformed_pattern_is_an_error(pattern: str) -> None:
    for compiled in (inclusion, lambda text: exclusion([text])):
        with pytest.raises(BadPatternError):
            compiled(pattern)


def test_a_slash_in_a_class_or_behind_a_backslash_hides_nothing() -> None:
    assert takes("a\\/b").takes("a/b")
    assert takes("a\\/b").may_take_beneath("a")
