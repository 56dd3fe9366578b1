"""The last step before a program: a tiny native executable that does nothing but execve.

While a forked Python sets the stage, /proc/self/exe of that process is the host's interpreter, and
an image may say `ENTRYPOINT ["/proc/self/exe"]` or `#!/proc/self/exe`: the interpreter would run
inside the sandbox with the libraries of the image, which could then open it for writing
(CVE-2019-5736). So the process first executes this sealed file in memory, 200 bytes that hold no
secret and cannot be changed, and that one executes the program. What is left of the interpreter
for the sandbox to see is PID 1, which is not dumpable: its exe, fd, root, maps and environ are
closed to who has no CAP_SYS_PTRACE.

It is called as  [path, argv0, argv1, ...]  and does
    fcntl(3, F_SETFD, FD_CLOEXEC)          3 is the pipe for errors: its end says "executed"
    execve(path, &argv[1], envp)
    write(3, &result, 4); exit(127)        the negative errno

The words of `_CODE` were assembled from the mnemonics beside them; test_trampoline.py does it again
where binutils are installed.
"""

import os
import struct

from builder.sandbox import syscalls

ERRORS_FD = 3

_CODE = {
    "x86_64": (
        "bf03000000"  # mov    edi, 3
        "be02000000"  # mov    esi, 2             F_SETFD
        "ba01000000"  # mov    edx, 1             FD_CLOEXEC
        "b848000000"  # mov    eax, 72            fcntl
        "0f05"  # syscall
        "488b7c2408"  # mov    rdi, [rsp+8]       argv[0]
        "488d742410"  # lea    rsi, [rsp+16]      &argv[1]
        "488b0424"  # mov    rax, [rsp]         argc
        "488d54c410"  # lea    rdx, [rsp+rax*8+16]
        "b83b000000"  # mov    eax, 59            execve
        "0f05"  # syscall
        "50"  # push   rax
        "bf03000000"  # mov    edi, 3
        "4889e6"  # mov    rsi, rsp
        "ba04000000"  # mov    edx, 4
        "b801000000"  # mov    eax, 1             write
        "0f05"  # syscall
        "bf7f000000"  # mov    edi, 127
        "b83c000000"  # mov    eax, 60            exit
        "0f05"  # syscall
    ),
    "aarch64": (
        "600080d2"  # mov    x0, #3
        "410080d2"  # mov    x1, #2             F_SETFD
        "220080d2"  # mov    x2, #1             FD_CLOEXEC
        "280380d2"  # mov    x8, #25            fcntl
        "010000d4"  # svc    #0
        "e00740f9"  # ldr    x0, [sp, #8]       argv[0]
        "e1430091"  # add    x1, sp, #16        &argv[1]
        "e30340f9"  # ldr    x3, [sp]           argc
        "220c038b"  # add    x2, x1, x3, lsl #3 envp
        "a81b80d2"  # mov    x8, #221           execve
        "010000d4"  # svc    #0
        "e00f1ff8"  # str    x0, [sp, #-16]!
        "600080d2"  # mov    x0, #3
        "e1030091"  # mov    x1, sp
        "820080d2"  # mov    x2, #4
        "080880d2"  # mov    x8, #64            write
        "010000d4"  # svc    #0
        "e00f80d2"  # mov    x0, #127
        "a80b80d2"  # mov    x8, #93            exit
        "010000d4"  # svc    #0
    ),
}
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64 (elf.h)
_BASE = 0x10000
_MFD_EXEC = 0x10  # linux/memfd.h, Linux 6.3; harmless before only when it is left out


def image(machine: str = syscalls.MACHINE) -> bytes:
    """The ELF file: header, two program headers, code."""
    code = bytes.fromhex(_CODE[machine])
    headers_size = 64 + 2 * 56
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bit, little endian, current version
    entry = _BASE + headers_size
    fields = (2, _ELF_MACHINE[machine], 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    header = ident + struct.pack("<HHIQQQIHHHHHH", *fields)
    size = headers_size + len(code)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD r-x
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK rw-
    return header + load + stack + code


def open_trampoline() -> int:
    """A sealed file in memory with the executable; closed on exec, which is right for ELF."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("lamina", flags | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("lamina", flags)
    os.write(fd, image())
    os.fchmod(fd, 0o555)
    syscalls.seal(fd)
    return fd
