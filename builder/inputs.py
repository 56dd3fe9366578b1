"""The inputs of a build as a user names them: context, Dockerfile, ignore file.

    PATH              a directory; the Dockerfile is in it (`Dockerfile`, else `Containerfile`)
    PATH -f FILE      the Dockerfile is FILE, inside the context or not, or at a URL
    PATH -f -         the Dockerfile is standard input
    -                 standard input is an archive, which is the context; or the Dockerfile, and
                      there is no context
    URL               a git repository, an archive, or a Dockerfile: see urls.py; -f is inside

The ignore file of a directory is `<Dockerfile>.dockerignore` beside the Dockerfile, else
`.dockerignore` at the top of the context; `.containerignore` where there is no such file. As in
BuildKit, none applies to archives and repositories.

A parsed Dockerfile is remembered by the digest of its text, so that building it again starts
neither lark nor its grammar. What is remembered can only hold nodes of the tree.

Source: Docker's `docker buildx build` reference and "Build context"; BuildKit dockerui/context.go.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import grammar
from builder.errors import ContextError
from builder.sources import FileTree, SourceTree, resolve
from builder.urls import FileUrl, GitUrl, other_scheme, parse_url, redacted
from grammar import Dockerfile, fingerprint
from layerstore import Digest, TreePath

if TYPE_CHECKING:
    from builder.remote import Remotes
    from layerstore import CacheIndex, Reader

DOCKERFILE_MAX_BYTES = 16 << 20
_NAMES = ("Dockerfile", "Containerfile", "dockerfile")
_IGNORE_SUFFIXES = (".dockerignore", ".containerignore")
_CONTEXT = "the build context"
_MEMO = "parsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read. `context` is a local directory or a tree, None where there is none."""

    name: str
    text: bytes
    context: "Path | SourceTree | None"
    ignore_file: bytes | None


def read_inputs(
    path: str,
    file: str | None,
    stdin: BinaryIO,
    remotes: "Callable[[], Remotes]",
    *,
    keep_git_dir: bool = False,
) -> Inputs:
    """Find and read the inputs of `lamina build PATH -f FILE`.

    Args:
        remotes: called for what is not a local directory; the context lasts as long as it does.
        keep_git_dir: whether the context of a git repository has its `.git`.

    Raises:
        ContextError: something is not there or cannot be read.
        FetchError, UrlError: something remote cannot be had.
    """
    if path == "-":
        return _read_stdin_context(file, stdin, remotes)
    match parse_url(path, is_context=True):
        case GitUrl() as url:
            keep_git_dir = keep_git_dir or bool(url.keep_git_dir)
            tree = remotes().repository(url, keep_git_dir=keep_git_dir, description=_CONTEXT)
            return _read_in_tree(tree, file, stdin, remotes)
        case FileUrl() as url:
            tree = remotes().archive_or_file(url, _CONTEXT)
            if not isinstance(tree, FileTree):
                return _read_in_tree(tree, file, stdin, remotes)
            if file is not None:
                raise ContextError(
                    f"{redacted(path)} is no archive, so it is the Dockerfile, and -f names another"
                )
            text = _bounded_stream(remotes().read(url))
            return Inputs(name=redacted(path), text=text, context=tree, ignore_file=None)
        case None:
            return _read_directory(path, file, stdin, remotes)


def read_ignore_file(context: Path, dockerfile: Path | None = None) -> bytes | None:
    """The ignore file of a directory, None without one."""
    # Differs from podman, which asks for .containerignore first: docker knows but the other.
    places = [Path(f"{dockerfile}{suffix}") for suffix in _IGNORE_SUFFIXES if dockerfile]
    places += [context / suffix for suffix in _IGNORE_SUFFIXES]
    for place in places:
        data = _read_optional(place)
        if data is not None:
            return data
    return None


def _read_directory(
    path: str, file: str | None, stdin: BinaryIO, remotes: "Callable[[], Remotes]"
) -> Inputs:
    if scheme := other_scheme(path):
        raise ContextError(
            f"unsupported context source {scheme}: {redacted(path)}",
            hint="a directory, an http(s) URL, or a repository by https, ssh or git",
        )
    context = Path(path)
    if not context.is_dir():
        problem = "is not a directory" if context.exists() else "does not exist"
        raise ContextError(
            f"the build context {path!r} {problem}",
            hint="the argument is the directory that COPY copies from; -f names the Dockerfile",
        )
    given = _read_elsewhere(file, stdin, remotes)
    if given is not None:
        name, text = given
        return Inputs(name=name, text=text, context=context, ignore_file=read_ignore_file(context))
    dockerfile = _dockerfile(context, file)
    return Inputs(
        name=str(dockerfile),
        text=_read(dockerfile),
        context=context,
        ignore_file=read_ignore_file(context, dockerfile),
    )


def read_beside(dockerfile: Path) -> Inputs:
    """Read a Dockerfile without a context; the ignore file is the one of its directory.

    Raises:
        ContextError: it cannot be read.
    """
    return Inputs(
        name=str(dockerfile),
        text=_read(dockerfile),
        context=None,
        ignore_file=read_ignore_file(dockerfile.parent, dockerfile),
    )


