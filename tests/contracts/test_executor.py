"""What every `Executor` promises (builder/sandbox/spec.py), tried on all of them."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from builder.sandbox import (
    BindMount,
    Executor,
    ExitStatus,
    FileMount,
    ForkServer,
    Limits,
    LocalExecutor,
    PlainRoot,
    Program,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    RuntimeExecutor,
    SandboxError,
    Stdio,
    TmpfsMount,
    UnknownUserError,
    find_runtime,
    set_terminal_size,
)
from tests.support import rootfs, traces
from tests.support.sandboxes import (
    PATH,
    Bench,
    piped,
    read_terminal,
    with_terminal,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

RUNTIMES = ("crun", "runc")


def runtime_executor(name: str) -> Executor:
    return RuntimeExecutor(find_runtime(name))


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "local": LocalExecutor,
    "server": ForkServer,
    **{name: partial(runtime_executor, name) for name in RUNTIMES},
}
# What other runtimes do in another way, and why. Whatever is not named here, they do alike.
OURS_ALONE = {
    "test_a_program_killed_by_a_signal_says_which": "their PID 1 is the program: no signal kills it"
    " that it sends itself",
    "test_a_program_without_handlers_is_ended": "for the same reason",
    "test_a_script_whose_interpreter_is_missing_is_not_found": "they do not tell why",
    "test_the_current_directory_is_never_searched": "they do as PATH says",
    "test_words_need_not_be_utf_8": "config.json has to be",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "executor" not in metafunc.fixturenames:
        return
    names = [
        pytest.param(name, marks=[pytest.mark.needs_peers(name)] if name in RUNTIMES else [])
        for name in EXECUTORS
        if name not in RUNTIMES or metafunc.function.__name__ not in OURS_ALONE
    ]
    metafunc.parametrize("executor", names, indirect=True)


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rootfs.need_busybox()
    return rootfs.make_root(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = EXECUTORS[request.param]()
    before = traces.open_descriptors()
    yield executor
    executor.close()
    assert traces.open_descriptors() <= before, "descriptors are left behind"


@pytest.fixture
def bench(executor: Executor, lower: Path, tmp_path: Path) -> Bench:
    return Bench(executor=executor, lower=lower, scratch=tmp_path)


class TestStatus:
    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    def test_exit_codes_come_back(self, bench: Bench, code: int) -> None:
        assert bench.sh(f"exit {code}").status == ExitStatus(code=code)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    def test_a_program_killed_by_a_signal_says_which(self, bench: Bench, number: int) -> None:
        outcome = bench.sh(f"kill -{number:d} $$; sleep 60")
        assert outcome.status == ExitStatus(signal=number)
        assert outcome.status.shell_code == 128 + number

    def test_wait_twice_gives_the_same(self, bench: Bench) -> None:
        with piped(b"") as (stdio, _):
            running = bench.executor.start(bench.spec("/bin/sh", "-c", "exit 3"), stdio)
        assert running.wait() == running.wait() == ExitStatus(code=3)

    def test_fileno_is_readable_once_wait_will_not_block(self, bench: Bench) -> None:
        with piped(b"") as (stdio, _):
            running = bench.executor.start(bench.spec("/bin/sleep", "0.2"), stdio)
        poller = select.poll()
        poller.register(running.fileno(), select.POLLIN)
        assert poller.poll(0) == []
        assert poller.poll(5000)
        assert running.wait() == ExitStatus()

    def test_start_returns_before_the_program_ends(self, bench: Bench) -> None:
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
            assert running.init_pid > 1
            assert Path(f"/proc/{running.init_pid}").is_dir()


class TestUsage:
    def test_processor_time_is_told(self, bench: Bench) -> None:
        busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
        idle, worked = bench.sh("true").status, bench.sh(busy).status
        assert 0 <= idle.cpu_s < worked.cpu_s < 60
        assert worked.cpu_s > 0.01

    def test_processor_time_of_children_counts(self, bench: Bench) -> None:
        busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
        assert bench.sh(f"sh -c '{busy}'").status.cpu_s > 0.01

    def test_the_memory_of_the_largest_process_is_told(self, bench: Bench) -> None:
        """It is never less than that of the process which forked it."""
        small = bench.sh("true").status.memory_peak_bytes
        bytes_kept = small + 60_000_000
        data = f"head -c {bytes_kept} /dev/zero | tail -c {bytes_kept} | wc -c"
        large = bench.sh(f"{data}; true").status.memory_peak_bytes
        assert 0 < small < bytes_kept < large < 4 * bytes_kept

    def test_a_program_that_is_killed_has_used_something_too(self, bench: Bench) -> None:
        status = bench.sh("kill -9 $$").status
        assert status.memory_peak_bytes > 0

    def test_what_was_used_is_no_part_of_how_it_ended(self) -> None:
        assert ExitStatus(code=1, cpu_s=1.0, memory_peak_bytes=1) == ExitStatus(code=1)


class TestUmask:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_that_of_the_caller_does_not_matter(self, bench: Bench, umask: int) -> None:
        script = "umask; echo > /f; mkdir /d; stat -c %a /f /d /proc/.. /new /new/cwd"
        found = bench.sh(script, callers_umask=umask, cwd="/new/cwd").lines
        assert found == ["0022", "644", "755", "755", "755", "755"]


class TestStdio:
    def test_three_streams_are_the_given_ones(self, bench: Bench) -> None:
        outcome = bench.sh("cat; echo out; echo err >&2", stdin=b"in\n")
        assert (outcome.stdout, outcome.stderr) == (b"in\nout\n", b"err\n")

    def test_the_caller_keeps_its_descriptors(self, bench: Bench) -> None:
        with piped(b"") as (stdio, _):
            bench.executor.start(bench.spec("/bin/true"), stdio).wait()
            for fd in (stdio.stdin, stdio.stdout, stdio.stderr):
                os.fstat(fd)

    def test_streams_may_be_swapped_and_shared(self, bench: Bench) -> None:
        """Numbers that are each other's place must not be closed on the way."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        running = bench.executor.start(
            bench.spec("/bin/sh", "-c", "echo a; echo b >&2"),
            Stdio(stdin=reader, stdout=writer, stderr=writer),
        )
        running.wait()
        os.close(writer)
        assert os.read(reader, 100) == b"a\nb\n"
        os.close(reader)

    def test_a_pipe_ends_when_the_program_closes_it(self, bench: Bench) -> None:
        """Neither PID 1 nor the server holds a copy of it."""
        spec = bench.spec("/bin/sh", "-c", "echo first; exec >&- 2>&-; sleep 60")
        with piped(b"") as (stdio, outputs):
            running = bench.executor.start(spec, stdio)
            outputs.release()
            assert outputs.read() == (b"first\n", b"")
            running.kill()
            assert running.wait() == ExitStatus(signal=signal.SIGKILL)

    def test_no_other_descriptor_is_inherited(self, bench: Bench) -> None:
        leaked = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(leaked, True)
        try:
            with bench.background("/bin/sh", "-c", "echo ready; exec sleep 60") as running:
                program = descendants(running.init_pid)[-1]
                names = sorted(path.name for path in Path(f"/proc/{program}/fd").iterdir())
        finally:
            os.close(leaked)
        assert names == ["0", "1", "2"]


