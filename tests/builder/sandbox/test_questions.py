"""What programs ask with: their memory, their names, their descriptors, however hostile."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox.notification import Call
from builder.sandbox.questions import (
    AT_FDCWD,
    Destination,
    Failed,
    Listener,
    Unclear,
    name_of,
    read_path,
    signed,
    status,
    umask,
)
from tests.support.ordinary import Ordinary
from tests.support.traces import open_descriptors

ME = Call(1, os.getpid(), 0, (0,) * 6)


class Alive(Listener):
    """Of programs that are alive: confirming needs a notification of the kernel's."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.confirmed = 0

    def confirm(self, call: Call) -> None:
        assert call == ME
        self.confirmed += 1


@pytest.fixture
def gone() -> Iterator[Listener]:
    """Where the kernel knows of no notification."""
    fd = os.memfd_create("none", os.MFD_CLOEXEC)
    yield Listener(fd)
    os.close(fd)


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a listener is used: processes are looked at by relative names."""
    monkeypatch.chdir("/proc")


@pytest.mark.parametrize("size", [1, 200, 255, 256, 4095])
def test_a_path_is_read_up_to_its_end(size: int) -> None:
    buffer = ctypes.create_string_buffer(b"x" * size + b"\0rest", 9000)
    assert read_path(ME, ctypes.addressof(buffer)) == b"x" * size


def test_a_path_without_an_end_is_the_kernels_to_refuse() -> None:
    buffer = ctypes.create_string_buffer(b"x" * 4096, 9000)
    with pytest.raises(Unclear):
        read_path(ME, ctypes.addressof(buffer))
    with pytest.raises(OSError, match="Bad address"):
        read_path(ME, 8)


def test_a_name_is_the_programs_own() -> None:
    pid = os.getpid()
    assert name_of(ME, AT_FDCWD, b"a/b") == b"%d/cwd/a/b" % pid
    assert name_of(ME, 7, b"a/b") == b"%d/fd/7/a/b" % pid
    assert name_of(ME, 7, b"/a/b") == b"/a/b"


@pytest.mark.parametrize(
    ("argument", "number"),
    [(0, 0), (7, 7), (2**32 - 100, -100), (2**64 - 1, -1), (2**31 - 1, 2**31 - 1), (2**33, 0)],
)
def test_an_int_is_the_low_half_of_its_register(argument: int, number: int) -> None:
    assert signed(argument) == number


@pytest.mark.usefixtures("proc")
class TestProc:
    def test_the_kernel_says_who_a_process_is(self) -> None:
        fields = status(os.getpid())
        assert int(fields[b"Tgid"]) == os.getpid()
        assert int(fields[b"PPid"]) == os.getppid()
        old = os.umask(0o27)
        try:
            assert umask(ME) == 0o27
        finally:
            os.umask(old)

    def test_memory_is_written_where_it_was_asked_for(self) -> None:
        buffer = ctypes.create_string_buffer(b"......", 7)
        at = ctypes.addressof(buffer)
        listener = Alive()
        listener.write(ME, (at, b"ab"), (at + 4, b"c"))
        assert buffer.value == b"ab..c."
        assert listener.confirmed == 1

    @pytest.mark.parametrize("address", [8, 2**47, 2**64 - 8])
    def test_what_cannot_be_written_is_a_bad_address(self, address: int) -> None:
        with pytest.raises(Failed) as caught:
            Alive().write(ME, (address, b"ab"))
        assert caught.value.number == errno.EFAULT

    def test_nothing_is_written_for_who_is_gone(self, gone: Listener) -> None:
        buffer = ctypes.create_string_buffer(b"......", 7)
        with pytest.raises(Unclear):
            gone.write(ME, (ctypes.addressof(buffer), b"ab"))
        assert buffer.value == b"......"

    def test_an_anchor_is_what_the_program_holds(self, tmp_path: Path) -> None:
        fd = os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)
        anchors = [Alive().anchor(ME, fd), Alive().anchor(ME, AT_FDCWD)]
        assert os.path.sameopenfile(anchors[0], fd)
        assert os.path.samestat(os.fstat(anchors[1]), Path("/proc").stat())
        for each in (*anchors, fd):
            os.close(each)

    def test_nothing_is_held_of_who_is_gone(self, gone: Listener) -> None:
        before = open_descriptors()
        with pytest.raises(Unclear):
            gone.anchor(ME, AT_FDCWD)
        assert open_descriptors() <= before

    def test_a_destination_has_an_anchor_unless_it_starts_at_the_root(self) -> None:
        for path, anchored in ((b"a/b", True), (b"/a/b", False)):
            buffer = ctypes.create_string_buffer(path)
            listener = Alive()
            before = open_descriptors()
            with Destination(listener, ME, AT_FDCWD, ctypes.addressof(buffer)) as place:
                assert (place.path, place.anchor is not None) == (path, anchored)
            assert listener.confirmed == 1
            assert open_descriptors() <= before

    def test_a_destination_has_a_name(self) -> None:
        buffer = ctypes.create_string_buffer(b"")
        with pytest.raises(Unclear):
            Destination(Alive(), ME, AT_FDCWD, ctypes.addressof(buffer))


def test_who_is_gone_gets_no_answer_and_no_descriptor(gone: Listener) -> None:
    assert gone.receive() is None
    gone.send(bytes(24))
    gone.speed_up()
    with pytest.raises(Failed):
        gone.give(ME, 0, 0)


HOSTILE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static void try(const char *name, long result) {
    printf("%s %d\\n", name, result < 0 ? errno : 0);
}
int main(void) {
    static const unsigned long bad[] = {8, 1UL << 47, 1UL << 63, ~0UL - 7};
    static const char long_path[9000] = {[0 ... 8998] = 'x'};
    for (unsigned i = 0; i < 4; i++) {
        void *at = (void *)bad[i];
        try("chown", syscall(SYS_fchownat, AT_FDCWD, at, 33, 33, 0));
        try("stat-path", syscall(SYS_newfstatat, AT_FDCWD, at, at, 0));
        try("stat-buffer", syscall(SYS_newfstatat, AT_FDCWD, "/tmp/f", at, 0));
        try("statx-buffer", syscall(SYS_statx, AT_FDCWD, "/tmp/f", 0, 0xfff, at));
        try("getresuid", syscall(SYS_getresuid, at, at, at));
        try("setgroups", syscall(SYS_setgroups, 4, at));
        try("getgroups", syscall(SYS_getgroups, 100, at));
        try("mknod", syscall(SYS_mknodat, AT_FDCWD, at, S_IFCHR, 0x103));
    }
    try("long", syscall(SYS_fchownat, AT_FDCWD, long_path, 33, 33, 0));
    try("long-stat", syscall(SYS_statx, AT_FDCWD, long_path, 0, 0xfff, long_path));
    try("no-descriptor", syscall(SYS_fchown, 77, 33, 33));
    try("no-directory", syscall(SYS_fchownat, 77, "x", 33, 33, 0));
    try("empty", syscall(SYS_fchownat, AT_FDCWD, "", 33, 33, 0));
    try("many-groups", syscall(SYS_setgroups, 65537, 0));
    try("no-id", syscall(SYS_setresuid, 0x80000000, 0, 0));
    try("flags", syscall(SYS_newfstatat, AT_FDCWD, "/tmp/f", long_path, 0x10000));
    try("by-descriptor", syscall(SYS_fchownat, open("/tmp/f", O_PATH), "", 5, 6, AT_EMPTY_PATH));
    struct stat status;
    stat("/tmp/f", &status);
    return printf("owner %d %d\\n", status.st_uid, status.st_gid) < 0;
}
"""


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
def test_what_an_enemy_asks_gets_the_kernels_errors(
    shell: Callable[..., str], ordinary: Ordinary
) -> None:
    source, target = ordinary.home / "hostile.c", ordinary.root / "bin/hostile"
    source.write_text(HOSTILE)
    subprocess.run(["gcc", "-static", "-w", "-o", target, source], check=True)
    said = shell("touch /tmp/f && chown 33:33 /tmp/f && hostile && id -u")
    rows = [line.split() for line in said.splitlines()]
    for name in ("chown", "stat-path", "stat-buffer", "statx-buffer", "getresuid", "mknod"):
        assert [row[1] for row in rows if row[0] == name] == ["14"] * 4, name
    assert [row[1] for row in rows if row[0] in ("setgroups", "getgroups")] == ["14"] * 8
    found = {row[0]: " ".join(row[1:]) for row in rows}
    assert (found["long"], found["long-stat"]) == ("36", "36")
    assert (found["no-descriptor"], found["no-directory"], found["empty"]) == ("9", "9", "2")
    assert (found["many-groups"], found["no-id"], found["flags"]) == ("22", "22", "22")
    assert (found["by-descriptor"], found["owner"]) == ("0", "5 6")
    assert rows[-1] == ["0"]
