"""Snapshots: what a step finds, and what is read back of what it did."""

import os
import stat

import pytest

from builder.snapshot import CopiedSnapshot, Snapshot, open_copies, open_root, open_snapshot
from layerstore import Change, Layer, Meta, Opaque, PutDir, PutFile, Remove, Store, TreePath
from tests.support.executors import FakeExecutor
from tests.support.layers import make_layer
from tests.support.sources import Dir


def changes_after(store: Store, layers: tuple[Layer, ...], *commands: str) -> list[Change]:
    with open_snapshot(layers, store) as snapshot:
        FakeExecutor().act(snapshot.root, "\n".join(commands))
        return list(snapshot.changes())


def paths(changes: list[Change]) -> list[tuple[str, str]]:
    return [(type(change).__name__, change.path) for change in changes]


def test_an_untouched_snapshot_has_no_changes(store: Store) -> None:
    layer = make_layer(store, {"a": b"1"})
    assert changes_after(store, (layer,)) == []
    assert changes_after(store, ()) == []


def test_the_layers_below_are_stacked_topmost_first(store: Store) -> None:
    bottom, top = make_layer(store, {"a": b"1"}), make_layer(store, {"b": b"2"})
    with open_snapshot((bottom, top), store) as snapshot:
        lower = snapshot.root.lowerdirs
        assert [sorted(path.name for path in each.iterdir()) for each in lower] == [["b"], ["a"]]
        assert snapshot.upperdir == snapshot.root.upperdir
        assert list(snapshot.upperdir.iterdir()) == []
        assert list(snapshot.root.workdir.iterdir()) == []
        assert snapshot.root.workdir.parent == snapshot.upperdir.parent


def test_what_a_program_did_is_read_back(store: Store) -> None:
    layer = make_layer(store, {"old": b"old", "d/f": b"f"})
    changes = changes_after(store, (layer,), "echo new > /new", "rm /old", "echo more >> /d/f")
    assert paths(changes) == [
        ("Remove", "old"),
        ("PutDir", "d"),
        ("PutFile", "d/f"),
        ("PutFile", "new"),
    ]
    file = changes[2]
    assert isinstance(file, PutFile)
    assert file.content == b"fmore\n"


def test_a_removed_directory_is_one_removal(store: Store) -> None:
    layer = make_layer(store, {"d/e/f": b"", "d/g": b""})
    assert changes_after(store, (layer,), "rm -r /d") == [Remove(TreePath("d"))]


@pytest.mark.needs_root
def test_a_replaced_directory_is_opaque(store: Store) -> None:
    layer = make_layer(store, {"d/old": b""})
    changes = changes_after(store, (layer,), "rm -r /d", "mkdir /d", "touch /d/new")
    assert paths(changes) == [("PutDir", "d"), ("Opaque", "d"), ("PutFile", "d/new")]


@pytest.mark.needs_root
def test_a_new_directory_is_not_opaque_whatever_the_kernel_marks(store: Store) -> None:
    layer = make_layer(store, {"old/f": b"", "file": b"", "link/x": b""})
    with open_snapshot((layer,), store) as snapshot:
        for name in ("new", "file", "old"):
            (snapshot.upperdir / name).mkdir()
            os.setxattr(snapshot.upperdir / name, "trusted.overlay.opaque", b"y")
        assert [change for change in snapshot.changes() if isinstance(change, Opaque)] == [
            Opaque(TreePath("old"))
        ]


@pytest.mark.needs_root
def test_a_name_that_is_too_long_to_ask_for_counts_as_there(store: Store) -> None:
    with open_snapshot((make_layer(store, {"a": b""}),), store) as snapshot:
        fd = os.open(snapshot.upperdir, os.O_DIRECTORY)
        for _ in range(20):
            os.mkdir("x" * 250, dir_fd=fd)
            below = os.open("x" * 250, os.O_DIRECTORY, dir_fd=fd)
            os.setxattr(below, "trusted.overlay.opaque", b"y")
            os.close(fd)
            fd = below
        os.close(fd)
        opaque = [change.path for change in snapshot.changes() if isinstance(change, Opaque)]
        assert opaque
        assert min(map(len, opaque)) > 3500


def test_the_snapshot_is_gone_afterwards_whatever_state_it_is_in(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), open_snapshot((), store) as snapshot:
        directory = snapshot.upperdir.parent
        (snapshot.root.workdir / "work").mkdir(mode=0)  # as overlayfs leaves it
        (snapshot.upperdir / "closed").mkdir()
        (snapshot.upperdir / "closed" / "file").touch()
        (snapshot.upperdir / "closed").chmod(0)
        raise ZeroDivisionError
    assert not directory.exists()


