"""What ADD and contexts fetch, as selections and trees.

A selection is known before anything is downloaded where that can be: a file by --checksum or by
what the server said before, a repository by its commit. What a step needs is fetched when the step
is carried out, so a cached build downloads nothing.

Temporary files are in the store's own tmp: they go with `cleanup`, or with the next command when
this process dies.

Source: BuildKit dockerfile2llb/convert_copy.go, dockerui/context.go.
"""

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from builder.context import ContextTree
from builder.errors import ContextError, FetchError, LoweringError
from builder.fetch import Fetched, Fetcher
from builder.gitcheckout import Git
from builder.ignorefile import NO_RULES, parse_ignore_file
from builder.sources import FileTree, LazyTree, Selection, SourceTree, newest_file_s, resolve
from builder.tartree import TarTree
from builder.urls import FileUrl, GitUrl, is_commit_prefix, redacted
from layerstore import (
    Content,
    Digest,
    MalformedDocumentError,
    Meta,
    Peeked,
    Reader,
    Store,
    StoreError,
    TreePath,
    decompressor,
    detect,
    is_tar,
)

CONTEXT_FILE = "context"  # what BuildKit calls a context that is one file
_GIT_DIRS = b".git\n**/.git\n"  # git itself tracks nothing of that name
_MODE = 0o600


class Remotes:
    """Fetches for one build.

    Args:
        agent: the SSH agent that the caller lends to the Dockerfile. Contexts, which the caller
            names, may have the caller's own, as in docker.
    """

    def __init__(self, store: Store, cleanup: ExitStack, agent: Path | None = None) -> None:
        self._store = store
        self._cleanup = cleanup
        self._agent = agent
        self._directory: Path | None = None
        self._fetcher = Fetcher(self._new_file, store.cache, cleanup)

    def select(
        self, url: GitUrl | FileUrl, *, checksum: str, keep_git_dir: bool | None, unpack: bool
    ) -> Selection:
        """What ADD selects at `url`.

        Raises:
            FetchError: it cannot be had.
            LoweringError: flags that make no sense.
        """
        if isinstance(url, GitUrl):
            return self._select_repository(url, checksum=checksum, keep_git_dir=keep_git_dir)
        return self._select_file(url, checksum=checksum, unpack=unpack)

    def repository(self, url: GitUrl, *, keep_git_dir: bool, description: str) -> SourceTree:
        """The files of a repository."""
        git = self._git(is_context=True)
        return self._checkout(git, url, git.commit_of(url), keep_git_dir, description)

    def read(self, url: FileUrl) -> Reader:
        """What is at `url`, as a stream."""
        return _Stream(self._fetcher.fetch(url.url, None))

    def archive_or_file(self, url: FileUrl, description: str) -> SourceTree:
        """The archive at `url`, else what is there as the file `context`."""
        fetched = self._fetcher.fetch(url.url, None)
        tree = self.archive(_Stream(fetched), description)
        if tree is not None:
            return tree
        meta = Meta(_MODE, 0, 0, fetched.mtime_s * 1_000_000_000)
        return FileTree(
            CONTEXT_FILE, meta, fetched.size_bytes, fetched.content, description=description
        )

    def archive(self, stream: Reader, description: str) -> SourceTree | None:
        """The members of a tar, compressed or not; None where `stream` is something else."""
        peeked = stream if isinstance(stream, Peeked) else Peeked(stream)
        kind = detect(peeked.head)
        if kind is None and not is_tar(peeked.head):
            return None
        try:
            return TarTree(
                decompressor(kind or "none", peeked),
                self._cleanup,
                directory=self._tmp(),
                description=description,
            )
        except (StoreError, LoweringError) as error:
            raise ContextError(f"{description}: {error.message}", hint=error.hint) from error

    def time_of(
        self, url: GitUrl | FileUrl, *, checksum: str, is_context: bool = False
    ) -> int | None:
        """When it was changed last, in seconds: SOURCE_DATE_EPOCH may ask for it."""
        if isinstance(url, GitUrl):
            url = _with_flags(url, checksum=checksum, keep_git_dir=None)
            git = self._git(is_context=is_context)
            _, seconds = git.checkout(url, git.commit_of(url), keep_git_dir=False)
            return seconds
        fetched = self._fetcher.fetch(url.url, _sha256(checksum) if checksum else None)
        if fetched.mtime_s:
            return fetched.mtime_s
        archive = self.archive(_Stream(fetched), redacted(url.url))
        return None if archive is None else newest_file_s(archive)

    # ---- files

    def _select_file(self, url: FileUrl, *, checksum: str, unpack: bool) -> Selection:
        digest = _sha256(checksum) if checksum else self._fetcher.digest(url.url)
        shown = redacted(url.url)
        return Selection(
            name=url.name,
            kind="file",
            digest=_identity("http", _MODE, digest),
            unpacks=unpack,
            tree=LazyTree(
                partial(self._file, url, digest, is_pinned=bool(checksum)), description=shown
            ),
            path=TreePath(url.name),
        )

    def _file(self, url: FileUrl, digest: Digest, *, is_pinned: bool) -> SourceTree:
        fetched = self._fetcher.fetch(url.url, digest if is_pinned else None)
        shown = redacted(url.url)
        if fetched.digest != digest:
            raise FetchError(f"{shown} changed while it was being fetched", hint="build again")
        content: Content = fetched.content
        meta = Meta(_MODE, 0, 0, fetched.mtime_s * 1_000_000_000)
        return FileTree(url.name, meta, fetched.size_bytes, content, description=shown)

    # ---- repositories

    def _git(self, *, is_context: bool) -> Git:
        agent = self._agent
        if agent is None and is_context and (own := os.environ.get("SSH_AUTH_SOCK")):
            agent = Path(own)
        return Git(self._new_directory(), agent)

    def _select_repository(
        self, url: GitUrl, *, checksum: str, keep_git_dir: bool | None
    ) -> Selection:
        url = _with_flags(url, checksum=checksum, keep_git_dir=keep_git_dir)
        git = self._git(is_context=False)
        commit = git.commit_of(url)
        keeps = bool(url.keep_git_dir) and not url.subdir.strip("/")
        shown = redacted(url.remote)
        asked = (url.remote, url.ref) if keeps else ()  # what .git holds besides the commit
        return Selection(
            name="",
            kind="dir",
            digest=_identity("git", commit, url.subdir, keeps, url.submodules, *asked),
            tree=LazyTree(
                partial(self._checkout, git, url, commit, keeps, shown), description=shown
            ),
            path=TreePath(""),
        )

    def _checkout(
        self, git: Git, url: GitUrl, commit: str, keep_git_dir: bool, description: str
    ) -> SourceTree:
        directory, seconds = git.checkout(url, commit, keep_git_dir=keep_git_dir)
        rules = NO_RULES if keep_git_dir else parse_ignore_file(_GIT_DIRS)

        def opened(path: Path) -> ContextTree:
            tree = ContextTree(
                path, rules, description=description, mtime_ns=seconds * 1_000_000_000
            )
            self._cleanup.callback(tree.close)
            return tree

        tree = opened(directory)
        inside = resolve(tree, url.subdir)
        if not inside:
            return tree
        entry = tree.get(inside)
        if entry is None or entry.kind != "dir":
            raise FetchError(f"{redacted(url.remote)} has no directory {url.subdir!r}")
        return opened(directory / inside)

    # ---- temporary files

    def _tmp(self) -> Path:
        if self._directory is None:
            self._directory = self._cleanup.enter_context(self._store.new_tmpdir())
        return self._directory

    def _new_directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._tmp()))

    def _new_file(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self._tmp(), buffering=0)


