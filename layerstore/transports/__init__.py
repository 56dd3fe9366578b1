"""Ways in and out of a store: images to and from archives and directories of other tools.

    docker          one tar that is docker-archive and OCI layout at once, as `docker save` writes
    oci-archive     a tar of an OCI image layout
    docker-archive  the old format alone, with uncompressed layers
    oci-dir         an OCI image layout as a directory

`load_images` finds out by itself which one it is given. What has a name as a place (`oci:`, `dir:`,
a registry) is copied one image at a time: places.py, copying.py.
"""

from typing import TYPE_CHECKING, assert_never

from layerstore.transports.exports import Export, Format

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from layerstore.compression import Reader
    from layerstore.descriptor import Platform
    from layerstore.images import Image
    from layerstore.store import Store

__all__ = ["Export", "Format", "load_images", "read_layout_image", "save_images"]


def save_images(
    store: "Store", exports: "Sequence[Export]", target: "BinaryIO | Path", *, format: Format
) -> None:
    """Write images. The same images give the same bytes.

    Args:
        target: a directory that is empty or missing for "oci-dir", else a file to write to. After
            an error it holds an incomplete archive, which is the caller's to remove.

    Raises:
        CorruptBlobError: a stored blob is damaged.
    """
    from layerstore.transports import docker_archive, oci_layout
    from layerstore.transports.exports import write_archive, write_directory

    match format:
        case "docker":
            changes = oci_layout.contents(store, exports)
            changes += docker_archive.manifest_beside_layout(exports)
        case "oci-archive" | "oci-dir":
            changes = oci_layout.contents(store, exports)
        case "docker-archive":
            changes = docker_archive.contents(store, exports)
        case _:
            assert_never(format)
    if format == "oci-dir":
        write_directory(changes, target)
    else:
        write_archive(changes, target)


def load_images(
    store: "Store", source: "Reader | Path", platform: "Platform | None" = None
) -> "list[Export]":
    """Take in every image of an archive of any of the formats, compressed or not, and name it.

    A multi-platform image is taken in whole and stands for the host's; with a `platform`, that one
    is taken alone. Visible to others after `Store.flush`.

    Raises:
        MalformedDocumentError, UnsafePathError: `source` is no archive of images, or a hostile one.
        CorruptBlobError: a digest, size or diff_id in it is wrong. Nothing is kept then.
        NotFoundError: something it names is not in it; or it has nothing for this host.
    """
    from layerstore.transports import docker_archive, oci_layout
    from layerstore.transports.members import read_members

    with read_members(store, source) as members:
        if oci_layout.is_in(members):
            exports = oci_layout.read(store, members, platform)
            if docker_archive.is_in(members):
                exports = docker_archive.with_names(members, exports)
        else:
            exports = docker_archive.read(store, members, platform)
        for export in exports:
            for name in export.names:
                store.images.tag(export.image, name)
            if not export.names:
                store.images.note_untagged(export.image)
            members.keep(export.image.entry)
    return exports


def read_layout_image(
    store: "Store", directory: "Path", *, wanted: str, platform: "Platform"
) -> "Image":
    """Take in one image of an OCI layout without naming it; `wanted` is a tag, a digest or empty.

    Raises:
        MalformedDocumentError, CorruptBlobError: no layout, or a damaged one.
        NotFoundError: it has no such image. StoreError: it has several that fit.
    """
    from layerstore.transports import oci_layout
    from layerstore.transports.members import read_members

    with read_members(store, directory) as members:
        image = oci_layout.pick(store, members, wanted=wanted, platform=platform)
        members.keep(image.descriptor)
    return image
