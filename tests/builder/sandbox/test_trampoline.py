"""The trampoline as an ordinary process. Its words and its mnemonics: test_native.py."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.sandbox import syscalls, trampoline


def call(
    path: str | bytes, *argv: str | bytes, env: dict[bytes, bytes] | None = None
) -> tuple[int, bytes]:
    """Execute it in a new process; returns the exit code and what came through its pipe."""
    fd = trampoline.open_trampoline()
    reader, writer = os.pipe()
    pid = os.posix_spawn(
        f"/proc/{os.getpid()}/fd/{fd}",
        [os.fsencode(word) for word in (path, *argv)],
        env or {},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, writer, trampoline.ERRORS_FD),
            *((os.POSIX_SPAWN_CLOSE, n) for n in {reader, writer} - {trampoline.ERRORS_FD}),
        ],
    )
    os.close(writer)
    with open(reader, "rb") as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), told


def errno_of(told: bytes) -> int:
    assert len(told) == 4
    return -int.from_bytes(told, "little", signed=True)


def test_it_executes_and_its_pipe_closes() -> None:
    assert call("/bin/sh", "sh", "-c", "test ! -e /proc/self/fd/3") == (0, b"")


def test_the_exit_code_is_the_programs() -> None:
    assert call("/bin/sh", "sh", "-c", "exit 77") == (77, b"")
    assert call("/bin/sh", "sh", "-c", "kill -9 $$") == (-9, b"")


def test_arguments_and_environment_arrive() -> None:
    script = 'test "$1-$2-$A" = "x y--1"'
    assert call("/bin/sh", "sh", "-c", script, "sh", "x y", "", env={b"A": b"1"}) == (0, b"")


def test_the_environment_is_only_what_was_given() -> None:
    script = 'test "$(tr "\\0" "\\n" < /proc/$$/environ)" = "A=1"'
    assert call("/bin/sh", "sh", "-c", script, env={b"A": b"1"}) == (0, b"")
    assert call("/bin/sh", "sh", "-c", "test ! -s /proc/$$/environ") == (0, b"")


def test_the_name_may_be_another_than_the_path() -> None:
    script = 'test "$(tr "\\0" " " < /proc/$$/cmdline | cut -d" " -f1)" = odd'
    assert call("/bin/sh", "odd", "-c", script) == (0, b"")


words = st.binary(max_size=20).filter(lambda word: b"\0" not in word)


@settings(deadline=None, max_examples=25)
@given(arguments=st.lists(words, max_size=6), value=words)
def test_any_bytes_arrive_as_they_are(arguments: list[bytes], value: bytes) -> None:
    reader, writer = os.pipe()
    script = f'printf "%s\\0" "$@" "$A" > /proc/{os.getpid()}/fd/{writer}'
    assert call("/bin/sh", "sh", "-c", script, "sh", *arguments, env={b"A": value}) == (0, b"")
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read().split(b"\0")[:-1] == [*arguments, value]


def test_many_arguments_arrive() -> None:
    numbers = [str(number) for number in range(5000)]
    assert call("/bin/sh", "sh", "-c", 'test "$#-${5000}" = 5000-4999', "sh", *numbers) == (0, b"")


@pytest.mark.parametrize(
    ("path", "number"),
    [("/nonesuch", 2), ("/etc", 13), ("/etc/passwd", 13), ("/proc/version/x", 20)],
)
def test_what_fails_is_told(path: str, number: int) -> None:
    code, told = call(path, "x")
    assert (code, errno_of(told)) == (127, number)


def test_what_is_no_program_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program\n")
    text.chmod(0o755)
    assert errno_of(call(str(text), "x")[1]) == 8
    text.write_text("#!/nonesuch\n")
    told = call(str(text), "x")[1]
    assert (errno_of(told[:4]), told[4:]) == (2, b"#!/nonesuch\n")
    text.write_text("#!/nonesuch\n" + "x" * 5000)
    assert call(str(text), "x")[1][4:] == text.read_bytes()[:1024]
    text.chmod(0o311)
    assert errno_of(call(str(text), "x")[1][:4]) == 2
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert errno_of(call(str(loop), "x")[1]) == 40


def test_executing_itself_does_no_harm() -> None:
    """What an image gets that says /proc/self/exe."""
    code, told = call("/proc/self/exe", "/nonesuch")
    assert (code, told) == (127, b"")


def test_without_a_pipe_it_ends_at_once() -> None:
    fd = trampoline.open_trampoline()
    pid = os.posix_spawn(
        f"/proc/{os.getpid()}/fd/{fd}",
        ["/bin/sh", "sh", "-c", "exit 5"],
        {},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 3, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_CLOSE, 3),
        ],
    )
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127


def test_every_file_is_a_new_one_that_is_closed_on_exec_and_has_no_name() -> None:
    first, second = trampoline.open_trampoline(), trampoline.open_trampoline()
    try:
        assert first != second
        assert not os.get_inheritable(first)
        status = os.fstat(first)
        assert (status.st_nlink, status.st_mode & 0o777) == (0, 0o555)
        assert os.pread(first, 4096, 0) == os.pread(second, 4096, 0)
    finally:
        os.close(first)
        os.close(second)


def test_it_is_too_small_to_hold_anything() -> None:
    fd = trampoline.open_trampoline()
    data = os.pread(fd, 4096, 0)
    os.close(fd)
    assert data[64 + 2 * 56 :] == bytes.fromhex(trampoline.CODE[syscalls.MACHINE])
    assert len(data) < 512


@pytest.mark.parametrize("machine", sorted(trampoline.CODE))
def test_the_code_is_whole_instructions_and_ends_by_exit(machine: str) -> None:
    code = bytes.fromhex(trampoline.CODE[machine])
    if machine == "aarch64":
        assert len(code) % 4 == 0
        assert struct.unpack("<I", code[-4:]) == (0xD4000001,)  # svc #0
    else:
        assert code.endswith(bytes.fromhex("b83c0000000f05"))  # mov eax, 60; syscall
        jump = code.index(bytes.fromhex("75"), code.index(bytes.fromhex("85c0")))
        target = jump + 2 + code[jump + 1]
        assert code[target:].hex() == "bf7f000000b83c0000000f05"  # exit(127)
