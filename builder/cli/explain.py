"""`lamina why` and `lamina plan`: why a build executed what it did, and what the next will do."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, value
from builder.cli.build import BUILD, build
from builder.cli.output import json_pretty, line, printable, shortened, table
from builder.cli.units import human_size

if TYPE_CHECKING:
    from builder import BuildRequest
    from builder.cli.session import Session
    from builder.explain import Difference
    from builder.record import BuildRecord, StepRecord
    from layerstore import Store

WOULD_RUN = 2
_EXECUTED = ("executed", "reused", "failed", "canceled")
_PREDICTIONS = {"cached": "hit"}
_INSTRUCTION_MAX = 60
_VALUE_MAX = 72
_DIGEST_CHARS = len("sha256:") + 12


def why(arguments: Arguments, session: "Session") -> int:
    """Say for every executed step what differed from the nearest earlier one."""
    style = checked_style(arguments)
    record = find_build(arguments.words[0] if arguments.words else "^0", session)
    steps = [step for step in record.steps if step.outcome in _EXECUTED]
    if style == "json":
        json_pretty({"build": record.id, "error": record.error, "steps": [_why(s) for s in steps]})
    else:
        _show_why(record, steps)
    return 0


def plan(arguments: Arguments, session: "Session") -> int:
    """Say what a build would execute, without doing it."""
    style = checked_style(arguments)

    def predict(request: "BuildRequest", store: "Store") -> int:
        from builder.engine import predict

        steps = predict(request, store)
        store.discard()  # nothing of it is to be written
        if style == "json":
            json_pretty(_plan(steps))
        else:
            _show_plan(steps)
        return WOULD_RUN if any(step.outcome in ("miss", "depends") for step in steps) else 0

    return build(arguments, session, instead=predict)


def find_build(name: str, session: "Session") -> "BuildRecord":
    """The build that `name` means: a build's id, `^1`, or an image.

    Raises:
        NoSuchBuildError: there is none.
    """
    from builder import record
    from layerstore import StoreError

    directory = session.private / "builds"
    try:
        return record.of_name(name, directory)
    except record.NoSuchBuildError as error:
        if name.startswith("^") or not (session.private / "version").exists():
            raise
        try:
            with session.open_store() as store:
                image = store.images.resolve(name)
        except StoreError:
            raise error from None
        found = record.of_image(image.id, directory)
        if found is None:
            raise record.NoSuchBuildError(name=name, problem="no build kept here made it") from None
        return found


def checked_style(arguments: Arguments) -> str:
    """The value of --format: `json`, or nothing.

    Raises:
        UsageError: it is something else.
    """
    style = arguments.value("format") or ""
    if style not in ("", "json"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="json")
    return style


def one_line(instruction: str) -> str:
    """An instruction, escaped and not too long."""
    return shortened(printable(" ".join(instruction.split())), _INSTRUCTION_MAX)


def _why(step: "StepRecord") -> dict[str, object]:
    explanation = step.explanation
    differences = explanation.differences if explanation else ()
    return {
        **_step(step),
        "outcome": step.outcome,
        "seconds": step.seconds,
        "cause": explanation.cause if explanation else "",
        "nearest": explanation.nearest if explanation else "",
        "differences": [asdict(each) for each in differences],
        "more_differences": explanation.more_differences if explanation else 0,
    }


def _step(step: "StepRecord") -> dict[str, object]:
    return {
        "line": step.line,
        "stage": step.stage,
        "instruction": step.instruction,
        "key": step.key,
        "reason": step.reason,
    }


def _show_why(record: "BuildRecord", steps: "list[StepRecord]") -> None:
    of = sum(step.outcome != "metadata" for step in record.steps)
    what = printable(os.path.relpath(record.place) if record.place not in ("", "-") else "-")
    failed = f", failed: {printable(record.error)}" if record.error else ""
    line(f"build {record.id} of {what}: {len(steps)} of {of} steps executed{failed}")
    for step in steps:
        line(f"\nline {step.line}  {one_line(step.instruction)}")
        explanation = step.explanation
        if explanation is None or explanation.cause != "changed":
            line(f"    {printable(step.reason)}")
        for difference in explanation.differences if explanation else ():
            for text in _told(difference):
                line(f"    {text}")
        if explanation is not None and explanation.more_differences:
            line(f"    and {explanation.more_differences} more")


def _told(difference: "Difference") -> list[str]:
    from builder.explain import sentence

    text = sentence(difference)
    told = [printable(text)]
    is_told = difference.kind == "parent" or text.endswith(f"{difference.old} -> {difference.new}")
    if difference.change == "changed" and not is_told:
        told += [f"  - {_value(difference.old)}", f"  + {_value(difference.new)}"]
    return told


def _value(text: str) -> str:
    if text.startswith("sha256:"):
        return text[:_DIGEST_CHARS]
    return shortened(printable(text), _VALUE_MAX)


def _plan(steps: "tuple[StepRecord, ...]") -> dict[str, object]:
    certain = [step for step in steps if step.outcome == "miss"]
    possible = [step for step in steps if step.outcome in ("miss", "depends")]
    return {
        "cached": not possible,
        "steps": [
            {
                **_step(step),
                "prediction": _PREDICTIONS.get(step.outcome, step.outcome),
                "seconds": step.seconds if _is_known(step) else None,
                "bytes": _bytes([step]) if _is_known(step) else None,
                "differences": [
                    asdict(each)
                    for each in (step.explanation.differences if step.explanation else ())
                ],
            }
            for step in steps
        ],
        "seconds": {"least": _seconds(certain), "most": _seconds(possible)},
        "bytes": {"least": _bytes(certain), "most": _bytes(possible)},
        "unknown": _unknown(possible),  # steps of which nothing is known, in no sum
    }


def _is_known(step: "StepRecord") -> bool:
    """Whether something is known of what a step would take: a hit takes nothing."""
    if step.outcome not in ("miss", "depends"):
        return True
    return step.explanation is not None and bool(step.explanation.nearest)


def _seconds(steps: "list[StepRecord]") -> float:
    return round(sum(step.seconds for step in steps), 6)


def _bytes(steps: "list[StepRecord]") -> int:
    return sum(step.size_bytes for step in steps if step.outcome != "cached")


def _show_plan(steps: "tuple[StepRecord, ...]") -> None:
    working = [step for step in steps if step.outcome != "metadata"]
    table(
        [
            ("LINE", "STAGE", "INSTRUCTION", "PREDICTION", "SECONDS", "SIZE", "WHY"),
            *(_plan_row(step) for step in working),
        ],
        right=frozenset((0, 4, 5)),
    )
    certain = [step for step in working if step.outcome == "miss"]
    possible = [step for step in working if step.outcome != "cached"]
    if not possible:
        line("everything is cached")
        return
    depends = len(possible) - len(certain)
    line(
        f"{len(certain)} of {len(working)} steps would be executed"
        + (f", {depends} more if the results above differ" if depends else "")
        + _estimate(certain, possible)
    )


def _estimate(certain: "list[StepRecord]", possible: "list[StepRecord]") -> str:
    """What steps take, as far as it is known of them."""
    unknown = _unknown(possible)
    if unknown == len(possible):
        return ": nothing is known of what they take"
    seconds = _range(f"{_seconds(certain):.1f}s", f"{_seconds(possible):.1f}s")
    size = _range(human_size(_bytes(certain)), human_size(_bytes(possible)))
    beside = f"; nothing is known of {unknown}" if unknown else ""
    return f": {seconds}, {size}, as last time{beside}"


def _unknown(steps: "list[StepRecord]") -> int:
    return sum(not _is_known(step) for step in steps)


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _plan_row(step: "StepRecord") -> tuple[str, ...]:
    would_run = step.outcome != "cached"
    return (
        str(step.line),
        printable(step.stage),
        one_line(step.instruction),
        _PREDICTIONS.get(step.outcome, step.outcome),
        "" if not would_run else f"{step.seconds:.2f}" if _is_known(step) else "?",
        "" if not would_run else human_size(step.size_bytes) if _is_known(step) else "?",
        printable(step.reason),
    )


WHY = Command(
    name="why",
    synopsis="[BUILD|IMAGE]",
    about="Say why a build executed what it did; without a name, the last build.",
    act=why,
    options=(value("--format", metavar="json", about="For machines"),),
    words=(0, 1),
)
PLAN = Command(
    name="plan",
    synopsis="PATH|-",
    about="Say what a build would execute, without doing it: exit code 0 when nothing, else 2.",
    act=plan,
    options=(
        *BUILD.options,  # those about the result are taken, and change nothing
        value("--format", metavar="json", about="For machines"),
    ),
    words=(1, 1),
    refused=BUILD.refused,
)
