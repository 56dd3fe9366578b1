"""The values that templates show: what JSON has, and three types for Go's way of printing.

    Struct   a dict with a fixed set of fields: asking for another is an error. A plain dict is a
             Go map: a missing key prints as <no value>.
    NilList, NilMap   print as [] and map[], are null in JSON.

Source: Go fmt (%v), encoding/json.
"""

import json
from typing import ClassVar

Value = object


class Struct(dict[str, Value]):
    """A value with fixed fields, in order. JSON leaves out empty ones of `omitted_empty`."""

    omitted_empty: ClassVar[frozenset[str]] = frozenset()


class NilList(list[Value]):
    """An absent list."""


class NilMap(dict[str, Value]):
    """An absent map."""


class TemplateError(Exception):
    """The template is malformed, uses what we do not carry out, or does not fit the value."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = f"bad template: {message}"
        self.hint = hint


def show(value: Value) -> str:
    """The value as `{{.}}` prints it (Go's %v)."""
    if value is None:
        return "<no value>"
    return inner(value)


def to_json(value: Value) -> str:
    """The value as `{{json .}}` prints it: compact, maps sorted, fields in order."""
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)


def plain(value: Value) -> Value:
    """The value in the types that `json.dumps` knows; maps sorted by key."""
    match value:
        case NilList() | NilMap():
            return None
        case Struct():
            omitted = value.omitted_empty
            return {key: plain(it) for key, it in value.items() if it or key not in omitted}
        case dict():
            return {key: plain(value[key]) for key in sorted(value)}
        case list() | tuple():
            return [plain(item) for item in value]
        case str():  # names that are not UTF-8 must not make the output invalid
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        case _:
            return value


def inner(value: Value) -> str:
    """The value as it prints inside another one."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float():
            return repr(value) if value != int(value) else str(int(value))
        case Struct():
            return "{" + " ".join(inner(item) for item in value.values()) + "}"
        case dict():
            return "map[" + " ".join(f"{key}:{inner(value[key])}" for key in sorted(value)) + "]"
        case list() | tuple():
            return "[" + " ".join(inner(item) for item in value) + "]"
        case _:
            return str(value)


def is_true(value: Value) -> bool:
    """What `if` takes for true."""
    return True if isinstance(value, Struct) else bool(value)
