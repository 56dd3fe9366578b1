"""What to run, where, and behind which walls: the one input of every executor.

Paths only: nothing here knows images, layers or Dockerfiles. Values are plain data, so that a
specification can be sent to the fork server, printed, and compared in tests.

Host paths are `Path`; paths inside the root are `str` and absolute. They are resolved inside the
root, after it is entered, so a link of the image cannot lead outside.

Source: OCI runtime-spec v1.2 config.md and config-linux.md, whose field names are used.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from builder.sandbox.limits import Limits, ResourceLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayRoot:
    """An overlayfs. `lowerdirs` are topmost first; upperdir and workdir share a file system.

    `volatile` is for an upperdir that is thrown away or synced by its owner: without it the end
    of the sandbox writes back all of the file system that upperdir is on, whoever dirtied it.
    The executor may make a directory `WORKDIR.stubs` beside workdir; it is gone after `wait`.
    """

    lowerdirs: tuple[Path, ...]
    upperdir: Path
    workdir: Path
    volatile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRoot:
    """A directory used as it is."""

    path: Path


Root = OverlayRoot | PlainRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """A host file or directory shown at `target`; nosuid stays off, nodev is always on.

    `source_beneath`, where given, is resolved beneath `source` without leaving it (for mounts
    whose sub-path an image or a Dockerfile chose).
    """

    source: Path
    target: str
    read_only: bool = False
    recursive: bool = True
    source_beneath: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayMount:
    """An overlayfs of its own, or what lies at `source_beneath` in it, shown at `target`.

    What is written to it goes to its upperdir. `is_directory` says what the target has to be;
    `source_beneath` has no links in it.
    """

    overlay: OverlayRoot
    target: str
    is_directory: bool = True
    read_only: bool = False
    source_beneath: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """An empty file system in memory at `target`, always nosuid and nodev."""

    target: str
    size_bytes: int | None = None
    mode: int = 0o1777
    read_only: bool = False
    no_exec: bool = False
    uid: int = 0
    gid: int = 0

    @property
    def options(self) -> str:
        """In the words of mount(8), but for its flags."""
        size = "" if self.size_bytes is None else f",size={self.size_bytes}"
        owner = f",uid={self.uid},gid={self.gid}" if self.uid or self.gid else ""
        return f"mode={self.mode:o}{size}{owner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMount:
    """A small generated file (`/etc/hosts`) shown at `target`; never part of the root's changes.

    The content may be a secret: it is in no description of the mount.
    """

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    read_only: bool = False


Mount = BindMount | OverlayMount | TmpfsMount | FileMount


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device of the sandbox, one end of a veth whose other end is on a bridge.

    `addresses` are `10.0.0.2/24`, `gateways` those that everything goes to which is not near. The
    kernel takes both ends away with the sandbox.
    """

    bridge: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    name: str = "eth0"
    mtu: int = 1500


# host: the caller's network. none: loopback alone. A tuple: loopback and these devices. A path: the
# network namespace that it names (/proc/PID/ns/net).
Network = Literal["host", "none"] | tuple[Link, ...] | Path


# Named tuples where a class is imported at every start: defining a frozen dataclass costs thrice.
class Device(NamedTuple):
    """A device file of the host that can be opened as `target`; its mode and owner stay."""

    source: Path
    target: str


class Namespaces(NamedTuple):
    """Which namespaces a sandbox does not have for itself.

    "private" is one of its own, "host" that of the executor's process, a number that of the
    process with this id. Programs that are not in a pid namespace of their own are ended by means
    of a control group, or of their mount namespace where there can be none.
    """

    pid: Literal["private", "host"] | int = "private"
    ipc: Literal["private", "host"] | int = "private"  # also /dev/shm and /dev/mqueue
    uts: Literal["private", "host"] | int = "private"  # `hostname` is not set in another's
    cgroup: Literal["private", "host"] = "private"


ALL_PRIVATE = Namespaces()


class SeccompArgument(NamedTuple):
    """A condition on one argument of a call; `value_two` is what MASKED_EQ compares with."""

    position: int
    operator: str
    value: int
    value_two: int = 0


