"""A build cache in a repository: what is written, what of it is read, and what is not believed."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    CachedMounts,
    Digest,
    ImageConfig,
    Layer,
    Reference,
    StepCache,
    Store,
    inline_steps,
)
from layerstore.descriptor import OCI_MANIFEST
from layerstore.errors import MalformedDocumentError, StoreError, UnusableLayerError
from layerstore.registry import (
    CacheExporter,
    RegistryError,
    RepositoryPlace,
    UnknownManifestError,
    find_inline_cache,
    push_image,
)
from layerstore.registry.build_cache import CACHE_TYPE
from layerstore.transports.cached_steps import decode_step
from tests.layerstore.registry.conftest import NewClient
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.peers import run
from tests.support.registries import Registry, registry
from tests.support.schemas import SCHEMAS, schema_error
from tests.support.stores import cached_step, findings, flip, make_image, make_layer

pytestmark = pytest.mark.needs_registry

DOCUMENTS = (b'{"step":"one"}', b'{"step":"two"}')
KEYS = tuple(map(Digest.of, DOCUMENTS))
PARENT = Digest.of(b"parent")
MOUNT = "ab" * 32


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "here") as here:
        yield here


@pytest.fixture
def layers(store: Store) -> list[Layer]:
    """Of two steps of `store`."""
    made = [make_layer(store, {"a": b"1" * 5000}), make_layer(store, {"b": b"2" * 5000})]
    for document, layer in zip(DOCUMENTS, made, strict=True):
        step = cached_step(document, layer, created_by="RUN")
        store.cache.put(step, parent=PARENT, variant="None")
    store.flush()
    return made


def name(server: Registry | FaultProxy) -> Reference:
    return Reference.parse(f"{server.address}/cache:1")


def send(server: Registry | FaultProxy, store: Store, new_client: NewClient) -> Digest:
    exporter = CacheExporter(store=store, client=new_client(), reference=name(server))
    assert exporter.add_steps((*KEYS, Digest.of(b"unknown"), KEYS[0])) == 2
    return exporter.send()


def attach(server: Registry | FaultProxy, store: Store, new_client: NewClient) -> list[str]:
    place = RepositoryPlace.find(new_client(), name(server))
    assert place is not None
    notices: list[str] = []
    store.cache.add_source(StepCache(place, store, notices.append))
    store.cache_mounts.add_source(CachedMounts(place, store, notices.append))
    return notices


def manifest_of(server: Registry) -> Any:
    got = server.ask("GET", "/v2/cache/manifests/1", headers={"Accept": OCI_MANIFEST})
    return json.loads(got.content)


def fetched(proxy: FaultProxy) -> set[str]:
    return {
        exchange.path.rpartition("/")[2]
        for exchange in proxy.exchanges
        if (exchange.kind, exchange.method) == ("blob", "GET")
    }


def test_a_manifest_names_everything_that_the_cache_needs(
    server: Registry, store: Store, layers: list[Layer], new_client: NewClient
) -> None:
    digest = send(server, store, new_client)
    manifest = manifest_of(server)
    named = {blob["digest"] for blob in (manifest["config"], *manifest["layers"])}
    assert named | {digest} == server.blobs()
    assert {layer.descriptor.digest for layer in layers} <= named
    assert manifest["artifactType"] == manifest["config"]["mediaType"] == CACHE_TYPE
    assert len(manifest["layers"]) == 4
    assert send(server, store, new_client) == digest  # the same cache has the same bytes


@pytest.mark.needs_material
def test_the_manifest_is_one_by_the_specifications_schema(
    server: Registry, store: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    assert schema_error(SCHEMAS[OCI_MANIFEST], manifest_of(server)) == ""


def test_steps_are_found_by_key_and_content_and_no_layer_is_fetched(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    with fault_proxy(server.port) as proxy:
        notices = attach(proxy, here, new_client)
        assert fetched(proxy) == {manifest_of(server)["config"]["digest"]}
        proxy.forget()
        for key, layer in zip(KEYS, layers, strict=True):
            assert here.cache.get(key) == store.cache.get(key)
            assert here.layers.find(layer.diff_id) == layer
            found = here.cache.same_content(PARENT, layer.content_digest, "None")
            assert found == store.cache.get(key)
        assert here.cache.get(Digest.of(b"unknown")) is None
        assert here.cache.same_content(None, layers[0].content_digest, "None") is None
        assert proxy.exchanges == []
        assert here.layers.toc(here.layers.get(layers[0].diff_id)) == store.layers.toc(layers[0])
        here.layers.fetch(here.layers.get(layers[1].diff_id))
        assert layers[0].descriptor.digest not in fetched(proxy)
        assert layers[1].descriptor.digest in fetched(proxy)
    here.flush()
    assert (notices, findings(here)) == ([], [])
    assert [step.key for step in here.cache.steps()] == [KEYS[1]]


def test_what_was_only_found_is_handed_on_without_being_fetched(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    digest = send(server, store, new_client)
    with fault_proxy(server.port) as proxy:
        attach(proxy, here, new_client)
        for key in KEYS:
            here.cache.get(key)
        proxy.forget()
        assert send(proxy, here, new_client) == digest
        assert fetched(proxy) == set(), "neither layers nor tables of contents"
        assert proxy.bytes_sent("upload") == 0


def test_a_cache_is_carried_to_another_registry(
    server: Registry,
    store: Store,
    here: Store,
    layers: list[Layer],
    new_client: NewClient,
    tmp_path: Path,
) -> None:
    send(server, store, new_client)
    attach(server, here, new_client)
    for key in KEYS:
        here.cache.get(key)
    with registry(tmp_path / "second") as second:
        send(second, here, new_client)
        assert {layer.descriptor.digest for layer in layers} <= second.blobs()


def test_layers_of_base_images_are_described_and_their_blobs_stay_where_they_are(
    server: Registry, store: Store, here: Store, new_client: NewClient
) -> None:
    base = make_layer(store, {"base": b"3" * 5000})
    lost = make_layer(store, {"lost": b"4"})
    store.flush()
    store.layers.toc_path(lost.diff_id).unlink()
    store.blob_path(lost.descriptor.digest).unlink()
    exporter = CacheExporter(store=store, client=new_client(), reference=name(server))
    exporter.add_descriptions([lost, base])
    exporter.send()
    assert base.descriptor.digest not in server.blobs()
    assert len(manifest_of(server)["layers"]) == 1, "its table of contents"
    with fault_proxy(server.port) as proxy:
        notices = attach(proxy, here, new_client)
        proxy.forget()
        found = here.cache.describe(base.diff_id)
        assert found is not None
        assert found.layer == base
        assert here.cache.describe(lost.diff_id) is None
        assert proxy.exchanges == []
        assert found.read_toc() == store.layers.toc(base)
    assert notices == []


def test_a_cache_without_descriptions_is_one(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    """As it was written before there were any."""
    send(server, store, new_client)
    config = json.loads(
        server.ask("GET", f"/v2/cache/blobs/{manifest_of(server)['config']['digest']}").content
    )
    del config["layers"]
    put(server, json.dumps(config).encode())
    assert attach(server, here, new_client) == []
    assert here.cache.get(KEYS[0]) == store.cache.get(KEYS[0])
    assert here.cache.describe(layers[0].diff_id) is None


def test_several_layers_come_side_by_side(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    told: list[tuple[Digest, int, int]] = []

    def came(blob: Digest, come_bytes: int, size_bytes: int) -> None:
        told.append((blob, come_bytes, size_bytes))

    with fault_proxy(server.port) as proxy:
        attach(proxy, here, new_client)
        for key in KEYS:
            here.cache.get(key)
        proxy.forget()
        known = [here.layers.get(layer.diff_id) for layer in layers]
        assert here.layers.fetch_all(known, came) == layers
        assert proxy.count(method="GET", kind="blob") == 2
    sizes = {layer.descriptor.digest: layer.descriptor.size_bytes for layer in layers}
    assert {blob: size for blob, come, size in told if come == size} == sizes
    here.flush()
    assert findings(here) == []
    assert {step.key for step in here.cache.steps()} == set(KEYS)


def test_one_layer_that_is_damaged_there_spoils_no_other(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    flip(server.blob_path(layers[0].descriptor.digest), 30)
    attach(server, here, new_client)
    for key in KEYS:
        here.cache.get(key)
    with pytest.raises(UnusableLayerError):
        here.layers.fetch_all([here.layers.get(layer.diff_id) for layer in layers])
    assert here.layers.fetch(here.layers.get(layers[1].diff_id)) == layers[1]
    here.flush()
    assert findings(here) == []


def test_a_layer_in_another_repository_of_the_registry_is_mounted(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    with fault_proxy(server.port) as proxy:
        attach(proxy, here, new_client)
        for key in KEYS:
            here.cache.get(key)
        proxy.forget()
        reference = Reference.parse(f"{proxy.address}/other:1")
        exporter = CacheExporter(store=here, client=new_client(), reference=reference)
        assert exporter.add_steps(KEYS) == 2
        exporter.send()
        assert fetched(proxy) == set()
    assert server.tags("other") == ["1"]


def test_a_byte_that_changes_on_its_way_is_fetched_again(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    with fault_proxy(server.port) as proxy:
        attach(proxy, here, new_client)
        here.cache.get(KEYS[0])
        for fault in ("flip", "truncate", "cut", "503"):
            proxy.fail_next(fault, "GET .*/blobs/")
        here.layers.fetch(here.layers.get(layers[0].diff_id))
    here.flush()
    assert findings(here) == []


def test_a_damaged_layer_is_never_taken_in(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    flip(server.blob_path(layers[0].descriptor.digest))
    attach(server, here, new_client)
    here.cache.get(KEYS[0])
    with pytest.raises(UnusableLayerError, match="cache:1"):
        here.layers.fetch(here.layers.get(layers[0].diff_id))
    assert here.cache.get(KEYS[0]) is None
    assert list(here.blobs.digests()) == []


def test_contents_of_cache_mounts_go_along(
    server: Registry, store: Store, here: Store, new_client: NewClient, tmp_path: Path
) -> None:
    def fill(path: Path) -> None:
        (path / "log").write_text("fetched\n")

    held = store.cache_mounts.hold(MOUNT, "shared", fill)
    assert held is not None
    with held:
        pass
    exporter = CacheExporter(store=store, client=new_client(), reference=name(server))
    assert exporter.add_mount(MOUNT, tmp_path / "folder") == ()
    with pytest.raises(StoreError, match="none in this store"):
        exporter.add_mount("cd" * 32, tmp_path / "folder")
    exporter.send()
    notices = attach(server, here, new_client)
    other = here.cache_mounts.hold(MOUNT, "shared", lambda path: None)
    assert other is not None
    with other:
        assert (other.path / "log").read_text() == "fetched\n"
    assert notices == []


def put(server: Registry, config: bytes, media_type: str = CACHE_TYPE) -> None:
    digest = server.put_blob("cache", config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": media_type, "digest": digest, "size": len(config)},
        "layers": [],
    }
    server.put_manifest("cache", "1", json.dumps(manifest).encode(), OCI_MANIFEST)


@pytest.mark.parametrize(
    "config",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"schema":2,"steps":[],"mounts":[]}',
        b'{"schema":1,"mounts":[]}',
        b'{"schema":1,"steps":{},"mounts":[]}',
        b'{"schema":1,"steps":["x"],"mounts":[]}',
        b'{"schema":1,"steps":[{"document":1}],"mounts":[]}',
        b'{"schema":1,"steps":[],"mounts":[7]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_cache_is_refused(
    config: bytes, server: Registry, new_client: NewClient
) -> None:
    put(server, config)
    with pytest.raises(MalformedDocumentError):
        RepositoryPlace.find(new_client(), name(server))


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda step: step.pop("layer"),
        lambda step: step["layer"].pop("blob"),
        lambda step: step["layer"]["blob"].update(digest="sha256:short"),
        lambda step: step["layer"]["blob"].update(size=-1),
        lambda step: step.update(schema=9),
    ],
)
def test_a_malformed_step_is_a_miss_with_a_notice(
    change: Change,
    server: Registry,
    store: Store,
    here: Store,
    layers: list[Layer],
    new_client: NewClient,
) -> None:
    send(server, store, new_client)
    config = json.loads(
        server.ask("GET", f"/v2/cache/blobs/{manifest_of(server)['config']['digest']}").content
    )
    change(next(step for step in config["steps"] if step["document"] == DOCUMENTS[0].decode()))
    put(server, json.dumps(config).encode())
    notices = attach(server, here, new_client)
    assert here.cache.get(KEYS[0]) is None
    assert here.cache.get(KEYS[1]) is not None
    assert len(notices) == 1


JUNK: tuple[object, ...] = (
    None,
    0,
    -1,
    1.5,
    "",
    [],
    {},
    "x",
    True,
    2**70,
    "sha256:",
    ["a"],
    {"a": 1},
)


def mutated(value: object, chance: random.Random) -> object:
    """The same JSON with some values replaced and some members left out."""
    if chance.random() < 0.08:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        kept = ((key, item) for key, item in value.items() if chance.random() > 0.03)
        return {key: mutated(item, chance) for key, item in kept}
    if isinstance(value, list):
        return [mutated(item, chance) for item in value]
    return value


def test_no_list_of_steps_makes_the_reader_stumble(
    server: Registry, store: Store, layers: list[Layer], new_client: NewClient
) -> None:
    send(server, store, new_client)
    config = json.loads(
        server.ask("GET", f"/v2/cache/blobs/{manifest_of(server)['config']['digest']}").content
    )
    client = new_client()
    repository = client.repository(name(server))
    read = 0
    for seed in range(2000):
        data = json.dumps(mutated(config, random.Random(seed))).encode()
        try:
            place = RepositoryPlace(client, repository, "it", data)
            for key in KEYS:
                file = place.step(key)
                if file is not None:
                    decode_step(file, key)
                    read += 1
        except StoreError as error:
            assert str(error)
    assert read > 100


def test_more_steps_than_a_document_can_name_are_refused(
    server: Registry, store: Store, new_client: NewClient
) -> None:
    layer = make_layer(store, {"a": b"1"})
    document = b'{"step":"' + b"x" * (4 * 1024 * 1024) + b'"}'
    store.cache.put(cached_step(document, layer), parent=PARENT, variant="None")
    exporter = CacheExporter(store=store, client=new_client(), reference=name(server))
    with pytest.raises(StoreError):
        exporter.add_steps([Digest.of(document)])
        exporter.send()
    assert server.tags("cache") == []


def test_a_cache_inside_of_an_image_is_found_and_no_layer_is_fetched(
    server: Registry, store: Store, here: Store, layers: list[Layer], new_client: NewClient
) -> None:
    text = inline_steps(store, KEYS, layers)
    config = ImageConfig(architecture="amd64", os="linux", inline_cache=text)
    image = store.images.seal(config, layers)
    push_image(new_client(), store, image, name(server))
    with fault_proxy(server.port) as proxy:
        cache = find_inline_cache(new_client(), here, name(proxy), pytest.fail)
        assert cache is not None
        assert fetched(proxy) == {image.id}
        here.cache.add_source(cache)
        for key in KEYS:
            assert here.cache.get(key) == store.cache.get(key)
        assert fetched(proxy) == {image.id}
        here.layers.fetch(here.layers.get(layers[1].diff_id))
        assert fetched(proxy) == {image.id, layers[1].descriptor.digest}
    here.flush()
    assert [step.key for step in here.cache.steps()] == [KEYS[1]]
    assert here.images.list() == []
    assert findings(here) == []


def test_an_image_is_no_cache_and_may_have_one_inside(
    server: Registry, store: Store, new_client: NewClient
) -> None:
    client = new_client()
    push_image(client, store, make_image(store, "app:1", {"a": b"1"}), name(server))
    assert RepositoryPlace.find(client, name(server)) is None
    assert find_inline_cache(client, store, name(server), pytest.fail) is None
    with pytest.raises(UnknownManifestError):
        RepositoryPlace.find(client, Reference.parse(f"{server.address}/none:1"))
    with pytest.raises(RegistryError):
        RepositoryPlace.find(client, Reference.parse("127.0.0.1:1/none:1"))


@pytest.mark.needs_peers("skopeo")
def test_another_tool_copies_the_cache(
    server: Registry,
    store: Store,
    here: Store,
    layers: list[Layer],
    new_client: NewClient,
    tmp_path: Path,
) -> None:
    send(server, store, new_client)
    skopeo = ("skopeo", "--insecure-policy", "copy", "-q")
    there = f"docker://{server.address}"
    run(*skopeo, "--src-tls-verify=false", f"{there}/cache:1", f"dir:{tmp_path}/carried")
    with registry(tmp_path / "second") as second:
        target = f"docker://{second.address}/cache:1"
        run(*skopeo, "--dest-tls-verify=false", f"dir:{tmp_path}/carried", target)
        attach(second, here, new_client)
        here.cache.get(KEYS[0])
        here.layers.fetch(here.layers.get(layers[0].diff_id))
        assert findings(here) == []
