"""Perform a step: the only file that touches both snapshots and the sandbox.

ExecStep   snapshot -> sandbox runs the program -> overlay changes -> commit
FileStep   tree of the layers below + sources -> changes -> commit (nothing is mounted or run)

What waits for a program is a generator (see schedule.py): other stages go on meanwhile.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from builder import archives
from builder.errors import LoweringError, StepFailedError
from builder.fileops import FileChanges, Ownership
from builder.grants import NO_GRANTS, Grants
from builder.modes import parse_mode
from builder.mounting import OpenedMounts, open_mounts
from builder.reproduce import HOSTNAMES
from builder.runnetwork import RunNetworks, StepNetwork, network_files
from builder.sandbox import (
    ALL_CAPABILITIES,
    Executor,
    ExitStatus,
    FileMount,
    ForkServer,
    Limits,
    Program,
    Running,
    SandboxSpec,
    Stdio,
    UnknownUserError,
    find_user,
)
from builder.schedule import Readable, Work
from builder.sizes import short_size
from builder.snapshot import CopiedSnapshot, Snapshot, open_root
from builder.steps import CopyFiles, ExecStep, FileStep, MakeDirectory, Step
from builder.watch import ProcessWatch
from layerstore import Change, InOrder, Layer, Store, TreeIndex

if TYPE_CHECKING:
    from builder.agents import AgentRelay

Output = Callable[[str, bytes], None]
Ended = Callable[[ExitStatus], None]
Packed = Callable[[int], None]
AnySnapshot = Snapshot | CopiedSnapshot
OpenSnapshot = Callable[[tuple[Layer, ...], Store], AbstractContextManager[AnySnapshot]]
OnFailure = Callable[[Executor, SandboxSpec, tuple[str, ...]], None]

Relays = Sequence["AgentRelay | ProcessWatch"]

RUN_PIDS_MAX = 4096
_TAIL_BYTES = 16 << 10
_FULL_BYTES = 1 << 20
_READ_BYTES = 64 << 10
_SKIPPED_PIDS = 20
_OTHER_UMASK = 0o077
_PASSWD_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a step is performed with, besides itself and the layers below.

    Attributes:
        executor: gives the executor; only called for a program, so that a build without one
            starts none.
        output: called as `output("stdout" | "stderr", data)` with what the program writes.
        epoch: SOURCE_DATE_EPOCH in seconds: later modification times become this.
        ended: called with the status of the program, which says what it took.
        packed: called again and again while the layer is written, with its bytes so far.
        grants: the secrets and agents that the step may use.
        secrets: what no layer may hold: all secrets of the build, whichever step they are for.
        on_failure: called when the program has failed, while all that it had is still there: the
            same specification can be started again. Its last argument is `shell`.
        shell: what the stage gives the shell form to.
        perturbed: run the program with another host name, other process ids and one processor,
            from under another umask; its result is for comparing, and gets no checkout.
        snapshot: gives the writable view that the program changes.
        networks: those of the build.
    """

    store: Store
    executor: Callable[[], Executor]
    output: Output
    epoch: int | None = None
    ended: Ended = lambda status: None
    packed: Packed = lambda size_bytes: None
    grants: Grants = NO_GRANTS
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    on_failure: OnFailure | None = None
    shell: tuple[str, ...] = ()
    perturbed: bool = False
    snapshot: OpenSnapshot = open_root
    networks: RunNetworks = field(default_factory=RunNetworks)


def perform(step: Step, layers: tuple[Layer, ...], conditions: Conditions) -> Work[Layer]:
    """Do the work of `step` on top of `layers` and commit what it changed.

    Raises:
        StepFailedError: the program ended with another status than 0.
        MissingGrantError, SecretLeakError: see builder.errors.
    """
    match step:
        case ExecStep():
            return (yield from _perform_exec(step, layers, conditions))
        case FileStep():
            return _perform_files(step, layers, conditions)
    assert_never(step)


