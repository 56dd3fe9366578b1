"""What is still to come of a build, lowered on imaginary layers before anything is executed.

A word that cannot be expanded, a source that is not there, an image that nobody has: such errors
are found before the first program of a stage runs, not after it. What depends on results that are
not there yet (COPY --from a stage that is not built, ADD of a URL) is passed over. Nothing is told
or written; what the sources find out about files of the context is kept by them.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import grammar
from builder.located import Located
from builder.lower import Surroundings, lower
from builder.plan import BuildPlan, ImageBase, PlannedStage, ScratchBase, StageBase, stages_of
from builder.predict import with_imaginary_layer
from builder.provide import Provider
from builder.sources import Selection
from builder.state import StageState, empty_state, state_of_image
from builder.urls import FileUrl, GitUrl
from grammar import Dockerfile, Instruction


class _NotAskedError(Exception):
    """Something remote, which only the build itself asks for."""


class Trial:
    """Tries the stages of one build.

    Args:
        finished: the states of the stages that have been built, by index.
        surroundings: what lowering needs in a stage.
    """

    def __init__(
        self,
        dockerfile: Dockerfile,
        plan: BuildPlan,
        provider: Provider,
        finished: Mapping[int, StageState],
        surroundings: Callable[[PlannedStage], Surroundings],
    ) -> None:
        self._dockerfile = dockerfile
        self._plan = plan
        self._provider = provider
        self._finished = finished
        self._surroundings = surroundings
        self._tried: dict[int, StageState] = {}  # what stages would have become, by index

    def rest(
        self,
        stage: PlannedStage,
        state: StageState,
        instructions: Sequence[Instruction],
        begin: int,
    ) -> None:
        """Try the instructions of a stage from `begin` on; `state` is the one before them.

        The stage's own come after the triggers of its base.

        Raises:
            what the build would raise there, with the place.
        """
        if stage.index in self._tried:
            return
        around = replace(self._surroundings(stage), select_remote=_refuse)
        triggers = len(instructions) - len(stage.instructions)
        for number, instruction in enumerate(instructions[begin:], begin):
            in_trigger = number < triggers
            span = stage.from_node.span if in_trigger else instruction.span
            with Located(self._dockerfile, span, in_trigger=in_trigger):
                state = self._after(instruction, stage, state, around)
        self._tried[stage.index] = state

    def others(self, begun: AbstractSet[int]) -> None:
        """Try the stages that are needed and that nobody has begun."""
        for index in sorted(self._plan.needed - begun):
            stage = self._plan.stages[index]
            with Located(self._dockerfile, stage.from_node.span):
                state = self._base(stage)
                if state is None:
                    continue
                triggers = [
                    grammar.parse_instruction(text, escape="\\", name="ONBUILD")
                    for text in state.config.on_build
                ]
            state = replace(state, config=replace(state.config, on_build=()))
            self.rest(stage, state, [*triggers, *stage.instructions], 0)

    def _base(self, stage: PlannedStage) -> StageState | None:
        """What a stage stands on; None where that is not known yet."""
        match stage.base:
            case ScratchBase():
                return empty_state(stage.platform)
            case ImageBase(name=name):
                return state_of_image(self._provider.image(name, stage))
            case StageBase(index=index):
                state = self._finished.get(index) or self._tried.get(index)
                return None if state is None else state.inherited()
            case _:
                return None

    def _after(
        self,
        instruction: Instruction,
        stage: PlannedStage,
        state: StageState,
        around: Surroundings,
    ) -> StageState:
        sources = stages_of(instruction, stage.visible, self._provider.context_names)
        if not sources <= self._finished.keys():
            return with_imaginary_layer(state, "")
        try:
            lowered = lower(instruction, state, around)
        except _NotAskedError:
            return with_imaginary_layer(state, "")
        return (
            lowered.state
            if lowered.step is None
            else with_imaginary_layer(lowered.state, lowered.created_by)
        )


def _refuse(
    url: GitUrl | FileUrl, *, checksum: str, keep_git_dir: bool | None, unpack: bool
) -> Selection:
    raise _NotAskedError
