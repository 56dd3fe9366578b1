"""What the store needs, what it takes, and what may go.

Needed, by whom:
    index.json          the documents and layers of every listed image, of all its platforms
    containers/ID       the image and layers that container.json names
    tmp/ID              what a living process holds by its lease
    cached steps        the layers they made
All else is garbage: a blob, a row, a checkout, a table of contents that none of these lead to.
Blobs that another tool wrote within the last hour stay: it may not have listed its image yet.
Cache mounts go with the build cache, whether unused or all of it, but for those in use.

Bytes, one definition each:
    stored       what something takes on the disk, as du counts: blob, checkout and table of
                 contents of a layer; manifest and config of an image
    logical      of an image (ImageRecord.size_bytes): the sizes of the files of all its layers
    shared       of an image: stored bytes that another image needs, too
    unique       of an image: stored bytes that no other image needs
    reclaimable  stored bytes that go when everything of the kind goes that no container uses
Every stored byte is counted for one kind: images, else build cache, else other (garbage, indexes).
Layers that images and build cache both need go only when both are pruned.

Removing: under the store's lock it is decided what goes, index.json and the rows are rewritten, and
everything is renamed into tmp/; only then, and without the lock, it is deleted. Whoever holds a
thing by a lease and still sees it after that keeps it (locks.py).
"""

import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from layerstore import descriptor as media
from layerstore.blobs import get
from layerstore.descriptor import Descriptor
from layerstore.digest import Digest
from layerstore.documents import ImageConfig, Index, Manifest, Reader
from layerstore.errors import StoreBusyError, StoreError
from layerstore.evict import CacheItem, CacheLimits, evicted
from layerstore.images import ImageRecord, name_of_entry
from layerstore.locks import Lease, read_uses

if TYPE_CHECKING:
    from layerstore.cacheindex import CachedStep
    from layerstore.store import Store

EMPTY_SNAPSHOT = "empty"
_FOREIGN_AGE_S_MIN = 3600
_NESTING_MAX = 3
NO_LIMITS = CacheLimits()
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUsage:
    """One image. `containers` are the ids of those that use it."""

    record: ImageRecord
    shared_bytes: int
    unique_bytes: int
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUsage:
    """One container: what its own files take, and what its record says of its image."""

    id: str
    stored_bytes: int
    manifest_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the store takes, by kind; `total_bytes` is the sum of the kinds."""

    images: tuple[ImageUsage, ...]
    images_bytes: int
    images_reclaimable_bytes: int
    containers: tuple[ContainerUsage, ...]
    containers_bytes: int
    cache_steps: int
    cache_mounts: int
    cache_bytes: int
    cache_reclaimable_bytes: int
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.images_bytes + self.containers_bytes + self.cache_bytes + self.other_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went. `images` are those that are no longer listed, with the names they had."""

    images: tuple[ImageRecord, ...]
    steps: int
    layers: int
    cache_mounts: int
    freed_bytes: int


@dataclass(slots=True, kw_only=True)
class Needs:
    """Blobs by digest and layers by diff_id."""

    blobs: set[Digest] = field(default_factory=set)
    layers: set[Digest] = field(default_factory=set)

    def __ior__(self, other: "Needs") -> "Needs":
        self.blobs |= other.blobs
        self.layers |= other.layers
        return self


ImageChoice = Literal["none", "dangling", "unused"]
CacheChoice = Literal["none", "unused", "all"]


