"""Trees that files are copied from: the build context, a finished stage, an image.

A source answers by path, without following links; everything above (links, wildcards, what one
COPY selects, and the digest of a selection) is written once, here, on that small interface.

    SourceTree   the interface; ContextTree (context.py) and LayerTree (below) carry it out
    Selection    what one source word of COPY selected: the digest is its identity, the tree and
                 path its locator

Links are resolved inside the source; `..` stops at its root, absolute targets start there.

Source: BuildKit solver/llbsolver/file and fsutil/copy (ResolveWildcards, FollowLinks).
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Literal, Protocol

from builder import patterns
from builder.errors import BuilderError
from builder.filters import Filter
from layerstore import Digest, TreePath

if TYPE_CHECKING:
    from layerstore import Content, Layer, LayerStore, Meta, Node, TreeIndex

EntryKind = Literal["file", "dir", "symlink", "char", "block", "fifo", "socket"]

_LINKS_MAX = 255  # Linux allows 40; BuildKit's FollowLinks 255


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One inode of a source. `link_group` is equal for the names of one hard-linked file."""

    path: TreePath
    kind: EntryKind
    meta: "Meta"
    size_bytes: int = 0
    target: str = ""
    major: int = 0
    minor: int = 0
    link_group: object = None


class Linked(Protocol):
    """What `resolve` looks at: whether something is a link, and where to."""

    @property
    def kind(self) -> str: ...
    @property
    def target(self) -> str: ...


class Resolvable(Protocol):
    """A tree in which links can be followed."""

    @property
    def description(self) -> str:
        """What to call it in messages: `the build context`."""

    def get(self, path: TreePath) -> Linked | None:
        """The entry at `path`, None where nothing is."""


class SourceTree(Protocol):
    """A tree to copy from. Paths are exact: no link is followed."""

    @property
    def description(self) -> str:
        """What to call it in messages: `the build context`."""

    def get(self, path: TreePath) -> SourceEntry | None:
        """The entry at `path`, None where nothing is."""

    def children(self, path: TreePath) -> list[str]:
        """The names in a directory, in byte order; empty where `path` is no directory."""

    def digest(self, entry: SourceEntry) -> Digest:
        """The digest of a file's content."""

    def content(self, entry: SourceEntry) -> "Content":
        """A file's content, the same that `digest` saw or an error while it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one source word selected: a file, or a directory with all that is in it.

    `name` is the last component as it was asked for, which is the name a file gets in a
    destination directory, and empty for a directory. What `only` leaves out is not in the digest.
    `unpacks` is what ADD does when it is an archive, where that is not as for local files.
    """

    name: str
    kind: EntryKind
    digest: Digest
    unpacks: bool | None = None
    tree: SourceTree = field(compare=False, repr=False)
    path: TreePath = field(compare=False)
    # what `digest` is the digest of, a line for each file; empty where nobody has looked yet
    listing: bytes = field(default=b"", compare=False, repr=False)
    only: Filter | None = field(default=None, compare=False, repr=False)
    is_empty: bool = field(default=False, compare=False)  # a directory of which nothing is taken


class SourceLoopError(BuilderError):
    """Symbolic links that lead to each other."""


def resolve(tree: Resolvable, path: str) -> TreePath:
    """Follow every link in `path`, the last one too; a missing tail is kept as it is."""
    done: list[str] = []
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        done.append(part)
        entry = tree.get(TreePath("/".join(done)))
        if entry is None or entry.kind != "symlink":
            continue
        links += 1
        if links > _LINKS_MAX:
            raise SourceLoopError(f"too many links while resolving {path!r} in {tree.description}")
        done = [] if entry.target.startswith("/") else done[:-1]
        pending.extend(part for part in reversed(entry.target.split("/")) if part not in ("", "."))
    return TreePath("/".join(done))


