"""Dockerfile -> BuildPlan: which stages there are, what each stands on, and which are needed.

    Dockerfile --global ARGs--> bases expanded --> names resolved --> needed stages, in file order

A named context (--build-context) of a stage's name takes the stage's place; of another name, the
image's.

Pure: images are only named here, never looked up. File order is a topological order, because a
stage can only refer to stages above it.

Source: Dockerfile reference, "FROM", "Understand how ARG and FROM interact"; BuildKit
dockerfile2llb/convert.go.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from builder.errors import BuilderError, PlanError, StageOrderError, UnknownTargetError
from builder.nearest import nearest
from builder.platforms import parse_platform, platform_args
from grammar import Copy, Dockerfile, DockerfileError, From, Instruction, Run, Stage, Word, expand
from layerstore import Platform, host_platform

_IMAGE_CONTEXT = "docker-image://"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchBase:
    """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBase:
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBase:
    """A named context."""

    name: str


Base = ScratchBase | StageBase | ImageBase | ContextBase


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
    """`visible` maps what `--from` may say here (names in lower case, numbers) to stage indexes.

    `platform` is what an image as its base is chosen for; a stage as its base brings its own.
    """

    index: int
    name: str  # empty when FROM has no AS
    base: Base
    platform: Platform
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
    contexts: Collection[str] = (),
) -> BuildPlan:
    """Plan a build for `platform`; `contexts` are the names of named contexts, see `context_name`.

    Raises:
        PlanError: an unknown target or platform, no stage at all, a stage that needs itself or one
            below it.
        grammar.DockerfileError: a word that cannot be expanded, or a base that is empty then.
    """
    global_args = global_values(dockerfile, build_args, platform, target)
    scope = _Scope(dockerfile, global_args, platform, frozenset(contexts))
    stages: list[PlannedStage] = []
    table: dict[str, list[int]] = {}
    for index, stage in enumerate(dockerfile.stages):
        visible = StagesAbove(table, below=index)
        try:
            stages.append(scope.plan_stage(index, stage, visible))
        except BuilderError as error:
            error.span = stage.base.span
            raise
        table[str(index)] = [index]
        if stage.base.alias:
            table.setdefault(stage.base.alias.lower(), []).append(index)
    wanted = _target_index(target, stages, StagesAbove(table, below=len(stages)))
    needed = _needed(stages, wanted)
    for index in sorted(needed):
        _check_order(stages[index], table)
    return BuildPlan(
        stages=tuple(stages),
        target=wanted,
        needed=needed,
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
    values = {**platform_args(host_platform(), target=platform), "TARGETSTAGE": stage}
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


@dataclass(frozen=True, slots=True)
class _Scope:
    """What FROM sees."""

    dockerfile: Dockerfile
    global_args: Mapping[str, str]
    platform: Platform
    contexts: frozenset[str]

    def plan_stage(self, index: int, stage: Stage, visible: Mapping[str, int]) -> PlannedStage:
        node = stage.base
        base = self._base(node, visible)
        instructions = stage.instructions
        if node.alias and context_name(node.alias) in self.contexts:
            base, instructions = ContextBase(name=context_name(node.alias)), ()
        needs = {base.index} if isinstance(base, StageBase) else set()
        for instruction in instructions:
            needs.update(stages_of(instruction, visible, self.contexts))
        return PlannedStage(
            index=index,
            name=node.alias or "",
            base=base,
            platform=self._platform(node),
            from_node=node,
            instructions=instructions,
            visible=visible,
            needs=frozenset(needs),
        )

    def _base(self, node: From, visible: Mapping[str, int]) -> Base:
        name = self._expanded(node.image)
        if not name:
            raise DockerfileError(
                f"base name ({node.image.text}) should not be blank",
                span=node.image.span,
                source=self.dockerfile.source,
                hint="give the ARG a default above FROM, or pass --build-arg",
            )
        if name in visible and not name.isdigit():
            return StageBase(index=visible[name])
        if context_name(name) in self.contexts:
            return ContextBase(name=context_name(name))
        return ScratchBase() if name == "scratch" else ImageBase(name=name)

    def _platform(self, node: From) -> Platform:
        if node.platform is None:
            return self.platform
        text = self._expanded(node.platform)
        if not text:
            raise PlanError(
                f"empty platform value from expression {node.platform.text}",
                hint="give the ARG a default above FROM, or pass --build-arg",
            )
        return parse_platform(text)

    def _expanded(self, word: Word) -> str:
        return expand(word, self.global_args, escape=self.dockerfile.directives.escape)


def begin_of(dockerfile: Dockerfile, line: int) -> int:
    """Where the instruction begins that `line` belongs to; `line` itself between instructions."""
    for stage in dockerfile.stages:
        for span in (each.span for each in (stage.base, *stage.instructions)):
            if span.start_line <= line <= span.end_line:
                return span.start_line
    return line


def context_name(name: str) -> str:
    """The name of a named context as FROM, --from and --build-context all mean it."""
    name = name.lower().removeprefix("docker.io/").removeprefix("library/")
    return name.removesuffix(":latest")


def _check_order(stage: PlannedStage, table: Mapping[str, list[int]]) -> None:
    """Refuse --from that names the stage itself or one below; `table` has the indexes of names."""
    for instruction in stage.instructions:
        for name in _from_names(instruction):
            indexes = table.get(name.lower(), [])
            if indexes and name.lower() not in stage.visible:
                is_itself = stage.index in indexes
                error = StageOrderError(name=name, stage=stage.title, is_itself=is_itself)
                error.span = instruction.span
                raise error


def stages_of(
    instruction: Instruction, visible: Mapping[str, int], contexts: Collection[str] = ()
) -> set[int]:
    """The stages the instruction itself copies from; those of an ONBUILD count when it fires.

    `contexts` are named contexts, which come before stages.
    """
    return {
        visible[name.lower()]
        for name in _from_names(instruction)
        if name.lower() in visible and context_name(name) not in contexts
    }


def _from_names(instruction: Instruction) -> list[str]:
    names: list[str] = []
    if isinstance(instruction, Copy) and instruction.from_ is not None:
        names.append(instruction.from_.text)
    if isinstance(instruction, Run):
        for mount in instruction.mounts:
            names.extend(value for name, value in mount.options if name == "from" and value)
    return names


def image_names(made: BuildPlan, contexts: Mapping[str, str]) -> list[str]:
    """The images that needed stages name, as bases and to copy from; an ONBUILD's are not known.

    Args:
        contexts: what the named contexts are, by their `context_name`.
    """
    found: list[str] = []

    def note(name: str) -> None:
        given = contexts.get(context_name(name))
        if given is None:
            found.append(name)
        elif given.startswith(_IMAGE_CONTEXT):
            found.append(given.removeprefix(_IMAGE_CONTEXT))

    for index in sorted(made.needed):
        stage = made.stages[index]
        if isinstance(stage.base, ImageBase | ContextBase):
            note(stage.base.name)
        for name in chain.from_iterable(map(_from_names, stage.instructions)):
            if context_name(name) in contexts or name.lower() not in stage.visible:
                note(name)
    return [name for name in dict.fromkeys(found) if name != "scratch" and not name.isdigit()]


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
