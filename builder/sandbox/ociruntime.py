"""Another runtime as the executor: crun, runc, or what else speaks as the OCI runtime-spec says.

    executor --clone(new pid and mount namespace)--> shim, PID 1 of its own
       mounts the root where nobody else sees it, looks at it (preflight), writes config.json
       RUNTIME create, start
       waits for the program, which is PID 1 of a pid namespace inside of this one
       RUNTIME delete

Whatever ends the shim ends everything of the container, and all that a runtime leaves lies in a
file system in memory that only the shim had: its state, config.json with the secrets in it, the
generated files. What is left on disk is an empty directory, `WORKDIR.bundle`, removed by `wait`.

The program is entered by `join` as in our own sandbox: by ours, with the same walls.

The channels to the shim are those of `namespaces`: the end of the errors pipe without a record says
that the program has been executed, which is seen by its name in /proc: runtimes do not tell.
"""

import errno
import json
import marshal
import os
import select
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from builder.sandbox import cgroups, namespaces, ocibundle, signals, syscalls, terminal
from builder.sandbox.cgroups import Group
from builder.sandbox.errors import (
    ProgramNotExecutableError,
    ProgramNotFoundError,
    SandboxError,
    UnsupportedHostError,
    encode,
)
from builder.sandbox.executor import Handshake, LocalExecutor, SandboxRunning
from builder.sandbox.idmap import has_one_id, in_user_namespace, may_set_groups
from builder.sandbox.limits import Limits
from builder.sandbox.mounts import (
    Detach,
    MountRoot,
    Stage,
    bind,
    open_device,
    open_source,
    source_is_directory,
)
from builder.sandbox.namespaces import Channels, Home
from builder.sandbox.network import Way, opened
from builder.sandbox.ocibundle import Facts, Shown
from builder.sandbox.resolve import locate, make_directories, open_beneath
from builder.sandbox.spec import (
    BindMount,
    Device,
    FileMount,
    Mount,
    OverlayMount,
    OverlayRoot,
    Program,
    SandboxSpec,
    Stdio,
    TmpfsMount,
)

_OWN_PLACES = (
    *("proc", "sys", "dev", "dev/pts", "dev/shm", "dev/mqueue", "sys/fs/cgroup"),
    *("run", "etc"),
)
_ERRORS_FD, _REPORT_FD = 3, 4
_SOCKET = "console"
_NOT_EXECUTED = 126
_LOG_MAX_BYTES = 64 << 10
_PATH = os.O_PATH | os.O_CLOEXEC
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def find_runtime(word: str) -> Path:
    """The program that `--runtime` means: a name in PATH, or a path.

    Raises:
        SandboxError: there is none.
    """
    found = shutil.which(word)
    if found is None:
        raise SandboxError(
            phase="runtime",
            message=f"{word!r}: executable file not found",
            hint="--runtime takes crun, runc, or the path of a runtime; without it ours is used",
        )
    return Path(found).absolute()


