"""Indexes of several platforms: manifest create, add, annotate, remove, inspect, push, rm, exists.

The names are docker's and podman's. As with podman, an index is kept in the store under its name:
nothing of it is in a registry before it is pushed, with all its images.

Differs: docker keeps the images of a list in the registry alone, and prints a sentence where the
digest is printed here.
"""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

from builder.cli.access import DIGEST_FILE, PROGRESS, write_digest
from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.copy import REGISTRY_OPTIONS, registries, watched
from builder.cli.output import line

if TYPE_CHECKING:
    from builder.cli.session import Session
    from layerstore import Descriptor, Digest, EntryWishes, Index, Place, Store


def create(arguments: Arguments, session: "Session") -> int:
    """Make an index of images; prints its digest."""
    from layerstore import (
        Index,
        NotFoundError,
        Reference,
        StoreError,
        find_index,
        index_with,
        name_index,
    )

    name, *images = arguments.words
    reference = Reference.parse(name)
    with session.open_store() as store, ExitStack() as cleanup:
        try:
            _, index = find_index(store, reference.full)
            is_new = False
        except NotFoundError:
            index, is_new = Index(), True
        if not is_new and not arguments.flag("amend"):
            raise StoreError(
                f"there is an index {reference.familiar} already", hint="--amend adds to it"
            )
        entries = _entries(store, images, arguments, cleanup)
        written = name_index(store, reference, index_with(index, entries))
    line(written.digest)
    return 0


def add(arguments: Arguments, session: "Session") -> int:
    """Add images to an index; prints the digest that it has now."""
    from layerstore import Reference, find_index, index_with, name_index

    name, *images = arguments.words
    wishes = _wishes(arguments)
    with session.open_store() as store, ExitStack() as cleanup:
        _, index = find_index(store, name)
        found = _entries(store, images, arguments, cleanup)
        entries = [wishes.applied(entry) for entry in found]
        written = name_index(store, Reference.parse(name), index_with(index, entries))
    line(written.digest)
    return 0


def annotate(arguments: Arguments, session: "Session") -> int:
    """Say of an image of an index what it runs on, or annotate it; prints the new digest."""
    from layerstore import Reference, find_index, index_changed, name_index

    name, image = arguments.words
    wishes = _wishes(arguments)
    with session.open_store() as store:
        _, index = find_index(store, name)
        index = index_changed(index, _listed_digest(store, index, image), wishes)
        written = name_index(store, Reference.parse(name), index)
    line(written.digest)
    return 0


def remove(arguments: Arguments, session: "Session") -> int:
    """Take images out of an index; prints the digest that it has now."""
    from layerstore import Reference, find_index, index_without, name_index

    name, *images = arguments.words
    with session.open_store() as store:
        _, index = find_index(store, name)
        for image in images:
            index = index_without(index, _listed_digest(store, index, image))
        written = name_index(store, Reference.parse(name), index)
    line(written.digest)
    return 0


def inspect(arguments: Arguments, session: "Session") -> int:
    """Show the document of an index or image as it is stored, here or else in its registry."""
    from layerstore import (
        NotFoundError,
        Reference,
        RegistryPlace,
        StoredImage,
        document_at,
        parse_place,
    )

    place = parse_place(arguments.words[0])
    with session.open_store() as store, ExitStack() as cleanup:
        if isinstance(place, StoredImage):
            try:
                store.images.find(place.name)
            except NotFoundError:  # as docker, whose lists are in registries
                place = RegistryPlace(reference=Reference.parse(place.name))
        data = document_at(store, place, registries(arguments, cleanup, place))
    line(json.dumps(json.loads(data), indent=4, ensure_ascii=True))
    return 0


def push(arguments: Arguments, session: "Session") -> int:
    """Copy an index with all its images to a registry, or to another place; prints its digest."""
    from layerstore import (
        Reference,
        RegistryPlace,
        StoredImage,
        copy_between,
        find_index,
        parse_place,
    )

    name, *rest = arguments.words
    target: Place = parse_place(rest[0] if rest else name)
    if isinstance(target, StoredImage):
        target = RegistryPlace(reference=Reference.parse(target.name))
    if arguments.options["all"] and not arguments.flag("all"):
        raise UsageError("an index is pushed with all its images", hint="copy one by `lamina copy`")
    with session.open_store() as store, ExitStack() as cleanup:
        index, _ = find_index(store, name)
        copied = copy_between(
            store,
            StoredImage(name=name),
            target,
            whole=True,
            report=cleanup.enter_context(watched(arguments)),
            registries=registries(arguments, cleanup, target),
        )
        if arguments.flag("purge"):
            store.images.remove_entry(index)
    write_digest(arguments, copied.digest)
    line(copied.digest)
    return 0


def rm(arguments: Arguments, session: "Session") -> int:
    """Remove indexes; images that have names of their own stay."""
    from builder.cli.failures import report
    from builder.cli.images import remove_index
    from layerstore import StoreError, find_index, prune

    code = 0
    with session.open_store() as store:
        for name in arguments.words:
            try:
                find_index(store, name)
                remove_index(store, name)
                store.flush()
            except StoreError as error:
                code = report(error, command="", debug=False)
        prune(store)
    return code


