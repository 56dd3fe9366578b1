"""The choreography: which process does what, in which order. The only caller of fork and clone.

    executor ----- clone(new namespaces) ----> PID 1 ------ clone ------> program
       |                                        |  mounts, pivot_root       |  stdio, filter, ids,
       |  <-- errors pipe: nothing at all, or   |  hostname, loopback       |  trampoline, execve
       |      one record (errors.encode), or    |  capability bounds        |
       |      4 bytes of errno from execve      |  becomes init (native)    |  waits for that
       |  <-- report socket: descriptors, made stubs, at last the status    |

    executor ----- clone ----> helper (setns) ---- clone(CLONE_PARENT) ----> program      (join)

The end of the errors pipe without a byte means that execve has happened: both ends that the
sandbox holds are gone by then, PID 1's because it lets go, the program's because exec closes it.

After a fork nothing is imported, logged or locked. Every signal is blocked from before the fork
until the program is about to be executed, so that no handler of the caller runs in a child.

Order of the last steps (pitfalls: "Sandbox order"): the filter needs CAP_SYS_ADMIN where
no_new_privs is off, so it is loaded just before the ids and capabilities are given up; the calls
for those are on its allow list.
"""

import _socket
import errno
import marshal
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from builder.sandbox import capabilities, cgroups, init, seccomp, signals, syscalls, terminal
from builder.sandbox.errors import (
    ProgramNotExecutableError,
    ProgramNotFoundError,
    SandboxError,
    UnsupportedHostError,
    decode,
    encode,
)
from builder.sandbox.idmap import (
    IdMaps,
    has_one_id,
    in_user_namespace,
    maps_group,
    may_set_groups,
    own_maps,
    write_full,
    write_single,
)
from builder.sandbox.limits import RESOURCES, ResourceLimit
from builder.sandbox.mounts import Host, Stage, describe, plan
from builder.sandbox.network import Way, bring_loopback_up
from builder.sandbox.resolve import make_directories, open_beneath, open_in_root
from builder.sandbox.spec import Namespaces, Program, SandboxSpec
from builder.sandbox.trampoline import ERRORS_FD, open_trampoline
from builder.sandbox.users import Ids, find_groups, find_user

_TITLE = init.ARGV[0]
_PASSWD_MAX_BYTES = 4 << 20
_CAP_KILL = capabilities.mask(frozenset({"CAP_KILL"}))
_ALL_CAPABILITIES = capabilities.mask(capabilities.ALL)
_RECORD_MAX_BYTES = 64 << 10
_TTY_GROUP = 5  # of Debian and most others, and what docker gives to devpts
_UNLIMITED = (1 << 64) - 1  # RLIM64_INFINITY, linux/resource.h
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SHAREABLE = {
    "pid": syscalls.CLONE_NEWPID,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}


class Channels(NamedTuple):
    """Descriptors a new sandbox is given. They stay the caller's to close."""

    stdin: int
    stdout: int
    stderr: int
    errors: int  # the writing end of a pipe
    report: int  # one end of a pair of sequenced-packet sockets


class Home(NamedTuple):
    """What a process that makes sandboxes prepares once."""

    pidfd: int  # of this process: a child asks it whether it is still there
    trampoline_fd: int
    init_fd: int
    command_line: tuple[int, int]
    host: Host
    records_owners: bool  # see recorder.py

    @classmethod
    def open(cls) -> "Home":
        return cls(
            pidfd=os.pidfd_open(os.getpid()),
            trampoline_fd=open_trampoline(),
            init_fd=init.open_init(),
            command_line=syscalls.command_line_range(),
            host=_look_around(),
            records_owners=can_record_owners(),
        )

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self.trampoline_fd)
        os.close(self.init_fd)


class Started(NamedTuple):
    """A new child of this process; `pidfd` is the caller's to close.

    `recorder_pid`, where it is not 0, is another child: it ends by itself, soon after the last
    process that `pid` was an ancestor of.
    """

    pid: int
    pidfd: int
    recorder_pid: int = 0


def can_record_owners() -> bool:
    """Whether owners are recorded here: there is one id, and the kernel lets us answer for it."""
    if not in_user_namespace() or not has_one_id():
        return False
    from builder.sandbox import recorder

    return recorder.is_offered()


def _look_around() -> Host:
    user_namespace = in_user_namespace()
    try:
        with os.scandir("/sys/devices/system/cpu") as entries:
            throttled = tuple(
                entry.name
                for entry in entries
                if entry.name[:3] == "cpu"
                and entry.name[3:].isdigit()
                and os.access(f"{entry.path}/thermal_throttle", os.F_OK)
            )
    except OSError:  # no sysfs here; the sandbox's own will have it or not
        throttled = ()
    return Host(
        user_namespace=user_namespace,
        unified_cgroups=cgroups.is_unified(),
        own_pid_max=cgroups.has_own_pid_max(),
        has_tty_group=not user_namespace or maps_group(_TTY_GROUP),
        throttled_cpus=throttled,
    )


