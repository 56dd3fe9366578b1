"""Images from and to registries: pull, push, login, logout."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from builder.cli.access import (
    ACCESS,
    AUTH_FILE,
    CREDS,
    DIGEST_FILE,
    PROGRESS,
    ask_password,
    client_of,
    write_digest,
)
from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import line, printable, warn

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.pulling import Report
    from layerstore import Compression, Descriptor, Image, Platform, Reference, Store
    from layerstore.registry import Credentials, RegistryClient

    Recompress = Callable[[Store, Image], Image]

_HUB = "docker.io"
_COMPRESSIONS: dict[str, "Compression"] = {"gzip": "gzip", "zstd": "zstd", "uncompressed": "none"}


# ---- pull


def pull(arguments: Arguments, session: "Session") -> int:
    """Take in an image from a registry; prints what came as docker does."""
    from builder.cli.transfers import check_style
    from layerstore import Reference

    word = arguments.words[0]
    reference = Reference.parse(word.removeprefix("docker://"))
    everything, quiet = arguments.flag("all-tags"), arguments.flag("quiet")
    if everything and _has_tag(word, reference):
        raise UsageError("tag can't be used with --all-tags/-a")
    check_style(arguments.value("progress"))
    platform = platform_of(arguments)
    policy = arguments.value("policy") or "always"
    with (
        session.open_store() as store,
        client_of(arguments, reference) as client,
    ):
        references = [reference]
        if everything:
            from dataclasses import replace

            tags = client.sources(reference)[-1].tags()
            references = [replace(reference, tag=tag) for tag in tags]
        elif not quiet and not _has_tag(word, reference):
            line(f"Using default tag: {reference.tag}")
        is_newer = False
        for each in references:
            is_newer |= _pull_one(store, client, each, platform, policy, arguments)
    name = reference.repository if everything else reference.full
    if not quiet:
        familiar = _familiar_repository(reference) if everything else reference.familiar
        what = "Downloaded newer image for" if is_newer else "Image is up to date for"
        line(f"Status: {what} {familiar}")
    line(name)
    return 0


def _pull_one(
    store: "Store",
    client: "RegistryClient",
    reference: "Reference",
    platform: "Platform | None",
    policy: str,
    arguments: Arguments,
) -> bool:
    """Pull one name; whether something else stands for it now."""
    from builder.cli.transfers import shown
    from builder.pulling import POLICIES, Pulling

    quiet = arguments.flag("quiet")

    @contextmanager
    def watch(name: "Reference") -> "Iterator[Report]":
        with shown(arguments.value("progress"), quiet=quiet) as view:
            yield view.report

    before = _entry(store, reference)
    if not quiet:
        line(f"{reference.digest or reference.tag}: Pulling from {reference.path}")
        sys.stdout.flush()
    pulling = Pulling(policy=POLICIES[policy], client=lambda: client)
    image = pulling.image(store, reference.full, platform, watch)
    store.flush()
    found = (image.config.os, image.config.architecture)
    if platform is not None and found != (platform.os, platform.architecture):
        warn(f"{reference.familiar} is for {'/'.join(found)}, and not for {platform}")
    if not quiet:
        line(f"Digest: {image.entry.digest}")
    return before is None or before.digest != image.entry.digest


def _entry(store: "Store", reference: "Reference") -> "Descriptor | None":
    from layerstore import NotFoundError

    try:
        return store.images.find(reference.full)
    except NotFoundError:
        return None


def _has_tag(word: str, reference: "Reference") -> bool:
    return "@" in word or word.endswith(f":{reference.tag}")


def _familiar_repository(reference: "Reference") -> str:
    return reference.familiar.removesuffix(f":{reference.tag}")


def platform_of(arguments: Arguments) -> "Platform | None":
    """What --platform says."""
    text = arguments.value("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM")
    if not text:
        return None
    from builder.platforms import parse_platform

    return parse_platform(text)


# ---- push


def push(arguments: Arguments, session: "Session") -> int:
    """Store an image in a registry; prints its digest there as docker does."""
    from builder.cli.copy import chosen_platform
    from builder.cli.transfers import check_style
    from builder.timetravel import resolve
    from layerstore import Reference

    word, *others = arguments.words
    quiet, everything = arguments.flag("quiet"), arguments.flag("all-tags")
    target = Reference.parse((others[0] if others else word).removeprefix("docker://"))
    if everything and (others or _has_tag(word, target)):
        raise UsageError("tag can't be used with --all-tags/-a")
    check_style(arguments.value("progress"))
    recompress = _wished(arguments)
    platform = chosen_platform(arguments)  # as with docker, the environment's is for pulling
    with (
        session.open_store() as store,
        client_of(arguments, target) as client,
    ):
        store.lease()
        if not quiet:
            line(f"The push refers to repository [{target.repository}]")
            sys.stdout.flush()
        targets = _tags_of(store, target) if everything else [target]
        for each in targets:
            source = each.familiar if everything else word.removeprefix("docker://")
            image = resolve(store, source, platform)
            pushed = _push_one(store, client, image, each, recompress, arguments)
            if not quiet:
                line(
                    f"{each.tag or each.digest}: digest: {pushed.digest} size: {pushed.size_bytes}"
                )
                sys.stdout.flush()
    write_digest(arguments, pushed.digest)
    if quiet:
        line(target.repository if everything else target.full)
    return 0


def _push_one(
    store: "Store",
    client: "RegistryClient",
    image: "Image",
    target: "Reference",
    recompress: "Recompress | None",
    arguments: Arguments,
) -> "Descriptor":
    """Push an index whole if all of it is here, else the image that was chosen."""
    from builder.cli.transfers import shown
    from layerstore.registry import is_whole, push_image, push_index

    show = partial(shown, arguments.value("progress"), quiet=arguments.flag("quiet"), pushing=True)
    chosen = arguments.value("platform") is not None or recompress is not None
    if image.index is not None and not chosen:
        if is_whole(store, image.index):
            with show() as view:
                push_index(client, store, image.index, target, report=view.report)
            return image.index
        warn(
            f"only a part of the multi-platform image {target.familiar} is here: "
            f"pushing {image.config.os}/{image.config.architecture} alone"
        )
    sent = image if recompress is None else recompress(store, image)
    try:
        with show() as view:
            push_image(client, store, sent, target, report=view.report)
    finally:
        if sent is not image:
            for blob in (sent.descriptor, *sent.manifest.layers):
                store.blobs.discard(blob.digest)  # what was made for the registry alone
    return sent.descriptor


def _wished(arguments: Arguments) -> "Recompress | None":
    """How layers are to be compressed; None: as they are."""
    text = arguments.value("compression")
    level = arguments.number("compression-level")
    force = arguments.flag("force-compression")
    if text is None and level is None and not force:
        return None
    kind = _COMPRESSIONS.get("gzip" if text is None else text)
    if kind is None:
        known = ", ".join(_COMPRESSIONS)
        raise UsageError(f"invalid argument {text!r} for --compression", hint=known)
    from layerstore import levels, recompress_image

    if level is not None and level not in levels(kind):
        found = levels(kind)
        hint = f"{found[0]} to {found[-1]}" if found else "there are no levels"
        raise UsageError(f"invalid argument {str(level)!r} for --compression-level", hint=hint)
    return partial(recompress_image, kind=kind, level=level, force=force)


def _tags_of(store: "Store", target: "Reference") -> "list[Reference]":
    """Every name that the repository has here."""
    from layerstore import NotFoundError, Reference

    names = {Reference.parse(name) for record in store.images.list() for name in record.names}
    found = [name for name in names if name.repository == target.repository and name.tag]
    if not found:
        raise NotFoundError(kind="image", key=target.repository)
    return sorted(found, key=lambda name: name.tag)


# ---- login


def login(arguments: Arguments, session: "Session") -> int:
    """Have a registry check a user's password, and keep it."""
    host = _host(arguments.words)
    with client_of(arguments) as client:
        where = _login_again(arguments, host, client)
        if not where:
            where = client.login(host, _typed(arguments, host))
    if not where.endswith("helper)"):
        warn(f"your credentials are stored unencrypted in {where}; a credential helper keeps them")
    line("Login Succeeded")
    return 0


