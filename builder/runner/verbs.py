"""What can be done to containers: stop, kill, wait, remove, execute another program.

Signals go to the sandbox's PID 1, which passes them on to the program. It is addressed by a pidfd
and the time at which it began, so that a number that was given to another process since is never
signalled.
"""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from builder.errors import ContainerError, WrongStateError
from builder.runner import liveness
from builder.runner.attend import SignalProxy, Streams, pump_terminal
from builder.runner.container import ContainerRecord
from builder.runner.lookup import running, start_time, started
from builder.runner.profile import program_fields
from builder.runner.start import OpenStore
from builder.runner.store import ContainerStore
from builder.runner.wiring import Wiring
from builder.sandbox import (
    ExitStatus,
    LocalExecutor,
    Program,
    SandboxError,
    Stdio,
    freeze,
    is_frozen,
    thaw,
)

_KILL_WAIT_S = 10.0
_NO_TIMEOUT = -1


class ExecOptions(NamedTuple):
    """The options of `exec`; empty means as the container."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    terminal: bool = False
    privileged: bool = False


def kill(containers: ContainerStore, record: ContainerRecord, number: int) -> None:
    """Send a signal to the program of a running container.

    Raises:
        WrongStateError: it does not run.
    """
    if not _signal(containers, record, number):
        raise WrongStateError(name=record.name, state=record.state, wanted="running")


def pause(containers: ContainerStore, record: ContainerRecord) -> None:
    """Stop all processes of a running container where they are.

    Raises:
        ContainerError: it is paused already.
        WrongStateError: it does not run.
        UnsupportedHostError: this host cannot do that.
    """
    now = running(containers, record.id)
    if is_paused(now):
        raise ContainerError(f"container {now.name} is already paused")
    freeze(now.pid)


def unpause(containers: ContainerStore, record: ContainerRecord) -> None:
    """Let a paused container go on.

    Raises:
        ContainerError: it is not paused.
        WrongStateError: it does not run.
    """
    now = running(containers, record.id)
    if not is_paused(now):
        raise ContainerError(f"container {now.name} is not paused")
    thaw(now.pid)


def is_paused(record: ContainerRecord) -> bool:
    """Whether a container runs, and has been stopped where it is."""
    return record.state == "running" and record.pid > 0 and is_frozen(record.pid)


def stop(
    containers: ContainerStore,
    record: ContainerRecord,
    *,
    number: int | None = None,
    timeout_s: int | None = None,
) -> None:
    """Ask the program to end, and make it after a while. Nothing happens if it does not run.

    Args:
        containers: where the container is.
        record: the container.
        number: the signal that asks; None is the container's own.
        timeout_s: how long to wait; None is the container's own, -1 for ever.

    Raises:
        ContainerError: it does not end.
    """
    live = containers.live_path(record.id)
    patience = record.stop_timeout_s if timeout_s is None else timeout_s
    if not _signal(containers, record, number or record.stop_signal):
        return
    if liveness.wait(live, None if patience == _NO_TIMEOUT else patience) is not None:
        return
    _signal(containers, record, signal.SIGKILL)
    if liveness.wait(live, _KILL_WAIT_S) is None:
        raise ContainerError(f"container {record.name} does not end", hint="is it stopped?")


def wait(containers: ContainerStore, record: ContainerRecord) -> int:
    """Wait for the end of the program; returns its exit code."""
    code = liveness.wait(containers.live_path(record.id))
    if code:  # the only place to learn it when the container was a `--rm` one
        return int(code)
    now = containers.read(record.id)
    return 0 if now is None else now.exit_code


def remove(
    containers: ContainerStore, record: ContainerRecord, *, force: bool, with_volumes: bool
) -> None:
    """Remove a container.

    Raises:
        WrongStateError: it runs, and not `force`.
    """
    if containers.is_running(record.id):
        if not force:
            raise WrongStateError(name=record.name, state="running", wanted="stopped")
        _signal(containers, record, signal.SIGKILL)
        liveness.wait(containers.live_path(record.id), _KILL_WAIT_S)
        if containers.read(record.id) is None:  # --rm: gone by itself
            return
    hold, fresh = containers.own(record)
    containers.remove(fresh, hold, with_volumes=with_volumes)


def execute(
    root: Path,
    container: str,
    options: ExecOptions,
    streams: Streams,
    *,
    started: Callable[[], None] | None = None,
) -> ExitStatus:
    """Execute another program in a running container, and attend it to its end.

    Raises:
        NoSuchContainerError, WrongStateError: there is none that runs.
        SandboxError: it has no such working directory.
        ProgramNotFoundError, ProgramNotExecutableError: it has no such program.
    """
    containers = ContainerStore(root / "lamina")
    record = running(containers, container)
    if is_paused(record):
        raise WrongStateError(name=record.name, state="paused", wanted="running")
    master: int | None = None
    with ExitStack() as cleanup:
        executor = LocalExecutor()
        cleanup.callback(executor.close)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        cleanup.callback(os.close, null)
        wiring: Wiring | None = None
        stdio = Stdio(stdin=null, stdout=null, stderr=null)
        if not options.terminal:
            wiring = Wiring(streams, null=null)
            cleanup.callback(wiring.close)
            stdio = wiring.stdio
        size = streams.size

        def resized() -> None:
            from builder.sandbox import set_terminal_size

            now = size() if size is not None else None
            if now is not None and master is not None:
                set_terminal_size(master, *now)

        proxy = cleanup.enter_context(SignalProxy(resized=resized if options.terminal else None))
        program = _program(record, options, streams)
        joined = proxy.start(lambda: executor.join(record.pid, program, stdio))
        if wiring is not None:
            wiring.release()
        master = joined.terminal_fd
        if started is not None:
            started()
        try:
            if master is not None:
                cleanup.callback(os.close, master)
                pump_terminal(master, joined.fileno(), streams)
            elif wiring is not None:
                wiring.serve(joined)
            return joined.wait()
        except BaseException:
            joined.kill()
            joined.wait()
            raise


def disk_usage(containers: ContainerStore, record: ContainerRecord) -> int:
    """What the files of a container take on the disk, in bytes."""
    from layerstore import disk_bytes

    return disk_bytes(containers.directory(record.id) / "upper")


def restored(root: Path, record: ContainerRecord, open_store: OpenStore) -> ContainerRecord:
    """The record with layer directories that exist: they do not outlive a boot."""
    private = root / "lamina"
    if all((private / name).is_dir() for name in record.directories):
        return record
    from layerstore import Digest

    with open_store() as store:
        store.lease()
        layers = [store.layers.get(Digest.parse(layer)) for layer in record.layers]
        paths = store.layers.lowerdirs(layers)
    return record._replace(directories=tuple(str(path.relative_to(private)) for path in paths))


def _program(record: ContainerRecord, options: ExecOptions, streams: Streams) -> Program:
    cwd = options.cwd or record.cwd
    if not cwd.startswith("/"):
        raise SandboxError(phase="working directory", message=f"{cwd}: not an absolute path")
    env = dict(item.partition("=")[::2] for item in record.env)
    if options.terminal:
        env.setdefault("TERM", "xterm")
    for item in options.env:
        name, equals, value = item.partition("=")
        if equals:
            env[name] = value
        else:
            env.pop(name, None)
    return Program(
        argv=options.command,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        cwd=cwd,
        user=options.user or record.user,
        terminal=options.terminal,
        terminal_size=streams.size() if streams.size is not None else None,
        **program_fields(record.profile, privileged=options.privileged),
    )


def _signal(containers: ContainerStore, record: ContainerRecord, number: int) -> bool:
    """Signal the sandbox's PID 1; False when it is not running any more."""
    now = started(containers, record)
    if now is None:
        return False
    try:
        fd = os.pidfd_open(now.pid)
    except ProcessLookupError:
        return False
    try:
        if start_time(now.pid) != now.pid_started:  # asked with the pidfd in hand: it cannot change
            return False
        signal.pidfd_send_signal(fd, number)
        if is_paused(now):  # what has stopped cannot end
            thaw(now.pid)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
