"""Images in and out: import, save, load, bootstrap."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.output import line, printable

if TYPE_CHECKING:
    from builder.cli.session import Session
    from layerstore import Export, Format, Image, Platform, Reader, Reference, Store

_FORMATS: dict[str, "Format"] = {
    "docker": "docker",
    "oci-archive": "oci-archive",
    "docker-archive": "docker-archive",
    "oci-dir": "oci-dir",
}
_PLAIN = "docker-dir"
_DIRECTORIES = ("oci-dir", _PLAIN)
_REGISTRY = "`lamina pull` gets images from registries"


def import_(arguments: Arguments, session: "Session") -> int:
    """Make an image of one layer from a tar of a root file system; prints its id."""
    from builder.cli.copy import chosen_platform
    from builder.imports import import_tar
    from builder.urls import redacted
    from layerstore import Reference

    source = arguments.words[0]
    shown = redacted(source)
    platform = chosen_platform(arguments)
    reference = Reference.parse(arguments.words[1]) if len(arguments.words) > 1 else None
    with session.open_store() as store, _naming(shown), _reading_from(store, source) as stream:
        image = import_tar(
            store,
            stream,
            changes=arguments.values("change"),
            message=arguments.value("message") or f"Imported from {shown}",
            platform=platform,
        )
        _keep(store, image, reference)
    line(image.id)
    return 0


def save(arguments: Arguments, session: "Session") -> int:
    """Write images as one archive, or as a directory."""
    style = arguments.value("format") or "docker"
    if style not in (*_FORMATS, _PLAIN):
        raise UsageError(
            f"invalid argument {style!r} for --format", hint=", ".join((*_FORMATS, _PLAIN))
        )
    output = arguments.value("output")
    if output is None and (style in _DIRECTORIES or sys.stdout.isatty()):
        raise UsageError(
            "no directory" if style in _DIRECTORIES else "cowardly refusing to save to a terminal",
            hint="name a file with -o, or redirect",
        )
    from builder.cli.copy import chosen_platform
    from layerstore import save_images

    platform = chosen_platform(arguments)
    with session.open_store() as store:
        if style == _PLAIN and output is not None:
            _save_plain(store, arguments.words, Path(output), platform)
            return 0
        exports = _exports(store, arguments.words, platform)
        if output is None:
            save_images(store, exports, sys.stdout.buffer, format=_FORMATS[style])
        elif style == "oci-dir":
            save_images(store, exports, Path(output), format=_FORMATS[style])
        else:
            _save_to_file(store, exports, Path(output), _FORMATS[style])
    return 0


def _exports(store: "Store", names: list[str], platform: "Platform | None") -> "list[Export]":
    """The images, each with the names it was asked for by; one asked for twice is written once.

    A multi-platform image goes whole, unless one `platform` of it is asked for.
    """
    from builder.timetravel import is_address, resolve
    from layerstore import Export, Reference

    images: dict[str, Image] = {}
    wanted: dict[str, list[Reference]] = {}
    for name in names:
        image = resolve(store, name, platform)
        if platform is not None:
            image = replace(image, index=None)
        digest = image.entry.digest
        images[digest] = image
        named = wanted.setdefault(digest, [])
        if not (is_address(name) or _is_id(name, image)):
            named.append(Reference.parse(name))
    return [
        Export(image=image, names=tuple(dict.fromkeys(wanted[digest])))
        for digest, image in images.items()
    ]


def _is_id(name: str, image: "Image") -> bool:
    plain = name.removeprefix("sha256:")
    return "@" in name or image.id.removeprefix("sha256:").startswith(plain)


def _save_to_file(store: "Store", exports: "list[Export]", path: Path, style: "Format") -> None:
    """Written beside and renamed: whoever waits for the file never sees half of one."""
    from layerstore import save_images, written_beside

    with written_beside(path) as file:
        save_images(store, exports, file, format=style)


def _save_plain(store: "Store", names: list[str], path: Path, platform: "Platform | None") -> None:
    """Write one image as plain files."""
    from builder.cli.copy import listed
    from layerstore import PlainDirectory, StoredImage, copy_between

    if len(names) > 1:
        raise UsageError(f"a directory of --format {_PLAIN} holds one image", hint="use oci-dir")
    source = listed(store, StoredImage(name=names[0]))
    copy_between(store, source, PlainDirectory(path=path), platform=platform)


def load(arguments: Arguments, session: "Session") -> int:
    """Take in every image of an archive or layout; prints what was loaded."""
    from builder.cli.copy import chosen_platform
    from layerstore import is_plain_directory, load_images

    platform = chosen_platform(arguments)
    source = arguments.value("input")
    if source is None and sys.stdin.isatty():
        raise UsageError("requested load from stdin, but stdin is empty", hint="name a file: -i")
    with session.open_store() as store, _naming(source or "-"):
        if source is not None and is_plain_directory(Path(source)):
            exports = [_load_plain(store, Path(source), platform)]
        elif source is not None and Path(source).is_dir():
            exports = load_images(store, Path(source), platform)
        else:
            with _reading(source or "-") as stream:
                exports = load_images(store, stream, platform)
        store.flush()
    for export in exports:
        for name in export.names:
            line(f"Loaded image: {name.familiar}")
        if not export.names:
            line(f"Loaded image ID: {export.image.id}")
    return 0


def _load_plain(store: "Store", path: Path, platform: "Platform | None") -> "Export":
    from layerstore import Export, PlainDirectory, StoredImage, copy_between

    target = StoredImage(name="")
    copied = copy_between(store, PlainDirectory(path=path), target, platform=platform)
    return Export(image=store.images.open(copied))


def bootstrap(arguments: Arguments, session: "Session") -> int:
    """Make a base image from the distribution's own packages; prints its id."""
    from builder.bootstrap import bootstrap as make

    is_quiet = arguments.flag("quiet")

    def report(text: str) -> None:
        if not is_quiet:
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    with session.open_store() as store:
        image = make(arguments.words[0], store, report)
    line(image.id)
    return 0


