"""The system call filter: Docker's default allow list, compiled to classic BPF. Pure.

What a call gets:
    on the allow list                     allowed
    on it with a condition that fails     EPERM
    known, not on the list                EPERM
    clone3                                ENOSYS: its flags cannot be seen, libc falls back to clone
    unknown or younger than the table     ENOSYS: libc falls back to what it did before
    x32, other architectures              ENOSYS, the process is killed

The program is a binary search over ranges of numbers with the same answer, one tree per ABI. The
kernel runs it at every call, so depth counts (about nine comparisons); since Linux 5.11 calls that
are allowed whatever their arguments skip it altogether.

Which capabilities the program keeps decides on some calls, as in Docker.

Source: moby's profiles/seccomp/default_linux.go; struct seccomp_data in linux/seccomp.h.

Differs: 32-bit programs on x86_64 get no `socketcall`, whose arguments lie behind a pointer: it
would reopen AF_ALG and AF_VSOCK. 32-bit programs on aarch64 are not supported.
"""

import struct
from functools import cache
from typing import NamedTuple

from builder.sandbox import capabilities, syscalls, syscalltable

_ALLOWED = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list
getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link
linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv
msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl
semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority
setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr
setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn
socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
waitpid write writev
"""

_ALLOWED_X86 = "arch_prctl modify_ldt"
_ALLOWED_ARM = "sync_file_range2"

_ALLOWED_WITH = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie"
        " lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount"
        " open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog"
        " umount umount2 unshare"
    ),
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}; CLONE_NEWTIME cannot be given to clone (sched.h).
CLONE_NAMESPACES = 0x7E020000
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# bits/socket.h numbers; what is missing is gone from the kernel, but for AF_ALG 38 and AF_VSOCK 40.
SOCKET_DOMAINS = (
    *range(1, 12),
    *(13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39),
    *(41, 42, 43, 44, 45),
)

_EPERM, _ENOSYS = 1, 38

# linux/bpf_common.h: class | size or operation | mode or source
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_NOT_BELOW = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
# struct seccomp_data
_NR, _ARCH, _ARG0_LOW, _ARG0_HIGH = 0, 4, 16, 20
# linux/seccomp.h
_RET_KILL_PROCESS = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
# linux/audit.h
_AUDIT_ARCH_X86_64 = 0xC000003E
_AUDIT_ARCH_I386 = 0x40000003
_AUDIT_ARCH_AARCH64 = 0xC00000B7

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Code = list[Instruction]


class _Abi(NamedTuple):
    audit_arch: int
    table: str
    allowed: str


_ABIS = {
    "x86_64": (
        _Abi(
            audit_arch=_AUDIT_ARCH_X86_64,
            table=syscalltable.X86_64,
            allowed=_ALLOWED_X86,
        ),
        _Abi(audit_arch=_AUDIT_ARCH_I386, table=syscalltable.I386, allowed="modify_ldt"),
    ),
    "aarch64": (
        _Abi(
            audit_arch=_AUDIT_ARCH_AARCH64,
            table=syscalltable.AARCH64,
            allowed=_ALLOWED_ARM,
        ),
    ),
}


def program(capability_mask: int, machine: str = syscalls.MACHINE) -> bytes:
    """The filter for a program with these capabilities: an array of struct sock_filter."""
    return _compile(capability_mask & _deciding_mask(), machine)


def answers(capability_mask: int, abi: str) -> dict[str, str]:
    """What each known call of `abi` (x86_64, i386, aarch64) gets: allow, eperm, enosys, check.

    The readable form of the filter, for tests and for people.
    """
    names = {"x86_64": ("x86_64", 0), "i386": ("x86_64", 1), "aarch64": ("aarch64", 0)}
    machine, index = names[abi]
    words = {_allow(): "allow", _fail(_EPERM): "eperm", _fail(_ENOSYS): "enosys"}
    table = _answers(_ABIS[machine][index], capability_mask)
    return {name: words.get(tuple(code), "check") for name, (_, code) in table.items()}


@cache
def _deciding_mask() -> int:
    return capabilities.mask(frozenset(_ALLOWED_WITH))


@cache
def _compile(capability_mask: int, machine: str) -> bytes:
    code: Code = [(_RETURN, 0, 0, _RET_KILL_PROCESS)]
    for abi in reversed(_ABIS[machine]):
        body = [(_LOAD, 0, 0, _NR), *_search(_ranges(_answers(abi, capability_mask)))]
        # A conditional jump reaches 255 instructions, an unconditional one anything.
        choose = [(_JUMP_EQUAL, 1, 0, abi.audit_arch), (_JUMP, 0, 0, len(body))]
        code = [*choose, *body, *code]
    code = [(_LOAD, 0, 0, _ARCH), *code]
    return b"".join([struct.pack("=HBBI", *instruction) for instruction in code])


def _answers(abi: _Abi, capability_mask: int) -> dict[str, tuple[int, tuple[Instruction, ...]]]:
    """Name to (number, code that answers)."""
    numbers = syscalltable.parse(abi.table)
    answers: dict[str, tuple[Instruction, ...]] = dict.fromkeys(numbers, _fail(_EPERM))
    answers |= dict.fromkeys(_ALLOWED.split(), _allow())
    answers |= dict.fromkeys(abi.allowed.split(), _allow())
    answers["clone"] = _clone()
    answers["clone3"] = answers["socketcall"] = _fail(_ENOSYS)
    answers["personality"] = _one_of(PERSONALITIES)
    answers["socket"] = _one_of(SOCKET_DOMAINS)
    for name, words in _ALLOWED_WITH.items():
        if capabilities.mask(frozenset({name})) & capability_mask:
            answers |= dict.fromkeys(words.split(), _allow())
    return {name: (number, answers[name]) for name, number in numbers.items()}


def _ranges(
    answers: dict[str, tuple[int, tuple[Instruction, ...]]],
) -> list[tuple[int, tuple[Instruction, ...]]]:
    """(first number, code) of each range with one answer; the last one is open, and ENOSYS."""
    unknown = _fail(_ENOSYS)
    ranges = [(0, unknown)]
    after = 0
    for number, code in sorted(answers.values()):
        if number > after and ranges[-1][1] != unknown:
            ranges.append((after, unknown))
        if code != ranges[-1][1]:
            ranges.append((number, code))
        after = number + 1
    if ranges[-1][1] != unknown:
        ranges.append((after, unknown))
    if len(ranges) > 1 and ranges[1][0] == 0:
        del ranges[0]
    return ranges


def _search(ranges: list[tuple[int, tuple[Instruction, ...]]]) -> Code:
    """Find the range of the accumulator's value and run its code."""
    if len(ranges) == 1:
        return list(ranges[0][1])
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) <= 255:
        return [(_JUMP_NOT_BELOW, len(below), 0, ranges[middle][0]), *below, *above]
    far: Code = [(_JUMP_NOT_BELOW, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(below))]
    return [*far, *below, *above]


