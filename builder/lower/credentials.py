"""Users and passwords of proxies: they reach RUN, also where a Dockerfile has an ARG for them.

Whoever sits behind a proxy that wants a password gives it by --build-arg, and many Dockerfiles
declare that argument. It stays out of keys, history and config nevertheless.

Differs: docker writes a proxy that is declared into key and history, and by ENV into the config.
"""

import os
from dataclasses import replace

from builder.errors import LoweringError
from builder.lower.surroundings import Lowered, Surroundings
from builder.state import StageState
from builder.steps import ExecStep


def without_credentials(lowered: Lowered, before: StageState, around: Surroundings) -> Lowered:
    """The same; `before` is the state that the instruction found.

    Raises:
        LoweringError: the instruction writes them into the config.
    """
    if not any("@" in value for value in around.build_args.values()):
        return lowered
    from builder.leaks import credentials_of, masked

    secrets = credentials_of(around.build_args).values()

    def mask(text: str) -> str:
        return os.fsdecode(masked(os.fsencode(text), secrets))

    def has_secret(text: str) -> bool:
        return mask(text) != text

    config = lowered.state.config
    if config != before.config and has_secret(repr(config)) and not has_secret(repr(before.config)):
        raise LoweringError(
            "the user and password of a proxy would be part of the image",
            hint="RUN has the proxies of --build-arg without ENV",
        )
    step = lowered.step
    if isinstance(step, ExecStep):
        hidden = tuple(pair for pair in step.env if has_secret(pair))
        shown = tuple(pair for pair in step.env if pair not in hidden)
        step = replace(step, env=shown, secret_env=(*step.secret_env, *hidden))
    history = tuple(
        replace(entry, created_by=mask(entry.created_by))
        for entry in lowered.state.history[len(before.history) :]
    )
    state = replace(lowered.state, history=(*before.history, *history))
    return replace(lowered, state=state, step=step, created_by=mask(lowered.created_by))
