"""--output and --metadata-file: what is read, and what is written."""

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuilderError, OutputError, UnsupportedFeatureError
from builder.events import Event, Notice, VertexDone, VertexFailed, VertexStarted
from builder.outputs import (
    ArchiveOutput,
    CacheOnlyOutput,
    FilesOutput,
    Outputs,
    StoreOutput,
    TarOutput,
    parse_outputs,
    write_metadata,
    write_outputs,
)
from layerstore import (
    CorruptBlobError,
    Encoding,
    Image,
    InvalidReferenceError,
    Reference,
    Store,
    load_images,
)
from tests.support.executors import FakeExecutor
from tests.support.images import EPOCH, Built, make_image, run_build
from tests.support.imagetree import OciLayout
from tests.support.stores import findings, flip_blob

TEXT = "FROM base\nRUN mkdir /d; echo own > /d/f; chown 7:8 /d/f\nRUN rm /gone\n"
PLAIN = Encoding()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        make_image(store, "base", {"base": b"b" * 5000, "gone": b""})
        yield store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def names(*texts: str) -> tuple[Reference, ...]:
    return tuple(map(Reference.parse, texts))


def built(store: Store, text: str = TEXT, **more: Any) -> Built:
    return run_build(store, text, executor=FakeExecutor(), **more)


def write(
    store: Store, build: Built, *texts: str, tags: tuple[str, ...] = ()
) -> tuple[Image | None, bytes, list[Event]]:
    """The image that was asked for, standard output, the events."""
    events: list[Event] = []
    stdout = io.BytesIO()
    outputs = parse_outputs(texts, names=names(*tags))
    image = write_outputs(outputs, build.result, store, events.append, stdout=stdout)
    return image, stdout.getvalue(), events


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


# Reading.


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("dir", FilesOutput(dest=Path("dir"))),
        ("-", TarOutput(dest=None)),
        ("dest=odd", FilesOutput(dest=Path("dest=odd"))),  # as docker: no comma, no type
        ("type=local,dest=dir", FilesOutput(dest=Path("dir"))),
        ("type=tar,dest=f.tar", TarOutput(dest=Path("f.tar"))),
        ("type=tar", TarOutput(dest=None)),
        ("type=tar,dest=-", TarOutput(dest=None)),
        ("type=cacheonly", CacheOnlyOutput()),
        ("type=image", StoreOutput(encoding=PLAIN)),
        ("type=docker", StoreOutput(encoding=PLAIN)),
        ('type=image,"name=a,b:1"', StoreOutput(names=names("a", "b:1"), encoding=PLAIN)),
        ("type=image,push=false", StoreOutput(encoding=PLAIN)),
        (
            "type=oci,dest=f,name=a",
            ArchiveOutput(format="oci-archive", dest=Path("f"), names=names("a"), encoding=PLAIN),
        ),
        (
            "type=oci,dest=d,tar=false",
            ArchiveOutput(format="oci-dir", dest=Path("d"), names=(), encoding=PLAIN),
        ),
        (
            "type=docker,dest=-",
            ArchiveOutput(format="docker", dest=None, names=(), encoding=PLAIN),
        ),
    ],
)
def test_what_one_output_means(text: str, output: object) -> None:
    assert parse_outputs([text]).all == (output,)


