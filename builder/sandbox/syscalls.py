"""System calls that Python does not offer, for x86_64 and aarch64; the only importer of ctypes.

Rules:
  - Every function raises OSError, takes descriptors as int and names as bytes, and does one call.
  - The library is opened as PyDLL: the interpreter lock is kept during a call. That is what makes
    `clone` safe here (the child owns the lock it was copied with), and it makes calls cheaper.
    Nothing that may block for long belongs into this file.
  - Constants carry the name of their header.

Sources: include/uapi/linux/{mount,sched,openat2,prctl,seccomp,capability,keyctl}.h,
asm/unistd_64.h, asm-generic/unistd.h.
"""

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

MACHINE = os.uname().machine

# Numbers from 424 on are the same everywhere; the older ones that libc does not wrap are listed.
_NUMBERS = {
    "x86_64": {
        "clone": 56,
        "capget": 125,
        "capset": 126,
        "pivot_root": 155,
        "rt_sigaction": 13,
        "keyctl": 250,
        "seccomp": 317,
        "execveat": 322,
        "statx": 332,
    },
    "aarch64": {
        "clone": 220,
        "capget": 90,
        "capset": 91,
        "pivot_root": 41,
        "rt_sigaction": 134,
        "keyctl": 219,
        "seccomp": 277,
        "execveat": 281,
        "statx": 291,
    },
}
_SYS = _NUMBERS.get(MACHINE, {})
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_PIDFD_GETFD = 438
_OPENAT2_TRIES = 100
_SYS_MOUNT_SETATTR = 442

# sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

# mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

# fcntl.h, openat2.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_SET_CHILD_SUBREAPER = 36
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
SECBIT_NOROOT_LOCKED = 1 | 2
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# seccomp.h
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32

_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1
_F_DUPFD_CLOEXEC = 1030
_F_ADD_SEALS = 1033
_F_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.PyDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack"),
            *("stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    )


class _Iovec(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("len", ctypes.c_size_t))


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", c_char_p))


# A foreign function object has one signature, and syscall(2) is variadic: one object per shape.
def _function(name: str, *argtypes: type, restype: type = c_int) -> "ctypes._FuncPointer":
    function = _libc[name]
    function.argtypes = argtypes
    function.restype = restype
    return function


_syscall_longs = _function("syscall", *[c_long] * 6, restype=c_long)
_clone = _function("syscall", c_long, c_ulong, c_void_p, c_void_p, c_void_p, c_void_p)
_clone3 = _function("syscall", c_long, c_void_p, c_ulong)
_mount = _function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _function("umount2", c_char_p, c_int)
_pivot_root = _function("syscall", c_long, c_char_p, c_char_p)
_openat2 = _function("syscall", c_long, c_int, c_char_p, c_void_p, c_ulong)
_open_tree = _function("syscall", c_long, c_int, c_char_p, c_uint)
_move_mount = _function("syscall", c_long, c_int, c_char_p, c_int, c_char_p, c_uint)
_mount_setattr = _function("syscall", c_long, c_int, c_char_p, c_uint, c_void_p, c_ulong)
_fsopen = _function("syscall", c_long, c_char_p, c_uint)
_fsconfig = _function("syscall", c_long, c_int, c_uint, c_char_p, c_char_p, c_int)
_execveat = _function("syscall", c_long, c_int, c_char_p, c_void_p, c_void_p, c_int)
_seccomp = _function("syscall", c_long, c_uint, c_uint, c_void_p)
_execve = _function("execve", c_char_p, c_void_p, c_void_p)
_process_vm_readv = _function(
    "process_vm_readv", c_int, c_void_p, c_ulong, c_void_p, c_ulong, c_ulong, restype=c_long
)
_statx = _function("syscall", c_long, c_int, c_char_p, c_int, c_uint, c_void_p)
_capset = _function("syscall", c_long, c_void_p, c_void_p)
_rt_sigaction = _function("syscall", c_long, c_int, c_void_p, c_void_p, ctypes.c_size_t)
_prctl = _function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prlimit = _function("prlimit", c_int, c_int, c_void_p, c_void_p)
_unshare = _function("unshare", c_int)
_timerfd_create = _function("timerfd_create", c_int, c_int)
_timerfd_settime = _function("timerfd_settime", c_int, c_int, c_void_p, c_void_p)
_setns = _function("setns", c_int, c_int)
_sethostname = _function("sethostname", c_char_p, ctypes.c_size_t)
_setdomainname = _function("setdomainname", c_char_p, ctypes.c_size_t)
_fcntl = _function("fcntl", c_int, c_int, c_int)
_ioctl_int = _function("ioctl", c_int, c_ulong, c_long)
_ioctl_buffer = _function("ioctl", c_int, c_ulong, c_void_p)
_fstatfs = _function("fstatfs", c_int, c_void_p)
_statfs_buffer = ctypes.create_string_buffer(256)


def _failure(name: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    if name is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), os.fsdecode(name))