def test_a_committed_upper_directory_becomes_the_layers_own(store: Store) -> None:
    with open_snapshot((), store) as snapshot:
        FakeExecutor().act(snapshot.root, "echo hi > /a")
        inode = snapshot.upperdir.stat().st_ino
        layer = store.layers.commit(snapshot.changes(), upperdir=snapshot.upperdir)
    assert store.layers.checkout(layer).stat().st_ino == inode
    assert (store.layers.checkout(layer) / "a").read_bytes() == b"hi\n"


# The root directory itself.


def root_of(store: Store, *layers: Layer) -> Meta:
    node = store.layers.tree(layers).get("")
    assert node is not None
    return node.entry.meta


def test_a_usual_root_stands_in_no_layer(store: Store) -> None:
    layer = make_layer(store, {"a": b""})
    assert paths(changes_after(store, (layer,), "touch /b")) == [("PutFile", "b")]


def test_a_program_finds_the_root_as_the_image_has_it(store: Store) -> None:
    layer = make_layer(store, {"": Dir(mode=0o1700), "a": b""})
    with open_snapshot((layer,), store) as snapshot:
        assert stat.S_IMODE(snapshot.upperdir.stat().st_mode) == 0o1700


def test_a_changed_root_is_a_change(store: Store) -> None:
    layer = make_layer(store, {"a": b""})
    with open_snapshot((layer,), store) as snapshot:
        snapshot.upperdir.chmod(0o700)
        (change,) = snapshot.changes()
        assert isinstance(change, PutDir)
        assert (change.path, change.meta.mode) == ("", 0o700)


def test_an_unusual_root_stands_in_every_layer_above_it(store: Store) -> None:
    """overlayfs shows the topmost directory's attributes, so they must be there."""
    bottom = make_layer(store, {"": Dir(mode=0o700), "a": b""})
    changes = changes_after(store, (bottom,), "touch /b")
    assert paths(changes) == [("PutDir", ""), ("PutFile", "b")]
    with open_snapshot((bottom,), store) as snapshot:
        snapshot.upperdir.chmod(0o755)
        layer = store.layers.commit(snapshot.changes())
    assert root_of(store, bottom, layer).mode == 0o755


class TestCopies:
    """Where there is no overlay: the same changes, found by comparing."""

    def test_an_untouched_copy_has_no_changes(self, store: Store) -> None:
        layers = (make_layer(store, {"a": b"1", "d/f": b"2"}), make_layer(store, {"a": b"3"}))
        for stack in (layers, layers[:1], ()):
            with open_copies(stack, store) as snapshot:
                assert list(snapshot.changes()) == []

    def test_the_copy_is_what_the_layers_show(self, store: Store) -> None:
        layers = (make_layer(store, {"a": b"1", "d/f": b"2"}), make_layer(store, {"a": b"3"}))
        with open_copies(layers, store) as snapshot:
            root = snapshot.root.path
            assert snapshot.directory == root
            assert (root / "a").read_bytes() == b"3"
            assert (root / "d/f").read_bytes() == b"2"
            assert snapshot.before != root

    def test_what_was_done_to_it_is_found(self, store: Store) -> None:
        layer = make_layer(store, {"old": b"old", "d/f": b"f", "e/g": b"g"})
        with open_copies((layer,), store) as snapshot:
            root = snapshot.root.path
            (root / "old").unlink()
            (root / "new").write_bytes(b"new")
            (root / "d/f").write_bytes(b"longer")
            (root / "e/g").unlink()
            (root / "e").rmdir()
            found = {(type(change).__name__, change.path) for change in snapshot.changes()}
        kinds = {(kind, path) for kind, path in found if kind != "PutDir"}  # whose times changed
        assert kinds == {
            *[("Remove", "old"), ("Remove", "e"), ("PutFile", "new"), ("PutFile", "d/f")]
        }

    def test_the_store_decides(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        with open_root((), store) as snapshot:
            assert isinstance(snapshot, Snapshot)
        monkeypatch.setattr("builder.snapshot.why_no_overlay", lambda directory: "nfs")
        with open_root((), store) as snapshot:
            assert isinstance(snapshot, CopiedSnapshot)
            assert not list(snapshot.root.path.iterdir())
        assert not snapshot.root.path.exists()
