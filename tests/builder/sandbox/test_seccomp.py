"""The filter, interpreted here, asked of the kernel, and compared with what libseccomp knows."""

import ctypes
import ctypes.util
import errno
import os
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.sandbox import (
    SandboxError,
    SeccompArgument,
    SeccompProfile,
    SeccompRule,
    capabilities,
    seccomp,
    syscalltable,
)
from builder.sandbox.seccompprofile import OPERATORS
from tests.support.bpf import AUDIT_ARCHES, run

DEFAULT = capabilities.mask(None)
ABIS = {  # abi -> machine
    "x86_64": "x86_64",
    "i386": "x86_64",
    "aarch64": "aarch64",
    "arm": "aarch64",
}
TABLES = {
    "x86_64": syscalltable.parse(syscalltable.X86_64),
    "i386": syscalltable.parse(syscalltable.I386),
    "aarch64": syscalltable.parse(syscalltable.AARCH64),
    "arm": syscalltable.parse(syscalltable.ARM),
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
    last = max(number for number in known if number < 0xF0000)  # arm has some beyond
    unknown = [number for number in range(last + 50) if number not in known]
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
    for arch in {*AUDIT_ARCHES.values(), 0x40000028 ^ 1, 0xC00000F3, 0, 0xFFFFFFFF} - own:
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
    if name == "mmap" and abi == "arm":
        name = "mmap2"  # the only one there is
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


class TestInit:
    """What PID 1 may do, whoever takes it over."""

    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_only_what_its_code_calls(self, machine: str) -> None:
        program = seccomp.init_program(machine)
        allowed = {
            name
            for name, number in TABLES[machine].items()
            if str(run(program, arch=AUDIT_ARCHES[machine], number=number)) == "allow"
        }
        assert allowed == {
            *("prctl", "wait4", "rt_sigtimedwait", "kill", "write", "exit_group", "execveat"),
            "restart_syscall",
        }

    def test_no_other_abi(self) -> None:
        program = seccomp.init_program("x86_64")
        assert str(run(program, arch=AUDIT_ARCHES["i386"], number=1)) == "kill"


ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "i386": "SCMP_ARCH_X86",
    "aarch64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
}
WORDS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_TRAP": 0x30000,
    "SCMP_ACT_ERRNO": 0x50000,
    "SCMP_ACT_TRACE": 0x7FF00000,
}


def profile(
    *rules: SeccompRule,
    default: str = "SCMP_ACT_ERRNO",
    default_errno: int | None = None,
    abis: tuple[str, ...] = ("x86_64",),
    flags: tuple[str, ...] | None = None,
) -> SeccompProfile:
    return SeccompProfile(
        default_action=default,
        architectures=tuple(ARCHITECTURES[abi] for abi in abis),
        rules=rules,
        default_errno=default_errno,
        flags=flags,
    )


def rule(names: str, action: str = "SCMP_ACT_ALLOW", *arguments: SeccompArgument) -> SeccompRule:
    return SeccompRule(names=tuple(names.split()), action=action, arguments=arguments)


def word(
    of: SeccompProfile, name: str | int, *arguments: int, abi: str = "x86_64", machine: str = ""
) -> int:
    number = TABLES[abi][name] if isinstance(name, str) else name
    program = seccomp.compile_profile(of, machine or ABIS[abi])
    return run(program, arch=AUDIT_ARCHES[abi], number=number, arguments=arguments).word


