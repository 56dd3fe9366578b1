"""What is asked about, interpreted; and the messages, as the kernel's headers have them."""

import struct

import pytest

from builder.sandbox import notification, syscalltable
from tests.support.bpf import AUDIT_ARCHES, run

TABLES = {
    "x86_64": syscalltable.parse(syscalltable.X86_64),
    "aarch64": syscalltable.parse(syscalltable.AARCH64),
}
CREATE = 0o100


def ask(machine: str, name: str, *arguments: int) -> str:
    program = notification.program(machine)
    number = TABLES[machine][name]
    return str(run(program, arch=AUDIT_ARCHES[machine], number=number, arguments=arguments))


@pytest.mark.parametrize("machine", TABLES)
def test_it_asks_about_what_it_lists_and_forbids_nothing(machine: str) -> None:
    asked = set(notification.numbers(machine))
    for name in TABLES[machine]:
        sometimes = {"open", "openat", "prctl", "getsockopt"}
        expected = "notify" if name in asked - sometimes else "allow"
        assert ask(machine, name) == expected, name


@pytest.mark.parametrize("machine", TABLES)
def test_opening_is_asked_about_where_it_may_create(machine: str) -> None:
    assert ask(machine, "openat", 0, 0, 0o2 | 0o1000) == "allow"
    assert ask(machine, "openat", 0, 0, 0o1 | CREATE, 0o644) == "notify"
    assert ask(machine, "openat", CREATE, CREATE, 0, CREATE) == "allow"
    if machine == "x86_64":
        assert ask(machine, "open", 0, 0o1 | CREATE) == "notify"
        assert ask(machine, "open", CREATE, 0, CREATE) == "allow"


@pytest.mark.parametrize("machine", TABLES)
def test_only_keeping_capabilities_and_asking_who_a_peer_is_are_asked_about(machine: str) -> None:
    assert ask(machine, "prctl", 8, 1) == "notify"
    assert ask(machine, "prctl", 7) == ask(machine, "prctl", 15, 8) == "allow"
    assert ask(machine, "getsockopt", 3, 1, 17) == "notify"
    assert ask(machine, "getsockopt", 17, 17, 4, 17) == "allow"


def test_aarch64_lacks_what_it_lacks() -> None:
    assert "lchown" not in notification.numbers("aarch64")
    assert {"fchownat", "newfstatat", "statx"} <= notification.numbers("aarch64").keys()


@pytest.mark.parametrize("arch", ["i386", "aarch64"])
def test_another_architecture_is_not_asked_about(arch: str) -> None:
    program = notification.program("x86_64")
    for number in range(500):
        assert str(run(program, arch=AUDIT_ARCHES[arch], number=number)) == "allow"


def test_x32_is_another_architecture_too() -> None:
    program = notification.program("x86_64")
    number = 0x40000000 | TABLES["x86_64"]["stat"]
    assert str(run(program, arch=AUDIT_ARCHES["x86_64"], number=number)) == "allow"


def test_it_is_short_for_the_calls_that_are_not_in_it() -> None:
    program = notification.program("x86_64")
    steps = run(program, arch=AUDIT_ARCHES["x86_64"], number=0).steps
    assert steps < 64


def test_a_question_is_read_as_the_kernel_writes_it() -> None:
    # struct seccomp_notif: id, pid, flags, { nr, arch, instruction_pointer, args[6] }
    data = struct.pack("<QIIiIQ6Q", 7, 33, 0, 92, 0xC000003E, 0x1234, 1, 2, 3, 4, 5, 2**64 - 1)
    assert len(data) == notification.NOTIFICATION_BYTES
    call = notification.decode(data)
    assert call == notification.Call(7, 33, 92, (1, 2, 3, 4, 5, 2**64 - 1))


def test_answers_are_written_as_the_kernel_reads_them() -> None:
    # struct seccomp_notif_resp: id, val, error, flags
    assert struct.unpack("<QqiI", notification.carry_on(7)) == (7, 0, 0, 1)
    assert struct.unpack("<QqiI", notification.result(7, 1000)) == (7, 1000, 0, 0)
    assert struct.unpack("<QqiI", notification.failure(7, 13)) == (7, 0, -13, 0)
    # struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags
    assert struct.unpack("<QIIII", notification.descriptor(7, 5, 0o2000000)) == (
        *(7, 2, 5, 0),
        0o2000000,
    )


@pytest.mark.parametrize(
    ("request_", "number", "size"),
    [
        (notification.IOCTL_RECEIVE, 0, 80),
        (notification.IOCTL_SEND, 1, 24),
        (notification.IOCTL_IS_VALID, 2, 8),
        (notification.IOCTL_ADD_FD, 3, 24),
        (notification.IOCTL_SET_FLAGS, 4, 8),
    ],
)
def test_requests_carry_their_number_and_size(request_: int, number: int, size: int) -> None:
    assert request_ & 0xFF == number
    assert request_ >> 8 & 0xFF == ord("!")
    assert request_ >> 16 & 0x3FFF == size
