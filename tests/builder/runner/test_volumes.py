from pathlib import Path
from typing import Any

import pytest

from builder.errors import ContainerError
from builder.runner import volumes
from builder.runner.container import MountPoint
from layerstore import (
    Layer,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
    Store,
    TreePath,
)
from tests.support.containers import names_in, record_with

LOWER = (
    PutDir(TreePath("data"), Meta(0o2750, 5, 6, 1_000_000_000)),
    PutFile(TreePath("data/a"), Meta(0o4755, 7, 8, 2_000_000_000), 3, b"one"),
    PutHardlink(TreePath("data/twin"), TreePath("data/a")),
    PutFile(TreePath("data/gone"), Meta(0o644), 1, b"x"),
    PutSymlink(TreePath("data/link"), Meta(0o777), "/etc/passwd"),
    PutDir(TreePath("data/empty"), Meta(0o700)),
    PutNode(TreePath("data/pipe"), Meta(0o600), "fifo"),
    PutSymlink(TreePath("alias"), Meta(0o777), "data"),
    PutFile(TreePath("file"), Meta(0o644), 1, b"x"),
)
UPPER = (
    Remove(TreePath("data/gone")),
    PutFile(TreePath("data/b"), Meta(0o600), 3, b"two"),
)

pytestmark = pytest.mark.needs_root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def layers(store: Store) -> tuple[Layer, ...]:
    made = (store.layers.commit(LOWER), store.layers.commit(UPPER))
    store.flush()
    return made


def mounted(store: Store, layers: tuple[Layer, ...], *mounts: MountPoint) -> Path:
    """Prepare the volumes; returns the directory of the first."""
    record = record_with(layers=tuple(layer.diff_id for layer in layers), mounts=mounts)
    volumes.prepare(store, record)
    assert not volumes.needs_store(store.private, record) or not any(
        volumes.data_path(store.private, mounts[0].source).iterdir()
    )
    return volumes.data_path(store.private, mounts[0].source)


def volume(target: str, **changes: Any) -> MountPoint:
    mount = MountPoint(kind="volume", target=target, source="vol")
    return mount._replace(**changes)


def test_an_empty_volume_gets_what_the_image_has_there(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    data = mounted(store, layers, volume("/data"))
    assert names_in(data) == ["a", "b", "empty", "link", "pipe", "twin"]
    assert (data / "a").read_bytes() == b"one"
    assert (data / "b").read_bytes() == b"two"
    assert (data / "link").readlink() == Path("/etc/passwd")
    assert (data / "pipe").is_fifo()


def test_owners_modes_times_and_hard_links_come_along(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    data = mounted(store, layers, volume("/data"))
    top, file = data.stat(), (data / "a").stat()
    assert (top.st_mode & 0o7777, top.st_uid, top.st_gid) == (0o2750, 5, 6)
    assert (file.st_mode & 0o7777, file.st_uid, file.st_gid) == (0o4755, 7, 8)
    assert file.st_mtime == 2
    assert (data / "twin").stat().st_ino == file.st_ino


def test_a_link_on_the_way_is_followed_inside_the_image(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    data = mounted(store, layers, volume("/alias/empty/.."))
    assert (data / "b").exists()


def test_where_the_image_has_no_directory_the_volume_stays_empty(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    for name, target in (("v1", "/nothing/here"), ("v2", "/file"), ("v3", "/data/empty")):
        data = mounted(store, layers, volume(target, source=name))
        assert data.is_dir()
        assert names_in(data) == []


def test_a_volume_that_holds_something_is_left_alone(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    data = volumes.data_path(store.private, "vol")
    data.mkdir(parents=True)
    (data / "mine").write_text("x")
    mounted(store, layers, volume("/data"))
    assert names_in(data) == ["mine"]


def test_a_volume_that_is_there_and_empty_is_filled(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    data = volumes.data_path(store.private, "vol")
    data.mkdir(parents=True)
    mounted(store, layers, volume("/data"))
    assert (data / "a").read_bytes() == b"one"


def test_nocopy_makes_an_empty_volume(store: Store, layers: tuple[Layer, ...]) -> None:
    data = mounted(store, layers, volume("/data", copy_up=False))
    assert names_in(data) == []
    assert names_in(data.parent) == ["_data"]


def test_the_store_is_needed_only_for_volumes_that_are_to_be_made(
    store: Store, layers: tuple[Layer, ...]
) -> None:
    private = store.private
    bind = MountPoint(kind="bind", target="/x", source="/")
    assert not volumes.needs_store(private, record_with(mounts=(bind,)))
    record = record_with(mounts=(volume("/data"),))
    assert volumes.needs_store(private, record)
    mounted(store, layers, volume("/data"))
    assert not volumes.needs_store(private, record)


def test_anonymous_volumes_get_long_names() -> None:
    mount = volumes.named(MountPoint(kind="volume", target="/x"))
    assert len(mount.source) == 64
    assert mount.anonymous
    for other in (volume("/x"), MountPoint(kind="tmpfs", target="/x")):
        assert volumes.named(other) == other


@pytest.mark.parametrize("name", ["a", "../x", "a/b", "-v", ".hidden"])
def test_names_of_volumes_are_checked(name: str) -> None:
    with pytest.raises(ContainerError, match="invalid volume name"):
        volumes.check(volume("/x", source=name))


def test_good_names_and_other_mounts_pass() -> None:
    volumes.check(volume("/x", source="data-1.old"))
    volumes.check(MountPoint(kind="bind", target="/x", source="/a b"))


def test_volumes_are_listed_and_removed(store: Store, layers: tuple[Layer, ...]) -> None:
    assert volumes.names(store.private) == []
    mounted(store, layers, volume("/data"))
    assert volumes.names(store.private) == ["vol"]
    volumes.remove(store.private, "vol")
    volumes.remove(store.private, "vol")
    volumes.remove(store.private, "")
    assert volumes.names(store.private) == []
    assert (store.private / "volumes").is_dir()
