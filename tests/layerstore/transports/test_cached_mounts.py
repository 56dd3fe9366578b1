"""Cache mounts in a directory: exported whole or not at all, filled from it, believed never."""

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import (
    CachedMounts,
    Change,
    Digest,
    DirectoryPlace,
    Store,
    StoreError,
    export_mount,
    layers,
)
from layerstore.errors import StoreBusyError
from tests.support.rawtar import END, entry
from tests.support.stores import findings, flip, hold_mount, kill
from tests.support.trees import Dir, File, Item, Node, SameFile, make_tree, read_tree

KEY, OTHER_KEY = Digest.of(b"one").hex, Digest.of(b"two").hex
ITEMS: dict[str, Item] = {
    "d": Dir(mode=0o750),
    "d/deep": Dir(),
    "d/deep/er": Dir(mode=0o2775),
    "d/f": File(b"text", mode=0o4751),
    "d/same": SameFile("d/f"),
    "empty": b"",
    "large": bytes(3 << 20) + b"end",
    "out": "/etc/passwd",
    "pipe": Node(),
    "odd\udcff\n": b"name",
    ".whx": b"no whiteout",
}
ROOT_ENTRY = entry("./", kind=b"5", mode=0o755)


def cold(path: Path) -> None:
    (path / "cold").touch()


def used(store: Store, items: dict[str, Item], key: str = KEY) -> Path:
    """A cache mount with these in it, which nobody uses any more."""
    held = store.cache_mounts.hold(key, "shared", lambda path: None)
    assert held is not None
    with held:
        return make_tree(held.path, items)


def attach(store: Store, cache: Path) -> list[str]:
    """Look into `cache` from now on; what is told of it comes into the list."""
    notices: list[str] = []
    store.cache_mounts.add_source(CachedMounts(DirectoryPlace(cache), store, notices.append))
    return notices


def begun(store: Store, key: str = KEY) -> Path:
    """The mount as its first user finds it."""
    held = store.cache_mounts.hold(key, "locked", cold)
    assert held is not None
    with held:
        return held.path


def is_cold(path: Path) -> bool:
    return [each.name for each in Path(path).iterdir()] == ["cold"]


def entry_file(cache: Path, key: str = KEY) -> Path:
    return cache / "lamina/mounts" / key


def blob_of(cache: Path, key: str = KEY) -> Path:
    digest: str = json.loads(entry_file(cache, key).read_bytes())["blob"]["digest"]
    return cache / "blobs/sha256" / digest.removeprefix("sha256:")


def forge(cache: Path, tar: bytes, **changes: object) -> None:
    """A mount with this tar in it, with all digests right."""
    blob = gzip.compress(tar)
    (cache / "blobs/sha256").mkdir(parents=True)
    (cache / "lamina/mounts").mkdir(parents=True)
    (cache / "blobs/sha256" / Digest.of(blob).hex).write_bytes(blob)
    document = {
        "schema": 1,
        "key": KEY,
        "diffId": Digest.of(tar),
        "blob": {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": Digest.of(blob),
            "size": len(blob),
        },
    }
    entry_file(cache).write_text(json.dumps(document | changes))


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


