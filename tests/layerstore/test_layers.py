"""Layers in a real store."""

import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import (
    Change,
    Compression,
    Content,
    Descriptor,
    Digest,
    InOrder,
    Layer,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutHardlink,
    PutSymlink,
    Remove,
    Store,
    TreePath,
    overlay_changes,
    pack,
)
from layerstore.backends.directory import DirectoryBlobWriter
from layerstore.compression import compressor, media_type
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsafePathError,
    UnsupportedMediaTypeError,
)
from layerstore.packing import Packing
from tests.support.offers import Offered
from tests.support.rawtar import header
from tests.support.stores import (
    cached_step,
    edit_cache,
    flip,
    flip_blob,
    make_layer,
    problems,
    puts,
    run,
)
from tests.support.strategies import changesets

FILES = {"etc/passwd": b"root", "etc/group": b"", "big": b"x" * 3_000_000}


def reopen(store: Store) -> Store:
    store.close()
    return Store.open(store.root)


def blob_of(changes: list[Change], kind: Compression = "gzip") -> tuple[bytes, Descriptor, Digest]:
    """A layer as another machine would send it."""
    out = io.BytesIO()
    squeeze = compressor(kind, out.write)
    packed = pack(changes, squeeze.write)
    squeeze.close()
    return out.getvalue(), describe(out.getvalue(), kind), packed.diff_id


def describe(data: bytes, kind: Compression = "gzip") -> Descriptor:
    return Descriptor(media_type=media_type(kind), digest=Digest.of(data), size_bytes=len(data))


def bytes_of(content: Content) -> bytes:
    return content if isinstance(content, bytes) else b"".join(content())


# ---- commit


def test_a_committed_layer_knows_its_sizes_and_counts(store: Store) -> None:
    layer = store.layers.commit([*puts(FILES), Remove(TreePath("gone"))])
    assert layer.size_bytes == 3_000_004
    assert (layer.files, layer.dirs, layer.removed) == (3, 1, 1)
    assert not layer.is_empty
    tar = gzip.decompress(b"".join(store.blobs.open(layer.descriptor.digest).pieces()))
    assert len(tar) == layer.tar_size_bytes
    assert Digest.of(tar) == layer.diff_id
    assert layer.descriptor.size_bytes == store.blobs.size_bytes(layer.descriptor.digest)


def test_a_commit_tells_how_far_it_is(store: Store) -> None:
    told: list[int] = []
    layer = store.layers.commit(puts(FILES), packed_bytes=told.append)
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == layer.tar_size_bytes
    assert layer == store.layers.commit(puts(FILES))


def test_equal_changes_in_any_order_give_the_same_layer(store: Store) -> None:
    changes = puts(FILES)
    assert store.layers.commit(changes) == store.layers.commit(list(reversed(changes)))


def test_nothing_is_a_layer_too(store: Store) -> None:
    layer = store.layers.commit([])
    assert layer.is_empty
    assert layer.size_bytes == 0
    assert store.layers.toc(layer) == []


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_a_layer_may_be_compressed_in_each_way(store: Store, kind: Compression) -> None:
    layer = store.layers.commit(puts(FILES), compression=kind)
    assert layer.descriptor.media_type == media_type(kind)
    assert (store.layers.checkout(layer) / "etc/passwd").read_bytes() == b"root"


def test_the_diff_id_does_not_depend_on_compression(store: Store) -> None:
    layers = [store.layers.commit(puts(FILES), compression=k) for k in ("none", "gzip", "zstd")]
    assert len({layer.diff_id for layer in layers}) == 1


def test_of_two_compressions_the_first_good_one_stays(store: Store) -> None:
    first = store.layers.commit(puts(FILES), compression="none")
    store.flush()
    assert store.layers.commit(puts(FILES), compression="gzip") == first

    flip_blob(store, first.descriptor.digest)
    again = reopen(store)
    healed = again.layers.commit(puts(FILES), compression="gzip")
    assert healed.descriptor.media_type == media_type("gzip")
    again.flush()
    assert again.layers.get(first.diff_id) == healed
    again.close()


def test_times_are_clamped(store: Store) -> None:
    layer = store.layers.commit(puts(FILES), mtime_max_s=1000)
    assert {entry.meta.mtime_ns for entry in store.layers.toc(layer)} == {1000 * 10**9}


