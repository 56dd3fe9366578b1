"""StageState: everything a stage knows after an instruction. Immutable; `with_...` make the next.

    config    what the image config will say (environment, command, user, ...)
    args      ARG values in scope, later declarations last; never part of the config
    layers    bottom first, the base's included
    platform  what programs of the layers run on
    own_lines lines of the Dockerfile that made the topmost layers, those that no image brought
    history   one entry per instruction, the base's included; empty_layer where no layer belongs

Of an ENV and an ARG with a value of the same name the later one counts, as in BuildKit; the image
keeps the ENV. What is inherited is ENV: there it wins.

Source: Dockerfile reference, "ARG", "Scope" and "Using ARG variables"; BuildKit
dockerfile2llb/convert.go, dispatchArg, dispatchEnv.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from builder.sandbox import DEFAULT_PATH
from layerstore import (
    ContainerConfig,
    Digest,
    History,
    Image,
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
    own_lines: tuple[int, ...] = ()
    history: tuple[History, ...] = ()
    author: str = ""
    created: str = UNKNOWN_TIME
    args_over_env: frozenset[str] = frozenset()  # ARGs that came after the ENV of their name
    cmd_is_own: bool = False  # CMD was given in this stage, so ENTRYPOINT leaves it alone

    @property
    def shell(self) -> tuple[str, ...]:
        """What the shell form of RUN, CMD and ENTRYPOINT is given to."""
        return self.config.shell or DEFAULT_SHELL

    @property
    def workdir(self) -> str:
        """The working directory in normal form, `/` where none was set."""
        return "/" + posixpath.normpath("/" + self.config.working_dir).lstrip("/")

    @property
    def base(self) -> frozenset[Digest]:
        """The diff_ids of the layers that an image brought."""
        count = len(self.layers) - len(self.own_lines)
        return frozenset(layer.diff_id for layer in self.layers[:count])

    def environment(self) -> dict[str, str]:
        """ENV and ARG: what words and programs see."""
        visible = {name: value for name, value in self.args if value is not None}
        values = _values(self.config.env)
        if hidden := self.args_over_env:
            values = {name: value for name, value in values.items() if name not in hidden}
        visible |= values
        return visible

    def with_history(self, created_by: str) -> Self:
        """An instruction that changed neither files nor config."""
        entry = History(
            created=self.created, created_by=created_by, comment=COMMENT, empty_layer=True
        )
        return replace(self, history=(*self.history, entry))

    def with_layer(self, layer: Layer, *, created: str, created_by: str, line: int = 0) -> Self:
        """A step was performed, or found in the cache."""
        below = () if self.chain_id is None else (self.chain_id,)
        return replace(
            self,
            layers=(*self.layers, layer),
            chain_id=chain_ids([*below, layer.diff_id])[-1],
            own_lines=(*self.own_lines, line),
            history=(
                *self.history,
                History(created=created, created_by=created_by, comment=COMMENT),
            ),
            created=max(self.created, created),
        )

    def with_env(self, values: Mapping[str, str]) -> Self:
        """Set environment variables of the config, in place where they exist."""
        return replace(
            self,
            config=replace(self.config, env=set_env(self.config.env, values)),
            args_over_env=self.args_over_env - values.keys(),
        )

    def with_arg(self, name: str, value: str | None) -> Self:
        """Declare an ARG; without a value it keeps the one it has."""
        known = dict(self.args)
        if value is None:
            return replace(self, args=tuple({**known, name: known.get(name)}.items()))
        return replace(
            self,
            args=tuple({**known, name: value}.items()),
            args_over_env=self.args_over_env | {name},
        )

    def inherited(self) -> Self:
        """What a stage begins with that stands on this one."""
        return replace(self, args_over_env=frozenset(), cmd_is_own=False)


COMMENT = "lamina"


def set_env(env: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    """`env` with each NAME=value, at its old place or at the end."""
    known = _values(env)
    changed = {**known, **values}
    if len(known) == len(env) and known.keys().isdisjoint(values):
        result = (*env, *(f"{name}={value}" for name, value in values.items()))
    else:
        names = [pair.partition("=")[0] for pair in env]
        pairs = zip(names, env, strict=True)
        kept = [f"{name}={values[name]}" if name in values else pair for name, pair in pairs]
        result = (*kept, *(f"{name}={values[name]}" for name in values if name not in known))
    _last.keep(result, changed)
    return result


class _Last:
    """The values of the environment that was made last: the next one is mostly made of it.

    Thousands of ENV would take the square of their number otherwise.
    """

    def __init__(self) -> None:
        self._env: tuple[str, ...] = ()
        self._values: dict[str, str] = {}

    def keep(self, env: tuple[str, ...], values: dict[str, str]) -> None:
        self._env, self._values = env, values

    def values(self, env: tuple[str, ...]) -> dict[str, str]:
        if env is not self._env:
            split = (pair.partition("=") for pair in env)
            self.keep(env, {name: value for name, _, value in split})
        return self._values


_last = _Last()


def _values(env: tuple[str, ...]) -> Mapping[str, str]:
    """NAME=value as a mapping, in the order of the names; of the same name the last counts."""
    return _last.values(env)


DEFAULT_PATH_ENV = f"PATH={DEFAULT_PATH}"


def empty_state(platform: Platform) -> StageState:
    """FROM scratch."""
    config = ContainerConfig(env=(DEFAULT_PATH_ENV,), working_dir="/")
    return StageState(config=config, platform=platform)


def state_of_image(image: Image) -> StageState:
    """FROM an image. Its ONBUILD triggers are still in the config."""
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
        history=tuple(entry for entry, _ in image.history()),  # also where it had none
        author=config.author,
        created=config.created or StageState().created,
    )
