"""The build cache in a repository of a registry: cached steps and cache mounts for other machines.

    the manifest    named by the user; config: the steps and mounts, as documents
                    layers: every layer of a step, table of contents and content of a mount, so
                    that a registry keeps them as long as it keeps the manifest
    config          {"schema": 1, "steps": [...], "layers": [...], "mounts": [...]}: what a
                    directory of cached steps has in its files
                    (layerstore/transports/cache_directory.py)

Any registry that keeps OCI artifacts keeps it. Reading fetches manifest and config, and a blob
when its bytes are needed, not before. What is made of it, and how little is believed:
layerstore/transports/cached_steps.py.

Writing replaces what the name stood for. A layer that was only offered by a cache, and its table of
contents, are not fetched to be written if they are in the repository already, or in another one of
its registry.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from layerstore.blobs import BlobReader
from layerstore.descriptor import OCI_MANIFEST, Descriptor
from layerstore.digest import Digest
from layerstore.documents import (
    DOCUMENT_BYTES_MAX,
    Reader,
    canonical_json,
    descriptor_json,
    parse_descriptor,
    parse_json,
)
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnusableLayerError,
)
from layerstore.layers import Came, Layer
from layerstore.reference import Reference
from layerstore.registry.offers import offer_layers
from layerstore.registry.pull import RemoteImage, fetch_layers, find_remote
from layerstore.registry.repository import RemoteDocument, Repository
from layerstore.registry.transfers import reporting, side_by_side
from layerstore.registry.upload import find_there, path_at, upload
from layerstore.transports.cache_directory import MOUNTS
from layerstore.transports.cached_mounts import Filter, export_mount
from layerstore.transports.cached_steps import encode_layer, encode_step, table_descriptor
from layerstore.transports.exports import blob_name
from layerstore.transports.inline_cache import InlineCache

if TYPE_CHECKING:
    from layerstore.cacheindex import StepRow
    from layerstore.registry.client import RegistryClient
    from layerstore.store import Store

CACHE_TYPE = "application/vnd.lamina.buildcache.v1+json"
_SCHEMA = 1
_BLOBS_MAX = 20_000
_PIECE_BYTES = 1 << 20


class RepositoryPlace:
    """Such a cache as a CachePlace."""

    attempts = 2

    def __init__(
        self, client: "RegistryClient", repository: Repository, label: str, config: bytes
    ) -> None:
        self._client = client
        self._repository = repository
        self._label = label
        self._steps, self._layers, self._mounts = _parse(config)
        self._results: dict[tuple[str, str, str], Digest] = {}
        for key, step in self._steps.items():
            self._results.setdefault(step.result, key)

    @classmethod
    def find(cls, client: "RegistryClient", reference: Reference) -> Self | None:
        """The cache with that name; None where the name is an image's.

        Raises:
            RegistryError: it cannot be had. MalformedDocumentError: it is something else.
        """
        repository, root = find_remote(client, reference)
        config = _config_of(root)
        if config is None:
            return None
        return cls(client, repository, reference.familiar, repository.document(config))

    @property
    def label(self) -> str:
        return self._label

    @property
    def origin(self) -> str:
        return self._repository.name

    def exists(self) -> bool:
        return True

    def step(self, key: Digest) -> bytes | None:
        found = self._steps.get(key)
        return None if found is None else found.data

    def layer(self, diff_id: Digest) -> bytes | None:
        return self._layers.get(diff_id)

    def result(self, parent: Digest | None, content_digest: Digest, variant: str) -> Digest | None:
        return self._results.get((parent or "", content_digest, variant))

    def mount(self, key: str) -> bytes | None:
        return self._mounts.get(key)

    def check(self, blob: Descriptor) -> None:
        """Nothing is plain to see without asking."""

    def open(self, blob: Descriptor) -> BlobReader:
        pieces = _Pieces(self._repository.raw_pieces(blob))
        return BlobReader(pieces.read, pieces.close, digest=blob.digest, size_bytes=blob.size_bytes)

    def take_in(self, store: "Store", layers: Sequence[Layer], came: Came) -> None:
        wanted = [(layer.descriptor, layer.diff_id) for layer in layers]
        with suppress(StoreError):  # `open` says what it is
            fetch_layers(self._client, store, self._repository, wanted, reporting(came))


def find_inline_cache(
    client: "RegistryClient",
    store: "Store",
    reference: Reference,
    notice: Callable[[str], None],
) -> InlineCache | None:
    """The cache inside of an image with that name, whose layers are offered to the store.

    None where it has none.

    Args:
        notice: told, in a sentence, why nothing of it can be used.

    Raises:
        RegistryError, MalformedDocumentError.
    """
    image = RemoteImage.find(client, store, reference)
    if not image.config.inline_cache:
        return None
    cache = InlineCache(image.manifest, image.config, store, notice)
    offer_layers(image, cache.describe)
    return cache


@dataclass(slots=True, kw_only=True)
class CacheExporter:
    """A cache on its way to a repository: steps and mounts are added, then it is sent."""

    store: "Store"
    client: "RegistryClient"
    reference: Reference
    _repository: Repository = field(init=False)
    _steps: list[object] = field(default_factory=list)
    _layers: list[object] = field(default_factory=list)
    _mounts: list[object] = field(default_factory=list)
    _blobs: dict[Digest, tuple[Descriptor, Callable[[], Iterator[bytes]]]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self._repository = self.client.repository(self.reference)

    def add_steps(self, keys: Iterable[Digest]) -> int:
        """Add steps, and all they need; returns how many.

        Left out are steps whose layer is lost or cannot be fetched.
        """
        steps = 0
        for key in dict.fromkeys(keys):
            row = self.store.cache.row_anywhere(key)
            layer = None if row is None else self.store.layers.find(row.step.diff_id)
            if row is None or layer is None:
                continue
            try:
                self._add_step(row, layer)
            except UnusableLayerError:
                continue
            steps += 1
        return steps

    def add_descriptions(self, layers: Iterable[Layer]) -> None:
        """Add what is known of layers, without their blobs.

        Left out are layers that are lost, or of which nothing can be read.
        """
        for layer in layers:
            with suppress(NotFoundError, CorruptBlobError, UnusableLayerError):
                data = encode_layer(layer, self._add_table(layer))
                self._layers.append(parse_json(data, context="layer"))

    def add_mount(self, key: str, folder: Path, *, filtered: Filter = iter) -> tuple[str, ...]:
        """Add the content of a cache mount, which is kept in `folder` until all is sent.

        Returns and raises as `export_mount`.
        """
        sockets = export_mount(self.store, key, folder, filtered=filtered)
        data = (folder / MOUNTS / key).read_bytes()
        self._mounts.append(parse_json(data, context="cache mount"))
        blob = Reader.of(data, context="cache mount").child("blob")
        assert blob is not None, "export_mount has written it"
        descriptor = parse_descriptor(blob)
        path = folder / blob_name(descriptor.digest)
        self._blobs[descriptor.digest] = descriptor, partial(_file_pieces, path)
        return sockets

    def send(self) -> Digest:
        """Upload what the repository has not got, and give it the name.

        Raises:
            RegistryError: the registry does not take it.
            StoreError: it is more than one document can name.
        """
        config = canonical_json(
            {
                "schema": _SCHEMA,
                "steps": self._steps,
                "layers": self._layers,
                "mounts": self._mounts,
            }
        )
        described = Descriptor(
            media_type=CACHE_TYPE, digest=Digest.of(config), size_bytes=len(config)
        )
        listed = sorted(self._blobs)
        manifest = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": CACHE_TYPE,
                "config": descriptor_json(described),
                "layers": [descriptor_json(self._blobs[digest][0]) for digest in listed],
            }
        )
        if max(len(config), len(manifest)) > DOCUMENT_BYTES_MAX or len(listed) > _BLOBS_MAX:
            raise StoreError(
                f"the build cache has {len(self._steps)} steps, too many for one name",
                hint="export with mode=min, or by several names",
            )
        side_by_side(
            self.client,
            [
                partial(upload, self._repository, blob, pieces)
                for blob, pieces in (*self._blobs.values(), (described, lambda: iter((config,))))
            ],
        )
        tag = "" if self.reference.digest is not None else self.reference.tag
        return self._repository.put_manifest(manifest, OCI_MANIFEST, tag)

    def _add_step(self, row: "StepRow", layer: Layer) -> None:
        if not self._is_there(layer):
            layer = self.store.layers.fetch(layer)
        blob = layer.descriptor
        data = encode_step(row, layer, self._add_table(layer))
        self._steps.append(parse_json(data, context="step"))
        self._blobs[blob.digest] = blob, partial(_layer_pieces, self.store, blob)

    def _add_table(self, layer: Layer) -> Descriptor:
        from layerstore import toc

        known = self.store.layers.table_of(layer)
        if known is not None and self._has(known.blob, known.origin):
            self._blobs[known.blob.digest] = known.blob, partial(_table_pieces, self.store, layer)
            return known.blob
        table = toc.dump(self.store.layers.toc(layer))
        listed = table_descriptor(Digest.of(table), len(table))
        path = self.store.layers.toc_path(layer.diff_id)
        again = partial(_file_pieces, path) if path.exists() else lambda: iter((table,))
        self._blobs[listed.digest] = listed, again
        return listed

    def _is_there(self, layer: Layer) -> bool:
        """Whether it need not be fetched from the cache that offers it."""
        is_offered = self.store.layers.is_offered(layer.diff_id)
        return is_offered and self._has(layer.descriptor, self.store.layers.origin_of(layer))

    def _has(self, blob: Descriptor, origin: str) -> bool:
        """Whether the repository has a blob, perhaps now, from `origin`."""
        paths = path_at(self._repository, origin)
        return find_there(self._repository, blob.digest, paths) is not None


def _table_pieces(store: "Store", layer: Layer) -> Iterator[bytes]:
    from layerstore import toc

    yield toc.dump(store.layers.toc(layer))


def _layer_pieces(store: "Store", blob: Descriptor) -> Iterator[bytes]:
    return store.blobs.open(blob.digest, size_bytes=blob.size_bytes).pieces()


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _config_of(root: RemoteDocument) -> Descriptor | None:
    """The config of a cache; None where the manifest is an image's."""
    if root.is_index:
        return None
    reader = Reader.of(root.data, context="build cache")
    config = reader.child("config")
    if config is None:
        raise reader.error("config", "is missing")
    described = parse_descriptor(config)
    return described if described.media_type == CACHE_TYPE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step as the config has it, not yet believed. `result`: parent, content, variant."""

    data: bytes
    result: tuple[str, str, str]


def _parse(
    config: bytes,
) -> tuple[dict[Digest, _Step], dict[Digest, bytes], dict[str, bytes]]:
    """Steps by key, layers by diff_id, mounts by key."""
    reader = Reader.of(config, context="build cache")
    if reader.integer("schema") != _SCHEMA:
        raise reader.error("schema", f"is not {_SCHEMA}")
    document = parse_json(config, context="build cache")
    assert isinstance(document, dict), "Reader has said so"
    steps: dict[Digest, _Step] = {}
    layers: dict[Digest, bytes] = {}
    mounts: dict[str, bytes] = {}
    for item in _objects(document, "steps"):
        found = Reader(item, "build cache: steps")
        key = Digest.of(found.text("document").encode("utf-8", "surrogatepass"))
        layer = found.child("layer")
        content = "" if layer is None else layer.text("contentDigest")
        result = (found.text("parent"), content, found.text("variant"))
        steps[key] = _Step(data=canonical_json(item), result=result)
    for item in _objects(document, "layers") if "layers" in document else ():
        described = Reader(item, "build cache: layers").child("layer")
        diff_id = "" if described is None else described.text("diffId")
        layers[Digest(diff_id)] = canonical_json(item)
    for item in _objects(document, "mounts"):
        mounts[Reader(item, "build cache: mounts").text("key")] = canonical_json(item)
    return steps, layers, mounts


def _objects(document: dict[str, object], key: str) -> Sequence[dict[str, object]]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedDocumentError(
            context="build cache", problem=f"{key!r} is no list of objects"
        )
    return value


class _Pieces:
    """What can be read of pieces that come."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def read(self, size: int) -> bytes:
        if not self._held:
            self._held = next(self._pieces, b"")
        data, self._held = self._held[:size], self._held[size:]
        return data

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