def _allow() -> tuple[Instruction, ...]:
    return ((_RETURN, 0, 0, _RET_ALLOW),)


def _fail(errno: int) -> tuple[Instruction, ...]:
    return ((_RETURN, 0, 0, _RET_ERRNO | errno),)


def _clone() -> tuple[Instruction, ...]:
    return (
        (_LOAD, 0, 0, _ARG0_LOW),
        (_JUMP_ANY_BIT, 0, 1, CLONE_NAMESPACES),
        *_fail(_EPERM),
        *_allow(),
    )


def _one_of(values: tuple[int, ...]) -> tuple[Instruction, ...]:
    """Allow the call when its first argument, all 64 bits of it, is one of `values`."""
    ranges = [(0, _fail(_EPERM))]
    for value in values:
        if ranges[-1][0] == value:
            ranges.pop()
        if not ranges or ranges[-1][1] != _allow():
            ranges.append((value, _allow()))
        if value < 0xFFFFFFFF:
            ranges.append((value + 1, _fail(_EPERM)))
    return (
        (_LOAD, 0, 0, _ARG0_HIGH),
        (_JUMP_EQUAL, 1, 0, 0),
        *_fail(_EPERM),
        (_LOAD, 0, 0, _ARG0_LOW),
        *_search(ranges),
    )