@pytest.mark.parametrize(
    ("attributes", "encoding"),
    [
        ("compression=zstd", Encoding(compression="zstd")),
        ("compression=uncompressed", Encoding(compression="none")),
        ("compression-level=9", Encoding(compression="gzip", level=9)),
        ("compression=gzip,compression-level=0", Encoding(compression="gzip", level=0)),
        ("force-compression=true", Encoding(compression="gzip", force=True)),
        ("compression=zstd,force-compression=", Encoding(compression="zstd", force=True)),
        ("oci-mediatypes=false", Encoding(docker_types=True)),
        ("oci-mediatypes=true", PLAIN),
        ("annotation.a=1,annotation-manifest.b=2", Encoding(annotations=(("a", "1"), ("b", "2")))),
    ],
)
def test_how_an_image_is_encoded(attributes: str, encoding: Encoding) -> None:
    for kind in ("image", "oci,dest=f", "docker,dest=f"):
        (output,) = parse_outputs([f"type={kind},{attributes}"]).all
        assert isinstance(output, StoreOutput | ArchiveOutput)
        assert output.encoding == encoding


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=local", "dest is required"),
        ("type=local,dest=-", "dest cannot be standard output"),
        ("type=oci,tar=false", "dest is required"),
        ("type=oci,tar=false,dest=-", "dest cannot be standard output"),
        ("dest=a,x=b", "type is required"),
        ("type=", "type is required"),
        ("type=nonsense", "unknown type 'nonsense'"),
        ("type=image,push", "invalid value push"),
        ("type=oci,dest=f,tar=maybe", "tar=maybe: neither true nor false"),
        ("type=image,compression=lzma", "compression=lzma: not one of"),
        ("type=image,compression-level=x", "compression-level=x: not a whole number"),
        ("type=image,compression-level=10", "gzip has 0 to 9"),
        ("type=image,compression=zstd,compression-level=23", "zstd has 1 to 22"),
        ("type=image,compression=uncompressed,compression-level=1", "there are no levels"),
        ('type=image,name="a,b"', "bare"),
    ],
)
def test_what_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        parse_outputs([text])


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("type=local,dest=a,platform-split=false", "platform-split="),
        ("type=local,dest=a,compression=zstd", "compression="),
        ("type=tar,dest=a,name=b", "name="),
        ("type=docker,dest=a,tar=false", "tar=false"),
        ("type=docker,context=other", "context="),
        ("type=image,unpack=true", "unpack="),
        ("type=image,store=false", "store="),
        ("type=image,push-by-digest=true", "push-by-digest="),
        ("type=image,annotation-index.a=b", "annotation-index.a="),
        ("type=image,rewrite-timestamp=false", "rewrite-timestamp=false"),
        ("type=cacheonly,dest=a", "dest="),
    ],
)
def test_what_is_not_done_is_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=feature.replace(".", r"\.")):
        parse_outputs([text])


def test_a_name_that_is_none_is_an_error() -> None:
    with pytest.raises(InvalidReferenceError):
        parse_outputs(["type=image,name=UPPER"])


def test_a_directory_is_no_file_and_a_file_no_directory(out: Path) -> None:
    (out / "f").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        parse_outputs([str(out / "f")])
    for kind in ("tar", "oci", "docker"):
        with pytest.raises(OutputError, match="is a directory"):
            parse_outputs([f"type={kind},dest={out}"])
    with pytest.raises(OutputError, match="there is no directory"):
        parse_outputs([f"type=tar,dest={out}/missing/f"])


@pytest.mark.parametrize("text", ["-", "type=tar", "type=oci", "type=docker,dest=-"])
def test_nothing_is_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(OutputError, match="refusing to write to a terminal"):
        parse_outputs([text])


def test_standard_output_is_for_one() -> None:
    with pytest.raises(OutputError, match="two outputs for standard output"):
        parse_outputs(["-", "type=oci"])
    assert parse_outputs(["type=oci", "out"]).to_stdout
    assert not parse_outputs(["out"]).to_stdout


def test_tags_take_the_place_of_names() -> None:
    outputs = parse_outputs(["type=image,name=a", "type=oci,name=b,dest=f"], names=names("t:1"))
    assert [
        output.names for output in outputs.all if isinstance(output, StoreOutput | ArchiveOutput)
    ] == [names("t:1"), names("t:1")]


def test_outputs_into_the_store_are_one() -> None:
    outputs = parse_outputs(["type=image,name=a", "out", "type=docker,name=b"])
    assert outputs.stored == StoreOutput(names=names("a", "b"), encoding=PLAIN)
    assert len(outputs.all) == 2
    with pytest.raises(OutputError, match="two outputs into the store"):
        parse_outputs(["type=image", "type=docker,compression=zstd"])


@pytest.mark.parametrize(
    ("texts", "load", "needed"),
    [
        ([], False, True),
        (["type=registry,name=a"], False, False),
        (["type=registry,name=a"], True, True),
        (["type=registry,name=a,push=false"], False, True),
        (["type=image,name=a,push=true"], False, True),
        (["type=registry,name=a", "type=image,name=b"], False, True),
        (["type=registry,name=a", "out"], False, True),
        (["type=registry,name=a", "type=cacheonly"], False, False),
        (["type=cacheonly"], False, False),
        (["type=oci,dest=f"], False, True),
    ],
)
def test_a_registry_alone_needs_no_layer_here(texts: list[str], load: bool, needed: bool) -> None:
    assert parse_outputs(texts, load=load).need_layers == needed


