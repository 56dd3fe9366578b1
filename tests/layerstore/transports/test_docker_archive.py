"""Docker's archive: ours by other tools, and all its generations by us."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from layerstore import (
    Descriptor,
    Digest,
    Export,
    Format,
    Image,
    Index,
    Reference,
    Store,
    load_images,
    save_images,
)
from layerstore import descriptor as media
from layerstore.errors import (
    CorruptBlobError,
    InvalidReferenceError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
)
from layerstore.transports import docker_archive
from tests.support.peers import Containers, run
from tests.support.stores import make_image, problems

peers = pytest.mark.needs_peers
BUSYBOX = Path("/bin/busybox")
Files = dict[str, bytes | str]  # text is the target of a link


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"etc/passwd": b"root:x:0:0"}, {"etc/hello": b"hi"})


def archive(files: Files) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


def tars_of(store: Store, image: Image) -> list[bytes]:
    return [b"".join(store.layers.tar_pieces(layer)) for layer in image.layers]


def manifest(config: str, layers: list[str], tags: list[str] | None) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": tags, "Layers": layers}]).encode()


def classic(store: Store, image: Image, tags: list[str] | None = None) -> Files:
    """As docker wrote it from 1.10 to 24: a directory for each layer, named by a random id."""
    files: Files = {}
    names = []
    for number, tar in enumerate(tars_of(store, image)):
        folder = f"{number:064x}"
        files |= {
            f"{folder}/VERSION": b"1.0",
            f"{folder}/json": b'{"id":"legacy"}',
            f"{folder}/layer.tar": tar,
        }
        names.append(f"{folder}/layer.tar")
    config = f"{image.id.hex}.json"
    files[config] = store.blob_path(image.id).read_bytes()
    files["manifest.json"] = manifest(config, names, ["app:1"] if tags is None else tags)
    files["repositories"] = b'{"app":{"1":"legacy"}}'
    return files


# ---- what we write


def saved(store: Store, exports: list[Export], path: Path, format: Format) -> dict[str, bytes]:
    with path.open("wb") as file:
        save_images(store, exports, file, format=format)
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            content = archive.extractfile(member)
            if content is not None:
                found[member.name] = content.read()
    return found


def test_the_classic_archive_has_uncompressed_layers(
    store: Store, image: Image, tmp_path: Path
) -> None:
    names = (Reference.parse("app:1"), Reference.parse("registry.example/app:2"))
    files = saved(store, [Export(image=image, names=names)], tmp_path / "a.tar", "docker-archive")
    (row,) = json.loads(files["manifest.json"])
    assert row["RepoTags"] == ["app:1", "registry.example/app:2"]
    assert row["Config"] == f"{image.id.hex}.json"
    assert Digest.of(files[row["Config"]]) == image.id
    assert [Digest.of(files[name]) for name in row["Layers"]] == list(image.config.diff_ids)


def test_the_archive_beside_a_layout_names_its_blobs(
    store: Store, image: Image, tmp_path: Path
) -> None:
    files = saved(store, [Export(image=image)], tmp_path / "a.tar", "docker")
    (row,) = json.loads(files["manifest.json"])
    assert row["RepoTags"] is None
    assert Digest.of(files[row["Config"]]) == image.id
    assert [Digest.of(files[name]) for name in row["Layers"]] == [
        layer.digest for layer in image.manifest.layers
    ]
    assert set(files) >= {"oci-layout", "index.json", row["Config"], *row["Layers"]}


def test_layers_that_occur_twice_are_written_once(store: Store, image: Image) -> None:
    changes = docker_archive.contents(store, [Export(image=image), Export(image=image)])
    paths = [change.path for change in changes]
    assert len(paths) == len(set(paths))


# ---- what we read


def load(store: Store, files: Files) -> Export:
    (export,) = load_images(store, archive(files))
    store.flush()
    return export


def test_a_classic_archive_is_read(store: Store, image: Image, other: Store) -> None:
    loaded = load(other, classic(store, image))
    assert loaded.image.id == image.id
    assert [str(name) for name in loaded.names] == ["app:1"]
    assert [layer.diff_id for layer in loaded.image.layers] == list(image.config.diff_ids)
    assert {layer.media_type for layer in loaded.image.manifest.layers} == {
        "application/vnd.oci.image.layer.v1.tar"
    }
    assert problems(other.root) == []


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_layers_are_kept_as_they_are(
    store: Store, image: Image, other: Store, compress: Callable[[bytes], bytes]
) -> None:
    files = classic(store, image)
    for name, content in files.items():
        if name.endswith("layer.tar") and isinstance(content, bytes):
            files[name] = compress(content)
    loaded = load(other, files)
    assert loaded.image.id == image.id
    digests = {Digest.of(content) for content in files.values() if isinstance(content, bytes)}
    assert {layer.digest for layer in loaded.image.manifest.layers} <= digests
    assert problems(other.root) == []


def test_a_layer_of_another_compression_is_refused(
    store: Store, image: Image, other: Store
) -> None:
    import bz2

    files = classic(store, image)
    name = f"{0:064x}/layer.tar"
    content = files[name]
    assert isinstance(content, bytes)
    files[name] = bz2.compress(content)
    with pytest.raises(MalformedDocumentError, match="bzip2"):
        load_images(other, archive(files))


def test_layers_shared_by_links_are_found(store: Store, image: Image, other: Store) -> None:
    files = classic(store, image)
    real, linked = f"{0:064x}/layer.tar", "shared/layer.tar"
    files[linked] = files[real]
    files[real] = "../shared/layer.tar"
    assert load(other, files).image.id == image.id


def test_layers_known_already_are_not_stored_again(store: Store, image: Image) -> None:
    before = set(store.blobs.digests())
    loaded = load(store, classic(store, image))
    assert loaded.image == image
    assert set(store.blobs.digests()) == before


def test_several_images_are_read(store: Store, image: Image, other: Store) -> None:
    second = make_image(store, "second:1", {"etc/passwd": b"root:x:0:0"})
    files = classic(store, image) | {
        key: value for key, value in classic(store, second).items() if key != "manifest.json"
    }
    files[f"{9:064x}/layer.tar"] = tars_of(store, second)[0]
    rows = json.loads(manifest(f"{image.id.hex}.json", [], ["app:1", "app:also"]))
    rows[0]["Layers"] = [f"{number:064x}/layer.tar" for number in range(2)]
    rows += json.loads(manifest(f"{second.id.hex}.json", [f"{9:064x}/layer.tar"], None))
    files["manifest.json"] = json.dumps(rows).encode()
    loaded = load_images(other, archive(files))
    assert [export.image.id for export in loaded] == [image.id, second.id]
    assert [[str(name) for name in export.names] for export in loaded] == [
        ["app:1", "app:also"],
        [],
    ]
    assert other.images.resolve(second.id).config == second.config


def test_the_order_of_members_does_not_matter(store: Store, image: Image, other: Store) -> None:
    files = dict(reversed(classic(store, image).items()))
    assert load(other, files).image.id == image.id


def test_names_of_manifest_json_name_the_images_of_the_layout(
    store: Store, image: Image, other: Store
) -> None:
    """As docker 25 writes it: the layout's ref.name may be the bare tag."""
    blobs = {
        f"blobs/sha256/{digest.hex}": store.blob_path(digest).read_bytes()
        for digest in store.blobs.digests()
    }
    files: Files = {
        **blobs,
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": Index(manifests=(image.descriptor,)).encode(),
        "manifest.json": manifest(
            f"blobs/sha256/{image.id.hex}",
            [f"blobs/sha256/{layer.digest.hex}" for layer in image.manifest.layers],
            ["app:1", "app:2"],
        ),
    }
    loaded = load(other, files)
    assert loaded.image == image
    assert [str(name) for name in loaded.names] == ["app:1", "app:2"]


