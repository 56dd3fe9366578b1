"""A blob on its way to a repository: there already, mounted from another one, or sent.

A large blob is sent in pieces. An upload that is cut goes on where the registry says that it is;
where it says nothing of use, the upload is begun anew.

Spec: OCI distribution-spec v1.1, "Pushing blobs".
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal
from urllib.parse import urlencode, urlsplit

from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.registry.connection import Response, TransientError
from layerstore.registry.errors import RegistryError
from layerstore.registry.repository import Repository

Uploaded = Literal["exists", "mounted", "pushed"]
OpenBlob = Callable[[], Iterator[bytes]]
Sent = Callable[[int], object]

_STARTS_MAX = 3  # uploads of one blob that are begun anew


def upload(
    repository: Repository,
    descriptor: Descriptor,
    open_blob: OpenBlob,
    *,
    mount_from: Sequence[str] = (),
    sent: Sent = lambda size_bytes: None,
) -> tuple[Uploaded, str]:
    """Store a blob, unless it is there, or can be had from another repository.

    Args:
        open_blob: its bytes from the start, at each call.
        mount_from: paths of repositories of this registry that may have it.
        sent: told how many bytes are there, while it is uploaded.

    Returns:
        How it came there, and for "mounted" from where.
    """
    there = find_there(repository, descriptor.digest, mount_from)
    if there is not None:
        return there
    send(repository, descriptor, open_blob, sent)
    return "pushed", ""


def send(
    repository: Repository,
    descriptor: Descriptor,
    open_blob: OpenBlob,
    sent: Sent = lambda size_bytes: None,
) -> None:
    """Store a blob that `find_there` does not find; see `upload`."""
    for start in range(_STARTS_MAX):
        try:
            _Upload(repository, descriptor, open_blob, sent).carry_out()
        except TransientError as error:
            if start == _STARTS_MAX - 1:
                raise error.why from error
            repository.endpoint.pause(repository.bounds.backoff_s * 2**start)
            if repository.has_blob(descriptor.digest, to_push=True):  # its last answer was lost
                break
        else:
            break


def find_there(
    repository: Repository, digest: Digest, mount_from: Sequence[str]
) -> tuple[Uploaded, str] | None:
    """How a blob is in the repository without being sent, and from where; None when it is not."""
    if repository.has_blob(digest, to_push=True):
        return "exists", ""
    for path in mount_from:
        if path != repository.path and _mount(repository, digest, path):
            return "mounted", path
    return None


def path_at(repository: Repository, origin: str) -> list[str]:
    """The path of the repository `origin` (`host/path`); none if it is in another registry."""
    host = repository.endpoint.host + "/"
    return [origin.removeprefix(host)] if origin.startswith(host) else []


def _mount(repository: Repository, digest: Digest, path: str) -> bool:
    endpoint = repository.endpoint
    query = urlencode({"mount": digest, "from": path})
    with endpoint.request(
        "POST",
        f"{repository.uploads_path}?{query}",
        scopes=(*repository.push_scopes, f"repository:{path}:pull"),
        headers={"Content-Length": "0"},
    ) as response:
        if response.status == 202:  # an upload instead, which is not wanted
            _cancel(repository, endpoint.location(response))
        response.finish()
        return response.status == 201


def _cancel(repository: Repository, location: str) -> None:
    try:
        with repository.endpoint.request(
            "DELETE", location, scopes=repository.push_scopes, once=True
        ) as response:
            response.finish()
    except (TransientError, RegistryError):  # it expires by itself
        return


class _Upload:
    """One upload: where the registry wants the next bytes of it, and how many it has."""

    def __init__(
        self, repository: Repository, descriptor: Descriptor, open_blob: OpenBlob, sent: Sent
    ) -> None:
        self._repository = repository
        self._endpoint = repository.endpoint
        self._bounds = repository.bounds
        self._descriptor = descriptor
        self._cursor = _Cursor(open_blob)
        self._sent = sent
        self._location = ""
        self._at = 0

    def carry_out(self) -> None:
        """Send the blob.

        Raises:
            TransientError: another upload may go well.
        """
        self._begin()
        self._send_pieces()
        self._commit()

    def _begin(self) -> None:
        with self._endpoint.request(
            "POST",
            self._repository.uploads_path,
            scopes=self._repository.push_scopes,
            headers={"Content-Length": "0"},
        ) as response:
            if response.status != 202 or not response.header("Location"):
                raise self._problem(response)
            self._location = self._endpoint.location(response)
            response.finish()

    def _send_pieces(self) -> None:
        """Send all but the last piece.

        A registry that takes no pieces (a 4xx for the first) gets all of it at once.
        """
        cuts = 0
        step = self._bounds.upload_piece_bytes
        while self._descriptor.size_bytes - self._at > step:
            try:
                with self._send("PATCH", self._location, self._at + step) as response:
                    if response.status != 202:
                        if self._at or response.status < 400:
                            raise self._problem(response)
                        response.finish()
                        return
                    self._location = self._endpoint.location(response)
                    self._at += step
                    response.finish()
            except TransientError as error:
                cuts += 1
                if cuts > self._endpoint.retries:
                    raise
                self._endpoint.pause(self._bounds.backoff_s * 2 ** (cuts - 1))
                self._ask_where_it_is(error)

    def _ask_where_it_is(self, error: TransientError) -> None:
        """Ask how much of the upload has come; when nobody knows, it is begun anew."""
        with self._endpoint.request(
            "GET", self._location, scopes=self._repository.push_scopes
        ) as response:
            span = re.fullmatch(r"(?:bytes=)?0-(\d{1,19})", response.header("Range"))
            if response.status not in (202, 204) or span is None:
                response.finish()
                raise error
            at = int(span[1]) + 1 if int(span[1]) else 0  # distribution says 0-0 for nothing
            if at >= self._descriptor.size_bytes:
                raise error
            if response.header("Location"):
                self._location = self._endpoint.location(response)
            self._at = at
            response.finish()

    def _commit(self) -> None:
        where = self._location + ("&" if urlsplit(self._location).query else "?")
        where += urlencode({"digest": self._descriptor.digest})
        with self._send("PUT", where, self._descriptor.size_bytes) as response:
            if response.status in (400, 404, 416) and self._endpoint.retries:
                # what came there was cut or changed on its way
                raise TransientError(self._problem(response))
            if response.status not in (201, 204):
                raise self._problem(response)
            response.finish()

    def _send(self, method: str, where: str, end: int) -> Response:
        """Send what comes next, up to the byte `end`."""
        start = self._at
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - start)}
        if method == "PATCH" or start:
            headers["Content-Range"] = f"{start}-{end - 1}"

        def body() -> Iterator[bytes]:
            at = start
            for piece in self._cursor.part(start, end):
                self._endpoint.check_wanted()
                yield piece
                at += len(piece)
                self._sent(at)

        return self._endpoint.request(
            method,
            where,
            scopes=self._repository.push_scopes,
            headers=headers,
            body=body,
            once=True,
            is_commit=method == "PUT",
        )

    def _problem(self, response: Response) -> RegistryError:
        return self._repository.problem(response, f"cannot push to {self._repository.name}")


class _Cursor:
    """Parts of a blob one after the other, from one reading of it; from another one after a step
    back."""

    def __init__(self, open_blob: OpenBlob) -> None:
        self._open = open_blob
        self._pieces: Iterator[bytes] = iter(())
        self._rest = b""
        self._at = -1

    def part(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, fewer where the blob ends."""
        if self._at != start:
            self._pieces, self._rest, self._at = self._open(), b"", 0
        while self._at < end and (self._rest or self._read()):
            size = (start if self._at < start else end) - self._at
            piece, self._rest = self._rest[:size], self._rest[size:]
            is_wanted = self._at >= start
            self._at += len(piece)
            if is_wanted:
                yield piece

    def _read(self) -> bool:
        self._rest = next(self._pieces, b"")
        return bool(self._rest)
