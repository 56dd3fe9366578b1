"""OCI image layouts, as a directory or in a tar.

An image is named by annotations of its entry in index.json, here the full name for containerd and
docker, and the familiar one for skopeo, podman and umoci (`oci:DIR:hello:1`).

Spec: OCI image-spec v1.1, image-layout.md.
"""

from collections.abc import Sequence
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
from layerstore.images import Image, host_platform, name_of_entry, named
from layerstore.reference import Reference
from layerstore.transports.exports import (
    LAYOUT_FILE,
    Export,
    blob_name,
    blob_pieces,
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
    entries: dict[Descriptor, None] = {}
    blobs: dict[Digest, int] = {}
    for export in exports:
        image = export.image
        for name in export.names:
            entries[named(image.descriptor, name)] = None
        if not export.names:
            entries[image.descriptor] = None
        for descriptor in (image.descriptor, image.manifest.config, *image.manifest.layers):
            blobs[descriptor.digest] = descriptor.size_bytes
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
        small_file("index.json", Index(manifests=tuple(entries)).encode()),
        small_file("oci-layout", LAYOUT_FILE),
    ]


def add(store: "Store", exports: Sequence[Export], root: Path) -> None:
    """Add `exports` to the layout in `root`, which is made if it is missing."""
    layout = LayoutDirectory(root)
    entries = []
    for export in exports:
        image = export.image
        for blob in (*image.manifest.layers, image.manifest.config, image.descriptor):
            pieces = partial(blob_pieces, store, blob.digest, blob.size_bytes)
            layout.put(blob.digest, blob.size_bytes, pieces)
        entries += [named(image.descriptor, name) for name in export.names] or [image.descriptor]
    layout.list_entries(entries)


def is_in(members: Members) -> bool:
    """Whether the archive is a layout."""
    return "oci-layout" in members and "index.json" in members


def read(store: "Store", members: Members) -> list[Export]:
    """The images of a layout, each once with all its names.

    Left out: other platforms' where one fits this host, and what is no image.
    """
    layout = Reader.of(members.document("oci-layout"), context="oci-layout")
    if layout.text("imageLayoutVersion") != "1.0.0":
        raise MalformedDocumentError(context="oci-layout", problem="not of version 1.0.0")
    entries = Index.parse(members.document("index.json")).manifests
    wanted = [entry for entry in entries if _is_wanted(entry)]
    if not wanted:
        raise NotFoundError(
            kind=f"image for {host_platform()} in the archive",
            key=f"{len(entries)} entries in its index.json",
        )
    found: dict[Digest, tuple[Image, list[Descriptor]]] = {}
    for entry in wanted:
        image = store.images.open(entry)
        found.setdefault(image.descriptor.digest, (image, []))[1].append(entry)
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
    return store.images.open(found[0], platform)


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


def _is_wanted(entry: Descriptor) -> bool:
    is_named = entry.annotation(media.REF_NAME) or entry.annotation(media.FULL_NAME)
    if is_named and entry.media_type not in media.MANIFEST_TYPES | media.INDEX_TYPES:
        raise UnsupportedMediaTypeError(media_type=entry.media_type)
    return _is_image(entry, host_platform())