def test_a_commit_that_fails_leaves_nothing(store: Store) -> None:
    def failing() -> Iterator[Change]:
        yield from puts(FILES)
        raise KeyError

    with pytest.raises(KeyError):
        store.layers.commit(failing())
    with pytest.raises(UnsafePathError):
        store.layers.commit(puts({".wh.x": b""}))
    store.flush()
    assert list(store.blobs.digests()) == []
    assert list(store.layers.all()) == []


@pytest.mark.needs_root
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=changesets(), data=st.data())
def test_any_changeset_in_any_order_comes_back_from_the_checkout(
    store: Store, changes: list[Change], data: st.DataObject
) -> None:
    layer = store.layers.commit(changes)
    shuffled = data.draw(st.permutations(changes))
    assert store.layers.commit(shuffled) == layer
    directory = store.layers.checkout(layer)
    again = pack(overlay_changes(directory), lambda _: None).toc
    put = {entry.path for entry in store.layers.toc(layer)}
    assert [entry for entry in again if entry.path in put] == store.layers.toc(layer)


# ---- find, get, all


def test_a_layer_is_found_by_another_process_after_flush(store: Store) -> None:
    layer = make_layer(store, FILES)
    with Store.open(store.root) as other:
        assert other.layers.find(layer.diff_id) is None
    store.flush()
    with Store.open(store.root) as other:
        assert other.layers.get(layer.diff_id) == layer
        assert other.layers.find_all([layer.diff_id]) == {layer.diff_id: layer}
        assert list(other.layers.all()) == [layer]
        assert other.layers.toc(layer) == store.layers.toc(layer)


def test_an_unknown_layer_is_not_found(store: Store) -> None:
    unknown = Digest.of(b"unknown")
    assert store.layers.find(unknown) is None
    assert store.layers.find_all([unknown]) == {}
    with pytest.raises(NotFoundError, match=unknown):
        store.layers.get(unknown)


def test_many_layers_are_found_at_once(store: Store) -> None:
    layers = [make_layer(store, {"n": str(number).encode()}) for number in range(30)]
    store.flush()
    pending = make_layer(store, {"n": b"pending"})
    wanted = [layer.diff_id for layer in (*layers, pending)]
    found = reopen_and_find(store, [*wanted, wanted[0], Digest.of(b"unknown")])
    assert list(found) and set(found) == {layer.diff_id for layer in layers}
    assert store.layers.find_all(wanted)[pending.diff_id] == pending


def reopen_and_find(store: Store, wanted: list[Digest]) -> dict[Digest, Layer]:
    with Store.open(store.root) as other:
        return other.layers.find_all(wanted)


def test_a_blob_that_changed_is_read_again_before_it_is_believed(store: Store) -> None:
    layer = make_layer(store, FILES)
    store.flush()
    path = store.blob_path(layer.descriptor.digest)

    path.chmod(0o600)  # the inode changes, the bytes do not
    again = reopen(store)
    assert again.layers.find(layer.diff_id) == layer

    flip(path, 100)
    again = reopen(again)
    assert again.layers.find(layer.diff_id) is None
    again.close()


def test_a_flipped_row_is_no_layer(store: Store) -> None:
    layer = make_layer(store, FILES)
    store.flush()
    store.database.write([("UPDATE layers SET size_bytes = size_bytes + 1", ())])
    with Store.open(store.root) as other:
        assert other.layers.find(layer.diff_id) is None
        assert list(other.layers.all()) == []
        assert list(other.layers.damaged_rows()) == [layer.diff_id]


# ---- adopt


@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_an_adopted_layer_keeps_its_blob_and_equals_ours(store: Store, kind: Compression) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES), kind)
    adopted = store.layers.adopt(io.BytesIO(data), descriptor, diff_id)
    assert b"".join(store.blobs.open(descriptor.digest).pieces()) == data
    assert adopted.descriptor == descriptor
    ours = make_layer(store, FILES)
    assert ours.diff_id == adopted.diff_id
    assert ours.content_digest == adopted.content_digest
    assert (ours.size_bytes, ours.tar_size_bytes) == (adopted.size_bytes, adopted.tar_size_bytes)


def test_bytes_after_the_end_of_the_tar_belong_to_the_diff_id(store: Store) -> None:
    tar = io.BytesIO()
    pack(puts({"a": b"1"}), tar.write)
    padded = tar.getvalue() + bytes(10240)
    layer = store.layers.adopt(io.BytesIO(padded), describe(padded, "none"), Digest.of(padded))
    assert layer.tar_size_bytes == len(padded)
    assert b"".join(store.layers.tar_pieces(layer)) == padded


