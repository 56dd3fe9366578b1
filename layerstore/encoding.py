"""The same image in another encoding: its layers compressed otherwise, Docker's media types.

The config, and with it the id of the image and the diff_ids of its layers, stay what they are; the
manifest changes, and with it the digest. A layer is compressed by its kind, level and content
alone, so equal wishes give equal digests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerstore import compression
from layerstore.compression import Compression
from layerstore.descriptor import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
)
from layerstore.digest import Digest
from layerstore.documents import Manifest, Pairs
from layerstore.images import Image
from layerstore.layers import Layer

if TYPE_CHECKING:
    from layerstore.store import Store

_MEMO = "compressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How an image is written. Without `compression` layers stay as they are stored.

    `force` compresses the layers of the base image as well, not only those of the build.
    """

    compression: Compression | None = None
    level: int | None = None
    force: bool = False
    docker_types: bool = False
    annotations: Pairs = ()


def encode_image(
    store: "Store", image: Image, encoding: Encoding, *, is_own: Callable[[Layer], bool]
) -> Image:
    """`image` in `encoding`; the blobs and the manifest are made where they are missing.

    Args:
        is_own: whether a layer was made by the build, and not by that of the base image.
    """
    docker = encoding.docker_types
    manifest = Manifest(
        config=replace(image.manifest.config, media_type=DOCKER_CONFIG if docker else OCI_CONFIG),
        layers=tuple(
            _typed(_blob(store, layer, encoding, is_own=is_own(layer)), docker=docker)
            for layer in image.layers
        ),
        annotations=tuple(sorted(dict(encoding.annotations).items())),
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
    )
    if manifest == image.manifest:
        return image
    return store.images.assemble_as(manifest, image.config, image.layers)


def recompress_image(
    store: "Store", image: Image, kind: Compression, *, level: int | None = None, force: bool
) -> Image:
    """`image` with every layer compressed in one way, its media types and annotations kept.

    Args:
        force: layers of that kind are compressed anew, too.
    """
    if force and level is None:
        level = compression.default_level(kind)
    encoding = Encoding(
        compression=kind,
        level=level,
        docker_types=image.manifest.media_type == DOCKER_MANIFEST,
        annotations=image.manifest.annotations,
    )
    return encode_image(store, image, encoding, is_own=lambda layer: True)


def _typed(blob: Descriptor, *, docker: bool) -> Descriptor:
    kind = compression.kind_of(blob.media_type)
    return replace(blob, media_type=compression.media_type(kind, docker=docker))


def _blob(store: "Store", layer: Layer, encoding: Encoding, *, is_own: bool) -> Descriptor:
    kind = encoding.compression
    if kind is None or not (is_own or encoding.force):
        return layer.descriptor
    if kind == compression.kind_of(layer.descriptor.media_type) and encoding.level is None:
        return layer.descriptor
    key = f"{layer.diff_id} {kind} {encoding.level}"
    return _remembered(store, key, kind) or _compress(store, layer, key, kind, encoding.level)


def _remembered(store: "Store", key: str, kind: Compression) -> Descriptor | None:
    from layerstore.blobs import is_intact

    memo = store.cache.get_memo(_MEMO, key)
    if memo is None:
        return None
    digest, _, size = memo.decode().partition(" ")
    blob = Descriptor(
        media_type=compression.media_type(kind), digest=Digest(digest), size_bytes=int(size)
    )
    store.lease().hold((blob.digest,))  # before looking: what is there now must stay
    return blob if is_intact(store.blobs, blob.digest) else None


def _compress(
    store: "Store", layer: Layer, key: str, kind: Compression, level: int | None
) -> Descriptor:
    with store.blobs.writer() as writer:
        compressor = compression.compressor(kind, writer.write, level=level)
        for piece in store.layers.tar_pieces(layer):
            compressor.write(piece)
        compressor.close()
        blob = writer.commit()
    store.cache.put_memo(_MEMO, key, f"{blob.digest} {blob.size_bytes}".encode())
    return Descriptor(
        media_type=compression.media_type(kind), digest=blob.digest, size_bytes=blob.size_bytes
    )
