"""The minder of a detached program: a small process of its own, for `run -d`, `start`, `exec -d`.

    the command                              the monitor
      makes the container, holds live/ID
      posix_spawn ---- the lock, a pipe ---> a new session, /dev/null for 0, 1 and 2
      reads the pipe <---- nothing, or why it failed ---- executes the program
      prints the id, ends                    writes the log, notes the end, removes on --rm

A new interpreter rather than a fork of the command: see builder/interpreter.py.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from builder.errors import ContainerError
from builder.interpreter import start as start_interpreter
from builder.runner.container import ContainerRecord
from builder.runner.liveness import Hold

_ANSWER_BYTES_MAX = 64 << 10


class DetachedError(ContainerError):
    """What the monitor reported. `code` is the exit code that the failure itself would have."""

    def __init__(self, message: str, *, hint: str, code: int) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def run_detached(root: Path, record: ContainerRecord, hold: Hold) -> tuple[str, ...]:
    """Start a container that the caller holds, and leave it to a monitor; returns its warnings.

    Raises:
        DetachedError: its program could not be executed.
    """
    try:
        answer = _spawn("run", str(root), record.id, str(hold.fd), inherited=(hold.fd,))
    finally:
        hold.hand_over()
    return _warnings_in(answer)


def exec_detached(root: Path, record: ContainerRecord, program: Sequence[object]) -> None:
    """Execute a program in a running container, and leave it to a monitor.

    Raises:
        DetachedError: it could not be executed.
    """
    _warnings_in(_spawn("exec", str(root), record.id, json.dumps(program)))


def main() -> Never:
    """What the new process does; never returns."""
    verb, root, container_id, more, writer_text = sys.argv[1:]
    writer = int(writer_text)
    os.set_inheritable(writer, False)
    os.chdir("/")
    try:
        _VERBS[verb](Path(root), container_id, more, writer)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last line of this process
        code = 1
        try:
            os.write(writer, _answer(error))
        except OSError:  # it failed later than the start: the record says so
            pass
    os._exit(code)


def _run(root: Path, container_id: str, lock_fd: str, writer: int) -> None:
    from builder.runner import start
    from builder.runner.attend import Streams
    from builder.runner.logs import LogWriter
    from builder.runner.store import ContainerStore

    containers = ContainerStore(root / "lamina")
    hold = Hold.inherited(containers.live_path(container_id), int(lock_fd))
    record = containers.read(container_id)
    assert record is not None, "its maker wrote it"
    stdin = None
    if record.interactive and not record.terminal:
        # Nobody will ever write, and nobody has closed it: `-i` without a terminal waits.
        stdin, _kept_open = os.pipe2(os.O_CLOEXEC)
    log = LogWriter(containers.log_path(container_id))
    streams = Streams(stdin=stdin, stdout=None, stderr=None, log=log)
    warnings: list[str] = []

    def started(_: ContainerRecord) -> None:
        if warnings:
            os.write(writer, json.dumps({"warnings": warnings}).encode())
        os.close(writer)

    try:
        start.run(root, record, hold, streams, started=started, warn=warnings.append)
    finally:
        log.close()


def _exec(root: Path, container_id: str, program: str, writer: int) -> None:
    from builder.runner import verbs
    from builder.runner.attend import Streams

    streams = Streams(stdin=None, stdout=None, stderr=None)
    options = verbs.ExecOptions._make(
        tuple(item) if isinstance(item, list) else item for item in json.loads(program)
    )
    verbs.execute(root, container_id, options, streams, started=lambda: os.close(writer))


_VERBS = {"run": _run, "exec": _exec}


def _spawn(*arguments: str, inherited: tuple[int, ...] = ()) -> bytes:
    """Start the monitor; returns what it reports once its program runs, or never will."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            start_interpreter(__name__, *arguments, str(writer), inherited=(*inherited, writer))
        finally:
            os.close(writer)
        answer = b""
        while len(answer) < _ANSWER_BYTES_MAX and (piece := os.read(reader, 4096)):
            answer += piece
        return answer
    finally:
        os.close(reader)


def _answer(error: BaseException) -> bytes:
    from builder.runner.start import failure_code
    from builder.sandbox import SandboxError

    code = failure_code(error) if isinstance(error, SandboxError) else 125
    message = str(getattr(error, "message", "") or f"{type(error).__name__}: {error}")
    return json.dumps([message[:1000], getattr(error, "hint", ""), code]).encode()


def _warnings_in(answer: bytes) -> tuple[str, ...]:
    """What a program that runs was started with; raises DetachedError for one that does not."""
    if not answer:
        return ()
    try:
        said = json.loads(answer)
        if isinstance(said, dict):
            return tuple(map(str, said["warnings"]))
        message, hint, code = said
    except ValueError:
        message, hint, code = "the monitor died", "", 125
    raise DetachedError(message, hint=hint, code=code)
