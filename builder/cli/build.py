"""`lamina build`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.cli import limits
from builder.cli.access import ACCESS, CREDS, PROGRESS, Access, registry_of
from builder.cli.arguments import (
    Arguments,
    Command,
    UsageError,
    build_args,
    flag,
    many,
    maybe,
    value,
)
from builder.cli.output import line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from builder import BuildRequest
    from builder.cacheoptions import CacheExport, CacheImport
    from builder.cli.session import Session
    from builder.inputs import Inputs
    from builder.outputs import Outputs
    from builder.pulling import PullPolicy
    from builder.remote import Remotes
    from builder.sandbox import Executor
    from builder.squash import Squash
    from grammar import Dockerfile
    from layerstore import Image, Platform, Reference, Store
    from layerstore.registry import RegistryClient

_JOBS_MAX = 1 << 16  # more than a Dockerfile has stages
_NO_RIGHTS = "a RUN has docker's default rights, or all with --allow security.insecure"


def build(
    arguments: Arguments,
    session: "Session",
    *,
    instead: "Callable[[BuildRequest, Store], int] | None" = None,
) -> int:
    """Build an image; with -q only its id is printed. `instead` does something else with it."""
    from contextlib import ExitStack
    from functools import cache

    from builder import BuildRequest, parse_remembered, read_inputs
    from builder import build as build_image
    from builder.cli.grants import grants_of, rights_of, settings_of
    from builder.cli.progress import STYLES, Shown, choose
    from builder.cli.rescue import rescuer
    from builder.pulling import Pulling
    from layerstore import Reference

    names = tuple(Reference.parse(name) for name in arguments.values("tag"))
    jobs = _jobs(arguments.value("jobs"))
    given_args = _given_args(arguments)
    platform = _platform(arguments)
    contexts = _contexts(arguments.values("build-context"))
    policy = _policy(arguments.value("pull"))
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        given_args.setdefault("SOURCE_DATE_EPOCH", epoch)
    on_failure = rescuer(arguments.value("on-error"))
    is_quiet = arguments.flag("quiet")
    style = arguments.value("progress") or os.environ.get("BUILDKIT_PROGRESS") or "auto"
    styles = ("auto", *STYLES)
    if style not in styles:
        raise UsageError(f"invalid argument {style!r} for --progress", hint=", ".join(styles))
    call = "check" if arguments.flag("check") else arguments.value("call") or "build"
    outputs = _outputs(arguments, names)
    stored = None if outputs is None else outputs.stored
    with (
        ExitStack() as opening,
        _store_to_look_at(session, opening) if instead else session.open_store() as store,
        ExitStack() as cleanup,
    ):

        def remotes() -> "Remotes":
            from builder.remote import Remotes

            return Remotes(store, cleanup)

        @cache
        def read() -> "Inputs":
            return read_inputs(
                arguments.words[0],
                arguments.value("file"),
                sys.stdin.buffer,
                remotes,
                keep_git_dir=_is_on("BUILDKIT_CONTEXT_KEEP_GIT_DIR", given_args),
            )

        registry: Reference | None = None
        if arguments.value("creds") is not None:
            dockerfile = parse_remembered(read(), store.cache)
            target = arguments.value("target") or ""
            registry = _registry(dockerfile, target, given_args, platform, contexts, names)
        access = cleanup.enter_context(Access(arguments, registry))
        exports, is_inline, imports = _caches(arguments, given_args, access, cleanup)
        inputs = read()
        if call != "build":
            from builder.cli.check import carry_out

            code = carry_out(call, inputs, arguments.value("target") or "", given_args, store)
            if code is not None:
                return code
        request = BuildRequest(
            dockerfile=parse_remembered(inputs, store.cache),
            context=inputs.context,
            contexts=contexts,
            platform=platform,
            ignore_file=inputs.ignore_file,
            names=names if outputs is None else () if stored is None else stored.names,
            target=arguments.value("target") or "",
            build_args=given_args,
            labels=_pairs(arguments.values("label")),
            no_cache=arguments.flag("no-cache"),
            no_cache_stages=_stages(arguments.values("no-cache-filter")),
            no_cache_from=arguments.number("no-cache-from", least=1),
            cache_ttl_s=_ttl(arguments.value("cache-ttl")),
            jobs=jobs,
            network=_network(arguments.value("network")),
            allowed=rights_of(arguments),
            run_settings=settings_of(arguments),
            grants=grants_of(arguments),
            on_failure=on_failure,
            verify=arguments.flag("verify"),
            keep=outputs is None or stored is not None,
            wants_layers=outputs is None or outputs.need_layers,
            squash=_squash(arguments),
            encoding=None if stored is None else stored.encoding,
            inline_cache=is_inline,
            pulling=Pulling(policy=policy, client=access.client),
            cache_from=imports,
        )
        if instead is not None:
            return instead(request, store)
        style = "quiet" if is_quiet else style
        if on_failure is not None and style in ("auto", "tty"):
            style = "plain"  # the terminal is the shell's
        # The live view draws from a thread, and after the first thread nothing is forked any more.
        server: Executor | None = None
        if style in ("auto", "tty") and sys.stderr.isatty():
            from builder.sandbox import ForkServer

            server = ForkServer()
        with Shown(choose(style, sys.stderr, dict(os.environ))) as report:
            result = build_image(
                request, store, report, start_executor=(lambda: server) if server else None
            )
            image: Image | None = result.image
            if outputs is not None:
                from builder.outputs import write_outputs

                image = write_outputs(
                    outputs,
                    result,
                    store,
                    report,
                    stdout=sys.stdout.buffer,
                    client=access.client,
                )
            if exports:
                from builder.cacheoptions import write_caches

                done = 0 if outputs is None else len(outputs.all)
                secrets = request.grants.secrets
                write_caches(exports, result, store, report, secrets=secrets, done=done)
    if any(name.startswith("LAMINA_CACHE_") for name in os.environ):
        from builder.cli.cache import keep_limits

        keep_limits(session)
    image_id = result.image.id
    iidfile = arguments.value("iidfile")
    if iidfile is not None:
        Path(iidfile).write_text(image_id)
    metadata_file = arguments.value("metadata-file")
    if metadata_file is not None:
        from builder.outputs import write_metadata

        named = names if outputs is None else outputs.names
        write_metadata(Path(metadata_file), result, image, named)
    if is_quiet and not (outputs and outputs.to_stdout):
        line(image_id)
    return 0


def _registry(
    dockerfile: "Dockerfile",
    target: str,
    given_args: dict[str, str],
    platform: "Platform | None",
    contexts: dict[str, str],
    names: "tuple[Reference, ...]",
) -> "Reference | None":
    """A name in the registry that --creds is for: of what is pulled, else of what may be pushed.

    Differs: podman and buildah send them to every registry that a Dockerfile names.
    """
    from builder.located import Located
    from builder.plan import context_name, image_names, plan
    from layerstore import host_platform

    known = {context_name(name): text for name, text in contexts.items()}
    with Located(dockerfile, None):
        made = plan(
            dockerfile,
            target=target,
            build_args=given_args,
            platform=platform or host_platform(),
            contexts=known,
        )
    return registry_of(image_names(made, known)) or registry_of(name.full for name in names)


def _store_to_look_at(session: "Session", cleanup: "ExitStack") -> "Store":
    """The store; where there is none, an empty one that leaves no trace."""
    if (session.private / "version").exists():
        return session.open_store()
    import tempfile

    session.enter()
    from layerstore import Store

    directory = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="lamina-"))
    return Store.open(Path(directory) / "store")


def _outputs(arguments: Arguments, names: "tuple[Reference, ...]") -> "Outputs | None":
    """What is asked for besides the image in the store; None is nothing."""
    texts, annotations = arguments.values("output"), arguments.values("annotation")
    if arguments.flag("push"):
        texts = (*texts, "type=registry")
    if not texts and not annotations:
        return None
    from builder.outputs import parse_outputs

    return parse_outputs(texts, names=names, annotations=annotations, load=arguments.flag("load"))


def _caches(
    arguments: Arguments, given_args: dict[str, str], access: "Access", cleanup: "ExitStack"
) -> "tuple[tuple[CacheExport, ...], bool, tuple[CacheImport, ...]]":
    """Where to export steps to, whether into the image, and where to import them from."""
    exports, imports = list(arguments.values("cache-to")), arguments.values("cache-from")
    if given_args.get("BUILDKIT_INLINE_CACHE") in ("1", "true"):  # as docker reads it
        exports.append("type=inline")
    if not exports and not imports:
        return (), False, ()
    from dataclasses import replace

    from builder.cacheoptions import parse_cache_from, parse_cache_to

    def connect(insecure: bool) -> "RegistryClient":
        if not insecure:
            return access.client()
        from layerstore.registry import RegistryClient

        settings = replace(access.client().settings, tls_verify=False)
        return cleanup.enter_context(RegistryClient(settings))

    return *parse_cache_to(exports, connect), parse_cache_from(imports, connect)


def _squash(arguments: Arguments) -> "Squash | None":
    from_line = arguments.number("squash-from", least=1)
    wishes = [arguments.flag("squash"), arguments.flag("squash-all"), from_line is not None]
    if not any(wishes):
        return None
    if sum(wishes) > 1:
        raise UsageError("--squash, --squash-all and --squash-from exclude each other")
    from builder.squash import Squash

    return Squash(all=arguments.flag("squash-all"), from_line=from_line or 0)


def _given_args(arguments: Arguments) -> dict[str, str]:
    """--build-arg-file, and --build-arg over it."""
    found = {}
    for path in arguments.values("build-arg-file"):
        found.update(_arg_file(path))
    found.update(build_args(arguments.values("build-arg")))
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


def _is_on(name: str, given_args: "Mapping[str, str]") -> bool:
    """A build argument that is a switch."""
    return given_args.get(name, "").lower() in ("1", "t", "true")


def _platform(arguments: Arguments) -> "Platform | None":
    from builder.platforms import parse_platform

    given = arguments.values("platform")
    text = ",".join(given) or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    return parse_platform(text) if text else None


def _policy(given: str | None) -> "PullPolicy":
    """What --pull says; without it what is here is taken, as docker does."""
    from builder.pulling import POLICIES

    policy = POLICIES.get("missing" if given is None else given)
    if policy is None:
        hint = "missing, always, newer or never"
        raise UsageError(f"invalid argument {given!r} for --pull", hint=hint)
    return policy


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


def _network(given: str | None) -> Literal["default", "host", "none"]:
    match given:
        case None | "default":
            return "default"
        case "host":
            return "host"
        case "none":
            return "none"
        case _:
            raise UsageError(
                f"invalid argument {given!r} for --network", hint="there are default, host and none"
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
        maybe(
            "--pull",
            bare="always",
            about="When to pull base images: missing (default), always, newer or never",
        ),
        many("--label", metavar="NAME=VALUE", about="Label the image"),
        flag("--no-cache", about="Execute every step"),
        many("--no-cache-filter", metavar="STAGE[,STAGE]", about="Execute all steps of a stage"),
        value("--no-cache-from", metavar="LINE", about="Execute all steps from that line on"),
        value("--cache-ttl", metavar="DURATION", about="Execute what was executed longer ago"),
        value("--jobs", metavar="N", about="Stages to build at once (default: the cores)"),
        value(
            "--network",
            metavar="default|host|none",
            about="The network of RUN (default: a private one, from where the world is reached)",
        ),
        many("--secret", metavar="id=ID[,src=FILE|,env=NAME]", about="Lend a secret to RUN"),
        many("--ssh", metavar="default|ID[=SOCKET]", about="Lend an SSH agent to RUN and ADD"),
        many(
            "--allow",
            metavar="RIGHT",
            about="Let RUN ask for network.host or security.insecure",
        ),
        many("--add-host", metavar="NAME:ADDRESS", about="Add a line to /etc/hosts of RUN"),
        value("--shm-size", metavar="BYTES", about="Size of /dev/shm in RUN (default: 64m)"),
        limits.ULIMIT,
        *limits.OF_BUILD,
        flag("--verify", about="Run what has to run twice, and fail where the results differ"),
        value(
            "--on-error",
            metavar="shell",
            about="Open a shell where a RUN has failed, in what it left behind",
        ),
        flag("--rm", about="Accepted: a build leaves no containers"),
        flag("--force-rm", about="Accepted: a build leaves no containers"),
        flag("--compress", about="Accepted: the context is read where it is"),
        flag("-q", "--quiet", about="Print the image's id alone"),
        PROGRESS,
        value("--iidfile", metavar="FILE", about="Write the image's id to a file"),
        value(
            "--call",
            metavar="METHOD[,format=json]",
            about="build (default), check, outline or targets: what to do with the Dockerfile",
        ),
        flag("--check", about="The same as --call=check"),
        value("--metadata-file", metavar="FILE", about="Write digests and names to a JSON file"),
        many(
            "-o",
            "--output",
            metavar="DIRECTORY|-|type=TYPE[,...]",
            about="What to make of the result: local, tar, oci, docker, image (default), registry, "
            "cacheonly",
        ),
        flag("--push", about="Store the image in its registry: the same as -o type=registry"),
        flag("--load", about="Keep the image in the store, whatever --output says"),
        many("--annotation", metavar="KEY=VALUE", about="Annotate the manifest of the image"),
        flag("--squash", about="Make one layer of all that the build adds to its base image"),
        flag("--squash-all", about="Make one layer of the whole image"),
        value("--squash-from", metavar="LINE", about="Make one layer from that line on"),
        many(
            "--cache-to",
            metavar="type=local,dest=DIRECTORY|type=registry,ref=NAME[,mode=max][,mounts=true]|type=inline",
            about="Export the cached steps of this build",
        ),
        many(
            "--cache-from",
            metavar="type=local,src=DIRECTORY|type=registry,ref=NAME|IMAGE",
            about="Use exported steps as if they had been built here",
        ),
        *ACCESS,
        CREDS,
    ),
    words=(1, 1),
    refused={
        "--cgroup-parent": "a control group is made below that of the caller",
        **dict.fromkeys(("--cap-add", "--cap-drop", "--device", "--security-opt"), _NO_RIGHTS),
        **dict.fromkeys(("--userns", "--pid", "--ipc", "--uts", "--cgroupns"), _NO_RIGHTS),
    },
)
