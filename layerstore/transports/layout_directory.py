"""An OCI image layout as a directory that is added to, by this and by other programs.

Every file appears by rename, whole and synced; a blob that is there and right is left alone. So
two directories can be merged by copying one over the other.

Spec: OCI image-spec v1.1, image-layout.md.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from layerstore.backends.directory import has_blob
from layerstore.beside import remove_left_over, replace_file, replacing
from layerstore.descriptor import REF_NAME, Descriptor
from layerstore.digest import Digest
from layerstore.documents import Index
from layerstore.errors import StoreError
from layerstore.images import name_of_entry, read_index
from layerstore.locks import await_directory, unlock
from layerstore.transports.exports import LAYOUT_FILE, blob_name

_WAIT_S = 60.0


class LayoutDirectory:
    """A layout to write to, made where there is none.

    Raises:
        StoreError: the directory holds something else.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._swept = {root}
        root.mkdir(parents=True, exist_ok=True)
        if (root / "lamina" / "version").exists():
            raise StoreError(f"{root} is a store of lamina", hint="give another directory")
        remove_left_over(root)
        if not (root / "oci-layout").exists():
            if next(root.iterdir(), None) is not None:
                raise StoreError(
                    f"{root} is neither empty nor an OCI image layout",
                    hint="give another directory",
                )
            self.write("oci-layout", LAYOUT_FILE)
        (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the blob is there, and right: all of it is read."""
        return has_blob(self.root / blob_name(digest), digest, size_bytes)

    def put(self, digest: Digest, size_bytes: int, pieces: Callable[[], Iterable[bytes]]) -> None:
        """Add a blob. `pieces` verifies what it yields; it is called when the blob is missing."""
        if self.has(digest, size_bytes):
            return
        path = self.root / blob_name(digest)
        self._sweep(path.parent)
        with replacing(path) as file:
            file.writelines(pieces())

    def put_document(self, data: bytes) -> Digest:
        """Add a small blob."""
        digest = Digest.of(data)
        self.put(digest, len(data), lambda: (data,))
        return digest

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is no blob, or replace it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sweep(path.parent)
        replace_file(path, data)

    def list_entries(self, entries: Sequence[Descriptor]) -> None:
        """List `entries` in index.json; each takes its name, if it has one, from older ones.

        The directory is locked meanwhile, by flock: of several that add at once none is forgotten.

        Raises:
            StoreBusyError: another has had it locked for a minute.
        """
        fd = await_directory(self.root, wait_s=_WAIT_S)
        try:
            self._list_entries(entries)
        finally:
            unlock(fd)

    def _list_entries(self, entries: Sequence[Descriptor]) -> None:
        kept: list[Descriptor] = []
        if (self.root / "index.json").exists():
            names = {_name(entry) for entry in entries} - {""}
            kept = [
                entry
                for entry in read_index(self.root).manifests
                if entry not in entries and _name(entry) not in names
            ]
        self.write("index.json", Index(manifests=(*kept, *entries)).encode())

    def _sweep(self, directory: Path) -> None:
        if directory not in self._swept:
            remove_left_over(directory)
            self._swept.add(directory)


def _name(entry: Descriptor) -> str:
    """What an entry is called: a tag need not be the name of an image."""
    name = name_of_entry(entry)
    return entry.annotation(REF_NAME) if name is None else name.full