def test_a_foreign_blob_is_read_and_not_kept(store: Store) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    found = list(store.layers.read_foreign(io.BytesIO(data), descriptor, diff_id))
    assert [change.path for change in found] == sorted(change.path for change in puts(FILES))
    store.flush()
    assert list(store.blobs.digests()) == []
    assert list(store.layers.all()) == []


def test_a_foreign_blob_with_another_tar_ends_in_an_error(store: Store) -> None:
    data, descriptor, _ = blob_of(puts(FILES))
    changes = store.layers.read_foreign(io.BytesIO(data), descriptor, Digest.of(b"other"))
    for _ in puts(FILES):
        next(changes)
    with pytest.raises(CorruptBlobError, match="diff_id"):
        next(changes)


def adopt_error(store: Store, data: bytes, descriptor: Descriptor, diff_id: Digest) -> StoreError:
    with pytest.raises(StoreError) as caught:
        store.layers.adopt(io.BytesIO(data), descriptor, diff_id)
    store.flush()
    assert list(store.blobs.digests()) == [], "nothing of it is kept"
    assert list(store.layers.all()) == []
    return caught.value


def test_a_wrong_digest_size_or_diff_id_is_refused(store: Store) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    wrong = Digest.of(b"wrong")
    for changed, expected in (
        (Descriptor(media_type=descriptor.media_type, digest=wrong, size_bytes=len(data)), diff_id),
        (
            Descriptor(
                media_type=descriptor.media_type,
                digest=descriptor.digest,
                size_bytes=len(data) + 1,
            ),
            diff_id,
        ),
        (
            Descriptor(
                media_type=descriptor.media_type,
                digest=descriptor.digest,
                size_bytes=len(data) - 1,
            ),
            diff_id,
        ),
        (descriptor, wrong),
    ):
        assert isinstance(adopt_error(store, data, changed, expected), CorruptBlobError)


def test_a_truncated_stream_is_refused(store: Store) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    for length in (0, 5, 100, len(data) - 1):
        adopt_error(store, data[:length], descriptor, diff_id)


@pytest.mark.parametrize("at", [0, 3, 10, 100, -1, -5])
def test_a_flipped_byte_is_refused(store: Store, at: int) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    flipped = bytearray(data)
    flipped[at] ^= 0x40
    adopt_error(store, bytes(flipped), descriptor, diff_id)


def test_another_media_type_is_no_layer(store: Store) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    wrong = Descriptor(media_type="text/plain", digest=descriptor.digest, size_bytes=len(data))
    assert isinstance(adopt_error(store, data, wrong, diff_id), UnsupportedMediaTypeError)


def test_a_hostile_tar_is_refused(store: Store) -> None:
    tar = header("../../escape", size=0) + bytes(1024)
    error = adopt_error(store, tar, describe(tar, "none"), Digest.of(tar))
    assert isinstance(error, UnsafePathError)


def test_a_bomb_is_stopped_at_the_space_there_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerstore import layers

    monkeypatch.setattr(layers, "_TAR_BYTES_MIN", 1 << 20)
    free = os.statvfs(store.private)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*free[:3], 0, 0, *free[5:])))
    data, descriptor, diff_id = blob_of(puts({"zeros": bytes(3 << 20)}))
    assert len(data) < 50_000
    error = adopt_error(store, data, descriptor, diff_id)
    assert isinstance(error, MalformedDocumentError)
    assert "all that is free" in str(error)


def test_a_foreign_layer_is_named_as_ours(store: Store) -> None:
    """What a manifest of ours would say must not depend on who brought the layer first."""
    data, descriptor, diff_id = blob_of(puts(FILES))
    foreign = Descriptor(
        media_type="application/vnd.docker.image.rootfs.diff.tar.gzip",
        digest=descriptor.digest,
        size_bytes=descriptor.size_bytes,
        annotations=(("a", "b"),),
    )
    layer = store.layers.adopt(io.BytesIO(data), foreign, diff_id)
    assert layer.descriptor == descriptor
    store.flush()
    with Store.open(store.root) as other:
        assert other.layers.get(diff_id) == layer


# ---- index: blobs that other tools brought


def test_a_blob_that_is_there_becomes_a_layer(store: Store) -> None:
    data, descriptor, diff_id = blob_of(puts(FILES))
    store.blob_path(descriptor.digest).write_bytes(data)
    layer = store.layers.index(descriptor, diff_id)
    store.flush()
    assert store.layers.get(diff_id) == layer
    assert store.layers.index(descriptor, diff_id) == layer