def prune(
    store: "Store",
    *,
    images: ImageChoice = "none",
    cache: CacheChoice = "none",
    choose: Callable[[ImageRecord], bool] | None = None,
    choose_cache: Callable[[CacheItem], bool] | None = None,
    limits: CacheLimits = NO_LIMITS,
    dry_run: bool = False,
    without: Collection[str] = (),
) -> Pruned:
    """Remove what is not needed; nothing pending may be left in `store`.

    Args:
        images: "dangling" gives up images without a name, "unused" all that no container uses.
        cache: "unused" gives up steps whose layer is in no image, "all" all steps.
        choose: gives up only images for which this is true.
        choose_cache: the same for the build cache.
        limits: gives up of the build cache only the least recently used, until these are kept.
        dry_run: only say what would go.
        without: the ids of containers that count as gone.
    """
    only = None
    if cache != "none" and (choose_cache is not None or limits):

        def may_go(item: CacheItem) -> bool:
            return choose_cache is None or choose_cache(item)

        only = _evicted(store, cache_items(store), cache, limits, may_go)
    return _prune(store, images, cache, choose, only, dry_run=dry_run, without=without)


def limit_cache(store: "Store", limits: CacheLimits) -> Pruned | None:
    """Keep the unused build cache within `limits`; None when it is.

    Sizes are those of blobs and of the files in checkouts, so that nothing but cache mounts is
    walked through. Nothing pending may be left in `store`.
    """
    items = _Measured(store, is_exact=False).cache_items()
    only = _evicted(store, items, "unused", limits, lambda item: True)
    return _prune(store, "none", "unused", None, only, dry_run=False) if only else None


def _prune(
    store: "Store",
    images: ImageChoice,
    cache: CacheChoice,
    choose: Callable[[ImageRecord], bool] | None,
    only: set[Digest | Path] | None,
    *,
    dry_run: bool,
    without: Collection[str] = (),
) -> Pruned:
    records = _records(store)
    if dry_run:
        plan = _plan(store, images, cache, _chosen(records, choose), only, without)
        mounts = store.cache_mounts.unused() if cache != "none" else []
        if only is not None:
            mounts = [path for path in mounts if path in only]
        freed_bytes = sum(disk_bytes(path) for path in (*plan.paths, *mounts))
        return _report(plan, records, len(mounts), freed_bytes)
    with store.lock.exclusive():
        plan = _plan(store, images, cache, _chosen(records, choose), only, without)
        trash = _carry_out(store, plan)
    count = store.cache_mounts.carry_off(trash, only) if cache != "none" else 0
    freed_bytes = sum(map(disk_bytes, trash.iterdir()))
    _remove_tree(trash)
    return _report(plan, records, count, freed_bytes)


def sweep_dead(store: "Store", dead: Sequence[Lease]) -> None:
    """Remove what processes left that died, whose leases have been seized."""
    try:
        _sweep_uses(store, dead)
    except StoreError:
        pass  # damage is for verify to report; opening the store must work nevertheless
    store.claims.sweep()
    for lease in dead:
        try:
            lease.release()
        except StoreBusyError:  # a mount of another namespace; a later sweep will get it
            continue


def cache_items(store: "Store") -> list[CacheItem]:
    """The build cache, piece by piece, measured file by file."""
    return _Measured(store).cache_items()


def _evicted(
    store: "Store",
    items: Iterable[CacheItem],
    cache: CacheChoice,
    limits: CacheLimits,
    may_go: Callable[[CacheItem], bool],
) -> set[Digest | Path]:
    """The keys of steps and the paths of cache mounts that are to go."""
    status = os.statvfs(store.private)
    gone = evicted(
        items,
        limits,
        free_bytes=status.f_bavail * status.f_frsize,
        may_go=lambda item: (cache == "all" or not item.is_shared) and may_go(item),
    )
    keys: set[Digest | Path] = {key for item in gone for key in item.keys}
    return keys | {item.path for item in gone if item.path is not None}


def usage(store: "Store") -> Usage:
    """Measure the store, file by file."""
    return _Measured(store).usage()


