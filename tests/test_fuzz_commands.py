"""Fuzzing of command lines: every command with any words gives its own errors, and ends."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli.commands import COMMANDS, load
from tests.support import commandfuzz, rootfs
from tests.support.cli import REPOSITORY
from tests.support.fuzzing import SECONDS, SEED


@pytest.mark.needs_userns
def test_every_line_has_a_documented_end(tmp_path: Path) -> None:
    """No traceback, an exit code of the table, messages of one printable line, a whole store."""
    rootfs.need_busybox()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.commandfuzz", str(SEED), str(2 * SECONDS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *wrong, count = done.stdout.splitlines()
    assert wrong == []
    assert int(count) > 10


@pytest.mark.parametrize(
    ("line", "code", "said", "expected"),
    [
        (["images"], 0, b"", ""),
        (["images"], 1, b"lamina: no such image\n", ""),
        (["images"], None, b"", "it does not end"),
        (["images"], 2, b"", "exit code 2"),
        (["images"], -6, b"", "exit code -6"),
        (["images"], 1, b"", "exit code 1 without a word"),
        (["images"], 1, b"Traceback (most recent call last):\n", "a traceback"),
        (["-D", "images"], 1, b"Traceback (most recent call last):\n", ""),
        (["images"], 1, b"lamina: \x1b[2J\n", "a message for terminals to act upon"),
        (["images"], 1, b"x" * 30_000, "30000 bytes of messages"),
        (["run", "box"], 42, b"", ""),
    ],
)
def test_what_is_wrong_is_seen(
    line: list[str], code: int | None, said: bytes, expected: str
) -> None:
    found = commandfuzz.complaint(line, code, said)
    assert found.startswith(expected) if expected else found == ""


def test_lines_are_those_of_the_seed_and_reach_every_command() -> None:
    first, again = random.Random("x"), random.Random("x")
    lines = [commandfuzz.line_of(first) for _ in range(3000)]
    assert lines == [commandfuzz.line_of(again) for _ in range(3000)]
    begun = {" ".join(line[:size]) for line in lines for size in (1, 2, 3)}
    assert set(COMMANDS) <= begun
    assert json.dumps(lines)
    assert not any("\0" in word for line in lines for word in line)


def test_options_that_write_files_are_given_harmless_ones() -> None:
    found = {
        option.key
        for name in COMMANDS
        for option in load(name.split(" "), []).options
        if commandfuzz.writes(option)
    }
    assert found >= {"output", "iidfile", "metadata-file", "cidfile", "digestfile", "cache-to"}
    assert not found & {"file", "env-file", "authfile"}