def test_a_blob_that_is_not_there_cannot_be_indexed(store: Store) -> None:
    _, descriptor, diff_id = blob_of(puts(FILES))
    with pytest.raises(NotFoundError, match="blob"):
        store.layers.index(descriptor, diff_id)


def test_a_blob_with_another_diff_id_is_refused(store: Store) -> None:
    data, descriptor, _ = blob_of(puts(FILES))
    store.blob_path(descriptor.digest).write_bytes(data)
    with pytest.raises(CorruptBlobError, match="diff_id"):
        store.layers.index(descriptor, Digest.of(b"wrong"))


# ---- tables of contents


def test_a_missing_or_damaged_table_is_made_again(store: Store) -> None:
    layer = make_layer(store, FILES)
    expected = store.layers.toc(layer)
    path = store.layers.toc_path(layer.diff_id)
    before = path.read_bytes()
    for damage in (path.unlink, lambda: flip(path, 200), lambda: path.write_bytes(b"")):
        damage()
        assert store.layers.toc(layer) == expected
        assert path.read_bytes() == before


def test_a_table_cannot_be_made_of_a_damaged_blob(store: Store) -> None:
    layer = make_layer(store, FILES)
    store.flush()
    store.layers.toc_path(layer.diff_id).unlink()
    flip_blob(store, layer.descriptor.digest)
    with pytest.raises(StoreError):
        store.layers.toc(layer)


# ---- checkout


@pytest.mark.needs_root
def test_a_checkout_has_what_the_layer_says(store: Store) -> None:
    layer = store.layers.commit(
        [
            PutDir(TreePath("d"), Meta(0o1777, 1, 2, 3 * 10**9)),
            Opaque(TreePath("d")),
            PutFile(TreePath("d/f"), Meta(0o4755, 5, 6, 7 * 10**9), 2, b"hi"),
            PutHardlink(TreePath("d/g"), TreePath("d/f")),
            PutSymlink(TreePath("l"), Meta(0o777), "/etc/passwd"),
            Remove(TreePath("gone")),
        ]
    )
    directory = store.layers.checkout(layer)
    assert directory == store.private / "snapshots" / layer.diff_id.hex[:32]
    status = (directory / "d/f").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4755, 5, 6)
    assert status.st_mtime == 7
    assert status.st_nlink == 2
    assert os.readlink(directory / "l") == "/etc/passwd"  # noqa: PTH115
    assert stat.S_ISCHR((directory / "gone").lstat().st_mode)
    assert os.getxattr(directory / "d", "trusted.overlay.opaque") == b"y"


def test_a_checkout_is_made_once(store: Store) -> None:
    layer = make_layer(store, FILES)
    first = store.layers.checkout(layer)
    inode = first.stat().st_ino
    assert store.layers.checkout(layer).stat().st_ino == inode


def test_a_checkout_does_not_depend_on_the_umask(store: Store) -> None:
    before = os.umask(0o777)
    try:
        layer = make_layer(store, FILES)
        directory = store.layers.checkout(layer)
        (empty,) = store.layers.lowerdirs([])
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (directory, directory / "big", empty)]
    assert modes == [0o755, 0o644, 0o755]


def test_a_damaged_blob_is_not_checked_out(store: Store) -> None:
    layer = make_layer(store, FILES)
    store.flush()
    flip_blob(store, layer.descriptor.digest)
    with pytest.raises(StoreError) as caught:
        store.layers.checkout(layer)
    assert caught.value.hint or layer.descriptor.digest in str(caught.value)
    assert list((store.private / "snapshots").iterdir()) == []


def all_kinds() -> list[Change]:
    return [
        PutDir(TreePath("d"), Meta(0o1777, 0, 0, 3 * 10**9)),
        PutFile(TreePath("d/big"), Meta(0o644), 3_000_000, bytes(3_000_000)),
        PutFile(TreePath("d/f"), Meta(0o755, 0, 0, 7 * 10**9), 2, b"hi"),
        PutHardlink(TreePath("d/g"), TreePath("d/f")),
        PutSymlink(TreePath("l"), Meta(0o777), "/etc/passwd"),
    ]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("way", ["flipped", "cut", "missing"])
