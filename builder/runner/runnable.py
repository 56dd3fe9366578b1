"""Images ready to run: what a container needs of an image, remembered in one small file.

    store --resolve, checkout--> RunnableImage --> run/NAME.json
    run/NAME.json --still true?--> RunnableImage           no SQLite, no documents, no layerstore

What is remembered under a name holds as long as
    index.json is the same file (it is replaced by rename whenever an image or a name changes),
    the machine has not been booted since (layer directories are not synced), and
    every layer directory is there (prune takes them away), and was not changed.
`register` asks this and makes the container known to prune in one breath, under the store's lock.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from layerstore import Image, Store

T = TypeVar("T")

_VERSION = 3
_NAME_MAX = 200
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RunnableImage(NamedTuple):
    """`directories` are the lowerdirs, topmost first, below the store's private directory."""

    name: str
    image_id: str
    manifest_digest: str
    layers: tuple[str, ...]  # diff_ids, bottom first
    directories: tuple[str, ...]
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    working_dir: str
    volumes: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    stop_signal: str
    exposed: tuple[str, ...]  # 80/tcp


def remembered(root: Path, name: str) -> RunnableImage | None:
    """What is remembered of the image `name`, if it still holds."""
    if len(name) > _NAME_MAX:
        return None
    try:
        version, stamp, checksum, fields = json.loads(_memo_path(root, name).read_bytes())
        if version != _VERSION or stamp != _stamp(root) or checksum != _checksum(fields):
            return None
        image = RunnableImage._make(map(_tupled, fields))
    except (OSError, ValueError, TypeError):  # none, or damaged: it will be made again
        return None
    return image if _directories_are_sound(root, image.directories) else None


def prepare(store: "Store", name: str) -> RunnableImage:
    """Look an image up in the store, unpack what is not unpacked, and remember the answer.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    from builder.timetravel import is_address, resolve

    stamp = _stamp(store.root)  # before looking: what changes meanwhile makes the memo void
    store.lease()
    runnable = _runnable(store, name, resolve(store, name))
    if len(name) <= _NAME_MAX and not is_address(name):  # whose documents prune may take
        _remember(store.root, runnable, stamp)
    return runnable


def register(root: Path, image: RunnableImage, make_known: Callable[[], T]) -> T | None:
    """Call `make_known`, which makes a container known to prune, if the image is all there still.

    None: it is not, because it was removed or pruned since it was looked up.

    The lock is the store's, shared and for some microseconds; prune takes it exclusively. It is
    taken here by hand, because importing layerstore's StoreLock would be a tenth of the time of a
    run. A test holds the two together.
    """
    fd = os.open(root / "lamina/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return make_known() if _directories_exist(root, image.directories) else None
    finally:
        os.close(fd)


def _runnable(store: "Store", name: str, image: "Image") -> RunnableImage:
    from builder.sandbox import why_no_overlay

    config = image.config.config
    # without overlays each container has a copy, and what an overlay is made of cannot be unpacked
    directories = store.layers.lowerdirs(() if why_no_overlay(store.private) else image.layers)
    return RunnableImage(
        name=name,
        image_id=image.id,
        manifest_digest=image.descriptor.digest,
        layers=tuple(layer.diff_id for layer in image.layers),
        directories=tuple(str(path.relative_to(store.private)) for path in directories),
        env=config.env,
        entrypoint=config.entrypoint or (),
        command=config.cmd or (),
        user=config.user,
        working_dir=config.working_dir,
        volumes=config.volumes,
        labels=config.labels,
        stop_signal=config.stop_signal,
        exposed=config.exposed_ports,
    )


def _remember(root: Path, image: RunnableImage, stamp: list[object]) -> None:
    from layerstore import remove_left_over, temporary_beside

    path = _memo_path(root, image.name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    remove_left_over(path.parent)
    temporary = temporary_beside(path)
    fields = list(image)
    temporary.write_text(json.dumps([_VERSION, stamp, _checksum(fields), fields]))
    temporary.rename(path)


def _checksum(fields: Sequence[object]) -> int:
    """What tells a damaged memo, whose words would be executed."""
    return zlib.crc32(json.dumps(fields).encode())


def _memo_path(root: Path, name: str) -> Path:
    return root / "lamina/run" / (name.replace("%", "%25").replace("/", "%2F") + ".json")


def _stamp(root: Path) -> list[object]:
    """What changes when an image or a name does, or with the next boot."""
    status = (root / "index.json").stat()
    boot_id = _BOOT_ID.read_text().strip()
    return [boot_id, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _directories_exist(root: Path, directories: tuple[str, ...]) -> bool:
    return all(os.access(f"{root}/lamina/{name}", os.F_OK) for name in directories)


def _directories_are_sound(root: Path, directories: tuple[str, ...]) -> bool:
    from layerstore import is_as_sealed

    return _directories_exist(root, directories) and all(
        is_as_sealed(f"{root}/lamina/{name}") for name in directories
    )


def _tupled(value: object) -> object:
    """JSON's lists as tuples, all the way down."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
