"""System call filters, compiled to classic BPF: Docker's default allow list, or a profile. Pure.

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
would reopen AF_ALG and AF_VSOCK.

A profile (seccompprofile.py) is compiled as libseccomp and runc would have it:
    a rule without conditions      goes before those of the same call with conditions
    the first rule that holds      decides, whatever follows it
    no rule                        the profile's default
    younger than all of its calls  ENOSYS, unless the default allows
Differs: x32 calls get ENOSYS whatever the profile says; a rule for `socket` and the like does not
extend to `socketcall`, whose conditions could not be looked at.
"""

import struct
from functools import cache
from typing import NamedTuple

from builder.sandbox import capabilities, syscalls, syscalltable
from builder.sandbox.errors import SandboxError
from builder.sandbox.spec import SeccompArgument, SeccompProfile, SeccompRule

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
_ALLOWED_ARM = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"

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
_JUMP_ABOVE = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
# struct seccomp_data
_NR, _ARCH, _ARG0_LOW, _ARG0_HIGH = 0, 4, 16, 20
# linux/seccomp.h
_RET_KILL_PROCESS = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": _RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _RET_ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _RET_ALLOW,
}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_FLAGS = {"SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
_INSTRUCTIONS_MAX = 4096  # BPF_MAXINSNS
_X32_BIT = 0x40000000
# linux/audit.h
_AUDIT_ARCH_X86_64 = 0xC000003E
_AUDIT_ARCH_I386 = 0x40000003
_AUDIT_ARCH_AARCH64 = 0xC00000B7
_AUDIT_ARCH_ARM = 0x40000028

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Code = list[Instruction]


class _Abi(NamedTuple):
    name: str  # libseccomp's
    audit_arch: int
    table: str
    allowed: str
    is_wide: bool = True  # arguments have 64 bits


_ABIS = {
    "x86_64": (
        _Abi("SCMP_ARCH_X86_64", _AUDIT_ARCH_X86_64, syscalltable.X86_64, _ALLOWED_X86),
        _Abi("SCMP_ARCH_X86", _AUDIT_ARCH_I386, syscalltable.I386, "modify_ldt", is_wide=False),
    ),
    "aarch64": (
        _Abi("SCMP_ARCH_AARCH64", _AUDIT_ARCH_AARCH64, syscalltable.AARCH64, _ALLOWED_ARM),
        _Abi("SCMP_ARCH_ARM", _AUDIT_ARCH_ARM, syscalltable.ARM, _ALLOWED_ARM, is_wide=False),
    ),
}


def program(capability_mask: int, machine: str = syscalls.MACHINE) -> bytes:
    """The filter for a program with these capabilities: an array of struct sock_filter."""
    return _compile(capability_mask & _deciding_mask(), machine)


def answers(capability_mask: int, abi: str) -> dict[str, str]:
    """What each known call of `abi` (x86_64, i386, aarch64, arm) gets: allow, eperm, enosys, check.

    The readable form of the filter, for tests and for people.
    """
    names = {"x86_64": ("x86_64", 0), "i386": ("x86_64", 1), "aarch64": ("aarch64", 0)}
    names["arm"] = ("aarch64", 1)
    machine, index = names[abi]
    words = {_allow(): "allow", _fail(_EPERM): "eperm", _fail(_ENOSYS): "enosys"}
    table = _answers(_ABIS[machine][index], capability_mask)
    return {name: words.get(tuple(code), "check") for name, (_, code) in table.items()}


def compile_profile(profile: SeccompProfile, machine: str = syscalls.MACHINE) -> bytes:
    """The filter that a profile describes.

    Raises:
        SandboxError: it is too big for the kernel.
    """
    abis = [abi for abi in _ABIS[machine] if abi.name in profile.architectures]
    code = _for_each_abi([(abi, _search(_profile_ranges(abi, profile))) for abi in abis])
    if len(code) > _INSTRUCTIONS_MAX:
        raise SandboxError(
            phase="seccomp profile",
            message=f"it takes {len(code)} instructions, and the kernel takes {_INSTRUCTIONS_MAX}",
            hint="rules with many conditions make it long",
        )
    return _packed(code)


def profile_flags(profile: SeccompProfile) -> int:
    """The flags for seccomp(2). Without any, speculation is left as it is, as runc does."""
    if profile.flags is None:
        return syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW
    return sum(_FLAGS.get(flag, 0) for flag in set(profile.flags))


@cache
def init_program(machine: str = syscalls.MACHINE) -> bytes:
    """The filter for our own PID 1: the few calls it makes. A program may try to take it over."""
    abi = _ABIS[machine][0]
    numbers = syscalltable.parse(abi.table)
    allowed = {name: (numbers[name], _allow()) for name in _INIT_CALLS}
    return _packed(_for_each_abi([(abi, _search(_ranges(allowed, _fail(_EPERM))))]))


_INIT_CALLS = (
    *("prctl", "wait4", "rt_sigtimedwait", "kill", "write", "exit_group", "execveat"),
    "restart_syscall",
)


@cache
def _deciding_mask() -> int:
    return capabilities.mask(frozenset(_ALLOWED_WITH))


@cache
def _compile(capability_mask: int, machine: str) -> bytes:
    unknown = _fail(_ENOSYS)
    return _packed(
        _for_each_abi(
            [
                (abi, _search(_ranges(_answers(abi, capability_mask), unknown)))
                for abi in _ABIS[machine]
            ]
        )
    )


def _for_each_abi(bodies: list[tuple[_Abi, Code]]) -> Code:
    """Look at the ABI of a call first; others than these end the process."""
    code: Code = [(_RETURN, 0, 0, _RET_KILL_PROCESS)]
    for abi, search in reversed(bodies):
        body = [(_LOAD, 0, 0, _NR), *search]
        # A conditional jump reaches 255 instructions, an unconditional one anything.
        choose = [(_JUMP_EQUAL, 1, 0, abi.audit_arch), (_JUMP, 0, 0, len(body))]
        code = [*choose, *body, *code]
    return [(_LOAD, 0, 0, _ARCH), *code]


def _packed(code: Code) -> bytes:
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
    answers: dict[str, tuple[int, tuple[Instruction, ...]]], unknown: tuple[Instruction, ...]
) -> list[tuple[int, tuple[Instruction, ...]]]:
    """(first number, code) of each range with one answer; the last one is open, and `unknown`."""
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


