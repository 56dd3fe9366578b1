"""`lamina build`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, maybe, value
from builder.cli.output import line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.cli.session import Session
    from builder.remote import Remotes
    from layerstore import Platform

_STYLES = ("auto", "plain", "tty", "json", "rawjson", "quiet")
_OTHER = "the image is in the store when the build has ended; `lamina save` writes it to a file"
_LATER = "this version builds from local directories and images alone"


def build(arguments: Arguments, session: "Session") -> int:
    """Build an image; with -q only its id is printed."""
    from contextlib import ExitStack

    from builder import BuildRequest, parse_remembered, read_inputs
    from builder import build as build_image
    from builder.cli.progress import Shown, choose
    from builder.sandbox import ForkServer
    from layerstore import Reference

    names = tuple(Reference.parse(name) for name in arguments.values("tag"))
    epoch = _source_date_epoch()
    build_args = _build_args(arguments)
    platform = _platform(arguments)
    contexts = _contexts(arguments.values("build-context"))
    annotations = _annotations(arguments.values("annotation"))
    _check_pull(arguments.value("pull"))
    if epoch is not None:
        build_args.setdefault("SOURCE_DATE_EPOCH", str(epoch))
    is_quiet = arguments.flag("quiet")
    style = arguments.value("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    if style not in _STYLES:
        raise UsageError(f"invalid argument {style!r} for --progress", hint=", ".join(_STYLES))
    with session.open_store() as store, ExitStack() as cleanup:

        def remotes() -> "Remotes":
            from builder.remote import Remotes

            return Remotes(store, cleanup)

        inputs = read_inputs(
            arguments.words[0],
            arguments.value("file"),
            sys.stdin.buffer,
            remotes,
            keep_git_dir=_is_on("BUILDKIT_CONTEXT_KEEP_GIT_DIR", build_args),
        )
        request = BuildRequest(
            dockerfile=parse_remembered(inputs, store.cache),
            context=inputs.context,
            contexts=contexts,
            platform=platform,
            ignore_file=inputs.ignore_file,
            names=names,
            target=arguments.value("target") or "",
            build_args=build_args,
            labels=_pairs(arguments.values("label")),
            annotations=annotations,
            no_cache=arguments.flag("no-cache"),
            network=_network(arguments.value("network")),
            source_date_epoch=epoch,
        )
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


def _build_args(arguments: Arguments) -> dict[str, str]:
    """--build-arg-file, and --build-arg over it.

    NAME=VALUE; a bare NAME takes the environment's value, and is left out without one.
    """
    found = {}
    for path in arguments.values("build-arg-file"):
        found.update(_arg_file(path))
    for item in arguments.values("build-arg"):
        name, equals, text = item.partition("=")
        if not name:
            raise UsageError(f"invalid argument {item!r} for --build-arg", hint="NAME=VALUE")
        if equals:
            found[name] = text
        elif name in os.environ:
            found[name] = os.environ[name]
    if _is_on("BUILDKIT_MULTI_PLATFORM", found):
        raise UsageError(
            "an image for one platform is no index of several (BUILDKIT_MULTI_PLATFORM)"
        )
    return found


def _arg_file(path: str) -> dict[str, str]:
    """Lines of NAME=VALUE, as podman has them; empty ones and those from `#` on do not count."""
    found = {}
    try:
        lines = Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        problem = f"cannot read {path!r} for --build-arg-file: {error.strerror}"
        raise UsageError(problem) from error
    for number, text in enumerate(lines, 1):
        name, equals, value_of = text.strip().partition("=")
        if name.startswith("#") or not text.strip():
            continue
        if not name or not equals:
            raise UsageError(f"{path}:{number}: {text.strip()!r} is not NAME=VALUE")
        found[name] = value_of
    return found


def _is_on(name: str, build_args: "Mapping[str, str]") -> bool:
    """A build argument that is a switch."""
    return build_args.get(name, "").lower() in ("1", "t", "true")


def _platform(arguments: Arguments) -> "Platform | None":
    from builder.platforms import parse_platform

    given = arguments.values("platform")
    text = ",".join(given) or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    return parse_platform(text) if text else None


def _check_pull(given: str | None) -> None:
    """There is nothing to pull from yet: what needs no registry is taken, the rest refused."""
    if given not in (None, "false", "0", "missing", "ifmissing", "never"):
        from builder.errors import UnsupportedFeatureError

        raise UnsupportedFeatureError(
            feature=f"--pull={given}", hint="images come from the local store alone"
        )


def _contexts(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not (name and equals and text):
            raise UsageError(
                f"invalid argument {item!r} for --build-context",
                hint="NAME=DIRECTORY, =URL, =docker-image://NAME or =oci-layout://DIRECTORY",
            )
        found[name] = text
    return found


def _annotations(given: tuple[str, ...]) -> dict[str, str]:
    """`[TYPE,...:]NAME=VALUE`; without a type it is the manifest's."""
    found = {}
    for item in given:
        name, equals, text = item.partition("=")
        types, colon, rest = name.partition(":")
        kinds = types.split(",") if colon else ["manifest"]
        name = rest if colon else name
        if not (name and equals):
            raise UsageError(
                f"invalid argument {item!r} for --annotation", hint="[TYPE:]NAME=VALUE"
            )
        for kind in kinds:
            _check_annotated(kind, item)
        found[name] = text
    return found


def _check_annotated(kind: str, item: str) -> None:
    kind = kind.partition("[")[0]  # `manifest[linux/amd64]`: there is but one
    if kind == "manifest":
        return
    if kind in ("index", "index-descriptor"):
        raise UsageError("index annotations not supported for single platform export")
    if kind == "manifest-descriptor":
        raise UsageError(
            "manifest-descriptor annotations are not supported: they would be the index's",
            hint="manifest:NAME=VALUE",
        )
    raise UsageError(
        f"invalid argument {item!r} for --annotation: unknown type {kind!r}",
        hint="manifest, or index for several platforms",
    )


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = (item.partition("=") for item in given)
    return {name: text for name, _, text in pairs}


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
    synopsis="PATH|URL|-",
    about="Build an image from a Dockerfile and a context directory.",
    act=build,
    options=(
        many("-t", "--tag", metavar="NAME[:TAG]", about="Name of the image"),
        value("-f", "--file", metavar="FILE", about="The Dockerfile (default: PATH/Dockerfile)"),
        value("--target", metavar="STAGE", about="Build this stage, not the last one"),
        many("--build-arg", metavar="NAME[=VALUE]", about="Set an ARG"),
        many("--build-arg-file", metavar="FILE", about="Set ARGs by lines of NAME=VALUE"),
        many(
            "--build-context",
            metavar="NAME=VALUE",
            about="Another context: a directory, URL, docker-image:// or oci-layout://",
        ),
        many("--platform", metavar="OS/ARCH", about="Platform of the image (default: this one)"),
        maybe("--pull", bare="true", about="false or missing: images come from the store alone"),
        many("--annotation", metavar="NAME=VALUE", about="Annotate the image's manifest"),
        many("--label", metavar="NAME=VALUE", about="Label the image"),
        flag("--no-cache", about="Execute every step"),
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
        **dict.fromkeys(("--secret", "--ssh"), _LATER),
        **dict.fromkeys(("--cache-from", "--cache-to"), _LATER),
        **dict.fromkeys(("--add-host", "--shm-size", "--ulimit", "--allow", "--check"), _LATER),
        **dict.fromkeys(("--no-cache-filter", "--squash", "--jobs", "--call"), _LATER),
    },
)
