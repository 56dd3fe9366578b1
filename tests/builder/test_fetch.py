"""Fetching of files: what is asked, what is remembered, what goes wrong."""

import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from tempfile import TemporaryFile
from typing import BinaryIO

import pytest

from builder.errors import ChecksumError, FetchError
from builder.fetch import Bounds, Fetched, Fetcher
from layerstore import Digest, Store
from tests.support.servers import Cut, Page, Server, serve

QUICK = Bounds(idle_timeout_s=0.5, connect_timeout_s=1, backoff_s=0.01, retry_after_max_s=0.05)
LONG_AGO = formatdate(1_600_000_000, usegmt=True)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


NewFetcher = Callable[..., Fetcher]


@pytest.fixture
def new_fetcher(store: Store) -> Iterator[NewFetcher]:
    """Each one is that of another build."""
    with ExitStack() as cleanup:

        def make(bounds: Bounds = QUICK) -> Fetcher:
            def new_file() -> BinaryIO:
                return TemporaryFile(buffering=0)  # the fetcher closes it

            return Fetcher(new_file, store.cache, cleanup, bounds)

        yield make


def read(fetched: Fetched) -> bytes:
    return b"".join(fetched.content())


# What comes.


def test_a_file_is_fetched_with_its_time(server: Server, new_fetcher: NewFetcher) -> None:
    content = os.urandom(700_000)
    server.pages["/f"] = Page(content, {"Last-Modified": LONG_AGO})
    fetched = new_fetcher().fetch(server.url + "/f", None)
    assert read(fetched) == read(fetched) == content
    assert (fetched.size_bytes, fetched.mtime_s) == (len(content), 1_600_000_000)
    assert fetched.digest == Digest.of(content)


def test_without_a_time_it_is_the_beginning_of_time(
    server: Server, new_fetcher: NewFetcher
) -> None:
    for headers in ({}, {"Last-Modified": "yesterday"}, {"Last-Modified": "Thu, 99 Foo 1"}):
        server.pages["/f"] = Page(b"", headers)
        fetched = new_fetcher().fetch(server.url + "/f", None)
        assert (fetched.mtime_s, fetched.size_bytes, read(fetched)) == (0, 0, b"")


def test_one_build_fetches_a_file_once(server: Server, new_fetcher: NewFetcher) -> None:
    server.pages["/f"] = Page(b"1")
    fetcher = new_fetcher()
    assert fetcher.digest(server.url + "/f") == fetcher.fetch(server.url + "/f", None).digest
    assert server.asked("/f") == 1


def test_an_encoding_for_the_way_is_undone(server: Server, new_fetcher: NewFetcher) -> None:
    server.pages["/f"] = Page(gzip.compress(b"text" * 1000), {"Content-Encoding": "gzip"})
    assert read(new_fetcher().fetch(server.url + "/f", None)) == b"text" * 1000


# Checksums.


def test_the_right_checksum_is_needed(server: Server, new_fetcher: NewFetcher) -> None:
    server.pages["/f"] = Page(b"1")
    fetcher = new_fetcher()
    assert read(fetcher.fetch(server.url + "/f", Digest.of(b"1"))) == b"1"
    with pytest.raises(ChecksumError, match="digest mismatch") as caught:
        fetcher.fetch(server.url + "/f", Digest.of(b"2"))
    assert caught.value.expected == Digest.of(b"2")
    assert caught.value.actual == Digest.of(b"1")


# What is remembered.


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"Last-Modified": LONG_AGO}])
def test_what_did_not_change_is_not_downloaded_again(
    server: Server, new_fetcher: NewFetcher, headers: dict[str, str]
) -> None:
    server.pages["/f"] = Page(b"1", headers)
    url = server.url + "/f"
    for _ in range(2):
        assert new_fetcher().digest(url) == Digest.of(b"1")
    condition = {"if-none-match", "if-modified-since"}
    assert [bool(condition & set(each.headers)) for each in server.requests] == [False, True]
    assert read(new_fetcher().fetch(url, None)) == b"1"  # who wants the content gets it


