"""One row per instruction of an image: which layer it made, what that holds, and what it cost.

A layer's files are compared with everything below it, on tables of contents alone: nothing is
unpacked. Every name counts, so that a directory removed with what is in it counts as all of it;
directories that merely lead to a change count as nothing.

`outcome` and `seconds` are of the newest build that made this very image; other images (loaded,
imported, bases) have none.
"""

import os
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
    steps = iter(_steps(image, record.of_image(image.id, store.private / "builds")))
    tree = TreeIndex()
    below = timetravel.base_count(store.cache, image)
    return [
        _row(position, entry, layer, tree, store, None if layer is None else next(steps))
        for position, (entry, layer) in enumerate(image.history(), 1 - below)
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
    letters = Counter(change.letter for change in changes(entries, tree))
    tree.add_layer(entries)
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
        outcome="" if step is None else step.outcome,
        seconds=None if step is None else step.seconds,
    )


@dataclass(frozen=True, slots=True)
class PathChange:
    """`letter` as in `docker diff`: Added, Changed, Deleted."""

    letter: Literal["A", "C", "D"]
    path: str
    size_bytes: int = 0


def changes(entries: list[TocEntry], below: TreeIndex) -> Iterator[PathChange]:
    """What a layer does to the tree below it, in the layer's order, every name once.

    What it hides and puts again is changed, not deleted.
    """
    put = {entry.path for entry in entries if entry.kind not in ("remove", "opaque")}
    gone: set[str] = set()
    for entry in entries:
        path = entry.path
        old = below.get(path)
        if entry.kind != "dir":
            hidden = {node.entry.path for node in below.walk(path)} - put - gone
            hidden -= {path} if entry.kind == "opaque" else set()
            gone |= hidden
            yield from (PathChange("D", name) for name in sorted(hidden, key=os.fsencode))
        if entry.kind in ("remove", "opaque") or not path:
            continue
        if old is None:
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
