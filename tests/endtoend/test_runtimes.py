"""`run --runtime`: containers by crun and runc, minded as all others are."""

import json
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.terminals import Typist
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_overlay]

RUNTIMES = [pytest.param(name, marks=pytest.mark.needs_peers(name)) for name in ("crun", "runc")]


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestRuntimes:
    def test_the_programs_streams_and_code_are_its_own(
        self, busybox: Lamina, runtime: str, clean_machine: None
    ) -> None:
        script = "cat; echo err >&2; exit 7"
        run = ("run", "--rm", "-i", "--network", "none", "--runtime", runtime)
        done = busybox(*run, "busybox", "sh", "-c", script, stdin=b"in\n", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
        assert busybox("ps", "-aq").stdout == ""

    @pytest.mark.parametrize(("program", "code"), [("nonesuch", 127), ("/etc/passwd", 126)])
    def test_what_cannot_be_executed(
        self, busybox: Lamina, runtime: str, program: str, code: int
    ) -> None:
        done = busybox("run", "--rm", "--runtime", runtime, "busybox", program, check=False)
        assert done.returncode == code
        assert f"'{program}'" in done.stderr

    def test_options_are_carried_out(self, busybox: Lamina, runtime: str, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        done = busybox(
            *("run", "--rm", "--runtime", runtime, "--network", "none", "--read-only"),
            *("-w", "/w", "-e", "A=1", "-h", "ship", "--tmpfs", "/t:size=64k"),
            *("-v", f"{tmp_path}/data:/data", "--shm-size", "1m", "busybox", "sh", "-c"),
            "pwd; echo $A; hostname; touch /x || echo read-only; echo x > /t/x;"
            " df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; ls /sys/class/net",
        )
        lines = done.stdout.splitlines()
        assert lines == ["/w", "1", "ship", "read-only", "1024", "lo"]

    def test_devices_are_given(self, busybox: Lamina, runtime: str) -> None:
        script = "head -c 2 /dev/some/zero | wc -c; head -c 1 /srv/full | wc -c; chmod 0 /srv/full"
        done = busybox(
            *("run", "--rm", "--runtime", runtime, "--network", "none"),
            *("--device", "/dev/zero:/dev/some/zero", "--device", "/dev/full:/srv/full"),
            *("busybox", "sh", "-c", f"{script}; echo > /srv/full"),
            check=False,
        )
        assert done.stdout.splitlines() == ["2", "1"]
        assert "chmod: /srv/full: " in done.stderr
        assert "No space left on device" in done.stderr

    @pytest.mark.needs_root
    def test_who_runs_out_of_memory_is_told_so(self, busybox: Lamina, runtime: str) -> None:
        run = ("run", "--name", "hog", "--runtime", runtime, "-m", "16m", "busybox")
        done = busybox(*run, "tail", "-c", "200m", "/dev/zero", check=False)
        assert (done.returncode, done.stderr) == (
            137,
            "lamina: killed: out of memory (limit 16m)\n",
        )
        assert busybox("inspect", "-f", "{{.State.OOMKilled}}", "hog").stdout == "true\n"
        busybox("rm", "hog")

    @pytest.mark.needs_root
    def test_users_and_limits_are_carried_out(self, busybox: Lamina, runtime: str) -> None:
        done = busybox(
            *("run", "--rm", "--runtime", runtime, "-u", "7:8", "--pids-limit", "30", "-m", "64m"),
            *("busybox", "sh", "-c", "id -u; id -g; for i in $(seq 60); do sleep 3 & done"),
            check=False,
        )
        assert done.stdout.splitlines()[:2] == ["7", "8"]
        assert "can't fork" in done.stderr

    def test_it_is_minded_as_others_are(
        self, busybox: Lamina, runtime: str, clean_machine: None
    ) -> None:
        script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.1; done"
        run = ("run", "-d", "--name", "mine", "--runtime", runtime)
        busybox(*run, "busybox", "sh", "-c", script)
        (inspected,) = json.loads(busybox("inspect", "mine").stdout)
        assert inspected["HostConfig"]["Runtime"] == runtime
        assert inspected["State"]["Running"] is True
        assert busybox("exec", "mine", "sh", "-c", "echo $$ > /x; cat /x").stdout.strip().isdigit()
        wait_until(lambda: "up" in busybox("logs", "mine").stdout)
        busybox("stop", "mine")
        assert busybox("logs", "mine").stdout == "up\nbye\n"
        assert busybox("wait", "mine").stdout == "4\n"
        busybox("rm", "mine")

    def test_create_and_start(self, busybox: Lamina, runtime: str, clean_machine: None) -> None:
        script = "echo x >> /file; wc -l < /file"
        words = ("create", "--name", "mine", "--runtime", runtime, "busybox", "sh", "-c", script)
        busybox(*words)
        assert busybox("start", "-a", "mine").stdout == "1\n"
        assert busybox("start", "-a", "mine").stdout == "2\n"
        busybox("rm", "-f", "mine")

    def test_kill_ends_it(self, busybox: Lamina, runtime: str, clean_machine: None) -> None:
        run = ("run", "-d", "--name", "mine", "--runtime", runtime)
        busybox(*run, "busybox", "sleep", "300")
        busybox("kill", "mine")
        assert busybox("wait", "mine").stdout == "137\n"
        busybox("rm", "mine")


def test_a_runtime_that_is_not_there(busybox: Lamina) -> None:
    for command in ("run", "create"):
        done = busybox(command, "--runtime", "nonesuch", "busybox", "true", check=False)
        assert done.returncode == 125
        assert "'nonesuch': executable file not found" in done.stderr
    assert busybox("ps", "-aq").stdout == ""


def test_ours_is_the_default(busybox: Lamina) -> None:
    busybox("create", "--name", "mine", "busybox", "true")
    (inspected,) = json.loads(busybox("inspect", "mine").stdout)
    assert inspected["HostConfig"]["Runtime"] == "lamina"


@pytest.mark.needs_peers("crun")
def test_a_terminal(busybox: Lamina) -> None:
    script = "test -t 0 && test -t 1 && tty && stty size && exit 5"
    words = ("run", "--rm", "-it", "--runtime", "crun", "busybox", "sh", "-c", script)
    with Typist(busybox, *words, size=(33, 99)) as typist:
        typist.wait_for(b"/dev/pts/0")
        typist.wait_for(b"33 99")
        assert typist.end() == 5
        assert typist.is_restored


def test_ours_has_a_name_too(busybox: Lamina) -> None:
    run = ("run", "--name", "mine", "--runtime", "lamina", "--network", "none", "--init")
    assert busybox(*run, "busybox", "cat", "/proc/1/comm").stdout == "lamina-init\n"
    assert busybox("inspect", "-f", "{{.HostConfig.Runtime}}", "mine").stdout == "lamina\n"
    busybox("rm", "mine")
