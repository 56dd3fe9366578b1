"""New interpreters say themselves what they have of the caller: tests/support/companion.py."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from builder.interpreter import Companion, start
from tests.support.holders import holder, is_gone
from tests.support.traces import open_descriptors
from tests.support.waiting import wait_until

MODULE = "tests.support.companion"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def told(reader: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(reader, 1 << 16)
    found: dict[str, Any] = json.loads(line)
    return found


class TestStart:
    def ended(self, pipe: tuple[int, int], **words: Any) -> dict[str, Any]:
        """Start one, and wait for its end."""
        text = json.dumps({"tell": pipe[1], "code": 3})
        pid = start(MODULE, text, "more", inherited=[pipe[1]], **words)
        found = told(pipe[0])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert found["argv"] == [text, "more"]
        return found

    def test_it_has_what_is_named_and_nothing_else(
        self, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SECRET", "x")
        other = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(other, True)  # as what a shell has opened for us
        found = self.ended(pipe)
        os.close(other)
        assert found["descriptors"] == sorted({0, 1, 2, pipe[1]})
        assert found["streams"] == ["/dev/null"] * 3
        assert found["environment"] == {"LC_ALL": "C.UTF-8"}
        assert found["leads a session"] is True

    def test_its_environment_can_have_more(self, pipe: tuple[int, int]) -> None:
        found = self.ended(pipe, environment={"PATH": "/x"})
        assert found["environment"] == {"LC_ALL": "C.UTF-8", "PATH": "/x"}

    def test_nothing_is_imported_that_nobody_asked_for(self, pipe: tuple[int, int]) -> None:
        assert not {"site", "pytest", "builder"} & set(self.ended(pipe)["modules"])

    def test_nothing_is_left_open(self, pipe: tuple[int, int]) -> None:
        before = open_descriptors()
        self.ended(pipe)
        assert open_descriptors() <= before

    def test_one_that_cannot_be_started_is_an_error(
        self, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/missing")
        before = open_descriptors()
        with pytest.raises(FileNotFoundError):
            start(MODULE, "{}", inherited=[pipe[1]])
        with pytest.raises(FileNotFoundError):
            Companion(MODULE, {}, inherited=[pipe[1]])
        assert open_descriptors() <= before


class TestCompanion:
    def test_it_ends_when_it_is_closed(self, pipe: tuple[int, int]) -> None:
        companion = Companion(MODULE, {"tell": pipe[1], "code": 0}, inherited=[pipe[1]])
        assert len(told(pipe[0])["descriptors"]) == 5  # with the lifeline
        os.kill(companion.pid, 0)
        companion.close()
        with pytest.raises(ProcessLookupError):
            os.kill(companion.pid, 0)
        companion.close()

    def test_it_need_not_be_waited_for(self, pipe: tuple[int, int]) -> None:
        companion = Companion(MODULE, {"tell": pipe[1], "code": 0}, inherited=[pipe[1]])
        told(pipe[0])
        companion.let_go()
        companion.close()
        assert os.waitpid(companion.pid, 0)[1] == 0

    def test_it_ends_with_who_has_started_it(self) -> None:
        program = (
            "import os\n"
            "from builder.interpreter import Companion\n"
            "companion = Companion(\n"
            f"    {MODULE!r}, {{'tell': 1, 'code': 0}}, inherited=[]\n"
            ")\n"
            "print(companion.pid, flush=True)"
        )
        with holder(program) as said:
            pid = int(said)
            os.kill(pid, 0)
        wait_until(lambda: is_gone(pid))
