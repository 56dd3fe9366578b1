"""WWW-Authenticate, as servers write it."""

import time

import pytest

from layerstore.registry.challenges import Challenge, choose, parse_challenges


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Basic", [Challenge("basic")]),
        ('Basic realm="Registry"', [Challenge("basic", {"realm": "Registry"})]),
        (
            'Bearer realm="https://a/token",service="b",scope="repository:c:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://a/token", "service": "b", "scope": "repository:c:pull,push"},
                )
            ],
        ),
        (
            'Negotiate, Bearer realm=https://a , service=b, Basic realm="c \\"d\\""',
            [
                Challenge("negotiate"),
                Challenge("bearer", {"realm": "https://a", "service": "b"}),
                Challenge("basic", {"realm": 'c "d"'}),
            ],
        ),
        ('BEARER Realm="a",realm="b"', [Challenge("bearer", {"realm": "a"})]),
        ("", []),
        ("===", []),
        ('realm="a"', []),
    ],
)
def test_a_header_is_read(header: str, found: list[Challenge]) -> None:
    assert parse_challenges([header]) == found


def test_several_headers_are_several_challenges() -> None:
    found = parse_challenges(["Basic", 'Bearer realm="a"'])
    assert [each.scheme for each in found] == ["basic", "bearer"]


def test_tokens_come_before_passwords_and_the_first_of_each_counts() -> None:
    first, second = Challenge("bearer", {"realm": "1"}), Challenge("bearer", {"realm": "2"})
    assert choose([Challenge("basic"), first, second]) is first
    assert choose([Challenge("digest"), Challenge("basic")]) == Challenge("basic")
    assert choose([Challenge("digest")]) is None
    assert choose([]) is None


@pytest.mark.parametrize("piece", ['a="', "a=", "\\", ",", " ", "Bearer ", 'a="\\', "=", "a=b "])
def test_a_hostile_header_takes_no_time(piece: str) -> None:
    started = time.monotonic()
    parse_challenges(["Bearer " + piece * 200_000] * 5)
    assert time.monotonic() - started < 2
