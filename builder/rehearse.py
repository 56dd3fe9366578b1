"""`--verify`: run a step a second time, as differently as it should not matter, and compare.

Differs between the two runs: the time (by more than a second), the host name, process ids, the
number of processors. Fixed in both, as in every build: umask, environment, user, and the order in
which directories list what lower layers hold.
"""

from dataclasses import replace

from builder.perform import Conditions, perform
from builder.reproduce import Difference, Read, compare
from builder.schedule import Later, Work
from builder.steps import ExecStep
from layerstore import Layer, LayerStore, TocEntry

_APART_S = 1.1  # a clock that is read in whole seconds must have moved on


def run_again(
    step: ExecStep,
    layers: tuple[Layer, ...],
    first: Layer,
    conditions: Conditions,
    *,
    took_s: float,
) -> Work[list[Difference]]:
    """Run `step` once more and say where its result differs from `first`.

    Args:
        took_s: how long ago the first run began.

    Raises:
        StepFailedError: it fails the second time.
    """
    if took_s < _APART_S:
        yield Later(_APART_S - took_s)
    second = yield from perform(step, layers, replace(conditions, perturbed=True))
    store = conditions.store
    if second.diff_id == first.diff_id:
        return []
    found = compare(
        store.layers.toc(first),
        store.layers.toc(second),
        (_reader(store.layers, first), _reader(store.layers, second)),
        with_times=conditions.epoch is not None,
    )
    store.blobs.discard(second.descriptor.digest)
    store.layers.discard([second.descriptor.digest])
    return found


def _reader(layers: LayerStore, layer: Layer) -> Read:
    """Reads files of one layer."""
    stack = (layer,)
    tree = layers.tree(stack)

    def read(entry: TocEntry) -> bytes:
        node = tree.get(entry.path)
        if node is None or node.entry.kind != "file":
            return b""
        content = layers.read_file(stack, node)
        return content if isinstance(content, bytes) else b"".join(content())

    return read
