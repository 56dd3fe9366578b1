"""The file systems of a sandbox, as a list of operations: planned, described, performed.

Everything happens in the sandbox's own mount namespace before its root is entered. A target is
opened first, inside the new root, where links and `..` of an image lead nowhere else; a mount is
made apart from it (fsmount, open_tree), and moved onto the descriptor of what was opened.

    attach point   a host directory (workdir, or the plain root itself) that the new root covers;
                   the pivot takes it away together with the rest of the host
    generated      a private tmpfs below the root at the same place; files of it are bound to where
                   they are wanted, and nothing of it can be reached by another name
    own overlays   those of OverlayMount, made below the root in the same way and for the same end
    stubs          mount targets that the root lacks. An overlay gets them as its topmost lower
                   layer, so that the upper directory, which becomes the next layer, never sees
                   them; directories on the way there repeat the attributes of the merged ones.
                   A plain root gets real ones, which are taken away again after the program.

Rules (tests/builder/sandbox/test_mounts.py):
  1. /proc, /sys and /dev must be real directories of the root, or missing.
  2. No mount but single device files lets devices be opened: what an image or a program makes with
     mknod stays without effect (`unmasked` is there to lift this). The host's device files are
     bound read-only, so that their mode and owner cannot be changed (reading and writing a device
     needs no writable mount).
  3. Masks and read-only views go onto descriptors below the mount made here, checked by file system
     type; nothing of the image can be in their place.
  4. Mounts asked for by name may lie anywhere but inside /proc and /sys.

Sources: OCI runtime-spec config-linux.md "Default Filesystems"; moby oci/defaults.go (masked and
read-only paths); Documentation/filesystems/overlayfs.rst.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from builder.sandbox import cgroups, ownerattribute, syscalls
from builder.sandbox.errors import SandboxError, UnsupportedHostError
from builder.sandbox.resolve import Place, locate, open_beneath, open_in_root
from builder.sandbox.spec import (
    BindMount,
    Device,
    FileMount,
    Mount,
    OverlayMount,
    OverlayRoot,
    PlainRoot,
    Root,
    SandboxSpec,
    TmpfsMount,
)

MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_OWN_TOPS = ("/proc", "/sys", "/dev")

_NO_DEVICES = syscalls.MS_NOSUID | syscalls.MS_NODEV
_NOTHING = _NO_DEVICES | syscalls.MS_NOEXEC
_DEVICE_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
)
_PLAIN_DATA = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_OPTIONS_MAX_BYTES = 4000  # mount(2) copies one page
_PATH = os.O_PATH | os.O_CLOEXEC

# linux/magic.h
_MAGIC = {
    "proc": 0x9FA0,
    "sysfs": 0x62656572,
    "tmpfs": 0x01021994,
    "cgroup": 0x27E0EB,
    "cgroup2": 0x63677270,
}


class Host(NamedTuple):
    """What the plan has to know about where it will be carried out."""

    user_namespace: bool = False  # not the initial one
    unified_cgroups: bool = True  # /sys/fs/cgroup is a cgroup2
    cgroup_controllers: tuple[str, ...] = ()  # v1 hierarchies with a group of this sandbox
    own_pid_max: bool = False  # lowering it in a pid namespace is nobody else's business
    has_tty_group: bool = True  # gid 5 exists here
    throttled_cpus: tuple[str, ...] = ()  # those with a thermal_throttle directory


class Detach(NamedTuple):
    """Let no mount come from, or go to, another namespace."""


class Generate(NamedTuple):
    """Mount the private tmpfs for generated files at the attach point."""


class MountOverlay(NamedTuple):
    """Mount the overlay of the mount `number`, to be shown later."""

    overlay: OverlayRoot
    number: int
    userxattr: bool


class MountRoot(NamedTuple):
    """`targets` are the mount targets to come, in the order of the mounts."""

    root: Root
    targets: tuple[tuple[str, bool], ...]  # path, is a directory
    userxattr: bool
    devices: bool = False  # those in it can be opened


class MountFilesystem(NamedTuple):
    """A new file system at a place of ours: /proc, /sys, /dev, or inside one of them."""

    kind: str
    target: str
    flags: int
    options: str = ""
    make: bool = False  # the directory is made first


class BindDevice(NamedTuple):
    name: str
    major: int
    minor: int


class MakeLink(NamedTuple):
    path: str
    target: str


class Mask(NamedTuple):
    path: str


class MakeReadOnly(NamedTuple):
    path: str


class LimitPids(NamedTuple):
    """Lower the greatest process number of the pid namespace."""

    pid_max: int


class SetSysctl(NamedTuple):
    """Write a kernel setting of the sandbox's own namespaces."""

    name: str
    value: str


class ShowShm(NamedTuple):
    """Show the shared memory of another sandbox, or of the host, at /dev/shm."""


class ShowDevice(NamedTuple):
    device: Device


class Show(NamedTuple):
    """Carry out a mount of the specification, the one with this `number`."""

    mount: Mount
    number: int


MountOp = (
    Detach
    | Generate
    | MountOverlay
    | MountRoot
    | MountFilesystem
    | BindDevice
    | MakeLink
    | Mask
    | MakeReadOnly
    | LimitPids
    | SetSysctl
    | ShowShm
    | ShowDevice
    | Show
)