def test_legacy_blobs_by_digest_without_a_layout_are_read(
    store: Store, image: Image, other: Store
) -> None:
    files: Files = {
        "manifest.json": manifest(
            f"blobs/sha256/{image.id.hex}",
            [f"blobs/sha256/{layer.digest.hex}" for layer in image.manifest.layers],
            ["app:1"],
        )
    }
    for digest in store.blobs.digests():
        files[f"blobs/sha256/{digest.hex}"] = store.blob_path(digest).read_bytes()
    assert load(other, files).image == image


# ---- what is refused

Tamper = Callable[[Files], object]


def edit_row(**fields: object) -> Tamper:
    def tamper(files: Files) -> None:
        rows: Any = json.loads(files["manifest.json"])
        rows[0] |= fields
        files["manifest.json"] = json.dumps(rows).encode()

    return tamper


def set_manifest(data: bytes) -> Tamper:
    return lambda files: files.update({"manifest.json": data})


def swap_layers(files: Files) -> None:
    first, second = f"{0:064x}/layer.tar", f"{1:064x}/layer.tar"
    files[first], files[second] = files[second], files[first]


def flip_layer(files: Files) -> None:
    name = f"{0:064x}/layer.tar"
    content = files[name]
    assert isinstance(content, bytes)
    files[name] = content.replace(b"root:x", b"root::")


