import hashlib
import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.changeset import (
    Change,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError, StoreError, UnsafePathError
from layerstore.overlaydir import survey
from layerstore.tarcodec import InOrder, Limits, Packed, is_layer_xattr, is_tar, pack, unpack
from layerstore.toc import TocEntry
from layerstore.treediff import changes as tree_changes
from layerstore.treepath import TreePath
from tests.support import strategies
from tests.support.rawtar import BLOCK, END, entry, header, padded, pax, record
from tests.support.trees import data

META = Meta(0o644)
DIR = Meta(0o755)
GNU_TAR = shutil.which("tar") or ""


def packed(changes: Iterable[Change], *, mtime_max_s: int | None = None) -> tuple[bytes, Packed]:
    pieces: list[bytes] = []
    result = pack(changes, pieces.append, mtime_max_s=mtime_max_s)
    return b"".join(pieces), result


def unpacked(tar: bytes, *, limits: Limits | None = None) -> list[Change]:
    """All changes, their contents read."""
    return list(_read(unpack(io.BytesIO(tar), limits=limits)))


def _read(changes: Iterable[Change]) -> Iterator[Change]:
    for change in changes:
        if isinstance(change, PutFile):
            content = data(change.content)
            yield PutFile(change.path, change.meta, change.size_bytes, content)
        else:
            yield change


def put(path: str, content: bytes = b"", meta: Meta = META) -> PutFile:
    return PutFile(TreePath(path), meta, len(content), content)


def directory(path: str, meta: Meta = DIR) -> PutDir:
    return PutDir(TreePath(path), meta)


def hardlink(path: str, target: str) -> PutHardlink:
    return PutHardlink(TreePath(path), TreePath(target))


def remove(path: str) -> Remove:
    return Remove(TreePath(path))


def opaque(path: str) -> Opaque:
    return Opaque(TreePath(path))


def names_in(tar: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getnames()


# pack and unpack are inverse


@settings(max_examples=80, deadline=None)
@given(strategies.changesets(with_root=True))
def test_unpack_gives_back_what_was_packed(changes: list[Change]) -> None:
    tar, _ = packed(changes)
    assert unpacked(tar) == changes


@settings(max_examples=50, deadline=None)
@given(strategies.changesets(), st.randoms(use_true_random=False))
def test_the_order_of_the_changes_does_not_matter(
    changes: list[Change], shuffler: random.Random
) -> None:
    tar, result = packed(changes)
    shuffled = changes.copy()
    shuffler.shuffle(shuffled)
    assert packed(shuffled) == (tar, result)


@settings(max_examples=30, deadline=None)
@given(strategies.changesets())
def test_the_result_says_what_was_written(changes: list[Change]) -> None:
    tar, result = packed(InOrder(iter(changes)))
    assert result.diff_id == Digest.of(tar)
    assert result.size_bytes == len(tar)
    assert result.toc == survey(unpack(io.BytesIO(tar)))


@settings(max_examples=30, deadline=None)
@given(strategies.changesets())
def test_python_reads_the_same_names_and_contents(changes: list[Change]) -> None:
    tar, result = packed(changes)
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert len(members) == len(result.toc)
        for row in result.toc:
            if row.kind in ("remove", "opaque"):
                continue
            member = members[row.path or "."]
            assert (member.uid, member.gid) == (row.meta.uid, row.meta.gid)
            assert (member.mode, int(member.mtime)) == (
                row.meta.mode,
                row.meta.mtime_ns // 1_000_000_000,
            )
            if row.kind == "file":
                file = archive.extractfile(member)
                assert file is not None
                assert Digest.of(file.read()) == row.digest
            elif row.kind in ("symlink", "hardlink"):
                assert member.linkname == row.target


def test_contents_may_be_bytes_or_functions_and_give_the_same_tar() -> None:
    content = os.urandom(3_000_001)
    as_bytes = put("a", content)
    pieces = [content[:1], content[1:700_000], b"", content[700_000:]]
    as_function = PutFile(TreePath("a"), META, len(content), lambda: pieces)
    assert packed([as_bytes]) == packed([as_function])


def test_large_contents_come_back_as_functions() -> None:
    content = os.urandom((1 << 20) + 1)
    tar, _ = packed([put("a", content), put("b", b"after")])
    changes = unpack(io.BytesIO(tar))
    first = next(changes)
    assert isinstance(first, PutFile)
    assert callable(first.content)
    assert data(first.content) == content
    assert next(changes) == put("b", b"after")


def test_contents_that_nobody_reads_are_skipped() -> None:
    tar, _ = packed([put("a", bytes(5 << 20)), put("b", b"after")])
    assert [change.path for change in unpack(io.BytesIO(tar))] == ["a", "b"]


def test_a_half_read_content_is_skipped_too() -> None:
    tar, _ = packed([put("a", bytes(5 << 20)), put("b", b"after")])
    changes = unpack(io.BytesIO(tar))
    first = next(changes)
    assert isinstance(first, PutFile)
    assert callable(first.content)
    pieces = iter(first.content())
    next(pieces)
    assert next(changes) == put("b", b"after")
    with pytest.raises(StoreError, match="after its time"):
        next(pieces)


def test_a_content_can_be_read_once_only() -> None:
    tar, _ = packed([put("a", bytes(5 << 20))])
    change = next(unpack(io.BytesIO(tar)))
    assert isinstance(change, PutFile)
    assert callable(change.content)
    change.content()
    with pytest.raises(StoreError, match="once only"):
        change.content()


def test_many_collected_contents_do_not_stay_in_memory(tmp_path: Path) -> None:
    piece = os.urandom(1 << 20)

    def many() -> Iterator[Change]:
        for number in range(70):
            yield put(f"{number:02}", piece + str(number).encode())

    whole_hash = hashlib.sha256()
    result = pack(many(), whole_hash.update)
    assert result.toc[69].digest == Digest.of(piece + b"69")
    assert result.diff_id.hex == whole_hash.hexdigest()


def test_a_slow_stream_gives_the_same_changes() -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size if size and size > 0 else 7))

    changes: list[Change] = [
        directory("a"),
        put("a/b", b"x" * 600),
        PutSymlink(TreePath("l"), Meta(0o777), "a"),
    ]
    tar, _ = packed(changes)
    assert list(unpack(Dripping(tar))) == changes


