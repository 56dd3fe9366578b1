"""One row per instruction of an image: which layer it made, what that holds, and what it cost.

A layer's files are compared with everything below it, on tables of contents alone: nothing is
unpacked. Directories that merely lead to a change count as nothing.

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
    built = record.of_image(image.id, store.private / "builds")
    outcomes = _outcomes(built)
    tree = TreeIndex()
    return [
        _row(position, entry, layer, tree, store, outcomes)
        for position, (entry, layer) in enumerate(image.history(), 1)
    ]


def _row(
    position: int,
    entry: History,
    layer: Layer | None,
    tree: TreeIndex,
    store: Store,
    outcomes: dict[str, tuple[str, float]],
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
    outcome, seconds = outcomes.get(layer.diff_id, ("", None))
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
        outcome=outcome,
        seconds=seconds,
    )


def _counts(entries: list[TocEntry], below: TreeIndex) -> tuple[int, int, int]:
    """How many names appear, are replaced or get other attributes, and vanish."""
    added = changed = removed = 0
    for entry in entries:
        old = below.get(entry.path)
        if entry.kind == "remove":
            removed += old is not None
        elif entry.kind == "opaque":
            removed += len(below.children(entry.path))
        elif not entry.path:
            continue
        elif old is None:
            added += 1
        elif (
            entry.kind != "dir"
            or old.entry.kind != "dir"
            or _attributes(entry) != _attributes(old.entry)
        ):
            changed += 1
    return added, changed, removed


def _attributes(entry: TocEntry) -> tuple[object, ...]:
    meta = entry.meta
    return (meta.mode, meta.uid, meta.gid, meta.xattrs)


def _outcomes(built: record.BuildRecord | None) -> dict[str, tuple[str, float]]:
    if built is None:
        return {}
    return {step.layer: (step.outcome, step.seconds) for step in built.steps if step.layer}
