"""The filter, interpreted here, asked of the kernel, and compared with what libseccomp knows."""

import ctypes
import ctypes.util
import errno
import os
import struct
import time

import pytest

from builder.sandbox import capabilities, seccomp, syscalltable
from tests.support.bpf import AUDIT_ARCHES, run

DEFAULT = capabilities.mask(None)
ABIS = {"x86_64": "x86_64", "i386": "x86_64", "aarch64": "aarch64"}  # abi -> machine
TABLES = {
    "x86_64": syscalltable.parse(syscalltable.X86_64),
    "i386": syscalltable.parse(syscalltable.I386),
    "aarch64": syscalltable.parse(syscalltable.AARCH64),
}


def ask(abi: str, name: str, *arguments: int, mask: int = DEFAULT) -> str:
    program = seccomp.program(mask, ABIS[abi])
    number = TABLES[abi][name]
    return str(run(program, arch=AUDIT_ARCHES[abi], number=number, arguments=arguments))


def with_capability(*names: str) -> int:
    return DEFAULT | capabilities.mask(frozenset(names))


@pytest.mark.parametrize("abi", ABIS)
def test_the_program_answers_as_the_table_says(abi: str) -> None:
    answers = seccomp.answers(DEFAULT, abi)
    assert answers.keys() == TABLES[abi].keys()
    for name, answer in answers.items():
        if answer != "check":
            assert ask(abi, name) == answer, name


@pytest.mark.parametrize("abi", ABIS)
def test_numbers_that_no_table_has_are_enosys(abi: str) -> None:
    program = seccomp.program(DEFAULT, ABIS[abi])
    known = set(TABLES[abi].values())
    unknown = [number for number in range(max(known) + 50) if number not in known]
    for number in (*unknown, 10_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert str(run(program, arch=AUDIT_ARCHES[abi], number=number)) == "enosys", number


def test_x32_calls_are_unknown() -> None:
    program = seccomp.program(DEFAULT, "x86_64")
    for number in (0, 1, 39, 59, 101, 512, 520, 547):
        answer = run(program, arch=AUDIT_ARCHES["x86_64"], number=0x40000000 + number)
        assert str(answer) == "enosys"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_other_architectures_are_killed(machine: str) -> None:
    program = seccomp.program(DEFAULT, machine)
    own = {AUDIT_ARCHES[abi] for abi, of in ABIS.items() if of == machine}
    for arch in {*AUDIT_ARCHES.values(), 0x40000028, 0xC00000F3, 0, 0xFFFFFFFF} - own:
        assert str(run(program, arch=arch, number=0)) == "kill"


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "bpf",
        "perf_event_open",
        "keyctl",
        "add_key",
        "request_key",
        "open_by_handle_at",
        "kexec_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "settimeofday",
        "clock_settime",
        "quotactl",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "syslog",
        "sethostname",
        "setdomainname",
        "fsopen",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "lookup_dcookie",
        "nfsservctl",
        "move_pages",
        "kcmp",
        "pidfd_getfd",
    ],
)
def test_what_docker_forbids_is_forbidden(abi: str, name: str) -> None:
    assert ask(abi, name) == "eperm"


@pytest.mark.parametrize(
    "name",
    [
        "read",
        "write",
        "openat",
        "clone_is_checked",
        "execve",
        "exit_group",
        "mmap",
        "ptrace",
        "process_vm_readv",
        "chroot",
        "mknodat",
        "statx",
        "rseq",
        "landlock_create_ruleset",
        "close_range",
        "faccessat2",
        "openat2",
        "pidfd_open",
        "memfd_create",
        "getrandom",
        "fchmodat2",
        "mseal",
        "capset",
        "setuid",
        "setgroups",
        "prctl",
        "seccomp",
    ],
)
@pytest.mark.parametrize("abi", ABIS)
def test_what_programs_need_is_allowed(abi: str, name: str) -> None:
    if name == "clone_is_checked":
        assert ask(abi, "clone", 0x01200011) == "allow"
    else:
        assert ask(abi, name) == "allow"


