"""Answers compared with the kernel's own, byte for byte."""

import ctypes
import os
import stat
import struct
from pathlib import Path

import pytest

from builder.sandbox import syscalls, syscalltable
from builder.sandbox.ownerattribute import Owned
from builder.sandbox.statbuf import STATX_BYTES, pack, patch_statx

_libc = ctypes.CDLL(None, use_errno=True)
STATX_ALL = 0xFFF


def asked_of_the_kernel(path: Path) -> bytes:
    """`struct stat`, by the call itself."""
    machine = syscalls.MACHINE
    table = syscalltable.X86_64 if machine == "x86_64" else syscalltable.AARCH64
    buffer = ctypes.create_string_buffer(256)
    number = syscalltable.parse(table)["newfstatat"]
    assert _libc.syscall(number, -100, os.fsencode(path), buffer, 0x100) == 0
    return buffer.raw[: 144 if machine == "x86_64" else 128]


@pytest.fixture(params=["file", "directory", "link", "old", "null"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = str(request.param)
    path = tmp_path / kind
    if kind == "null":
        return Path("/dev/null")
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"x" * 12345)
        path.chmod(0o4751)
    if kind == "old":
        os.utime(path, ns=(-1_500_000_001, 3))
    return path


def test_with_its_own_owner_it_is_what_the_kernel_says(place: Path) -> None:
    status = place.lstat()
    assert pack(status, Owned(status.st_uid, status.st_gid)) == asked_of_the_kernel(place)


def test_another_owner_changes_eight_bytes_at_most(place: Path) -> None:
    status = place.lstat()
    found, expected = pack(status, Owned(33, 34)), asked_of_the_kernel(place)
    differing = [at for at in range(len(found)) if found[at] != expected[at]]
    start = 28 if syscalls.MACHINE == "x86_64" else 24
    assert struct.unpack_from("=II", found, start) == (33, 34)
    assert all(start <= at < start + 8 for at in differing)


def test_a_device_is_one_in_mode_and_number(tmp_path: Path) -> None:
    (tmp_path / "f").touch(mode=0o640)
    found = pack((tmp_path / "f").stat(), Owned(0, 0, (stat.S_IFBLK, 8, 1)), "x86_64")
    (mode,) = struct.unpack_from("=I", found, 24)
    (number,) = struct.unpack_from("=Q", found, 40)
    assert stat.S_ISBLK(mode)
    assert stat.S_IMODE(mode) & 0o600 == 0o600
    assert number == os.makedev(8, 1)


def test_sizes_are_those_of_the_headers(tmp_path: Path) -> None:
    status = tmp_path.stat()
    assert len(pack(status, Owned(0, 0), "x86_64")) == 144
    assert len(pack(status, Owned(0, 0), "aarch64")) == 128


def test_statx_gets_another_owner_and_nothing_else(place: Path) -> None:
    original = syscalls.statx(os.fsencode(place), 0x100, STATX_ALL)
    assert len(original) == STATX_BYTES
    patched = bytearray(original)
    patch_statx(patched, Owned(33, 34))
    assert struct.unpack_from("=II", patched, 20) == (33, 34)
    assert patched[:20] + patched[28:] == original[:20] + original[28:]


def test_statx_of_a_device(tmp_path: Path) -> None:
    (tmp_path / "f").touch(mode=0o600)
    buffer = bytearray(syscalls.statx(os.fsencode(tmp_path / "f"), 0, STATX_ALL))
    patch_statx(buffer, Owned(0, 0, (stat.S_IFCHR, 1, 3)))
    assert struct.unpack_from("=H", buffer, 28) == (stat.S_IFCHR | 0o600,)
    assert struct.unpack_from("=II", buffer, 128) == (1, 3)
