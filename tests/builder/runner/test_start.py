"""The start of containers, as library calls on a store with the image `box`."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ContainerError
from builder.runner.attend import Streams
from builder.runner.connect import Connection
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.lookup import start_time
from builder.runner.options import RunOptions
from builder.runner.start import create, run, spec_of
from builder.runner.store import ContainerStore
from builder.sandbox import (
    BindMount,
    ExitStatus,
    FileMount,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    TmpfsMount,
    UnknownUserError,
)
from layerstore import NotFoundError, Store, prune
from tests.support.cli import Lamina
from tests.support.commands import copy_store
from tests.support.containers import names_in, record_with
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


@pytest.fixture
def root(box_template: Path, tmp_path: Path) -> Path:
    return copy_store(box_template, tmp_path / "store")


class Runner:
    """Runs `sh -c` in containers of one store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.containers = ContainerStore(root / "lamina")
        self.opened = 0
        self.record: ContainerRecord | None = None

    def open_store(self) -> Store:
        self.opened += 1
        return Store.open(self.root)

    def __call__(
        self,
        script: str,
        started: Callable[[ContainerRecord], None] | None = None,
        **options: Any,
    ) -> tuple[ExitStatus, str]:
        """Run to the end; returns the status, and what was written."""
        options = {"auto_remove": True, "network": "none"} | options
        options.setdefault("command", ("sh", "-c", script))
        chosen = RunOptions(**options)  # type: ignore[arg-type]  # the test's own business
        reader, writer = os.pipe()
        try:
            record, hold = create(self.root, "box", chosen, self.open_store)
            self.record = record
            streams = Streams(None, writer, writer)
            status = run(self.root, record, hold, streams, started=started)
        finally:
            os.close(writer)
            with open(reader, "rb") as file:
                written = file.read().decode()
        return status, written

    def now(self) -> ContainerRecord:
        assert self.record is not None
        record = self.containers.read(self.record.id)
        assert record is not None
        return record


@pytest.fixture
def runner(root: Path) -> Iterator[Runner]:
    runner = Runner(root)
    yield runner
    assert names_in(root / "lamina/live") == []


def test_a_program_runs_and_its_exit_code_comes_back(runner: Runner) -> None:
    assert runner("echo hello; exit 3") == (ExitStatus(code=3), "hello\n")


def test_a_signal_that_kills_it_comes_back(runner: Runner) -> None:
    status, _ = runner("kill -TERM $$")
    assert status.signal == signal.SIGTERM
    assert status.shell_code == 143


def test_a_signal_ends_one_that_is_interruptible_and_does_not_reach_its_program(
    root: Path,
) -> None:
    containers = ContainerStore(root / "lamina")
    script = "trap 'echo caught' INT; while :; do sleep 0.1; done"
    options = RunOptions(command=("sh", "-c", script), auto_remove=True, network="none")
    record, hold = create(root, "box", options, lambda: Store.open(root))
    pids: list[int] = []

    def interrupt(record: ContainerRecord) -> None:
        pids.append(record.pid)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(root, record, hold, Streams(None, None, None), started=interrupt, is_interruptible=True)
    assert containers.read(record.id) is None
    assert names_in(root / "lamina/live") == []
    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists())


def test_nothing_is_left_of_a_container_that_removes_itself(runner: Runner) -> None:
    runner("echo x > /file; mkdir -p /deep/er")
    for name in ("containers", "names"):
        assert names_in(runner.root / "lamina" / name) == []


def test_a_kept_container_keeps_what_it_wrote_and_how_it_ended(runner: Runner) -> None:
    runner("echo x > /file; exit 4", auto_remove=False)
    record = runner.now()
    assert (record.state, record.exit_code, record.pid) == ("exited", 4, 0)
    assert record.created <= record.started <= record.finished
    assert (runner.containers.directory(record.id) / "upper/file").read_text() == "x\n"


def test_containers_do_not_see_each_other_s_changes(runner: Runner) -> None:
    runner("echo x > /file; rm /bin/ls", auto_remove=False)
    assert runner("ls /file 2>&1; ls /bin/ls")[1].splitlines()[-1] == "/bin/ls"


def test_while_it_runs_the_record_says_so(runner: Runner) -> None:
    seen: list[ContainerRecord] = []

    def look(record: ContainerRecord) -> None:
        stored = runner.containers.read(record.id)
        assert stored == record
        seen.append(stored)
        assert runner.containers.is_running(record.id)
        assert start_time(record.pid) == record.pid_started > 0

    runner("sleep 0.1", started=look)
    assert seen[0].state == "running"


def test_the_second_run_needs_no_store(runner: Runner) -> None:
    runner("true")
    assert runner.opened == 1
    runner("true")
    assert runner.opened == 1