def test_the_stream_is_read_to_its_end() -> None:
    stream = io.BytesIO(packed([put("a")])[0] + b"\0" * 10240)
    list(unpack(stream))
    assert stream.read() == b""


# What pack writes


def test_an_empty_changeset_is_two_blocks_of_zeros() -> None:
    tar, result = packed([])
    assert tar == END
    assert result.toc == []


def test_removals_and_opaque_marks_come_before_their_siblings() -> None:
    tar, _ = packed(
        [
            put("d/a"),
            remove("d/z"),
            directory("d"),
            opaque("e"),
            put("e/x"),
            directory("e"),
            remove("0"),
        ]
    )
    assert names_in(tar) == [".wh.0", "d", "d/.wh.z", "d/a", "e", "e/.wh..wh..opq", "e/x"]


def test_siblings_are_in_byte_order_and_after_their_parent() -> None:
    names = ["b", "a", "a/b", "a-b", "a.b", "a/\udcff", "a/é", "a/z"]
    changes: list[Change] = [directory(name) for name in names]
    tar, result = packed(changes)
    assert [row.path for row in result.toc] == [
        *("a", "a/b", "a/z", "a/é", "a/\udcff"),
        *("a-b", "a.b", "b"),
    ]
    assert [change.path for change in unpacked(tar)] == [row.path for row in result.toc]


def test_the_root_is_written_only_when_given() -> None:
    assert names_in(packed([directory("", Meta(0o700)), put("a")])[0]) == [".", "a"]
    assert names_in(packed([put("a")])[0]) == ["a"]


def test_times_are_whole_seconds_and_clamped() -> None:
    changes: list[Change] = [
        put("a", meta=Meta(0o644, 0, 0, 1_999_999_999)),
        put("b", meta=Meta(0o644, 0, 0, -1)),
    ]
    tar, result = packed(changes, mtime_max_s=0)
    assert [row.meta.mtime_ns for row in result.toc] == [0, -1_000_000_000]
    assert [change.meta.mtime_ns for change in unpacked(tar) if isinstance(change, PutFile)] == [
        0,
        -1_000_000_000,
    ]
    assert packed(changes)[1].toc[0].meta.mtime_ns == 1_000_000_000


def test_names_of_users_and_groups_are_empty() -> None:
    tar, _ = packed([put("a", meta=Meta(0o644, os.getuid(), os.getgid()))])
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        (member,) = archive
    assert (member.uname, member.gname) == ("", "")


@pytest.mark.parametrize(
    ("path", "needs_pax"),
    [
        ("a" * 100, False),
        ("a" * 101, True),
        ("p" * 155 + "/" + "n" * 100, False),
        ("p" * 156 + "/" + "n" * 100, True),
        ("p" * 100 + "/" + "n" * 101, True),
        ("d/" * 77 + "/".join(["n" * 50, "n" * 49]), False),
        ("d/" * 200 + "x", True),
        ("\udcff" * 100, False),
        ("\udcff" * 200, True),
    ],
)
def test_pax_is_used_only_for_names_that_ustar_cannot_hold(path: str, needs_pax: bool) -> None:
    tar, _ = packed([put(path, b"content")])
    assert (tar[156:157] == b"x") == needs_pax
    assert unpacked(tar) == [put(path, b"content")]


def test_a_directory_of_100_bytes_leaves_room_for_its_slash() -> None:
    for length in (99, 100, 254, 255, 256):
        path = "/".join(["d" * 60] * 5)[:length].rstrip("/")
        assert unpacked(packed([directory(path)])[0]) == [directory(path)]


def test_a_size_beyond_8_gib_is_written_in_pax() -> None:
    class Enough(Exception):
        pass

    def pieces() -> Iterator[bytes]:
        raise Enough
        yield b""

    written: list[bytes] = []
    big = PutFile(TreePath("big"), META, 1 << 33, pieces)
    with pytest.raises(Enough):
        pack([put("a", b"x" * (2 << 20)), big], written.append)
    # The header of `big` was pending when its content failed: ask for it by a smaller way.
    with pytest.raises(StoreError):
        pack([PutFile(TreePath("big"), META, 1 << 33, lambda: [bytes(2 << 20)])], written.append)
    assert record("size", str(1 << 33)) in b"".join(written)


