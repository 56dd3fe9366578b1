"""Layers that come when they are wanted: which, when, and that they are what was said."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from layerstore import (
    Digest,
    Layer,
    Reference,
    Store,
    StoreError,
    TocEntry,
    UnusableLayerError,
    host_platform,
)
from layerstore.registry import Transfer, know_image, offer_image, pull_image
from layerstore.registry.offers import offer_layers
from layerstore.registry.pull import RemoteImage
from layerstore.registry.transfers import Report
from tests.layerstore.registry.conftest import NewClient, blob
from tests.support.oddregistry import OddRegistry, Reply
from tests.support.offers import NoSteps
from tests.support.servers import make_tar
from tests.support.stores import problems

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def name(odd: OddRegistry, rest: str = "a:1") -> Reference:
    return Reference.parse(f"{odd.address}/{rest}")


def is_clean(store: Store) -> bool:
    """Nothing is named, and fsck finds nothing, also after a flush."""
    store.flush()
    return store.images.list() == [] and problems(store.root) == []


class Known(NoSteps):
    """A build cache that describes the layers of `there`; `files` is a wrong number of them."""

    def __init__(self, there: Store, *, files: int | None = None) -> None:
        self.there = there
        self.files = files
        self.has_tables = True
        self.asked_tables: list[Digest] = []

    def describe(self, diff_id: Digest) -> "Known.Layer | None":
        known = self.there.layers.find(diff_id)
        if known is not None and self.files is not None:
            known = replace(known, files=self.files)
        return None if known is None else Known.Layer(self, known)

    @dataclass
    class Layer:
        known: "Known"
        layer: Layer

        @property
        def table(self) -> None:
            return None

        def read_toc(self) -> list[TocEntry] | None:
            if not self.known.has_tables:
                return None
            self.known.asked_tables.append(self.layer.diff_id)
            return self.known.there.layers.toc(self.known.there.layers.get(self.layer.diff_id))

        def check(self, layer: Layer) -> Layer:
            if layer != self.layer:
                raise UnusableLayerError(source="it", error=ValueError("is another"))
            return layer


@dataclass
class Pulls:
    """Pulls that were watched: the names, and what was told of each."""

    names: list[str] = field(default_factory=list)
    told: list[Transfer] = field(default_factory=list)

    @contextmanager
    def watch(self, reference: Reference) -> Iterator[Report]:
        self.names.append(reference.full)
        yield self.told.append


TARS = [make_tar({f"f{number}": bytes([number]) * 1000}) for number in range(3)]
LAYERS = [(tar, Digest.of(tar)) for tar in TARS]
_NOWHERE = make_tar({"hello": b"hello\n"})
OTHER = _NOWHERE, Digest.of(_NOWHERE)  # which nobody describes


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Store]:
    """Another machine, which has the layers of `LAYERS`."""
    with Store.open(tmp_path / "there") as there:
        for tar in TARS:
            there.layers.adopt(io.BytesIO(tar), blob(tar), Digest.of(tar))
        there.flush()
        yield there


def layers_asked(odd: OddRegistry) -> list[Digest]:
    return [digest for _, digest in LAYERS if any(digest in path for path in odd.paths())]


def test_a_layer_that_a_cache_describes_stays_there_until_it_is_wanted(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    digest = odd.add_image("a", "1", LAYERS)
    known, pulls = Known(there), Pulls()
    store.cache.add_source(known)
    image = offer_image(new_client(), store, name(odd), watch=pulls.watch)
    assert (image.descriptor.digest, image.index) == (digest, None)
    assert image.layers == tuple(there.layers.get(diff_id) for _, diff_id in LAYERS)
    assert [layer.descriptor.digest for layer in image.layers] == [Digest.of(tar) for tar in TARS]
    assert store.layers.origin_of(image.layers[0]) == f"{odd.address}/a"
    assert store.layers.tree(image.layers).get("f2") is not None, "its table is known"
    assert (layers_asked(odd), pulls.names) == ([], [])
    assert len(known.asked_tables) == 3
    assert is_clean(store)
    assert list(store.blobs.digests()) == []


def test_with_one_layer_all_of_the_image_comes_and_it_is_named(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    digest = odd.add_image("a", "1", LAYERS)
    store.cache.add_source(Known(there))
    pulls = Pulls()
    image = offer_image(new_client(), store, name(odd), watch=pulls.watch)
    assert store.layers.fetch(image.layers[1]) == image.layers[1]
    assert pulls.names == [f"{odd.address}/a:1"]
    assert {event.status for event in pulls.told} >= {"waiting", "complete"}
    assert layers_asked(odd) == [diff_id for _, diff_id in LAYERS]
    odd.asked.clear()
    assert store.layers.fetch_all(image.layers) == list(image.layers)
    assert store.layers.lowerdirs(image.layers)
    assert odd.paths() == []
    store.flush()
    assert store.images.resolve(f"{odd.address}/a:1").descriptor.digest == digest
    assert problems(store.root) == []


def test_what_no_cache_describes_comes_at_once(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("a", "1", [*LAYERS, OTHER])
    store.cache.add_source(Known(there))
    told: list[Transfer] = []
    image = offer_image(new_client(), store, name(odd), report=told.append, watch=Pulls().watch)
    assert [event.digest for event in told if event.status == "complete"] == [OTHER[1]]
    assert layers_asked(odd) == []
    assert store.layers.find_here(image.layers[-1].diff_id) == image.layers[-1]
    assert is_clean(store)


def test_with_no_description_at_all_it_is_a_pull(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    digest = odd.add_image("a", "1", [OTHER])
    pulls = Pulls()
    image = offer_image(new_client(), store, name(odd), watch=pulls.watch)
    store.flush()
    assert store.images.resolve(f"{odd.address}/a:1") == image
    assert (image.descriptor.digest, pulls.names) == (digest, [])


def test_layers_that_are_here_stay_here_and_the_rest_is_offered(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("first", "1", LAYERS[:2])
    pull_image(new_client(), store, name(odd, "first:1"))
    odd.add_image("a", "1", LAYERS)
    store.cache.add_source(Known(there))
    odd.asked.clear()
    image = offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    assert [store.layers.is_offered(each.diff_id) for each in image.layers] == [False, False, True]
    store.layers.fetch_all(image.layers)
    assert layers_asked(odd) == [LAYERS[2][1]]


def test_a_layer_of_two_images_comes_once(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("one", "1", LAYERS[:2])
    odd.add_image("two", "1", [LAYERS[0], LAYERS[2]])
    store.cache.add_source(Known(there))
    client, pulls = new_client(), Pulls()
    one = offer_image(client, store, name(odd, "one:1"), watch=pulls.watch)
    two = offer_image(client, store, name(odd, "two:1"), watch=pulls.watch)
    store.layers.fetch_all(one.layers[::-1])
    assert pulls.names == [f"{odd.address}/one:1"]
    store.layers.fetch_all(two.layers[::-1])
    assert pulls.names == [f"{odd.address}/one:1", f"{odd.address}/two:1"]
    assert sum(LAYERS[0][1] in path for path in odd.paths()) == 1
    store.flush()
    assert len(store.images.list()) == 2
    assert problems(store.root) == []


def test_what_is_not_as_described_is_said_whichever_layer_was_wanted(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("a", "1", LAYERS)
    store.cache.add_source(Known(there, files=7))
    image = offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    with pytest.raises(UnusableLayerError):
        store.layers.fetch(image.layers[2])
    # the layers are what the registry says: only who described them was wrong
    again = offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    assert [layer.files for layer in again.layers] == [1, 1, 1]
    store.flush()
    assert problems(store.root) == []


def test_a_layer_that_cannot_come_later_is_an_error_then_and_names_nothing(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("a", "1", LAYERS)
    store.cache.add_source(Known(there))
    image = offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    odd.replies[f"GET /v2/a/blobs/{LAYERS[1][1]}"] = Reply(status=404)
    with pytest.raises(StoreError, match=LAYERS[1][1].short):
        store.layers.fetch(image.layers[0])
    assert is_clean(store)


def test_a_layer_that_is_known_in_another_compression_comes_at_once(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    """An image that is built on it lists the blobs that its base lists."""
    packed = gzip.compress(TARS[0])
    store.layers.adopt(io.BytesIO(packed), replace(blob(packed), media_type=GZIP), LAYERS[0][1])
    odd.add_image("a", "1", LAYERS[:1])
    store.cache.add_source(Known(there))
    offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    assert layers_asked(odd) == [LAYERS[0][1]]


def test_of_an_index_the_image_knows_what_it_was_chosen_from(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    own = odd.add_image("a", "own", LAYERS)
    platform = {"os": "linux", "architecture": host_platform().architecture}
    size = len(odd.content(f"/v2/a/manifests/{own}"))
    entry = {"mediaType": OCI, "digest": own, "size": size, "platform": platform}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    index = odd.add_manifest("a", "1", document, OCI_INDEX)
    store.cache.add_source(Known(there))
    image = offer_image(new_client(), store, name(odd), watch=Pulls().watch)
    assert (image.descriptor.digest, image.entry.digest) == (own, index)
    store.layers.fetch_all(image.layers)
    store.flush()
    assert store.images.resolve(f"{odd.address}/a:1") == image


# Layers that come one by one.


@pytest.fixture
def apart(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> tuple[Known, list[Layer]]:
    """What `LAYERS` are in an image that is only looked into."""
    odd.add_image("a", "1", [*LAYERS, OTHER])
    known = Known(there)
    offer_layers(RemoteImage.find(new_client(), store, name(odd)), known.describe)
    assert layers_asked(odd) == []
    assert store.layers.find_here(OTHER[1]) is not None
    return known, [store.layers.get(diff_id) for _, diff_id in LAYERS]


def test_one_layer_comes_alone(
    odd: OddRegistry, store: Store, apart: tuple[Known, list[Layer]]
) -> None:
    _, layers = apart
    assert store.layers.fetch(layers[1]) == layers[1]
    assert layers_asked(odd) == [LAYERS[1][1]]
    assert is_clean(store)


def test_those_that_are_wanted_come_side_by_side(
    odd: OddRegistry, store: Store, apart: tuple[Known, list[Layer]]
) -> None:
    _, layers = apart
    told: list[tuple[Digest, int, int]] = []
    store.layers.fetch_all(layers[:2], lambda *event: told.append(event))
    assert layers_asked(odd) == [diff_id for _, diff_id in LAYERS[:2]]
    ended = [blob for blob, come_bytes, size_bytes in told if come_bytes == size_bytes]
    assert set(ended) == {Digest.of(tar) for tar in TARS[:2]}
    assert is_clean(store)


def test_one_that_does_not_come_well_spoils_no_other(
    odd: OddRegistry, store: Store, apart: tuple[Known, list[Layer]]
) -> None:
    _, layers = apart
    odd.replies[f"GET /v2/a/blobs/{LAYERS[0][1]}"] = Reply(status=404)
    with pytest.raises(StoreError, match=LAYERS[0][1].short):
        store.layers.fetch_all(layers)
    store.layers.fetch_all(layers[1:])
    assert is_clean(store)


def test_without_a_table_the_layer_comes_to_be_looked_into(
    odd: OddRegistry, store: Store, apart: tuple[Known, list[Layer]]
) -> None:
    known, layers = apart
    known.has_tables = False
    assert [entry.path for entry in store.layers.toc(layers[2])] == ["f2"]
    assert layers_asked(odd) == [LAYERS[2][1]]
    assert not store.layers.is_offered(layers[2].diff_id)


def test_who_describes_a_layer_wrongly_is_told_when_it_has_come(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    odd.add_image("a", "1", LAYERS)
    offer_layers(RemoteImage.find(new_client(), store, name(odd)), Known(there, files=5).describe)
    with pytest.raises(UnusableLayerError):
        store.layers.fetch(store.layers.get(LAYERS[0][1]))
    assert is_clean(store)


# What is only known.


def test_of_an_image_that_is_only_known_nothing_comes(
    odd: OddRegistry, new_client: NewClient, store: Store, there: Store
) -> None:
    digest = odd.add_image("a", "1", [*LAYERS, OTHER])
    store.cache.add_source(Known(there))
    image = know_image(new_client(), store, name(odd))
    assert image.descriptor.digest == digest
    assert image.layers[:3] == tuple(there.layers.get(diff_id) for _, diff_id in LAYERS)
    assert (image.layers[3].diff_id, image.layers[3].size_bytes) == (OTHER[1], 0)
    assert store.layers.find(OTHER[1]) is None, "nobody has described it"
    assert not any("/blobs/" in path and image.id not in path for path in odd.paths())
    assert is_clean(store)
