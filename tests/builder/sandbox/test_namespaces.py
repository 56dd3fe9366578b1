"""The walls, probed from inside (the promises of the default profile), and what is left outside."""

import ctypes
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from builder.sandbox import (
    ALL_CAPABILITIES,
    PIDS_MAX_DEFAULT,
    BindMount,
    ForkServer,
    Limits,
    Namespaces,
    OverlayRoot,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    ResourceLimit,
    SandboxError,
    TmpfsMount,
    cgroups,
    namespaces,
    syscalls,
)
from tests.support import host, rootfs, traces
from tests.support.sandboxes import PRELUDE, Bench, host_python
from tests.support.traces import open_descriptors

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

IDENTITIES = ("mnt", "pid", "ipc", "uts", "net", "cgroup")


def status_of(lines: list[str]) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class TestIdentity:
    def test_every_namespace_is_a_new_one(self, bench: Bench) -> None:
        names = " ".join(IDENTITIES)
        lines = bench.sh(f"for n in {names}; do readlink /proc/self/ns/$n; done").lines
        for name, inside in zip(IDENTITIES, lines, strict=True):
            assert inside != str(Path(f"/proc/self/ns/{name}").readlink()), name

    def test_processes_of_the_host_are_invisible(self, bench: Bench) -> None:
        lines = bench.sh("ls /proc | grep '^[0-9]'").lines
        assert len(lines) <= 4
        assert str(os.getpid()) not in lines

    def test_the_control_group_is_its_own_root(self, bench: Bench) -> None:
        for limits in (Limits(), Limits(pids_max=50)):
            lines = bench.sh("cat /proc/self/cgroup", limits=limits).lines
            assert {line.split(":", 2)[2] for line in lines} == {"/"}

    def test_the_session_and_the_terminal_are_not_the_callers(self, bench: Bench) -> None:
        script = "read pid comm state ppid pgrp session tty rest < /proc/self/stat;"
        script += " echo $pgrp $session $tty"
        assert bench.sh(script).lines == ["2 2 0"]

    def test_mounts_of_the_host_are_gone(self, bench: Bench) -> None:
        lines = bench.sh("cat /proc/self/mountinfo").lines
        roots = [line.split()[4] for line in lines]
        assert set(roots) <= {
            *("/", "/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm"),
            "/dev/mqueue",
            *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")),
            *under("/proc/", roots),
            *under("/sys/", roots),
        }
        assert not any("shared:" in line or "master:" in line for line in lines)

    def test_the_root_cannot_be_left(self, bench: Bench) -> None:
        script = "ls -di / /.. /../..; cd /; cd ..; pwd"
        lines = bench.sh(script).lines
        assert len({line.split()[0] for line in lines[:3]}) == 1
        assert lines[3] == "/"

    def test_chroot_tricks_end_at_the_root(self, bench: Bench) -> None:
        """The classic: chroot deeper with an open descriptor above, then climb."""
        outcome = bench.python(
            f"""
os.mkdir("/tmp/jail"); fd = os.open("/", os.O_RDONLY); os.chroot("/tmp/jail"); os.fchdir(fd)
for _ in range(50): os.chdir("..")
os.chroot(".")
print(sorted(os.listdir("/"))[0], os.path.exists("{bench.scratch}"), os.path.exists("/bin/busybox"))
"""
        )
        assert outcome.lines == ["bin False True"]


