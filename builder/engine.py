"""The fold: plan -> image.

    for each needed stage, side by side where none needs the other (schedule.py)
        state = open its base
        for each instruction (triggers of the base first)
            state, step = lower(instruction, state)
            step: key -> hit: the layer      (no file is touched)
                      -> miss: perform, commit, and compare with what the same parent gave before
                               (time-blind): equal -> take the earlier layer, so that everything
                               below stays cached and the image does not change
    seal the target's state

What is kept of a step is how its layer was made: an image that reuses an earlier layer says in its
history what made that layer, and when.

Invariants (tests/builder/test_engine.py):
  1. A second build of the same inputs executes nothing and gives the same image digest.
  2. A step whose result is equal to before changes no digest below it.
  3. A failed build leaves its good steps in the cache, and no tag.
  4. Stages the target does not need are not opened.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import grammar
from builder import record, timetravel
from builder.cachekey import key_document
from builder.check import check_build
from builder.errors import (
    BuilderError,
    PlanError,
    UnsupportedFeatureError,
)
from builder.events import (
    Event,
    ImageSealed,
    Notice,
    VertexCached,
    VertexCanceled,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexStarted,
)
from builder.lower import Surroundings, check, lower
from builder.lower.metadata import with_labels
from builder.mounting import NO_GRANTS, Grants
from builder.perform import OnFailure, perform
from builder.plan import BuildPlan, ImageBase, PlannedStage, ScratchBase, StageBase, plan, stages_of
from builder.platforms import name_of
from builder.provide import Provider
from builder.sandbox import Executor, ForkServer
from builder.schedule import PAUSE, Needs, Work, run_all
from builder.state import StageState
from builder.steps import NO_SETTINGS, RunSettings, Step, stands_alone
from grammar import Dockerfile, DockerfileError, Instruction, Span, unparse
from layerstore import (
    CachedStep,
    ContainerConfig,
    Digest,
    Image,
    ImageConfig,
    Layer,
    NotFoundError,
    Reference,
    Store,
    StoreError,
    UnusableLayerError,
    host_platform,
)

if TYPE_CHECKING:
    from builder.squash import Squash
    from layerstore import Encoding

DEFAULT_PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FLUSH_AFTER_S = 0.5
_EPOCH = "SOURCE_DATE_EPOCH"
_EPOCH_DIGITS_MAX = 12  # fewer: all years that datetime knows
_WORKING = ("RUN", "COPY", "ADD", "WORKDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build. `context` None: there is none, and COPY from it is an error."""

    dockerfile: Dockerfile
    context: Path | None
    ignore_file: bytes | None = None
    names: tuple[Reference, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    jobs: int = 0  # stages that are built at the same time; 0: as many as there are cores
    network: Literal["host", "none"] = "host"
    source_date_epoch: int | None = None
    allowed: frozenset[str] = frozenset()  # rights RUN may ask for: network.host, security.insecure
    run_settings: RunSettings = NO_SETTINGS
    grants: Grants = NO_GRANTS
    on_failure: OnFailure | None = None  # what to do where a RUN has failed, before the build ends
    keep: bool = True  # False: the image is for outputs alone, and gets neither name nor listing
    squash: "Squash | None" = None
    encoding: "Encoding | None" = None  # of the image in the store
    inline_cache: bool = False  # the image says which steps made its layers
    cache_from: tuple[Path | str, ...] = ()  # directories of cached steps, names of such images


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made. `base` and `own`: the layers the image stands on, and those made here.

    They are diff_ids; `own` are the layers before they were squashed.
    """

    image: Image
    record: record.BuildRecord
    base: frozenset[Digest] = frozenset()
    own: frozenset[Digest] = frozenset()
    epoch: int | None = None
    vertices: int = 0  # how many pieces of work were numbered


def build(
    request: BuildRequest,
    store: Store,
    report: Callable[[Event], None],
    *,
    start_executor: Callable[[], Executor] = ForkServer,
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

        def executor() -> Executor:  # one, however often it is begun anew
            if not executors:
                executors.append(start_executor())
                cleanup.callback(executors[0].close)
            return executors[0]

        while True:
            try:
                return _build(request, store, report, executor)
            except UnusableLayerError as error:  # what stands on it is built again without it
                report(Notice(message=error.message))


def _add_caches(request: BuildRequest, store: Store, report: Callable[[Event], None]) -> None:
    from layerstore import CacheDirectory, InlineCache

    def notice(message: str) -> None:
        report(Notice(message=message))

    for source in request.cache_from:
        if isinstance(source, Path):
            store.cache.add_source(CacheDirectory(source, store, notice))
            continue
        try:
            store.cache.add_source(InlineCache(store.images.resolve(source), store, notice))
        except StoreError as error:
            notice(f"no build cache in {source}: {error.message}")


def _build(
    request: BuildRequest,
    store: Store,
    report: Callable[[Event], None],
    start_executor: Callable[[], Executor],
) -> BuildResult:
    started = time.time()
    with ExitStack() as cleanup:
        engine = _Engine(request, store, report, cleanup, start_executor)
        cleanup.callback(store.flush)
        try:
            store.lease()  # what the build finds must not be collected before it is named
            image = engine.build()
        except UnusableLayerError:  # begun anew by `build`: no build of its own
            raise
        except BaseException as error:
            engine.write_record(started, None, _first_line(error))
            raise
        if request.keep:
            for name in request.names:
                store.images.tag(image, name)
            if not request.names:
                store.images.note_untagged(image)
        else:
            for digest in (image.descriptor.digest, image.id):
                store.blobs.discard(digest)  # unless another build has left it
        store.flush()
    written = engine.write_record(started, image, "")
    if request.keep:
        names = tuple(name.familiar for name in request.names)
        report(ImageSealed(image_id=image.id, manifest_digest=image.descriptor.digest, names=names))
    return engine.result(image, written)


class _Engine:
    """One build. Its state is what the build has found out so far; nothing is read back from it."""

    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        report: Callable[[Event], None],
        cleanup: ExitStack,
        start_executor: Callable[[], Executor],
    ) -> None:
        self._start_executor = start_executor
        self._request = request
        self._store = store
        self._report = report
        self._cleanup = cleanup
        self._platform = host_platform()
        self._vertex = 0
        self._steps: dict[int, list[record.StepRecord]] = {}  # by stage
        self._states: dict[int, StageState] = {}
        self._noted: list[tuple[int, StageState]] = []  # of the target: line, and what it led to
        self._provider = Provider(request, store, cleanup, self._states.__getitem__)
        self._executor: Executor | None = None
        self._plan: BuildPlan | None = None
        self._epoch = request.source_date_epoch
        self._last_flush = time.monotonic()

    # ---- the fold

    def build(self) -> Image:
        with _Located(self._request.dockerfile, None):
            self._plan = plan(
                self._request.dockerfile,
                target=self._request.target,
                build_args=self._build_args(),
                platform=self._platform,
            )
            if self._epoch is None:
                self._epoch = _written_epoch(self._plan, self._build_args())
        self._report_checks(self._plan)
        stages = self._plan.stages
        for index in sorted(self._plan.needed):
            for instruction in stages[index].instructions:
                with _Located(self._request.dockerfile, instruction.span):
                    check(
                        instruction,
                        allowed=self._request.allowed,
                        escape=self._request.dockerfile.directives.escape,
                    )
        run_all(
            {index: stages[index].needs for index in sorted(self._plan.needed)},
            lambda index: self._build_stage(stages[index]),
            jobs=self._request.jobs or len(os.sched_getaffinity(0)),
        )
        self._provider.remember()
        image = self._seal(self._squash(self._states[self._plan.target]))
        lines = [line for line, _ in self._noted]
        configs = (self._image_config(state) for _, state in self._noted)
        timetravel.remember(self._store.cache, image, lines, configs)
        return image

    def _report_checks(self, plan: BuildPlan) -> None:
        """Report what the build checks say; nothing has been executed yet."""
        check_build(
            self._request.dockerfile,
            target=self._request.target,
            build_args=self._build_args(),
            ignore_file=self._request.ignore_file,
            platform=self._platform,
            bases=dict(self._known_bases(plan)),
            cache=self._store.cache,
            report=self._report,
        )

    def _known_bases(self, plan: BuildPlan) -> Iterator[tuple[str, tuple[str, ImageConfig]]]:
        for index in plan.needed:
            base = plan.stages[index].base
            if isinstance(base, ImageBase):
                # without it the build fails, or gets it, where it opens the stage
                with suppress(StoreError):
                    image = self._store.images.resolve(base.name)
                    yield base.name, (image.id, image.config)

    def result(self, image: Image, written: record.BuildRecord) -> BuildResult:
        """What `build` made of the target."""
        assert self._plan is not None, "built before"
        state = self._states[self._plan.target]
        return BuildResult(
            image=image,
            record=written,
            base=state.base,
            own=frozenset(layer.diff_id for layer in state.layers) - state.base,
            epoch=self._epoch,
            vertices=self._vertex,
        )

    def _build_stage(self, stage: PlannedStage) -> Work[None]:
        for needed in sorted(stage.needs):  # known to be there, unless a trigger asked for us
            yield Needs(needed)
        with _Located(self._request.dockerfile, stage.from_node.span):
            state = self._open_base(stage)
        triggers = tuple(
            grammar.parse_instruction(text, escape="\\", name="ONBUILD")
            for text in state.config.on_build
        )
        state = replace(state, config=replace(state.config, on_build=()))
        around = Surroundings(
            find_source=lambda name: self._provider.tree(name, stage),
            build_args=self._build_args(),
            global_args=self._plan.global_args if self._plan else {},
            escape=self._request.dockerfile.directives.escape,
            network=self._request.network,
            allowed=self._request.allowed,
            settings=self._request.run_settings,
            no_cache=self._request.no_cache,
        )
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
            with _Located(self._request.dockerfile, span, in_trigger=in_trigger):
                for needed in stages_of(instruction, stage.visible):  # a trigger's, by now
                    yield Needs(needed)
                state = yield from self._build_instruction(
                    instruction, state, around, label, stage, span
                )
            self._note_moment(stage, span, state)
            yield PAUSE
        self._states[stage.index] = state

    def _build_instruction(
        self,
        instruction: Instruction,
        state: StageState,
        around: Surroundings,
        label: str,
        stage: PlannedStage,
        span: Span,
    ) -> Work[StageState]:
        lowered = lower(instruction, state, around)
        for message in lowered.notices:
            self._report(Notice(message=message, line=span.start_line))
        if lowered.step is None:
            self._note_step(unparse(instruction), span, stage, outcome="metadata")
            return lowered.state
        vertex = self._begin(f"{label} {lowered.step.title}", stage.title, span.start_line)
        below = StageState() if stands_alone(lowered.step) else state
        document = key_document(
            lowered.step,
            parent=below.chain_id,
            platform=name_of(self._platform),
            epoch=self._epoch,
        )
        key = Digest.of(document)
        cached = None if self._request.no_cache else self._store.cache.get(key)
        layer = None if cached is None else self._known_layer(cached)
        if cached is not None and layer is not None:
            self._report(VertexCached(vertex=vertex, layer=layer.diff_id))
            self._note_step(
                unparse(instruction), span, stage, outcome="cached", key=key, layer=layer
            )
        else:
            cached, layer = yield from self._execute(
                lowered.step, below, key, document, lowered.created_by, vertex
            )
            outcome = "executed" if cached.key == key else "reused"
            self._note_step(
                unparse(instruction),
                span,
                stage,
                outcome=outcome,
                key=key,
                layer=layer,
                seconds=cached.seconds if outcome == "executed" else 0.0,
            )
        return lowered.state.with_layer(
            layer, created=cached.created, created_by=cached.created_by, line=span.start_line
        )

    def _execute(
        self,
        step: Step,
        below: StageState,
        key: Digest,
        document: bytes,
        created_by: str,
        vertex: int,
    ) -> Work[tuple[CachedStep, Layer]]:
        """Perform a step; the result is an earlier one where the content is the same."""
        started = time.monotonic()
        try:
            layer = yield from perform(
                step,
                below.layers,
                store=self._store,
                executor=self._get_executor,
                output=lambda stream, data: self._report(
                    VertexOutput(
                        vertex=vertex,
                        stream="stdout" if stream == "stdout" else "stderr",
                        data=data,
                    )
                ),
                epoch=self._epoch,
                grants=self._request.grants,
                on_failure=self._request.on_failure,
            )
        except (GeneratorExit, KeyboardInterrupt):
            self._report(VertexCanceled(vertex=vertex, seconds=time.monotonic() - started))
            raise
        except BaseException as error:
            self._report(
                VertexFailed(
                    vertex=vertex,
                    seconds=time.monotonic() - started,
                    message=_first_line(error),
                )
            )
            raise
        seconds = time.monotonic() - started
        variant = str(self._epoch)
        earlier = None
        if not self._request.no_cache:
            earlier = self._store.cache.same_content(below.chain_id, layer.content_digest, variant)
        earlier_layer = None if earlier is None else self._known_layer(earlier)
        made = CachedStep(
            key=key,
            diff_id=layer.diff_id,
            created=self._created_now(),
            created_by=created_by,
            seconds=seconds,
            document=document,
        )
        if earlier is not None and earlier_layer is not None:
            alias = replace(earlier, key=key, document=document)
            self._store.cache.put(alias, parent=below.chain_id, variant=variant)
            made, layer = earlier, earlier_layer
        else:
            self._store.cache.put(made, parent=below.chain_id, variant=variant)
        self._report(
            VertexDone(
                vertex=vertex,
                seconds=seconds,
                layer=layer.diff_id,
                size_bytes=layer.size_bytes,
                reused=made is earlier,
            )
        )
        self._flush_when_due()
        return made, layer

    # ---- bases

    def _open_base(self, stage: PlannedStage) -> StageState:
        if stage.from_node.platform is not None:
            self._check_platform(stage)
        match stage.base:
            case ScratchBase():
                config = ContainerConfig(env=(DEFAULT_PATH_ENV,), working_dir="/")
                return StageState(config=config)
            case StageBase(index=index):
                state = self._states[index]
                return replace(state, cmd_is_own=False)
            case ImageBase(name=name):
                image = self._provider.image(name, stage)
                vertex = self._begin(
                    f"[{stage.title} 1/1] FROM {name}", stage.title, stage.from_node.span.start_line
                )
                self._report(VertexCached(vertex=vertex))
                return _state_of_image(image)

    def _check_platform(self, stage: PlannedStage) -> None:
        from grammar import expand

        assert stage.from_node.platform is not None and self._plan is not None
        wanted = expand(
            stage.from_node.platform,
            self._plan.global_args,
            escape=self._request.dockerfile.directives.escape,
        )
        if wanted not in (name_of(self._platform), self._platform.architecture):
            raise UnsupportedFeatureError(
                feature=f"FROM --platform={wanted} on {name_of(self._platform)}"
            )

    def _known_layer(self, cached: CachedStep) -> Layer | None:
        """The layer of a cache entry, None when it is gone from the store."""
        try:
            return self._store.layers.get(cached.diff_id)
        except NotFoundError:
            return None

    def _get_executor(self) -> Executor:
        """The executor, started for the first program; no thread has been started before."""
        if self._executor is None:
            self._executor = self._start_executor()
        return self._executor

    def _build_args(self) -> Mapping[str, str]:
        return self._request.build_args

    # ---- the result

    def _squash(self, state: StageState) -> StageState:
        wish = self._request.squash
        if wish is None:
            return state
        from builder.squash import squashed

        return squashed(state, wish, self._store)

    def _seal(self, state: StageState) -> Image:
        config = self._image_config(state)
        if self._request.inline_cache:
            config = replace(config, inline_cache=self._inline_cache(state))
        image = self._store.images.seal(config, state.layers)
        return image if self._request.encoding is None else self._encoded(image, state)

    def _image_config(self, state: StageState) -> ImageConfig:
        config = state.config
        if self._request.labels:
            added = list(self._request.labels.items())
            config = replace(config, labels=with_labels(config.labels, added))
        created = state.created
        if self._epoch is not None:
            created = rfc3339(self._epoch)
        return ImageConfig(
            architecture=self._platform.architecture,
            os=self._platform.os,
            variant=self._platform.variant,
            author=state.author,
            created=created,
            config=config,
            diff_ids=tuple(layer.diff_id for layer in state.layers),
            history=state.history,
        )

    def _inline_cache(self, state: StageState) -> str:
        from layerstore import inline_steps

        own = {self._store.layers.fetch(layer).diff_id for layer in state.layers} - state.base
        records = (step for steps in self._steps.values() for step in steps)
        keys = [Digest(step.key) for step in records if step.key and step.layer in own]
        return inline_steps(self._store, keys)

    def _encoded(self, image: Image, state: StageState) -> Image:
        from layerstore import encode_image

        assert self._request.encoding is not None, "asked before"
        encoded = encode_image(
            self._store,
            image,
            self._request.encoding,
            is_own=lambda layer: layer.diff_id not in state.base,
        )
        if encoded is not image:
            self._store.blobs.discard(image.descriptor.digest)  # the manifest nobody will name
        return encoded

    def _created_now(self) -> str:
        epoch = self._epoch
        return rfc3339(time.time() if epoch is None else epoch)

    def _flush_when_due(self) -> None:
        """Make finished steps durable now and then: a killed build loses little, cheaply."""
        if time.monotonic() - self._last_flush > _FLUSH_AFTER_S:
            self._store.flush()
            self._last_flush = time.monotonic()

    # ---- telling

    def _note_moment(self, stage: PlannedStage, span: Span, state: StageState) -> None:
        if self._plan is not None and stage.index == self._plan.target:
            self._noted.append((span.start_line, state))

    def _begin(self, title: str, stage: str, line: int) -> int:
        self._vertex += 1
        self._report(VertexStarted(vertex=self._vertex, title=title, stage=stage, line=line))
        return self._vertex

    def _note_step(
        self,
        instruction: str,
        span: Span,
        stage: PlannedStage,
        *,
        outcome: str,
        key: str = "",
        layer: Layer | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._steps.setdefault(stage.index, []).append(
            record.StepRecord(
                instruction=instruction,
                line=span.start_line,
                stage=stage.title,
                outcome=outcome,
                reason="",
                key=key,
                layer="" if layer is None else layer.diff_id,
                seconds=round(seconds, 6),
            )
        )

    def write_record(self, started: float, image: Image | None, error: str) -> record.BuildRecord:
        written = record.BuildRecord(
            id=f"{int(started * 1000):013d}-{os.getpid()}",
            started=round(started, 3),
            seconds=round(time.time() - started, 6),
            dockerfile=self._request.dockerfile.source.name,
            target=self._request.target,
            names=tuple(name.familiar for name in self._request.names),
            image_id="" if image is None else image.id,
            manifest_digest="" if image is None else image.descriptor.digest,
            error=error,
            steps=tuple(step for _, steps in sorted(self._steps.items()) for step in steps),
        )
        record.write(written, self._store.private / "builds")
        return written


def _written_epoch(plan: BuildPlan, build_args: Mapping[str, str]) -> int | None:
    """The value of a build argument SOURCE_DATE_EPOCH, or of the global ARG of that name."""
    text = build_args.get(_EPOCH, plan.global_args.get(_EPOCH, ""))
    if text in ("", "context"):  # a directory has no time of its own
        return None
    if any(text.lower() == stage.name for stage in plan.stages):
        raise UnsupportedFeatureError(feature=f"{_EPOCH} of the stage {text!r}")
    if not (text.isascii() and text.isdigit() and len(text) < _EPOCH_DIGITS_MAX):
        raise PlanError(f"invalid {_EPOCH}: {text}", hint="seconds since 1970")
    return int(text)


class _Located:
    """Adds the Dockerfile's lines to an error that passes, once."""

    def __init__(
        self, dockerfile: Dockerfile, span: Span | None, *, in_trigger: bool = False
    ) -> None:
        self._dockerfile = dockerfile
        self._span = span
        self._in_trigger = in_trigger

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DockerfileError):
            if self._in_trigger and error.source is None:
                error.span = None  # a place in the trigger's text, which is no line of the file
            error.place(span=self._span, source=self._dockerfile.source)
            return
        if error is None or self._span is None:
            return
        if isinstance(error, BuilderError) and not error.excerpt:
            error.excerpt = excerpt(self._dockerfile, self._span)
        elif isinstance(error, Exception) and not hasattr(error, "__notes__"):
            error.add_note(excerpt(self._dockerfile, self._span))


