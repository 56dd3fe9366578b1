"""fsck: recompute everything from the bytes, and report every disagreement.

What is compared:
    blobs        name, digest; that nothing else lies among them
    images       every document of index.json: size, syntax, config against manifest, layers present
    layers       diff_id, sizes, content digest and counts against the row; the table of contents
                 against the file in toc/
    checkouts    every file, link and attribute against the table of contents
    cache.db     SQLite's own check; the checksum of every row; that steps lead to layers
    containers   that their images are there
`quick` reads no layer and no checkout: existence, sizes, documents and rows only.

Each layer's blob is read once: its digest, diff_id and contents come from the same pass.
Nothing is repaired, and nothing is reported that is merely not needed (garbage is prune's).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerstore import descriptor as media
from layerstore.blobs import HEAL_HINT, get
from layerstore.checkouts import compare_checkout
from layerstore.collect import EMPTY_SNAPSHOT, containers
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import Index
from layerstore.errors import MalformedDocumentError, NotFoundError, StoreError
from layerstore.layers import Layer, in_user_namespace

if TYPE_CHECKING:
    from layerstore.store import Store
    from layerstore.toc import TocEntry

_PIECE_BYTES = 1024 * 1024
_NAME_HINT = "it is written anew when an image is built, loaded or tagged"
_CACHE_HINT = "the next build makes it anew: only the build cache is lost"
_GONE_HINT = "remove it; it is made again when it is needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: what kind of thing, which one, and in what way."""

    kind: str
    key: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.problem}"


def verify_store(store: "Store", *, quick: bool = False) -> Iterator[Finding]:
    """Check the whole store.

    It may be done while others work on the store: what appears or goes meanwhile is no finding.

    Yields:
        Findings as they are made.
    """
    yield from _check_layout(store)
    problems = store.database.problems(quick=quick)
    yield from _check_database(store, problems)
    known = {} if problems else _layers(store)
    if not quick:
        yield from _check_blobs(store, known)
    for layer in known.values():
        found = list(_check_layer(store, layer, quick=quick))
        if found and _is_known(store, layer):
            yield from found
    if problems:  # layers are found by the database; their blobs have been read, like all others
        return
    yield from _check_images(store)
    yield from _check_containers(store)
    yield from _check_empty_checkout(store)


def _check_layout(store: "Store") -> Iterator[Finding]:
    layout = store.root / "oci-layout"
    try:
        if layout.read_bytes().replace(b" ", b"").strip() != b'{"imageLayoutVersion":"1.0.0"}':
            yield Finding(kind="file", key="oci-layout", problem="is not the one of version 1.0.0")
    except OSError as error:
        yield Finding(kind="file", key="oci-layout", problem=error.strerror or "unreadable")
    if store.root.stat().st_mode & 0o077:
        yield Finding(kind="file", key=str(store.root), problem="is open to other users")
    directory = store.root / "blobs" / "sha256"
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        try:
            Digest.parse(f"sha256:{name}")
        except MalformedDocumentError:
            yield Finding(kind="file", key=f"blobs/sha256/{name}", problem="is not a blob")


def _check_database(store: "Store", problems: Sequence[str]) -> Iterator[Finding]:
    for problem in problems:
        yield Finding(kind="file", key="lamina/cache.db", problem=problem, hint=_CACHE_HINT)
    if problems:
        return
    for key in store.layers.damaged_rows():
        yield Finding(kind="layer row", key=key, problem="is damaged")
    for key in store.cache.damaged_rows():
        yield Finding(kind="cache row", key=key, problem="is damaged")


def _layers(store: "Store") -> dict[Digest, Layer]:
    """Layers by diff_id; none when the database is damaged, which has been reported."""
    try:
        return {layer.diff_id: layer for layer in store.layers.all()}
    except StoreError:
        return {}


def _check_blobs(store: "Store", known: dict[Digest, Layer]) -> Iterator[Finding]:
    """All blobs but those of known layers, which are read when their layer is checked."""
    of_layers = {layer.descriptor.digest for layer in known.values()}
    for digest in sorted(store.blobs.digests()):
        if digest in of_layers:
            continue
        try:
            with store.blobs.open(digest) as reader:
                reader.drain()
        except NotFoundError:  # just removed
            continue
        except (StoreError, OSError) as error:
            yield _finding("blob", digest, error)


def _check_layer(store: "Store", layer: Layer, *, quick: bool) -> Iterator[Finding]:
    digest = layer.descriptor.digest
    entries = None
    try:
        size_bytes = store.blobs.size_bytes(digest)
        if size_bytes != layer.descriptor.size_bytes:
            problem = f"has {size_bytes} bytes, not {layer.descriptor.size_bytes}"
            yield Finding(kind="blob", key=digest, problem=problem, hint=HEAL_HINT)
        elif not quick:
            found, entries = store.layers.reread(layer)
            yield from _compare_row(layer, found)
            yield from _compare_toc(store, layer, entries)
    except NotFoundError:
        problem = f"its blob {digest} is missing"
        yield Finding(kind="layer", key=layer.diff_id, problem=problem, hint=HEAL_HINT)
    except (StoreError, OSError) as error:
        yield _finding("blob", digest, error)
    if not quick:
        yield from _check_checkout(store, layer, entries)