class TestProfiles:
    def test_what_no_rule_names_gets_the_default(self) -> None:
        for errno_, expected in ((None, 1), (13, 13)):
            ours = profile(rule("read mseal"), default_errno=errno_)
            assert word(ours, "read") == WORDS["SCMP_ACT_ALLOW"]
            assert word(ours, "write") == WORDS["SCMP_ACT_ERRNO"] | expected

    def test_calls_younger_than_the_profile_are_enosys(self) -> None:
        ours = profile(rule("read openat2"))
        assert word(ours, "pidfd_getfd") == WORDS["SCMP_ACT_ERRNO"] | errno.ENOSYS
        assert word(ours, "openat2") == WORDS["SCMP_ACT_ALLOW"]
        assert word(ours, "open") == WORDS["SCMP_ACT_ERRNO"] | errno.EPERM

    def test_where_the_default_allows_only_what_is_named_is_refused(self) -> None:
        ours = profile(rule("chmod fchmodat", "SCMP_ACT_ERRNO"), default="SCMP_ACT_ALLOW")
        assert word(ours, "chmod") == WORDS["SCMP_ACT_ERRNO"] | 1
        assert word(ours, "mseal") == word(ours, 9999) == WORDS["SCMP_ACT_ALLOW"]

    def test_x32_cannot_be_had(self) -> None:
        ours = profile(rule("chmod", "SCMP_ACT_ERRNO"), default="SCMP_ACT_ALLOW")
        ours = ours._replace(architectures=(*ours.architectures, "SCMP_ARCH_X32"))
        assert word(ours, 0x40000000 + TABLES["x86_64"]["chmod"]) == 0x50000 | errno.ENOSYS
        assert word(ours, 0x40000000) == 0x50000 | errno.ENOSYS

    def test_the_32_bit_abi_only_where_the_profile_has_it(self) -> None:
        without = profile(rule("read"))
        assert word(without, "read", abi="i386") == WORDS["SCMP_ACT_KILL_PROCESS"]
        both = profile(rule("read"), abis=("x86_64", "i386"))
        assert word(both, "read", abi="i386") == WORDS["SCMP_ACT_ALLOW"]
        assert word(both, "fork", abi="i386") == WORDS["SCMP_ACT_ERRNO"] | 1
        arm = profile(rule("read cacheflush"), abis=("aarch64", "arm"))
        assert word(arm, "cacheflush", abi="arm") == WORDS["SCMP_ACT_ALLOW"]

    @pytest.mark.parametrize("action", WORDS)
    def test_every_action(self, action: str) -> None:
        data = 1 if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0
        assert word(profile(rule("chmod", action)), "chmod") == WORDS[action] | data
        ours = profile(SeccompRule(names=("chmod",), action=action, errno=77))
        assert word(ours, "chmod") == WORDS[action] | (77 if data else 0)

    def test_a_rule_without_conditions_wins(self) -> None:
        one = SeccompArgument(position=0, operator="SCMP_CMP_EQ", value=1)
        ours = profile(rule("socket", "SCMP_ACT_KILL", one), rule("socket"))
        assert word(ours, "socket", 1) == WORDS["SCMP_ACT_ALLOW"]

    def test_conditions_of_one_rule_go_together_unless_on_one_argument(self) -> None:
        first = SeccompArgument(position=0, operator="SCMP_CMP_EQ", value=1)
        second = SeccompArgument(position=1, operator="SCMP_CMP_EQ", value=2)
        other = SeccompArgument(position=0, operator="SCMP_CMP_EQ", value=5)
        both = profile(rule("socket", "SCMP_ACT_ALLOW", first, second))
        assert word(both, "socket", 1, 2) == WORDS["SCMP_ACT_ALLOW"]
        assert word(both, "socket", 1, 3) == word(both, "socket", 5, 2) == 0x50001
        either = profile(rule("socket", "SCMP_ACT_ALLOW", first, other))
        assert word(either, "socket", 1) == word(either, "socket", 5) == WORDS["SCMP_ACT_ALLOW"]
        assert word(either, "socket", 2) == 0x50001

    def test_names_of_other_machines_and_times_do_not_matter(self) -> None:
        assert word(profile(rule("read s390_pci_mmio_read no_such_call")), "read") == 0x7FFF0000

    def test_what_is_too_long_for_the_kernel_is_refused(self) -> None:
        many = tuple(
            SeccompArgument(position=0, operator="SCMP_CMP_EQ", value=value)
            for value in range(1500)
        )
        with pytest.raises(SandboxError, match="the kernel takes 4096"):
            seccomp.compile_profile(profile(rule("socket", "SCMP_ACT_ALLOW", *many)))

    def test_flags(self) -> None:
        assert seccomp.profile_flags(profile()) == 4
        assert seccomp.profile_flags(profile(flags=())) == 0
        names = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG")
        assert seccomp.profile_flags(profile(flags=names)) == 2

    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    @pytest.mark.parametrize("more", [(), ("CAP_SYS_ADMIN", "CAP_BPF"), ("CAP_SYS_CHROOT",)])
    def test_the_default_as_a_profile_gives_the_same_answers(
        self, machine: str, more: tuple[str, ...]
    ) -> None:
        mask = with_capability(*more)
        abis = [abi for abi, of in ABIS.items() if of == machine]
        for abi in abis:
            expected = seccomp.answers(mask, abi)
            ours = profile(
                *(
                    SeccompRule(
                        names=(name,),
                        action="SCMP_ACT_ALLOW" if answer == "allow" else "SCMP_ACT_ERRNO",
                        errno=errno.ENOSYS if answer == "enosys" else None,
                    )
                    for name, answer in expected.items()
                ),
                abis=(abi,),
            )
            program = seccomp.compile_profile(ours, machine)
            for name, answer in expected.items():
                if answer != "check":
                    found = run(program, arch=AUDIT_ARCHES[abi], number=TABLES[abi][name])
                    assert str(found) == answer, name


