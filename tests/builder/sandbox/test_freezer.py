"""Sandboxes that are stopped where they are, by a control group of either version."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from builder.sandbox import (
    Limits,
    Namespaces,
    UnsupportedHostError,
    cgroups,
    freeze,
    freezer,
    is_frozen,
    namespaces,
    remove_freezer,
    thaw,
)
from tests.support import host
from tests.support.sandboxes import Bench
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

COUNTING = "echo ready; i=0; while :; do i=$((i+1)); echo $i > /count; (sleep 0.01); done"


def count(bench: Bench) -> str:
    return (bench.upper / "count").read_text()


def stands_still(bench: Bench) -> bool:
    before = count(bench)
    time.sleep(0.15)  # it is the absence of an event that is looked for
    return count(bench) == before


def goes_on(bench: Bench) -> bool:
    before = count(bench)
    wait_until(lambda: count(bench) not in (before, ""))
    return True


@pytest.mark.parametrize(
    "words",
    [{}, {"limits": Limits(pids_max=50)}, {"namespaces": Namespaces(pid="host")}],
    ids=["alone", "limited", "of the host's processes"],
)
def test_all_of_it_stops_and_goes_on(bench: Bench, words: dict[str, object]) -> None:
    with bench.background("/bin/sh", "-c", COUNTING, **words) as running:
        wait_until((bench.upper / "count").exists)
        for _ in range(2):
            assert not is_frozen(running.init_pid)
            freeze(running.init_pid)
            assert is_frozen(running.init_pid)
            assert stands_still(bench)
            thaw(running.init_pid)
            assert not is_frozen(running.init_pid)
            assert goes_on(bench)
        freeze(running.init_pid)
        running.kill()
        thaw(running.init_pid)


def test_only_that_one(bench: Bench) -> None:
    with (
        bench.background("/bin/sh", "-c", "echo ready; sleep 60") as other,
        bench.background("/bin/sh", "-c", COUNTING),
    ):
        wait_until((bench.upper / "count").exists)
        freeze(other.init_pid)
        assert goes_on(bench)
        thaw(other.init_pid)


def test_its_group_goes_with_the_sandbox(bench: Bench) -> None:
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        freeze(running.init_pid)
        place = freezer._place(running.init_pid)
        was_made = place.exists()
        remove_freezer(running.init_pid)  # not while there is something in it
        assert place.exists() == was_made
        thaw(running.init_pid)
    remove_freezer(running.init_pid)
    assert not place.exists()
    remove_freezer(running.init_pid)


def left_behind(bench: Bench) -> Path:
    """The group of a sandbox that was stopped, and has ended without removing it."""
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        freeze(running.init_pid)
        return freezer._place(running.init_pid)


def test_what_was_left_goes_with_the_next_that_stands_still(bench: Bench) -> None:
    place = left_behind(bench)
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        freeze(running.init_pid)
        assert not place.exists()
        thaw(running.init_pid)
    remove_freezer(running.init_pid)


def test_its_group_goes_with_the_next_one_that_is_made(bench: Bench) -> None:
    place = left_behind(bench)
    group = cgroups.make_group(Limits(), has_own_pids=False)
    assert group is not None
    group.remove()
    assert not place.exists()


@pytest.mark.needs_cgroup2
def test_the_second_version_tells_when_they_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "_PAUSE_S", 60)
    top = host.cgroup2()
    assert top is not None
    directory = top / cgroups.group_name()
    directory.mkdir()
    start = time.monotonic()
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            (directory / "cgroup.procs").write_text(str(child.pid))
            timer = threading.Timer(0.1, freezer._set, [directory], {"frozen": True})
            timer.start()
            freezer._await_change(directory)
            timer.join()
            assert freezer._is_still(directory)
        finally:
            child.kill()
            freezer._set(directory, frozen=False)
    directory.rmdir()
    assert time.monotonic() - start < 30


def test_thawing_what_is_not_frozen_changes_nothing(bench: Bench) -> None:
    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        thaw(running.init_pid)
        assert not is_frozen(running.init_pid)


def test_without_rights_it_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        monkeypatch.setattr(freezer, "_place", lambda pid: Path("/proc/no/such/place"))
        try:
            freeze(running.init_pid)
        except UnsupportedHostError as error:
            assert "pausing" in str(error)
            assert error.hint
        else:
            raise OSError(1, "it was frozen")

    with bench.background("/bin/sh", "-c", "echo ready; sleep 60") as running:
        assert namespaces.attempt(play) == 0
