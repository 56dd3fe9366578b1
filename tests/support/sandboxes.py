"""Run small programs in sandboxes and look at what they said, and at what they left behind."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.sandbox import (
    DEFAULT_PATH,
    BindMount,
    Executor,
    ExitStatus,
    OverlayRoot,
    Program,
    Running,
    SandboxSpec,
    Stdio,
    thaw,
)

PATH = f"PATH={DEFAULT_PATH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    status: ExitStatus
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What a program wrote that was expected to succeed."""
        assert self.status == ExitStatus(), (self.status, self.stdout, self.stderr)
        return self.stdout.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass(slots=True, kw_only=True)
class Bench:
    """An executor and roots to use it on. Each `spec` has an upper directory of its own."""

    executor: Executor
    lower: Path
    scratch: Path
    _count: int = 0
    uppers: list[Path] = field(default_factory=list)

    @property
    def upper(self) -> Path:
        """The upper directory of the last specification."""
        return self.uppers[-1]

    def spec(self, *argv: str, lowerdirs: Sequence[Path] = (), **words: Any) -> SandboxSpec:
        """`argv` is a program; words are fields of SandboxSpec or of Program."""
        of_program = {
            name: words.pop(name) for name in list(words) if name in Program.__dataclass_fields__
        }
        of_program.setdefault("env", (PATH,))
        if "root" not in words:
            words["root"] = self.overlay(*lowerdirs)
        return SandboxSpec(program=Program(argv=argv, **of_program), **words)

    def overlay(self, *lowerdirs: Path) -> OverlayRoot:
        self._count += 1
        upper, work = self.scratch / f"upper{self._count}", self.scratch / f"work{self._count}"
        upper.mkdir(mode=0o755)
        work.mkdir()
        self.uppers.append(upper)
        return OverlayRoot(
            lowerdirs=tuple(lowerdirs) or (self.lower,), upperdir=upper, workdir=work, volatile=True
        )

    def run(self, *argv: str, stdin: bytes = b"", **words: Any) -> Outcome:
        return self.finish(self.spec(*argv, **words), stdin=stdin)

    def sh(self, script: str, **words: Any) -> Outcome:
        return self.run("/bin/sh", "-c", script, **words)

    def finish(self, spec: SandboxSpec, *, stdin: bytes = b"") -> Outcome:
        """Start, read everything, wait."""
        with piped(stdin) as (stdio, outputs):
            running = self.executor.start(spec, stdio)
            outputs.release()
            stdout, stderr = outputs.read()
            return Outcome(status=running.wait(), stdout=stdout, stderr=stderr)

    def join(self, running: Running, *argv: str, **words: Any) -> Outcome:
        words.setdefault("env", (PATH,))
        with piped(b"") as (stdio, outputs):
            joined = self.executor.join(running.init_pid, Program(argv=argv, **words), stdio)
            outputs.release()
            stdout, stderr = outputs.read()
            return Outcome(status=joined.wait(), stdout=stdout, stderr=stderr)

    @contextmanager
    def background(self, *argv: str, **words: Any) -> Iterator[Running]:
        """A program that says something when it is ready; killed at the end, also when frozen."""
        spec = self.spec(*argv, **words)
        with piped(b"") as (stdio, outputs):
            running = self.executor.start(spec, stdio)
            outputs.release()
            try:
                outputs.read_line()
                yield running
            finally:
                running.kill()
                thaw(running.init_pid)
                running.wait()

    def python(self, script: str, **words: Any) -> Outcome:
        """Run the host's Python inside, with `syscall(number, ...)` giving 0 or an errno."""
        mounts = (*host_python(), *words.pop("mounts", ()))
        return self.run(sys.executable, "-I", "-S", "-c", PRELUDE + script, mounts=mounts, **words)


PRELUDE = """
import ctypes, os, sys
_libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    words = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    return ctypes.get_errno() if result == -1 else 0
"""


def host_python() -> tuple[BindMount, ...]:
    """What the host's interpreter needs, read-only."""
    places = {Path(sys.base_prefix), Path(sys.prefix), Path("/usr"), Path("/lib"), Path("/lib64")}
    roots = [place for place in places if not any(other in place.parents for other in places)]
    return tuple(
        BindMount(source=place, target=str(place), read_only=True, recursive=False)
        for place in sorted(roots)
        if place.is_dir()
    )


@dataclass(slots=True)
class Outputs:
    _readers: tuple[int, int]
    _writers: tuple[int, ...]

    def release(self) -> None:
        """Close the writing ends: from now on only the program holds them."""
        for fd in self._writers:
            os.close(fd)
        self._writers = ()

    def read(self) -> tuple[bytes, bytes]:
        found: dict[int, bytes] = {}

        def drain(fd: int) -> None:
            with open(fd, "rb", closefd=False) as file:
                found[fd] = file.read()

        thread = threading.Thread(target=drain, args=(self._readers[1],))
        thread.start()
        drain(self._readers[0])
        thread.join()
        return found[self._readers[0]], found[self._readers[1]]

    def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._readers[0], 1)
            if not part:
                break
            line += part
        return line


@contextmanager
def piped(stdin: bytes) -> Iterator[tuple[Stdio, Outputs]]:
    """Pipes for a program; `stdin` must fit into one."""
    opened: set[int] = set()

    def pipe() -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        opened.update(ends)
        return ends

    source, feed = pipe()
    os.write(feed, stdin)
    os.close(feed)
    opened.discard(feed)
    out, err = pipe(), pipe()
    outputs = Outputs((out[0], err[0]), (source, out[1], err[1]))
    try:
        yield Stdio(stdin=source, stdout=out[1], stderr=err[1]), outputs
    finally:
        outputs.release()
        for fd in (out[0], err[0]):
            os.close(fd)


def with_terminal(spec: SandboxSpec, rows: int, columns: int) -> SandboxSpec:
    program = replace(spec.program, terminal=True, terminal_size=(rows, columns))
    return replace(spec, program=program)


def read_terminal(fd: int) -> bytes:
    """Everything until the other side is gone (EIO, twice: see runner/attend.py)."""
    parts: list[bytes] = []
    ends = 0
    while ends < 2:
        try:
            parts.append(os.read(fd, 1 << 16))
            ends = 0
        except OSError:
            ends += 1
    return b"".join(parts)
