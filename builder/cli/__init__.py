"""The command line: parsing and printing, nothing else.

    main -> commands.py names the family's module -> its `Command` -> split -> act

Only the module of the command asked for is imported, and click only where there is help to draw
or a word to complete. That is a budget, held by tests/builder/cli/test_startup.py:
`lamina --version` and `lamina run` import neither click, lark, zstandard, isal, rich nor sqlite3.
"""

import _signal  # type: ignore[import-not-found]  # `signal` takes 2 ms for its enumerations
import gc
import os
import sys
import types
from typing import TYPE_CHECKING, Any, Never

from builder.cli.commands import VERSION, find, load

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN_S = 0.005
_COLLECTED_AFTER = 100_000  # objects: a short command looks for no cycles, which takes 5 ms


def main() -> Never:
    """Carry out the command line of this process, and end the process."""
    gc.set_threshold(_COLLECTED_AFTER)
    _fill_standard_descriptors()
    _import_inspect_late()
    _interrupt_by_signals()
    _end(carry_out(sys.argv[1:]))


def carry_out(line: list[str]) -> int:
    """Carry out one command line; returns the exit code, whatever happens."""
    asked: list[str] = []
    debug = False
    try:
        if line == ["--version"]:  # what start-up itself costs
            sys.stdout.write(f"lamina version {VERSION}\n")
            return 0
        if "_LAMINA_COMPLETE" in os.environ:
            from builder.cli.application import complete

            return complete()
        from builder.cli.arguments import HelpWanted, split
        from builder.cli.session import GLOBAL, Session

        try:
            before = split(GLOBAL, line)
            debug = before.flag("debug")
            if before.flag("version"):
                return carry_out(["--version"])
            asked, rest = find(before.words)
            command = load(asked, rest)
            arguments = split(command, rest)
            return command.act(arguments, Session(root=before.value("root"), debug=debug))
        except HelpWanted:
            from builder.cli.application import show_help

            return show_help(asked)
    except BaseException as error:  # noqa: BLE001 - the last line: all that goes wrong is told here
        from builder.cli.failures import report

        return report(error, command=" ".join(asked), debug=debug)


def _fill_standard_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, lest a file opened later becomes the output."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # takes the lowest free number, which is fd
        if getattr(sys, name) is None:  # as Python has it where it was closed
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  (it stays open)


def _interrupt_by_signals() -> None:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that everything is cleaned up.

    A signal that comes where Python ignores exceptions (in what runs at a fork, in a finalizer)
    would have no effect: there it is raised once more, a little later.
    """

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    def ignored(what: "UnraisableHookArgs") -> None:
        error = what.exc_value
        if not isinstance(error, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return

        def again(number: int, frame: types.FrameType | None) -> None:
            raise KeyboardInterrupt(*error.args)

        _signal.signal(_signal.SIGALRM, again)
        _signal.setitimer(_signal.ITIMER_REAL, _AGAIN_S)

    for number in (_signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) == _signal.SIG_DFL:  # not under nohup
            _signal.signal(number, interrupt)
    sys.unraisablehook = ignored


def _import_inspect_late() -> None:
    """Let `dataclasses` be imported without `inspect`, which alone takes 9 ms of start-up.

    dataclasses needs it for classes without a docstring only. The stand-in makes place for the
    real module as soon as anything of it is asked for.
    """

    class Late(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # the import system looks for __path__, __spec__ ...
                raise AttributeError(name)
            if sys.modules.get("inspect") is self:
                del sys.modules["inspect"]
            import inspect

            return getattr(inspect, name)

    sys.modules.setdefault("inspect", Late("inspect"))


def _end(code: int) -> Never:
    """Flush and end without the interpreter's own farewell, which takes 3 to 5 ms.

    All that must happen at an end happens in `with` and `finally` before this.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # whoever read it has seen enough: as if killed by SIGPIPE
            code = code or 141
        except OSError:
            code = code or 1
    os._exit(code)
