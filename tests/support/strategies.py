"""hypothesis strategies for the values of layerstore.

`changesets()` makes what a well-behaved producer makes: canonical order, parents put before what is
in them, hard links naming the first path. Shuffle it to get what others make.
"""

import os

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
from layerstore.toc import TocEntry, order
from layerstore.treepath import ROOT, TreePath, join

SECOND_NS = 1_000_000_000


def _is_name(raw: bytes) -> bool:
    return raw not in (b".", b"..") and not raw.startswith(b".wh.")


def _raw_names() -> st.SearchStrategy[bytes]:
    every_byte = st.binary(min_size=1, max_size=12).map(
        lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"\n")
    )
    long = st.sampled_from(
        [letter * size for letter in (b"a", b"\xff") for size in (90, 99, 100, 101, 155, 255)]
        + ["é".encode() * size for size in (49, 50, 51, 127)]
    )
    plain = st.text("abc.-_", min_size=1, max_size=6).map(os.fsencode)
    return st.one_of(plain, plain, every_byte, long)


def names() -> st.SearchStrategy[str]:
    """Names of files: any byte, up to 255 of them, none that means something else in a layer."""
    return _raw_names().filter(_is_name).map(os.fsdecode)


def metas(*, whole_seconds: bool = True, xattrs: bool = True) -> st.SearchStrategy[Meta]:
    """Attributes any file may have: the file systems' limits, not the tar's."""
    seconds = st.one_of(
        st.integers(0, 2_000_000_000),
        st.sampled_from([-1, 1 - (1 << 31), 1 << 33, 0x37FFFFFFF - 1]),
    )
    times = seconds.map(lambda second: second * SECOND_NS)
    if not whole_seconds:
        times = st.tuples(times, st.integers(0, SECOND_NS - 1)).map(sum)
    owners = st.one_of(st.just(0), st.sampled_from([1, 1000, 0o7777777, 0o10000000, 0xFFFFFFFE]))
    modes = st.one_of(
        st.sampled_from([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0]), st.integers(0, 0o7777)
    )
    return st.builds(Meta, modes, owners, owners, times, _xattrs() if xattrs else st.just(()))


def _xattrs() -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    keys = st.sampled_from(["user.a", "user.b=c", "user.%3D", "user.é", "trusted.lamina"])
    values = st.one_of(st.just(b""), st.binary(max_size=20), st.just(b"x" * 200))
    some = st.dictionaries(keys, values, max_size=2).map(lambda found: tuple(sorted(found.items())))
    return st.one_of(st.just(()), st.just(()), some)


def contents() -> st.SearchStrategy[bytes]:
    """Mostly small; some with a hole, some of a size around a tar block."""
    return st.one_of(
        st.binary(max_size=40),
        st.sampled_from([511, 512, 513, 1024]).map(lambda size: b"x" * size),
        st.just(b"begin" + bytes(200_000) + b"end"),
    )


def targets() -> st.SearchStrategy[str]:
    """Texts of symbolic links."""
    return st.one_of(
        names(), st.just("../../../etc/passwd"), st.just("/abs"), st.just("d/" * 80 + "x")
    )


@st.composite
def changesets(
    draw: st.DrawFn, *, whole_seconds: bool = True, removals: bool = True, with_root: bool = False
) -> list[Change]:
    """A changeset in normal form; see the top of this file."""
    meta = metas(whole_seconds=whole_seconds)
    plain_meta = metas(whole_seconds=whole_seconds, xattrs=False)
    changes: list[Change] = []
    directories: list[tuple[TreePath, bool]] = [(ROOT, False)]  # with: is all below it hidden
    taken: set[str] = set()
    links: list[TreePath] = []  # names waiting for an inode
    kinds = ["file", "file", "dir", "symlink", "fifo", "char", "block", "link"]
    for _ in range(draw(st.integers(0, 12))):
        parent, hidden = draw(st.sampled_from(directories))
        path = join(parent, draw(names()))
        if path in taken:
            continue
        taken.add(path)
        kind = draw(st.sampled_from(kinds + ["remove"] * (removals and not hidden)))
        match kind:
            case "file":
                content = draw(contents())
                changes.append(PutFile(path, draw(meta), len(content), content))
            case "dir":
                changes.append(PutDir(path, draw(meta)))
                opaque = removals and draw(st.booleans())
                if opaque:
                    changes.append(Opaque(path))
                directories.append((path, hidden or opaque))
            case "symlink":
                symlink_meta = draw(plain_meta)
                symlink_meta = Meta(
                    0o777, symlink_meta.uid, symlink_meta.gid, symlink_meta.mtime_ns
                )
                changes.append(PutSymlink(path, symlink_meta, draw(targets())))
            case "fifo":
                changes.append(PutNode(path, draw(plain_meta), "fifo"))
            case "char":
                minor = draw(st.integers(1, 0xFFFFF))
                changes.append(PutNode(path, draw(plain_meta), "char", 0xFFF, minor))
            case "block":
                changes.append(PutNode(path, draw(plain_meta), "block", 8, draw(st.integers(0, 9))))
            case "link":
                links.append(path)
            case _:
                changes.append(Remove(path))
    changes = _with_links(draw, changes, links)
    if with_root:
        changes.append(PutDir(ROOT, draw(meta)))
    return sorted(changes, key=change_order)


def _with_links(draw: st.DrawFn, changes: list[Change], links: list[TreePath]) -> list[Change]:
    """Give each of `links` an inode; the first path of an inode carries it."""
    inodes = [
        index for index, change in enumerate(changes) if isinstance(change, PutFile | PutNode)
    ]
    if not inodes:
        return changes
    for path in links:
        index = draw(st.sampled_from(inodes))
        inode = changes[index]
        assert isinstance(inode, PutFile | PutNode)
        if order(path, "file") < order(inode.path, "file"):
            changes = [
                PutHardlink(change.path, path)
                if isinstance(change, PutHardlink) and change.target == inode.path
                else change
                for change in changes
            ]
            changes[index] = moved(inode, path)
            changes.append(PutHardlink(inode.path, path))
        else:
            changes.append(PutHardlink(path, inode.path))
    return changes


def moved(change: PutFile | PutNode, path: TreePath) -> Change:
    """The same inode at another path."""
    if isinstance(change, PutFile):
        return PutFile(path, change.meta, change.size_bytes, change.content)
    return PutNode(path, change.meta, change.kind, change.major, change.minor)


def change_order(change: Change) -> bytes:
    """The sort key of the canonical order."""
    kind = (
        "remove" if isinstance(change, Remove) else "opaque" if isinstance(change, Opaque) else ""
    )
    return order(change.path, kind)


def tocs() -> st.SearchStrategy[list[TocEntry]]:
    """Tables of contents, as `pack` makes them."""
    from layerstore.tarcodec import pack

    return changesets(with_root=True).map(lambda changes: pack(changes, lambda _: None).toc)