def _perform_exec(step: ExecStep, layers: tuple[Layer, ...], conditions: Conditions) -> Work[Layer]:
    store, output = conditions.store, conditions.output

    def tell(text: str) -> None:
        output("stderr", f"{text}\n".encode())

    with conditions.snapshot(layers, store) as snapshot:
        with ExitStack() as cleanup:
            opened = yield from open_mounts(
                step.mounts,
                store=store,
                grants=conditions.grants,
                cleanup=cleanup,
                tell=tell,
            )
            network = cleanup.enter_context(conditions.networks.lend(step, tell))
            spec = _sandbox(step, snapshot, opened, network)
            if conditions.perturbed:
                spec = _perturbed(spec, step, network)
            executor = conditions.executor()

            def started(running: Running) -> None:
                nonlocal spec
                spec = network.started(spec, running)

            status, tail, was_full = yield from run_program(
                executor, spec, output, opened.relays, started=started
            )
            conditions.ended(status)
            if status.shell_code and conditions.on_failure is not None:
                conditions.on_failure(executor, spec, conditions.shell)
        if status.shell_code:
            raise StepFailedError(
                title=" ".join(step.argv),
                code=status.shell_code,
                signal=status.signal,
                tail=tail,
                killed_for=_killed_for(status, spec.limits, was_full=was_full),
                hint=_hint(tail, snapshot.directory),
            )
        changes = snapshot.changes()
        if conditions.secrets:
            changes = InOrder(_without_secrets(changes, conditions))
        keeps = isinstance(snapshot, Snapshot) and not conditions.perturbed
        upperdir = snapshot.directory if keeps else None
        return store.layers.commit(
            changes,
            upperdir=upperdir,
            mtime_max_s=conditions.epoch,
            packed_bytes=conditions.packed,
            # a thread that writes bars this process from forking: only where another one does
            beside=isinstance(executor, ForkServer) and not conditions.perturbed,
        )


def _killed_for(status: ExitStatus, limits: Limits, *, was_full: bool) -> str:
    """Why a program was not let live, if that is why it ended."""
    if status.oom_killed and limits.memory_bytes is not None:
        return f"out of memory (limit {short_size(limits.memory_bytes)})"
    return f"too many processes (limit {limits.pids_max})" if was_full else ""


def _hint(tail: bytes, directory: Path) -> str:
    """What a program may have failed for that is not its fault."""
    status = os.statvfs(directory)
    if status.f_bavail * status.f_frsize < _FULL_BYTES or not (
        status.f_favail or not status.f_files
    ):
        return "the disk of the store is full"
    if b"fork" in tail and b"Resource temporarily unavailable" in tail:
        return f"a RUN may have {RUN_PIDS_MAX} processes at a time"
    return ""


def _without_secrets(changes: Iterator[Change], conditions: Conditions) -> Iterator[Change]:
    """A step without a secret may have met one where another step left it, or in the context."""
    if not conditions.secrets:
        return changes
    from builder.leaks import without_secrets

    return without_secrets(changes, conditions.secrets)


def _perturbed(spec: SandboxSpec, step: ExecStep, network: StepNetwork) -> SandboxSpec:
    """The same, but for what a program should not let into its result."""
    files = network_files(step, HOSTNAMES[1], network)
    return replace(
        spec,
        hostname=HOSTNAMES[1],
        mounts=(*files, *spec.mounts[len(files) :]),
        program=replace(
            spec.program,
            processors=1,
            skipped_pids=_SKIPPED_PIDS,
            callers_umask=_OTHER_UMASK,
        ),
    )


def _sandbox(
    step: ExecStep, snapshot: AnySnapshot, opened: OpenedMounts, network: StepNetwork
) -> SandboxSpec:
    is_insecure = step.security == "insecure"
    settings = step.settings
    spec = SandboxSpec(
        root=snapshot.root,
        program=Program(
            argv=step.argv,
            env=_environment(step, opened),
            cwd=step.cwd,
            user=step.user,
            capabilities=ALL_CAPABILITIES if is_insecure else None,
            seccomp="unconfined" if is_insecure else "default",
            resource_limits=settings.resource_limits,
        ),
        mounts=(
            *network_files(step, HOSTNAMES[0], network),
            *(
                FileMount(
                    target=script.target,
                    content=script.content.encode("utf-8", "surrogateescape"),
                    mode=0o755,
                    read_only=True,
                )
                for script in step.scripts
            ),
            *opened.mounts,
        ),
        hostname=HOSTNAMES[0],
        network=network.network,
        unmasked=is_insecure,
        limits=replace(settings.limits, pids_max=RUN_PIDS_MAX),
    )
    if settings.shm_size_bytes is None:
        return spec
    return replace(spec, shm_size_bytes=settings.shm_size_bytes)


