"""A throw-away registry on loopback: Debian's docker-registry, for as long as a test needs it.

with registry(folder) as server:                    # plain HTTP, deletes allowed
    run("skopeo", "copy", ..., f"docker://{server.address}/name:tag")
with registry(folder, auth="basic") as server:      # server.username, server.password
with registry(folder, auth="token") as server:      # bearer tokens, from a server of their own
with registry(folder, auth="identity") as server:   # which also gives and takes server.identities
with registry(folder, tls=True) as server:          # server.ca_file signs for 127.0.0.1, localhost

The registry chooses its port and says so in its log; it ends with its `with`, or with its parent.
"""

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import secrets
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.servers import Quiet, running

Auth = Literal["none", "basic", "token", "identity"]

USERNAME, PASSWORD = "tester", "secret"
# bcrypt of PASSWORD: the registry takes no other hash.
_HTPASSWD = f"{USERNAME}:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
_START_S = 20
_CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry, and where it keeps what it is given."""

    port: int
    folder: Path
    auth: Auth
    ca_file: Path | None
    username: str = USERNAME
    password: str = PASSWORD
    tokens_given: list[str] = field(default_factory=list)
    """The scope of every token that was given, in order."""
    identities: list[str] = field(default_factory=list)
    """The refresh tokens that are good."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.address}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def blob_path(self, digest: str) -> Path:
        """Where the registry has the bytes of a blob: for damaging them."""
        digits = digest.removeprefix("sha256:")
        return self.folder / "data/docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def blobs(self) -> set[str]:
        """The digests of everything the registry stores."""
        found = self.folder.glob("data/docker/registry/v2/blobs/sha256/*/*/data")
        return {f"sha256:{path.parent.name}" for path in found}

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Answer:
        """One request, with the name and password where the registry wants them."""
        with contextlib.closing(self._connection()) as connection:
            sent = dict(headers or {})
            if self.auth == "basic":
                sent["Authorization"] = basic(self.username, self.password)
            connection.request(method, path, body=content, headers=sent)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read())

    def put_blob(self, name: str, content: bytes) -> str:
        """Store a blob in the repository `name`; its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = self.ask("POST", f"/v2/{name}/blobs/uploads/")
        place = urllib.parse.urlsplit(begun.headers["location"])
        put = self.ask("PUT", f"{place.path}?{place.query}&digest={digest}", content=content)
        assert put.status == 201, put
        return digest

    def put_manifest(self, name: str, tag: str, content: bytes, media_type: str) -> str:
        """Store a manifest or an index under `tag`; its digest."""
        put = self.ask(
            "PUT",
            f"/v2/{name}/manifests/{tag}",
            content=content,
            headers={"Content-Type": media_type},
        )
        assert put.status == 201, put
        return put.headers["docker-content-digest"]

    def tags(self, name: str) -> list[str]:
        """The tags of the repository `name`, sorted."""
        answer = self.ask("GET", f"/v2/{name}/tags/list")
        return sorted(json.loads(answer.content).get("tags") or []) if answer.status == 200 else []

    def _connection(self) -> http.client.HTTPConnection:
        if self.ca_file is None:
            return http.client.HTTPConnection(self.address, timeout=30)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return http.client.HTTPSConnection(self.address, timeout=30, context=context)


def basic(username: str, password: str) -> str:
    """The Authorization header of a name and a password."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


@contextlib.contextmanager
def registry(folder: Path, *, auth: Auth = "none", tls: bool = False) -> Iterator[Registry]:
    """Run a registry that keeps everything in `folder`, which is made if need be.

    A second one in the same folder finds what the first one kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens_given: list[str] = []
    identities: list[str] = []
    with contextlib.ExitStack() as stack:
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "data")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": "127.0.0.1:0"} | (_tls(folder) if tls else {}),
        }
        if auth == "basic":
            (folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        elif auth in ("token", "identity"):
            known = identities if auth == "identity" else None
            realm = stack.enter_context(_tokens(folder, tokens_given, known))
            config["auth"] = {"token": _token_config(folder, realm)}
        (folder / "config.yml").write_text(json.dumps(config))
        yield Registry(
            port=stack.enter_context(_serving(folder)),
            folder=folder,
            auth=auth,
            ca_file=folder / "cert.pem" if tls else None,
            tokens_given=tokens_given,
            identities=identities,
        )


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[int]:
    """Run docker-registry; yields its port."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("docker-registry", "serve", str(folder / "config.yml")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield _port(process, folder / "log")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        for line in log.read_text(errors="replace").split("\n")[:-1]:
            _, found, rest = line.partition("listening on 127.0.0.1:")
            if found:
                return int(rest.partition('"')[0].partition(",")[0])
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise AssertionError(f"docker-registry does not start: {log.read_text(errors='replace')}")


