"""`lamina builds`, as `docker buildx history`: what was built here, how long it took, its output.

Field names and columns are docker's where it has them.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from builder import record as records
from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.explain import checked_style, find_build, one_line
from builder.cli.output import (
    Listing,
    json_pretty,
    line,
    printable,
    show_rows,
    table,
)
from builder.cli.units import human_size, local_time, rfc3339, since

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.record import BuildRecord, StepRecord

LISTING = Listing(
    headings={
        "Ref": "BUILD ID",
        "Name": "NAME",
        "Status": "STATUS",
        "CreatedAt": "CREATED AT",
        "Duration": "DURATION",
    },
    columns=("Ref", "Name", "Status", "CreatedAt", "Duration"),
)
_NAME_MAX = 36
_BAR = 24
_DONE = {"executed": "DONE", "reused": "DONE", "cached": "CACHED", "failed": "ERROR"}
_INTERNAL = frozenset(("document", "log_offset"))


def ls(arguments: Arguments, session: "Session") -> int:
    """List builds, the newest first."""
    template = arguments.value("format")
    tests = [_filter(text) for text in arguments.values("filter")]
    found = [
        (record, row)
        for record in records.read_all(session.private / "builds")
        for row in (_row(record),)
        if all(row[key].lower() == wanted.lower() for key, wanted in tests)
    ]
    if template in ("json", "json-array"):
        json_pretty([_summary(record) for record, _ in found])
        return 0
    rows = [row for _, row in found]
    if not arguments.flag("no-trunc") and (template or "table").startswith("table"):
        rows = [{**row, "Name": _shortened(row["Name"])} for row in rows]
    show_rows(LISTING, rows, template)
    return 0


def show(arguments: Arguments, session: "Session") -> int:
    """Show one build: its result, and a table of what each step took."""
    style = checked_style(arguments)
    record = _asked(arguments, session)
    if style == "json":
        json_pretty(_document(record))
        return 0
    steps = [step for step in record.steps if step.vertex]
    cached = sum(step.outcome == "cached" for step in steps)
    facts = (
        ("Name", _name(record)),
        ("Build ID", record.id),
        ("Status", _status(record)),
        ("Error", record.error),
        ("Images", ", ".join(record.names)),
        ("Image ID", record.image_id),
        ("Dockerfile", record.place or record.dockerfile),
        ("Context", record.context),
        ("Target", record.target),
        ("Started", local_time(record.started)),
        ("Duration", f"{record.seconds:.1f}s"),
        ("Build Steps", f"{len(steps)}, {cached} of them cached"),
    )
    for heading, text in facts:
        if text:
            line(f"{heading + ':':13} {printable(text)}")
    line("")
    _timing_table(record)
    return 0


def logs(arguments: Arguments, session: "Session") -> int:
    """Print what the programs of a build wrote."""
    record = _asked(arguments, session)
    directory = session.private / "builds"
    for step in sorted(record.steps, key=lambda step: step.vertex):
        if not step.vertex:
            continue
        number = f"#{step.vertex}"
        line(f"{number} [{printable(step.stage)}] {one_line(step.instruction)}")
        text = records.log_of(record, step, directory).decode("utf-8", "replace")
        for each in text.splitlines():
            line(f"{number} {printable(each, keep=chr(9))}")
        seconds = "" if step.outcome == "cached" else f" {step.seconds:.1f}s"
        line(f"{number} {_DONE.get(step.outcome, step.outcome.upper())}{seconds}\n")
    if record.error:
        line(f"ERROR: {printable(record.error)}")
    return 0


def rm(arguments: Arguments, session: "Session") -> int:
    """Remove the records of builds; images and cached steps stay."""
    everything = arguments.flag("all")
    if bool(arguments.words) == everything:
        raise UsageError("give builds to remove, or --all", is_count=True)
    directory = session.private / "builds"
    names = [path.stem for path in directory.glob("*.json")] if everything else []
    names += [records.id_of(word, directory) for word in arguments.words]
    for name in dict.fromkeys(names):
        records.remove(name, directory)
    return 0


def trace(arguments: Arguments, session: "Session") -> int:
    """Write a build's timing as Chrome's trace viewer and Perfetto read it."""
    import json

    record = _asked(arguments, session)
    document = json.dumps(trace_events(record), indent=1)
    file = arguments.value("output")
    if file is None:
        line(document)
    else:
        Path(file).write_text(document + "\n")
    return 0


def trace_events(record: "BuildRecord") -> dict[str, object]:
    """Trace events: one row for each stage, one complete event for each step."""
    steps = [step for step in record.steps if step.vertex]
    rows = {stage: number for number, stage in enumerate(dict.fromkeys(s.stage for s in steps), 1)}
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": _name(record)}}
    ]
    for stage, row in rows.items():
        events.append(
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": {"name": stage}}
        )
    for step in steps:
        events.append(
            {
                "ph": "X",
                "name": step.instruction,
                "cat": step.outcome,
                "pid": 1,
                "tid": rows[step.stage],
                "ts": round(step.started * 1e6),
                "dur": round(step.seconds * 1e6),
                "args": {
                    "line": step.line,
                    "reason": step.reason,
                    "key": step.key,
                    "layer": step.layer,
                    "cpu_s": step.cpu_s,
                    "memory_peak_bytes": step.memory_peak_bytes,
                    "size_bytes": step.size_bytes,
                },
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"build": record.id}}


def _asked(arguments: Arguments, session: "Session") -> "BuildRecord":
    return find_build(arguments.words[0] if arguments.words else "^0", session)


def _filter(text: str) -> tuple[str, str]:
    key, equals, wanted = text.partition("=")
    fields = {"ref": "Ref", "status": "Status", "name": "Name"}
    if not equals or key not in fields:
        raise UsageError(f"invalid filter {text!r}", hint="there are ref=, status= and name=")
    return fields[key], wanted


def _row(record: "BuildRecord") -> dict[str, str]:
    return {
        "Ref": record.id,
        "Name": _name(record),
        "Status": _status(record),
        "CreatedAt": since(record.started),
        "Duration": f"{record.seconds:.1f}s",
    }


def _summary(record: "BuildRecord") -> dict[str, object]:
    steps = [step for step in record.steps if step.vertex]
    return {
        "ref": record.id,
        "name": _name(record),
        "status": _status(record),
        "created_at": rfc3339(record.started),
        "completed_at": rfc3339(record.started + record.seconds),
        "total_steps": len(steps),
        "completed_steps": sum(step.outcome not in ("failed", "canceled") for step in steps),
        "cached_steps": sum(step.outcome == "cached" for step in steps),
        "images": list(record.names),
    }


def _document(record: "BuildRecord") -> dict[str, object]:
    document = asdict(record)
    document["bases"] = [base._asdict() for base in record.bases]
    document["steps"] = [
        {name: item for name, item in asdict(step).items() if name not in _INTERNAL}
        for step in record.steps
    ]
    return {**document, "status": _status(record), "name": _name(record)}


def _name(record: "BuildRecord") -> str:
    """As docker calls a build: the folder, the Dockerfile, and the target in brackets."""
    folder = os.path.basename(record.context)  # noqa: PTH119 - a text, no path of ours
    parts = [folder, os.path.basename(record.place or record.dockerfile)]  # noqa: PTH119 - likewise
    target = f" ({record.target})" if record.target else ""
    return "/".join(part for part in parts if part) + target


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_MAX else "..." + name[3 - _NAME_MAX :]


def _status(record: "BuildRecord") -> str:
    return "Error" if record.error else "Completed"


def _timing_table(record: "BuildRecord") -> None:
    rows = [
        (
            str(step.line),
            printable(step.stage),
            one_line(step.instruction),
            step.outcome,
            f"{step.started:.2f}",
            f"{step.seconds:.2f}",
            f"{step.cpu_s:.2f}" if step.memory_peak_bytes else "",
            human_size(step.memory_peak_bytes) if step.memory_peak_bytes else "",
            human_size(step.size_bytes),
            _bar(step, record.seconds),
        )
        for step in record.steps
        if step.vertex
    ]
    headings = ("LINE", "STAGE", "INSTRUCTION", "OUTCOME", "BEGAN", "SECONDS", "CPU", "MEMORY")
    table([(*headings, "SIZE", "TIME"), *rows], right=frozenset((0, 4, 5, 6, 7, 8)))


def _bar(step: "StepRecord", whole_s: float) -> str:
    """When in the build a step ran: as long as its share of the time, at least a mark."""
    if step.outcome == "cached" or whole_s <= 0:
        return ""
    start = min(_BAR - 1, int(step.started / whole_s * _BAR))
    length = max(1, min(_BAR - start, round(step.seconds / whole_s * _BAR)))
    return " " * start + "█" * length


_JSON = value("--format", metavar="json", about="For machines")
_BUILD = "[BUILD|IMAGE]"
LS = Command(
    name="builds ls",
    synopsis="",
    about="List builds, the newest first.",
    act=ls,
    options=(
        many("--filter", metavar="KEY=VALUE", about="Only these: ref=, status=, name="),
        value("--format", metavar="FORMAT", about="json, table, or a Go template"),
        flag("--no-trunc", about="Do not shorten names"),
    ),
    words=(0, 0),
    refused={"--local": "builds are not told apart by repository"},
)
SHOW = Command(
    name="builds show",
    synopsis=_BUILD,
    about="Show one build, and what each of its steps took.",
    act=show,
    options=(_JSON,),
    words=(0, 1),
)
LOGS = Command(
    name="builds logs",
    synopsis=_BUILD,
    about="Print what the programs of a build wrote.",
    act=logs,
    words=(0, 1),
)
RM = Command(
    name="builds rm",
    synopsis="[BUILD...]",
    about="Remove the records of builds; images and cached steps stay.",
    act=rm,
    options=(flag("--all", about="Remove all records"),),
)
TRACE = Command(
    name="builds trace",
    synopsis=_BUILD,
    about="Write a build's timing as Chrome's trace viewer and Perfetto read it.",
    act=trace,
    options=(
        value("-o", "--output", metavar="FILE", about="Write to a file, not to standard output"),
    ),
    words=(0, 1),
)
