"""Images from one place to another: copy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import line, printable
from builder.cli.units import human_size

if TYPE_CHECKING:
    from builder.cli.session import Session
    from layerstore import Copied, Digest, Place, Platform, Store


def copy(arguments: Arguments, session: "Session") -> int:
    """Copy an image between two places; prints the digest it has there."""
    from layerstore import copy_between, parse_place

    platform, whole = chosen_platform(arguments), arguments.flag("all")
    if platform is not None and whole:
        raise UsageError("--all and --platform exclude each other")
    source, target = map(parse_place, arguments.words)
    progress = CopyProgress(is_quiet=arguments.flag("quiet"))
    with session.open_store() as store:
        copied = copy_between(
            store,
            listed(store, source),
            target,
            platform=platform,
            whole=whole,
            report=progress.report,
        )
    digest_file = arguments.value("digestfile")
    if digest_file is not None:
        Path(digest_file).write_text(copied.digest)
    line(copied.digest)
    return 0


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
    ),
    words=(2, 2),
)
