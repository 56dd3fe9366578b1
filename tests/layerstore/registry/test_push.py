"""Pushing: what is sent, what is not, and that a name leads to what is there."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from layerstore import (
    CorruptBlobError,
    Descriptor,
    Digest,
    Image,
    Reference,
    Store,
)
from layerstore.blobs import put
from layerstore.registry import (
    Bounds,
    Credentials,
    DeniedError,
    RegistryError,
    Transfer,
    UnauthorizedError,
    pull_image,
    push_image,
)
from tests.layerstore.registry.conftest import NewClient
from tests.support.faultproxy import FAULTS, Fault, fault_proxy
from tests.support.oddregistry import OddRegistry, Reply, error_body
from tests.support.offers import Offered
from tests.support.registries import PASSWORD, USERNAME, Auth, Registry, registry
from tests.support.stores import flip_blob, make_image

pytestmark = pytest.mark.needs_registry


def name(server: Registry | OddRegistry, rest: str = "a:1") -> Reference:
    return Reference.parse(f"{server.address}/{rest}")


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "there") as there:
        yield there


def has(server: Registry, reference: str) -> bool:
    """Whether the repository `a` has that manifest."""
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    return server.ask("HEAD", f"/v2/a/manifests/{reference}", headers=accept).status == 200


def test_an_image_has_the_digest_there_that_it_has_here(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": b"x"}, {"b": os.urandom(100_000)})
    digest = push_image(new_client(), store, image, name(server))
    assert digest == image.descriptor.digest
    assert has(server, digest)
    assert server.tags("a") == ["1"]
    parts = {image.descriptor, image.manifest.config, *image.manifest.layers}
    assert server.blobs() == {part.digest for part in parts}


def test_a_second_push_sends_nothing_but_the_manifest(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": b"x"})
    with fault_proxy(server.port) as proxy:
        reference = Reference.parse(f"{proxy.address}/a:1")
        push_image(new_client(), store, image, reference)
        assert proxy.exchanges  # all of it is over
        proxy.forget()
        told: list[Transfer] = []
        push_image(new_client(), store, image, reference, report=told.append)
        assert proxy.bytes_sent("upload") == 0
        assert proxy.count(method="PUT", kind="manifest") == 1
    assert [event.status for event in told if event.status != "waiting"] == ["exists", "exists"]


def test_layers_of_other_repositories_are_mounted(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(10_000)})
    store.images.tag(image, name(server, "base:1"))
    client = new_client()
    push_image(client, store, image, name(server, "base:1"))
    told: list[Transfer] = []
    push_image(client, store, image, name(server, "app:1"), report=told.append)
    assert {event.source for event in told if event.status == "mounted"} == {"base"}
    assert not [event for event in told if event.status == "uploaded"]


def offer_all(here: Store, there: Store, image: Image, origin: str) -> tuple[Image, list[Offered]]:
    """An image in `here`, all layers of which are elsewhere."""
    offers = [Offered(layer, there, here, origin) for layer in image.layers]
    for offer in offers:
        assert here.layers.offer(offer)
    return here.images.seal(image.config, image.layers, fetch=False), offers


@pytest.mark.parametrize("origin", ["base", "nowhere", ""])
def test_a_layer_that_is_only_offered_is_mounted_or_else_fetched(
    server: Registry, new_client: NewClient, store: Store, there: Store, origin: str
) -> None:
    image = make_image(there, "a:1", {"a": os.urandom(10_000)}, {"b": os.urandom(10_000)})
    push_image(new_client(), there, image, name(server, "base:1"))
    place = f"{server.address}/{origin}" if origin else ""
    here, offers = offer_all(store, there, image, place)
    told: list[Transfer] = []
    digest = push_image(new_client(), store, here, name(server), report=told.append)
    assert digest == image.descriptor.digest
    assert has(server, digest)
    layers = {layer.descriptor.digest for layer in image.layers}
    ends = {event.digest: event for event in told if event.digest in layers}
    if origin == "base":
        assert [offer.fetched for offer in offers] == [0, 0]
        assert {(event.status, event.source) for event in ends.values()} == {("mounted", "base")}
    else:
        assert [offer.fetched for offer in offers] == [1, 1]
        assert {event.status for event in ends.values()} == {"uploaded"}


def test_what_the_registry_has_need_not_be_fetched_from_another(
    server: Registry, new_client: NewClient, store: Store, there: Store
) -> None:
    image = make_image(there, "a:1", {"a": os.urandom(10_000)})
    push_image(new_client(), there, image, name(server))
    here, (offer,) = offer_all(store, there, image, "elsewhere.example/base")
    told: list[Transfer] = []
    push_image(new_client(), store, here, name(server, "a:2"), report=told.append)
    assert offer.fetched == 0
    assert {event.status for event in told if event.status != "waiting"} == {"exists"}


def test_an_offer_of_a_blob_that_is_not_sent_is_left_alone(
    server: Registry, new_client: NewClient, store: Store, there: Store
) -> None:
    """The image lists another encoding of the layer, which is here."""
    image = make_image(there, "a:1", {"a": b"x" * 10_000})
    here, (offer,) = offer_all(store, there, image, "")
    tar = b"".join(there.layers.tar_pieces(image.layers[0]))
    blob = Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar",
        digest=put(store.blobs, tar).digest,
        size_bytes=len(tar),
    )
    manifest = replace(here.manifest, layers=(blob,))
    plain = store.images.assemble_as(manifest, here.config, here.layers)
    push_image(new_client(), store, plain, name(server))
    assert offer.fetched == 0
    assert blob.digest in server.blobs()


def test_a_name_that_lies_about_another_repository_costs_an_upload(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(10_000)})
    store.images.tag(image, name(server, "never-pushed:1"))
    push_image(new_client(), store, image, name(server))
    assert server.tags("a") == ["1"]


def test_how_far_it_is_is_told(server: Registry, new_client: NewClient, store: Store) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(1_000_000)})
    layer = image.manifest.layers[0]
    told: list[Transfer] = []
    push_image(new_client(), store, image, name(server), report=told.append)
    own = [event for event in told if event.digest == layer.digest]
    assert own[0].status == "waiting"
    assert own[-1].status == "uploaded"
    sizes = [event.done_bytes for event in own if event.status == "uploading"]
    assert sizes == sorted(sizes)
    assert sizes[-1] == layer.size_bytes


def test_a_damaged_layer_is_not_pushed(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(10_000)})
    flip_blob(store, image.manifest.layers[0].digest)
    before = threading.active_count()
    with pytest.raises(CorruptBlobError):
        push_image(new_client(), store, image, name(server))
    assert server.tags("a") == []
    assert threading.active_count() == before


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_who_may_not_push_is_told(
    tmp_path: Path, new_client: NewClient, store: Store, auth: Auth
) -> None:
    image = make_image(store, "a:1", {"a": b"x"})
    with registry(tmp_path / "private", auth=auth) as server:
        with pytest.raises(UnauthorizedError, match="unauthorized"):
            push_image(new_client(), store, image, name(server))
        me = Credentials(user=USERNAME, password=PASSWORD)
        client = new_client(credentials=me, credentials_host=server.address)
        assert client.repository(name(server)).find_manifest("1") is None
        push_image(client, store, image, name(server))
        assert client.repository(name(server)).tags() == ["1"]
        assert pull_image(client, store, name(server)).root == image.descriptor


def test_a_token_for_mounting_is_for_both_repositories(
    tmp_path: Path, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(10_000)})
    with registry(tmp_path / "private", auth="token") as server:
        me = Credentials(user=USERNAME, password=PASSWORD)
        client = new_client(credentials=me, credentials_host=server.address)
        store.images.tag(image, name(server, "base:1"))
        push_image(client, store, image, name(server, "base:1"))
        told: list[Transfer] = []
        push_image(client, store, image, name(server, "app:1"), report=told.append)
        assert {event.source for event in told if event.status == "mounted"} == {"base"}
        assert "repository:base:pull" in server.tokens_given


def test_a_registry_that_denies_is_told(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": b"x"})
    denial = Reply(error_body("DENIED", "read only"), 403)
    odd.replies["POST /v2/a/blobs/uploads/"] = denial
    with pytest.raises(DeniedError, match=r"cannot push to .*: denied: read only"):
        push_image(new_client(), store, image, name(odd))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["POST", "PUT /v2/a/blobs", "PUT /v2/a/manifests", "HEAD"])
def test_a_fault_is_survived(
    server: Registry, new_client: NewClient, store: Store, fault: Fault, place: str
) -> None:
    image = make_image(store, "a:1", {"a": os.urandom(50_000)})
    bounds = Bounds(connect_timeout_s=5, idle_timeout_s=5, backoff_s=0.01, retry_after_max_s=0.1)
    with fault_proxy(server.port) as proxy:
        proxy.fail_next(fault, place)
        reference = Reference.parse(f"{proxy.address}/a:1")
        push_image(new_client(bounds=bounds), store, image, reference)
    found = server.ask("HEAD", "/v2/a/manifests/1", headers={"Accept": image.descriptor.media_type})
    assert found.headers["docker-content-digest"] == image.descriptor.digest
    for blob in (image.manifest.config, *image.manifest.layers):
        assert Digest.of(server.blob_path(blob.digest).read_bytes()) == blob.digest


def test_an_image_may_be_pushed_by_digest_alone(
    server: Registry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": b"x"})
    digest = image.descriptor.digest
    push_image(new_client(), store, image, name(server, f"a@{digest}"))
    assert has(server, digest)
    assert server.tags("a") == []


def test_a_registry_that_is_full_of_errors_is_given_up(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    image = make_image(store, "a:1", {"a": b"x"})
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(status=202, headers={"Location": "/up"})
    odd.replies["PUT /up"] = Reply(error_body("DIGEST_INVALID", "no"), 400)
    with pytest.raises(RegistryError, match="digest invalid"):
        push_image(new_client(), store, image, name(odd))
    assert len(odd.paths("PUT")) <= 6