class TestContents:
    def test_a_mount_begins_with_what_it_had_elsewhere(
        self, there: Store, here: Store, cache: Path
    ) -> None:
        expected = read_tree(used(there, ITEMS))
        assert export_mount(there, KEY, cache) == ()
        notices = attach(here, cache)
        assert read_tree(begun(here)) == expected
        assert notices == []
        assert (begun(here) / "d/same").samefile(begun(here) / "d/f")

    @pytest.mark.needs_root
    def test_owners_are_kept(self, there: Store, here: Store, cache: Path) -> None:
        items: dict[str, Item] = {"d": Dir(uid=7, gid=8), "d/f": File(b"", uid=9, gid=10)}
        data = used(there, items)
        os.chown(data, 5, 6)
        data.chmod(0o1777)
        export_mount(there, KEY, cache)
        attach(here, cache)
        made = begun(here)
        assert read_tree(made) == read_tree(data)
        status = made.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o1777)

    def test_equal_content_is_one_blob(self, there: Store, cache: Path) -> None:
        for key in (KEY, OTHER_KEY):
            os.utime(used(there, {"f": File(b"1")}, key), (5, 5))
            export_mount(there, key, cache)
        assert blob_of(cache) == blob_of(cache, OTHER_KEY)

    def test_nothing_is_read_before_a_mount_is_made(
        self, there: Store, here: Store, cache: Path
    ) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        attach(here, cache)
        assert is_cold(begun(here, OTHER_KEY))
        assert len(here.cache_mounts.paths()) == 1
        blob_of(cache).unlink()
        assert is_cold(begun(here))

    def test_one_that_is_there_stays_as_it_is(self, there: Store, here: Store, cache: Path) -> None:
        used(there, {"f": b"theirs"})
        export_mount(there, KEY, cache)
        mine = used(here, {"f": b"mine"})
        attach(here, cache)
        assert (begun(here) / "f").read_bytes() == b"mine"
        assert begun(here) == mine

    def test_the_blob_is_no_part_of_the_store(self, there: Store, here: Store, cache: Path) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        attach(here, cache)
        begun(here)
        for store in (there, here):
            store.flush()
            assert list(store.blobs.digests()) == []
            assert list(store.layers.all()) == []
            assert findings(store) == []

    def test_a_second_export_takes_the_place_of_the_first(
        self, there: Store, here: Store, cache: Path
    ) -> None:
        for content in (b"1", b"2"):
            used(there, {"f": content})
            export_mount(there, KEY, cache)
        attach(here, cache)
        assert (begun(here) / "f").read_bytes() == b"2"


class TestMerging:
    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_directories_are_merged_by_copying(
        self, tmp_path: Path, here: Store, order: tuple[int, int]
    ) -> None:
        """Each has a mount of its own, and one of the key that both have."""
        for number in (0, 1):
            with Store.open(tmp_path / f"store-{number}") as store:
                for key in (Digest.of(b"own %d" % number).hex, KEY):
                    used(store, {"f": b"of %d" % number}, key)
                    export_mount(store, key, tmp_path / f"cache-{number}")
        first, second = order
        merged = tmp_path / "merged"
        for number in order:
            merged.mkdir(exist_ok=True)
            assert os.system(f"cp -rn {tmp_path}/cache-{number}/. {merged}") in (0, 256)
        notices = attach(here, merged)
        for number in (first, second):
            own = Digest.of(b"own %d" % number).hex
            assert (begun(here, own) / "f").read_bytes() == b"of %d" % number
        assert (begun(here) / "f").read_bytes() == b"of %d" % first
        assert notices == []

    def test_one_that_was_only_looked_into_is_copied_on(
        self, there: Store, here: Store, cache: Path, tmp_path: Path
    ) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        attach(here, cache)
        export_mount(here, KEY, tmp_path / "next")
        assert here.cache_mounts.paths() == []
        assert entry_file(tmp_path / "next").read_bytes() == entry_file(cache).read_bytes()
        assert blob_of(tmp_path / "next").read_bytes() == blob_of(cache).read_bytes()

    def test_a_damaged_one_is_not_copied_on(
        self, there: Store, here: Store, cache: Path, tmp_path: Path
    ) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        flip(blob_of(cache))
        notices = attach(here, cache)
        with pytest.raises(StoreError, match="damaged"):
            export_mount(here, KEY, tmp_path / "next")
        assert not entry_file(tmp_path / "next").exists()
        entry_file(cache).write_text("{}")
        with pytest.raises(StoreError, match="there is none in this store"):
            export_mount(here, KEY, tmp_path / "next")
        assert "schema" in notices[0]


