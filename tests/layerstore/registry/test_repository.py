"""The calls of the specification, against answers that are odd and against a real registry."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import (
    CorruptBlobError,
    Descriptor,
    Digest,
    MalformedDocumentError,
    Reference,
    UnsupportedMediaTypeError,
    canonical_json,
)
from layerstore.registry import (
    Bounds,
    RegistryClient,
    RegistryError,
    Repository,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownManifestError,
    UntrustedRegistryError,
)
from layerstore.registry.connection import Response
from tests.layerstore.registry.conftest import NewClient
from tests.support.faultproxy import Fault, FaultProxy, fault_proxy
from tests.support.oddregistry import Asked, OddRegistry, Reply, odd_registry
from tests.support.registries import Registry, registry

OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
BLOB = "application/vnd.oci.image.layer.v1.tar"
EMPTY = {"schemaVersion": 2, "mediaType": OCI, "layers": []}


def blob(content: bytes, *, size: int | None = None) -> Descriptor:
    return Descriptor(
        media_type=BLOB,
        digest=Digest.of(content),
        size_bytes=len(content) if size is None else size,
    )


@pytest.fixture
def repository(odd: OddRegistry, new_client: NewClient) -> Repository:
    return new_client().repository(Reference.parse(f"{odd.address}/a"))


# Manifests.


def test_a_manifest_is_what_its_digest_says(odd: OddRegistry, repository: Repository) -> None:
    digest = odd.add_manifest("a", "1", EMPTY, OCI)
    for reference in ("1", digest):
        found = repository.manifest(reference)
        assert (found.descriptor.digest, found.data) == (digest, canonical_json(EMPTY))
        assert not found.is_index
        assert repository.find_manifest(reference) == found.descriptor
    assert OCI_INDEX in odd.sent("accept")[0]


def test_another_document_than_asked_for_is_refused(
    odd: OddRegistry, repository: Repository
) -> None:
    odd.add_manifest("a", "1", EMPTY, OCI)
    wrong = Digest.of(b"other")
    odd.replies[f"GET /v2/a/manifests/{wrong}"] = odd.replies["GET /v2/a/manifests/1"]
    with pytest.raises(RegistryError, match="expected"):
        repository.manifest(wrong)
    reply = odd.replies["GET /v2/a/manifests/1"]
    assert isinstance(reply, Reply)
    headers = {"Content-Type": OCI, "Docker-Content-Digest": wrong}
    odd.replies["GET /v2/a/manifests/1"] = Reply(reply.content, headers=headers)
    with pytest.raises(RegistryError, match="expected"):
        repository.manifest("1")


def test_a_manifest_that_was_changed_on_its_way_is_asked_for_again(
    odd: OddRegistry, repository: Repository
) -> None:
    digest = odd.add_manifest("a", "1", EMPTY, OCI)
    good = odd.replies["GET /v2/a/manifests/1"]
    assert isinstance(good, Reply)
    odd.replies["GET /v2/a/manifests/1"] = [Reply(b"x" * 10, headers=good.headers), good]
    assert repository.manifest("1").descriptor.digest == digest


def test_a_manifest_may_not_be_larger_than_4_mib(odd: OddRegistry, repository: Repository) -> None:
    odd.replies["GET /v2/a/manifests/1"] = Reply(
        b" " * (4 << 20) + b"{}", headers={"Content-Type": OCI}
    )
    with pytest.raises(UnexpectedAnswerError, match="more than 4194304"):
        repository.manifest("1")
    odd.replies["GET /v2/a/manifests/2"] = Reply(endless=True, headers={"Content-Type": OCI})
    with pytest.raises(UnexpectedAnswerError, match="more than 4194304"):
        repository.manifest("2")


def test_a_document_that_is_sent_as_another_is_ambiguous(
    odd: OddRegistry, repository: Repository
) -> None:
    odd.add_manifest("a", "1", EMPTY, OCI_INDEX)
    with pytest.raises(MalformedDocumentError, match="ambiguous"):
        repository.manifest("1")


@pytest.mark.parametrize("sent_as", ["", "application/json", "text/plain; charset=utf-8"])
def test_without_a_type_the_document_says_it(
    odd: OddRegistry, repository: Repository, sent_as: str
) -> None:
    odd.add_manifest("a", "1", EMPTY, sent_as)
    assert repository.manifest("1").descriptor.media_type == OCI


def test_a_type_may_stand_in_the_answer_alone(odd: OddRegistry, repository: Repository) -> None:
    odd.add_manifest("a", "1", {"schemaVersion": 2, "manifests": []}, f"{OCI_INDEX}; charset=x")
    assert repository.manifest("1").is_index


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.docker.distribution.manifest.v1+prettyjws", "text/html", "application/x"],
)
def test_other_documents_are_refused(
    odd: OddRegistry, repository: Repository, media_type: str
) -> None:
    odd.add_manifest("a", "1", {"schemaVersion": 1}, media_type)
    with pytest.raises(UnsupportedMediaTypeError, match="media type"):
        repository.manifest("1")


def test_what_is_not_there_is_told(odd: OddRegistry, repository: Repository) -> None:
    text = f"manifest for {odd.address}/a:1 not found"
    with pytest.raises(UnknownManifestError, match=re.escape(text)):
        repository.manifest("1")
    assert repository.find_manifest("1") is None


def test_a_registry_that_says_nothing_in_a_head_is_asked_for_all(
    odd: OddRegistry, repository: Repository
) -> None:
    digest = odd.add_manifest("a", "1", EMPTY, OCI)
    odd.replies["HEAD /v2/a/manifests/1"] = Reply()
    found = repository.find_manifest("1")
    assert found is not None
    assert found.digest == digest


def test_a_registry_that_calls_a_manifest_otherwise_is_an_error(
    odd: OddRegistry, repository: Repository
) -> None:
    wrong = {"Docker-Content-Digest": Digest.of(b"other")}
    odd.replies["PUT /v2/a/manifests/1"] = Reply(status=201, headers=wrong)
    with pytest.raises(RegistryError, match="it calls"):
        repository.put_manifest(b"{}", OCI, "1")
    assert len(odd.paths("PUT")) == 2


# Blobs, to here.


def test_a_blob_comes_whole(odd: OddRegistry, repository: Repository) -> None:
    content = os.urandom(1_000_000)
    odd.add_blob("a", content)
    assert b"".join(repository.pieces(blob(content))) == content
    assert repository.has_blob(Digest.of(content))
    assert not repository.has_blob(Digest.of(b"other"))


def test_the_last_piece_of_a_wrong_blob_never_comes(
    odd: OddRegistry, repository: Repository
) -> None:
    good, bad = os.urandom(1_000_000), os.urandom(1_000_000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(good)}"] = Reply(bad)
    came = 0
    with pytest.raises(CorruptBlobError, match="expected sha256"):
        for piece in repository.pieces(blob(good)):
            came += len(piece)
    assert came < len(good)


@pytest.mark.parametrize("size", [99, 101])
def test_a_blob_of_another_size_is_refused(
    odd: OddRegistry, repository: Repository, size: int
) -> None:
    odd.add_blob("a", b"x" * 100)
    with pytest.raises(CorruptBlobError, match=f"expected {size} bytes"):
        list(repository.pieces(blob(b"x" * 100, size=size)))


def test_an_endless_blob_is_cut_at_its_size(odd: OddRegistry, repository: Repository) -> None:
    odd.replies[f"GET /v2/a/blobs/{Digest.of(b'x')}"] = Reply(endless=True)
    with pytest.raises(CorruptBlobError, match="found more"):
        list(repository.pieces(blob(b"x", size=100_000)))


class Cutting:
    """A blob whose server cuts after some bytes of each answer, and knows ranges or not."""

    def __init__(self, content: bytes, step: int, *, ranges: bool) -> None:
        self.content, self.step, self.ranges = content, step, ranges
        self.starts: list[int] = []

    def __call__(self, asked: Asked) -> Reply:
        found = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        start = int(found[1]) if found else 0
        self.starts.append(start)
        begin = start if self.ranges else 0
        end = min(start + self.step, len(self.content))
        rest = self.content[begin:]
        headers = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"}
        is_part = self.ranges and found is not None
        return Reply(
            self.content[begin:end],
            206 if is_part else 200,
            headers if is_part else {},
            length=len(rest) if end < len(self.content) else None,
        )


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_was_cut(
    odd: OddRegistry, repository: Repository, ranges: bool
) -> None:
    content = os.urandom(100_000)
    server = Cutting(content, 30_000, ranges=ranges)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = server
    assert b"".join(repository.pieces(blob(content))) == content
    assert server.starts == [0, 30_000, 60_000, 90_000]


def test_cuts_come_to_an_end(odd: OddRegistry, repository: Repository) -> None:
    content = os.urandom(1000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = Reply(b"", length=1000)
    with pytest.raises(RegistryError, match="cut"):
        list(repository.pieces(blob(content)))
    assert len(odd.paths()) == 4


def test_cuts_come_to_an_end_even_where_a_byte_comes_each_time(
    odd: OddRegistry, new_client: NewClient
) -> None:
    content = os.urandom(1000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = Cutting(content, 1, ranges=True)
    bounds = Bounds(cuts_max=5, backoff_s=0.01)
    repository = new_client(bounds=bounds).repository(Reference.parse(f"{odd.address}/a"))
    with pytest.raises(RegistryError, match="cut"):
        list(repository.pieces(blob(content)))
    assert len(odd.paths()) == 6


@pytest.mark.parametrize("span", ["bytes 5-999/1000", "", "bytes 0-999/1000"])
def test_another_part_than_asked_for_is_refused(
    odd: OddRegistry, repository: Repository, span: str
) -> None:
    content = os.urandom(1000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = [
        Reply(content[:10], length=1000),
        Reply(content[10:], 206, {"Content-Range": span}),
    ]
    with pytest.raises(UnexpectedAnswerError, match="another part"):
        list(repository.pieces(blob(content)))


def test_every_answer_is_shown_before_it_is_read(odd: OddRegistry, repository: Repository) -> None:
    content = os.urandom(100_000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = Cutting(content, 60_000, ranges=True)
    seen: list[Response] = []
    list(repository.pieces(blob(content), seen.append))
    assert [response.status for response in seen] == [200, 206]


def test_a_document_is_small_and_right(odd: OddRegistry, repository: Repository) -> None:
    odd.add_blob("a", b"{}")
    assert repository.document(blob(b"{}")) == b"{}"
    with pytest.raises(MalformedDocumentError, match="more than a document"):
        repository.document(blob(b"{}", size=(4 << 20) + 1))
    odd.replies[f"GET /v2/a/blobs/{Digest.of(b'ab')}"] = Reply(b"xy")
    with pytest.raises(CorruptBlobError):
        repository.document(blob(b"ab"))


def test_a_document_that_is_a_manifest_is_looked_for_among_them(
    odd: OddRegistry, repository: Repository
) -> None:
    digest = odd.add_manifest("a", "1", EMPTY, OCI)
    size = len(canonical_json(EMPTY))
    good = Descriptor(media_type=OCI, digest=digest, size_bytes=size)
    assert repository.document(good) == canonical_json(EMPTY)
    with pytest.raises(CorruptBlobError, match="bytes"):
        repository.document(Descriptor(media_type=OCI, digest=digest, size_bytes=size + 1))


def test_without_a_login_a_blob_is_unauthorized(odd: OddRegistry, repository: Repository) -> None:
    odd.replies[f"GET /v2/a/blobs/{Digest.of(b'x')}"] = Reply(status=401)
    with pytest.raises(UnauthorizedError, match="unauthorized"):
        list(repository.pieces(blob(b"x")))


# Blobs, from here.


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
        assert repository.upload(blob(content), lambda: iter([content])) == ("pushed", "")
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
        repository.upload(blob(b"x"), lambda: iter([b"x"]))


def test_a_registry_that_takes_no_pieces_gets_all_at_once(
    odd: OddRegistry, new_client: NewClient
) -> None:
    content = os.urandom(1000)
    odd.replies["POST /v2/a/blobs/uploads/"] = Reply(status=202, headers={"Location": "/up"})
    odd.replies["PATCH /up"] = Reply(status=405)
    odd.replies["PUT /up"] = Reply(status=201)
    bounds = Bounds(upload_piece_bytes=100, backoff_s=0.01)
    repository = new_client(bounds=bounds).repository(Reference.parse(f"{odd.address}/a"))
    assert repository.upload(blob(content), lambda: iter([content])) == ("pushed", "")
    assert odd.asked[-1].content == content


def test_a_mount_that_is_an_upload_instead_is_ended(
    odd: OddRegistry, repository: Repository
) -> None:
    content = b"content"
    odd.replies["POST /v2/a/blobs/uploads/"] = lambda asked: Reply(
        status=202, headers={"Location": "/mount" if "mount=" in asked.path else "/up"}
    )
    odd.replies["PUT /up"] = Reply(status=201)
    how = repository.upload(blob(content), lambda: iter([content]), mount_from=["b"])
    assert how == ("pushed", "")
    assert odd.paths("DELETE") == ["/mount"]


# Lists.


def test_tags_come_page_by_page(odd: OddRegistry, repository: Repository) -> None:
    pages = {
        "n=1000": Reply(
            b'{"tags": ["1", "2"]}',
            headers={"Link": '</v2/a/tags/list?n=1000&last=2>; rel="next"'},
        ),
        "n=1000&last=2": Reply(b'{"tags": ["3"]}'),
    }
    odd.replies["GET /v2/a/tags/list"] = lambda asked: pages[asked.path.partition("?")[2]]
    assert repository.tags() == ["1", "2", "3"]


def test_pages_come_to_an_end(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/tags/list"] = Reply(
        b'{"tags": ["1"]}', headers={"Link": "</v2/a/tags/list>; rel=next"}
    )
    client = new_client(bounds=Bounds(pages_max=5))
    with pytest.raises(UnexpectedAnswerError, match="too many pages"):
        client.repository(Reference.parse(f"{odd.address}/a")).tags()


@pytest.mark.parametrize("link", ["http://other.example/x", "ftp://x", "http://["])
def test_the_next_page_is_on_the_same_server(
    odd: OddRegistry, repository: Repository, link: str
) -> None:
    odd.replies["GET /v2/a/tags/list"] = Reply(
        b'{"tags": []}', headers={"Link": f"<{link}>; rel=next"}
    )
    with pytest.raises(UnexpectedAnswerError, match="another server"):
        repository.tags()


@pytest.mark.parametrize("tag", ["", "../x", "a b", "\\u001b[2J", "a/b", "x" * 129])
def test_a_tag_that_is_none_is_refused(odd: OddRegistry, repository: Repository, tag: str) -> None:
    odd.replies["GET /v2/a/tags/list"] = Reply(f'{{"tags": ["1", "{tag}"]}}'.encode())
    with pytest.raises(UnexpectedAnswerError, match="a tag that is none"):
        repository.tags()


def test_a_repository_without_tags_has_none(odd: OddRegistry, repository: Repository) -> None:
    odd.replies["GET /v2/a/tags/list"] = Reply(b'{"tags": null}')
    assert repository.tags() == []


SUBJECT = Digest.of(b"subject")


def referrer(digest: Digest, artifact_type: str) -> dict[str, object]:
    return {"mediaType": OCI, "digest": digest, "size": 2, "artifactType": artifact_type}


def index(*manifests: dict[str, object]) -> dict[str, object]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}


def test_referrers_are_listed_and_filtered(odd: OddRegistry, repository: Repository) -> None:
    one, two = referrer(Digest.of(b"1"), "a/sbom"), referrer(Digest.of(b"2"), "a/other")
    odd.replies[f"GET /v2/a/referrers/{SUBJECT}"] = Reply(canonical_json(index(one, two)))
    found = repository.referrers(SUBJECT)
    assert [each.artifact_type for each in found] == ["a/sbom", "a/other"]
    filtered = repository.referrers(SUBJECT, "a/sbom")
    assert [each.descriptor.digest for each in filtered] == [Digest.of(b"1")]
    assert odd.paths()[-1].endswith("?artifactType=a%2Fsbom")


def test_an_old_registry_keeps_referrers_under_a_tag(
    odd: OddRegistry, repository: Repository
) -> None:
    assert repository.referrers(SUBJECT) == []
    one = referrer(Digest.of(b"1"), "a/sbom")
    odd.add_manifest("a", f"sha256-{SUBJECT.hex}", index(one), OCI_INDEX)
    assert [each.artifact_type for each in repository.referrers(SUBJECT)] == ["a/sbom"]


# A real one.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def proxy(server: Registry) -> Iterator[FaultProxy]:
    with fault_proxy(server.port) as proxy:
        yield proxy


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
    how = repository.upload(blob(content), lambda: iter([content]), sent=sizes.append)
    assert how == ("pushed", "")
    assert sizes[-1:] == [size][: len(sizes[-1:])]
    assert b"".join(repository.pieces(blob(content))) == content
    assert repository.upload(blob(content), lambda: iter([content])) == ("exists", "")


@pytest.mark.needs_registry
def test_a_blob_is_mounted_from_another_repository(
    proxy: FaultProxy, new_client: NewClient
) -> None:
    content = os.urandom(1000)
    client = new_client()
    at(client, proxy, "b/c").upload(blob(content), lambda: iter([content]))
    assert proxy.exchanges  # all of it is over
    proxy.forget()
    how = at(client, proxy).upload(blob(content), lambda: iter([]), mount_from=["none", "b/c"])
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
    assert repository.upload(blob(content), lambda: iter([content])) == ("pushed", "")
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
    assert repository.upload(blob(content), pieces) == ("pushed", "")
    assert readings == [1]
    assert server.blob_path(Digest.of(content)).read_bytes() == content


@pytest.mark.needs_registry
def test_an_upload_goes_on_where_it_was_cut(proxy: FaultProxy, new_client: NewClient) -> None:
    content = os.urandom(1_000_000)
    proxy.fail_next("500", "PATCH.*")
    repository = at(new_client(bounds=PIECES), proxy)
    repository.upload(blob(content), lambda: iter([content]))
    assert proxy.bytes_sent("upload") == len(content)


@pytest.mark.needs_registry
def test_bytes_that_are_changed_on_the_way_there_are_sent_again(
    proxy: FaultProxy, server: Registry, new_client: NewClient
) -> None:
    content = os.urandom(50_000)
    proxy.fail_next("flip", "PUT")
    repository = at(new_client(), proxy)
    assert repository.upload(blob(content), lambda: iter([content])) == ("pushed", "")
    assert server.blob_path(Digest.of(content)).read_bytes() == content


@pytest.mark.needs_registry
def test_a_registry_gets_the_list_of_referrers_it_does_not_keep(
    server: Registry, new_client: NewClient
) -> None:
    repository = at(new_client(), server)
    repository.upload(blob(b"{}"), lambda: iter([b"{}"]))
    entry = {"mediaType": "application/vnd.a+json", "digest": Digest.of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI, "config": entry, "layers": []}
    subject = repository.put_manifest(canonical_json(document), OCI, "1")
    data = canonical_json(document | {"annotations": {"a": "b"}})
    digest = repository.put_manifest(data, OCI, subject=subject)
    repository.put_manifest(data, OCI, subject=subject)
    found = repository.referrers(subject)
    assert [(each.descriptor.digest, each.artifact_type) for each in found] == [
        (digest, "application/vnd.a+json")
    ]
    assert sorted(repository.tags()) == ["1", f"sha256-{subject.hex}"]
