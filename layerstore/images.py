"""Images: a config and layers under one manifest, and the names they go by.

`index.json` is the truth about images: one entry per name, and one without a name for an image that
lost its last. Other tools may have written it: an entry is named by io.containerd.image.name, else
by org.opencontainers.image.ref.name; an entry for several platforms stands for the host's.

Changes of names are edits: applied to what this object sees at once, and to the file by `flush`,
which reads it anew under the store's lock. Two processes that name images at once both succeed.

Invariants (tests/layerstore/test_images.py):
  1. A name is never visible before everything it leads to is stored durably.
  2. An image that loses its last name stays, nameless, until it is removed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from layerstore import descriptor as media
from layerstore.blobs import BlobStore, get, put
from layerstore.database import Statement
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.documents import History, ImageConfig, Index, Manifest
from layerstore.errors import (
    CorruptBlobError,
    InvalidReferenceError,
    MalformedDocumentError,
    NoPlatformError,
    NotFoundError,
    StoreError,
    UnsafePathError,
    UnsupportedMediaTypeError,
)
from layerstore.indexfile import IndexFile, read_index_file
from layerstore.layers import Layer, LayerStore
from layerstore.locks import StoreLock
from layerstore.reference import Reference

GET_HINT = (
    "`lamina images` lists what is here; get one by `lamina pull NAME`, "
    "`lamina bootstrap busybox|debian:SUITE`, `lamina import ROOTFS.tar NAME` or "
    "`lamina load -i ARCHIVE`"
)
NESTING_MAX = 3  # of indexes in indexes
_OF_AN_IMAGE = (
    NotFoundError,
    CorruptBlobError,
    MalformedDocumentError,
    UnsafePathError,
    UnsupportedMediaTypeError,
)
_PREFIX_MIN = 2
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Entries = list[Descriptor]
Edit = Callable[[Entries], Entries]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A stored image. `descriptor` names its manifest, `id` is the digest of its config.

    `index` is the one of several platforms that it was chosen from, which its name stands for.
    """

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    id: Digest
    layers: tuple[Layer, ...]
    index: Descriptor | None = field(default=None, compare=False)

    @property
    def entry(self) -> Descriptor:
        """What a name of the image names: the index, where it was chosen from one."""
        return self.index or self.descriptor

    def history(self) -> list[tuple[History, Layer | None]]:
        """Every history entry with its layer, bottom first; at the end layers without an entry."""
        layers = iter(self.layers)
        paired = [
            (entry, None if entry.empty_layer else next(layers, None))
            for entry in self.config.history
        ]
        return paired + [(History(), layer) for layer in layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """A row of the list of images. `problem` says why the rest of a damaged one is empty.

    `entry` is what the names name: the manifest, or an index with it. Of an index that has nothing
    for this host, `id` and `manifest_digest` are the index's own.
    """

    id: str
    manifest_digest: Digest
    entry: Descriptor
    names: tuple[str, ...]
    created: str
    size_bytes: int
    labels: tuple[tuple[str, str], ...]
    problem: str = ""


class ImageStore:
    """The images of one store."""

    def __init__(
        self,
        *,
        root: Path,
        blobs: BlobStore,
        layers: LayerStore,
        lock: StoreLock,
        new_tmp_path: Callable[[str], Path],
        hold: Callable[[Iterable[Digest]], None],
    ) -> None:
        self.index_file = IndexFile(root, new_tmp_path)
        self._blobs = blobs
        self._layers = layers
        self._lock = lock
        self._new_tmp_path = new_tmp_path
        self._hold = hold
        self._edits: list[Edit] = []
        self._removed: set[Digest] = set()

    def seal(
        self,
        config: ImageConfig,
        layers: Sequence[Layer],
        annotations: Iterable[tuple[str, str]] = (),
        *,
        fetch: bool = True,
    ) -> Image:
        """Make an image of `config` and `layers` (bottom first), whose diff_ids the config gets.

        Nameless and unlisted until `tag` or `note_untagged`. Without `fetch`, layers that are
        offered stay where they are: the image is for looking at, and cannot be kept.
        """
        config = replace(config, diff_ids=tuple(layer.diff_id for layer in layers))
        made = sum(not entry.empty_layer for entry in config.history)
        if config.history and made != len(layers):
            raise StoreError(f"the history has {made} entries for {len(layers)} layers")
        blob = put(self._blobs, config.encode())
        descriptor = Descriptor(
            media_type=media.OCI_CONFIG, digest=blob.digest, size_bytes=blob.size_bytes
        )
        return self.assemble(descriptor, config, layers, annotations, fetch=fetch)

    def assemble(
        self,
        config_descriptor: Descriptor,
        config: ImageConfig,
        layers: Sequence[Layer],
        annotations: Iterable[tuple[str, str]] = (),
        *,
        fetch: bool = True,
    ) -> Image:
        """Make an image of a stored config, whose bytes are kept, and its layers."""
        if fetch:
            layers = self._layers.fetch_all(layers)
        manifest = Manifest(
            config=config_descriptor,
            layers=tuple(layer.descriptor for layer in layers),
            annotations=tuple(sorted(annotations)),
        )
        return self.assemble_as(manifest, config, layers)

    def assemble_as(
        self, manifest: Manifest, config: ImageConfig, layers: Sequence[Layer]
    ) -> Image:
        """Make an image of a manifest, all parts of which are stored."""
        blob = put(self._blobs, manifest.encode())
        self._hold((manifest.config.digest, blob.digest, *(b.digest for b in manifest.layers)))
        descriptor = Descriptor(
            media_type=manifest.media_type, digest=blob.digest, size_bytes=blob.size_bytes
        )
        return Image(
            descriptor=descriptor,
            manifest=manifest,
            config=config,
            id=manifest.config.digest,
            layers=tuple(layers),
        )

    def resolve(self, name: str, platform: Platform | None = None) -> Image:
        """Find an image by name, name@digest, id, manifest digest, or a unique prefix of these.

        Of a multi-platform image it is `platform`'s, or this host's.

        Raises:
            NotFoundError: there is none.
            StoreError: a prefix fits several.
        """
        return self.open(self.find(name), platform)

    def find(self, name: str) -> Descriptor:
        """What `name` names: a manifest, or an index of several platforms. Raises as `resolve`."""
        while True:
            entry = self._find(name, self.entries())
            self._hold((entry.digest,))
            if entry in self.entries():  # held and listed: nobody can collect it now
                return entry.plain

    def open(self, descriptor: Descriptor, platform: Platform | None = None) -> Image:
        """Read the image of a manifest, or `platform`'s (the host's) of a multi-platform index.

        Raises:
            NotFoundError, CorruptBlobError, MalformedDocumentError, UnsupportedMediaTypeError.
        """
        self._hold((descriptor.digest,))
        image = self._read(descriptor, platform)
        manifest = image.manifest
        self._hold(
            (
                *(image.descriptor.digest, manifest.config.digest, *image.config.diff_ids),
                *(layer.digest for layer in manifest.layers),
            )
        )
        for layer in image.layers:
            self._layers.find(layer.diff_id)  # which mends what can be mended
        return image

    def _read(self, entry: Descriptor, platform: Platform | None = None) -> Image:
        descriptor = self.manifest_of(entry, platform)
        manifest, config = self.documents(descriptor)
        known = self._layers.find_all(config.diff_ids)
        layers = [
            known.get(diff_id) or self._layers.index(blob, diff_id)
            for diff_id, blob in zip(config.diff_ids, manifest.layers, strict=True)
        ]
        return Image(
            descriptor=descriptor.plain,
            manifest=manifest,
            config=config,
            id=manifest.config.digest,
            layers=tuple(layers),
            index=entry.plain if entry.media_type in media.INDEX_TYPES else None,
        )

    def documents(self, descriptor: Descriptor) -> tuple[Manifest, ImageConfig]:
        """Manifest and config, checked against each other."""
        data = get(self._blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
        manifest = Manifest.parse(data)
        if manifest.config.media_type not in media.CONFIG_TYPES:
            raise UnsupportedMediaTypeError(
                media_type=manifest.config.media_type, hint="this is no image that could be run"
            )
        config = ImageConfig.parse(
            get(self._blobs, manifest.config.digest, size_bytes=manifest.config.size_bytes)
        )
        if len(config.diff_ids) != len(manifest.layers):
            raise MalformedDocumentError(
                context=f"image {manifest.config.digest}",
                problem=f"{len(manifest.layers)} layers, but {len(config.diff_ids)} diff_ids",
            )
        return manifest, config

    def manifest_of(self, descriptor: Descriptor, platform: Platform | None = None) -> Descriptor:
        """The manifest that `descriptor` stands for on `platform`, or this host."""
        for _ in range(NESTING_MAX):
            if descriptor.media_type in media.MANIFEST_TYPES:
                return descriptor
            if descriptor.media_type not in media.INDEX_TYPES:
                raise UnsupportedMediaTypeError(media_type=descriptor.media_type)
            data = get(self._blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
            descriptor = choose(Index.parse(data), platform or host_platform())
        raise MalformedDocumentError(context="image index", problem="indexes nested too deeply")

    def family(self, entry: Descriptor) -> list[Descriptor]:
        """`entry`, and the manifests and indexes listed in it that are here; each once."""
        found = {entry.digest: entry.plain}
        level = [entry]
        for _ in range(NESTING_MAX):
            indexes = [each for each in level if each.media_type in media.INDEX_TYPES]
            level = [
                inner
                for index in indexes
                for inner in Index.parse(get(self._blobs, index.digest)).manifests
                if inner.digest not in found and self._blobs.has(inner.digest)
            ]
            found |= {each.digest: each.plain for each in level}
        return [*found.values()]

    def list(self) -> list[ImageRecord]:
        """Every image once, newest first. A damaged one is listed with its problem."""
        names: dict[Descriptor, set[str]] = {}
        for entry in self.entries():
            reference = name_of_entry(entry)
            names.setdefault(entry.plain, set()).update(
                () if reference is None else (reference.familiar,)
            )
        records = [self._record(entry, tuple(sorted(found))) for entry, found in names.items()]
        if any(record.problem for record in records):  # removed meanwhile, or damaged?
            listed = {entry.digest for entry in self.entries()}
            records = [r for r in records if not r.problem or r.entry.digest in listed]
        return sorted(records, key=lambda record: record.created, reverse=True)

    def tag(self, image: Image, reference: Reference) -> None:
        """Name `image`, with the index it was chosen from; what had the name loses it."""
        self.tag_entry(image.entry, reference)

    def tag_entry(self, entry: Descriptor, reference: Reference) -> None:
        """Name a manifest or an index; what had the name loses it."""
        if reference.digest is not None:
            raise InvalidReferenceError(text=str(reference), reason="a name cannot have a digest")
        self.name_entry(entry, reference)

    def name_entry(self, entry: Descriptor, reference: Reference) -> None:
        """As `tag_entry`, for what a registry has under `reference`, which may be a digest."""
        self._edits.append(lambda entries: _with_name(entries, entry, reference))

    def untag(self, reference: Reference) -> None:
        """Take a name away; its image stays, nameless if it was the last.

        Raises:
            NotFoundError: no image has it.
        """
        if not any(name_of_entry(entry) == reference for entry in self.entries()):
            raise NotFoundError(kind="image", key=str(reference))
        self._edits.append(lambda entries: _without_name(entries, reference))

    def remove(self, image: Image) -> None:
        """Remove what `image` was found as (with its index, if any), and all names of that.

        Its bytes stay until they are collected.
        """
        self._remove({image.entry.digest})
        self._removed |= {image.descriptor.digest, image.id}

    def remove_entry(self, entry: Descriptor) -> None:
        """Remove a manifest or an index with all its names, and nothing that is listed in it."""
        self._remove({entry.digest})

    def _remove(self, gone: set[Digest]) -> None:
        self._edits.append(lambda entries: [entry for entry in entries if entry.digest not in gone])
        self._removed |= gone

    def note_untagged(self, image: Image) -> None:
        """List `image` although it has no name."""
        self.note_entry(image.entry)

    def note_entry(self, entry: Descriptor) -> None:
        """List a manifest or an index although it has no name."""
        self._edits.append(lambda entries: _listed(entries, entry))

    def names(self, image: Image) -> tuple[str, ...]:
        """The familiar names of `image`, sorted."""
        return self.names_of(image.descriptor, image.entry)

    def names_of(self, *named: Descriptor) -> tuple[str, ...]:
        """The familiar names of manifests and indexes, sorted."""
        digests = {each.digest for each in named}
        found = (name_of_entry(entry) for entry in self.entries() if entry.digest in digests)
        return tuple(sorted(reference.familiar for reference in found if reference is not None))

    def entries(self) -> Entries:
        """The entries of index.json, pending edits applied."""
        entries: Entries = [*self.index_file.read().manifests]
        for edit in self._edits:
            entries = edit(entries)
        return entries

    def pending_statements(self) -> Iterator[Statement]:
        """What a flush has to write to the database."""
        for digest in self._removed:
            yield "INSERT OR IGNORE INTO removed (digest) VALUES (?)", (digest,)

    def flush(self) -> bool:
        """Apply the pending edits to index.json; False when there are none.

        Everything they lead to must be durable.
        """
        self._removed = set()
        if not self._edits:
            return False
        with self._lock.exclusive():
            self.rewrite(self.entries())
        self._edits = []
        return True

    def rewrite(self, entries: Sequence[Descriptor]) -> None:
        """Replace index.json durably; the caller holds the store's lock exclusively."""
        self.index_file.replace(replace(self.index_file.read(), manifests=tuple(entries)))

    def discard_edits(self) -> None:
        """Forget the pending edits."""
        self._edits = []
        self._removed = set()

    def _find(self, name: str, entries: Sequence[Descriptor]) -> Descriptor:
        found = _by_digest(name, entries) or _by_name(name, entries)
        if found is None and (prefix := _hex_prefix(name)):
            found = self._by_prefix(name, prefix, entries)
        if found is None:
            raise NotFoundError(kind="image", key=name, hint=GET_HINT)
        return found

    def _by_prefix(
        self, name: str, prefix: str, entries: Sequence[Descriptor]
    ) -> Descriptor | None:
        found: dict[Digest, Descriptor] = {}
        # manifests first: one that an index lists as well is that image, and not two
        for entry in sorted(entries, key=lambda entry: entry.media_type in media.INDEX_TYPES):
            for digest in self._digests_of(entry):
                if digest.hex.startswith(prefix):
                    found.setdefault(digest, entry)
        meant = {entry.digest: entry for entry in found.values()}
        if len(meant) > 1:
            raise StoreError(
                f"{name!r} is the beginning of {len(meant)} image ids", hint="write more of it"
            )
        return next(iter(meant.values()), None)

    def _digests_of(self, entry: Descriptor) -> Iterator[Digest]:
        """The digests by which the image of `entry` may be called; those that can be read."""
        yield entry.digest
        try:
            descriptor = self.manifest_of(entry)
            yield descriptor.digest
            data = get(self._blobs, descriptor.digest, size_bytes=descriptor.size_bytes)
            yield Manifest.parse(data).config.digest
        except StoreError:  # a damaged image must not hide the others
            return

    def _record(self, entry: Descriptor, names: tuple[str, ...]) -> ImageRecord:
        blank = ImageRecord(
            id="",
            manifest_digest=entry.digest,
            entry=entry.plain,
            names=names,
            created="",
            size_bytes=0,
            labels=(),
        )
        try:
            image = self._read(entry)
        except NoPlatformError:
            return replace(blank, id=entry.digest)
        except _OF_AN_IMAGE as error:  # what stops the store as a whole is not one image's problem
            return replace(blank, problem=error.message)
        return replace(
            blank,
            id=image.id,
            manifest_digest=image.descriptor.digest,
            created=image.config.created,
            size_bytes=sum(layer.size_bytes for layer in image.layers),
            labels=image.config.config.labels,
        )


def host_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    return Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))


def name_of_entry(entry: Descriptor) -> Reference | None:
    """The name that an entry of an index gives its image; None when it gives none that is valid."""
    text = entry.annotation(media.FULL_NAME) or entry.annotation(media.REF_NAME)
    if not text:
        return None
    try:
        return Reference.parse(text)
    except InvalidReferenceError:
        return None


def named(descriptor: Descriptor, reference: Reference) -> Descriptor:
    """The entry of an index that gives an image a name."""
    return replace(
        descriptor.plain,
        annotations=((media.FULL_NAME, reference.full), (media.REF_NAME, reference.familiar)),
    )


def read_index(root: Path) -> Index:
    """The index.json of an OCI image layout.

    Raises:
        MalformedDocumentError: it is missing, damaged, or too large.
    """
    return Index.parse(read_index_file(root / "index.json"))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The entry for a platform; one without a platform if none has any.

    Raises:
        NoPlatformError: there is none.
    """
    fitting = [
        entry
        for entry in index.manifests
        if entry.platform is not None
        and (entry.platform.os, entry.platform.architecture) == (wanted.os, wanted.architecture)
    ]
    of_variant = [entry for entry in fitting if entry.platform == wanted]
    unspecified = [entry for entry in index.manifests if entry.platform is None]
    if not fitting and len(unspecified) == 1:
        fitting = unspecified
    if not fitting:
        offered = sorted({str(entry.platform) for entry in index.manifests if entry.platform})
        raise NoPlatformError(wanted=str(wanted), offered=", ".join(offered)[:200] or "nothing")
    return (of_variant or fitting)[0]


def is_for(config: ImageConfig, wanted: Platform) -> bool:
    """Whether an image says itself that it is for a platform; the variant does not count."""
    return (config.os, config.architecture) == (wanted.os, wanted.architecture)


def check_platform(config: ImageConfig, wanted: Platform) -> None:
    """For an image that no index has said anything of.

    Raises:
        NoPlatformError: it is for another platform.
    """
    if not is_for(config, wanted):
        found = f"{config.os}/{config.architecture}"
        raise NoPlatformError(wanted=str(wanted), offered=found, what="the image is for")


def _by_digest(name: str, entries: Sequence[Descriptor]) -> Descriptor | None:
    """`sha256:...` or `name@sha256:...` of an entry itself."""
    _, at, text = name.rpartition("@")
    digest = text if at or text.startswith("sha256:") else ""
    found = [entry for entry in entries if entry.digest == digest]
    if at:
        reference = Reference.parse(name)
        found = [
            entry
            for entry in found
            if (other := name_of_entry(entry)) is None or other.repository == reference.repository
        ]
    return found[0] if found else None


def _by_name(name: str, entries: Sequence[Descriptor]) -> Descriptor | None:
    try:
        reference = Reference.parse(name)
    except InvalidReferenceError:
        if _hex_prefix(name):
            return None
        raise
    if reference.digest is not None:
        return None
    return next((entry for entry in entries if name_of_entry(entry) == reference), None)


def _hex_prefix(name: str) -> str:
    """The hex digits of an id or the beginning of one; empty when `name` is none."""
    text = name.removeprefix("sha256:")
    is_hex = _PREFIX_MIN <= len(text) <= 64 and not set(text) - set("0123456789abcdef")
    return text if is_hex else ""


def _with_name(
    entries: Sequence[Descriptor], descriptor: Descriptor, reference: Reference
) -> Entries:
    kept = [
        entry
        for entry in _without_name(entries, reference)
        if entry.digest != descriptor.digest or name_of_entry(entry) is not None
    ]
    return [*kept, named(descriptor, reference)]


def _without_name(entries: Sequence[Descriptor], reference: Reference) -> Entries:
    kept = [entry for entry in entries if name_of_entry(entry) != reference]
    for entry in entries:
        if name_of_entry(entry) == reference:
            kept = _listed(kept, entry)
    return kept


def _listed(entries: Sequence[Descriptor], descriptor: Descriptor) -> Entries:
    if any(entry.digest == descriptor.digest for entry in entries):
        return list(entries)
    return [*entries, descriptor.plain]
