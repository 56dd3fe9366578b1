"""The dir: format: ours by skopeo, skopeo's by us, and directories that are none."""

import json
from pathlib import Path

import pytest

from layerstore import (
    Copied,
    Descriptor,
    Digest,
    Image,
    Index,
    Manifest,
    Platform,
    Store,
    copy_between,
)
from layerstore import descriptor as media
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.transports.dir_format import (
    VERSION,
    DirectoryDestination,
    DirectorySource,
    is_one,
    media_type_of,
)
from layerstore.transports.places import PlainDirectory, StoredImage
from tests.support.peers import run
from tests.support.stores import flip, make_image, problems

OTHER = Platform(os="linux", architecture="s390x")


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"etc/passwd": b"root:x:0:0"}, {"etc/hello": b"hi"})


@pytest.fixture
def directory(store: Store, image: Image, tmp_path: Path) -> Path:
    copy_between(store, StoredImage(name="app:1"), PlainDirectory(path=tmp_path / "dir"))
    return tmp_path / "dir"


def index_of(store: Store, *images: Image) -> Descriptor:
    from layerstore import Reference
    from layerstore.blobs import put

    entries = tuple(
        Descriptor(
            media_type=each.descriptor.media_type,
            digest=each.descriptor.digest,
            size_bytes=each.descriptor.size_bytes,
            platform=platform,
        )
        for each, platform in zip(
            images, (Platform(os="linux", architecture="amd64"), OTHER), strict=True
        )
    )
    data = Index(manifests=entries).encode()
    descriptor = Descriptor(
        media_type=media.OCI_INDEX, digest=put(store.blobs, data).digest, size_bytes=len(data)
    )
    store.images.tag_entry(descriptor, Reference.parse("multi"))
    store.flush()
    return descriptor


def test_the_directory_holds_the_image_as_plain_files(directory: Path, image: Image) -> None:
    names = {path.name for path in directory.iterdir()}
    blobs = {image.id.hex, *(layer.digest.hex for layer in image.manifest.layers)}
    assert names == {"version", "manifest.json", *blobs}
    assert (directory / "version").read_bytes() == VERSION
    assert Digest.of((directory / "manifest.json").read_bytes()) == image.descriptor.digest
    assert is_one(directory)


def test_a_source_gives_what_a_destination_was_given(directory: Path, image: Image) -> None:
    source = DirectorySource(directory)
    assert source.root() == image.descriptor
    manifest = Manifest.parse(source.document(source.root()))
    assert manifest == image.manifest
    for blob in (manifest.config, *manifest.layers):
        assert Digest.of(b"".join(source.pieces(blob))) == blob.digest


def test_manifests_of_an_index_have_names_of_their_own(
    store: Store, image: Image, tmp_path: Path
) -> None:
    other = make_image(store, "other", {"a": b"a"})
    root = index_of(store, image, other)
    target = PlainDirectory(path=tmp_path / "dir")
    assert copy_between(store, StoredImage(name="multi"), target, whole=True) == root
    source = DirectorySource(tmp_path / "dir")
    assert source.root() == root
    for entry in Index.parse(source.document(root)).manifests:
        assert (tmp_path / "dir" / f"{entry.digest.hex}.manifest.json").is_file()
        Manifest.parse(source.document(entry))


def test_an_older_image_in_the_directory_is_replaced(
    store: Store, directory: Path, image: Image
) -> None:
    make_image(store, "app:2", {"etc/passwd": b"root:x:0:0"})
    shared = image.manifest.layers[0].digest.hex
    before = (directory / shared).stat().st_ino
    copy_between(store, StoredImage(name="app:2"), PlainDirectory(path=directory))
    newer = store.images.resolve("app:2")
    assert DirectorySource(directory).root() == newer.descriptor
    assert {path.name for path in directory.iterdir()} == {
        *("version", "manifest.json", shared, newer.id.hex)
    }
    assert (directory / shared).stat().st_ino == before


def test_a_damaged_file_of_an_older_image_is_written_again(
    store: Store, directory: Path, image: Image
) -> None:
    path = directory / image.manifest.layers[0].digest.hex
    flip(path)
    copy_between(store, StoredImage(name="app:1"), PlainDirectory(path=directory))
    assert Digest.of(path.read_bytes()).hex == path.name


