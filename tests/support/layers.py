"""Layers out of dictionaries (see sources.py for what may stand in them)."""

from layerstore import (
    Change,
    Content,
    Layer,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Store,
    TreePath,
)
from tests.support.sources import LONG_AGO_S, Dir, Fifo, File, Hard, Items, Link


def changes_of(items: Items, *, mtime_s: int = LONG_AGO_S) -> list[Change]:
    """The changes that make `items` in an empty root; directories come from the names."""
    found: dict[str, Change] = {}
    for name, item in items.items():
        parts = name.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            parent = TreePath("/".join(parts[:end]))
            found.setdefault(parent, PutDir(parent, Meta(0o755, mtime_ns=mtime_s * 10**9)))
        found[name] = _change(TreePath(name), item, mtime_s * 10**9)
    return list(found.values())


def _change(path: TreePath, item: object, mtime_ns: int) -> Change:
    match item:
        case bytes():
            return PutFile(path, Meta(0o644, mtime_ns=mtime_ns), len(item), item)
        case File():
            xattrs = tuple(sorted(item.xattrs.items()))
            meta = Meta(item.mode, item.uid, item.gid, item.mtime_s * 10**9, xattrs)
            return PutFile(path, meta, len(item.content), item.content)
        case Dir():
            return PutDir(path, Meta(item.mode, item.uid, item.gid, item.mtime_s * 10**9))
        case Link(target=target):
            return PutSymlink(path, Meta(0o777, mtime_ns=mtime_ns), target)
        case Hard(target=target):
            return PutHardlink(path, TreePath(target))
        case Fifo(mode=mode):
            return PutNode(path, Meta(mode, mtime_ns=mtime_ns), "fifo")
        case _:
            raise AssertionError(f"{item} has no place in a layer")


def make_layer(store: Store, items: Items) -> Layer:
    return store.layers.commit(changes_of(items))


def bytes_of(content: Content) -> bytes:
    return content if isinstance(content, bytes) else b"".join(content())