def test_hard_links_are_carried_by_the_first_path() -> None:
    changes: list[Change] = [hardlink("a", "m"), put("m", b"content"), hardlink("z", "a")]
    tar, result = packed(changes)
    assert unpacked(tar) == [put("a", b"content"), hardlink("m", "a"), hardlink("z", "a")]
    assert [(row.kind, row.target) for row in result.toc] == [
        ("file", ""),
        ("hardlink", "a"),
        ("hardlink", "a"),
    ]


def test_hard_links_to_symbolic_links_and_nodes_are_possible() -> None:
    changes: list[Change] = [
        PutSymlink(TreePath("s"), Meta(0o777), "nowhere"),
        hardlink("s2", "s"),
        PutNode(TreePath("n"), Meta(0o600), "fifo"),
        hardlink("n2", "n"),
    ]
    assert set(unpacked(packed(changes)[0])) == set(changes)


@pytest.mark.parametrize(
    "changes",
    [
        [put("a"), put("a", b"other")],
        [put("a"), remove("a")],
        [put("a"), put("a/b")],
        [remove("a"), put("a/b")],
        [remove("a"), directory("a/b"), put("a/b/c")],
        [PutSymlink(TreePath("a"), Meta(0o777), "b"), put("a/c")],
        [put("a"), opaque("a")],
        [hardlink("a", "b")],
        [hardlink("a", "b"), hardlink("b", "a")],
        [hardlink("a", "a")],
        [directory("d"), hardlink("a", "d")],
        [PutFile(TreePath("a"), META, 3, b"four")],
        [PutFile(TreePath("a"), META, 3, lambda: [b"fo", b"ur"])],
        [PutFile(TreePath("a"), META, 5, lambda: [b"fo", b"ur"])],
    ],
)
def test_changes_that_contradict_each_other_are_refused(changes: list[Change]) -> None:
    with pytest.raises(StoreError):
        packed(changes)


@pytest.mark.parametrize("path", [".wh.a", "d/.wh.a", ".wh.d/a", ".wh..wh..opq", ".wh."])
def test_real_names_that_mean_removals_are_refused(path: str) -> None:
    for change in (put(path), directory(path), remove(path), opaque(path), hardlink(path, "x")):
        with pytest.raises(StoreError, match=r"\.wh\."):
            packed([put("x"), change])


def test_a_device_that_overlayfs_takes_for_a_removal_is_refused() -> None:
    with pytest.raises(UnsafePathError):
        packed([PutNode(TreePath("a"), META, "char", 0, 0)])


def test_removals_in_an_opaque_directory_are_left_out() -> None:
    changes: list[Change] = [
        directory("d"),
        opaque("d"),
        remove("d/a"),
        directory("d/e"),
        remove("d/e/f"),
    ]
    assert unpacked(packed(changes)[0]) == [directory("d"), opaque("d"), directory("d/e")]


def test_changes_announced_in_order_must_be() -> None:
    with pytest.raises(StoreError, match="out of order"):
        packed(InOrder(iter([put("b"), put("a")])))


# What GNU tar makes of it

pytestmark_gnu = pytest.mark.skipif(
    "GNU tar"
    not in subprocess.run(
        [GNU_TAR or "false", "--version"], capture_output=True, text=True, check=False
    ).stdout,
    reason="GNU tar is not installed",
)

ODD_CHANGES: list[Change] = [
    directory("bin", Meta(0o1777, 0, 0, 10**9)),
    put("bin/setuid", b"#!", Meta(0o4755, 0, 0, 10**9)),
    put("bin/setgid", b"#!", Meta(0o2755, 1, 2, 2 * 10**9)),
    put(
        "bin/capable",
        b"x",
        Meta(
            0o755,
            0,
            0,
            0,
            (("security.capability", bytes.fromhex("0100000200200000" + "00" * 12)),),
        ),
    ),
    put("big-owner", b"", Meta(0o600, 3_000_000_000, 0xFFFFFFFE)),
    directory("empty"),
    PutNode(TreePath("fifo"), Meta(0o600), "fifo"),
    PutNode(TreePath("null"), Meta(0o666), "char", 1, 3),
    PutNode(TreePath("loop"), Meta(0o660, 0, 6), "block", 7, 300),
    put("file", b"linked", Meta(0o644, 0, 0, 10**9)),
    hardlink("file2", "file"),
    put("holes", b"a" + bytes(300_000) + b"b"),
    put("name-\udcff\udcfe\n\t*", b"not UTF-8"),
    put("n" * 255, b"255"),
    put("é" * 127, b"254 bytes"),
    directory("deep"),
    put("deep/" + "/".join(["x" * 90] * 4), b"over 255"),
    put("\udc80" * 200, b"long and not UTF-8"),
    PutSymlink(TreePath("link"), Meta(0o777, 5, 5, 10**9), "/no/where"),
    PutSymlink(TreePath("long-link"), Meta(0o777), "t" * 300),
    put(
        "xattrs",
        b"x",
        Meta(0o644, 0, 0, 0, (("user.a=b", b"=\n\0"), ("user.empty", b""), ("user.p%3D", b"%"))),
    ),
    put("old", b"", Meta(0o644, 0, 0, -5 * 10**9)),
    put("new", b"", Meta(0o644, 0, 0, 0x37FFFFFFF * 10**9)),
]


