"""Asking somebody outside about a program's system calls: seccomp's user notification. Pure.

A second filter beside the one that protects (seccomp.py): it forbids nothing, and holds back some
calls until the other side has answered. The kernel takes the stricter answer of both.

The answer is either a result, or that the kernel is to carry the call out as it stands. A program
can change what its arguments point to in between, so nothing that protects may depend on them.

Source: linux/seccomp.h; Documentation/userspace-api/seccomp_filter.rst.
"""

import struct
from typing import NamedTuple

from builder.sandbox import syscalls, syscalltable

_CALLS = """
stat lstat fstat newfstatat statx chown fchown lchown fchownat mknod mknodat creat mkdir mkdirat
getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
setresuid setresgid setfsuid setfsgid setgroups chroot execve execveat
"""
_O_CREAT, _PR_SET_KEEPCAPS, _SO_PEERCRED = 0o100, 8, 17  # fcntl.h, linux/prctl.h, socket.h

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_TABLES = {"x86_64": syscalltable.X86_64, "aarch64": syscalltable.AARCH64}
# linux/bpf_common.h, struct seccomp_data, linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
# Only these of their kind: which argument tells, how, and by which bit or value
_CONDITIONS = {
    "open": (1, _JUMP_ANY_BIT, _O_CREAT),
    "openat": (2, _JUMP_ANY_BIT, _O_CREAT),
    "prctl": (0, _JUMP_EQUAL, _PR_SET_KEEPCAPS),
    "getsockopt": (2, _JUMP_EQUAL, _SO_PEERCRED),
}
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000

# _IOWR('!', 0, struct seccomp_notif) and so on
IOCTL_RECEIVE = 0xC0502100
IOCTL_SEND = 0xC0182101
IOCTL_IS_VALID = 0x40082102
IOCTL_ADD_FD = 0x40182103
IOCTL_SET_FLAGS = 0x40082104
FLAG_SYNC_WAKE_UP = 1
ADD_FD_SEND = 2  # the new descriptor is the result of the call
NOTIFICATION_BYTES = 80
_CONTINUE = 1

_NOTIFICATION = struct.Struct("=QII iIQ 6Q")  # id, pid, flags; nr, arch, ip, arguments
_RESPONSE = struct.Struct("=QqiI")
_ADD_FD = struct.Struct("=QIIII")


class Call(NamedTuple):
    """A call that is held back.

    `pid` is the thread's, in the receiver's pid namespace; `a` are the six arguments.
    """

    id: int
    pid: int
    number: int
    a: tuple[int, ...]


def numbers(machine: str = syscalls.MACHINE) -> dict[str, int]:
    """The calls that are asked about, by name; a machine may lack some."""
    known = syscalltable.parse(_TABLES[machine])
    return {name: known[name] for name in (*_CALLS.split(), *_CONDITIONS) if name in known}


def program(machine: str = syscalls.MACHINE) -> bytes:
    """The filter: an array of struct sock_filter."""
    found = numbers(machine)
    plain = [number for name, number in found.items() if name not in _CONDITIONS]
    some = [(found[name], rule) for name, rule in _CONDITIONS.items() if name in found]
    # the end: [load the argument, is it so?, notify] for each of these, then allow, then notify
    tail: list[tuple[int, int, int, int]] = []
    for _, (index, jump, value) in some:
        tail += [
            (_LOAD, 0, 0, _ARGUMENTS + 8 * index),
            (jump, 0, 1, value),
            (_RETURN, 0, 0, _RET_USER_NOTIF),
            (_RETURN, 0, 0, _RET_ALLOW),
        ]
    tail += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_USER_NOTIF)]
    tests = [(number, 4 * at) for at, (number, _) in enumerate(some)]
    tests += [(number, len(tail) - 1) for number in plain]
    body = []
    for at, (number, target) in enumerate(tests):
        # over the tests that follow, and the jump to `allow` behind them
        body.append((_JUMP_EQUAL, len(tests) - at - 1 + 1 + target, 0, number))
    body.append((_RETURN, 0, 0, _RET_ALLOW))
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _ARCHES[machine]),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_LOAD, 0, 0, _NR),
        *body,
        *tail,
    ]
    return b"".join([struct.pack("=HBBI", *instruction) for instruction in code])


def decode(buffer: bytes | bytearray) -> Call:
    """What IOCTL_RECEIVE has written."""
    call_id, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Call(call_id, pid, number, tuple(arguments))


def carry_on(call_id: int) -> bytes:
    """For IOCTL_SEND: let the kernel do it."""
    return _RESPONSE.pack(call_id, 0, 0, _CONTINUE)


def result(call_id: int, value: int) -> bytes:
    """For IOCTL_SEND: it is done, and this is what it gives."""
    return _RESPONSE.pack(call_id, value, 0, 0)


def failure(call_id: int, errno: int) -> bytes:
    """For IOCTL_SEND: it has failed."""
    return _RESPONSE.pack(call_id, 0, -errno, 0)


def descriptor(call_id: int, fd: int, flags: int) -> bytes:
    """For IOCTL_ADD_FD: the call gives the program a copy of `fd`."""
    return _ADD_FD.pack(call_id, ADD_FD_SEND, fd, 0, flags)
