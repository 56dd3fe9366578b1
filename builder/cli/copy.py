"""Images from one place to another: copy."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.access import ACCESS, CREDS, parse_creds
from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import line, printable
from builder.cli.units import human_size

if TYPE_CHECKING:
    from builder.cli.session import Session
    from layerstore import Copied, Digest, Place, Platform, Store
    from layerstore.registry import RegistryCopies, Settings


def copy(arguments: Arguments, session: "Session") -> int:
    """Copy an image between two places; prints the digest it has there."""
    from layerstore import copy_between, parse_place

    platform, whole = chosen_platform(arguments), arguments.flag("all")
    if platform is not None and whole:
        raise UsageError("--all and --platform exclude each other")
    source, target = map(parse_place, arguments.words)
    progress = CopyProgress(is_quiet=arguments.flag("quiet"))
    with session.open_store() as store, ExitStack() as cleanup:
        copied = copy_between(
            store,
            listed(store, source),
            target,
            platform=platform,
            whole=whole,
            report=progress.report,
            registries=registries(arguments, cleanup, source, target),
        )
    digest_file = arguments.value("digestfile")
    if digest_file is not None:
        Path(digest_file).write_text(copied.digest)
    line(copied.digest)
    return 0


def registries(
    arguments: Arguments, cleanup: ExitStack, *places: "Place"
) -> "RegistryCopies | None":
    """The way to registries, where one of the places is in one: the source's, and the target's.

    A command that has a registry on one side only has no --src-... and --dest-... options.
    """
    from layerstore import RegistryPlace

    if not any(isinstance(place, RegistryPlace) for place in places):
        return None
    from layerstore.registry import RegistryClient, RegistryCopies

    source, target = places[0], places[-1]
    clients = [
        cleanup.enter_context(RegistryClient(_settings(arguments, side, place)))
        for side, place in (("dest-", target), ("src-", source))
    ]
    return RegistryCopies(*clients)


def _settings(arguments: Arguments, side: str, place: "Place") -> "Settings":
    from layerstore import RegistryPlace
    from layerstore.registry import Settings

    def value(name: str) -> str | None:
        own = arguments.options.get(f"{side}{name}") or arguments.options.get(name)
        return own[-1] if own else None

    given, verify = value("creds"), value("tls-verify")
    auth_file, cert_dir = value("authfile"), value("cert-dir")
    retries = arguments.number("retry")
    return Settings(
        credentials=None if given is None else parse_creds(given),
        credentials_host=place.reference.host if isinstance(place, RegistryPlace) else "",
        auth_file=None if auth_file is None else Path(auth_file),
        cert_dir=None if cert_dir is None else Path(cert_dir),
        tls_verify=None if verify is None else verify == "true",
        retries=3 if retries is None else retries,
    )


def listed(store: "Store", place: "Place") -> "Place":
    """The place, found already where it is a moment of an image."""
    from builder.timetravel import is_address, resolve
    from layerstore import StoredImage

    if isinstance(place, StoredImage) and is_address(place.name):
        return StoredImage(name=place.name, entry=resolve(store, place.name).descriptor)
    return place


def chosen_platform(arguments: Arguments) -> "Platform | None":
    """What --platform says."""
    text = arguments.value("platform")
    if text is None:
        return None
    from builder.platforms import parse_platform

    return parse_platform(text)


class CopyProgress:
    """A line on standard error for each blob, when it begins to be copied and when it is there."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._begun: set[Digest] = set()

    def report(self, copied: "Copied") -> None:
        """Show what has been done."""
        if self._is_quiet:
            return
        blob = copied.blob
        name, size = blob.digest.short, human_size(blob.size_bytes)
        if copied.existed:
            self._write(f"{name}: exists ({size})")
        elif copied.is_whole:
            self._write(f"{name}: copied ({size})")
        elif blob.digest not in self._begun:
            self._begun.add(blob.digest)
            self._write(f"{name}: copying {size}")

    def _write(self, text: str) -> None:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


REGISTRY_OPTIONS = (*ACCESS, CREDS)
_SIDES = tuple(
    option._replace(names=(f"--{side}-{option.key}",), about=f"{option.about}, of the {where}")
    for side, where in (("src", "source"), ("dest", "destination"))
    for option in REGISTRY_OPTIONS
    if option.key != "retry"
)

COPY = Command(
    name="copy",
    synopsis="SOURCE DESTINATION",
    about="Copy an image between the store, registries, archives and directories, by its digest.",
    act=copy,
    options=(
        flag("-a", "--all", about="All images of a multi-platform one, not only this machine's"),
        value("--platform", metavar="OS/ARCH", about="Which image of a multi-platform one"),
        value("--digestfile", metavar="FILE", about="Write the digest to a file"),
        flag("-q", "--quiet", about="Print the digest alone"),
        *REGISTRY_OPTIONS,
        *_SIDES,
    ),
    words=(2, 2),
)