@pytestmark_gnu
@pytest.mark.needs_root
def test_gnu_tar_extracts_exactly_what_we_packed(tmp_path: Path) -> None:
    tar, result = packed(ODD_CHANGES)
    subprocess.run(
        [
            *(GNU_TAR, "-xpf", "-", "-C", tmp_path, "--numeric-owner", "--same-owner"),
            *("--xattrs", "--xattrs-include=*", "--delay-directory-restore"),
        ],
        input=tar,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    _, again = packed(tree_changes(None, tmp_path))
    implied = [row for row in again.toc if row.path not in {mine.path for mine in result.toc}]
    assert {row.kind for row in implied} == {"dir"}
    assert [row for row in again.toc if row not in implied] == result.toc


@pytestmark_gnu
def test_gnu_tar_lists_what_we_packed() -> None:
    tar, _ = packed(ODD_CHANGES)
    done = subprocess.run(
        [GNU_TAR, "-tvf", "-", "--numeric-owner", "--full-time", "--utc"],
        input=tar,
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    assert done.stderr == b""
    listing = "\n".join(" ".join(line.split()) for line in done.stdout.decode().splitlines())
    assert listing.count("\n") + 1 == len(ODD_CHANGES)
    assert "-rwsr-xr-x 0/0 2 1970-01-01 00:00:01 bin/setuid" in listing
    assert "drwxrwxrwt 0/0 0 1970-01-01 00:00:01 bin/" in listing
    assert "-rw------- 3000000000/4294967294 0 1970-01-01 00:00:00 big-owner" in listing
    assert "hrw-r--r-- 0/0 0 1970-01-01 00:00:01 file2 link to file" in listing
    assert "brw-rw---- 0/6 7,300 1970-01-01 00:00:00 loop" in listing
    assert "prw------- 0/0" in listing
    assert "name-\\377\\376\\n\\t*" in listing


@pytestmark_gnu
@pytest.mark.needs_root
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_we_unpack_what_gnu_tar_packed(tmp_path: Path, form: str) -> None:
    tree = tmp_path / "tree"
    _make_gnu_tree(tree, rich=form in ("gnu", "pax", "oldgnu"))
    options = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    if form != "v7" and form != "ustar":
        options.append("--sparse")
    tar = subprocess.run(
        [GNU_TAR, "-cf", "-", f"--format={form}", "--numeric-owner", *options, "-C", tree, "."],
        capture_output=True,
        check=True,
    ).stdout
    survey_of_tar = {row.path: row for row in survey(unpack(io.BytesIO(tar)))}
    expected = {row.path: row for row in survey(tree_changes(None, tree, with_root=True))}
    if form != "pax":
        survey_of_tar = {path: _coarse(row) for path, row in survey_of_tar.items()}
        expected = {path: _coarse(row) for path, row in expected.items()}
    assert survey_of_tar == expected


def _coarse(row: TocEntry) -> TocEntry:
    """What formats without PAX can say: no fractions of seconds, no xattrs."""
    meta = row.meta
    mtime_ns = meta.mtime_ns // 10**9 * 10**9
    return row._replace(meta=Meta(meta.mode, meta.uid, meta.gid, mtime_ns))


def _make_gnu_tree(tree: Path, *, rich: bool) -> None:
    (tree / "d").mkdir(parents=True)
    (tree / "d/file").write_bytes(b"content")
    (tree / "d/setuid").write_bytes(b"x")
    (tree / "d/setuid").chmod(0o4711)
    (tree / "link").symlink_to("d/file")
    os.link(tree / "d/file", tree / "hard")
    if not rich:
        return
    os.mkfifo(tree / "fifo")
    (tree / ("n" * 255)).write_bytes(b"long")
    (tree / os.fsdecode(b"\xff\xfe")).write_bytes(b"bytes")
    (tree / "long-link").symlink_to("t" * 200)
    os.chown(tree / "d/file", 3_000_000_000, 5)
    os.setxattr(tree / "d/file", "user.a=b%", b"\0\n=")
    os.utime(tree / "link", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    with (tree / "sparse").open("wb") as file:
        for number in range(60):  # more pieces than one old header holds
            file.seek(number * 100_000 + 8192)
            file.write(b"%d" % number)
        file.truncate(10_000_000)
    with (tree / "only-hole").open("wb") as file:
        file.truncate(3_000_000)


@pytestmark_gnu
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_all_pax_versions_are_read(tmp_path: Path, version: str) -> None:
    content = b"a" * 5000 + bytes(100_000) + b"b" * 5000 + bytes(2_000_000) + b"c"
    for name in ("sparse", "after"):
        with (tmp_path / name).open("wb") as file:
            for at in (0, 105_000, len(content) - 1):
                file.seek(at)
                file.write(content[at : at + 5000])
    tar = subprocess.run(
        [
            *(GNU_TAR, "-cSf", "-", "--format=pax", f"--sparse-version={version}"),
            *("-C", tmp_path, "sparse", "after"),
        ],
        capture_output=True,
        check=True,
    ).stdout
    assert len(tar) < 100_000
    changes = unpacked(tar)
    assert [change.path for change in changes] == ["sparse", "after"]
    assert all(
        isinstance(change, PutFile) and data(change.content) == content for change in changes
    )


# Reading other people's tars


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./a", "a"),
        ("/a", "a"),
        ("//a//b", "a/b"),
        ("a/./b", "a/b"),
        ("b/../a", "a"),
        ("x/y/../../a", "a"),
        ("...", "..."),
        (".hidden", ".hidden"),
        ("a/..b", "a/..b"),
    ],
)
def test_names_are_brought_into_normal_form(name: str, path: str) -> None:
    assert unpacked(entry(name, b"x") + END) == [put(path, b"x")]


@pytest.mark.parametrize("name", ["../a", "/../a", "a/../../b", "..", "./..", "a/../.."])
def test_names_that_leave_the_root_are_refused(name: str) -> None:
    for kind in b"0", b"2", b"5":
        with pytest.raises(UnsafePathError):
            unpacked(header(name, kind=kind, target="t") + END)


@pytest.mark.parametrize("name", [".", "./", "/", "a/.."])
def test_only_a_directory_can_be_the_root(name: str) -> None:
    assert unpacked(header(name, kind=b"5", mode=0o700) + END) == [directory("", Meta(0o700))]
    for kind in b"2", b"1", b"6", b"3":
        with pytest.raises(StoreError):
            unpacked(header(name, kind=kind, target="x", device=(1, 3)) + END)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("../../../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("./a", "a"),
        ("a", "a"),
    ],
)
def test_targets_of_hard_links_stay_in_the_root(target: str, path: str) -> None:
    assert unpacked(header("l", kind=b"1", target=target) + END) == [hardlink("l", path)]