def under(prefix: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


class TestRights:
    def test_capabilities_are_dockers_default(self, bench: Bench) -> None:
        found = status_of(bench.sh("cat /proc/self/status").lines)
        assert {name: found[name] for name in found if name.startswith("Cap")} == {
            "CapInh": "0000000000000000",
            "CapPrm": "00000000a80425fb",
            "CapEff": "00000000a80425fb",
            "CapBnd": "00000000a80425fb",
            "CapAmb": "0000000000000000",
        }
        assert found["Seccomp"] == "2"
        assert found["NoNewPrivs"] == "0"
        assert found["TracerPid"] == "0"

    @pytest.mark.parametrize(
        ("names", "mask"),
        [
            (frozenset[str](), "0000000000000000"),
            (frozenset({"CAP_CHOWN", "CAP_NET_ADMIN"}), "0000000000001001"),
        ],
    )
    def test_capabilities_can_be_chosen(
        self, bench: Bench, names: frozenset[str], mask: str
    ) -> None:
        found = status_of(bench.sh("cat /proc/self/status", capabilities=names).lines)
        assert {found[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")} == {mask}

    def test_set_uid_programs_work_unless_no_new_privs(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        (layer / "bin").mkdir(parents=True)
        (layer / "bin/su").write_bytes((bench.lower / "bin/busybox").read_bytes())
        (layer / "bin/su").chmod(0o4755)
        (layer / "etc").mkdir()
        (layer / "etc/passwd").write_text(rootfs.PASSWD.replace("root:x:", "root::"))
        layers = (layer, bench.lower)
        script = "/bin/su root -c 'grep -E \"Uid|NoNewPrivs\" /proc/self/status'"
        found = status_of(bench.sh(script, user="ada", lowerdirs=layers).lines)
        assert (found["Uid"].split(), found["NoNewPrivs"]) == (["0"] * 4, "0")
        outcome = bench.sh(script, user="ada", lowerdirs=layers, no_new_privs=True)
        assert (outcome.status.code, outcome.stdout) == (1, b"")
        found = status_of(bench.sh("cat /proc/self/status", no_new_privs=True).lines)
        assert found["NoNewPrivs"] == "1"

    def test_file_modes_follow_umask_022(self, bench: Bench) -> None:
        before = os.umask(0o077)
        try:
            lines = bench.sh("umask; touch /tmp/x; stat -c %a /tmp/x").lines
        finally:
            os.umask(before)
        assert lines == ["0022", "644"]

    def test_the_oom_score_is_the_hosts(self, bench: Bench) -> None:
        here = Path("/proc/self/oom_score_adj").read_text()
        assert bench.sh("cat /proc/self/oom_score_adj").text == here

    def test_without_a_filter_there_is_none(self, bench: Bench) -> None:
        found = status_of(bench.sh("cat /proc/self/status", seccomp="unconfined").lines)
        assert found["Seccomp"] == "0"

    def test_the_filter_does_not_slow_speculation_down(self, bench: Bench) -> None:
        found = status_of(bench.sh("cat /proc/self/status").lines)
        here = status_of(Path("/proc/self/status").read_text().splitlines())
        name = "Speculation_Store_Bypass"
        assert found.get(name) == here.get(name)


class TestRefusals:
    def test_calls_that_need_more_rights_are_refused(self, bench: Bench) -> None:
        outcome = bench.python(
            """
calls = {
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0), "umount2": (166, b"/proc", 2),
    "pivot_root": (155, b".", b"."), "unshare user": (272, 0x10000000),
    "unshare mount": (272, 0x20000), "setns": (308, 0, 0), "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0), "keyctl": (250, 0, -3, 0), "add_key":
    (248, b"user", b"a", b"b", 1, -3), "open_by_handle_at": (304, -100, 0, 0),
    "init_module": (175, 0, 0, b""), "kexec_load": (246, 0, 0, 0, 0), "reboot":
    (169, 0xfee1dead, 672274793, 0), "swapon": (167, b"/x", 0), "acct": (163, 0),
    "settimeofday": (164, 0, 0), "iopl": (172, 3), "quotactl": (179, 0, 0, 0, 0),
    "userfaultfd": (323, 0), "io_uring_setup": (425, 1, 0), "syslog": (103, 3, 0, 0),
    "sethostname": (170, b"x", 1), "personality": (135, 0x40000), "fsopen": (430, b"tmpfs", 0),
    "open_tree": (428, -100, b"/", 1), "clone": (56, 0x10000011, 0, 0, 0, 0),
    "socket alg": (41, 38, 5, 0), "socket vsock": (41, 40, 1, 0), "move_pages":
    (279, 0, 0, 0, 0, 0, 0), "pidfd_getfd": (438, 0, 0, 0), "kcmp": (312, 1, 1, 0, 0, 0),
}
for name, (number, *arguments) in calls.items():
    result = syscall(number, *arguments)
    if result != 1: print(name, result)
print("clone3", syscall(435, 0, 0)); print("future", syscall(600))
"""
        )
        assert outcome.lines == [f"clone3 {errno.ENOSYS}", f"future {errno.ENOSYS}"]

    def test_calls_that_programs_need_work(self, bench: Bench) -> None:
        outcome = bench.python(
            """
import socket, threading, select
thread = threading.Thread(target=lambda: print("thread")); thread.start(); thread.join()
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    kind = socket.SOCK_RAW if family == socket.AF_NETLINK else socket.SOCK_STREAM
    socket.socket(family, kind).close()
socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()
os.memfd_create("x"); os.pidfd_open(os.getpid()); select.epoll().close(); os.getrandom(4)
os.setgroups([5]); os.setresgid(5, 5, 5); os.setresuid(5, 5, 5); print(os.getresuid())
"""
        )
        assert outcome.lines == ["thread", "(5, 5, 5)"]

    def test_tracing_own_processes_works(self, bench: Bench) -> None:
        outcome = bench.python(
            """
pid = os.fork()
if pid == 0:
    import time; time.sleep(30)
print(syscall(101, 16, pid, 0, 0)); os.waitpid(pid, 0); os.kill(pid, 9)
"""
        )
        assert outcome.lines == ["0"]


class TestKernelViews:
    def test_settings_of_the_kernel_cannot_be_changed(self, bench: Bench) -> None:
        paths = "/proc/sys/kernel/panic /proc/sys/vm/swappiness /proc/sysrq-trigger /proc/irq/x"
        paths += " /proc/bus/x /proc/fs/x /sys/kernel/x /sys/class/net/lo/mtu /sys/fs/cgroup/x"
        script = f"for p in {paths}; do echo 1 > $p && echo WROTE $p; done; true"
        outcome = bench.sh(script)
        assert outcome.stdout == b""
        assert outcome.stderr.count(b"Read-only file system") >= 5

    def test_masked_files_are_empty(self, bench: Bench) -> None:
        names = "kcore keys latency_stats sched_debug timer_list timer_stats interrupts"
        script = f"for n in {names}; do cat /proc/$n 2>/dev/null; done"
        assert bench.sh(script + "; true").stdout == b""

    def test_masked_directories_are_empty_and_closed(self, bench: Bench) -> None:
        names = "/proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap"
        script = f"for d in {names}; do test -d $d && ls -A $d && touch $d/x && echo $d; done; true"
        assert bench.sh(script).stdout == b""

    def test_masks_cannot_be_lifted(self, bench: Bench) -> None:
        script = "umount /proc/keys; umount -l /proc/sys; mount -o remount,rw /proc/sys;"
        script += " mount -t proc p /tmp"
        outcome = bench.sh(
            f"({script}) 2>/dev/null; cat /proc/keys; echo 1 > /proc/sys/kernel/panic"
        )
        assert outcome.stdout == b""
        assert b"Read-only" in outcome.stderr

    def test_masks_do_not_give_the_hosts_null_away(self, bench: Bench) -> None:
        """A mask is the host's /dev/null itself: its mode and owner are not for programs."""
        before = Path("/dev/null").stat()
        outcome = bench.sh(
            "chmod 600 /proc/keys /dev/null; chown 7 /dev/null /dev/zero; rm /dev/null"
        )
        assert outcome.status.code == 1
        after = Path("/dev/null").stat()
        assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)

    def test_a_new_proc_is_of_the_new_pid_namespace(self, bench: Bench) -> None:
        assert bench.sh("cat /proc/self/comm /proc/2/comm; true").lines == ["cat", "sh"]

    def test_the_default_limit_of_processes_is_set_from_inside(self, bench: Bench) -> None:
        if not cgroups.has_own_pid_max():
            pytest.skip("before Linux 6.14 pid_max is the whole machine's")
        before = Path("/proc/sys/kernel/pid_max").read_text()
        outcome = bench.sh("cat /proc/sys/kernel/pid_max", limits=Limits(pids_max=PIDS_MAX_DEFAULT))
        assert int(outcome.text) == PIDS_MAX_DEFAULT + 300
        assert Path("/proc/sys/kernel/pid_max").read_text() == before


class TestDevices:
    def test_the_usual_ones_work(self, bench: Bench) -> None:
        script = (
            "echo x > /dev/null; head -c 4 /dev/zero | hexdump -e '1/1 \"%d\"';"
            " head -c 9 /dev/urandom | wc -c; head -c 9 /dev/random | wc -c; echo x > /dev/full"
        )
        outcome = bench.sh(script)
        assert outcome.stdout == b"*\n00\n9\n9\n" or outcome.stdout.endswith(b"9\n9\n")
        assert b"No space left" in outcome.stderr

    def test_links_lead_to_the_programs_own_descriptors(self, bench: Bench) -> None:
        lines = bench.sh(
            "echo out > /dev/stdout; echo err > /dev/stderr; readlink /dev/fd; readlink /dev/ptmx"
        )
        assert lines.stdout == b"out\n/proc/self/fd\npts/ptmx\n"
        assert lines.stderr == b"err\n"

    def test_own_devices_can_be_made_and_not_opened(self, bench: Bench) -> None:
        """Docker's device control group allows mknod of anything, and open of almost nothing."""
        disk = os.stat("/").st_dev  # noqa: PTH116 - as the program inside asks
        major, minor = os.major(disk), os.minor(disk)
        places = "/ /tmp /dev /dev/shm /dev/mqueue /mnt/bind /mnt/tmpfs /etc"
        script = f"""
for d in {places}; do
  mknod $d/disk b {major} {minor} 2>/dev/null; mknod $d/mem c 1 1 2>/dev/null
  mknod $d/nul c 1 5 2>/dev/null
  for n in disk mem nul; do
    (head -c 1 $d/$n) 2>/dev/null && echo READ $d/$n
    (: < $d/$n) 2>/dev/null && echo OPENED $d/$n
  done
done; ls /tmp/disk"""
        (bench.scratch / "bind").mkdir()
        mounts = (
            BindMount(source=bench.scratch / "bind", target="/mnt/bind"),
            TmpfsMount(target="/mnt/tmpfs"),
        )
        assert bench.sh(script, mounts=mounts).lines == ["/tmp/disk"]

    def test_what_is_mounted_on_dev_is_not_used_by_the_first_process(self, bench: Bench) -> None:
        (bench.scratch / "bind").mkdir()
        os.mkfifo(bench.scratch / "bind/null")
        mounts = (BindMount(source=bench.scratch / "bind", target="/dev"),)
        assert bench.sh("ls /dev; echo runs", mounts=mounts).lines == ["null", "runs"]
        assert bench.sh("echo runs", mounts=(TmpfsMount(target="/dev"),)).lines == ["runs"]

    def test_devices_of_an_image_cannot_be_opened(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        os.mknod(layer / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        outcome = bench.sh("head -c 1 /zero", lowerdirs=(layer, bench.lower))
        assert b"Permission denied" in outcome.stderr

    def test_without_a_terminal_there_is_no_tty_and_no_console(self, bench: Bench) -> None:
        outcome = bench.sh("echo x > /dev/tty; test -e /dev/console || echo none")
        assert outcome.stdout == b"none\n"
        assert b"No such device" in outcome.stderr


class TestInterpreter:
    """The host's Python can be neither executed, nor read, nor written from inside."""

    def test_pid_1_gives_nothing_away(self, bench: Bench) -> None:
        names = "exe cwd root fd environ maps mem"
        script = f"for n in {names}; do ls -L /proc/1/$n 2>/dev/null | head -2; done;"
        script += " cat /proc/1/environ"
        outcome = bench.sh(script)
        assert b"python" not in outcome.stdout
        assert b"PATH" not in outcome.stdout

    @pytest.mark.parametrize(
        "capabilities", [None, frozenset({"CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"})]
    )
    def test_no_process_has_the_interpreter_as_its_executable(
        self, bench: Bench, capabilities: frozenset[str] | None
    ) -> None:
        script = "for p in /proc/[0-9]*; do readlink $p/exe; tr '\\0' ' ' < $p/cmdline; done"
        text = bench.sh(script, capabilities=capabilities).stdout
        assert b"python" not in text
        assert b"pytest" not in text

    @pytest.mark.parametrize("how", ["argv", "script", "link"])
    def test_proc_self_exe_as_the_program(self, bench: Bench, tmp_path: Path, how: str) -> None:
        layer = tmp_path / "layer"
        (layer / "bin").mkdir(parents=True)
        (layer / "bin/script").write_text("#!/proc/self/exe\nprint(1)\n")
        (layer / "bin/script").chmod(0o755)
        (layer / "bin/link").symlink_to("/proc/self/exe")
        program = {"argv": "/proc/self/exe", "script": "/bin/script", "link": "/bin/link"}[how]
        try:
            outcome = bench.run(program, "-c", "print(1)", lowerdirs=(layer, bench.lower))
        except (ProgramNotExecutableError, ProgramNotFoundError):
            return
        assert outcome.stdout == b""
        assert outcome.status.code == 127

    def test_a_joining_process_is_not_to_be_met(self, bench: Bench) -> None:
        """A hostile program looks at every process that appears while others join."""
        script = """
echo ready
while :; do for p in /proc/[0-9]*; do
  case $p in /proc/1|/proc/$$) continue;; esac
  e=$(readlink $p/exe) && case $e in *python*) echo "EXE $e";; esac
  grep -q -a pytest $p/cmdline 2>/dev/null && echo "CMDLINE $p"
  cat $p/environ 2>/dev/null | grep -q -a PYTEST && echo "ENVIRON $p"
done; done"""
        spec = bench.spec("/bin/sh", "-c", script)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        from builder.sandbox import Stdio

        running = bench.executor.start(spec, Stdio(stdin=null, stdout=writer, stderr=null))
        os.close(writer)
        assert os.read(reader, 6) == b"ready\n"
        for _ in range(10):
            bench.join(running, "/bin/true")
        running.kill()
        running.wait()
        with open(reader, "rb") as file:
            assert file.read() == b""
        os.close(null)


class TestNetwork:
    def test_abstract_sockets_of_the_host_are_out_of_reach(self, bench: Bench) -> None:
        import socket

        name = f"\0lamina-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            server.listen()
            script = f"""
import socket
try: socket.socket(socket.AF_UNIX).connect({name!r}); print("reached")
except OSError as error: print(error.errno)
"""
            assert bench.python(script).lines == [str(errno.ECONNREFUSED)]
            assert bench.python(script, network="host").lines == ["reached"]

    def test_loopback_of_the_host_is_out_of_reach(self, bench: Bench) -> None:
        import socket

        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            port = server.getsockname()[1]
            assert bench.sh(f"nc -w 1 127.0.0.1 {port} < /dev/null").status.code == 1
            assert bench.sh("cat /proc/net/route | wc -l").lines == ["1"]


class TestKeyring:
    def test_the_callers_keyring_is_not_the_programs(self, bench: Bench) -> None:
        """keyctl is refused; without the filter one sees that there is nothing to be had."""
        script = "print(syscall(250, 11, -3, 0, 0), syscall(250, 6, -3, 0, 0))"
        assert bench.python(script).lines == [f"{errno.EPERM} {errno.EPERM}"]
        outcome = bench.python(
            """
buffer = ctypes.create_string_buffer(64)
size = _libc.syscall(ctypes.c_long(250), ctypes.c_long(11), ctypes.c_long(-3), buffer, 64)
print(size)
""",
            seccomp="unconfined",
        )
        assert outcome.lines == ["0"]


class TestAfterwards:
    """Nothing stays, whoever dies."""

    SCRIPT = """
import os, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from builder.sandbox import *
from builder.sandbox import {executor} as Chosen
root = OverlayRoot(lowerdirs=(Path({lower!r}),), upperdir=Path({upper!r}), workdir=Path({work!r}))
program = Program(argv=("/bin/sh", "-c", "sleep 300 & echo ready; sleep 300"), env=("PATH=/bin",))
executor = Chosen()
spec = SandboxSpec(root=root, program=program, limits=Limits(pids_max=40))
running = executor.start(spec, Stdio(stdin=0, stdout=1, stderr=2))
os.write(1, b"init %d\\n" % running.init_pid)
running.wait()
"""

    def caller(self, bench: Bench, executor: str) -> tuple[subprocess.Popen[str], int]:
        root = bench.overlay()
        script = self.SCRIPT.format(
            repository=str(Path(__file__).parents[3]),
            executor=executor,
            lower=str(bench.lower),
            upper=str(root.upperdir),
            work=str(root.workdir),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = sorted(process.stdout.readline().strip() for _ in range(2))
        assert lines[1] == "ready", lines
        return process, int(lines[0].split()[1])

    @pytest.mark.parametrize("executor", ["LocalExecutor", "ForkServer"])
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_when_the_caller_dies_the_sandbox_goes(
        self, bench: Bench, executor: str, number: int
    ) -> None:
        process, init_pid = self.caller(bench, executor)
        relatives = {*tree_of(process.pid), *tree_of(init_pid)} - {process.pid}
        assert len(relatives) >= 3
        mounts = traces.mount_table()
        process.send_signal(number)
        assert process.wait() == -number
        assert process.stdout is not None
        process.stdout.close()
        wait_until_gone(relatives)
        assert traces.mount_table() == mounts

    def test_when_the_server_dies_the_sandbox_goes(self, bench: Bench) -> None:
        process, init_pid = self.caller(bench, "ForkServer")
        relatives = {*tree_of(process.pid), *tree_of(init_pid)} - {process.pid}
        server = int(Path(f"/proc/{init_pid}/status").read_text().split("PPid:")[1].split()[0])
        os.kill(server, signal.SIGKILL)
        assert process.wait() == 0  # its `wait` returned
        assert process.stdout is not None
        process.stdout.close()
        wait_until_gone(relatives)

    def test_a_vanished_caller_is_noticed_at_every_moment(self, bench: Bench) -> None:
        """Kill callers at random points of `start`; no process may survive."""
        script = self.SCRIPT.format(
            repository=str(Path(__file__).parents[3]),
            executor="LocalExecutor",
            lower=str(bench.lower),
            upper="{upper}",
            work="{work}",
        ).replace("sleep 300", "sleep 301")
        for delay in range(12):
            root = bench.overlay()
            text = script.replace("{upper}", str(root.upperdir)).replace(
                "{work}", str(root.workdir)
            )
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    text.replace(
                        "executor = Chosen()", "executor = Chosen(); print('go', flush=True)"
                    ),
                ],
                stdout=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
            )
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay * 0.0007)
            process.kill()
            process.wait()
            process.stdout.close()
        deadline = time.monotonic() + 10
        while processes_with("sleep\x00301") or inits_of(os.getpid()):
            assert time.monotonic() < deadline, "a sandbox survived"
            time.sleep(0.01)

    def test_the_upper_directory_is_free_after_wait(self, bench: Bench) -> None:
        """No mount of it is left anywhere: its owner may rename it or mount it again at once."""
        for _ in range(5):
            root = bench.overlay()
            bench.sh("echo x > /new; sleep 60 & true", root=root)
            for entry in Path("/proc").glob("[0-9]*/mountinfo"):
                try:
                    assert str(root.upperdir) not in entry.read_text()
                except OSError:
                    continue
            root.upperdir.rename(root.upperdir.with_suffix(".taken"))

    def test_failures_on_the_way_leave_nothing(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "dev").symlink_to("/etc")
        before = children()
        for _ in range(3):
            with pytest.raises(SandboxError):
                bench.run("/bin/true", lowerdirs=(layer, bench.lower))
            with pytest.raises(SandboxError):
                bench.run("/bin/true", root=missing_root(tmp_path))
        assert children() == before

    def test_threads_that_want_to_run_do_not_stop_what_is_forked(self, bench: Bench) -> None:
        """A copy of the interpreter has the wish of another thread, and not the thread."""
        before, ended = children(), threading.Event()

        def spin() -> None:
            while not ended.is_set():
                pass  # without waiting: that is the point

        threads = [threading.Thread(target=spin) for _ in range(2)]
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # they wish all the time
        for thread in threads:
            thread.start()
        try:
            assert [bench.sh("echo $$").lines for _ in range(10)] == [["2"]] * 10
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(usual_s)
        assert children() == before

    def test_a_fork_that_is_refused_beside_threads_says_why(self) -> None:
        before = children()
        shared_signal_handlers = 0x800  # which needs shared memory, clone(2)
        with pytest.raises(OSError, match="Invalid argument"):
            namespaces._clone_by_another(shared_signal_handlers)
        assert children() == before

    def test_an_interrupt_while_waiting_can_be_cleaned_up(self, bench: Bench) -> None:
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                running.wait()
            timer.join()
            running.kill()
            running.wait()
        assert not Path(f"/proc/{running.init_pid}").exists()


def missing_root(tmp_path: Path) -> OverlayRoot:
    return OverlayRoot(
        lowerdirs=(tmp_path / "no-lower",),
        upperdir=tmp_path / "no-upper",
        workdir=tmp_path / "no-work",
    )


def tree_of(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def children() -> list[int]:
    return tree_of(os.getpid())[1:]


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 10
    while True:
        left = [pid for pid in pids if is_alive(pid)]
        if not left:
            return
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def processes_with(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def inits_of(pid: int) -> list[int]:
    return [child for child in tree_of(pid)[1:] if is_alive(child)]


class TestServer:
    def test_ctrl_c_at_the_callers_terminal_does_not_reach_it(
        self, lower: Path, tmp_path: Path
    ) -> None:
        with ForkServer() as server:
            bench = Bench(executor=server, lower=lower, scratch=tmp_path)
            assert bench.sh("echo started").lines == ["started"]
            assert os.getsid(server._pid) == server._pid
            os.kill(server._pid, signal.SIGINT)
            assert bench.sh("echo alive").lines == ["alive"]

    def test_programs_do_not_inherit_what_the_server_ignores(
        self, lower: Path, tmp_path: Path
    ) -> None:
        with ForkServer() as server:
            bench = Bench(executor=server, lower=lower, scratch=tmp_path)
            line = bench.run("grep", "SigIgn", "/proc/self/status").text
            assert int(line.split()[1], 16) == 0


class TestHelpers:
    def test_attempts_report_what_failed(self) -> None:
        assert namespaces.attempt(lambda: None) == 0

        def fail() -> None:
            raise OSError(errno.ENOSPC, "full")

        assert namespaces.attempt(fail) == errno.ENOSPC
        assert namespaces.attempt(lambda: os.kill(os.getpid(), signal.SIGKILL)) == 255

    def test_starts_leave_no_descriptor(self, bench: Bench) -> None:
        bench.run("/bin/true")
        before = open_descriptors()
        for _ in range(25):
            bench.run("/bin/true")
        assert open_descriptors() <= before


class TestResourceLimits:
    @pytest.mark.parametrize(
        ("limit", "question", "answer"),
        [
            (ResourceLimit(name="nofile", soft=64, hard=128), "ulimit -n; ulimit -Hn", "64 128"),
            (ResourceLimit(name="core", soft=0, hard=0), "ulimit -c; ulimit -Hc", "0 0"),
            (
                ResourceLimit(name="nproc", soft=77, hard=88),
                "grep processes /proc/self/limits | tr -s ' ' | cut -d' ' -f3,4",
                "77 88",
            ),
            (ResourceLimit(name="fsize", soft=1024, hard=-1), "ulimit -Hf", "unlimited"),
        ],
    )
    def test_the_program_has_them(
        self, bench: Bench, limit: ResourceLimit, question: str, answer: str
    ) -> None:
        assert bench.sh(question, resource_limits=(limit,)).text.split() == answer.split()

    def test_none_is_changed_that_nobody_names(self, bench: Bench) -> None:
        limit = ResourceLimit(name="core", soft=0, hard=0)
        same = bench.sh("ulimit -n", resource_limits=(limit,)).text
        assert same == bench.sh("ulimit -n").text

    def test_a_hard_limit_is_never_raised(self, bench: Bench) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = ResourceLimit(name="nofile", soft=hard + 1, hard=hard + 1)
        with pytest.raises(SandboxError, match=f"limit nofile: the hard limit is {hard}") as caught:
            bench.sh("true", resource_limits=(limit,))
        assert f"nofile={hard}" in caught.value.hint

    def test_what_is_no_resource_is_refused(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="there is no resource 'files'") as caught:
            bench.sh("true", resource_limits=(ResourceLimit(name="files", soft=1, hard=1),))
        assert "nofile" in caught.value.hint


class TestInsecure:
    def test_a_program_may_have_all_capabilities_that_we_have(self, bench: Bench) -> None:
        words: dict[str, Any] = {"capabilities": ALL_CAPABILITIES, "seccomp": "unconfined"}
        status = status_of(bench.run("/bin/cat", "/proc/self/status", **words).lines)
        ours = status_of(Path("/proc/self/status").read_text().splitlines())
        assert int(status["CapEff"], 16) == int(ours["CapEff"], 16)
        assert status["Seccomp"] == "0"

    def test_another_user_has_none_of_them(self, bench: Bench) -> None:
        words: dict[str, Any] = {"capabilities": ALL_CAPABILITIES, "seccomp": "unconfined"}
        status = status_of(bench.run("/bin/cat", "/proc/self/status", user="7", **words).lines)
        assert int(status["CapEff"], 16) == 0

    def test_it_may_mount(self, bench: Bench) -> None:
        script = "mount -t tmpfs tmpfs /mnt && umount /mnt && echo done"
        words: dict[str, Any] = {"capabilities": ALL_CAPABILITIES, "seccomp": "unconfined"}
        mount = (TmpfsMount(target="/mnt"),)
        assert bench.sh(script, unmasked=True, mounts=mount, **words).lines == ["done"]


class TestSharing:
    """Namespaces of others: nothing of theirs is changed, and nothing is left in them."""

    def identities(self, bench: Bench, namespaces: Namespaces) -> dict[str, str]:
        names = " ".join(IDENTITIES)
        script = f"for n in {names}; do readlink /proc/self/ns/$n; done"
        lines = bench.sh(script, namespaces=namespaces).lines
        return dict(zip(IDENTITIES, lines, strict=True))

    @pytest.mark.parametrize("name", ["pid", "ipc", "uts", "cgroup"])
    def test_the_host_s(self, bench: Bench, name: str) -> None:
        words: dict[str, Any] = {name: "host"}
        inside = self.identities(bench, Namespaces(**words))
        own = {each: str(Path(f"/proc/self/ns/{each}").readlink()) for each in IDENTITIES}
        assert {each for each in IDENTITIES if inside[each] == own[each]} == {name}

    @pytest.mark.parametrize("name", ["pid", "ipc", "uts"])
    def test_those_of_another_sandbox(self, bench: Bench, name: str) -> None:
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as other:
            words: dict[str, Any] = {name: other.init_pid}
            inside = self.identities(bench, Namespaces(**words))
            theirs = {
                each: str(Path(f"/proc/{other.init_pid}/ns/{each}").readlink())
                for each in IDENTITIES
            }
        assert {each for each in IDENTITIES if inside[each] == theirs[each]} == {name}

    def test_the_name_of_the_host_stays(self, bench: Bench) -> None:
        shared = Namespaces(uts="host")
        assert bench.sh("hostname", namespaces=shared, hostname="other").lines == [
            os.uname().nodename
        ]

    def test_shared_memory_goes_with_ipc(self, bench: Bench) -> None:
        script = "echo mine > /dev/shm/it; echo ready; sleep 60"
        with bench.background("/bin/sh", "-c", script) as other:
            shared = Namespaces(ipc=other.init_pid)
            assert bench.sh("cat /dev/shm/it", namespaces=shared).lines == ["mine"]
            script = "grep ' /dev/shm ' /proc/self/mountinfo"
            (line,) = bench.sh(script, namespaces=shared).lines
            assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))

    @pytest.mark.parametrize("of", ["host", "sandbox"])
    def test_what_ran_off_ends_with_the_program(self, bench: Bench, of: str) -> None:
        # Their output leads elsewhere: who reads it to its end would wait for them.
        script = (
            "(setsid sleep 4321 &) >/dev/null 2>&1;"
            " (setsid sh -c 'sleep 4321; :' &) >/dev/null 2>&1; sleep 0.2; exit 7"
        )
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as other:
            pid: Any = "host" if of == "host" else other.init_pid
            outcome = bench.sh(script, namespaces=Namespaces(pid=pid))
            assert outcome.status.code == 7
            assert traces.processes_with("sleep\x004321") == []
            assert bench.join(other, "/bin/echo", "alive").lines == ["alive"]

    def test_so_it_does_where_there_can_be_no_group(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As for an ordinary user: what shares its mounts is what belongs to it."""
        monkeypatch.setattr(cgroups, "make_group", lambda *_, **__: None)
        script = "(setsid sleep 4323 &) >/dev/null 2>&1; sleep 0.2; exit 7"
        outcome = bench.sh(script, namespaces=Namespaces(pid="host"))
        assert outcome.status.code == 7
        assert traces.processes_with("sleep\x004323") == []

    def test_a_killed_one_leaves_nothing(self, bench: Bench) -> None:
        script = "(setsid sleep 4322 &) >/dev/null 2>&1; echo ready; exec sleep 4322"
        shared = Namespaces(pid="host")
        with bench.background("/bin/sh", "-c", script, namespaces=shared) as running:
            assert bench.join(running, "/bin/sh", "-c", "echo in").lines == ["in"]
            os.kill(running.init_pid, signal.SIGKILL)
            running.wait()
        assert traces.processes_with("sleep\x004322") == []

    def test_signals_reach_the_program(self, bench: Bench) -> None:
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        shared = Namespaces(pid="host")
        with bench.background("/bin/sh", "-c", script, namespaces=shared) as running:
            os.kill(running.init_pid, signal.SIGTERM)
            assert running.wait().code == 9

    def test_the_host_s_greatest_process_number_stays(self, bench: Bench) -> None:
        place = Path("/proc/sys/kernel/pid_max")
        before = place.read_text()
        limits = Limits(pids_max=PIDS_MAX_DEFAULT)
        bench.sh("true", namespaces=Namespaces(pid="host"), limits=limits)
        assert place.read_text() == before

    def test_of_a_process_that_is_gone(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="there is no process"):
            bench.sh("true", namespaces=Namespaces(ipc=(1 << 22) - 1))


class TestAskedFor:
    def test_capabilities_that_we_do_not_have_are_named(self, bench: Bench) -> None:
        """Dropped in a process of its own, which then asks for it."""
        spec = bench.spec("/bin/true", capabilities=frozenset({"CAP_SYS_TIME"}))

        def play() -> None:
            held = syscalls.permitted_capabilities() & ~(1 << 25)
            syscalls.capset(held, held, 0)
            try:
                bench.finish(spec)
            except SandboxError as error:
                assert "does not have CAP_SYS_TIME" in error.message
                return
            raise OSError(errno.EPROTO, "it was given")

        assert namespaces.attempt(play) == 0

    def test_groups_of_the_image(self, bench: Bench) -> None:
        groups = bench.sh("id -G", extra_groups=("5", "1234")).text.split()
        assert {"5", "1234"} <= set(groups)
        with pytest.raises(SandboxError, match="nobodys"):
            bench.sh("true", extra_groups=("nobodys",))

    def test_the_oom_score_is_inherited_by_all(self, bench: Bench) -> None:
        script = "cat /proc/self/oom_score_adj /proc/1/oom_score_adj"
        assert bench.sh(script, oom_score_adj=321).lines == ["321", "321"]
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
            joined = bench.join(running, "/bin/cat", "/proc/self/oom_score_adj", oom_score_adj=5)
            assert joined.lines == ["5"]

    def test_hard_limits_are_raised_where_that_is_allowed(self, bench: Bench) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        limit = ResourceLimit(name="nproc", soft=5, hard=-1 if hard < 0 else hard + 1)
        try:
            outcome = bench.sh("ulimit -Hp", resource_limits=(limit,))
        except SandboxError as error:
            assert "cannot be raised" in error.message
            assert not syscalls.permitted_capabilities() & 1 << 24  # CAP_SYS_RESOURCE
        else:
            assert outcome.lines == ["unlimited" if hard < 0 else str(hard + 1)]


# Runs sandboxes in a process of its own, because an audit hook stays for ever. What Python does
# after the root has been entered is written to standard error, which sandboxes inherit.
AUDITED = """
import os, sys
from pathlib import Path
from builder.sandbox import LocalExecutor, OverlayRoot, Program, SandboxSpec, Stdio, namespaces
from builder.sandbox.mounts import Stage

lower, scratch, what = sys.argv[1:]
entered = False

def hook(event, arguments):
    if entered and event in ("open", "import", "compile", "exec", "os.listdir", "os.scandir"):
        os.write(2, f"{event} {arguments[0]!r}\\n".encode())

def marking(function):
    def wrapped(*arguments):
        global entered
        function(*arguments)
        entered = True
    return wrapped

Stage.enter = marking(Stage.enter)
namespaces._enter_namespaces = marking(namespaces._enter_namespaces)
sys.addaudithook(hook)
for name in ("upper", "work"):
    Path(scratch, name).mkdir()
root = OverlayRoot(
    lowerdirs=(Path(lower),), upperdir=Path(scratch, "upper"), workdir=Path(scratch, "work")
)
program = Program(argv=("sh", "-c", "echo ready; sleep 0.3"), env=("PATH=/bin",), user="ada")
stdio = Stdio(stdin=0, stdout=1, stderr=2)
with LocalExecutor() as executor:
    running = executor.start(SandboxSpec(root=root, program=program), stdio)
    if what == "join":
        assert executor.join(running.init_pid, program, stdio).wait().code == 0
    assert running.wait().code == 0
"""


class TestEntering:
    """The order of things between the host and the program."""

    @pytest.mark.parametrize("what", ["start", "join"])
    def test_nothing_is_imported_or_opened_after_entering(
        self, lower: Path, tmp_path: Path, what: str
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-c", AUDITED, str(lower), str(tmp_path), what],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("ready") == (2 if what == "join" else 1)
        # A joining process finds the root, and what its user is, where it joins.
        expected = {"open '/'", "open '/proc/self/setgroups'"} if what == "join" else set()
        assert set(done.stderr.splitlines()) == expected

    def test_the_hook_sees_something(self, lower: Path, tmp_path: Path) -> None:
        """The same, with something to see."""
        script = AUDITED.replace(
            "sys.addaudithook(hook)",
            "sys.addaudithook(hook)\n"
            "namespaces.signals.use_defaults_for_ignored = lambda: open('/etc/passwd').close()",
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(lower), str(tmp_path), "start"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.splitlines() == ["open '/etc/passwd'"]

    def test_no_mount_is_shared_with_anybody(self, bench: Bench, tmp_path: Path) -> None:
        """Neither way: what is mounted inside stays there, what comes outside does not get in."""
        mounts = (BindMount(source=tmp_path, target="/bound"),)
        lines = bench.sh("cat /proc/self/mountinfo", mounts=mounts).lines
        assert len(lines) > 10
        for line in lines:
            fields = line.split()
            assert fields[6] == "-", f"propagates: {line}"

    def test_a_mount_made_inside_is_not_seen_outside(self, bench: Bench, tmp_path: Path) -> None:
        script = "mount -t tmpfs inner /bound && echo mounted; sleep 60"
        words: dict[str, Any] = {
            "capabilities": frozenset({"CAP_SYS_ADMIN"}),
            "mounts": (BindMount(source=tmp_path, target="/bound"),),
        }
        with bench.background("/bin/sh", "-c", script, **words):
            assert traces.mounts_of(tmp_path) == []

    def test_the_old_root_is_nowhere(self, bench: Bench, tmp_path: Path) -> None:
        """Not even for who may mount, and unmounts everything that can be."""
        (tmp_path / "marker").write_text("host")
        script = (
            "for m in $(cut -d' ' -f5 /proc/self/mountinfo | sort -r); do"
            " [ $m = /proc ] || umount -l $m 2>/dev/null; done;"
            f" ls -d {tmp_path} 2>&1; cut -d' ' -f4,5 /proc/self/mountinfo | sort | uniq -d"
        )
        words: dict[str, Any] = {"capabilities": ALL_CAPABILITIES, "seccomp": "unconfined"}
        outcome = bench.sh(script, **words)
        assert b"No such file" in outcome.stdout
        assert b"marker" not in outcome.stdout

    def test_the_group_is_joined_before_the_program_runs(self, bench: Bench) -> None:
        """Its first memory is counted already, as is its first process."""
        limits = Limits(pids_max=2)
        outcome = bench.sh("true & true & true & wait; echo after", limits=limits)
        assert b"can't fork" in outcome.stderr
        script = "cut -d: -f3 /proc/1/cgroup /proc/self/cgroup | sort -u"
        assert bench.sh(script, limits=Limits(pids_max=50)).lines == ["/"]

    def test_session_process_group_and_terminal_are_its_own(self, bench: Bench) -> None:
        script = "(echo > /dev/tty) 2>&1; cut -d' ' -f5-7 /proc/self/stat"
        refused, fields = bench.sh(script).lines
        assert fields.split()[2] == "0"  # no controlling terminal
        assert fields.split()[1] == "2"  # the session is the program's
        assert "No such device" in refused

    @pytest.mark.needs_keyrings
    def test_a_key_of_the_caller_is_in_no_program_s_session(self, bench: Bench) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        session = ctypes.c_long(-3)  # KEY_SPEC_SESSION_KEYRING
        name = f"lamina-{os.getpid()}".encode()
        add_key, keyctl = map(host.call_number, ("add_key", "keyctl"))
        words = (b"user", name, b"secret", ctypes.c_long(6), session)
        key = libc.syscall(ctypes.c_long(add_key), *words)
        assert key > 0
        # KEYCTL_READ of the session, and KEYCTL_SEARCH for the key: an error number
        script = (
            f"size = _libc.syscall({keyctl}, 11, ctypes.c_long(-3), None, 0)\n"
            f"print(size, syscall({keyctl}, 10, -3, b'user', {name!r}, 0), flush=True)\n"
        )
        try:
            expected = f"0 {errno.ENOKEY}"
            assert bench.python(script, seccomp="unconfined").lines == [expected]
            with bench.background(
                "/bin/sh", "-c", "echo ready; sleep 60", mounts=host_python()
            ) as running:
                argv = (sys.executable, "-I", "-S", "-c", PRELUDE + script)
                assert bench.join(running, *argv, seccomp="unconfined").lines == [expected]
        finally:
            libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(9), ctypes.c_long(key), session)