def clone(flags: int, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork with new namespaces. Returns (pid, pidfd) to the parent and (0, -1) to the child.

    The caller must be single-threaded: unlike `os.fork`, nothing is told to the interpreter, which
    is right because nothing that it must know of has changed.
    """
    pidfd = c_int(-1)
    if cgroup_fd is None:
        pid = _clone(
            _SYS["clone"], flags | CLONE_PIDFD | _SIGCHLD, None, ctypes.byref(pidfd), None, None
        )
    else:
        arguments = _CloneArgs(
            flags=flags | CLONE_PIDFD | CLONE_INTO_CGROUP,
            pidfd=ctypes.addressof(pidfd),
            exit_signal=_SIGCHLD,
            cgroup=cgroup_fd,
        )
        pid = _clone3(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid < 0:
        raise _failure()
    return pid, pidfd.value if pid else -1


def set_signal_action(number: int, handler: int) -> None:
    """Set SIG_DFL (0) or SIG_IGN (1), also where the C library refuses to."""
    action = handler.to_bytes(8, "little") + bytes(24)  # no flags, restorer or mask
    if _rt_sigaction(_SYS["rt_sigaction"], number, action, None, 8):
        raise _failure()


def unshare(flags: int) -> None:
    if _unshare(flags):
        raise _failure()


def setns(fd: int, flags: int) -> None:
    if _setns(fd, flags):
        raise _failure()


def mount(
    source: bytes | None,
    target: bytes,
    kind: bytes | None,
    flags: int,
    data: bytes | None = None,
) -> None:
    if _mount(source, target, kind, flags, data):
        raise _failure()


def umount(target: bytes, flags: int = MNT_DETACH) -> None:
    if _umount2(target, flags):
        raise _failure(target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    if _pivot_root(_SYS["pivot_root"], new_root, put_old):
        raise _failure()


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open as openat2(2) does, again while it asks for that.

    EAGAIN means that something was renamed or mounted, anywhere on the machine, while a `..` was
    resolved.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_OPENAT2_TRIES):
        fd: int = _openat2(_SYS_OPENAT2, dir_fd, path, ctypes.byref(how), 24)
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise _failure(path)


def open_tree(dir_fd: int, path: bytes, flags: int) -> int:
    fd: int = _open_tree(_SYS_OPEN_TREE, dir_fd, path, flags | OPEN_TREE_CLOEXEC)
    if fd < 0:
        raise _failure(path)
    return fd


def move_mount(mount_fd: int, target_fd: int) -> None:
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    if _move_mount(_SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags):
        raise _failure()


def mount_setattr(mount_fd: int, attr_set: int, *, attr_clr: int = 0, flags: int = 0) -> None:
    attr = _MountAttr(attr_set, attr_clr, 0, 0)
    flags |= AT_EMPTY_PATH
    if _mount_setattr(_SYS_MOUNT_SETATTR, mount_fd, b"", flags, ctypes.byref(attr), 32):
        raise _failure()


def fsopen(kind: bytes) -> int:
    fd: int = _fsopen(_SYS_FSOPEN, kind, FSOPEN_CLOEXEC)
    if fd < 0:
        raise _failure()
    return fd


def fsconfig(fs_fd: int, key: bytes, value: bytes | None) -> None:
    """Set an option; None for one without a value."""
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    if _fsconfig(_SYS_FSCONFIG, fs_fd, command, key, value, 0):
        raise _failure(key)


def fsmount(fs_fd: int, attributes: int) -> int:
    """Create the file system and return a detached mount of it."""
    if _fsconfig(_SYS_FSCONFIG, fs_fd, _FSCONFIG_CMD_CREATE, None, None, 0):
        raise _failure()
    fd: int = _syscall_longs(_SYS_FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, attributes, 0, 0)
    if fd < 0:
        raise _failure()
    return fd


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    if _syscall_longs(_SYS_CLOSE_RANGE, first, 0xFFFFFFFF, 0, 0, 0) < 0:
        raise _failure()


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of the descriptor `fd` of another process, close-on-exec."""
    copy: int = _syscall_longs(_SYS_PIDFD_GETFD, pidfd, fd, 0, 0, 0)
    if copy < 0:
        raise _failure()
    return copy


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    result: int = _prctl(option, argument, second, 0, 0)
    if result < 0:
        raise _failure()
    return result


def set_process_name(name: bytes) -> None:
    """What `ps` calls this process (comm); at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name)
    _prctl(PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0)


def capset(permitted: int, effective: int, inheritable: int) -> None:
    """Set this process's capability sets; each is a bit mask."""
    header = (c_uint * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = (c_uint * 6)(
        *(effective & low, permitted & low, inheritable & low),
        *(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    if _capset(_SYS["capset"], ctypes.byref(header), ctypes.byref(data)):
        raise _failure()


def permitted_capabilities() -> int:
    """This process's permitted set, as a bit mask."""
    header = (c_uint * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (c_uint * 6)()
    if _capset(_SYS["capget"], ctypes.byref(header), ctypes.byref(data)):
        raise _failure()
    low: int = data[1]
    high: int = data[4]
    return low | high << 32


def prlimit(number: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Set a resource limit of this process, (soft, hard), where one is given. Returns the old."""
    old = (ctypes.c_uint64 * 2)()
    new = None if limits is None else ctypes.byref((ctypes.c_uint64 * 2)(*limits))
    if _prlimit(0, number, new, ctypes.byref(old)):
        raise _failure()
    return old[0], old[1]


def load_seccomp(program: bytes, flags: int = SECCOMP_FILTER_FLAG_SPEC_ALLOW) -> None:
    """Install a filter of struct sock_filter (8 bytes each) for this process and its children.

    Docker leaves speculation as it is: without its flag every program would run with SSBD.
    """
    fprog = _SockFprog(len(program) // 8, program)
    if _seccomp(_SYS["seccomp"], _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog)):
        raise _failure()


def load_seccomp_listener(program: bytes) -> int:
    """Install one more filter, whose questions come out of the descriptor that is returned.

    A question that has been received is not broken off by a signal that does not kill, where the
    kernel can do that (Linux 5.19).
    """
    fprog = _SockFprog(len(program) // 8, program)
    flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW | _SECCOMP_FILTER_FLAG_NEW_LISTENER
    for more in (_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0):
        fd: int = _seccomp(
            _SYS["seccomp"], _SECCOMP_SET_MODE_FILTER, flags | more, ctypes.byref(fprog)
        )
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise _failure()


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of another process's memory: as far as it can be read."""
    pages = []
    at, end = address, address + size
    while at < end:
        following = min((at | 0xFFF) + 1, end)
        pages.append(_Iovec(at, following - at))
        at = following
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = (_Iovec * len(pages))(*pages)
    count = _process_vm_readv(pid, ctypes.byref(local), 1, remote, len(pages), 0)
    if count < 0:
        raise _failure()
    return buffer.raw[:count]


def statx(path: bytes, flags: int, mask: int) -> bytes:
    """`struct statx` of a path, which is relative to the working directory."""
    buffer = ctypes.create_string_buffer(256)
    if _statx(_SYS["statx"], AT_FDCWD, path, flags, mask, buffer) < 0:
        raise _failure(path)
    return buffer.raw


def join_new_session_keyring() -> None:
    if _syscall_longs(_SYS["keyctl"], _KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) < 0:
        raise _failure()


def sethostname(name: bytes) -> None:
    if _sethostname(name, len(name)):
        raise _failure()


def setdomainname(name: bytes) -> None:
    if _setdomainname(name, len(name)):
        raise _failure()


def duplicate(fd: int, lowest: int) -> int:
    """A copy of `fd` with a number from `lowest` on, closed on exec."""
    result: int = _fcntl(fd, _F_DUPFD_CLOEXEC, lowest)
    if result < 0:
        raise _failure()
    return result


def seal(fd: int) -> None:
    """Make a memfd immutable."""
    if _fcntl(fd, _F_ADD_SEALS, _F_SEAL_ALL) < 0:
        raise _failure()


def ioctl(fd: int, request: int, argument: int) -> int:
    result: int = _ioctl_int(fd, request, argument)
    if result < 0:
        raise _failure()
    return result


def ioctl_bytes(fd: int, request: int, argument: bytes) -> bytes:
    """An ioctl on a structure; returns it as the kernel left it."""
    buffer = ctypes.create_string_buffer(argument, len(argument))
    if _ioctl_buffer(fd, request, buffer) < 0:
        raise _failure()
    return buffer.raw


def open_timer(seconds: int) -> int:
    """A descriptor that can be read, 8 bytes, again and again after so many seconds."""
    fd: int = _timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
    if fd < 0:
        raise _failure()
    times = (c_long * 4)(seconds, 0, seconds, 0)  # struct itimerspec
    if _timerfd_settime(fd, 0, ctypes.byref(times), None):
        os.close(fd)
        raise _failure()
    return fd


def filesystem_type(fd: int) -> int:
    """The magic number (linux/magic.h) of the file system `fd` is on."""
    if _fstatfs(fd, _statfs_buffer):
        raise _failure()
    return int.from_bytes(_statfs_buffer.raw[:8], "little")


class Arguments:
    """argv and envp in C form, made before fork so that nothing is left to do but the call."""

    def __init__(self, argv: list[bytes], env: list[bytes]) -> None:
        self.argv = (c_char_p * (len(argv) + 1))(*argv, None)
        self.env = (c_char_p * (len(env) + 1))(*env, None)


def execve(path: bytes, arguments: Arguments) -> OSError:
    """Execute a file. Returns only when that failed."""
    _execve(path, arguments.argv, arguments.env)
    return _failure(path)


def execveat(fd: int, arguments: Arguments) -> OSError:
    """Execute what `fd` refers to. Returns only when that failed."""
    _execveat(_SYS["execveat"], fd, b"", arguments.argv, arguments.env, AT_EMPTY_PATH)
    return _failure()


def command_line_range() -> tuple[int, int]:
    """Where in memory this process's command line is (proc(5), stat fields 48 and 49)."""
    with open("/proc/self/stat", "rb", buffering=0) as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def overwrite_command_line(span: tuple[int, int], title: bytes) -> None:
    """Replace what /proc/PID/cmdline shows: the host's arguments are nobody's business inside."""
    start, end = span
    size = end - start
    if start and size > 0:
        title = title[: size - 1]
        ctypes.memmove(start, title + b"\0" * (size - len(title)), size)
