"""Copies from and to registries: by digest, past faults, and without a byte too many."""

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from layerstore import (
    Copied,
    Descriptor,
    Image,
    Index,
    Platform,
    Store,
    copy_between,
    document_at,
    host_platform,
    parse_place,
    take_in_image,
)
from layerstore.blobs import get
from layerstore.errors import CorruptBlobError, StoreError
from layerstore.registry import (
    Bounds,
    Credentials,
    RegistryCopies,
    RegistryError,
    UnknownManifestError,
)
from tests.layerstore.registry.conftest import QUICK, NewClient
from tests.support.faultproxy import FAULTS, Fault, FaultProxy, fault_proxy
from tests.support.oddregistry import Asked, OddRegistry, Reply
from tests.support.peers import run
from tests.support.registries import Registry, registry
from tests.support.stores import flip_blob, make_image, problems, tag_index

pytestmark = pytest.mark.needs_registry

OTHER = Platform(os="linux", architecture="s390x")


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"a": b"x" * 1000}, {"b": os.urandom(300_000)})


@pytest.fixture
def multi(store: Store, image: Image) -> Descriptor:
    other = make_image(store, "theirs", {"other": b"machine"})
    return tag_index(store, "multi", {host_platform(): image, OTHER: other})


def copy(
    store: Store, source: str, target: str, new_client: NewClient, *, whole: bool = False
) -> Descriptor:
    return copy_between(
        store,
        parse_place(source),
        parse_place(target),
        whole=whole,
        registries=RegistryCopies(new_client()),
    )


def remote(server: Registry | FaultProxy, rest: str) -> str:
    return f"docker://{server.address}/{rest}"


def test_an_image_goes_up_over_and_down_with_its_digest(
    server: Registry, new_client: NewClient, store: Store, image: Image, tmp_path: Path
) -> None:
    assert copy(store, "app:1", remote(server, "a:1"), new_client) == image.descriptor
    copy(store, remote(server, "a:1"), remote(server, "b/c:2"), new_client)
    assert (server.tags("a"), server.tags("b/c")) == (["1"], ["2"])
    with Store.open(tmp_path / "other") as other:
        for target in ("back", f"oci:{tmp_path}/l:x", f"dir:{tmp_path}/d", "oci-archive:{}:x"):
            place = target.format(tmp_path / "a.tar")
            assert copy(other, remote(server, "b/c:2"), place, new_client) == image.descriptor
        assert other.images.resolve("back") == image
    assert problems(tmp_path / "other") == []


def test_by_digest_there_is_no_tag(
    server: Registry, new_client: NewClient, store: Store, image: Image
) -> None:
    there = remote(server, f"a@{image.descriptor.digest}")
    assert copy(store, "app:1", there, new_client) == image.descriptor
    assert server.tags("a") == []
    assert copy(store, there, "back", new_client) == image.descriptor


def test_an_index_goes_whole_or_one_image_of_it(
    server: Registry, new_client: NewClient, store: Store, multi: Descriptor, tmp_path: Path
) -> None:
    assert copy(store, "multi", remote(server, "m:1"), new_client, whole=True) == multi
    with Store.open(tmp_path / "other") as other:
        one = copy(other, remote(server, "m:1"), "one", new_client)
        assert one == store.images.resolve("app:1").descriptor
        assert copy(other, remote(server, "m:1"), "all", new_client, whole=True) == multi
        theirs = store.images.resolve("theirs").descriptor
        assert other.images.resolve("all", OTHER).descriptor == theirs
    assert problems(tmp_path / "other") == []


def test_within_a_registry_blobs_are_mounted_and_none_moves(
    server: Registry, new_client: NewClient, store: Store, image: Image
) -> None:
    with fault_proxy(server.port) as proxy:
        copy(store, "app:1", remote(proxy, "a:1"), new_client)
        proxy.forget()
        copy(store, remote(proxy, "a:1"), remote(proxy, "b:1"), new_client)
        assert proxy.bytes_received("blob") == 0
        assert proxy.bytes_sent("upload") == 0
    assert server.tags("b") == ["1"]


