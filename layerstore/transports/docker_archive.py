"""Docker's own archive: manifest.json, which names a config and layer tars for each image.

Written in two ways: alone, with uncompressed layers as everybody reads them; or beside an OCI
layout, whose blobs it then names, as docker does since version 25.
Read: both, and the older ones in which a layer is a link to another image's.

Spec: moby, image/spec/v1.2.md ("Combined Image JSON + Filesystem Changeset Format").
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from layerstore.blobs import BlobInfo
from layerstore.changeset import Change
from layerstore.compression import Compression, detect, media_type
from layerstore.descriptor import OCI_CONFIG, Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import ImageConfig, Reader, canonical_json, parse_json
from layerstore.errors import CorruptBlobError, MalformedDocumentError, NotFoundError
from layerstore.images import is_for
from layerstore.layers import Layer
from layerstore.reference import Reference
from layerstore.transports.exports import (
    Export,
    blob_name,
    blob_pieces,
    directory,
    large_file,
    small_file,
)
from layerstore.transports.members import Members

if TYPE_CHECKING:
    from layerstore.store import Store

_MANIFEST = "manifest.json"
_PEEK_BYTES = 16


def contents(store: "Store", exports: Sequence[Export]) -> list[Change]:
    """The files of an archive with uncompressed layers."""
    changes: dict[str, Change] = {}
    rows = []
    for export in exports:
        image = export.image
        config = image.manifest.config
        config_name = f"{config.digest.hex}.json"
        changes[config_name] = large_file(
            config_name,
            config.size_bytes,
            partial(blob_pieces, store, config.digest, config.size_bytes),
        )
        for layer in image.layers:
            folder = layer.diff_id.hex
            changes[folder] = directory(folder)
            changes[_layer_name(layer)] = large_file(
                _layer_name(layer),
                layer.tar_size_bytes,
                partial(store.layers.tar_pieces, layer),
            )
        rows.append(_row(export, config_name, [_layer_name(layer) for layer in image.layers]))
    return [*changes.values(), small_file(_MANIFEST, canonical_json(rows))]


def manifest_beside_layout(exports: Sequence[Export]) -> list[Change]:
    """The manifest.json that makes a docker-archive of an OCI layout with the same images."""
    rows = [
        _row(
            export,
            blob_name(export.image.manifest.config.digest),
            [blob_name(layer.digest) for layer in export.image.manifest.layers],
        )
        for export in exports
    ]
    return [small_file(_MANIFEST, canonical_json(rows))]


def is_in(members: Members) -> bool:
    """Whether the archive is Docker's, too."""
    return _MANIFEST in members


def read(store: "Store", members: Members, platform: Platform | None = None) -> list[Export]:
    """The images of an archive, or those for a platform. Layers are kept as they are."""
    # First all that can go wrong: a manifest that is made here would not be dropped.
    parts = [_read_parts(store, members, row) for row in _rows(members)]
    found = [part for part in parts if platform is None or is_for(part[1], platform)]
    if not found:
        raise NotFoundError(kind=f"image for {platform} in the archive", key=f"{len(parts)} others")
    return [
        Export(image=store.images.assemble(descriptor, config, layers), names=names)
        for descriptor, config, layers, names in found
    ]


def with_names(members: Members, exports: Sequence[Export]) -> list[Export]:
    """`exports`, read from the layout in the same archive, with the names of manifest.json."""
    names: dict[Digest, tuple[Reference, ...]] = {}
    for row in _rows(members):
        config = members.find(row.text("Config", required=True)).digest
        names[config] = names.get(config, ()) + _names(row)
    return [
        replace(export, names=tuple(dict.fromkeys(export.names + names.get(export.image.id, ()))))
        for export in exports
    ]


def _row(export: Export, config: str, layers: list[str]) -> dict[str, object]:
    return {
        "Config": config,
        "RepoTags": [name.familiar for name in export.names] or None,
        "Layers": layers,
    }


def _layer_name(layer: Layer) -> str:
    return f"{layer.diff_id.hex}/layer.tar"


def _rows(members: Members) -> list[Reader]:
    if _MANIFEST not in members:
        raise MalformedDocumentError(
            context="archive",
            problem="it has neither a manifest.json (docker-archive) nor an index.json (OCI)",
            hint="a root file system is taken in by `lamina import`",
        )
    document = parse_json(members.document(_MANIFEST), context=_MANIFEST)
    if not isinstance(document, list) or not document:
        raise MalformedDocumentError(context=_MANIFEST, problem="not a list of images")
    rows = []
    for row in document:
        if not isinstance(row, dict):
            raise MalformedDocumentError(context=_MANIFEST, problem="an image is not an object")
        rows.append(Reader(row, _MANIFEST))
    return rows


def _names(row: Reader) -> tuple[Reference, ...]:
    return tuple(Reference.parse(name) for name in row.texts("RepoTags") or ())


_Parts = tuple[Descriptor, ImageConfig, list[Layer], tuple[Reference, ...]]


def _read_parts(store: "Store", members: Members, row: Reader) -> _Parts:
    names = _names(row)
    name = row.text("Config", required=True)
    blob = members.find(name)
    _check_name(name, blob)
    config = ImageConfig.parse(members.document(name))
    layer_names = row.texts("Layers") or ()
    if len(layer_names) != len(config.diff_ids):
        raise MalformedDocumentError(
            context=_MANIFEST,
            problem=f"{len(layer_names)} layers, but {len(config.diff_ids)} diff_ids in {name}",
        )
    layers = [
        store.layers.index(_layer_descriptor(store, members.find(layer_name)), diff_id)
        for layer_name, diff_id in zip(layer_names, config.diff_ids, strict=True)
    ]
    descriptor = Descriptor(media_type=OCI_CONFIG, digest=blob.digest, size_bytes=blob.size_bytes)
    return descriptor, config, layers, names


def _check_name(name: str, blob: BlobInfo) -> None:
    """A config's name is its digest, in every version of the format."""
    stem = PurePosixPath(name).name.removesuffix(".json")
    if len(stem) == 64 and stem != blob.digest.hex:
        raise CorruptBlobError(what=name, expected=stem, actual=blob.digest.hex)


def _layer_descriptor(store: "Store", blob: BlobInfo) -> Descriptor:
    with store.blobs.open(blob.digest) as reader:
        found = detect(reader.read(_PEEK_BYTES)) if blob.size_bytes > _PEEK_BYTES else None
    kind: Compression = "none"
    if found in ("gzip", "zstd"):
        kind = found
    elif found is not None:
        raise MalformedDocumentError(
            context=f"layer {blob.digest}", problem=f"no layer can be compressed with {found}"
        )
    return Descriptor(media_type=media_type(kind), digest=blob.digest, size_bytes=blob.size_bytes)
