import json
import os
import time
from pathlib import Path

import pytest

from builder.cli.containers import status
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.containers import names_in, record_with
from tests.support.waiting import wait_until

SLEEP = ("sh", "-c", "echo on; sleep 60")
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


def web(box: Commands, *options: str, name: str = "web") -> str:
    """A container in the background; returns its id."""
    line = ("run", "-d", "--network", "none", "--name", name, *options, "box", *SLEEP)
    container_id = box(*line).out.strip()
    if "--rm" not in options:
        wait_until(lambda: box("logs", name).out == "on\n")
    return container_id


def ended(
    box: Commands, name: str, *command: str, code: int = 0, options: tuple[str, ...] = ()
) -> None:
    box("run", "--network", "none", "--name", name, *options, "box", *command, code=code)


def test_ps_is_empty_at_first(box: Commands) -> None:
    assert box("ps").lines == [
        "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES"
    ]


def test_ps_shows_what_runs_and_with_a_everything(box: Commands) -> None:
    container_id = web(box)
    ended(box, "old", "sh", "-c", "exit 3", code=3)
    (line,) = box("ps").lines[1:]
    assert line.startswith(container_id[:12] + "   box       ")
    assert '"sh -c echo on; slee\u2026"' in line
    assert " Up " in line
    assert line.endswith(" web")
    newest, oldest = box("ps", "-a").lines[1:]
    assert "Exited (3) " in newest
    assert oldest.endswith(" web")


def test_ps_formats(box: Commands) -> None:
    container_id = web(box, "-l", "a=b", "-v", "vol:/v")
    assert box("ps", "-q").lines == [container_id[:12]]
    assert box("ps", "-q", "--no-trunc").lines == [container_id]
    fields = json.loads(box("ps", "--format", "json").out)
    assert fields["ID"] == container_id[:12]
    assert fields["Names"] == "web"
    assert fields["State"] == "running"
    assert fields["Mounts"] == "vol"
    assert "a=b" in fields["Labels"]
    assert json.loads(box("ps", "--format", "json-array").out) == [fields]
    assert box("ps", "--format", "{{.Names}}\\t{{.Networks}}").out == "web\tnone\n"
    assert box("ps", "--format", "table {{.Names}}\\t{{.State}}").lines[0] == "NAMES     STATE"
    assert "no field 'Nope'" in box("ps", "--format", "{{.Nope}}", code=1).err


def test_ps_filters(box: Commands) -> None:
    web(box, "-l", "tier=front")
    ended(box, "bad", "sh", "-c", "exit 3", code=3, options=("-l", "tier=back"))
    ended(box, "good", "true")

    def names(*filters: str) -> set[str]:
        words = [word for text in filters for word in ("-f", text)]
        return set(box("ps", "-a", *words, "--format", "{{.Names}}").lines)

    assert names("name=oo") == {"good"}
    assert names("status=exited") == {"bad", "good"}
    assert names("status=exited", "status=running") == {"bad", "good", "web"}
    assert names("exited=3") == {"bad"}
    assert names("label=tier") == {"web", "bad"}
    assert names("label=tier=front") == {"web"}
    assert names("label=tier", "label=tier=back") == {"bad"}
    assert names("ancestor=box") == {"web", "bad", "good"}
    assert names("ancestor=other") == set()
    assert names("since=web") == {"bad", "good"}
    assert names("before=good", "status=exited") == {"bad"}
    assert names("network=host") == set()
    assert box("ps", "-f", "colour=red", code=125).err.count("\n") == 1


def test_ps_of_the_last(box: Commands) -> None:
    for name in ("one", "two", "three"):
        ended(box, name, "true")
    assert box("ps", "-l", "--format", "{{.Names}}").lines == ["three"]
    assert box("ps", "-n", "2", "--format", "{{.Names}}").lines == ["three", "two"]


def test_ps_shows_how_much_was_written(box: Commands) -> None:
    ended(box, "big", "sh", "-c", "head -c 2000000 /dev/zero > /big")
    assert "MB" in box("ps", "-as", "--format", "{{.Size}}").out


def test_logs_of_both_streams_with_times_and_tails(box: Commands) -> None:
    ended(box, "talk", "sh", "-c", "echo 1; echo 2 >&2; echo 3; printf 4")
    done = box("logs", "talk")
    assert (done.out, done.err) == ("1\n3\n4", "2\n")
    assert box("logs", "-n", "1", "talk").out == "4"
    assert box("logs", "--tail", "all", "talk").out == "1\n3\n4"
    assert box("logs", "--tail", "0", "talk").out == ""
    stamp, text = box("logs", "-t", "talk").lines[0].split(" ")
    assert text == "1"
    assert stamp.endswith("Z")
    assert box("logs", "--since", "1h", "talk").out == "1\n3\n4"
    assert box("logs", "--since", "2030-01-01T00:00:00Z", "talk").out == ""
    assert box("logs", "--until", str(int(time.time()) - 3600), "talk").out == ""
    assert "'soon' for --since" in box("logs", "--since", "soon", "talk", code=125).err