def test_what_is_there_is_neither_read_nor_sent(
    server: Registry, new_client: NewClient, store: Store, image: Image, tmp_path: Path
) -> None:
    with fault_proxy(server.port) as proxy:
        copy(store, "app:1", remote(proxy, "a:1"), new_client)
        copy(store, remote(proxy, "a:1"), f"oci:{tmp_path}/l:x", new_client)
        proxy.forget()
        copy(store, "app:1", remote(proxy, "a:2"), new_client)
        copy(store, remote(proxy, "a:1"), f"oci:{tmp_path}/l:y", new_client)
        assert proxy.bytes_received("blob") == 0
        assert proxy.bytes_sent("upload") == 0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_fault_of_each_kind_is_survived(
    fault: Fault,
    way: str,
    server: Registry,
    new_client: NewClient,
    store: Store,
    image: Image,
    tmp_path: Path,
) -> None:
    copy(store, "app:1", remote(server, "a:1"), new_client)
    with fault_proxy(server.port) as proxy, Store.open(tmp_path / "other") as other:
        if way == "up":
            proxy.fail_next(fault, "(PUT|PATCH) .*/blobs/")
            found = copy(store, "app:1", remote(proxy, "b:1"), new_client)
        else:
            proxy.fail_next(fault, "GET .*/blobs/")
            found = copy(other, remote(proxy, "a:1"), "back", new_client)
            assert other.images.resolve("back") == image
        assert found == image.descriptor
        assert sum(proxy.harmed().values()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_with_five_faults_in_a_hundred_a_copy_is_right_or_fails_clearly(
    seed: int, server: Registry, new_client: NewClient, store: Store, tmp_path: Path
) -> None:
    layers = [{f"{number}": os.urandom(40_000)} for number in range(12)]
    image = make_image(store, "many:1", *layers)
    with (
        fault_proxy(server.port, seed=seed, rate=0.05) as proxy,
        Store.open(tmp_path / "other") as other,
    ):
        for source, target, place in (
            ("many:1", remote(proxy, "a:1"), store),
            (remote(proxy, "a:1"), "back", other),
        ):
            try:
                assert copy(place, source, target, new_client) == image.descriptor
            except StoreError as error:
                assert str(error)
        for record in other.images.list():
            assert record.manifest_digest == image.descriptor.digest
    assert problems(tmp_path / "other") == []
    if server.tags("a"):
        assert copy(store, remote(server, "a:1"), "checked", new_client) == image.descriptor
        assert {blob.digest for blob in image.manifest.layers} <= server.blobs()


def test_a_damaged_blob_is_neither_sent_nor_named(
    server: Registry, new_client: NewClient, store: Store, image: Image
) -> None:
    flip_blob(store, image.manifest.layers[1].digest)
    with pytest.raises(CorruptBlobError):
        copy(store, "app:1", remote(server, "a:1"), new_client)
    assert server.tags("a") == []
    assert image.manifest.layers[1].digest not in server.blobs()
    assert threading.active_count() < 10


def test_a_damaged_registry_names_nothing_here(
    server: Registry, new_client: NewClient, store: Store, image: Image, tmp_path: Path
) -> None:
    copy(store, "app:1", remote(server, "a:1"), new_client)
    path = server.blob_path(image.manifest.layers[1].digest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with Store.open(tmp_path / "other") as other:
        for target in ("back", f"oci:{tmp_path}/l:x"):
            with pytest.raises(StoreError, match=r"damaged|cut|bytes"):
                copy(other, remote(server, "a:1"), target, new_client)
        assert other.images.list() == []
    assert not (tmp_path / "l/index.json").exists()


def test_documents_are_shown_and_images_taken_in_unlisted(
    server: Registry, new_client: NewClient, store: Store, multi: Descriptor, tmp_path: Path
) -> None:
    copy(store, "multi", remote(server, "m:1"), new_client, whole=True)
    place, ways = parse_place(remote(server, "m:1")), RegistryCopies(new_client())
    assert Index.parse(document_at(store, place, ways)).manifests
    with Store.open(tmp_path / "other") as other:
        taken = take_in_image(other, place, registries=ways)
        assert other.images.open(taken).layers
        assert other.images.list() == []


# Several at once.


@dataclass
class Crowd:
    """Blobs that nobody is given before `count` are asked for at the same time."""

    count: int
    odd: OddRegistry
    held: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def serve(self, image: Image, store: Store) -> None:
        for blob in (*image.manifest.layers, image.manifest.config):
            content = get(store.blobs, blob.digest)
            self.odd.replies[f"GET /v2/a/blobs/{blob.digest}"] = partial(self.give, content)
        data = get(store.blobs, image.descriptor.digest)
        self.odd.add_manifest("a", "1", json.loads(data), image.descriptor.media_type)

    def give(self, content: bytes, asked: Asked) -> Reply:
        with self.changed:
            self.held += 1
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.held >= self.count, timeout=10):
                return Reply(status=404)
        return Reply(content)


PLACES = ("back:1", "oci:{}/l:x", "dir:{}/d", "oci-archive:{}/o.tar:x", "docker-archive:{}/d.tar:x")


@pytest.mark.parametrize("place", PLACES)
def test_blobs_of_a_registry_come_several_at_once(
    place: str, odd: OddRegistry, new_client: NewClient, store: Store, tmp_path: Path
) -> None:
    image = make_image(store, "app:1", *({f"{n}": os.urandom(1000)} for n in range(5)))
    Crowd(count=4, odd=odd).serve(image, store)
    patience = replace(QUICK, idle_timeout_s=20)
    source, target = parse_place(f"docker://{odd.address}/a:1"), parse_place(place.format(tmp_path))
    threads: set[int] = set()
    seen: list[Copied] = []

    def report(copied: Copied) -> None:
        threads.add(threading.get_ident())
        seen.append(copied)

    with Store.open(tmp_path / "other") as other:
        ways = RegistryCopies(new_client(bounds=patience))
        copied = copy_between(other, source, target, report=report, registries=ways)
        assert copied == image.descriptor
        assert other.images.open(take_in_image(other, target)).id == image.id
    assert threads == {threading.get_ident()}
    assert sum(each.is_whole for each in seen) == 6
    assert problems(tmp_path / "other") == []


@pytest.mark.parametrize("place", [*PLACES, "docker://{}/b:1"])
def test_who_is_interrupted_is_gone_at_once_and_leaves_nothing(
    place: str,
    odd: OddRegistry,
    server: Registry,
    new_client: NewClient,
    store: Store,
    tmp_path: Path,
) -> None:
    image = make_image(store, "app:1", *({f"{n}": os.urandom(400_000)} for n in range(5)))
    Crowd(count=0, odd=odd).serve(image, store)
    for blob in image.manifest.layers[1:]:
        stalled = Reply(b"x" * 300_000, length=blob.size_bytes, stall_s=60)
        odd.replies[f"GET /v2/a/blobs/{blob.digest}"] = stalled
    where = server.address if place.startswith("docker:") else tmp_path
    source, target = parse_place(f"docker://{odd.address}/a:1"), parse_place(place.format(where))
    moments: list[float] = []

    def interrupt(copied: Copied) -> None:
        if copied.blob == image.manifest.layers[4] and copied.done_bytes:
            moments.append(time.monotonic())
            raise KeyboardInterrupt

    ways = RegistryCopies(new_client(bounds=Bounds()), new_client(bounds=Bounds()))
    with Store.open(tmp_path / "other") as other:
        with pytest.raises(KeyboardInterrupt):
            copy_between(other, source, target, report=interrupt, registries=ways)
        assert time.monotonic() - moments[0] < 3
        assert [each.name for each in threading.enumerate() if "_work" in each.name] == []
        assert [path.name for path in (other.private / "tmp").rglob("blob*")] == []
        assert other.images.list() == []
    odd.ended.set()
    assert list(tmp_path.rglob(".lamina-write-*")) == []
    assert list(tmp_path.glob("*.tar")) == []
    assert not (tmp_path / "l/index.json").exists()
    assert not (tmp_path / "d/manifest.json").exists()
    assert server.tags("b") == []
    assert problems(tmp_path / "other") == []


def test_all_images_of_an_index_come_together(
    odd: OddRegistry, new_client: NewClient, store: Store, tmp_path: Path
) -> None:
    images = [make_image(store, f"i{n}", {"f": os.urandom(1000)}) for n in range(4)]
    crowd = Crowd(count=4, odd=odd)
    for each in images:
        crowd.serve(each, store)
    platforms = [host_platform(), OTHER, *(replace(OTHER, variant=f"v{n}") for n in range(2))]
    root = tag_index(store, "all", dict(zip(platforms, images, strict=True)))
    odd.add_manifest("a", "m", json.loads(get(store.blobs, root.digest)), root.media_type)
    client = new_client(bounds=replace(QUICK, idle_timeout_s=20))
    source = parse_place(f"docker://{odd.address}/a:m")
    with Store.open(tmp_path / "other") as other:
        target = parse_place("all")
        ways = RegistryCopies(client)
        assert copy_between(other, source, target, whole=True, registries=ways) == root
    assert problems(tmp_path / "other") == []


def test_a_blob_is_asked_for_once_before_it_is_sent(
    server: Registry, new_client: NewClient, store: Store, image: Image
) -> None:
    with fault_proxy(server.port) as proxy:
        copy(store, "app:1", remote(proxy, "a:1"), new_client)
        assert proxy.count(kind="blob", method="HEAD") == 3


def test_what_is_not_there_says_so(server: Registry, new_client: NewClient, store: Store) -> None:
    with pytest.raises(UnknownManifestError, match="a:1"):
        copy(store, remote(server, "a:1"), "x", new_client)
    with pytest.raises(RegistryError, match="cannot reach the registry"):
        copy(store, "docker://127.0.0.1:1/a:1", "x", new_client)


def test_two_registries_may_want_different_credentials(
    server: Registry, new_client: NewClient, store: Store, image: Image, tmp_path: Path
) -> None:
    with registry(tmp_path / "closed", auth="basic") as closed:
        known = Credentials(user=closed.username, password=closed.password)
        inside = new_client(credentials=known, credentials_host=closed.address)
        copy(store, "app:1", remote(server, "a:1"), new_client)
        ways = RegistryCopies(inside, new_client())
        copy_between(
            store,
            parse_place(remote(server, "a:1")),
            parse_place(remote(closed, "b:1")),
            registries=ways,
        )
        assert closed.tags("b") == ["1"]


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_skopeo_pushed_comes_back_by_its_digest(
    compression: str,
    server: Registry,
    new_client: NewClient,
    store: Store,
    image: Image,
    tmp_path: Path,
) -> None:
    copy(store, "app:1", f"oci:{tmp_path}/l:x", new_client)
    there = remote(server, "s:1")
    run(
        *("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"),
        *("--dest-compress-format", compression, "--dest-compress", f"oci:{tmp_path}/l:x", there),
    )
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", there)
    with Store.open(tmp_path / "other") as other:
        copied = copy(other, there, "back", new_client)
        assert document_at(other, parse_place("back")).decode() == raw
        assert copied == other.images.resolve("back").descriptor
        assert other.images.resolve("back").id == image.id
    assert problems(tmp_path / "other") == []