def excerpt(dockerfile: Dockerfile, span: Span) -> str:
    """`Dockerfile:3` and the lines of an instruction, marked."""
    lines = dockerfile.source.lines
    first, last = max(1, span.start_line - 2), min(len(lines), span.end_line + 2)
    shown = [f"{dockerfile.source.name}:{span.start_line}"]
    for number in range(first, last + 1):
        mark = ">>>" if span.start_line <= number <= span.end_line else "   "
        shown.append(f"{number:4} | {mark} {lines[number - 1]}".rstrip())
    return "\n".join(shown)


def _state_of_image(image: Image) -> StageState:
    from layerstore import chain_ids

    config = image.config
    diff_ids = [layer.diff_id for layer in image.layers]
    container = config.config
    if not any(pair.startswith("PATH=") for pair in container.env):
        container = replace(container, env=(*container.env, DEFAULT_PATH_ENV))
    return StageState(
        config=container,
        layers=image.layers,
        chain_id=chain_ids(diff_ids)[-1] if diff_ids else None,
        history=tuple(entry for entry, _ in image.history()),  # also where it had none
        author=config.author,
        created=config.created or StageState().created,
    )


def rfc3339(seconds: float) -> str:
    """A moment as image configs have it, RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}Z" if moment.microsecond else text + "Z"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
