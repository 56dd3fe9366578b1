"""One pass over a Dockerfile in the order in which BuildKit converts it, with every check.

    filechecks    the text; the stages by their names; what each stands on
    stagechecks   the stages, all of them or those that the target needs

An error ends the pass, and the warnings up to there stay: `Survey.failure`.

Source: moby/buildkit frontend/dockerfile/dockerfile2llb/convert.go, toDispatchState.
"""

from dataclasses import dataclass

from builder.check.excerpt import excerpt_of
from builder.check.filechecks import check_file
from builder.check.findings import Findings, Subject
from builder.check.stagechecks import StageChecks, StageNotes
from builder.errors import BuilderError, CheckFailedError
from builder.events import CheckWarning
from builder.plan import BuildPlan, plan
from grammar import DockerfileError, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The warnings as they were found, and what was noted of each stage.

    `failure` is what ended the pass, or a `CheckFailedError` where the file says that warnings are
    errors; it knows its place, as does `failure_span` where there is one.
    """

    warnings: tuple[CheckWarning, ...]
    failure: DockerfileError | BuilderError | None
    failure_span: Span | None
    plan: BuildPlan | None
    notes: tuple[StageNotes, ...]


def survey_of(subject: Subject, *, all_stages: bool) -> Survey:
    """Look at the file; at all stages, or at those alone that the target needs.

    Raises:
        PlanError: options of checks that make no sense.
    """
    findings = Findings(subject)
    failure: DockerfileError | BuilderError | None = None
    planned: BuildPlan | None = None
    notes: tuple[StageNotes, ...] = ()
    try:
        bases = check_file(findings)
        findings.span = None  # where an unknown target is at fault
        planned = plan(
            subject.dockerfile,
            target=subject.target,
            build_args=subject.build_args,
            platform=subject.platform,
        )
        stages = StageChecks(findings, planned, bases)
        notes = stages.notes
        for stage in planned.stages:
            if all_stages or stage.index in planned.needed:
                stages.check(stage)
    except (DockerfileError, BuilderError) as error:
        failure = error
    span = findings.span
    if isinstance(failure, BuilderError) and failure.span is not None:
        span = failure.span
    if failure is None and findings.warnings and findings.options.is_error:
        failure, span = _as_error(findings.warnings)
    if isinstance(failure, DockerfileError):
        failure.place(span=span, source=subject.dockerfile.source)
    elif failure is not None and span is not None:
        failure.excerpt = excerpt_of(subject.dockerfile, span.start_line, span.end_line)
    return Survey(
        warnings=tuple(findings.warnings),
        failure=failure,
        failure_span=span if failure else None,
        plan=planned,
        notes=notes,
    )


def _as_error(warnings: list[CheckWarning]) -> tuple[CheckFailedError, Span]:
    first = warnings[0]
    return (
        CheckFailedError(rules=tuple(dict.fromkeys(warning.rule for warning in warnings))),
        Span(start_line=first.line, start_column=1, end_line=first.end_line, end_column=1),
    )