def _compare_row(expected: Layer, found: Layer) -> Iterator[Finding]:
    for name in ("size_bytes", "tar_size_bytes", "content_digest", "files", "dirs", "removed"):
        says, actual = getattr(expected, name), getattr(found, name)
        if says != actual:
            problem = f"says {name} {says}, which is {actual}"
            yield Finding(kind="layer row", key=expected.diff_id, problem=problem)


def _compare_toc(store: "Store", layer: Layer, entries: "Sequence[TocEntry]") -> Iterator[Finding]:
    from layerstore import toc

    try:
        same = toc.load(store.layers.toc_path(layer.diff_id).read_bytes()) == entries
        problem = "" if same else "is not that of the layer"
    except FileNotFoundError:
        return  # made again when needed
    except MalformedDocumentError as error:
        problem = error.problem
    if problem:
        yield Finding(kind="table of contents", key=layer.diff_id, problem=problem, hint=_GONE_HINT)


def _check_checkout(
    store: "Store", layer: Layer, entries: "Sequence[TocEntry] | None"
) -> Iterator[Finding]:
    """Compare the checkout with `entries`; None: with the table of contents, the next best."""
    path = store.layers.snapshot_path(layer.diff_id)
    if not path.exists():
        return
    try:
        problem = compare_checkout(
            store.layers.toc(layer) if entries is None else entries,
            path,
            userxattr=in_user_namespace(),
        )
    except (StoreError, OSError) as error:
        problem = _text(error)
    if problem and path.exists():
        yield Finding(kind="checkout", key=layer.diff_id, problem=problem, hint=_GONE_HINT)


def _check_images(store: "Store") -> Iterator[Finding]:
    for name, problem in store.images.index_file.damage():
        yield Finding(kind="file", key=name, problem=problem, hint=_NAME_HINT)
    try:
        for entry in dict.fromkeys(store.images.entries()):
            found = list(_check_entry(store, entry))
            if found and entry in store.images.entries():
                yield from found
    except MalformedDocumentError:  # told above
        return


def _check_entry(store: "Store", entry: Descriptor) -> Iterator[Finding]:
    """One entry of an index. Of a multi-platform image, what is not here need not be."""
    try:
        if entry.media_type in media.INDEX_TYPES:
            data = get(store.blobs, entry.digest, size_bytes=entry.size_bytes)
            present = [m for m in Index.parse(data).manifests if store.blobs.has(m.digest)]
            for manifest in present:
                yield from _check_entry(store, manifest)
        elif entry.media_type in media.MANIFEST_TYPES:
            yield from _check_image(store, entry)
        elif not store.blobs.has(entry.digest):
            yield Finding(kind="blob", key=entry.digest, problem="is missing")
    except (StoreError, OSError) as error:
        yield _finding("image", entry.digest, error)


def _check_image(store: "Store", entry: Descriptor) -> Iterator[Finding]:
    manifest, config = store.images.documents(entry)
    known = store.layers.find_all(config.diff_ids)
    for diff_id, descriptor in zip(config.diff_ids, manifest.layers, strict=True):
        if not store.blobs.has(descriptor.digest):
            problem = f"its layer {descriptor.digest} is missing"
        elif (size := store.blobs.size_bytes(descriptor.digest)) != descriptor.size_bytes:
            problem = f"its layer {descriptor.digest} has {size} bytes, not {descriptor.size_bytes}"
        elif (
            (layer := known.get(diff_id)) is not None
            and layer.descriptor.digest != descriptor.digest
            and not _is_layer(store, descriptor, diff_id)
        ):
            problem = f"its layer {descriptor.digest} is not {diff_id}"
        else:
            continue
        yield Finding(kind="image", key=entry.digest, problem=problem, hint=HEAL_HINT)


def _is_layer(store: "Store", descriptor: Descriptor, diff_id: Digest) -> bool:
    """Whether a blob other than the one we know holds the same tar."""
    from layerstore.compression import decompressor, kind_of

    tar_hash = hashlib.sha256()
    with store.blobs.open(descriptor.digest) as reader:
        tar = decompressor(kind_of(descriptor.media_type), reader)
        while piece := tar.read(_PIECE_BYTES):
            tar_hash.update(piece)
    return diff_id == "sha256:" + tar_hash.hexdigest()


def _check_containers(store: "Store") -> Iterator[Finding]:
    for container in containers(store):
        known = store.layers.find_all(container.layers)
        problems = [f"its layer {d} is missing" for d in container.layers if d not in known]
        digest = container.manifest_digest
        if digest is not None and not store.blobs.has(digest):
            problems.append(f"its image {digest} is missing")
        if problems and (store.private / "containers" / container.id).exists():
            for problem in problems:
                yield Finding(kind="container", key=container.id, problem=problem)


def _check_empty_checkout(store: "Store") -> Iterator[Finding]:
    path = store.private / "snapshots" / EMPTY_SNAPSHOT
    if path.is_dir() and next(path.iterdir(), None) is not None:
        yield Finding(kind="checkout", key=path.name, problem="is not empty", hint=_GONE_HINT)


def _is_known(store: "Store", layer: Layer) -> bool:
    """Whether the row is there now: another process may have pruned the layer meanwhile."""
    return layer.diff_id in store.layers.find_all([layer.diff_id])


def _finding(kind: str, key: str, error: StoreError | OSError) -> Finding:
    hint = error.hint if isinstance(error, StoreError) else ""
    return Finding(kind=kind, key=key, problem=_text(error), hint=hint)


def _text(error: StoreError | OSError) -> str:
    return error.message if isinstance(error, StoreError) else str(error)
