"""`--verify`: run a step a second time, as differently as it should not matter, and compare.

Differs between the two runs: the time (by more than a second), the host name, process ids, the
number of processors, the order in which directories list their names (disorder.py), and the umask
under which the sandbox is made. Fixed in both, as in every build: environment, user, and the umask
of the program, 022. Another one there would be no test of the step: every builder gives it 022, so
no build of it ever differs for that reason.

What differs without a reason that its bytes tell is looked into by a third run, with the first
one's order of directories and all else as in the second: what is then as it was the first time
depends on that order.
"""

from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from builder.disorder import free_bytes, open_disordered
from builder.errors import StepFailedError
from builder.perform import Conditions, perform
from builder.reproduce import (
    ORDER,
    ORDER_HINT,
    Difference,
    Read,
    compare,
    may_depend_on_order,
)
from builder.sandbox import ForkServer, SandboxError
from builder.schedule import Later, Work
from builder.snapshot import Snapshot
from builder.steps import ExecStep
from layerstore import Digest, Layer, LayerStore, Store, StoreError, TocEntry

_APART_S = 1.1  # a clock that is read in whole seconds has moved on since the first run's end
_Disordered = Callable[[tuple[Layer, ...], Store], AbstractContextManager[Snapshot]]


@dataclass(kw_only=True)
class Rehearsal:
    """The second run of `step` on `layers`, which gave `first`.

    `tell` is called with what the user should know of the run itself; conditions are the first's;
    `used` are the layers that steps of this build have given: another stage's may be ours.
    """

    step: ExecStep
    layers: tuple[Layer, ...]
    first: Layer
    conditions: Conditions
    tell: Callable[[str], None]
    used: Set[Digest]
    _made: list[Layer] = field(default_factory=list)

    def run(self) -> Work[list[Difference]]:
        """Run once more and say where the result differs from the first, which has just ended.

        Raises:
            StepFailedError: it fails the second time.
        """
        yield Later(_APART_S)
        try:
            disordered = self._disordered()
            second = None
            if disordered is not None:
                second = yield from self._try(disordered)
            is_disordered = second is not None
            if second is None:
                second = yield from self._on_disk()
            found = self._differences(second)
            if is_disordered and any(may_depend_on_order(each) for each in found):
                third = yield from self._again(self.conditions)
                found = _blame_order(found, self._differences(third))
            return found
        finally:
            self._forget()

    def _disordered(self) -> _Disordered | None:
        """Opens snapshots that list in another order, where that can be had."""
        server = self.conditions.executor()
        if not isinstance(server, ForkServer):
            self.tell("the order of directories is not varied: this executor cannot do it")
            return None
        needed, free = self.first.tar_size_bytes, free_bytes()
        if needed > free // 4:
            self.tell(
                f"the order of directories is not varied: {needed >> 20} MB do not fit into"
                f" memory ({free >> 20} MB are free)"
            )
            return None
        return partial(open_disordered, server=server)

    def _try(self, disordered: _Disordered) -> Work[Layer | None]:
        """The second run in memory; None when it fails there, be it for want of memory."""
        try:
            return (yield from self._again(replace(self.conditions, snapshot=disordered)))
        except (StepFailedError, SandboxError, StoreError, OSError) as error:
            self.tell(
                "the order of directories is not varied: the step fails in memory"
                f" ({str(error).splitlines()[0]})"
            )
            return None

    def _on_disk(self) -> Work[Layer]:
        try:
            return (yield from self._again(self.conditions))
        except StepFailedError:
            self.tell("not reproducible: the first run succeeded, the second one fails")
            raise

    def _again(self, conditions: Conditions) -> Work[Layer]:
        layer = yield from perform(self.step, self.layers, replace(conditions, perturbed=True))
        self._made.append(layer)
        return layer

    def _differences(self, other: Layer) -> list[Difference]:
        layers = self.conditions.store.layers
        if other.diff_id == self.first.diff_id:
            return []
        return compare(
            layers.toc(self.first),
            layers.toc(other),
            (_reader(layers, self.first), _reader(layers, other)),
            with_times=self.conditions.epoch is not None,
        )

    def _forget(self) -> None:
        """Of a run that gave something else nothing is kept."""
        store = self.conditions.store
        for layer in self._made:
            if layer.diff_id not in self.used:
                store.blobs.discard(layer.descriptor.digest)
                store.layers.discard([layer.descriptor.digest])


def _blame_order(found: list[Difference], without: list[Difference]) -> list[Difference]:
    """The reasons, when `without` differs although directories list as the first time."""
    others = {each.path for each in without}
    return [
        replace(each, reason=ORDER, hint=ORDER_HINT)
        if may_depend_on_order(each) and each.path not in others
        else each
        for each in found
    ]


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
