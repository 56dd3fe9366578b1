"""Secrets where they do not belong.

    in layers      a step that writes a secret of the build into its layer fails
    in kept logs   they are masked; what a program writes while it runs is shown as it comes

What is looked for are the bytes of the secret, without blanks around them: plain, percent-encoded
as in a URL, and in base64, of either alphabet and as part of a longer text, too. In layers line
ends do not count, so that a text broken into lines is found as well; names, link targets and
extended attributes are looked at like contents. Secrets of a few bytes are not looked for: they are
found everywhere. Nor is anything found that was compressed or encrypted.

Differs: docker lets such a step through, and the secret into the image.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import quote, unquote_to_bytes

from builder.errors import SecretLeakError
from layerstore import Change, Opaque, PutFile, PutHardlink, PutSymlink, Remove, TreePath

_SECRET_BYTES_MIN = 6
_MASK = b"***"
_LINE_ENDS = b"\r\n"
_ONE_ALPHABET = bytes.maketrans(b"-_", b"+/")  # base64url is searched as base64
_LOOK_BYTES_MIN = 1 << 20


def without_secrets(changes: Iterable[Change], secrets: Mapping[str, bytes]) -> Iterator[Change]:
    """The same changes; contents are looked at while they are read.

    Raises:
        SecretLeakError: while it is read, for a change with a secret in it.
    """
    search = _Search(secrets)
    if not search.needles:
        yield from changes
        return
    for change in changes:
        for data in _attributes(change):
            search.look(_folded(data), change.path)
        if not isinstance(change, PutFile):
            yield change
        elif isinstance(change.content, bytes):
            search.look(_folded(change.content), change.path)
            yield change
        else:
            yield replace(change, content=search.watched(change.content, change.path))


def masked(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """`data` with stars for secrets, and for whole lines of those that have several."""
    for value in secrets:
        for secret in (value, *value.splitlines()):
            for needle in _needles(secret):
                data = data.replace(needle, _MASK)
    return data


def credentials_of(build_args: Mapping[str, str]) -> dict[str, bytes]:
    """What is secret in proxy settings: those with a user, and the user with its password.

    A password alone is not: it may be a common word, while it is nothing without its user.
    """
    found: dict[str, bytes] = {}
    for name, url in build_args.items():
        before, at, _ = url.rpartition("@")
        if not at or not name.lower().endswith("_proxy"):
            continue
        found[name] = os.fsencode(url)
        found[f"{name}, user and password"] = unquote_to_bytes(before.rpartition("//")[2])
    return found


def _attributes(change: Change) -> Iterator[bytes]:
    """All bytes of a change that a tar holds, but for the content of a file."""
    yield os.fsencode(change.path)
    if isinstance(change, PutSymlink | PutHardlink):
        yield os.fsencode(change.target)
    if not isinstance(change, PutHardlink | Remove | Opaque):
        for name, value in change.meta.xattrs:
            yield os.fsencode(name)
            yield value


def _needles(value: bytes) -> Iterator[bytes]:
    secret = value.strip()
    if len(secret) < _SECRET_BYTES_MIN:
        return
    yield secret
    for safe in ("", "/"):
        encoded = quote(secret, safe=safe).encode()
        if encoded != secret:
            yield encoded
    for before in range(3):  # a text of base64 may hold it at any of three places
        encoded = base64.b64encode(b"\0" * before + secret)
        # without the characters at the ends that hold bits of what stands around it
        yield encoded[(4 * before + 2) // 3 : 4 * (before + len(secret)) // 3]


def _folded(data: bytes) -> bytes:
    """Needles and what they are looked for in, made alike."""
    return data.translate(_ONE_ALPHABET, _LINE_ENDS)


class _Search:
    """`needles` are what is looked for, each beside the name of its secret."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = secrets
        every = {
            (id, _folded(needle)): None
            for id, value in secrets.items()
            for needle in _needles(value)
        }
        self.needles = [(id, it) for id, it in every if len(it) >= _SECRET_BYTES_MIN]

    def look(self, data: bytes, path: TreePath) -> None:
        for id, needle in self.needles:
            if needle in data:
                shown = masked(os.fsencode(path), self._secrets.values())
                raise SecretLeakError(id=id, path=os.fsdecode(shown))

    def watched(
        self, content: Callable[[], Iterable[bytes]], path: TreePath
    ) -> Callable[[], Iterator[bytes]]:
        kept = max(len(needle) for _, needle in self.needles) - 1
        enough = max(_LOOK_BYTES_MIN, 4 * kept)  # long needles shall cost no more than short ones

        def pieces() -> Iterator[bytes]:
            held = b""
            for piece in content():
                held += _folded(piece)
                if len(held) >= enough:
                    self.look(held, path)
                    held = held[-kept:]
                yield piece
            self.look(held, path)

        return pieces
