"""What COPY, ADD and WORKDIR do to a file system, as a changeset.

No file of the image is opened or created here: the file system below is a `TreeIndex` (names,
types, owners, link targets of the merged layers), so a destination is resolved as the image sees
it, links included, and nothing can lead outside of it. The result is packed straight from the
sources: each byte is read once.

Rules, as BuildKit's file operations have them:
  - Missing directories on the way to the destination are created 0755 or as an octal --chmod says,
    owned as --chown says.
  - The content of a source directory is merged into the destination. A destination directory that
    exists keeps its attributes; directories below it take the source's.
  - A file goes into the destination when that is a directory or ends in a slash, else onto it.
  - A file never replaces a directory, a directory never a file.
  - A directory that is not selected, but leads to what is, is made like its source; where it
    exists, it takes the mode of its source alone.
  - A socket becomes an empty file.
  - Directories that exist and merely gain an entry stand in the layer with the attributes that
    they have (the tar form needs them as parents).

Differs: such a parent keeps its modification time. Docker's layers carry the moment of the build.

Source: BuildKit solver/llbsolver/file/backend.go and fsutil/copy; Dockerfile reference, "COPY".
"""

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from builder.errors import LoweringError
from builder.modes import ModeChange
from builder.sources import Selection, SourceEntry, resolve, walk
from builder.steps import InlineFile
from layerstore import (
    Change,
    Content,
    Meta,
    Node,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    TocEntry,
    TreeIndex,
    TreePath,
    join,
)

