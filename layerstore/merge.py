"""Several stacked layers as one changeset: a squashed layer, or a whole root file system.

The result is the difference between two trees, the one of all layers and the one of those that stay
below. So what came and went in between is not in it, and a removal is, only where the layers below
have something to remove. A path counts as different when its inode comes from one of the upper
layers; contents are not compared.

Invariants (tests/layerstore/test_merge.py):
  1. Below the same layers, the result makes the tree that the layers make: types, modes, owners,
     times, xattrs, contents, hard links.
  2. Without layers below there is no removal in it.
"""

from collections.abc import Iterator, Sequence

from layerstore.changeset import (
    Change,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Remove,
)
from layerstore.layerfiles import LayerFiles
from layerstore.layers import Layer, LayerStore
from layerstore.tarcodec import InOrder
from layerstore.toc import TocEntry, order
from layerstore.treeindex import Node, TreeIndex
from layerstore.treepath import ROOT, TreePath, parent_of

_SMALL_BYTES = 1024 * 1024  # contents up to here are delivered as bytes


def merged_changes(store: LayerStore, layers: Sequence[Layer], *, below: int = 0) -> InOrder:
    """What `layers` (bottom first) without the first `below` change on top of those.

    Contents above 1 MiB are read when asked for, which must be before the next change is.
    """
    tables = [store.toc(layer) for layer in layers]
    before = TreeIndex()
    for table in tables[:below]:
        before.add_layer(table)
    after = before.copy()
    for table in tables[below:]:
        after.add_layer(table)
    put = {
        node.entry.path: node
        for node in after.walk()
        if node.layer is not None and node.layer >= below
    }
    removed = [path for path in _paths(before) if _is_removed(path, after)]
    _add_parents(put, removed, after)
    return InOrder(_changes(store, layers, put, removed, _leaders(tables)))


def _paths(tree: TreeIndex) -> Iterator[TreePath]:
    return (node.entry.path for node in tree.walk())


def _is_removed(path: TreePath, after: TreeIndex) -> bool:
    """Whether a path of the tree before is gone, and what held it is still a directory."""
    if after.get(path) is not None:
        return False
    parent = after.get(parent_of(path))
    return parent is not None and parent.entry.kind == "dir"


def _add_parents(put: dict[TreePath, Node], removed: list[TreePath], after: TreeIndex) -> None:
    """A layer must have the attributes of every directory on the way to a change."""
    for path in (*put, *removed):
        while path:
            path = parent_of(path)
            if path == ROOT or path in put:
                break
            node = after.get(path)
            assert node is not None, "what holds a path is there"
            put[path] = node


def _leaders(tables: Sequence[Sequence[TocEntry]]) -> dict[tuple[int | None, str], str]:
    """Layer and path of every hard link, and the path it shares its inode with."""
    return {
        (number, row.path): row.target
        for number, table in enumerate(tables)
        for row in table
        if row.kind == "hardlink"
    }


def _changes(
    store: LayerStore,
    layers: Sequence[Layer],
    put: dict[TreePath, Node],
    removed: list[TreePath],
    leaders: dict[tuple[int | None, str], str],
) -> Iterator[Change]:
    todo = [(order(path, "file"), path, False) for path in put]
    todo += [(order(path, "remove"), path, True) for path in removed]
    first: dict[tuple[int | None, str], TreePath] = {}
    with store.files(layers) as files:
        for _, path, is_removal in sorted(todo):
            if is_removal:
                yield Remove(path)
                continue
            node = put[path]
            inode = (node.layer, leaders.get((node.layer, path), path))
            leader = first.setdefault(inode, path)
            yield _put(files, node) if leader == path else PutHardlink(path, leader)


def _put(files: LayerFiles, node: Node) -> Change:
    entry = node.entry
    match entry.kind:
        case "file":
            is_small = entry.size_bytes <= _SMALL_BYTES
            content = b"".join(files.pieces(node)) if is_small else files.content(node)
            return PutFile(entry.path, entry.meta, entry.size_bytes, content)
        case "dir":
            return PutDir(entry.path, entry.meta)
        case "symlink":
            return PutSymlink(entry.path, entry.meta, entry.target)
        case "char" | "block" | "fifo":
            return PutNode(entry.path, entry.meta, entry.kind, entry.major, entry.minor)
        case _:
            raise AssertionError("an index holds inodes only")
