import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from builder.errors import NoSuchContainerError, WrongStateError
from builder.runner import verbs
from builder.runner.attend import Streams
from builder.runner.container import ContainerRecord
from builder.runner.lookup import start_time
from builder.runner.monitor import run_detached
from builder.runner.options import RunOptions
from builder.runner.start import create
from builder.runner.store import ContainerStore
from builder.runner.verbs import ExecOptions
from builder.sandbox import ProgramNotFoundError, SandboxError
from layerstore import Store
from tests.support.commands import copy_store
from tests.support.containers import names_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

OBSTINATE = "trap '' TERM INT; echo on; while true; do sleep 0.05; done"


@pytest.fixture
def root(box_template: Path, tmp_path: Path) -> Path:
    return copy_store(box_template, tmp_path / "store")


@pytest.fixture
def containers(root: Path) -> ContainerStore:
    return ContainerStore(root / "lamina")


def detached(root: Path, script: str, **options: Any) -> ContainerRecord:
    """A container in the background; its program has written its first line."""
    options = {"network": "none", "command": ("sh", "-c", script)} | options
    chosen = RunOptions(**options)
    record, hold = create(root, "box", chosen, lambda: Store.open(root))
    run_detached(root, record, hold)
    if "echo on" in script:
        log = ContainerStore(root / "lamina").log_path(record.id)
        wait_until(lambda: log.exists() and b"on" in log.read_bytes())
    return record


def read(containers: ContainerStore, record: ContainerRecord) -> ContainerRecord:
    found = containers.read(record.id)
    assert found is not None
    return found


def execute(root: Path, name: str, *command: str, **options: Any) -> tuple[int, str]:
    reader, writer = os.pipe()
    chosen = ExecOptions(command=command, **options)
    try:
        status = verbs.execute(root, name, chosen, Streams(None, writer, writer))
    finally:
        os.close(writer)
        with open(reader, "rb") as file:
            written = file.read().decode()
    return status.shell_code, written


def test_stopping_sends_the_stop_signal(root: Path, containers: ContainerStore) -> None:
    record = detached(
        root, "trap 'exit 3' INT; echo on; while true; do sleep 0.05; done", stop_signal="INT"
    )
    verbs.stop(containers, record)
    assert read(containers, record).exit_code == 3


def test_what_does_not_end_is_killed_after_a_while(root: Path, containers: ContainerStore) -> None:
    record = detached(root, OBSTINATE)
    began = time.monotonic()
    verbs.stop(containers, record, timeout_s=1)
    assert 1 <= time.monotonic() - began < 8
    assert read(containers, record).exit_code == 137


def test_stopping_what_does_not_run_is_nothing(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "true")
    verbs.wait(containers, record)
    verbs.stop(containers, record)
    assert read(containers, record).exit_code == 0


def test_killing_sends_any_signal(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "trap 'exit 7' USR1; echo on; while true; do sleep 0.05; done")
    verbs.kill(containers, record, signal.SIGUSR1)
    assert verbs.wait(containers, record) == 7
    with pytest.raises(WrongStateError):
        verbs.kill(containers, record, signal.SIGKILL)


def test_waiting_gives_the_exit_code_also_of_what_removes_itself(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "sleep 0.5; exit 6", auto_remove=True)
    assert verbs.wait(containers, record) == 6
    assert containers.ids() == []


def test_waiting_for_what_has_ended_gives_its_code_at_once(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "exit 2")
    assert verbs.wait(containers, record) == 2
    assert verbs.wait(containers, record) == 2


def test_a_running_container_is_removed_only_by_force(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, OBSTINATE)
    with pytest.raises(WrongStateError, match="is running"):
        verbs.remove(containers, record, force=False, with_volumes=False)
    verbs.remove(containers, record, force=True, with_volumes=False)
    assert containers.ids() == []
    assert names_in(root / "lamina/names") == []


def test_removing_by_force_what_removes_itself_is_no_error(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, OBSTINATE, auto_remove=True)
    verbs.remove(containers, record, force=True, with_volumes=True)
    assert containers.ids() == []


def test_a_number_that_another_process_has_now_is_not_signalled(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, OBSTINATE)
    running = read(containers, record)
    containers.write(running._replace(pid=os.getpid()))
    with pytest.raises(WrongStateError):
        verbs.kill(containers, record, signal.SIGKILL)
    containers.write(running)
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_another_program_runs_beside(root: Path, containers: ContainerStore) -> None:
    record = detached(root, OBSTINATE, env=("OWN=x",), cwd="/tmp", user="ada")
    script = "echo $GREETING $OWN $MORE; pwd; id -un; cat /proc/1/comm; exit 5"
    code, written = execute(root, record.name, "sh", "-c", script, env=("MORE=y",))
    assert code == 5
    assert written.splitlines()[:3] == ["hello x y", "/tmp", "ada"]
    code, written = execute(root, record.id[:8], "sh", "-c", "pwd; id -u", cwd="/etc", user="0")
    assert written.splitlines() == ["/etc", "0"]
    with pytest.raises(SandboxError, match="working directory: etc: not an absolute path"):
        execute(root, record.name, "pwd", cwd="etc")
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_another_program_sees_what_the_first_one_wrote(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "echo x > /file; echo on; sleep 60")
    assert execute(root, record.name, "cat", "/file") == (0, "x\n")
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_a_missing_program_is_an_error(root: Path, containers: ContainerStore) -> None:
    record = detached(root, OBSTINATE)
    with pytest.raises(ProgramNotFoundError):
        execute(root, record.name, "nope")
    assert containers.is_running(record.id)
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_nothing_is_executed_in_what_does_not_run(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "true")
    verbs.wait(containers, record)
    with pytest.raises(WrongStateError, match="is exited, not running"):
        execute(root, record.name, "true")
    with pytest.raises(NoSuchContainerError):
        execute(root, "nobody", "true")


def test_layer_directories_that_are_gone_are_unpacked_again(
    root: Path, containers: ContainerStore
) -> None:
    record = read(containers, detached(root, "true"))
    verbs.wait(containers, record)
    assert verbs.restored(root, record, lambda: Store.open(root)) == record
    for name in record.directories:
        (root / "lamina" / name).rename(root / "lamina/tmp/gone")
    restored = verbs.restored(root, record, lambda: Store.open(root))
    assert (root / "lamina" / restored.directories[0] / "bin/busybox").exists()


def test_the_disk_usage_is_what_the_container_wrote(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "head -c 1000000 /dev/zero > /big; echo on")
    verbs.wait(containers, record)
    assert 1_000_000 <= verbs.disk_usage(containers, record) < 1_100_000


def test_the_processes_of_a_removed_container_are_gone(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "sleep 61 & echo on; sleep 62")
    running = read(containers, record)
    verbs.remove(containers, record, force=True, with_volumes=False)
    assert start_time(running.pid) != running.pid_started


def test_a_container_that_is_being_started_is_waited_for(
    root: Path, containers: ContainerStore
) -> None:
    """Its minder has the lock, and has not yet written that the program runs."""
    record = detached(root, OBSTINATE)
    read(containers, record)
    path = containers.directory(record.id) / "container.json"
    path.rename(path.with_suffix(".later"))
    containers.write(record)
    # Not a thread: a process that has one must not make sandboxes.
    with subprocess.Popen(["sh", "-c", f"sleep 0.2; mv {path.with_suffix('.later')} {path}"]):
        assert execute(root, record.name, "echo", "there") == (0, "there\n")
    verbs.remove(containers, record, force=True, with_volumes=False)