def test_without_an_output_the_image_goes_into_the_store() -> None:
    assert parse_outputs([]).stored == StoreOutput(encoding=PLAIN)
    assert parse_outputs([""]).stored == StoreOutput(encoding=PLAIN)
    assert parse_outputs(["out"]).stored is None
    assert parse_outputs(["out"], load=True).stored == StoreOutput(encoding=PLAIN)


def test_the_names_are_those_of_the_image_that_was_asked_for() -> None:
    assert parse_outputs(["out", "type=oci,dest=f,name=a"]).names == names("a")
    assert parse_outputs(["type=image"], names=names("t:1")).names == names("t:1")
    assert parse_outputs(["out"], names=names("t:1")).names == ()


def test_annotations_are_of_every_image() -> None:
    outputs = parse_outputs(
        ["type=image", "type=oci,dest=f,annotation.b=3"],
        annotations=["a=1=1", "manifest:b=2"],
    )
    assert [
        output.encoding.annotations
        for output in outputs.all
        if isinstance(output, StoreOutput | ArchiveOutput)
    ] == [(("a", "1=1"), ("b", "2")), (("a", "1=1"), ("b", "3"))]


def test_annotations_of_an_index_and_nonsense_are_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match="index:"):
        parse_outputs([], annotations=["index:a=b"])
    with pytest.raises(OutputError, match="invalid annotation 'a'"):
        parse_outputs([], annotations=["a"])


# Writing.


def test_files_of_the_merged_tree(store: Store, out: Path) -> None:
    image, stdout, events = write(store, built(store), str(out))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["base", "d", "d/f"]
    assert (out / "d/f").read_text() == "own\n"
    assert (image, stdout) == (None, b"")
    assert [type(event) for event in events] == [VertexStarted, VertexDone]


@pytest.mark.needs_root
def test_root_keeps_the_owners(store: Store, out: Path) -> None:
    write(store, built(store), str(out))
    status = (out / "d/f").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


def test_a_tar_on_standard_output(store: Store) -> None:
    _, stdout, _ = write(store, built(store), "-")
    found = members(stdout)
    assert sorted(found) == ["base", "d", "d/f"]
    assert (found["d/f"].uid, found["d/f"].gid) == (7, 8)


def test_a_tar_in_a_file_is_reproducible(store: Store, out: Path, tmp_path: Path) -> None:
    write(store, built(store, epoch=EPOCH), f"type=tar,dest={out}/one")
    with Store.open(tmp_path / "other") as other:
        make_image(other, "base", {"base": b"b" * 5000, "gone": b""})
        write(other, built(other, epoch=EPOCH), f"type=tar,dest={out}/two")
    data = (out / "one").read_bytes()
    assert data == (out / "two").read_bytes()
    assert {member.mtime for member in members(data).values()} == {EPOCH}


def test_an_oci_archive_is_loaded_with_its_name(store: Store, out: Path, tmp_path: Path) -> None:
    build = built(store)
    image, _, _ = write(store, build, f"type=oci,dest={out}/f", tags=("it:2",))
    assert image is not None
    assert image.descriptor == build.image.descriptor
    with Store.open(tmp_path / "other") as other:
        (loaded,) = load_images(other, out / "f")
        assert (loaded.image.descriptor, loaded.names) == (image.descriptor, names("it:2"))


def test_a_docker_archive_has_both_forms(store: Store, out: Path) -> None:
    write(store, built(store), f"type=docker,dest={out}/f,name=it")
    with tarfile.open(out / "f") as archive:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(archive.getnames())
        member = archive.extractfile("manifest.json")
        assert member is not None
        rows = json.load(member)
    assert [row["RepoTags"] for row in rows] == [["it:latest"]]


def test_a_layout_in_a_directory_is_added_to(store: Store, out: Path) -> None:
    for tag in ("one:1", "two:1", "one:1"):
        write(store, built(store), f"type=oci,tar=false,dest={out}", tags=(tag,))
    layout = OciLayout(out)
    assert sorted(layout.names()) == ["one:1", "two:1"]
    assert sorted(layout.tree("one:1")) == ["base", "d", "d/f"]