class TestProgram:
    def test_a_bare_name_is_looked_up_in_path(self, bench: Bench) -> None:
        assert bench.run("echo", "found").lines == ["found"]

    def test_names_that_are_in_no_directory_of_path_are_not_found(self, bench: Bench) -> None:
        with pytest.raises(ProgramNotFoundError, match=r"'nonesuch'.*not found in \$PATH"):
            bench.run("nonesuch")

    def test_a_path_that_does_not_exist_is_not_found(self, bench: Bench) -> None:
        with pytest.raises(ProgramNotFoundError, match="no such file"):
            bench.run("/bin/nonesuch")

    def test_without_path_only_paths_are_found(self, bench: Bench) -> None:
        with pytest.raises(ProgramNotFoundError):
            bench.run("echo", env=())
        assert bench.run("/bin/echo", "x", env=()).lines == ["x"]

    def test_the_current_directory_is_never_searched(self, bench: Bench) -> None:
        with pytest.raises(ProgramNotFoundError):
            bench.run("busybox", env=("PATH=.:bin:",), cwd="/bin")

    @pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "/bin/text", "/bin/nointerpreter"])
    def test_what_cannot_be_executed_says_so(
        self, bench: Bench, tmp_path: Path, target: str
    ) -> None:
        layer = tmp_path / "layer"
        (layer / "bin").mkdir(parents=True)
        (layer / "bin/text").write_text("no program\n")
        (layer / "bin/nointerpreter").write_text("#!/etc/passwd\n")
        for file in (layer / "bin").iterdir():
            file.chmod(0o755)
        with pytest.raises(ProgramNotExecutableError):
            bench.run(target, lowerdirs=(layer, bench.lower))

    def test_a_script_whose_interpreter_is_missing_is_not_found(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        layer = tmp_path / "layer"
        (layer / "bin").mkdir(parents=True)
        (layer / "bin/script").write_text("#!/bin/nonesuch\n")
        (layer / "bin/script").chmod(0o755)
        with pytest.raises(ProgramNotFoundError):
            bench.run("script", lowerdirs=(layer, bench.lower))

    def test_a_failed_start_leaves_nothing_behind(self, bench: Bench) -> None:
        before = children()  # other tests' minders of containers, and the server
        with pytest.raises(ProgramNotFoundError):
            bench.run("/nonesuch")
        assert children() - before <= {server_pid(bench.executor)}
        assert sorted(path.name for path in bench.scratch.iterdir()) == ["upper1", "work1"]

    def test_arguments_are_passed_as_they_are(self, bench: Bench) -> None:
        words = ("", "a b", "ü", "$HOME", "\n", "\x01", '"', "\\")
        script = 'for word in "$@"; do printf "%s\\0" "$word"; done'
        outcome = bench.run("/bin/sh", "-c", script, "sh", *words)
        assert outcome.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]

    def test_words_need_not_be_utf_8(self, bench: Bench) -> None:
        outcome = bench.run("/bin/sh", "-c", 'printf "$1$A"', "sh", "\udcff", env=("A=\udcfe",))
        assert outcome.stdout == b"\xff\xfe"

    def test_argv0_is_as_written(self, bench: Bench) -> None:
        assert bench.run("sh", "-c", "cat /proc/$$/cmdline; true").stdout.split(b"\0")[0] == b"sh"

    def test_no_argument_at_all_is_refused(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="no program"):
            bench.run()

    def test_a_nul_byte_is_refused(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="NUL"):
            bench.run("/bin/true\0/bin/false")

    def test_the_environment_is_only_what_was_given(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET", "of the host")
        outcome = bench.run("/bin/env", env=("A=1", "B=x=y"))
        assert sorted(outcome.lines) == ["A=1", "B=x=y", "HOME=/root"]

    def test_home_of_the_caller_wins(self, bench: Bench) -> None:
        assert bench.run("/bin/env", env=("HOME=/else",)).lines == ["HOME=/else"]

    def test_large_environments_arrive(self, bench: Bench) -> None:
        env = tuple(f"V{number}={'x' * 1000}" for number in range(1000))
        assert bench.sh("echo ${#V999}", env=(*env, PATH)).lines == ["1000"]


class TestUser:
    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("", "0 0 [0 10] /root"),
            ("ada", "1000 1000 [10 50 1000] /home/ada"),
            ("1000", "1000 1000 [10 50 1000] /home/ada"),
            ("ada:staff", "1000 50 [50] /home/ada"),
            ("4711:4712", "4711 4712 [4712] /"),
        ],
    )
    def test_users_are_those_of_the_image(self, bench: Bench, user: str, expected: str) -> None:
        script = "groups=$(echo $(grep Groups: /proc/self/status)); echo $(id -u) $(id -g) "
        script += '"[$(echo ${groups#Groups:})]" $HOME'
        assert bench.sh(script, user=user).lines == [expected]

    def test_an_unknown_user_is_an_error(self, bench: Bench) -> None:
        with pytest.raises(UnknownUserError, match="nobody-here"):
            bench.run("/bin/true", user="nobody-here")

    def test_other_users_have_no_capabilities(self, bench: Bench) -> None:
        lines = bench.sh("grep Cap /proc/self/status", user="ada").lines
        assert {line.split()[0]: int(line.split()[1], 16) for line in lines} == {
            "CapInh:": 0,
            "CapPrm:": 0,
            "CapEff:": 0,
            "CapBnd:": 0xA80425FB,
            "CapAmb:": 0,
        }

    def test_another_user_can_reopen_its_streams(self, bench: Bench) -> None:
        assert bench.sh("echo out > /dev/stdout", user="ada").lines == ["out"]


