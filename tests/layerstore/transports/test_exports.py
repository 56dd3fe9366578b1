"""Saving and loading in every format, through `save_images` and `load_images`."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import zstandard

from layerstore import Change, Export, Format, Image, Reference, Store, load_images, save_images
from layerstore.blobs import get
from layerstore.errors import CorruptBlobError, StoreError
from layerstore.transports.exports import (
    blob_name,
    blob_pieces,
    directory,
    large_file,
    small_file,
    write_archive,
    write_directory,
)
from tests.support.stores import (
    findings,
    flip,
    flip_blob,
    kill,
    make_image,
    make_layer,
    problems,
    seal,
    start,
)

FORMATS: tuple[Format, ...] = get_args(Format)
ARCHIVES: tuple[Format, ...] = ("docker", "oci-archive", "docker-archive")


@pytest.fixture
def exports(store: Store) -> list[Export]:
    """Two images that share a layer; one has two names, the other none."""
    base = {"bin/sh": b"#!" * 5000, "etc/passwd": b"root"}
    named = make_image(store, "app:1", base, {"big": os.urandom(300_000)})
    nameless = seal(store, [make_layer(store, base), make_layer(store, {"empty": b""})])
    store.flush()
    names = (Reference.parse("app:1"), Reference.parse("registry.example/team/app:v2"))
    return [Export(image=named, names=names), Export(image=nameless, names=())]


def save(store: Store, exports: list[Export], tmp_path: Path, format: Format) -> Path:
    path = tmp_path / f"saved-{format}"
    if format == "oci-dir":
        save_images(store, exports, path, format=format)
    else:
        with path.open("wb") as file:
            save_images(store, exports, file, format=format)
    return path


def names_of(exports: list[Export]) -> list[list[str]]:
    return [[str(name) for name in export.names] for export in exports]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_saved_is_loaded(
    store: Store, other: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    loaded = load_images(other, save(store, exports, tmp_path, format))
    other.flush()

    assert names_of(loaded) == names_of(exports)
    for before, after in zip(exports, loaded, strict=True):
        assert after.image.id == before.image.id
        assert [layer.diff_id for layer in after.image.layers] == [
            layer.diff_id for layer in before.image.layers
        ]
        if format != "docker-archive":
            assert after.image == before.image
    assert problems(other.root) == []
    with Store.open(other.root) as fresh:
        assert fresh.images.resolve("app:1").id == exports[0].image.id
        assert fresh.images.resolve("registry.example/team/app:v2").id == exports[0].image.id
        assert fresh.images.resolve(exports[1].image.id).id == exports[1].image.id


@pytest.mark.parametrize("format", FORMATS)
def test_loading_where_it_came_from_changes_nothing(
    store: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    store.images.tag(exports[0].image, exports[0].names[1])
    store.images.note_untagged(exports[1].image)
    store.flush()
    before = sorted(store.blobs.digests()), (store.root / "index.json").read_bytes()
    loaded = load_images(store, save(store, exports, tmp_path, format))
    store.flush()
    assert [export.image for export in loaded] == [export.image for export in exports]
    assert sorted(store.blobs.digests()) == before[0]
    assert len((store.root / "index.json").read_bytes()) == len(before[1])
    assert findings(store) == []


@pytest.mark.parametrize("format", FORMATS)
def test_saving_twice_gives_the_same_bytes(
    store: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for place in (first, second):
        place.mkdir()
        save(store, exports, place, format)
    subprocess.run(["diff", "-r", first, second], check=True)


@pytest.mark.parametrize("format", ARCHIVES)
@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_a_compressed_archive_is_loaded(
    store: Store,
    other: Store,
    exports: list[Export],
    tmp_path: Path,
    format: Format,
    compress: Callable[[bytes], bytes],
) -> None:
    data = compress(save(store, exports, tmp_path, format).read_bytes())
    (tmp_path / "compressed").write_bytes(data)
    assert names_of(load_images(other, tmp_path / "compressed")) == names_of(exports)


class Pipe:
    """A stream that cannot seek, and gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000) if size >= 0 else 1000)