def test_logs_are_followed_until_the_end(box: Commands) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done"
    box("run", "-d", "--name", "count", "box", "sh", "-c", script)
    assert box("logs", "-f", "count").out == "1\n2\n3\n"
    assert box("logs", "-f", "-n", "1", "count").out == "3\n"


def test_a_container_that_removes_itself_has_no_log_unless_it_is_detached(box: Commands) -> None:
    web(box, "--rm")
    wait_until(lambda: box("logs", "web").out == "on\n")


def test_exec_runs_beside_with_its_own_exit_code(box: Commands) -> None:
    web(box)
    script = "echo out; echo err >&2; exit 7"
    done = box("exec", "web", "sh", "-c", script, code=7)
    assert (done.out, done.err) == ("out\n", "err\n")
    options = ("-e", "A=1", "-u", "ada", "-w", "/tmp")
    assert box("exec", *options, "web", "sh", "-c", "echo $A; id -un; pwd").out == "1\nada\n/tmp\n"
    assert "'nope'" in box("exec", "web", "nope", code=127).err
    assert box("exec", "web", "/etc/not-a-program", code=126).out == ""
    assert Lamina(root=box.root)("exec", "-i", "web", "cat", stdin=b"typed").stdout == "typed"


def test_exec_in_the_background(box: Commands) -> None:
    web(box)
    assert box("exec", "-d", "web", "sh", "-c", "echo done > /file").out == ""
    wait_until(lambda: box("exec", "web", "cat", "/file", code=None).out == "done\n")
    assert "'nope'" in box("exec", "-d", "web", "nope", code=127).err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("exec", "nobody", "true"), 1, "no such container: nobody"),
        (("exec", "old", "true"), 1, "is exited, not running"),
        (("exec", "old"), 1, "requires at least 2 arguments"),
        (("stop", "nobody"), 1, "no such container: nobody"),
        (("kill", "old"), 1, "is exited, not running"),
        (("kill", "-s", "NOPE", "old"), 1, "invalid signal: NOPE"),
        (("logs", "nobody"), 1, "no such container"),
        (("rm", "nobody"), 1, "no such container"),
        (("wait", "nobody"), 1, "no such container"),
        (("start", "nobody"), 1, "no such container"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(
    box: Commands, words: tuple[str, ...], code: int, message: str
) -> None:
    ended(box, "old", "true")
    done = box(*words, code=code)
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_stop_kill_and_wait(box: Commands) -> None:
    web(box)
    assert box("stop", "web").out == "web\n"
    assert box("wait", "web").out == "143\n"
    assert box("stop", "web").out == "web\n"  # as docker: stopping what has stopped is fine
    box("start", "web")
    assert box("kill", "web").out == "web\n"
    assert box("wait", "web").out == "137\n"


def test_one_bad_word_does_not_keep_the_others_from_being_done(box: Commands) -> None:
    web(box)
    done = box("stop", "nobody", "web", code=1)
    assert done.out == "web\n"
    assert "no such container: nobody" in done.err
    assert box("ps", "-q").out == ""


def test_stop_with_another_signal_and_no_patience(box: Commands) -> None:
    script = "trap '' TERM; echo on; while true; do sleep 0.05; done"
    box("run", "-d", "--name", "deaf", "box", "sh", "-c", script)
    wait_until(lambda: box("logs", "deaf").out == "on\n")
    began = time.monotonic()
    box("stop", "-t", "0", "deaf")
    assert time.monotonic() - began < 5
    assert box("wait", "deaf").out == "137\n"
    box("start", "deaf")
    box("stop", "-s", "KILL", "--timeout", "30", "deaf")
    assert box("wait", "deaf").out == "137\n"


def test_a_stopped_container_starts_again_with_what_it_wrote(box: Commands) -> None:
    script = "echo x >> /file; wc -l < /file"
    ended(box, "again", "sh", "-c", script)
    assert box("start", "again").out == "again\n"
    box("wait", "again")
    assert box("start", "-a", "again").out == "3\n"
    assert box("logs", "again").out == "1\n2\n3\n"


def test_restart(box: Commands) -> None:
    web(box)
    before = box("inspect", "-f", "{{.State.StartedAt}}", "web").out
    assert box("restart", "-t", "1", "web").out == "web\n"
    assert box("inspect", "-f", "{{.State.Running}}", "web").out == "true\n"
    assert box("inspect", "-f", "{{.State.StartedAt}}", "web").out > before


def test_rm(box: Commands) -> None:
    web(box)
    ended(box, "old", "true")
    assert "is running" in box("rm", "web", code=1).err
    assert box("rm", "old").out == "old\n"
    assert box("rm", "-f", "web").out == "web\n"
    forced = box("rm", "-f", "web")
    assert forced.out == ""
    assert "no such container: web" in forced.err
    assert names_in(box.root / "lamina/containers") == []


def test_rm_with_volumes(box: Commands) -> None:
    for name in ("one", "two"):
        ended(box, name, "true", options=("-v", "/v"))
    box("rm", "one")
    assert len(names_in(box.root / "lamina/volumes")) == 2
    box("rm", "-v", "two")
    assert len(names_in(box.root / "lamina/volumes")) == 1


def test_container_prune_removes_what_does_not_run(box: Commands) -> None:
    web(box)
    ended(box, "old", "true")
    done = box("container", "prune", "-f")
    assert done.lines[0] == "Deleted Containers:"
    assert len(done.lines[1]) == 64
    assert done.lines[-1].startswith("Total reclaimed space: ")
    assert box("ps", "-a", "--format", "{{.Names}}").lines == ["web"]


def test_whether_a_container_exists(box: Commands) -> None:
    ended(box, "old", "true")
    box("container", "exists", "old")
    assert box("container", "exists", "nobody", code=1).err == ""


def test_both_spellings_work(box: Commands) -> None:
    ended(box, "old", "true")
    for line in (("container", "ls", "-a", "-q"), ("container", "list", "-aq")):
        assert len(box(*line).lines) == 1
    box("container", "rm", "old")


def test_a_container_is_found_by_a_prefix_of_its_id(box: Commands) -> None:
    container_id = web(box)
    assert box("exec", container_id[:5], "echo", "found").out == "found\n"


def test_what_ps_says_of_a_container() -> None:
    now = time.time()
    assert status(record_with()) == "Created"
    assert status(record_with(state="running", started=now - 125)) == "Up 2 minutes"
    assert status(record_with(state="exited", exit_code=1, finished=now - 3.2)) == (
        "Exited (1) 3 seconds ago"
    )
    assert status(record_with(state="dead")) == "Dead"


def test_control_characters_of_a_command_cannot_steer_the_terminal(box: Commands) -> None:
    ended(box, "evil", "echo", "\x1b[2J", "x\ny")
    assert "\x1b" not in box("ps", "-a").out
    assert len(box("ps", "-a").lines) == 2


def test_no_descriptor_of_ours_reaches_the_program(box: Commands) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    done = box("run", "--rm", "box", "sh", "-c", "ls /proc/self/fd | wc -l")
    os.close(reader)
    os.close(writer)
    assert done.out.strip() == "4"  # three, and the directory itself


class TestPause:
    def test_a_paused_container_stands_still_until_it_goes_on(self, box: Commands) -> None:
        script = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done"
        box("run", "-d", "--name=it", "--network=none", "box", "sh", "-c", script)
        assert box("pause", "it").lines == ["it"]
        assert box("ps", "--format", "{{.Status}} {{.State}}").out.endswith("(Paused) paused\n")
        assert box("ps", "-q", "--filter", "status=paused").out
        form = "{{.State.Status}} {{.State.Running}} {{.State.Paused}}"
        assert box("inspect", "-f", form, "it").lines == ["paused true true"]
        assert "already paused" in box("pause", "it", code=1).err
        assert "it is paused, not running" in box("exec", "it", "true", code=1).err
        assert box("unpause", "it").lines == ["it"]
        assert "is not paused" in box("unpause", "it", code=1).err
        assert box("exec", "it", "true").out == ""
        box("rm", "-f", "it")

    @pytest.mark.parametrize("words", [("stop", "-t", "5"), ("kill",), ("rm", "-f")])
    def test_it_can_be_ended_all_the_same(self, box: Commands, words: tuple[str, ...]) -> None:
        script = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
        box("run", "-d", "--rm", "--name=it", "--network=none", "box", "sh", "-c", script)
        pid = box("inspect", "-f", "{{.State.Pid}}", "it").out.strip()
        box("pause", "it")
        box(*words, "it")
        wait_until(lambda: box("ps", "-aq").out == "")
        assert not list(Path("/sys/fs/cgroup").glob(f"**/lamina-*-{pid}-frozen"))

    def test_what_does_not_run_cannot_be_paused(self, box: Commands) -> None:
        box("create", "--name=it", "box")
        assert "not running" in box("pause", "it", code=1).err
        assert "no such container" in box("unpause", "nobody", code=1).err