def disk_bytes(path: Path) -> int:
    """What `path` and all beneath it take on the disk; a file with several names counts once."""
    from layerstore.overlaydir import Cursor

    try:
        status = os.lstat(path)
        total = status.st_blocks * 512
        if not stat.S_ISDIR(status.st_mode):
            return total
        root_fd = os.open(path, _DIR_FLAGS)
    except FileNotFoundError:
        return 0
    seen: set[int] = set()
    with Cursor(root_fd) as cursor:
        pending = [_measure(cursor.fd, seen)]
        total += pending[-1][1]
        while pending:
            names, _ = pending[-1]
            if names:
                cursor.down(names.pop())
                pending.append(_measure(cursor.fd, seen))
                total += pending[-1][1]
                continue
            pending.pop()
            if pending:
                os.close(cursor.up())
    return total


def _measure(fd: int, seen: set[int]) -> tuple[list[str], int]:
    """The directories of a directory, and the bytes of all its entries."""
    total = 0
    names = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
            total += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                names.append(entry.name)
    return names, total


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    entries: list[Descriptor]  # of index.json afterwards
    dropped: list[Descriptor]
    step_keys: list[Digest]
    diff_ids: list[Digest]
    paths: list[Path]


def _records(store: "Store") -> dict[Digest, ImageRecord]:
    """The record of every entry of index.json, by the entry's digest."""
    of_manifest = {record.manifest_digest: record for record in store.images.list()}
    return {
        entry.digest: of_manifest[digest]
        for entry in store.images.entries()
        for digest in _manifests(store, entry)
        if digest in of_manifest
    }


def _chosen(
    records: dict[Digest, ImageRecord], choose: Callable[[ImageRecord], bool] | None
) -> Callable[[Descriptor], bool]:
    def is_chosen(entry: Descriptor) -> bool:
        record = records.get(entry.digest)
        return choose is None or (record is not None and choose(record))

    return is_chosen


def _plan(
    store: "Store",
    images: ImageChoice,
    cache: CacheChoice,
    is_chosen: Callable[[Descriptor], bool],
    only: set[Digest | Path] | None,
    without: Collection[str],
) -> _Plan:
    entries = store.images.entries()
    busy = _needs_of_containers(store, without)
    busy |= _needs_of_leases(store)

    def goes(entry: Descriptor) -> bool:
        if images == "none" or (images == "dangling" and name_of_entry(entry) is not None):
            return False
        return not (_manifests(store, entry) & busy.blobs) and is_chosen(entry)

    kept = [entry for entry in entries if not goes(entry)]
    dropped = [entry for entry in entries if entry not in kept]
    needs = Needs()
    for entry in kept:
        needs |= _needs_of_entry(store, entry)
    needs |= busy
    step_keys = []
    for step in store.cache.steps():
        may_go = only is None or step.key in only
        if may_go and (cache == "all" or (cache == "unused" and step.diff_id not in needs.layers)):
            step_keys.append(step.key)
        else:
            needs.layers.add(step.diff_id)
    return _plan_sweep(store, kept, dropped, step_keys, needs)


def _plan_sweep(
    store: "Store",
    kept: list[Descriptor],
    dropped: list[Descriptor],
    step_keys: list[Digest],
    needs: Needs,
    only: set[Digest] | None = None,
) -> _Plan:
    """Find all that `needs` does not lead to, or that part of it which is in `only`."""

    def may_go(digest: Digest) -> bool:
        return only is None or digest in only

    # Blobs that were part of something: surely not what another tool has begun to write.
    ours = {Digest(row[0]) for row in store.database.query("SELECT digest FROM removed")}
    for entry in dropped:
        ours |= _needs_of_entry(store, entry).blobs
    diff_ids = []
    for layer in store.layers.all():
        if layer.diff_id in needs.layers:
            needs.blobs.add(layer.descriptor.digest)
        else:
            ours.add(layer.descriptor.digest)
            if may_go(layer.diff_id):
                diff_ids.append(layer.diff_id)
    paths = [
        store.blob_path(digest)
        for digest in store.blobs.digests()
        if digest not in needs.blobs
        and may_go(digest)
        and (digest in ours or only is not None or _is_old(store.blob_path(digest)))
    ]
    snapshots = {EMPTY_SNAPSHOT} | {digest.hex[:32] for digest in needs.layers}
    tables = {digest.hex for digest in needs.layers}
    wanted = None if only is None else {d.hex for d in only} | {d.hex[:32] for d in only}
    for directory, names in (("snapshots", snapshots), ("toc", tables)):
        paths += [
            store.private / directory / name
            for name in sorted(os.listdir(store.private / directory))  # noqa: PTH208
            if name not in names and (wanted is None or name in wanted)
        ]
    return _Plan(entries=kept, dropped=dropped, step_keys=step_keys, diff_ids=diff_ids, paths=paths)


