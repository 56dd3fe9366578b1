"""The last step before a program: a tiny native executable that does nothing but execve.

While a forked Python sets the stage, /proc/self/exe of that process is the host's interpreter, and
an image may say `ENTRYPOINT ["/proc/self/exe"]` or `#!/proc/self/exe`: the interpreter would run
inside the sandbox with the libraries of the image, which could then open it for writing
(CVE-2019-5736). So the process first executes this sealed file in memory, which holds no secret
and cannot be changed, and that one executes the program.

It is called as  [path, argv0, argv1, ...]  and does
    fcntl(3, F_SETFD, FD_CLOEXEC)          3 is the pipe for errors: its end says "executed"
    execve(path, &argv[1], envp)
    write(3, &result, 4)                   the negative errno
    write(3, the first bytes of path)     where it is there, and the error says that it is not:
    exit(127)                              then it is what path asks for that is missing
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
        "7576"  # jne stop  ; executed by itself
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
        "8b0424"  # mov eax, [rsp]
        "83f8fe"  # cmp eax, -2  ; ENOENT
        "753f"  # jne stop
        "488b7c2410"  # mov rdi, [rsp+16]  ; argv[0]
        "be00090000"  # mov esi, 2304  ; O_NONBLOCK, O_NOCTTY
        "b802000000"  # mov eax, 2  ; open
        "0f05"  # syscall
        "85c0"  # test eax, eax
        "782a"  # js stop
        "89c7"  # mov edi, eax
        "4881ec00040000"  # sub rsp, 1024
        "4889e6"  # mov rsi, rsp
        "ba00040000"  # mov edx, 1024
        "31c0"  # xor eax, eax  ; read
        "0f05"  # syscall
        "85c0"  # test eax, eax
        "7e11"  # jle stop
        "89c2"  # mov edx, eax
        "bf03000000"  # mov edi, 3
        "4889e6"  # mov rsi, rsp
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
        "600400b5"  # cbnz x0, stop  ; executed by itself
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
        "e00340b9"  # ldr w0, [sp]
        "1f080031"  # cmn w0, #2  ; ENOENT
        "81020054"  # b.ne stop
        "600c8092"  # mov x0, #-100  ; AT_FDCWD
        "e10f40f9"  # ldr x1, [sp, #24]  ; argv[0]
        "022081d2"  # mov x2, #2304  ; O_NONBLOCK, O_NOCTTY
        "080780d2"  # mov x8, #56  ; openat
        "010000d4"  # svc #0
        "1f000071"  # cmp w0, #0
        "ab010054"  # b.lt stop
        "ff0310d1"  # sub sp, sp, #1024
        "e1030091"  # mov x1, sp
        "028080d2"  # mov x2, #1024
        "e80780d2"  # mov x8, #63  ; read
        "010000d4"  # svc #0
        "1f0000f1"  # cmp x0, #0
        "cd000054"  # b.le stop
        "e20300aa"  # mov x2, x0
        "600080d2"  # mov x0, #3
        "e1030091"  # mov x1, sp
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