def exists(arguments: Arguments, session: "Session") -> int:
    """Exit with 0 if there is such an index, else with 1."""
    from layerstore import StoreError, find_index

    with session.open_store() as store:
        try:
            find_index(store, arguments.words[0])
        except StoreError:
            return 1
    return 0


def _entries(
    store: "Store", images: list[str], arguments: Arguments, cleanup: ExitStack
) -> "list[Descriptor]":
    """The entries of images, which are taken in where they are not stored."""
    from layerstore import StoredImage, index_entries, parse_place, take_in_image

    whole = arguments.flag("all")
    found = []
    for image in images:
        place = parse_place(image)
        if isinstance(place, StoredImage):
            descriptor = store.images.find(place.name)
        else:
            way = registries(arguments, cleanup, place)
            descriptor = take_in_image(store, place, whole=whole, registries=way)
        found += index_entries(store, descriptor, whole=whole)
    return found


def _listed_digest(store: "Store", index: "Index", image: str) -> "Digest":
    """The digest of an entry, named by it, by its beginning or by the image's name."""
    from layerstore import NotFoundError

    digits = image.removeprefix("sha256:")
    found = [each.digest for each in index.manifests if each.digest.hex.startswith(digits)]
    if len(digits) >= 2 and len(set(found)) == 1:
        return found[0]
    listed = {each.digest for each in index.manifests}
    named = store.images.find(image)
    digest = named.digest if named.digest in listed else store.images.manifest_of(named).digest
    if digest not in listed:
        raise NotFoundError(kind="entry of the index", key=image)
    return digest


def _wishes(arguments: Arguments) -> "EntryWishes":
    from layerstore import EntryWishes

    annotations = []
    for text in arguments.values("annotation"):
        key, equals, content = text.partition("=")
        if not key or not equals:
            raise UsageError(f"invalid argument {text!r} for --annotation", hint="KEY=VALUE")
        annotations.append((key, content))
    return EntryWishes(
        os=arguments.value("os") or "",
        architecture=arguments.value("arch") or "",
        variant=arguments.value("variant") or "",
        os_version=arguments.value("os-version") or "",
        os_features=tuple(
            word for text in arguments.values("os-features") for word in text.split(",") if word
        ),
        annotations=tuple(annotations),
    )


_WISHES = (
    value("--os", metavar="OS", about="The operating system it runs on"),
    value("--arch", metavar="ARCHITECTURE", about="The architecture it runs on"),
    value("--variant", metavar="VARIANT", about="The variant of the architecture"),
    value("--os-version", metavar="VERSION", about="The version of the operating system"),
    many("--os-features", metavar="FEATURE[,...]", about="What the operating system must have"),
    many("--annotation", metavar="KEY=VALUE", about="Annotate the entry"),
)
_ALL = flag("--all", about="All images of a multi-platform one, not only this machine's")

CREATE = Command(
    name="manifest create",
    synopsis="NAME [IMAGE...]",
    about="Make an index of images for several platforms.",
    act=create,
    options=(
        flag("-a", "--amend", about="Add to the index if there is one"),
        _ALL,
        *REGISTRY_OPTIONS,
    ),
    words=(1, None),
)
ADD = Command(
    name="manifest add",
    synopsis="NAME IMAGE...",
    about="Add images to an index.",
    act=add,
    options=(_ALL, *_WISHES, *REGISTRY_OPTIONS),
    words=(2, None),
)
ANNOTATE = Command(
    name="manifest annotate",
    synopsis="NAME IMAGE|DIGEST",
    about="Change what an index says of one of its images.",
    act=annotate,
    options=_WISHES,
    words=(2, 2),
)
REMOVE = Command(
    name="manifest remove",
    synopsis="NAME IMAGE|DIGEST...",
    about="Take images out of an index.",
    act=remove,
    words=(2, None),
)
INSPECT = Command(
    name="manifest inspect",
    synopsis="NAME",
    about="Show the manifest or index of an image, as it is stored.",
    act=inspect,
    options=REGISTRY_OPTIONS,
    words=(1, 1),
    refused={"-v": "`lamina inspect` describes an image", "--verbose": "`lamina inspect` does"},
)
PUSH = Command(
    name="manifest push",
    synopsis="NAME [DESTINATION]",
    about="Copy an index with all its images to a registry or another place.",
    act=push,
    options=(
        flag("--all", about="Accepted: all images go along"),
        flag("-p", "--rm", "--purge", about="Remove the index from the store afterwards"),
        flag("-q", "--quiet", about="Print the digest alone"),
        DIGEST_FILE,
        PROGRESS,
        *REGISTRY_OPTIONS,
    ),
    words=(1, 2),
    refused={"--format": "the documents are pushed as they are"},
)
RM = Command(
    name="manifest rm",
    synopsis="NAME...",
    about="Remove indexes; images with names of their own stay.",
    act=rm,
    words=(1, None),
)
EXISTS = Command(
    name="manifest exists",
    synopsis="NAME",
    about="Exit with 0 if there is such an index, else with 1.",
    act=exists,
    words=(1, 1),
)
