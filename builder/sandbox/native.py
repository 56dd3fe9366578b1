"""Tiny executables out of a few machine instructions, in sealed memory.

Two processes of a sandbox must not be the host's interpreter: PID 1 (`init`), and the program in
the moment before its own execve (`trampoline`). What they execute instead is a static ELF file of
some hundred bytes that no name leads to, and that nobody can change.
"""

import os
import struct

from builder.sandbox import syscalls
from builder.sandbox.errors import UnsupportedHostError

_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64 (elf.h)
_BASE = 0x10000
_HEADERS_SIZE = 64 + 2 * 56
_MFD_EXEC = 0x10  # linux/memfd.h, from Linux 6.3 on


def executable(code: bytes, machine: str = syscalls.MACHINE) -> bytes:
    """The ELF file: header, two program headers, code."""
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bit, little endian, current version
    entry = _BASE + _HEADERS_SIZE
    fields = (2, _ELF_MACHINE[machine], 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    header = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    size = _HEADERS_SIZE + len(code)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD r-x
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK rw-
    return header + load + stack + code


def open_sealed(code: bytes) -> int:
    """A file in memory that can be executed and never changed; closed on exec, which ELF allows.

    Raises:
        UnsupportedHostError: the host forbids to execute memory files.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("lamina", flags | _MFD_EXEC)
    except PermissionError as error:
        raise UnsupportedHostError(
            feature="programs in memory",
            reason="/proc/sys/vm/memfd_noexec is 2",
            errno=error.errno or 0,
            hint="set it to 1 or 0",
        ) from error
    except OSError:  # EINVAL: an older kernel, where all of them can be executed
        fd = os.memfd_create("lamina", flags)
    os.write(fd, executable(code))
    os.fchmod(fd, 0o555)
    syscalls.seal(fd)
    return fd
