"""The proxy that does harm: each harm is what it says, chosen by its seed, and all is counted."""

import contextlib
import http.client
import threading
import time
from pathlib import Path

import pytest

from tests.support.faultproxy import FAULTS, Fault, FaultProxy, fault_proxy, kind_of
from tests.support.peers import run
from tests.support.registries import Answer, Registry

CONTENT = bytes(range(256)) * 1000


def ask(
    proxy: FaultProxy,
    method: str,
    path: str,
    content: bytes | None = None,
    *,
    chunked: bool = False,
) -> Answer:
    with contextlib.closing(http.client.HTTPConnection(proxy.address, timeout=30)) as connection:
        pieces = iter([content[:9], content[9:]]) if chunked and content else content
        connection.request(method, path, body=pieces, encode_chunked=chunked)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read())


def put(proxy: FaultProxy, content: bytes, digest: str, *, chunked: bool = False) -> Answer:
    place = ask(proxy, "POST", "/v2/a/blobs/uploads/").headers["location"]
    path = place.removeprefix(f"http://{proxy.address}")
    return ask(proxy, "PUT", f"{path}&digest={digest}", content, chunked=chunked)


@pytest.mark.needs_registry
def test_what_is_harmed_by_nobody_arrives_and_is_counted(server: Registry) -> None:
    digest = server.put_blob("a", CONTENT)
    with fault_proxy(server.port) as proxy:
        assert ask(proxy, "GET", f"/v2/a/blobs/{digest}").content == CONTENT
        assert ask(proxy, "HEAD", f"/v2/a/blobs/{digest}").content == b""
        assert ask(proxy, "GET", "/v2/a/blobs/sha256:" + "0" * 64).status == 404
        assert proxy.count(kind="blob") == 3
        assert proxy.count(method="HEAD") == 1
        missing = proxy.exchanges[2]
        assert (missing.status, missing.fault) == (404, None)
        assert proxy.bytes_received("blob") == len(CONTENT) + missing.received
        assert proxy.bytes_sent() == 0
        proxy.forget()
        assert proxy.exchanges == []


@pytest.mark.needs_registry
@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_pass_with_and_without_a_length(chunked: bool, server: Registry) -> None:
    digest = server.put_blob("other", CONTENT)
    with fault_proxy(server.port) as proxy:
        assert put(proxy, CONTENT, digest, chunked=chunked).status == 201
        assert proxy.bytes_sent("upload") == len(CONTENT)
        assert [each.method for each in proxy.exchanges] == ["POST", "PUT"]
    assert server.ask("GET", f"/v2/a/blobs/{digest}").content == CONTENT


@pytest.mark.needs_registry
def test_a_cut_request_is_not_answered(server: Registry) -> None:
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("cut")
        with pytest.raises(http.client.RemoteDisconnected):
            ask(proxy, "GET", "/v2/")
        assert ask(proxy, "GET", "/v2/").status == 200
        assert [each.status for each in proxy.exchanges] == [0, 200]


@pytest.mark.needs_registry
def test_a_truncated_answer_ends_in_the_middle(server: Registry) -> None:
    digest = server.put_blob("a", CONTENT)
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("truncate", r"GET .*/blobs/")
        assert ask(proxy, "GET", "/v2/").status == 200
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(proxy, "GET", f"/v2/a/blobs/{digest}")
        assert CONTENT.startswith(caught.value.partial)
        assert len(caught.value.partial) == proxy.bytes_received("blob") < len(CONTENT)


@pytest.mark.needs_registry
def test_a_truncated_upload_is_not_stored(server: Registry) -> None:
    digest = server.put_blob("other", CONTENT)
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("truncate", "PUT")
        with pytest.raises(ConnectionError):
            put(proxy, CONTENT, digest)
        assert proxy.bytes_sent("upload") < len(CONTENT)
    assert server.ask("GET", f"/v2/a/blobs/{digest}").status == 404


@pytest.mark.needs_registry
def test_a_flipped_answer_has_one_wrong_bit(server: Registry) -> None:
    digest = server.put_blob("a", CONTENT)
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("flip")
        got = ask(proxy, "GET", f"/v2/a/blobs/{digest}").content
        assert sum(one != two for one, two in zip(got, CONTENT, strict=True)) == 1
        assert ask(proxy, "GET", f"/v2/a/blobs/{digest}").content == CONTENT


@pytest.mark.needs_registry
def test_a_flipped_upload_is_refused_by_the_registry(server: Registry) -> None:
    digest = server.put_blob("other", CONTENT)
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("flip", "PUT")
        answer = put(proxy, CONTENT, digest)
        assert answer.status == 400
        assert b"DIGEST_INVALID" in answer.content