def launch(
    spec: SandboxSpec,
    channels: Channels,
    home: Home,
    *,
    groups: tuple[str, ...] = (),
    network_fd: int = -1,
) -> Started:
    """Fork PID 1 of a new sandbox; it goes on by itself and tells over `channels`.

    Args:
        spec: what it is to be.
        channels: what it is given.
        home: of this process.
        groups: files (cgroup.procs) that PID 1 writes itself into.
        network_fd: the network namespace that `spec` names, opened by who may.

    Raises:
        SandboxError: there is nothing to fork for, or the kernel refuses new namespaces.
    """
    check_program(spec.program)
    capability_mask = capabilities.mask(spec.program.capabilities)
    program_filter = _filter_for(spec.program, capability_mask)
    flags = syscalls.CLONE_NEWNS
    for name, flag in _SHAREABLE.items():
        if getattr(spec.namespaces, name) == "private":
            flags |= flag
    if groups:  # the new namespace begins at the group, which is entered later
        flags &= ~syscalls.CLONE_NEWCGROUP
    way = Way.prepare(spec.network, network_fd)
    shared = _open_shared(spec.namespaces)
    actor = _Actor(
        program=spec.program,
        channels=channels,
        home=home,
        capability_mask=capability_mask,
        program_filter=program_filter,
        errors_fd=channels.errors,
    )
    try:
        with _recording(home, actor) as recorder_pid:
            started = _fork(
                flags | way.flags,
                lambda: actor.be_init(spec, groups, shared, way),
                actor,
                pid_namespace_fd=shared.get("pid", -1),
            )
    finally:
        way.close()
        for fd in shared.values():
            os.close(fd)
    return started._replace(recorder_pid=recorder_pid)


def _open_shared(namespaces: Namespaces) -> dict[str, int]:
    """Descriptors of the processes whose namespaces are to be shared, by the kind of these."""
    shared: dict[str, int] = {}
    try:
        for name in _SHAREABLE:
            pid = getattr(namespaces, name)
            if isinstance(pid, int):
                shared[name] = os.pidfd_open(pid)
    except OSError as error:
        for fd in shared.values():
            os.close(fd)
        raise SandboxError(
            phase="share namespaces", errno=error.errno or 0, message=f"there is no process {pid}"
        ) from error
    return shared


def launch_join(
    init_pidfd: int,
    program: Program,
    channels: Channels,
    home: Home,
    *,
    groups: tuple[str, ...] = (),
) -> Started:
    """Fork a program into the sandbox whose PID 1 is given. The child is the program itself.

    Raises:
        SandboxError: as `launch`; the sandbox may have ended.
    """
    check_program(program)
    capability_mask = capabilities.mask(program.capabilities)
    program_filter = _filter_for(program, capability_mask)
    actor = _Actor(
        program=program,
        channels=channels,
        home=home,
        capability_mask=capability_mask,
        program_filter=program_filter,
    )
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    actor.errors_fd = theirs.fileno()
    with _recording(home, actor) as recorder_pid:
        helper = _fork(0, lambda: actor.be_helper(init_pidfd, groups, theirs.fileno()), actor)
    theirs.close()
    data, ancillary, _, _ = mine.recvmsg(_RECORD_MAX_BYTES, _socket.CMSG_SPACE(4))
    mine.close()
    os.waitpid(helper.pid, 0)
    os.close(helper.pidfd)
    if not ancillary:
        raise decode(data) if data else SandboxError(phase="join", message="the helper died")
    pidfd = int.from_bytes(ancillary[0][2][:4], "little")
    os.set_inheritable(pidfd, False)
    pid = int.from_bytes(data, "little")
    return Started(pid=pid, pidfd=pidfd, recorder_pid=recorder_pid)


@contextmanager
def _recording(home: Home, actor: "_Actor") -> Iterator[int]:
    """Fork a recorder where there is to be one (else its pid is 0), for what is forked inside."""
    if not home.records_owners:
        yield 0
        return
    pid, socket_fd = _fork_recorder(home.command_line)
    actor.recorder_fd = socket_fd
    try:
        yield pid
    except BaseException:
        os.close(socket_fd)
        os.waitpid(pid, 0)
        raise
    os.close(socket_fd)


@contextmanager
def recording_child() -> Iterator[Callable[[], None] | None]:
    """For a program of the host that is started in this user namespace, and ends inside.

    What is yielded is to be called by the new process before it is executed; it is None where
    owners are not recorded.
    """
    if not can_record_owners():
        yield None
        return
    from builder.sandbox import recorder

    pid, socket_fd = _fork_recorder(syscalls.command_line_range())

    def submit() -> None:
        problem = recorder.submit(socket_fd, recorder.Start(0, 0, (0,), _ALL_CAPABILITIES))
        if problem:
            raise decode(problem)

    try:
        yield submit
    finally:
        os.close(socket_fd)
        os.waitpid(pid, 0)