def plan(
    spec: SandboxSpec,
    host: Host,
    is_directory: Callable[[BindMount], bool] | None = None,
) -> list[MountOp]:
    """What has to be mounted, in order. Pure, but for a look at the sources of bind mounts.

    Args:
        is_directory: looks instead.
    """
    look = is_directory or source_is_directory
    # As in Docker, a mount on /a comes before one on /a/b, whoever was written first.
    mounts = sorted(spec.mounts, key=lambda mount: len(_parts(mount.target)))
    targets = [(top, True) for top in _OWN_TOPS]
    targets += [(mount.target, _has_directory(mount, look)) for mount in mounts]
    operations: list[MountOp] = [Detach()]
    if any(isinstance(mount, FileMount) for mount in mounts):
        operations.append(Generate())
    operations += [
        MountOverlay(overlay=mount.overlay, number=number, userxattr=host.user_namespace)
        for number, mount in enumerate(mounts)
        if isinstance(mount, OverlayMount)
    ]
    operations.append(
        MountRoot(
            root=spec.root,
            targets=tuple(targets),
            userxattr=host.user_namespace,
            devices=spec.unmasked,
        )
    )
    operations += _plan_kernel_views(spec, host)
    operations += _plan_devices(spec, host)
    operations += [Show(mount=mount, number=number) for number, mount in enumerate(mounts)]
    operations += [ShowDevice(device=device) for device in spec.devices]
    return operations


def _has_directory(mount: Mount, look: Callable[[BindMount], bool]) -> bool:
    """Whether the target of a mount has to be a directory."""
    match mount:
        case BindMount():
            return look(mount)
        case OverlayMount(is_directory=is_directory):
            return is_directory
        case TmpfsMount():
            return True
        case FileMount():
            return False


def _plan_kernel_views(spec: SandboxSpec, host: Host) -> list[MountOp]:
    read_only = _NOTHING if spec.unmasked else _NOTHING | syscalls.MS_RDONLY
    greatest_pid = cgroups.pid_max(spec.limits) if host.own_pid_max else None
    if spec.namespaces.pid != "private":
        greatest_pid = None  # it would be that of others
    throttles = [f"/sys/devices/system/cpu/{cpu}/thermal_throttle" for cpu in host.throttled_cpus]
    groups: list[MountOp]
    if host.unified_cgroups:
        groups = [MountFilesystem(kind="cgroup2", target="/sys/fs/cgroup", flags=read_only)]
    elif not host.cgroup_controllers:
        groups = [
            MountFilesystem(
                kind="tmpfs", target="/sys/fs/cgroup", flags=read_only, options="mode=755"
            )
        ]
    else:
        top = "/sys/fs/cgroup"
        groups = [
            MountFilesystem(kind="tmpfs", target=top, flags=_NOTHING, options="mode=755"),
            *(
                MountFilesystem(
                    kind="cgroup",
                    target=f"{top}/{name}",
                    flags=read_only,
                    options=name,
                    make=True,
                )
                for name in host.cgroup_controllers
            ),
            *(() if spec.unmasked else (MakeReadOnly(path=top),)),
        ]
    hidden = [Mask(path=path) for path in (*MASKED, *throttles)]
    fixed = [MakeReadOnly(path=path) for path in READ_ONLY]
    return [
        MountFilesystem(kind="proc", target="/proc", flags=_NOTHING),
        *(() if greatest_pid is None else (LimitPids(pid_max=greatest_pid),)),
        *(SetSysctl(name=name, value=value) for name, value in spec.sysctls),
        MountFilesystem(kind="sysfs", target="/sys", flags=read_only),
        *groups,
        *(() if spec.unmasked or not spec.hide_system_paths else (*hidden, *fixed)),
    ]


def _plan_devices(spec: SandboxSpec, host: Host) -> list[MountOp]:
    pts = "newinstance,ptmxmode=0666,mode=0620" + (",gid=5" if host.has_tty_group else "")
    shm = f"mode=1777,size={spec.shm_size_bytes}"
    taken = {mount.target for mount in spec.mounts}
    if spec.namespaces.ipc == "private" and not spec.shm_size_bytes:
        taken.add("/dev/shm")
    own_shm = MountFilesystem(
        kind="tmpfs", target="/dev/shm", flags=_NOTHING, options=shm, make=True
    )
    own = {
        "/dev/shm": own_shm if spec.namespaces.ipc == "private" else ShowShm(),
        "/dev/mqueue": MountFilesystem(
            kind="mqueue", target="/dev/mqueue", flags=_NOTHING, make=True
        ),
    }
    extra = {device.target for device in spec.devices}
    return [
        MountFilesystem(
            kind="tmpfs",
            target="/dev",
            flags=syscalls.MS_NOSUID if spec.unmasked else _NO_DEVICES,
            options="mode=755,size=64m",
        ),
        *(
            BindDevice(name=name, major=major, minor=minor)
            for name, (major, minor) in DEVICES.items()
            if f"/dev/{name}" not in extra
        ),
        *(MakeLink(path=f"/dev/{name}", target=target) for name, target in LINKS.items()),
        # No nodev: the terminals in it are devices, and nothing else can be made there.
        MountFilesystem(
            kind="devpts",
            target="/dev/pts",
            flags=syscalls.MS_NOSUID | syscalls.MS_NOEXEC,
            options=pts,
            make=True,
        ),
        *(operation for target, operation in own.items() if target not in taken),
    ]


