"""Fork bombs in RUN, small ones: they end, the build says for what, and the next one works."""

import os
import time
from pathlib import Path

import pytest

from builder import perform, watch
from builder.sandbox import ExitStatus, Limits, cgroups
from builder.watch import ProcessWatch
from tests.support import traces
from tests.support.commands import Commands

LIMIT = 40
# When a shell cannot fork it ends, and begins anew.
GOES_ON = "trap 'exec sh /bomb' EXIT; while :; do sleep 4977 & done"


class Program:
    """Implements `Running`, as far as a watch looks at it."""

    init_pid = 1
    terminal_fd: int | None = None
    network_fd: int | None = None

    def __init__(self) -> None:
        self.full = True
        self.killed = False

    def fileno(self) -> int:
        raise AssertionError("not asked for")

    def signal(self, number: int) -> None:
        raise AssertionError("not asked for")

    def kill(self) -> None:
        self.killed = True

    def is_full(self) -> bool:
        return self.full

    def wait(self) -> ExitStatus:
        raise AssertionError("not asked for")


class TestPatience:
    def serve(self, watch: ProcessWatch) -> None:
        (fd,) = watch.descriptors
        os.set_blocking(fd, True)
        watch.serve(fd)

    def test_only_what_is_full_for_long_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch, "PATIENCE", 2)
        program = Program()
        looking = ProcessWatch(program)
        try:
            self.serve(looking)
            program.full = False
            self.serve(looking)
            program.full = True
            self.serve(looking)
            assert not program.killed
            assert not looking.has_ended_it
            self.serve(looking)
            assert program.killed
            assert looking.has_ended_it
        finally:
            looking.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limit, of a size that a test machine does not notice."""
    monkeypatch.setattr(perform, "RUN_PIDS_MAX", LIMIT)
    monkeypatch.setattr(cgroups, "PIDS_MAX_DEFAULT", LIMIT)
    monkeypatch.setattr(watch, "PATIENCE", 2)
    monkeypatch.setattr(watch, "INTERVAL_S", 1)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "bomb").write_text(GOES_ON)
    return folder


def build(box: Commands, context: Path, *steps: str, code: int) -> str:
    (context / "Dockerfile").write_text("\n".join(("FROM box", *steps)) + "\n")
    return box("build", "--progress=plain", "-t", "it", context, code=code).err


@pytest.mark.needs_root
@pytest.mark.needs_overlay
@pytest.mark.usefixtures("small")
class TestBombs:
    def test_one_that_goes_on_is_ended(self, box: Commands, context: Path) -> None:
        """The limit is that of the pid namespace, or a group's where the kernel has none."""
        start = time.monotonic()
        said = build(box, context, "COPY bomb /", "RUN sh /bomb 2>/dev/null", code=1)
        assert time.monotonic() - start < 30
        assert f"killed: too many processes (limit {LIMIT})" in said
        assert traces.processes_with("sleep\x004977") == []
        assert "#1" in build(box, context, "RUN echo fine", code=0)

    def test_one_in_a_control_group_is_too(
        self, box: Commands, context: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cgroups, "PIDS_MAX_DEFAULT", LIMIT + 1)
        said = build(box, context, "COPY bomb /", "RUN sh /bomb 2>/dev/null", code=1)
        assert f"killed: too many processes (limit {LIMIT})" in said
        assert traces.processes_with("sleep\x004977") == []

    def test_one_that_gives_up_is_told_about_the_limit(self, box: Commands, context: Path) -> None:
        said = build(box, context, "RUN b() { sleep 4978 & b; }; b", code=1)
        assert "can't fork" in said
        assert f"(a RUN may have {LIMIT} processes at a time)" in said
        assert traces.processes_with("sleep\x004978") == []

    def test_one_whose_program_ends_is_gone_with_it(self, box: Commands, context: Path) -> None:
        build(box, context, "RUN b() { b | b & }; b; sleep 0.2", code=0)
        assert traces.processes_with("b() { b | b") == []

    def test_a_memory_limit_comes_beside_it(self, box: Commands, context: Path) -> None:
        (context / "Dockerfile").write_text("FROM box\nRUN tail /dev/zero\n")
        done = box("build", "--progress=plain", "-m", "32m", context, code=1)
        assert "killed: out of memory (limit 32m)" in done.err


def test_limits_are_no_part_of_a_step() -> None:
    from builder.steps import RunSettings, document_of

    assert document_of(RunSettings(limits=Limits(memory_bytes=5))) == document_of(RunSettings())
