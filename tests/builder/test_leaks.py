"""Secrets in layers are found: plain, in base64, across pieces; and nothing else is."""

import base64
from collections.abc import Iterator

import pytest

from builder.errors import SecretLeakError
from builder.leaks import credentials_of, masked, without_secrets
from layerstore import (
    Change,
    Content,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
    TreePath,
)

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
        # broken into lines, as base64(1) does
        *(base64.encodebytes(b"x" * count + SECRET) for count in range(40, 60)),
        b"\r\n".join([SECRET[:4], SECRET[4:9], SECRET[9:]]),
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


META = Meta(0o644)
WITH_SECRET = f"a/my-{SECRET.decode()}.txt"


@pytest.mark.parametrize(
    "change",
    [
        PutFile(TreePath(WITH_SECRET), META, 0, b""),
        PutFile(TreePath("a"), Meta(0o644, xattrs=(("user.a", b"x" + SECRET),)), 0, b""),
        PutDir(TreePath("a"), Meta(0o755, xattrs=((f"user.{SECRET.decode()}", b""),))),
        PutDir(TreePath(WITH_SECRET), META),
        PutSymlink(TreePath("a"), META, f"//ada:{SECRET.decode()}@host/"),
        PutSymlink(TreePath("a"), META, base64.b64encode(SECRET).decode()),
        PutHardlink(TreePath(WITH_SECRET), TreePath("b")),
        PutNode(TreePath(WITH_SECRET), META, "fifo"),
        Remove(TreePath(WITH_SECRET)),
        Opaque(TreePath(WITH_SECRET)),
    ],
    ids=lambda change: type(change).__name__,
)
def test_a_secret_is_found_in_names_targets_and_attributes(change: Change) -> None:
    with pytest.raises(SecretLeakError, match="'token' was written into the image") as caught:
        read(change)
    assert SECRET.decode() not in f"{caught.value} {caught.value.hint} {caught.value.path}"
    assert caught.value.path in ("a", "a/my-***.txt")


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        (b"p\xff\xfe\xfd\xfc\xfbss", base64.urlsafe_b64encode(b"user:p\xff\xfe\xfd\xfc\xfbss")),
        (b"p@ss/w0rd:", b"http://ada:p%40ss%2Fw0rd%3A@host/"),
        (b"p@ss/w0rd:", b"https://host/p%40ss/w0rd%3A"),
        (b"-----BEGIN KEY-----\nabc\nxyz\n", b"-----BEGIN KEY-----\r\nabc\r\nxyz\r\n"),
    ],
)
def test_a_secret_is_found_in_other_spellings(secret: bytes, written: bytes) -> None:
    with pytest.raises(SecretLeakError):
        list(without_secrets([put(written)], {"token": secret}))


def test_a_long_secret_costs_no_more_than_a_short_one() -> None:
    """Pieces are gathered, so that what is kept between them is not looked at again and again."""
    secret = b"".join(number.to_bytes(4, "little") for number in range(100_000))
    looked_at = 0

    def pieces() -> Iterator[bytes]:
        nonlocal looked_at
        for _ in range(64):
            looked_at += 1 << 16
            yield b"x" * (1 << 16)
        yield secret

    (change,) = without_secrets([put(pieces)], {"key": secret})
    assert isinstance(change, PutFile) and not isinstance(change.content, bytes)
    with pytest.raises(SecretLeakError, match="'key'"):
        list(change.content())
    assert looked_at == 64 << 16


def test_changes_are_the_same_objects_where_there_is_no_secret() -> None:
    change = put(lambda: [b"x"])
    assert all(
        next(without_secrets([change], secrets)) is change for secrets in ({}, {"empty": b"\n"})
    )


def test_secrets_of_a_few_bytes_are_not_looked_for() -> None:
    changes = [put(b"pw")]
    for value in (b"pw", b"", b"  \n", b"fiveb", b"a\nb\nc\nd"):
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


@pytest.mark.parametrize(
    ("build_args", "expected"),
    [
        ({}, {}),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": "localhost"}, {}),
        ({"URL": "http://ada:hunter2@proxy"}, {}),
        (
            {"HTTP_PROXY": "http://ada:p%40ss@proxy:3128/"},
            {
                "HTTP_PROXY": b"http://ada:p%40ss@proxy:3128/",
                "HTTP_PROXY, user and password": b"ada:p@ss",
            },
        ),
        (
            {"all_proxy": "ada@proxy"},
            {"all_proxy": b"ada@proxy", "all_proxy, user and password": b"ada"},
        ),
    ],
)
def test_the_credentials_of_proxies_are_secrets(
    build_args: dict[str, str], expected: dict[str, bytes]
) -> None:
    assert credentials_of(build_args) == expected
