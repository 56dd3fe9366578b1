"""What two runs did otherwise: every kind of difference, and every guess at its reason."""

import gzip
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.reproduce import (
    HOSTNAMES,
    Difference,
    Read,
    compare,
    explain,
    may_depend_on_order,
)
from layerstore import Digest, Meta, TocEntry, TreePath

NOW = time.time()
SUMS = [Digest.of(word).hex.encode() for word in (b"1", b"2")]


def file(path: str, content: bytes, *, mtime_ns: int = 1, mode: int = 0o644) -> TocEntry:
    meta = Meta(mode, 0, 0, mtime_ns)
    return TocEntry(TreePath(path), "file", meta, len(content), Digest.of(content))


def of(contents: Mapping[str, bytes]) -> list[TocEntry]:
    return [file(path, content) for path, content in contents.items()]


def differences(
    first: list[TocEntry],
    second: list[TocEntry],
    contents: tuple[Mapping[str, bytes], Mapping[str, bytes]] = ({}, {}),
    *,
    with_times: bool = False,
) -> list[Difference]:
    def reader(number: int) -> Read:
        return lambda entry: contents[number].get(str(entry.path), b"")

    return compare(first, second, (reader(0), reader(1)), with_times=with_times)


def test_equal_layers_differ_in_nothing() -> None:
    entries = of({"a": b"1", "d/b": b"2"})
    assert differences(entries, list(reversed(entries))) == []


def test_a_file_that_differs_is_named_with_the_reason() -> None:
    old, new = {"t": time.ctime(NOW).encode()}, {"t": time.ctime(NOW + 1).encode()}
    assert [str(d) for d in differences(of(old), of(new), (old, new))] == [
        "/t (content: timestamp)"
    ]


def test_times_count_where_they_are_clamped() -> None:
    first, second = [file("a", b"", mtime_ns=1)], [file("a", b"", mtime_ns=2)]
    assert differences(first, second) == []
    assert differences(first, second, with_times=True)[0].what == "modification time"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"kind": "fifo", "digest": None, "size_bytes": 0}, "file or fifo"),
        ({"meta": Meta(0o600, 0, 0, 1)}, "mode 644 or 600"),
        ({"meta": Meta(0o644, 1, 0, 1)}, "owner"),
        ({"meta": Meta(0o644, 0, 0, 1, (("user.a", b"1"),))}, "extended attributes"),
    ],
)
def test_attributes_differ_too(change: dict[str, Any], what: str) -> None:
    entry = file("a", b"x")
    assert differences([entry], [entry._replace(**change)])[0].what == what


def test_links_and_devices_differ_too() -> None:
    link = TocEntry(TreePath("l"), "symlink", Meta(0o777), target="a")
    node = TocEntry(TreePath("n"), "char", Meta(0o600), major=1, minor=3)
    found = differences([link, node], [link._replace(target="b"), node._replace(minor=5)])
    assert [d.what for d in found] == ["target of the link", "device"]


def test_what_is_there_once_is_named() -> None:
    removal = TocEntry(TreePath("gone"), "remove", Meta(0))
    first = [file("tmp/tmp.Xa81kQ", b""), removal]
    found = differences(first, [file("plain", b"")])
    assert [(d.path, d.what) for d in found] == [
        ("/gone", "only removed after the first run"),
        ("/plain", "only there after the second run"),
        ("/tmp/tmp.Xa81kQ", "only there after the first run"),
    ]
    assert found[2].reason == "temporary file"
    assert "process id" in differences([file("run-48213", b"")], [])[0].reason


def pyc(seconds: int, code: bytes = b"code") -> bytes:
    return b"\xa7\r\r\n" + bytes(4) + seconds.to_bytes(4, "little") + bytes(4) + code


