"""Secrets in layers are found: plain, in base64, across pieces; and nothing else is."""

import base64
from collections.abc import Iterator

import pytest

from builder.errors import SecretLeakError
from builder.leaks import masked, without_secrets
from layerstore import Change, Content, Meta, PutDir, PutFile, PutSymlink, TreePath

SECRET = b"hunter2-is-no-password"
SECRETS = {"token": SECRET + b"\n"}


def put(content: Content, size_bytes: int = 0) -> PutFile:
    return PutFile(TreePath("etc/config"), Meta(0o644), size_bytes, content)


def read(*changes: Change) -> list[Change]:
    """What comes through, with all contents read."""
    found: list[Change] = []
    for change in without_secrets(changes, SECRETS):
        if isinstance(change, PutFile) and not isinstance(change.content, bytes):
            change = put(b"".join(change.content()))
        found.append(change)
    return found


@pytest.mark.parametrize(
    "content",
    [
        SECRET,
        b"password=" + SECRET + b"\n",
        b"\0" * 1000 + SECRET + b"\0" * 1000,
        base64.b64encode(SECRET),
        base64.b64encode(SECRET + b"\n"),
        *(base64.b64encode(b"user:"[:count] + SECRET + b" tail") for count in range(5)),
    ],
)
def test_a_secret_is_found_wherever_it_stands(content: bytes) -> None:
    with pytest.raises(SecretLeakError, match=r"'token' was written .* '/etc/config'") as caught:
        read(put(content))
    assert caught.value.path == "etc/config"
    assert SECRET.decode() not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("size", [1, 7, 20, 21, 22, 1000])
def test_a_secret_is_found_across_pieces(size: int) -> None:
    data = b"x" * 50 + SECRET + b"y" * 50

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), size):
            yield data[at : at + size]

    with pytest.raises(SecretLeakError):
        read(put(pieces))


def test_what_holds_none_comes_through_unchanged() -> None:
    def pieces() -> Iterator[bytes]:
        yield SECRET[:-1]
        yield b"?" + SECRET[1:]

    changes: list[Change] = [
        PutDir(TreePath("etc"), Meta(0o755)),
        PutSymlink(TreePath("link"), Meta(0o777), "etc"),
        put(b"hunter2", 7),
    ]
    assert read(*changes) == changes
    assert read(put(pieces)) == [put(SECRET[:-1] + b"?" + SECRET[1:])]


def test_secrets_of_a_few_bytes_are_not_looked_for() -> None:
    changes = [put(b"pw")]
    for value in (b"pw", b"", b"  \n", b"sevensb"):
        assert list(without_secrets(changes, {"token": value})) == changes


def test_every_secret_is_looked_for() -> None:
    with pytest.raises(SecretLeakError, match="'second'"):
        list(without_secrets([put(b"the-second-one")], {"first": SECRET, "second": b"second-one"}))


@pytest.mark.parametrize(
    ("data", "secrets", "expected"),
    [
        (b"a " + SECRET + b" b", [SECRET], b"a *** b"),
        (SECRET + SECRET, [SECRET], b"******"),
        (b"a " + SECRET + b" b", [b" " + SECRET + b"\n"], b"a *** b"),
        (b"the second one", [b"the first\nthe second\n"], b"*** one"),
        (b"a short b", [b"short"], b"a short b"),
        (b"nothing", [SECRET], b"nothing"),
        (b"nothing", [], b"nothing"),
        (b"", [SECRET], b""),
    ],
)
def test_a_log_is_masked(data: bytes, secrets: list[bytes], expected: bytes) -> None:
    assert masked(data, secrets) == expected


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"user:"])
def test_a_log_is_masked_in_base64_too(before: bytes) -> None:
    encoded = base64.b64encode(before + SECRET)
    found = masked(b"x " + encoded, [SECRET])
    assert b"***" in found
    assert len(found) < len(encoded) / 2