def _read_stdin_context(
    file: str | None, stdin: BinaryIO, remotes: "Callable[[], Remotes]"
) -> Inputs:
    from layerstore import Peeked, detect, is_tar

    stream = Peeked(stdin)
    if detect(stream.head) is not None or is_tar(stream.head):
        if file == "-":
            raise ContextError("can't use stdin for both build context and dockerfile")
        tree = remotes().archive(stream, _CONTEXT)
        assert tree is not None, "looked at above"
        return _read_in_tree(tree, file, stdin, remotes)
    if file not in (None, "-"):
        raise ContextError(
            "standard input is no archive, so it is the Dockerfile, and -f names another",
            hint="give a directory as the context",
        )
    return Inputs(name="-", text=_bounded_stream(stream), context=None, ignore_file=None)


def _read_in_tree(
    tree: SourceTree, file: str | None, stdin: BinaryIO, remotes: "Callable[[], Remotes]"
) -> Inputs:
    given = _read_elsewhere(file, stdin, remotes)
    if given is None:
        given = _read_member(tree, file)
    name, text = given
    return Inputs(name=name, text=text, context=tree, ignore_file=None)


def _read_elsewhere(
    file: str | None, stdin: BinaryIO, remotes: "Callable[[], Remotes]"
) -> tuple[str, bytes] | None:
    """The Dockerfile on standard input or at a URL; None when it is a path."""
    if file == "-":
        return "-", _bounded(stdin.read(DOCKERFILE_MAX_BYTES + 1))
    url = parse_url(file) if file else None
    if isinstance(url, FileUrl):
        return redacted(url.url), _bounded_stream(remotes().read(url))
    return None


def _read_member(tree: SourceTree, file: str | None) -> tuple[str, bytes]:
    """The Dockerfile inside a tree, links followed inside it."""
    for name in _NAMES if file is None else (file,):
        entry = tree.get(resolve(tree, name))
        if entry is None or entry.kind != "file":
            continue
        if entry.size_bytes > DOCKERFILE_MAX_BYTES:
            raise _too_large()
        content = tree.content(entry)
        return name, content if isinstance(content, bytes) else b"".join(content())
    if file is None:
        raise ContextError(f"no Dockerfile in {_CONTEXT}", hint="name one in it with -f")
    raise ContextError(
        f"cannot read the Dockerfile {file!r}: not in {_CONTEXT}", hint=_nearest_hint(tree, file)
    )


def _nearest_hint(tree: SourceTree, file: str) -> str:
    from builder.nearest import nearest

    head, _, name = file.strip("/").rpartition("/")
    close = nearest(name, tree.children(TreePath(head)))
    return f"did you mean {head + '/' if head else ''}{close}?" if close else ""


def parse_remembered(inputs: Inputs, cache: "CacheIndex") -> Dockerfile:
    """Parse the Dockerfile, or take the tree that the same text gave before.

    A text with a password in a URL is not kept.
    """
    name = inputs.name.encode("utf-8", "surrogateescape")
    key = Digest.of(b"\0".join([fingerprint().encode(), name, inputs.text]))
    kept = cache.get_memo(_MEMO, key)
    if kept is not None:
        tree = _load_tree(kept)
        if tree is not None:
            return tree
    tree = grammar.parse(inputs.text, name=inputs.name)  # imports lark
    text = inputs.text.decode("latin-1")
    if redacted(text) == text:
        cache.put_memo(_MEMO, key, pickle.dumps(tree, protocol=5))
    return tree


class _TreeUnpickler(pickle.Unpickler):
    """Makes nothing but nodes of the syntax tree."""

    def find_class(self, module_name: str, global_name: str) -> object:
        if module_name in ("grammar.nodes", "grammar.source") and global_name in grammar.__all__:
            found = getattr(grammar, global_name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a syntax tree")


def _load_tree(data: bytes) -> Dockerfile | None:
    try:
        tree = _TreeUnpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError):
        return None  # damaged or of another version: parse again
    return tree if isinstance(tree, Dockerfile) else None


def _dockerfile(context: Path, file: str | None) -> Path:
    if file is not None:
        # docker takes FILE relative to the working directory, buildah also to the context
        given = Path(file)
        return given if given.exists() or given.is_absolute() else _within(context, given)
    for name in _NAMES:
        if (context / name).is_file():
            return context / name
    raise ContextError(
        f"no Dockerfile in {str(context)!r}", hint="name one with -f, or - for standard input"
    )


def _within(context: Path, given: Path) -> Path:
    inside = context / given
    return inside if inside.exists() else given


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(DOCKERFILE_MAX_BYTES + 1)
    except OSError as error:
        raise ContextError(f"cannot read the Dockerfile {str(path)!r}: {error.strerror}") from error
    return _bounded(data)


def _bounded_stream(stream: "Reader") -> bytes:
    data = b""
    while len(data) <= DOCKERFILE_MAX_BYTES and (piece := stream.read(1 << 20)):
        data += piece
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > DOCKERFILE_MAX_BYTES:
        raise _too_large()
    return data


def _too_large() -> ContextError:
    return ContextError(f"the Dockerfile is larger than {DOCKERFILE_MAX_BYTES >> 20} MiB")


def _read_optional(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return _bounded(file.read(DOCKERFILE_MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ContextError(f"cannot read {str(path)!r}: {error.strerror}") from error
