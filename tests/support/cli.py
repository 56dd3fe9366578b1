"""The `lamina` command, run as a user runs it: another process, with a store of its own."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[2]
# What a developer's shell may hold and a test must not depend on.
_FOREIGN = ("LAMINA_", "BUILDKIT_", "BUILDX_", "DOCKER_", "SOURCE_DATE_EPOCH", "NO_COLOR", "PYTHON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamina:
    """One store and the command on it. `env` is laid over the process's own environment."""

    root: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        *args: str | Path,
        stdin: bytes = b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; with `check`, another exit code than 0 fails the test with all output."""
        done = subprocess.run(
            [*command(), *map(str, args)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=self.environment(env),
            check=False,
            timeout=timeout_s,
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        )
        if check and result.returncode != 0:
            raise AssertionError(describe(result))
        return result

    def start(
        self,
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start and return at once, in a session of its own so that signals reach it alone."""
        return subprocess.Popen(
            [*command(), *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=self.environment(env),
            start_new_session=True,
        )

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        if len(command()) > 1:
            env["PYTHONPATH"] = str(REPOSITORY)
        return env | {"LAMINA_ROOT": str(self.root)} | dict(self.env) | dict(extra or {})


_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_bytes(lamina: Lamina, *words: str | Path) -> int:
    """The most memory that a command took."""
    command = [sys.executable, "-m", "builder", *map(str, words)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command],
        env=lamina.environment() | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) * 1024


def command() -> list[str]:
    """The installed command beside this interpreter, else the source tree."""
    installed = Path(sys.executable).with_name("lamina")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "builder"]


def describe(done: subprocess.CompletedProcess[str]) -> str:
    """All there is to know about a command that went wrong, for a failed assertion."""
    return (
        f"exit code {done.returncode}: {shlex.join(done.args)}\n"
        f"--- stdout\n{done.stdout[-4000:]}\n--- stderr\n{done.stderr[-8000:]}"
    )
