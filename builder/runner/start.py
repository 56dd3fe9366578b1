"""Image + options -> SandboxSpec -> running container.

    remembered image --register--> record, directories --volumes--> spec --executor--> Running

The process that calls `run` minds the container until it has ended: the command itself in the
foreground, the monitor (monitor.py) behind `-d`. Where nothing has to be logged, and the caller's
descriptors are pipes, the program has these and nothing is copied (wiring.py).
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ContainerError
from builder.runner import hostfiles, liveness, volumes
from builder.runner.attend import SignalProxy, Streams, pump_terminal
from builder.runner.connect import Connection, connect
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.lookup import running, start_time
from builder.runner.networking import HOST, OF_CONTAINER, UNNAMED, Attached
from builder.runner.options import RunOptions, record_of
from builder.runner.profile import (
    CONTAINER,
    NO_PROFILE,
    check_sysctls,
    limits_fields,
    namespaces_fields,
    program_fields,
    sandbox_fields,
)
from builder.runner.runnable import RunnableImage, prepare, register, remembered
from builder.runner.store import KILLED_CODE, ContainerStore, ended
from builder.runner.wiring import Wiring
from builder.sandbox import (
    BindMount,
    Executor,
    ExitStatus,
    Limits,
    LocalExecutor,
    Mount,
    Namespaces,
    OverlayRoot,
    PlainRoot,
    Program,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    Root,
    Running,
    SandboxError,
    SandboxSpec,
    Stdio,
    TmpfsMount,
    remove_freezer,
    why_no_overlay,
)

if TYPE_CHECKING:
    from layerstore import Store

OpenStore = Callable[[], "Store"]

NOT_FOUND_CODE = 127
NOT_EXECUTABLE_CODE = 126
OWN_FAILURE_CODE = 125


def create(
    root: Path, image_name: str, options: RunOptions, open_store: OpenStore
) -> tuple[ContainerRecord, liveness.Hold]:
    """Make a container, which the caller holds: it may start it, or release it for later.

    Args:
        root: the store's directory.
        image_name: as the user wrote it.
        options: what the user asked for.
        open_store: opens the store; not called when everything is remembered.

    Raises:
        ContainerError: an option makes no sense, or the name is taken.
        SandboxError: there is no such runtime.
        StoreError: there is no such image, or it is damaged.
    """
    for mount in options.mounts:
        volumes.check(mount)
    if options.runtime:
        from builder.sandbox import find_runtime

        find_runtime(options.runtime)
    image = remembered(root, image_name) or _from_store(image_name, open_store)
    containers = ContainerStore(root / "lamina")
    containers.prepare()
    containers.sweep()
    if options.network.startswith(OF_CONTAINER):
        other = containers.find(options.network.removeprefix(OF_CONTAINER))
        options = options._replace(network=OF_CONTAINER + other.id)
        if not options.profile.uts:
            options = options._replace(hostname=other.hostname)
    options = _with_networks_found(root, options)
    container_id = os.urandom(32).hex()
    hold = liveness.take(containers.live_path(container_id))
    assert hold is not None, "nobody else knows the id"
    try:
        name = containers.claim_name(options.name, container_id)
        record = _register(root, image, options, container_id, name, open_store)
        if why_no_overlay(containers.private):
            _copy_layers(containers, record, open_store)
        _make_volumes(root, record, open_store)
    except BaseException:
        containers.discard(container_id)
        hold.release()
        raise
    return record, hold


def _with_networks_found(root: Path, options: RunOptions) -> RunOptions:
    """Networks may be named by their ids; raises NetworkError for what is none."""
    endpoints = options.networking.endpoints
    if all(endpoint.network in UNNAMED for endpoint in endpoints):
        return options
    from builder.runner.networks import NetworkStore

    networks = NetworkStore(root / "lamina")
    found = [
        endpoint
        if endpoint.network in UNNAMED
        else endpoint._replace(network=networks.find(endpoint.network).name)
        for endpoint in endpoints
    ]
    asked = options.networking._replace(endpoints=tuple(found))
    return options._replace(network=found[0].network, networking=asked)


def run(
    root: Path,
    record: ContainerRecord,
    hold: liveness.Hold,
    streams: Streams,
    *,
    started: Callable[[ContainerRecord], None] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    is_interruptible: bool = False,
) -> ExitStatus:
    """Run a container that the caller holds, mind it to its end, and give it up.

    Args:
        root: the store's directory.
        record: a container that does not run.
        hold: what `create` or `ContainerStore.own` gave.
        streams: where its streams lead.
        started: called once the program has been executed.
        warn: called with what the caller should know, and can live with.
        is_interruptible: signals that come to us are ours and end it; else they go to the program.

    Raises:
        ProgramNotFoundError, ProgramNotExecutableError: the image has no such program.
        SandboxError: we could not set the stage.
    """
    containers = ContainerStore(root / "lamina")
    status = ExitStatus(signal=9)
    attached: tuple[Attached, ...] = ()
    try:
        with ExitStack() as cleanup:
            # A terminal is resized by the proxy, which therefore must know it first.
            minder = _Minder(containers, record, streams, warn)
            if not is_interruptible:
                cleanup.enter_context(minder.proxy)
            running = minder.start(cleanup)
            record = minder.record
            attached = record.attached
            if started is not None:
                started(record)
            status = minder.attend(running)
        record = ended(record, code=status.shell_code, oom_killed=status.oom_killed)
    except SandboxError as error:
        code = failure_code(error)
        record = record.turned("created", exit_code=code, error=error.message)
        raise
    except BaseException:
        if record.state == "running":
            record = ended(record, code=KILLED_CODE, error="interrupted")
        raise
    finally:
        if record.auto_remove:
            containers.remove(record, hold)
        else:
            containers.write(record)
            hold.release(str(record.exit_code))
        hostfiles.refresh_others(containers, attached)
    return status


class _Minder:
    """One run of one container."""

    def __init__(
        self,
        containers: ContainerStore,
        record: ContainerRecord,
        streams: Streams,
        warn: Callable[[str], None],
    ) -> None:
        self.record = record
        self.proxy = SignalProxy(resized=self._resize if record.terminal else None)
        self._containers = containers
        self._streams = streams
        self._warn = warn
        self._wiring: Wiring | None = None
        self._running: Running | None = None

    def start(self, cleanup: ExitStack) -> Running:
        connection = connect(self.record, self._containers, cleanup, self._warn)
        spec = spec_of(self.record, self._containers, connection, size=self._size())
        executor = _executor_of(self.record)
        cleanup.callback(executor.close)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        cleanup.callback(os.close, null)
        if self.record.terminal:
            stdio = Stdio(stdin=null, stdout=null, stderr=null)
        else:
            self._wiring = Wiring(self._streams, null=null)
            cleanup.callback(self._wiring.close)
            stdio = self._wiring.stdio
        running = self.proxy.start(lambda: executor.start(spec, stdio))
        if self._wiring is not None:
            self._wiring.release()
        self._running = running
        self.record = self.record.turned(
            "running",
            started=time.time(),
            finished=0.0,
            exit_code=0,
            error="",
            oom_killed=False,
            pid=running.init_pid,
            pid_started=start_time(running.init_pid),
            attached=connection.attached,
            published=connection.published,
        )
        self._containers.write(self.record)
        hostfiles.refresh_others(self._containers, self.record.attached)
        return running

    def attend(self, running: Running) -> ExitStatus:
        try:
            master = running.terminal_fd
            if master is not None:
                try:
                    pump_terminal(master, running.fileno(), self._streams)
                finally:
                    os.close(master)
            elif self._wiring is not None:
                self._wiring.serve(running)
            status = running.wait()
        except BaseException:
            running.kill()
            running.wait()
            raise
        finally:
            remove_freezer(running.init_pid)
            if self._streams.log is not None:
                self._streams.log.end_lines()
        return status

    def _size(self) -> tuple[int, int] | None:
        return self._streams.size() if self._streams.size is not None else None

    def _resize(self) -> None:
        from builder.sandbox import set_terminal_size

        size = self._size()
        if size is not None and self._running is not None:
            master = self._running.terminal_fd
            if master is not None:
                set_terminal_size(master, *size)


def spec_of(
    record: ContainerRecord,
    containers: ContainerStore,
    connection: Connection,
    *,
    size: tuple[int, int] | None,
) -> SandboxSpec:
    """What the sandbox is asked for.

    Raises:
        ContainerError: it cannot be had, or would change the host.
    """
    private = containers.private
    directory = containers.directory(record.id)
    lowerdirs = tuple(private / name for name in record.directories)
    root: Root = OverlayRoot(
        lowerdirs=lowerdirs, upperdir=directory / "upper", workdir=directory / "work"
    )
    if why_no_overlay(private):
        root = PlainRoot(path=directory / "upper")
    spec = SandboxSpec(
        root=root,
        program=Program(
            argv=record.argv,
            env=record.env,
            cwd=record.cwd,
            user=record.user,
            terminal=record.terminal,
            terminal_size=size,
            **program_fields(record.profile),
        ),
        mounts=(
            *connection.files,
            *(_mount(mount, private) for mount in _outer_first(record.mounts)),
        ),
        hostname=record.hostname,
        domainname=record.networking.domainname,
        network=connection.network,
        shm_size_bytes=0 if record.profile.ipc == "none" else record.shm_size_bytes,
        read_only_root=record.read_only,
        namespaces=_namespaces(record, containers),
        limits=Limits(
            pids_max=record.pids_max or None,
            memory_bytes=record.memory_bytes or None,
            **limits_fields(record.profile),
        ),
        **sandbox_fields(record.profile, has_own_network=_has_own_network(record)),
    )
    check_sysctls(record.profile.sysctls, spec)
    return spec


def _has_own_network(record: ContainerRecord) -> bool:
    return record.network != HOST and not record.network.startswith(OF_CONTAINER)


def _executor_of(record: ContainerRecord) -> Executor:
    if not record.runtime:
        return LocalExecutor()
    from builder.sandbox import RuntimeExecutor, find_runtime

    return RuntimeExecutor(find_runtime(record.runtime))


def _namespaces(record: ContainerRecord, containers: ContainerStore) -> Namespaces:
    if record.profile == NO_PROFILE:
        return Namespaces()

    def pid_of(word: str) -> int:
        return running(containers, word).pid

    donor = record.profile.ipc.removeprefix(CONTAINER)
    if donor != record.profile.ipc:
        modes = containers.find(donor).profile.ipc
        if modes in ("", "private", "none"):
            raise ContainerError(
                f"cannot join the IPC namespace of container {donor}: it is not shareable",
                hint="run that one with --ipc shareable",
            )
    return Namespaces(**namespaces_fields(record.profile, pid_of))


def failure_code(error: SandboxError) -> int:
    """The exit code of a container whose program could not be executed."""
    match error:
        case ProgramNotFoundError():
            return NOT_FOUND_CODE
        case ProgramNotExecutableError():
            return NOT_EXECUTABLE_CODE
        case _:
            return OWN_FAILURE_CODE


def _from_store(image_name: str, open_store: OpenStore) -> RunnableImage:
    with open_store() as store:
        return prepare(store, image_name)


def _register(
    root: Path,
    image: RunnableImage,
    options: RunOptions,
    container_id: str,
    name: str,
    open_store: OpenStore,
) -> ContainerRecord:
    containers = ContainerStore(root / "lamina")
    for _ in range(3):
        record = record_of(image, options, container_id=container_id, name=name, now=time.time())
        record = record._replace(mounts=tuple(map(volumes.named, record.mounts)))
        if register(root, image, lambda record=record: _make(containers, record)):  # type: ignore[misc]
            return record
        image = _from_store(image.name, open_store)  # pruned since it was looked up
    raise ContainerError(f"the image {image.name!r} is removed again and again")


def _make(containers: ContainerStore, record: ContainerRecord) -> bool:
    containers.make(record)
    # The merged root shows the upper directory's attributes: make them the image's.
    lower = containers.private / record.directories[0]
    status = lower.stat()
    upper = containers.directory(record.id) / "upper"
    owner = (status.st_uid, status.st_gid)
    if os.listxattr(lower):  # one of them may say whom it is meant to belong to
        from layerstore import owner_of

        owner = owner_of(lower)
    if owner != (os.geteuid(), os.getegid()):
        from layerstore import give_file

        give_file(upper, *owner)
    upper.chmod(status.st_mode & 0o7777)
    return True


def _copy_layers(
    containers: ContainerStore, record: ContainerRecord, open_store: OpenStore
) -> None:
    """Where there is no overlay, the upper directory has everything."""
    from builder.snapshot import copy_layers
    from layerstore import Digest

    upper = containers.directory(record.id) / "upper"
    with open_store() as store:
        layers = tuple(store.layers.get(Digest.parse(diff_id)) for diff_id in record.layers)
        copy_layers(layers, store, upper)


def _make_volumes(root: Path, record: ContainerRecord, open_store: OpenStore) -> None:
    if volumes.needs_store(root / "lamina", record):
        with open_store() as store:
            volumes.prepare(store, record)


def _outer_first(mounts: tuple[MountPoint, ...]) -> list[MountPoint]:
    """In an order in which none hides another."""
    return sorted(mounts, key=lambda mount: mount.target.count("/"))


def _mount(mount: MountPoint, private: Path) -> Mount:
    match mount.kind:
        case "bind":
            source = Path(mount.source)
            if not os.path.lexists(source):  # as docker does for -v
                source.mkdir(parents=True)
            return BindMount(source=source, target=mount.target, read_only=mount.read_only)
        case "volume":
            path = volumes.data_path(private, mount.source)
            return BindMount(source=path, target=mount.target, read_only=mount.read_only)
        case "tmpfs":
            return TmpfsMount(
                target=mount.target,
                size_bytes=mount.size_bytes or None,
                mode=mount.mode,
                read_only=mount.read_only,
                no_exec=mount.no_exec,
                uid=mount.uid,
                gid=mount.gid,
            )
