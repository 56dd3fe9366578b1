import os
from pathlib import Path
from typing import Any

import pytest

from builder.runner import verbs
from builder.runner.container import ContainerRecord
from builder.runner.logs import read_log
from builder.runner.monitor import DetachedError, exec_detached, run_detached
from builder.runner.options import RunOptions
from builder.runner.start import create
from builder.runner.store import ContainerStore
from builder.runner.verbs import ExecOptions
from layerstore import Store
from tests.support.commands import copy_store
from tests.support.containers import names_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


@pytest.fixture
def root(box_template: Path, tmp_path: Path) -> Path:
    return copy_store(box_template, tmp_path / "store")


@pytest.fixture
def containers(root: Path) -> ContainerStore:
    return ContainerStore(root / "lamina")


def detached(root: Path, *command: str, **options: Any) -> ContainerRecord:
    options = {"network": "none", "command": command} | options
    chosen = RunOptions(**options)
    record, hold = create(root, "box", chosen, lambda: Store.open(root))
    run_detached(root, record, hold)
    return record


def texts(containers: ContainerStore, record: ContainerRecord) -> list[tuple[str, str]]:
    return [(each.stream, each.text) for each in read_log(containers.log_path(record.id))]


def monitors_of(root: Path) -> list[int]:
    """Processes whose command line names the store."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        try:
            line = Path("/proc", name, "cmdline").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        if b"builder.runner.monitor" in line and os.fsencode(root) in line:
            found.append(int(name))
    return found


def test_the_program_runs_on_when_the_command_has_ended(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "sleep", "60")
    assert containers.is_running(record.id)
    running = containers.read(record.id)
    assert running is not None
    assert running.state == "running"
    verbs.kill(containers, record, 9)
    assert verbs.wait(containers, record) == 137


def test_output_goes_to_the_log(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "sh", "-c", "echo out; echo err >&2; printf end")
    verbs.wait(containers, record)
    assert sorted(texts(containers, record)) == [
        ("stderr", "err\n"),
        ("stdout", "end"),
        ("stdout", "out\n"),
    ]


def test_a_terminal_in_the_background_is_logged_as_it_is(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "sh", "-c", "tty; echo done", terminal=True)
    verbs.wait(containers, record)
    assert "".join(text for _, text in texts(containers, record)).endswith("done\r\n")


@pytest.mark.parametrize(
    ("command", "code"), [(("nope",), 127), (("/etc/passwd",), 126)], ids=["missing", "no program"]
)
def test_a_failed_start_is_told_to_who_asked(
    root: Path, containers: ContainerStore, command: tuple[str, ...], code: int
) -> None:
    with pytest.raises(DetachedError) as caught:
        detached(root, *command)
    assert caught.value.code == code
    assert command[0] in caught.value.message
    (record,) = containers.all()
    assert (record.state, record.exit_code) == ("created", code)
    assert names_in(root / "lamina/live") == []


def test_what_removes_itself_leaves_nothing(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "sh", "-c", "echo x > /file", auto_remove=True)
    verbs.wait(containers, record)
    wait_until(lambda: monitors_of(root) == [])
    assert containers.ids() == []
    assert names_in(root / "lamina/names") == []


def test_the_monitor_ends_with_its_container(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "sleep", "60")
    assert len(monitors_of(root)) == 1
    verbs.kill(containers, record, 9)
    wait_until(lambda: monitors_of(root) == [])


def test_a_killed_monitor_takes_its_container_along(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "sleep", "60")
    running = containers.read(record.id)
    assert running is not None
    (monitor,) = monitors_of(root)
    os.kill(monitor, 9)
    wait_until(lambda: not Path(f"/proc/{running.pid}/root/bin").exists())
    containers.sweep()
    ended = containers.read(record.id)
    assert ended is not None
    assert (ended.state, ended.exit_code) == ("exited", 137)


def test_a_monitor_that_is_asked_to_end_ends_the_program_first(
    root: Path, containers: ContainerStore
) -> None:
    script = "trap 'exit 4' TERM; echo on; while true; do sleep 0.05; done"
    record = detached(root, "sh", "-c", script)
    wait_until(lambda: texts(containers, record) != [])
    (monitor,) = monitors_of(root)
    os.kill(monitor, 15)
    assert verbs.wait(containers, record) == 4


def test_the_monitor_holds_nothing_of_the_caller(root: Path, containers: ContainerStore) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        record = detached(root, "sleep", "60")
        (monitor,) = monitors_of(root)
        environment = Path(f"/proc/{monitor}/environ").read_bytes()
        assert environment == b"LC_ALL=C.UTF-8\0"
        assert Path(f"/proc/{monitor}/cwd").readlink() == Path("/")
        for fd in (0, 1, 2):
            assert Path(f"/proc/{monitor}/fd/{fd}").readlink() == Path("/dev/null")
        assert os.getsid(monitor) == monitor
    finally:
        os.close(reader)
        os.close(writer)
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_interactive_without_a_terminal_waits_for_input_that_never_comes(
    root: Path, containers: ContainerStore
) -> None:
    record = detached(root, "sh", "-c", "echo on; cat; echo off", interactive=True)
    wait_until(lambda: texts(containers, record) == [("stdout", "on\n")])
    assert containers.is_running(record.id)
    verbs.remove(containers, record, force=True, with_volumes=False)


def test_a_program_beside_can_be_left_alone(root: Path, containers: ContainerStore) -> None:
    record = detached(root, "sleep", "60")
    script = "echo $MORE > /file; sleep 60"
    exec_detached(root, record, ExecOptions(command=("sh", "-c", script), env=("MORE=y",)))
    file = containers.directory(record.id) / "upper/file"
    wait_until(lambda: file.exists() and file.read_text() == "y\n")
    with pytest.raises(DetachedError) as caught:
        exec_detached(root, record, ExecOptions(command=("nope",)))
    assert caught.value.code == 127
    verbs.remove(containers, record, force=True, with_volumes=False)
    wait_until(lambda: monitors_of(root) == [])