def _login_again(arguments: Arguments, host: str, client: "RegistryClient") -> str:
    """Log in as before, where nobody says as whom; empty when that is not possible (any more)."""
    from layerstore.registry import UnauthorizedError

    if arguments.value("username") is not None or arguments.value("password") is not None:
        return ""
    known = None if arguments.flag("password-stdin") else client.logged_in(host)
    if known is None or not (known.password or known.identity_token):
        return ""
    sys.stderr.write("Authenticating with existing credentials...\n")
    try:
        return client.login(host, known)
    except UnauthorizedError:
        sys.stderr.write("Stored credentials invalid or expired\n")
        return ""


def _typed(arguments: Arguments, host: str) -> "Credentials":
    from layerstore.registry import Credentials

    user, password = arguments.value("username"), arguments.value("password")
    if password is not None and arguments.flag("password-stdin"):
        raise UsageError("--password and --password-stdin exclude each other")
    if arguments.flag("password-stdin"):
        if user is None:
            raise UsageError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password is not None:
        warn("using --password on the command line is insecure: use --password-stdin")
    if user is None:
        if not os.isatty(0):
            raise UsageError(
                "cannot perform an interactive login from a non-TTY device",
                hint="--username and --password-stdin",
            )
        sys.stderr.write(f"Username for {printable(host)}: ")
        sys.stderr.flush()
        user = sys.stdin.readline().strip()
    if not user:
        raise UsageError("a username is required")
    if password is None:
        password = ask_password()
    if not password:
        raise UsageError("a password is required")
    return Credentials(user=user, password=password)