def change_config(files: Files) -> None:
    name = next(name for name in files if name.endswith(".json") and len(name) == 69)
    content = files[name]
    assert isinstance(content, bytes)
    files[name] = content.replace(b"/bin/true", b"/bin/evil")


TAMPERED: dict[str, tuple[Tamper, type[StoreError]]] = {
    "no manifest": (lambda f: f.pop("manifest.json"), MalformedDocumentError),
    "manifest no json": (set_manifest(b"{"), MalformedDocumentError),
    "manifest no list": (set_manifest(b"{}"), MalformedDocumentError),
    "manifest empty": (set_manifest(b"[]"), MalformedDocumentError),
    "row no object": (set_manifest(b"[5]"), MalformedDocumentError),
    "deep manifest": (set_manifest(b"[" * 100_000), MalformedDocumentError),
    "config missing": (edit_row(Config=None), MalformedDocumentError),
    "config not there": (edit_row(Config="missing.json"), NotFoundError),
    "config outside": (edit_row(Config="../../../../etc/passwd"), NotFoundError),
    "config absolute": (edit_row(Config="/etc/passwd"), NotFoundError),
    "config changed": (change_config, CorruptBlobError),
    "layers wrong type": (edit_row(Layers="x"), MalformedDocumentError),
    "too few layers": (edit_row(Layers=[]), MalformedDocumentError),
    "layer outside": (edit_row(Layers=["../x", "/etc/passwd"]), NotFoundError),
    "swapped layers": (swap_layers, CorruptBlobError),
    "changed layer": (flip_layer, CorruptBlobError),
    "bad name": (edit_row(RepoTags=["NOT A NAME"]), InvalidReferenceError),
    "names wrong type": (edit_row(RepoTags=[5]), MalformedDocumentError),
    "link outside": (lambda f: f.update({"x": "/etc/passwd"}), MalformedDocumentError),
}


@pytest.mark.parametrize(("tamper", "error"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_archive_is_refused_and_leaves_nothing(
    store: Store, image: Image, other: Store, tamper: Tamper, error: type[StoreError]
) -> None:
    files = classic(store, image)
    tamper(files)
    with pytest.raises(error) as caught:
        load_images(other, archive(files))
    assert len(str(caught.value)) < 1000
    other.flush()
    assert other.images.list() == []
    assert list(other.blobs.digests()) == []
    assert list(other.layers.all()) == []
    assert list((other.private / "toc").iterdir()) == []


def test_a_root_file_system_is_told_to_be_imported(other: Store) -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        load_images(other, archive({"etc/passwd": b"root"}))
    assert "lamina import" in caught.value.hint


def test_a_layer_descriptor_of_a_tiny_blob_is_plain(other: Store) -> None:
    from layerstore.blobs import put

    info = put(other.blobs, b"tiny")
    found = docker_archive._layer_descriptor(other, info)
    assert found == Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar", digest=info.digest, size_bytes=4
    )


# ---- other tools


@pytest.fixture
def runnable(store: Store) -> Image:
    from layerstore import ContainerConfig, ImageConfig, Meta, PutDir, PutFile, TreePath

    if not BUSYBOX.exists():
        pytest.skip("busybox is not installed")
    content = BUSYBOX.read_bytes()
    layers = [
        store.layers.commit(
            [
                PutDir(TreePath("bin"), Meta(0o755)),
                PutFile(TreePath("bin/sh"), Meta(0o755), len(content), content),
            ]
        ),
        store.layers.commit([PutFile(TreePath("hello"), Meta(0o644), 3, b"hi\n")]),
    ]
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        created="2024-05-06T07:08:09Z",
        config=ContainerConfig(
            env=("PATH=/bin", "WHO=lamina"),
            cmd=("/bin/sh", "-c", "read line < /hello; echo $line $WHO"),
        ),
    )
    image = store.images.seal(config, layers)
    store.images.tag(image, Reference.parse("tools:1"))
    store.flush()
    return image