def _sweep_uses(store: "Store", dead: Sequence[Lease]) -> None:
    """Remove of what `dead` leases held all that nobody else needs."""
    uses = set[Digest]().union(*(read_uses(lease.path) for lease in dead))
    if not uses:
        return
    with store.lock.exclusive():
        entries = store.images.entries()
        needs = _needs_of_containers(store)
        needs |= _needs_of_leases(store, dead)
        for entry in entries:
            needs |= _needs_of_entry(store, entry)
        needs.layers |= {step.diff_id for step in store.cache.steps()}
        plan = _plan_sweep(store, entries, [], [], needs, only=uses)
        if plan.diff_ids or plan.paths:
            _carry_out(store, plan)


def _carry_out(store: "Store", plan: _Plan) -> Path:
    """Unlist, forget, and rename what goes into a directory, which is returned."""
    if plan.dropped:
        store.images.rewrite(plan.entries)
    statements: list[tuple[str, tuple[str]]] = [
        (f"DELETE FROM {table} WHERE key = ?", (key,))
        for key in plan.step_keys
        for table in ("steps", "used")
    ]
    statements += [("DELETE FROM layers WHERE diff_id = ?", (d,)) for d in plan.diff_ids]
    statements += [
        ("DELETE FROM removed WHERE digest = ?", (f"sha256:{path.name}",)) for path in plan.paths
    ]
    if statements:
        store.database.write(statements)
    store.layers.forget(plan.diff_ids)
    trash = store.lease().new_path("trash")
    trash.mkdir(mode=0o700)
    for number, path in enumerate(plan.paths):
        try:
            path.rename(trash / str(number))
        except FileNotFoundError:
            continue
    return trash


def _report(
    plan: _Plan, records: dict[Digest, ImageRecord], cache_mounts: int, freed_bytes: int
) -> Pruned:
    gone = dict.fromkeys(entry.digest for entry in plan.dropped)
    return Pruned(
        images=tuple(records[digest] for digest in gone if digest in records),
        steps=len(plan.step_keys),
        layers=len(plan.diff_ids),
        cache_mounts=cache_mounts,
        freed_bytes=freed_bytes,
    )


