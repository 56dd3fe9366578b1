"""The fold: plan -> image.

    for each needed stage, side by side where none needs the other (schedule.py)
        state = open its base
        for each instruction (triggers of the base first)
            state, step = lower(instruction, state)
            step: key -> hit: the layer      (no file is touched)
                      -> miss: it is carried out (execution.py): its layer, or the equal one that
                               the same parent gave before, so that everything below stays cached
                               and the image does not change
               a step that another process, or another stage, is carrying out is waited for
    seal the target's state

A step that gives what the step at its place gave in the last build of this Dockerfile keeps that
one's history entry too, so that the image does not change.

Invariants (tests/builder/test_engine.py):
  1. A second build of the same inputs executes nothing and gives the same image digest.
  2. A step whose result is equal to before changes no digest below it (test_execution.py).
  3. A failed build leaves its good steps in the cache, and no tag.
  4. Stages the target does not need are not opened.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import grammar
from builder import record, timetravel
from builder.cachekey import key_document
from builder.check import check_build
from builder.epoch import NAME as EPOCH_ARG
from builder.epoch import written_epoch
from builder.errors import (
    NotReproducibleError,
    UnsupportedFeatureError,
)
from builder.events import (
    Event,
    ImageSealed,
    Notice,
    VertexCached,
    VertexCanceled,
    VertexDone,
    VertexOutput,
)
from builder.journal import Journal, first_line, record_of
from builder.located import Located
from builder.lower import Lowered, Surroundings, check, lower
from builder.plan import (
    BuildPlan,
    ContextBase,
    ImageBase,
    PlannedStage,
    ScratchBase,
    StageBase,
    plan,
    stages_of,
)
from builder.platforms import name_of
from builder.provide import Provider
from builder.request import BuildRequest, BuildResult
from builder.schedule import PAUSE, Needs, Work, run_all
from builder.sealing import Sealer
from builder.sources import Selection, SourceTree, UnreadError, select
from builder.state import StageState, empty_state, state_of_image
from builder.stepcache import StepCache, check_forced
from builder.steps import (
    CacheMount,
    CopyFiles,
    ExecStep,
    FileStep,
    Step,
    stands_alone,
)
from builder.transferred import fetch_layers, watch_pull
from builder.urls import FileUrl, GitUrl, redacted
from grammar import Instruction, Span, unparse
from layerstore import (
    Digest,
    Image,
    ImageConfig,
    Store,
    StoreError,
    UnusableLayerError,
    host_platform,
)

if TYPE_CHECKING:
    from builder.earlier import Earlier, Missed
    from builder.execution import Execution
    from builder.explain import Explanation
    from builder.predict import Predictor
    from builder.sandbox import Executor
    from builder.trial import Trial

_WORKING = ("RUN", "COPY", "ADD", "WORKDIR")


def build(
    request: BuildRequest,
    store: Store,
    report: Callable[[Event], None],
    *,
    start_executor: "Callable[[], Executor] | None" = None,
) -> BuildResult:
    """Build `request` into `store`.

    The image is durable and tagged when this returns. Everything that was built before a failure
    stays in the cache. `start_executor` is called for the first program that has to run.

    Raises:
        BuilderError, SandboxError, StoreError, grammar.DockerfileError: with the place in the
            Dockerfile as a note, where there is one.
    """
    if request.cache_from:
        _add_caches(request, store, report)
    with ExitStack() as cleanup:
        executors: list[Executor] = []

        def executor() -> "Executor":  # one, however often it is begun anew; no thread is there yet
            if not executors:
                executors.append((start_executor or _fork_server)())
                cleanup.callback(executors[0].close)
            return executors[0]

        while True:
            try:
                return _build(request, store, report, executor)
            except UnusableLayerError as error:  # what stands on it is built again without it
                report(Notice(message=error.message))


def _fork_server() -> "Executor":
    from builder.sandbox import ForkServer

    return ForkServer()


def _add_caches(request: BuildRequest, store: Store, report: Callable[[Event], None]) -> None:
    from builder.cacheoptions import add_cache

    def notice(message: str) -> None:
        report(Notice(message=message))

    for source in request.cache_from:
        add_cache(source, store, notice)


def _build(
    request: BuildRequest,
    store: Store,
    report: Callable[[Event], None],
    start_executor: "Callable[[], Executor]",
) -> BuildResult:
    started = time.time()
    with ExitStack() as cleanup:
        engine = _Engine(request, store, report, cleanup, start_executor)
        cleanup.callback(lambda: store.claims.release(store.claims.held()))
        cleanup.callback(store.flush)
        try:
            store.lease()  # what the build finds must not be collected before it is named
            image = engine.build()
        except UnusableLayerError:  # begun anew by `build`: no build of its own
            raise
        except BaseException as error:
            engine.journal.write(started, None, first_line(error))
            raise
        elsewhere = sum(store.layers.is_offered(layer.diff_id) for layer in image.layers)
        is_kept = request.keep and not elsewhere
        if is_kept:
            for name in request.names:
                store.images.tag(image, name)
            if not request.names:
                store.images.note_untagged(image)
        else:
            for digest in (image.descriptor.digest, image.id):
                store.blobs.discard(digest)  # unless another build has left it
        try:
            store.flush()
        except BaseException:
            store.images.discard_edits()  # what follows keeps the steps, and names nothing
            raise
    written = engine.journal.write(started, image, "")
    if request.keep:
        sealed = ImageSealed(
            image_id=image.id,
            manifest_digest=image.descriptor.digest,
            names=tuple(name.familiar for name in request.names) if is_kept else (),
            elsewhere=elsewhere,
        )
        report(sealed)
    return engine.result(image, written, is_kept=is_kept)


def predict(request: BuildRequest, store: Store) -> tuple[record.StepRecord, ...]:
    """Say what `build` would do: the same fold, with nothing executed and nothing written.

    The outcome of each step is `metadata`, `cached`, `miss`, or `depends` (see predict.py);
    `seconds` and `size_bytes` of those that would or might be carried out are what the nearest
    earlier step took.
    """
    from builder.predict import Predictor

    def ignore(event: Event) -> None:
        pass

    _add_caches(request, store, ignore)
    if request.pulling is not None:
        request = replace(request, pulling=replace(request.pulling, fetches=False))
    with ExitStack() as cleanup:
        engine = _Engine(
            request, store, ignore, cleanup, start_executor=_fork_server, predictor=Predictor(store)
        )
        engine.fold()
        return engine.journal.steps()


class _Engine:
    """One build. Its state is what the build has found out so far; nothing is read back from it."""

    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        report: Callable[[Event], None],
        cleanup: ExitStack,
        start_executor: "Callable[[], Executor]",
        predictor: "Predictor | None" = None,
    ) -> None:
        self._start_executor = start_executor
        self._execution: Execution | None = None
        self._predictor = predictor
        self._request = request
        self._store = store
        self._cleanup = cleanup
        self._platform = request.platform or host_platform()
        self.journal = Journal(request, store, report)
        self._earlier: Earlier | None = None
        self._states: dict[int, StageState] = {}
        self._trial: Trial | None = None
        self._cache_mounts: dict[str, str] = {}  # by key: where it is shown
        self._noted: dict[int, list[tuple[int, StageState]]] = {}  # by stage: line, what it led to
        self._provider = Provider(
            request, store, cleanup, self._states.__getitem__, partial(watch_pull, self.journal)
        )
        self._plan: BuildPlan | None = None
        self._epoch = request.source_date_epoch
        self._sealer = Sealer(request, store, self._epoch)
        self._args = dict(request.build_args)
        self._steps = StepCache(request, store)

    # ---- the fold

    def build(self) -> Image:
        target = self.fold()
        if self._execution is not None and self._execution.unstable:
            raise NotReproducibleError(paths=tuple(dict.fromkeys(self._execution.unstable)))
        self._provider.remember()
        steps = self.journal.steps()
        assert self._plan is not None, "folded before"
        if self._request.wants_layers:
            stage = self._plan.stages[self._plan.target]
            fetch_layers(self.journal, stage, self._store, target.layers)
        image = self._sealer.seal(self._sealer.squash(target), steps)
        noted = self._noted[self._plan.target]
        lines = [line for line, _ in noted]
        configs = (self._sealer.image_config(state) for _, state in noted)
        timetravel.remember(self._store.cache, image, lines, configs)
        return image

    def fold(self) -> StageState:
        """Build all stages that are needed; returns what the target has become."""
        with Located(self._request.dockerfile, None):
            self._plan = plan(
                self._request.dockerfile,
                target=self._request.target,
                build_args=self._args,
                platform=self._platform,
                contexts=self._provider.context_names,
            )
            if self._epoch is None:
                self._find_epoch(self._plan)
            check_forced(self._request, self._plan)
        self._report_checks(self._plan)
        stages = self._plan.stages
        for index in sorted(self._plan.needed):
            for instruction in stages[index].instructions:
                with Located(self._request.dockerfile, instruction.span):
                    check(
                        instruction,
                        allowed=self._request.allowed,
                        escape=self._request.dockerfile.directives.escape,
                    )
        run_all(
            {index: stages[index].needs for index in sorted(self._plan.needed)},
            lambda index: self._build_stage(stages[index]),
            jobs=self._request.jobs or len(os.sched_getaffinity(0)),
            idle=self._steps.while_waiting,
        )
        return self._states[self._plan.target]

    def _find_epoch(self, made: BuildPlan) -> None:
        """What SOURCE_DATE_EPOCH means; the ARG of that name then has the number."""
        epoch = written_epoch(
            made,
            self._request.build_args,
            escape=self._request.dockerfile.directives.escape,
            context=self._request.context,
            provider=self._provider,
        )
        self._epoch = epoch
        self._sealer = Sealer(self._request, self._store, epoch)
        value = {EPOCH_ARG: "" if epoch is None else str(epoch)}
        if EPOCH_ARG in self._args:
            self._args |= value
        if EPOCH_ARG in made.global_args:
            self._plan = replace(made, global_args={**made.global_args, **value})

    def _report_checks(self, plan: BuildPlan) -> None:
        """Report what the build checks say; nothing has been executed yet."""
        check_build(
            self._request.dockerfile,
            target=self._request.target,
            build_args=self._args,
            ignore_file=self._request.ignore_file,
            platform=self._platform,
            bases=dict(self._known_bases(plan)),
            cache=self._store.cache,
            report=self.journal.report,
        )

    def _known_bases(self, plan: BuildPlan) -> Iterator[tuple[str, tuple[str, ImageConfig]]]:
        for index in plan.needed:
            base = plan.stages[index].base
            if isinstance(base, ImageBase):
                # without it the build fails, or gets it, where it opens the stage
                with suppress(StoreError):
                    image = self._store.images.resolve(base.name, plan.stages[index].platform)
                    yield base.name, (image.id, image.config)

    def result(self, image: Image, written: record.BuildRecord, *, is_kept: bool) -> BuildResult:
        """What `build` made of the target."""
        assert self._plan is not None, "built before"
        state = self._states[self._plan.target]
        return BuildResult(
            image=image,
            record=written,
            base=state.base,
            own=frozenset(layer.diff_id for layer in state.layers) - state.base,
            foreign=self._provider.foreign_layers(),
            epoch=self._epoch,
            cache_mounts=self._cache_mounts,
            is_kept=is_kept,
            vertices=self.journal.vertices,
        )

    def _executing(self) -> "Execution":
        """What carries steps out, from the first one on that is no hit."""
        if self._execution is None:
            from builder.execution import Execution  # nothing of it is loaded when all is cached

            assert self._earlier is not None, "the miss was explained"
            self._execution = Execution(
                request=self._request,
                store=self._store,
                journal=self.journal,
                sealer=self._sealer,
                steps=self._steps,
                earlier=self._earlier,
                epoch=self._epoch,
                start_executor=self._start_executor,
                cleanup=self._cleanup,
            )
        return self._execution

    def _build_stage(self, stage: PlannedStage) -> Work[None]:
        for needed in sorted(stage.needs):  # known to be there, unless a trigger asked for us
            yield Needs(needed)
        with Located(self._request.dockerfile, stage.from_node.span):
            state = yield from self._open_base(stage)
        triggers = tuple(
            grammar.parse_instruction(text, escape="\\", name="ONBUILD")
            for text in state.config.on_build
        )
        state = replace(state, config=replace(state.config, on_build=()))
        around = self._surroundings(stage)
        self._note_moment(stage, stage.from_node.span, state)
        instructions = [*triggers, *stage.instructions]
        total = 1 + sum(each.written.keyword in _WORKING for each in instructions)
        position = 1
        for number, instruction in enumerate(instructions):
            if instruction.written.keyword in _WORKING:
                position += 1
            label = f"[{stage.title} {position}/{total}]"
            in_trigger = number < len(triggers)
            span = stage.from_node.span if in_trigger else instruction.span
            with Located(self._request.dockerfile, span, in_trigger=in_trigger):
                needs = stages_of(instruction, stage.visible, self._provider.context_names)
                for needed in needs:  # a trigger's, by now
                    yield Needs(needed)
                state = yield from self._build_instruction(
                    instruction, state, around, label, stage, span, instructions
                )
            self._note_moment(stage, span, state)
            yield PAUSE
        self._states[stage.index] = state

    def _surroundings(self, stage: PlannedStage) -> Surroundings:
        request = self._request
        return Surroundings(
            find_source=partial(self._find_source, stage),
            select_remote=partial(self._select_remote, stage),
            build_args=self._args,
            global_args=self._plan.global_args if self._plan else {},
            escape=request.dockerfile.directives.escape,
            network=request.network,
            allowed=request.allowed,
            settings=request.run_settings,
            no_cache=request.no_cache or stage.is_one_of(request.no_cache_stages),
        )

    def _find_source(self, stage: PlannedStage, name: str | None) -> SourceTree:
        source = self._provider.tree(name, stage)
        if self._predictor is not None:
            self._predictor.check_readable(source)
        return source

    def _try_what_is_to_come(
        self, stage: PlannedStage, after: StageState, instructions: Sequence[Instruction]
    ) -> None:
        """Find the errors of what has not been begun, before a step is carried out."""
        is_first = self._trial is None
        if self._trial is None:
            from builder.trial import Trial  # nothing of it is loaded when all is cached

            assert self._plan is not None
            self._trial = Trial(
                self._request.dockerfile,
                self._plan,
                self._provider,
                self._states,
                self._surroundings,
            )
        self._trial.rest(stage, after, instructions, self.journal.steps_of(stage) + 1)
        if is_first:
            self._trial.others(self._noted.keys())

    def _select_remote(
        self,
        stage: PlannedStage,
        url: GitUrl | FileUrl,
        *,
        checksum: str,
        keep_git_dir: bool | None,
        unpack: bool,
    ) -> Selection:
        """Ask what is at a URL, which may take its time: work of its own for whoever watches."""
        shown = redacted(url.remote if isinstance(url, GitUrl) else url.url)
        vertex = self.journal.begin(f"[{stage.title}] load {shown}", stage.title, None)
        started = time.monotonic()
        with self.journal.failing(vertex, started):
            selection = self._provider.remotes().select(
                url, checksum=checksum, keep_git_dir=keep_git_dir, unpack=unpack
            )
        self.journal.report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))
        return selection

    def _build_instruction(
        self,
        instruction: Instruction,
        state: StageState,
        around: Surroundings,
        label: str,
        stage: PlannedStage,
        span: Span,
        instructions: Sequence[Instruction],
    ) -> Work[StageState]:
        noted = record_of(redacted(unparse(instruction)), span, stage)
        try:
            lowered = lower(instruction, state, around)
        except UnreadError as error:
            forced = self._steps.forced(stage, span.start_line)
            noted = replace(
                noted,
                outcome="miss" if forced else "depends",
                reason=forced or str(error),
            )
            return self._imagine(stage, noted, state, "")
        for message in lowered.notices:
            self.journal.report(Notice(message=message, line=span.start_line))
        if lowered.step is None:
            self.journal.note(stage, noted)
            return lowered.state
        return (
            yield from self._carry_out(
                lowered.step, lowered, state, noted, label, stage, instructions
            )
        )

    def _carry_out(
        self,
        step: Step,
        lowered: Lowered,
        state: StageState,
        noted: record.StepRecord,
        label: str,
        stage: PlannedStage,
        instructions: Sequence[Instruction],
    ) -> Work[StageState]:
        """Find the step in the cache, else do it."""
        line = noted.line
        vertex = self.journal.begin(f"{label} {step.title}", stage.title, line)
        if isinstance(step, ExecStep) and any(isinstance(m, CacheMount) for m in step.mounts):
            from builder.mounting import caches_of

            self._cache_mounts |= caches_of(step)
        below = StageState(platform=state.platform) if stands_alone(step) else state
        document = key_document(
            step,
            parent=below.chain_id,
            platform=name_of(state.platform),
            epoch=self._epoch,
        )
        key = Digest.of(document)
        forced = self._steps.forced(stage, line)
        result = None if forced else self._steps.look_up(key)
        if result is None and not forced and self._predictor is None:
            result = yield from self._steps.claim(key, tell=partial(self._tell_waiting, vertex))
        if result is not None:
            cached, layer = result
            self.journal.report(VertexCached(vertex=vertex, layer=layer.diff_id))
            found = replace(
                noted,
                outcome="cached",
                key=key,
                layer=layer.diff_id,
                vertex=vertex,
                started=self.journal.now(),
                size_bytes=layer.size_bytes,
            )
            self.journal.note(stage, found)
        else:
            expired = None if forced else self._store.cache.get(key)
            is_expired = expired is not None and self._steps.is_expired(expired)
            missed = self._missed(lowered, document, state, stage, instructions, forced, is_expired)
            explained = self._explain(missed)
            noted = replace(
                noted, key=key, vertex=vertex, explanation=explained, reason=explained.reason
            )
            if self._predictor is not None:
                return self._predict(missed, below, lowered, stage, noted)
            try:
                self._try_what_is_to_come(stage, lowered.state, instructions)
            except BaseException:
                self.journal.report(VertexCanceled(vertex=vertex, seconds=0.0))
                raise
            cached, layer = yield from self._executing().carry_out(missed, below, stage, noted)
        return lowered.state.with_layer(
            layer, created=cached.created, created_by=cached.created_by, line=line
        )

    def _missed(
        self,
        lowered: Lowered,
        document: bytes,
        state: StageState,
        stage: PlannedStage,
        instructions: Sequence[Instruction],
        forced: str,
        is_expired: bool,
    ) -> "Missed":
        from builder.earlier import Missed  # nothing of it is loaded when all is cached

        assert lowered.step is not None
        return Missed(
            step=lowered.step,
            key=Digest.of(document),
            document=document,
            created_by=lowered.created_by,
            stage=stage.title,
            number=self.journal.steps_of(stage),
            instructions=tuple(redacted(unparse(each)) for each in instructions),
            arguments=_arguments(state),
            shell=state.shell,
            forced=forced,
            is_expired=is_expired,
            bases=tuple(self.journal.bases.values()),
            steps=self.journal.steps(),
        )

    def _explain(self, missed: "Missed") -> "Explanation":
        """Say why a step is carried out, and keep what explains the next one."""
        if self._earlier is None:
            from builder.earlier import Earlier

            self._earlier = Earlier(
                self._store.cache,
                self._store.private / "builds",
                place=self.journal.place,
                context=self.journal.context,
                target=self._request.target,
            )
        return self._earlier.explain(missed)

    # ---- predicting

    def _predict(
        self,
        missed: "Missed",
        below: StageState,
        lowered: Lowered,
        stage: PlannedStage,
        noted: record.StepRecord,
    ) -> StageState:
        assert self._predictor is not None
        seconds, size_bytes = self._predictor.estimate(noted)
        outcome = self._predictor.judge(missed, below)
        noted = replace(noted, outcome=outcome, seconds=seconds, size_bytes=size_bytes)
        return self._imagine(stage, noted, lowered.state, lowered.created_by)

    def _imagine(
        self, stage: PlannedStage, noted: record.StepRecord, state: StageState, created_by: str
    ) -> StageState:
        """Go on as if the step had been carried out, on a layer that is none."""
        assert self._predictor is not None
        after = self._predictor.with_imaginary_layer(state, created_by)
        self.journal.note(stage, replace(noted, layer=after.layers[-1].diff_id))
        return after

    # ---- bases

    def _open_base(self, stage: PlannedStage) -> Work[StageState]:
        if stage.platform.os != "linux":
            raise UnsupportedFeatureError(feature=f"the platform {stage.platform}")
        match stage.base:
            case ScratchBase():
                self.journal.note_base(stage, "scratch", "")
                return empty_state(self._platform)
            case StageBase(index=index):
                assert self._plan is not None
                self.journal.note_base(stage, self._plan.stages[index].title, "")
                state = self._states[index]
                return state.inherited()
            case ImageBase(name=name):
                return self._open_image(name, self._provider.image(name, stage), stage)
            case ContextBase(name=name):
                found = self._provider.context(name, stage.platform)
                if isinstance(found, Image):
                    return self._open_image(name, found, stage)
                self.journal.note_base(stage, name, "")
                state = empty_state(stage.platform)
                if found is not None:
                    state = yield from self._open_tree(name, found, state, stage)
                return state

    def _open_image(self, name: str, image: Image, stage: PlannedStage) -> StageState:
        self.journal.note_base(stage, name, image.descriptor.digest)
        line = stage.from_node.span.start_line
        vertex = self.journal.begin(f"[{stage.title} 1/1] FROM {name}", stage.title, line)
        self.journal.report(VertexCached(vertex=vertex))
        return state_of_image(image)

    def _open_tree(
        self, name: str, tree: SourceTree, state: StageState, stage: PlannedStage
    ) -> Work[StageState]:
        """A named context that is no image, as the root file system of a stage."""
        selection = select(tree, "/")
        assert selection is not None, "every tree has a root"
        action = CopyFiles(
            selections=(selection,),
            inline=(),
            destination="/",
            chown=None,
            chmod=None,
            unpack=False,
        )
        title = f"FROM {name}"
        step = FileStep(action=action, title=title)
        lowered = Lowered(state=state, created_by=title, step=step)
        noted = record_of(title, stage.from_node.span, stage)
        label = f"[{stage.title} 1/1]"
        return (
            yield from self._carry_out(
                step, lowered, state, noted, label, stage, stage.instructions
            )
        )

    # ---- telling

    def _tell_waiting(self, vertex: int) -> None:
        text = b"waiting for another build or stage that carries out this step\n"
        self.journal.report(VertexOutput(vertex=vertex, stream="stderr", data=text))

    def _note_moment(self, stage: PlannedStage, span: Span, state: StageState) -> None:
        """The moments of a stage are those of the stage it stands on, and its own."""
        if stage.index not in self._noted:
            base = stage.base
            if isinstance(base, StageBase):
                self._noted[stage.index] = list(self._noted[base.index])
                return
            self._noted[stage.index] = []
        self._noted[stage.index].append((span.start_line, state))


def _arguments(state: StageState) -> frozenset[str]:
    """The variables that a RUN sees because of ARG."""
    env = {pair.partition("=")[0] for pair in state.config.env} - set(state.args_over_env)
    return frozenset(name for name, _ in state.args) - env