def _sha256(checksum: str) -> Digest:
    try:
        return Digest.parse(checksum)
    except MalformedDocumentError as error:
        raise LoweringError(
            f"invalid checksum {checksum!r}", hint="sha256: and 64 hexadecimal digits"
        ) from error


def _identity(*facts: object) -> Digest:
    return Digest.of(json.dumps(facts).encode())


def _with_flags(url: GitUrl, *, checksum: str, keep_git_dir: bool | None) -> GitUrl:
    """What the URL asks for and what the flags ask for, which must agree."""
    if checksum:
        if url.checksum and url.checksum != checksum:
            raise LoweringError(f"checksum mismatch {checksum!r} != {url.checksum!r}")
        if not is_commit_prefix(checksum):
            raise LoweringError(
                f"invalid checksum {checksum!r}", hint="of a repository it is the commit's id"
            )
        url = replace(url, checksum=checksum, ref=url.ref or checksum)
    if keep_git_dir is not None:
        if url.keep_git_dir not in (None, keep_git_dir):
            raise LoweringError("inconsistent keep-git-dir configuration")
        url = replace(url, keep_git_dir=keep_git_dir)
    return url


class _Stream:
    """The content of a fetched file as a stream."""

    def __init__(self, fetched: Fetched) -> None:
        self._pieces = fetched.content()
        self._buffer = b""

    def read(self, size: int = -1, /) -> bytes:
        if not self._buffer:
            self._buffer = next(self._pieces, b"")
        if size < 0:
            data = self._buffer + b"".join(self._pieces)
            self._buffer = b""
            return data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