class TestWhatIsNotExported:
    def test_one_that_is_not_there(self, there: Store, cache: Path) -> None:
        with pytest.raises(StoreError, match="there is none in this store"):
            export_mount(there, KEY, cache)
        assert not entry_file(cache).exists()

    def test_one_that_others_use_is_waited_for_a_while(
        self, there: Store, cache: Path, tmp_path: Path
    ) -> None:
        data = used(there, {"f": b"1"})
        holder = hold_mount(there.root, KEY, "shared", tmp_path / "holds")
        try:
            with pytest.raises(StoreBusyError):
                export_mount(there, KEY, cache, wait_s=0.1)
        finally:
            kill(holder)
        assert not entry_file(cache).exists()
        export_mount(there, KEY, cache, wait_s=0)
        assert entry_file(cache).exists()
        assert data.is_dir()

    def test_nobody_uses_it_while_it_is_read(self, there: Store, cache: Path) -> None:
        used(there, {"f": b"1"})
        seen = []

        def watch(changes: Iterator[Change]) -> Iterator[Change]:
            seen.append(there.cache_mounts.hold(KEY, "shared", cold))
            return changes

        export_mount(there, KEY, cache, filtered=watch)
        assert seen == [None]
        assert there.cache_mounts.unused() == there.cache_mounts.paths()

    def test_sockets_stay_behind(self, there: Store, here: Store, cache: Path) -> None:
        data = used(there, {"f": b"1"})
        os.mknod(data / "s", stat.S_IFSOCK | 0o600)
        assert export_mount(there, KEY, cache) == ("s",)
        attach(here, cache)
        assert [each.name for each in Path(begun(here)).iterdir()] == ["f"]

    def test_a_name_that_means_a_removal_keeps_it_here(self, there: Store, cache: Path) -> None:
        used(there, {".wh.f": b"1"})
        with pytest.raises(StoreError, match="names that begin with"):
            export_mount(there, KEY, cache)
        assert not entry_file(cache).exists()

    @pytest.mark.needs_root
    def test_so_does_a_device(self, there: Store, cache: Path) -> None:
        used(there, {"null": Node(stat.S_IFCHR | 0o666, 1, 3)})
        with pytest.raises(StoreError, match="'null' is a device"):
            export_mount(there, KEY, cache)
        assert list((cache / "blobs/sha256").iterdir()) == []

    def test_so_does_a_filter_that_refuses(self, there: Store, cache: Path) -> None:
        used(there, {"f": b"1"})

        def refuse(changes: Iterator[Change]) -> Iterator[Change]:
            yield next(changes)
            raise StoreError("secret")

        with pytest.raises(StoreError, match="secret"):
            export_mount(there, KEY, cache, filtered=refuse)
        assert not entry_file(cache).exists()
        assert there.cache_mounts.unused() == there.cache_mounts.paths()

    def test_a_store_is_no_place_for_it(self, there: Store, here: Store) -> None:
        used(there, {"f": b"1"})
        with pytest.raises(StoreError, match="is a store of lamina"):
            export_mount(there, KEY, here.root)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name that leads out": (entry("../../f", b"1"), "leave"),
    "a whiteout": (entry(".wh.f"), "'f' is removed"),
    "an opaque mark": (entry(".wh..wh..opq"), "'' is removed"),
    "a device": (entry("f", kind=b"3", device=(1, 3)), "'f' is a device"),
    "overlayfs's removal": (entry("f", kind=b"3"), "overlayfs's removal"),
    "a file beneath a link out": (
        entry("d", kind=b"2", target="/tmp") + entry("d/f", b"1"),
        "'d/f' is in no directory",
    ),
    "a file beneath a file": (entry("d", b"1") + entry("d/f", b"1"), "'d/f' is in no directory"),
    "a file beneath nothing": (entry("d/f", b"1"), "'d/f' is in no directory"),
    "a path twice": (entry("f", b"1") + entry("f", kind=b"2", target="/"), "'f' is out of order"),
    "an order that is not ours": (entry("f", b"1") + entry("a", b"1"), "'a' is out of order"),
    "a hard link to nothing": (entry("f", kind=b"1", target="../../etc/passwd"), "etc/passwd"),
    "a file that is cut off": (entry("f", b"1" * 600)[:-512], "early"),
}