_DIRECTORY_MODE = 0o755
_PATH_MAX = 4096  # the kernel makes no longer one, and so no container could
_SHOWN_MAX = 40
_MADE_BYTES_MAX = 64 << 20  # of the paths of all directories that are made on the way
_MEMBERS_MAX = 1_000_000  # of an archive; they are about 2 KiB of memory each
_USUAL_ROOT = (0o755, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Who and what new files are: None keeps the source's."""

    uid: int | None = None
    gid: int | None = None
    mode: ModeChange | None = None


KEEP = Ownership()


class FileChanges:
    """Collects the changes of one step on top of `tree`, which it keeps up to date.

    `read` gives the content of a file of the layers below.
    """

    def __init__(self, tree: TreeIndex, *, now_ns: int, read: Callable[[Node], Content]) -> None:
        self._tree = tree
        self._now_ns = now_ns
        self._read = read
        self._changes: dict[str, Change] = {}
        self._made_bytes = 0  # of the paths of directories that were made on the way
        self._linked: dict[str, list[str]] = {}  # hard links by what they name

    def changes(self) -> Iterator[Change]:
        """What was collected, with every directory that leads there."""
        self._add_parents()
        root = self._entry("")
        assert root is not None, "there is always a root"
        if self._changes and (root.meta.mode, root.meta.uid, root.meta.gid) != _USUAL_ROOT:
            self._changes[""] = PutDir(TreePath(""), root.meta)  # the topmost layer's is shown
        return iter(self._changes.values())

    # ---- the operations

    def make_directory(self, path: str, ownership: Ownership = KEEP) -> TreePath:
        """Create `path` and its missing parents; nothing happens where it exists."""
        resolved = self._tree.resolve(path)
        if len(os.fsencode(resolved)) >= _PATH_MAX and self._entry(resolved) is None:
            raise LoweringError(
                f"cannot create the directory '/{resolved[:_SHOWN_MAX]}...': its path is longer "
                f"than {_PATH_MAX} bytes"
            )
        missing: list[str] = []
        current: str = resolved
        while (entry := self._entry(current)) is None:
            missing.append(current)
            current = posixpath.dirname(current)
        if entry.kind != "dir":
            raise LoweringError(
                f"cannot create the directory '/{resolved}': '/{current}' is not a directory"
            )
        self._made_bytes += sum(map(len, missing))
        if self._made_bytes > _MADE_BYTES_MAX:
            raise LoweringError("too many deep directories would be made")
        for each in reversed(missing):
            entry = self._put_directory(TreePath(each), entry, ownership)
        return resolved

    def is_directory(self, path: str) -> bool:
        """Whether `path` is a directory, links followed."""
        entry = self._entry(self._tree.resolve(path))
        return entry is not None and entry.kind == "dir"

    def copy(self, selection: Selection, destination: str, ownership: Ownership) -> None:
        """Copy one selection to `destination` (absolute; a trailing slash means a directory)."""
        source = selection.tree.get(selection.path)
        assert source is not None, "a selection exists"
        if destination.endswith("/"):
            self.make_directory(destination, ownership)
        target = self._tree.resolve(destination)
        existing = self._entry(target)
        if source.kind == "dir":
            self.make_directory("/" + target, ownership)
            self._copy_directory(selection, target, ownership)
            return
        if existing is not None and existing.kind == "dir":
            target = TreePath(f"{target}/{selection.name}" if target else selection.name)
        self.make_directory("/" + posixpath.dirname(target), ownership)
        self._copy_entry(selection, source, target, ownership, {})

    def write_file(self, inline: InlineFile, destination: str, ownership: Ownership) -> None:
        """Write a here-document."""
        if destination.endswith("/"):
            self.make_directory(destination, ownership)
        target = self._tree.resolve(destination)
        existing = self._entry(target)
        if existing is not None and existing.kind == "dir":
            target = TreePath(f"{target}/{inline.name}" if target else inline.name)
        self.make_directory("/" + posixpath.dirname(target), ownership)
        meta = _owned(Meta(0o644, 0, 0, self._now_ns), ownership, is_dir=False)
        self._replace(PutFile(target, meta, len(inline.content), inline.content))

    def unpack(
        self,
        changes: Iterator[Change],
        destination: str,
        ownership: Ownership,
        *,
        is_root: bool = False,
    ) -> None:
        """Put the members of an archive beneath `destination`, links of the image followed.

        Members keep their own modes, whatever --chmod says, and device nodes are left out, as in
        Docker. A member's content must outlive the iteration (see `archives.members`).

        Args:
            is_root: the archive is a root file system: its devices stay, and its own root's
                attributes.
        """
        ownership = replace(ownership, mode=None)
        self.make_directory(destination.rstrip("/") or "/", ownership)
        base = self._tree.resolve(destination)
        for number, change in enumerate(changes):
            if number == _MEMBERS_MAX:
                raise LoweringError(f"the archive has more than {_MEMBERS_MAX} members")
            if is_root and isinstance(change, PutDir) and not change.path:
                self._put(change)
            elif is_root or not isinstance(change, PutNode) or change.kind == "fifo":
                self._unpack_member(change, base, ownership)

    # ---- copying

    def _copy_directory(self, selection: Selection, target: TreePath, owner: Ownership) -> None:
        links: dict[object, TreePath] = {}
        for relative, entry, is_taken in walk(selection.tree, selection.path, selection.only):
            path = TreePath(f"{target}/{relative}" if target else relative)
            existing = self._entry(path)
            if is_taken or existing is None or existing.kind != "dir":
                self._copy_entry(selection, entry, path, owner, links)
            elif existing.meta.mode != entry.meta.mode:
                self._put(PutDir(path, replace(existing.meta, mode=entry.meta.mode)))

    def _copy_entry(
        self,
        selection: Selection,
        entry: SourceEntry,
        path: TreePath,
        owner: Ownership,
        links: dict[object, TreePath],
    ) -> None:
        meta = _owned(entry.meta, owner, is_dir=entry.kind == "dir")
        if entry.link_group is not None and entry.kind != "dir":
            first = links.setdefault(entry.link_group, path)
            if first != path:
                self._replace(PutHardlink(path, first))
                return
        match entry.kind:
            case "file":
                content = selection.tree.content(entry)
                self._replace(PutFile(path, meta, entry.size_bytes, content))
            case "dir":
                existing = self._entry(path)
                if existing is not None and existing.kind != "dir":
                    raise LoweringError(f"cannot copy a directory onto '/{path}': not a directory")
                self._put(PutDir(path, meta))
            case "symlink":
                plain = replace(meta, mode=0o777)
                self._replace(PutSymlink(path, plain, entry.target))
            case "char" | "block" | "fifo":
                self._replace(PutNode(path, meta, entry.kind, entry.major, entry.minor))
            case "socket":
                self._replace(PutFile(path, meta, 0, b""))

    # ---- unpacking

    def _unpack_member(self, change: Change, base: TreePath, owner: Ownership) -> None:
        path = change.path
        if not path:  # the archive's own root does not change the destination's attributes
            return
        parent, _, name = path.rpartition("/")
        directory = self._beneath(base, parent)
        self.make_directory("/" + directory)
        target = TreePath(f"{directory}/{name}" if directory else name)
        match change:
            case PutDir():
                existing = self._entry(target)
                if existing is not None and existing.kind != "dir":
                    self._remove(target)
                self._put(PutDir(target, _owned(change.meta, owner, is_dir=True)))
            case PutHardlink():
                head, _, last = change.target.rpartition("/")
                link = join(self._beneath(base, head), last)
                if link != target:  # GNU tar writes a name given twice as a link to itself
                    self._remove(target)
                    self._put_hardlink(target, link)
            case PutFile() | PutSymlink() | PutNode():
                self._remove(target)
                meta = _owned(change.meta, owner, is_dir=False)
                self._put(replace(change, path=target, meta=meta))
            case _:
                raise LoweringError(
                    f"the archive holds the whiteout file '/{path}'",
                    hint="names that begin with .wh. have a meaning of their own in layers",
                )

    def _beneath(self, base: TreePath, path: str) -> TreePath:
        """`path` with its links followed, where `base` is the root, as tar in a chroot sees it."""
        inside = resolve(_Beneath(self._entry, base), path)
        return TreePath(f"{base}/{inside}".strip("/"))

    def _put_hardlink(self, path: TreePath, target: TreePath) -> None:
        if target not in self._changes and not target.startswith(path + "/"):
            self._copy_up(target)
        found = self._changes.get(target)
        if isinstance(found, PutHardlink):
            target = found.target
        if isinstance(found, PutFile | PutNode | PutHardlink | PutSymlink):
            self._put(PutHardlink(path, target))
            return
        raise LoweringError(
            f"the archive links '/{path}' to '/{target}', which is no file of it or of the image"
        )

    def _copy_up(self, path: TreePath) -> None:
        """Take a file of the layers below into this one, so that it can be linked."""
        node = self._tree.get(path)
        if node is not None and node.entry.kind == "file" and node.layer is not None:
            entry = node.entry
            self._put(PutFile(path, entry.meta, entry.size_bytes, self._read(node)))

    def _put_directory(self, path: TreePath, parent: TocEntry, ownership: Ownership) -> TocEntry:
        """As mkdir(2): a set-group-ID parent hands down its group and the bit."""
        handed_down = parent.meta.mode & stat.S_ISGID
        gid = ownership.gid
        if gid is None:
            gid = parent.meta.gid if handed_down else 0
        mode = _DIRECTORY_MODE
        if ownership.mode is not None and ownership.mode.octal is not None:
            mode = ownership.mode.octal & 0o777
        meta = Meta(mode | handed_down, ownership.uid or 0, gid, self._now_ns)
        self._put(PutDir(path, meta))
        return TocEntry(path, "dir", meta)

    # ---- bookkeeping

    def _entry(self, path: str) -> TocEntry | None:
        node = self._tree.get(TreePath(path))
        if node is None:
            return _ROOT_DIRECTORY if not path else None
        return node.entry

    def _replace(self, change: Change) -> None:
        existing = self._entry(change.path)
        if existing is not None and existing.kind == "dir":
            raise LoweringError(f"cannot replace the directory '/{change.path}' by a file")
        self._put(change)

    def _remove(self, path: TreePath) -> None:
        """Forget what this step itself put there; what lower layers have is replaced by the Put."""
        self._forget(path)
        existing = self._entry(path)
        if existing is not None and existing.kind == "dir":
            for node in list(self._tree.walk(path))[1:]:
                self._forget(node.entry.path)

    def _forget(self, path: str) -> None:
        """Drop a change; of hard links to it the first becomes the file."""
        gone = self._changes.pop(path, None)
        if path not in self._linked:
            return
        heirs = [
            name
            for name in dict.fromkeys(self._linked.pop(path))
            if isinstance(link := self._changes.get(name), PutHardlink) and link.target == path
        ]
        if heirs and isinstance(gone, PutFile | PutSymlink | PutNode):
            first = TreePath(heirs[0])
            self._changes[first] = replace(gone, path=first)
            for name in heirs[1:]:
                self._changes[name] = PutHardlink(TreePath(name), first)
            self._linked[first] = heirs[1:]

    def _put(self, change: Change) -> None:
        self._forget(change.path)
        if isinstance(change, PutHardlink):
            self._linked.setdefault(change.target, []).append(change.path)
        self._changes[change.path] = change
        self._tree.apply_change(change)

    def _add_parents(self) -> None:
        for path in list(self._changes):
            parent = posixpath.dirname(path)
            while parent and parent not in self._changes:
                entry = self._entry(parent)
                assert entry is not None and entry.kind == "dir", "parents were made before"
                self._changes[parent] = PutDir(TreePath(parent), entry.meta)
                parent = posixpath.dirname(parent)


_ROOT_DIRECTORY = TocEntry(TreePath(""), "dir", Meta(_DIRECTORY_MODE))


def _owned(meta: Meta, owner: Ownership, *, is_dir: bool) -> Meta:
    if owner is KEEP:
        return meta
    mode = meta.mode
    if owner.mode is not None:
        mode = owner.mode.apply(stat.S_IMODE(mode), is_dir=is_dir)
    uid = meta.uid if owner.uid is None else owner.uid
    gid = meta.gid if owner.gid is None else owner.gid
    return Meta(mode, uid, gid, meta.mtime_ns, meta.xattrs)


class _Beneath:
    """A directory of the tree, as a root of its own for `sources.resolve`."""

    def __init__(self, entry: Callable[[str], TocEntry | None], base: TreePath) -> None:
        self._entry = entry
        self._base = base

    @property
    def description(self) -> str:
        return f"/{self._base}"

    def get(self, path: TreePath) -> TocEntry | None:
        return self._entry(f"{self._base}/{path}".strip("/"))
