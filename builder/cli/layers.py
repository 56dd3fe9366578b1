"""`lamina layers`: what every instruction of an image made, and what it costs."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import json_line, printable, shortened, table
from builder.cli.units import human_size

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.inspect.layertable import LayerRow

_INSTRUCTION_MAX = 60
_HEADINGS = (
    "#",
    "INSTRUCTION",
    "LAYER",
    "SIZE",
    "COMPRESSED",
    "ADDED",
    "CHANGED",
    "REMOVED",
    "BUILD",
    "SECONDS",
)
_RIGHT = frozenset((0, 3, 4, 5, 6, 7, 9))


def layers(arguments: Arguments, session: "Session") -> int:
    """Print one row per instruction, bottom first, and the sum."""
    style = arguments.value("format") or "table"
    if style not in ("table", "json", "json-array"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="table, json, json-array")
    with session.open_store() as store:
        from builder.inspect.layertable import layer_table
        from builder.timetravel import resolve

        rows = layer_table(resolve(store, arguments.words[0]), store)
    if style == "json":
        for row in rows:
            json_line(asdict(row))
    elif style == "json-array":
        json_line([asdict(row) for row in rows])
    else:
        is_whole = arguments.flag("no-trunc")
        cells = [_cells(row, is_whole=is_whole) for row in rows]
        table([_HEADINGS, *cells, _sum(rows)], right=_RIGHT)
    return 0


def _cells(row: "LayerRow", *, is_whole: bool) -> tuple[str, ...]:
    instruction = " ".join(row.instruction.split())
    if not is_whole:
        instruction = shortened(instruction, _INSTRUCTION_MAX)
    if not row.layer:
        return (_number(row), printable(instruction), "", "", "", "", "", "", "", "")
    digest = row.layer if is_whole else row.layer.removeprefix("sha256:")[:12]
    return (
        _number(row),
        printable(instruction),
        digest,
        human_size(row.size_bytes),
        human_size(row.blob_bytes),
        str(row.added),
        str(row.changed),
        str(row.removed),
        row.outcome,
        "" if row.seconds is None else f"{row.seconds:.2f}",
    )


def _number(row: "LayerRow") -> str:
    """As in `app@3`; the base's have none."""
    return str(row.position) if row.position > 0 else ""


def _sum(rows: "list[LayerRow]") -> tuple[str, ...]:
    return (
        "",
        f"{sum(bool(row.layer) for row in rows)} layers",
        "",
        human_size(sum(row.size_bytes for row in rows)),
        human_size(sum(row.blob_bytes for row in rows)),
        str(sum(row.added for row in rows)),
        str(sum(row.changed for row in rows)),
        str(sum(row.removed for row in rows)),
        "",
        f"{sum(row.seconds or 0 for row in rows):.2f}",
    )


LAYERS = Command(
    name="layers",
    synopsis="IMAGE",
    about="Show what every instruction of an image made, and what it costs.",
    act=layers,
    options=(
        value("--format", metavar="STYLE", about="table (default), json or json-array"),
        flag("--no-trunc", about="Do not shorten instructions and digests"),
    ),
    words=(1, 1),
)
