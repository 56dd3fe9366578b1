"""What can be said of a Dockerfile without building it: `lamina check`, `lamina build --call=...`.

    check      the warnings of the build checks       exit code 1 when there is one, or an error
    outline    arguments, secrets, ssh agents and caches of the target
    targets    the stages

Text is what docker shows, and `format=json` has docker's fields. The JSON of `lamina check` is our
own, and smaller: {"warnings": [{"rule", "line", "detail", "url"}]}.

Source: docker/buildx commands/build.go; moby/buildkit frontend/subrequests.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from builder.cli.arguments import Arguments, Command, UsageError, build_args, many, value
from builder.cli.output import json_line, json_pretty, line, printable
from builder.truth import TRUTH

if TYPE_CHECKING:
    from builder.check import Outline, Subject, Survey, Target
    from builder.cli.session import Session
    from builder.inputs import Inputs
    from builder.remote import Remotes
    from layerstore import ImageConfig, Store

METHODS = ("build", "check", "outline", "targets")
_OTHER_NAMES = {"lint": "check"}

Json = dict[str, object]


class Call(NamedTuple):
    """A method of `--call`: `check,format=json,ignorestatus=true`."""

    method: str
    is_json: bool = False
    ignores_status: bool = False


def check(arguments: Arguments, session: "Session") -> int:
    """Check one Dockerfile, and look at nothing else but the ignore file beside it."""
    from builder.check import Subject, survey_of
    from grammar import parse

    style = arguments.value("format") or "text"
    inputs = _read(arguments.words[0] if arguments.words else ".")
    subject = Subject(
        dockerfile=parse(inputs.text, name=inputs.name),
        target=arguments.value("target") or "",
        build_args=build_args(arguments.values("build-arg")),
        ignore_file=inputs.ignore_file,
    )
    found = survey_of(subject, all_stages=not subject.target)
    if style == "json":
        keys = ("rule", "line", "detail", "url")
        rows = [{key: getattr(warning, key) for key in keys} for warning in found.warnings]
        json_line({"warnings": rows})
    else:
        _show_survey(found, subject)
    return _status(found)


def parse_call(text: str) -> Call:
    """Read the value of `--call`.

    Raises:
        UsageError: no such method, or an option that there is not.
    """
    call = Call("")
    for part in text.split(","):
        name, equals, given = part.partition("=")
        if not equals and not call.method:
            call = call._replace(method=_OTHER_NAMES.get(name, name))
        elif name == "format" and given in ("json", "text"):
            call = call._replace(is_json=given == "json")
        elif name == "ignorestatus" and given in TRUTH:
            call = call._replace(ignores_status=TRUTH[given])
        else:
            raise UsageError(
                f"invalid argument {text!r} for --call",
                hint="METHOD[,format=json][,ignorestatus=true]",
            )
    call = call._replace(method=call.method or "build")
    if call.method not in METHODS:
        raise UsageError(
            f"invalid argument {text!r} for --call", hint="methods are " + ", ".join(METHODS)
        )
    return call


def carry_out(
    text: str, inputs: "Inputs", target: str, args: dict[str, str], store: "Store"
) -> int | None:
    """Carry out what `--call` says, with the base images that are in the store.

    Returns:
        The exit code; None when the method is to build.
    """
    from builder import parse_remembered
    from builder.check import Subject, outline_of, survey_of, targets_of

    call = parse_call(text)
    if call.method == "build":
        return None
    subject = Subject(
        dockerfile=parse_remembered(inputs, store.cache),
        target=target,
        build_args=args,
        ignore_file=inputs.ignore_file,
        find_base=lambda name: _config_of(name, store),
    )
    if call.method == "targets":
        targets = targets_of(subject.dockerfile)
        if call.is_json:
            json_pretty(_targets_json(targets, inputs))
        else:
            _show_targets(targets)
        return 0
    if call.method == "outline":
        outline = outline_of(subject)
        if call.is_json:
            json_pretty(_outline_json(outline, inputs))
        else:
            _show_outline(outline)
        return 0
    found = survey_of(subject, all_stages=not target)
    if call.is_json:
        json_pretty(_survey_json(found, inputs))
    else:
        _show_survey(found, subject)
    status = _status(found)
    return 0 if call.ignores_status else status


def _read(file: str) -> "Inputs":
    from builder.inputs import read_beside, read_inputs

    if file == "-" or Path(file).is_dir():
        return read_inputs(file, None, sys.stdin.buffer, _no_remotes)
    return read_beside(Path(file))


def _no_remotes() -> "Remotes":
    from builder.errors import UnsupportedFeatureError

    raise UnsupportedFeatureError(
        feature="a check of an archive", hint="`lamina build --check` takes every kind of context"
    )


def _config_of(name: str, store: "Store") -> "ImageConfig | None":
    from layerstore import StoreError

    try:
        return store.images.resolve(name).config
    except StoreError:  # a check goes on without it; a build will say what is wrong
        return None


def _status(found: "Survey") -> int:
    """The exit code.

    Raises:
        DockerfileError, BuilderError: what ended the checks, or that warnings are errors here.
    """
    if found.failure is not None:
        raise found.failure
    return 1 if found.warnings else 0


# ---- text


def _show_survey(found: "Survey", subject: "Subject") -> None:
    from builder.check import excerpt_of

    count = len(found.warnings)
    if count:
        have = "1 warning has" if count == 1 else f"{count} warnings have"
        line(f"Check complete, {have} been found!")
    elif found.failure is None:
        line("Check complete, no warnings found.")
    for warning in sorted(found.warnings, key=lambda warning: warning.line):
        line(f"\nWARNING: {warning.rule}" + (f" - {warning.url}" if warning.url else ""))
        line(printable(warning.detail))
        line(excerpt_of(subject.dockerfile, warning.line, warning.end_line))


def _show_targets(targets: "tuple[Target, ...]") -> None:
    rows = [("TARGET", "DESCRIPTION")]
    for target in targets:
        default = "(default)" if target.is_default else ""
        name = " ".join(filter(None, (printable(target.name), default)))
        rows.append((name, printable(target.description)))
    _columns(rows, padding=1)


def _show_outline(outline: "Outline") -> None:
    if outline.name or outline.description:
        about = [("TARGET:", printable(outline.name) or "(default)")]
        if outline.description:
            about.append(("DESCRIPTION:", printable(outline.description)))
        _columns(about, padding=1)
        line("")
    if outline.args:
        rows = [("BUILD ARG", "VALUE", "DESCRIPTION")]
        rows += [
            (printable(arg.name), printable(arg.value), printable(arg.description))
            for arg in outline.args
        ]
        _columns(rows, padding=3)
        line("")
    for heading, mounts in (("SECRET", outline.secrets), ("SSH", outline.ssh)):
        if mounts:
            needed = [
                (printable(mount.id), "true" if mount.is_required else "") for mount in mounts
            ]
            _columns([(heading, "REQUIRED"), *needed], padding=3)
            line("")
    if outline.caches:  # Differs: BuildKit has the field, and leaves it empty
        _columns([("CACHE",), *((printable(mount.id),) for mount in outline.caches)], padding=3)
        line("")


def _columns(rows: Sequence[tuple[str, ...]], *, padding: int) -> None:
    """As Go's tabwriter: every column but the last is as wide as its widest cell."""
    widths = [max(map(len, column)) + padding for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        line("".join((*cells, row[-1])).rstrip())


# ---- JSON, with the names that BuildKit's documents have; what is empty is left out


def _survey_json(found: "Survey", inputs: "Inputs") -> Json:
    warnings = [
        _filled(
            ruleName=warning.rule,
            description=warning.description,
            url=warning.url,
            detail=warning.detail,
            location=_location(warning.line, warning.end_line),
        )
        for warning in found.warnings
    ]
    document: Json = {
        "warnings": warnings,
        "sources": [
            {
                "filename": printable(inputs.name),
                "language": "Dockerfile",
                "data": _encoded(inputs.text),
            }
        ],
    }
    if found.failure is not None:
        span = found.failure_span
        document["buildError"] = _filled(
            message=found.failure.message,
            location=None if span is None else _location(span.start_line, span.end_line),
        )
    return document


def _outline_json(outline: "Outline", inputs: "Inputs") -> Json:
    return _filled(
        name=outline.name,
        description=outline.description,
        args=[
            _filled(
                name=arg.name,
                description=arg.description,
                value=arg.value,
                location=_location(arg.line, arg.end_line),
            )
            for arg in outline.args
        ],
        **{
            key: [
                _filled(
                    name=mount.id,
                    required=mount.is_required,
                    location=_location(mount.line, mount.end_line),
                )
                for mount in mounts
            ]
            for key, mounts in (("secrets", outline.secrets), ("ssh", outline.ssh))
        },
        cache=[
            {"ID": mount.id, "location": _location(mount.line, mount.end_line)}
            for mount in outline.caches
        ],
        sources=[_encoded(inputs.text)],
    )


def _targets_json(targets: "tuple[Target, ...]", inputs: "Inputs") -> Json:
    return {
        "targets": [
            _filled(
                name=target.name,
                default=target.is_default,
                description=target.description,
                base=target.base,
                platform=target.platform,
                location=_location(target.line, target.end_line),
            )
            for target in targets
        ],
        "sources": [_encoded(inputs.text)],
    }


def _filled(**fields: object) -> Json:
    return {name: field for name, field in fields.items() if field}


def _location(first: int, last: int) -> Json:
    return {
        "ranges": [
            {"start": {"line": number}, "end": {"line": number}}
            for number in range(first, last + 1)
        ]
    }


def _encoded(text: bytes) -> str:
    import base64

    return base64.b64encode(text).decode()


CHECK = Command(
    name="check",
    synopsis="[FILE|DIRECTORY|-]",
    about="Check a Dockerfile for what builds and is better not written so.",
    act=check,
    options=(
        value(
            "--format", metavar="STYLE", about="text (default) or json", choices=("text", "json")
        ),
        value("--target", metavar="STAGE", about="Check what this stage needs, not all stages"),
        many("--build-arg", metavar="NAME[=VALUE]", about="Set an ARG"),
    ),
    words=(0, 1),
)
