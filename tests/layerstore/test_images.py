"""Images and their names in a real store."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from layerstore import (
    Descriptor,
    Digest,
    History,
    Image,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    Reference,
    Store,
    host_platform,
)
from layerstore import descriptor as media
from layerstore.blobs import get, put
from layerstore.errors import (
    CorruptBlobError,
    InvalidReferenceError,
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.images import name_of_entry, named, read_index
from tests.support.stores import (
    CREATED,
    flip_blob,
    make_image,
    make_layer,
    run,
    seal,
    start,
)

OTHER = Platform(os="linux", architecture="s390x")


def ref(name: str) -> Reference:
    return Reference.parse(name)


def index_of(store: Store) -> list[dict[str, object]]:
    """The entries of index.json as any other tool sees them."""
    entries: list[dict[str, object]] = json.loads((store.root / "index.json").read_bytes())[
        "manifests"
    ]
    return entries


def names_in(store: Store) -> list[str]:
    return sorted(name for record in store.images.list() for name in record.names)


def write_index(store: Store, *entries: Descriptor) -> None:
    """As another tool would."""
    (store.root / "index.json").write_bytes(Index(manifests=entries).encode())


# ---- seal


def test_a_sealed_image_lists_its_layers_in_manifest_and_config(store: Store) -> None:
    layers = [make_layer(store, {"a": b"1"}), make_layer(store, {"b": b"2"})]
    image = seal(store, layers)

    manifest = Manifest.parse(get(store.blobs, image.descriptor.digest))
    config = ImageConfig.parse(get(store.blobs, manifest.config.digest))
    assert manifest == image.manifest
    assert manifest.layers == tuple(layer.descriptor for layer in layers)
    assert config == image.config
    assert config.diff_ids == tuple(layer.diff_id for layer in layers)
    assert image.id == manifest.config.digest
    assert image.layers == tuple(layers)


def test_sealing_the_same_gives_the_same_image(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as other:
        there = seal(other, [make_layer(other, {"a": b"1"})])
    assert seal(store, [make_layer(store, {"a": b"1"})]) == there


def test_annotations_are_sorted_into_the_manifest(store: Store) -> None:
    config = ImageConfig(architecture="amd64", os="linux")
    image = store.images.seal(config, [], annotations=[("b", "2"), ("a", "1")])
    assert image.manifest.annotations == (("a", "1"), ("b", "2"))


def test_a_history_that_does_not_fit_the_layers_is_refused(store: Store) -> None:
    config = ImageConfig(architecture="amd64", os="linux", history=(History(), History()))
    with pytest.raises(StoreError, match="2 entries for 1 layers"):
        store.images.seal(config, [make_layer(store, {"a": b"1"})])


def test_history_is_paired_with_layers(store: Store) -> None:
    layers = [make_layer(store, {"a": b"1"}), make_layer(store, {"b": b"2"})]
    history = (
        History(created_by="COPY a"),
        History(created_by="ENV x", empty_layer=True),
        History(created_by="COPY b"),
    )
    image = store.images.seal(
        ImageConfig(architecture="amd64", os="linux", history=history), layers
    )
    assert [layer for _, layer in image.history()] == [layers[0], None, layers[1]]
    assert tuple(entry for entry, _ in image.history()) == history


def test_layers_without_history_are_shown_nevertheless(store: Store) -> None:
    layer = make_layer(store, {"a": b"1"})
    image = store.images.seal(ImageConfig(architecture="amd64", os="linux"), [layer])
    assert image.history() == [(History(), layer)]


def test_a_sealed_image_is_listed_only_when_told(store: Store) -> None:
    image = seal(store, [make_layer(store, {"a": b"1"})])
    assert store.images.list() == []
    store.images.note_untagged(image)
    (record,) = store.images.list()
    assert record.names == ()
    assert record.id == image.id


# ---- resolve


def test_an_image_is_found_by_every_way_of_naming_it(store: Store) -> None:
    image = make_image(store, "registry.example/team/app:1", {"a": b"1"})
    digest = image.descriptor.digest
    for name in (
        "registry.example/team/app:1",
        f"registry.example/team/app@{digest}",
        f"registry.example/team/app:1@{digest}",
        image.id,
        image.id.hex,
        image.id.short,
        image.id[: len("sha256:") + 8],
        digest,
        digest.hex[:10],
    ):
        assert store.images.resolve(name) == image, name


@pytest.mark.parametrize(
    "name", ["hello", "hello:latest", "library/hello", "docker.io/library/hello:latest"]
)
def test_all_forms_of_a_docker_name_mean_the_same(store: Store, name: str) -> None:
    image = make_image(store, "hello", {"a": b"1"})
    assert store.images.resolve(name) == image


def test_a_fresh_process_resolves_the_same(store: Store) -> None:
    image = make_image(store, "hello", {"a": b"1"}, {"b": b"2"})
    with Store.open(store.root) as other:
        assert other.images.resolve("hello") == image


@pytest.mark.parametrize("name", ["nothing", "hello:2", "registry.example/hello", "0123456789ab"])
def test_an_unknown_image_says_how_to_get_one(store: Store, name: str) -> None:
    make_image(store, "hello:1", {"a": b"1"})
    with pytest.raises(NotFoundError) as caught:
        store.images.resolve(name)
    assert caught.value.kind == "image"
    assert caught.value.key == name
    for way in ("bootstrap", "import", "load"):
        assert way in caught.value.hint


def test_a_digest_in_another_repository_is_not_found(store: Store) -> None:
    image = make_image(store, "hello:1", {"a": b"1"})
    with pytest.raises(NotFoundError):
        store.images.resolve(f"other@{image.descriptor.digest}")


def test_what_is_no_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidReferenceError):
        store.images.resolve("UPPER CASE")


def test_a_prefix_of_several_images_is_refused(store: Store) -> None:
    ids: dict[str, str] = {}
    for number in range(300):
        image = seal(store, [], created=f"2024-05-06T07:{number // 60:02}:{number % 60:02}Z")
        store.images.note_untagged(image)
        prefix = image.id.hex[:2]
        if prefix in ids:
            break
        ids[prefix] = image.id
    with pytest.raises(StoreError, match="beginning of"):
        store.images.resolve(prefix)
    assert store.images.resolve(image.id.hex[:40]).id == image.id


def test_a_name_goes_before_an_id(store: Store) -> None:
    first = make_image(store, "other", {"a": b"1"})
    second = make_image(store, first.id.short, {"b": b"2"})
    assert store.images.resolve(first.id.short) == second
    assert store.images.resolve(first.id) == first


# ---- names


def test_a_name_moves_and_the_old_image_stays_nameless(store: Store) -> None:
    old = make_image(store, "app", {"a": b"1"})
    new = make_image(store, "app", {"a": b"2"})
    assert store.images.resolve("app") == new
    assert store.images.resolve(old.id) == old
    assert {record.id: record.names for record in store.images.list()} == {
        new.id: ("app:latest",),
        old.id: (),
    }


def test_an_image_may_have_many_names(store: Store) -> None:
    image = make_image(store, "app:1", {"a": b"1"})
    for name in ("app:2", "registry.example/app", "app:1"):
        store.images.tag(image, ref(name))
    assert store.images.names(image) == ("app:1", "app:2", "registry.example/app:latest")
    (record,) = store.images.list()
    assert record.names == store.images.names(image)


def test_the_first_name_takes_the_nameless_entry_away(store: Store) -> None:
    image = seal(store, [])
    store.images.note_untagged(image)
    store.images.note_untagged(image)
    store.flush()
    assert len(index_of(store)) == 1
    store.images.tag(image, ref("app"))
    store.flush()
    (entry,) = index_of(store)
    assert entry["annotations"] == {
        media.FULL_NAME: "docker.io/library/app:latest",
        media.REF_NAME: "app:latest",
    }


def test_noting_a_named_image_changes_nothing(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    store.images.note_untagged(image)
    store.flush()
    assert len(index_of(store)) == 1


def test_untag_takes_one_name(store: Store) -> None:
    image = make_image(store, "app:1", {"a": b"1"})
    store.images.tag(image, ref("app:2"))
    store.images.untag(ref("app:1"))
    assert names_in(store) == ["app:2"]
    store.images.untag(ref("app:2"))
    store.flush()
    assert names_in(store) == []
    assert store.images.resolve(image.id) == image


def test_untag_of_nothing_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.images.untag(ref("nothing"))


def test_a_name_with_a_digest_cannot_be_given(store: Store) -> None:
    image = make_image(store, "app:1", {"a": b"1"})
    with pytest.raises(InvalidReferenceError):
        store.images.tag(image, ref(f"app@{image.descriptor.digest}"))


def test_remove_takes_all_names_and_leaves_others(store: Store) -> None:
    image = make_image(store, "app:1", {"a": b"1"})
    other = make_image(store, "other", {"a": b"1"}, {"b": b"2"})
    store.images.tag(image, ref("app:2"))
    store.images.remove(image)
    store.flush()
    assert names_in(store) == ["other:latest"]
    with pytest.raises(NotFoundError):
        store.images.resolve(image.id)
    assert store.images.resolve("other") == other


# ---- visibility


def test_nothing_is_visible_to_others_before_flush(store: Store) -> None:
    image = seal(store, [make_layer(store, {"a": b"1"})])
    store.images.tag(image, ref("app"))
    assert store.images.resolve("app") == image
    assert index_of(store) == []
    store.flush()
    assert len(index_of(store)) == 1


def test_discarded_edits_are_forgotten(store: Store) -> None:
    image = seal(store, [])
    store.images.tag(image, ref("app"))
    store.images.discard_edits()
    store.flush()
    assert index_of(store) == []


def test_edits_of_two_processes_both_count(store: Store) -> None:
    base = make_image(store, "base", {"a": b"1"})
    with Store.open(store.root) as other:
        image = seal(other, [make_layer(other, {"b": b"2"})])
        other.images.tag(image, ref("theirs"))
        store.images.tag(base, ref("ours"))
        store.flush()
    assert names_in(store) == ["base:latest", "ours:latest", "theirs:latest"]


TAG = """
import sys
from pathlib import Path
from layerstore import Reference, Store
root, name, count = sys.argv[1:]
for number in range(int(count)):
    with Store.open(Path(root)) as store:
        image = store.images.resolve("base")
        store.images.tag(image, Reference.parse(f"{name}:{number}"))