def test_old_directories_are_files_whose_names_end_in_a_slash() -> None:
    for kind in b"0", b"\0":
        assert unpacked(header("a/", kind=kind, mode=0o755) + END) == [directory("a")]


def test_sizes_of_things_without_content_are_ignored() -> None:
    tar = header("d", kind=b"5", size=5, mode=0o755) + header("l", kind=b"2", size=9, target="t")
    assert [change.path for change in unpacked(tar + END)] == ["d", "l"]


def test_a_missing_end_is_accepted_between_entries_only() -> None:
    assert unpacked(entry("a", b"x")) == [put("a", b"x")]
    assert unpacked(b"") == []
    assert unpacked(bytes(BLOCK)) == []
    with pytest.raises(MalformedDocumentError):
        unpacked(bytes(BLOCK) + entry("a"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (".wh.a", remove("a")),
        ("d/.wh.a", remove("d/a")),
        ("./d/.wh...a", remove("d/..a")),
        ("d/.wh..wh..opq", opaque("d")),
        ("d/.wh." + "n" * 255, remove("d/" + "n" * 255)),
        (".wh..wh..opq", opaque("")),
    ],
)
def test_whiteouts_become_removals(name: str, change: Change) -> None:
    assert unpacked(pax({"path": name}) + entry("x") + END) == [change]
    as_aufs_had_them = header("x", kind=b"1", target="x")
    assert unpacked(pax({"path": name}) + as_aufs_had_them + END) == [change]


@pytest.mark.parametrize(
    "tar",
    [
        entry(".wh."),
        entry("a/.wh."),
        entry(".wh.."),
        entry("a/.wh.."),
        entry(".wh..."),
        entry("etc/.wh..."),
        entry(".wh.a/b"),
        entry("a/.wh.b/c"),
        entry("a/.wh.b/.wh.c"),
        entry(".wh..wh.a"),
        entry(".wh..wh..wh..opq"),
        entry(".wh.a", b"content"),
        header(".wh.a", kind=b"5"),
        header(".wh.a/", kind=b"0"),
        header(".wh.a", kind=b"2", target="t"),
        header(".wh.a", kind=b"3", device=(1, 3)),
        header(".wh..wh..opq", kind=b"5"),
    ],
)
def test_tricks_with_whiteouts_are_refused(tar: bytes) -> None:
    with pytest.raises(UnsafePathError):
        unpacked(tar + END)


def test_what_aufs_kept_for_itself_is_passed_over() -> None:
    tar = (
        entry(".wh..wh.aufs")
        + header(".wh..wh.plnk", kind=b"5")
        + entry(".wh..wh.plnk/12.34", b"x" * 3000)
        + header("./.wh..wh.orph/", kind=b"5")
        + entry("a", b"1")
        + END
    )
    assert [change.path for change in unpacked(tar)] == ["a"]


def test_a_hard_link_to_what_aufs_kept_is_refused() -> None:
    tar = entry(".wh..wh.plnk/1", b"x") + header("a", kind=b"1", target=".wh..wh.plnk/1") + END
    with pytest.raises(MalformedDocumentError):
        survey(unpack(io.BytesIO(tar)))