class TestWorkingDirectory:
    def test_it_is_the_root_unless_given(self, bench: Bench) -> None:
        assert bench.sh("pwd").lines == ["/"]

    def test_it_is_made_when_missing(self, bench: Bench) -> None:
        script = "pwd; stat -c '%a %u:%g' . .."
        outcome = bench.sh(script, cwd="/srv/app/deep", user="ada")
        assert outcome.lines == ["/srv/app/deep", "755 0:0", "755 0:0"]

    def test_links_are_followed_inside_the_root(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "link").symlink_to("/../../tmp")
        assert bench.sh("pwd", cwd="/link", lowerdirs=(layer, bench.lower)).lines == ["/tmp"]

    def test_a_file_in_its_place_is_an_error(self, bench: Bench) -> None:
        with pytest.raises(SandboxError, match="working directory"):
            bench.run("/bin/true", cwd="/etc/passwd")

    @pytest.mark.parametrize("cwd", ["/proc/self/cwd", "/proc/1/root", "/proc/self/fd/4"])
    def test_magic_links_lead_nowhere(self, bench: Bench, cwd: str) -> None:
        with pytest.raises(SandboxError, match="working directory"):
            bench.run("/bin/true", cwd=cwd)


class TestChanges:
    def test_changes_go_to_the_upper_directory(self, bench: Bench) -> None:
        bench.sh("echo new > /etc/new; rm /etc/group").text  # noqa: B018
        assert (bench.upper / "etc/new").read_text() == "new\n"
        assert (bench.upper / "etc/group").is_char_device()
        assert (bench.lower / "etc/group").read_text() == rootfs.GROUP

    def test_a_program_that_changes_nothing_leaves_nothing(self, bench: Bench) -> None:
        before = bench.lower.stat()
        bench.run("/bin/true").text  # noqa: B018
        assert list(bench.upper.iterdir()) == []
        assert bench.lower.stat().st_mtime_ns == before.st_mtime_ns

    def test_a_read_only_root_cannot_be_changed(self, bench: Bench) -> None:
        outcome = bench.sh(
            "touch /x 2>&1; touch /tmp/y 2>&1; echo ok > /dev/shm/z", read_only_root=True
        )
        assert outcome.text.count("Read-only file system") == 2

    def test_a_plain_root_is_used_as_it_is(self, bench: Bench, tmp_path: Path) -> None:
        root = rootfs.make_root(tmp_path / "plain")
        bench.sh("echo hello > /etc/greeting", root=PlainRoot(path=root)).text  # noqa: B018
        assert (root / "etc/greeting").read_text() == "hello\n"


