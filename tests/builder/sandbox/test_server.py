"""The fork server: what is sent to it, and that it is a process of its own.

What its sandboxes do is in tests/contracts/test_executor.py, that they die with it in
test_namespaces.py.
"""

import dataclasses
import marshal
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.sandbox import (
    BindMount,
    FileMount,
    ForkServer,
    Limits,
    OverlayRoot,
    PlainRoot,
    Program,
    SandboxError,
    SandboxSpec,
    TmpfsMount,
    spec,
)
from builder.sandbox.server import from_words, to_words
from tests.support.sandboxes import Bench, piped
from tests.support.traces import open_descriptors

# Every field of every value that a specification is made of, also those that have defaults.
kinds: list[Any] = [each for each in vars(spec).values() if dataclasses.is_dataclass(each)]
for kind in kinds:
    given_fields: dict[str, Any] = {field.name: ... for field in dataclasses.fields(kind)}
    st.register_type_strategy(kind, st.builds(kind, **given_fields))
st.register_type_strategy(Path, st.text(max_size=8).map(lambda name: Path("/", name)))


def sent(value: Any) -> Any:
    return from_words(marshal.loads(marshal.dumps(to_words(value))))


class TestWords:
    @settings(deadline=None, max_examples=60)
    @given(value=st.from_type(SandboxSpec))
    def test_a_specification_arrives_as_it_was(self, value: SandboxSpec) -> None:
        assert sent(value) == value

    @settings(deadline=None, max_examples=40)
    @given(value=st.from_type(Program))
    def test_so_does_a_program(self, value: Program) -> None:
        assert sent(value) == value

    @pytest.mark.parametrize(
        "value",
        [
            PlainRoot(path=Path("/a")),
            OverlayRoot(lowerdirs=(), upperdir=Path("u"), workdir=Path("w"), volatile=True),
            BindMount(source=Path("/\udcff"), target="/t", source_beneath="x/../y"),
            TmpfsMount(target="/t", size_bytes=None),
            FileMount(target="/t", content=bytes(range(256)), mode=0o400),
            Program(argv=(), env=("A=\udcff",), capabilities=frozenset(), terminal_size=(1, 2)),
            Program(argv=("tuple", "Path", "Program"), capabilities=None),
            Limits(pids_max=0, memory_bytes=1 << 50),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_odd_values_do_too(self, value: Any) -> None:
        assert sent(value) == value

    def test_what_is_sent_is_plain_data(self) -> None:
        words = to_words(Program(argv=("a", "b"), capabilities=frozenset({"CAP_CHOWN"})))
        assert words[:2] == ("Program", ("tuple", "a", "b"))
        assert ("frozenset", "CAP_CHOWN") in words

    @pytest.mark.parametrize(
        "words", [("Nonesuch",), ("Popen", "x"), ("Limits", 1), ("Limits", 1, 2, 3)]
    )
    def test_what_is_no_specification_is_not_made(self, words: tuple[Any, ...]) -> None:
        with pytest.raises((KeyError, ValueError)):
            from_words(words)


class TestProcess:
    @pytest.fixture
    def server(self) -> Iterator[ForkServer]:
        before = open_descriptors()
        server = ForkServer()
        yield server
        server.close()
        assert open_descriptors() <= before

    def test_it_is_a_small_process_of_its_own_session(self, server: ForkServer) -> None:
        wait_until_served(server)
        assert os.getsid(server._pid) == server._pid != os.getsid(0)
        assert Path(f"/proc/{server._pid}/cwd").readlink() == Path("/")
        assert len(list(Path(f"/proc/{server._pid}/task").iterdir())) == 1

    def test_it_keeps_nothing_that_the_caller_had_open(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        with ForkServer() as server:
            wait_until_served(server)
            os.close(writer)
            assert os.read(reader, 1) == b""  # the end: nobody else could write
            names = [str(path.readlink()) for path in Path(f"/proc/{server._pid}/fd").iterdir()]
            assert names.count("/dev/null") == 3
            assert len(names) <= 10
        os.close(reader)

    def test_it_ends_when_it_is_closed(self) -> None:
        server = ForkServer()
        pid = server._pid
        server.close()
        assert not Path(f"/proc/{pid}").exists()
        server.close()

    def test_every_request_has_an_answer_even_one_that_makes_no_sense(
        self, server: ForkServer
    ) -> None:
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Strange:
            path: Path

        strange: Any = Strange(path=Path("/"))
        for _ in range(3):
            with pytest.raises(SandboxError, match="KeyError: 'Strange'") as caught:
                start(server, SandboxSpec(root=strange, program=TRUE))
            assert caught.value.phase == "ask the fork server"
        assert Path(f"/proc/{server._pid}").exists()

    def test_what_cannot_be_sent_is_told_and_the_next_is_served(self, server: ForkServer) -> None:
        nothing_to_send: Any = object()
        with pytest.raises(ValueError, match="unmarshallable"):
            start(server, replace(SPEC, hostname=nothing_to_send))
        with pytest.raises(SandboxError, match="no program"):
            start(server, replace(SPEC, program=Program(argv=())))

    def test_a_server_that_is_gone_is_an_error_and_closes_well(self) -> None:
        before = open_descriptors()
        with ForkServer() as server:
            os.kill(server._pid, signal.SIGKILL)
            for _ in range(3):
                with pytest.raises(SandboxError, match="it has ended"):
                    start(server, SPEC)
        assert open_descriptors() <= before

    @pytest.mark.needs_root
    @pytest.mark.parametrize("is_alive", [True, False])
    def test_a_request_that_fails_leaves_no_control_group(
        self, server: ForkServer, is_alive: bool
    ) -> None:
        def groups() -> set[Path]:
            return set(Path("/sys/fs/cgroup").glob(f"**/lamina-{os.getpid()}-*"))

        before = groups()
        if not is_alive:
            os.kill(server._pid, signal.SIGKILL)
        with pytest.raises(SandboxError):
            start(server, replace(SPEC, limits=Limits(pids_max=50), program=Program(argv=())))
        assert groups() == before


TRUE = Program(argv=("/bin/true",))
SPEC = SandboxSpec(root=PlainRoot(path=Path("/does/not/exist")), program=TRUE)


def start(server: ForkServer, specification: SandboxSpec) -> None:
    with piped(b"") as (stdio, _):
        server.start(specification, stdio)


def wait_until_served(server: ForkServer) -> None:
    """It has arranged itself once it answers."""
    with pytest.raises(SandboxError, match="no program"):
        start(server, replace(SPEC, program=Program(argv=())))


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestThreads:
    def test_many_may_use_it_at_once(self, lower: Path, tmp_path: Path) -> None:
        found: dict[int, list[str]] = {}

        def use(number: int, bench: Bench) -> None:
            for turn in range(3):
                outcome = bench.sh(f"cat; exit {number}", stdin=f"{number} {turn}".encode())
                found.setdefault(number, []).append(outcome.stdout.decode())
                assert outcome.status.code == number

        with ForkServer() as server:
            threads = []
            for number in range(6):
                scratch = tmp_path / str(number)
                scratch.mkdir()
                bench = Bench(executor=server, lower=lower, scratch=scratch)
                threads.append(threading.Thread(target=use, args=(number, bench)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == {n: [f"{n} {turn}" for turn in range(3)] for n in range(6)}

    def test_requests_larger_than_any_buffer_arrive(self, lower: Path, tmp_path: Path) -> None:
        content = os.urandom(1 << 20) * 3
        mount = FileMount(target="/large", content=content)
        with ForkServer() as server:
            bench = Bench(executor=server, lower=lower, scratch=tmp_path)
            assert bench.run("cat", "/large", mounts=(mount,)).stdout == content

    def test_memory_is_seen_by_its_sandboxes_and_through_a_descriptor_alone(
        self, lower: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "memory"
        place.mkdir()
        before = Path("/proc/self/mountinfo").read_text()
        with ForkServer() as server:
            with server.mount_memory(place, 1 << 20) as seen:
                (seen / "upper").mkdir()
                (seen / "work").mkdir()
                assert list(place.iterdir()) == []
                assert Path("/proc/self/mountinfo").read_text() == before
                bench = Bench(executor=server, lower=lower, scratch=tmp_path)
                root = OverlayRoot(
                    lowerdirs=(lower,), upperdir=place / "upper", workdir=place / "work"
                )
                script = "echo 1 > /f; head -c 2000000 /dev/zero > /big || rm /big"
                assert bench.sh(script, root=root).status.code == 0
                assert (seen / "upper/f").read_text() == "1\n"
                assert [path.name for path in (seen / "upper").iterdir()] == ["f"]
            place.rmdir()
            assert bench.sh("true").status.code == 0
        assert Path("/proc/self/mountinfo").read_text() == before

    def test_targets_made_in_memory_are_taken_away_there(self, lower: Path, tmp_path: Path) -> None:
        """A used upper directory hides the stubs: the targets are made in it."""
        place = tmp_path / "memory"
        place.mkdir()
        with ForkServer() as server, server.mount_memory(place, 1 << 20) as seen:
            for name in ("upper", "work"):
                (seen / name).mkdir()
            (seen / "upper/d").mkdir()
            os.setxattr(seen / "upper/d", "trusted.overlay.opaque", b"y")
            bench = Bench(executor=server, lower=lower, scratch=tmp_path)
            root = OverlayRoot(lowerdirs=(lower,), upperdir=place / "upper", workdir=place / "work")
            mount = FileMount(target="/d/x", content=b"shown")
            assert bench.sh("cat /d/x", root=root, mounts=(mount,)).text == "shown"
            assert list((seen / "upper/d").iterdir()) == []

    def test_memory_that_the_kernel_refuses_is_an_error(self, tmp_path: Path) -> None:
        with ForkServer() as server:
            with (
                pytest.raises(SandboxError, match="No such file"),
                server.mount_memory(tmp_path / "missing", 1 << 20),
            ):
                raise AssertionError("it was mounted")
            wait_until_served(server)

    def test_many_starts_leave_no_descriptor_in_it(self, lower: Path, tmp_path: Path) -> None:
        with ForkServer() as server:
            bench = Bench(executor=server, lower=lower, scratch=tmp_path)
            bench.run("/bin/true")
            before = len(list(Path(f"/proc/{server._pid}/fd").iterdir()))
            for _ in range(10):
                bench.run("/bin/true")
                with pytest.raises(SandboxError):
                    bench.run("/nonesuch")
            wait_until_served(server)
            assert len(list(Path(f"/proc/{server._pid}/fd").iterdir())) == before
