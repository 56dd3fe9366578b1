"""A cache of steps at a place that fails as networks do: in memory, damaged on request."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from layerstore import Digest, Layer, StepCache, Store
from layerstore.blobs import BlobReader
from layerstore.descriptor import Descriptor
from layerstore.errors import MalformedDocumentError, NotFoundError, UnusableLayerError
from layerstore.layers import Came
from layerstore.transports.cached_steps import (
    decode_step,
    encode_layer,
    encode_step,
    table_descriptor,
)
from tests.support.stores import cached_step, findings, make_layer, puts

DOCUMENT = b'{"step":"one"}'
KEY = Digest.of(DOCUMENT)
PARENT = Digest.of(b"parent")


@dataclass
class Memory:
    """A CachePlace. The next `damaged` reads of blobs give a wrong byte."""

    steps: dict[Digest, bytes] = field(default_factory=dict)
    results: dict[tuple[Digest | None, Digest, str], Digest] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    attempts: int = 1
    damaged: int = 0
    opened: list[Digest] = field(default_factory=list)
    label: str = "memory"
    origin: str = ""
    layers: dict[Digest, bytes] = field(default_factory=dict)

    def exists(self) -> bool:
        return bool(self.steps)

    def step(self, key: Digest) -> bytes | None:
        return self.steps.get(key)

    def layer(self, diff_id: Digest) -> bytes | None:
        return self.layers.get(diff_id)

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        return self.results.get((parent, content_digest, variant))

    def mount(self, key: str) -> bytes | None:
        return None

    def check(self, blob: Descriptor) -> None:
        if blob.digest not in self.blobs:
            raise NotFoundError(kind="blob", key=blob.digest)

    def take_in(self, store: Store, layers: Sequence[Layer], came: Came) -> None:
        """Take in all but what `damaged` is for; `came` is told of each."""
        for layer in layers:
            if self.damaged:
                self.damaged -= 1
                continue
            with self.open(layer.descriptor) as reader:
                store.layers.adopt(reader, layer.descriptor, layer.diff_id)
            size_bytes = layer.descriptor.size_bytes
            came(layer.descriptor.digest, size_bytes, size_bytes)

    def open(self, blob: Descriptor) -> BlobReader:
        self.opened.append(blob.digest)
        data = bytearray(self.blobs[blob.digest])
        if self.damaged:
            self.damaged -= 1
            data[len(data) // 2] ^= 1

        stream = io.BytesIO(bytes(data))
        return BlobReader(stream.read, stream.close, digest=blob.digest, size_bytes=len(data))


@pytest.fixture
def layer(there: Store) -> Layer:
    return make_layer(there, {"a": b"1" * 1000})


@pytest.fixture
def place(there: Store, layer: Layer) -> Memory:
    """What `there` has of one step."""
    step = cached_step(DOCUMENT, layer, created_by="RUN one")
    there.cache.put(step, parent=PARENT, variant="None")
    there.flush()
    row = there.cache.row(KEY)
    assert row is not None
    table = there.layers.toc_path(layer.diff_id).read_bytes()
    file = encode_step(row, layer, table_descriptor(Digest.of(table), len(table)))
    return Memory(
        steps={KEY: file},
        results={(PARENT, layer.content_digest, "None"): KEY},
        blobs={
            Digest.of(table): table,
            layer.descriptor.digest: there.blob_path(layer.descriptor.digest).read_bytes(),
        },
    )


def attach(store: Store, place: Memory) -> list[str]:
    notices: list[str] = []
    store.cache.add_source(StepCache(place, store, notices.append))
    return notices


def test_a_file_says_all_of_a_step(place: Memory, layer: Layer) -> None:
    entry = decode_step(place.steps[KEY], KEY)
    assert entry.made.layer == layer
    assert entry.blobs == (layer.descriptor, entry.made.table)
    assert encode_step(entry.row, entry.made.layer, entry.made.table) == place.steps[KEY]
    with pytest.raises(MalformedDocumentError, match="not that of the key"):
        decode_step(place.steps[KEY], PARENT)


def test_a_step_is_found_and_nothing_is_read(here: Store, place: Memory, layer: Layer) -> None:
    notices = attach(here, place)
    step = here.cache.get(KEY)
    assert step is not None
    assert here.layers.find(layer.diff_id) == layer
    assert here.cache.same_content(PARENT, layer.content_digest, "None") == step
    assert (place.opened, notices) == ([], [])


def test_the_row_of_a_step_is_known_before_its_layer_has_come(
    here: Store, there: Store, place: Memory
) -> None:
    attach(here, place)
    assert here.cache.row_anywhere(KEY) is None  # nobody has asked for it yet
    here.cache.get(KEY)
    assert here.cache.row(KEY) is None
    row, known = here.cache.row_anywhere(KEY), there.cache.row_anywhere(KEY)
    assert row is not None
    assert known is not None
    assert (row.step, row.parent, row.content_digest) == (
        *(known.step, known.parent, known.content_digest),
    )


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_byte_that_changes_on_its_way_is_read_again(
    damaged: int, here: Store, place: Memory, layer: Layer
) -> None:
    attach(here, place)
    place.attempts, place.damaged = 3, damaged
    here.cache.get(KEY)
    assert here.layers.fetch(here.layers.get(layer.diff_id)) == layer
    assert len(place.opened) == damaged + 1
    here.flush()
    assert findings(here) == []
    place.damaged = damaged
    assert here.cache.get(KEY) is not None


def test_a_table_is_read_again_too(here: Store, there: Store, place: Memory, layer: Layer) -> None:
    attach(here, place)
    place.attempts, place.damaged = 2, 1
    here.cache.get(KEY)
    assert here.layers.toc(here.layers.get(layer.diff_id)) == there.layers.toc(layer)
    assert len(place.opened) == 2


def test_what_stays_damaged_is_refused_once_for_all(
    here: Store, place: Memory, layer: Layer
) -> None:
    attach(here, place)
    place.attempts, place.damaged = 2, 9
    here.cache.get(KEY)
    with pytest.raises(UnusableLayerError, match="build cache in memory"):
        here.layers.fetch(here.layers.get(layer.diff_id))
    assert here.cache.get(KEY) is None
    assert here.cache.row_anywhere(KEY) is None
    assert list(here.blobs.digests()) == []


def test_a_missing_blob_makes_a_miss_with_a_notice(here: Store, place: Memory) -> None:
    place.blobs.clear()
    notices = attach(here, place)
    assert here.cache.get(KEY) is None
    assert here.cache.get(KEY) is None
    (notice,) = notices
    assert notice.startswith("not used of the build cache in memory: no such blob")


def test_a_place_that_is_not_there_is_told_of(here: Store) -> None:
    assert attach(here, Memory()) == ["no build cache in memory"]
    assert here.cache.get(KEY) is None


def test_a_table_larger_than_its_tar_is_not_read(here: Store, place: Memory) -> None:
    """It would be read into memory; in a tar, each file takes more than in a table."""
    cache = StepCache(place, here, lambda notice: None)
    entry = decode_step(place.steps[KEY], KEY).made
    assert cache.table(entry)
    size_bytes = entry.layer.tar_size_bytes + 5000
    large = replace(entry, table=replace(entry.table, size_bytes=size_bytes))
    with pytest.raises(MalformedDocumentError, match="too large"):
        cache.table(large)


# Layers that lie elsewhere, and are only described.


@pytest.fixture
def described(there: Store, place: Memory) -> Layer:
    """A layer of a base image, whose blob is not in the place."""
    base = make_layer(there, {"base": b"2" * 100})
    there.flush()
    table = there.layers.toc_path(base.diff_id).read_bytes()
    listed = table_descriptor(Digest.of(table), len(table))
    place.blobs[listed.digest] = table
    place.layers[base.diff_id] = encode_layer(base, listed)
    return base


def test_what_is_known_of_a_layer_is_described_and_nothing_is_read(
    here: Store, there: Store, place: Memory, described: Layer
) -> None:
    notices = attach(here, place)
    found = here.cache.describe(described.diff_id)
    assert found is not None
    assert found.layer == described
    assert found.layer.descriptor == described.descriptor
    assert here.layers.find(described.diff_id) is None, "it is offered by nobody"
    assert here.cache.describe(PARENT) is None
    assert (place.opened, notices) == ([], [])
    assert found.read_toc() == there.layers.toc(described)
    assert found.read_toc() == there.layers.toc(described)
    assert len(place.opened) == 1


def test_what_comes_is_compared_with_what_was_said(
    here: Store, there: Store, place: Memory, described: Layer, layer: Layer
) -> None:
    attach(here, place)
    found = here.cache.describe(described.diff_id)
    assert found is not None
    assert found.check(described) is described
    with pytest.raises(UnusableLayerError, match="is not as it is described there"):
        found.check(replace(described, files=7))
    assert here.cache.describe(described.diff_id) is None, "nobody believes it any more"


def test_a_table_that_was_read_is_compared_too(
    here: Store, there: Store, place: Memory, described: Layer
) -> None:
    """The content digest does not speak of times; the table of contents does."""
    from layerstore import toc

    later = there.layers.toc(there.layers.commit(puts({"base": b"2" * 100}), mtime_max_s=1))
    table = toc.dump(later)
    listed = table_descriptor(Digest.of(table), len(table))
    place.blobs[listed.digest] = table
    place.layers[described.diff_id] = encode_layer(described, listed)
    attach(here, place)
    found = here.cache.describe(described.diff_id)
    assert found is not None
    assert found.read_toc() == later
    assert here.layers.commit(puts({"base": b"2" * 100})) == described
    with pytest.raises(UnusableLayerError, match="has other contents"):
        found.check(described)


@pytest.mark.parametrize("case", ["no object", "schema", "other", "no blob", "no digest"])
def test_what_cannot_be_read_of_a_layer_is_told_once_and_means_nothing(
    here: Store, place: Memory, described: Layer, layer: Layer, case: str
) -> None:
    document = json.loads(place.layers[described.diff_id])
    match case:
        case "no object":
            document = []
        case "schema":
            document["schema"] = 2
        case "other":
            document["layer"]["diffId"] = layer.diff_id
        case "no blob":
            del document["layer"]["blob"]
        case _:
            document["layer"]["contentDigest"] = "sha256:0"
    place.layers[described.diff_id] = json.dumps(document).encode()
    notices = attach(here, place)
    assert here.cache.describe(described.diff_id) is None
    assert here.cache.describe(described.diff_id) is None
    (notice,) = notices
    assert notice.startswith("not used of the build cache in memory: ")


def test_the_first_cache_that_knows_a_layer_describes_it(
    here: Store, place: Memory, described: Layer
) -> None:
    attach(here, Memory(steps=place.steps))
    attach(here, place)
    found = here.cache.describe(described.diff_id)
    assert found is not None
    assert found.layer == described


# Several layers at once.


@pytest.fixture
def second(there: Store, place: Memory) -> Layer:
    """Of another step in the place."""
    layer = make_layer(there, {"b": b"2" * 1000})
    document = b'{"step":"two"}'
    step = cached_step(document, layer, created_by="RUN two")
    there.cache.put(step, parent=PARENT, variant="None")
    there.flush()
    row = there.cache.row(step.key)
    assert row is not None
    table = there.layers.toc_path(layer.diff_id).read_bytes()
    listed = table_descriptor(Digest.of(table), len(table))
    place.steps[step.key] = encode_step(row, layer, listed)
    place.blobs[listed.digest] = table
    place.blobs[layer.descriptor.digest] = there.blob_path(layer.descriptor.digest).read_bytes()
    return layer


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_several_layers_come_side_by_side_and_what_fails_by_itself(
    here: Store, place: Memory, layer: Layer, second: Layer, failed: int
) -> None:
    attach(here, place)
    for key in place.steps:
        assert here.cache.get(key) is not None
    told: list[tuple[Digest, int, int]] = []

    def came(blob: Digest, come_bytes: int, size_bytes: int) -> None:
        told.append((blob, come_bytes, size_bytes))

    place.damaged = failed  # taken in by none of the two calls for both
    known = [here.layers.get(each.diff_id) for each in (layer, second)]
    assert here.layers.fetch_all(known, came) == [layer, second]
    assert len(place.opened) == 2
    assert {blob for blob, come_bytes, size_bytes in told if come_bytes == size_bytes} <= {
        layer.descriptor.digest,
        second.descriptor.digest,
    }
    here.flush()
    assert findings(here) == []
    assert {step.key for step in here.cache.steps()} == set(place.steps)


def test_a_layer_that_is_here_does_not_come_again(
    here: Store, there: Store, place: Memory, layer: Layer, second: Layer
) -> None:
    attach(here, place)
    for key in place.steps:
        here.cache.get(key)
    data = there.blob_path(layer.descriptor.digest).read_bytes()
    here.layers.adopt(io.BytesIO(data), layer.descriptor, layer.diff_id)
    here.layers.fetch_all([here.layers.get(layer.diff_id), here.layers.get(second.diff_id)])
    assert place.opened == [second.descriptor.digest]