def logout(arguments: Arguments, session: "Session") -> int:
    """Forget a registry's password."""
    host = _host(arguments.words)
    with client_of(arguments) as client:
        was_there = client.logout(host)
    line(f"Removing login credentials for {host}" if was_there else f"Not logged in to {host}")
    return 0


def _host(words: list[str]) -> str:
    """The registry that is named, as names of images have it."""
    from layerstore import Reference

    if not words:
        return _HUB
    text = words[0].removeprefix("https://").removeprefix("http://").partition("/")[0]
    if text in (f"index.{_HUB}", f"registry-1.{_HUB}"):
        return _HUB
    if "." not in text and ":" not in text and text != "localhost":
        raise UsageError(f"{words[0]!r} is no registry", hint="HOST[:PORT]")
    return Reference.parse(f"{text}/a").host


PULL = Command(
    name="pull",
    synopsis="NAME[:TAG|@DIGEST]",
    about="Take in an image from a registry.",
    act=pull,
    options=(
        flag("-a", "--all-tags", about="Every tag of the repository"),
        flag("-q", "--quiet", about="Print the image's name alone"),
        value("--platform", metavar="OS/ARCH", about="Platform of the image (default: this one)"),
        value(
            "--policy",
            metavar="POLICY",
            choices=("always", "missing", "newer", "never"),
            about="always (default), missing, newer or never",
        ),
        PROGRESS,
        CREDS,
        *ACCESS,
    ),
    words=(1, 1),
    refused={"--disable-content-trust": "signatures are not checked"},
)
PUSH = Command(
    name="push",
    synopsis="NAME[:TAG] [DESTINATION]",
    about="Store an image in a registry.",
    act=push,
    options=(
        flag("-a", "--all-tags", about="Every tag that the repository has here"),
        flag("-q", "--quiet", about="Print the image's name alone"),
        value("--platform", metavar="OS/ARCH", about="One image of a multi-platform one"),
        value(
            "--compression-format",
            "--compression",
            metavar="KIND",
            about="Compress layers with gzip or zstd, or not (default: as they are here)",
        ),
        value("--compression-level", metavar="N", about="How hard"),
        flag("--force-compression", about="Compress what is compressed in that way, too"),
        DIGEST_FILE,
        PROGRESS,
        CREDS,
        *ACCESS,
    ),
    words=(1, 2),
    refused={"--disable-content-trust": "images are not signed"},
)
LOGIN = Command(
    name="login",
    synopsis="[REGISTRY]",
    about="Log in to a registry (default: Docker Hub).",
    act=login,
    options=(
        value("-u", "--username", metavar="USER", about="Who"),
        value("-p", "--password", about="The password; others may see it on the command line"),
        flag("--password-stdin", about="Read the password from standard input"),
        *ACCESS,
    ),
    words=(0, 1),
)
LOGOUT = Command(
    name="logout",
    synopsis="[REGISTRY]",
    about="Forget the password for a registry (default: Docker Hub).",
    act=logout,
    options=(AUTH_FILE,),
    words=(0, 1),
)
