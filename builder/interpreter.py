"""Processes of our own that are no forks: a new interpreter, which has nothing of the caller's.

Nothing of the caller's command line is in it, it has none of its environment and only those of its
descriptors that are named, and `ps` shows what it is.

    start        one that goes on when whoever has started it ends
    Companion    one that ends with it: a pipe, into which nobody writes, ends then
"""

import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_FIRST_WORDS = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {} import main; main()"


def start(
    module: str,
    *words: str,
    inherited: Collection[int],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start a process, in a session of its own; returns its number.

    Args:
        module: has a function `main`, which never returns.
        words: what `main` finds in `sys.argv[1:]`.
        inherited: descriptors that it has under the same numbers, beside /dev/null for 0, 1 and 2.
            They stay inheritable; nobody but the caller closes them here.
        environment: what it has beside the encoding of names.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        kept = {0, 1, 2, *inherited}
        for fd in inherited:
            os.set_inheritable(fd, True)
        # Ours are closed by exec; what a shell has opened for this process (9>lock) is not.
        others = {int(fd) for fd in os.listdir("/proc/self/fd")} - kept  # noqa: PTH208 - names alone
        package = str(Path(__file__).parents[1])
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _FIRST_WORDS.format(module), package, *words],
            {"LC_ALL": "C.UTF-8", **(environment or {})},
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in others),
            ],
            setsid=True,
            setsigdef=(),
        )
    finally:
        os.close(null)


class Companion:
    """A process that goes on until `close`, or until this process ends.

    Its `main` finds its words as JSON, and among them `lifeline`: a descriptor that can be read
    once it is to end.
    """

    def __init__(
        self,
        module: str,
        words: Mapping[str, Any],
        *,
        inherited: Collection[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            text = json.dumps({**words, "lifeline": reader})
            kept = (*inherited, reader)
            self.pid = start(module, text, inherited=kept, environment=environment)
        except BaseException:
            self.let_go()
            raise
        finally:
            os.close(reader)

    def let_go(self) -> None:
        """Have it end, and do not wait for that."""
        os.close(self._lifeline)
        self._lifeline = -1

    def close(self) -> None:
        """It has ended when this returns; nothing happens the second time."""
        if self._lifeline >= 0:
            self.let_go()
            os.waitpid(self.pid, 0)
