"""Which entries of a directory a COPY takes: the pattern of --parents, and those of --exclude.

Both are patterns of ignore files, against paths below the directory that is copied: a path matches
too when a directory that leads to it does. Where something is taken beneath a directory that is not
taken itself, that directory is made on the way.

Source: Dockerfile reference, "COPY --parents" and "COPY --exclude"; BuildKit fsutil/copy.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder import patterns
from builder.ignorefile import NO_RULES, IgnoreRules, compile_rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`include` None: everything, but for what `exclude` matches."""

    include: "Inclusion | None" = None
    exclude: IgnoreRules = NO_RULES

    def takes(self, path: str) -> bool:
        """Whether the entry at `path` is copied."""
        if self.include is not None and not self.include.rules.ignores(path):
            return False
        return not self.exclude.ignores(path)

    def may_take_beneath(self, directory: str) -> bool:
        """Whether something beneath a directory that is not taken might be."""
        if self.include is not None and not self.include.may_match_beneath(directory):
            return False
        return not self.exclude.ignores(directory) or self.exclude.may_take_back(directory)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """One pattern. `steps` match its components, one by one, up to where that is possible."""

    rules: IgnoreRules
    steps: tuple[re.Pattern[str], ...]
    is_deep: bool  # more may follow the steps

    def may_match_beneath(self, directory: str) -> bool:
        """Whether the pattern matches a path beneath `directory`, as far as names can tell."""
        if self.rules.ignores(directory):
            return True
        parts = directory.split("/")
        if len(parts) >= len(self.steps) and not self.is_deep:
            return False
        return all(step.match(part) for step, part in zip(self.steps, parts, strict=False))


def inclusion(pattern: str) -> Inclusion:
    """The pattern of `--parents`, in normal form.

    Raises:
        BadPatternError: it is malformed.
    """
    rules = compile_rules([pattern])
    steps: list[re.Pattern[str]] = []
    for component in pattern.split("/"):
        try:
            if "**" in component:
                return Inclusion(rules, tuple(steps), True)
            steps.append(patterns.ignore_regex(component))
        except patterns.BadPatternError:  # a slash in a class, or behind a backslash
            return Inclusion(rules, tuple(steps), True)
    return Inclusion(rules, tuple(steps), False)


def exclusion(written: Iterable[str]) -> IgnoreRules:
    """The patterns of `--exclude`, in order; `!` takes back.

    Raises:
        BadPatternError: one is malformed.
    """
    return compile_rules(written)