def test_what_prune_took_away_is_unpacked_again(runner: Runner) -> None:
    runner("true")
    assert runner.record is not None
    for name in runner.record.directories:
        (runner.root / "lamina" / name).rename(runner.root / "lamina/tmp/gone")
    assert runner("echo back")[1] == "back\n"
    assert runner.opened == 2


def test_prune_leaves_what_a_stopped_container_needs(runner: Runner) -> None:
    runner("true", auto_remove=False)
    with Store.open(runner.root) as store:
        pruned = prune(store, images="unused", cache="all")
    assert pruned.layers == 0
    assert pruned.images == ()


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        (("nope",), ProgramNotFoundError, 127),
        (("/nope/nope",), ProgramNotFoundError, 127),
        (("/etc/passwd",), ProgramNotExecutableError, 126),
        (("/etc",), ProgramNotExecutableError, 126),
    ],
)
def test_a_program_that_cannot_be_executed_is_an_error_and_noted(
    runner: Runner, command: tuple[str, ...], error: type[Exception], code: int
) -> None:
    with pytest.raises(error):
        runner("", command=command, auto_remove=False)
    record = runner.now()
    assert (record.state, record.exit_code) == ("created", code)
    assert record.error
    with pytest.raises(error):
        runner("", command=command)
    assert len(runner.containers.ids()) == 1


def test_an_unknown_user_is_never_root(runner: Runner) -> None:
    with pytest.raises(UnknownUserError):
        runner("id", user="nobody-here")


def test_user_and_directory_and_environment_reach_the_program(runner: Runner) -> None:
    script = "id -un; id -gn; pwd; echo $GREETING $OWN $HOME"
    _, written = runner(script, user="ada:staff", cwd="/tmp/new", env=("OWN=x",))
    assert written.splitlines() == ["ada", "staff", "/tmp/new", "hello x /home/ada"]


def test_nothing_of_our_environment_reaches_the_program(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    _, written = runner("env")
    names = {line.partition("=")[0] for line in written.splitlines()}
    assert names == {"PATH", "HOSTNAME", "GREETING", "HOME", "PWD", "SHLVL"}


def test_there_is_no_standard_input_unless_asked_for(runner: Runner) -> None:
    assert runner("cat; readlink /proc/self/fd/0")[1] == "/dev/null\n"


def test_names_of_the_machine_are_files_of_our_own(runner: Runner) -> None:
    script = "hostname; cat /etc/hostname; grep -c localhost /etc/hosts; echo x >> /etc/hosts"
    status, written = runner(script, hostname="mine", auto_remove=False)
    assert status.code == 0
    assert written.splitlines()[:2] == ["mine", "mine"]
    assert runner.record is not None
    upper = runner.containers.directory(runner.record.id) / "upper"
    assert not (upper / "etc/hosts").exists()


def test_a_host_directory_can_be_mounted(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "in").write_text("from the host\n")
    mount = MountPoint(kind="bind", target="/mnt/x", source=str(shared))
    assert runner("cat /mnt/x/in; echo hi > /mnt/x/out", mounts=(mount,))[1] == "from the host\n"
    assert (shared / "out").read_text() == "hi\n"
    read_only = mount._replace(read_only=True)
    assert "Read-only" in runner("touch /mnt/x/y 2>&1", mounts=(read_only,))[1]


def test_a_host_directory_that_is_missing_is_made(runner: Runner, tmp_path: Path) -> None:
    mount = MountPoint(kind="bind", target="/x", source=str(tmp_path / "a/b"))
    runner("touch /x/y", mounts=(mount,))
    assert (tmp_path / "a/b/y").exists()


def test_a_named_volume_outlives_its_container(runner: Runner) -> None:
    mount = MountPoint(kind="volume", target="/data", source="vol")
    assert runner("cat /data/file; echo new > /data/file", mounts=(mount,))[1] == (
        "from the image\n"
    )
    assert runner("cat /data/twin; ls -ld /data", mounts=(mount,))[1].startswith("new\ndrwxr-x---")


def test_an_anonymous_volume_goes_with_its_container(runner: Runner) -> None:
    mount = MountPoint(kind="volume", target="/data", anonymous=True)
    assert runner("cat /data/file", mounts=(mount,))[1] == "from the image\n"
    assert names_in(runner.root / "lamina/volumes") == []


def test_mounts_inside_mounts_come_in_the_right_order(runner: Runner, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    (outer / "in").mkdir(parents=True)
    inner.mkdir()
    (inner / "file").write_text("inner\n")
    mounts = (
        MountPoint(kind="bind", target="/m/in", source=str(inner)),
        MountPoint(kind="bind", target="/m", source=str(outer)),
    )
    assert runner("cat /m/in/file", mounts=mounts)[1] == "inner\n"


def test_a_read_only_root_and_a_tmpfs(runner: Runner) -> None:
    mount = MountPoint(kind="tmpfs", target="/t", size_bytes=1 << 20, mode=0o700)
    script = "touch /x 2>/dev/null || echo ro; touch /t/y && stat -c %a /t; df -k /t | tail -1"
    _, written = runner(script, read_only=True, mounts=(mount,))
    assert written.splitlines()[:2] == ["ro", "700"]
    assert "1024" in written.splitlines()[2]


def test_the_shared_memory_has_the_size_asked_for(runner: Runner) -> None:
    assert "8192" in runner("df -k /dev/shm | tail -1", shm_size_bytes=8 << 20)[1]


def test_a_failed_creation_leaves_nothing(runner: Runner) -> None:
    bad = MountPoint(kind="volume", target="/x", source="../up")
    with pytest.raises(ContainerError, match="invalid volume name"):
        runner("true", mounts=(bad,))
    with pytest.raises(ContainerError, match="invalid container name"):
        runner("true", name="a b")
    with pytest.raises(ContainerError, match="invalid signal"):
        runner("true", stop_signal="NOPE", name="web")
    with pytest.raises(NotFoundError):
        create(runner.root, "nope", RunOptions(), runner.open_store)
    for name in ("containers", "names", "live"):
        assert names_in(runner.root / "lamina" / name) == []


def test_a_signal_to_us_ends_the_program_and_is_its_end(root: Path) -> None:
    lamina = Lamina(root=root)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)):
        process = lamina.start("run", "--rm", "box", "sh", "-c", "echo on; sleep 60")
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode == code
    assert names_in(root / "lamina/containers") == []


