"""Instruction + state -> state, and a step where work is to be done.

Pure, given the sources: nothing is executed or written here. Metadata instructions change the
config and leave an empty history entry; RUN, COPY, ADD and WORKDIR give a step, whose layer and
history entry the engine adds when it has them.
"""

from typing import assert_never

from builder.lower import files, metadata, run
from builder.lower.credentials import without_credentials
from builder.lower.surroundings import Lowered, Surroundings
from builder.state import StageState
from grammar import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)

__all__ = ["Lowered", "Surroundings", "check", "lower"]


def check(instruction: Instruction, *, allowed: frozenset[str], escape: str) -> None:
    """Find mistakes that no state can mend, before anything has been built. Raises as `lower`."""
    if isinstance(instruction, Run):
        run.check(instruction, allowed=allowed, escape=escape)


def lower(instruction: Instruction, state: StageState, around: Surroundings) -> Lowered:
    """Lower one instruction.

    Raises:
        LoweringError, ContextError, UnsupportedFeatureError: see builder.errors.
        grammar.DockerfileError: a word that cannot be expanded.
    """
    return without_credentials(_lower(instruction, state, around), state, around)


def _lower(instruction: Instruction, state: StageState, around: Surroundings) -> Lowered:
    match instruction:
        case Run():
            return run.run(instruction, state, around)
        case Copy():
            return files.copy(instruction, state, around)
        case Add():
            return files.add(instruction, state, around)
        case Workdir():
            return files.workdir(instruction, state, around)
        case Env():
            return metadata.env(instruction, state, around)
        case Label():
            return metadata.label(instruction, state, around)
        case Arg():
            return metadata.arg(instruction, state, around)
        case User():
            return metadata.user(instruction, state, around)
        case Cmd():
            return metadata.cmd(instruction, state)
        case Entrypoint():
            return metadata.entrypoint(instruction, state)
        case Expose():
            return metadata.expose(instruction, state, around)
        case Volume():
            return metadata.volume(instruction, state, around)
        case Stopsignal():
            return metadata.stopsignal(instruction, state, around)
        case Healthcheck():
            return metadata.healthcheck(instruction, state)
        case Shell():
            return metadata.shell(instruction, state)
        case Maintainer():
            return metadata.maintainer(instruction, state)
        case Onbuild():
            return metadata.onbuild(instruction, state)
        case From():
            raise AssertionError("FROM begins a stage and is never lowered")
    assert_never(instruction)
