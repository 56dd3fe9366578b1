"""Stores and images of a few small files, made with as few words as possible."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from layerstore import (
    CachedStep,
    Change,
    ContainerConfig,
    Descriptor,
    Digest,
    Finding,
    History,
    Image,
    ImageConfig,
    Index,
    Layer,
    Meta,
    Platform,
    PutDir,
    PutFile,
    Reference,
    Store,
    TreePath,
    parent_of,
    verify_store,
)
from layerstore import descriptor as media
from layerstore.blobs import put
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
CREATED = "2024-05-06T07:08:09Z"
MTIME_NS = 1_700_000_000 * 1_000_000_000


def puts(files: Mapping[str, bytes]) -> list[Change]:
    """The changes that make `files`, with the directories on the way to them."""
    parents = {parent for path in files if (parent := parent_of(TreePath(path)))}
    while missing := {p for path in parents if (p := parent_of(TreePath(path)))} - parents:
        parents |= missing
    return [
        *(PutDir(TreePath(path), Meta(0o755, mtime_ns=MTIME_NS)) for path in sorted(parents)),
        *(
            PutFile(TreePath(path), Meta(0o644, mtime_ns=MTIME_NS), len(content), content)
            for path, content in files.items()
        ),
    ]


def make_layer(store: Store, files: Mapping[str, bytes]) -> Layer:
    return store.layers.commit(puts(files))


def seal(store: Store, layers: Iterable[Layer], *, created: str = CREATED) -> Image:
    layers = tuple(layers)
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        created=created,
        config=ContainerConfig(env=("PATH=/bin",), cmd=("/bin/true",), labels=(("a", "b"),)),
        history=tuple(
            History(created=created, created_by=f"step {number}") for number in range(len(layers))
        ),
    )
    return store.images.seal(config, layers)


def make_image(
    store: Store, name: str, *layers: Mapping[str, bytes], created: str = CREATED
) -> Image:
    """An image of these layers, named and flushed."""
    image = seal(store, [make_layer(store, files) for files in layers], created=created)
    store.images.tag(image, Reference.parse(name))
    store.flush()
    return image


def tag_index(store: Store, name: str, images: Mapping[Platform, Image]) -> Descriptor:
    """Give a name to an index of images for several platforms."""
    entries = [replace(image.descriptor, platform=where) for where, image in images.items()]
    data = Index(manifests=tuple(entries)).encode()
    digest = put(store.blobs, data).digest
    entry = Descriptor(media_type=media.OCI_INDEX, digest=digest, size_bytes=len(data))
    store.images.tag_entry(entry, Reference.parse(name))
    store.flush()
    return entry


def cached_step(
    document: bytes,
    layer: Layer,
    *,
    created: str = CREATED,
    created_by: str = "RUN",
    seconds: float = 1.0,
) -> CachedStep:
    """A step with this document, which made `layer`."""
    return CachedStep(
        key=Digest.of(document),
        diff_id=layer.diff_id,
        created=created,
        created_by=created_by,
        seconds=seconds,
        document=document,
    )


def findings(store: Store, *, quick: bool = False) -> list[Finding]:
    return list(verify_store(store, quick=quick))


def problems(root: Path) -> list[str]:
    """What a fresh look at the store finds wrong."""
    with Store.open(root) as store:
        return [str(finding) for finding in verify_store(store)]


def flip(path: Path, at: int = -1) -> None:
    """Change one byte of a file in place, as a failing disk would."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(mode)


def flip_blob(store: Store, digest: Digest, at: int = -1) -> None:
    flip(store.blob_path(digest), at)


def edit_cache(store: Store, sql: str) -> None:
    """Change the database behind the store's back."""
    connection = sqlite3.connect(store.private / "cache.db")
    with connection:
        connection.execute(sql)
    connection.close()


def start(program: str, *args: str | Path) -> "subprocess.Popen[bytes]":
    """Run a piece of Python in another process that can import the repository."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(program: str, *args: str | Path) -> str:
    """Run a piece of Python in another process, which must succeed."""
    process = start(program, *args)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    return out.decode()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, and collect what is left of it."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


_HOLDER = """
import sys, time
from pathlib import Path
from layerstore import Store
with Store.open(Path(sys.argv[1])) as store:
    with store.cache_mounts.hold(sys.argv[2], sys.argv[3], lambda path: None) as held:
        Path(sys.argv[4]).write_text(str(held.path))
        time.sleep(60)  # until it is killed
"""


def hold_mount(root: Path, key: str, sharing: str, said: Path) -> "subprocess.Popen[bytes]":
    """Another process that holds a cache mount; returns once its path is in `said`."""
    process = start(_HOLDER, root, key, sharing, said)
    wait_until(lambda: said.exists() and said.read_text() != "", seconds=30)
    return process
