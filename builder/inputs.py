"""The inputs of a build as a user names them: context, Dockerfile, ignore file.

    PATH              a directory; the Dockerfile is in it (`Dockerfile`, else `Containerfile`)
    PATH -f FILE      the Dockerfile is FILE, inside the context or not
    PATH -f -         the Dockerfile is standard input
    -                 the Dockerfile is standard input and there is no context

The ignore file is `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` at the
top of the context.

A parsed Dockerfile is remembered by the digest of its text, so that building it again starts
neither lark nor its grammar. What is remembered can only hold nodes of the tree.

Source: Docker's `docker buildx build` reference and "Build context".
"""

import io
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import grammar
from builder.errors import ContextError, UnsupportedFeatureError
from grammar import Dockerfile, fingerprint
from layerstore import CacheIndex, Digest

DOCKERFILE_MAX_BYTES = 16 << 20
_REMOTE = re.compile(r"(?i)https?://|git@|git://|ssh://|github\.com/")
_MEMO = "parsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read. `context` and `ignore_file` are None where there is none."""

    name: str
    text: bytes
    context: Path | None
    ignore_file: bytes | None


def read_inputs(path: str, file: str | None, stdin: BinaryIO) -> Inputs:
    """Find and read the inputs of `lamina build PATH -f FILE`.

    Raises:
        ContextError: something is not there or cannot be read.
    """
    if _REMOTE.match(path):
        raise UnsupportedFeatureError(
            feature="a remote build context", hint="check it out, and give the directory"
        )
    if path == "-":
        if file not in (None, "-"):
            raise ContextError(
                "the context cannot be standard input when -f names a file",
                hint="give a directory as the context",
            )
        return Inputs(name="-", text=_read_stdin(stdin), context=None, ignore_file=None)
    context = Path(path)
    if not context.is_dir():
        problem = "is not a directory" if context.exists() else "does not exist"
        raise ContextError(
            f"the build context {path!r} {problem}",
            hint="the argument is the directory that COPY copies from; -f names the Dockerfile",
        )
    if file == "-":
        ignore_file = _read_optional(context / ".dockerignore")
        return Inputs(name="-", text=_read_stdin(stdin), context=context, ignore_file=ignore_file)
    dockerfile = _dockerfile(context, file)
    return Inputs(
        name=str(dockerfile),
        text=_read(dockerfile),
        context=context,
        ignore_file=_read_ignore_file(dockerfile, context),
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
        ignore_file=_read_ignore_file(dockerfile, dockerfile.parent),
    )


def parse_remembered(inputs: Inputs, cache: CacheIndex) -> Dockerfile:
    """Parse the Dockerfile, or take the tree that the same text gave before."""
    key = Digest.of(f"{fingerprint()}\0{inputs.name}\0".encode() + inputs.text)
    kept = cache.get_memo(_MEMO, key)
    if kept is not None:
        tree = _load_tree(kept)
        if tree is not None:
            return tree
    tree = grammar.parse(inputs.text, name=inputs.name)  # imports lark
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
    for name in ("Dockerfile", "Containerfile"):
        if (context / name).is_file():
            return context / name
    raise ContextError(
        f"no Dockerfile in {str(context)!r}", hint="name one with -f, or - for standard input"
    )


def _within(context: Path, given: Path) -> Path:
    inside = context / given
    return inside if inside.exists() else given


def _read_ignore_file(dockerfile: Path, directory: Path) -> bytes | None:
    own = _read_optional(Path(f"{dockerfile}.dockerignore"))
    return own if own is not None else _read_optional(directory / ".dockerignore")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(DOCKERFILE_MAX_BYTES + 1)
    except OSError as error:
        raise ContextError(f"cannot read the Dockerfile {str(path)!r}: {error.strerror}") from error
    return _bounded(data)


def _read_stdin(stdin: BinaryIO) -> bytes:
    data = _bounded(stdin.read(DOCKERFILE_MAX_BYTES + 1))
    if data[:2] == b"\x1f\x8b" or data[257:262] == b"ustar" or data[:4] == b"\x28\xb5\x2f\xfd":
        raise UnsupportedFeatureError(
            feature="a build context as a tar archive on standard input",
            hint="unpack it, and give the directory",
        )
    return data


def _bounded(data: bytes) -> bytes:
    if len(data) > DOCKERFILE_MAX_BYTES:
        raise ContextError(f"the Dockerfile is larger than {DOCKERFILE_MAX_BYTES >> 20} MiB")
    return data


def _read_optional(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return _bounded(file.read(DOCKERFILE_MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ContextError(f"cannot read {str(path)!r}: {error.strerror}") from error
