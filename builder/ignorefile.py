"""`.dockerignore`: which paths of the build context do not exist for the build.

The last pattern that matches a path, or one of its parents, decides; `!` takes a path back in.

Source: Docker's build context reference ("dockerignore files"); moby/patternmatcher and its
`ignorefile` package for the reading of lines.
"""

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from builder import patterns


@dataclass(frozen=True, slots=True)
class _Rule:
    matches: Callable[[str], object]
    keep: bool  # written with `!`
    plain: str  # the pattern when it has no wildcards, else empty


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one ignore file, in file order."""

    rules: tuple[_Rule, ...] = ()

    def ignores(self, path: str) -> bool:
        """Whether `path` (relative, normal form) is left out of the context."""
        parents = _parents(path)
        ignored = False
        for rule in self.rules:
            # a rule that could not change the answer need not be asked
            if rule.keep != ignored:
                continue
            if rule.matches(path) or any(rule.matches(parent) for parent in parents):
                ignored = not rule.keep
        return ignored

    def may_take_back(self, directory: str) -> bool:
        """Whether something beneath an ignored directory might be part of the context."""
        beneath = directory + "/"
        return any(
            rule.keep
            and (
                not rule.plain
                or rule.plain.startswith(beneath)
                or beneath.startswith(rule.plain + "/")
            )
            for rule in self.rules
        )


NO_RULES = IgnoreRules()


def parse_ignore_file(data: bytes) -> IgnoreRules:
    """Read an ignore file.

    Raises:
        BadPatternError: a pattern that Go's filepath.Match refuses, or a lone `!`.
    """
    return compile_rules(read_patterns(data))


def read_patterns(data: bytes) -> list[str]:
    """The patterns of an ignore file, cleaned, without comments and blank lines."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    found = []
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        keep = pattern.startswith("!")
        if keep:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        found.append("!" + pattern if keep else pattern)
    return found


def compile_rules(written: Iterable[str]) -> IgnoreRules:
    """Compile patterns as moby's patternmatcher does."""
    rules = []
    for pattern in written:
        pattern = pattern.strip()
        if not pattern:
            continue
        pattern = _clean(pattern)
        keep = pattern.startswith("!")
        if keep:
            pattern = pattern[1:]
            if not pattern:
                raise patterns.BadPatternError("!")
        patterns.check(pattern)
        plain = "" if re.search(r"[*?\[\\]", pattern) else pattern
        rules.append(_Rule(pattern.__eq__ if plain else _matcher(pattern), keep, plain))
    return IgnoreRules(tuple(rules))


def _matcher(pattern: str) -> Callable[[str], object]:
    if pattern.startswith("**") and not re.search(r"[*?\[\]\\]", pattern[2:]):
        suffix = pattern[2:]  # moby compares ends here: `**.pyc` is any name that ends so
        return lambda path: path.endswith(suffix) or "/" + path == suffix
    return patterns.ignore_regex(pattern).match


def _clean(pattern: str) -> str:
    """Go's filepath.Clean."""
    cleaned = posixpath.normpath(pattern)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _parents(path: str) -> list[str]:
    found = []
    end = path.find("/")
    while end != -1:
        found.append(path[:end])
        end = path.find("/", end + 1)
    return found
