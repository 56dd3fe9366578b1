"""The calls of the specification, against answers that are odd and against a real registry."""

import os
import re

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
    RegistryError,
    Repository,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownManifestError,
)
from layerstore.registry.upload import upload
from tests.layerstore.registry.conftest import NewClient, blob
from tests.support.oddregistry import Asked, OddRegistry, Reply
from tests.support.registries import Registry

OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = {"schemaVersion": 2, "mediaType": OCI, "layers": []}


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


# Blobs.


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


@pytest.mark.needs_registry
def test_a_registry_gets_the_list_of_referrers_it_does_not_keep(
    server: Registry, new_client: NewClient
) -> None:
    repository = new_client().repository(Reference.parse(f"{server.address}/a"))
    upload(repository, blob(b"{}"), lambda: iter([b"{}"]))
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
