"""A blob on its way to a repository, against answers that are odd and against a real registry."""

import os
from collections.abc import Iterator

import pytest

from layerstore import Digest, Reference
from layerstore.registry import Bounds, RegistryClient, Repository, UntrustedRegistryError
from layerstore.registry.upload import find_there, path_at, upload
from tests.layerstore.registry.conftest import NewClient, blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oddregistry import OddRegistry, Reply, odd_registry
from tests.support.registries import Registry


def test_an_upload_that_leads_to_another_server_takes_no_credentials_there(
    odd: OddRegistry, new_client: NewClient
) -> None:
    from tests.layerstore.registry.test_endpoint import BASIC, ME, basic_only

    content = b"content"
    with odd_registry() as other:
        other.replies["PUT /store"] = Reply(status=201)
        odd.replies["GET /v2/"] = basic_only
        odd.replies["POST /v2/a/blobs/uploads/"] = Reply(
            status=202, headers={"Location": f"{other.url}/store?state=1"}
        )
        client = new_client(credentials=ME, credentials_host=odd.address)
        repository = client.repository(Reference.parse(f"{odd.address}/a"))
        assert upload(repository, blob(content), lambda: iter([content])) == ("pushed", "")
        assert other.sent("authorization") == []
        assert other.asked[0].content == content
        assert other.asked[0].path == f"/store?state=1&digest=sha256%3A{Digest.of(content).hex}"
    assert set(odd.sent("authorization")) == {BASIC}


def test_an_upload_may_not_lead_to_plain_http_elsewhere(
    odd: OddRegistry, repository: Repository
) -> None:
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(
        status=202, headers={"Location": "http://registry.example/"}
    )
    with pytest.raises(UntrustedRegistryError, match="plain HTTP"):
        upload(repository, blob(b"x"), lambda: iter([b"x"]))


def test_a_registry_that_takes_no_pieces_gets_all_at_once(
    odd: OddRegistry, new_client: NewClient
) -> None:
    content = os.urandom(1000)
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(status=202, headers={"Location": "/up"})
    odd.replies["PATCH /up"] = Reply(status=405)
    odd.replies["PUT /up"] = Reply(status=201)
    bounds = Bounds(upload_piece_bytes=100, backoff_s=0.01)
    repository = new_client(bounds=bounds).repository(Reference.parse(f"{odd.address}/a"))
    assert upload(repository, blob(content), lambda: iter([content])) == ("pushed", "")
    assert odd.asked[-1].content == content


def test_a_mount_that_is_an_upload_instead_is_ended(
    odd: OddRegistry, repository: Repository
) -> None:
    content = b"content"
    odd.replies["POST /v2/a/blobs/uploads/"] = lambda asked: Reply(
        status=202, headers={"Location": "/mount" if "mount=" in asked.path else "/up"}
    )
    odd.replies["PUT /up"] = Reply(status=201)
    how = upload(repository, blob(content), lambda: iter([content]), mount_from=["b"])
    assert how == ("pushed", "")
    assert odd.paths("DELETE") == ["/mount"]


@pytest.mark.parametrize(
    ("origin", "paths"), [("{}/b", ["b"]), ("{}/b/c", ["b/c"]), ("elsewhere/b", []), ("", [])]
)
def test_a_repository_is_found_by_name_in_its_own_registry(
    odd: OddRegistry, repository: Repository, origin: str, paths: list[str]
) -> None:
    assert path_at(repository, origin.format(odd.address)) == paths


def test_a_registry_whose_name_only_begins_like_it_is_another(
    odd: OddRegistry, repository: Repository
) -> None:
    assert path_at(repository, f"{odd.address}1/b") == []


def test_what_is_nowhere_is_not_sent(odd: OddRegistry, repository: Repository) -> None:
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(status=202, headers={"Location": "/mount"})
    assert find_there(repository, Digest.of(b"x"), ["a", "b"]) is None
    assert odd.paths("DELETE") == ["/mount"]
    assert odd.paths("PUT") == odd.paths("PATCH") == []
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(status=201)
    assert find_there(repository, Digest.of(b"x"), ["b"]) == ("mounted", "b")