def _remove_tree(path: Path) -> None:
    from layerstore.overlaydir import remove_tree

    remove_tree(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # carried off meanwhile
        return None


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _FOREIGN_AGE_S_MIN
    except FileNotFoundError:
        return True


def _needs_of_entry(store: "Store", entry: Descriptor) -> Needs:
    """All that an entry of an index leads to. A damaged document leads nowhere."""
    needs = Needs()
    for descriptor in _walk(store, entry):
        needs.blobs.add(descriptor.digest)
        if descriptor.media_type not in media.MANIFEST_TYPES:
            continue
        try:
            manifest = Manifest.parse(get(store.blobs, descriptor.digest))
            needs.blobs |= {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
            config = ImageConfig.parse(get(store.blobs, manifest.config.digest))
        except StoreError:
            continue
        needs.layers |= set(config.diff_ids)
    return needs


def _manifests(store: "Store", entry: Descriptor) -> set[Digest]:
    return {descriptor.digest for descriptor in _walk(store, entry)}


def _walk(store: "Store", entry: Descriptor) -> Iterator[Descriptor]:
    """`entry`, and what is listed in it if it is an index."""
    level = [entry]
    for _ in range(_NESTING_MAX):
        inner: list[Descriptor] = []
        for descriptor in level:
            yield descriptor
            if descriptor.media_type in media.INDEX_TYPES:
                try:
                    inner += Index.parse(get(store.blobs, descriptor.digest)).manifests
                except StoreError:
                    continue
        level = inner


def _needs_of_leases(store: "Store", dead: Sequence[Lease] = ()) -> Needs:
    """What other living processes hold; a digest may be a blob's or a diff_id."""
    left_out = {lease.path.name for lease in (store.lease(), *dead)}
    needs = Needs()
    with os.scandir(store.tmp) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name not in left_out]
    for path in paths:
        held = read_uses(path)
        needs.blobs |= held
        needs.layers |= held
    return needs


def _needs_of_containers(store: "Store", without: Collection[str] = ()) -> Needs:
    needs = Needs()
    for container in containers(store):
        if container.id in without:
            continue
        if container.manifest_digest is not None:
            needs |= _needs_of_entry(store, _as_entry(container.manifest_digest))
        needs.layers |= set(container.layers)
    return needs


def _as_entry(digest: Digest) -> Descriptor:
    return Descriptor(media_type=media.OCI_MANIFEST, digest=digest, size_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerNeeds:
    """What the record of a container says that it stands on."""

    id: str
    manifest_digest: Digest | None
    layers: tuple[Digest, ...]


def containers(store: "Store") -> Iterator[ContainerNeeds]:
    """Every container with a record that can be read."""
    directory = store.private / "containers"
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        try:
            data = (directory / name / "container.json").read_bytes()
            reader = Reader.of(data, context=f"container {name}")
            manifest = reader.text("manifest_digest")
            yield ContainerNeeds(
                id=name,
                manifest_digest=Digest.parse(manifest) if manifest else None,
                layers=tuple(map(Digest.parse, reader.texts("layers") or ())),
            )
        except (OSError, StoreError):
            continue


class _Measured:
    """The store's sizes, taken once; not `is_exact`: those of layers as their rows have them."""

    def __init__(self, store: "Store", *, is_exact: bool = True) -> None:
        self._store = store
        self._containers = list(containers(store))
        self._layer_bytes: dict[Digest, int] = {}
        self._layer_blobs: dict[Digest, Digest] = {}
        for layer in store.layers.all():
            digest = layer.descriptor.digest
            self._layer_blobs[layer.diff_id] = digest
            checkout = store.layers.snapshot_path(layer.diff_id)
            if is_exact:
                toc = store.layers.toc_path(layer.diff_id)
                parts = (store.blob_path(digest), checkout, toc)
                self._layer_bytes[layer.diff_id] = sum(map(disk_bytes, parts))
            else:
                unpacked_bytes = layer.size_bytes if checkout.is_dir() else 0
                self._layer_bytes[layer.diff_id] = layer.descriptor.size_bytes + unpacked_bytes

    def usage(self) -> Usage:
        store = self._store
        records = store.images.list()
        users = Counter(container.manifest_digest for container in self._containers)
        parts = {record.manifest_digest: self._parts(record) for record in records}
        owners: Counter[Digest] = Counter()
        for found in parts.values():
            owners.update(found.keys())
        sizes: dict[Digest, int] = {}
        for found in parts.values():
            sizes |= found
        in_use = {
            part
            for record in records
            if users[record.manifest_digest]
            for part in parts[record.manifest_digest]
        }
        in_use |= {layer for container in self._containers for layer in container.layers}
        steps = list(store.cache.steps())
        cached = {step.diff_id for step in steps} - sizes.keys()
        mounts = {path: disk_bytes(path) for path in store.cache_mounts.paths()}
        unused_bytes = sum(mounts[path] for path in store.cache_mounts.unused() if path in mounts)
        cache_bytes = self._sum(cached) + sum(mounts.values())
        images_bytes = sum(sizes.values())
        container_usages = tuple(map(self._container, self._containers))
        containers_bytes = sum(container.stored_bytes for container in container_usages)
        total_bytes = disk_bytes(store.root)
        return Usage(
            images=tuple(self._image(record, parts, owners) for record in records),
            images_bytes=images_bytes,
            images_reclaimable_bytes=sum(
                size for part, size in sizes.items() if part not in in_use
            ),
            containers=container_usages,
            containers_bytes=containers_bytes,
            cache_steps=len(steps),
            cache_mounts=len(mounts),
            cache_bytes=cache_bytes,
            cache_reclaimable_bytes=self._sum(cached - in_use) + unused_bytes,
            other_bytes=max(0, total_bytes - images_bytes - cache_bytes - containers_bytes),
        )

    def cache_items(self) -> list[CacheItem]:
        """The build cache, the oldest first."""
        store = self._store
        of_images = {part for record in store.images.list() for part in self._parts(record)}
        of_containers = {layer for container in self._containers for layer in container.layers}
        of_leases = _needs_of_leases(store).layers
        used = store.cache.used()
        steps: dict[Digest, list[CachedStep]] = {}
        for step in store.cache.steps():
            steps.setdefault(step.diff_id, []).append(step)
        unused = set(store.cache_mounts.unused())
        return [
            *(
                CacheItem(
                    id=made[-1].key.hex,
                    kind="regular",
                    description=made[-1].created_by,
                    stored_bytes=0
                    if (is_shared := diff_id in of_images or diff_id in of_containers)
                    else self._layer_bytes.get(diff_id, 0),
                    created_s=made[0].put_s,
                    used_s=max(max(step.put_s, used.get(step.key, 0.0)) for step in made),
                    is_shared=is_shared,
                    is_in_use=diff_id in of_leases,
                    keys=tuple(step.key for step in made),
                )
                for diff_id, made in steps.items()
            ),
            *(
                CacheItem(
                    id=path.name,
                    kind="exec.cachemount",
                    description="a cache mount of RUN",
                    stored_bytes=disk_bytes(path),
                    created_s=status.st_mtime,
                    used_s=max(status.st_mtime, status.st_atime),
                    is_shared=False,
                    is_in_use=path not in unused,
                    path=path,
                )
                for path in store.cache_mounts.paths()
                if (status := _status(path)) is not None
            ),
        ]

    def _parts(self, record: ImageRecord) -> dict[Digest, int]:
        """Layers by diff_id, documents by digest, with their stored bytes."""
        needs = _needs_of_entry(self._store, record.entry)
        layer_blobs = {self._layer_blobs.get(diff_id) for diff_id in needs.layers}
        parts = {diff_id: self._layer_bytes.get(diff_id, 0) for diff_id in needs.layers}
        for digest in needs.blobs - layer_blobs:
            parts[digest] = disk_bytes(self._store.blob_path(digest))
        return parts

    def _image(
        self,
        record: ImageRecord,
        parts: dict[Digest, dict[Digest, int]],
        owners: Counter[Digest],
    ) -> ImageUsage:
        own = parts[record.manifest_digest]
        return ImageUsage(
            record=record,
            shared_bytes=sum(size for part, size in own.items() if owners[part] > 1),
            unique_bytes=sum(size for part, size in own.items() if owners[part] == 1),
            containers=tuple(
                container.id
                for container in self._containers
                if container.manifest_digest == record.manifest_digest
            ),
        )

    def _container(self, container: ContainerNeeds) -> ContainerUsage:
        return ContainerUsage(
            id=container.id,
            stored_bytes=disk_bytes(self._store.private / "containers" / container.id),
            manifest_digest=container.manifest_digest or "",
        )

    def _sum(self, diff_ids: Iterable[Digest]) -> int:
        return sum(self._layer_bytes.get(diff_id, 0) for diff_id in diff_ids)
