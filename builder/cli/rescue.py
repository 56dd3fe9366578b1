"""`lamina build --on-error=shell`: a shell where a RUN has just failed."""

import os
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from builder.cli.arguments import UsageError
from builder.cli.output import printable, warn
from builder.cli.terminal import RawTerminal, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox import Executor, SandboxSpec


def rescuer(
    given: str | None,
) -> "Callable[[Executor, SandboxSpec, tuple[str, ...]], None] | None":
    """What to do where a RUN fails.

    Raises:
        UsageError: it is not known.
    """
    if given in (None, "exit"):
        return None
    if given == "shell":
        return open_shell
    raise UsageError(f"invalid argument {given!r} for --on-error", hint="exit (default), shell")


def open_shell(executor: "Executor", spec: "SandboxSpec", shell: tuple[str, ...]) -> None:
    """Run the stage's `shell` in the half-finished root, with all that the failed program had.

    Its input is ours: a terminal, or the lines of a script. What it changes is thrown away.
    """
    from builder.sandbox import SandboxError, Stdio

    words = takewhile(lambda word: not word.startswith("-"), shell[1:])  # `busybox ash`, no -c
    argv = (*shell[:1], *words)
    opened = printable(" ".join(argv))
    warn(f"the step failed: {opened} in what it left behind; leave it to end the build")
    is_terminal = os.isatty(0) and os.isatty(1)
    program = replace(
        spec.program,
        argv=argv,
        terminal=is_terminal,
        terminal_size=size(0, 1) if is_terminal else None,
    )
    try:
        running = executor.start(replace(spec, program=program), Stdio(stdin=0, stdout=1, stderr=2))
    except SandboxError as error:  # the image has no shell: the failure itself is what counts
        warn(f"no shell could be started: {error.message}")
        return
    try:
        if running.terminal_fd is not None:
            _attend(running.terminal_fd, running.fileno())
        running.wait()
    except BaseException:
        running.kill()
        running.wait()
        raise


def _attend(master: int, ended: int) -> None:
    from builder.runner import Streams, pump_terminal

    try:
        with RawTerminal(0):
            pump_terminal(master, ended, Streams(stdin=0, stdout=1, stderr=None))
    finally:
        os.close(master)
