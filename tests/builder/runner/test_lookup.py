"""Who runs. That a container which is being started is waited for is in test_verbs.py."""

import os
import subprocess
from pathlib import Path

import pytest

from builder.errors import NoSuchContainerError, WrongStateError
from builder.runner import liveness
from builder.runner.container import ContainerRecord
from builder.runner.lookup import running, start_time, started
from builder.runner.store import ContainerStore
from tests.support.containers import record_with


@pytest.fixture
def containers(tmp_path: Path) -> ContainerStore:
    (tmp_path / "lamina").mkdir()
    store = ContainerStore(tmp_path / "lamina")
    store.prepare()
    return store


def kept(containers: ContainerStore, *, pid: int = 0, began: int = 0) -> ContainerRecord:
    """A container that says it runs, or that it was created only."""
    state = "running" if pid else "created"
    record = record_with(state=state, pid=pid, pid_started=began)
    containers.claim_name(record.name, record.id)
    containers.make(record)
    return record


def test_a_process_that_is_gone_never_began() -> None:
    assert start_time(0) == 0
    assert start_time(os.getpid()) > 0


def test_nor_one_that_nobody_has_collected() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(child.pid) == 0


def test_what_runs_is_found_by_name_and_by_id(containers: ContainerStore) -> None:
    own = os.getpid()
    record = kept(containers, pid=own, began=start_time(own))
    hold = liveness.take(containers.live_path(record.id))
    assert hold is not None
    try:
        assert running(containers, record.name) == running(containers, record.id[:8]) == record
        assert started(containers, record) == record
    finally:
        hold.release()


def test_without_a_minder_nothing_runs(containers: ContainerStore) -> None:
    own = os.getpid()
    record = kept(containers, pid=own, began=start_time(own))
    assert started(containers, record) is None
    with pytest.raises(WrongStateError):
        running(containers, record.name)


def test_a_number_that_was_given_to_another_process_is_not_it(containers: ContainerStore) -> None:
    own = os.getpid()
    record = kept(containers, pid=own, began=start_time(own) - 1)
    hold = liveness.take(containers.live_path(record.id))
    assert hold is not None
    try:
        with pytest.raises(WrongStateError):
            running(containers, record.name)
    finally:
        hold.release()


def test_what_was_created_does_not_run(containers: ContainerStore) -> None:
    record = kept(containers)
    with pytest.raises(WrongStateError, match="not running"):
        running(containers, record.name)
    with pytest.raises(NoSuchContainerError):
        running(containers, "nobody")
