"""The functions of templates: Go's own, and docker's.

A wrong number or type of arguments shows as TypeError or the like, which `gotemplate` translates.

Source: Go text/template "Functions", fmt "Printing"; docker/cli templates/templates.go.
"""

import json
import re
from collections.abc import Callable, Mapping

from builder.cli.govalues import TemplateError, Value, inner, is_true, to_json

Function = Callable[..., Value]


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if value is None:
            raise TemplateError("index of untyped nil")
        if isinstance(value, dict):
            found = value.get(str(key))
            value = "" if found is None and _holds_strings(value) else found
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int) or isinstance(key, bool):
                raise TemplateError(f"cannot index a list with {inner(key)!r}")
            if not 0 <= key < len(value):
                raise TemplateError(f"index out of range: {key}")
            value = value[key]
        else:
            raise TemplateError(f"can't index {inner(value)[:40]!r}")
    return value


def _holds_strings(value: Mapping[str, Value]) -> bool:
    """Go's zero value of a missing key: "" in a map of strings (labels), nothing elsewhere."""
    return all(isinstance(item, str) for item in value.values())


def _slice(value: Value, *bounds: int) -> Value:
    if not isinstance(value, list | tuple | str) or len(bounds) > 2:
        raise TypeError
    low, high = (*bounds, *(0, len(value))[len(bounds) :])
    if not 0 <= low <= high <= len(value):
        raise TemplateError("index out of range")
    return value[low:high]


def _len(value: Value) -> Value:
    return len(value.encode()) if isinstance(value, str) else len(value)  # type: ignore[arg-type]  # a TypeError is the answer


def _equal(left: Value, *others: Value) -> bool:
    if not others:
        raise TypeError
    return any(_same(left, other) for other in others)


def _same(left: Value, right: Value) -> bool:
    if left is None or right is None:
        return left is right
    if _kind(left) != _kind(right):
        raise TemplateError(f"incompatible types: {inner(left)!r} and {inner(right)!r}")
    return left == right


def _less(left: Value, right: Value) -> bool:
    if _kind(left) != _kind(right) or _kind(left) == "bool":
        raise TemplateError(f"incompatible types: {inner(left)!r} and {inner(right)!r}")
    smaller: bool = left < right  # type: ignore[operator]  # of one kind, by now
    return smaller


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    raise TemplateError(f"can't compare {inner(value)[:40]!r}")


def _print(*values: Value) -> str:
    """Go's Sprint: a space only between two values of which neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += inner(value)
    return out


_VERB = re.compile(r"%(?P<flags>[-+ 0#]*)(?P<width>\d*)(?P<precision>\.\d*)?(?P<verb>.)", re.DOTALL)


def _printf(template: str, *values: Value) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if int(match["width"] or 0) > 1000:
            raise TemplateError(f"too wide: {match[0]}")
        if not rest:
            return f"%!{verb}(MISSING)"
        return _format_one(match, rest.pop(0))

    out = _VERB.sub(one, template)
    if rest:
        shown = ", ".join(f"{_go_type(item)}={inner(item)}" for item in rest)
        out += f"%!(EXTRA {shown})"
    return out


def _format_one(match: re.Match[str], value: Value) -> str:
    verb, precision = match["verb"], match["precision"] or ""
    width, flags = match["width"], match["flags"]
    match verb:
        case "s" if isinstance(value, bool | int | float):
            return _misfit(verb, value)
        case "v" | "s":
            text = inner(value)
            text = text[: int(precision[1:] or 0)] if precision else text
            spec = ""
        case "q":
            text, spec = json.dumps(inner(value), ensure_ascii=False), ""
        case "t":
            text, spec = inner(bool(value)), ""
        case "d" | "x" | "X" | "o" | "b" | "c" if isinstance(value, int):
            text, spec = "", verb
        case "x" | "X" if isinstance(value, str):
            text, spec = value.encode().hex(), ""
            text = text.upper() if verb == "X" else text
        case "f" | "e" | "g" if isinstance(value, int | float):
            text, spec = "", precision + verb
        case _:
            return _misfit(verb, value)
    if spec:
        sign = "+" if "+" in flags else " " if " " in flags else ""
        zero = "0" if "0" in flags and "-" not in flags else ""
        align = "<" if "-" in flags else "" if zero else ">"
        return format(value, f"{align}{sign}{zero}{width}{spec}")
    return format(text, f"{'<' if '-' in flags else '>'}{width}")


def _misfit(verb: str, value: Value) -> str:
    """What Go prints for a verb that does not fit."""
    return f"%!{verb}({_go_type(value)}={inner(value)})"


def _go_type(value: Value) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string", list: "[]string"}
    return names.get(type(value), type(value).__name__)


def _title(text: str) -> str:
    """Go's strings.Title: the first letter of each word, the rest as it is."""
    return re.sub(r"(^|\s)(\S)", lambda found: found[1] + found[2].upper(), text)


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _join(values: Value, separator: str) -> str:
    if not isinstance(values, list | tuple):
        raise TypeError
    return separator.join(inner(item) for item in values)


FUNCTIONS: dict[str, Function] = {
    "not": lambda value: not is_true(value),
    "eq": _equal,
    "ne": lambda left, right: not _same(left, right),
    "lt": _less,
    "le": lambda left, right: not _less(right, left),
    "gt": lambda left, right: _less(right, left),
    "ge": lambda left, right: not _less(left, right),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": _print,
    "println": lambda *values: " ".join(inner(item) for item in values) + "\n",
    "printf": _printf,
    "json": to_json,
    "join": _join,
    "split": lambda text, separator: list(text.split(separator)) if separator else list(text),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": _title,
    "pad": _pad,
    "truncate": lambda text, length: text[:length],
}
