"""What a Dockerfile offers to who builds it: the arguments, secrets and targets there are.

Source: moby/buildkit frontend/dockerfile/dockerfile2llb/outline.go and convert.go (ListTargets).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.check.comments import Comments, comments_of, description
from builder.check.findings import Subject
from builder.check.stagechecks import Declared, Mounted
from builder.check.survey import survey_of
from builder.plan import BuildPlan, StageBase
from grammar import Dockerfile, variables_used


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An ARG that the build uses, and the value it would have."""

    name: str
    value: str
    description: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What the build of one target takes. `name` is empty for a stage without a name."""

    name: str
    description: str
    args: tuple[Argument, ...]
    secrets: tuple[Mounted, ...]
    ssh: tuple[Mounted, ...]
    caches: tuple[Mounted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stage. `base` and `platform` are as written."""

    name: str
    description: str
    is_default: bool
    base: str
    platform: str
    line: int
    end_line: int


def outline_of(subject: Subject) -> Outline:
    """What the build of the target takes from outside, its other stages included.

    Raises:
        BuilderError, grammar.DockerfileError: the file cannot be built.
    """
    found = survey_of(subject, all_stages=False)
    if found.failure is not None:
        raise found.failure
    plan = found.plan
    assert plan is not None, "nothing failed"
    dockerfile = subject.dockerfile
    comments = comments_of(dockerfile)
    args: dict[str, Argument] = {}
    mounts: dict[tuple[str, str], Mounted] = {}
    defaults = _defaults(dockerfile)
    shared = dict(_global_args(dockerfile, plan.global_args))
    for index in _reached(plan):
        notes = found.notes[index]
        for name in _with_those_behind(notes.used, defaults):
            declared = notes.args.get(name) or shared.get(name)
            if declared is not None and name not in args:
                args[name] = _argument(declared, comments)
        for key, mounted in notes.mounts.items():
            mounts.setdefault(key, mounted)
    base = dockerfile.stages[plan.target].base
    return Outline(
        name=base.alias or "",
        description=description(comments.get(base.written.start_line, ()), base.alias or ""),
        args=tuple(sorted(args.values(), key=lambda each: each.line)),
        secrets=_of_kind("secret", mounts),
        ssh=_of_kind("ssh", mounts),
        caches=_of_kind("cache", mounts),
    )


def targets_of(dockerfile: Dockerfile) -> tuple[Target, ...]:
    """All stages, in file order; the last one is what is built when none is named."""
    comments = comments_of(dockerfile)
    found = []
    for stage in dockerfile.stages:
        base = stage.base
        name = base.alias or ""
        above = comments.get(base.written.start_line, ())
        found.append(
            Target(
                name=name,
                description=description(above, name),
                is_default=stage is dockerfile.stages[-1],
                base=base.image.text,
                platform="" if base.platform is None else base.platform.text,
                line=base.written.start_line,
                end_line=base.written.end_line,
            )
        )
    return tuple(found)


def _reached(plan: BuildPlan) -> Iterator[int]:
    """The target and all it needs: after each stage what it stands on, then what it copies from."""
    seen = set()
    pending = [plan.target]
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        yield index
        stage = plan.stages[index]
        below = {stage.base.index} if isinstance(stage.base, StageBase) else set()
        pending += [*sorted(stage.needs - below, reverse=True), *below]


def _global_args(
    dockerfile: Dockerfile, values: Mapping[str, str]
) -> Iterator[tuple[str, Declared]]:
    for arg in dockerfile.global_args:
        for declaration in arg.declarations:
            name = declaration.name.text
            yield (
                name,
                Declared(
                    name=name,
                    value=values.get(name, ""),
                    line=arg.written.start_line,
                    end_line=arg.written.end_line,
                ),
            )


def _defaults(dockerfile: Dockerfile) -> dict[str, frozenset[str]]:
    """Which ARGs the defaults of the global ones are made of."""
    return {
        declaration.name.text: variables_used(
            declaration.default, escape=dockerfile.directives.escape
        )
        for arg in dockerfile.global_args
        for declaration in arg.declarations
        if declaration.default is not None
    }


def _with_those_behind(names: set[str], defaults: Mapping[str, frozenset[str]]) -> set[str]:
    found = set(names)
    pending = list(names)
    while pending:
        for name in defaults.get(pending.pop(), frozenset()) - found:
            found.add(name)
            pending.append(name)
    return found


def _argument(declared: Declared, comments: Comments) -> Argument:
    return Argument(
        name=declared.name,
        value=declared.value,
        description=description(comments.get(declared.line, ()), declared.name),
        line=declared.line,
        end_line=declared.end_line,
    )


def _of_kind(kind: str, mounts: Mapping[tuple[str, str], Mounted]) -> tuple[Mounted, ...]:
    found = (mounted for mounted in mounts.values() if mounted.kind == kind)
    return tuple(sorted(found, key=lambda mounted: mounted.line))
