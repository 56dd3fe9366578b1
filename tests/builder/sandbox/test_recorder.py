"""The process that answers for owners: when there is one, in whose root it is, when it ends."""

import errno
import os
import signal
from collections.abc import Callable

import pytest

from builder.sandbox import (
    ExitStatus,
    FileMount,
    ForkServer,
    LocalExecutor,
    Program,
    Stdio,
    TmpfsMount,
    enter_user_namespace,
)
from builder.sandbox.recorder import is_offered
from tests.support import traces
from tests.support.ordinary import Ordinary
from tests.support.waiting import wait_until


def test_this_kernel_can_do_it() -> None:
    words = [int(word) for word in os.uname().release.split(".")[:2]]
    assert is_offered() == (words >= [5, 14])


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestRoot:
    def test_who_has_changed_its_root_is_understood(self, shell: Callable[..., str]) -> None:
        script = """
            mkdir -p /new/tmp && cp -a /bin /new/bin && touch /tmp/f /new/tmp/f && chown 5 /tmp/f
            chroot /new sh -c 'chown 33 /tmp/f; cd /tmp; stat -c %u f ../tmp/f /../tmp/f'
            stat -c %u /tmp/f /new/tmp/f
        """
        assert shell(script).split() == ["33", "33", "33", "5", "33"]

    def test_nothing_outside_of_the_root_is_reached(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        (ordinary.home / "canary").touch()
        os.chown(ordinary.home / "canary", 54321, 54321)
        names = [
            f"{ordinary.home}/canary",
            f"../../../../../..{ordinary.home}/canary",
            "/proc/1/root/etc/passwd",
            f"{os.getpid()}/cwd/x",
        ]
        shell(f"ln -s {ordinary.home}/canary /tmp/l; chown 33 /tmp/l {' '.join(names)}; true")
        assert os.listxattr(ordinary.home / "canary") == []


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestLife:
    def test_nothing_is_left_of_it(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with ForkServer() as server:
                for _ in range(5):
                    assert ordinary.run(server, "stat / >/dev/null")[0] == ExitStatus()
            with LocalExecutor() as executor:
                assert ordinary.run(executor, "stat / >/dev/null")[0] == ExitStatus()
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                raise AssertionError("a child is left")

        ordinary.act(play)
        wait_until(lambda: traces.processes_with(str(ordinary.home)) == [], seconds=5)

    def test_it_ends_with_a_sandbox_that_is_killed(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                script = "stat / && echo asked; while true; do stat / >/dev/null; done"
                program = Program(argv=("/bin/sh", "-c", script))
                null = os.open("/dev/null", os.O_RDWR)
                reader, writer = os.pipe()
                spec = ordinary.spec(program)
                running = executor.start(spec, Stdio(stdin=null, stdout=writer, stderr=null))
                os.close(writer)
                said = b""
                while not said.endswith(b"asked\n"):
                    part = os.read(reader, 1024)
                    assert part, said
                    said += part
                running.kill()
                assert running.wait().signal == signal.SIGKILL

        ordinary.act(play)

    def test_a_program_that_cannot_be_started_leaves_none(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                for _ in range(3):
                    try:
                        ordinary.run(executor, "", argv=("/missing",))
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                        assert getattr(error, "errno", 0) == errno.ENOENT
                assert ordinary.run(executor, "id -u")[1] == "0\n"

        ordinary.act(play)

    def test_many_at_once_are_served(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            script = """
                cd /tmp
                for i in 1 2 3 4 5 6 7 8; do
                  (for j in 1 2 3 4 5 6; do touch $i.$j; chown $i:$j $i.$j; done) &
                done
                wait; stat -c '%n %u.%g' * | awk '$1 != $2'; ls | wc -l
            """
            with ForkServer() as server:
                ended, output = ordinary.run(server, script)
                assert (ended, output) == (ExitStatus(), "48\n")

        ordinary.act(play)

    def test_mounts_belong_to_whom_they_should(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            mounts = (
                FileMount(target="/s/file", content=b"x", mode=0o440, uid=12, gid=34),
                TmpfsMount(target="/t", mode=0o1750, uid=12, gid=34),
                TmpfsMount(target="/r", mode=0o700, gid=34, read_only=True),
            )
            script = "stat -c '%u %g %a' /s/file /t /r; chown 5 /t; stat -c %u /t; chown 5 /r"
            with LocalExecutor() as executor:
                ended, output = ordinary.run(executor, script, mounts=mounts)
            assert output.splitlines() == [
                *("12 34 440", "12 34 1750", "0 34 700", "5"),
                "chown: /r: Read-only file system",
            ]
            assert ended == ExitStatus(code=1)

        ordinary.act(play)

    def test_a_program_that_joins_is_recorded_too(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                null = os.open("/dev/null", os.O_RDWR)
                reader, writer = os.pipe2(os.O_CLOEXEC)
                stdio = Stdio(stdin=null, stdout=writer, stderr=writer)
                running = executor.start(ordinary.spec(Program(argv=("/bin/sleep", "60"))), stdio)
                script = "id -u; touch /tmp/f; stat -c %u:%g /tmp/f"
                words = Program(argv=("/bin/sh", "-c", script), user="33:34")
                assert executor.join(running.init_pid, words, stdio).wait() == ExitStatus()
                words = Program(argv=("/bin/sh", "-c", "id -u; stat -c %u:%g /tmp/f"))
                assert executor.join(running.init_pid, words, stdio).wait() == ExitStatus()
                assert os.read(reader, 100) == b"33\n33:34\n0\n33:34\n"
                running.kill()
                running.wait()

        ordinary.act(play)
