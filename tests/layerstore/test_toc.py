import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.changeset import Change, Meta
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError
from layerstore.tarcodec import pack
from layerstore.toc import (
    NO_META,
    Summary,
    TocEntry,
    canonical,
    content_digest,
    dump,
    load,
    order,
    summarise,
)
from layerstore.treepath import ROOT, TreePath
from tests.support import strategies

META = Meta(0o644, 1, 2, 5_000_000_000)


def file(path: str, content: bytes = b"x", meta: Meta = META) -> TocEntry:
    return TocEntry(TreePath(path), "file", meta, len(content), Digest.of(content))


def hardlink(path: str, target: str) -> TocEntry:
    return TocEntry(TreePath(path), "hardlink", META, target=target)


ONE_OF_EACH = [
    TocEntry(ROOT, "dir", Meta(0o755)),
    TocEntry(TreePath("gone"), "remove", NO_META),
    TocEntry(TreePath("b"), "block", META, major=8, minor=1),
    TocEntry(TreePath("c"), "char", META, major=1, minor=3),
    TocEntry(TreePath("d"), "dir", Meta(0o7777, 0xFFFFFFFE, 0xFFFFFFFE, -1)),
    TocEntry(TreePath("d"), "opaque", NO_META),
    file("d/f\n\udcff", meta=Meta(0, xattrs=(("user.é=,", b"\0=,\n"), ("user.z", b"")))),
    hardlink("d/g", "d/f\n\udcff"),
    TocEntry(TreePath("p"), "fifo", META),
    TocEntry(TreePath("s"), "symlink", Meta(0o777), target="to\n\udc80"),
]


# At rest


@settings(max_examples=50, deadline=None)
@given(strategies.tocs())
def test_what_is_dumped_is_loaded(entries: list[TocEntry]) -> None:
    assert load(dump(entries)) == entries


def test_every_kind_of_entry_is_kept() -> None:
    found = load(dump(ONE_OF_EACH))
    assert found == ONE_OF_EACH
    assert all(type(row) is TocEntry for row in found)
    assert all(row.digest is None or type(row.digest) is Digest for row in found)


def test_an_empty_table_is_kept() -> None:
    assert load(dump([])) == []


def test_equal_tables_are_equal_bytes() -> None:
    again = [row._replace(meta=Meta(*_fields(row.meta))) for row in ONE_OF_EACH]
    assert dump(again) == dump(ONE_OF_EACH)


def _fields(meta: Meta) -> tuple[int, int, int, int, tuple[tuple[str, bytes], ...]]:
    return meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs


def test_equal_attributes_are_one_object_after_loading() -> None:
    first, second = load(dump([file("a"), file("b", meta=Meta(*_fields(META)))]))
    assert first.meta is second.meta


def test_every_damaged_byte_is_noticed() -> None:
    data = dump(ONE_OF_EACH)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(MalformedDocumentError):
            load(bytes(damaged))


def test_every_truncation_is_noticed() -> None:
    data = dump(ONE_OF_EACH)
    for end in range(len(data)):
        with pytest.raises(MalformedDocumentError):
            load(data[:end])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"lamina-toc-2 0 0\0\0\0",
        b"lamina-toc-1 1 1\0\0\0",
        b"lamina-toc-1 0\0",
        b"lamina-toc-1 -1 -1\0\0\0",
        b"lamina-toc-1 9999999999 1\0" + b"\0" * 50,
    ],
)
def test_other_formats_are_refused_even_with_a_right_checksum(body: bytes) -> None:
    with pytest.raises(MalformedDocumentError):
        load(body + Digest.of(body).hex.encode())


def test_ten_thousand_rows_load_in_no_time() -> None:
    metas = [Meta(0o644, 0, 0, 1_600_000_000_000_000_000 + day * 10**9) for day in range(500)]
    rows = [
        file(f"usr/share/package{number % 300}/file{number}", meta=metas[number % 500])
        for number in range(10_000)
    ]
    data = dump(rows)
    best = min(_seconds(data) for _ in range(5))
    assert best < 0.1  # 0.011 s on a quiet machine; the budget is 0.02


def _seconds(data: bytes) -> float:
    started = time.perf_counter()
    load(data)
    return time.perf_counter() - started


# Order