"""


def test_many_processes_may_name_images_at_once(store: Store) -> None:
    make_image(store, "base", {"a": b"1"})
    processes = [start(TAG, store.root, name, "10") for name in ("one", "two", "three")]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    assert len(names_in(store)) == 31


def test_a_reader_never_sees_half_an_index(store: Store) -> None:
    image = make_image(store, "base", {"a": b"1"})
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(len(read_index(store.root).manifests))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(30):
            store.images.tag(image, ref(f"base:{number}"))
            store.flush()
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)


# ---- list


def test_the_record_of_an_image(store: Store) -> None:
    image = make_image(store, "app", {"a": b"12345"}, {"b": b"678"})
    (record,) = store.images.list()
    assert record.id == image.id
    assert record.manifest_digest == image.descriptor.digest
    assert record.created == CREATED
    assert record.size_bytes == 8
    assert record.labels == (("a", "b"),)
    assert record.problem == ""


def test_images_are_listed_newest_first(store: Store) -> None:
    for year in ("2001", "2003", "2002"):
        make_image(store, f"app:{year}", {"a": year.encode()}, created=f"{year}{CREATED[4:]}")
    assert [record.names for record in store.images.list()] == [
        ("app:2003",),
        ("app:2002",),
        ("app:2001",),
    ]


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_damaged_image_is_listed_with_its_problem(store: Store, part: str) -> None:
    image = make_image(store, "bad", {"a": b"1"})
    make_image(store, "good", {"b": b"2"})
    flip_blob(store, image.descriptor.digest if part == "manifest" else image.id)
    with Store.open(store.root) as other:
        records = {record.names: record for record in other.images.list()}
        assert "damaged" in records["bad:latest",].problem
        assert records["good:latest",].problem == ""
        with pytest.raises(CorruptBlobError):
            other.images.resolve("bad")
        other.images.resolve("good")


def test_what_stops_the_whole_store_is_no_problem_of_an_image(store: Store) -> None:
    make_image(store, "app", {"a": b"1"})
    store.close()
    database = store.private / "cache.db"
    database.unlink()
    database.mkdir()
    with Store.open(store.root) as other, pytest.raises(StoreError, match=r"cache\.db"):
        other.images.list()


def test_a_damaged_image_can_be_replaced(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    flip_blob(store, image.descriptor.digest)
    with Store.open(store.root) as other:
        again = make_image(other, "app", {"a": b"1"})
        assert again == image
    with Store.open(store.root) as other:
        assert other.images.resolve("app") == image


# ---- what other tools write


def test_entries_named_by_ref_name_alone_are_found(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    for text in ("hello", "hello:1", "registry.example/hello:1"):
        write_index(store, replace(image.descriptor, annotations=((media.REF_NAME, text),)))
        assert store.images.resolve(text) == image


def test_the_full_name_goes_before_the_ref_name(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    annotations = ((media.FULL_NAME, "docker.io/library/full:1"), (media.REF_NAME, "1"))
    write_index(store, replace(image.descriptor, annotations=annotations))
    assert names_in(store) == ["full:1"]


def test_a_name_that_is_none_leaves_the_image_nameless(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    write_index(store, replace(image.descriptor, annotations=((media.REF_NAME, "NO NAME"),)))
    assert names_in(store) == []
    assert store.images.resolve(image.id) == image


def test_layers_that_other_tools_brought_are_read_once(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    store.database.write([("DELETE FROM layers", ())])
    store.layers.toc_path(image.layers[0].diff_id).unlink()
    with Store.open(store.root) as other:
        assert other.images.resolve("app") == image
    with Store.open(store.root) as third:
        assert third.layers.get(image.layers[0].diff_id) == image.layers[0]


def test_rewriting_keeps_what_others_wrote(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    foreign = Descriptor(
        media_type="application/vnd.example.artifact",
        digest=put(store.blobs, b"artifact").digest,
        size_bytes=8,
        annotations=(("who", "else"),),
    )
    index = Index(manifests=(image.descriptor, foreign), annotations=(("made", "there"),))
    (store.root / "index.json").write_bytes(index.encode())
    store.images.tag(image, ref("again"))
    store.flush()
    found = read_index(store.root)
    assert foreign in found.manifests
    assert found.annotations == (("made", "there"),)


def test_what_is_no_image_is_listed_as_such_and_cannot_be_opened(store: Store) -> None:
    foreign = Descriptor(
        media_type="application/vnd.example.artifact",
        digest=put(store.blobs, b"artifact").digest,
        size_bytes=8,
    )
    write_index(store, foreign)
    (record,) = store.images.list()
    assert "unsupported media type" in record.problem
    with pytest.raises(UnsupportedMediaTypeError):
        store.images.open(foreign)


def test_an_artifact_with_another_config_is_no_image(store: Store) -> None:
    config = put(store.blobs, b"{}")
    manifest = Manifest(
        config=Descriptor(
            media_type="application/vnd.oci.empty.v1+json",
            digest=config.digest,
            size_bytes=config.size_bytes,
        ),
        layers=(),
    )
    with pytest.raises(UnsupportedMediaTypeError, match="empty"):
        store.images.open(stored(store, manifest))


def stored(store: Store, document: Manifest | Index) -> Descriptor:
    info = put(store.blobs, document.encode())
    return Descriptor(
        media_type=document.media_type, digest=info.digest, size_bytes=info.size_bytes
    )


def multi(store: Store, *entries: tuple[Image, Platform | None]) -> Descriptor:
    manifests = (replace(image.descriptor, platform=platform) for image, platform in entries)
    return stored(store, Index(manifests=tuple(manifests)))


def platform_of(text: str) -> Platform:
    os, architecture, *variant = text.split("/")
    return Platform(os=os, architecture=architecture, variant="".join(variant))


def test_of_several_platforms_the_hosts_is_taken(store: Store) -> None:
    ours, theirs = make_image(store, "a", {"a": b"1"}), make_image(store, "b", {"b": b"2"})
    entry = multi(store, (theirs, OTHER), (ours, host_platform()))
    write_index(store, named(entry, ref("multi")))
    assert store.images.resolve("multi") == ours
    assert store.images.resolve(entry.digest) == ours
    (record,) = store.images.list()
    assert record.manifest_digest == ours.descriptor.digest
    store.images.remove(store.images.resolve("multi"))
    store.flush()
    assert index_of(store) == []


def test_another_platform_than_the_hosts_may_be_asked_for(store: Store) -> None:
    names = ("linux/s390x", "linux/arm/v6", "linux/arm/v7")
    images = [make_image(store, f"i{at}", {"f": name.encode()}) for at, name in enumerate(names)]
    platforms = [platform_of(name) for name in names]
    entry = multi(store, *zip(images, platforms, strict=True))
    write_index(store, named(entry, ref("multi")))
    for image, platform in zip(images, platforms, strict=True):
        assert store.images.resolve("multi", platform) == image
        assert store.images.open(entry, platform) == image
    assert store.images.resolve("multi", platform_of("linux/arm/v5")) == images[1]
    with pytest.raises(NotFoundError, match="image for linux/riscv64"):
        store.images.resolve("multi", platform_of("linux/riscv64"))


def test_an_index_without_platforms_stands_for_its_only_image(store: Store) -> None:
    image = make_image(store, "a", {"a": b"1"})
    assert store.images.open(multi(store, (image, None))) == image


def test_an_index_without_our_platform_says_what_it_has(store: Store) -> None:
    image = make_image(store, "a", {"a": b"1"})
    with pytest.raises(NotFoundError, match="linux/s390x"):
        store.images.open(multi(store, (image, OTHER)))
    with pytest.raises(NotFoundError, match="nothing"):
        store.images.open(multi(store))


def test_indexes_may_be_nested_but_not_for_ever(store: Store) -> None:
    image = make_image(store, "a", {"a": b"1"})
    entry = stored(store, Index(manifests=(multi(store, (image, None)),)))
    assert store.images.open(entry) == image
    for _ in range(5):
        entry = stored(store, Index(manifests=(entry,)))
    with pytest.raises(MalformedDocumentError, match="nested"):
        store.images.open(entry)


def test_config_and_manifest_must_agree(store: Store) -> None:
    image = make_image(store, "a", {"a": b"1"})
    short = replace(image.manifest, layers=())
    with pytest.raises(MalformedDocumentError, match="0 layers, but 1 diff_ids"):
        store.images.open(stored(store, short))


def test_swapped_layers_are_found_out(store: Store, tmp_path: Path) -> None:
    """Two good blobs, each under the other's diff_id; in a store that knows neither."""
    image = make_image(store, "a", {"a": b"1"}, {"b": b"2"})
    swapped = stored(store, replace(image.manifest, layers=image.manifest.layers[::-1]))
    store.blobs.sync()
    store.database.write([("DELETE FROM layers", ())])
    with Store.open(store.root) as other, pytest.raises(CorruptBlobError, match="diff_id"):
        other.images.open(swapped)