def test_a_blob_is_made_again_of_its_checkout(store: Store, kind: Compression, way: str) -> None:
    layer = store.layers.commit(all_kinds(), compression=kind)
    store.layers.checkout(layer)
    store.flush()
    path = store.blob_path(layer.descriptor.digest)
    before = path.read_bytes()
    path.chmod(0o600)
    if way == "flipped":
        flip_blob(store, layer.descriptor.digest, 30)
    elif way == "cut":
        path.write_bytes(before[:-1])
    else:
        path.unlink()
    again = reopen(store)
    assert again.layers.find_here(layer.diff_id) is None
    assert again.layers.get(layer.diff_id) == layer
    again.flush()
    assert path.read_bytes() == before
    assert problems(store.root) == []
    again.close()


def test_a_blob_is_made_again_when_the_database_is_lost_as_well(store: Store) -> None:
    layer = store.layers.commit(all_kinds())
    store.layers.checkout(layer)
    store.flush()
    flip_blob(store, layer.descriptor.digest, 30)
    edit_cache(store, "DELETE FROM layers")
    again = reopen(store)
    assert again.layers.index(layer.descriptor, layer.diff_id) == layer
    again.flush()
    assert problems(store.root) == []
    again.close()


@pytest.mark.parametrize("damage", ["no checkout", "checkout", "table of contents"])
def test_a_blob_is_not_made_again_of_what_is_not_good(store: Store, damage: str) -> None:
    layer = store.layers.commit(all_kinds())
    checkout = store.layers.checkout(layer)
    store.flush()
    if damage == "no checkout":
        shutil.rmtree(checkout)
    elif damage == "checkout":
        (checkout / "d/f").write_bytes(b"ho")
    else:
        flip(store.layers.toc_path(layer.diff_id), 40)
    flip_blob(store, layer.descriptor.digest, 30)
    again = reopen(store)
    assert again.layers.find(layer.diff_id) is None
    with pytest.raises(NotFoundError, match="no such layer") as caught:
        again.layers.get(layer.diff_id)
    assert "fsck" in caught.value.hint
    with pytest.raises(StoreError):
        again.layers.index(layer.descriptor, layer.diff_id)
    again.close()


def test_a_blob_of_another_tool_s_making_is_not_made_again(store: Store) -> None:
    data, descriptor, diff_id = blob_of(all_kinds())
    odd = gzip.compress(gzip.decompress(data), 1)
    layer = store.layers.adopt(io.BytesIO(odd), describe(odd), diff_id)
    store.layers.checkout(layer)
    store.flush()
    flip_blob(store, layer.descriptor.digest, 30)
    again = reopen(store)
    assert again.layers.find(diff_id) is None
    assert descriptor.digest not in again.blobs.digests()
    again.close()


@pytest.mark.parametrize("at", [0, 12, 200, 5000, -1, -6])
def test_wherever_the_damage_is_no_checkout_appears(store: Store, at: int) -> None:
    layer = make_layer(store, {"a": os.urandom(20_000)})
    store.flush()
    flip_blob(store, layer.descriptor.digest, at)
    with pytest.raises(StoreError):
        store.layers.checkout(layer)
    assert list((store.private / "snapshots").iterdir()) == []


def test_a_blob_of_the_right_digest_and_wrong_diff_id_is_not_checked_out(store: Store) -> None:
    from dataclasses import replace

    layer = make_layer(store, FILES)
    with pytest.raises(CorruptBlobError, match="diff_id"):
        store.layers.checkout(replace(layer, diff_id=Digest.of(b"wrong")))


CHECKOUT = """
import sys
from pathlib import Path
from layerstore import Digest, Store
with Store.open(Path(sys.argv[1])) as store:
    layer = store.layers.get(Digest(sys.argv[2]))
    sys.stdin.readline()
    print(store.layers.checkout(layer))
"""