def _tls(folder: Path) -> dict[str, object]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    make_certificate(certificate, key)
    return {"tls": {"certificate": str(certificate), "key": str(key)}}


def make_certificate(certificate: Path, key: Path, *, algorithm: Sequence[str] = _CURVE) -> None:
    """A key and a certificate that is its own authority, for loopback."""
    _openssl(
        *("req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-newkey", *algorithm, "-keyout", str(key), "-out", str(certificate)),
    )


def _openssl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=stdin, capture_output=True, check=True).stdout


_ISSUER, _SERVICE = "test-tokens", "test-registry"


def _token_config(folder: Path, realm: str) -> dict[str, str]:
    return {
        "realm": realm,
        "service": _SERVICE,
        "issuer": _ISSUER,
        "rootcertbundle": str(folder / "token-cert.pem"),
    }


@contextlib.contextmanager
def _tokens(folder: Path, given: list[str], identities: list[str] | None) -> Iterator[str]:
    """Run a server that gives tokens to who knows the name and password; yields its address.

    Who comes without them gets a token for pulling and nothing else. Where there may be
    `identities`, who asks for one (offline_token) gets one, and tokens for it.
    """
    certificate, key = folder / "token-cert.pem", folder / "token-key.pem"
    make_certificate(certificate, key, algorithm=["rsa:2048"])
    lock = threading.Lock()

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            credentials = self.headers.get("Authorization")
            if credentials and credentials != basic(USERNAME, PASSWORD):
                self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]})
                return
            token = self._sign(asked.get("scope", []), may_write=bool(credentials))
            answer = {"token": token, "expires_in": 300}
            if credentials and identities is not None and asked.get("offline_token") == ["true"]:
                identities.append(secrets.token_urlsafe(30))
                answer["refresh_token"] = identities[-1]
            self._answer(200, answer)

        def do_POST(self) -> None:
            """OAuth2; refused where there are no identities, as by many a server."""
            asked = urllib.parse.parse_qs(b"".join(self.request_body()).decode())
            if identities is None:
                self._answer(404, {"errors": [{"code": "UNSUPPORTED", "message": "no OAuth2"}]})
            elif asked.get("grant_type") != ["refresh_token"] or not asked.get("client_id"):
                self._answer(400, {"error": "unsupported_grant_type"})
            elif asked.get("refresh_token", [""])[0] not in identities:
                self._answer(400, {"error": "invalid_grant"})
            else:
                token = self._sign(asked.get("scope", []), may_write=True)
                self._answer(200, {"access_token": token, "expires_in": 300})

        def _sign(self, asked: list[str], *, may_write: bool) -> str:
            scopes = [word for scope in asked for word in scope.split(" ")]
            with lock:
                given.extend(scopes)
            return _sign(certificate, key, scopes, may_write=may_write)

        def _answer(self, status: int, document: object) -> None:
            content = json.dumps(document).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with running(Handler) as address:
        yield f"{address}/token"


def _sign(certificate: Path, key: Path, scopes: list[str], *, may_write: bool) -> str:
    """A JSON web token as the registry's specification has it, signed with RS256."""
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = [action for action in actions.split(",") if may_write or action == "pull"]
        access.append({"type": kind, "name": name, "actions": allowed})
    der = base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate.read_text())).decode()
    now_s = int(time.time())
    claims = {
        "iss": _ISSUER,
        "aud": _SERVICE,
        "sub": "",
        "jti": "1",
        "nbf": now_s - 60,
        "iat": now_s,
        "exp": now_s + 300,
        "access": access,
    }
    signed = b".".join(
        _base64url(json.dumps(part).encode())
        for part in ({"typ": "JWT", "alg": "RS256", "x5c": [der]}, claims)
    )
    signature = _openssl("dgst", "-sha256", "-sign", str(key), stdin=signed)
    return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
