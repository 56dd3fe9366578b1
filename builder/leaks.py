"""Secrets where they do not belong.

    in layers      a step that writes a secret it was lent into its layer fails
    in kept logs   they are masked; what a program writes while it runs is shown as it comes

What is looked for are the bytes of the secret, without blanks around them, plain and in base64 (as
part of a longer text, too). Secrets of a few bytes are not looked for: they are found everywhere.

Differs: docker lets such a step through, and the secret into the image.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from builder.errors import SecretLeakError
from layerstore import Change, PutFile, TreePath

_SECRET_BYTES_MIN = 8
_MASK = b"***"


def without_secrets(changes: Iterable[Change], secrets: Mapping[str, bytes]) -> Iterator[Change]:
    """The same changes; contents are looked at while they are read.

    Raises:
        SecretLeakError: while it is read, for a file with a secret in it.
    """
    needles = [(id, needle) for id, value in secrets.items() for needle in _needles(value)]
    for change in changes:
        if not isinstance(change, PutFile) or not needles:
            yield change
        elif isinstance(change.content, bytes):
            _look(change.content, needles, change.path)
            yield change
        else:
            yield replace(change, content=_watched(change.content, needles, change.path))


def masked(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """`data` with stars for secrets, and for whole lines of those that have several."""
    for value in secrets:
        for secret in (value, *value.splitlines()):
            for needle in _needles(secret):
                data = data.replace(needle, _MASK)
    return data


def _needles(value: bytes) -> Iterator[bytes]:
    secret = value.strip()
    if len(secret) < _SECRET_BYTES_MIN:
        return
    yield secret
    for before in range(3):  # a text of base64 may hold it at any of three places
        encoded = base64.b64encode(b"\0" * before + secret)
        # without the characters at the ends that hold bits of what stands around it
        yield encoded[(4 * before + 2) // 3 : 4 * (before + len(secret)) // 3]


def _watched(
    content: Callable[[], Iterable[bytes]], needles: list[tuple[str, bytes]], path: TreePath
) -> Callable[[], Iterator[bytes]]:
    kept = max(len(needle) for _, needle in needles) - 1

    def pieces() -> Iterator[bytes]:
        tail = b""
        for piece in content():
            _look(tail + piece, needles, path)
            tail = (tail + piece)[-kept:]
            yield piece

    return pieces


def _look(data: bytes, needles: list[tuple[str, bytes]], path: TreePath) -> None:
    for id, needle in needles:
        if needle in data:
            raise SecretLeakError(id=id, path=path)
