"""Perform a step: the only file that touches both snapshots and the sandbox.

ExecStep   snapshot -> sandbox runs the program -> overlay changes -> commit
FileStep   tree of the layers below + sources -> changes -> commit (nothing is mounted or run)
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import assert_never

from builder import archives
from builder.errors import LoweringError, StepFailedError
from builder.fileops import FileChanges, Ownership
from builder.modes import parse_mode
from builder.sandbox import (
    Executor,
    ExitStatus,
    FileMount,
    Limits,
    Program,
    Running,
    SandboxSpec,
    Stdio,
    UnknownUserError,
    find_user,
)
from builder.snapshot import open_snapshot
from builder.steps import CopyFiles, ExecStep, FileStep, MakeDirectory, Step
from layerstore import Layer, Store, TreeIndex

Output = Callable[[str, bytes], None]

RUN_PIDS_MAX = 4096
_TAIL_BYTES = 16 << 10
_READ_BYTES = 64 << 10
_PASSWD_MAX_BYTES = 4 << 20


def perform(
    step: Step,
    layers: tuple[Layer, ...],
    *,
    store: Store,
    executor: Callable[[], Executor],
    output: Output,
    epoch: int | None,
) -> Layer:
    """Do the work of `step` on top of `layers` and commit what it changed.

    Args:
        executor: gives the executor; only called for a program, so that a build without one
            starts none.
        output: called as `output("stdout" | "stderr", data)` with what the program writes.
        epoch: SOURCE_DATE_EPOCH in seconds: later modification times become this.

    Raises:
        StepFailedError: the program ended with another status than 0.
    """
    match step:
        case ExecStep():
            return _perform_exec(step, layers, store, executor(), output, epoch)
        case FileStep():
            return _perform_files(step, layers, store, epoch)
    assert_never(step)


def _perform_exec(
    step: ExecStep,
    layers: tuple[Layer, ...],
    store: Store,
    executor: Executor,
    output: Output,
    epoch: int | None,
) -> Layer:
    with open_snapshot(layers, store) as snapshot:
        spec = SandboxSpec(
            root=snapshot.root,
            program=Program(
                argv=step.argv, env=(*step.env, *step.secret_env), cwd=step.cwd, user=step.user
            ),
            mounts=(
                *network_files(step.network),
                *(
                    FileMount(
                        target=script.target,
                        content=script.content.encode("utf-8", "surrogateescape"),
                        mode=0o755,
                        read_only=True,
                    )
                    for script in step.scripts
                ),
            ),
            hostname=HOSTNAME,
            network=step.network,
            limits=Limits(pids_max=RUN_PIDS_MAX),
        )
        status, tail = _run_program(executor, spec, output)
        if status.shell_code:
            raise StepFailedError(
                title=" ".join(step.argv), code=status.shell_code, signal=status.signal, tail=tail
            )
        return store.layers.commit(
            snapshot.changes(), upperdir=snapshot.upperdir, mtime_max_s=epoch
        )


HOSTNAME = "lamina"


def network_files(network: str, hostname: str = HOSTNAME) -> tuple[FileMount, ...]:
    """/etc/hosts, /etc/resolv.conf and /etc/hostname, never part of a layer."""
    hosts = (
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    )
    resolv = b""
    if network == "host":
        try:
            resolv = Path("/etc/resolv.conf").read_bytes()
            hosts = Path("/etc/hosts").read_text() or hosts
        except OSError:  # a host without them: names are not resolved there either
            pass
    return (
        FileMount(target="/etc/hosts", content=hosts.encode()),
        FileMount(target="/etc/resolv.conf", content=resolv),
        FileMount(target="/etc/hostname", content=f"{hostname}\n".encode()),
    )


def _run_program(executor: Executor, spec: SandboxSpec, output: Output) -> tuple[ExitStatus, bytes]:
    """Run to the end; returns the status and the last of what was written."""
    tail: deque[bytes] = deque()
    with ExitStack() as cleanup:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        cleanup.callback(os.close, null)
        readers: dict[int, str] = {}
        writers = []
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            cleanup.callback(os.close, reader)
            readers[reader] = name
            writers.append(writer)
        try:
            running = executor.start(spec, Stdio(stdin=null, stdout=writers[0], stderr=writers[1]))
        finally:
            for writer in writers:
                os.close(writer)
        try:
            _pump(readers, output, tail)
            return running.wait(), b"".join(tail)
        except BaseException:  # an interrupt too: nothing of the sandbox may outlive the step
            _end(running)
            raise


def _pump(readers: dict[int, str], output: Output, tail: deque[bytes]) -> None:
    """Pass on everything until the last writer has closed its end."""
    poller = select.poll()
    for reader in readers:
        poller.register(reader, select.POLLIN)
    open_readers = len(readers)
    kept = 0
    while open_readers:
        for reader, _ in poller.poll():
            data = os.read(reader, _READ_BYTES)
            if not data:
                poller.unregister(reader)
                open_readers -= 1
                continue
            output(readers[reader], data)
            tail.append(data)
            kept += len(data)
            while kept - len(tail[0]) >= _TAIL_BYTES:
                kept -= len(tail.popleft())


def _end(running: Running) -> None:
    running.kill()
    running.wait()


def _perform_files(
    step: FileStep, layers: tuple[Layer, ...], store: Store, epoch: int | None
) -> Layer:
    tree = store.layers.tree(layers)
    now_ns = time.time_ns() if epoch is None else epoch * 1_000_000_000
    collected = FileChanges(tree, now_ns=now_ns)
    with ExitStack() as cleanup:
        match step.action:
            case MakeDirectory(path=path, user=user):
                uid, gid = None, None
                if user and tree.get(tree.resolve(path)) is None:
                    uid, gid = _ids(user, "USER ", layers, tree, store)
                collected.make_directory(path, Ownership(uid=uid, gid=gid))
            case CopyFiles() as action:
                ownership = _ownership(action, layers, tree, store)
                _copy(action, collected, ownership, cleanup)
            case _:
                assert_never(step.action)
        return store.layers.commit(collected.changes(), mtime_max_s=epoch)


def _copy(
    action: CopyFiles, collected: FileChanges, ownership: Ownership, cleanup: ExitStack
) -> None:
    for selection in action.selections:
        entry = selection.tree.get(selection.path)
        assert entry is not None, "a selection exists"
        unpacks = action.unpack if selection.unpacks is None else selection.unpacks
        if unpacks and archives.is_archive(selection.tree, entry):
            collected.unpack(
                archives.members(selection.tree, entry, cleanup), action.destination, ownership
            )
        else:
            collected.copy(selection, action.destination, ownership)
    for inline in action.inline:
        collected.write_file(inline, action.destination, ownership)


def _ownership(
    action: CopyFiles, layers: tuple[Layer, ...], tree: TreeIndex, store: Store
) -> Ownership:
    mode = None if action.chmod is None else parse_mode(action.chmod)
    if action.chown is None:
        return Ownership(mode=mode)
    uid, gid = _ids(action.chown, "--chown=", layers, tree, store)
    return Ownership(uid=uid, gid=gid, mode=mode)


def _ids(
    written: str, where: str, layers: tuple[Layer, ...], tree: TreeIndex, store: Store
) -> tuple[int, int]:
    """User and group of new files, by the image's own /etc/passwd and /etc/group."""
    passwd = _read_small(tree, layers, store, "/etc/passwd")
    group = _read_small(tree, layers, store, "/etc/group")
    try:
        ids = find_user(passwd, group, written)
    except UnknownUserError as error:
        raise LoweringError(
            f"{where}{written}: {error}",
            hint="names are looked up in the image's /etc/passwd and /etc/group; ids always work",
        ) from error
    # as Docker: a number without a group means the group of the same number
    return ids.uid, ids.uid if written.isdigit() else ids.gid


def _read_small(tree: TreeIndex, layers: tuple[Layer, ...], store: Store, path: str) -> bytes:
    node = tree.get(tree.resolve(path))
    if node is None or node.entry.kind != "file" or node.entry.size_bytes > _PASSWD_MAX_BYTES:
        return b""
    content = store.layers.read_file(layers, node)
    return content if isinstance(content, bytes) else b"".join(content())
