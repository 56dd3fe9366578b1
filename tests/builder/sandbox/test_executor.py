"""The caller's side of a sandbox that is being started, with a child in its place.

What a sandbox does is in tests/contracts/test_executor.py; here are the messages alone.
"""

import errno
import marshal
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.sandbox import (
    ExitStatus,
    LocalExecutor,
    PlainRoot,
    Program,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    Root,
    SandboxError,
    SandboxSpec,
    Stdio,
    UnknownUserError,
    UnsupportedHostError,
    executor,
    namespaces,
)
from builder.sandbox.errors import encode
from builder.sandbox.executor import Handshake, SandboxRunning
from builder.sandbox.namespaces import Started
from tests.support.sandboxes import Bench
from tests.support.traces import open_descriptors


def children() -> set[str]:
    """Of this thread; those that have ended and were not waited for are among them."""
    return set(Path("/proc/thread-self/children").read_text().split())


class TestHandshake:
    def test_it_is_two_channels_and_nothing_is_left_of_them(self) -> None:
        before = open_descriptors()
        handshake = Handshake.open()
        assert len(open_descriptors() - before) == 4
        handshake.give_away()
        handshake.close()
        assert open_descriptors() <= before

    def test_silence_to_the_end_means_executed(self) -> None:
        handshake = Handshake.open()
        handshake.give_away()
        assert handshake.read_errors() == b""
        handshake.report.close()

    def test_long_messages_arrive_whole(self) -> None:
        handshake = Handshake.open()
        pid = os.fork()
        if pid == 0:
            for _ in range(50):
                os.write(handshake.theirs[0], b"x" * 4000)
            os._exit(0)
        handshake.give_away()
        assert handshake.read_errors() == b"x" * 200_000
        os.waitpid(pid, 0)
        handshake.report.close()

    def test_no_end_is_inherited(self) -> None:
        handshake = Handshake.open()
        assert not any(
            os.get_inheritable(fd)
            for fd in (handshake.errors, handshake.report.fileno(), *handshake.theirs)
        )
        handshake.give_away()
        handshake.close()

    def test_it_passes_the_callers_streams_on(self) -> None:
        handshake = Handshake.open()
        channels = handshake.channels(Stdio(stdin=7, stdout=8, stderr=9))
        assert (channels.stdin, channels.stdout, channels.stderr) == (7, 8, 9)
        assert (channels.errors, channels.report) == handshake.theirs
        handshake.give_away()
        handshake.close()


@dataclass
class Actor:
    """A child that sleeps, and the ends of the channels that a sandbox would have."""

    running: SandboxRunning
    errors: int
    report: int
    pid: int
    _opened: list[int] = field(default_factory=list)

    def fail(self, message: bytes) -> None:
        os.write(self.errors, message)
        self.leave()

    def leave(self) -> None:
        """Close the channel for errors, as exec does."""
        os.close(self.errors)
        self.errors = -1

    def tell(self, *descriptors: int, made: tuple[str, ...] = ()) -> None:
        namespaces.send(self.report, marshal.dumps(("program", made)), list(descriptors))

    def begin(self) -> SandboxRunning:
        """Let it be executed, as if the leader were the program."""
        fd = os.pidfd_open(self.pid)
        self.tell(fd)
        os.close(fd)
        self.leave()
        self.running.confirm()
        return self.running

    def program(self) -> tuple[int, int]:
        """Another sleeper, in the place of the program; its pid and a pidfd."""
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        fd = os.pidfd_open(pid)
        self._opened.append(fd)
        return pid, fd

    def close(self) -> None:
        for fd in (self.errors, self.report, *self._opened):
            if fd >= 0:
                os.close(fd)


Actors = Callable[..., Actor]


@pytest.fixture
def actors() -> Iterator[Actors]:
    """Makes actors; no child and no descriptor may be left of them."""
    before = open_descriptors()
    made: list[Actor] = []

    def make(*, root: Root | None = None) -> Actor:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        handshake = Handshake.open()
        running = SandboxRunning(
            init_pid=pid,
            leader=Started(pid=pid, pidfd=os.pidfd_open(pid)),
            handshake=handshake,
            argv0="prog",
            reap=lambda running: os.waitpid(running.leader.pid, 0)[1],
            root=root,
        )
        errors, report = handshake.theirs
        made.append(Actor(running=running, errors=errors, report=report, pid=pid))
        return made[-1]

    yield make
    for actor in made:
        actor.running.kill()
        actor.running.wait()
        actor.close()
    assert open_descriptors() <= before


