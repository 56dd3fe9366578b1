"""One request and one answer, from servers that are broken or hostile."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from layerstore.registry import (
    RegistryError,
    Settings,
    UnexpectedAnswerError,
    UnreachableRegistryError,
    UntrustedRegistryError,
)
from layerstore.registry.connection import (
    Connections,
    PlainHttpError,
    Response,
    Stop,
    TransientError,
    is_transient,
    without_userinfo,
)
from tests.layerstore.registry.conftest import QUICK
from tests.support.oddregistry import OddRegistry, Reply, odd_registry
from tests.support.registries import make_certificate


def settings(tmp_path: Path, **more: Any) -> Settings:
    environment = {"HOME": str(tmp_path), **{k: str(v) for k, v in more.items() if k.isupper()}}
    others = {k: v for k, v in more.items() if not k.isupper()}
    return Settings(bounds=QUICK, environment=environment, **others)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    found = Connections(settings(tmp_path))
    yield found
    found.close()


def get(connections: Connections, odd: OddRegistry, path: str = "/a") -> Response:
    return connections.send("GET", odd.url + path, {})


# Answers.


def test_a_body_is_read_whole(odd: OddRegistry, connections: Connections) -> None:
    content = os.urandom(600_000)
    odd.replies["GET /a"] = Reply(content, headers={"X-A": "1"})
    response = get(connections, odd)
    assert (response.status, response.header("x-a"), response.header("x-b")) == (200, "1", "")
    assert response.read(1 << 20) == content


def test_a_connection_is_used_again(odd: OddRegistry, connections: Connections) -> None:
    odd.replies["GET /a"] = Reply(b"x")
    for _ in range(3):
        assert get(connections, odd).read(10) == b"x"
    manager = next(iter(connections._managers.values()))
    pool = manager.connection_from_url(odd.url)
    assert pool.num_connections == 1


def test_it_asks_for_bytes_as_they_are(odd: OddRegistry, connections: Connections) -> None:
    odd.replies["GET /a"] = Reply(b"x")
    get(connections, odd).close()
    assert odd.asked[0].headers["accept-encoding"] == "identity"
    assert odd.asked[0].headers["user-agent"] == "lamina"


def test_a_body_is_sent_from_pieces(odd: OddRegistry, connections: Connections) -> None:
    odd.replies["PUT /a"] = Reply()
    headers = {"Content-Length": "6"}
    connections.send("PUT", odd.url + "/a", headers, lambda: iter([b"abc", b"def"])).close()
    assert odd.asked[0].content == b"abcdef"


def test_a_long_body_is_not_read_to_its_end(odd: OddRegistry, connections: Connections) -> None:
    odd.replies["GET /a"] = Reply(endless=True)
    with pytest.raises(UnexpectedAnswerError, match="more than 1000 bytes"):
        get(connections, odd).read(1000)


def test_of_an_endless_error_only_the_beginning_is_read(
    odd: OddRegistry, connections: Connections
) -> None:
    odd.replies["GET /a"] = Reply(b"why", status=404, endless=True)
    assert get(connections, odd).excerpt(3) == b"why"


@pytest.mark.parametrize("length", [20, -1])
def test_a_body_that_is_cut_is_transient_or_short(
    odd: OddRegistry, connections: Connections, length: int
) -> None:
    odd.replies["GET /a"] = Reply(b"0123456789", length=length)
    response = get(connections, odd)
    if length < 0:
        assert response.read(100) == b"0123456789"
    else:
        with pytest.raises(TransientError, match="cut"):
            response.read(100)


def test_a_body_that_stalls_is_transient(odd: OddRegistry, connections: Connections) -> None:
    odd.replies["GET /a"] = Reply(b"0123456789", length=20, stall_s=10)
    started = time.monotonic()
    with pytest.raises(TransientError, match="no answer in time"):
        get(connections, odd).read(100)
    assert time.monotonic() - started < 10


@contextmanager
def trickling(head: bytes, drop: bytes) -> Iterator[str]:
    """A server that sends `head` and then a drop each 50 ms, for ever."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                try:
                    connection.sendall(head)
                    while not ended.wait(0.05):
                        connection.sendall(drop)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nA: "])
def test_a_head_that_trickles_is_given_up(connections: Connections, head: bytes) -> None:
    before = threading.active_count()
    with trickling(head, b"x") as url:
        started = time.monotonic()
        with pytest.raises(TransientError):
            connections.send("GET", url, {})
        assert time.monotonic() - started < 10
    assert threading.active_count() == before