def _keep(store: "Store", image: "Image", reference: "Reference | None") -> None:
    if reference is None:
        store.images.note_untagged(image)
    else:
        store.images.tag(image, reference)
    store.flush()


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Let errors about what is read say where it came from; the store is not at fault."""
    from layerstore import CorruptBlobError, MalformedDocumentError, UnsafePathError

    try:
        yield
    except (CorruptBlobError, MalformedDocumentError, UnsafePathError) as error:
        name = "standard input" if source == "-" else source
        if not error.message.startswith(name):
            error.message = f"{name}: {error.message}"
        if isinstance(error, CorruptBlobError):  # whose hint is for a blob of the store
            error.hint = ""
        raise


@contextmanager
def _reading_from(store: "Store", source: str) -> "Iterator[Reader]":
    """A URL, a file, or standard input for `-`."""
    if source.startswith(("http://", "https://")):
        from builder.remote import Remotes
        from builder.urls import FileUrl

        with ExitStack() as cleanup:
            yield Remotes(store, cleanup).read(FileUrl(url=source))
        return
    with _reading(source) as stream:
        yield stream


class _reading:
    """A file, or standard input for `-`."""

    def __init__(self, name: str) -> None:
        self._file: BinaryIO | None = None if name == "-" else Path(name).open("rb")  # noqa: SIM115  (closed in __exit__)

    def __enter__(self) -> BinaryIO:
        return self._file or sys.stdin.buffer

    def __exit__(self, *_: object) -> Literal[False]:
        if self._file is not None:
            self._file.close()
        return False


IMPORT = Command(
    name="import",
    synopsis="FILE|URL|- [NAME[:TAG]]",
    about="Make an image of a root file system in a tar archive.",
    act=import_,
    options=(
        many("-c", "--change", metavar="INSTRUCTION", about="Apply CMD, ENV, ... to the image"),
        value("-m", "--message", about="What the history says of the layer"),
        value("--platform", metavar="OS/ARCH", about="What the image is for (default: this one)"),
    ),
    words=(1, 2),
)
SAVE = Command(
    name="save",
    synopsis="IMAGE...",
    about="Write images to an archive that docker, podman, skopeo and lamina load.",
    act=save,
    options=(
        value("-o", "--output", metavar="FILE", about="Where to (default: standard output)"),
        value(
            "--format",
            metavar="FORMAT",
            about="docker (default: docker-archive and OCI layout at once), oci-archive, "
            "docker-archive, oci-dir or docker-dir",
        ),
        value("--platform", metavar="OS/ARCH", about="Only this one of a multi-platform image"),
    ),
    words=(1, None),
)
LOAD = Command(
    name="load",
    synopsis="",
    about="Take in images from an archive or an OCI layout.",
    act=load,
    options=(
        value("-i", "--input", metavar="FILE|DIRECTORY", about="Default: standard input"),
        flag("-q", "--quiet", about="Accepted: there is nothing to leave out"),
        value("--platform", metavar="OS/ARCH", about="Only this one of a multi-platform image"),
    ),
    words=(0, 0),
)
BOOTSTRAP = Command(
    name="bootstrap",
    synopsis="busybox|debian:SUITE",
    about="Make a base image from the distribution's own packages, without a registry.",
    act=bootstrap,
    options=(flag("-q", "--quiet", about="Print the image's id alone"),),
    words=(1, 1),
    refused={"--registry": _REGISTRY},
)
