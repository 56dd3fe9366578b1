"""StageState: everything a stage knows after an instruction. Immutable; `with_...` make the next.

    config    what the image config will say (environment, command, user, ...)
    args      ARG values in scope, later declarations last; never part of the config
    layers    bottom first, the base's included
    platform  what programs of the layers run on
    history   one entry per instruction, the base's included; empty_layer where no layer belongs

An ENV of the stage wins over an ARG of the same name, whichever came first.

Source: Dockerfile reference, "ARG", "Scope" and "Using ARG variables".
"""

import posixpath
from dataclasses import dataclass, field, replace
from typing import Self

from layerstore import (
    ContainerConfig,
    Digest,
    History,
    Layer,
    Platform,
    chain_ids,
    host_platform,
)

DEFAULT_SHELL = ("/bin/sh", "-c")
UNKNOWN_TIME = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    config: ContainerConfig = field(default_factory=ContainerConfig)
    args: tuple[tuple[str, str | None], ...] = ()
    layers: tuple[Layer, ...] = ()
    chain_id: Digest | None = None
    platform: Platform = field(default_factory=host_platform)
    history: tuple[History, ...] = ()
    author: str = ""
    created: str = UNKNOWN_TIME
    cmd_is_own: bool = False  # CMD was given in this stage, so ENTRYPOINT leaves it alone

    @property
    def shell(self) -> tuple[str, ...]:
        """What the shell form of RUN, CMD and ENTRYPOINT is given to."""
        return self.config.shell or DEFAULT_SHELL

    @property
    def workdir(self) -> str:
        """The working directory in normal form, `/` where none was set."""
        return "/" + posixpath.normpath("/" + self.config.working_dir).lstrip("/")

    def environment(self) -> dict[str, str]:
        """ENV and, where ENV does not have the name, ARG: what words and programs see."""
        visible = {name: value for name, value in self.args if value is not None}
        for pair in self.config.env:
            name, _, value = pair.partition("=")
            visible[name] = value
        return visible

    def with_config(self, config: ContainerConfig, created_by: str) -> Self:
        """A metadata instruction: a new config and an empty history entry."""
        return replace(self, config=config).with_history(created_by)

    def with_history(self, created_by: str) -> Self:
        """An instruction that changed neither files nor config."""
        entry = History(
            created=self.created, created_by=created_by, comment=COMMENT, empty_layer=True
        )
        return replace(self, history=(*self.history, entry))

    def with_layer(self, layer: Layer, *, created: str, created_by: str) -> Self:
        """A step was performed, or found in the cache."""
        below = () if self.chain_id is None else (self.chain_id,)
        return replace(
            self,
            layers=(*self.layers, layer),
            chain_id=chain_ids([*below, layer.diff_id])[-1],
            history=(
                *self.history,
                History(created=created, created_by=created_by, comment=COMMENT),
            ),
            created=max(self.created, created),
        )

    def with_env(self, name: str, value: str) -> Self:
        """Set one environment variable of the config, in place where it exists."""
        return replace(self, config=replace(self.config, env=set_env(self.config.env, name, value)))


COMMENT = "lamina"


def set_env(env: tuple[str, ...], name: str, value: str) -> tuple[str, ...]:
    """`env` with NAME=value, at its old place or at the end."""
    prefix = name + "="
    if any(pair.startswith(prefix) for pair in env):
        return tuple(prefix + value if pair.startswith(prefix) else pair for pair in env)
    return (*env, prefix + value)