def matches(tree: SourceTree, pattern: str) -> list[str]:
    """The paths that a source word with wildcards stands for, in the order of a walk.

    As in BuildKit, links are followed before the first wildcard, and not from there on.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    plain = list(itertools.takewhile(lambda part: not patterns.has_wildcard(part), parts))
    found = [resolve(tree, "/".join(map(patterns.unescape, plain)))]
    for part in parts[len(plain) :]:
        regex = patterns.component_regex(part)
        found = [
            TreePath(f"{directory}/{name}" if directory else name)
            for directory in found
            for name in tree.children(directory)
            if regex.match(name)
        ]
    return list(found)


def walk(
    tree: SourceTree, top: TreePath, only: Filter | None = None
) -> Iterator[tuple[str, SourceEntry, bool]]:
    """The entries beneath `top` with their paths relative to it, parents first, in byte order.

    The flag is False for a directory that `only` does not take, and that leads to something taken.
    """
    base = top + "/" if top else ""
    pending = tree.children(top)[::-1]
    leading: list[tuple[str, SourceEntry]] = []
    while pending:
        relative = pending.pop()
        entry = tree.get(TreePath(base + relative))
        if entry is None:  # vanished since its directory was read
            continue
        while leading and not relative.startswith(leading[-1][0] + "/"):
            leading.pop()
        is_taken = only is None or only.takes(relative)
        if is_taken:
            for above, directory in leading:
                yield above, directory, False
            leading.clear()
            yield relative, entry, True
        elif entry.kind == "dir" and only is not None and only.may_take_beneath(relative):
            leading.append((relative, entry))
        else:
            continue
        if entry.kind == "dir":
            pending.extend(f"{relative}/{name}" for name in reversed(tree.children(entry.path)))


def newest_file_s(tree: SourceTree) -> int | None:
    """The newest modification time of the files of `tree`; None when it has none."""
    found = walk(tree, TreePath(""))
    times = [entry.meta.mtime_ns for _, entry, _ in found if entry.kind == "file"]
    return max(times) // 1_000_000_000 if times else None


def select(tree: SourceTree, path: str, *, only: Filter | None = None) -> Selection | None:
    """Select what is at `path`, links followed; None where nothing is."""
    resolved = resolve(tree, path)
    entry = tree.get(resolved)
    if entry is None:
        return None
    name = path.rstrip("/").rpartition("/")[2]
    if entry.kind == "dir":
        name = ""  # what is in it is copied, whatever it is called
    elif name in ("", ".", ".."):
        name = resolved.rpartition("/")[2]
    found = [("", entry, True)]
    if entry.kind == "dir":
        found.extend(walk(tree, resolved, only))
    listing = _listing(tree, found)
    return Selection(
        name=name,
        kind=entry.kind,
        digest=Digest.of(listing),
        listing=listing,
        tree=tree,
        path=resolved,
        only=only,
        is_empty=entry.kind == "dir" and len(found) == 1,
    )


def _listing(tree: SourceTree, found: list[tuple[str, SourceEntry, bool]]) -> bytes:
    """A line for each file: content, name, mode, owner, links and xattrs: all but times."""
    # names of one file are linked when two of them are selected
    names = Counter(entry.link_group for _, entry, _ in found if entry.link_group is not None)
    groups: dict[object, int] = {}
    lines = []
    for relative, entry, is_taken in found:
        linked = names[entry.link_group] > 1
        group = groups.setdefault(entry.link_group, len(groups)) if linked else None
        kind = entry.kind if is_taken else "leads"
        lines.append(_identity(tree, relative, entry, kind, group))
    return b"".join(lines)


def _identity(
    tree: SourceTree, relative: str, entry: SourceEntry, kind: str, group: int | None
) -> bytes:
    meta = entry.meta
    if entry.kind == "file" and group is None and not meta.xattrs:  # most; the same, much faster
        head = f"[{_quoted(relative)}, {_quoted(kind)}, {meta.mode}, {meta.uid}, {meta.gid}, [], "
        return f'{head}"{tree.digest(entry)}", {entry.major}, {entry.minor}, null]\n'.encode()
    fields = (
        relative,
        kind,
        meta.mode,
        meta.uid,
        meta.gid,
        [(name, value.hex()) for name, value in meta.xattrs],
        tree.digest(entry) if entry.kind == "file" else entry.target,
        entry.major,
        entry.minor,
        group,
    )
    return json.dumps(fields).encode() + b"\n"


def digest_of(content: "Content") -> Digest:
    """The digest of a file's content."""
    hasher = hashlib.sha256()
    for piece in (content,) if isinstance(content, bytes) else content():
        hasher.update(piece)
    return Digest("sha256:" + hasher.hexdigest())


