"""One image in several encodings: same id, same diff_ids, other blobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Image, Layer, Store
from layerstore.blobs import get
from layerstore.compression import Compression, decompressor, kind_of
from layerstore.digest import Digest
from layerstore.documents import Manifest
from layerstore.encoding import Encoding, encode_image, recompress_image
from tests.support.stores import findings, flip_blob, make_image


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "it", {"base": b"b" * 9000}, {"own": b"o" * 9000})


def encode(store: Store, image: Image, encoding: Encoding) -> Image:
    return encode_image(store, image, encoding, is_own=lambda layer: layer is image.layers[-1])


def kinds(image: Image) -> list[Compression]:
    return [kind_of(layer.media_type) for layer in image.manifest.layers]


def test_no_wish_changes_nothing(store: Store, image: Image) -> None:
    assert encode(store, image, Encoding()) is image


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_layers_of_the_build_are_compressed_and_those_of_the_base_stay(
    store: Store, image: Image, kind: Compression
) -> None:
    encoded = encode(store, image, Encoding(compression=kind))
    assert kinds(encoded) == ["gzip", kind]
    assert encoded.manifest.layers[0] == image.manifest.layers[0]
    assert encoded.id == image.id


@pytest.mark.parametrize("kind", ["none", "zstd"])
def test_force_compresses_all(store: Store, image: Image, kind: Compression) -> None:
    encoded = encode(store, image, Encoding(compression=kind, force=True))
    assert kinds(encoded) == [kind, kind]


def test_an_uncompressed_blob_is_named_by_its_diff_id(store: Store, image: Image) -> None:
    encoded = encode(store, image, Encoding(compression="none", force=True))
    assert [blob.digest for blob in encoded.manifest.layers] == [*image.config.diff_ids]


@pytest.mark.parametrize("level", [None, 0, 6, 9])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_every_blob_unpacks_to_its_diff_id(
    store: Store, image: Image, kind: Compression, level: int | None
) -> None:
    wish = Encoding(compression=kind, level=level or (1 if kind == "zstd" else 0), force=True)
    encoded = encode(store, image, wish)
    for blob, layer in zip(encoded.manifest.layers, image.layers, strict=True):
        with store.blobs.open(blob.digest, size_bytes=blob.size_bytes) as reader:
            assert Digest.of(decompressor(kind, reader).read()) == layer.diff_id


def test_the_same_wish_gives_the_same_digest_in_another_store(
    store: Store, image: Image, tmp_path: Path
) -> None:
    wish = Encoding(compression="zstd", level=7, force=True)
    with Store.open(tmp_path / "other") as other:
        same = make_image(other, "it", {"base": b"b" * 9000}, {"own": b"o" * 9000})
        assert encode(other, same, wish).descriptor == encode(store, image, wish).descriptor


def test_a_layer_is_compressed_once(
    store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Encoding(compression="zstd")
    first = encode(store, image, wish)
    store.flush()

    def never(layer: Layer) -> Iterator[bytes]:
        raise AssertionError(f"{layer} is read again")

    monkeypatch.setattr(store.layers, "tar_pieces", never)
    assert encode(store, image, wish).descriptor == first.descriptor


def test_a_compressed_blob_that_was_damaged_is_made_again(store: Store, image: Image) -> None:
    wish = Encoding(compression="zstd")
    digest = encode(store, image, wish).manifest.layers[1].digest
    store.flush()
    flip_blob(store, digest)
    assert encode(store, image, wish).manifest.layers[1].digest == digest
    store.flush()
    assert findings(store) == []


def test_docker_media_types_are_used_throughout(store: Store, image: Image) -> None:
    encoded = encode(store, image, Encoding(docker_types=True))
    manifest = Manifest.parse(get(store.blobs, encoded.descriptor.digest))
    assert encoded.descriptor.media_type == manifest.media_type
    assert {
        blob.media_type for blob in (encoded.descriptor, manifest.config, *manifest.layers)
    } == {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
    assert [blob.digest for blob in manifest.layers] == [
        blob.digest for blob in image.manifest.layers
    ]


def test_annotations_stand_in_the_manifest(store: Store, image: Image) -> None:
    encoded = encode(store, image, Encoding(annotations=(("b", "2"), ("a", "1"))))
    assert encoded.manifest.annotations == (("a", "1"), ("b", "2"))


def test_a_store_with_encoded_images_is_sound(store: Store, image: Image) -> None:
    for wish in (
        Encoding(compression="zstd", force=True),
        Encoding(compression="none", docker_types=True),
    ):
        store.images.note_untagged(encode(store, image, wish))
    store.flush()
    assert findings(store) == []
    assert {record.id for record in store.images.list()} == {image.id}


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_an_image_is_compressed_in_one_way(store: Store, image: Image, kind: Compression) -> None:
    encoded = recompress_image(store, image, kind, force=False)
    assert kinds(encoded) == [kind, kind]
    assert (encoded.id, encoded.manifest.media_type) == (image.id, image.manifest.media_type)
    assert recompress_image(store, encoded, kind, force=False) is encoded


def test_types_and_annotations_stay_when_layers_are_compressed_otherwise(
    store: Store, image: Image
) -> None:
    wished = Encoding(docker_types=True, annotations=(("a", "b"),))
    docker = encode(store, image, wished)
    encoded = recompress_image(store, docker, "zstd", force=True)
    assert encoded.manifest.media_type == docker.manifest.media_type
    assert encoded.manifest.annotations == (("a", "b"),)
    assert kinds(encoded) == ["zstd", "zstd"]


def test_force_compresses_what_another_hand_has_compressed(store: Store, image: Image) -> None:
    other = recompress_image(store, image, "gzip", level=9, force=False)
    assert other.manifest.layers != image.manifest.layers
    assert recompress_image(store, other, "gzip", force=True).manifest.layers == (
        image.manifest.layers
    )