def test_a_document_that_trickles_is_given_up(connections: Connections) -> None:
    with trickling(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
        started = time.monotonic()
        with pytest.raises(TransientError, match=r"too long|hardly anything"):
            connections.send("GET", url, {}).read(1000)
        assert time.monotonic() - started < 10


def test_a_download_that_trickles_is_given_up(connections: Connections) -> None:
    with trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"x") as url:
        started = time.monotonic()
        with pytest.raises(TransientError, match="hardly anything"):
            list(connections.send("GET", url, {}).pieces())
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_what_is_not_http_is_transient(connections: Connections, answer: bytes) -> None:
    with trickling(answer, b"") as url, pytest.raises(TransientError):
        connections.send("GET", url, {}).read(1000)


@pytest.mark.parametrize(
    ("status", "transient"),
    [(200, False), (404, False), (408, True), (429, True), (500, True), (501, False), (503, True)],
)
def test_some_answers_are_transient(status: int, transient: bool) -> None:
    assert is_transient(status) == transient


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("7", 7, 7), ("86400", 86400, 86400), ("", 0, 0), ("soon", 0, 0), ("-1", 0, 0)],
)
def test_retry_after_is_read(
    odd: OddRegistry, connections: Connections, text: str, least: float, most: float
) -> None:
    odd.replies["GET /a"] = Reply(status=429, headers={"Retry-After": text})
    with pytest.raises(TransientError, match="429 Too Many Requests") as caught:
        get(connections, odd)
    assert least <= caught.value.wait_s <= most


def test_retry_after_may_be_a_moment(odd: OddRegistry, connections: Connections) -> None:
    moment = "Fri, 01 Jan 2100 00:00:00 GMT"
    odd.replies["GET /a"] = Reply(status=503, headers={"Retry-After": moment})
    with pytest.raises(TransientError) as caught:
        get(connections, odd)
    assert caught.value.wait_s > 1_000_000


# Reaching.


def test_a_refused_connection_is_final(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreachableRegistryError, match=f"127.0.0.1:{port}: connection refused"):
        connections.send("GET", f"http://127.0.0.1:{port}/", {})


def test_a_host_that_is_none_is_final(connections: Connections) -> None:
    started = time.monotonic()
    with pytest.raises(UnreachableRegistryError, match=r"registry\.invalid: no such host"):
        connections.send("GET", "https://registry.invalid/v2/", {})
    assert time.monotonic() - started < 20


def patient(tmp_path: Path, stop: Stop) -> Connections:
    """Connections with a minute's patience."""
    return Connections(Settings(environment={"HOME": str(tmp_path)}), stop)


@pytest.mark.parametrize("length", [10, -1])  # by which the connection belongs to the answer alone
def test_a_read_can_be_cut_from_another_thread(
    odd: OddRegistry, tmp_path: Path, length: int
) -> None:
    odd.replies["GET /a"] = Reply(b"x", length=length, stall_s=20)
    stop = Stop()
    connections = patient(tmp_path, stop)
    response = get(connections, odd)
    pieces = response.pieces()
    assert next(pieces) == b"x"
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    if length == -1:
        assert list(pieces) == []  # nothing tells it from the end: who asked looks at `stop`
    else:
        with pytest.raises(TransientError):
            next(pieces)
    assert time.monotonic() - started < 5
    odd.ended.set()
    connections.close()