def test_what_did_change_is_downloaded(server: Server, new_fetcher: NewFetcher) -> None:
    url = server.url + "/f"
    for content in (b"1", b"2", b"1"):
        server.pages["/f"] = Page(content, {"ETag": f'"{content.decode()}"'})
        assert new_fetcher().digest(url) == Digest.of(content)


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": 'W/"1"'},
        {"ETag": "unquoted"},
        {"Last-Modified": LONG_AGO},
        {"Last-Modified": formatdate(1_600_003_600, usegmt=True)},
        {},
    ],
)
def test_validators_that_do_not_stand_for_bytes_are_not_trusted(
    server: Server, new_fetcher: NewFetcher, headers: dict[str, str]
) -> None:
    url = server.url + "/f"
    moment = 1_600_000_059  # not a minute after the change
    server.pages["/f"] = Page(b"1", headers, date_s=moment)
    assert new_fetcher().digest(url) == Digest.of(b"1")
    server.pages["/f"] = Page(b"2", headers, date_s=moment)
    assert new_fetcher().digest(url) == Digest.of(b"2")


def test_a_damaged_memo_is_forgotten(server: Server, new_fetcher: NewFetcher, store: Store) -> None:
    url = server.url + "/f"
    server.pages["/f"] = Page(b"1", {"ETag": '"1"'})
    for damage in (b"{", b"[]", b'["sha256:0"]'):
        store.cache.put_memo("fetched", Digest.of(url.encode()), damage)
        assert new_fetcher().digest(url) == Digest.of(b"1")


# Failures that pass.


@pytest.mark.parametrize(
    "fault", [Cut(), Cut(500), *(Page(status=s) for s in (429, 502, 503, 504))]
)
def test_a_transient_failure_is_tried_once_more(
    server: Server, new_fetcher: NewFetcher, fault: Page | Cut
) -> None:
    server.pages["/f"] = Page(b"1")
    server.faults["/f"] = [fault]
    assert read(new_fetcher().fetch(server.url + "/f", None)) == b"1"
    assert server.asked("/f") == 2


@pytest.mark.parametrize("fault", [Cut(5), Page(status=503)])
def test_a_second_failure_is_an_error(
    server: Server, new_fetcher: NewFetcher, fault: Page | Cut
) -> None:
    server.faults["/f"] = [fault, fault, fault]
    with pytest.raises(FetchError, match=f"cannot fetch {server.url}/f: "):
        new_fetcher().fetch(server.url + "/f", None)
    assert server.asked("/f") == 2


@pytest.mark.parametrize(
    "wait",
    ["3600", "9" * 100, formatdate(time.time() + 9999, usegmt=True)],
    ids=["seconds", "a number without end", "a date"],
)
def test_waiting_is_capped(server: Server, new_fetcher: NewFetcher, wait: str) -> None:
    server.pages["/f"] = Page(b"1")
    server.faults["/f"] = [Page(status=503, headers={"Retry-After": wait})]
    started = time.monotonic()
    assert new_fetcher().digest(server.url + "/f") == Digest.of(b"1")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_other_failures_are_not_tried_again(
    server: Server, new_fetcher: NewFetcher, status: int
) -> None:
    server.pages["/f"] = Page(status=status)
    with pytest.raises(FetchError, match=f"invalid response status {status}"):
        new_fetcher().fetch(server.url + "/f", None)
    assert server.asked("/f") == 1


