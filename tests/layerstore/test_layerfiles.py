"""Reading files of layers: from a checkout, else in passes over the blob."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from layerstore import (
    Change,
    CorruptBlobError,
    Descriptor,
    Digest,
    Layer,
    Meta,
    Node,
    Opaque,
    PutDir,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
    Store,
    StoreError,
    TreePath,
)
from layerstore.compression import media_type
from layerstore.layerfiles import checkout_changes
from tests.support.layers import bytes_of
from tests.support.rawtar import END, entry
from tests.support.stores import flip_blob, make_layer, puts

BIG = 3 << 20


@pytest.fixture
def store(store_root: Path) -> Iterator[Store]:
    with Store.open(store_root) as store:
        yield store


@pytest.fixture
def passes(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """The layers whose tar was begun, in order."""
    begun: list[Digest] = []
    changes = store.layers.changes

    def counted(layer: Layer) -> Iterator[Change]:
        begun.append(layer.diff_id)
        return changes(layer)

    monkeypatch.setattr(store.layers, "changes", counted)
    return begun


def node(store: Store, layers: list[Layer], path: str) -> Node:
    found = store.layers.tree(layers).get(path)
    assert found is not None, path
    return found


def read(store: Store, layers: list[Layer], *paths: str) -> list[bytes]:
    with store.layers.files(layers) as files:
        return [b"".join(files.pieces(node(store, layers, path))) for path in paths]


def adopted(store: Store, tar: bytes) -> Layer:
    """A layer that another tool made."""
    diff_id = Digest("sha256:" + hashlib.sha256(tar).hexdigest())
    descriptor = Descriptor(media_type=media_type("none"), digest=diff_id, size_bytes=len(tar))
    return store.layers.adopt(io.BytesIO(tar), descriptor, diff_id)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def contents(count: int = 20) -> Mapping[str, bytes]:
    return {f"d/{number:02}": os.urandom(number * 100) for number in range(count)}


def test_files_in_the_order_of_their_layer_take_one_pass_and_no_checkout(
    store: Store, passes: list[Digest]
) -> None:
    files = contents()
    layer = make_layer(store, files)
    assert read(store, [layer], *files) == list(files.values())
    assert passes == [layer.diff_id]
    assert store.layers.find_checkout(layer) is None


def test_some_files_of_many_take_one_pass_too(store: Store, passes: list[Digest]) -> None:
    files = contents()
    layer = make_layer(store, files)
    assert read(store, [layer], "d/03", "d/17") == [files["d/03"], files["d/17"]]
    assert len(passes) == 1


def test_where_there_is_a_checkout_it_is_read(store: Store, passes: list[Digest]) -> None:
    layer = make_layer(store, {"f": b"content"})
    assert store.layers.checkout(layer) == store.layers.find_checkout(layer)
    assert read(store, [layer], "f") == [b"content"]
    assert passes == []


def test_what_is_asked_for_again_and_again_is_checked_out(
    store: Store, passes: list[Digest]
) -> None:
    files = contents()
    layer = make_layer(store, files)
    backwards = sorted(files, reverse=True)
    assert read(store, [layer], *backwards) == [files[name] for name in backwards]
    assert 1 < len(passes) < 5
    assert store.layers.find_checkout(layer) is not None


def test_every_layer_has_a_pass_of_its_own(store: Store, passes: list[Digest]) -> None:
    layers = [make_layer(store, {"a": b"1", "c": b"3"}), make_layer(store, {"b": b"2", "d": b"4"})]
    assert read(store, layers, *"abcd") == [b"1", b"2", b"3", b"4"]
    assert sorted(passes) == sorted(layer.diff_id for layer in layers)


def test_the_topmost_content_counts(store: Store) -> None:
    below, above = make_layer(store, {"f": b"old", "g": b"kept"}), make_layer(store, {"f": b"new"})
    gone = store.layers.commit([Remove(TreePath("x"))])
    assert read(store, [below, above, gone], "f", "g") == [b"new", b"kept"]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, BIG])
def test_the_size_does_not_matter(store: Store, size: int) -> None:
    content = os.urandom(size)
    layer = make_layer(store, {"a": b"before", "f": content, "z": b"after"})
    assert read(store, [layer], "f", "z") == [content, b"after"]
    assert list(store.tmp.glob("file*")) == []


def test_a_content_may_be_read_more_than_once(store: Store) -> None:
    layer = make_layer(store, {"f": os.urandom(BIG)})
    with store.layers.files([layer]) as files:
        content = files.content(node(store, [layer], "f"))
        assert bytes_of(content) == bytes_of(content)


def test_every_name_of_a_hard_link_has_the_content(store: Store) -> None:
    changes = [
        *puts({"b": b"content"}),
        PutHardlink(TreePath("a"), TreePath("b")),
        PutHardlink(TreePath("c"), TreePath("b")),
    ]
    layer = store.layers.commit(changes)
    assert read(store, [layer], "a", "b", "c") == [b"content"] * 3


def test_a_path_that_a_tar_holds_twice_is_its_last_content(store: Store) -> None:
    for first, last in ((b"old", b"new"), (b"o" * BIG, b"n" * BIG), (b"o" * BIG, b"n")):
        layer = adopted(store, entry("f", first) + entry("f", last) + END)
        assert read(store, [layer], "f") == [last]


def test_any_order_of_a_foreign_tar_is_read(store: Store) -> None:
    layer = adopted(store, b"".join(entry(name, name.encode()) for name in "cabd") + END)
    assert read(store, [layer], *"abcd") == [b"a", b"b", b"c", b"d"]


def test_what_is_no_file_cannot_be_read(store: Store) -> None:
    layer = store.layers.commit([PutSymlink(TreePath("l"), Meta(0o777), "/etc/passwd")])
    with pytest.raises(StoreError, match="'l' is no file"):
        read(store, [layer], "l")


@pytest.mark.parametrize("size", [10, BIG])
def test_a_damaged_blob_is_not_served(store: Store, size: int) -> None:
    layer = store.layers.commit(puts({"f": os.urandom(size)}), compression="none")
    store.flush()
    found = node(store, [layer], "f")
    flip_blob(store, layer.descriptor.digest, at=600)
    with store.layers.files([layer]) as files, pytest.raises(CorruptBlobError):
        b"".join(files.pieces(found))


def test_closing_in_the_middle_leaves_nothing_open(store: Store) -> None:
    layer = make_layer(store, contents())
    before = open_files()
    files = store.layers.files([layer])
    list(files.pieces(node(store, [layer], "d/05")))
    assert open_files() > before
    files.close()
    assert open_files() == before
    assert list(files.pieces(node(store, [layer], "d/05"))), "and it can be used again"
    files.close()


@pytest.mark.needs_root
def test_a_table_of_contents_and_a_checkout_make_the_layer(store: Store) -> None:
    changes: list[Change] = [
        *puts({"d/f": b"hi", "d/big": bytes(BIG)}),
        PutHardlink(TreePath("d/g"), TreePath("d/f")),
        PutSymlink(TreePath("l"), Meta(0o777), "/etc/passwd"),
        PutNode(TreePath("null"), Meta(0o666), "char", 1, 3),
        PutDir(TreePath("o"), Meta(0o700)),
        Opaque(TreePath("o")),
        Remove(TreePath("gone")),
    ]
    layer = store.layers.commit(changes)
    checkout = store.layers.checkout(layer)
    again = store.layers.commit(checkout_changes(store.layers.toc(layer), checkout))
    assert again.diff_id == layer.diff_id
    (checkout / "d/f").write_bytes(b"ho")
    with pytest.raises(CorruptBlobError, match="'d/f'"):
        list(checkout_changes(store.layers.toc(layer), checkout))
    with pytest.raises(CorruptBlobError, match="No such file"):
        list(checkout_changes(store.layers.toc(layer), checkout / "elsewhere"))
