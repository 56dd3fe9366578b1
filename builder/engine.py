"""The fold: plan -> image.

    for each needed stage, in file order
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import grammar
from builder import record
from builder.cachekey import key_document
from builder.epoch import NAME as EPOCH_ARG
from builder.epoch import written_epoch
from builder.errors import (
    BuilderError,
)
from builder.events import (
    Event,
    ImageSealed,
    Notice,
    VertexCached,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexStarted,
)
from builder.lower import Lowered, Surroundings, lower
from builder.lower.metadata import with_labels
from builder.perform import perform
from builder.plan import (
    BuildPlan,
    ContextBase,
    ImageBase,
    PlannedStage,
    ScratchBase,
    StageBase,
    plan,
)
from builder.platforms import check_runnable, name_of
from builder.provide import Provider
from builder.sandbox import Executor, ForkServer
from builder.sources import Selection, SourceTree, select
from builder.state import StageState
from builder.steps import CopyFiles, ExecStep, FileStep, Step
from builder.urls import FileUrl, GitUrl, redacted
from grammar import Dockerfile, DockerfileError, Instruction, Span, unparse
from layerstore import (
    CachedStep,
    ContainerConfig,
    Digest,
    Image,
    ImageConfig,
    Layer,
    NotFoundError,
    Platform,
    Reference,
    Store,
    host_platform,
)

DEFAULT_PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FLUSH_AFTER_S = 0.5
_WORKING = ("RUN", "COPY", "ADD", "WORKDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build. `context` None: there is none, and COPY from it is an error.

    `contexts` are the named ones as written on a command line, see provide.py. `platform` None is
    this machine's; a base for another one then gives an image for that.
    """

    dockerfile: Dockerfile
    context: Path | SourceTree | None
    contexts: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    ignore_file: bytes | None = None
    names: tuple[Reference, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)  # of the manifest
    no_cache: bool = False
    network: Literal["host", "none"] = "host"
    source_date_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    image: Image
    record: record.BuildRecord


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
    started = time.time()
    with ExitStack() as cleanup:
        engine = _Engine(request, store, report, cleanup, start_executor)
        cleanup.callback(store.flush)
        try:
            store.lease()  # what the build finds must not be collected before it is named
            image = engine.build()
        except BaseException as error:
            engine.write_record(started, None, _first_line(error))
            raise
        for name in request.names:
            store.images.tag(image, name)
        if not request.names:
            store.images.note_untagged(image)
        store.flush()
    written = engine.write_record(started, image, "")
    names = tuple(name.familiar for name in request.names)
    report(ImageSealed(image_id=image.id, manifest_digest=image.descriptor.digest, names=names))
    return BuildResult(image=image, record=written)


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
        self._platform = request.platform or host_platform()
        self._vertex = 0
        self._steps: list[record.StepRecord] = []
        self._states: dict[int, StageState] = {}
        self._provider = Provider(request, store, cleanup, self._stage_state)
        self._executor: Executor | None = None
        self._plan: BuildPlan | None = None
        self._epoch = request.source_date_epoch
        self._args = dict(request.build_args)
        self._last_flush = time.monotonic()

    # ---- the fold

    def build(self) -> Image:
        with _Located(self._request.dockerfile, None):
            self._plan = plan(
                self._request.dockerfile,
                target=self._request.target,
                build_args=self._args,
                platform=self._platform,
                contexts=self._provider.context_names,
            )
            if self._epoch is None:
                self._find_epoch(self._plan)
        for index in sorted(self._plan.needed):  # in file order: none waits for one below
            state = self._stage_state(index)
        self._provider.remember()
        return self._seal(state)

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
        value = {EPOCH_ARG: "" if epoch is None else str(epoch)}
        if EPOCH_ARG in self._args:
            self._args |= value
        if EPOCH_ARG in made.global_args:
            self._plan = replace(made, global_args={**made.global_args, **value})

    def _stage_state(self, index: int) -> StageState:
        """The finished stage; built when first asked for."""
        assert self._plan is not None, "planned before"
        if index not in self._states:
            for needed in sorted(self._plan.stages[index].needs):
                self._stage_state(needed)
            self._states[index] = self._build_stage(self._plan.stages[index])
        return self._states[index]

    def _build_stage(self, stage: PlannedStage) -> StageState:
        with _Located(self._request.dockerfile, stage.from_node.span):
            state = self._open_base(stage)
        triggers = tuple(
            grammar.parse_instruction(text, escape="\\", name="ONBUILD")
            for text in state.config.on_build
        )
        state = replace(state, config=replace(state.config, on_build=()))
        around = Surroundings(
            find_source=lambda name: self._provider.tree(name, stage),
            select_remote=partial(self._select_remote, stage),
            build_args=self._args,
            global_args=self._plan.global_args if self._plan else {},
            escape=self._request.dockerfile.directives.escape,
            network=self._request.network,
        )
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
                state = self._build_instruction(instruction, state, around, label, stage, span)
        return state

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
        vertex = self._begin(f"[{stage.title}] load {shown}", stage.title, None)
        started = time.monotonic()
        with self._failing(vertex, started):
            selection = self._provider.remotes().select(
                url, checksum=checksum, keep_git_dir=keep_git_dir, unpack=unpack
            )
        self._report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))
        return selection

    def _build_instruction(
        self,
        instruction: Instruction,
        state: StageState,
        around: Surroundings,
        label: str,
        stage: PlannedStage,
        span: Span,
    ) -> StageState:
        lowered = lower(instruction, state, around)
        for message in lowered.notices:
            self._report(Notice(message=message, line=span.start_line))
        described = redacted(unparse(instruction))
        if lowered.step is None:
            self._note_step(described, span, stage, outcome="metadata")
            return lowered.state
        return self._carry_out(lowered.step, lowered, state, described, label, stage, span)

    def _carry_out(
        self,
        step: Step,
        lowered: Lowered,
        state: StageState,
        described: str,
        label: str,
        stage: PlannedStage,
        span: Span,
    ) -> StageState:
        """Find the step in the cache, else do it."""
        vertex = self._begin(f"{label} {step.title}", stage.title, span.start_line)
        document = key_document(
            step,
            parent=state.chain_id,
            platform=name_of(state.platform),
            epoch=self._epoch,
        )
        key = Digest.of(document)
        cached = None if self._request.no_cache else self._store.cache.get(key)
        layer = None if cached is None else self._known_layer(cached)
        if cached is not None and layer is not None:
            self._report(VertexCached(vertex=vertex, layer=layer.diff_id))
            self._note_step(described, span, stage, outcome="cached", key=key, layer=layer)
        else:
            cached, layer = self._execute(step, state, key, document, lowered.created_by, vertex)
            outcome = "executed" if cached.key == key else "reused"
            self._note_step(
                described,
                span,
                stage,
                outcome=outcome,
                key=key,
                layer=layer,
                seconds=cached.seconds if outcome == "executed" else 0.0,
            )
        return lowered.state.with_layer(layer, created=cached.created, created_by=cached.created_by)

    def _execute(
        self,
        step: Step,
        state: StageState,
        key: Digest,
        document: bytes,
        created_by: str,
        vertex: int,
    ) -> tuple[CachedStep, Layer]:
        """Perform a step; the result is an earlier one where the content is the same."""
        started = time.monotonic()
        with self._failing(vertex, started):
            if isinstance(step, ExecStep):
                check_runnable(state.platform)
            layer = perform(
                step,
                state.layers,
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
            )
        seconds = time.monotonic() - started
        variant = str(self._epoch)
        earlier = None
        if not self._request.no_cache:
            earlier = self._store.cache.same_content(state.chain_id, layer.content_digest, variant)
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
            self._store.cache.put(alias, parent=state.chain_id, variant=variant)
            made, layer = earlier, earlier_layer
        else:
            self._store.cache.put(made, parent=state.chain_id, variant=variant)
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
        match stage.base:
            case ScratchBase():
                return _empty_state(self._platform)
            case StageBase(index=index):
                state = self._stage_state(index)
                return replace(state, cmd_is_own=False)
            case ImageBase(name=name):
                return self._open_image(name, self._provider.image(name, stage), stage)
            case ContextBase(name=name):
                found = self._provider.context(name, stage.platform)
                if isinstance(found, Image):
                    return self._open_image(name, found, stage)
                state = _empty_state(stage.platform)
                return state if found is None else self._open_tree(name, found, state, stage)

    def _open_image(self, name: str, image: Image, stage: PlannedStage) -> StageState:
        line = stage.from_node.span.start_line
        vertex = self._begin(f"[{stage.title} 1/1] FROM {name}", stage.title, line)
        self._report(VertexCached(vertex=vertex))
        state = _state_of_image(image)
        if (state.platform.os, state.platform.architecture) != (
            stage.platform.os,
            stage.platform.architecture,
        ):
            message = (
                f"base image {name} is for {name_of(state.platform)}, "
                f"expected {name_of(stage.platform)} for the current build"
            )
            self._report(Notice(message=message, line=line))
        return state

    def _open_tree(
        self, name: str, tree: SourceTree, state: StageState, stage: PlannedStage
    ) -> StageState:
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
        label, span = f"[{stage.title} 1/1]", stage.from_node.span
        return self._carry_out(step, lowered, state, title, label, stage, span)

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
            self._cleanup.callback(self._executor.close)
        return self._executor

    # ---- the result

    def _seal(self, state: StageState) -> Image:
        config = state.config
        platform = self._request.platform or state.platform
        if self._request.labels:
            added = list(self._request.labels.items())
            config = replace(config, labels=with_labels(config.labels, added))
        created = state.created
        if self._epoch is not None:
            created = rfc3339(self._epoch)
        return self._store.images.seal(
            ImageConfig(
                architecture=platform.architecture,
                os=platform.os,
                variant=platform.variant,
                author=state.author,
                created=created,
                config=config,
                diff_ids=tuple(layer.diff_id for layer in state.layers),
                history=state.history,
            ),
            state.layers,
            self._request.annotations.items(),
        )

    def _created_now(self) -> str:
        epoch = self._epoch
        return rfc3339(time.time() if epoch is None else epoch)

    def _flush_when_due(self) -> None:
        """Make finished steps durable now and then: a killed build loses little, cheaply."""
        if time.monotonic() - self._last_flush > _FLUSH_AFTER_S:
            self._store.flush()
            self._last_flush = time.monotonic()

    # ---- telling

    @contextmanager
    def _failing(self, vertex: int, started: float) -> Iterator[None]:
        """Tell that the work of a vertex has failed when it does."""
        try:
            yield
        except BaseException as error:
            seconds = time.monotonic() - started
            self._report(VertexFailed(vertex=vertex, seconds=seconds, message=_first_line(error)))
            raise

    def _begin(self, title: str, stage: str, line: int | None) -> int:
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
        self._steps.append(
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
            steps=tuple(self._steps),
        )
        record.write(written, self._store.private / "builds")
        return written


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
        if isinstance(error, BuilderError) and error.span is not None and not error.excerpt:
            error.excerpt = excerpt(self._dockerfile, error.span)
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
    return redacted("\n".join(shown))


def _empty_state(platform: Platform) -> StageState:
    config = ContainerConfig(env=(DEFAULT_PATH_ENV,), working_dir="/")
    return StageState(config=config, platform=platform)


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
        platform=Platform(os=config.os, architecture=config.architecture, variant=config.variant),
        history=config.history,
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
