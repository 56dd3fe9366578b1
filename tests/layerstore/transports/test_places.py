"""Copies between the store, layouts, archives and directories, and with other tools."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from layerstore import (
    Compression,
    Descriptor,
    Encoding,
    Image,
    Place,
    Platform,
    Reference,
    Store,
    copy_between,
    encode_image,
    host_platform,
    parse_place,
)
from layerstore import descriptor as media
from layerstore.blobs import put
from layerstore.compression import media_type
from layerstore.errors import (
    CorruptBlobError,
    InvalidReferenceError,
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.transports.places import (
    DockerArchive,
    LayoutPlace,
    PlainDirectory,
    RegistryPlace,
    StoredImage,
)
from tests.support.peers import Containers, run
from tests.support.schemas import layout_errors
from tests.support.stores import flip, flip_blob, make_image, problems, tag_index

OTHER = Platform(os="linux", architecture="s390x")
FORMATS = ("oci:{}/layout:tag", "oci-archive:{}/oci.tar:tag", "docker-archive:{}/docker.tar:app:1")
BY_DIGEST = (*FORMATS[:2], "dir:{}/dir")
ALL = (*BY_DIGEST, FORMATS[2])
SKOPEO = ("skopeo", "--insecure-policy", "copy", "-q")


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"etc/passwd": b"root:x:0:0"}, {"etc/hello": b"hi" * 5000})


@pytest.fixture
def multi(store: Store, image: Image) -> Descriptor:
    """An index `multi` of the image for this host and another one for OTHER."""
    other = make_image(store, "theirs", {"other": b"machine"})
    return tag_index(store, "multi", {host_platform(): image, OTHER: other})


def place(text: str, folder: Path) -> Place:
    return parse_place(text.format(folder))


def copy(store: Store, source: str, target: str, *, whole: bool = False) -> Descriptor:
    return copy_between(store, parse_place(source), parse_place(target), whole=whole)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("app", StoredImage(name="app")),
        ("host:5000/app:1", StoredImage(name="host:5000/app:1")),
        ("oci:dir", LayoutPlace(path=Path("dir"))),
        ("oci:/a/b:1.0", LayoutPlace(path=Path("/a/b"), tag="1.0")),
        ("oci:d:host:5000/app:1", LayoutPlace(path=Path("d"), tag="host:5000/app:1")),
        ("oci-archive:a.tar:x", LayoutPlace(path=Path("a.tar"), tag="x", is_archive=True)),
        ("docker-archive:a.tar", DockerArchive(path=Path("a.tar"))),
        ("docker-archive:a.tar:app:1", DockerArchive(path=Path("a.tar"), name="app:1")),
        ("docker-archive:a.tar:@0", DockerArchive(path=Path("a.tar"), name="@0")),
        ("dir:a:b", PlainDirectory(path=Path("a:b"))),
        ("docker://app", RegistryPlace(reference=Reference.parse("app"))),
    ],
)
def test_places_are_named_as_skopeo_names_them(text: str, found: Place) -> None:
    assert parse_place(text) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("docker:app", "no place"),
        ("oci:", "names no file"),
        ("docker-daemon:app", "docker-daemon: is not supported"),
        ("containers-storage:app", "containers-storage: is not supported"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(text: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem) as refused:
        parse_place(text)
    assert refused.value.hint


def test_a_name_of_an_image_in_a_registry_is_checked() -> None:
    with pytest.raises(InvalidReferenceError):
        parse_place("docker://NOT A NAME")


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", ALL)
def test_an_image_keeps_its_digest_on_every_way(
    first: str, second: str, store: Store, image: Image, tmp_path: Path
) -> None:
    one, two = place(first, tmp_path), place(second, tmp_path / "second")
    (tmp_path / "second").mkdir()
    assert copy_between(store, StoredImage(name="app:1"), one) == image.descriptor
    with Store.open(tmp_path / "empty") as other:
        copy_between(other, one, two)
        back = copy_between(other, two, StoredImage(name="back:1"))
        found = other.images.resolve("back:1")
        assert found.id == image.id
        if "docker-archive" not in first + second:
            assert back == found.descriptor == image.descriptor
    assert problems(tmp_path / "empty") == []


@pytest.mark.parametrize("first", BY_DIGEST)
def test_all_of_an_index_is_copied_or_one_image(
    first: str, store: Store, multi: Descriptor, image: Image, tmp_path: Path
) -> None:
    whole = place(first, tmp_path)
    assert copy_between(store, StoredImage(name="multi"), whole, whole=True) == multi
    with Store.open(tmp_path / "other") as other:
        assert copy_between(other, whole, StoredImage(name="one")) == image.descriptor
        theirs = copy_between(other, whole, StoredImage(name="theirs"), platform=OTHER)
        assert theirs == store.images.resolve("theirs").descriptor
        assert copy_between(other, whole, StoredImage(name="all"), whole=True) == multi
        assert other.images.resolve("all").descriptor == image.descriptor
        assert other.images.resolve("all", OTHER).descriptor == theirs
        with pytest.raises(NoPlatformError, match=r"linux/.*s390x"):
            copy_between(
                other,
                whole,
                StoredImage(name="none"),
                platform=Platform(os="plan9", architecture="386"),
            )
    assert problems(tmp_path / "other") == []


def test_an_index_without_this_host_is_kept_by_its_name(
    store: Store, multi: Descriptor, tmp_path: Path
) -> None:
    entry = tag_index(store, "far", {OTHER: store.images.resolve("theirs")})
    copy(store, "far", f"oci:{tmp_path}/layout", whole=True)
    with Store.open(tmp_path / "other") as other:
        copy(other, f"oci:{tmp_path}/layout", "far", whole=True)
        assert other.images.find("far") == entry
        with pytest.raises(NoPlatformError):
            other.images.resolve("far")
        (record,) = other.images.list()
        assert (record.id, record.names, record.problem) == (entry.digest, ("far:latest",), "")
    assert problems(tmp_path / "other") == []


def test_of_an_index_that_is_not_here_whole_one_image_can_be_copied(
    store: Store, multi: Descriptor, image: Image, tmp_path: Path
) -> None:
    theirs = store.images.resolve("theirs")
    store.images.remove(theirs)
    store.flush()
    store.blobs.remove(theirs.descriptor.digest)
    with pytest.raises(NotFoundError, match=r"linux/s390x in the store") as refused:
        copy(store, "multi", f"oci:{tmp_path}/a:x", whole=True)
    assert "from the registry itself" in refused.value.hint
    assert copy(store, "multi", f"oci:{tmp_path}/a:x") == image.descriptor


def test_a_docker_archive_holds_no_index(store: Store, multi: Descriptor, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="several platforms"):
        copy(store, "multi", f"docker-archive:{tmp_path}/a.tar:x", whole=True)
    assert list(tmp_path.glob("*.tar")) == []


def test_dockers_media_types_stay(store: Store, image: Image, tmp_path: Path) -> None:
    docker = encode_image(store, image, Encoding(docker_types=True), is_own=lambda _: True)
    store.images.tag(docker, Reference.parse("docker-app"))
    store.flush()
    for text in BY_DIGEST:
        copy(store, "docker-app", text.format(tmp_path))
        with Store.open(tmp_path / "other") as other:
            assert copy(other, text.format(tmp_path), "back") == docker.descriptor
            assert other.images.resolve("back").descriptor.media_type == media.DOCKER_MANIFEST


def test_a_layout_is_added_to_and_a_tag_moves(store: Store, image: Image, tmp_path: Path) -> None:
    newer = make_image(store, "app:2", {"a": b"a"})
    there = f"oci:{tmp_path}/layout"
    copy(store, "app:1", f"{there}:V1.0")
    copy(store, "app:1", f"{there}:b")
    copy(store, "app:2", f"{there}:V1.0")
    with Store.open(tmp_path / "other") as other:
        assert copy(other, f"{there}:V1.0", "x") == newer.descriptor
        assert copy(other, f"{there}:b", "y") == image.descriptor
        assert copy(other, f"{there}:@{image.descriptor.digest}", "z") == image.descriptor
        with pytest.raises(StoreError, match="has 2 images") as caught:
            copy(other, there, "w")
        assert ":@DIGEST" in caught.value.hint
        with pytest.raises(NotFoundError, match="nope"):
            copy(other, f"{there}:nope", "w")


def test_the_images_of_a_docker_archive_are_chosen_by_name_or_number(
    store: Store, image: Image, tmp_path: Path
) -> None:
    newer = make_image(store, "app:2", {"a": b"a"})
    from layerstore import Export, save_images

    exports = [
        Export(image=each, names=(Reference.parse(name),))
        for each, name in ((image, "app:1"), (newer, "app:2"))
    ]
    with (tmp_path / "both.tar").open("wb") as file:
        save_images(store, exports, file, format="docker-archive")
    there = f"docker-archive:{tmp_path}/both.tar"
    with Store.open(tmp_path / "other") as other:
        for chosen, wanted in (("app:2", newer), ("@0", image), ("@1", newer)):
            copy(other, f"{there}:{chosen}", "back")
            assert other.images.resolve("back").id == wanted.id
        for missing in ("app:3", "@2", "@x"):
            with pytest.raises(NotFoundError):
                copy(other, f"{there}:{missing}", "w")
        with pytest.raises(StoreError, match="has 2 images") as caught:
            copy(other, there, "w")
        assert ":@N" in caught.value.hint
    assert problems(tmp_path / "other") == []


def test_a_compressed_archive_is_read(store: Store, image: Image, tmp_path: Path) -> None:
    copy(store, "app:1", f"oci-archive:{tmp_path}/a.tar:x")
    packed = tmp_path / "a.tgz"
    packed.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with Store.open(tmp_path / "other") as other:
        assert copy(other, f"oci-archive:{packed}:x", "back") == image.descriptor


@pytest.mark.parametrize("target", ["oci:{}/x:y", "dir:{}/x", "oci-archive:{}/x.tar:y"])
def test_what_passes_through_the_store_leaves_nothing_in_it(
    target: str, store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", f"oci-archive:{tmp_path}/a.tar:x")
    with Store.open(tmp_path / "other") as other:
        copy(other, f"oci-archive:{tmp_path}/a.tar:x", target.format(tmp_path))
        copy(other, target.format(tmp_path), f"docker-archive:{tmp_path}/d.tar:x")
        other.flush()
        assert list(other.blobs.digests()) == []
        assert other.images.list() == []
        assert list(other.layers.all()) == []


@pytest.mark.parametrize("form", ["oci:{}/it:x", "dir:{}/it"])
@pytest.mark.parametrize("way", ["store", "layout", "archive"])
def test_damage_is_never_passed_on(
    form: str, way: str, store: Store, image: Image, tmp_path: Path
) -> None:
    source = form.format(tmp_path)
    copy(store, "app:1", source)
    (damaged,) = (tmp_path / "it").rglob(image.manifest.layers[1].digest.hex)
    flip(damaged)
    target = {
        "store": "back",
        "layout": f"oci:{tmp_path}/out:x",
        "archive": f"oci-archive:{tmp_path}/out.tar:x",
    }[way]
    with Store.open(tmp_path / "other") as other:
        with pytest.raises(CorruptBlobError):
            copy(other, source, target)
        other.flush()
        assert other.images.list() == []
        assert list(other.blobs.digests()) == []
    assert not (tmp_path / "out.tar").exists()
    assert not (tmp_path / "out/index.json").exists()


def test_a_damaged_blob_of_the_store_is_healed_by_a_copy(
    store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", f"oci:{tmp_path}/a:x")
    flip_blob(store, image.manifest.layers[0].digest)
    assert problems(store.root) != []
    copy(store, f"oci:{tmp_path}/a:x", "app:1")
    assert problems(store.root) == []


def test_what_cannot_be_run_is_not_taken_into_the_store(store: Store, tmp_path: Path) -> None:
    from layerstore import Manifest

    config = put(store.blobs, b"{}")
    manifest = Manifest(
        config=Descriptor(
            media_type="application/vnd.cncf.helm.config.v1+json",
            digest=config.digest,
            size_bytes=config.size_bytes,
        ),
        layers=(),
    ).encode()
    entry = Descriptor(
        media_type=media.OCI_MANIFEST,
        digest=put(store.blobs, manifest).digest,
        size_bytes=len(manifest),
    )
    store.images.tag_entry(entry, Reference.parse("chart"))
    store.flush()
    assert copy(store, "chart", f"oci:{tmp_path}/a:x") == entry  # by digest it may be copied
    with Store.open(tmp_path / "other") as other:
        with pytest.raises(UnsupportedMediaTypeError, match="helm"):
            copy(other, f"oci:{tmp_path}/a:x", "chart")
        assert list(other.images.entries()) == []


def test_what_is_larger_than_the_disk_is_refused_before_it_is_read(
    store: Store, image: Image, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="are free"):
        store.check_room(1 << 60)
    store.check_room(0)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("oci:{}/missing", "not an OCI image layout"),
        ("dir:{}", "no version file"),
        ("oci-archive:{}/junk", "archive|tar"),
        ("docker-archive:{}/junk", "archive|tar"),
    ],
)
def test_what_holds_no_image_says_so(
    source: str, problem: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    with pytest.raises(MalformedDocumentError, match=problem):
        copy(store, source.format(tmp_path), "x")


def test_a_layout_in_which_a_link_leads_elsewhere_is_refused(
    store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", f"oci:{tmp_path}/a:x")
    blob = tmp_path / "a/blobs/sha256" / image.manifest.layers[0].digest.hex
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with Store.open(tmp_path / "other") as other, pytest.raises(CorruptBlobError):
        copy(other, f"oci:{tmp_path}/a:x", "x")


def estargz(tar: bytes) -> bytes:
    """As eStargz has it: a gzip member for each part, and one of fixed form at the end."""
    parts = [tar[at : at + 2000] for at in range(0, len(tar), 2000)]
    footer = gzip.compress(b"", mtime=0)
    return b"".join(gzip.compress(part, mtime=0) for part in parts) + footer


def zstd_chunked(tar: bytes) -> bytes:
    """As zstd:chunked has it: a frame for each part, then skippable frames with a manifest."""
    frames = [
        zstandard.ZstdCompressor().compress(tar[at : at + 2000]) for at in range(0, len(tar), 2000)
    ]
    about = b"the manifest of the frames, compressed, and a footer" * 10
    skippable = struct.pack("<II", 0x184D2A50, len(about)) + about
    return b"".join(frames) + skippable + struct.pack("<II", 0x184D2A50, 64) + bytes(64)


@pytest.mark.parametrize(
    ("squeeze", "kind"), [(estargz, "gzip"), (zstd_chunked, "zstd"), (bytes, "none")]
)
def test_layers_made_to_be_read_lazily_are_read_plainly(
    squeeze: Callable[[bytes], bytes],
    kind: Compression,
    store: Store,
    image: Image,
    tmp_path: Path,
) -> None:
    layers = []
    for layer in image.layers:
        blob = put(store.blobs, squeeze(b"".join(store.layers.tar_pieces(layer))))
        layers.append(
            Descriptor(
                media_type=media_type(kind),
                digest=blob.digest,
                size_bytes=blob.size_bytes,
                annotations=(("io.github.containers.zstd-chunked.manifest-checksum", "sha256:0"),),
            )
        )
    manifest = replace(image.manifest, layers=tuple(layers))
    lazy = store.images.assemble_as(manifest, image.config, image.layers)
    store.images.tag(lazy, Reference.parse("lazy"))
    store.flush()
    copy(store, "lazy", f"oci:{tmp_path}/a:x")
    with Store.open(tmp_path / "other") as other:
        assert copy(other, f"oci:{tmp_path}/a:x", "back") == lazy.descriptor
        back = other.images.resolve("back")
        assert back.config.diff_ids == image.config.diff_ids
        for layer in back.layers:
            assert other.layers.checkout(layer).is_dir()
    assert problems(tmp_path / "other") == []


@pytest.mark.needs_material
@pytest.mark.parametrize("name", ["app:1", "multi", "lazy"])
def test_every_document_that_is_written_is_valid_by_its_schema(
    name: str, store: Store, multi: Descriptor, image: Image, tmp_path: Path
) -> None:
    zstd = Encoding(compression="zstd", force=True, annotations=(("a", "b"),))
    other = encode_image(store, image, zstd, is_own=lambda _: True)
    store.images.tag(other, Reference.parse("lazy"))
    store.flush()
    copy(store, name, f"oci:{tmp_path}/layout:x", whole=True)
    copy(store, "app:1", f"oci:{tmp_path}/layout:y")
    assert layout_errors(tmp_path / "layout") == []
    assert layout_errors(store.root) == []
    document = tmp_path / "layout/index.json"
    document.write_bytes(document.read_bytes().replace(b'"size":', b'"sized":', 1))
    assert layout_errors(tmp_path / "layout") != []


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("form", BY_DIGEST)
def test_skopeo_passes_on_what_we_wrote_and_we_take_it_back(
    form: str, store: Store, multi: Descriptor, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    ours, theirs = form.format(tmp_path), form.format(tmp_path / "theirs")
    copy(store, "multi", ours, whole=True)
    run(*SKOPEO, "--all", ours, theirs)
    with Store.open(tmp_path / "other") as other:
        assert copy(other, theirs, "back", whole=True).digest == multi.digest
    assert problems(tmp_path / "other") == []


@pytest.mark.needs_peers("skopeo")
def test_skopeo_reads_our_docker_archive_and_we_its(
    store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", f"docker-archive:{tmp_path}/a.tar:app:1")
    run(*SKOPEO, f"docker-archive:{tmp_path}/a.tar:app:1", f"docker-archive:{tmp_path}/b.tar:x:2")
    with Store.open(tmp_path / "other") as other:
        copy(other, f"docker-archive:{tmp_path}/b.tar:x:2", "back")
        assert other.images.resolve("back").id == image.id


@pytest.mark.needs_peers("umoci")
def test_umoci_unpacks_and_repacks_what_we_wrote(
    store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", f"oci:{tmp_path}/a:x")
    run("umoci", "tag", "--image", f"{tmp_path}/a:x", "y")
    run("umoci", "config", "--image", f"{tmp_path}/a:x", "--tag", "z", "--config.env", "A=1")
    with Store.open(tmp_path / "other") as other:
        assert copy(other, f"oci:{tmp_path}/a:y", "same") == image.descriptor
        copy(other, f"oci:{tmp_path}/a:z", "changed")
        assert "A=1" in other.images.resolve("changed").config.config.env
    assert problems(tmp_path / "other") == []


@pytest.mark.needs_root
@pytest.mark.needs_peers("podman")
def test_podman_takes_our_archives_and_its_own_come_back(
    store: Store, image: Image, tmp_path: Path
) -> None:
    podman = Containers()
    try:
        for name in ("oci-archive", "docker-archive"):
            form = f"{name}:{tmp_path}/{name}.tar:app:1"
            copy(store, "app:1", form)
            loaded = podman("podman", "pull", "-q", form).strip()
            assert loaded == image.id.hex
            podman("podman", "push", "-q", loaded, f"oci:{tmp_path}/{name}:x")
    finally:
        podman.close()
    with Store.open(tmp_path / "other") as other:
        copy(other, f"oci:{tmp_path}/oci-archive:x", "back")
        assert other.images.resolve("back").id == image.id
        copy(other, f"oci:{tmp_path}/docker-archive:x", "converted")
        assert other.images.resolve("converted").config.diff_ids == image.config.diff_ids
    assert problems(tmp_path / "other") == []
