"""One row per instruction of an image: which layer it made, what that holds, and what it cost.

A layer's files are compared with everything below it, on tables of contents alone: nothing is
unpacked. Every name counts, so that a directory removed with what is in it counts as all of it;
directories that merely lead to a change count as nothing.

`outcome` and `seconds` are of the newest build that made this very image; other images (loaded,
imported, bases) have none.
"""

from dataclasses import dataclass

from builder import record
from layerstore import History, Image, Layer, Store, TocEntry, TreeIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """Sizes are bytes: `size_bytes` of the files unpacked, `blob_bytes` as stored."""

    position: int
    instruction: str
    created: str
    layer: str  # digest of the blob, empty where the instruction made none
    diff_id: str
    size_bytes: int
    blob_bytes: int
    added: int
    changed: int
    removed: int
    outcome: str
    seconds: float | None


def layer_table(image: Image, store: Store) -> list[LayerRow]:
    """The rows of `image`, bottom first."""
    steps = iter(_steps(image, record.of_image(image.id, store.private / "builds")))
    tree = TreeIndex()
    return [
        _row(position, entry, layer, tree, store, None if layer is None else next(steps))
        for position, (entry, layer) in enumerate(image.history(), 1)
    ]


def _row(
    position: int,
    entry: History,
    layer: Layer | None,
    tree: TreeIndex,
    store: Store,
    step: record.StepRecord | None,
) -> LayerRow:
    if layer is None:
        return LayerRow(
            position=position,
            instruction=entry.created_by,
            created=entry.created,
            layer="",
            diff_id="",
            size_bytes=0,
            blob_bytes=0,
            added=0,
            changed=0,
            removed=0,
            outcome="",
            seconds=None,
        )
    entries = store.layers.toc(layer)
    added, changed, removed = _counts(entries, tree)
    tree.add_layer(entries)
    return LayerRow(
        position=position,
        instruction=entry.created_by,
        created=entry.created,
        layer=layer.descriptor.digest,
        diff_id=layer.diff_id,
        size_bytes=layer.size_bytes,
        blob_bytes=layer.descriptor.size_bytes,
        added=added,
        changed=changed,
        removed=removed,
        outcome="" if step is None else step.outcome,
        seconds=None if step is None else step.seconds,
    )


def _counts(entries: list[TocEntry], below: TreeIndex) -> tuple[int, int, int]:
    """How many names appear, are replaced or get other attributes, and vanish."""
    added = changed = 0
    put: set[str] = set()
    hidden: set[str] = set()  # by the layer: those that it puts again do not vanish
    for entry in entries:
        old = below.get(entry.path)
        if entry.kind == "remove":
            hidden.update(node.entry.path for node in below.walk(entry.path))
            continue
        if entry.kind == "opaque":
            hidden.update(node.entry.path for node in below.walk(entry.path))
            hidden.discard(entry.path)
            continue
        put.add(entry.path)
        if old is None:
            added += 1
        elif entry.kind != "dir" or old.entry.kind != "dir":
            changed += 1
            hidden.update(node.entry.path for node in below.walk(entry.path))
        elif _attributes(entry) != _attributes(old.entry) and entry.path:
            changed += 1
    return added, changed, len(hidden - put)


def _attributes(entry: TocEntry) -> tuple[object, ...]:
    meta = entry.meta
    return (meta.mode, meta.uid, meta.gid, meta.xattrs)


def _steps(image: Image, built: record.BuildRecord | None) -> list[record.StepRecord | None]:
    """The step that made each layer of the image; None for those of its base.

    Equal layers are told apart by their order, from the top: the last of them is the last step's.
    """
    left: dict[str, list[record.StepRecord]] = {}
    for step in built.steps if built else ():
        left.setdefault(step.layer, []).append(step)
    found = [
        steps.pop() if (steps := left.get(layer.diff_id)) else None for layer in image.layers[::-1]
    ]
    return found[::-1]
