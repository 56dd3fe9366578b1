"""What a build tells while it goes on, and what it leaves in writing: events, and the record.

Every piece of work has a number (`begin`), events until it has ended, and a line in the record
(`note`). What its program writes is reported at once, and kept for the record's log without the
secrets of the build.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from builder.events import (
    Event,
    Notice,
    VertexCanceled,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)
from builder.plan import PlannedStage
from builder.record import BaseRecord, BuildRecord, StepLog, StepRecord, write
from builder.request import BuildRequest
from grammar import Span
from layerstore import Image, Store

_PROGRESS_S = 0.1


class Journal:
    """The journal of one build. `vertices` is how many pieces of work there were so far.

    `secrets` are what neither the log nor a layer is to hold: those the caller lent, and the
    credentials of proxies.
    """

    def __init__(
        self, request: BuildRequest, store: Store, report: Callable[[Event], None]
    ) -> None:
        self.report = report
        self.vertices = 0
        self.bases: dict[int, BaseRecord] = {}  # by stage
        self._request = request
        self._store = store
        self._began = self._progressed = time.monotonic()
        self._steps: dict[int, list[StepRecord]] = {}  # by stage
        self._logs: dict[int, StepLog] = {}  # by vertex
        self.secrets = _secrets_of(request)

    def now(self) -> float:
        """Seconds since the build began."""
        return rounded(time.monotonic() - self._began)

    def output(self, vertex: int, stream: str, data: bytes) -> None:
        """A program has written something."""
        self._logs.setdefault(vertex, StepLog()).add(data)
        self.report(
            VertexOutput(
                vertex=vertex, stream="stdout" if stream == "stdout" else "stderr", data=data
            )
        )

    def packed(self, vertex: int, size_bytes: int) -> None:
        """So much of the layer has been written; reported ten times a second."""
        now = time.monotonic()
        if now - self._progressed >= _PROGRESS_S:
            self._progressed = now
            self.report(VertexProgress(vertex=vertex, size_bytes=size_bytes))

    def steps_of(self, stage: PlannedStage) -> int:
        """How many instructions of a stage have been noted."""
        return len(self._steps.get(stage.index, ()))

    @contextmanager
    def failing(self, vertex: int, started: float) -> Iterator[None]:
        """Tell that the work of a vertex was canceled, or has failed, when it does."""
        try:
            yield
        except (GeneratorExit, KeyboardInterrupt):
            self.report(VertexCanceled(vertex=vertex, seconds=time.monotonic() - started))
            raise
        except BaseException as error:
            seconds = time.monotonic() - started
            self.report(VertexFailed(vertex=vertex, seconds=seconds, message=first_line(error)))
            raise

    def begin(self, title: str, stage: str, line: int | None) -> int:
        """Begin a piece of work; returns its number."""
        self.vertices += 1
        self.report(VertexStarted(vertex=self.vertices, title=title, stage=stage, line=line))
        return self.vertices

    def note(self, stage: PlannedStage, step: StepRecord) -> None:
        """An instruction of a stage has been dealt with."""
        self._steps.setdefault(stage.index, []).append(step)

    def note_base(self, stage: PlannedStage, name: str, digest: str) -> None:
        """What a stage stands on: a name, and the digest of an image."""
        self.bases[stage.index] = BaseRecord(
            stage.title, stage.from_node.span.start_line, name, digest
        )

    def steps(self) -> tuple[StepRecord, ...]:
        """What has been done so far, stage after stage."""
        return tuple(step for _, steps in sorted(self._steps.items()) for step in steps)

    def write(self, started: float, image: Image | None, error: str) -> BuildRecord:
        """Write the record, at the end; `started` in Unix seconds, `error` empty for none."""
        steps, log = self._with_logs()
        written = BuildRecord(
            id=f"{int(started * 1000):013d}-{os.getpid()}",
            started=round(started, 3),
            seconds=round(time.time() - started, 6),
            dockerfile=self._request.dockerfile.source.name,
            target=self._request.target,
            names=tuple(name.familiar for name in self._request.names),
            image_id="" if image is None else image.id,
            manifest_digest="" if image is None else image.descriptor.digest,
            error=error,
            steps=steps,
            place=self.place,
            context=self.context,
            bases=tuple(base for _, base in sorted(self.bases.items())),
        )
        try:
            write(written, self._store.private / "builds", log)
        except OSError as error:  # the image is there, or the build has failed for another reason
            why = error.strerror or str(error)
            self.report(Notice(message=f"the record of this build could not be kept: {why}"))
        return written

    def _with_logs(self) -> tuple[tuple[StepRecord, ...], bytes]:
        """The steps, each with the place of its output in the log, and the log."""
        steps: list[StepRecord] = []
        log = bytearray()
        for step in self.steps():
            kept = self._logs.get(step.vertex)
            if kept is not None:
                from builder.leaks import masked

                data = masked(kept.data(), self.secrets.values())
                step = replace(step, log_offset=len(log), log_bytes=len(data))
                log += data
            steps.append(step)
        return tuple(steps), bytes(log)

    @property
    def place(self) -> str:
        """Where the Dockerfile is, by which its earlier builds are found; `-` for nowhere."""
        name, context = self._request.dockerfile.source.name, self._request.context
        is_file = name != "-" and "://" not in name and (context is None or self.context)
        return os.path.realpath(name) if is_file else "-"

    @property
    def context(self) -> str:
        """The directory that is the context; empty where it is none."""
        context = self._request.context
        return os.path.realpath(context) if isinstance(context, Path) else ""


def _secrets_of(request: BuildRequest) -> Mapping[str, bytes]:
    """What no log and no layer is to hold."""
    if not any("@" in value for value in request.build_args.values()):
        return request.grants.secrets
    from builder.leaks import credentials_of

    return {**credentials_of(request.build_args), **request.grants.secrets}


def record_of(instruction: str, span: Span, stage: PlannedStage) -> StepRecord:
    """The record of an instruction that does no work."""
    return StepRecord(
        instruction=instruction,
        line=span.start_line,
        stage=stage.title,
        outcome="metadata",
        reason="",
        key="",
        layer="",
        seconds=0.0,
    )


def rounded(seconds: float) -> float:
    """Microseconds are enough."""
    return round(seconds, 6)


def first_line(error: BaseException) -> str:
    """What a list of builds has room for."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return (str(error) or type(error).__name__).splitlines()[0]