def _fork_recorder(command_line: tuple[int, int]) -> tuple[int, int]:
    """A recorder that waits to be told whom to serve. Returns its pid and a socket to it."""
    from builder.sandbox import recorder

    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    before = signals.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            mine.close()
            recorder.be_recorder(theirs, command_line)
    finally:
        signals.set_blocked(before)
    theirs.close()
    return pid, mine.detach()


def open_init(init_pid: int) -> int:
    """A descriptor of the PID 1 of a sandbox, by the host's number.

    Raises:
        SandboxError: there is none.
    """
    problem = SandboxError(
        phase="join", errno=errno.ESRCH, message=f"there is no sandbox with the process {init_pid}"
    )
    try:
        pidfd = os.pidfd_open(init_pid)
        with open(f"/proc/{init_pid}/status", "rb", buffering=0) as file:
            status = file.read()
    except OSError as error:
        raise problem from error
    # The number may have been given to somebody else by now: it must be a PID 1 further inside,
    # or, where the process numbers are shared, at least be called what ours are.
    rows = status.splitlines()
    numbers = next((row.split() for row in rows if row[:6] == b"NSpid:"), [])
    is_ours = rows[:1] == [b"Name:\t" + _TITLE]
    if (len(numbers) < 3 or numbers[-1] != b"1") and not is_ours:
        os.close(pidfd)
        raise problem
    return pidfd


def enter_user_namespace(*, of_pid: int | None = None) -> None:
    """Make this process, which has one thread, root of a user and mount namespace of its own.

    Nothing happens to who is root already. All ids that /etc/subuid and /etc/subgid give the user
    exist inside; without them there is root alone.

    Args:
        of_pid: enter the user namespace that this process is in instead of making one: what
            `join` needs for a sandbox that another command of the same user has started.

    Raises:
        UnsupportedHostError: the host does not let ordinary users do this.
    """
    if os.geteuid() == 0:
        return
    if of_pid is not None:
        pidfd = open_init(of_pid)
        syscalls.setns(pidfd, syscalls.CLONE_NEWUSER)
        os.close(pidfd)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        return
    maps = own_maps()
    if maps.is_single:
        _unshare_user()
        write_single(maps)
    else:
        _enter_with_full_maps(maps)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _enter_with_full_maps(maps: IdMaps) -> None:
    """A helper that stays outside calls the set-uid programs, once we are inside."""
    entered, tell_entered = os.pipe2(os.O_CLOEXEC)
    pid = os.getpid()
    helper = fork_process()
    if helper == 0:
        code = 1
        try:
            os.close(tell_entered)
            if os.read(entered, 1):
                code = write_full(maps, pid)
        finally:
            os._exit(code)
    os.close(entered)
    try:
        _unshare_user()
        os.write(tell_entered, b"x")
    finally:
        os.close(tell_entered)
        _, status = os.waitpid(helper, 0)
    if status:
        raise UnsupportedHostError(
            feature="subordinate ids",
            reason=f"newuidmap or newgidmap failed ({os.waitstatus_to_exitcode(status)})",
            hint="correct the user's lines in /etc/subuid and /etc/subgid, or remove them",
        )


def _unshare_user() -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        raise UnsupportedHostError(
            feature="user namespaces for ordinary users",
            reason=error.strerror or "",
            errno=error.errno or 0,
            hint="see `lamina info`, or run as root",
        ) from error