def _environment(step: ExecStep, opened: OpenedMounts) -> tuple[str, ...]:
    """A variable that is a secret hides one of the same name."""
    hidden = {pair.partition("=")[0] for pair in opened.env}
    shown = (*step.env, *step.secret_env)
    return (*(pair for pair in shown if pair.partition("=")[0] not in hidden), *opened.env)


def run_program(
    executor: Executor,
    spec: SandboxSpec,
    output: Output,
    relays: "Sequence[AgentRelay]",
    *,
    started: Callable[[Running], None] = lambda running: None,
) -> Work[tuple[ExitStatus, bytes, bool]]:
    """Run to the end; `started` is called once the program has been executed.

    Returns:
        The status, the last of what was written, and whether it was ended for its processes.
    """
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
        watch = ProcessWatch(running)
        cleanup.callback(watch.close)
        served: Relays = [*relays, watch]
        try:
            started(running)
            yield from _pump(readers, output, tail, served)
            yield from _await_end(running, served)
            return running.wait(), b"".join(tail), watch.has_ended_it
        except BaseException:  # an interrupt too: nothing of the sandbox may outlive the step
            _end(running)
            raise


def _pump(
    readers: dict[int, str], output: Output, tail: deque[bytes], relays: Relays
) -> Work[None]:
    """Pass on everything until the last writer has closed its end; serve `relays` meanwhile."""
    open_readers = list(readers)  # in this order: of what came together, output before errors
    kept = 0
    while open_readers:
        ready = yield from _ready(open_readers, relays)
        for reader in ready:
            data = os.read(reader, _READ_BYTES)
            if not data:
                open_readers.remove(reader)
                continue
            output(readers[reader], data)
            tail.append(data)
            kept += len(data)
            while kept - len(tail[0]) >= _TAIL_BYTES:
                kept -= len(tail.popleft())


def _await_end(running: Running, relays: Relays) -> Work[None]:
    """Until `wait` will not block: a program may have closed its output long before."""
    while not (yield from _ready([running.fileno()], relays)):
        pass


def _ready(descriptors: Sequence[int], relays: Relays) -> Work[list[int]]:
    """Wait once; returns those of `descriptors` that can be read, and serves the rest."""
    served = {fd: relay for relay in relays for fd in relay.descriptors}
    wanted = (*descriptors, *served)
    yield Readable(wanted)
    poller = select.poll()
    for fd in wanted:
        poller.register(fd, select.POLLIN)
    found = [fd for fd, _ in poller.poll(0)]
    for fd in found:
        if fd in served:
            served[fd].serve(fd)
    return [fd for fd in found if fd in descriptors]


def _end(running: Running) -> None:
    running.kill()
    running.wait()


def _perform_files(step: FileStep, layers: tuple[Layer, ...], conditions: Conditions) -> Layer:
    store, epoch = conditions.store, conditions.epoch
    tree = store.layers.tree(layers)
    now_ns = time.time_ns() if epoch is None else epoch * 1_000_000_000
    with ExitStack() as cleanup:
        below = cleanup.enter_context(store.layers.files(layers))
        collected = FileChanges(tree, now_ns=now_ns, read=below.content)
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
        return store.layers.commit(
            _without_secrets(collected.changes(), conditions),
            mtime_max_s=epoch,
            packed_bytes=conditions.packed,
        )


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
    user, colon, group = ("0" if word == "root" else word for word in written.partition(":"))
    files = [
        _read_small(tree, layers, store, file) if word and not word.isdigit() else b""
        for word, file in ((user, "/etc/passwd"), (group, "/etc/group"))
    ]
    try:
        ids = find_user(files[0], files[1], f"{user}:{group}".rstrip(":"))
    except UnknownUserError as error:
        raise LoweringError(
            f"{where}{written}: {error}",
            hint="names are looked up in the image's /etc/passwd and /etc/group; ids always work",
        ) from error
    if group:
        return ids.uid, ids.gid
    # as Docker: `user:` is group 0, and a number alone means the group of the same number
    return ids.uid, 0 if colon else ids.uid if user.isdigit() else ids.gid


def _read_small(tree: TreeIndex, layers: tuple[Layer, ...], store: Store, path: str) -> bytes:
    node = tree.get(tree.resolve(path))
    if node is None or node.entry.kind != "file" or node.entry.size_bytes > _PASSWD_MAX_BYTES:
        return b""
    content = store.layers.read_file(layers, node)
    return content if isinstance(content, bytes) else b"".join(content())