class TestConfirm:
    def test_it_returns_when_the_program_is_known_and_executed(self, actors: Actors) -> None:
        actor = actors()
        pid, fd = actor.program()
        actor.tell(fd)
        actor.leave()
        actor.running.confirm()
        actor.running.signal(signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM

    def test_a_terminal_comes_with_it(self, actors: Actors) -> None:
        actor = actors()
        pid, fd = actor.program()
        master, slave = os.openpty()
        actor.tell(fd, master)
        actor.leave()
        actor.running.confirm()
        assert actor.running.terminal_fd is not None
        assert os.isatty(actor.running.terminal_fd)
        assert not os.get_inheritable(actor.running.terminal_fd)
        for each in (master, slave, actor.running.terminal_fd):
            os.close(each)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    @pytest.mark.parametrize(
        ("number", "kind", "message"),
        [
            (errno.ENOENT, ProgramNotFoundError, "'prog': no such file or directory"),
            (errno.EACCES, ProgramNotExecutableError, "'prog': permission denied"),
            (errno.ENOEXEC, ProgramNotExecutableError, "'prog': exec format error"),
            (errno.ELOOP, ProgramNotExecutableError, "'prog': too many levels of symbolic links"),
        ],
    )
    def test_what_the_kernel_said_to_exec_becomes_an_error(
        self, actors: Actors, number: int, kind: type[SandboxError], message: str
    ) -> None:
        actor = actors()
        actor.fail((-number).to_bytes(4, "little", signed=True))
        with pytest.raises(kind) as caught:
            actor.running.confirm()
        assert message in str(caught.value)
        assert caught.value.errno == number
        assert bool(caught.value.hint) == (number == errno.ENOEXEC)

    @pytest.mark.parametrize(
        "error",
        [
            UnknownUserError(user="ada", reason="unknown", hint="h"),
            UnsupportedHostError(feature="x", reason="y", errno=1),
            ProgramNotFoundError(argv0="a", errno=2, message="not in $PATH"),
            SandboxError(phase="mount /proc", errno=13, message="denied"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_failed_before_is_told_in_full(self, actors: Actors, error: SandboxError) -> None:
        actor = actors()
        actor.fail(encode(error, "some phase"))
        with pytest.raises(type(error)) as caught:
            actor.running.confirm()
        assert str(caught.value) == str(error)
        assert (caught.value.errno, caught.value.hint) == (error.errno, error.hint)

    def test_a_sandbox_that_ends_without_a_word_is_an_error(self, actors: Actors) -> None:
        actor = actors()
        actor.leave()
        with pytest.raises(SandboxError, match="ended before its program began"):
            actor.running.confirm()

    def test_after_a_failure_the_leader_is_gone_and_its_terminal_closed(
        self, actors: Actors
    ) -> None:
        actor = actors()
        master, slave = os.openpty()
        pid, fd = actor.program()
        actor.tell(fd, master)
        os.close(master)
        actor.fail((-errno.EACCES).to_bytes(4, "little", signed=True))
        with pytest.raises(ProgramNotExecutableError):
            actor.running.confirm()
        with pytest.raises(ProcessLookupError):
            os.kill(actor.pid, 0)
        with pytest.raises(OSError, match="Input/output error"):  # nobody holds the master
            os.write(slave, b"x")
        os.close(slave)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def test_what_was_made_in_a_plain_root_goes_again(self, actors: Actors, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/hosts").touch()
        (tmp_path / "etc/kept").write_text("x")
        actor = actors(root=PlainRoot(path=tmp_path))
        namespaces.send(actor.report, marshal.dumps(("made", ("etc", "etc/hosts"))), [])
        actor.fail(encode(SandboxError(phase="p", message="m"), "p"))
        with pytest.raises(SandboxError):
            actor.running.confirm()
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["etc", "kept"]


class TestStatus:
    def test_what_pid_1_reported_counts(self, actors: Actors, tmp_path: Path) -> None:
        actor = actors(root=PlainRoot(path=tmp_path))
        actor.begin()
        os.write(actor.report, (7 << 8).to_bytes(4, "little"))
        actor.running.kill()
        assert actor.running.wait() == ExitStatus(code=7)
        assert actor.running.wait() == ExitStatus(code=7)

    def test_a_program_that_was_killed_says_by_what(self, actors: Actors, tmp_path: Path) -> None:
        actor = actors(root=PlainRoot(path=tmp_path))
        actor.begin()
        os.write(actor.report, int(signal.SIGSEGV).to_bytes(4, "little"))
        actor.running.kill()
        assert actor.running.wait() == ExitStatus(signal=signal.SIGSEGV)

    def test_a_pid_1_that_could_not_tell_was_killed(self, actors: Actors, tmp_path: Path) -> None:
        actor = actors(root=PlainRoot(path=tmp_path))
        actor.begin()
        os.kill(actor.pid, signal.SIGTERM)
        assert actor.running.wait() == ExitStatus(signal=signal.SIGKILL)

    def test_of_a_joined_program_the_leader_s_own_status_counts(self, actors: Actors) -> None:
        actor = actors(root=None)
        actor.begin()
        os.kill(actor.pid, signal.SIGTERM)
        assert actor.running.wait() == ExitStatus(signal=signal.SIGTERM)

    def test_after_the_end_signals_go_nowhere(self, actors: Actors) -> None:
        actor = actors()
        actor.begin()
        actor.running.kill()
        actor.running.wait()
        assert actor.running.is_over
        actor.running.signal(signal.SIGTERM)
        actor.running.kill()

    def test_its_number_is_readable_at_the_end(self, actors: Actors) -> None:
        actor = actors()
        actor.begin()
        assert select.select([actor.running.fileno()], [], [], 0)[0] == []
        actor.running.kill()
        assert select.select([actor.running.fileno()], [], [], 10)[0]


class TestLocalExecutor:
    NOWHERE = SandboxSpec(
        root=PlainRoot(path=Path("/does/not/exist")), program=Program(argv=("x",))
    )

    def test_one_that_did_nothing_closes_to_nothing(self) -> None:
        before = open_descriptors()
        with LocalExecutor():
            pass
        assert open_descriptors() <= before

    @pytest.mark.needs_root
    def test_a_root_that_is_not_there_leaves_nothing_behind(self) -> None:
        before, processes = open_descriptors(), children()
        null = os.open(os.devnull, os.O_RDWR)
        stdio = Stdio(stdin=null, stdout=null, stderr=null)
        with LocalExecutor() as executor:
            for _ in range(3):
                with pytest.raises(SandboxError, match="/does/not/exist"):
                    executor.start(self.NOWHERE, stdio)
        os.close(null)
        assert open_descriptors() <= before
        assert children() <= processes

    def test_joining_what_is_no_sandbox_leaves_nothing_behind(self) -> None:
        before = open_descriptors()
        with LocalExecutor() as executor, pytest.raises(SandboxError, match="no sandbox"):
            executor.join(os.getpid(), Program(argv=("x",)), Stdio(stdin=0, stdout=1, stderr=2))
        assert open_descriptors() <= before


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestMissingInterpreter:
    """A program that is there, and cannot be executed because something else is not."""

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("#!/nonesuch -x\n", "what its first line asks for is not: '/nonesuch'"),
            ("#! /bin/bash\n", "what its first line asks for is not: '/bin/bash'"),
            ("#!/bin/sh\r\necho hi\r\n", "ends as on Windows"),
        ],
    )
    def test_a_script(self, bench: Bench, tmp_path: Path, text: str, hint: str) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "run").write_bytes(text.encode())
        (layer / "run").chmod(0o755)
        with pytest.raises(ProgramNotFoundError) as caught:
            bench.run("/run", lowerdirs=(layer, bench.lower))
        assert caught.value.reason == "no such file or directory"
        assert hint in caught.value.hint

    def test_a_program_for_another_library(self, bench: Bench, tmp_path: Path) -> None:
        layer = tmp_path / "layer"
        layer.mkdir()
        shutil.copy(Path("/bin/true").resolve(), layer / "true")
        with pytest.raises(ProgramNotFoundError) as caught:
            bench.run("/true", lowerdirs=(layer, bench.lower))
        assert "the loader '/lib" in caught.value.hint

    def test_what_is_not_there_is_just_that(self, bench: Bench) -> None:
        with pytest.raises(ProgramNotFoundError) as caught:
            bench.run("/absent")
        assert caught.value.hint == ""

    @pytest.mark.parametrize("beginning", [b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58), b"#!", b""])
    def test_odd_beginnings(self, beginning: bytes) -> None:
        hint = executor._missing_interpreter(beginning)
        assert "Traceback" not in hint
        assert (hint == "") == (beginning == b"")
