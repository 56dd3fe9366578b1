"""What of our own a program is given, and what it is not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.runner.attend import Feed, Streams
from builder.runner.logs import LogWriter
from builder.runner.wiring import Wiring, is_harmless
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.terminals import Typist
from tests.support.traces import open_descriptors


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


class TestHarmless:
    def test_pipes_sockets_and_null(self, pipe: tuple[int, int], null: int) -> None:
        import socket

        assert is_harmless(pipe[0])
        assert is_harmless(pipe[1])
        assert is_harmless(null)
        with socket.socket() as sock:
            assert is_harmless(sock.fileno())

    def test_files_directories_terminals_and_devices_are_not(self, file: int) -> None:
        master, peer = os.openpty()
        zero = os.open("/dev/zero", os.O_RDONLY)
        directory = os.open("/", os.O_RDONLY)
        for fd in (file, master, peer, zero, directory):
            assert not is_harmless(fd)
        for fd in (master, peer, zero, directory):
            os.close(fd)


class TestWires:
    def test_pipes_are_the_program_s_own(self, pipe: tuple[int, int], null: int) -> None:
        wiring = Wiring(Streams(stdin=pipe[0], stdout=pipe[1], stderr=pipe[1]), null=null)
        found = wiring.stdio
        assert (found.stdin, found.stdout, found.stderr) == (pipe[0], pipe[1], pipe[1])
        wiring.close()

    def test_nowhere_is_null(self, null: int) -> None:
        wiring = Wiring(Streams(None, None, None), null=null)
        assert {wiring.stdio.stdin, wiring.stdio.stdout, wiring.stdio.stderr} == {null}
        wiring.close()

    def test_a_file_is_never_given_away(self, file: int, null: int) -> None:
        wiring = Wiring(Streams(stdin=file, stdout=file, stderr=file), null=null)
        given = (wiring.stdio.stdin, wiring.stdio.stdout, wiring.stdio.stderr)
        assert file not in given
        assert all(map(is_harmless, given))
        assert given[1] == given[2], "one place has one pipe: the order stays"
        wiring.close()

    def test_what_is_logged_goes_through_two_pipes(
        self, pipe: tuple[int, int], null: int, tmp_path: Path
    ) -> None:
        log = LogWriter(tmp_path / "log")
        wiring = Wiring(Streams(None, pipe[1], pipe[1], log=log), null=null)
        assert len({wiring.stdio.stdout, wiring.stdio.stderr, pipe[1]}) == 3
        wiring.close()
        log.close()

    def test_nothing_is_left_open(self, file: int, null: int) -> None:
        before = open_descriptors()
        for released in (False, True):
            wiring = Wiring(Streams(stdin=file, stdout=file, stderr=null), null=null)
            if released:
                wiring.release()
            wiring.close()
        assert open_descriptors() <= before


class TestFeed:
    def test_what_does_not_fit_waits(self, file: int, pipe: tuple[int, int]) -> None:
        data = os.urandom(300_000)
        os.pwrite(file, data, 0)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        feed = Feed(file, writer)
        found, turns = b"", 0
        while feed.wanted is not None:
            feed.serve()
            turns += 1
            if turns % 5 == 0:  # a slow reader
                try:
                    found += os.read(reader, 50_000)
                except BlockingIOError:
                    continue
        while piece := os.read(reader, 65536):
            found += piece
        os.close(reader)
        assert found == data

    def test_who_does_not_read_ends_it(self, file: int) -> None:
        os.pwrite(file, b"x" * 10, 0)
        reader, writer = os.pipe()
        os.close(reader)
        feed = Feed(file, writer)
        feed.serve()
        feed.serve()
        assert feed.wanted is None
        feed.close()


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestContainers:
    """The command as a user calls it, with files and terminals of this machine."""

    @pytest.fixture
    def lamina(self, box: Commands) -> Lamina:
        return Lamina(root=box.root)

    def run(
        self, lamina: Lamina, *words: str, stdin: Path | None = None, output: Path | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        from tests.support.cli import command

        with (
            open(stdin or os.devnull, "rb") as source,
            open(output or os.devnull, "ab") as target,
        ):
            return subprocess.run(
                [*command(), *words],
                stdin=source,
                stdout=target if output else subprocess.PIPE,
                stderr=target if output else subprocess.PIPE,
                env=lamina.environment(),
                check=False,
                timeout=60,
            )

    @pytest.mark.parametrize("verb", ["run", "exec"])
    def test_a_file_that_is_read_cannot_be_written(
        self, lamina: Lamina, tmp_path: Path, verb: str
    ) -> None:
        (tmp_path / "precious").write_text("precious\n")
        script = "cat; echo owned > /proc/self/fd/0"
        if verb == "run":
            words = ["run", "--rm", "-i", "--network=none", "box", "sh", "-c", script]
        else:
            lamina("run", "-d", "--name=it", "--network=none", "box", "sleep", "60")
            words = ["exec", "-i", "it", "sh", "-c", script]
        done = self.run(lamina, *words, stdin=tmp_path / "precious")
        if verb == "exec":
            lamina("rm", "-f", "it")
        assert done.stdout == b"precious\n"
        assert (tmp_path / "precious").read_text() == "precious\n"

    def test_a_file_that_is_written_cannot_be_read(self, lamina: Lamina, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("secret\n")
        script = "head -c 6 /proc/self/fd/1 | tr a-z A-Z; echo after"
        words = ("run", "--rm", "--network=none", "box", "sh", "-c", f"({script}) & sleep 1")
        self.run(lamina, *words, output=tmp_path / "log")
        assert "SECRET" not in (tmp_path / "log").read_text()
        assert (tmp_path / "log").read_text().startswith("secret\n")

    def test_the_order_of_output_and_errors_in_one_file(
        self, lamina: Lamina, tmp_path: Path
    ) -> None:
        script = "for n in 1 2 3 4 5 6 7 8; do echo $n; echo e$n >&2; done"
        words = ("run", "--rm", "--network=none", "box", "sh", "-c", script)
        self.run(lamina, *words, output=tmp_path / "log")
        lines = (tmp_path / "log").read_text().split()
        assert lines == [f"{kind}{number}" for number in range(1, 9) for kind in ("", "e")]

    def test_a_large_file_arrives_and_its_end_too(self, lamina: Lamina, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(os.urandom(3_000_000))
        words = ("run", "--rm", "-i", "--network=none", "box", "sh", "-c", "sleep 0.2; wc -c")
        assert self.run(lamina, *words, stdin=tmp_path / "big").stdout == b"3000000\n"

    def test_a_program_that_reads_no_more_ends(self, lamina: Lamina) -> None:
        words = ("run", "--rm", "-i", "--network=none", "box", "head", "-c", "3")
        done = self.run(lamina, *words, stdin=Path("/dev/zero"))
        assert (done.returncode, done.stdout) == (0, b"\0\0\0")

    def test_a_terminal_of_ours_is_no_terminal_of_the_program(self, lamina: Lamina) -> None:
        """Without -t: it could be listened to, and its settings changed."""
        script = "for n in 0 1 2; do test -t $n && echo tty $n; done; cat; echo done"
        line = ("run", "--rm", "-i", "--network=none", "box", "sh", "-c", script)
        with Typist(lamina, *line) as typist:
            typist.enter(b"typed\n")
            typist.wait_for(b"typed\r\ntyped\r\n")  # the echo, and what cat says
            typist.enter(b"\x04")
            assert typist.end() == 0
            assert typist.seen == b"done\r\n"