class TestHostileDirectories:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_content_that_we_would_not_write_is_not_used(
        self, here: Store, cache: Path, name: str
    ) -> None:
        members, problem = HOSTILE[name]
        end = b"" if "cut off" in name else END
        forge(cache, ROOT_ENTRY + members + end)
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert len(notices) == 1
        assert problem in notices[0]
        assert f"not used of the build cache in {cache}" in notices[0]
        assert not list(here.lease().path.glob("cachemount*"))

    def test_what_is_forged_well_is_content(self, here: Store, cache: Path) -> None:
        """So it is the content that was refused above."""
        forge(cache, ROOT_ENTRY + entry("f", b"1") + END)
        assert attach(here, cache) == []
        assert (begun(here) / "f").read_bytes() == b"1"

    def test_a_top_that_is_no_directory(self, here: Store, cache: Path) -> None:
        forge(cache, entry("f", b"1") + END)
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert "'f' is in no directory" in notices[0]

    def test_a_tar_that_would_fill_the_disk(self, here: Store, cache: Path) -> None:
        """One header that announces much; the limits of layers hold."""
        huge = entry("f", kind=b"0", fields={124: b"\x80" + (1 << 50).to_bytes(11, "big")})
        forge(cache, ROOT_ENTRY + huge + END)
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert len(notices) == 1
        assert f"an entry of {1 << 50} bytes" in notices[0]

    def test_a_blob_that_unpacks_to_more_than_is_free(
        self, here: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forge(cache, ROOT_ENTRY + entry("f", bytes(3 << 20)) + END)
        free = os.statvfs(here.private)
        monkeypatch.setattr(layers, "_TAR_BYTES_MIN", 1 << 20)
        monkeypatch.setattr(
            os, "statvfs", lambda _: os.statvfs_result((*free[:3], 0, 0, *free[5:]))
        )
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert "all that is free" in notices[0]

    @pytest.mark.parametrize("where", [20, -1])
    def test_a_blob_that_is_damaged(
        self, there: Store, here: Store, cache: Path, where: int
    ) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        flip(blob_of(cache), where)
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert len(notices) == 1

    def test_a_blob_of_another_size(self, there: Store, here: Store, cache: Path) -> None:
        used(there, ITEMS)
        export_mount(there, KEY, cache)
        with blob_of(cache).open("ab") as file:
            file.write(b"more")
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert "bytes" in notices[0]

    def test_a_blob_of_another_tar(self, here: Store, cache: Path) -> None:
        forge(cache, ROOT_ENTRY + entry("f", b"1") + END, diffId=Digest.of(b"other"))
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert "diff_id" in notices[0]

    def test_a_link_in_place_of_a_blob(self, here: Store, cache: Path, tmp_path: Path) -> None:
        forge(cache, ROOT_ENTRY + entry("f", b"1") + END)
        blob = blob_of(cache)
        shutil.move(blob, tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere")
        attach(here, cache)
        assert is_cold(begun(here))

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"schema": 2}, "schema"),
            ({"key": OTHER_KEY}, "key"),
            ({"diffId": "sha256:no"}, "digest"),
            ({"blob": None}, "blob"),
            ({"blob": {"mediaType": "text/plain", "digest": "no", "size": 1}}, "digest"),
        ],
    )
    def test_a_file_that_says_something_else(
        self, here: Store, cache: Path, changes: dict[str, object], problem: str
    ) -> None:
        forge(cache, ROOT_ENTRY + END, **changes)
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert problem in notices[0]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_bytes(b" " * (5 << 20)),
            lambda path: path.write_bytes(b"\xff"),
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
            lambda path: (path.unlink(), path.mkdir()),
            become_pipe,
        ],
        ids=["large", "binary", "link", "directory", "pipe"],
    )
    def test_a_file_that_is_none(
        self, here: Store, cache: Path, spoil: Callable[[Path], object]
    ) -> None:
        forge(cache, ROOT_ENTRY + END)
        spoil(entry_file(cache))
        notices = attach(here, cache)
        assert is_cold(begun(here))
        assert len(notices) == 1

    def test_another_directory_is_asked_after_a_damaged_one(
        self, there: Store, here: Store, cache: Path, tmp_path: Path
    ) -> None:
        used(there, {"f": b"1"})
        for name in ("bad", "good"):
            export_mount(there, KEY, tmp_path / name)
        flip(blob_of(tmp_path / "bad"))
        for name in ("none", "bad", "good"):
            attach(here, tmp_path / name)
        assert [each.name for each in Path(begun(here)).iterdir()] == ["f"]
