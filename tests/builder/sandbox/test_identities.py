"""Who is remembered as whom."""

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterator

import pytest

from builder.sandbox.credentials import Credentials
from builder.sandbox.identities import Identities
from builder.sandbox.notification import Call
from builder.sandbox.questions import Unclear
from tests.support.traces import open_descriptors

ROOT, ADA = Credentials.of(0, 0), Credentials.of(1000, 1000)


@pytest.fixture(autouse=True)
def proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is used: processes are looked at by relative names."""
    monkeypatch.chdir("/proc")


@contextlib.contextmanager
def child() -> Iterator[Call]:
    """What a child of this process asks, while it lives."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield asked_by(process.pid)


def asked_by(pid: int) -> Call:
    return Call(1, pid, 0, (0,) * 6)


def it_is_alive(_: Call) -> None:
    """Nothing is raised."""


def it_is_gone(_: Call) -> None:
    raise Unclear


def identities(
    first: Credentials = ROOT,
    confirm: Callable[[Call], None] = it_is_alive,
) -> Identities:
    return Identities(first, confirm, select.poll())


def test_everybody_is_who_the_first_program_is() -> None:
    known = identities(ADA)
    with child() as call:
        assert known.of(call) == known.of(asked_by(os.getpid())) == ADA


def test_who_changes_does_so_alone() -> None:
    known = identities()
    with child() as one, child() as other:
        known.change(one, ADA)
        assert (known.of(one), known.of(other)) == (ADA, ROOT)
        known.change(one, ROOT)
        assert known.of(one) == ROOT


def test_a_child_is_who_its_parent_was_at_its_first_question() -> None:
    known = identities()
    known.change(asked_by(os.getpid()), ADA)
    with child() as early, child() as late:
        assert known.of(early) == ADA
        known.change(asked_by(os.getpid()), ROOT)
        assert (known.of(early), known.of(late)) == (ADA, ROOT)


def test_all_are_root_until_somebody_is_not() -> None:
    known = identities()
    assert known.are_all_root()
    assert not identities(ADA).are_all_root()
    with child() as call:
        known.change(call, ADA)
        assert not known.are_all_root()


def test_who_has_ended_is_forgotten_with_its_descriptor() -> None:
    poller = select.poll()
    known = Identities(ROOT, it_is_alive, poller)
    before = open_descriptors()
    with child() as call:
        known.change(call, ADA)
        assert poller.poll(0) == []
    ((pidfd, _),) = poller.poll()
    known.forget(pidfd)
    assert known.are_all_root()
    assert poller.poll(0) == []
    assert open_descriptors() == before


def test_a_number_that_may_be_anothers_is_not_remembered() -> None:
    known = identities(confirm=it_is_gone)
    with child() as call:
        before = open_descriptors()
        with pytest.raises(Unclear):
            known.change(call, ADA)
        assert open_descriptors() == before
    assert known.are_all_root()


def test_who_is_gone_cannot_be_asked_about() -> None:
    known = identities()
    known.change(asked_by(os.getpid()), ADA)
    with child() as call:
        pass  # it ends with the block
    with pytest.raises(OSError, match="No such"):
        known.of(call)


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
def test_a_login_is_for_its_children_only(shell: Callable[..., str]) -> None:
    script = """
        su ada -c 'id -u; touch /tmp/f; sh -c "sh -c \\"id -g\\"; true"; cd; pwd'
        id -u; stat -c %u:%g /tmp/f
    """
    assert shell(script).split() == ["1000", "1000", "/home/ada", "0", "1000:1000"]