def test_an_interrupted_copy_goes_on_where_it_was(
    store: Store, tmp_path: Path, image: Image
) -> None:
    target = PlainDirectory(path=tmp_path / "new")
    done: list[Copied] = []

    def interrupt(copied: Copied) -> None:
        done.append(copied)
        if len([each for each in done if each.is_whole]) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_between(store, StoredImage(name="app:1"), target, report=interrupt)
    done.clear()
    copy_between(store, StoredImage(name="app:1"), target, report=done.append)
    assert [each.blob for each in done if each.existed] == [image.manifest.layers[0]]
    assert DirectorySource(target.path).root() == image.descriptor


def test_no_half_image_is_one(store: Store, directory: Path, image: Image) -> None:
    destination = DirectoryDestination(directory)
    destination.put(image.manifest.config, lambda: iter((b"x",)))
    with pytest.raises(MalformedDocumentError, match="is missing"):
        DirectorySource(directory)


@pytest.mark.parametrize("name", ["notes.txt", "0" * 64])
def test_a_directory_with_other_things_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(StoreError, match="neither empty nor"):
        DirectoryDestination(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_an_image_beside_other_things_is_left_alone(directory: Path) -> None:
    (directory / "mine").mkdir()
    with pytest.raises(StoreError, match="neither empty nor"):
        DirectoryDestination(directory)
    assert is_one(directory)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "link"])
def test_damage_is_found(damage: str, store: Store, directory: Path, image: Image) -> None:
    path = directory / image.manifest.layers[1].digest.hex
    match damage:
        case "flip":
            flip(path)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "remove":
            path.unlink()
        case _:
            path.rename(directory.parent / "elsewhere")
            path.symlink_to(directory.parent / "elsewhere")
    with Store.open(directory.parent / "other") as other:
        with pytest.raises((CorruptBlobError, NotFoundError)):
            copy_between(other, PlainDirectory(path=directory), StoredImage(name="back"))
        other.flush()
        assert other.images.list() == []
    assert problems(directory.parent / "other") == []


def test_a_manifest_that_is_a_link_or_too_large_is_refused(directory: Path) -> None:
    manifest = directory / "manifest.json"
    manifest.rename(directory.parent / "manifest.json")
    manifest.symlink_to(directory.parent / "manifest.json")
    with pytest.raises(MalformedDocumentError, match="symbolic links"):
        DirectorySource(directory)
    manifest.unlink()
    manifest.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(MalformedDocumentError, match="too large"):
        DirectorySource(directory)


def test_what_is_no_such_directory_says_so(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        assert not is_one(root)
        with pytest.raises(MalformedDocumentError, match="no version file"):
            DirectorySource(root)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 2, "config": {}, "layers": []}, media.OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, media.OCI_INDEX),
        ({"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST}, media.DOCKER_MANIFEST),
        ({"schemaVersion": 2, "mediaType": media.DOCKER_INDEX}, media.DOCKER_INDEX),
    ],
)
def test_a_manifest_says_what_it_is(document: object, media_type: str) -> None:
    assert media_type_of(json.dumps(document).encode()) == media_type


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "fsLayers": []},
        {"schemaVersion": 2, "mediaType": "application/vnd.acme.thing.v1+json"},
        {"schemaVersion": 2, "mediaType": media.OCI_CONFIG},
    ],
)
def test_what_is_neither_image_nor_index_is_refused(document: object) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        media_type_of(json.dumps(document).encode())


@pytest.mark.needs_peers("skopeo")
def test_skopeo_reads_ours_and_we_read_skopeos(
    directory: Path, image: Image, tmp_path: Path
) -> None:
    run("skopeo", "--insecure-policy", "copy", f"dir:{directory}", f"dir:{tmp_path}/theirs")
    assert DirectorySource(tmp_path / "theirs").root() == image.descriptor
    with Store.open(tmp_path / "other") as other:
        place = PlainDirectory(path=tmp_path / "theirs")
        copied = copy_between(other, place, StoredImage(name="back"))
        assert copied == other.images.resolve("back").descriptor == image.descriptor
    assert problems(tmp_path / "other") == []


@pytest.mark.needs_peers("skopeo")
def test_skopeo_reads_all_of_our_index(store: Store, image: Image, tmp_path: Path) -> None:
    root = index_of(store, image, make_image(store, "other", {"a": b"a"}))
    target = PlainDirectory(path=tmp_path / "dir")
    copy_between(store, StoredImage(name="multi"), target, whole=True)
    run(
        *("skopeo", "--insecure-policy", "copy", "--all"),
        *(f"dir:{tmp_path}/dir", f"dir:{tmp_path}/theirs"),
    )
    assert DirectorySource(tmp_path / "theirs").root().digest == root.digest
