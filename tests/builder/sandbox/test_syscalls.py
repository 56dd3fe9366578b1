"""Every call, made for real: what changes the process itself is tried in a child."""

import ast
import ctypes
import errno
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.sandbox import syscalls
from tests.support import traces

BENEATH, IN_ROOT = syscalls.RESOLVE_BENEATH, syscalls.RESOLVE_IN_ROOT
TMPFS_MAGIC, PROC_MAGIC = 0x01021994, 0x9FA0  # linux/magic.h
ALLOW = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET, SECCOMP_RET_ALLOW
PR_GET_DUMPABLE, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS = 3, 21, 39  # linux/prctl.h
FIONREAD = 0x541B  # asm-generic/ioctls.h
needs_root = pytest.mark.needs_root


def inside(play: Callable[[], object]) -> object:
    """What `play` returns in a process of its own; a literal, since it comes back as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = repr(play())
        except BaseException as error:  # noqa: BLE001  (the parent shows it)
            found = repr(f"{type(error).__name__}: {error}")
        finally:
            os.write(writer, found.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return ast.literal_eval(text)


def identity(namespace: str) -> str:
    return str(Path(f"/proc/self/ns/{namespace}").readlink())


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def error_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.strerror == os.strerror(caught.value.errno or 0)
    return caught.value.errno or 0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a directory with a file, and links out of it."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("inside\n")
    (tmp_path / "outside").write_text("outside\n")
    (tmp_path / "root/absolute").symlink_to("/etc/passwd")
    (tmp_path / "root/up").symlink_to("../../../../../../../../etc/passwd")
    (tmp_path / "root/out").symlink_to(tmp_path / "outside")
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


class TestConstants:
    HEADERS = ("mount", "sched", "fcntl", "openat2", "prctl", "seccomp", "keyctl")

    def test_they_are_those_of_the_headers(self) -> None:
        texts = [
            path.read_text()
            for name in self.HEADERS
            if (path := Path(f"/usr/include/linux/{name}.h")).exists()
        ]
        if not texts:
            pytest.skip("no kernel headers (Debian package linux-libc-dev)")
        known = {
            name: value(text)
            for name, text in re.findall(r"#\s*define\s+(\w+)\s+([^\n/]+)", "\n".join(texts))
        }
        mine = {
            name: each
            for name, each in vars(syscalls).items()
            if name.isupper() and isinstance(each, int) and known.get(name) is not None
        }
        assert len(mine) > 30
        assert mine == {name: known[name] for name in mine}


def value(text: str) -> int | None:
    """A number, or a number shifted; None for what is more than that."""
    text = re.sub(r"(?<=[0-9a-fA-F])[UL]+\b", "", text.strip())
    found = re.fullmatch(r"\(?\s*(-?0x[0-9a-fA-F]+|-?[0-9]+)\s*(?:<<\s*([0-9]+))?\s*\)?", text)
    if not found:
        return None
    number, shift = found.groups()
    digits = number if "x" in number else str(int(number, 8 if number.startswith("0") else 10))
    return int(digits, 0) << int(shift or 0)


class TestErrors:
    def test_they_name_the_file_where_there_is_one(self, directory: int) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            syscalls.openat2(directory, b"none/\xff", os.O_RDONLY, BENEATH)
        assert caught.value.filename == "none/\udcff"
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(FileNotFoundError, match="no/such/tree"):
            syscalls.open_tree(syscalls.AT_FDCWD, b"no/such/tree", 0)

    @pytest.mark.parametrize(
        "call",
        [
            lambda fd: syscalls.setns(fd, 0),
            lambda fd: syscalls.duplicate(fd, 3),
            lambda fd: syscalls.seal(fd),
            lambda fd: syscalls.ioctl(fd, termios.TIOCNOTTY, 0),
            lambda fd: syscalls.ioctl_bytes(fd, FIONREAD, bytes(4)),
            lambda fd: syscalls.filesystem_type(fd),
            lambda fd: syscalls.fsconfig(fd, b"size", b"1m"),
            lambda fd: syscalls.fsmount(fd, 0),
            lambda fd: syscalls.move_mount(fd, fd),
            lambda fd: syscalls.mount_setattr(fd, syscalls.MOUNT_ATTR_RDONLY),
            lambda fd: syscalls.openat2(fd, b"x", os.O_RDONLY, BENEATH),
            lambda fd: syscalls.execveat(fd, syscalls.Arguments([b"x"], [])),
        ],
        ids=range(12),
    )
    def test_a_descriptor_that_is_none_is_one(self, call: Callable[[int], object]) -> None:
        def play() -> object:
            try:
                found = call(999)
            except OSError as error:
                found = error
            return isinstance(found, OSError) and errno.errorcode[found.errno or 0]

        # who may not mount at all is told so first
        assert inside(play) in ("EBADF", "EPERM")

    def test_a_bad_option_is_one(self) -> None:
        assert error_of(lambda: syscalls.prctl(-1)) == errno.EINVAL
        assert error_of(lambda: syscalls.unshare(1)) == errno.EINVAL


class TestResolving:
    def test_a_file_beneath_is_opened_and_closed_on_exec(self, directory: int) -> None:
        fd = syscalls.openat2(directory, b"etc/passwd", os.O_RDONLY, BENEATH)
        assert os.read(fd, 100) == b"inside\n"
        assert not os.get_inheritable(fd)
        os.close(fd)

    @pytest.mark.parametrize("name", [b"absolute", b"up", b"../outside", b"/etc/passwd", b"out"])
    def test_what_leads_out_is_refused(self, directory: int, name: bytes) -> None:
        assert error_of(lambda: syscalls.openat2(directory, name, os.O_RDONLY, BENEATH)) == (
            errno.EXDEV
        )

    @pytest.mark.parametrize("name", [b"absolute", b"up", b"/etc/passwd", b"../../etc/passwd"])
    def test_in_a_root_it_stays_inside(self, directory: int, name: bytes) -> None:
        fd = syscalls.openat2(directory, name, os.O_RDONLY, IN_ROOT)
        assert os.read(fd, 100) == b"inside\n"
        os.close(fd)

    def test_without_links_no_link_is_followed(self, directory: int) -> None:
        flags = BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        assert error_of(lambda: syscalls.openat2(directory, b"up", os.O_RDONLY, flags)) == (
            errno.ELOOP
        )

    @pytest.mark.parametrize(("refusals", "expected"), [(3, None), (10**9, errno.EAGAIN)])
    def test_it_asks_again_when_something_moved(
        self,
        directory: int,
        monkeypatch: pytest.MonkeyPatch,
        refusals: int,
        expected: int | None,
    ) -> None:
        real, asked = syscalls._openat2, 0

        def moved(*arguments: object) -> int:
            nonlocal asked
            asked += 1
            if asked > refusals:
                return int(real(*arguments))
            ctypes.set_errno(errno.EAGAIN)
            return -1

        monkeypatch.setattr(syscalls, "_openat2", moved)
        try:
            os.close(syscalls.openat2(directory, b"etc/../etc/passwd", os.O_RDONLY, IN_ROOT))
        except OSError as error:
            assert error.errno == expected
        else:
            assert (asked, expected) == (4, None)

    def test_a_file_can_be_made_with_its_mode(self, directory: int, tmp_path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        os.close(syscalls.openat2(directory, b"new", flags, BENEATH, 0o640))
        assert (tmp_path / "root/new").stat().st_mode & 0o777 == 0o640


class TestDescriptors:
    def test_a_copy_is_at_least_as_high_as_asked(self) -> None:
        fd = syscalls.duplicate(0, 500)
        assert fd >= 500
        assert not os.get_inheritable(fd)
        assert os.path.sameopenfile(fd, 0)
        os.close(fd)

    def test_everything_from_a_number_on_is_closed(self) -> None:
        def play() -> object:
            for number in (50, 60, 700):
                os.dup2(1, number)
            syscalls.close_from(60)
            return sorted(number for number in (1, 50, 60, 700) if is_open(number))

        def is_open(number: int) -> bool:
            try:
                os.fstat(number)
            except OSError:
                return False
            return True

        assert inside(play) == [1, 50]

    def test_a_sealed_file_cannot_change(self) -> None:
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(fd, b"content")
        syscalls.seal(fd)
        assert error_of(lambda: os.write(fd, b"more")) == errno.EPERM
        assert error_of(lambda: os.ftruncate(fd, 1)) == errno.EPERM
        assert error_of(lambda: syscalls.seal(fd)) == errno.EPERM  # nor can the seal
        assert os.pread(fd, 10, 0) == b"content"
        os.close(fd)

    @pytest.mark.parametrize(("path", "magic"), [("/proc", PROC_MAGIC), ("/dev/shm", TMPFS_MAGIC)])
    def test_a_file_system_has_its_magic_number(self, path: str, magic: int) -> None:
        fd = os.open(path, os.O_PATH)
        assert syscalls.filesystem_type(fd) == magic
        os.close(fd)

    def test_ioctls_on_structures_give_them_back(self) -> None:
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (33, 77))
        data = syscalls.ioctl_bytes(slave, termios.TIOCGWINSZ, bytes(8))
        assert struct.unpack("<4H", data)[:2] == (33, 77)
        assert syscalls.ioctl(slave, termios.TCFLSH, termios.TCIFLUSH) == 0
        os.close(master)
        os.close(slave)
        assert error_of(lambda: syscalls.ioctl(slave, termios.TCFLSH, 0)) == errno.EBADF


class TestSelf:
    def test_the_name_of_a_process_has_fifteen_bytes(self) -> None:
        def play() -> object:
            found = []
            for name in (b"short", b"a-name-that-is-too-long"):
                syscalls.set_process_name(name)
                found.append(Path("/proc/self/comm").read_text())
            return found

        assert inside(play) == ["short\n", "a-name-that-is-\n"]

    def test_the_command_line_is_overwritten_in_its_place(self) -> None:
        def play() -> object:
            span = syscalls.command_line_range()
            before = Path("/proc/self/cmdline").read_bytes()
            syscalls.overwrite_command_line(span, b"title")
            short = Path("/proc/self/cmdline").read_bytes()
            syscalls.overwrite_command_line(span, b"x" * 100_000)
            long = Path("/proc/self/cmdline").read_bytes()
            return (len(before), short.rstrip(b"\0"), len(long), long.strip(b"x\0"))

        found = inside(play)
        assert isinstance(found, tuple)
        size, short, cut_size, rest = found
        assert short == b"title"
        assert cut_size <= size
        assert rest == b""

    def test_where_there_is_no_command_line_nothing_is_written(self) -> None:
        before = Path("/proc/self/cmdline").read_bytes()
        syscalls.overwrite_command_line((0, 0), b"x")
        start, _ = syscalls.command_line_range()
        syscalls.overwrite_command_line((start, start), b"x")
        assert Path("/proc/self/cmdline").read_bytes() == before

    def test_options_of_a_process_are_set_and_read(self) -> None:
        def play() -> object:
            found = []
            for value in (1, 0):
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, value)
                found.append(syscalls.prctl(PR_GET_DUMPABLE))
            return found

        assert inside(play) == [1, 0]

    def test_a_signal_s_action_is_set_past_the_c_library(self) -> None:
        def ignored() -> int:
            text = Path("/proc/self/status").read_text()
            return int(re.findall(r"SigIgn:\t(\w+)", text)[0], 16)

        def play() -> object:
            found = []
            for action in (signal.SIG_IGN, signal.SIG_DFL):
                syscalls.set_signal_action(33, action)
                found.append(bool(ignored() >> 32 & 1))
            return found

        assert inside(play) == [True, False]
        assert error_of(lambda: syscalls.set_signal_action(signal.SIGKILL, 1)) == errno.EINVAL

    def test_capabilities_are_what_the_kernel_says(self) -> None:
        text = Path("/proc/self/status").read_text()
        assert syscalls.permitted_capabilities() == int(re.findall(r"CapPrm:\t(\w+)", text)[0], 16)

    @needs_root
    def test_capabilities_can_be_given_up_and_never_taken_back(self) -> None:
        def play() -> object:
            syscalls.capset(1 | 1 << 38, 1, 0)  # CAP_CHOWN, and one of the upper word
            found = [syscalls.permitted_capabilities()]
            text = Path("/proc/self/status").read_text()
            found.append(int(re.findall(r"CapEff:\t(\w+)", text)[0], 16))
            try:
                syscalls.capset(3, 1, 0)
            except PermissionError:
                found.append(-1)
            return found

        assert inside(play) == [1 | 1 << 38, 1, -1]

    def test_a_filter_is_loaded_and_a_bad_one_refused(self) -> None:
        def play() -> object:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            try:
                syscalls.load_seccomp(b"\xff" * 8)
            except OSError as error:
                refused = error.errno
            before = syscalls.prctl(PR_GET_SECCOMP)
            syscalls.load_seccomp(ALLOW)
            return (refused, before, syscalls.prctl(PR_GET_SECCOMP))

        assert inside(play) == (errno.EINVAL, 0, 2)


class TestProcesses:
    def test_a_clone_is_a_child_with_a_descriptor(self) -> None:
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            os._exit(42 if pidfd == -1 else 1)
        assert not os.get_inheritable(pidfd)
        signal.pidfd_send_signal(pidfd, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        os.close(pidfd)

    def test_the_interpreter_of_a_clone_works(self) -> None:
        """It allocates, imports, forks: nothing that the interpreter knows has changed."""
        reader, writer = os.pipe()
        pid, pidfd = syscalls.clone(0)
        if pid == 0:
            numbers = sorted(range(100_000), key=lambda number: -number)
            os.write(writer, f"{os.getpid()} {numbers[0]} {inside(lambda: 7)}".encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == f"{pid} 99999 7".encode()
        os.waitpid(pid, 0)
        os.close(pidfd)

    @needs_root
    def test_namespaces_of_a_clone_are_new(self) -> None:
        reader, writer = os.pipe()
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS)
        if pid == 0:
            syscalls.sethostname(b"elsewhere")
            os.write(writer, f"{os.getpid()} {os.uname().nodename}".encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"1 elsewhere"
        os.waitpid(pid, 0)
        os.close(pidfd)
        assert os.uname().nodename != "elsewhere"

    def test_what_is_not_allowed_is_an_error_in_the_parent(self) -> None:
        flags = syscalls.CLONE_NEWNS | 0x200  # CLONE_FS contradicts it
        assert error_of(lambda: syscalls.clone(flags)) == errno.EINVAL
        assert error_of(lambda: syscalls.clone(0, cgroup_fd=999)) in (errno.EBADF, errno.EINVAL)

    @needs_root
    def test_a_namespace_can_be_entered(self) -> None:
        def play() -> object:
            before = identity("uts")
            fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
            syscalls.unshare(syscalls.CLONE_NEWUTS)
            new = identity("uts")
            syscalls.setns(fd, syscalls.CLONE_NEWUTS)
            return (new != before, identity("uts") == before)

        assert inside(play) == (True, True)

    def test_a_program_is_executed_by_its_descriptor(self) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            fd = os.open("/bin/sh", os.O_PATH | os.O_CLOEXEC)
            words = [b"sh", b"-c", b'printf %s "$1$A"', b"sh", b"\xff "]
            syscalls.execveat(fd, syscalls.Arguments(words, [b"A=b"]))
            os._exit(1)
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"\xff b"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def test_what_cannot_be_executed_returns_the_error(self, tmp_path: Path) -> None:
        text = tmp_path / "text"
        text.write_text("no program\n")
        text.chmod(0o755)
        fd = os.open(text, os.O_PATH)
        assert syscalls.execveat(fd, syscalls.Arguments([b"x"], [])).errno == errno.ENOEXEC
        os.close(fd)


@needs_root
class TestMounts:
    """Each in a mount namespace of its own, of which nothing is seen outside."""

    @staticmethod
    def alone(play: Callable[[], object]) -> object:
        def separated() -> object:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            return play()

        before = traces.mount_table()
        found = inside(separated)
        assert traces.mount_table() == before
        return found

    def test_a_file_system_is_configured_mounted_and_made_read_only(self, tmp_path: Path) -> None:
        def play() -> object:
            context = syscalls.fsopen(b"tmpfs")
            syscalls.fsconfig(context, b"size", b"1m")
            mounted = syscalls.fsmount(context, syscalls.MOUNT_ATTR_NODEV)
            target = os.open(tmp_path, os.O_PATH)
            syscalls.move_mount(mounted, target)
            (tmp_path / "file").write_text("x")
            size = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
            syscalls.mount_setattr(mounted, syscalls.MOUNT_ATTR_RDONLY)
            try:
                (tmp_path / "file").write_text("y")
            except OSError as error:
                refused = error.errno
            syscalls.mount_setattr(mounted, 0, attr_clr=syscalls.MOUNT_ATTR_RDONLY)
            (tmp_path / "file").write_text("z")
            syscalls.umount(os.fsencode(tmp_path))
            return (size, refused, names_in(tmp_path))

        assert self.alone(play) == (1 << 20, errno.EROFS, [])

    def test_an_option_that_does_not_exist_is_named(self) -> None:
        def play() -> object:
            context = syscalls.fsopen(b"tmpfs")
            try:
                syscalls.fsconfig(context, b"nonsense", None)
            except OSError as error:
                return (error.errno, error.filename)
            return None

        assert self.alone(play) == (errno.EINVAL, "nonsense")
        assert error_of(lambda: syscalls.fsopen(b"nonsense")) == errno.ENODEV

    def test_a_copy_of_a_tree_can_be_put_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/file").write_text("x")
        (tmp_path / "target").mkdir()

        def play() -> object:
            flags = syscalls.OPEN_TREE_CLONE
            name = os.fsencode(tmp_path / "source")
            tree = syscalls.open_tree(syscalls.AT_FDCWD, name, flags)
            if os.get_inheritable(tree):
                return "inheritable"
            target = os.open(tmp_path / "target", os.O_PATH)
            syscalls.move_mount(tree, target)
            return (tmp_path / "target/file").read_text()

        assert self.alone(play) == "x"

    def test_a_bind_mount_hides_and_goes(self, tmp_path: Path) -> None:
        (tmp_path / "above").mkdir()
        (tmp_path / "below").mkdir()
        (tmp_path / "below/hidden").touch()

        def play() -> object:
            above, below = (os.fsencode(tmp_path / name) for name in ("above", "below"))
            syscalls.mount(above, below, None, syscalls.MS_BIND)
            during = names_in(tmp_path / "below")
            syscalls.umount(below)
            return (during, names_in(tmp_path / "below"))

        assert self.alone(play) == ([], ["hidden"])

    def test_what_is_no_mount_cannot_go(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
            syscalls.umount(os.fsencode(tmp_path))
        assert caught.value.errno == errno.EINVAL

    def test_a_root_can_be_exchanged(self, tmp_path: Path) -> None:
        def play() -> object:
            root = os.fsencode(tmp_path)
            syscalls.mount(b"tmpfs", root, b"tmpfs", 0)
            (tmp_path / "inside").touch()
            os.chdir(root)
            syscalls.pivot_root(b".", b".")
            syscalls.umount(b".")
            return names_in(Path("/"))

        assert self.alone(play) == ["inside"]

    def test_options_arrive(self, tmp_path: Path) -> None:
        def play() -> object:
            syscalls.mount(b"x", os.fsencode(tmp_path), b"tmpfs", syscalls.MS_NOSUID, b"mode=0700")
            mine = next(
                line
                for line in Path("/proc/self/mounts").read_text().splitlines()
                if line.split()[1] == str(tmp_path)
            )
            return ("nosuid" in mine, oct(tmp_path.stat().st_mode & 0o7777))

        assert self.alone(play) == (True, "0o700")


@needs_root
def test_a_new_session_keyring_is_not_the_old_one() -> None:
    def session() -> list[str]:
        """Serial numbers of the keys that this process possesses."""
        return [
            line.split()[0]
            for line in Path("/proc/keys").read_text().splitlines()
            if "_ses" in line
        ]

    if not Path("/proc/keys").exists():
        pytest.skip("this kernel shows no keys (/proc/keys)")

    def play() -> object:
        syscalls.join_new_session_keyring()
        first = set(session())
        syscalls.join_new_session_keyring()
        return len(set(session()) - first)

    assert inside(play) == 1


def test_a_timer_can_be_read_again_and_again() -> None:
    fd = syscalls.open_timer(1)
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 8)
        os.set_blocking(fd, True)
        for _ in range(2):
            assert int.from_bytes(os.read(fd, 8), "little") >= 1
    finally:
        os.close(fd)
