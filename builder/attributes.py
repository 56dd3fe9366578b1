"""`type=local,dest=out`: the attribute lists of --output, --cache-to and --cache-from.

A line of comma-separated values as docker reads it: a value that holds a comma stands in quotes,
all of it or with its key (`"name=a,b"`), and a quote in quotes is doubled. Names are in any case.

Source: RFC 4180, section 2; docker buildx, util/buildflags.
"""

from collections.abc import Mapping

from builder.errors import OutputError, UnsupportedFeatureError
from builder.truth import TRUTH


def split_fields(text: str, *, option: str) -> list[str]:
    """The fields of a line.

    Raises:
        OutputError: a quote stands where none may.
    """
    fields = []
    rest = text
    while True:
        if rest.startswith('"'):
            field, rest = _quoted(rest, text, option)
        else:
            end = rest.find(",")
            field, rest = (rest, "") if end < 0 else (rest[:end], rest[end:])
            if '"' in field:
                raise OutputError(f'{option}: bare " in {text!r}', hint="quote the whole field")
        fields.append(field)
        if not rest:
            return fields
        rest = rest[1:]


def _quoted(rest: str, text: str, option: str) -> tuple[str, str]:
    """A field in quotes, and what follows it: nothing, or a comma and more."""
    end = rest.find('"', 1)
    while end >= 0 and rest[end + 1 : end + 2] == '"':
        end = rest.find('"', end + 2)
    if end < 0 or rest[end + 1 : end + 2] not in ("", ","):
        raise OutputError(f'{option}: a " is missing in {text!r}')
    return rest[1:end].replace('""', '"'), rest[end + 1 :]


def parse_attributes(fields: list[str], *, option: str) -> dict[str, str]:
    """NAME=VALUE of every field; of two with one name the last counts."""
    attributes = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise OutputError(f"{option}: invalid value {field}", hint="NAME=VALUE")
        attributes[name.strip().lower()] = value
    return attributes


class Attributes:
    """The attributes of one output or cache, to be taken one by one."""

    def __init__(self, attributes: Mapping[str, str], *, what: str) -> None:
        self._left = dict(attributes)
        self._what = what

    def text(self, name: str) -> str:
        """A text, empty when it is not given."""
        return self._left.pop(name, "")

    def boolean(self, name: str, *, default: bool) -> bool:
        """Yes or no; a name without a value means yes."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        if value and value not in TRUTH:
            raise self.error(name, value, "neither true nor false")
        return TRUTH.get(value, True)

    def number(self, name: str) -> int | None:
        """A whole number, None when it is not given."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise self.error(name, value, "not a whole number")
        return int(value)

    def prefixed(self, prefix: str) -> dict[str, str]:
        """All whose name begins with `prefix`, without it."""
        names = [name for name in self._left if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._left.pop(name) for name in names}

    def error(self, name: str, value: str, problem: str) -> OutputError:
        """The error that `value` is not one for `name`."""
        return OutputError(f"{self._what}: {name}={value}: {problem}")

    def end(self) -> None:
        """Nothing more is known.

        Raises:
            UnsupportedFeatureError: something is left.
        """
        for name in self._left:
            raise UnsupportedFeatureError(feature=f"{name}= of {self._what}")