# A real one.


def at(client: RegistryClient, server: Registry | FaultProxy, name: str = "a") -> Repository:
    return client.repository(Reference.parse(f"{server.address}/{name}"))


PIECES = Bounds(connect_timeout_s=5, idle_timeout_s=5, backoff_s=0.01, upload_piece_bytes=100_000)


@pytest.mark.needs_registry
@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 350_000])
def test_a_blob_goes_there_and_comes_back(
    server: Registry, new_client: NewClient, size: int
) -> None:
    content = os.urandom(size)
    repository = at(new_client(bounds=PIECES), server)
    sizes: list[int] = []
    how = upload(repository, blob(content), lambda: iter([content]), sent=sizes.append)
    assert how == ("pushed", "")
    assert sizes[-1:] == [size][: len(sizes[-1:])]
    assert b"".join(repository.pieces(blob(content))) == content
    assert upload(repository, blob(content), lambda: iter([content])) == ("exists", "")


@pytest.mark.needs_registry
def test_a_blob_is_mounted_from_another_repository(
    proxy: FaultProxy, new_client: NewClient
) -> None:
    content = os.urandom(1000)
    client = new_client()
    upload(at(client, proxy, "b/c"), blob(content), lambda: iter([content]))
    assert proxy.exchanges  # all of it is over
    proxy.forget()
    how = upload(at(client, proxy), blob(content), lambda: iter([]), mount_from=["none", "b/c"])
    assert how == ("mounted", "b/c")
    assert proxy.bytes_sent() == 0


@pytest.mark.needs_registry
@pytest.mark.parametrize("fault", ["cut", "truncate", "500", "429"])
@pytest.mark.parametrize("place", ["PATCH", "POST", "PUT"])
def test_an_upload_survives_a_fault(
    proxy: FaultProxy, server: Registry, new_client: NewClient, fault: Fault, place: str
) -> None:
    content = os.urandom(350_000)
    proxy.fail_next(fault, place)
    repository = at(new_client(bounds=PIECES), proxy)
    assert upload(repository, blob(content), lambda: iter([content])) == ("pushed", "")
    assert server.blob_path(Digest.of(content)).read_bytes() == content
    assert sum(proxy.harmed().values()) == 1


@pytest.mark.needs_registry
def test_a_blob_is_read_once_however_many_pieces_it_is_sent_in(
    server: Registry, new_client: NewClient
) -> None:
    content = os.urandom(950_000)
    readings: list[int] = []

    def pieces() -> Iterator[bytes]:
        readings.append(1)
        for start in range(0, len(content), 70_000):
            yield content[start : start + 70_000]

    repository = at(new_client(bounds=PIECES), server)
    assert upload(repository, blob(content), pieces) == ("pushed", "")
    assert readings == [1]
    assert server.blob_path(Digest.of(content)).read_bytes() == content


@pytest.mark.needs_registry
def test_an_upload_goes_on_where_it_was_cut(proxy: FaultProxy, new_client: NewClient) -> None:
    content = os.urandom(1_000_000)
    proxy.fail_next("500", "PATCH.*")
    repository = at(new_client(bounds=PIECES), proxy)
    upload(repository, blob(content), lambda: iter([content]))
    assert proxy.bytes_sent("upload") == len(content)


@pytest.mark.needs_registry
def test_bytes_that_are_changed_on_the_way_there_are_sent_again(
    proxy: FaultProxy, server: Registry, new_client: NewClient
) -> None:
    content = os.urandom(50_000)
    proxy.fail_next("flip", "PUT")
    repository = at(new_client(), proxy)
    assert upload(repository, blob(content), lambda: iter([content])) == ("pushed", "")
    assert server.blob_path(Digest.of(content)).read_bytes() == content
