"""Pulling: what is fetched, what is refused, and that nothing wrong is ever named."""

import gzip
import os
import random
from pathlib import Path

import pytest

from layerstore import (
    CorruptBlobError,
    Digest,
    MalformedDocumentError,
    NotFoundError,
    Platform,
    Reference,
    Store,
    StoreError,
    UnsupportedMediaTypeError,
    canonical_json,
    host_platform,
)
from layerstore.registry import (
    BlockedRegistryError,
    Bounds,
    RegistryError,
    Transfer,
    UnknownManifestError,
    pull_image,
    push_image,
)
from tests.layerstore.registry.conftest import NewClient
from tests.support.faultproxy import FAULTS, Fault, fault_proxy
from tests.support.oddregistry import OddRegistry, Reply
from tests.support.registries import Registry
from tests.support.servers import make_tar
from tests.support.stores import flip_blob, make_image, problems

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


TAR = make_tar({"hello": b"hello\n"})
LAYER = TAR, Digest.of(TAR)


def name(odd: OddRegistry, rest: str = "a:1") -> Reference:
    return Reference.parse(f"{odd.address}/{rest}")


def is_clean(store: Store) -> bool:
    """Nothing is named, and fsck finds nothing, also after a flush."""
    store.flush()
    return store.images.list() == [] and problems(store.root) == []


# What comes.