class TestArguments:
    @pytest.mark.parametrize("abi", ABIS)
    @pytest.mark.parametrize(
        "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    )
    def test_clone_makes_no_namespaces(self, abi: str, flag: int) -> None:
        assert ask(abi, "clone", 17) == "allow"
        assert ask(abi, "clone", flag) == ask(abi, "clone", flag | 17) == "eperm"
        assert ask(abi, "clone", flag | 17, mask=with_capability("CAP_SYS_ADMIN")) == "allow"

    @pytest.mark.parametrize("abi", ABIS)
    def test_clone3_falls_back(self, abi: str) -> None:
        assert ask(abi, "clone3") == "enosys"
        assert ask(abi, "clone3", mask=with_capability("CAP_SYS_ADMIN")) == "allow"

    @pytest.mark.parametrize("abi", ABIS)
    def test_personalities(self, abi: str) -> None:
        for allowed in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
            assert ask(abi, "personality", allowed) == "allow"
        for refused in (1, 7, 9, 0x40000, 0x20001, 0x400000, 0xFFFFFFFE, 1 << 32, (1 << 32) | 8):
            assert ask(abi, "personality", refused) == "eperm"

    @pytest.mark.parametrize("abi", ABIS)
    def test_socket_families(self, abi: str) -> None:
        for allowed in (1, 2, 10, 16, 17, 29, 44):  # unix inet inet6 netlink packet can xdp
            assert ask(abi, "socket", allowed) == "allow"
        for refused in (0, 38, 40, 12, 19, 46, 255, 0xFFFFFFFF, (1 << 32) | 1):
            assert ask(abi, "socket", refused) == "eperm"

    def test_socketcall_cannot_bring_the_families_back(self) -> None:
        assert ask("i386", "socketcall") == "enosys"


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("CAP_SYS_ADMIN", "mount umount2 unshare setns bpf sethostname fsopen"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module finit_module delete_module"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
        ("CAP_SYS_TIME", "settimeofday clock_settime"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYS_NICE", "mbind set_mempolicy get_mempolicy"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ],
)
def test_capabilities_open_calls(capability: str, names: str) -> None:
    for name in names.split():
        assert ask("x86_64", name) == "eperm"
        assert ask("x86_64", name, mask=with_capability(capability)) == "allow"


def test_without_sys_chroot_there_is_no_chroot() -> None:
    mask = capabilities.mask(capabilities.DEFAULT - {"CAP_SYS_CHROOT"})
    assert ask("x86_64", "chroot", mask=mask) == "eperm"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_kernel_takes_programs_of_this_size(machine: str) -> None:
    program = seccomp.program(DEFAULT, machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # BPF_MAXINSNS
    for at, (code, if_true, if_false, constant) in enumerate(struct.iter_unpack("=HBBI", program)):
        if code & 0x07 == 0x05:
            reach = (constant,) if code == 0x05 else (if_true, if_false)
            assert all(at + 1 + step < len(program) // 8 for step in reach)


@pytest.mark.parametrize("abi", ABIS)
def test_an_answer_takes_few_steps(abi: str) -> None:
    program = seccomp.program(DEFAULT, ABIS[abi])
    steps = [
        run(program, arch=AUDIT_ARCHES[abi], number=number).steps for number in TABLES[abi].values()
    ]
    assert max(steps) <= 20


def test_compiling_is_quick_and_done_once() -> None:
    seccomp.program(DEFAULT)
    start = time.perf_counter()
    for _ in range(100):
        seccomp.program(DEFAULT)
    assert time.perf_counter() - start < 0.01
    # Capabilities that decide on no call share a program.
    other = DEFAULT ^ capabilities.mask(frozenset({"CAP_CHOWN"}))
    assert seccomp.program(other) is seccomp.program(DEFAULT)


def test_the_kernel_answers_as_the_interpreter() -> None:
    """Load it here, in a child, and ask for calls that cannot do harm."""
    from builder.sandbox import namespaces, syscalls

    if syscalls.MACHINE != "x86_64":
        pytest.skip("the numbers of this test are those of x86_64")

    def play() -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.load_seccomp(seccomp.program(DEFAULT))
        libc = ctypes.CDLL(None, use_errno=True)

        def call(name: str, *arguments: int) -> int:
            words = [ctypes.c_long(argument) for argument in arguments]
            result = libc.syscall(ctypes.c_long(TABLES["x86_64"][name]), *words)
            return ctypes.get_errno() if result == -1 else 0

        bad = -1
        found = {
            "getpid": call("getpid"),
            "unshare": call("unshare", 0),
            "keyctl": call("keyctl", 0, bad),
            "clone3": call("clone3", 0, 0),
            "bpf": call("bpf", 0, 0, 0),
            "mount": call("mount", 0, 0, 0, 0, 0),
            "close": call("close", bad),
            "personality": call("personality", 0xFFFFFFFF),
            "personality 7": call("personality", 7),
            "socket": call("socket", 38, 5, 0),
            "unknown": ctypes.get_errno() if libc.syscall(ctypes.c_long(9999)) == -1 else 0,
        }
        expected = {
            "getpid": 0,
            "unshare": errno.EPERM,
            "keyctl": errno.EPERM,
            "clone3": errno.ENOSYS,
            "bpf": errno.EPERM,
            "mount": errno.EPERM,
            "close": errno.EBADF,
            "personality": 0,
            "personality 7": errno.EPERM,
            "socket": errno.EPERM,
            "unknown": errno.ENOSYS,
        }
        if found != expected:
            os.write(2, repr(found).encode())
            raise OSError(errno.EPROTO, "wrong answers")

    assert namespaces.attempt(play) == 0


@pytest.mark.parametrize("abi", ABIS)
def test_numbers_are_those_libseccomp_knows(abi: str) -> None:
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("libseccomp is not installed: the table of numbers has no oracle")
    library = ctypes.CDLL(path)
    arch = ctypes.c_uint32(AUDIT_ARCHES[abi])
    wrong = {}
    for name, number in TABLES[abi].items():
        known = library.seccomp_syscall_resolve_name_arch(arch, name.encode())
        if known >= 0 and known != number:
            wrong[name] = (number, known)
    assert wrong == {}
