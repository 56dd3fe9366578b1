import os
import struct
from pathlib import Path

import pytest

from builder.sandbox import SandboxError, set_terminal_size
from builder.sandbox.syscalls import ioctl_bytes
from builder.sandbox.terminal import open_pair

TIOCGWINSZ = 0x5413


def size_of(fd: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("=HHHH", ioctl_bytes(fd, TIOCGWINSZ, bytes(8)))
    return rows, columns


@pytest.fixture
def root_fd() -> int:
    return os.open("/", os.O_PATH)


def test_a_pair_is_connected_and_has_its_size(root_fd: int) -> None:
    if not Path("/dev/pts/ptmx").exists():
        pytest.skip("this machine has no /dev/pts/ptmx")
    try:
        master, peer = open_pair(root_fd, (12, 34))
    except PermissionError:
        pytest.skip("this machine's /dev/pts/ptmx is closed to us")
    assert os.isatty(peer)
    assert size_of(peer) == (12, 34)
    os.write(master, b"hello\n")
    assert os.read(peer, 100) == b"hello\n"
    set_terminal_size(master, 50, 100)
    assert size_of(peer) == (50, 100)
    for fd in (master, peer, root_fd):
        os.close(fd)


def test_what_is_no_terminal_has_no_size() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError):
        set_terminal_size(reader, 1, 1)
    os.close(reader)
    os.close(writer)


def test_a_file_in_the_place_of_ptmx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    (tmp_path / "dev/pts/ptmx").touch()
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(SandboxError, match="no devpts"):
        open_pair(fd, None)
    os.close(fd)
