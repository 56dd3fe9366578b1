"""A registry on loopback that answers whatever a test wants, and remembers what it was asked.

with odd_registry() as server:
    server.replies["GET /v2/a/manifests/1"] = Reply(content=b"...", headers={...})
    server.replies["GET /v2/a/blobs/X"] = [Reply(status=503), Reply(content=b"...")]  # one by one
    server.asked[0].headers["authorization"]

`GET /v2/` says 200 unless told otherwise; what nobody told it is 404.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from layerstore import Digest, ImageConfig, canonical_json
from tests.support.servers import Quiet, running


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    """With the query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """`length` is what Content-Length says where that is not the truth; -1 for no such header.

    endless: the body goes on for ever. stall_s: how long nothing comes after the body.
    """

    content: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    endless: bool = False
    stall_s: float = 0


Answer = Reply | list[Reply] | Callable[[Asked], Reply]


@dataclass
class OddRegistry:
    url: str = ""
    replies: dict[str, Answer] = field(default_factory=lambda: {"GET /v2/": Reply()})
    asked: list[Asked] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return self.url.partition("://")[2]

    def paths(self, method: str = "") -> list[str]:
        """What was asked for, without the probes."""
        return [
            each.path for each in self.asked if method in ("", each.method) and each.path != "/v2/"
        ]

    def sent(self, name: str) -> list[str]:
        """The values of a header in all requests that had it."""
        return [each.headers[name] for each in self.asked if name in each.headers]

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        line = f"{asked.method} {asked.path}"
        found = self.replies.get(line) or self.replies.get(line.partition("?")[0])
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found(asked) if callable(found) else found or Reply(status=404)

    def content(self, path: str) -> bytes:
        """What a GET of `path` answers, whenever it is asked."""
        reply = self.replies[f"GET {path}"]
        assert isinstance(reply, Reply)
        return reply.content

    # ---- images

    def add_blob(self, name: str, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.replies[f"GET /v2/{name}/blobs/{digest}"] = Reply(content)
        self.replies[f"HEAD /v2/{name}/blobs/{digest}"] = Reply(length=len(content))
        return digest

    def add_manifest(self, name: str, tag: str, document: object, media_type: str) -> Digest:
        data = document if isinstance(document, bytes) else canonical_json(document)
        digest = Digest.of(data)
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        for reference in (tag, digest):
            self.replies[f"GET /v2/{name}/manifests/{reference}"] = Reply(data, headers=headers)
            self.replies[f"HEAD /v2/{name}/manifests/{reference}"] = Reply(
                headers=headers, length=len(data)
            )
        return digest

    def add_image(
        self,
        name: str,
        tag: str,
        layers: list[tuple[bytes, Digest]],
        *,
        layer_type: str = "application/vnd.oci.image.layer.v1.tar",
        changes: Mapping[str, object] | None = None,
    ) -> Digest:
        """An image of blobs with these diff_ids; `changes` are laid over its manifest."""
        config = ImageConfig(
            architecture="amd64", os="linux", diff_ids=tuple(diff_id for _, diff_id in layers)
        ).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.add_blob(name, config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": layer_type,
                    "digest": self.add_blob(name, blob),
                    "size": len(blob),
                }
                for blob, _ in layers
            ],
        } | dict(changes or {})
        return self.add_manifest(name, tag, document, "application/vnd.oci.image.manifest.v1+json")


def error_body(code: str, message: str) -> bytes:
    """What a registry says of an error."""
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@contextlib.contextmanager
def odd_registry(*, certificate: tuple[Path, Path] | None = None) -> Iterator[OddRegistry]:
    """`certificate` and key make it speak TLS."""
    odd = OddRegistry()

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self._chunks() if self.headers.get("Transfer-Encoding") else b""
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, content or self.rfile.read(length))
            self._give(odd.answer(asked))

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def _chunks(self) -> bytes:
            data = b""
            while length := int(self.rfile.readline(100), 16):
                data += self.rfile.read(length)
                self.rfile.readline(100)
            self.rfile.readline(100)
            return data

        def _give(self, reply: Reply) -> None:
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            length = len(reply.content) if reply.length is None else reply.length
            if length >= 0 and not reply.endless:
                self.send_header("Content-Length", str(length))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.content)
            while reply.endless and not odd.ended.is_set():
                self.wfile.write(b" " * 65536)
            if reply.stall_s:
                self.wfile.flush()
                odd.ended.wait(reply.stall_s)
            if (reply.length is not None and self.command != "HEAD") or reply.endless:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    with running(Handler, certificate) as address:
        odd.url = address
        try:
            yield odd
        finally:
            odd.ended.set()