VALUES = [0, 1, 2, 7, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (5 << 32) + 7, (1 << 64) - 1]
CALLS = ("read", "socket", "personality", "fcntl", "madvise", "prctl", "kill", "mseal")


@st.composite
def profiles(draw: st.DrawFn) -> SeccompProfile:
    """Rules for different calls: how rules for one call go together is told above."""
    rules = []
    default = draw(st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"]))
    other = "SCMP_ACT_ALLOW" if default == "SCMP_ACT_ERRNO" else "SCMP_ACT_KILL_PROCESS"
    for name in draw(st.lists(st.sampled_from(CALLS[:-1]), unique=True, min_size=1)):
        positions = draw(st.lists(st.integers(0, 5), unique=True, max_size=3))
        rules.append(
            rule(
                name,
                other,
                *(
                    SeccompArgument(
                        position=position,
                        operator=draw(st.sampled_from(OPERATORS)),
                        value=draw(st.sampled_from(VALUES)),
                        value_two=draw(st.sampled_from(VALUES)),
                    )
                    for position in positions
                ),
            )
        )
    # the youngest call is named, so that nothing is younger
    return profile(*rules, rule("mseal", other), default=default, abis=("x86_64",))


@pytest.mark.needs_peers("libseccomp")
@settings(deadline=None, max_examples=80)
@given(ours=profiles(), data=st.data())
def test_libseccomp_agrees_about_32_bit_programs(ours: SeccompProfile, data: st.DataObject) -> None:
    """But for `socket`, whose rule it extends to `socketcall`: see the module."""
    ours = ours._replace(architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))
    reference = compiled_by_libseccomp(ours, more=AUDIT_ARCHES["i386"])
    program = seccomp.compile_profile(ours, "x86_64")
    near = {value + step & 0xFFFFFFFF for value in VALUES for step in (-1, 0, 1)}
    for _ in range(12):
        arguments = tuple(
            data.draw(st.lists(st.sampled_from(sorted(near)), min_size=6, max_size=6))
        )
        for name in set(CALLS[:-1]) - {"socket"}:
            where = {"arch": AUDIT_ARCHES["i386"], "number": TABLES["i386"][name]}
            mine = run(program, arguments=arguments, **where).word
            assert mine == run(reference, arguments=arguments, **where).word, (name, arguments)


@pytest.mark.needs_peers("libseccomp")
@settings(deadline=None, max_examples=150)
@given(ours=profiles(), data=st.data())
def test_libseccomp_compiles_profiles_to_the_same_answers(
    ours: SeccompProfile, data: st.DataObject
) -> None:
    reference = compiled_by_libseccomp(ours)
    program = seccomp.compile_profile(ours, "x86_64")
    near = [value + step & (1 << 64) - 1 for value in VALUES for step in (-1, 0, 1)]
    for _ in range(12):
        arguments = tuple(data.draw(st.lists(st.sampled_from(near), min_size=6, max_size=6)))
        for name in CALLS[:-1]:
            where = {"arch": AUDIT_ARCHES["x86_64"], "number": TABLES["x86_64"][name]}
            mine = run(program, arguments=arguments, **where).word
            assert mine == run(reference, arguments=arguments, **where).word, (name, arguments)


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp.h."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def compiled_by_libseccomp(ours: SeccompProfile, more: int | None = None) -> bytes:
    """`more` is another architecture."""
    path = ctypes.util.find_library("seccomp")
    assert path is not None, "needs_peers has looked"
    library = ctypes.CDLL(path)
    library.seccomp_init.restype = ctypes.c_void_p
    numbers = {name: number for number, name in enumerate(OPERATORS, 1)}  # enum scmp_compare
    words = {**WORDS, "SCMP_ACT_ERRNO": WORDS["SCMP_ACT_ERRNO"] | 1}
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(words[ours.default_action])))
    if more is not None:
        assert library.seccomp_arch_add(context, ctypes.c_uint32(more)) == 0
    for each in ours.rules:
        comparisons = [
            _Comparison(a.position, numbers[a.operator], a.value, a.value_two)
            for a in each.arguments
        ]
        for name in each.names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # younger than the library
                continue
            result = library.seccomp_rule_add_array(
                context,
                ctypes.c_uint32(words[each.action]),
                ctypes.c_int(number),
                ctypes.c_uint(len(comparisons)),
                (_Comparison * len(comparisons))(*comparisons),
            )
            assert result == 0, os.strerror(-result)
    fd = os.memfd_create("bpf")
    try:
        assert library.seccomp_export_bpf(context, ctypes.c_int(fd)) == 0
        return os.pread(fd, 1 << 16, 0)
    finally:
        library.seccomp_release(context)
        os.close(fd)
