"""An interpreter for classic BPF over struct seccomp_data: what the kernel would answer."""

import struct
from dataclasses import dataclass

AUDIT_ARCHES = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
ALLOW = "allow"
KILL = "kill"
NOTIFY = "notify"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result word and how many instructions it took."""

    word: int
    steps: int

    def __str__(self) -> str:
        if self.word == 0x7FFF0000:
            return ALLOW
        if self.word == 0x80000000:
            return KILL
        if self.word == 0x7FC00000:
            return NOTIFY
        assert self.word & 0xFFFF0000 == 0x00050000, hex(self.word)
        return {1: "eperm", 38: "enosys"}[self.word & 0xFFFF]


def run(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = ()) -> Answer:
    """Interpret; every access and jump is checked as the kernel's verifier would."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack(
        "<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *padded
    )
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = steps = 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        steps += 1
        match operation:
            case 0x20:
                assert constant % 4 == 0
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x05:
                at += constant
            case 0x15:
                at += if_true if accumulator == constant else if_false
            case 0x25:
                at += if_true if accumulator > constant else if_false
            case 0x54:
                accumulator &= constant
            case 0x35:
                at += if_true if accumulator >= constant else if_false
            case 0x45:
                at += if_true if accumulator & constant else if_false
            case 0x06:
                return Answer(constant, steps)
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")