@pytest.mark.parametrize("content", [b"", b"x" * (64 << 20)])
def test_so_can_what_waits_for_an_answer_or_sends(content: bytes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        stop = Stop()
        connections = patient(tmp_path, stop)
        threading.Timer(0.2, stop.set).start()
        started = time.monotonic()
        length = {"Content-Length": str(len(content))}
        with pytest.raises(TransientError):
            connections.send("PUT", url, length, lambda: (content,))
        assert time.monotonic() - started < 5
        connections.close()


def test_what_is_connected_too_late_is_cut_and_afterwards_all_is_well(
    odd: OddRegistry, tmp_path: Path
) -> None:
    odd.replies["GET /a"] = Reply(b"x")
    stop = Stop()
    connections = patient(tmp_path, stop)
    assert get(connections, odd).read(1) == b"x"
    stop.set()
    with pytest.raises(TransientError):
        get(connections, odd)
    stop.clear()
    assert get(connections, odd).read(1) == b"x"
    connections.close()


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    found = folder / "cert.pem", folder / "key.pem"
    make_certificate(*found)
    return found


needs_openssl = pytest.mark.needs_registry


@needs_openssl
def test_a_certificate_of_nobody_known_is_refused(
    certificate: tuple[Path, Path], connections: Connections
) -> None:
    with (
        odd_registry(certificate=certificate) as odd,
        pytest.raises(UntrustedRegistryError, match="x509: certificate signed by unknown auth"),
    ):
        get(connections, odd)


@needs_openssl
def test_one_for_another_name_is_refused(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_bytes(certificate[0].read_bytes())
    connections = Connections(settings(tmp_path, cert_dir=tmp_path / "certs"))
    with odd_registry(certificate=certificate) as odd:
        url = odd.url.replace("127.0.0.1", "127.0.0.2")
        odd.replies["GET /a"] = Reply(b"x")
        assert get(connections, odd).read(1) == b"x"
        with pytest.raises((UntrustedRegistryError, UnreachableRegistryError)):
            connections.send("GET", url, {})
    connections.close()


@needs_openssl
def test_the_authority_of_a_registry_may_be_in_certs_d(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    with odd_registry(certificate=certificate) as odd:
        folder = tmp_path / ".config/containers/certs.d" / odd.address
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
        connections = Connections(settings(tmp_path))
        odd.replies["GET /a"] = Reply(b"x")
        assert get(connections, odd).read(1) == b"x"
        connections.close()


@needs_openssl
def test_an_insecure_registry_is_not_looked_at(
    certificate: tuple[Path, Path], connections: Connections
) -> None:
    with odd_registry(certificate=certificate) as odd:
        odd.replies["GET /a"] = Reply(b"x")
        assert connections.send("GET", odd.url + "/a", {}, insecure=True).read(1) == b"x"
        with pytest.raises(UntrustedRegistryError):  # the next one is
            get(connections, odd)


def test_a_server_without_tls_is_known_by_its_answer(
    odd: OddRegistry, connections: Connections
) -> None:
    with trickling(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"") as url, pytest.raises(PlainHttpError):
        connections.send("GET", url.replace("http:", "https:"), {})


@pytest.mark.parametrize("content", ["", "not a certificate"])
def test_a_bad_certificate_is_named(odd: OddRegistry, tmp_path: Path, content: str) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_text(content)
    connections = Connections(settings(tmp_path, cert_dir=tmp_path / "certs"))
    with pytest.raises(UntrustedRegistryError, match="certificates in"):
        connections.send("GET", odd.url.replace("http:", "https:"), {})


def test_a_missing_directory_of_certificates_is_an_error(odd: OddRegistry, tmp_path: Path) -> None:
    connections = Connections(settings(tmp_path, cert_dir=tmp_path / "none"))
    with pytest.raises(RegistryError, match="cert-dir"):
        connections.send("GET", odd.url.replace("http:", "https:"), {})


# Proxies.


def test_a_proxy_is_asked_in_its_place_and_gets_its_own_credentials(
    odd: OddRegistry, tmp_path: Path
) -> None:
    proxy = odd.url.replace("http://", "http://me:pass%20word@")
    connections = Connections(settings(tmp_path, HTTP_PROXY=proxy))
    odd.replies["GET http://registry.example/a"] = Reply(b"x")
    response = connections.send("GET", "http://registry.example/a", {"Authorization": "b"})
    assert response.read(1) == b"x"
    assert odd.asked[0].headers["proxy-authorization"] == "Basic bWU6cGFzcyB3b3Jk"
    assert odd.asked[0].headers["authorization"] == "b"
    connections.close()


def test_loopback_needs_no_proxy(odd: OddRegistry, tmp_path: Path) -> None:
    connections = Connections(settings(tmp_path, HTTP_PROXY="http://registry.invalid:1"))
    odd.replies["GET /a"] = Reply(b"x")
    assert get(connections, odd).read(1) == b"x"
    connections.close()


def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    proxy = f"http://me:hunter22@127.0.0.1:{port}"
    connections = Connections(settings(tmp_path, HTTPS_PROXY=proxy, HTTP_PROXY=proxy))
    for scheme in ("http", "https"):
        with pytest.raises(UnreachableRegistryError, match="proxy") as caught:
            connections.send("GET", f"{scheme}://registry.example/", {})
        assert "hunter22" not in str(caught.value)


def test_a_url_is_shown_without_credentials() -> None:
    assert without_userinfo("https://a:b@c:1/d?e") == "https://c:1/d?e"