# ---- index.json itself


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"schemaVersion":2}', b'{"schemaVersion":2,"manifests":[],"layers":[]}'],
)
def test_a_damaged_index_is_a_typed_error(store: Store, data: bytes) -> None:
    (store.root / "index.json").write_bytes(data)
    with pytest.raises(MalformedDocumentError):
        store.images.resolve("a")


def test_a_missing_index_is_a_typed_error(store: Store) -> None:
    (store.root / "index.json").unlink()
    with pytest.raises(MalformedDocumentError, match=r"index\.json"):
        store.images.list()


def test_an_index_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    (store.root / "index.json").rename(tmp_path / "index.json")
    (store.root / "index.json").symlink_to(tmp_path / "index.json")
    with pytest.raises(MalformedDocumentError):
        store.images.list()


def test_an_enormous_index_is_refused(store: Store) -> None:
    (store.root / "index.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(MalformedDocumentError, match="more than"):
        store.images.list()


def test_an_entry_is_named_both_ways(store: Store) -> None:
    image = seal(store, [])
    entry = named(image.descriptor, ref("app"))
    assert name_of_entry(entry) == ref("app")
    assert entry.annotation(media.REF_NAME) == "app:latest"
    assert name_of_entry(image.descriptor) is None


def test_the_host_has_a_platform_in_gos_words() -> None:
    assert host_platform().os == "linux"
    assert host_platform().architecture not in ("x86_64", "aarch64")


def test_resolving_is_one_process_of_few_imports(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    out = run(
        """
import sys
from pathlib import Path
from layerstore import Store
with Store.open(Path(sys.argv[1])) as store:
    print(store.images.resolve("app").id)
heavy = {"zstandard", "isal", "tarfile", "tempfile", "shutil", "subprocess", "uuid", "threading",
         "layerstore.tarcodec", "layerstore.overlaydir", "layerstore.compression",
         "layerstore.toc", "layerstore.transports", "layerstore.verify", "layerstore.collect"}
print(sorted(heavy & set(sys.modules)))
""",
        store.root,
    )
    assert out.splitlines() == [image.id, "[]"]


def test_a_digest_of_another_algorithm_in_a_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidReferenceError):
        store.images.resolve("app@sha512:" + "a" * 128)


def test_a_short_text_is_no_prefix(store: Store) -> None:
    image = make_image(store, "app", {"a": b"1"})
    with pytest.raises(NotFoundError):
        store.images.resolve(image.id.hex[:1])


def test_a_digest_that_is_unknown_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.images.resolve(Digest.of(b"unknown"))


def far(store: Store) -> Descriptor:
    """An index that has nothing for this host, named `far`."""
    image = make_image(store, "theirs", {"b": b"b"})
    entry = multi(store, (image, OTHER))
    store.images.tag_entry(entry, ref("far"))
    store.flush()
    return entry


def test_an_index_is_found_named_and_removed_whole(store: Store) -> None:
    ours = make_image(store, "ours", {"a": b"a"})
    theirs = make_image(store, "theirs", {"b": b"b"})
    entry = multi(store, (theirs, OTHER), (ours, host_platform()))
    store.images.tag_entry(entry, ref("multi"))
    store.flush()
    assert store.images.find("multi") == entry
    image = store.images.resolve("multi")
    assert (image.entry, image.index, ours.entry) == (entry, entry, ours.descriptor)
    store.images.tag(image, ref("again"))
    assert store.images.find("again") == entry
    assert store.images.names(image) == ("again:latest", "multi:latest", "ours:latest")
    assert store.images.names_of(entry) == ("again:latest", "multi:latest")
    store.images.remove(image)
    store.flush()
    assert names_in(store) == ["ours:latest", "theirs:latest"]


def test_an_image_that_an_index_lists_too_is_one_by_its_id(store: Store) -> None:
    ours = make_image(store, "ours", {"a": b"a"})
    entry = multi(store, (ours, host_platform()))
    store.images.tag_entry(entry, ref("multi"))
    store.flush()
    for digest in (ours.id, ours.descriptor.digest):
        for text in (digest, digest.hex, digest.hex[:12]):
            assert store.images.find(text) == ours.descriptor
    assert store.images.find(entry.digest.hex[:12]) == entry
    store.images.untag(ref("ours"))
    store.images.remove_entry(ours.descriptor)
    store.flush()
    assert store.images.find(ours.id.hex[:12]) == entry


def test_the_family_of_an_index_is_what_is_here_of_it(store: Store) -> None:
    ours = make_image(store, "ours", {"a": b"a"})
    absent = replace(ours.descriptor, digest=Digest.of(b"?"))
    inner = multi(store, (ours, host_platform()))
    data = Index(manifests=(replace(inner, annotations=(("a", "b"),)), absent, inner)).encode()
    outer = replace(inner, digest=put(store.blobs, data).digest, size_bytes=len(data))
    assert store.images.family(outer) == [outer, inner, ours.descriptor]
    assert store.images.family(ours.descriptor) == [ours.descriptor]


def test_an_index_without_this_host_is_listed_and_hinders_nobody(store: Store) -> None:
    entry = far(store)
    ours = make_image(store, "ours", {"a": b"a"})
    rows = {record.names: record for record in store.images.list()}
    assert rows["far:latest",].id == rows["far:latest",].manifest_digest == entry.digest
    assert rows["far:latest",].problem == ""
    with pytest.raises(NoPlatformError, match=r"linux/s390x"):
        store.images.resolve("far")
    assert store.images.resolve("far", OTHER).id == store.images.resolve("theirs").id
    store.images.remove(ours)
    store.flush()
    assert names_in(store) == ["far:latest", "theirs:latest"]


def test_an_index_goes_without_what_is_listed_in_it(store: Store) -> None:
    entry = far(store)
    store.images.remove_entry(entry)
    store.flush()
    assert names_in(store) == ["theirs:latest"]
    store.images.note_entry(entry)
    store.flush()
    assert store.images.find(entry.digest) == entry
    assert store.images.names_of(entry) == ()