def test_overlayfs_attributes_have_no_effect() -> None:
    tar = pax(
        {
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.user.overlay.whiteout": "y",
            "SCHILY.xattr.user.kept": "1",
            "SCHILY.xattr.security.selinux": "label",
        }
    ) + header("d", kind=b"5", mode=0o755)
    assert unpacked(tar + END) == [directory("d", Meta(0o755, 0, 0, 0, (("user.kept", b"1"),)))]
    with pytest.raises(UnsafePathError):
        unpacked(header("x", kind=b"3", device=(0, 0)) + END)


def test_layers_carry_these_attributes_and_no_others() -> None:
    carried = ["user.a", "user.rootlesscontainers", "user.trusted.overlay.opaque", "user.overlay"]
    carried += ["security.capability", "system.posix_acl_access", "trusted.x", "user.overlayed.x"]
    private = ["trusted.overlay.opaque", "trusted.overlay.overlay.opaque", "user.overlay.whiteout"]
    private += [
        "security.selinux",
        "security.ima",
        "security.sel",
        "system.nfs4_acl",
        "foo.bar",
        "",
    ]
    assert [name for name in carried + private if is_layer_xattr(name)] == carried


def test_pax_goes_before_gnu_and_before_the_header() -> None:
    long = entry("././@LongLink", b"from-gnu\0", kind=b"L")
    assert unpacked(long + entry("short") + END) == [put("from-gnu")]
    assert unpacked(long + pax({"path": "from-pax"}) + entry("short") + END) == [put("from-pax")]
    tar = pax({"uid": "7", "gid": "8", "mtime": "-1.5", "size": "3"}) + header("a") + padded(b"abc")
    assert unpacked(tar + END) == [put("a", b"abc", Meta(0o644, 7, 8, -1_500_000_000))]


def test_gnu_long_links_are_read() -> None:
    tar = entry("././@LongLink", b"t" * 300 + b"\0", kind=b"K") + header("l", kind=b"2", target="t")
    assert unpacked(tar + END) == [PutSymlink(TreePath("l"), Meta(0o777), "t" * 300)]


def test_extended_headers_hold_for_one_entry() -> None:
    tar = pax({"path": "first"}) + entry("a") + entry("second")
    assert [change.path for change in unpacked(tar + END)] == ["first", "second"]


def test_global_headers_hold_for_all_and_may_not_name() -> None:
    tar = pax({"uid": "9", "comment": "git"}, kind=b"g") + entry("a") + entry("b")
    assert unpacked(tar + END) == [put("a", meta=Meta(0o644, 9)), put("b", meta=Meta(0o644, 9))]
    assert unpacked(pax({"comment": "an empty git archive"}, kind=b"g") + END) == []
    for key in ("path", "linkpath", "size", "GNU.sparse.size"):
        with pytest.raises(MalformedDocumentError):
            unpacked(pax({key: "1"}, kind=b"g") + entry("a") + END)


def test_the_ustar_prefix_is_read_and_gnus_other_use_of_it_is_not() -> None:
    assert unpacked(entry("b", prefix=b"a") + END) == [put("a/b")]
    assert unpacked(entry("b", prefix=b"a", magic=b"ustar  \0") + END) == [put("b")]


def test_numbers_may_be_in_base_256() -> None:
    def base_256(number: int, length: int) -> bytes:
        raw = (number % (1 << (8 * length))).to_bytes(length, "big")
        return bytes([raw[0] | 0x80]) + raw[1:]

    fields = {108: base_256(3_000_000_000, 8), 136: base_256(-1, 12), 124: base_256(3, 12)}
    tar = header("a", fields=fields) + padded(b"abc") + END
    assert unpacked(tar) == [put("a", b"abc", Meta(0o644, 3_000_000_000, 0, -1_000_000_000))]


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"     644", 0o644), (b"0000644 ", 0o644), (b"644\0junk", 0o644), (b"", 0)],
)
def test_numbers_may_be_written_loosely(field: bytes, value: int) -> None:
    tar = header("a", fields={100: field.ljust(8, b"\0")})
    assert unpacked(tar + END) == [put("a", meta=Meta(value))]


def test_impossible_times_are_the_epoch() -> None:
    tar = pax({"mtime": "9999999999999999"}) + entry("a") + END
    assert unpacked(tar) == [put("a")]


def test_signed_checksums_of_old_systems_are_accepted() -> None:
    block = header(b"\xff\xfe")
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + block[156:]) + 8 * 32
    assert unpacked(header(b"\xff\xfe", checksum=signed) + END) == [put("\udcff\udcfe")]


