"""The machine code is what its comments say. See also test_init.py and test_trampoline.py."""

import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from builder.sandbox import init, native, syscalls, trampoline

SOURCES = {"init": init, "trampoline": trampoline}


def listing(module: object, machine: str) -> list[tuple[str, str]]:
    """(words in hexadecimal, mnemonic or label) of each line."""
    path = getattr(module, "__file__", "")
    text = Path(path).read_text()
    block = text[text.index(f'"{machine}": (') :]
    block = block[: block.index("\n    ),")]
    rows = []
    for line in block.splitlines()[1:]:
        found = re.fullmatch(r'\s*(?:"([0-9a-f]+)"\s*)?# (.*?)(?:  ; .*)?', line)
        assert found, line
        rows.append((found[1] or "", found[2]))
    return rows


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", SOURCES)
def test_the_code_is_its_listing(name: str, machine: str) -> None:
    module = SOURCES[name]
    assert "".join(words for words, _ in listing(module, machine)) == module.CODE[machine]


ASSEMBLERS = {
    "x86_64": ("as", "objcopy", ".intel_syntax noprefix\n"),
    "aarch64": ("aarch64-linux-gnu-as", "aarch64-linux-gnu-objcopy", ""),
}


@pytest.mark.parametrize("machine", ASSEMBLERS)
@pytest.mark.parametrize("name", SOURCES)
def test_assembling_the_listing_gives_the_code(name: str, machine: str, tmp_path: Path) -> None:
    assembler, objcopy, prelude = ASSEMBLERS[machine]
    if os.uname().machine == machine:
        assembler, objcopy = "as", "objcopy"
    if not shutil.which(assembler) or not shutil.which(objcopy):
        pytest.skip(f"{assembler} is not installed: machine code for {machine} has no oracle")
    lines = [
        mnemonic.replace("[rsp], -1", "QWORD PTR [rsp], -1")
        for _, mnemonic in listing(SOURCES[name], machine)
    ]
    lines = [line.replace("QWORD PTR QWORD PTR", "QWORD PTR") for line in lines]
    (tmp_path / "code.s").write_text(prelude + "\n".join(lines) + "\n")
    subprocess.run([assembler, "code.s", "-o", "code.o"], cwd=tmp_path, check=True)
    subprocess.run(
        [objcopy, "-O", "binary", "-j", ".text", "code.o", "code"], cwd=tmp_path, check=True
    )
    assert (tmp_path / "code").read_bytes().hex() == SOURCES[name].CODE[machine]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_file_is_a_small_static_executable(machine: str) -> None:
    image = native.executable(bytes.fromhex(init.CODE[machine]), machine)
    assert image[:4] == b"\x7fELF"
    assert len(image) < 512
    kind, cpu = struct.unpack_from("<HH", image, 16)
    assert (kind, cpu) == (2, {"x86_64": 62, "aarch64": 183}[machine])
    flags = [struct.unpack_from("<II", image, 64 + 56 * number) for number in range(2)]
    assert flags == [(1, 5), (0x6474E551, 6)]  # nothing is writable and executable


def test_the_memory_cannot_be_changed() -> None:
    fd = trampoline.open_trampoline()
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    for change in (
        lambda: os.write(fd, b"x"),
        lambda: os.ftruncate(fd, 0),
        lambda: os.ftruncate(fd, 1 << 20),
        lambda: os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC),
    ):
        with pytest.raises(PermissionError):
            change()
    assert os.read(again, 4) == b"\x7fELF"
    os.close(again)
    os.close(fd)


class TestInit:
    """As an ordinary process it knows no process 2 of its own; only reaping can be seen here."""

    def test_it_is_called_by_its_name(self) -> None:
        fd = init.open_init()
        pid = os.posix_spawn(
            f"/proc/{os.getpid()}/fd/{fd}",
            [word.decode() for word in init.ARGV],
            {},
            setsigmask=signal.valid_signals(),
        )
        os.close(fd)
        try:
            status: dict[str, str] = {}
            while status.get("Name") != "lamina-init":
                text = Path(f"/proc/{pid}/status").read_text()
                status = dict(line.split(":\t", 1) for line in text.splitlines())
            assert Path(f"/proc/{pid}/environ").read_bytes() == b""
            assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"lamina-init\0"
            assert int(status["VmRSS"].split()[0]) < 100  # kB
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_unknown_machines_have_no_code() -> None:
    assert set(init.CODE) == set(trampoline.CODE) == {"x86_64", "aarch64"}
    assert syscalls.MACHINE in init.CODE
