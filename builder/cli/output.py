"""What goes to standard output: lines, tables, `--format`.

`--format` is, as with docker:
    json           one JSON object per line
    json-array     one JSON array (podman's shape of `json`)
    table          the usual table
    table {{...}}  a table of these columns, with docker's headings
    {{...}}        a template for each row; \\t and \\n outside of it are what they look like
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, str]

_CELL_MIN, _PADDING = 10, 3


class Listing(NamedTuple):
    """The fields of a list command: their headings (docker's), and the columns shown unasked."""

    headings: Mapping[str, str]
    columns: tuple[str, ...]


def write(text: str) -> None:
    """Write a piece of the result."""
    sys.stdout.write(_writable(text))


def line(text: str) -> None:
    """Write a line of the result."""
    write(text + "\n")


def show_gone(heading: str, names: Sequence[str]) -> None:
    """List what was removed, or would be, as docker's prune commands do; nothing for none."""
    if names:
        write(f"{heading}:\n" + "".join(f"{name}\n" for name in names) + "\n")


def warn(text: str) -> None:
    """Write a line that is not the result."""
    sys.stdout.flush()
    sys.stderr.write(_writable(f"lamina: {printable(text)}\n"))
    sys.stderr.flush()


def json_line(value: object) -> None:
    """Write a value as one line of JSON."""
    import json

    line(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def json_pretty(value: object) -> None:
    """Write a value as indented JSON."""
    import json

    line(json.dumps(value, indent=4, ensure_ascii=False))


def printable(text: str, *, keep: str = "") -> str:
    """`text` with everything that could steer a terminal escaped; `keep` names what stays.

    Control characters, separators other than the space, bidirectional overrides and the bytes of
    names that are not UTF-8 become \\n, \\x1b, \\u202e ...
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def shortened(text: str, most: int) -> str:
    """`text`, with an ellipsis for what is beyond `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def show_rows(listing: Listing, rows: Iterable[Row], template: str | None) -> None:
    """Write `rows` as `--format` asks; None, and nothing, is the usual table."""
    if not template or template == "table":
        found = list(rows)
        cells = [[_cell(row[name]) for name in listing.columns] for row in found]
        table([[listing.headings[name] for name in listing.columns], *cells])
    elif template == "json":
        for row in rows:
            json_line(dict(sorted(row.items())))
    elif template == "json-array":
        json_line([dict(sorted(row.items())) for row in rows])
    elif template.startswith("table"):
        _show_template_table(listing, rows, template.removeprefix("table").strip())
    else:
        _show_template(rows, template)


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Write rows of cells in columns, as docker's tabwriter lays them out.

    The columns numbered in `right` are set flush right.
    """
    widths: list[int] = []
    for row in rows:
        for index, cell in enumerate(row):
            if index == len(widths):
                widths.append(_CELL_MIN if not right else 0)
            padding = _PADDING if index + 1 < len(row) else 0
            widths[index] = max(widths[index], _width(cell) + padding)
    for row in rows:
        line("".join(_aligned(row, index, widths, right) for index in range(len(row))).rstrip())


def _aligned(row: Sequence[str], index: int, widths: Sequence[int], right: frozenset[int]) -> str:
    cell = row[index]
    is_last = index + 1 == len(row)
    blank = " " * (widths[index] - _width(cell) - (0 if is_last else _PADDING))
    if index in right:
        return blank + cell + ("" if is_last else " " * _PADDING)
    return cell if is_last else cell + blank + " " * _PADDING


def _show_template_table(listing: Listing, rows: Iterable[Row], text: str) -> None:
    from builder.cli.gotemplate import Template
    from builder.cli.govalues import Struct

    template = Template(_unescape(text))
    # the headings are the template carried out on the names of the fields, as docker does
    same = dict.fromkeys(("json", "join", "lower", "upper", "title", "truncate"), _first)
    headings = template.render(Struct(listing.headings), same | {"split": _first, "pad": _first})
    lines = [headings, *(template.render(Struct(_cells(row))) for row in rows)]
    table([each.split("\t") for each in lines])


def _show_template(rows: Iterable[Row], text: str) -> None:
    from builder.cli.gotemplate import Template
    from builder.cli.govalues import Struct

    template = Template(_unescape(text))
    for row in rows:
        line(template.render(Struct(_cells(row))))


def _first(value: object, *_: object) -> object:
    return value


def _unescape(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")


def _cells(row: Row) -> dict[str, object]:
    return {name: _cell(text) for name, text in row.items()}


def _cell(text: str) -> str:
    return printable(text)


def _width(text: str) -> int:
    return len(text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte
        return f"\\x{code - 0xDC00:02x}"
    return ascii(char)[1:-1]


def _writable(text: str) -> str:
    """`text` without lone surrogates, which no stream would take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text
