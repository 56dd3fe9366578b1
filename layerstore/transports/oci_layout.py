"""OCI image layouts, as a directory or in a tar.

An image is named by annotations of its entry in index.json, here the full name for containerd and
docker, and the familiar one for skopeo, podman and umoci (`oci:DIR:hello:1`).

Spec: OCI image-spec v1.1, image-layout.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore import descriptor as media
from layerstore.changeset import Change
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import Index, Reader
from layerstore.errors import (
    InvalidReferenceError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.images import Image, check_platform, host_platform, name_of_entry, named
from layerstore.reference import Reference
from layerstore.transports.exports import (
    LAYOUT_FILE,
    Export,
    blob_name,
    blob_pieces,
    blobs_of,
    directory,
    large_file,
    small_file,
)
from layerstore.transports.layout_directory import LayoutDirectory
from layerstore.transports.members import Members

if TYPE_CHECKING:
    from layerstore.store import Store

_ATTESTATION = "vnd.docker.reference.type"


def contents(store: "Store", exports: Sequence[Export]) -> list[Change]:
    """The files of a layout that holds `exports`."""
    return contents_of(store, [entry for export in exports for entry in _entries(export)])


def contents_of(store: "Store", entries: Sequence[Descriptor]) -> list[Change]:
    """The files of a layout that lists `entries`, and has all that the store has of them."""
    blobs = {each.digest: each.size_bytes for entry in entries for each in blobs_of(store, entry)}
    return [
        directory("blobs"),
        directory("blobs/sha256"),
        *(
            large_file(
                blob_name(digest),
                size_bytes,
                partial(blob_pieces, store, digest, size_bytes),
            )
            for digest, size_bytes in blobs.items()
        ),
        small_file("index.json", Index(manifests=tuple(dict.fromkeys(entries))).encode()),
        small_file("oci-layout", LAYOUT_FILE),
    ]


def add(store: "Store", exports: Sequence[Export], root: Path) -> None:
    """Add `exports` to the layout in `root`, which is made if it is missing."""
    layout = LayoutDirectory(root)
    entries = [entry for export in exports for entry in _entries(export)]
    for blob in reversed([blob for entry in entries for blob in blobs_of(store, entry)]):
        pieces = partial(blob_pieces, store, blob.digest, blob.size_bytes)
        layout.put(blob.digest, blob.size_bytes, pieces)
    layout.list_entries(entries)


def _entries(export: Export) -> list[Descriptor]:
    entry = export.image.entry
    return [named(entry, name) for name in export.names] or [entry]


def is_in(members: Members) -> bool:
    """Whether the archive is a layout."""
    return "oci-layout" in members and "index.json" in members


def read(store: "Store", members: Members, platform: Platform | None = None) -> list[Export]:
    """The images of a layout, each once with all its names.

    Of an index it is the image for this host, with the index. With a `platform` it is that one
    alone. Left out: other platforms' where one fits, and what is no image.
    """
    layout = Reader.of(members.document("oci-layout"), context="oci-layout")
    if layout.text("imageLayoutVersion") != "1.0.0":
        raise MalformedDocumentError(context="oci-layout", problem="not of version 1.0.0")
    entries = Index.parse(members.document("index.json")).manifests
    wanted = [entry for entry in entries if _is_wanted(entry, platform or host_platform())]
    if not wanted:
        raise NotFoundError(
            kind=f"image for {platform or host_platform()} in the archive",
            key=f"{len(entries)} entries in its index.json",
        )
    found: dict[Digest, tuple[Image, list[Descriptor]]] = {}
    for entry in wanted:
        image = store.images.open(entry, platform)
        if platform is not None:
            if image.index is None and entry.platform is None:
                check_platform(image.config, platform)
            image = replace(image, index=None)
        found.setdefault(image.entry.digest, (image, []))[1].append(entry)
    return [
        Export(
            image=image,
            names=tuple(dict.fromkeys(name for entry in entries if (name := name_of_entry(entry)))),
        )
        for image, entries in found.values()
    ]


def pick(store: "Store", members: Members, *, wanted: str, platform: Platform) -> Image:
    """One image of a layout, by tag, name or digest.

    Without any of these it is the only one that fits, or as in buildx the one tagged `latest`.
    """
    manifests = Index.parse(members.document("index.json")).manifests
    entries = [entry for entry in manifests if _is_image(entry, platform)]
    found = [entry for entry in entries if not wanted or _is_called(entry, wanted)]
    if len({entry.digest for entry in found}) > 1 and not wanted:
        found = [entry for entry in entries if _is_called(entry, "latest")] or found
    if len({entry.digest for entry in found}) > 1:
        raise StoreError(
            f"the OCI layout has {len(found)} images that fit", hint="add :TAG or @DIGEST"
        )
    if not found:
        what = f"{wanted!r}" if wanted else "an image"
        raise NotFoundError(kind="image in the OCI layout", key=f"{what} for {platform}")
    return replace(store.images.open(found[0], platform), index=None)


def entries_called(index: Index, wanted: str) -> list[Descriptor]:
    """The entries that have this tag, name or digest (`@sha256:...`), or all."""
    wanted = wanted.removeprefix("@")
    return [entry for entry in index.manifests if not wanted or _is_called(entry, wanted)]


def _is_called(entry: Descriptor, wanted: str) -> bool:
    """By digest, by tag as the specification has it, or by a whole name as we and docker do."""
    text = entry.annotation(media.REF_NAME) or ""
    if wanted in (entry.digest, text) or text.endswith(f":{wanted}"):
        return True
    try:
        return Reference.parse(wanted) == name_of_entry(entry)
    except InvalidReferenceError:
        return False


def _is_image(entry: Descriptor, platform: Platform) -> bool:
    """Whether it is one, and fits the platform."""
    found = entry.platform
    return (
        entry.media_type in media.MANIFEST_TYPES | media.INDEX_TYPES
        and not entry.annotation(_ATTESTATION)
        and (
            found is None or (found.os, found.architecture) == (platform.os, platform.architecture)
        )
    )


def _is_wanted(entry: Descriptor, platform: Platform) -> bool:
    is_named = entry.annotation(media.REF_NAME) or entry.annotation(media.FULL_NAME)
    if is_named and entry.media_type not in media.MANIFEST_TYPES | media.INDEX_TYPES:
        raise UnsupportedMediaTypeError(media_type=entry.media_type)
    return _is_image(entry, platform)