@pytest.mark.parametrize("format", ARCHIVES)
def test_a_stream_is_loaded(
    store: Store, other: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    data = save(store, exports, tmp_path, format).read_bytes()
    assert names_of(load_images(other, Pipe(data))) == names_of(exports)


@pytest.mark.parametrize("format", ARCHIVES)
def test_a_file_packed_by_gnu_tar_is_loaded(
    store: Store, other: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    """Other order of members, `./` before names, GNU's format."""
    saved = save(store, exports, tmp_path, format)
    (tmp_path / "files").mkdir()
    subprocess.run(["tar", "-xf", saved, "-C", tmp_path / "files"], check=True)
    subprocess.run(
        ["tar", "-cf", tmp_path / "again", "-C", tmp_path / "files", "--sort=inode", "."],
        check=True,
    )
    assert names_of(load_images(other, tmp_path / "again")) == names_of(exports)


def test_gnu_tar_reads_what_is_saved(store: Store, exports: list[Export], tmp_path: Path) -> None:
    listed = subprocess.run(
        ["tar", "-tvf", save(store, exports, tmp_path, "docker")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stderr == ""
    for name in ("oci-layout", "index.json", "manifest.json", "blobs/sha256/"):
        assert name in listed.stdout


def test_an_image_is_loaded_without_taking_names_away(
    store: Store, other: Store, exports: list[Export], tmp_path: Path
) -> None:
    old = make_image(other, "app:1", {"old": b"1"})
    keep = make_image(other, "keep", {"keep": b"1"})
    load_images(other, save(store, exports, tmp_path, "docker"))
    assert other.images.resolve("app:1").id == exports[0].image.id
    assert other.images.resolve(old.id) == old
    assert other.images.resolve("keep") == keep


def test_only_what_was_asked_for_is_in_the_archive(
    store: Store, other: Store, exports: list[Export], tmp_path: Path
) -> None:
    saved = save(store, exports[1:], tmp_path, "docker")
    names = subprocess.run(["tar", "-tf", saved], capture_output=True, text=True, check=True).stdout
    assert exports[0].image.id.hex not in names
    load_images(other, saved)
    assert [record.id for record in other.images.list()] == [exports[1].image.id]


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_store_saves_nothing_silently(
    store: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    flip_blob(store, exports[0].image.layers[0].descriptor.digest)
    with pytest.raises(StoreError):
        save(store, exports, tmp_path, format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_archive_leaves_nothing(
    store: Store, other: Store, exports: list[Export], tmp_path: Path, format: Format
) -> None:
    saved = save(store, exports, tmp_path, format)
    layer = exports[0].image.layers[1]
    name = layer.descriptor.digest.hex
    if format == "oci-dir":
        flip(saved / "blobs/sha256" / name, 50_000)
    else:
        flip(saved, saved.read_bytes().index(middle_of(store, exports[0].image, format)))
    with pytest.raises(StoreError):
        load_images(other, saved)
    other.flush()
    assert list(other.blobs.digests()) == []
    assert other.images.list() == []
    other.close()
    assert list((other.root / "lamina/tmp").iterdir()) == []


def middle_of(store: Store, image: Image, format: Format) -> bytes:
    """Some bytes of the last layer as they stand in an archive."""
    layer = image.layers[-1]
    if format == "docker-archive":
        data = b"".join(store.layers.tar_pieces(layer))
    else:
        data = get(store.blobs, layer.descriptor.digest, size_bytes_max=1 << 20)
    return data[100_000:100_064]


@pytest.mark.parametrize("format", ARCHIVES)
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_archive_is_refused(
    store: Store,
    other: Store,
    exports: list[Export],
    tmp_path: Path,
    format: Format,
    part: float,
) -> None:
    data = save(store, exports, tmp_path, format).read_bytes()
    with pytest.raises(StoreError):
        load_images(other, io.BytesIO(data[: int(part * len(data))]))
    assert list(other.blobs.digests()) == []


def test_loading_what_heals_a_damaged_store(
    store: Store, exports: list[Export], tmp_path: Path
) -> None:
    saved = save(store, exports, tmp_path, "docker")
    for digest in list(store.blobs.digests()):
        flip_blob(store, digest)
    store.close()
    with Store.open(store.root) as damaged:
        load_images(damaged, saved)
    assert problems(store.root) == []


def test_killed_while_loading_nothing_is_there(
    store: Store, exports: list[Export], tmp_path: Path
) -> None:
    saved = save(store, exports, tmp_path, "docker").read_bytes()
    process = start(
        """
import sys
from pathlib import Path
from layerstore import Store, load_images
with Store.open(Path(sys.argv[1])) as store:
    print("open", flush=True)
    load_images(store, sys.stdin.buffer)
""",
        tmp_path / "victim",
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"open\n"
    process.stdin.write(saved[: len(saved) * 3 // 4])
    process.stdin.flush()
    kill(process)
    with Store.open(tmp_path / "victim") as victim:
        assert findings(victim) == []
        assert victim.images.list() == []
        assert list(victim.blobs.digests()) == []
    assert list((tmp_path / "victim/lamina/tmp").iterdir()) == []


# ---- the parts


def test_a_directory_must_be_empty(store: Store, exports: list[Export], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(StoreError, match="not empty"):
        save_images(store, exports, tmp_path / "full", format="oci-dir")
    save_images(store, exports, tmp_path / "new" / "deep", format="oci-dir")
    assert (tmp_path / "new/deep/oci-layout").is_file()


def test_a_directory_belongs_to_who_writes_it(
    store: Store, exports: list[Export], tmp_path: Path
) -> None:
    path = save(store, exports, tmp_path, "oci-dir")
    for found in path.rglob("*"):
        assert found.stat().st_uid == os.geteuid()
        assert found.stat().st_mode & 0o777 == (0o755 if found.is_dir() else 0o644)


def test_the_kind_of_target_must_fit_the_format(
    store: Store, exports: list[Export], tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="directory"):
        save_images(store, exports, io.BytesIO(), format="oci-dir")
    with pytest.raises(StoreError, match="file"):
        save_images(store, exports, tmp_path, format="docker")


def test_entries_of_an_archive_have_fixed_attributes() -> None:
    for change in (directory("d"), small_file("f", b"1"), large_file("f", 1, lambda: iter([b"1"]))):
        assert (change.meta.uid, change.meta.gid, change.meta.mtime_ns) == (0, 0, 0)


def test_archives_and_directories_hold_the_same(tmp_path: Path) -> None:
    changes: list[Change] = [
        directory("d"),
        small_file("d/f", b"1"),
        large_file("g", 2, lambda: iter([b"22"])),
    ]
    with (tmp_path / "tar").open("wb") as file:
        write_archive(changes, file)
    write_directory(changes, tmp_path / "dir")
    (tmp_path / "untarred").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "tar", "-C", tmp_path / "untarred"], check=True)
    subprocess.run(["diff", "-r", tmp_path / "dir", tmp_path / "untarred"], check=True)


def test_the_pieces_of_a_blob_are_verified(store: Store, exports: list[Export]) -> None:
    descriptor = exports[0].image.manifest.config
    assert b"".join(blob_pieces(store, descriptor.digest, descriptor.size_bytes)) == get(
        store.blobs, descriptor.digest
    )
    with pytest.raises(CorruptBlobError):
        list(blob_pieces(store, descriptor.digest, descriptor.size_bytes + 1))
    assert blob_name(descriptor.digest) == f"blobs/sha256/{descriptor.digest.hex}"