def test_a_server_that_is_not_there_is_an_error(new_fetcher: NewFetcher) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(FetchError, match=r"/f: Failed to .*refused$"):
            new_fetcher().digest(f"http://me:secret@127.0.0.1:{port}/f")
        with pytest.raises(FetchError, match=r"refused$"):
            new_fetcher().digest(f"http://127.0.0.1:{port}/not-utf-8-\udcff")
    with pytest.raises(FetchError, match=r"host\.invalid") as caught:
        new_fetcher().digest("http://me:secret@host.invalid/f")
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(new_fetcher: NewFetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(FetchError, match="timed out"):
            new_fetcher().digest(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, b"\0" * 100_000],
)
def test_a_server_that_does_not_speak_http_is_an_error(
    new_fetcher: NewFetcher, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_garbage() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    try:
                        connection.sendall(answer)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve_garbage)
        thread.start()
        with pytest.raises(FetchError, match="cannot fetch"):
            new_fetcher().digest(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


# Bounds.


def test_a_file_that_is_too_large_is_an_error(server: Server, new_fetcher: NewFetcher) -> None:
    server.pages["/f"] = Page(b"x" * 1001)
    server.pages["/z"] = Page(gzip.compress(b"x" * 1001), {"Content-Encoding": "gzip"})
    for path in ("/f", "/z"):
        with pytest.raises(FetchError, match="larger than 1000 bytes"):
            new_fetcher(Bounds(body_bytes_max=1000)).fetch(server.url + path, None)


def test_redirects_are_followed_up_to_a_bound(server: Server, new_fetcher: NewFetcher) -> None:
    server.pages["/0"] = Page(b"end")
    for number in range(1, 12):
        status = (301, 302, 303, 307, 308)[number % 5]
        server.pages[f"/{number}"] = Page(status=status, headers={"Location": str(number - 1)})
    assert read(new_fetcher().fetch(server.url + "/10", None)) == b"end"
    with pytest.raises(FetchError, match="more than 10 redirects"):
        new_fetcher().fetch(server.url + "/11", None)
    server.pages["/loop"] = Page(status=302, headers={"Location": "/loop"})
    with pytest.raises(FetchError, match="more than 10 redirects"):
        new_fetcher().fetch(server.url + "/loop", None)


@pytest.mark.parametrize("target", ["http://[", "http://h:99999999/", "http://\\x[/", "//[::1"])
def test_a_redirect_to_no_url_is_an_error(
    server: Server, new_fetcher: NewFetcher, target: str
) -> None:
    server.pages["/f"] = Page(status=302, headers={"Location": target})
    with pytest.raises(FetchError, match=r"/f: a redirect to .+: "):
        new_fetcher().digest(f"{server.url}/f")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/x", "//", "http://", ""])
def test_a_redirect_elsewhere_is_not_followed(
    server: Server, new_fetcher: NewFetcher, target: str
) -> None:
    server.pages["/f"] = Page(status=302, headers={"Location": target})
    with pytest.raises(FetchError, match="cannot fetch"):
        new_fetcher().fetch(server.url + "/f", None)


# Credentials and proxies.


def test_a_password_is_sent_to_where_it_was_given_for_and_nowhere_else(
    server: Server, new_fetcher: NewFetcher
) -> None:
    with serve({"/end": Page(b"1")}) as other:
        server.pages["/f"] = Page(status=302, headers={"Location": "/g"})
        server.pages["/g"] = Page(status=302, headers={"Location": f"{other.url}/end"})
        new_fetcher().fetch(server.url.replace("//", "//me:p%40ss@") + "/f", None)
        sent = [request.headers.get("authorization") for request in server.requests]
        assert sent == ["Basic bWU6cEBzcw=="] * 2
        assert "authorization" not in other.requests[0].headers


def test_what_a_redirect_names_is_not_believed_about_passwords(
    server: Server, new_fetcher: NewFetcher
) -> None:
    target = server.url.replace("//", "//evil:x@") + "/g"
    server.pages |= {"/f": Page(status=302, headers={"Location": target}), "/g": Page(b"1")}
    new_fetcher().fetch(server.url + "/f", None)
    assert "authorization" not in server.requests[-1].headers


def test_a_proxy_is_used_where_the_environment_says_so(
    server: Server, new_fetcher: NewFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["http://far.invalid/f"] = Page(b"proxied")
    server.pages["/f"] = Page(b"direct")
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", "example.org, 127.0.0.1")
    assert read(new_fetcher().fetch("http://far.invalid/f", None)) == b"proxied"
    assert server.requests[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert read(new_fetcher().fetch(server.url + "/f", None)) == b"direct"
