"""Which checks are in force.

    # check=skip=StageNameCasing,FromAsCasing;error=true      at the top: for the whole file
    # check=experimental=all
    # check=skip=JSONArgsRecommended                          above an instruction: for it alone

At most three parts; `skip` says nothing about experimental checks, which are off until asked for.

Source: Dockerfile reference, "check"; moby/buildkit frontend/dockerfile/linter/linter.go.
"""

from typing import NamedTuple

from builder.check.rules import Rule
from builder.errors import PlanError
from builder.truth import TRUTH

_PARTS_MAX = 3
_ALL = "*"  # what `all` is kept as: no check has that name


class Options(NamedTuple):
    """Names of checks. `is_error`: a warning fails the build."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    is_error: bool = False

    def allows(self, rule: Rule) -> bool:
        """Whether the check is carried out."""
        if rule.experimental:
            return _names(self.experimental, rule)
        return not _names(self.skip, rule)

    def with_those_of(self, other: "Options") -> "Options":
        """Both together; whether a warning is an error stays what it is."""
        return self._replace(
            skip=self.skip | other.skip, experimental=self.experimental | other.experimental
        )


NO_OPTIONS = Options()


def parse_options(text: str) -> Options:
    """Read what stands behind `check=`.

    Raises:
        PlanError: an option that does not exist, or a value that makes no sense.
    """
    options = NO_OPTIONS
    if not text.strip():
        return options
    for part in text.strip().split(";", _PARTS_MAX - 1):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or name not in ("skip", "experimental", "error"):
            raise PlanError(
                f"invalid check option {(name if equals else part)!r}",
                hint="skip=RULE,...;experimental=RULE,...;error=true",
            )
        if name == "error":
            if value not in TRUTH:
                raise PlanError(f"invalid check option {part!r}", hint="error=true or error=false")
            options = options._replace(is_error=TRUTH[value])
            continue
        rules = frozenset((_ALL,) if value == "all" else map(str.strip, value.split(",")))
        if name == "skip":
            options = options._replace(skip=rules)
        else:
            options = options._replace(experimental=rules)
    return options


def _names(names: frozenset[str], rule: Rule) -> bool:
    return _ALL in names or rule.name in names