def _profile_ranges(
    abi: _Abi, profile: SeccompProfile
) -> list[tuple[int, tuple[Instruction, ...]]]:
    numbers = syscalltable.parse(abi.table)
    otherwise = _act(profile.default_action, profile.default_errno)
    rules: dict[str, list[SeccompRule]] = {}
    for rule in profile.rules:
        for name in rule.names:
            if name in numbers:  # else a call of other machines, or a younger one
                rules.setdefault(name, []).append(rule)
    answers = {
        name: (numbers[name], _decide(of_call, otherwise, is_wide=abi.is_wide))
        for name, of_call in rules.items()
    }
    ranges = _ranges(answers, otherwise)
    after = max((numbers[name] for name in rules), default=-1) + 1
    if profile.default_action not in _PERMISSIVE:
        ranges = _end_with(ranges, after, _fail(_ENOSYS))
    if abi.audit_arch == _AUDIT_ARCH_X86_64:
        ranges = _end_with(ranges, _X32_BIT, _fail(_ENOSYS))
    return ranges


def _end_with(
    ranges: list[tuple[int, tuple[Instruction, ...]]], first: int, code: tuple[Instruction, ...]
) -> list[tuple[int, tuple[Instruction, ...]]]:
    """The same ranges below `first`, and one answer from there on."""
    kept = [(start, answer) for start, answer in ranges if start < first]
    if kept and kept[-1][1] == code:
        return kept
    return [*kept, (first, code)]


def _decide(
    rules: list[SeccompRule], otherwise: tuple[Instruction, ...], *, is_wide: bool
) -> tuple[Instruction, ...]:
    """The code for one call. Runs on its own only: it may clobber the accumulator."""
    sure = next((rule for rule in rules if not rule.arguments), None)
    if sure is not None:
        return _act(sure.action, sure.errno)
    code: list[Instruction] = []
    for rule in rules:
        answer = _act(rule.action, rule.errno)
        indexes = [argument.position for argument in rule.arguments]
        if len(indexes) == len(set(indexes)):
            code += _when(rule.arguments, answer, is_wide=is_wide)
            continue
        # Several conditions on one argument are alternatives, and then all of the rule's: runc.
        for argument in rule.arguments:
            code += _when((argument,), answer, is_wide=is_wide)
    return (*code, *otherwise)