def test_an_image_has_the_digest_here_that_it_has_there(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    digest = odd.add_image("a", "1", [LAYER])
    pulled = pull_image(new_client(), store, name(odd))
    assert pulled.image.descriptor.digest == pulled.root.digest == digest
    store.flush()
    image = store.images.resolve(f"{odd.address}/a:1")
    assert store.layers.tree(image.layers).get("hello") is not None
    assert problems(store.root) == []


def test_by_digest_an_image_is_named_by_digest(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    digest = odd.add_image("a", "1", [LAYER])
    pull_image(new_client(), store, name(odd, f"a@{digest}"))
    store.flush()
    assert store.images.list()[0].names == (f"{odd.address}/a@{digest}",)
    assert store.images.resolve(f"{odd.address}/a@{digest}").descriptor.digest == digest
    with pytest.raises(NotFoundError):
        store.images.resolve(f"{odd.address}/a:1")


def test_of_several_platforms_one_comes_and_the_name_stands_for_all(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    own = odd.add_image("a", "own", [LAYER])
    other_tar = make_tar({"other": b""})
    other = odd.add_image("a", "other", [(other_tar, Digest.of(other_tar))])
    size = {digest: len(odd.content(f"/v2/a/manifests/{digest}")) for digest in (own, other)}
    entries = [
        {"mediaType": OCI, "digest": digest, "size": size[digest], "platform": platform}
        for digest, platform in (
            (other, {"os": "linux", "architecture": "s390x"}),
            (own, {"os": "linux", "architecture": host_platform().architecture}),
        )
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    index = odd.add_manifest("a", "1", document, OCI_INDEX)
    client = new_client()
    pulled = pull_image(client, store, name(odd))
    assert (pulled.image.descriptor.digest, pulled.root.digest) == (own, index)
    store.flush()
    assert store.images.resolve(f"{odd.address}/a@{index}").descriptor.digest == own
    foreign = Platform(os="linux", architecture="s390x")
    assert pull_image(client, store, name(odd), platform=foreign).image.descriptor.digest == other
    store.flush()
    for wanted, digest in ((None, own), (foreign, other)):  # both are here now
        found = store.images.resolve(f"{odd.address}/a:1", wanted)
        assert found.descriptor.digest == digest
    assert problems(store.root) == []
    with pytest.raises(UnknownManifestError, match="no matching manifest"):
        pull_image(client, store, name(odd), platform=Platform(os="linux", architecture="riscv64"))


def test_what_is_here_is_not_fetched(odd: OddRegistry, new_client: NewClient, store: Store) -> None:
    odd.add_image("a", "1", [LAYER])
    client = new_client()
    pull_image(client, store, name(odd))
    store.flush()
    odd.asked.clear()
    told: list[Transfer] = []
    pull_image(client, store, name(odd), report=told.append)
    assert [event.status for event in told] == ["exists"]
    assert not [path for path in odd.paths() if Digest.of(TAR) in path]


def test_a_damaged_layer_is_healed(odd: OddRegistry, new_client: NewClient, store: Store) -> None:
    odd.add_image("a", "1", [LAYER])
    client = new_client()
    pull_image(client, store, name(odd))
    store.flush()
    flip_blob(store, Digest.of(TAR))
    assert problems(store.root) != []
    with Store.open(store.root) as other:
        pull_image(client, other, name(odd))
    assert problems(store.root) == []


def test_two_layers_of_the_same_bytes_are_fetched_once(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    odd.add_image("a", "1", [LAYER, LAYER])
    pulled = pull_image(new_client(), store, name(odd))
    assert len(pulled.image.layers) == 2
    assert sum(Digest.of(TAR) in path for path in odd.paths()) == 1


def test_more_layers_than_may_be_open_at_once(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    tars = [make_tar({f"f{number}": b"x"}) for number in range(40)]
    odd.add_image("a", "1", [(tar, Digest.of(tar)) for tar in tars])
    assert len(pull_image(new_client(), store, name(odd)).image.layers) == 40


def test_a_layer_that_is_known_in_another_compression_is_fetched_as_the_manifest_has_it(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    client = new_client()
    odd.add_image("a", "1", [LAYER])
    pull_image(client, store, name(odd))
    squeezed = gzip.compress(TAR)
    digest = odd.add_image("a", "2", [(squeezed, Digest.of(TAR))], layer_type=GZIP)
    pulled = pull_image(client, store, name(odd, "a:2"))
    store.flush()
    assert pulled.image.descriptor.digest == digest
    assert store.blobs.has(Digest.of(squeezed))
    assert problems(store.root) == []


# What is refused.


def test_a_wrong_blob_names_nothing(odd: OddRegistry, new_client: NewClient, store: Store) -> None:
    odd.add_image("a", "1", [LAYER])
    odd.replies[f"GET /v2/a/blobs/{Digest.of(TAR)}"] = Reply(TAR[:-1] + b"x")
    with pytest.raises(CorruptBlobError):
        pull_image(new_client(), store, name(odd))
    assert sum(Digest.of(TAR) in path for path in odd.paths()) == 2
    assert is_clean(store)


def test_a_blob_that_came_wrong_is_fetched_once_more(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    odd.add_image("a", "1", [LAYER])
    odd.replies[f"GET /v2/a/blobs/{Digest.of(TAR)}"] = [Reply(b"x" * len(TAR)), Reply(TAR)]
    pull_image(new_client(), store, name(odd))
    store.flush()
    assert problems(store.root) == []


def test_a_wrong_diff_id_names_nothing(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    odd.add_image("a", "1", [(TAR, Digest.of(b"other"))])
    with pytest.raises(CorruptBlobError, match="diff_id"):
        pull_image(new_client(), store, name(odd))
    assert sum(Digest.of(TAR) in path for path in odd.paths()) == 1  # it is not the network's fault
    assert is_clean(store)


def test_a_layer_of_another_image_does_not_pass_for_one(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    """The same bytes under a diff_id that is known, but is not theirs."""
    other = make_tar({"other": b""})
    client = new_client()
    odd.add_image("a", "1", [LAYER, (other, Digest.of(other))])
    pull_image(client, store, name(odd))
    odd.add_image("a", "2", [(TAR, Digest.of(other))])
    with pytest.raises(CorruptBlobError, match="diff_id"):
        pull_image(client, store, name(odd, "a:2"))
    odd.add_image("a", "3", [LAYER, (TAR, Digest.of(b"unknown"))])
    with pytest.raises(CorruptBlobError, match="diff_id"):
        pull_image(client, store, name(odd, "a:3"))


def test_a_layer_that_is_not_there_is_named(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    odd.add_image("a", "1", [LAYER])
    odd.replies[f"GET /v2/a/blobs/{Digest.of(TAR)}"] = Reply(status=404)
    with pytest.raises(UnknownManifestError, match=f"blob {Digest.of(TAR)} .* blob unknown"):
        pull_image(new_client(), store, name(odd))
    assert is_clean(store)


def test_a_layer_that_lies_with_somebody_else_is_not_fetched_from_there(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    odd.add_image("a", "1", [LAYER], layer_type=foreign)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(TAR)}"] = Reply(status=404)
    with pytest.raises(UnsupportedMediaTypeError, match="nondistributable") as caught:
        pull_image(new_client(), store, name(odd))
    assert "somebody else" in caught.value.hint


def test_a_hostile_tar_names_nothing(odd: OddRegistry, new_client: NewClient, store: Store) -> None:
    tar = make_tar({"../x": b""})
    odd.add_image("a", "1", [(tar, Digest.of(tar))])
    with pytest.raises(StoreError):
        pull_image(new_client(), store, name(odd))
    assert is_clean(store)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"manifests": []}, MalformedDocumentError),
        ({"layers": []}, MalformedDocumentError),
        ({"schemaVersion": 1}, MalformedDocumentError),
        (
            {"layers": [{"mediaType": GZIP, "digest": "sha256:1", "size": 1}]},
            MalformedDocumentError,
        ),
        (
            {"layers": [{"mediaType": "text/plain", "digest": Digest.of(TAR), "size": 1}]},
            UnsupportedMediaTypeError,
        ),
    ],
)
def test_an_odd_manifest_is_refused_before_a_layer_is_fetched(
    odd: OddRegistry,
    new_client: NewClient,
    store: Store,
    changes: dict[str, object],
    kind: type[StoreError],
) -> None:
    odd.add_image("a", "1", [LAYER], changes=changes)
    with pytest.raises(kind):
        pull_image(new_client(), store, name(odd))
    assert not [path for path in odd.paths() if Digest.of(TAR) in path]
    assert is_clean(store)


def test_what_is_no_image_is_refused(odd: OddRegistry, new_client: NewClient, store: Store) -> None:
    config = {
        "mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": odd.add_blob("a", b"{}"),
        "size": 2,
    }
    odd.add_image("a", "1", [LAYER], changes={"config": config})
    with pytest.raises(UnsupportedMediaTypeError, match="helm"):
        pull_image(new_client(), store, name(odd))


def test_indexes_are_not_followed_for_ever(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    size, digest = 2, Digest.of(b"{}")
    for number in range(6):
        entry = {"mediaType": OCI_INDEX, "digest": digest, "size": size}
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        digest = odd.add_manifest("a", str(number), document, OCI_INDEX)
        size = len(canonical_json(document))
    with pytest.raises(MalformedDocumentError, match="nested too deeply"):
        pull_image(new_client(), store, name(odd, "a:5"))


def test_a_layer_that_came_whole_before_a_failure_is_not_fetched_again(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    other = make_tar({"other": os.urandom(100_000)})
    odd.add_image("a", "1", [LAYER, (other, Digest.of(other))])
    path = f"GET /v2/a/blobs/{Digest.of(other)}"
    good = odd.replies[path]
    odd.replies[path] = Reply(status=404)
    with pytest.raises(RegistryError):
        pull_image(new_client(), store, name(odd))
    assert store.images.list() == []
    odd.replies[path] = good
    odd.asked.clear()
    with Store.open(store.root) as later:
        pull_image(new_client(), later, name(odd))
    assert not [path for path in odd.paths() if Digest.of(TAR) in path]
    assert problems(store.root) == []


# Mirrors.


def test_a_mirror_is_asked_first_and_the_registry_where_it_fails(
    odd: OddRegistry, new_client: NewClient, store: Store, tmp_path: Path
) -> None:
    odd.add_image("mirror/library/a", "1", [LAYER])
    (tmp_path / "registries.conf").write_text(
        f"""
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "127.0.0.1:1"
        [[registry.mirror]]
        location = "{odd.address}/mirror"
        [[registry]]
        location = "blocked.example"
        blocked = true
        """
    )
    pull_image(new_client(), store, Reference.parse("a:1"))
    assert store.images.list()[0].names == ("a:1",)
    with pytest.raises(BlockedRegistryError):
        pull_image(new_client(), store, Reference.parse("blocked.example/a"))


# A real registry, and one that is harmed.


def push(server: Registry, client_of: NewClient, root: Path, **files: bytes) -> Digest:
    """Store an image `a:1` of a layer for each file; its digest."""
    with Store.open(root) as store:
        image = make_image(store, "a:1", *({name: data} for name, data in files.items()))
        return push_image(client_of(), store, image, Reference.parse(f"{server.address}/a:1"))


PATIENT = Bounds(connect_timeout_s=5, idle_timeout_s=5, backoff_s=0.01, retry_after_max_s=0.1)


@pytest.mark.needs_registry
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["blobs", "manifests"])
def test_a_fault_is_survived(
    server: Registry, new_client: NewClient, tmp_path: Path, fault: Fault, place: str
) -> None:
    digest = push(server, new_client, tmp_path / "one", a=os.urandom(500_000), b=b"b")
    with fault_proxy(server.port) as proxy, Store.open(tmp_path / "two") as store:
        proxy.fail_next(fault, f"GET /v2/a/{place}/")
        client = new_client(bounds=PATIENT)
        pulled = pull_image(client, store, Reference.parse(f"{proxy.address}/a:1"))
        assert pulled.image.descriptor.digest == digest
        assert proxy.harmed() == {fault: 1}
    assert problems(tmp_path / "two") == []


@pytest.mark.needs_registry
@pytest.mark.parametrize("seed", range(4))
def test_with_many_faults_an_image_comes_right_or_not_at_all(
    server: Registry, new_client: NewClient, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # faults are drawn by digest: always the same ones
    files = {f"f{number}": chance.randbytes(200_000) for number in range(6)}
    digest = push(server, new_client, tmp_path / "one", **files)
    with fault_proxy(server.port, seed=seed, rate=0.4) as proxy:
        with Store.open(tmp_path / "two") as store:
            client = new_client(bounds=PATIENT)
            try:
                pulled = pull_image(client, store, Reference.parse(f"{proxy.address}/a:1"))
            except RegistryError:
                assert store.images.list() == []
            else:
                assert pulled.image.descriptor.digest == digest
        assert sum(proxy.harmed().values()) > 0
    assert problems(tmp_path / "two") == []


@pytest.mark.needs_registry
def test_a_cut_download_does_not_begin_anew(
    server: Registry, new_client: NewClient, tmp_path: Path
) -> None:
    push(server, new_client, tmp_path / "one", a=os.urandom(1_000_000))
    with fault_proxy(server.port) as proxy, Store.open(tmp_path / "two") as store:
        proxy.fail_next("truncate", "GET /v2/a/blobs/")
        reference = Reference.parse(f"{proxy.address}/a:1")
        image = pull_image(new_client(bounds=PATIENT), store, reference).image
        size = image.manifest.config.size_bytes
        size += sum(layer.size_bytes for layer in image.manifest.layers)
        assert proxy.bytes_received("blob") == size
