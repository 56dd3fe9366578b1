"""The build context: a host directory seen through its ignore rules.

Directories are read when a COPY first asks for them, and each file's content at most once: small
contents read for a digest are kept for the packer, within a budget.

Digests are remembered between builds by (device, inode, size, mtime, ctime): an unchanged file is
only stat'ed. As in git, a stamp taken while the file could still change within the clock's grain
is not remembered ("racy" entries), so a remembered digest is never stale. Nor is a file that has
extended attributes, so that those of the others need not be asked for.

As Docker does, everything in the context belongs to 0:0 in the image.

Nothing here follows a link: every component is opened beneath the last with O_NOFOLLOW, so a
context that changes under our feet can not lead outside.

Source: Docker's build context reference; git's Documentation/technical/racy-git.
"""

import os
import stat
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from builder.errors import ContextError
from builder.ignorefile import NO_RULES, IgnoreRules
from builder.sources import EntryKind, SourceEntry
from layerstore import Content, Digest, FileStamp, Meta, TreePath

_KEEP_FILE_MAX_BYTES = 1 << 20
_KEEP_TOTAL_MAX_BYTES = 128 << 20
_PIECE_BYTES = 1 << 20
_CLOCK_GRAIN_NS = 20_000_000  # file times may lag the clock by a jiffy; 10 ms at HZ=100

