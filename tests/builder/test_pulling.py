"""Which image a name stands for, and when a registry is asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.pulling import POLICIES, Pulling, PullPolicy, Report, untold
from layerstore import Digest, Image, NotFoundError, Platform, Reference, Store, host_platform
from layerstore.registry import (
    Bounds,
    RegistryClient,
    RegistryError,
    Settings,
    UnknownManifestError,
    push_image,
)
from tests.support.faultproxy import FaultProxy
from tests.support.stores import make_image, problems

pytestmark = pytest.mark.needs_registry


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    settings = Settings(
        bounds=Bounds(backoff_s=0.01), environment={"HOME": str(tmp_path)}, retries=1
    )
    with RegistryClient(settings) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def push(client: RegistryClient, proxy: FaultProxy, tmp_path: Path, content: bytes) -> Digest:
    """Another machine stores `a:1` in the registry."""
    with Store.open(tmp_path / "other") as other:
        image = make_image(other, "a:1", {"a": content})
        digest = push_image(client, other, image, Reference.parse(f"{proxy.address}/a:1"))
    assert proxy.exchanges  # all of it is over
    proxy.forget()
    return digest


def get(
    client: RegistryClient,
    store: Store,
    name: str,
    policy: PullPolicy,
    platform: Platform | None = None,
) -> Image:
    pulling = Pulling(policy=policy, client=lambda: client)
    return pulling.image(store, name, platform, untold)


def asked(proxy: FaultProxy) -> list[str]:
    """What was asked for, without the probe."""
    return [f"{e.method} {e.kind}" for e in proxy.exchanges if e.path != "/v2/"]


def test_what_is_here_is_taken(client: RegistryClient, proxy: FaultProxy, store: Store) -> None:
    image = make_image(store, f"{proxy.address}/a:1", {"a": b"here"})
    for policy in ("missing", "never"):
        assert get(client, store, f"{proxy.address}/a:1", policy) == image
    assert proxy.exchanges == []


def test_what_is_missing_is_pulled_and_named(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path
) -> None:
    digest = push(client, proxy, tmp_path, b"there")
    name = f"{proxy.address}/a:1"
    assert get(client, store, name, "missing").descriptor.digest == digest
    assert get(client, store, name, "never").descriptor.digest == digest
    store.flush()
    assert problems(store.root) == []


def test_never_is_never(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path
) -> None:
    push(client, proxy, tmp_path, b"there")
    with pytest.raises(NotFoundError, match="no such image"):
        get(client, store, f"{proxy.address}/a:1", "never")
    assert proxy.exchanges == []


@pytest.mark.parametrize("policy", ["always", "newer"])
def test_what_is_the_same_there_is_not_fetched(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path, policy: PullPolicy
) -> None:
    push(client, proxy, tmp_path, b"there")
    name = f"{proxy.address}/a:1"
    get(client, store, name, "missing")
    proxy.forget()
    get(client, store, name, policy)
    assert asked(proxy) == ["HEAD manifest"]


@pytest.mark.parametrize("policy", ["always", "newer"])
def test_what_is_another_there_is_fetched(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path, policy: PullPolicy
) -> None:
    push(client, proxy, tmp_path, b"old")
    name = f"{proxy.address}/a:1"
    get(client, store, name, "missing")
    new = push(client, proxy, tmp_path, b"new")
    assert get(client, store, name, "missing").descriptor.digest != new
    assert get(client, store, name, policy).descriptor.digest == new
    assert get(client, store, name, "never").descriptor.digest == new


def test_always_fails_where_newer_takes_what_is_here(
    client: RegistryClient, proxy: FaultProxy, store: Store
) -> None:
    image = make_image(store, f"{proxy.address}/a:1", {"a": b"here"})
    assert get(client, store, f"{proxy.address}/a:1", "newer") == image
    with pytest.raises(UnknownManifestError):
        get(client, store, f"{proxy.address}/a:1", "always")


def test_an_id_and_a_digest_that_is_here_are_not_asked_for(
    client: RegistryClient, proxy: FaultProxy, store: Store
) -> None:
    image = make_image(store, f"{proxy.address}/a:1", {"a": b"here"})
    for name in (image.id, image.id.short, f"{proxy.address}/a@{image.descriptor.digest}"):
        assert get(client, store, name, "always").id == image.id
    assert proxy.exchanges == []


def test_an_id_that_is_not_here_is_no_name(client: RegistryClient, store: Store) -> None:
    with pytest.raises(NotFoundError, match="no such image"):
        get(client, store, Digest.of(b""), "always")


def test_another_platform_of_an_index_is_fetched_when_it_is_wanted(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path
) -> None:
    from layerstore import Index, canonical_json
    from layerstore.documents import descriptor_json

    foreign = Platform(os="linux", architecture="s390x")
    with Store.open(tmp_path / "other") as other:
        entries = []
        for number, platform in enumerate((host_platform(), foreign)):
            image = make_image(other, f"p{number}", {"a": os.urandom(100)})
            reference = Reference.parse(f"{proxy.address}/a:p{number}")
            push_image(client, other, image, reference)
            entry = descriptor_json(image.descriptor) | {
                "platform": {"os": platform.os, "architecture": platform.architecture}
            }
            entries.append((entry, image))
    data = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": Index().media_type,
            "manifests": [entry for entry, _ in entries],
        }
    )
    reference = Reference.parse(f"{proxy.address}/a:1")
    client.repository(reference).put_manifest(data, Index().media_type, "1")
    (_, own), (_, other_image) = entries
    name = reference.full
    assert get(client, store, name, "missing").descriptor == own.descriptor
    found = get(client, store, name, "missing", foreign)
    assert found.descriptor == other_image.descriptor
    assert get(client, store, name, "never").descriptor == own.descriptor


def test_a_registry_that_cannot_be_reached_is_told_with_a_way_out(
    client: RegistryClient, store: Store
) -> None:
    with pytest.raises(
        NotFoundError, match=r"no such image: 127\.0\.0\.1:1/a: cannot reach"
    ) as caught:
        get(client, store, "127.0.0.1:1/a", "missing")
    assert "lamina bootstrap" in caught.value.hint


def test_a_pull_is_told_only_where_a_registry_is_asked(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path
) -> None:
    push(client, proxy, tmp_path, b"there")
    told: list[str] = []

    @contextmanager
    def watch(name: Reference) -> Iterator[Report]:
        told.append(name.full)
        yield lambda event: told.append(event.status)

    name = f"{proxy.address}/a:1"
    pulling = Pulling(policy="missing", client=lambda: client)
    pulling.image(store, name, None, watch)
    assert told[0] == name
    assert told[-1] == "complete"
    told.clear()
    pulling.image(store, name, None, watch)
    assert told == []


def test_no_client_is_made_for_what_is_here(store: Store) -> None:
    make_image(store, "a:1", {"a": b"here"})

    def client() -> RegistryClient:
        raise AssertionError("nobody asked for a registry")

    Pulling(policy="missing", client=client).image(store, "a:1", None, untold)


def test_errors_of_a_registry_stay_what_they_are(
    client: RegistryClient, proxy: FaultProxy, store: Store
) -> None:
    with pytest.raises(RegistryError, match="manifest unknown"):
        get(client, store, f"{proxy.address}/a:1", "missing")


def test_every_word_for_a_policy_means_one() -> None:
    assert set(POLICIES.values()) == {"missing", "always", "newer", "never"}


def test_who_fetches_nothing_asks_what_an_image_consists_of(
    client: RegistryClient, proxy: FaultProxy, store: Store, tmp_path: Path
) -> None:
    digest = push(client, proxy, tmp_path, b"there")
    pulling = Pulling(policy="missing", client=lambda: client, fetches=False)
    image = pulling.image(store, f"{proxy.address}/a:1", None, untold)
    assert image.descriptor.digest == digest
    assert asked(proxy) == ["GET manifest", "GET blob"], "of the blobs the config alone"
    assert store.layers.find(image.layers[0].diff_id) is None
    local = make_image(store, f"{proxy.address}/b:1", {"b": b"here"})
    assert pulling.image(store, f"{proxy.address}/b:1", None, untold) == local
    gone = Pulling(policy="never", client=lambda: client, fetches=False)
    with pytest.raises(NotFoundError):
        gone.image(store, f"{proxy.address}/a:1", None, untold)
