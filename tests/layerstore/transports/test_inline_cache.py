"""Steps in the config of an image: found, and believed no further than the image's own layers."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from layerstore import Digest, Image, ImageConfig, InlineCache, Layer, Store
from layerstore.blobs import get
from layerstore.errors import UnusableLayerError
from layerstore.transports.inline_cache import inline_steps
from tests.support.offers import Offered
from tests.support.stores import CREATED, cached_step, flip_blob, make_layer

DOCUMENTS = (b'{"step":"one"}', b'{"step":"two"}')
KEYS = tuple(map(Digest.of, DOCUMENTS))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """A store with the same layers that remembers no step."""
    with Store.open(tmp_path / "other") as store:
        yield store


def layers(store: Store) -> list[Layer]:
    return [make_layer(store, {"a": b"1"}), make_layer(store, {"b": b"2"})]


def steps(store: Store) -> str:
    """What a config says of two steps that made the layers."""
    parent = None
    for document, layer in zip(DOCUMENTS, layers(store), strict=True):
        step = cached_step(document, layer, created_by="RUN it", seconds=0.25)
        store.cache.put(step, parent=parent, variant="None")
        parent = layer.diff_id
    return inline_steps(store, KEYS, layers(store))


def image(store: Store, cache: str) -> Image:
    config = ImageConfig(architecture="amd64", os="linux", inline_cache=cache)
    return store.images.seal(config, layers(store))


def opened(store: Store, cache: str) -> tuple[InlineCache, list[str]]:
    notices: list[str] = []
    it = image(store, cache)
    return InlineCache(it.manifest, it.config, store, notices.append), notices


def test_the_steps_survive_the_config(store: Store) -> None:
    cache = steps(store)
    sealed = image(store, cache)
    parsed = ImageConfig.parse(get(store.blobs, sealed.id))
    assert parsed.inline_cache == cache
    assert json.loads(get(store.blobs, sealed.id))["lamina.cache.v2"] == cache
    assert parsed == replace(sealed.config, diff_ids=parsed.diff_ids)


def test_a_step_is_found_and_becomes_the_stores_own(store: Store, other: Store) -> None:
    source, notices = opened(other, steps(store))
    assert other.cache.get(KEYS[0]) is None
    other.cache.add_source(source)
    assert other.cache.get(KEYS[0]) == store.cache.get(KEYS[0])
    assert other.cache.get(Digest.of(b"other")) is None
    assert notices == []
    other.flush()
    assert [step.key for step in other.cache.steps()] == [KEYS[0]]


def test_a_step_is_found_by_its_content(store: Store, other: Store) -> None:
    source, _ = opened(other, steps(store))
    one, two = layers(other)
    found = source.same_content(one.diff_id, two.content_digest, "None")
    assert found is not None
    assert found.key == KEYS[1]
    assert source.same_content(None, two.content_digest, "None") is None
    assert source.same_content(one.diff_id, two.content_digest, "5") is None


def test_unknown_keys_make_no_cache(store: Store) -> None:
    assert inline_steps(store, [Digest.of(b"unknown")], layers(store)) == ""
    assert inline_steps(store, [], layers(store)) == ""


def test_an_image_without_steps_says_so(store: Store) -> None:
    source, notices = opened(store, "")
    assert source.find(KEYS[0]) is None
    assert len(notices) == 1
    assert "type=inline" in notices[0]


HOSTILE: dict[str, Callable[[str], str]] = {
    "no JSON": lambda _: "{",
    "a list": lambda _: "[]",
    "nothing": lambda _: '{"a":1}',
    "steps that are no list": lambda _: '{"steps":{}}',
    "a step that is no object": lambda _: '{"steps":[1]}',
    "a layer that is no object": lambda _: '{"layers":[1],"steps":[]}',
    "no layers": lambda text: text.replace('"layers"', '"x"'),
    "a size": lambda text: text.replace('"size":1', '"size":-1'),
    "a content": lambda text: text.replace('"contentDigest":"sha256:', '"contentDigest":"'),
    "too deep": lambda _: "[" * 5000 + "]" * 5000,
    "no document": lambda text: text.replace('"document"', '"x"'),
    "no layer": lambda text: text.replace('"diffId"', '"x"'),
    "layer of another": lambda text: text.replace("sha256:", "sha256:0"),
    "time": lambda text: text.replace(CREATED, "soon"),
    "number": lambda text: text.replace("250", "-1"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_malformed_holds_no_steps(store: Store, other: Store, what: str) -> None:
    source, notices = opened(other, HOSTILE[what](steps(store)))
    assert source.find(KEYS[0]) is None
    assert source.same_content(None, KEYS[0], "None") is None
    assert len(notices) <= 1


def test_a_step_whose_layer_is_damaged_is_a_miss(store: Store, other: Store) -> None:
    text = steps(store)
    with Store.open(other.root) as first:
        sealed = image(first, text)
        first.images.note_untagged(sealed)
    flip_blob(other, sealed.layers[0].descriptor.digest, 20)
    found = other.images.open(sealed.descriptor)
    source = InlineCache(found.manifest, found.config, other, lambda _: None)
    assert source.find(KEYS[0]) is None
    assert source.find(KEYS[1]) is not None


def test_a_layer_that_is_not_what_is_said_of_it_has_no_steps(store: Store, other: Store) -> None:
    source, notices = opened(other, steps(store).replace('"files":1', '"files":2'))
    assert source.find(KEYS[0]) is None
    assert notices == []


# Of an image whose layers are elsewhere.


@pytest.fixture
def remote(store: Store, tmp_path: Path) -> Iterator[tuple[InlineCache, Store]]:
    """An empty store, and what an image of `store` says to it."""
    with Store.open(tmp_path / "empty") as empty:
        it = image(store, steps(store))
        cache = InlineCache(it.manifest, it.config, empty, pytest.fail)
        empty.cache.add_source(cache)
        yield cache, empty


def test_all_layers_are_described_and_steps_found_when_they_are_offered(
    store: Store, remote: tuple[InlineCache, Store]
) -> None:
    _, empty = remote
    assert empty.cache.get(KEYS[0]) is None
    for layer in layers(store):
        found = empty.cache.describe(layer.diff_id)
        assert found is not None
        assert (found.layer, found.read_toc()) == (layer, None)
        assert found.layer.descriptor == layer.descriptor
        empty.layers.offer(Offered(layer, store, empty))
    assert empty.cache.get(KEYS[0]) == store.cache.get(KEYS[0])
    assert empty.cache.describe(KEYS[0]) is None
    empty.flush()
    assert list(empty.cache.steps()) == [], "its layer is not here"


def test_steps_are_the_stores_own_when_their_layer_has_come(
    store: Store, remote: tuple[InlineCache, Store]
) -> None:
    _, empty = remote
    one, _ = layers(store)
    found = empty.cache.describe(one.diff_id)
    assert found is not None
    with store.blobs.open(one.descriptor.digest) as reader:
        assert found.check(empty.layers.adopt(reader, one.descriptor, one.diff_id)) == one
    empty.flush()
    assert [step.key for step in empty.cache.steps()] == [KEYS[0]]


def test_a_description_that_was_wrong_is_not_believed_any_more(
    store: Store, remote: tuple[InlineCache, Store]
) -> None:
    _, empty = remote
    one, _ = layers(store)
    found = empty.cache.describe(one.diff_id)
    assert found is not None
    with pytest.raises(UnusableLayerError, match=r"build cache in the image .* not as it is desc"):
        found.check(replace(one, files=7))
    assert empty.cache.describe(one.diff_id) is None
    empty.layers.offer(Offered(one, store, empty))
    assert empty.cache.get(KEYS[0]) is None