class FileTree:
    """One file as a source, by its name."""

    def __init__(
        self, name: str, meta: "Meta", size_bytes: int, content: "Content", *, description: str
    ) -> None:
        self._entry = SourceEntry(TreePath(name), "file", meta, size_bytes)
        self._content = content
        self._description = description

    @property
    def description(self) -> str:
        return self._description

    def get(self, path: TreePath) -> SourceEntry | None:
        if not path:
            from layerstore import Meta

            return SourceEntry(path, "dir", Meta(0o755))
        return self._entry if path == self._entry.path else None

    def children(self, path: TreePath) -> list[str]:
        return [] if path else [self._entry.path]

    def digest(self, entry: SourceEntry) -> Digest:
        return digest_of(self._content)

    def content(self, entry: SourceEntry) -> "Content":
        return self._content


class LazyTree:
    """A source that is opened when it is first looked into: what is cached is never fetched."""

    def __init__(self, open_tree: Callable[[], SourceTree], *, description: str) -> None:
        self._open = open_tree
        self._description = description
        self._opened: SourceTree | None = None

    @property
    def description(self) -> str:
        return self._description

    def get(self, path: TreePath) -> SourceEntry | None:
        return self._tree().get(path)

    def children(self, path: TreePath) -> list[str]:
        return self._tree().children(path)

    def digest(self, entry: SourceEntry) -> Digest:
        return self._tree().digest(entry)

    def content(self, entry: SourceEntry) -> "Content":
        return self._tree().content(entry)

    def _tree(self) -> SourceTree:
        if self._opened is None:
            self._opened = self._open()
        return self._opened


class UnreadError(Exception):
    """Nobody knows yet what is in a source; why, in words."""


class LayerTree:
    """A stack of layers as a source. Carries out `SourceTree`; close it when done."""

    def __init__(
        self, layers: "tuple[Layer, ...]", store: "LayerStore", *, description: str
    ) -> None:
        self._layers = layers
        self._store = store
        self._description = description
        self._index: TreeIndex | None = None
        self._files = store.files(layers)

    @property
    def description(self) -> str:
        return self._description

    @property
    def layers(self) -> "tuple[Layer, ...]":
        """The stack, bottom first: whoever mounts it needs no copy."""
        return self._layers

    def everything(self) -> Selection:
        """All of it. Known by its layers, so that nothing has to be looked at."""
        contents = "".join(f"{layer.content_digest}\n" for layer in self._layers)
        digest = Digest.of(contents.encode())
        return Selection(name="", kind="dir", digest=digest, tree=self, path=TreePath(""))

    def get(self, path: TreePath) -> SourceEntry | None:
        node = self._tree().get(path)
        return None if node is None else self._entry(path, node)

    def children(self, path: TreePath) -> list[str]:
        return self._tree().children(path)

    def digest(self, entry: SourceEntry) -> Digest:
        digest = self._file(entry).entry.digest
        assert digest is not None, "a file's table of contents entry has a digest"
        return digest

    def content(self, entry: SourceEntry) -> "Content":
        return self._files.content(self._file(entry))

    def close(self) -> None:
        """Release the blobs that are open."""
        self._files.close()

    def _tree(self) -> "TreeIndex":
        if self._index is None:
            self._index = self._store.tree(self._layers)
        return self._index

    def _file(self, entry: SourceEntry) -> "Node":
        node = self._tree().get(entry.path)
        assert node is not None, "an entry of this tree is in its index"
        return node

    def _entry(self, path: TreePath, node: "Node") -> SourceEntry:
        entry = node.entry
        kind = entry.kind
        if kind == "remove" or kind == "opaque" or kind == "hardlink":
            raise AssertionError("the index holds inodes")
        group: object = None
        target = entry.target
        if kind == "file":  # `target` names the path that carries the content of a hard link
            group, target = (node.layer, target or path), ""
        return SourceEntry(
            path,
            kind,
            entry.meta,
            entry.size_bytes,
            target,
            entry.major,
            entry.minor,
            group,
        )