@pytest.fixture
def podman() -> Iterator[Containers]:
    containers = Containers()
    yield containers
    containers.close()


@peers("podman")
@pytest.mark.needs_root
@pytest.mark.parametrize("format", ["docker", "docker-archive", "oci-archive"])
def test_podman_loads_and_runs_what_we_save(
    store: Store, runnable: Image, podman: Containers, tmp_path: Path, format: Any
) -> None:
    export = Export(image=runnable, names=(Reference.parse("tools:1"),))
    with (tmp_path / "a.tar").open("wb") as file:
        save_images(store, [export], file, format=format)
    assert "tools:1" in podman("podman", "load", "-i", tmp_path / "a.tar")
    assert podman("podman", "images", "-q", "--no-trunc").strip() == runnable.id
    out = podman("podman", "run", "--rm", "--network", "host", "--cgroups", "disabled", "tools:1")
    assert out == "hi lamina\n"


@peers("podman")
@pytest.mark.needs_root
@pytest.mark.parametrize("format", ["docker-archive", "oci-archive", "oci-dir"])
def test_we_load_what_podman_saves(
    store: Store,
    runnable: Image,
    podman: Containers,
    other: Store,
    tmp_path: Path,
    format: str,
) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        save_images(
            store,
            [Export(image=runnable, names=(Reference.parse("tools:1"),))],
            file,
            format="docker",
        )
    podman("podman", "load", "-i", tmp_path / "a.tar")
    podman("podman", "save", "--format", format, "-o", tmp_path / "b", "tools:1")
    (loaded,) = load_images(other, tmp_path / "b")
    other.flush()
    assert loaded.image.config.diff_ids == runnable.config.diff_ids
    assert loaded.image.config.config == runnable.config.config
    (name,) = loaded.names
    assert name.familiar.endswith("tools:1")
    assert problems(other.root) == []


@peers("skopeo")
@pytest.mark.parametrize("format", ["docker", "docker-archive"])
def test_skopeo_reads_our_archives(
    store: Store, runnable: Image, tmp_path: Path, format: Any
) -> None:
    export = Export(image=runnable, names=(Reference.parse("tools:1"),))
    with (tmp_path / "a.tar").open("wb") as file:
        save_images(store, [export], file, format=format)
    run("skopeo", "copy", f"docker-archive:{tmp_path}/a.tar:tools:1", f"dir:{tmp_path}/dir")
    found = json.loads((tmp_path / "dir/manifest.json").read_bytes())
    assert found["config"]["digest"] == runnable.id
    assert found["mediaType"] == media.DOCKER_MANIFEST


@peers("skopeo")
def test_we_load_what_skopeo_writes(
    store: Store, runnable: Image, other: Store, tmp_path: Path
) -> None:
    target = f"docker-archive:{tmp_path}/theirs.tar:registry.example/tools:5"
    run("skopeo", "copy", f"oci:{store.root}:tools:1", target)
    (loaded,) = load_images(other, tmp_path / "theirs.tar")
    assert [str(name) for name in loaded.names] == ["registry.example/tools:5"]
    assert loaded.image.config.diff_ids == runnable.config.diff_ids
