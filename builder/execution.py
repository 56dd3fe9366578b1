"""The steps that one build carries out, and what is kept of them.

    miss -> perform -> once more, where that is asked for (rehearse.py)
         -> the result that the same parent gave before, where the content is equal (time-blind)
         -> the cache, unless the result is not what its key says

Nothing of this is loaded when all steps are in the cache.

Invariants (tests/builder/test_execution.py):
  1. A step whose result is equal to before gives the earlier layer.
  2. A step that failed or was interrupted is recorded, with what it said, and not remembered.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from builder.earlier import Earlier, Missed
from builder.events import Notice, VertexDone, VertexOutput
from builder.journal import Journal, rounded
from builder.mounting import is_as_keyed
from builder.perform import Conditions, perform
from builder.plan import PlannedStage
from builder.platforms import check_runnable
from builder.record import StepRecord
from builder.request import BuildRequest
from builder.runnetwork import RunNetworks
from builder.sandbox import Executor, ExitStatus
from builder.schedule import Work
from builder.sealing import Sealer
from builder.state import StageState
from builder.stepcache import StepCache
from builder.steps import ExecStep, selections_of
from builder.transferred import fetch_layers
from layerstore import CachedStep, Digest, Layer, Store


@dataclass(kw_only=True)
class Execution:
    """Carries out the steps of one build.

    `unstable` are the paths that differed between two runs of a step. `earlier` has explained every
    miss that comes here.
    """

    request: BuildRequest
    store: Store
    journal: Journal
    sealer: Sealer
    steps: StepCache
    earlier: Earlier
    epoch: int | None
    start_executor: Callable[[], Executor]
    cleanup: ExitStack
    unstable: list[str] = field(init=False, default_factory=list)
    _given: set[Digest] = field(init=False, default_factory=set)  # the layers so far
    _networks: RunNetworks = field(init=False, default_factory=RunNetworks)

    def __post_init__(self) -> None:
        self.cleanup.callback(self._networks.close)

    def carry_out(
        self, missed: Missed, below: StageState, stage: PlannedStage, noted: StepRecord
    ) -> Work[tuple[CachedStep, Layer]]:
        """Perform a step; the result is an earlier one where the content is the same."""
        started = time.monotonic()
        noted = replace(noted, started=self.journal.now())
        vertex, status = noted.vertex, ExitStatus()

        def ended(how: ExitStatus) -> None:
            nonlocal status
            status = how

        def note(
            outcome: str, seconds: float, layer: Layer | None = None, not_kept: str = ""
        ) -> None:
            self.journal.note(
                stage,
                replace(
                    noted,
                    outcome=outcome,
                    seconds=rounded(seconds),
                    cpu_s=rounded(status.cpu_s),
                    memory_peak_bytes=status.memory_peak_bytes,
                    layer="" if layer is None else layer.diff_id,
                    size_bytes=0 if layer is None else layer.size_bytes,
                    not_kept=not_kept,
                    document=missed.document.decode() if layer is None or not_kept else "",
                ),
            )

        self._keep_listings(missed)
        conditions = self._conditions(missed, vertex, ended)
        with self.journal.failing(vertex, started):
            try:
                if isinstance(missed.step, ExecStep):
                    check_runnable(below.platform)
                    fetch_layers(self.journal, stage, self.store, below.layers)
                layer = yield from perform(missed.step, below.layers, conditions)
                self._given.add(layer.diff_id)
                is_stable = yield from self._verify(missed, below, layer, conditions, noted)
            except BaseException as error:
                is_canceled = isinstance(error, GeneratorExit | KeyboardInterrupt)
                note("canceled" if is_canceled else "failed", time.monotonic() - started)
                raise
        seconds = time.monotonic() - started
        made, found = self._made(missed, below, layer, seconds)
        if isinstance(missed.step, ExecStep) and not is_as_keyed(missed.step.mounts):
            not_kept = "the build context changed meanwhile"
            text = f"{not_kept}: this result is not kept for later builds\n"
            self.journal.report(VertexOutput(vertex=vertex, stream="stderr", data=text.encode()))
        elif not is_stable:
            not_kept = "two runs gave different results"
        else:
            not_kept = ""
            self.store.cache.put(made, parent=below.chain_id, variant=self._variant)
        is_reused = found is not None
        layer = found or layer
        self.journal.report(
            VertexDone(
                vertex=vertex,
                seconds=seconds,
                layer=layer.diff_id,
                size_bytes=layer.size_bytes,
                reason=noted.reason,
                reused=is_reused,
            )
        )
        note("reused" if is_reused else "executed", seconds, layer, not_kept)
        self.steps.finished(missed.key)
        return made, layer

    @property
    def _variant(self) -> str:
        return str(self.epoch)

    def _keep_listings(self, missed: Missed) -> None:
        """What explains the next miss."""
        for selection in selections_of(missed.step):
            if selection.listing:  # what is fetched has none: its digest is another's
                self.store.cache.put_listing(selection.digest, selection.listing)

    def _conditions(
        self, missed: Missed, vertex: int, ended: Callable[[ExitStatus], None]
    ) -> Conditions:
        return Conditions(
            store=self.store,
            executor=self.start_executor,
            output=partial(self.journal.output, vertex),
            epoch=self.epoch,
            ended=ended,
            packed=partial(self.journal.packed, vertex),
            grants=self.request.grants,
            secrets=self.journal.secrets,
            on_failure=self.request.on_failure,
            shell=missed.shell,
            networks=self._networks,
        )

    def _verify(
        self,
        missed: Missed,
        below: StageState,
        layer: Layer,
        conditions: Conditions,
        noted: StepRecord,
    ) -> Work[bool]:
        """Whether a second run gives the same, where that was asked for."""
        if not self.request.verify or not isinstance(missed.step, ExecStep):
            return True
        from builder.rehearse import Rehearsal

        rehearsal = Rehearsal(
            step=missed.step,
            layers=below.layers,
            first=layer,
            conditions=replace(conditions, output=lambda stream, data: None, on_failure=None),
            tell=lambda text: self.journal.report(Notice(message=text, line=noted.line)),
            used=self._given,
        )
        differences = yield from rehearsal.run()
        for each in differences:
            hint = f"; try: {each.hint}" if each.hint else ""
            self.journal.report(Notice(message=f"not reproducible: {each}{hint}", line=noted.line))
        self.unstable += [each.path for each in differences]
        return not differences

    def _made(
        self, missed: Missed, below: StageState, layer: Layer, seconds: float
    ) -> tuple[CachedStep, Layer | None]:
        """The step for the cache, and the earlier layer of the same content, where there is one.

        The words and the time of an earlier step are kept, where it stood at the same place.
        """
        cache = self.store.cache
        earlier = None
        if not missed.forced:
            earlier = cache.same_content(below.chain_id, layer.content_digest, self._variant)
        found = None if earlier is None else self.store.layers.find(earlier.diff_id)
        made = CachedStep(
            key=missed.key,
            diff_id=(found or layer).diff_id,
            created=self.sealer.created_now(),
            created_by=missed.created_by,
            seconds=seconds,
            document=missed.document,
        )
        replaced = None if found is None else self.earlier.same_result(missed, found.diff_id)
        if replaced is not None:
            made = replace(made, created=replaced.created, created_by=replaced.created_by)
        return made, found
