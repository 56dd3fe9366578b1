"""The last step before a program: a tiny native executable that does nothing but execve.

While a forked Python sets the stage, /proc/self/exe of that process is the host's interpreter, and
an image may say `ENTRYPOINT ["/proc/self/exe"]` or `#!/proc/self/exe`: the interpreter would run
inside the sandbox with the libraries of the image, which could then open it for writing
(CVE-2019-5736). So the process first executes this sealed file in memory, which holds no secret
and cannot be changed, and that one executes the program.

It is called as  [path, argv0, argv1, ...]  and does
    fcntl(3, F_SETFD, FD_CLOEXEC)          3 is the pipe for errors: its end says "executed"
    execve(path, &argv[1], envp)
    write(3, &result, 4); exit(127)        the negative errno
Without a descriptor 3 it has been executed a second time, by what says /proc/self/exe: exit(127).

The words of `CODE` were assembled from the mnemonics beside them; test_native.py does it again
where binutils are installed.
"""

from builder.sandbox import native, syscalls

ERRORS_FD = 3

CODE = {
    "x86_64": (
        "bf03000000"  # mov edi, 3
        "be02000000"  # mov esi, 2  ; F_SETFD
        "ba01000000"  # mov edx, 1  ; FD_CLOEXEC
        "b848000000"  # mov eax, 72  ; fcntl
        "0f05"  # syscall
        "85c0"  # test eax, eax
        "752f"  # jne stop  ; executed by itself
        "488b7c2408"  # mov rdi, [rsp+8]  ; argv[0]
        "488d742410"  # lea rsi, [rsp+16]  ; &argv[1]
        "488b0424"  # mov rax, [rsp]  ; argc
        "488d54c410"  # lea rdx, [rsp+rax*8+16]  ; envp
        "b83b000000"  # mov eax, 59  ; execve
        "0f05"  # syscall
        "50"  # push rax
        "bf03000000"  # mov edi, 3
        "4889e6"  # mov rsi, rsp
        "ba04000000"  # mov edx, 4
        "b801000000"  # mov eax, 1  ; write
        "0f05"  # syscall
        # stop:
        "bf7f000000"  # mov edi, 127
        "b83c000000"  # mov eax, 60  ; exit
        "0f05"  # syscall
    ),
    "aarch64": (
        "600080d2"  # mov x0, #3
        "410080d2"  # mov x1, #2  ; F_SETFD
        "220080d2"  # mov x2, #1  ; FD_CLOEXEC
        "280380d2"  # mov x8, #25  ; fcntl
        "010000d4"  # svc #0
        "a00100b5"  # cbnz x0, stop  ; executed by itself
        "e00740f9"  # ldr x0, [sp, #8]  ; argv[0]
        "e1430091"  # add x1, sp, #16  ; &argv[1]
        "e30340f9"  # ldr x3, [sp]  ; argc
        "220c038b"  # add x2, x1, x3, lsl #3  ; envp
        "a81b80d2"  # mov x8, #221  ; execve
        "010000d4"  # svc #0
        "e00f1ff8"  # str x0, [sp, #-16]!
        "600080d2"  # mov x0, #3
        "e1030091"  # mov x1, sp
        "820080d2"  # mov x2, #4
        "080880d2"  # mov x8, #64  ; write
        "010000d4"  # svc #0
        # stop:
        "e00f80d2"  # mov x0, #127
        "a80b80d2"  # mov x8, #93  ; exit
        "010000d4"  # svc #0
    ),
}


def open_trampoline() -> int:
    """A sealed file in memory with the executable."""
    return native.open_sealed(bytes.fromhex(CODE[syscalls.MACHINE]))