def test_each_archive_has_its_own_compression_and_the_store_its_own(
    store: Store, out: Path
) -> None:
    build = built(store, tag="it")
    write(
        store,
        build,
        f"type=oci,tar=false,dest={out}/zstd,name=it,compression=zstd",
        f"type=oci,tar=false,dest={out}/none,name=it,compression=uncompressed,force-compression=1",
        f"type=oci,tar=false,dest={out}/plain,name=it",
    )
    kinds = {
        name: [
            blob["mediaType"].rpartition(".")[2]
            for blob in OciLayout(out / name).manifest("it")["layers"]
        ]
        for name in ("zstd", "none", "plain")
    }
    assert kinds == {
        "zstd": ["tar+gzip", "tar+zstd", "tar+zstd"],
        "none": ["tar", "tar", "tar"],
        "plain": ["tar+gzip"] * 3,
    }
    store.flush()
    assert {layer.descriptor.media_type.rpartition("+")[2] for layer in store.layers.all()} == {
        "gzip"
    }


def test_archives_leave_nothing_in_the_store(store: Store, out: Path) -> None:
    build = built(store, tag="it")
    before = set(store.blobs.digests())
    write(store, build, f"type=oci,dest={out}/f,compression=zstd,force-compression=true")
    store.flush()
    assert set(store.blobs.digests()) == before
    assert findings(store) == []


def test_the_image_in_the_store_can_be_encoded_too(store: Store) -> None:
    plain = built(store, tag="plain")
    encoding = Encoding(compression="zstd", annotations=(("a", "b"),))
    encoded = built(store, tag="it", encoding=encoding)
    assert encoded.image.id == plain.image.id
    assert encoded.digest != plain.digest
    assert store.images.resolve("it").manifest.annotations == (("a", "b"),)
    assert [blob.media_type.rpartition("+")[2] for blob in encoded.image.manifest.layers] == [
        *("gzip", "zstd", "zstd")
    ]
    assert findings(store) == []


def test_encoding_twice_gives_the_same_digest(store: Store) -> None:
    encoding = Encoding(compression="zstd", level=3)
    assert built(store, encoding=encoding).digest == built(store, encoding=encoding).digest


def test_an_image_that_is_for_outputs_alone_leaves_nothing_but_layers(
    store: Store, out: Path
) -> None:
    before = [record.names for record in store.images.list()]
    documents = set(store.blobs.digests())
    build = built(store, tag="it", keep=False)
    image, _, _ = write(store, build, f"type=oci,dest={out}/f", f"type=docker,dest={out}/g")
    assert image is not None
    assert image.descriptor == build.image.descriptor
    store.flush()
    assert [record.names for record in store.images.list()] == before
    new = set(store.blobs.digests()) - documents
    assert new == {layer.descriptor.digest for layer in build.image.layers[1:]}
    assert findings(store) == []


def test_an_image_that_is_there_already_stays(store: Store) -> None:
    kept = built(store, tag="it")
    assert built(store, keep=False).digest == kept.digest
    store.flush()
    assert store.images.resolve("it").descriptor == kept.image.descriptor
    assert findings(store) == []


def test_a_file_that_cannot_be_written_whole_is_as_it_was(store: Store, out: Path) -> None:
    build = built(store)
    target = out / "f"
    target.write_text("before")
    flip_blob(store, build.image.manifest.layers[0].digest, 30)
    with pytest.raises(CorruptBlobError):
        write(store, build, f"type=oci,dest={target}")
    assert [path.name for path in out.iterdir()] == ["f"]
    assert target.read_text() == "before"


