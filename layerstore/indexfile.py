"""index.json and its copy: the list of images survives damage of the file it is in.

    index.json       what every OCI tool reads, and may write
    lamina/index     SHA256-OF-THE-ONE-BEFORE SHA256\\n and what was last written to index.json here

The copy is written first, both are synced. So index.json is either of the two that the copy names,
or another tool has written it, or it is damaged: it cannot be parsed, or differs from the copy in a
byte or two, as no tool writes it. What is damaged is not served: the copy is, until something is
named anew, which writes both.
"""

import os
from collections.abc import Callable
from pathlib import Path

from layerstore.beside import write_durably
from layerstore.digest import Digest
from layerstore.documents import DOCUMENT_BYTES_MAX, Index
from layerstore.errors import MalformedDocumentError

_BYTES_NEAR = 2


class IndexFile:
    """The index of one store.

    Args:
        new_tmp_path: names a file on the same file system.
    """

    def __init__(self, root: Path, new_tmp_path: Callable[[str], Path]) -> None:
        self._path = root / "index.json"
        self._copy_path = root / "lamina" / "index"
        self._new_tmp_path = new_tmp_path

    def read(self) -> Index:
        """What is listed.

        Raises:
            MalformedDocumentError: it is missing, damaged or too large, and there is no copy.
        """
        data, _ = self._sound()
        return Index.parse(data)

    def damage(self) -> list[tuple[str, str]]:
        """The files that are damaged, below the root, and in what way."""
        found = []
        try:
            data, problem = self._sound()
            Index.parse(data)
        except MalformedDocumentError as error:
            problem = error.problem
        if problem:
            found.append(("index.json", problem))
        if self._copy_path.exists() and self._copy() is None:
            found.append(("lamina/index", "is not what was written"))
        return found

    def replace(self, index: Index) -> None:
        """Write `index` durably, or raise and leave what was; the caller holds the store's lock."""
        before = _digest_of_file(self._path)
        data = index.encode()
        copy = f"{before} {Digest.of(data).hex}\n".encode() + data
        write_durably(self._copy_path, copy, self._new_tmp_path("index"))
        former = self._new_tmp_path("index")
        if before:
            former.hardlink_to(self._path)
        try:
            write_durably(self._path, data, self._new_tmp_path("index"))
        except BaseException:  # what was renamed and perhaps not synced is taken back
            if before:
                former.rename(self._path)
            raise
        if before:
            former.unlink()

    def _sound(self) -> tuple[bytes, str]:
        """The bytes of an index that may be believed, and what is wrong with index.json itself."""
        copy = self._copy()
        try:
            data = read_index_file(self._path)
            if copy is None or Digest.of(data).hex in copy[0]:
                return data, ""
            Index.parse(data)
        except MalformedDocumentError as error:
            if copy is None:
                raise
            return copy[1], error.problem
        if _is_near(data, copy[1]):
            return copy[1], "differs in a byte from what was written"
        return data, ""

    def _copy(self) -> tuple[list[str], bytes] | None:
        """The digests that index.json may have, and what it had last; None without a good copy."""
        try:
            head, _, data = self._copy_path.read_bytes().partition(b"\n")
            digests = head.decode().split(" ")
            return (digests, data) if digests[-1] == Digest.of(data).hex else None
        except (OSError, ValueError):
            return None


def read_index_file(path: Path) -> bytes:
    """The bytes of an index.json, not many more than one may have.

    Raises:
        MalformedDocumentError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise MalformedDocumentError(context=str(path), problem=problem) from None
    with open(fd, "rb") as file:
        return file.read(DOCUMENT_BYTES_MAX + 1)


def _digest_of_file(path: Path) -> str:
    """The hex digits; empty when there is no such file, or it is none."""
    try:
        return Digest.of(read_index_file(path)).hex
    except MalformedDocumentError:
        return ""


def _is_near(one: bytes, other: bytes) -> bool:
    if len(one) != len(other):
        return False
    return sum(a != b for a, b in zip(one, other, strict=True)) <= _BYTES_NEAR
