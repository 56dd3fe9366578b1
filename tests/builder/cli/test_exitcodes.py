import pytest

from builder.cli.arguments import UsageError
from builder.cli.exitcodes import exit_code
from builder.errors import NoSuchContainerError, StepFailedError, WrongStateError
from builder.runner import DetachedError
from builder.sandbox import (
    ProgramNotExecutableError,
    ProgramNotFoundError,
    SandboxError,
    UnknownUserError,
)
from layerstore import NotFoundError

NOT_FOUND = ProgramNotFoundError(argv0="x", errno=2)
NOT_EXECUTABLE = ProgramNotExecutableError(argv0="x", errno=13)
STEP_FAILED = StepFailedError(title="RUN false", code=7, signal=0, tail=b"")


@pytest.mark.parametrize(
    ("error", "command", "code"),
    [
        (UsageError("unknown flag"), "ps", 125),
        (UsageError("unknown flag"), "run", 125),
        (UsageError("2 words", is_count=True), "tag", 1),
        (UsageError("no words", is_count=True), "run", 1),
        (UsageError("no such command", is_count=True), "", 1),
        (NotFoundError(kind="image", key="x"), "run", 125),
        (NotFoundError(kind="image", key="x"), "container run", 125),
        (NotFoundError(kind="image", key="x"), "create", 125),
        (NotFoundError(kind="image", key="x"), "inspect", 1),
        (NoSuchContainerError(name="x"), "exec", 1),
        (NoSuchContainerError(name="x"), "container exec", 1),
        (NoSuchContainerError(name="x"), "run", 125),
        (WrongStateError(name="x", state="exited", wanted="running"), "exec", 1),
        (NoSuchContainerError(name="x"), "stop", 1),
        (SandboxError(phase="mount", errno=1), "run", 125),
        (SandboxError(phase="mount", errno=1), "build", 1),
        (SandboxError(phase="working directory", errno=2), "exec", 126),
        (UnknownUserError(user="x", reason="nobody"), "container exec", 126),
        (UnknownUserError(user="x", reason="nobody"), "run", 125),
        (NOT_FOUND, "run", 127),
        (NOT_FOUND, "exec", 127),
        (NOT_EXECUTABLE, "run", 126),
        (NOT_FOUND, "build", 1),
        (NOT_EXECUTABLE, "builder build", 1),
        (DetachedError("gone", hint="", code=127), "run", 127),
        (DetachedError("gone", hint="", code=127), "start", 1),
        (STEP_FAILED, "build", 1),
        (KeyboardInterrupt(), "build", 130),
        (KeyboardInterrupt(15), "build", 143),
        (KeyboardInterrupt(1), "run", 129),
        (BrokenPipeError(), "ps", 141),
        (OSError(28, "No space left on device"), "load", 1),
        (OSError(28, "No space left on device"), "run", 125),
        (ZeroDivisionError(), "images", 1),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_exit_codes_are_docker_s(error: BaseException, command: str, code: int) -> None:
    assert exit_code(error, command) == code