class TestMounts:
    def test_a_directory_can_be_shown(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/file").write_text("content\n")
        mount = BindMount(source=tmp_path / "data", target="/mnt/data")
        assert bench.sh("cat /mnt/data/file; echo x > /mnt/data/new", mounts=(mount,)).lines == [
            "content"
        ]
        assert (tmp_path / "data/new").read_text() == "x\n"
        assert list(bench.upper.iterdir()) == []

    def test_a_read_only_mount_cannot_be_written(self, bench: Bench, tmp_path: Path) -> None:
        mount = BindMount(source=tmp_path, target="/mnt", read_only=True)
        outcome = bench.sh("echo x > /mnt/new", mounts=(mount,))
        assert outcome.status.code == 1
        assert b"Read-only" in outcome.stderr

    def test_a_single_file_can_be_shown(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("1\n")
        mount = BindMount(source=tmp_path / "one", target="/etc/one")
        assert bench.sh("cat /etc/one", mounts=(mount,)).lines == ["1"]

    def test_generated_files_are_no_part_of_the_root(self, bench: Bench) -> None:
        mounts = (
            FileMount(target="/etc/hosts", content=b"127.0.0.1 localhost\n"),
            FileMount(target="/run/secrets/key", content=b"\xff\x00", mode=0o400, read_only=True),
        )
        script = (
            "cat /etc/hosts; stat -c %a /run/secrets/key; hexdump -C /run/secrets/key | head -1"
        )
        outcome = bench.sh(script, mounts=mounts)
        assert outcome.lines[:2] == ["127.0.0.1 localhost", "400"]
        assert "ff 00" in outcome.lines[2]
        assert list(bench.upper.iterdir()) == []

    def test_a_generated_file_can_be_written_unless_read_only(self, bench: Bench) -> None:
        mounts = (
            FileMount(target="/etc/hosts", content=b"a\n"),
            FileMount(target="/etc/fixed", content=b"b\n", read_only=True),
        )
        outcome = bench.sh(
            "echo c >> /etc/hosts; cat /etc/hosts; echo d > /etc/fixed", mounts=mounts
        )
        assert outcome.stdout == b"a\nc\n"
        assert b"Read-only" in outcome.stderr
        assert list(bench.upper.iterdir()) == []

    def test_a_generated_script_can_be_executed(self, bench: Bench) -> None:
        mount = FileMount(target="/run/script", content=b"#!/bin/sh\necho ran\n", mode=0o755)
        assert bench.run("/run/script", mounts=(mount,)).lines == ["ran"]

    def test_a_tmpfs_is_empty_and_has_its_size(self, bench: Bench) -> None:
        mount = TmpfsMount(target="/scratch", size_bytes=1 << 20, mode=0o700)
        script = "stat -c %a /scratch; ls -A /scratch; df -k /scratch | tail -1"
        lines = bench.sh(script, mounts=(mount,)).lines
        assert lines[0] == "700"
        assert lines[1].split()[1] == "1024"

    def test_mounts_inside_mounts_work_in_any_order(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "outer").mkdir()
        mounts = (
            TmpfsMount(target="/m/inner"),
            BindMount(source=tmp_path / "outer", target="/m"),
        )
        assert bench.sh("touch /m/inner/x; ls /m", mounts=mounts).lines == ["inner"]
        assert list((tmp_path / "outer/inner").iterdir()) == []

    def test_source_beneath_cannot_leave_its_source(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "source/etc").mkdir(parents=True)
        (tmp_path / "source/etc/passwd").write_text("of the source\n")
        (tmp_path / "source/up").symlink_to("../../../../../etc/passwd")
        mount = BindMount(source=tmp_path / "source", source_beneath="up", target="/m")
        assert bench.sh("cat /m", mounts=(mount,)).lines == ["of the source"]

    def test_a_missing_source_is_an_error(self, bench: Bench, tmp_path: Path) -> None:
        mount = BindMount(source=tmp_path / "nonesuch", target="/m")
        with pytest.raises(SandboxError, match="nonesuch"):
            bench.run("/bin/true", mounts=(mount,))


class TestHost:
    def test_the_host_name_is_given(self, bench: Bench) -> None:
        assert bench.run("hostname", hostname="ship").lines == ["ship"]
        assert os.uname().nodename != "ship"

    def test_without_network_there_is_loopback(self, bench: Bench) -> None:
        lines = bench.sh("ls /sys/class/net; ping -c1 -W1 127.0.0.1 | tail -2 | head -1").lines
        assert lines[0] == "lo"
        assert "1 packets received" in lines[1]

    def test_with_the_host_network_it_is_the_hosts(self, bench: Bench) -> None:
        seen = bench.sh("readlink /proc/self/ns/net", network="host").lines
        assert seen == [str(Path("/proc/self/ns/net").readlink())]

    def test_shared_memory_has_the_given_size(self, bench: Bench) -> None:
        line = bench.sh("df -k /dev/shm | tail -1", shm_size_bytes=2 << 20).text
        assert line.split()[1] == "2048"


class TestTerminal:
    def test_a_terminal_is_the_programs_own(self, bench: Bench) -> None:
        script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; ls /dev/pts"
        spec = with_terminal(bench.spec("/bin/sh", "-c", script), 33, 77)
        with piped(b"") as (stdio, _):
            running = bench.executor.start(spec, stdio)
        assert running.terminal_fd is not None
        output = read_terminal(running.terminal_fd).decode().split()
        os.close(running.terminal_fd)
        assert running.wait() == ExitStatus()
        assert output == ["/dev/pts/0", "33", "77", "all", "0", "ptmx"]

    def test_control_characters_and_sizes_reach_the_program(self, bench: Bench) -> None:
        script = (
            "trap 'stty size' WINCH; trap 'echo got; exit 5' INT; echo ready;"
            " while :; do sleep 0.05; done"
        )
        spec = with_terminal(bench.spec("/bin/sh", "-c", script), 24, 80)
        with piped(b"") as (stdio, _):
            running = bench.executor.start(spec, stdio)
        master = running.terminal_fd
        assert master is not None
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 100)
        set_terminal_size(master, 50, 132)
        while b"50 132" not in seen:
            seen += os.read(master, 100)
        os.write(master, b"\x03")
        assert b"got" in read_terminal(master)
        os.close(master)
        assert running.wait() == ExitStatus(code=5)

    def test_the_console_is_the_terminal(self, bench: Bench) -> None:
        spec = with_terminal(bench.spec("/bin/sh", "-c", "echo hello > /dev/console"), 24, 80)
        with piped(b"") as (stdio, _):
            running = bench.executor.start(spec, stdio)
        assert running.terminal_fd is not None
        assert read_terminal(running.terminal_fd) == b"hello\r\n"
        os.close(running.terminal_fd)
        running.wait()


class TestSignals:
    def test_signals_reach_the_program(self, bench: Bench) -> None:
        script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done"
        with bench.background("/bin/sh", "-c", script) as running:
            running.signal(signal.SIGUSR1)
            assert running.wait() == ExitStatus(code=7)

    def test_signals_to_pid_1_are_passed_on(self, bench: Bench) -> None:
        """What another command does, which knows nothing but the number of PID 1."""
        script = "trap 'exit 8' TERM; echo ready; while :; do sleep 0.02; done"
        with bench.background("/bin/sh", "-c", script) as running:
            os.kill(running.init_pid, signal.SIGTERM)
            assert running.wait() == ExitStatus(code=8)

    def test_a_program_without_handlers_is_ended(self, bench: Bench) -> None:
        with bench.background("/bin/sh", "-c", "echo ready; exec sleep 60") as running:
            time.sleep(0.05)
            running.signal(signal.SIGTERM)
            assert running.wait() == ExitStatus(signal=signal.SIGTERM)

    def test_kill_ends_every_process(self, bench: Bench) -> None:
        script = "sleep 61 & setsid sleep 62 & echo ready; wait"
        with bench.background("/bin/sh", "-c", script) as running:
            inside = descendants(running.init_pid)
            assert len(inside) >= 3
            running.kill()
            assert running.wait() == ExitStatus(signal=signal.SIGKILL)
        assert not any(Path(f"/proc/{pid}").exists() for pid in inside)

    def test_signals_after_the_end_do_nothing(self, bench: Bench) -> None:
        with piped(b"") as (stdio, _):
            running = bench.executor.start(bench.spec("/bin/true"), stdio)
        running.wait()
        running.signal(signal.SIGTERM)
        running.kill()

    def test_what_the_program_leaves_running_ends_with_it(self, bench: Bench) -> None:
        script = "sleep 63 <&- >&- 2>&- & setsid sleep 64 <&- >&- 2>&- & echo ready; sleep 0.2"
        spec = bench.spec("/bin/sh", "-c", script)
        with piped(b"") as (stdio, outputs):
            running = bench.executor.start(spec, stdio)
            outputs.release()
            outputs.read_line()
            inside = descendants(running.init_pid)
            assert running.wait() == ExitStatus()
        assert len(inside) >= 3
        assert not any(Path(f"/proc/{pid}").exists() for pid in inside)

    def test_orphans_are_reaped(self, bench: Bench) -> None:
        script = (
            "for i in 1 2 3 4 5; do (sleep 0 & ); done; sleep 0.2; ps -o stat,comm | grep -c '^Z'"
        )
        assert bench.sh(script).stdout == b"0\n"

    def test_signal_state_is_the_default_one(self, bench: Bench) -> None:
        previous = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            lines = bench.sh("exec grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status").lines
        finally:
            signal.signal(signal.SIGUSR2, previous)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        assert [int(line.split()[1], 16) for line in lines] == [0, 0, 0]


class TestJoin:
    SLEEPER = ("/bin/sh", "-c", "echo ready; exec sleep 60")

    def test_it_sees_the_same_world(self, bench: Bench) -> None:
        mount = TmpfsMount(target="/scratch")
        with bench.background(*self.SLEEPER, hostname="ship", mounts=(mount,)) as running:
            outcome = bench.join(
                running, "/bin/sh", "-c", "hostname; touch /scratch/x /y; readlink /proc/1/cwd"
            )
            assert outcome.lines == ["ship", "/"]
            seen = bench.join(
                running,
                "/bin/sh",
                "-c",
                "for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done",
            ).lines
            expected = [
                str(Path(f"/proc/{running.init_pid}/ns/{name}").readlink())
                for name in ("mnt", "pid", "ipc", "uts", "net")
            ]
            assert seen == expected
        assert (bench.upper / "y").exists()

    def test_it_has_its_own_status_and_does_not_end_the_sandbox(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running:
            assert bench.join(running, "/bin/sh", "-c", "exit 9").status == ExitStatus(code=9)
            killed = bench.join(running, "/bin/sh", "-c", "kill -TERM $$; sleep 60")
            assert killed.status == ExitStatus(signal=signal.SIGTERM)
            assert bench.join(running, "/bin/true").status == ExitStatus()

    def test_it_is_behind_the_same_walls(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running:
            script = "grep -E 'Cap(Inh|Eff|Bnd)|^Seccomp:' /proc/self/status; ls /proc/self/fd; env"
            lines = bench.join(running, "/bin/sh", "-c", script, env=(PATH,)).lines
        assert [line.split()[1] for line in lines[:4]] == [
            "0000000000000000",
            "00000000a80425fb",
            "00000000a80425fb",
            "2",
        ]
        assert lines[4:8] == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
        assert {line.partition("=")[0] for line in lines[8:]} <= {"PATH", "HOME", "PWD", "SHLVL"}

    def test_users_and_directories_are_those_of_the_image(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running:
            outcome = bench.join(
                running, "/bin/sh", "-c", "id -un; pwd", user="ada", cwd="/home/ada"
            )
            assert outcome.lines == ["ada", "/home/ada"]

    def test_a_directory_that_is_not_there_is_an_error_and_not_made(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running:
            with pytest.raises(SandboxError, match="working directory: /nowhere: No such file"):
                bench.join(running, "/bin/true", cwd="/nowhere")
            with pytest.raises(SandboxError, match="working directory: /etc/passwd: Not a dir"):
                bench.join(running, "/bin/true", cwd="/etc/passwd")
            assert bench.join(running, "/bin/ls", "-d", "/nowhere").status.code == 1

    def test_a_terminal_works(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running, piped(b"") as (stdio, _):
            program = Program(argv=("/bin/tty",), terminal=True, terminal_size=(20, 30))
            joined = bench.executor.join(running.init_pid, program, stdio)
            assert joined.terminal_fd is not None
            assert read_terminal(joined.terminal_fd) == b"/dev/pts/0\r\n"
            os.close(joined.terminal_fd)
            assert joined.wait() == ExitStatus()

    def test_kill_and_signal_reach_the_joined_program_alone(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running, piped(b"") as (stdio, _):
            joined = bench.executor.join(
                running.init_pid, Program(argv=("/bin/sleep", "60")), stdio
            )
            joined.signal(signal.SIGTERM)
            assert joined.wait() == ExitStatus(signal=signal.SIGTERM)
            joined = bench.executor.join(
                running.init_pid, Program(argv=("/bin/sleep", "60")), stdio
            )
            joined.kill()
            assert joined.wait() == ExitStatus(signal=signal.SIGKILL)
            assert bench.join(running, "/bin/true").status == ExitStatus()

    def test_errors_are_those_of_start(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running:
            with pytest.raises(ProgramNotFoundError):
                bench.join(running, "nonesuch")
            with pytest.raises(ProgramNotExecutableError):
                bench.join(running, "/etc/passwd")
            with pytest.raises(UnknownUserError):
                bench.join(running, "/bin/true", user="nonesuch")

    def test_what_is_no_sandbox_cannot_be_joined(self, bench: Bench) -> None:
        for pid in (os.getpid(), 2**22 - 1):
            with piped(b"") as (stdio, _), pytest.raises(SandboxError, match="no sandbox"):
                bench.executor.join(pid, Program(argv=("/bin/true",)), stdio)

    def test_it_ends_with_the_sandbox(self, bench: Bench) -> None:
        with bench.background(*self.SLEEPER) as running, piped(b"") as (stdio, _):
            joined = bench.executor.join(
                running.init_pid, Program(argv=("/bin/sleep", "60")), stdio
            )
            running.kill()
            running.wait()
            assert joined.wait() == ExitStatus(signal=signal.SIGKILL)


class TestLimits:
    def test_a_limit_of_processes_holds(self, bench: Bench) -> None:
        script = "i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i+1)); done; echo all"
        outcome = bench.sh(script, limits=Limits(pids_max=20))
        assert b"all" not in outcome.stdout
        assert b"fork" in outcome.stderr

    def test_a_limit_of_memory_holds(self, bench: Bench) -> None:
        script = "exec tail -c 200m /dev/zero"
        outcome = bench.sh(script, limits=Limits(memory_bytes=20 << 20))
        assert outcome.status == ExitStatus(signal=signal.SIGKILL)
        assert outcome.status.oom_killed

    def test_a_program_that_is_killed_otherwise_has_not_run_out_of_memory(
        self, bench: Bench
    ) -> None:
        outcome = bench.sh("exit 137", limits=Limits(memory_bytes=20 << 20))
        assert outcome.status == ExitStatus(code=137)
        assert not outcome.status.oom_killed

    def test_joined_programs_share_the_limits(self, bench: Bench) -> None:
        limits = Limits(pids_max=20)
        with bench.background(
            "/bin/sh", "-c", "echo ready; exec sleep 60", limits=limits
        ) as running:
            script = (
                "i=0; while [ $i -lt 40 ]; do sleep 30 >/dev/null 2>&1 & i=$((i+1)); done; echo all"
            )
            assert b"all" not in bench.join(running, "/bin/sh", "-c", script).stdout


class TestExecutor:
    def test_several_sandboxes_run_at_once(self, bench: Bench) -> None:
        started = []
        with piped(b"") as (stdio, _):
            for number in range(5):
                script = f"sleep 0.1; exit {number}"
                started.append(bench.executor.start(bench.spec("/bin/sh", "-c", script), stdio))
        assert [running.wait().code for running in reversed(started)] == [4, 3, 2, 1, 0]

    def test_close_ends_what_still_runs(self, bench: Bench) -> None:
        with piped(b"") as (stdio, _):
            running = bench.executor.start(bench.spec("/bin/sleep", "60"), stdio)
            pid = running.init_pid
            bench.executor.close()
        assert not Path(f"/proc/{pid}").exists()
        assert running.wait() == ExitStatus(signal=signal.SIGKILL)

    def test_close_twice_is_fine(self, bench: Bench) -> None:
        bench.executor.close()
        bench.executor.close()

    def test_nothing_is_mounted_on_the_host(self, bench: Bench) -> None:
        before = traces.mount_table()
        with bench.background("/bin/sh", "-c", "echo ready; sleep 60"):
            assert traces.mount_table() == before
        assert traces.mount_table() == before


def children() -> set[int | None]:
    me = os.getpid()
    text = Path(f"/proc/{me}/task/{threading.get_native_id()}/children").read_text()
    return {int(word) for word in text.split()}


def server_pid(executor: Executor) -> int | None:
    return executor._pid if isinstance(executor, ForkServer) else None


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            text = Path(f"/proc/{one}/task/{one}/children").read_text()
        except FileNotFoundError:
            continue
        found += [int(word) for word in text.split()]
    return found