HOSTILE: dict[str, bytes] = {
    "garbage": os.urandom(2048),
    "text": b"this is no tar\n" * 100,
    "wrong checksum": header("a", checksum=1) + END,
    "half a header": header("a")[:300],
    "cut content": header("a", size=5000) + b"x" * 100,
    "cut padding": header("a", size=5) + b"x" * 5,
    "cut large content": header("a", size=5 << 20) + b"x" * 100,
    "size of 8 EiB": header("a", fields={124: b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7}) + END,
    "negative size": header("a", fields={124: b"\xff" * 12}) + END,
    "size no number": header("a", fields={124: b"12x45678901\0"}) + END,
    "size not octal": header("a", fields={124: b"99999999999\0"}) + END,
    "size with underscore": header("a", fields={124: b"0000000_001\0"}) + END,
    "mode no number": header("a", fields={100: b"0o644\0\0\0"}) + END,
    "negative uid": header("a", fields={108: b"\xff" * 8}) + END,
    "uid minus one": pax({"uid": str(0xFFFFFFFF)}) + header("a") + END,
    "uid of 4300 digits": pax({"uid": "1" * 5000}) + header("a") + END,
    "uid not decimal": pax({"uid": "0x10"}) + header("a") + END,
    "uid of other digits": pax({"uid": "١٢"}) + header("a") + END,
    "mtime nan": pax({"mtime": "nan"}) + header("a") + END,
    "mtime exponent": pax({"mtime": "1e400"}) + header("a") + END,
    "mtime with two signs": pax({"mtime": "--1"}) + header("a") + END,
    "no name": header("") + END,
    "NUL in pax path": pax({"path": b"a\0b"}) + header("a") + END,
    "NUL in pax linkpath": pax({"linkpath": b"a\0b"}) + header("a", kind=b"2") + END,
    "no target": header("a", kind=b"2") + END,
    "hard link to the root": header("a", kind=b"1", target="/") + END,
    "name of 256 bytes": pax({"path": "x/" + "n" * 256}) + header("a") + END,
    "removal of a name of 256 bytes": pax({"path": ".wh." + "n" * 256}) + header("a") + END,
    "name of 64 KiB": pax({"path": "n/" * 40_000}) + header("a") + END,
    "target of 4096 bytes": pax({"linkpath": "n" * 4096}) + header("a", kind=b"2") + END,
    "unknown type": header("a", kind=b"Z") + END,
    "multi-volume": header("a", kind=b"M") + END,
    "pax without length": pax(b"path=a\n") + header("a") + END,
    "pax length zero": pax(b"0 path=a\n") + header("a") + END,
    "pax length too long": pax(b"99 path=a\n") + header("a") + END,
    "pax length too short": pax(b"5 path=a\n") + header("a") + END,
    "pax length huge": pax(b"9" * 30 + b" path=a\n") + header("a") + END,
    "pax length negative": pax(b"-1 path=a\n") + header("a") + END,
    "pax without equals": pax(b"8 patha\n") + header("a") + END,
    "pax without key": pax(b"5 =a\n") + header("a") + END,
    "pax of 2 MiB": pax({"comment": b"x" * (2 << 20)}) + header("a") + END,
    "pax header alone": pax({"path": "a"}) + END,
    "pax size of 8 EiB announced": header("p", kind=b"x", size=0o77777777777) + END,
    "long name of 1 MiB": entry("L", b"n" * (1 << 20), kind=b"L") + header("a") + END,
    "a thousand extended headers": pax({"path": "a"}) * 1000 + header("a") + END,
    "a thousand long names": entry("L", b"n", kind=b"L") * 1000 + header("a") + END,
    "xattr of 65 KiB": pax({"SCHILY.xattr.user.a": b"x" * 65537}) + header("a") + END,
    "xattr name of 256 bytes": pax({"SCHILY.xattr.user." + "a" * 256: b"x"}) + header("a") + END,
    "xattr name with NUL": pax({"SCHILY.xattr.user.a\0b": b"x"}) + header("a") + END,
    "impossible device": header("a", kind=b"3", device=(0o77777, 1)) + END,
    "sparse without size": pax({"GNU.sparse.major": "1"}) + entry("a", b"1\n" * 256) + END,
    "sparse of 8 EiB": pax({"GNU.sparse.size": str(1 << 62)}) + entry("a") + END,
    "sparse of 1 TiB": pax({"GNU.sparse.size": str(1 << 39), "GNU.sparse.map": ""})
    + entry("a")
    + END,
    "sparse map odd": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0"}) + entry("a") + END,
    "sparse map overlapping": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,5,3,2"})
    + entry("a", b"x" * 7)
    + END,
    "sparse map backwards": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "5,1,0,1"})
    + entry("a", b"xx")
    + END,
    "sparse map beyond size": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "5,5"})
    + entry("a", b"x" * 5)
    + END,
    "sparse map with less data": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,5"})
    + entry("a", b"xx")
    + END,
    "sparse map with more data": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,1"})
    + entry("a", b"xx")
    + END,
    "sparse map no number": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "a,b"})
    + entry("a")
    + END,
    "sparse map too long": pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0," * 200_000})
    + entry("a")
    + END,
    "sparse records out of order": pax(
        record("GNU.sparse.size", "9") + record("GNU.sparse.numbytes", "1") * 2
    )
    + entry("a", b"xx")
    + END,
    "sparse 1.0 map cut": pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "9"})
    + entry("a", b"100\n1\n")
    + END,
    "sparse 1.0 count huge": pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "9"})
    + entry("a", b"99999999\n" + b"1\n" * 1000)
    + END,
    "sparse 1.0 number endless": pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "9"})
    + entry("a", b"1" * 100_000)
    + END,
    "sparse 1.0 second number endless": pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "9"})
    + entry("a", b"2\n" + b"1" * 100_000)
    + END,
    "old sparse cut": header("a", kind=b"S", fields={482: b"\1", 483: b"00000000011\0"}),
    "old sparse endless": header("a", kind=b"S", fields={482: b"\1", 483: b"00000000011\0"})
    + (b"00000000000\x0000000000000\0" * 21 + b"\1" + bytes(7)) * 5000,
    "old sparse negative": header("a", kind=b"S", fields={386: b"\xff" * 24, 483: b"00000000011\0"})
    + END,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_tars_give_typed_errors_in_no_time(name: str) -> None:
    started = time.monotonic()
    with pytest.raises((MalformedDocumentError, UnsafePathError)) as caught:
        unpacked(HOSTILE[name])
    assert len(str(caught.value)) < 500
    assert time.monotonic() - started < 2


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_typed_errors_or_other_changes(draw: st.DataObject) -> None:
    tar = bytearray(packed(ODD_CHANGES)[0])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(tar) - 1))
        tar[at] = draw.draw(st.integers(0, 255))
        block = at // BLOCK * BLOCK  # with a right checksum, where this is a header
        if draw.draw(st.booleans()):
            tar[block + 148 : block + 156] = b" " * 8
            tar[block + 148 : block + 156] = b"%06o\0 " % sum(tar[block : block + BLOCK])
    cut = draw.draw(st.one_of(st.none(), st.integers(0, len(tar))))
    try:
        unpacked(bytes(tar[:cut]))
    except StoreError:
        pass


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=5),
    st.binary(max_size=40),
)
def test_any_pax_header_gives_typed_errors_or_changes(
    records: list[tuple[bytes, bytes]], rest: bytes
) -> None:
    keys = [b"path", b"linkpath", b"size", b"uid", b"mtime", b"GNU.sparse.map", b"GNU.sparse.size"]
    body = b"".join(
        record((keys[len(key)] if len(key) < len(keys) else key).decode("latin-1"), value)
        for key, value in records
    )
    for kind in b"x", b"g":
        try:
            unpacked(pax(body + rest, kind=kind) + entry("a", b"abc") + END)
        except StoreError:
            pass