class SeccompRule(NamedTuple):
    """What the calls `names` get when all of `arguments` hold."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    arguments: tuple[SeccompArgument, ...] = ()


class SeccompProfile(NamedTuple):
    """A system call filter in the words of the runtime-spec (linux.seccomp).

    Calls of other architectures than these end the process.

    `flags` None stands for what is done where nothing is asked for.
    """

    default_action: str
    architectures: tuple[str, ...]
    rules: tuple[SeccompRule, ...]
    default_errno: int | None = None
    flags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program and the state it starts in.

    `user` is `name|uid[:name|gid]` or empty for root, resolved by the image's own /etc/passwd and
    /etc/group, as are `extra_groups`. HOME is taken from that passwd entry unless `env` has it.
    `cwd` is created when missing (as Docker does). A bare `argv[0]` is looked up in the PATH of
    `env`. `oom_score_adj` is the caller's where it is None.
    `processors` is how many it may use at most, 0 all of them; `skipped_pids` how many process ids
    are used up before its first child. `callers_umask` is that of the process which makes the
    sandbox, as if it had inherited it: the program's own is 022 whatever it is.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()  # NAME=value
    cwd: str = "/"
    user: str = ""
    terminal: bool = False
    terminal_size: tuple[int, int] | None = None  # rows, columns
    no_new_privs: bool = False
    # CAP_...; None is Docker's default set, ALL_CAPABILITIES stands for all that there are
    capabilities: frozenset[str] | None = None
    seccomp: Literal["default", "unconfined"] | SeccompProfile = "default"
    resource_limits: tuple[ResourceLimit, ...] = ()
    extra_groups: tuple[str, ...] = ()  # names or ids
    oom_score_adj: int | None = None
    processors: int = 0
    skipped_pids: int = 0
    callers_umask: int = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One sandbox: root, mounts, namespaces, limits and the program that runs in it."""

    root: Root
    program: Program
    mounts: tuple[Mount, ...] = ()
    hostname: str = "lamina"
    domainname: str = ""
    network: Network = "none"
    shm_size_bytes: int = 64 * 1024 * 1024  # 0: there is no /dev/shm
    read_only_root: bool = False
    unmasked: bool = False  # nothing of /proc and /sys is hidden, devices can be opened
    hide_system_paths: bool = True  # mask some of /proc and /sys; `unmasked` says no as well
    devices: tuple[Device, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()  # net.core.somaxconn and such: of its namespaces
    namespaces: Namespaces = ALL_PRIVATE
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How the program ended: `code` when it exited, `signal` (number) when it was killed.

    What it took is no part of how it ended: `cpu_s` is the user and system time of all processes
    of the sandbox that were waited for in it, `memory_peak_bytes` the resident memory of the
    largest one of them (not their sum; no less than that of the process which forked the sandbox,
    some MB). Both are 0 where nobody could measure them. `oom_killed` says that the kernel has
    killed a process of the sandbox for the memory limit.
    """

    code: int = 0
    signal: int = 0
    cpu_s: float = field(default=0.0, compare=False)
    memory_peak_bytes: int = field(default=0, compare=False)
    oom_killed: bool = field(default=False, compare=False)

    @property
    def shell_code(self) -> int:
        """The code as shells and docker report it: 128+n for a signal."""
        return 128 + self.signal if self.signal else self.code


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors given to the program. They stay the caller's to close.

    With `Program.terminal` all three are ignored and `Running.terminal_fd` is the pty's master.
    """

    stdin: int
    stdout: int
    stderr: int


class Running(Protocol):
    """A program that has been executed (execve succeeded)."""

    @property
    def init_pid(self) -> int:
        """The sandbox's PID 1, as the host numbers it: what `join` and signals need."""

    @property
    def terminal_fd(self) -> int | None:
        """The master side of the terminal; the caller owns it."""

    @property
    def network_fd(self) -> int | None:
        """The network namespace that was made for the links of the specification.

        It is ours, and closed by `wait`: who wants to keep it duplicates it.
        """

    def fileno(self) -> int:
        """Readable once the program has ended and `wait` will not block."""

    def signal(self, number: int) -> None:
        """Send a signal to the program (not to PID 1); nothing happens if it has ended."""

    def kill(self) -> None:
        """End every process of the sandbox at once."""

    def is_full(self) -> bool:
        """Whether the sandbox has as many processes as it may have. Costs a fork at times."""

    def wait(self) -> ExitStatus:
        """Wait until the program has ended and every process of the sandbox is gone."""


class Executor(Protocol):
    """Runs programs in sandboxes. Contract tests: tests/contracts/test_executor.py."""

    def start(self, spec: SandboxSpec, stdio: Stdio) -> Running:
        """Set the stage and execute the program; returns once execve has succeeded.

        Raises:
            ProgramNotFoundError: argv[0] does not exist in the root (exit code 127).
            ProgramNotExecutableError: it exists and cannot be executed (exit code 126).
            SandboxError: a phase of our own failed; nothing is left behind.
        """

    def join(self, init_pid: int, program: Program, stdio: Stdio) -> Running:
        """Execute another program inside a running sandbox (`exec`). Raises as `start` does."""

    def close(self) -> None:
        """End what still runs and release the executor."""