def test_what_a_killed_build_has_left_goes_with_the_next(store: Store, out: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (out / f".lamina-write-{dead.pid}").write_text("half")
    (out / ".f.1").write_text("the user's own")
    write(store, built(store), f"type=oci,dest={out / 'f'}")
    assert {path.name for path in out.iterdir()} == {"f", ".f.1"}


def test_a_failure_is_told_with_its_work(store: Store, out: Path) -> None:
    build = built(store)
    flip_blob(store, build.image.manifest.layers[0].digest, 30)
    events: list[Event] = []
    outputs = parse_outputs([f"type=oci,dest={out}/f"])
    with pytest.raises(CorruptBlobError):
        write_outputs(outputs, build.result, store, events.append, stdout=io.BytesIO())
    assert [type(event) for event in events] == [VertexStarted, VertexFailed]


def test_what_is_no_regular_file_is_written_into(store: Store, out: Path) -> None:
    build = built(store)
    os.mkfifo(out / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((out / "pipe").read_bytes()))
    reader.start()
    write(store, build, f"type=tar,dest={out}/pipe", "type=tar,dest=/dev/null")
    reader.join(timeout=60)
    assert sorted(members(read[0])) == ["base", "d", "d/f"]
    assert (out / "pipe").is_fifo()


def test_a_link_to_a_file_stays_a_link(store: Store, out: Path) -> None:
    (out / "link").symlink_to("real")
    write(store, built(store), f"type=tar,dest={out}/link")
    assert (out / "link").is_symlink()
    assert "d/f" in members((out / "real").read_bytes())


def test_several_outputs_are_numbered_after_the_build(store: Store, out: Path) -> None:
    build = built(store)
    _, _, events = write(store, build, f"{out}/dir", f"type=tar,dest={out}/f", "type=cacheonly")
    last = max(event.vertex for event in build.events if isinstance(event, VertexStarted))
    started = [event for event in events if isinstance(event, VertexStarted)]
    assert [event.vertex for event in started] == [last + 1, last + 2]
    assert [event.title for event in started] == [
        f"exporting to the directory {out}/dir",
        f"exporting to the tar {out}/f",
    ]


def test_a_wish_without_an_epoch_is_a_notice(store: Store, out: Path) -> None:
    text = f"type=oci,dest={out}/f,rewrite-timestamp=true"
    _, _, events = write(store, built(store), text)
    assert any(
        isinstance(event, Notice) and "SOURCE_DATE_EPOCH" in event.message for event in events
    )
    _, _, events = write(store, built(store, epoch=EPOCH), text)
    assert not any(isinstance(event, Notice) for event in events)


def test_an_epoch_bounds_our_own_layers_and_never_the_bases(store: Store, out: Path) -> None:
    build = built(store, epoch=5)
    write(store, build, f"type=oci,tar=false,dest={out},rewrite-timestamp=true", tags=("it",))
    tree = OciLayout(out).tree("it")
    assert tree["d/f"].mtime == 5
    assert tree["base"].mtime > 5


# Metadata.


def metadata(store: Store, out: Path, *texts: str, tags: tuple[str, ...] = ()) -> dict[str, object]:
    build = built(store)
    image, _, _ = write(store, build, *texts, tags=tags)
    write_metadata(out / "meta.json", build.result, image, names(*tags))
    document: dict[str, object] = json.loads((out / "meta.json").read_bytes())
    return document


def test_metadata_of_an_image(store: Store, out: Path) -> None:
    document = metadata(store, out, "type=image", tags=("it:1", "other"))
    build = built(store)
    platform = {"architecture": build.image.config.architecture, "os": "linux"}
    assert str(document.pop("buildx.build.ref")).startswith("lamina/lamina/")
    assert document == {
        "containerimage.config.digest": build.image.id,
        "containerimage.digest": build.digest,
        "containerimage.descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": build.digest,
            "size": build.image.descriptor.size_bytes,
            "platform": platform,
        },
        "image.name": "docker.io/library/it:1,docker.io/library/other:latest",
    }


def test_metadata_has_the_digest_of_what_was_written(store: Store, out: Path) -> None:
    document = metadata(
        store, out, f"type=oci,tar=false,dest={out}/l,compression=zstd", tags=("it",)
    )
    assert document["containerimage.digest"] == OciLayout(out / "l").names()["it:latest"]


def test_metadata_of_files_has_no_image(store: Store, out: Path) -> None:
    assert list(metadata(store, out, f"{out}/dir")) == ["buildx.build.ref"]


def test_metadata_replaces_a_file_whole(store: Store, out: Path) -> None:
    (out / "meta.json").write_text("old")
    metadata(store, out, "type=image")
    assert [path.name for path in out.iterdir()] == ["meta.json"]


def test_metadata_for_no_directory_is_an_error_that_names_it(store: Store, out: Path) -> None:
    with pytest.raises(OutputError, match=r"meta\.json cannot be written"):
        write_metadata(out / "missing/meta.json", built(store).result, None, ())


def test_outputs_are_values() -> None:
    assert parse_outputs(["out"]) == Outputs(all=(FilesOutput(dest=Path("out")),))
    assert issubclass(OutputError, BuilderError)
