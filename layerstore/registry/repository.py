"""One repository of one registry: the calls of the distribution specification.

Nothing that comes back is believed: a manifest has the digest it was asked for by and the media
type it is sent as, a blob has its digest and its size, and the last piece of a blob is handed out
when all of it was right. A download that is cut goes on where it was (Range). The way of a blob
to a repository: upload.py.

Spec: OCI distribution-spec v1.1.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urljoin

from layerstore import descriptor as media
from layerstore.compression import FOREIGN_TYPES
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import (
    DOCUMENT_BYTES_MAX,
    Reader,
    canonical_json,
    descriptor_json,
    parse_descriptor,
)
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    StoreError,
    UnsupportedMediaTypeError,
)
from layerstore.reference import is_tag
from layerstore.registry.answers import problem_of
from layerstore.registry.connection import Response, TransientError
from layerstore.registry.endpoint import Endpoint
from layerstore.registry.endpoints import Origin
from layerstore.registry.errors import (
    RegistryError,
    UnexpectedAnswerError,
    UnknownManifestError,
    UnreachableRegistryError,
)
from layerstore.registry.settings import Bounds

_KNOWN_TYPES = media.MANIFEST_TYPES | media.INDEX_TYPES
_ACCEPT = ", ".join(
    (media.OCI_INDEX, media.OCI_MANIFEST, media.DOCKER_INDEX, media.DOCKER_MANIFEST)
)
_PLAIN_TYPES = ("", "application/json", "text/plain", "application/octet-stream")
_OLD = "application/vnd.docker.distribution.manifest.v1"
_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;[^<>]{0,1024}?rel="?next"?')
_TAG_COUNT_MAX = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDocument:
    """A manifest or an index, as the registry has it."""

    descriptor: Descriptor
    data: bytes

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return self.descriptor.media_type in media.INDEX_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """Something that says of itself that it belongs to a manifest."""

    descriptor: Descriptor
    artifact_type: str


class _ChangedOnItsWayError(RegistryError):
    """What came there is not what was sent, or so it seems."""


class Repository:
    """May be used by several threads."""

    def __init__(self, endpoint: Endpoint, path: str, bounds: Bounds) -> None:
        self.endpoint = endpoint
        self.path = path
        self.bounds = bounds
        self._pull_scopes = (f"repository:{path}:pull",)
        self.push_scopes = (f"repository:{path}:pull,push",)

    @property
    def name(self) -> str:
        """Host and path."""
        return f"{self.endpoint.host}/{self.path}"

    @property
    def uploads_path(self) -> str:
        """Where an upload is begun."""
        return f"/v2/{self.path}/blobs/uploads/"

    # ---- manifests

    def manifest(self, reference: str) -> RemoteDocument:
        """The manifest or index of a tag or digest.

        Raises:
            UnknownManifestError: there is none.
            MalformedDocumentError, UnsupportedMediaTypeError: it is no such document.
            CorruptBlobError: it is another one.
        """

        def ask() -> RemoteDocument:
            with self._manifest_request("GET", reference, once=True) as response:
                if response.status != 200:
                    raise self._no_manifest(response, reference)
                data = response.read(DOCUMENT_BYTES_MAX)
                return self._document(reference, response, data)

        self.endpoint.reach()
        return self.endpoint.attempts(ask)

    def find_manifest(self, reference: str) -> Descriptor | None:
        """What a tag or digest stands for, without its content; None when there is nothing.

        A registry that does not say it in a HEAD is asked for the content.
        """
        with self._manifest_request("HEAD", reference) as response:
            if response.status == 404:
                return None
            if response.status != 200:
                raise self._no_manifest(response, reference)
            digest, length = (
                response.header("Docker-Content-Digest"),
                response.header("Content-Length"),
            )
            media_type = _plain_type(response.header("Content-Type"))
            is_said = length.isascii() and length.isdigit() and media_type in _KNOWN_TYPES
            if is_said and digest:
                return Descriptor(
                    media_type=media_type, digest=Digest.parse(digest), size_bytes=int(length)
                )
        try:
            return self.manifest(reference).descriptor
        except UnknownManifestError:
            return None

    def put_manifest(
        self, data: bytes, media_type: str, reference: str = "", *, subject: Digest | None = None
    ) -> Digest:
        """Store a manifest or index under a tag, or under its digest alone.

        Args:
            subject: what its `subject` field names; a registry that does not keep lists of
                referrers gets one under the tag that stands for it.
        """
        digest = Digest.of(data)
        try:
            keeps_lists = self._put_manifest(data, digest, media_type, reference or digest)
        except _ChangedOnItsWayError:
            keeps_lists = self._put_manifest(data, digest, media_type, reference or digest)
        if subject is not None and not keeps_lists:
            entry = Descriptor(media_type=media_type, digest=digest, size_bytes=len(data))
            self._list_referrer(
                subject, Referrer(descriptor=entry, artifact_type=_artifact_type(data))
            )
        return digest

    def _put_manifest(self, data: bytes, digest: Digest, media_type: str, reference: str) -> bool:
        """Store it; whether the registry keeps lists of referrers."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        with self.endpoint.request(
            "PUT",
            self._manifest_path(reference),
            scopes=self.push_scopes,
            headers=headers,
            body=lambda: (data,),
        ) as response:
            if response.status not in (200, 201, 202):
                why = self.problem(response, f"cannot push to {self.name}")
                raise why if response.status != 400 else _ChangedOnItsWayError(why.message)
            answered = response.header("Docker-Content-Digest")
            if answered and answered != digest:
                raise _ChangedOnItsWayError(f"{self.name}: it calls {digest} {answered[:80]!r}")
            keeps_lists = bool(response.header("OCI-Subject"))
            response.finish()
            return keeps_lists

    def _manifest_request(self, method: str, reference: str, *, once: bool = False) -> Response:
        return self.endpoint.request(
            method,
            self._manifest_path(reference),
            scopes=self._pull_scopes,
            headers={"Accept": _ACCEPT},
            once=once,
        )

    def _document(self, reference: str, response: Response, data: bytes) -> RemoteDocument:
        digest = Digest.of(data)
        wanted = reference if ":" in reference else response.header("Docker-Content-Digest")
        if wanted and wanted != digest:
            # a body that was changed on its way is worth another attempt
            error = CorruptBlobError(
                what=f"manifest of {self.name}", expected=wanted[:100], actual=digest
            )
            raise TransientError(
                UnexpectedAnswerError(host=self.endpoint.host, problem=error.message)
            )
        sent_as = _plain_type(response.header("Content-Type"))
        try:
            said = Reader.of(data, context=f"manifest of {self.name}").text("mediaType")
        except MalformedDocumentError:
            if not wanted:  # nothing says that it was not cut or changed on its way
                problem = "a manifest that is no JSON"
                raise TransientError(
                    UnexpectedAnswerError(host=self.endpoint.host, problem=problem)
                ) from None
            raise
        media_type = said if sent_as in _PLAIN_TYPES else sent_as
        if said and said != media_type:
            raise MalformedDocumentError(
                context=f"manifest of {self.name}",
                problem=f"sent as {sent_as[:80]!r}, but it says {said[:80]!r}: it is ambiguous",
            )
        if media_type not in _KNOWN_TYPES:
            hint = "an image in the format of 2014" if media_type.startswith(_OLD) else ""
            raise UnsupportedMediaTypeError(media_type=media_type[:100], hint=hint)
        descriptor = Descriptor(media_type=media_type, digest=digest, size_bytes=len(data))
        return RemoteDocument(descriptor=descriptor, data=data)

    # ---- blobs

    def has_blob(self, digest: Digest, *, to_push: bool = False) -> bool:
        """Whether the repository has the blob; `to_push` asks as who may push there."""
        scopes = self.push_scopes if to_push else self._pull_scopes
        with self.endpoint.request("HEAD", self._blob_path(digest), scopes=scopes) as response:
            if response.status not in (200, 404):
                what = f"blob {digest.short} of {self.name}"
                raise self.problem(response, f"cannot push to {self.name}" if to_push else what)
            return response.status == 200

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob or manifest as a whole.

        Raises:
            MalformedDocumentError: it is larger than a document may be.
            CorruptBlobError: it is another one.
        """
        if descriptor.size_bytes > DOCUMENT_BYTES_MAX:
            raise MalformedDocumentError(
                context=f"blob {descriptor.digest}",
                problem=f"{descriptor.size_bytes} bytes are more than a document may have",
            )
        if descriptor.media_type in _KNOWN_TYPES:
            found = self.manifest(descriptor.digest)
            if found.descriptor.size_bytes != descriptor.size_bytes:
                raise _wrong_size(descriptor, found.descriptor.size_bytes)
            return found.data
        for _ in range(2):  # a byte may be changed on its way, once
            data = b"".join(self.raw_pieces(descriptor))
            if Digest.of(data) == descriptor.digest:
                return data
        raise CorruptBlobError(
            what=f"blob {descriptor.digest} of {self.name}",
            expected=descriptor.digest,
            actual=Digest.of(data),
        )

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, however often it is cut; the last come when all is right.

        Raises:
            CorruptBlobError: they are those of another blob.
        """
        hasher = hashlib.sha256()
        held = b""
        for piece in self.raw_pieces(descriptor):
            hasher.update(piece)
            if held:
                yield held
            held = piece
        actual = "sha256:" + hasher.hexdigest()
        if actual != descriptor.digest:
            raise CorruptBlobError(
                what=f"blob {descriptor.digest} of {self.name}",
                expected=descriptor.digest,
                actual=actual,
            )
        if held:
            yield held

    def raw_pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        """As `pieces`, for who verifies the digest; there are as many bytes as announced."""
        done_bytes, cuts = 0, 0
        while done_bytes < descriptor.size_bytes:
            start_bytes = done_bytes

            def ask(start: int = start_bytes) -> Response:
                return self._blob_request(descriptor, start)

            self.endpoint.reach()
            response = self.endpoint.attempts(ask)
            try:
                for piece in self._body(descriptor, response, done_bytes):
                    done_bytes += len(piece)
                    yield piece
                    self.endpoint.check_wanted()
            except TransientError as error:
                self.endpoint.check_wanted()
                cuts = cuts + 1
                if cuts > self.bounds.cuts_max:
                    raise error.why from error
                if done_bytes == start_bytes:
                    self._after_nothing(error, cuts)
            finally:
                response.close()

    def _after_nothing(self, error: TransientError, cuts: int) -> None:
        """Wait before a download that gave nothing is asked for again, if it is."""
        if cuts > self.endpoint.retries:
            raise error.why from error
        self.endpoint.pause(self.bounds.backoff_s * cuts)

    def _blob_request(self, descriptor: Descriptor, start: int) -> Response:
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self.endpoint.request(
            "GET",
            self._blob_path(descriptor.digest),
            scopes=self._pull_scopes,
            headers=headers,
            once=True,
        )
        if response.status not in (200, 206):
            with response:
                raise self._no_blob(response, descriptor)
        return response

    def _body(self, descriptor: Descriptor, response: Response, start: int) -> Iterator[bytes]:
        """The body from `start` on, of exactly the announced length."""
        skip = start
        if response.status == 206:
            begins = re.match(r"bytes (\d{1,19})-", response.header("Content-Range"))
            if not start or begins is None or int(begins[1]) != start:
                raise UnexpectedAnswerError(
                    host=self.endpoint.host, problem="another part of a blob than asked for"
                )
            skip = 0
        length = response.header("Content-Length")
        if length.isascii() and length.isdigit():
            size_bytes = int(length[:19]) + start - skip
            if size_bytes != descriptor.size_bytes:
                raise _wrong_size(descriptor, size_bytes)
        left = descriptor.size_bytes - start
        for data in response.pieces():
            piece = data[skip:] if skip else data
            skip -= min(skip, len(data))
            left -= len(piece)
            if left < 0:
                raise _wrong_size(descriptor, None)
            if piece:
                yield piece
        if left:
            raise TransientError(
                UnreachableRegistryError(host=self.endpoint.host, problem="the connection was cut")
            )

    # ---- lists

    def tags(self) -> list[str]:
        """Every tag, page after page."""
        found: list[str] = []
        for data in self._pages(f"/v2/{self.path}/tags/list?n=1000", f"tags of {self.name}"):
            found += Reader.of(data, context=f"tags of {self.name}").texts("tags") or ()
            if len(found) > _TAG_COUNT_MAX:
                raise UnexpectedAnswerError(host=self.endpoint.host, problem="too many tags")
        if not all(map(is_tag, found)):
            raise UnexpectedAnswerError(host=self.endpoint.host, problem="a tag that is none")
        return found

    def referrers(self, digest: Digest, artifact_type: str = "") -> list[Referrer]:
        """What belongs to a manifest, of one type where it is given."""
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        what = f"referrers of {digest.short} in {self.name}"
        found: list[Referrer] = []
        try:
            for data in self._pages(f"/v2/{self.path}/referrers/{digest}{query}", what):
                found += _referrers(data, what)
        except UnknownManifestError:  # a registry of before version 1.1: they are under a tag
            found = self._listed_referrers(digest)
        return [each for each in found if artifact_type in ("", each.artifact_type)]

    def _listed_referrers(self, digest: Digest) -> list[Referrer]:
        try:
            document = self.manifest(_referrers_tag(digest))
        except UnknownManifestError:
            return []
        return (
            _referrers(document.data, f"referrers of {digest.short}") if document.is_index else []
        )

    def _list_referrer(self, subject: Digest, referrer: Referrer) -> None:
        known = self._listed_referrers(subject)
        listed = {each.descriptor.digest: each for each in (*known, referrer)}
        manifests = [
            descriptor_json(each.descriptor)
            | ({"artifactType": each.artifact_type} if each.artifact_type else {})
            for each in listed.values()
        ]
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
        self.put_manifest(canonical_json(index), media.OCI_INDEX, _referrers_tag(subject))

    def _pages(self, where: str, what: str) -> Iterator[bytes]:
        home = Origin.of(self.endpoint.reach())
        for _ in range(self.bounds.pages_max):
            with self.endpoint.request("GET", where, scopes=self._pull_scopes) as response:
                if response.status != 200:
                    raise self.problem(response, what)
                link = _NEXT.search(response.header("Link"))
                url = response.url
                try:
                    yield response.read(self.bounds.page_bytes_max)
                except TransientError as error:
                    raise error.why from error
            if link is None:
                return
            try:
                where = urljoin(url, link[1])
                is_here = Origin.of(where) == home
            except ValueError:
                is_here = False
            if not is_here:
                raise UnexpectedAnswerError(
                    host=self.endpoint.host, problem="its next page is on another server"
                )
        raise UnexpectedAnswerError(host=self.endpoint.host, problem=f"{what}: too many pages")

    # ---- words

    def problem(self, response: Response, what: str) -> RegistryError:
        """What an answer says of an error, as one of ours."""
        return problem_of(response, what=what, secrets=self.endpoint.secrets)

    def _no_blob(self, response: Response, descriptor: Descriptor) -> StoreError:
        if response.status == 404 and descriptor.media_type in FOREIGN_TYPES:
            hint = "the layer's bytes are kept by somebody else, and not fetched from there"
            return UnsupportedMediaTypeError(media_type=descriptor.media_type, hint=hint)
        what = f"blob {descriptor.digest} of {self.name}"
        secrets = self.endpoint.secrets
        return problem_of(response, what=what, secrets=secrets, missing="blob unknown")

    def _no_manifest(self, response: Response, reference: str) -> RegistryError:
        if response.status in (401, 403):
            what = f"pull access denied for {self.name}, it does not exist or may require a login"
        else:
            what = f"manifest for {self.name}{'@' if ':' in reference else ':'}{reference}"
        return self.problem(response, what)

    def _manifest_path(self, reference: str) -> str:
        return f"/v2/{self.path}/manifests/{quote(reference, safe=':')}"

    def _blob_path(self, digest: Digest) -> str:
        return f"/v2/{self.path}/blobs/{digest}"


def _plain_type(text: str) -> str:
    return text.partition(";")[0].strip()


def _artifact_type(data: bytes) -> str:
    reader = Reader.of(data, context="manifest")
    config = reader.child("config")
    return reader.text("artifactType") or ("" if config is None else config.text("mediaType"))


def _referrers_tag(digest: Digest) -> str:
    return digest.replace(":", "-")


def _referrers(data: bytes, what: str) -> list[Referrer]:
    reader = Reader.of(data, context=what)
    reader.check_version()

    def parse(each: Reader) -> Referrer:
        return Referrer(descriptor=parse_descriptor(each), artifact_type=each.text("artifactType"))

    return list(reader.items("manifests", parse))


def _wrong_size(descriptor: Descriptor, size_bytes: int | None) -> CorruptBlobError:
    actual = "more" if size_bytes is None else f"{size_bytes} bytes"
    return CorruptBlobError(
        what=f"blob {descriptor.digest}", expected=f"{descriptor.size_bytes} bytes", actual=actual
    )
