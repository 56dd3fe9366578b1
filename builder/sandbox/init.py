"""PID 1 of a sandbox: reap what is orphaned, pass signals on, end with the program.

PID 1 begins as a fork of the interpreter, which builds the stage and forks the program. Then it
executes these hundred bytes and waits: nothing of the host's interpreter, its memory or its
command line is left for the sandbox to look at, and ending it takes no time.

It is called as  ["lamina-init"]  with
    descriptor 3    the report socket, which gets the wait status of the program, 4 bytes
    process 2       the program: PID 1 forks once, so its child has the next number; where it is not
                    PID 1 of a namespace of its own, `open_init` puts another number in
    all signals     blocked. They are waited for one by one: none can be lost between two steps, and
                    those of the host arrive at all (the kernel drops signals for a PID 1 without a
                    handler, but keeps blocked ones). SIGKILL and SIGSTOP from outside still act.

The words of `CODE` were assembled from the mnemonics beside them; test_native.py does it again
where binutils are installed.

When it exits, the kernel kills whatever is left in the pid namespace; only then is its end seen.

    loop:  while wait4(any, WNOHANG) finds something: if it is the program, report, exit
           number = rt_sigtimedwait(all);  unless it is SIGCHLD: kill(program, number)
"""

from builder.sandbox import native, syscalls

REPORT_FD = 3
PROGRAM_PID = 2
ARGV = (b"lamina-init",)

CODE = {
    "x86_64": (
        "bf0f000000"  # mov edi, 15  ; PR_SET_NAME
        "488b742408"  # mov rsi, [rsp+8]  ; argv[0]
        "b89d000000"  # mov eax, 157  ; prctl
        "0f05"  # syscall
        "4883ec10"  # sub rsp, 16
        "48c70424ffffffff"  # mov QWORD PTR [rsp], -1  ; all signals
        "bb02000000"  # mov ebx, 2  ; the program
        # reap:
        "bfffffffff"  # mov edi, -1  ; any child
        "488d742408"  # lea rsi, [rsp+8]  ; status
        "ba01000000"  # mov edx, 1  ; WNOHANG
        "4531d2"  # xor r10d, r10d
        "b83d000000"  # mov eax, 61  ; wait4
        "0f05"  # syscall
        "39d8"  # cmp eax, ebx
        "742e"  # je done
        "85c0"  # test eax, eax
        "7fdf"  # jg reap
        "4889e7"  # mov rdi, rsp
        "31f6"  # xor esi, esi
        "31d2"  # xor edx, edx
        "41ba08000000"  # mov r10d, 8
        "b880000000"  # mov eax, 128  ; rt_sigtimedwait
        "0f05"  # syscall
        "83f811"  # cmp eax, 17  ; SIGCHLD
        "74c6"  # je reap
        "85c0"  # test eax, eax
        "7ec2"  # jle reap
        "89c6"  # mov esi, eax
        "89df"  # mov edi, ebx
        "b83e000000"  # mov eax, 62  ; kill
        "0f05"  # syscall
        "ebb5"  # jmp reap
        # done:
        "bf03000000"  # mov edi, 3
        "488d742408"  # lea rsi, [rsp+8]
        "ba04000000"  # mov edx, 4
        "b801000000"  # mov eax, 1  ; write
        "0f05"  # syscall
        "31ff"  # xor edi, edi
        "b8e7000000"  # mov eax, 231  ; exit_group
        "0f05"  # syscall
    ),
    "aarch64": (
        "e00180d2"  # mov x0, #15  ; PR_SET_NAME
        "e10740f9"  # ldr x1, [sp, #8]  ; argv[0]
        "e81480d2"  # mov x8, #167  ; prctl
        "010000d4"  # svc #0
        "ff4300d1"  # sub sp, sp, #16
        "09008092"  # mov x9, #-1  ; all signals
        "e90300f9"  # str x9, [sp]
        "53008052"  # mov w19, #2  ; the program
        "1300a072"  # movk w19, #0, lsl #16
        # reap:
        "00008092"  # mov x0, #-1  ; any child
        "e1230091"  # add x1, sp, #8  ; status
        "220080d2"  # mov x2, #1  ; WNOHANG
        "030080d2"  # mov x3, #0
        "882080d2"  # mov x8, #260  ; wait4
        "010000d4"  # svc #0
        "1f00136b"  # cmp w0, w19
        "40020054"  # b.eq done
        "1f000071"  # cmp w0, #0
        "ecfeff54"  # b.gt reap
        "e0030091"  # mov x0, sp
        "010080d2"  # mov x1, #0
        "020080d2"  # mov x2, #0
        "030180d2"  # mov x3, #8
        "281180d2"  # mov x8, #137  ; rt_sigtimedwait
        "010000d4"  # svc #0
        "1f440071"  # cmp w0, #17  ; SIGCHLD
        "e0fdff54"  # b.eq reap
        "1f000071"  # cmp w0, #0
        "adfdff54"  # b.le reap
        "e103002a"  # mov w1, w0
        "e003132a"  # mov w0, w19
        "281080d2"  # mov x8, #129  ; kill
        "010000d4"  # svc #0
        "e8ffff17"  # b reap
        # done:
        "600080d2"  # mov x0, #3
        "e1230091"  # add x1, sp, #8
        "820080d2"  # mov x2, #4
        "080880d2"  # mov x8, #64  ; write
        "010000d4"  # svc #0
        "000080d2"  # mov x0, #0
        "c80b80d2"  # mov x8, #94  ; exit_group
        "010000d4"  # svc #0
    ),
}


_PLACES = {"x86_64": bytes.fromhex("bb02000000"), "aarch64": bytes.fromhex("530080521300a072")}


def open_init(program_pid: int = PROGRAM_PID) -> int:
    """A sealed file in memory with the executable."""
    return native.open_sealed(_with_pid(bytes.fromhex(CODE[syscalls.MACHINE]), program_pid))


def _with_pid(code: bytes, pid: int, machine: str = syscalls.MACHINE) -> bytes:
    place = _PLACES[machine]
    assert code.count(place) == 1, "the number stands in one place"
    if machine == "x86_64":
        return code.replace(place, place[:1] + pid.to_bytes(4, "little"))
    low, high = 0x52800013 | (pid & 0xFFFF) << 5, 0x72A00013 | pid >> 16 << 5
    return code.replace(place, low.to_bytes(4, "little") + high.to_bytes(4, "little"))