def make_network() -> int:
    """A descriptor of a new network namespace, with loopback up. Forks: for one with one thread."""
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    pid = fork_process()
    if pid == 0:
        code = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            bring_loopback_up()
            fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            send(theirs.fileno(), b"made", [fd])
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    data, ancillary, _, _ = mine.recvmsg(16, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    mine.close()
    os.waitpid(pid, 0)
    if not data:
        raise UnsupportedHostError(feature="network namespaces", hint="see `lamina info`")
    return int.from_bytes(ancillary[0][2][:4], "little")


def attempt(play: Callable[[], None]) -> int:
    """Try something in a process of its own. Returns 0, or the errno it failed with."""
    pid = fork_process()
    if pid == 0:
        code = 255
        try:
            play()
            code = 0
        except OSError as error:
            code = min(error.errno or 255, 255)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 255


def is_full(init_pidfd: int) -> bool:
    """Whether no process can be added to the pid namespace of this PID 1."""

    def play() -> None:
        syscalls.setns(init_pidfd, syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    try:
        return attempt(play) == errno.EAGAIN
    except OSError:  # it is we who cannot fork
        return False


def _use_up_a_pid() -> None:
    pid, pidfd = syscalls.clone(0)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)


def fork_process() -> int:
    """Fork as `os.fork` does: for the server, which goes on as an ordinary interpreter."""
    return os.fork()


def launch_role(role: "Role", play: "Callable[[], NoReturn]", flags: int) -> Started:
    """Fork a process that plays another role than those here, in new namespaces.

    Raises:
        SandboxError: the kernel refuses.
    """
    return _fork(flags, play, role)


class Role(Protocol):
    """A forked process: it plays to its end, and what stops it becomes an error record."""

    def run(self, play: "Callable[[], NoReturn]") -> NoReturn: ...


def check_program(program: Program) -> None:
    """Raises SandboxError for what could never be executed."""
    if not program.argv or not program.argv[0]:
        raise SandboxError(phase="execute", message="there is no program to execute")
    for word in (*program.argv, *program.env, program.cwd):
        if "\0" in word:
            raise SandboxError(phase="execute", message=f"NUL byte in {word!r}")
    for limit in program.resource_limits:
        if limit.name not in RESOURCES:
            raise SandboxError(
                phase="limit resources",
                message=f"there is no resource {limit.name!r}",
                hint="there are " + ", ".join(sorted(RESOURCES)),
            )


def _filter_for(program: Program, capability_mask: int) -> tuple[bytes, int] | None:
    """The filter and its flags."""
    if program.seccomp == "unconfined":
        return None
    if program.seccomp == "default":
        return seccomp.program(capability_mask), syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    return seccomp.compile_profile(program.seccomp), seccomp.profile_flags(program.seccomp)


def _fork(
    flags: int, play: "Callable[[], NoReturn]", actor: Role, *, pid_namespace_fd: int = -1
) -> Started:
    """Fork a process that plays a role.

    Args:
        pid_namespace_fd: the process in whose pid namespace it is to be.
    """
    before = signals.block_all()
    try:
        if pid_namespace_fd >= 0 or _has_threads():
            pid, pidfd = _clone_by_another(flags, pid_namespace_fd)
        else:
            pid, pidfd = syscalls.clone(flags)
        if pid == 0:
            actor.run(play)
    except OSError as error:
        raise _refused(error) from error
    finally:
        signals.set_blocked(before)
    return Started(pid=pid, pidfd=pidfd)


def _has_threads() -> bool:
    with os.scandir("/proc/self/task") as threads:
        return sum(1 for _ in threads) > 1


def _clone_by_another(flags: int, pid_namespace_fd: int = -1) -> tuple[int, int]:
    """`syscalls.clone` by a copy of this process that has no other thread.

    The copy can also enter a pid namespace for its child, which this process could not take back.

    Where another thread waits for the interpreter's lock, a bare copy would hand it over to that
    thread, which is not there, and wait for ever. `os.fork` makes a clean copy; CLONE_PARENT makes
    what that one clones a child of this process.
    """
    reading_fd, writing_fd = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if between == 0:
        try:
            if pid_namespace_fd >= 0:
                syscalls.setns(pid_namespace_fd, syscalls.CLONE_NEWPID)
            pid, _ = syscalls.clone(flags | syscalls.CLONE_PARENT)
        except OSError as error:
            pid = -(error.errno or errno.EIO)
        if pid == 0:
            os.close(reading_fd)
            os.close(writing_fd)
            return 0, -1
        os.write(writing_fd, b"%d" % pid)
        os._exit(0)
    os.close(writing_fd)
    answer = os.read(reading_fd, 32)
    os.close(reading_fd)
    os.waitpid(between, 0)
    pid = int(answer or -errno.EIO)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid, os.pidfd_open(pid)


def _refused(error: OSError) -> SandboxError:
    hints = {
        errno.EPERM: "new namespaces need root, or a user namespace (`lamina info` says more)",
        errno.ENOSPC: "raise the limits in /proc/sys/user/max_*_namespaces",
        errno.EAGAIN: "too many processes",
    }
    number = error.errno or 0
    return SandboxError(phase="make namespaces", errno=number, hint=hints.get(number, ""))


@dataclass(slots=True, kw_only=True)
class _Actor:
    """The life of a forked process. `phase` is what it is doing, for the error record."""

    program: Program
    channels: Channels
    home: Home
    capability_mask: int
    program_filter: tuple[bytes, int] | None
    errors_fd: int = -1
    recorder_fd: int = -1
    phase: str = "start"
    made: tuple[str, ...] = ()

    def run(self, play: Callable[[], NoReturn]) -> NoReturn:
        """Play a role to its end; whatever stops it becomes a record in the errors pipe."""
        try:
            play()
        except BaseException as error:  # noqa: BLE001  (the last line of a forked child)
            try:
                if self.made:
                    self._tell(marshal.dumps(("made", self.made)))
                os.write(self.errors_fd, encode(error, self.phase))
            except OSError:  # nobody listens any more
                pass
        finally:
            os._exit(1)

    def be_init(
        self, spec: SandboxSpec, groups: tuple[str, ...], shared: dict[str, int], way: Way
    ) -> NoReturn:
        """PID 1: build the stage, fork the program, mind it."""
        os.umask(self.program.callers_umask)
        self._adjust_oom_score()
        self._become_invisible()
        os.setsid()
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)  # later it may be anything
        self._write_groups(groups)
        if groups and spec.namespaces.cgroup == "private":
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        self.phase = "enter the network"
        namespace_fd = way.enter()
        if namespace_fd is not None:
            self._tell(marshal.dumps(("network", ())), [namespace_fd])
        shm_fd = self._share(shared)
        stage = self._build(spec, groups, shm_fd)
        self.phase = "look up the user"
        ids = find_ids(stage.root_fd, self.program)
        self.phase = "working directory"
        cwd_fd = make_directories(stage.root_fd, self.program.cwd)
        peer_fd = master_fd = None
        if self.program.terminal:
            self.phase = "open a terminal"
            master_fd, peer_fd = terminal.open_pair(stage.root_fd, self.program.terminal_size)
            stage.show_console(peer_fd)
        if spec.namespaces.uts == "private":
            self.phase = "name the host"
            syscalls.sethostname(os.fsencode(spec.hostname))
            if spec.domainname:
                syscalls.setdomainname(os.fsencode(spec.domainname))
        sets_groups = may_set_groups()
        self.phase = "enter the root"
        if spec.read_only_root:
            stage.make_root_read_only()
        stage.enter()
        self._limit(self.capability_mask)
        self.phase = "fork the program"
        executed_fd, executing_fd = os.pipe2(os.O_CLOEXEC)
        has_own_pids = spec.namespaces.pid == "private"
        if not has_own_pids:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            self.made = ()
            os.close(executing_fd)
            os.close(null_fd)
            self.be_program(
                *(ids, cwd_fd, peer_fd, lambda: _await_end(_WATCHED_FD), executed_fd),
                sets_groups=sets_groups,
                dies_with_parent=not has_own_pids,
            )
        init_fd = self.home.init_fd
        if has_own_pids:
            assert pid == init.PROGRAM_PID, "PID 1 has forked but once"
        else:
            init_fd = init.open_init(pid)
        passed = [pidfd] if master_fd is None else [pidfd, master_fd]
        self._tell(marshal.dumps(("program", self.made)), passed)
        self._become_native(executing_fd, null_fd, init_fd)

    def be_helper(self, init_pidfd: int, groups: tuple[str, ...], answer_fd: int) -> NoReturn:
        """Enter a sandbox and fork the program into it, as a child of the executor."""
        self._adjust_oom_score()
        self._become_invisible()
        self._write_groups(groups)
        self.phase = "enter the sandbox"
        _enter_namespaces(init_pidfd)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.phase = "look up the user"
        ids = find_ids(root_fd, self.program)
        self.phase = "working directory"
        cwd_fd = open_in_root(root_fd, self.program.cwd, os.O_PATH | os.O_DIRECTORY)
        peer_fd = master_fd = None
        if self.program.terminal:
            self.phase = "open a terminal"
            master_fd, peer_fd = terminal.open_pair(root_fd, self.program.terminal_size)
        self._limit(self.capability_mask)
        self.phase = "fork the program"
        pid, pidfd = syscalls.clone(syscalls.CLONE_PARENT)
        if pid == 0:
            self.errors_fd = self.channels.errors
            self.be_program(
                *(ids, cwd_fd, peer_fd, lambda: self._die_with(_WATCHED_FD), self.home.pidfd),
                sets_groups=None,
            )
        passed = [pidfd] if master_fd is None else [pidfd, master_fd]
        self._tell(marshal.dumps(("program", ())), passed)
        send(answer_fd, pid.to_bytes(4, "little"), [pidfd])
        os._exit(0)

    def be_program(
        self,
        ids: Ids,
        cwd_fd: int,
        terminal_fd: int | None,
        before: Callable[[], None],
        watched_fd: int,
        *,
        sets_groups: bool | None,
        dies_with_parent: bool = False,
    ) -> NoReturn:
        """Give up everything that is not the program's, then become it.

        `before` is called when all is given up; it finds `watched_fd` as _WATCHED_FD. Nothing is
        opened here, but where `sets_groups` is None: who has joined a user namespace has to ask.
        """
        self.phase = "prepare the program"
        os.setsid()
        self._arrange_descriptors(cwd_fd, terminal_fd, watched_fd)
        if ids.uid:
            _own_stdio(ids.uid)
        os.umask(0o022)
        signals.use_defaults_for_ignored()
        if self.program.processors:
            usable = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, usable[: self.program.processors])
        for _ in range(self.program.skipped_pids):
            _use_up_a_pid()
        if may_set_groups() if sets_groups is None else sets_groups:
            # the primary group too, as docker has it: `id` lists it
            os.setgroups(list(dict.fromkeys((ids.gid, *ids.groups))))
        elif self.program.extra_groups and self.recorder_fd < 0:
            raise UnsupportedHostError(
                feature="more groups",
                reason="this user namespace has one group alone",
                hint="give the user subordinate ids (/etc/subuid, /etc/subgid)",
            )
        for limit in self.program.resource_limits:
            _raise_hard_limit(limit)
        if self.recorder_fd >= 0:
            self._be_recorded(ids)
        if not self.program.no_new_privs:
            self._load_filter()
        if self.recorder_fd < 0:
            _become(ids)
        kept = self._kept_capabilities(ids)
        syscalls.capset(kept, kept, 0)
        before()
        if dies_with_parent:  # what was set before would be gone with the ids
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        self.phase = "execute"
        env = list(self.program.env)
        if not any(pair.startswith("HOME=") for pair in env):
            env.append(f"HOME={ids.home}")
        path = _find_executable(self.program.argv[0], env)
        arguments = syscalls.Arguments(
            [os.fsencode(word) for word in (path, *self.program.argv)],
            [os.fsencode(pair) for pair in env],
        )
        for limit in self.program.resource_limits:
            _limit_resource(limit)
        signals.set_blocked(set())
        if self.program.no_new_privs:  # then it needs no rights, and can come last
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            self._load_filter()
        if isinstance(self.program.seccomp, str):
            raise syscalls.execveat(_NATIVE_FD, arguments)
        # A profile that lets the program be executed may know of execve alone.
        raise syscalls.execve(b"/proc/self/fd/%d" % _NATIVE_FD, arguments)

    def _load_filter(self) -> None:
        self.phase = "load the seccomp filter"
        if self.program_filter is not None:
            syscalls.load_seccomp(*self.program_filter)

    def _kept_capabilities(self, ids: Ids) -> int:
        kept = self.capability_mask if ids.uid == 0 else 0
        held = syscalls.permitted_capabilities() if kept else 0
        if kept == _ALL_CAPABILITIES:
            return held
        if kept & ~held:
            lacking = ", ".join(capabilities.names(kept & ~held))
            raise SandboxError(
                phase="give the program its capabilities",
                errno=errno.EPERM,
                message=f"this process itself does not have {lacking}",
                hint="do not ask for what it cannot give",
            )
        return kept

    def _adjust_oom_score(self) -> None:
        """What PID 1 has goes over to the program."""
        score = self.program.oom_score_adj
        if score is None:
            return
        self.phase = f"set oom_score_adj to {score}"
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else the file is the host's root's
        try:
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(b"%d" % score)
        except PermissionError as error:
            raise SandboxError(
                phase=self.phase,
                errno=error.errno or 0,
                message="it takes CAP_SYS_RESOURCE to go below one's own",
                hint="ask for a higher number",
            ) from error

    def _share(self, shared: dict[str, int]) -> int:
        """Enter namespaces of other sandboxes; returns a mount of their shared memory, or -1."""
        shm_fd = -1
        for name, fd in shared.items():
            self.phase = f"share the {name} namespace"
            if name == "ipc":
                shm_fd = _open_shm_of(fd)
            if name != "pid":  # that one was entered before the fork
                syscalls.setns(fd, _SHAREABLE[name])
            os.close(fd)
        return shm_fd

    def _be_recorded(self, ids: Ids) -> None:
        """Be somebody whom the kernel does not know: from here on a recorder answers for it."""
        from builder.sandbox import recorder  # it is there since before the fork

        self.phase = "record owners"
        groups = tuple(dict.fromkeys((ids.gid, *ids.groups)))
        who = recorder.Start(ids.uid, ids.gid, groups, self.capability_mask)
        problem = recorder.submit(self.recorder_fd, who)
        if problem:
            raise decode(problem)
        if ids.uid:  # for the kernel it is root still, and would get rights back by execve
            syscalls.prctl(syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NOROOT_LOCKED)

    def _become_invisible(self) -> None:
        self.phase = "die with the parent"
        self._die_with(self.home.pidfd)
        os.umask(0o022)
        syscalls.overwrite_command_line(self.home.command_line, _TITLE)
        syscalls.set_process_name(_TITLE)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)

    def _die_with(self, parent_fd: int) -> None:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        poller = select.poll()
        poller.register(parent_fd, select.POLLIN)
        if poller.poll(0):  # it died before we asked
            os._exit(1)

    def _write_groups(self, groups: tuple[str, ...]) -> None:
        self.phase = "enter the control group"
        for path in groups:
            with open(path, "wb", buffering=0) as file:
                file.write(b"0")

    def _build(self, spec: SandboxSpec, groups: tuple[str, ...], shm_fd: int) -> Stage:
        stage = Stage.of(spec.root)
        stage.shm_fd = shm_fd
        host = self.home.host
        if groups and not host.unified_cgroups:
            host = host._replace(cgroup_controllers=cgroups.controllers_of(groups))
        for operation in plan(spec, host):
            try:
                stage.perform(operation)
            except OSError:
                self.phase = describe(operation)
                raise
            finally:
                self.made = tuple(stage.made)
        return stage

    def _limit(self, capability_mask: int) -> None:
        """Bounds that PID 1 and its children share, and PID 1 keeps until its own end."""
        self.phase = "make a session keyring"
        try:
            syscalls.join_new_session_keyring()
        except OSError as error:  # a kernel without keyrings, or a filter around us: none to share
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
                raise
        self.phase = "limit capabilities"
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        if not capability_mask & _CAP_KILL:
            # PID 1 passes signals on to other users. Only what is inheritable outlives its exec
            # beside the bounding set; the program drops it.
            permitted = syscalls.permitted_capabilities()
            syscalls.capset(permitted, permitted, _CAP_KILL)
        number = 0
        while True:
            try:
                has = syscalls.prctl(syscalls.PR_CAPBSET_READ, number)
            except OSError:  # EINVAL: the kernel knows no more
                return
            if has and not capability_mask >> number & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            number += 1

    def _tell(self, message: bytes, descriptors: list[int] | None = None) -> None:
        send(self.channels.report, message, descriptors or [])

    def _become_native(self, executing_fd: int, null_fd: int, init_fd: int) -> NoReturn:
        """PID 1 keeps the report socket, and goes behind walls that are narrower still."""
        self.errors_fd = -1
        os.chdir("/")
        wanted = (null_fd, null_fd, null_fd, self.channels.report)
        copies = [syscalls.duplicate(fd, 16) for fd in (*wanted, init_fd, executing_fd)]
        for number, fd in enumerate(copies):
            os.dup2(fd, number, inheritable=number <= init.REPORT_FD)
        syscalls.close_from(len(copies))
        if self.program_filter is not None:
            syscalls.load_seccomp(seccomp.init_program())
        raise syscalls.execveat(_NATIVE_FD, syscalls.Arguments(list(init.ARGV), []))

    def _arrange_descriptors(self, cwd_fd: int, terminal_fd: int | None, watched_fd: int) -> None:
        """0-2: the program's. 3: errors. 4: trampoline. 5: what is watched. 6: a recorder."""
        os.fchdir(cwd_fd)
        # "(unreachable)/..." is outside (CVE-2024-21626). No pathlib: nothing is imported here.
        if not os.getcwd().startswith("/"):  # noqa: PTH109
            raise SandboxError(phase=self.phase, message="working directory is outside of the root")
        channels = self.channels
        stdio = (channels.stdin, channels.stdout, channels.stderr)
        if terminal_fd is not None:
            stdio = (terminal_fd,) * 3
            terminal.take_control(terminal_fd)
        wanted = [*stdio, channels.errors, self.home.trampoline_fd, watched_fd]
        if self.recorder_fd >= 0:
            wanted.append(self.recorder_fd)
        copies = [syscalls.duplicate(fd, 16) for fd in wanted]
        for number, fd in enumerate(copies):
            os.dup2(fd, number, inheritable=number <= ERRORS_FD)
        self.errors_fd = ERRORS_FD
        if self.recorder_fd >= 0:
            self.recorder_fd = len(wanted) - 1
        syscalls.close_from(len(wanted))


