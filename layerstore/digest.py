"""Digests: the names of content.

Spec: OCI image-spec v1.1, descriptor.md ("Digests"), config.md ("Layer ChainID").
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Self

from layerstore.errors import MalformedDocumentError

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")


class Digest(str):
    """`sha256:` and 64 hex digits. Made by `parse` or `of`, never by the bare constructor."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`.

        Raises:
            MalformedDocumentError: not a sha256 digest (sha512 is not supported).
        """
        if not _PATTERN.fullmatch(text):
            raise MalformedDocumentError(
                context="digest", problem=f"{text[:80]!r} is not sha256:<64 hex digits>"
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self[7:]

    @property
    def short(self) -> str:
        """The first twelve hex digits, as people read them."""
        return self[7:19]


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The chain id of every prefix of the stack, bottom first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
