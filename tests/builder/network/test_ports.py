import pytest

from builder.errors import NetworkError
from builder.network.ports import Publication, displayed, parse_exposed, parse_publication


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [Publication(80)]),
        ("80/udp", [Publication(80, "udp")]),
        ("8080:80", [Publication(80, "tcp", "", 8080)]),
        ("8080:80/UDP", [Publication(80, "udp", "", 8080)]),
        ("127.0.0.1:8080:80", [Publication(80, "tcp", "127.0.0.1", 8080)]),
        ("127.0.0.1::80", [Publication(80, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80", [Publication(80, "tcp", "::1", 8080)]),
        ("[::1]::80", [Publication(80, "tcp", "::1")]),
        ("[::1]:80", [Publication(80, "tcp", "::1")]),
        ("80-81", [Publication(80), Publication(81)]),
        ("8080-8081:80-81", [Publication(80, "tcp", "", 8080), Publication(81, "tcp", "", 8081)]),
        ("8000-9000:80", [Publication(80, "tcp", "", 8000, 9000)]),
    ],
)
def test_every_form(text: str, expected: list[Publication]) -> None:
    assert list(parse_publication(text)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is no port"),
        ("x", "'x' is no port"),
        ("0", "'0' is no port"),
        ("65536", "'65536' is no port"),
        ("8080:", "'' is no port"),
        ("80/sctp", "'sctp' is no protocol"),
        ("90-80", "the range 90-80 is empty"),
        ("8080-8082:80-81", "differ in length"),
        ("somewhere:8080:80", "'somewhere' is no IP address"),
        ("::1:8080:80", "an IPv6 address stands in brackets"),
        ("[::1]", "nothing behind the address"),
        ("80\n", "is no port"),
    ],
)
def test_what_is_no_port_is_said(text: str, problem: str) -> None:
    with pytest.raises(NetworkError, match="invalid port") as caught:
        parse_publication(text)
    assert problem in caught.value.message
    assert caught.value.hint


def test_exposed_ports_may_be_ranges() -> None:
    assert parse_exposed("80") == ("80/tcp",)
    assert parse_exposed("80-82/udp") == ("80/udp", "81/udp", "82/udp")
    with pytest.raises(NetworkError):
        parse_exposed("http")


def test_the_column_of_ps_is_docker_s() -> None:
    published = [
        Publication(80, "tcp", "0.0.0.0", 8080),
        Publication(80, "tcp", "::", 8080),
        Publication(53, "udp", "127.0.0.1", 5353),
    ]
    assert displayed(published, ["80/tcp", "443/tcp", "53/udp", "9/tcp"]) == (
        "127.0.0.1:5353->53/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 9/tcp, 443/tcp"
    )
    assert displayed([], []) == ""