_NATIVE_FD = 4  # the executable, of PID 1 and of the program
_WATCHED_FD = 5  # in a program


def find_ids(root_fd: int, program: Program) -> Ids:
    """Who a program's user is by the files of the root, and what groups it is in.

    Raises:
        UnknownUserError: nobody there.
    """
    passwd, group = _read_small(root_fd, "/etc/passwd"), _read_small(root_fd, "/etc/group")
    ids = find_user(passwd, group, program.user)
    if not program.extra_groups:
        return ids
    return ids._replace(groups=(*ids.groups, *find_groups(group, program.extra_groups)))


def _read_small(root_fd: int, path: str) -> bytes:
    """A file of the root; empty when it is missing or no plain file of a sane size."""
    try:
        fd = open_in_root(root_fd, path, _READ_FLAGS)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _PASSWD_MAX_BYTES:
            return b""
        return os.read(fd, _PASSWD_MAX_BYTES)
    finally:
        os.close(fd)


def _open_shm_of(pidfd: int) -> int:
    """A copy of the mount of /dev/shm of another sandbox, to be moved into this one."""
    own_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    shm_fd = open_beneath(root_fd, "dev/shm", os.O_PATH | os.O_DIRECTORY)
    tree_fd = syscalls.open_tree(shm_fd, b"", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
    syscalls.setns(own_fd, syscalls.CLONE_NEWNS)
    for fd in (own_fd, root_fd, shm_fd):
        os.close(fd)
    return tree_fd


def _enter_namespaces(init_pidfd: int) -> None:
    """Enter all that are not our own anyway: an ordinary user could not enter the host's."""
    pid = _pid_of(init_pidfd)
    flags = syscalls.CLONE_NEWNS
    for name, flag in (*_SHAREABLE.items(), ("net", syscalls.CLONE_NEWNET)):
        if not _shares(name, pid):
            flags |= flag
    try:
        syscalls.setns(init_pidfd, flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        syscalls.setns(init_pidfd, flags | syscalls.CLONE_NEWUSER)


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", "rb", buffering=0) as file:
        rows = file.read().splitlines()
    return next(int(row.split()[1]) for row in rows if row[:4] == b"Pid:")


def _shares(name: str, pid: int) -> bool:
    """Whether a process is in the same namespace as we are."""
    try:
        theirs = os.readlink(f"/proc/{pid}/ns/{name}")  # noqa: PTH115 - nothing is imported here
    except OSError:  # it has ended: so will what wants to join it
        return False
    return theirs == os.readlink(f"/proc/self/ns/{name}")  # noqa: PTH115 - likewise


def _become(ids: Ids) -> None:
    try:
        os.setresgid(ids.gid, ids.gid, ids.gid)
        os.setresuid(ids.uid, ids.uid, ids.uid)
    except OSError as error:  # EINVAL: this user namespace has no such id
        raise SandboxError(
            phase=f"become uid {ids.uid}, gid {ids.gid}",
            errno=error.errno or 0,
            hint="without subordinate ids (/etc/subuid, /etc/subgid) only root exists inside",
        ) from error


def _bounds(limit: ResourceLimit) -> tuple[int, int]:
    soft, hard = (_UNLIMITED if bound < 0 else bound for bound in (limit.soft, limit.hard))
    return soft, hard


def _raise_hard_limit(limit: ResourceLimit) -> None:
    """Raise the hard limit, as long as the right to do so is there."""
    number = RESOURCES[limit.name]
    soft_now, hard_now = syscalls.prlimit(number)
    _, hard = _bounds(limit)
    if hard <= hard_now:
        return
    try:
        syscalls.prlimit(number, (soft_now, hard))
    except PermissionError as error:
        raise SandboxError(
            phase=f"limit {limit.name}",
            errno=error.errno or 0,
            message=f"the hard limit is {hard_now} here, and cannot be raised",
            hint=f"ask for {limit.name}={hard_now} or less",
        ) from error


def _limit_resource(limit: ResourceLimit) -> None:
    syscalls.prlimit(RESOURCES[limit.name], _bounds(limit))


def _await_end(fd: int) -> None:
    """Wait until nobody holds the other end: PID 1 has executed `init` by then.

    So the program never meets an interpreter, not even one with CAP_SYS_PTRACE.
    """
    os.read(fd, 1)


def _own_stdio(uid: int) -> None:
    """Let the program reopen its own pipes and terminal (/dev/stdout), as runc does.

    Differs: files of the host stay as they are.
    """
    for fd in (0, 1, 2):
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
            try:
                os.fchown(fd, uid, -1)
            except OSError:
                pass


def _find_executable(argv0: str, env: list[str]) -> str:
    """The path to execute. Only the kernel can say whether it will do: what has a slash is taken.

    Raises:
        ProgramNotFoundError: no directory of PATH has it.
        ProgramNotExecutableError: those that have it do not let us execute it.
    """
    if "/" in argv0:
        return argv0
    path = next((pair[5:] for pair in reversed(env) if pair.startswith("PATH=")), "")
    denied = False
    for directory in path.split(":"):
        if not directory.startswith("/"):  # Differs from shells, not from runc: never the cwd
            continue
        candidate = f"{directory.rstrip('/')}/{argv0}"
        try:
            if not stat.S_ISREG(os.stat(candidate).st_mode):  # noqa: PTH116 - as above
                continue
        except OSError:
            continue
        if os.access(candidate, os.X_OK):
            return candidate
        denied = True
    if denied:
        raise ProgramNotExecutableError(argv0=argv0, errno=errno.EACCES)
    raise ProgramNotFoundError(
        argv0=argv0, errno=errno.ENOENT, message="executable file not found in $PATH"
    )


def send(fd: int, message: bytes, descriptors: list[int]) -> None:
    """Send one packet with descriptors over a socket that is only known by its number."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=fd)
    try:
        packed = b"".join([number.to_bytes(4, "little") for number in descriptors])
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if packed else []
        sock.sendmsg([message], rights)
    finally:
        sock.detach()


def report(fd: int, message: bytes) -> None:
    """Tell the executor how a sandbox ended: a wait status of 4 bytes, or what was used."""
    try:
        os.write(fd, message)
    except OSError:  # the executor does not want to know
        pass