def _act(action: str, errno: int | None) -> tuple[Instruction, ...]:
    data = (_EPERM if errno is None else errno) if action in _WITH_ERRNO else 0
    return ((_RETURN, 0, 0, _ACTIONS[action] | data),)


_HOLDS, _FAILS = -1, -2  # places to jump to: behind the condition, behind the rule


def _when(
    arguments: tuple[SeccompArgument, ...], answer: tuple[Instruction, ...], *, is_wide: bool
) -> list[Instruction]:
    """Answer when all of the conditions hold, else go on behind it."""
    code: list[Instruction] = []
    for argument in arguments:
        condition = _condition(argument) if is_wide else _narrow_condition(argument)
        code += _resolve(condition, _HOLDS)
    return _resolve([*code, *answer], _FAILS)


def _resolve(code: list[Instruction], place: int) -> list[Instruction]:
    """Turn jumps to `place` into jumps behind `code`."""
    end = len(code)
    return [
        (
            operation,
            end - at - 1 if if_true == place else if_true,
            end - at - 1 if if_false == place else if_false,
            constant,
        )
        for at, (operation, if_true, if_false, constant) in enumerate(code)
    ]


def _condition(argument: SeccompArgument) -> list[Instruction]:
    low, high = _ARG0_LOW + 8 * argument.position, _ARG0_HIGH + 8 * argument.position
    value_high, value_low = argument.value >> 32, argument.value & 0xFFFFFFFF
    load_high, load_low = (_LOAD, 0, 0, high), (_LOAD, 0, 0, low)
    match argument.operator:
        case "SCMP_CMP_EQ":
            first = (_JUMP_EQUAL, 0, _FAILS, value_high)
            return [load_high, first, load_low, (_JUMP_EQUAL, 0, _FAILS, value_low)]
        case "SCMP_CMP_NE":
            first = (_JUMP_EQUAL, 0, _HOLDS, value_high)
            return [load_high, first, load_low, (_JUMP_EQUAL, _FAILS, 0, value_low)]
        case "SCMP_CMP_MASKED_EQ":
            wanted = argument.value_two & argument.value
            return [
                *(load_high, (_AND, 0, 0, value_high), (_JUMP_EQUAL, 0, _FAILS, wanted >> 32)),
                *(load_low, (_AND, 0, 0, value_low)),
                (_JUMP_EQUAL, 0, _FAILS, wanted & 0xFFFFFFFF),
            ]
        case operator:
            jump, if_true, if_false = _ORDERS[operator]
            above = if_true if if_true != 0 else _HOLDS
            below = if_false if if_false != 0 else _HOLDS
            return [
                *(load_high, (_JUMP_ABOVE, above, 0, value_high)),
                *((_JUMP_EQUAL, 0, below, value_high), load_low),
                (jump, if_true, if_false, value_low),
            ]


def _narrow_condition(argument: SeccompArgument) -> list[Instruction]:
    """For a 32-bit ABI, whose arguments have no other half."""
    value = argument.value & 0xFFFFFFFF
    load = (_LOAD, 0, 0, _ARG0_LOW + 8 * argument.position)
    match argument.operator:
        case "SCMP_CMP_EQ":
            return [load, (_JUMP_EQUAL, 0, _FAILS, value)]
        case "SCMP_CMP_NE":
            return [load, (_JUMP_EQUAL, _FAILS, 0, value)]
        case "SCMP_CMP_MASKED_EQ":
            wanted = argument.value_two & value
            return [load, (_AND, 0, 0, value), (_JUMP_EQUAL, 0, _FAILS, wanted)]
        case operator:
            return [load, (*_ORDERS[operator], value)]


# jump, where it leads when its comparison is true, and when it is false; 0 goes on
_ORDERS = {
    "SCMP_CMP_GT": (_JUMP_ABOVE, 0, _FAILS),
    "SCMP_CMP_GE": (_JUMP_NOT_BELOW, 0, _FAILS),
    "SCMP_CMP_LE": (_JUMP_ABOVE, _FAILS, 0),
    "SCMP_CMP_LT": (_JUMP_NOT_BELOW, _FAILS, 0),
}
