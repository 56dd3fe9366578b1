"""OCI image layouts: ours by other tools, and theirs by us."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    Descriptor,
    Digest,
    Export,
    Image,
    Index,
    Platform,
    Reference,
    Store,
    host_platform,
    load_images,
    pack,
    read_layout_image,
    save_images,
)
from layerstore import descriptor as media
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.transports import oci_layout
from tests.support.peers import run
from tests.support.stores import findings, make_image, problems, puts

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
OTHER = Platform(os="linux", architecture="s390x")
peers = pytest.mark.needs_peers
BUSYBOX = Path("/bin/busybox")


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"etc/passwd": b"root:x:0:0"}, {"etc/hello": b"hi"})


def archive(files: Mapping[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    pack(puts(files), out.write)
    return io.BytesIO(out.getvalue())


def layout_of(store: Store, *entries: Descriptor, **more: bytes) -> dict[str, bytes]:
    """The files of a layout with all blobs of a store and these entries."""
    files = {
        "oci-layout": LAYOUT,
        "index.json": Index(manifests=entries).encode(),
        **{
            f"blobs/sha256/{digest.hex}": store.blob_path(digest).read_bytes()
            for digest in store.blobs.digests()
        },
    }
    return files | more


def with_annotations(descriptor: Descriptor, **names: str) -> Descriptor:
    keys = {"full": media.FULL_NAME, "ref": media.REF_NAME}
    return replace(
        descriptor,
        annotations=tuple(sorted((keys.get(key, key), value) for key, value in names.items())),
    )


def add_blob(files: dict[str, bytes], data: bytes, media_type: str) -> Descriptor:
    digest = Digest.of(data)
    files[f"blobs/sha256/{digest.hex}"] = data
    return Descriptor(media_type=media_type, digest=digest, size_bytes=len(data))


# ---- what we write


def test_a_layout_has_what_the_specification_asks_for(
    store: Store, image: Image, tmp_path: Path
) -> None:
    names = (Reference.parse("app:1"), Reference.parse("registry.example/app:2"))
    save_images(store, [Export(image=image, names=names)], tmp_path / "out", format="oci-dir")
    assert json.loads((tmp_path / "out/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "out/index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {media.FULL_NAME: "docker.io/library/app:1", media.REF_NAME: "app:1"},
        {media.FULL_NAME: "registry.example/app:2", media.REF_NAME: "registry.example/app:2"},
    ]
    for path in (tmp_path / "out/blobs/sha256").iterdir():
        assert Digest.of(path.read_bytes()).hex == path.name
    assert len(list((tmp_path / "out/blobs/sha256").iterdir())) == 4


def test_shared_blobs_are_written_once(store: Store, image: Image) -> None:
    exports = [Export(image=image), Export(image=image, names=(Reference.parse("b"),))]
    paths = [change.path for change in oci_layout.contents(store, exports)]
    assert len(paths) == len(set(paths))


def test_the_store_itself_is_a_layout(store: Store, image: Image, other: Store) -> None:
    (loaded,) = load_images(other, store.root)
    assert loaded.image == image
    assert [str(name) for name in loaded.names] == ["app:1"]


# ---- what we read


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"full": "docker.io/library/a:1", "ref": "1"}, ["a:1"]),
        ({"ref": "a:1"}, ["a:1"]),
        ({"ref": "a"}, ["a:latest"]),
        ({"ref": "registry.example/a/b:1"}, ["registry.example/a/b:1"]),
        ({"ref": "NO NAME"}, []),
        ({}, []),
    ],
)
def test_an_image_is_named_by_its_annotations(
    store: Store,
    image: Image,
    other: Store,
    annotations: dict[str, str],
    expected: list[str],
) -> None:
    entry = with_annotations(image.descriptor, **annotations)
    (loaded,) = load_images(other, archive(layout_of(store, entry)))
    assert [str(name) for name in loaded.names] == expected
    assert other.images.resolve(image.id) == image


def test_entries_of_one_image_are_one_image(store: Store, image: Image, other: Store) -> None:
    entries = [with_annotations(image.descriptor, ref=name) for name in ("a:1", "b:1", "a:1")]
    (loaded,) = load_images(other, archive(layout_of(store, *entries)))
    assert [str(name) for name in loaded.names] == ["a:1", "b:1"]


def test_of_several_platforms_the_name_is_the_hosts_and_the_rest_is_kept(
    store: Store, image: Image, other: Store
) -> None:
    foreign = make_image(store, "foreign", {"other": b"machine"})
    files = layout_of(store)
    nested = Index(
        manifests=(
            replace(foreign.descriptor, platform=OTHER),
            replace(image.descriptor, platform=host_platform()),
            replace(
                with_annotations(
                    foreign.descriptor, **{"vnd.docker.reference.type": "attestation-manifest"}
                ),
                platform=Platform(os="unknown", architecture="unknown"),
            ),
        )
    )
    entry = add_blob(files, nested.encode(), media.OCI_INDEX)
    files["index.json"] = Index(manifests=(with_annotations(entry, ref="multi"),)).encode()
    (loaded,) = load_images(other, archive(files))
    other.flush()
    assert loaded.image == image
    assert [str(name) for name in loaded.names] == ["multi:latest"]
    assert loaded.image.entry.digest == entry.digest
    assert other.images.names(loaded.image) == ("multi:latest",)
    assert other.images.resolve("multi", OTHER).id == foreign.id
    assert problems(other.root) == []


def load_multi(store: Store, image: Image, other: Store, **chosen: Platform) -> list[Export]:
    """Load an index of `image` for this host and of another one for OTHER."""
    foreign = make_image(store, "foreign", {"other": b"machine"})
    files = layout_of(store)
    nested = Index(
        manifests=(
            replace(image.descriptor, platform=host_platform()),
            replace(foreign.descriptor, platform=OTHER),
        )
    )
    entry = add_blob(files, nested.encode(), media.OCI_INDEX)
    files["index.json"] = Index(manifests=(with_annotations(entry, ref="multi"),)).encode()
    loaded = load_images(other, archive(files), **chosen)
    other.flush()
    return loaded


def test_an_index_is_saved_whole_and_loads_as_it_was(
    store: Store, image: Image, other: Store, tmp_path: Path
) -> None:
    (loaded,) = load_multi(store, image, other)
    save_images(other, [loaded], tmp_path / "layout", format="oci-dir")
    with Store.open(tmp_path / "third") as third:
        (again,) = load_images(third, tmp_path / "layout")
        assert again.image.entry == loaded.image.entry
        assert again.image == loaded.image
        foreign = third.images.resolve("multi", OTHER)
        assert foreign.layers != image.layers
    assert problems(tmp_path / "third") == []


def test_one_platform_can_be_loaded_alone(store: Store, image: Image, other: Store) -> None:
    (loaded,) = load_multi(store, image, other, platform=OTHER)
    assert loaded.image.index is None
    assert other.images.resolve("multi").id == loaded.image.id != image.id
    assert not other.blobs.has(image.id)
    assert problems(other.root) == []


def test_of_an_index_only_what_is_here_whole_is_saved(
    store: Store, image: Image, other: Store, tmp_path: Path
) -> None:
    (loaded,) = load_multi(store, image, other)
    foreign = other.images.resolve("multi", OTHER)
    for layer in foreign.layers:
        other.blobs.remove(layer.descriptor.digest)
    save_images(other, [loaded], tmp_path / "layout", format="oci-dir")
    names = {path.name for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert loaded.image.entry.digest.hex in names
    assert foreign.descriptor.digest.hex not in names


def test_platforms_side_by_side_in_the_index_are_chosen_from(
    store: Store, image: Image, other: Store
) -> None:
    foreign = make_image(store, "foreign", {"other": b"machine"})
    entries = (
        replace(with_annotations(foreign.descriptor, ref="a"), platform=OTHER),
        replace(with_annotations(image.descriptor, ref="a"), platform=host_platform()),
        with_annotations(foreign.descriptor, **{"vnd.docker.reference.type": "x"}),
    )
    (loaded,) = load_images(other, archive(layout_of(store, *entries)))
    assert loaded.image == image


def test_blobs_of_other_platforms_may_be_absent(store: Store, image: Image, other: Store) -> None:
    absent = Descriptor(
        media_type=media.OCI_MANIFEST, digest=Digest.of(b"?"), size_bytes=1, platform=OTHER
    )
    entries = (absent, replace(image.descriptor, platform=host_platform()))
    (loaded,) = load_images(other, archive(layout_of(store, *entries)))
    assert loaded.image == image


def test_an_archive_without_our_platform_says_so(store: Store, image: Image, other: Store) -> None:
    for entries in ((), (replace(image.descriptor, platform=OTHER),)):
        with pytest.raises(NotFoundError, match=str(host_platform())):
            load_images(other, archive(layout_of(store, *entries)))
    assert list(other.blobs.digests()) == []


def test_dockers_media_types_are_read(store: Store, image: Image, other: Store) -> None:
    files = layout_of(store)
    document = json.loads(image.manifest.encode())
    document["mediaType"] = media.DOCKER_MANIFEST
    document["config"]["mediaType"] = media.DOCKER_CONFIG
    for layer in document["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    entry = add_blob(files, json.dumps(document).encode(), media.DOCKER_MANIFEST)
    files["index.json"] = Index(manifests=(entry,)).encode()
    (loaded,) = load_images(other, archive(files))
    other.flush()
    assert loaded.image.id == image.id
    assert loaded.image.descriptor.media_type == media.DOCKER_MANIFEST
    assert other.layers.checkout(loaded.image.layers[0]).is_dir()
    assert problems(other.root) == []


Tamper = Callable[[dict[str, bytes], Image], object]


def set_index(**fields: object) -> Tamper:
    def tamper(files: dict[str, bytes], _: Image) -> None:
        document = json.loads(files["index.json"]) | fields
        files["index.json"] = json.dumps(document).encode()

    return tamper


def set_entry(**fields: object) -> Tamper:
    def tamper(files: dict[str, bytes], _: Image) -> None:
        document = json.loads(files["index.json"])
        document["manifests"][0] |= fields
        files["index.json"] = json.dumps(document).encode()

    return tamper


def edit_manifest(edit: Callable[[dict[str, Any]], object]) -> Tamper:
    """Change the manifest, and everything that names it, consistently."""

    def tamper(files: dict[str, bytes], image: Image) -> None:
        document = json.loads(image.manifest.encode())
        edit(document)
        entry = add_blob(files, json.dumps(document).encode(), media.OCI_MANIFEST)
        files["index.json"] = Index(manifests=(entry,)).encode()

    return tamper


def drop_layer(files: dict[str, bytes], image: Image) -> None:
    del files[f"blobs/sha256/{image.layers[0].descriptor.digest.hex}"]


def swap_layers(document: dict[str, Any]) -> None:
    document["layers"].reverse()


def lie_about_size(document: dict[str, Any]) -> None:
    document["layers"][0]["size"] += 1


def lie_about_compression(document: dict[str, Any]) -> None:
    document["layers"][0]["mediaType"] += "x"


def claim_zstd(document: dict[str, Any]) -> None:
    document["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"


TAMPERED: dict[str, tuple[Tamper, type[StoreError]]] = {
    "layout version": (
        lambda f, _: f.update({"oci-layout": b'{"imageLayoutVersion":"9"}'}),
        MalformedDocumentError,
    ),
    "layout no json": (lambda f, _: f.update({"oci-layout": b"{"}), MalformedDocumentError),
    "index no json": (lambda f, _: f.update({"index.json": b"nothing"}), MalformedDocumentError),
    "index and manifest": (set_index(layers=[]), MalformedDocumentError),
    "wrong size": (set_entry(size=5), CorruptBlobError),
    "wrong digest": (set_entry(digest=f"sha256:{'a' * 64}"), NotFoundError),
    "digest with a path": (set_entry(digest="sha256:../../x"), MalformedDocumentError),
    "named artifact": (
        set_entry(mediaType="application/vnd.example", annotations={media.REF_NAME: "x"}),
        UnsupportedMediaTypeError,
    ),
    "missing layer": (drop_layer, NotFoundError),
    "swapped layers": (edit_manifest(swap_layers), CorruptBlobError),
    "layer too few": (edit_manifest(lambda d: d["layers"].pop()), MalformedDocumentError),
    "wrong layer size": (edit_manifest(lie_about_size), CorruptBlobError),
    "unknown layer type": (edit_manifest(lie_about_compression), UnsupportedMediaTypeError),
    "wrong compression": (edit_manifest(claim_zstd), MalformedDocumentError),
    "no config": (edit_manifest(lambda d: d.pop("config")), MalformedDocumentError),
    "manifest and index": (edit_manifest(lambda d: d.update(manifests=[])), MalformedDocumentError),
}


@pytest.mark.parametrize(("tamper", "error"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_layout_is_refused_and_leaves_nothing(
    store: Store, image: Image, other: Store, tamper: Tamper, error: type[StoreError]
) -> None:
    files = layout_of(store, with_annotations(image.descriptor, ref="app"))
    tamper(files, image)
    with pytest.raises(error):
        load_images(other, archive(files))
    other.flush()
    assert other.images.list() == []
    assert list(other.blobs.digests()) == []
    assert list(other.layers.all()) == []


# ---- other tools


@pytest.fixture
def runnable(store: Store) -> Image:
    """An image with a program, by two names."""
    content = BUSYBOX.read_bytes() if BUSYBOX.exists() else b"none"
    image = make_image(store, "tools:1", {"bin/busybox": content}, {"etc/motd": b"hello\n"})
    store.images.tag(image, Reference.parse("registry.example/team/tools:v2"))
    make_image(store, "other", {"x": b"y"})
    return image


@peers("skopeo")
@pytest.mark.parametrize("name", ["tools:1", "registry.example/team/tools:v2"])
def test_skopeo_reads_the_store_in_place(
    store: Store, runnable: Image, tmp_path: Path, name: str
) -> None:
    found = json.loads(run("skopeo", "inspect", f"oci:{store.root}:{name}"))
    assert found["Digest"] == runnable.descriptor.digest
    assert found["Layers"] == [layer.digest for layer in runnable.manifest.layers]
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{store.root}:{name}"))
    assert config["config"]["Env"] == ["PATH=/bin"]
    run("skopeo", "copy", f"oci:{store.root}:{name}", f"dir:{tmp_path}/dir")
    assert (tmp_path / "dir" / runnable.id.hex).read_bytes() == store.blob_path(
        runnable.id
    ).read_bytes()


@peers("umoci")
@pytest.mark.needs_root
def test_umoci_unpacks_from_the_store_in_place(
    store: Store, runnable: Image, tmp_path: Path
) -> None:
    run("umoci", "unpack", "--image", f"{store.root}:tools:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/motd").read_bytes() == b"hello\n"
    assert (tmp_path / "bundle/rootfs/bin/busybox").read_bytes()[:4] in (b"\x7fELF", b"none")
    assert "tools:1" in run("umoci", "list", "--layout", store.root)


@peers("skopeo")
@pytest.mark.parametrize("kind", ["oci-archive", "docker"])
def test_skopeo_reads_our_archives(
    store: Store, runnable: Image, tmp_path: Path, kind: Any
) -> None:
    export = Export(image=runnable, names=(Reference.parse("tools:1"),))
    with (tmp_path / "a.tar").open("wb") as file:
        save_images(store, [export], file, format=kind)
    found = json.loads(run("skopeo", "inspect", f"oci-archive:{tmp_path}/a.tar:tools:1"))
    assert found["Digest"] == runnable.descriptor.digest


@peers("skopeo")
@pytest.mark.parametrize("target", ["oci", "oci-archive"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_we_load_what_skopeo_writes(
    store: Store, runnable: Image, other: Store, tmp_path: Path, target: str, compression: str
) -> None:
    path = tmp_path / "theirs"
    run(
        "skopeo",
        "copy",
        *("--dest-compress-format", compression, "--dest-compress"),
        f"oci:{store.root}:tools:1",
        f"{target}:{path}:copied:3",
    )
    (loaded,) = load_images(other, path)
    other.flush()
    assert loaded.image.config == runnable.config
    assert [str(name) for name in loaded.names] == ["copied:3"]
    assert [layer.diff_id for layer in loaded.image.layers] == list(runnable.config.diff_ids)
    assert problems(other.root) == []


@peers("skopeo")
def test_an_image_that_skopeo_puts_into_the_store_is_ours(
    store: Store, runnable: Image, other: Store
) -> None:
    kept = make_image(other, "kept", {"k": b"1"})
    run("skopeo", "copy", f"oci:{store.root}:tools:1", f"oci:{other.root}:put:1")
    with Store.open(other.root) as fresh:
        assert fresh.images.resolve("put:1").config == runnable.config
        assert fresh.images.resolve("kept") == kept
        assert (fresh.layers.lowerdirs(fresh.images.resolve("put:1").layers)[0]).is_dir()
    with Store.open(other.root) as fresh:
        assert findings(fresh) == []


@peers("umoci")
@pytest.mark.needs_root
def test_what_umoci_changes_in_the_store_is_read(
    store: Store, runnable: Image, tmp_path: Path
) -> None:
    run("umoci", "config", "--image", f"{store.root}:tools:1", "--config.user", "nobody")
    with Store.open(store.root) as fresh:
        changed = fresh.images.resolve("tools:1")
        assert changed.config.config.user == "nobody"
        assert changed.layers == runnable.layers
        assert findings(fresh) == []


# One image of a layout, without a name here.


def write_layout(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_one_image_is_taken_by_tag_or_digest_and_gets_no_name(
    store: Store, image: Image, other: Store, tmp_path: Path
) -> None:
    second = make_image(store, "app:2", {"f": b"2"})
    root = write_layout(
        tmp_path / "layout",
        layout_of(
            store,
            with_annotations(image.descriptor, ref="1"),
            with_annotations(second.descriptor, ref="example.org/app:2"),
        ),
    )
    wanted = {"1": image, "2": second, second.descriptor.digest: second}
    for text, expected in wanted.items():
        found = read_layout_image(other, root, wanted=text, platform=host_platform())
        assert found.id == expected.id
    assert other.images.list() == []
    with pytest.raises(StoreError, match="2 images that fit") as caught:
        read_layout_image(other, root, wanted="", platform=host_platform())
    assert "@DIGEST" in caught.value.hint
    with pytest.raises(NotFoundError, match="'3' for"):
        read_layout_image(other, root, wanted="3", platform=host_platform())


def test_the_only_image_of_a_platform_needs_no_tag(
    store: Store, image: Image, other: Store, tmp_path: Path
) -> None:
    foreign = make_image(store, "app:2", {"f": b"2"})
    entries = (
        replace(image.descriptor, platform=host_platform()),
        replace(foreign.descriptor, platform=OTHER),
    )
    root = write_layout(tmp_path / "layout", layout_of(store, *entries))
    for platform, expected in ((host_platform(), image), (OTHER, foreign)):
        assert read_layout_image(other, root, wanted="", platform=platform).id == expected.id
