"""Dockerfile -> BuildPlan: which stages there are, what each stands on, and which are needed.

    Dockerfile --global ARGs--> bases expanded --> names resolved --> needed stages, in file order

Pure: images are only named here, never looked up. File order is a topological order, because a
stage can only refer to stages above it.

Source: Dockerfile reference, "FROM", "Understand how ARG and FROM interact"; BuildKit
dockerfile2llb/convert.go.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from builder.errors import PlanError, UnknownTargetError
from builder.nearest import nearest
from builder.platforms import platform_args
from grammar import Copy, Dockerfile, DockerfileError, From, Instruction, Run, Stage, expand
from layerstore import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchBase:
    """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBase:
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    name: str


Base = ScratchBase | StageBase | ImageBase


class StagesAbove(Mapping[str, int]):
    """What a stage may say of those above it: names in lower case and numbers, to indexes.

    Of two stages with one name the nearer counts. All stages share one table, in which each sees
    the part above it: a copy for every stage would be quadratic.
    """

    def __init__(self, table: Mapping[str, list[int]], *, below: int) -> None:
        self._table = table
        self._below = below

    def __getitem__(self, name: str) -> int:
        indexes = self._table[name]
        place = bisect_left(indexes, self._below)
        if not place:
            raise KeyError(name)
        return indexes[place - 1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, indexes in self._table.items() if indexes[0] < self._below)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """`visible` maps what `--from` may say here (names in lower case, numbers) to stage indexes."""

    index: int
    name: str  # empty when FROM has no AS
    base: Base
    from_node: From
    instructions: tuple[Instruction, ...]
    visible: Mapping[str, int]
    needs: frozenset[int]

    @property
    def title(self) -> str:
        """What to call the stage in progress output."""
        return self.name or f"stage-{self.index}"

    def is_one_of(self, names: Collection[str]) -> bool:
        """Whether one of `names` is this stage's name, in any case of letters, or its number."""
        return any(name.lower() in (self.name.lower(), str(self.index)) for name in names if name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """All stages by index, which of them the target needs, and the ARGs of the global scope."""

    stages: tuple[PlannedStage, ...]
    target: int
    needed: frozenset[int]
    global_args: Mapping[str, str]


def plan(
    dockerfile: Dockerfile,
    *,
    target: str,
    build_args: Mapping[str, str],
    platform: Platform,
) -> BuildPlan:
    """Plan a build.

    Raises:
        PlanError: an unknown target, or no stage at all.
        grammar.DockerfileError: a word that cannot be expanded, or a base that is empty then.
    """
    global_args = global_values(dockerfile, build_args, platform, target)
    stages: list[PlannedStage] = []
    table: dict[str, list[int]] = {}
    for index, stage in enumerate(dockerfile.stages):
        visible = StagesAbove(table, below=index)
        stages.append(_plan_stage(index, stage, visible, global_args, dockerfile))
        table[str(index)] = [index]
        if stage.base.alias:
            table.setdefault(stage.base.alias.lower(), []).append(index)
    wanted = _target_index(target, stages, StagesAbove(table, below=len(stages)))
    return BuildPlan(
        stages=tuple(stages),
        target=wanted,
        needed=_needed(stages, wanted),
        global_args=global_args,
    )


def global_values(
    dockerfile: Dockerfile, build_args: Mapping[str, str], platform: Platform, target: str
) -> dict[str, str]:
    """The ARGs that FROM sees: the predefined ones, and those before the first FROM.

    Raises:
        PlanError: there is no FROM.
        grammar.DockerfileError: a default that cannot be expanded.
    """
    if not dockerfile.stages:
        raise PlanError("dockerfile contains no stages to build", hint="begin with FROM")
    stage = target or dockerfile.stages[-1].base.alias or "default"
    values = {**platform_args(platform, target=platform), "TARGETSTAGE": stage}
    values.update((name, build_args[name]) for name in values if name in build_args)
    for arg in dockerfile.global_args:
        for declaration in arg.declarations:
            name = declaration.name.text  # never expanded
            if name in build_args:
                values[name] = build_args[name]
            elif declaration.default is not None:
                default = expand(declaration.default, values, escape=dockerfile.directives.escape)
                values[name] = default
    return values


def _plan_stage(
    index: int,
    stage: Stage,
    visible: Mapping[str, int],
    global_args: Mapping[str, str],
    dockerfile: Dockerfile,
) -> PlannedStage:
    node = stage.base
    name = expand(node.image, global_args, escape=dockerfile.directives.escape)
    if not name:
        raise DockerfileError(
            f"base name ({node.image.text}) should not be blank",
            span=node.image.span,
            source=dockerfile.source,
            hint="give the ARG a default above FROM, or pass --build-arg",
        )
    base: Base
    if name in visible and not name.isdigit():
        base = StageBase(index=visible[name])
    elif name == "scratch":
        base = ScratchBase()
    else:
        base = ImageBase(name=name)
    needs = {base.index} if isinstance(base, StageBase) else set()
    for instruction in stage.instructions:
        needs.update(stages_of(instruction, visible))
    return PlannedStage(
        index=index,
        name=node.alias or "",
        base=base,
        from_node=node,
        instructions=stage.instructions,
        visible=visible,
        needs=frozenset(needs),
    )


def stages_of(instruction: Instruction, visible: Mapping[str, int]) -> set[int]:
    """The stages the instruction itself copies from; those of an ONBUILD count when it fires."""
    names: list[str] = []
    if isinstance(instruction, Copy) and instruction.from_ is not None:
        names.append(instruction.from_.text)
    if isinstance(instruction, Run):
        for mount in instruction.mounts:
            names.extend(value for name, value in mount.options if name == "from" and value)
    return {visible[name.lower()] for name in names if name.lower() in visible}


def _target_index(target: str, stages: list[PlannedStage], visible: Mapping[str, int]) -> int:
    if not target:
        return len(stages) - 1
    index = visible.get(target.lower())
    if index is not None:
        return index
    names = tuple(stage.name for stage in stages if stage.name)
    raise UnknownTargetError(name=target, nearest=nearest(target, names), known=names)


def _needed(stages: list[PlannedStage], target: int) -> frozenset[int]:
    needed = {target}
    pending = [target]
    while pending:
        for index in stages[pending.pop()].needs - needed:
            needed.add(index)
            pending.append(index)
    return frozenset(needed)
