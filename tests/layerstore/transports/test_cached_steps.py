"""A cache of steps at a place that fails as networks do: in memory, damaged on request."""

import io
from dataclasses import dataclass, field, replace

import pytest

from layerstore import Digest, Layer, StepCache, Store
from layerstore.blobs import BlobReader
from layerstore.descriptor import Descriptor
from layerstore.errors import MalformedDocumentError, NotFoundError, UnusableLayerError
from layerstore.transports.cached_steps import decode_step, encode_step
from tests.support.stores import cached_step, findings, make_layer

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

    def exists(self) -> bool:
        return bool(self.steps)

    def step(self, key: Digest) -> bytes | None:
        return self.steps.get(key)

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        return self.results.get((parent, content_digest, variant))

    def mount(self, key: str) -> bytes | None:
        return None

    def check(self, blob: Descriptor) -> None:
        if blob.digest not in self.blobs:
            raise NotFoundError(kind="blob", key=blob.digest)

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
    file = encode_step(row, layer, Digest.of(table), len(table))
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
    assert entry.layer == layer
    assert [blob.digest for blob in entry.blobs] == [layer.descriptor.digest, entry.table]
    assert encode_step(entry.row, entry.layer, entry.table, entry.table_bytes) == place.steps[KEY]
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
    entry = decode_step(place.steps[KEY], KEY)
    assert cache.table(entry)
    large = replace(entry, table_bytes=entry.layer.tar_size_bytes + 5000)
    with pytest.raises(MalformedDocumentError, match="too large"):
        cache.table(large)
