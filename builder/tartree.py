"""A tar as a source: the build context on standard input or behind a URL.

Nothing is unpacked to anywhere. The members become entries of an index, as ADD would put them on an
empty file system: names, links and hard links mean what they mean there, and nothing can lead
outside of an index. Contents stay in memory or in one unnamed file until `cleanup`.

Owners and modes are the archive's, as in BuildKit.
"""

from contextlib import ExitStack
from pathlib import Path

from builder.archives import kept
from builder.fileops import KEEP, FileChanges
from builder.sources import SourceEntry, digest_of
from layerstore import (
    Content,
    Digest,
    Node,
    PutFile,
    PutHardlink,
    Reader,
    TocEntry,
    TreeIndex,
    TreePath,
    unpack,
)


class TarTree:
    """Carries out `SourceTree`. `stream` is the tar, decompressed, and is read to its end."""

    def __init__(
        self, stream: Reader, cleanup: ExitStack, *, directory: Path, description: str
    ) -> None:
        self._description = description
        self._index = TreeIndex()
        changes = FileChanges(self._index, now_ns=0, read=_nothing_below)
        changes.unpack(kept(unpack(stream), cleanup, directory), "/", KEEP)
        self._files: dict[str, PutFile] = {}
        self._groups: dict[str, str] = {}  # of hard links: the path that has the content
        for change in changes.changes():
            if isinstance(change, PutFile):
                self._files[change.path] = change
            elif isinstance(change, PutHardlink):
                self._groups[change.path] = self._groups[change.target] = change.target
        self._digests: dict[str, Digest] = {}

    @property
    def description(self) -> str:
        return self._description

    def get(self, path: TreePath) -> SourceEntry | None:
        node = self._index.get(path)
        return None if node is None else self._entry(path, node.entry)

    def children(self, path: TreePath) -> list[str]:
        return self._index.children(path)

    def digest(self, entry: SourceEntry) -> Digest:
        path = self._groups.get(entry.path, entry.path)
        if path not in self._digests:
            self._digests[path] = digest_of(self._files[path].content)
        return self._digests[path]

    def content(self, entry: SourceEntry) -> Content:
        return self._files[self._groups.get(entry.path, entry.path)].content

    def _entry(self, path: TreePath, entry: TocEntry) -> SourceEntry:
        kind = entry.kind
        if kind == "remove" or kind == "opaque" or kind == "hardlink":
            raise AssertionError("the index holds inodes")
        return SourceEntry(
            path,
            kind,
            entry.meta,
            entry.size_bytes,
            "" if kind == "file" else entry.target,
            entry.major,
            entry.minor,
            self._groups.get(path),
        )


def _nothing_below(node: Node) -> Content:
    raise AssertionError("there are no layers below an archive")