@pytest.mark.parametrize(
    ("path", "first", "second", "reason"),
    [
        ("/app/__pycache__/a.pyc", pyc(1), pyc(2), "timestamp in .pyc"),
        ("/app/__pycache__/a.pyc", pyc(1), pyc(1, b"more"), ".pyc of different code"),
        ("/var/log/dpkg.log", b"1", b"2", "log"),
        ("/var/cache/ldconfig/aux-cache", b"1", b"2", "cache of ldconfig"),
        ("/var/cache/apt/pkgcache.bin", b"1", b"2", "cache"),
        ("/var/lib/apt/lists/x", b"1", b"2", "package lists"),
        ("/etc/machine-id", b"a", b"b", "machine-id"),
        ("/etc/ssh/ssh_host_rsa_key.pub", b"a", b"b", "keys made for this machine"),
        ("/etc/shadow", b"a:*:1:", b"a:*:2:", "day of the last password change"),
        ("/etc/passwd-", b"a", b"b", "backup of a file that differs"),
        ("/x.jar", b"a", b"b", "times in the archive"),
        ("/x", gzip.compress(b"x", mtime=1), gzip.compress(b"x", mtime=2), "the gzip header"),
        ("/x", b"on lamina!", b"on perturbed!", "host name"),
        ("/x", b"a\nb\nc\n", b"c\na\nb\n", "directory order (the same lines"),
        ("/x", b"t=1700000000\n", b"t=1700000002\n", "seconds since 1970"),
        ("/x", b"t=1700000000.123\n", b"t=1700000002.9\n", "seconds since 1970"),
        ("/x", b"2026-01-01T10:00:01Z", b"2026-01-01T10:00:02Z", "timestamp"),
        ("/x", b"pid 12\n", b"pid 34567\n", "a number"),
        ("/x", bytes(range(64)), bytes(range(100, 164)), "random bytes"),
        ("/x", SUMS[0] + b"  -", SUMS[1] + b"  -", "a digest of something"),
        ("/x", b"one thing", b"something else", ""),
    ],
)
def test_reasons(path: str, first: bytes, second: bytes, reason: str) -> None:
    found, hint = explain(path, first, second)
    assert reason in found
    assert bool(found) >= bool(hint)


@pytest.mark.parametrize(
    ("path", "first", "second", "expected"),
    [
        ("x", b"one thing", b"something else", True),
        ("x", *SUMS, True),
        ("x.tar", b"a", b"b", True),
        ("x", bytes(range(64)), bytes(range(100, 164)), True),
        ("x", b"t=1700000000\n", b"t=1700000002\n", False),
        ("etc/machine-id", b"a", b"b", False),
    ],
)
def test_what_is_explained_well_does_not_depend_on_the_order(
    path: str, first: bytes, second: bytes, expected: bool
) -> None:
    old, new = {path: first}, {path: second}
    (found,) = differences(of(old), of(new), (old, new))
    assert may_depend_on_order(found) == expected


def test_no_mode_depends_on_the_order() -> None:
    (found,) = differences([file("a", b"")], [file("a", b"", mode=0o600)])
    assert not may_depend_on_order(found)


def test_the_host_names_are_what_the_guess_looks_for() -> None:
    assert len(set(HOSTNAMES)) == 2


def test_a_large_file_is_not_read() -> None:
    entry = file("big", b"")
    first = replace_size(entry, 1 << 30, b"1")
    second = replace_size(entry, 1 << 30, b"2")

    def read(_: TocEntry) -> bytes:
        raise AssertionError("read")

    assert compare([first], [second], (read, read), with_times=False)[0].what == "content"


def replace_size(entry: TocEntry, size: int, content: bytes) -> TocEntry:
    return entry._replace(size_bytes=size, digest=Digest.of(content))


names = st.text("ab/c.", min_size=1, max_size=8).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)


@given(
    st.dictionaries(names, st.binary(max_size=40)), st.dictionaries(names, st.binary(max_size=40))
)
def test_exactly_the_paths_that_differ_are_named(
    first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    found = differences(of(first), of(second), (first, second))
    expected = {f"/{p}" for p in first.keys() | second.keys() if first.get(p) != second.get(p)}
    assert {d.path for d in found} == expected
    assert len(found) == len(expected)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_contents_can_be_explained(first: bytes, second: bytes) -> None:
    explain("/x", first, second)
    assert str(replace(Difference(path="/x", what="content"), reason="r")) == "/x (content: r)"
