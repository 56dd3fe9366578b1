"""The order of a copy, and what it refuses, between places in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from layerstore import Copied, Descriptor, Digest, Index, Manifest, Platform, host_platform
from layerstore import descriptor as media
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    UnsupportedMediaTypeError,
)
from layerstore.transports.copying import MANIFESTS_MAX, Report, Take, copy_image

LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OTHER = Platform(os="linux", architecture="s390x")


@dataclass
class Memory:
    """A place of both kinds that writes down what is asked of it."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    entry: Descriptor | None = None
    acts: list[str] = field(default_factory=list)

    def add(self, data: bytes, media_type: str = LAYER) -> Descriptor:
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type=media_type, digest=digest, size_bytes=len(data))

    def root(self) -> Descriptor:
        assert self.entry is not None
        return self.entry

    def document(self, descriptor: Descriptor) -> bytes:
        return b"".join(self.pieces(descriptor))

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        self.acts.append(f"read {blob.digest.short}")
        data = self.blobs.get(blob.digest)
        if data is None:
            raise NotFoundError(kind="blob", key=blob.digest)
        yield data[:3]
        if Digest.of(data) != blob.digest:
            raise CorruptBlobError(what="blob", expected=blob.digest, actual="another")
        yield data[3:]

    def has(self, blob: Descriptor) -> bool:
        return blob.digest in self.blobs

    def put(self, blob: Descriptor, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.blobs[blob.digest] = b"".join(pieces())
        self.acts.append(f"put {blob.digest.short}")

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self.blobs[descriptor.digest] = data
        self.acts.append(f"document {descriptor.digest.short}")

    def finish(self, root: Descriptor) -> None:
        self.entry = root
        self.acts.append(f"name {root.digest.short}")


def image_in(place: Memory, text: bytes, *, layer_type: str = LAYER) -> Descriptor:
    layers = tuple(place.add(text + number, layer_type) for number in (b"1", b"2"))
    config = place.add(text + b"config", media.OCI_CONFIG)
    return place.add(Manifest(config=config, layers=layers).encode(), media.OCI_MANIFEST)


def index_in(place: Memory, *entries: Descriptor) -> Descriptor:
    return place.add(Index(manifests=entries).encode(), media.OCI_INDEX)


@pytest.fixture
def source() -> Memory:
    place = Memory()
    place.entry = image_in(place, b"image")
    return place


@pytest.fixture
def multi() -> Memory:
    place = Memory()
    place.entry = index_in(
        place,
        replace(image_in(place, b"ours"), platform=host_platform()),
        replace(image_in(place, b"theirs"), platform=OTHER),
    )
    return place


def test_what_names_something_is_written_after_it(source: Memory) -> None:
    target = Memory()
    assert copy_image(source, target) == source.entry == target.entry
    manifest = Manifest.parse(source.document(source.root()))
    blobs = [blob.digest.short for blob in (*manifest.layers, manifest.config)]
    root = source.root().digest.short
    assert target.acts == [*(f"put {name}" for name in blobs), f"document {root}", f"name {root}"]
    assert target.blobs == source.blobs


def test_what_is_there_is_not_read(source: Memory) -> None:
    target = Memory()
    copy_image(source, target)
    source.acts.clear()
    seen: list[Copied] = []
    copy_image(source, target, report=seen.append)
    assert source.acts == [f"read {source.root().digest.short}"]
    assert all(each.existed and each.is_whole for each in seen)
    assert len(seen) == 3


def test_progress_is_told_from_the_first_byte_to_the_last(source: Memory) -> None:
    seen: list[Copied] = []
    copy_image(source, Memory(), report=seen.append)
    blob = seen[0].blob
    steps = [each.done_bytes for each in seen if each.blob == blob]
    assert steps == [0, 3, blob.size_bytes]
    assert [each.is_whole for each in seen if each.blob == blob] == [False, False, True]


def test_an_index_gives_this_hosts_image_or_another_or_all(multi: Memory) -> None:
    ours, theirs = Index.parse(multi.document(multi.root())).manifests
    assert copy_image(multi, Memory()).digest == ours.digest
    assert copy_image(multi, Memory(), platform=OTHER).digest == theirs.digest
    target = Memory()
    assert copy_image(multi, target, whole=True) == multi.entry
    assert target.blobs == multi.blobs
    with pytest.raises(NoPlatformError, match=r"plan9/386.*offers linux/"):
        copy_image(multi, Memory(), platform=Platform(os="plan9", architecture="386"))


def test_a_layer_of_two_images_is_copied_once(multi: Memory) -> None:
    manifest = Manifest.parse(
        multi.document(Index.parse(multi.document(multi.root())).manifests[0])
    )
    twin = multi.add(replace(manifest, annotations=(("a", "b"),)).encode(), media.OCI_MANIFEST)
    multi.entry = index_in(multi, *Index.parse(multi.document(multi.root())).manifests, twin)
    target = Memory()
    copy_image(multi, target, whole=True)
    assert len(target.acts) == len(set(target.acts))


def test_blobs_of_several_images_are_gone_through_together(multi: Memory) -> None:
    seen: list[list[Digest]] = []

    def each(blobs: Sequence[Descriptor], take: Take, report: Report) -> None:
        seen.append([blob.digest for blob in blobs])
        for blob in reversed(blobs):
            take(blob, report)

    target = Memory()
    copy_image(multi, target, whole=True, each=each)
    assert [len(found) for found in seen] == [6]
    assert target.blobs == multi.blobs
    acts = [act.partition(" ")[0] for act in target.acts]
    assert acts == ["put"] * 6 + ["document"] * 3 + ["name"]
    assert target.acts[-2:] == [
        f"{act} {multi.root().digest.short}" for act in ("document", "name")
    ]


def test_documents_that_are_held_are_no_more_than_a_few(multi: Memory) -> None:
    large = tuple(
        replace(image_in(multi, b"%d" % number), platform=Platform(os="plan9", architecture="386"))
        for number in range(3)
    )
    padded = []
    for number, entry in enumerate(large):
        manifest = Manifest.parse(multi.blobs[entry.digest])
        note = replace(manifest, annotations=(("a", f"{number}" * 600_000),)).encode()
        padded.append(multi.add(note, media.OCI_MANIFEST))
    multi.entry = index_in(multi, *padded)
    counts: list[int] = []

    def each(blobs: Sequence[Descriptor], take: Take, report: Report) -> None:
        counts.append(len(blobs))
        for blob in blobs:
            take(blob, report)

    target = Memory()
    copy_image(multi, target, whole=True, each=each)
    assert counts == [6, 3]
    assert target.entry == multi.entry
    assert set(target.blobs) <= set(multi.blobs)


def test_an_index_in_an_index_is_copied_and_one_too_many_refused(multi: Memory) -> None:
    for _ in range(2):
        multi.entry = index_in(multi, multi.root())
    target = Memory()
    copy_image(multi, target, whole=True)
    assert target.blobs == multi.blobs
    for _ in range(2):
        multi.entry = index_in(multi, multi.root())
    for whole in (True, False):
        with pytest.raises((MalformedDocumentError, UnsupportedMediaTypeError)):
            copy_image(multi, Memory(), whole=whole)


def test_an_index_of_too_many_images_is_refused() -> None:
    place = Memory()
    config = place.add(b"config", media.OCI_CONFIG)
    entries = (
        place.add(
            Manifest(config=config, layers=(), annotations=(("n", str(number)),)).encode(),
            media.OCI_MANIFEST,
        )
        for number in range(MANIFESTS_MAX + 1)
    )
    place.entry = index_in(place, *entries)
    target = Memory()
    with pytest.raises(MalformedDocumentError, match=f"more than {MANIFESTS_MAX}"):
        copy_image(place, target, whole=True)
    assert target.entry is None


def test_what_is_damaged_gets_no_name(source: Memory) -> None:
    manifest = Manifest.parse(source.document(source.root()))
    source.blobs[manifest.layers[1].digest] = b"something else"
    target = Memory()
    with pytest.raises(CorruptBlobError):
        copy_image(source, target)
    assert target.entry is None
    assert source.root().digest not in target.blobs


def test_what_is_no_image_is_refused_by_its_type(source: Memory) -> None:
    source.entry = source.add(b"{}", "application/vnd.acme.thing.v1+json")
    with pytest.raises(UnsupportedMediaTypeError, match="acme"):
        copy_image(source, Memory())
    place = Memory()
    place.entry = index_in(place, source.root())
    with pytest.raises(UnsupportedMediaTypeError, match="acme"):
        copy_image(place, Memory(), whole=True)


def test_schema_1_is_refused_in_a_sentence() -> None:
    place = Memory()
    place.entry = place.add(b'{"schemaVersion":1,"fsLayers":[]}', media.DOCKER_MANIFEST)
    with pytest.raises(UnsupportedMediaTypeError, match=r"manifest\.v1") as refused:
        copy_image(place, Memory())
    assert "schema 1" in refused.value.hint


def test_a_foreign_layer_is_copied_where_its_bytes_are_and_refused_where_not() -> None:
    place = Memory()
    place.entry = image_in(place, b"windows", layer_type=FOREIGN)
    target = Memory()
    copy_image(place, target)
    assert target.blobs == place.blobs
    manifest = Manifest.parse(place.document(place.root()))
    del place.blobs[manifest.layers[0].digest]
    with pytest.raises(UnsupportedMediaTypeError, match="foreign") as refused:
        copy_image(place, Memory())
    assert "somebody else" in refused.value.hint


def test_a_layer_that_is_missing_is_named(source: Memory) -> None:
    manifest = Manifest.parse(source.document(source.root()))
    del source.blobs[manifest.layers[0].digest]
    with pytest.raises(NotFoundError, match=manifest.layers[0].digest):
        copy_image(source, Memory())
