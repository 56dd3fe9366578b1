import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.digest import Digest
from layerstore.errors import InvalidReferenceError
from layerstore.reference import Reference, is_tag

DIGEST = Digest.of(b"x")

# From github.com/distribution/reference, normalize_test.go and reference_test.go.
GOOD = [
    ("hello", "hello:latest", "docker.io/library/hello:latest"),
    ("hello:1", "hello:1", "docker.io/library/hello:1"),
    ("library/hello", "hello:latest", "docker.io/library/hello:latest"),
    ("docker.io/hello", "hello:latest", "docker.io/library/hello:latest"),
    ("docker.io/library/hello", "hello:latest", "docker.io/library/hello:latest"),
    ("index.docker.io/hello", "hello:latest", "docker.io/library/hello:latest"),
    ("dmcgowan/myapp", "dmcgowan/myapp:latest", "docker.io/dmcgowan/myapp:latest"),
    ("docker.io/dmcgowan/myapp", "dmcgowan/myapp:latest", "docker.io/dmcgowan/myapp:latest"),
    ("library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest"),
    ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
    ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
    ("127.0.0.1:5000/peers/busybox:1", *(["127.0.0.1:5000/peers/busybox:1"] * 2)),
    ("[2001:db8::1]:5000/x:1", "[2001:db8::1]:5000/x:1", "[2001:db8::1]:5000/x:1"),
    ("Host/x", "Host/x:latest", "Host/x:latest"),
    ("registry.example/x:1", "registry.example/x:1", "registry.example/x:1"),
    ("xn--7o8h.com/myimage", *(["xn--7o8h.com/myimage:latest"] * 2)),
    ("a.b/c:1.0-rc_1", "a.b/c:1.0-rc_1", "a.b/c:1.0-rc_1"),
    ("test.com:8080/foo", "test.com:8080/foo:latest", "test.com:8080/foo:latest"),
    ("foo_bar.com:8080", "foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
    ("a__b/c-----d/e.f", "a__b/c-----d/e.f:latest", "docker.io/a__b/c-----d/e.f:latest"),
    ("123/foo", "123/foo:latest", "docker.io/123/foo:latest"),
    ("x:" + "t" * 128, "x:" + "t" * 128, "docker.io/library/x:" + "t" * 128),
]

BAD = [
    "",
    ":latest",
    "hello:",
    "hello::1",
    "hello:1:2",
    "/hello",
    "hello/",
    "a//b",
    "Hello",
    "library/Hello",
    "-hello",
    "hello-",
    "hello_",
    "a___b",
    "a..b",
    "hello world",
    "hello\n",
    "hello:ta g",
    "hello:-tag",
    "hello:.tag",
    "x:" + "t" * 129,
    "héllo",
    "hello:é",
    "-host.com/x",
    "host-.com/x",
    "host-:5000/x",
    "host:port/x",
    "a.b/",
    "../x",
    "./x",
    "localhost/../x",
    "a@sha256:short",
    "a@",
    "a@md5:d41d8cd98f00b204e9800998ecf8427e",
    "a" * 256,
    "a" * 10_000,
    "f" * 64,
    "[::1/x",
    "a\0b",
]


@pytest.mark.parametrize(("text", "familiar", "full"), GOOD)
def test_a_name_has_a_familiar_and_a_full_form(text: str, familiar: str, full: str) -> None:
    reference = Reference.parse(text)
    assert reference.familiar == familiar
    assert reference.full == full
    assert str(reference) == familiar


@pytest.mark.parametrize(("text", "familiar", "full"), GOOD)
def test_every_form_parses_to_the_same(text: str, familiar: str, full: str) -> None:
    assert Reference.parse(familiar) == Reference.parse(text)
    assert Reference.parse(full) == Reference.parse(text)


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:20]))
def test_what_docker_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse(text)
    assert len(str(caught.value)) < 1000


def test_the_parts_are_told_apart() -> None:
    reference = Reference.parse(f"host.example:5000/a/b:tag@{DIGEST}")
    assert reference == Reference(host="host.example:5000", path="a/b", tag="tag", digest=DIGEST)
    assert reference.repository == "host.example:5000/a/b"
    assert reference.full == f"host.example:5000/a/b:tag@{DIGEST}"


def test_a_digest_takes_the_place_of_the_default_tag() -> None:
    reference = Reference.parse(f"hello@{DIGEST}")
    assert reference.tag == ""
    assert reference.familiar == f"hello@{DIGEST}"


def test_a_port_is_not_a_tag() -> None:
    assert Reference.parse("localhost:5000/x").tag == "latest"
    assert Reference.parse("localhost:5000").path == "library/localhost"


def test_capital_letters_are_explained() -> None:
    with pytest.raises(InvalidReferenceError, match="lower case"):
        Reference.parse("MyApp")


def test_an_id_is_no_name() -> None:
    with pytest.raises(InvalidReferenceError, match="image id"):
        Reference.parse("0123456789abcdef" * 4)


@pytest.mark.parametrize(
    "text", ["a" + "-" * 400 + "!", "a/" * 200 + "!", "0" * 400 + "." + "0" * 100, "a-" * 250]
)
def test_no_name_takes_long_to_refuse(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidReferenceError):
        Reference.parse(text)
    assert time.monotonic() - started < 0.5


@settings(max_examples=300)
@given(st.text("aB0.-_/:@é[] ", max_size=20))
def test_anything_is_a_name_that_stays_itself_or_a_typed_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError:
        return
    assert Reference.parse(reference.familiar) == reference
    assert Reference.parse(reference.full) == reference
    assert not set(reference.full) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@[]"
    )


def test_a_tag_is_one_word() -> None:
    assert all(map(is_tag, ("1", "latest", "v1.2-rc_3", "_", "x" * 128)))
    assert not any(map(is_tag, ("", ".1", "-", "a/b", "a:b", "a b", "x" * 129, "a\n")))