@pytest.mark.needs_registry
@pytest.mark.parametrize("fault", ["429", "500", "503"])
def test_an_error_is_answered_in_the_registrys_place(fault: Fault, server: Registry) -> None:
    with fault_proxy(server.port) as proxy:
        proxy.fail_next(fault, times=2)
        for _ in range(2):
            answer = ask(proxy, "GET", "/v2/")
            assert answer.status == int(fault)
            assert answer.headers.get("retry-after") == ("1" if fault == "429" else None)
            assert b"errors" in answer.content
        assert ask(proxy, "GET", "/v2/").status == 200
        assert proxy.harmed() == {fault: 2}


@pytest.mark.needs_registry
def test_a_delayed_answer_is_right(server: Registry) -> None:
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("delay")
        begin_s = time.monotonic()
        assert ask(proxy, "GET", "/v2/").status == 200
        assert time.monotonic() - begin_s >= 0.5


def test_a_registry_that_is_not_there_is_a_cut_connection() -> None:
    with fault_proxy(1) as proxy, pytest.raises(http.client.RemoteDisconnected):
        ask(proxy, "GET", "/v2/")


def decided(seed: int, *, rate: float = 0.05, only: str = "") -> list[Fault | None]:
    with fault_proxy(1, seed=seed, rate=rate, only=only) as proxy:
        paths = [f"/v2/a/blobs/sha256:{number}" for number in range(1000)]
        return [proxy.fault_of("GET", path) for path in paths]


def test_the_seed_decides_which_requests_are_harmed_and_how() -> None:
    first = decided(1)
    assert first == decided(1) != decided(2)
    assert 20 < sum(fault is not None for fault in first) < 100
    assert set(first) == {None, *FAULTS}
    assert set(decided(1, rate=0)) == {None}
    assert None not in decided(1, rate=1)


def test_only_what_matches_is_harmed() -> None:
    assert set(decided(1, rate=1, only="PUT")) == {None}
    assert None not in decided(1, rate=1, only="GET .*/blobs/")


def test_a_repeated_request_has_another_chance_and_the_name_of_an_upload_does_not_count() -> None:
    with fault_proxy(1, seed=1, rate=0.5) as one, fault_proxy(1, seed=1, rate=0.5) as two:
        first = [one.fault_of("PUT", f"/v2/a/blobs/uploads/{turn}?x=1") for turn in range(20)]
        second = [two.fault_of("PUT", f"/v2/a/blobs/uploads/x{turn}?x=2") for turn in range(20)]
        assert first == second
        assert len(set(first)) > 2


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v2/", "other"),
        ("/v2/a/b/tags/list", "other"),
        ("/v2/a/b/manifests/v1", "manifest"),
        ("/v2/a/blobs/sha256:00", "blob"),
        ("/v2/a/b/blobs/uploads/", "upload"),
        ("/v2/a/b/blobs/uploads/1234?_state=x", "upload"),
        ("/v2/a/referrers/sha256:00", "referrers"),
    ],
)
def test_requests_are_of_kinds(path: str, kind: str) -> None:
    assert kind_of(path) == kind


@pytest.mark.needs_registry
def test_an_open_connection_does_not_keep_it_from_ending(server: Registry) -> None:
    before = threading.active_count()
    with (
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", timeout=30)) as connection,
        fault_proxy(server.port) as proxy,
    ):
        connection.port = proxy.port
        for _ in range(2):  # on one connection
            connection.request("GET", "/v2/")
            assert connection.getresponse().read() == b"{}"
        assert proxy.count() == 2
    assert threading.active_count() == before


@pytest.mark.needs_registry
@pytest.mark.needs_peers("skopeo")
def test_another_client_pushes_and_pulls_through_it(server: Registry, tmp_path: Path) -> None:
    run("umoci", "init", "--layout", tmp_path / "layout")
    run("umoci", "new", "--image", f"{tmp_path}/layout:x")
    with fault_proxy(server.port) as proxy:
        there = f"docker://{proxy.address}/a:x"
        skopeo = ("skopeo", "--insecure-policy", "copy")
        run(*skopeo, "--dest-tls-verify=false", f"oci:{tmp_path}/layout:x", there)
        assert proxy.bytes_sent("upload") > 0
        run(*skopeo, "--src-tls-verify=false", there, f"oci:{tmp_path}/back:x")
        assert proxy.bytes_received("blob") == proxy.bytes_sent("upload")
    assert server.tags("a") == ["x"]
