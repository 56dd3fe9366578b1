"""hypothesis strategies: the values of layerstore, and the whole Dockerfile language.

`dockerfiles()` makes files that must parse: every instruction in every form, with all of its flags,
here-documents, directives, ONBUILD, comments, continuations; and says what is in them.

`changesets()` makes what a well-behaved producer makes: canonical order, parents put before what is
in them, hard links naming the first path. Shuffle it to get what others make.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

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


# The Dockerfile language.


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One instruction: pieces to be joined by blanks, and the bodies of its here-documents.

    `flags` are what the parser should find, with quotes removed.
    """

    keyword: str
    flags: tuple[str, ...] = ()
    pieces: tuple[str, ...]
    bodies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerfileText:
    """A file that must parse, and its instructions in order, those of ONBUILD as their own line."""

    text: str
    lines: tuple[Line, ...]


KEYWORD_FLAGS: dict[str, tuple[str, ...]] = {
    "FROM": ("--platform",),
    "RUN": ("--mount", "--network", "--security", "--device"),
    "COPY": ("--from", "--chown", "--chmod", "--link", "--parents", "--exclude"),
    "ADD": (
        *("--chown", "--chmod", "--link", "--exclude"),
        *("--checksum", "--keep-git-dir", "--unpack"),
    ),
    "HEALTHCHECK": ("--interval", "--timeout", "--start-period", "--start-interval", "--retries"),
}
TRIGGERS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"),
    *("RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
KEYWORDS = ("FROM", *TRIGGERS, "MAINTAINER", "ONBUILD")
_SEVERAL = frozenset(("--mount", "--device", "--exclude"))
_SWITCHES = frozenset(("--link", "--parents", "--keep-git-dir", "--unpack"))
_FLAG_VALUES = {
    "--mount": (
        *("type=bind,target=/a,from=b", "target=/a,rw", "type=cache,id=x,target=/c,sharing=locked"),
        *("type=tmpfs,target=/t,size=1k", "type=secret,id=s,env=S", "type=ssh", 'type=bind,"a=b"'),
    ),
    "--network": ("default", "none", "host"),
    "--security": ("sandbox", "insecure"),
    "--device": ("vendor.com/class=name", "name=a,required", "a,required=false"),
    "--interval": ("30s", "1m30s", "1.5h", "0"),
    "--timeout": ("1ms", "300ms"),
    "--start-period": ("10s",),
    "--start-interval": ("5s",),
    "--retries": ("0", "3", "+3"),
    "--platform": ("linux/amd64", "$BUILDPLATFORM"),
    "--from": ("0", "build", "image:tag"),
    "--chmod": ("755", "u=rwX,go=", "$MODE"),
    "--checksum": ("sha256:" + "0" * 64,),
}
_WORDS = st.one_of(
    st.sampled_from(
        ["a", "/b/c", "$v", "${v:-w}", "${v:+a}b", "${v#*/}", "${v//a/b}", "x.y-z", "80/tcp", "é中"]
    ),
    st.text("abcXYZ019_./:-+@%,é", min_size=1, max_size=8).filter(lambda word: word[0].isalnum()),
)
_SENTENCES = st.lists(
    st.one_of(
        _WORDS, st.sampled_from(["'a  b'", '"c $d"', "&&", "|", "(a;", ")", "--x", "=", "*"])
    ),
    max_size=4,
).map(tuple)
_STRINGS = st.one_of(_WORDS, st.text(max_size=6))
_COMMENTS = st.text("abc #'\"<[\\`", max_size=8).map(lambda text: "#" + text)


@st.composite
def dockerfiles(draw: st.DrawFn, keyword: str = "") -> DockerfileText:
    """A whole file; see the top of this file. With `keyword`, FROM and one such instruction."""
    escape = draw(st.sampled_from("\\\\`"))
    top = [f"# escape={escape}"] if escape == "`" or draw(st.booleans()) else []
    top += draw(st.sampled_from([[], ["# syntax=docker/dockerfile:1"], ["#check=skip=all"]]))
    if keyword:
        lines = [draw(_line("FROM")), draw(_line(keyword))]
    else:
        lines = [draw(_line("ARG")) for _ in range(draw(st.integers(0, 2)))]
        lines.append(draw(_line("FROM")))
        some = st.sampled_from(KEYWORDS).flatmap(_line)
        lines += [draw(some) for _ in range(draw(st.integers(0, 5)))]
    text = draw(st.permutations(top))
    for line in lines:
        text += draw(st.lists(st.one_of(st.just("  "), _COMMENTS), max_size=1)) if text else []
        text.append(_laid_out(draw, line, escape))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return DockerfileText(
        text="\n".join(text).replace("\n", end) + draw(st.sampled_from(["", end, end + end])),
        lines=tuple(lines),
    )


def _laid_out(draw: st.DrawFn, line: Line, escape: str) -> str:
    """The instruction as text: blanks, continuations, comments and blank lines between pieces."""
    gaps = st.sampled_from(
        [" ", " ", "\t", "   ", f" {escape}\n", f" {escape} \t\n  ", f" {escape}\n\n# c\n \n "]
    )
    text = draw(st.sampled_from(["", "  ", "\t"]))
    for number, piece in enumerate(line.pieces):
        text += (draw(gaps) if number else "") + piece
    text += draw(st.sampled_from(["", " "]))
    return "\n".join([text, *line.bodies])


@st.composite
def _line(draw: st.DrawFn, keyword: str) -> Line:
    spelled = draw(st.sampled_from([keyword, keyword, keyword.lower(), keyword.title()]))
    if keyword == "ONBUILD":
        inner = draw(st.sampled_from(TRIGGERS).flatmap(_line))
        return Line(keyword=keyword, pieces=(spelled, *inner.pieces), bodies=inner.bodies)
    written, flags = _flags(draw, keyword)
    rest, bodies = _BODIES[keyword](draw)
    if rest[:1] == ("NONE",):  # whose flags nobody looks at
        written, flags = [], []
    return Line(
        keyword=keyword, flags=tuple(flags), pieces=(spelled, *written, *rest), bodies=bodies
    )


def _flags(draw: st.DrawFn, keyword: str) -> tuple[list[str], list[str]]:
    """Flags as written, and as read."""
    names = KEYWORD_FLAGS.get(keyword, ())
    written, read = list[str](), list[str]()
    for name in draw(st.lists(st.sampled_from(names), max_size=4)) if names else []:
        if name not in _SEVERAL and any(flag.partition("=")[0] == name for flag in read):
            continue
        if name in _SWITCHES:
            written.append(name + draw(st.sampled_from(["", "=true", "=false"])))
            read.append(written[-1])
            continue
        value = draw(st.sampled_from(_FLAG_VALUES[name]) if name in _FLAG_VALUES else _WORDS)
        quote = "'" if '"' in value or draw(st.booleans()) else ""
        written.append(f"{name}={quote}{value}{quote}")
        read.append(f"{name}={value}")
    return written, read


_Rest = tuple[tuple[str, ...], tuple[str, ...]]


def _sentence(draw: st.DrawFn) -> _Rest:
    return (draw(_WORDS), *draw(_SENTENCES)), ()


def _json(draw: st.DrawFn, strings: st.SearchStrategy[str], least: int) -> _Rest:
    found = [json.dumps(each) for each in draw(st.lists(strings, min_size=least, max_size=4))]
    pieces = [f"{each}," for each in found[:-1]] + found[-1:]
    return ("[", *pieces, "]"), ()


def _command(draw: st.DrawFn) -> _Rest:
    return _json(draw, _STRINGS, 0) if draw(st.booleans()) else _sentence(draw)


def _heredocs(draw: st.DrawFn, count: int) -> _Rest:
    words, bodies = [], []
    for number in range(count):
        name, chomp = (
            draw(st.sampled_from(["EOF", "a.txt", "E1"])) + str(number),
            draw(st.booleans()),
        )
        quote = draw(st.sampled_from(["", "'", '"']))
        words.append(f"<<{'-' if chomp else ''}{quote}{name}{quote}")
        for line in draw(st.lists(st.one_of(_COMMENTS, st.text("ab\t $'\"\\`<", max_size=8)))):
            bodies.append(line)
        bodies.append(("\t" if chomp and draw(st.booleans()) else "") + name)
    return tuple(words), tuple(bodies)


def _run(draw: st.DrawFn) -> _Rest:
    if draw(st.booleans()):
        return _command(draw)
    words, bodies = _heredocs(draw, draw(st.integers(1, 2)))
    before = (draw(_WORDS),) if draw(st.booleans()) else ()
    return (*before, *words), bodies


def _files(draw: st.DrawFn) -> _Rest:
    match draw(st.integers(0, 2)):
        case 0:
            return _json(draw, _WORDS, 2)
        case 1:
            words, bodies = _heredocs(draw, draw(st.integers(1, 2)))
            return (*words, draw(_WORDS)), bodies
        case _:
            return tuple(draw(st.lists(_WORDS, min_size=2, max_size=4))), ()


def _words(draw: st.DrawFn) -> _Rest:
    return tuple(draw(st.lists(_WORDS, min_size=1, max_size=4))), ()


def _pairs(draw: st.DrawFn) -> _Rest:
    names = st.text("abAB_1.", min_size=1, max_size=4).filter(lambda name: name[0] not in "1.")
    if draw(st.integers(0, 3)) == 0:
        return (draw(names), draw(_WORDS), *draw(_SENTENCES)), ()
    values = st.one_of(
        st.just(""), _WORDS, st.sampled_from(["'a  b'", '"c $d"', "'='x", "${a-'b'}"])
    )
    pairs = draw(st.lists(st.tuples(names, values), min_size=1, max_size=3))
    return tuple(f"{name}={value}" for name, value in pairs), ()


def _arg(draw: st.DrawFn) -> _Rest:
    pieces, _ = _pairs(draw)
    return tuple(piece for piece in pieces if piece[:1].isalpha() or "=" in piece[1:]) or ("a",), ()


def _from(draw: st.DrawFn) -> _Rest:
    alias = (draw(st.sampled_from(["AS", "as"])), "stage-1.x_") if draw(st.booleans()) else ()
    return (draw(_WORDS), *alias), ()


def _check(draw: st.DrawFn) -> _Rest:
    if draw(st.integers(0, 3)) == 0:
        return ("NONE",), ()
    rest, bodies = _json(draw, _STRINGS, 1) if draw(st.booleans()) else _sentence(draw)
    return (draw(st.sampled_from(["CMD", "cmd"])), *rest), bodies


def _volume(draw: st.DrawFn) -> _Rest:
    return _json(draw, _WORDS, 1) if draw(st.booleans()) else _words(draw)


_BODIES: dict[str, Callable[[st.DrawFn], _Rest]] = {
    "ADD": _files,
    "ARG": _arg,
    "CMD": _command,
    "COPY": _files,
    "ENTRYPOINT": _command,
    "ENV": _pairs,
    "EXPOSE": _words,
    "FROM": _from,
    "HEALTHCHECK": _check,
    "LABEL": _pairs,
    "MAINTAINER": _sentence,
    "RUN": _run,
    "SHELL": lambda draw: _json(draw, _STRINGS, 1),
    "STOPSIGNAL": _sentence,
    "USER": _sentence,
    "VOLUME": _volume,
    "WORKDIR": _sentence,
}
