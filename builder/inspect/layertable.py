"""One row per instruction of an image: which layer it made, what that holds, and what it cost.

A layer's files are compared with everything below it, on tables of contents alone: nothing is
unpacked. Directories that merely lead to a change count as nothing.

`outcome` and `seconds` are of the newest build that made this very image; other images (loaded,
imported, bases) have none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from builder import record, timetravel
from layerstore import History, Image, Layer, Store, TocEntry, TreeIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """Sizes are bytes: `size_bytes` of the files unpacked, `blob_bytes` as stored.

    `position` counts the instructions below FROM (the 3 of `app@3`); the base's are 0 and less.
    """

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
    below = timetravel.base_count(store.cache, image)
    return [
        _row(position, entry, layer, tree, store, outcomes)
        for position, (entry, layer) in enumerate(image.history(), 1 - below)
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
    letters = Counter(change.letter for change in changes(entries, tree))
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
        added=letters["A"],
        changed=letters["C"],
        removed=letters["D"],
        outcome=outcome,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class PathChange:
    """`letter` as in `docker diff`: Added, Changed, Deleted."""

    letter: Literal["A", "C", "D"]
    path: str
    size_bytes: int = 0


def changes(entries: list[TocEntry], below: TreeIndex) -> Iterator[PathChange]:
    """What a layer does to the tree below it, in the layer's order."""
    for entry in entries:
        path = entry.path
        old = below.get(path)
        if entry.kind == "remove":
            if old is not None:
                yield PathChange("D", path)
        elif entry.kind == "opaque":
            for name in below.children(path):
                yield PathChange("D", f"{path}/{name}".lstrip("/"))
        elif not path:
            continue
        elif old is None:
            yield PathChange("A", path, entry.size_bytes)
        elif (
            entry.kind != "dir"
            or old.entry.kind != "dir"
            or _attributes(entry) != _attributes(old.entry)
        ):
            yield PathChange("C", path, entry.size_bytes)


def _attributes(entry: TocEntry) -> tuple[object, ...]:
    meta = entry.meta
    return (meta.mode, meta.uid, meta.gid, meta.xattrs)


def _outcomes(built: record.BuildRecord | None) -> dict[str, tuple[str, float]]:
    if built is None:
        return {}
    return {step.layer: (step.outcome, step.seconds) for step in built.steps if step.layer}
