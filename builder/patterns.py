"""Go's `filepath.Match` patterns, and moby's extension of them for ignore files.

Both are translated to regular expressions once; matching is then one call per name.

    *      any run of characters other than `/`
    ?      one character other than `/`
    [a-z]  a class, `[^a-z]` its complement
    \\x    the character x itself
    **     (ignore files only) any run of whole components

Source: Go path/filepath.Match; moby/patternmatcher `Pattern.compile`.
"""

import re
from functools import lru_cache

_SPECIAL = frozenset(".+()|{}$^")
_FORKS_MAX = 5
_REVERSED = "\0"  # stands for a reversed range while a class is put together


class BadPatternError(ValueError):
    """The pattern is malformed in Go's sense."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"syntax error in pattern {pattern!r}")
        self.pattern = pattern


def has_wildcard(text: str) -> bool:
    """Whether `text` holds an unescaped `*`, `?` or `[`."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in "*?[":
            return True
    return False


def unescape(text: str) -> str:
    """A pattern without wildcards as the name it stands for."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def check(pattern: str) -> None:
    """Refuse what Go's filepath.Match refuses.

    Raises:
        BadPatternError: trailing backslash, or an empty, unclosed or reversed character class.
    """
    index = 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if char == "\\":
            if index == len(pattern):
                raise BadPatternError(pattern)
            index += 1
        elif char == "[":
            index = _read_class(pattern, index)[0]


@lru_cache(maxsize=1024)
def component_regex(pattern: str) -> re.Pattern[str]:
    """The expression for one path component, or a whole path without `**`."""
    return re.compile(_translate(pattern, double_star=False), re.DOTALL)


def ignore_regex(pattern: str) -> re.Pattern[str]:
    """The expression for one pattern of an ignore file, matched against a whole path."""
    return re.compile(_translate(pattern, double_star=True), re.DOTALL)


def _translate(pattern: str, *, double_star: bool, forks: int = 0) -> str:
    """The expression for `pattern`, in groups split at `**` of pieces split at `*`."""
    check(pattern)
    groups = [[""]]
    index = 0
    while index < len(pattern):
        char = pattern[index]
        start = index
        index += 1
        pieces = groups[-1]
        if char == "*":
            if double_star and pattern.startswith("*", index):
                index += 1
                if pattern.startswith("/", index):
                    index += 1
                if pieces != [""] and not pieces[-1].endswith("/") and index < len(pattern):
                    return _either(pattern[:start], pattern[index:], forks)
                groups.append([""])
            else:
                while not double_star and pattern.startswith("*", index):
                    index += 1  # `**` is `*`
                pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "\\":
            pieces[-1] += re.escape(pattern[index])
            index += 1
        elif char == "[":
            index, expression = _read_class(pattern, index)
            if double_star and _REVERSED in expression:  # moby's regular expression refuses it
                raise BadPatternError(pattern[start:])
            pieces[-1] += expression.replace(_REVERSED, "")
        else:
            pieces[-1] += "\\" + char if char in _SPECIAL else re.escape(char)
    return _linear(groups)


def _either(before: str, after: str, forks: int) -> str:
    """`a**b`: nothing stands between, or the rest of the name and whole components."""
    if forks == _FORKS_MAX:
        raise BadPatternError(f"{before}**{after}")
    return "|".join(
        _translate(f"{before}{between}{after}", double_star=True, forks=forks + 1)
        for between in ("", "*/**/")
    )


def _linear(groups: list[list[str]]) -> str:
    """Every piece at the first place where it fits: none has to be tried again further on.

    That is true of `*` up to the next `*`, and of `**/` up to the next one, because what follows
    can itself skip whatever a later place would have skipped.
    """
    *before, last = groups
    out = []
    for number, pieces in enumerate(before):
        if pieces != [""]:
            out.append(f"(?>{'(?:[^/]*/)*?' if number else ''}{_component(pieces)})")
    if before:
        out.append(".*" if last == [""] else "(?:.*/)?")
    return "".join(out) + _component(last) + r"\Z"


def _component(pieces: list[str]) -> str:
    first, *between = pieces
    if not between:
        return first
    last = between.pop()
    return first + "".join(f"(?>[^/]*?{piece})" for piece in between) + "[^/]*" + last


def _read_class(pattern: str, index: int) -> tuple[int, str]:
    """Read a class whose `[` has been read; returns the index after `]` and the expression."""
    negated = pattern.startswith("^", index)
    if negated:
        index += 1
    ranges: list[str] = []
    while True:
        if ranges and pattern.startswith("]", index):
            index += 1
            break
        low, index = _class_char(pattern, index)
        high = low
        if pattern.startswith("-", index):
            high, index = _class_char(pattern, index + 1)
        # Go takes a reversed range as one that matches nothing
        ranges.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else _REVERSED)
    body = "".join(ranges)
    if not body.replace(_REVERSED, ""):
        return index, ("[^/]" if negated else "(?!)") + body
    # Go's classes may match "/", a path component never holds one
    return index, f"[^/{body}]" if negated else f"(?!/)[{body}]"


def _class_char(pattern: str, index: int) -> tuple[str, int]:
    if index >= len(pattern) or pattern[index] in "-]":
        raise BadPatternError(pattern)
    if pattern[index] == "\\":
        index += 1
        if index >= len(pattern):
            raise BadPatternError(pattern)
    if index + 1 >= len(pattern):  # a class that nothing closes
        raise BadPatternError(pattern)
    return pattern[index], index + 1