def test_two_processes_may_check_out_at_once(store: Store) -> None:
    from tests.support.stores import start

    layer = make_layer(store, {f"f{number}": os.urandom(5000) for number in range(200)})
    store.flush()
    processes = [start(CHECKOUT, store.root, layer.diff_id) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        assert out.decode().strip() == str(store.layers.snapshot_path(layer.diff_id))
    assert len(list(store.layers.checkout(layer).iterdir())) == 200
    assert [path for path in store.tmp.iterdir() if path != store.lease().path] == []


def test_the_loser_of_a_race_drops_its_copy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer(store, FILES)
    winner = store.layers.snapshot_path(layer.diff_id)
    real = type(store.layers)._keep_directory

    def too_late(layers: object, directory: Path, path: Path) -> bool:
        shutil.copytree(directory, winner)
        return real(store.layers, directory, path)

    monkeypatch.setattr(type(store.layers), "_keep_directory", too_late)
    assert store.layers.checkout(layer) == winner
    assert not list(store.lease().path.glob("extract*"))


# ---- upper directories


def upper_of(store: Store, files: dict[str, bytes]) -> Path:
    path = store.lease().new_path("upper")
    path.mkdir()
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_an_upper_directory_becomes_the_checkout(store: Store) -> None:
    upper = upper_of(store, {"d/a": b"1"})
    inode = upper.stat().st_ino
    layer = store.layers.commit(overlay_changes(upper), upperdir=upper)
    assert not upper.exists()
    assert store.layers.checkout(layer).stat().st_ino == inode


def test_a_second_upper_directory_stays_with_the_caller(store: Store) -> None:
    first, second = upper_of(store, {"a": b"1"}), upper_of(store, {"a": b"1"})
    for path in (first, second):
        os.utime(path / "a", (1, 1))
        store.layers.commit(overlay_changes(path), upperdir=path)
    assert not first.exists()
    assert (second / "a").read_bytes() == b"1"


def test_an_empty_upper_directory_stays_with_the_caller(store: Store) -> None:
    upper = upper_of(store, {})
    store.layers.commit(overlay_changes(upper), upperdir=upper)
    assert upper.is_dir()


def test_a_clamped_upper_directory_has_the_times_of_the_layer(store: Store) -> None:
    upper = upper_of(store, {"d/new": b"1", "d/old": b"2"})
    (upper / "d/link").symlink_to("new")
    os.utime(upper / "d/old", (50, 50))
    layer = store.layers.commit(overlay_changes(upper), upperdir=upper, mtime_max_s=100)
    directory = store.layers.checkout(layer)
    times = {
        name: (directory / name).lstat().st_mtime for name in ("d", "d/new", "d/old", "d/link")
    }
    assert times == {"d": 100, "d/new": 100, "d/old": 50, "d/link": 100}


# ---- stacks


def test_lowerdirs_are_topmost_first_without_the_empty(store: Store) -> None:
    base, empty, top = (make_layer(store, files) for files in ({"a": b"1"}, {}, {"b": b"2"}))
    assert store.layers.lowerdirs([base, empty, top]) == (
        store.layers.checkout(top),
        store.layers.checkout(base),
    )


def test_there_is_always_a_lowerdir(store: Store) -> None:
    (directory,) = store.layers.lowerdirs([make_layer(store, {})])
    assert list(directory.iterdir()) == []
    assert store.layers.lowerdirs([]) == (directory,)


def test_of_equal_layers_only_the_topmost_is_stacked(store: Store) -> None:
    one, two = make_layer(store, {"a": b"1"}), make_layer(store, {"a": b"2"})
    assert store.layers.lowerdirs([one, two, one]) == tuple(map(store.layers.checkout, (one, two)))


def test_the_tree_shows_the_stack(store: Store) -> None:
    base = make_layer(store, {"etc/a": b"1", "etc/b": b"2"})
    top = store.layers.commit([*puts({"etc/b": b"changed"}), Remove(TreePath("etc/a"))])
    tree = store.layers.tree([base, top])
    assert tree.children(TreePath("etc")) == ["b"]
    node = tree.get(TreePath("etc/b"))
    assert node is not None
    assert node.layer == 1
    assert bytes_of(store.layers.read_file([base, top], node)) == b"changed"


@pytest.mark.parametrize("size", [0, 10, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_file_is_read_whatever_its_size(store: Store, size: int) -> None:
    content = os.urandom(size)
    layer = make_layer(store, {"d/f": content})
    node = store.layers.tree([layer]).get(TreePath("d/f"))
    assert node is not None
    found = store.layers.read_file([layer], node)
    assert bytes_of(found) == content
    assert bytes_of(found) == content, "and can be read again"


def test_a_hard_link_reads_as_its_file(store: Store) -> None:
    changes = [*puts({"a": b"content"}), PutHardlink(TreePath("b"), TreePath("a"))]
    layer = store.layers.commit(changes)
    node = store.layers.tree([layer]).get(TreePath("b"))
    assert node is not None
    assert bytes_of(store.layers.read_file([layer], node)) == b"content"


def test_what_is_no_file_cannot_be_read(store: Store) -> None:
    layer = store.layers.commit([PutSymlink(TreePath("l"), Meta(0o777), "/etc/passwd")])
    node = store.layers.tree([layer]).get(TreePath("l"))
    assert node is not None
    with pytest.raises(StoreError, match="no file"):
        store.layers.read_file([layer], node)


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"short"),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["flipped", "missing", "short", "link", "directory"],
)
def test_a_damaged_checkout_is_not_served(
    store: Store, damage: Callable[[Path], object], size: int
) -> None:
    layer = make_layer(store, {"d/f": os.urandom(size)})
    node = store.layers.tree([layer]).get(TreePath("d/f"))
    assert node is not None
    damage(store.layers.checkout(layer) / "d/f")
    with pytest.raises(CorruptBlobError, match="d/f"):
        bytes_of(store.layers.read_file([layer], node))


def test_a_link_in_the_way_is_not_followed(store: Store, tmp_path: Path) -> None:
    layer = make_layer(store, {"d/f": b"ours"})
    node = store.layers.tree([layer]).get(TreePath("d/f"))
    assert node is not None
    directory = store.layers.checkout(layer)
    (tmp_path / "f").write_bytes(b"ours")
    (directory / "d").rename(tmp_path / "moved")
    (directory / "d").symlink_to(tmp_path)
    with pytest.raises(CorruptBlobError):
        bytes_of(store.layers.read_file([layer], node))


# ---- tars


def test_the_tar_comes_back_as_it_was(store: Store) -> None:
    layer = make_layer(store, FILES)
    tar = b"".join(store.layers.tar_pieces(layer))
    assert Digest("sha256:" + hashlib.sha256(tar).hexdigest()) == layer.diff_id


def test_a_damaged_tar_is_never_served_to_the_end(store: Store) -> None:
    layer = store.layers.commit(puts(FILES), compression="none")
    store.flush()
    flip_blob(store, layer.descriptor.digest, 3000)
    served = 0
    with pytest.raises(CorruptBlobError):
        for piece in store.layers.tar_pieces(layer):
            served += len(piece)
    assert served < layer.tar_size_bytes


def test_a_cached_lookup_imports_no_codec(store: Store) -> None:
    layer = make_layer(store, FILES)
    store.layers.checkout(layer)
    store.flush()
    out = run(
        """
import sys
from pathlib import Path
from layerstore import Digest, Store
with Store.open(Path(sys.argv[1])) as store:
    store.layers.lowerdirs([store.layers.get(Digest(sys.argv[2]))])
heavy = {"zstandard", "isal", "tarfile", "tempfile", "shutil", "subprocess", "uuid",
         "layerstore.tarcodec", "layerstore.overlaydir", "layerstore.compression"}
print(sorted(heavy & set(sys.modules)))
""",
        store.root,
        layer.diff_id,
    )
    assert out == "[]\n"


# ---- beside: the blob comes later

LARGE = {"random": os.urandom(5_000_000)}


def test_a_layer_is_known_before_its_blob_is_written(store: Store) -> None:
    layer = store.layers.commit(puts(LARGE), beside=True)
    assert store.layers.find(layer.diff_id) is layer
    assert [str(entry.path) for entry in store.layers.toc(layer)] == ["random"]
    assert layer == store.layers.commit(puts(LARGE))
    store.flush()
    assert not store.layers.is_writing
    with reopen(store) as again:
        found = again.layers.get(layer.diff_id)
        assert found == layer
        assert found.descriptor == layer.descriptor
        assert again.blobs.has(layer.descriptor.digest)


def test_without_beside_it_is_written(store: Store) -> None:
    layer = store.layers.commit(puts(LARGE))
    assert not store.layers.is_writing
    assert store.blobs.has(layer.descriptor.digest)


def test_the_next_commit_waits_for_the_last(store: Store) -> None:
    first = store.layers.commit(puts(LARGE), beside=True)
    other = store.layers.commit(puts({"b": os.urandom(5_000_000)}), beside=True)
    assert isinstance(first.blob, Packing)
    assert first.blob.is_done
    assert other.descriptor.size_bytes >= 5_000_000


def test_what_is_there_is_not_written_again(store: Store) -> None:
    first = store.layers.commit(puts(LARGE))
    store.flush()
    before = store.blobs.stamp(first.descriptor.digest)
    again = store.layers.commit(puts(LARGE), beside=True)
    assert not store.layers.is_writing
    assert again == first
    assert store.blobs.stamp(again.descriptor.digest) == before
    assert list(store.tmp.glob("*/blob*")) == []


def test_what_is_there_and_damaged_is(store: Store) -> None:
    first = store.layers.commit(puts(LARGE))
    store.flush()
    flip_blob(store, first.descriptor.digest)
    store.layers.commit(puts(LARGE), beside=True)
    store.flush()
    assert problems(store.root) == []


def test_a_blob_that_cannot_be_written_takes_its_layer_and_steps_along(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = store.layers.commit(puts({"a": b"1"}))
    store.cache.put(cached_step(b"good", good), parent=None, variant="")

    def fail(self: DirectoryBlobWriter) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(DirectoryBlobWriter, "sync", fail)
    bad = store.layers.commit(puts(LARGE), beside=True)
    store.cache.put(cached_step(b"bad", bad), parent=None, variant="")
    with pytest.raises(OSError, match="full"):
        store.flush()
    store.flush()
    with reopen(store) as again:
        assert again.layers.find(good.diff_id) == good
        assert again.layers.find(bad.diff_id) is None
        assert [step.diff_id for step in again.cache.steps()] == [good.diff_id]
    assert problems(store.root) == []


def test_a_store_that_is_closed_leaves_no_thread(store: Store) -> None:
    before = threading.active_count()
    store.layers.commit(puts(LARGE), beside=True)
    store.close()
    assert threading.active_count() == before


def test_changes_that_fail_leave_no_thread(store: Store) -> None:
    before = threading.active_count()

    def changes() -> Iterator[Change]:
        yield from puts(LARGE)
        raise StoreError("enough")

    with pytest.raises(StoreError, match="enough"):
        store.layers.commit(InOrder(changes()), beside=True)
    assert threading.active_count() == before
    assert list(store.tmp.glob("*/blob*")) == []


# Layers that are elsewhere.


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "there") as there:
        yield there


def test_an_offered_layer_is_known_and_nothing_of_it_is_here(store: Store, there: Store) -> None:
    layer = make_layer(there, FILES)
    offer = Offered(layer, there, store, "host/path")
    assert store.layers.offer(offer)
    assert store.layers.find(layer.diff_id) == layer
    assert store.layers.find_here(layer.diff_id) is None
    assert store.layers.is_offered(layer.diff_id)
    assert store.layers.origin_of(layer) == "host/path"
    assert store.layers.toc(layer) == there.layers.toc(layer)
    assert offer.fetched == 0
    store.flush()
    assert list(store.layers.all()) == []


def test_an_offered_layer_comes_when_its_bytes_are_wanted(store: Store, there: Store) -> None:
    layer = make_layer(there, FILES)
    offer = Offered(layer, there, store)
    store.layers.offer(offer)
    assert (store.layers.checkout(layer) / "etc/passwd").read_bytes() == b"root"
    assert store.layers.fetch(layer) == layer
    assert offer.fetched == 1
    assert store.layers.origin_of(layer) == ""
    assert not store.layers.is_offered(layer.diff_id)
    assert not store.layers.offer(offer), "it is here"


def test_the_last_offer_of_a_layer_counts(store: Store, there: Store) -> None:
    layer = make_layer(there, FILES)
    first, second = (Offered(layer, there, store, origin) for origin in ("one", "two"))
    store.layers.offer(first)
    store.layers.offer(second)
    assert store.layers.origin_of(layer) == "two"
    store.layers.fetch(layer)
    assert (first.fetched, second.fetched) == (0, 1)


def test_several_offers_hear_of_each_other_before_the_first_is_fetched(
    store: Store, there: Store
) -> None:
    one, two = make_layer(there, {"a": b"1"}), make_layer(there, {"b": b"2"})
    here = make_layer(store, {"c": b"3"})
    offers = [Offered(layer, there, store, tells=True) for layer in (one, two)]
    for offer in offers:
        store.layers.offer(offer)
    told: list[Digest] = []
    fetched = store.layers.fetch_all(
        [one, here, two, one], lambda blob, come_bytes, size_bytes: told.append(blob)
    )
    assert fetched == [one, here, two, one]
    assert [offer.brought for offer in offers] == [[offers], [offers]]
    assert told == [one.descriptor.digest, two.descriptor.digest]
    assert store.layers.find_here(two.diff_id) == two


def test_one_offer_alone_is_only_fetched(store: Store, there: Store) -> None:
    layer = make_layer(there, {"a": b"1"})
    offer = Offered(layer, there, store)
    store.layers.offer(offer)
    store.layers.fetch(layer)
    assert (offer.brought, offer.fetched) == ([], 1)
