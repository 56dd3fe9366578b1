"""Hosts of names, loopback, and the keys of credentials."""

import pytest

from layerstore.reference import DEFAULT_HOST
from layerstore.registry.endpoints import (
    DOCKER_HUB,
    DOCKER_HUB_KEY,
    Origin,
    credential_keys,
    host_of_key,
    is_loopback,
    login_key,
    server_of,
)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a/b", Origin("http", "a", 80)),
        ("https://A:444/b?c=d", Origin("https", "a", 444)),
        ("https://user:password@a", Origin("https", "a", 443)),
        ("http://[::1]:5000/v2/", Origin("http", "::1", 5000)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: Origin) -> None:
    assert Origin.of(url) == origin


@pytest.mark.parametrize(
    "url", ["", "a/b", "ftp://a", "https://", "http://a:0", "http://a:x", "http://[a", "file:///a"]
)
def test_what_is_no_http_url_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Origin.of(url)


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("http", "a", 80), "http://a"),
        (Origin("https", "a", 80), "https://a:80"),
        (Origin("http", "::1", 81), "http://[::1]:81"),
    ],
)
def test_an_origin_is_written_as_a_url(origin: Origin, text: str) -> None:
    assert str(origin) == text
    assert Origin.of(text) == origin


@pytest.mark.parametrize("host", [DEFAULT_HOST, f"index.{DEFAULT_HOST}", DOCKER_HUB])
def test_docker_hub_has_one_server_and_one_key(host: str) -> None:
    assert server_of(host) == DOCKER_HUB == "registry-1." + DEFAULT_HOST
    assert login_key(host) == DOCKER_HUB_KEY == f"https://index.{DEFAULT_HOST}/v1/"
    assert DOCKER_HUB_KEY in credential_keys(host, "")


def test_other_registries_are_their_own_server_and_key() -> None:
    assert server_of("localhost:5000") == "localhost:5000"
    assert login_key("localhost:5000") == "localhost:5000"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]:5000", "a.localhost"]
)
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example", "10.0.0.1", "127.0.0.1.example", "128.0.0.1:5000", "[::2]", "a"]
)
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_the_closest_key_comes_first() -> None:
    assert credential_keys("a:1", "b/c") == ["a:1/b/c", "a:1/b", "a:1"]
    assert credential_keys("a:1", "") == ["a:1"]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("a:1", ("", "a:1")),
        ("a/b", ("", "a/b")),
        ("https://a", ("https", "a")),
        ("HTTP://a/v1/", ("http", "a")),
        ("https://a/v2", ("https", "a")),
    ],
)
def test_keys_of_files_are_read_as_docker_writes_them(key: str, found: tuple[str, str]) -> None:
    assert host_of_key(key) == found
