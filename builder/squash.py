"""Squashing: several layers of the result become one.

    --squash            the layers made here into one, on top of those of the base image
    --squash-all        all layers into one
    --squash-from=LINE  the layers made by that line of the Dockerfile and the ones below it

The steps stay in the cache as they are, each with its own layer, so that squashing costs no later
build a step. The history keeps every entry; those whose layer is gone become empty ones, and one
is added for the layer that holds it all, as `docker build --squash` does.

Differs: that entry, and the image, are dated by the last layer and not by the clock, and fewer than
two layers are left alone: the same build gives the same image.
"""

from dataclasses import dataclass, replace

from builder.errors import PlanError
from builder.state import StageState
from layerstore import Digest, History, Layer, Store, chain_ids, merged_changes

_MEMO = "squashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Squash:
    """What to squash: all layers, or those made here from `from_line` on."""

    all: bool = False
    from_line: int = 0


def squashed(state: StageState, wish: Squash, store: Store) -> StageState:
    """`state` with its topmost layers in one.

    Raises:
        PlanError: there is nothing from that line on.
    """
    below = _count_below(state, wish)
    base = len(state.layers) - len(state.own_lines)
    count = len(state.layers) - below
    if count < 2:
        return state
    merged = _merge(state.layers, below, store)
    layers = (*state.layers[:below], merged)
    return replace(
        state,
        layers=layers,
        chain_id=chain_ids(layer.diff_id for layer in layers)[-1],
        own_lines=(*state.own_lines[: max(0, below - base)], *(state.own_lines[-1:] or (0,))),
        history=_history(state, below, count),
    )


def _count_below(state: StageState, wish: Squash) -> int:
    """How many of the layers stay as they are."""
    if wish.all:
        return 0
    base = len(state.layers) - len(state.own_lines)
    kept = sum(line < wish.from_line for line in state.own_lines)
    if wish.from_line and kept == len(state.own_lines):
        last = max(state.own_lines, default=0)
        raise PlanError(
            f"--squash-from={wish.from_line}: no layer of the result is made from that line on",
            hint=f"the last one is made by line {last}" if last else "it makes no layer at all",
        )
    return base + kept


def _merge(layers: tuple[Layer, ...], below: int, store: Store) -> Layer:
    """The merged layer; the one that was made of the same layers before, if it is still there."""
    key = f"{below} " + " ".join(layer.diff_id for layer in layers)
    memo = store.cache.get_memo(_MEMO, key)
    layer = None if memo is None else store.layers.find(Digest(memo.decode()))
    if layer is None:
        layer = store.layers.commit(merged_changes(store.layers, layers, below=below))
        store.cache.put_memo(_MEMO, key, layer.diff_id.encode())
    return layer


def _history(state: StageState, below: int, count: int) -> tuple[History, ...]:
    history = []
    seen = 0
    for entry in state.history:
        seen += not entry.empty_layer
        is_merged = not entry.empty_layer and seen > below
        history.append(replace(entry, empty_layer=True) if is_merged else entry)
    return (*history, History(created=state.created, comment=f"merge of {count} layers"))