def describe(operation: MountOp) -> str:
    """One line for `--debug`."""
    match operation:
        case Detach():
            return "make all mounts private"
        case Generate():
            return "mount a tmpfs for generated files"
        case MountOverlay(overlay=overlay):
            return f"mount an overlay of {len(overlay.lowerdirs)} layers on {overlay.upperdir}"
        case MountRoot(root=root):
            if isinstance(root, PlainRoot):
                return f"bind {root.path} as the root"
            return f"mount an overlay of {len(root.lowerdirs)} layers on {root.upperdir}"
        case MountFilesystem(kind=kind, target=target):
            return f"mount {kind} on {target}"
        case BindDevice(name=name):
            return f"bind the host's /dev/{name}"
        case MakeLink(path=path, target=target):
            return f"link {path} to {target}"
        case Mask(path=path):
            return f"mask {path}"
        case MakeReadOnly(path=path):
            return f"make {path} read-only"
        case LimitPids(pid_max=pid_max):
            return f"limit process numbers to {pid_max}"
        case SetSysctl(name=name, value=value):
            return f"set the sysctl {name} to {value!r}"
        case ShowShm():
            return "show somebody else's shared memory on /dev/shm"
        case ShowDevice(device=device):
            return f"show the device {device.source} at {device.target}"
        case Show(mount=BindMount() as mount):
            how = " read-only" if mount.read_only else ""
            return f"bind {mount.source / mount.source_beneath} on {mount.target}{how}"
        case Show(mount=OverlayMount() as mount):
            how = " read-only" if mount.read_only else ""
            return f"show an overlay's /{mount.source_beneath} on {mount.target}{how}"
        case Show(mount=TmpfsMount(target=target)):
            return f"mount tmpfs on {target}"
        case Show(mount=mount):
            return f"show a generated file at {mount.target}"


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


# From here on the kernel is changed.


def stubs_of(root: OverlayRoot) -> Path:
    """The directory that holds an overlay's missing mount targets while it is mounted."""
    return root.workdir.with_name(root.workdir.name + ".stubs")