@pytest.mark.parametrize(
    ("limits", "tar"),
    [
        (Limits(entries_max=2), entry("a") * 3),
        (Limits(names_bytes_max=5), entry("abc") * 2),
        (Limits(path_bytes_max=300), pax({"path": "d/" * 200}) + entry("a")),
        (Limits(pax_bytes_max=50), pax({"comment": "c" * 50}) + entry("a")),
        (Limits(pax_bytes_max=50), pax({"a": "c" * 20}, kind=b"g") * 3 + entry("a")),
        (Limits(file_bytes_max=2), entry("a", b"abc")),
        (Limits(xattr_bytes_max=2), pax({"SCHILY.xattr.user.a": "abc"}) + entry("a")),
        (
            Limits(hole_bytes_max=15),
            (pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,1"}) + entry("a", b"x")) * 2,
        ),
        (
            Limits(sparse_runs_max=1),
            pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,1,2,1"}) + entry("a", b"xx"),
        ),
    ],
)
def test_limits_are_kept(limits: Limits, tar: bytes) -> None:
    unpacked(tar + END)
    with pytest.raises(MalformedDocumentError):
        unpacked(tar + END, limits=limits)


def test_a_hostile_tar_costs_little_memory() -> None:
    import tracemalloc

    def stream() -> Iterator[bytes]:
        yield pax({"GNU.sparse.size": str(2 << 30), "GNU.sparse.map": "0,1"}) + entry("hole", b"x")
        yield header("zeros", size=200 << 20)
        for _ in range(200):
            yield bytes(1 << 20)
        yield END

    class Pieces:
        def __init__(self) -> None:
            self.pieces = stream()

        def read(self, _size: int = -1, /) -> bytes:
            return next(self.pieces, b"")

    tracemalloc.start()
    try:
        sizes = []
        for change in unpack(Pieces()):
            assert isinstance(change, PutFile)
            if change.path == "zeros":
                assert callable(change.content)
                sizes.append(sum(len(piece) for piece in change.content()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [200 << 20]
    assert peak < 16 << 20


def test_a_tar_is_recognised_by_its_first_block() -> None:
    assert is_tar(packed([put("a", b"x")])[0])
    assert is_tar(header("old", magic=b"\0" * 8))
    assert not is_tar(b"")
    assert not is_tar(bytes(BLOCK))
    assert not is_tar(b"#!/bin/sh\n" * 100)
    assert not is_tar(header("a")[:200])


@pytest.mark.parametrize("name", ["", ".", "/.", "a/.."])
@pytest.mark.parametrize("kind", [b"0", b"2", b"6"])
def test_entries_of_the_root_may_be_anything_outside_of_a_layer(name: str, kind: bytes) -> None:
    tar = entry(name, b"x" if kind == b"0" else b"", kind=kind, target="t") + entry("a") + END
    with pytest.raises((MalformedDocumentError, UnsafePathError)):
        list(unpack(io.BytesIO(tar)))
    found = list(unpack(io.BytesIO(tar), is_layer=False))
    assert [change.path for change in found] == ["", "a"]