def test_the_order_is_parents_then_opaque_then_removals_then_the_rest() -> None:
    expected = [
        ("", "dir"),
        ("", "opaque"),
        ("z", "remove"),
        ("a", "dir"),
        ("a", "opaque"),
        ("a/y", "remove"),
        ("a/z", "remove"),
        ("a/b", "dir"),
        ("a/b", "opaque"),
        ("a/b/c", "file"),
        ("a/c", "file"),
        ("a-", "file"),
        ("a.", "file"),
        ("b", "file"),
        ("é", "file"),
        ("\udcff", "file"),
    ]
    shuffled = expected.copy()
    random.Random(3).shuffle(shuffled)
    assert sorted(shuffled, key=lambda row: order(*row)) == expected


def test_no_two_entries_have_the_same_place() -> None:
    rows = [("", "opaque"), ("a", "remove"), ("a", "file"), ("a", "opaque"), ("a/b", "remove")]
    assert len({order(*row) for row in rows}) == len(rows)


@settings(max_examples=30, deadline=None)
@given(strategies.tocs(), st.randoms(use_true_random=False))
def test_canonical_restores_what_was_shuffled(
    entries: list[TocEntry], shuffler: random.Random
) -> None:
    shuffled = entries.copy()
    shuffler.shuffle(shuffled)
    assert canonical(shuffled) == entries


def test_canonical_lets_the_first_path_carry_the_inode() -> None:
    rows = [hardlink("a", "m"), file("m"), hardlink("z", "m"), file("other")]
    assert canonical(rows) == [file("a"), hardlink("m", "a"), file("other"), hardlink("z", "a")]


def test_links_that_name_nothing_are_left_as_they_are() -> None:
    rows = [hardlink("a", "missing"), file("b")]
    assert canonical(rows) == rows


# Content digest


@settings(max_examples=30, deadline=None)
@given(strategies.changesets(), st.randoms(use_true_random=False), st.integers(0, 2**31))
def test_times_and_order_do_not_change_the_content_digest(
    changes: list[Change], shuffler: random.Random, second: int
) -> None:
    entries = pack(changes, lambda _: None).toc
    moved = [
        row._replace(meta=Meta(row.meta.mode, row.meta.uid, row.meta.gid, second, row.meta.xattrs))
        for row in entries
    ]
    shuffler.shuffle(moved)
    assert content_digest(moved) == content_digest(entries)


@pytest.mark.parametrize(
    "changed",
    [
        file("b"),
        file("a", b"y"),
        file("a", meta=Meta(0o645, 1, 2)),
        file("a", meta=Meta(0o644, 3, 2)),
        file("a", meta=Meta(0o644, 1, 3)),
        file("a", meta=Meta(0o644, 1, 2, 0, (("user.a", b""),))),
        file("a", meta=Meta(0o644, 1, 2, 0, (("user.a", b"1"),))),
        TocEntry(TreePath("a"), "dir", META),
        TocEntry(TreePath("a"), "fifo", META),
        TocEntry(TreePath("a"), "char", META, major=1),
        TocEntry(TreePath("a"), "char", META, minor=1),
        TocEntry(TreePath("a"), "symlink", META, target="x"),
        TocEntry(TreePath("a"), "symlink", META, target="y"),
        TocEntry(TreePath("a"), "remove", NO_META),
        TocEntry(TreePath("a"), "opaque", NO_META),
    ],
)
def test_everything_else_changes_the_content_digest(changed: TocEntry) -> None:
    assert content_digest([changed]) != content_digest([file("a")])
    assert content_digest([changed, file("zz")]) != content_digest([file("zz")])


def test_linked_files_are_not_the_same_as_equal_files() -> None:
    linked = [file("a"), hardlink("b", "a")]
    assert content_digest(linked) != content_digest([file("a"), file("b")])
    assert content_digest(linked) == content_digest([hardlink("a", "b"), file("b")])


def test_all_content_digests_differ() -> None:
    digests = {content_digest([row]) for row in ONE_OF_EACH}
    assert len(digests) == len(ONE_OF_EACH)
    assert content_digest([]) not in digests


# Summary


def test_the_summary_counts_by_what_a_row_does() -> None:
    assert summarise(ONE_OF_EACH) == Summary(files=6, dirs=2, removed=2, size_bytes=1)
    assert summarise([]) == Summary(files=0, dirs=0, removed=0, size_bytes=0)
    assert summarise([file("a", b"12"), hardlink("b", "a"), file("c", b"345")]).size_bytes == 5
