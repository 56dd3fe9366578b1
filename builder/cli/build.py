"""`lamina build`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.output import line

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder import BuildRequest
    from builder.cli.session import Session
    from layerstore import Store

_STYLES = ("auto", "plain", "tty", "json", "rawjson", "quiet")
_JOBS_MAX = 1 << 16  # more than a Dockerfile has stages
_OTHER = "the image is in the store when the build has ended; `lamina save` writes it to a file"
_LATER = "this version builds from local directories and images alone"


def build(
    arguments: Arguments,
    session: "Session",
    *,
    instead: "Callable[[BuildRequest, Store], int] | None" = None,
) -> int:
    """Build an image; with -q only its id is printed. `instead` does something else with it."""
    from builder import BuildRequest, parse_remembered, read_inputs
    from builder import build as build_image
    from builder.cli.progress import Shown, choose
    from builder.sandbox import ForkServer
    from layerstore import Reference

    names = tuple(Reference.parse(name) for name in arguments.values("tag"))
    epoch = _source_date_epoch()
    jobs = _jobs(arguments.value("jobs"))
    build_args = _build_args(arguments.values("build-arg"))
    if epoch is not None:
        build_args.setdefault("SOURCE_DATE_EPOCH", str(epoch))
    is_quiet = arguments.flag("quiet")
    style = arguments.value("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if style not in _STYLES:
        raise UsageError(f"invalid argument {style!r} for --progress", hint=", ".join(_STYLES))
    inputs = read_inputs(arguments.words[0], arguments.value("file"), sys.stdin.buffer)
    with session.open_store() as store:
        request = BuildRequest(
            dockerfile=parse_remembered(inputs, store.cache),
            context=inputs.context,
            ignore_file=inputs.ignore_file,
            names=names,
            target=arguments.value("target") or "",
            build_args=build_args,
            labels=_pairs(arguments.values("label")),
            no_cache=arguments.flag("no-cache"),
            no_cache_stages=_stages(arguments.values("no-cache-filter")),
            no_cache_from=arguments.number("no-cache-from", least=1),
            cache_ttl_s=_ttl(arguments.value("cache-ttl")),
            jobs=jobs,
            network=_network(arguments.value("network")),
            source_date_epoch=epoch,
        )
        if instead is not None:
            return instead(request, store)
        style = "quiet" if is_quiet else "json" if style == "rawjson" else style
        # The live view draws from a thread, and after the first thread nothing is forked any more.
        is_live = style in ("auto", "tty") and sys.stderr.isatty()
        server = ForkServer() if is_live else None
        with Shown(choose(style, sys.stderr, dict(os.environ))) as report:
            result = build_image(
                request, store, report, start_executor=lambda: server or ForkServer()
            )
    image_id = result.image.id
    iidfile = arguments.value("iidfile")
    if iidfile is not None:
        Path(iidfile).write_text(image_id)
    if is_quiet:
        line(image_id)
    return 0


def _source_date_epoch() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}", hint="seconds since 1970")
    return int(text)


def _build_args(given: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE; a bare NAME takes the environment's value, and is left out without one."""
    found = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not name:
            raise UsageError(f"invalid argument {item!r} for --build-arg", hint="NAME=VALUE")
        if equals:
            found[name] = text
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = (item.partition("=") for item in given)
    return {name: text for name, _, text in pairs}


def _stages(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of stages, several in one value too."""
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


def _ttl(given: str | None) -> float | None:
    if given is None:
        return None
    from builder.cli.units import duration

    seconds = duration(given)
    if seconds is None:
        raise UsageError(f"invalid argument {given!r} for --cache-ttl", hint="90s, 12h, 7d")
    return seconds


def _jobs(given: str | None) -> int:
    """0 means as many as podman's 0 does: all that could."""
    if given is None:
        return 0
    if not (given.isascii() and given.isdigit()):
        raise UsageError(f"invalid argument {given!r} for --jobs", hint="a number, 0 for no limit")
    return int(given) or _JOBS_MAX


def _network(given: str | None) -> Literal["host", "none"]:
    if given in (None, "default", "host"):
        return "host"
    if given == "none":
        return "none"
    raise UsageError(
        f"invalid argument {given!r} for --network", hint="host or none; networks come later"
    )


BUILD = Command(
    name="build",
    synopsis="PATH|-",
    about="Build an image from a Dockerfile and a context directory.",
    act=build,
    options=(
        many("-t", "--tag", metavar="NAME[:TAG]", about="Name of the image"),
        value("-f", "--file", metavar="FILE", about="The Dockerfile (default: PATH/Dockerfile)"),
        value("--target", metavar="STAGE", about="Build this stage, not the last one"),
        many("--build-arg", metavar="NAME[=VALUE]", about="Set an ARG"),
        many("--label", metavar="NAME=VALUE", about="Label the image"),
        flag("--no-cache", about="Execute every step"),
        many("--no-cache-filter", metavar="STAGE[,STAGE]", about="Execute all steps of a stage"),
        value("--no-cache-from", metavar="LINE", about="Execute all steps from that line on"),
        value("--cache-ttl", metavar="DURATION", about="Execute what was executed longer ago"),
        value("--jobs", metavar="N", about="Stages to build at once (default: the cores)"),
        value(
            "--network",
            metavar="host|none",
            about="The network of RUN (default: host; private networks are not there yet)",
        ),
        flag("-q", "--quiet", about="Print the image's id alone"),
        value("--progress", metavar="STYLE", about="auto, plain, tty, json or quiet"),
        value("--iidfile", metavar="FILE", about="Write the image's id to a file"),
    ),
    words=(1, 1),
    refused={
        **dict.fromkeys(("-o", "--output", "--push", "--load", "--metadata-file"), _OTHER),
        **dict.fromkeys(("--build-context", "--secret", "--ssh", "--pull"), _LATER),
        **dict.fromkeys(("--cache-from", "--cache-to", "--platform", "--annotation"), _LATER),
        **dict.fromkeys(("--add-host", "--shm-size", "--ulimit", "--allow", "--check"), _LATER),
        **dict.fromkeys(("--squash", "--call"), _LATER),
    },
)
