"""An ordinary user, acted by a process of a suite that runs as root."""

import os
import pwd
import resource
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.sandbox import (
    DEFAULT_PATH,
    Executor,
    ExitStatus,
    OverlayRoot,
    Program,
    SandboxSpec,
    Stdio,
    namespaces,
    recorder,
    syscalls,
)
from layerstore import remove_tree
from tests.support import rootfs

USER = 54321
# An ordinary user may not be able to read the library of Python.
PRELOADED = (pwd, resource, recorder)


class Ordinary:
    """Acts as an ordinary user, in a process of its own, on a directory that is the user's."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = rootfs.make_root(home / "root")
        for path in [home, *home.rglob("*")]:
            os.lchown(path, USER, USER)

    def act(self, play: Callable[[], None], before: Callable[[], None] = lambda: None) -> None:
        """`before` is done as root; what `play` says by failing is shown."""

        def act() -> None:
            try:
                before()
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(USER, USER, USER)
                    os.setresuid(USER, USER, USER)
                    # What has changed its user is closed to itself in /proc; a login is not.
                    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
                play()
            except BaseException:  # the last line of this process, which says no more than its code
                traceback.print_exc()
                raise

        assert namespaces.attempt(act) == 0

    def spec(self, program: Program, **words: Any) -> SandboxSpec:
        """On the root, with an upper directory that is not used yet."""
        number = len(list(self.home.iterdir()))
        upper, work = self.home / f"upper{number}", self.home / f"work{number}"
        upper.mkdir()
        work.mkdir()
        root = OverlayRoot(lowerdirs=(self.root,), upperdir=upper, workdir=work)
        return SandboxSpec(root=root, program=program, **words)

    def run(self, executor: Executor, script: str, **words: Any) -> tuple[ExitStatus, str]:
        """Run a shell script; returns its status and output. For use inside `act`."""
        program = Program(
            argv=words.pop("argv", ("/bin/sh", "-c", script)),
            env=(f"PATH={DEFAULT_PATH}",),
            user=str(words.pop("user", "")),
        )
        reader, writer = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        spec = self.spec(program, **words)
        try:
            running = executor.start(spec, Stdio(stdin=null, stdout=writer, stderr=writer))
        finally:
            os.close(writer)
            os.close(null)
        with open(reader, "rb") as file:
            output = file.read().decode()
        return running.wait(), output


@contextmanager
def ordinary_user() -> Iterator[Ordinary]:
    """With a home that is gone afterwards."""
    rootfs.need_busybox()
    home = Path(tempfile.mkdtemp(prefix="lamina-user-", dir="/var/tmp"))
    try:
        yield Ordinary(home)
    finally:
        remove_tree(home)