def test_a_killed_run_takes_its_program_along_and_is_swept(root: Path) -> None:
    lamina = Lamina(root=root)
    containers = ContainerStore(root / "lamina")
    for options, left in ((("--rm",), 0), ((), 1)):
        process = lamina.start("run", *options, "box", "sh", "-c", "echo on; sleep 60")
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        wait_until(lambda: [each.state for each in containers.all()] == ["running"])
        (record,) = containers.all()
        process.kill()
        process.communicate(timeout=20)
        wait_until(lambda record=record: start_time(record.pid) != record.pid_started)  # type: ignore[misc]
        containers.sweep()
        assert len(containers.ids()) == left
        assert names_in(root / "lamina/live") == []
    (record,) = containers.all()
    assert (record.state, record.exit_code) == ("exited", 137)


def test_the_next_run_sweeps_what_a_killed_one_left(root: Path) -> None:
    lamina = Lamina(root=root)
    process = lamina.start("run", "--rm", "box", "sh", "-c", "echo x > /file; echo on; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    process.kill()
    process.communicate(timeout=20)
    assert len(names_in(root / "lamina/containers")) == 1
    lamina("run", "--rm", "box", "true")
    for name in ("containers", "names", "live"):
        assert names_in(root / "lamina" / name) == []


def test_many_runs_at_once_on_one_store(root: Path) -> None:
    lamina = Lamina(root=root)
    processes = [
        lamina.start("run", "--rm", "box", "sh", "-c", f"echo {number}") for number in range(6)
    ]
    for number, process in enumerate(processes):
        out, err = process.communicate(timeout=60)
        assert (out, err, process.returncode) == (f"{number}\n".encode(), b"", 0)
    assert names_in(root / "lamina/containers") == []


def test_the_specification_says_what_the_record_says(root: Path) -> None:
    containers = ContainerStore(root / "lamina")
    record = record_with(
        mounts=(
            MountPoint("tmpfs", "/t", size_bytes=5, mode=0o700),
            MountPoint("volume", "/v/deep", source="vol", read_only=True),
            MountPoint("bind", "/b", source="/"),
        ),
        read_only=True,
        pids_max=7,
        memory_bytes=9,
        terminal=True,
    )
    hosts = FileMount(target="/etc/hosts", content=b"")
    spec = spec_of(record, containers, Connection("none", (hosts,)), size=(3, 4))
    assert spec.program.terminal_size == (3, 4)
    assert spec.read_only_root
    assert (spec.limits.pids_max, spec.limits.memory_bytes) == (7, 9)
    assert [type(mount) for mount in spec.mounts] == [
        *(FileMount, TmpfsMount, BindMount, BindMount),
    ]
    assert spec.mounts[-1].target == "/v/deep"


def test_running_nothing_takes_little_time(runner: Runner) -> None:
    """Not a benchmark, which is bench/: a guard against a wait that nobody noticed."""
    runner("true")
    began = time.monotonic()
    for _ in range(5):
        runner("true")
    assert (time.monotonic() - began) / 5 < 0.5
