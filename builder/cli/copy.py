"""Images from one place to another: copy."""

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from builder.cli.access import ACCESS, CREDS, DIGEST_FILE, PROGRESS, client_of, write_digest
from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.cli.session import Session
    from layerstore import Copied, Place, Platform, Store
    from layerstore.registry import RegistryCopies, Status

    Report = Callable[[Copied], object]


def copy(arguments: Arguments, session: "Session") -> int:
    """Copy an image between two places; prints the digest it has there."""
    from layerstore import copy_between, parse_place

    platform, whole = chosen_platform(arguments), arguments.flag("all")
    if platform is not None and whole:
        raise UsageError("--all and --platform exclude each other")
    source, target = map(parse_place, arguments.words)
    with session.open_store() as store, ExitStack() as cleanup:
        report = cleanup.enter_context(watched(arguments))
        copied = copy_between(
            store,
            listed(store, source),
            target,
            platform=platform,
            whole=whole,
            report=report,
            registries=registries(arguments, cleanup, source, target),
        )
    write_digest(arguments, copied.digest)
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
    from layerstore.registry import RegistryCopies

    clients = []
    for side, place in (("dest-", places[-1]), ("src-", places[0])):
        reference = place.reference if isinstance(place, RegistryPlace) else None
        clients.append(cleanup.enter_context(client_of(arguments, reference, side=side)))
    return RegistryCopies(*clients)


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


@contextmanager
def watched(arguments: Arguments) -> "Iterator[Report]":
    """What shows the blobs that are copied, for the length of a `with`."""
    from builder.cli.transfers import check_style, shown
    from layerstore.registry import Transfer

    check_style(arguments.value("progress"))
    with shown(arguments.value("progress"), quiet=arguments.flag("quiet")) as view:

        def report(copied: "Copied") -> None:
            status: Status = "copied" if copied.is_whole else "copying"
            view.report(
                Transfer(
                    digest=copied.blob.digest,
                    status="exists" if copied.existed else status,
                    done_bytes=copied.done_bytes,
                    size_bytes=copied.blob.size_bytes,
                )
            )

        yield report


REGISTRY_OPTIONS = (*ACCESS, CREDS)
_SIDES = tuple(
    option._replace(
        names=(f"--{side}-{option.key}",), about=f"--{option.key} for the {where} alone"
    )
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
        DIGEST_FILE,
        flag("-q", "--quiet", about="Print the digest alone"),
        PROGRESS,
        *REGISTRY_OPTIONS,
        *_SIDES,
    ),
    words=(2, 2),
)