@dataclass(slots=True, kw_only=True)
class Stage:
    """The new root while it is being built, seen from the host's side.

    `made` lists, after all operations, the stubs that had to be made in the root itself.
    """

    attach: bytes  # path of the attach point
    covered_fd: int  # the same directory, opened before anything covers it
    shm_fd: int = -1  # of a mount of shared memory, detached, for `ShowShm`; else the host's
    root_fd: int = -1
    made: list[str] = field(default_factory=list)
    _generated_fd: int = -1
    _overlay_fds: dict[int, int] = field(default_factory=dict)  # of OverlayMounts, by number
    _tops: dict[str, int] = field(default_factory=dict)  # descriptors of /proc, /sys, /dev, ...
    _null_fd: int = -1

    @classmethod
    def of(cls, root: Root) -> "Stage":
        """Where `root` will be built."""
        path = root.workdir if isinstance(root, OverlayRoot) else root.path
        return cls(attach=os.fsencode(path), covered_fd=os.open(path, _PATH | os.O_DIRECTORY))

    def perform(self, operation: MountOp) -> None:
        """Carry out one operation.

        Raises:
            OSError: the kernel said no.
            SandboxError: the root is not fit for it.
        """
        match operation:
            case MountFilesystem():
                self._mount_filesystem(operation)
            case BindDevice():
                self._bind_device(operation)
            case MakeLink(path=path, target=target):
                top_fd, name = self._split(path)
                os.symlink(target, name, dir_fd=top_fd)
            case Mask(path=path):
                self._mask(path)
            case MakeReadOnly(path=path):
                self._make_read_only(path)
            case LimitPids(pid_max=pid_max):
                self._limit_pids(pid_max)
            case SetSysctl(name=name, value=value):
                self._set_sysctl(name, value)
            case ShowShm():
                self._show_shm()
            case ShowDevice(device=device):
                self._show_device(device)
            case Show():
                self._show(operation)
            case MountRoot():
                self._mount_root(operation)
            case MountOverlay(overlay=overlay, number=number, userxattr=userxattr):
                self._overlay_fds[number] = self._mount_own_overlay(overlay, userxattr=userxattr)
            case Generate():
                self._generated_fd = self._attach(b"tmpfs", _NO_DEVICES, b"mode=755")
            case Detach():
                syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)

    def open(self, path: str, flags: int = _PATH) -> int:
        """Open a name inside the root, as a program in it would."""
        return open_in_root(self.root_fd, path, flags)

    def open_own(self, path: str, flags: int = _PATH) -> int:
        """Open a name inside one of our own mounts; no link is followed."""
        top_fd, rest = self._split(path)
        return open_beneath(top_fd, rest, flags)

    def show_console(self, terminal_fd: int) -> None:
        """Show the program's terminal as /dev/console."""
        flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target_fd = os.open("console", flags, 0o600, dir_fd=self._dev_fd)
        bind(terminal_fd, target_fd, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
        os.close(target_fd)

    def make_root_read_only(self) -> None:
        """From now on nothing of the root can be changed; mounts in it are as they are."""
        syscalls.mount_setattr(self.root_fd, syscalls.MOUNT_ATTR_RDONLY)

    def enter(self) -> None:
        """Make the root this process's root and let go of the host's file systems."""
        os.fchdir(self.root_fd)
        # pivot_root(2) NOTES: with ".", "." the old root ends up on top of the new one.
        syscalls.pivot_root(b".", b".")
        syscalls.umount(b".")
        os.chdir("/")

    def _attach(self, kind: bytes, flags: int, options: bytes) -> int:
        """Mount at the attach point, over what is there already. Returns its root."""
        syscalls.mount(kind, self.attach, kind, flags, options)
        return os.open(self.attach, _PATH | os.O_DIRECTORY)

    def _split(self, path: str) -> tuple[int, str]:
        """The innermost mount of ours that holds `path`, and the name in it."""
        top = path
        while top not in self._tops:
            top = top[: top.rindex("/")]
        return self._tops[top], path[len(top) + 1 :] or "."

    def _mount_root(self, operation: MountRoot) -> None:
        match operation.root:
            case OverlayRoot() as root:
                self._mount_overlay(root, operation)
            case PlainRoot():
                self._bind_root(operation)

    def _bind_root(self, operation: MountRoot) -> None:
        # In a user namespace what lies below may be locked to it and must come along.
        recursive = syscalls.AT_RECURSIVE if operation.userxattr else 0
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | recursive
        tree_fd = syscalls.open_tree(self.covered_fd, b"", flags)
        if not operation.devices:
            syscalls.mount_setattr(tree_fd, syscalls.MOUNT_ATTR_NODEV, flags=recursive)
        attach_fd = os.open(self.attach, _PATH | os.O_DIRECTORY)
        syscalls.move_mount(tree_fd, attach_fd)
        self.root_fd = tree_fd
        for place, is_directory in missing(tree_fd, operation.targets):
            self.made += make_real(tree_fd, place, is_directory=is_directory)

    def _mount_overlay(self, root: OverlayRoot, operation: MountRoot) -> None:
        lower_fds = [os.open(path, _PATH | os.O_DIRECTORY) for path in root.lowerdirs]
        upper_fd = os.open(root.upperdir, _PATH | os.O_DIRECTORY)
        work_fd = self.covered_fd
        _forget_volatile(work_fd)
        probe_fd = self._probe(lower_fds, upper_fd, root, userxattr=operation.userxattr)
        stubs = missing(probe_fd, operation.targets)
        if stubs:
            directory = stubs_of(root)
            make_stubs(directory, probe_fd, stubs)
            lower_fds.insert(0, os.open(directory, _PATH | os.O_DIRECTORY))
        options = _overlay_options(root, upper_fd, work_fd, userxattr=operation.userxattr)
        flags = 0 if operation.devices else syscalls.MS_NODEV
        self.root_fd = self._overlay(lower_fds, options, flags)
        for fd in (*lower_fds, upper_fd, work_fd, probe_fd):
            os.close(fd)

    def _mount_own_overlay(self, overlay: OverlayRoot, *, userxattr: bool) -> int:
        lower_fds = [os.open(path, _PATH | os.O_DIRECTORY) for path in overlay.lowerdirs]
        upper_fd = os.open(overlay.upperdir, _PATH | os.O_DIRECTORY)
        work_fd = os.open(overlay.workdir, _PATH | os.O_DIRECTORY)
        _forget_volatile(work_fd)
        options = _overlay_options(overlay, upper_fd, work_fd, userxattr=userxattr)
        mount_fd = self._overlay(lower_fds, options, syscalls.MS_NODEV)
        for fd in (*lower_fds, upper_fd, work_fd):
            os.close(fd)
        return mount_fd

    def _probe(
        self, lower_fds: list[int], upper_fd: int, root: OverlayRoot, *, userxattr: bool
    ) -> int:
        """The root without stubs, to look for what is missing in it.

        It is the lower directory where there is but one, else an overlay that cannot be written;
        that one stays where it is, below the root, and goes with the attach point.
        """
        with os.scandir(root.upperdir) as entries:
            fds = [upper_fd, *lower_fds] if next(entries, None) else lower_fds
        if len(fds) == 1:
            return os.dup(fds[0])
        options = [("userxattr", "")] if userxattr else []
        return self._overlay(fds, options, syscalls.MS_RDONLY)

    def _overlay(self, lower_fds: list[int], options: list[tuple[str, str]], flags: int) -> int:
        """Layers go by descriptor: short enough for one page, and no host path shows inside."""
        lowerdir = ":".join(map(_name, lower_fds))
        words = [f"{key}={value}" if value else key for key, value in options]
        text = ",".join([f"lowerdir={lowerdir}", *words]).encode()
        if len(text) < _OPTIONS_MAX_BYTES:
            return self._attach(b"overlay", flags, text)
        fs_fd = syscalls.fsopen(b"overlay")
        try:
            for fd in lower_fds:
                syscalls.fsconfig(fs_fd, b"lowerdir+", _name(fd).encode())
            for key, value in options:
                syscalls.fsconfig(fs_fd, key.encode(), value.encode() if value else None)
            attributes = syscalls.MOUNT_ATTR_NODEV if flags & syscalls.MS_NODEV else 0
            if flags & syscalls.MS_RDONLY:
                attributes |= syscalls.MOUNT_ATTR_RDONLY
            mount_fd = syscalls.fsmount(fs_fd, attributes)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise UnsupportedHostError(
                feature=f"an overlay of {len(lower_fds)} layers",
                reason="more than about 200 need Linux 6.8",
                errno=error.errno,
            ) from error
        finally:
            os.close(fs_fd)
        attach_fd = os.open(self.attach, _PATH | os.O_DIRECTORY)
        syscalls.move_mount(mount_fd, attach_fd)
        os.close(attach_fd)
        return mount_fd

    def _mount_filesystem(self, operation: MountFilesystem) -> None:
        target = operation.target
        if target in _OWN_TOPS:
            fd = self._open_top(target)
        else:
            top_fd, name = self._split(target)
            if operation.make:
                os.mkdir(name, 0o755, dir_fd=top_fd)
            fd = open_beneath(top_fd, name, _PATH | os.O_DIRECTORY)
        try:
            mount_fd = _new_filesystem(operation.kind, operation.flags, operation.options)
        except PermissionError:
            # In a user namespace these belong to whom the network, or the processes, belong to.
            if operation.kind not in ("sysfs", "proc", "mqueue"):
                raise
            if not os.access(target, os.F_OK):  # the host has no queues to show
                os.close(fd)
                return
            mount_fd = _copy_kernel_view(target)
        if (
            operation.kind in _MAGIC
            and syscalls.filesystem_type(mount_fd) != _MAGIC[operation.kind]
        ):
            raise SandboxError(phase=f"mount {target}", message="something else is in its place")
        syscalls.move_mount(mount_fd, fd)
        os.close(fd)
        if target in _OWN_TOPS or operation.kind == "tmpfs":
            self._tops[target] = mount_fd
        else:
            os.close(mount_fd)

    def _open_top(self, target: str) -> int:
        try:
            return open_beneath(self.root_fd, target[1:], _PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            what = "a symbolic link" if error.errno == errno.ELOOP else "not a directory"
            raise _unfit_root(target, what) from error

    def _bind_device(self, operation: BindDevice) -> None:
        name = operation.name
        try:
            device_fd = os.open(f"/dev/{name}", _PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # the host has no such device; programs are told the same
        status = os.fstat(device_fd)
        wanted = os.makedev(operation.major, operation.minor)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != wanted:
            raise UnsupportedHostError(
                feature=f"/dev/{name}",
                reason=f"it is not the device {operation.major}:{operation.minor}",
            )
        target_fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._dev_fd)
        bind(device_fd, target_fd, _DEVICE_ATTRIBUTES)
        os.close(target_fd)
        if name == "null":
            self._null_fd = device_fd
        else:
            os.close(device_fd)

    @property
    def _dev_fd(self) -> int:
        return self._tops["/dev"]

    def _mask(self, path: str) -> None:
        try:
            fd = self.open_own(path)
        except (FileNotFoundError, PermissionError):
            return
        self._check_kernel_view(fd, path)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            flags = _NOTHING | syscalls.MS_RDONLY
            mount_fd = _new_filesystem("tmpfs", flags, "mode=755,nr_blocks=1")
            syscalls.move_mount(mount_fd, fd)
            os.close(mount_fd)
        else:
            bind(self._open_null(), fd, _DEVICE_ATTRIBUTES)
        os.close(fd)

    def _open_null(self) -> int:
        if self._null_fd < 0:
            self._null_fd = os.open("/dev/null", _PATH | os.O_NOFOLLOW)
            status = os.fstat(self._null_fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
                raise UnsupportedHostError(feature="/dev/null", reason="it is not the device 1:3")
        return self._null_fd

    def _make_read_only(self, path: str) -> None:
        try:
            fd = self.open_own(path)
        except FileNotFoundError:
            return
        self._check_kernel_view(fd, path)
        bind(fd, fd, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
        os.close(fd)

    def _limit_pids(self, pid_max: int) -> None:
        try:
            fd = self.open_own("/proc/sys/kernel/pid_max", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, str(pid_max).encode())
            os.close(fd)
        except OSError:  # best effort; see cgroups
            pass

    def _set_sysctl(self, name: str, value: str) -> None:
        path = "/proc/sys/" + name.replace(".", "/")
        try:
            fd = self.open_own(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxError(
                phase=f"set the sysctl {name}",
                errno=error.errno or 0,
                message="this kernel has no such setting, or not for a namespace of its own",
            ) from error
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise SandboxError(
                phase=f"set the sysctl {name}",
                errno=error.errno or 0,
                message=f"the kernel does not take {value!r}: {error.strerror}",
            ) from error
        finally:
            os.close(fd)

    def _show_shm(self) -> None:
        os.mkdir("shm", 0o755, dir_fd=self._dev_fd)
        target_fd = open_beneath(self._dev_fd, "shm", _PATH | os.O_DIRECTORY)
        if self.shm_fd < 0:
            source_fd = os.open("/dev/shm", _PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            bind(source_fd, target_fd, _PLAIN_DATA)
            os.close(source_fd)
        else:
            syscalls.mount_setattr(self.shm_fd, _PLAIN_DATA)
            syscalls.move_mount(self.shm_fd, target_fd)
        os.close(target_fd)

    def _show_device(self, device: Device) -> None:
        """Differs: its mode and owner cannot be changed; Docker gives a node of the container's."""
        source_fd = open_device(device)
        parts = _parts(device.target)
        if parts[:1] == ["dev"] and len(parts) > 1:
            fd = self._make_device_target(parts[1:])
        else:
            fd = self._open_target(device.target, is_directory=False)
        bind(source_fd, fd, _DEVICE_ATTRIBUTES)
        os.close(fd)
        os.close(source_fd)

    def _make_device_target(self, parts: list[str]) -> int:
        """A place in our own /dev, in which nothing of the image is."""
        fd = os.dup(self._dev_fd)
        for part in parts[:-1]:
            _make_directory(part, fd)
            parent_fd, fd = fd, open_beneath(fd, part, _PATH | os.O_DIRECTORY)
            os.close(parent_fd)
        try:
            _make_file(parts[-1], fd)
            return open_beneath(fd, parts[-1], _PATH)
        finally:
            os.close(fd)

    def _check_kernel_view(self, fd: int, path: str) -> None:
        kinds = (_MAGIC["proc"],) if path.startswith("/proc") else (_MAGIC["sysfs"],)
        if path == "/sys/fs/cgroup":
            kinds = (_MAGIC["tmpfs"],)
        if syscalls.filesystem_type(fd) not in kinds:
            raise SandboxError(phase=f"mask {path}", message="something else is in its place")

    def _show(self, operation: Show) -> None:
        mount = operation.mount
        match mount:
            case TmpfsMount():
                fd = self._open_target(mount.target, is_directory=True)
                mount_fd = _new_tmpfs(mount)
                syscalls.move_mount(mount_fd, fd)
                os.close(mount_fd)
            case FileMount():
                source_fd = self._generate(mount, operation.number)
                fd = self._open_target(mount.target, is_directory=False)
                nosuid = syscalls.MOUNT_ATTR_NOSUID
                _show_source(source_fd, fd, read_only=mount.read_only, attributes=nosuid)
            case BindMount():
                source_fd = open_source(mount)
                is_directory = stat.S_ISDIR(os.fstat(source_fd).st_mode)
                fd = self._open_target(mount.target, is_directory=is_directory)
                _show_source(source_fd, fd, read_only=mount.read_only, recursive=mount.recursive)
            case OverlayMount():
                top_fd = self._overlay_fds[operation.number]
                source_fd = open_beneath(top_fd, mount.source_beneath or ".", _PATH)
                fd = self._open_target(mount.target, is_directory=mount.is_directory)
                _show_source(source_fd, fd, read_only=mount.read_only)
        os.close(fd)

    def _generate(self, mount: FileMount, number: int) -> int:
        name = str(number)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._generated_fd)
        view = memoryview(mount.content)
        while view:
            view = view[os.write(fd, view) :]
        if mount.uid or mount.gid:
            _give(fd, mount)
        os.fchmod(fd, mount.mode)
        os.close(fd)
        return os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=self._generated_fd)

    def _open_target(self, target: str, *, is_directory: bool) -> int:
        phase = f"mount {target}"
        if not target.startswith("/") or not _parts(target):
            raise SandboxError(phase=phase, message="a mount target is an absolute path below /")
        try:
            fd = self.open(target)
        except FileNotFoundError:  # below another mount, or hidden by a used upper directory
            place = locate(self.root_fd, target)
            if syscalls.filesystem_type(self._open_existing(place)) in _kernel_magics():
                raise _forbidden_target(phase) from None
            try:
                self.made += make_real(self.root_fd, place, is_directory=is_directory)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                raise SandboxError(
                    phase=phase,
                    errno=errno.EROFS,
                    message=f"/{place.path} is not there, and what is mounted above is read-only",
                    hint="make it there, or let that mount be written to",
                ) from error
            fd = self.open(target)
        if syscalls.filesystem_type(fd) in _kernel_magics():
            raise _forbidden_target(phase)
        if stat.S_ISDIR(os.fstat(fd).st_mode) != is_directory:
            raise SandboxError(
                phase=phase,
                message="it is a directory" if not is_directory else "it is not a directory",
                hint="a file can only be mounted on a file, and a directory on a directory",
            )
        return fd

    def _open_existing(self, place: Place) -> int:
        done = "/".join(place.parts[: place.existing])
        return open_beneath(self.root_fd, done or ".", _PATH)


def _overlay_options(
    root: OverlayRoot, upper_fd: int, work_fd: int, *, userxattr: bool
) -> list[tuple[str, str]]:
    # Nothing a layer says may redirect: not followed, and not made either.
    # Differs: xino stays off, so that what programs see does not hang on the file system.
    options = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")]
    if userxattr:
        options = [("userxattr", ""), ("index", "off")]  # implies the other two
    else:
        options.append(("xino", "off"))
    if root.volatile:
        options.append(("volatile", ""))
    return [*options, ("upperdir", _name(upper_fd)), ("workdir", _name(work_fd))]


def missing(root_fd: int, targets: tuple[tuple[str, bool], ...]) -> list[tuple[Place, bool]]:
    """Those mount targets that the root lacks, but for those inside of another mount."""
    covered: list[str] = []
    found = []
    for target, is_directory in targets:
        place = locate(root_fd, target)
        if target in _OWN_TOPS and place.path != target[1:]:
            raise _unfit_root(target, "a symbolic link")
        if not place.path:
            raise SandboxError(phase=f"mount {target}", message="the root itself is no target")
        if target not in _OWN_TOPS and place.parts[0] in ("proc", "sys"):
            raise _forbidden_target(f"mount {target}")
        if any(place.path == top or place.path.startswith(f"{top}/") for top in covered):
            continue
        if not place.is_there:
            found.append((place, is_directory))
        covered.append(place.path)
    return found


def make_stubs(directory: Path, root_fd: int, stubs: list[tuple[Place, bool]]) -> None:
    """Make a layer that consists of `stubs`; directories of the root keep their attributes."""
    remove_stubs(directory)  # of a sandbox that was killed
    directory.mkdir(0o755)
    top_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    repeated: list[tuple[int, os.stat_result]] = []
    for place, is_directory in stubs:
        parts = place.parts
        fd = top_fd
        for depth, part in enumerate(parts[:-1], 1):
            is_new = _make_directory(part, fd)
            parent_fd, fd = fd, open_beneath(fd, part, os.O_RDONLY | os.O_DIRECTORY)
            if is_new and depth <= place.existing:
                original_fd = open_beneath(
                    root_fd, "/".join(parts[:depth]), os.O_RDONLY | os.O_DIRECTORY
                )
                repeated.append((os.dup(fd), _repeat_attributes(original_fd, fd)))
                os.close(original_fd)
            if parent_fd != top_fd:
                os.close(parent_fd)
        if is_directory:
            _make_directory(parts[-1], fd)
        else:
            _make_file(parts[-1], fd)
        if fd != top_fd:
            os.close(fd)
    for fd, status in repeated:  # last, because what was made inside changed them
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.close(fd)
    os.close(top_fd)


def make_real(root_fd: int, place: Place, *, is_directory: bool) -> list[str]:
    """Make a missing mount target in the root itself. Returns what was made, outermost first."""
    parts = place.parts
    fd = open_beneath(root_fd, "/".join(parts[: place.existing]) or ".", _PATH | os.O_DIRECTORY)
    made = []
    for depth in range(place.existing + 1, len(parts) + 1):
        name = parts[depth - 1]
        is_last = depth == len(parts)
        if is_last and not is_directory:
            _make_file(name, fd)
            made.append("/".join(parts))
        elif _make_directory(name, fd):  # else another target has made it by now
            made.append("/".join(parts[:depth]))
        if not is_last:
            parent_fd, fd = fd, open_beneath(fd, name, _PATH | os.O_DIRECTORY)
            os.close(parent_fd)
    os.close(fd)
    return made


def remove_made(directory: Path, made: tuple[str, ...]) -> None:
    """Take away what `make_real` made, as far as it is still empty."""
    if not made:
        return
    try:
        root_fd = os.open(directory, _PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    for path in reversed(made):
        parent, _, name = path.rpartition("/")
        try:
            fd = open_beneath(root_fd, parent or ".", _PATH | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=fd)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(name, dir_fd=fd)
        except OSError:  # in use now, or gone
            pass
        os.close(fd)
    os.close(root_fd)


def remove_stubs(directory: Path) -> None:
    """Remove a layer of stubs. It holds directories and empty files of our own making only."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    _empty_directory(fd)
    os.close(fd)
    directory.rmdir()


def _empty_directory(fd: int) -> None:
    """However deep it is: what is in a directory is lifted out of it, then it goes."""
    while names := os.listdir(fd):
        for name in names:
            try:
                below_fd = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
                )
            except NotADirectoryError:
                os.unlink(name, dir_fd=fd)
                continue
            for below in os.listdir(below_fd):  # noqa: PTH208 - a descriptor, not a path
                os.rename(below, os.urandom(16).hex(), src_dir_fd=below_fd, dst_dir_fd=fd)
            os.close(below_fd)
            os.rmdir(name, dir_fd=fd)


def _forget_volatile(work_fd: int) -> None:
    """Let a workdir be used again: overlayfs refuses one that was mounted volatile before.

    Whether its upperdir is still whole is for the owner to know, who asked for `volatile`.
    """
    for path in ("work/incompat/volatile/dirty", "work/incompat/volatile", "work/incompat"):
        parent, _, name = path.rpartition("/")
        try:
            fd = open_beneath(work_fd, parent, _PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            os.rmdir(name, dir_fd=fd)
        except NotADirectoryError:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass
        os.close(fd)


def _make_directory(name: str, dir_fd: int) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=dir_fd)
    except FileExistsError:
        return False
    return True


def _make_file(name: str, dir_fd: int) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o644, dir_fd=dir_fd))


def _new_tmpfs(mount: TmpfsMount) -> int:
    """A file system in memory that is mounted nowhere yet, and whose root is given away."""
    flags = _NO_DEVICES | (syscalls.MS_NOEXEC if mount.no_exec else 0)
    read_only = syscalls.MS_RDONLY if mount.read_only else 0
    if not mount.uid and not mount.gid:
        return _new_filesystem("tmpfs", flags | read_only, mount.options)
    mount_fd = _new_filesystem("tmpfs", flags, replace(mount, uid=0, gid=0).options)
    top_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
    _give(top_fd, mount)
    os.close(top_fd)
    if mount.read_only:
        syscalls.mount_setattr(mount_fd, syscalls.MOUNT_ATTR_RDONLY)
    return mount_fd


def _give(fd: int, mount: FileMount | TmpfsMount) -> None:
    """Give a file to the owner of its mount; one who does not exist here is recorded."""
    try:
        try:
            os.fchown(fd, mount.uid, mount.gid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            owned = ownerattribute.Owned(mount.uid, mount.gid)
            os.setxattr(fd, ownerattribute.OWNER_XATTR, ownerattribute.encode(owned))
    except OSError as error:
        raise SandboxError(
            phase=f"give {mount.target} to {mount.uid}:{mount.gid}",
            errno=error.errno or 0,
            hint="without subordinate ids (/etc/subuid, /etc/subgid) there is only root",
        ) from error


def _repeat_attributes(original_fd: int, fd: int) -> os.stat_result:
    status = os.fstat(original_fd)
    try:
        os.fchown(fd, status.st_uid, status.st_gid)
    except OSError:  # an owner that does not exist in this user namespace
        pass
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(original_fd):
        if ".overlay." in name:
            continue
        try:
            os.setxattr(fd, name, os.getxattr(original_fd, name))
        except OSError:  # an attribute that cannot be set cannot be lost by copying up either
            pass
    return status


def bind(source_fd: int, target_fd: int, attributes: int, *, recursive: bool = False) -> None:
    """Show what one descriptor means at another."""
    tree_fd = _copy_tree(source_fd, attributes, recursive=recursive)
    syscalls.move_mount(tree_fd, target_fd)
    os.close(tree_fd)


def _copy_tree(source_fd: int, attributes: int, *, recursive: bool) -> int:
    depth = syscalls.AT_RECURSIVE if recursive else 0
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | depth
    tree_fd = syscalls.open_tree(source_fd, b"", flags)
    syscalls.mount_setattr(tree_fd, attributes, flags=depth)
    return tree_fd


def _show_source(
    source_fd: int, target_fd: int, *, read_only: bool, attributes: int = 0, recursive: bool = False
) -> None:
    """Bind what was opened, which is closed, onto a target. No device in it can be opened."""
    attributes |= syscalls.MOUNT_ATTR_NODEV
    if read_only:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    bind(source_fd, target_fd, attributes, recursive=recursive)
    os.close(source_fd)


def _new_filesystem(kind: str, flags: int, options: str) -> int:
    """A file system that is mounted nowhere yet; `flags` are those of mount(2)."""
    fs_fd = syscalls.fsopen(kind.encode())
    try:
        syscalls.fsconfig(fs_fd, b"source", kind.encode())
        for option in (*options.split(","), "ro" if flags & syscalls.MS_RDONLY else ""):
            if option:
                key, equals, value = option.partition("=")
                syscalls.fsconfig(fs_fd, key.encode(), value.encode() if equals else None)
        return syscalls.fsmount(fs_fd, flags)  # MS_RDONLY, NOSUID, NODEV, NOEXEC: the same bits
    finally:
        os.close(fs_fd)


def _copy_kernel_view(path: str) -> int:
    """The host's own /sys, which cannot be written, /proc or /dev/mqueue."""
    source_fd = os.open(path, _PATH | os.O_DIRECTORY)
    attributes = _PLAIN_DATA | (syscalls.MOUNT_ATTR_RDONLY if path == "/sys" else 0)
    tree_fd = _copy_tree(source_fd, attributes, recursive=True)
    os.close(source_fd)
    return tree_fd


def open_device(device: Device) -> int:
    """The file of a device.

    Raises:
        SandboxError: it is none.
    """
    fd = os.open(device.source, _PATH)
    if stat.S_IFMT(os.fstat(fd).st_mode) not in (stat.S_IFCHR, stat.S_IFBLK):
        os.close(fd)
        raise SandboxError(
            phase=f"show the device {device.target}",
            message=f"{str(device.source)!r} is not a device",
        )
    return fd


def source_is_directory(mount: BindMount) -> bool:
    """What the target of a bind mount has to be."""
    fd = open_source(mount)
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def open_source(mount: BindMount) -> int:
    """What a bind mount shows.

    Raises:
        SandboxError: there is no such thing.
    """
    try:
        fd = os.open(mount.source, _PATH)
        if not mount.source_beneath:
            return fd
        beneath_fd = open_in_root(fd, mount.source_beneath, _PATH)
    except OSError as error:
        where = mount.source / mount.source_beneath.lstrip("/")
        raise SandboxError(
            phase=f"mount {mount.target}",
            errno=error.errno or 0,
            message=f"source {str(where)!r}: {error.strerror}",
        ) from error
    os.close(fd)
    return beneath_fd


def _kernel_magics() -> tuple[int, ...]:
    return (_MAGIC["proc"], _MAGIC["sysfs"], _MAGIC["cgroup"], _MAGIC["cgroup2"])


def _forbidden_target(phase: str) -> SandboxError:
    return SandboxError(
        phase=phase,
        errno=errno.EPERM,
        message="mounts inside /proc and /sys are not allowed",
        hint="choose another target",
    )


def _unfit_root(target: str, what: str) -> SandboxError:
    return SandboxError(
        phase=f"mount {target}",
        message=f"{target} of the root is {what}",
        hint=f"{target} must be a directory, or missing",
    )


def _name(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