def preflight(root_fd: int) -> None:
    """Look at what a runtime will mount on. Links there have led out of roots (CVE-2025-31133...).

    Raises:
        SandboxError: something that has to be a directory, or missing, is neither.
    """
    for place in _OWN_PLACES:
        try:
            os.close(open_beneath(root_fd, place, _PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            continue
        except OSError as error:
            what = "a symbolic link" if error.errno == errno.ELOOP else "no directory"
            raise SandboxError(
                phase=f"mount /{place}",
                message=f"/{place} of the root is {what}, or lies behind one",
                hint=f"/{place} must be a directory, or missing",
            ) from error


@dataclass(slots=True)
class RuntimeExecutor:
    """Implements `Executor` with the runtime at `path`."""

    path: Path
    _local: LocalExecutor = field(default_factory=LocalExecutor)

    def start(self, spec: SandboxSpec, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        if in_user_namespace() and spec.limits != Limits():
            raise UnsupportedHostError(
                feature="limits by another runtime for ordinary users",
                hint="leave --runtime away, or the limits",
            )
        namespaces.check_program(spec.program)
        ocibundle.check(spec)
        for mount in spec.mounts:
            if isinstance(mount, OverlayMount):
                raise SandboxError(
                    phase=f"mount {mount.target}",
                    message="an overlay is not mounted by another runtime",
                    hint="leave --runtime away",
                )
        name = cgroups.group_name()
        group = _groups_of(name)
        bundle = _make_bundle(spec)
        handshake = Handshake.open()
        try:
            with opened(spec.network) as network_fd:
                way = Way.prepare(spec.network, network_fd)
                shim = _Shim(
                    runtime=str(self.path),
                    name=name,
                    spec=spec,
                    channels=handshake.channels(stdio),
                    home=self._local.home(),
                    bundle=bundle,
                    group=group,
                    way=way,
                )
                flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | way.flags
                try:
                    started = namespaces.launch_role(shim, shim.mind, flags)
                finally:
                    way.close()
        except BaseException:
            handshake.close()
            bundle.rmdir()
            raise
        finally:
            handshake.give_away()
        running = SandboxRunning(
            init_pid=started.pid,
            leader=started,
            handshake=handshake,
            argv0=spec.program.argv[0],
            reap=self._local.reap,
            root=spec.root,
            group=group,
            bundle=bundle,
        )
        running = self._local.adopt(running)
        running.init_pid = running.program_pid
        return running

    def join(self, init_pid: int, program: Program, stdio: Stdio) -> SandboxRunning:
        """Implements `Executor`."""
        return self._local.join(init_pid, program, stdio)

    def close(self) -> None:
        """Implements `Executor`."""
        self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _groups_of(name: str) -> Group:
    """The directories that a runtime makes for `cgroupsPath`, in every hierarchy."""
    bases = cgroups.hierarchies()
    for base in bases:
        cgroups.sweep(base)
    return Group(directories=tuple(f"{base}/{name}" for base in bases))


def _make_bundle(spec: SandboxSpec) -> Path:
    if not isinstance(spec.root, OverlayRoot):
        return Path(tempfile.mkdtemp(prefix="lamina-bundle-"))
    directory = spec.root.workdir.with_name(f"{spec.root.workdir.name}.bundle")
    directory.mkdir(0o700, exist_ok=True)  # one of a sandbox that was killed is empty
    return directory


@dataclass(slots=True, kw_only=True)
class _Shim:
    """The life of the process between the executor and the runtime."""

    runtime: str
    name: str
    spec: SandboxSpec
    channels: Channels
    home: Home
    bundle: Path
    group: Group
    way: Way
    phase: str = "start"
    errors_fd: int = -1
    report_fd: int = -1
    made: tuple[str, ...] = ()
    listener: socket.socket | None = None

    def run(self, play: Callable[[], NoReturn]) -> NoReturn:
        """Play to the end; whatever stops it becomes a record in the errors pipe."""
        self.errors_fd, self.report_fd = self.channels.errors, self.channels.report
        try:
            play()
        except BaseException as error:  # noqa: BLE001  (the last line of a forked child)
            with suppress(OSError):  # nobody listens any more
                namespaces.send(self.report_fd, marshal.dumps(("made", self.made)), [])
                os.write(self.errors_fd, encode(error, self.phase))
        finally:
            os._exit(1)

    def mind(self) -> NoReturn:
        """From the first mount to the end of the program."""
        self._die_with_parent()
        self._enter_network()
        self._arrange_descriptors()
        os.umask(0o022)
        signals.use_defaults_for_ignored()
        self._prepare()
        try:
            pid, pidfd = self._create()
            master_fd = self._receive_terminal() if self.spec.program.terminal else None
            self._start(pid)
            passed = [pidfd] if master_fd is None else [pidfd, master_fd]
            namespaces.send(self.report_fd, marshal.dumps(("program", self.made)), passed)
            self._let_go(*passed)
            status = _wait_for(pid)
            if self.group.was_oom_killed():  # which nobody can tell once the group is deleted
                namespaces.send(self.report_fd, marshal.dumps(("oom_killed", True)), [])
        finally:
            self._call("delete", "--force", self.name)
        namespaces.report(self.report_fd, status.to_bytes(4, "little"))
        os._exit(0)

    def _die_with_parent(self) -> None:
        self.phase = "die with the parent"
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        poller = select.poll()
        poller.register(self.home.pidfd, select.POLLIN)
        if poller.poll(0):
            os._exit(1)
        os.setsid()

    def _enter_network(self) -> None:
        """The runtime, which is told of no network namespace, stays in ours."""
        self.phase = "enter the network"
        namespace_fd = self.way.enter()
        if namespace_fd is not None:
            message = marshal.dumps(("network", ()))
            namespaces.send(self.report_fd, message, [namespace_fd])
        for name, value in self.spec.sysctls:
            if name.startswith(ocibundle.NETWORK_SYSCTLS):
                self.phase = f"set the sysctl {name}"
                Path("/proc/sys", name.replace(".", "/")).write_text(value)

    def _arrange_descriptors(self) -> None:
        """0, 1, 2: the program's. 3: errors. 4: report. No others, so that none is inherited."""
        channels = self.channels
        wanted = (channels.stdin, channels.stdout, channels.stderr, self.errors_fd, self.report_fd)
        copies = [syscalls.duplicate(fd, 16) for fd in wanted]
        for number, fd in enumerate(copies):
            os.dup2(fd, number, inheritable=number < _ERRORS_FD)
        self.errors_fd, self.report_fd = _ERRORS_FD, _REPORT_FD
        syscalls.close_from(len(wanted))

    def _let_go(self, *fds: int) -> None:
        """The program has its own copies of the streams; the errors pipe has served."""
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null_fd, number)
        for fd in (null_fd, self.errors_fd, *fds):
            os.close(fd)

    # ---- the bundle

    def _prepare(self) -> None:
        spec, bundle = self.spec, self.bundle
        self.phase = "mount the bundle"
        root = spec.root
        top = root.workdir if isinstance(root, OverlayRoot) else root.path
        stage = Stage(
            attach=os.fsencode(bundle / "root"), covered_fd=os.open(top, _PATH | os.O_DIRECTORY)
        )
        stage.perform(Detach())
        nothing = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount(b"proc", b"/proc", b"proc", nothing)  # of this pid namespace
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount(b"tmpfs", os.fsencode(bundle), b"tmpfs", flags, b"mode=700")
        for name in ("root", "state", "shown"):
            (bundle / name).mkdir()
        os.chdir(bundle)
        self.phase = "mount the root"
        is_user = self.home.host.user_namespace
        mounts = sorted(spec.mounts, key=lambda mount: mount.target.count("/"))
        targets = [(mount.target, _is_directory(mount)) for mount in mounts]
        targets += [(device.target, False) for device in spec.devices]
        tops = [("/proc", True), ("/sys", True), ("/dev", True)]
        try:
            stage.perform(MountRoot(root=root, targets=(*tops, *targets), userxattr=is_user))
        finally:
            self.made = tuple(stage.made)
        preflight(stage.root_fd)
        self.phase = "look up the user"
        ids = namespaces.find_ids(stage.root_fd, spec.program)
        if (ids.uid or ids.gid) and has_one_id():
            raise UnsupportedHostError(
                feature="other users by another runtime",
                reason="there are no subordinate ids, so only root exists",
                hint="leave --runtime away: then users are recorded",
            )
        self._make_working_directory(stage.root_fd)
        facts = Facts(
            root=bundle / "root",
            ids=ids,
            cgroups_path=f"/{self.name}",
            shown=(
                *(self._show(mount, number, stage.root_fd) for number, mount in enumerate(mounts)),
                *(self._show_device(device, stage.root_fd) for device in spec.devices),
            ),
            throttled_cpus=self.home.host.throttled_cpus,
            machine=syscalls.MACHINE,
            has_swap_limit=cgroups.has_swap_limit(),
            is_in_user_namespace=is_user,
            has_tty_group=self.home.host.has_tty_group,
            may_set_groups=may_set_groups(),
        )
        self.phase = "write config.json"
        try:
            text = json.dumps(ocibundle.config(spec, facts), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise SandboxError(
                phase=self.phase, message=f"{error.object!r} is no UTF-8, as another runtime wants"
            ) from None
        (bundle / "config.json").write_bytes(text)

    def _make_working_directory(self, root_fd: int) -> None:
        """Where it is not below a mount to come, which the runtime has to see to."""
        self.phase = "working directory"
        place = locate(root_fd, self.spec.program.cwd)
        if place.parts[:1] in (["proc"], ["sys"], ["dev"]):
            if len(place.parts) > 1:
                raise SandboxError(phase=self.phase, message="it is inside of /proc, /sys or /dev")
            return
        targets = [locate(root_fd, mount.target).path for mount in self.spec.mounts]
        if not any(f"{place.path}/".startswith(f"{target}/") for target in targets):
            os.close(make_directories(root_fd, self.spec.program.cwd))

    def _show(self, mount: Mount, number: int, root_fd: int) -> Shown:
        """Make a source ready that has a path; its target without links, as it is in the root."""
        self.phase = f"mount {mount.target}"
        target = f"/{locate(root_fd, mount.target).path}"
        source = self.bundle / "shown" / str(number)
        match mount:
            case TmpfsMount():
                source.mkdir()
                flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
                options = mount.options.encode()
                syscalls.mount(b"tmpfs", os.fsencode(source), b"tmpfs", flags, options)
                words = ("nosuid", "noexec") if mount.no_exec else ("nosuid",)
                return Shown(target, source, read_only=mount.read_only, options=words)
            case FileMount():
                source.write_bytes(mount.content)
                os.chown(source, mount.uid, mount.gid)
                source.chmod(mount.mode)
                return Shown(target, source, read_only=mount.read_only, options=("nosuid",))
            case BindMount():
                source_fd = open_source(mount)
                if stat.S_ISDIR(os.fstat(source_fd).st_mode):
                    source.mkdir()
                else:
                    source.touch()
                target_fd = os.open(source, _PATH)
                bind(source_fd, target_fd, 0, recursive=mount.recursive)
                os.close(target_fd)
                os.close(source_fd)
                return Shown(
                    target, source, read_only=mount.read_only, is_recursive=mount.recursive
                )
            case OverlayMount():
                raise AssertionError("refused before")

    def _show_device(self, device: Device, root_fd: int) -> Shown:
        """As in our own sandbox: the host's file, whose mode and owner cannot be changed."""
        self.phase = f"show the device {device.target}"
        target = f"/{locate(root_fd, device.target).path}"
        descriptor, name = tempfile.mkstemp(dir=self.bundle / "shown")
        os.close(descriptor)
        source_fd, target_fd = open_device(device), os.open(name, _PATH)
        bind(source_fd, target_fd, 0)
        found = os.fstat(source_fd)
        os.close(target_fd)
        os.close(source_fd)
        kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
        return Shown(
            *(target, Path(name)),
            read_only=True,
            options=("nosuid", "noexec"),
            device=(kind, os.major(found.st_rdev), os.minor(found.st_rdev)),
        )

    # ---- the runtime

    def _create(self) -> tuple[int, int]:
        """The program's process, which waits to be started."""
        words = ["--bundle", str(self.bundle), "--pid-file", "pid"]
        if self.spec.program.terminal:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(_SOCKET)  # the working directory is the bundle: paths may be long
            self.listener.listen(1)
            words += ["--console-socket", _SOCKET]
        self.phase = "create"
        if self._call("create", *words, self.name):
            raise self._failure()
        try:
            pid = int((self.bundle / "pid").read_text())
            return pid, os.pidfd_open(pid)
        except (OSError, ValueError, OverflowError) as error:
            problem = "it has made no process: is it an OCI runtime?"
            raise SandboxError(phase=f"{self.runtime} create", message=problem) from error

    def _start(self, pid: int) -> None:
        """Until the program is executed: of which the kernel tells only who traces it."""
        self.phase = "start"
        before, _ = _name_and_state(pid)
        if self._call("start", self.name):
            raise self._failure()
        while True:
            name, state = _name_and_state(pid)
            if name != before:
                return
            if state in "ZX":
                raise self._failure()
            time.sleep(0.0005)

    def _receive_terminal(self) -> int:
        self.phase = "receive the terminal"
        assert self.listener is not None
        connection, _ = self.listener.accept()
        size = socket.CMSG_SPACE(4)
        _, ancillary, _, _ = connection.recvmsg(4096, size, socket.MSG_CMSG_CLOEXEC)
        connection.close()
        self.listener.close()
        if not ancillary:
            raise SandboxError(phase=self.phase, message=f"{self.runtime} has sent none")
        master_fd = int.from_bytes(ancillary[0][2][:4], "little")
        if self.spec.program.terminal_size:
            terminal.set_terminal_size(master_fd, *self.spec.program.terminal_size)
        return master_fd

    def _call(self, command: str, *words: str) -> int:
        """Run the runtime; its exit code."""
        own = ["--root", str(self.bundle / "state"), "--log", "log", "--log-format", "json"]
        pid, pidfd = syscalls.clone(0)  # posix_spawn would leave two signals ignored
        if pid == 0:
            try:
                signals.set_blocked(set())
                os.execve(self.runtime, [self.runtime, *own, command, *words], _ENVIRONMENT)
            finally:
                os._exit(_NOT_EXECUTED)
        os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # the program stays to be looked at

    def _failure(self) -> SandboxError:
        """What the runtime says in its log, in our terms."""
        said = ""
        try:
            with (self.bundle / "log").open("rb") as file:
                lines = file.read(_LOG_MAX_BYTES).splitlines()
            documents = [json.loads(line) for line in lines]
            said = next(str(it["msg"]) for it in reversed(documents) if isinstance(it, dict))
        except (OSError, ValueError, KeyError, StopIteration, RecursionError):
            pass  # it has not come to that
        argv0 = self.spec.program.argv[0]
        if "executable file" in said and "not found" in said:
            message = "" if "/" in argv0 else "executable file not found in $PATH"
            return ProgramNotFoundError(argv0=argv0, errno=errno.ENOENT, message=message)
        if self.phase == "start" or any(words in said for words in _OF_THE_PROGRAM):
            number = next((n for words, n in _REASONS if words in said.lower()), errno.EACCES)
            if number == errno.ENOENT:
                return ProgramNotFoundError(argv0=argv0, errno=number)
            return ProgramNotExecutableError(argv0=argv0, errno=number)
        return SandboxError(phase=f"{self.runtime} {self.phase}", message=said or "it has failed")


# What crun and runc say when it is the program that is to blame.
_OF_THE_PROGRAM = ("open executable", 'exec: "', "exec /", "exec user process")
_REASONS = (("no such file", errno.ENOENT), ("exec format error", errno.ENOEXEC))


def _is_directory(mount: Mount) -> bool:
    match mount:
        case BindMount():
            return source_is_directory(mount)
        case FileMount():
            return False
        case _:
            return True


def _wait_for(pid: int) -> int:
    """The wait status of a child; others that have ended meanwhile are reaped: this is PID 1."""
    while True:
        found, status = os.wait()
        if found == pid:
            return status


def _name_and_state(pid: int) -> tuple[str, str]:
    """What a process is called, and how it is; also of one that has ended and is not reaped."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()[0]