_KINDS: dict[int, EntryKind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class ContextTree:
    """A directory as a source of COPY. Carries out `SourceTree`; close it when done."""

    def __init__(
        self,
        root: Path,
        rules: IgnoreRules = NO_RULES,
        *,
        stamps: dict[str, FileStamp] | None = None,
        description: str = "the build context",
        mtime_ns: int | None = None,
    ) -> None:
        self._description = description
        self._mtime_ns = mtime_ns  # of everything, instead of what the files have
        self._rules = rules
        self._root = root
        try:
            self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ContextError(
                f"cannot open the build context {str(root)!r}: {error.strerror}",
                hint="the context is a directory; `-f` names the Dockerfile",
            ) from error
        self._root_status = os.fstat(self._root_fd)
        self._entries: dict[str, SourceEntry] = {}
        self._stats: dict[str, os.stat_result] = {}
        self._children: dict[str, list[str]] = {}
        self._partial: set[str] = set()  # directories in which something is ignored
        self._fertile: dict[str, bool] = {}  # ignored directories: is something taken back?
        self._contents: dict[str, bytes] = {}
        self._kept_bytes = 0
        self._digests: dict[str, Digest] = {}
        self._stamps = stamps or {}
        self._fresh: dict[str, FileStamp] = {}
        self._dir_fd: tuple[str, int] = ("", self._root_fd)
        self.files_read = 0

    @property
    def description(self) -> str:
        return self._description

    def close(self) -> None:
        """Release the descriptors."""
        self._leave_directory()
        os.close(self._root_fd)

    @property
    def ignored_by_rules(self) -> IgnoreRules:
        """The ignore rules, for messages about files that exist and are ignored."""
        return self._rules

    def fresh_stamps(self) -> dict[str, FileStamp] | None:
        """What to remember for the next build; None when nothing new was learned."""
        if not self.files_read:
            return None
        kept = {path: stamp for path, stamp in self._stamps.items() if not self._is_gone(path)}
        return kept | self._fresh

    def _is_gone(self, path: str) -> bool:
        """Whether a directory was read that `path` should have been found in, or led through."""
        parent = ""
        for end in [index for index, char in enumerate(path + "/") if char == "/"]:
            if parent not in self._children:
                return False
            parent = path[:end]
            if parent not in self._entries:
                return True
        return False

    def get(self, path: TreePath) -> SourceEntry | None:
        if not path:
            return self._top()
        known = self._entries.get(path)
        if known is not None:
            return known
        parent, _, _ = path.rpartition("/")
        if parent and (above := self.get(TreePath(parent))) is not None and above.kind != "dir":
            return None
        self.children(TreePath(parent))
        return self._entries.get(path)

    def children(self, path: TreePath) -> list[str]:
        known = self._children.get(path)
        if known is None:
            known = self._children[path] = self._read_directory(path)
        return known

    def digest(self, entry: SourceEntry) -> Digest:
        known = self._digests.get(entry.path)
        if known is None:
            known = self._digests[entry.path] = self._digest(entry)
        return known

    def content(self, entry: SourceEntry) -> Content:
        kept = self._contents.get(entry.path)
        if kept is not None:
            return kept
        return lambda: self._pieces(entry, verify=True)

    def host_root(self, path: TreePath) -> Path | None:
        """The context's directory, if it shows at `path` just what is here; None if it does not.

        Where something is ignored, or does not belong to root, a copy has to be made. `path` has
        been walked before: this is decided by what was found.
        """
        if any(_is_inside(path, each) for each in self._partial):
            return None
        if any(status.st_uid or status.st_gid for status in self._found(path).values()):
            return None
        return Path(os.path.abspath(self._root))  # noqa: PTH100 - links stay

    def is_unchanged(self, path: TreePath) -> bool:
        """Whether all that was found at and beneath `path` still is as it was."""
        try:
            return all(
                _stamp(os.stat(each or ".", dir_fd=self._root_fd, follow_symlinks=False))
                == _stamp(status)
                for each, status in self._found(path).items()
            )
        except OSError:  # gone
            return False

    def _found(self, path: TreePath) -> dict[str, os.stat_result]:
        stats = self._stats if path else {"": self._root_status, **self._stats}
        return {each: status for each, status in stats.items() if _is_inside(path, each)}

    def exists_ignored(self, path: str) -> bool:
        """Whether `path` is there and only the ignore rules hide it."""
        if not self._rules.ignores(path):
            return False
        parent, _, name = path.rpartition("/")
        try:
            os.stat(name, dir_fd=self._enter_directory(parent), follow_symlinks=False)
        except OSError:
            return False
        return True

    # ---- reading directories

    def _top(self) -> SourceEntry:
        status = os.fstat(self._root_fd)
        return SourceEntry(
            TreePath(""), "dir", Meta(stat.S_IMODE(status.st_mode), 0, 0, self._mtime(status))
        )

    def _mtime(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._mtime_ns is None else self._mtime_ns

    def _read_directory(self, path: TreePath) -> list[str]:
        try:
            fd = self._enter_directory(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                known = self._entries.get(path)
                if known is not None and known.kind == "dir":
                    raise self._changed(path) from error
                return []
            raise self._unreadable(path, error) from error
        prefix = path + "/" if path else ""
        names: list[str] = []
        doubtful: list[tuple[str, SourceEntry]] = []
        with os.scandir(fd) as found:
            for item in found:
                child = prefix + item.name
                ignored = bool(self._rules.rules) and self._rules.ignores(child)
                if ignored and not (
                    item.is_dir(follow_symlinks=False) and self._rules.may_take_back(child)
                ):
                    self._partial.add(path)
                    continue
                try:
                    status = item.stat(follow_symlinks=False)
                    entry = self._entry(child, status, item.name, fd)
                except FileNotFoundError:  # gone since the directory was opened
                    continue
                if ignored:
                    doubtful.append((item.name, entry))
                    continue
                names.append(item.name)
                self._entries[child] = entry
                self._stats[child] = status
        # an ignored directory exists only as the parent of something that is not
        for name, entry in doubtful:
            if self._holds_something(entry.path):
                names.append(name)
                self._entries[entry.path] = entry
            else:
                self._partial.add(path)
        names.sort(key=os.fsencode)
        return names

    def _holds_something(self, directory: str) -> bool:
        """Whether the rules take something back from beneath an ignored directory."""
        pending = [(directory, False)]
        while pending:
            path, done = pending.pop()
            known = self._fertile.get(path)
            if done:
                self._fertile[path] = False
            elif known is None:
                pending.append((path, True))
                beneath = self._directories_beneath(path)
                known = beneath is None
                pending.extend((below, False) for below in beneath or ())
            if known:
                self._fertile.update((each, True) for each, entered in pending if entered)
                return True
        return False

    def _directories_beneath(self, path: str) -> list[str] | None:
        """The directories to look into; None when something in `path` itself is not ignored."""
        try:
            fd = self._enter_directory(path)
        except OSError:  # gone, or not readable: of an ignored directory nothing is missed
            return []
        found = []
        with os.scandir(fd) as items:
            for item in items:
                child = f"{path}/{item.name}"
                if not self._rules.ignores(child):
                    return None
                if item.is_dir(follow_symlinks=False) and self._rules.may_take_back(child):
                    found.append(child)
        return found

    def _entry(self, path: str, status: os.stat_result, name: str, dir_fd: int) -> SourceEntry:
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        remembered = self._stamps.get(path)
        if remembered is not None and remembered[:-1] == _stamp(status):
            xattrs: tuple[tuple[str, bytes], ...] = ()  # else it would not be remembered
        else:
            xattrs = _xattrs(name, dir_fd, kind)
        meta = Meta(stat.S_IMODE(status.st_mode), 0, 0, self._mtime(status), xattrs)
        tree_path = TreePath(path)
        if kind == "file":
            group = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
            return SourceEntry(tree_path, kind, meta, status.st_size, link_group=group)
        if kind == "symlink":
            return SourceEntry(tree_path, kind, meta, 0, os.readlink(name, dir_fd=dir_fd))
        if kind in ("char", "block"):
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            return SourceEntry(tree_path, kind, meta, 0, "", major, minor)
        return SourceEntry(tree_path, kind, meta)

    # ---- descriptors: the last directory is kept open

    def _enter_directory(self, path: str) -> int:
        held, fd = self._dir_fd
        if held == path:
            return fd
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        start, rest = self._root_fd, path
        if held and path.startswith(held + "/"):
            start, rest = fd, path[len(held) + 1 :]
        current = start
        try:
            for part in rest.split("/") if rest else ():
                below = os.open(part, flags, dir_fd=current)
                if current not in (self._root_fd, fd):
                    os.close(current)
                current = below
        except OSError:
            if current not in (self._root_fd, fd):
                os.close(current)
            raise
        if current != fd:
            self._leave_directory()
        self._dir_fd = (path, current)
        return current

    def _leave_directory(self) -> None:
        if self._dir_fd[1] != self._root_fd:
            os.close(self._dir_fd[1])
        self._dir_fd = ("", self._root_fd)

    # ---- contents

    def _digest(self, entry: SourceEntry) -> Digest:
        self.get(entry.path)
        status = self._stats[entry.path]
        remembered = self._stamps.get(entry.path)
        stamp = _stamp(status)
        if remembered is not None and remembered[:-1] == stamp:
            return remembered.digest
        started_ns = time.time_ns()
        self.files_read += 1
        if entry.size_bytes <= _KEEP_FILE_MAX_BYTES:
            data = b"".join(self._pieces(entry, verify=False))
            if self._kept_bytes + len(data) <= _KEEP_TOTAL_MAX_BYTES:
                self._kept_bytes += len(data)
                self._contents[entry.path] = data
            digest = Digest.of(data)
        else:
            hasher = sha256()
            for piece in self._pieces(entry, verify=True):
                hasher.update(piece)
            digest = Digest("sha256:" + hasher.hexdigest())
        is_old = max(status.st_mtime_ns, status.st_ctime_ns) < started_ns - _CLOCK_GRAIN_NS
        if is_old and not entry.meta.xattrs:
            self._fresh[entry.path] = FileStamp(*stamp, digest)
        return digest

    def _pieces(self, entry: SourceEntry, *, verify: bool) -> Iterator[bytes]:
        """The content, provided that the file is still the one that was stat'ed.

        With `verify`, also that it still is when all has been read: the digest is known already,
        or goes on being taken while somebody writes.
        """
        parent, _, name = entry.path.rpartition("/")
        expected = _stamp(self._stats[entry.path])
        try:
            dir_fd = self._enter_directory(parent)
            # what was a file may be a fifo by now: never wait for its writer
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=dir_fd)
        except OSError as error:
            raise self._unreadable(entry.path, error) from error
        try:
            if _stamp(os.fstat(fd)) != expected:
                raise self._changed(entry.path)
            remaining = entry.size_bytes
            while remaining:
                piece = os.read(fd, min(remaining, _PIECE_BYTES))
                if not piece:
                    raise self._changed(entry.path)
                remaining -= len(piece)
                yield piece
            if verify and _stamp(os.fstat(fd)) != expected:
                raise self._changed(entry.path)
        finally:
            os.close(fd)

    def _changed(self, path: str) -> ContextError:
        return ContextError(
            f"{path!r} changed while it was being read",
            hint="build again when nothing writes to the build context",
        )

    def _unreadable(self, path: str, error: OSError) -> ContextError:
        return ContextError(
            f"cannot read {path!r} in the build context: {error.strerror}",
            hint="make it readable, or list it in .dockerignore",
        )


def _is_inside(top: str, path: str) -> bool:
    return not top or path == top or path.startswith(top + "/")


def _stamp(status: os.stat_result) -> tuple[int, int, int, int, int, int]:
    """All of a `FileStamp` but the digest."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
    )


def _xattrs(name: str, dir_fd: int, kind: EntryKind) -> tuple[tuple[str, bytes], ...]:
    """user.* and file capabilities; other name spaces are the host's own."""
    if kind not in ("file", "dir"):
        return ()
    path = f"/proc/self/fd/{dir_fd}/{name}"
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return tuple(
            (each, os.getxattr(path, each, follow_symlinks=False))
            for each in sorted(names)
            if each.startswith("user.") or each == "security.capability"
        )
    except OSError:  # a file system without xattrs, or the file is gone: its content decides
        return ()
