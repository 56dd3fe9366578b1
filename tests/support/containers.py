"""Records of containers that never ran, and the things to wait for around those that do."""

from pathlib import Path
from typing import Any

from builder.runner.container import ContainerRecord
from builder.runner.runnable import RunnableImage

IMAGE = RunnableImage(
    name="box",
    image_id="sha256:" + "1" * 64,
    manifest_digest="sha256:" + "2" * 64,
    layers=("sha256:" + "3" * 64,),
    directories=("snapshots/" + "3" * 32,),
    env=("PATH=/bin", "A=image"),
    entrypoint=(),
    command=("sh",),
    user="",
    working_dir="",
    volumes=(),
    labels=(),
    stop_signal="",
    exposed=(),
)


def image_with(**changes: Any) -> RunnableImage:
    return IMAGE._replace(**changes)


def record_with(**changes: Any) -> ContainerRecord:
    record = ContainerRecord(
        id="a" * 64,
        name="brisk_lathe",
        image="box",
        image_id=IMAGE.image_id,
        manifest_digest=IMAGE.manifest_digest,
        layers=IMAGE.layers,
        directories=IMAGE.directories,
        created=1_700_000_000.0,
        argv=("sh", "-c", "true"),
        env=("PATH=/bin",),
        cwd="/",
        user="",
        entrypoint_length=0,
        terminal=False,
        interactive=False,
        hostname="box",
        network="none",
        mounts=(),
        labels=(),
        auto_remove=False,
        stop_signal=15,
        stop_timeout_s=10,
        read_only=False,
        shm_size_bytes=64 << 20,
        pids_max=0,
        memory_bytes=0,
    )
    return record._replace(**changes)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
