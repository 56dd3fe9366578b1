"""Lower instructions written as text, without an engine around them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from builder.errors import BuilderError
from builder.lower import Lowered, Surroundings, lower
from builder.lower.surroundings import SelectRemote, no_remote
from builder.sources import SourceTree
from builder.state import StageState
from builder.steps import NO_SETTINGS, CopyFiles, ExecStep, FileStep, RunSettings
from grammar import parse
from layerstore import ContainerConfig
from tests.support.sources import DictTree, Items


@dataclass
class Stage:
    """A stage from scratch, that `run` adds instructions to."""

    context: Items = field(default_factory=dict)
    stages: Mapping[str, Items] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    global_args: Mapping[str, str] = field(default_factory=dict)
    network: Literal["host", "none"] = "host"
    allowed: frozenset[str] = frozenset()
    settings: RunSettings = NO_SETTINGS
    no_cache: bool = False
    tree: SourceTree | None = None  # instead of `context`
    remote: SelectRemote = no_remote
    state: StageState = field(default_factory=StageState)

    def run(self, text: str, *, escape: str = "\\") -> Lowered:
        """Lower every instruction of `text`; gives the last one's result."""
        directive = "" if escape == "\\" else f"# escape={escape}\n"
        parsed = parse(f"{directive}FROM scratch\n{text}\n")
        around = Surroundings(
            find_source=self._find_source,
            select_remote=self.remote,
            build_args=self.build_args,
            global_args=self.global_args,
            escape=escape,
            network=self.network,
            allowed=self.allowed,
            settings=self.settings,
            no_cache=self.no_cache,
        )
        lowered: Lowered | None = None
        for instruction in parsed.stages[0].instructions:
            lowered = lower(instruction, self.state, around)
            self.state = lowered.state
        assert lowered is not None
        return lowered

    @property
    def config(self) -> ContainerConfig:
        return self.state.config

    @property
    def history(self) -> list[str]:
        return [entry.created_by for entry in self.state.history]

    def with_config(self, **changes: Any) -> "Stage":
        config = replace(self.state.config, **changes)
        self.state = replace(self.state, config=config)
        return self

    def _find_source(self, name: str | None) -> SourceTree:
        if name is None:
            return self.tree or DictTree(self.context, description="the build context")
        if name not in self.stages:
            raise BuilderError(f"no source {name!r}")
        return DictTree(self.stages[name], description=f"the stage {name!r}")


def exec_step(lowered: Lowered) -> ExecStep:
    assert isinstance(lowered.step, ExecStep)
    return lowered.step


def copy_files(lowered: Lowered) -> CopyFiles:
    assert isinstance(lowered.step, FileStep)
    assert isinstance(lowered.step.action, CopyFiles)
    return lowered.step.action
