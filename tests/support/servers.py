"""HTTP servers on loopback: files that change and fail on purpose, and git repositories.

with serve() as server:
    server.pages["/a.txt"] = Page(b"text", headers={"ETag": '"1"'})
    server.faults["/a.txt"] = [Status(503), Cut()]      # what happens first, one for each request
    fetch(server.url + "/a.txt");  server.requests[0].path

with serve_git(folder) as address:                      # git's own http-backend
    run("git", "clone", f"{address}/name.git")
"""

import contextlib
import http.server
import io
import os
import socket
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest

_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers. `date_s` is the server's clock."""

    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    date_s: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends after the headers and `sent` bytes of many more."""

    sent: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Server:
    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    faults: dict[str, list[Page | Cut]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def asked(self, path: str) -> int:
        """How often `path` was asked for."""
        return sum(request.path == path for request in self.requests)


@contextlib.contextmanager
def serve(pages: Mapping[str, Page] | None = None) -> Iterator[Server]:
    """Serve `pages`. A conditional request for what has not changed is answered by 304."""
    served = Server(pages=dict(pages or {}))

    class Handler(Quiet):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            served.requests.append(Request(self.command, self.path, headers))
            faults = served.faults.get(self.path)
            answer = faults.pop(0) if faults else served.pages.get(self.path, Page(status=404))
            if isinstance(answer, Cut):
                self._answer(200, {"Content-Length": str(answer.sent + 1000)}, b"x" * answer.sent)
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            etag = answer.headers.get("ETag")
            changed = answer.headers.get("Last-Modified")
            if (etag and headers.get("if-none-match") == etag) or (
                changed and headers.get("if-modified-since") == changed
            ):
                self._answer(304, answer.headers, b"")
                return
            length = {"Content-Length": str(len(answer.content))}
            date = {"Date": formatdate(answer.date_s, usegmt=True)} if answer.date_s else {}
            self._answer(answer.status, {**length, **date, **answer.headers}, answer.content)

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in {"Date": self.date_time_string(), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    with running(Handler) as address:
        served.url = address
        yield served


def make_tar(items: Mapping[str, bytes], *, mtime_s: int = 0) -> bytes:
    """A tar of files, by another program's hand."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in items.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime_s
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


@contextlib.contextmanager
def serve_git(folder: Path) -> Iterator[str]:
    """Serve the repositories in `folder`, for reading."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            done = subprocess.run(
                ["git", "http-backend"],
                input=self.rfile.read(length),
                capture_output=True,
                check=True,
                env={
                    "PATH": os.environ["PATH"],
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "HOME": "/nonexistent",
                    "GIT_PROJECT_ROOT": str(folder),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(length),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                },
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response_only(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

    with running(Handler) as address:
        yield address


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass

    def request_body(self) -> Iterator[bytes]:
        """The body of the request, by whatever way its end is told."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield from self._pieces(int(self.headers.get("Content-Length") or 0))
            return
        while length := int(self.rfile.readline(100).partition(b";")[0], 16):
            yield from self._pieces(length)
            self.rfile.readline(100)
        self.rfile.readline(100)

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length > 0:
            piece = self.rfile.read(min(length, _PIECE))
            if not piece:
                raise ConnectionAbortedError
            length -= len(piece)
            yield piece


@contextlib.contextmanager
def running(
    handler: type[http.server.BaseHTTPRequestHandler],
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Serve on loopback; with a certificate and its key, by TLS."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if certificate is None else "https"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def replace_ssh(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a shell script in the place of ssh, kept in `folder`."""
    program = folder / "ssh"
    folder.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A bare repository `NAME.git` in a folder, and commits in it."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> "Repository":
        path.mkdir(parents=True)
        repository = cls(path)
        repository.git("init", "--quiet", "--bare", "--initial-branch=main", ".")
        return repository

    def git(self, *words: str, cwd: Path | None = None) -> str:
        """Run git as nobody in particular; what it prints."""
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *words],
            cwd=cwd or self.path,
            check=True,
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "a",
                "GIT_AUTHOR_EMAIL": "a@example.org",
                "GIT_COMMITTER_NAME": "a",
                "GIT_COMMITTER_EMAIL": "a@example.org",
                "GIT_AUTHOR_DATE": "1600000000 +0000",
                "GIT_COMMITTER_DATE": "1600000000 +0000",
            },
        )
        return done.stdout.strip()

    def commit(self, work: Path, *, branch: str = "main") -> str:
        """Commit all of the directory `work` onto `branch`; the commit's id."""
        options = ("--git-dir", str(self.path), "--work-tree", str(work))
        self.git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        self.git(*options, "add", "--all", "--force", ".", cwd=work)
        self.git(*options, "commit", "--quiet", "--allow-empty", "-m", "x", cwd=work)
        self.git("symbolic-ref", "HEAD", "refs/heads/main")
        return self.git("rev-parse", f"refs/heads/{branch}")
