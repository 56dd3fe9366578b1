"""How an error is told: one line on standard error, what and where, and what to do about it.

    lamina: no such image: hello:1 (`lamina build`, `pull`, ... )

At most 1000 bytes, control characters escaped: much of what stands in a message comes from an
image or a Dockerfile. Only the excerpt of a Dockerfile makes it more than one line. Without
`--debug` there is never a traceback.
"""

import errno
import os
import sys

from builder.cli.arguments import UsageError
from builder.cli.exitcodes import exit_code
from builder.cli.output import printable

BYTES_MAX = 1000
_EXCERPT_MIN = 40
_DESCRIPTORS_HINT = "a higher `ulimit -n` allows more, a build with fewer --jobs needs fewer"


def report(error: BaseException, *, command: str, debug: bool) -> int:
    """Tell `error` on standard error; returns the exit code to end with."""
    if debug and not isinstance(error, UsageError):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, SystemExit):  # nobody of ours raises it
        return error.code if isinstance(error.code, int) else 1
    text = describe(error)
    try:
        if text:
            sys.stdout.flush()  # what was printed before comes before
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
    except OSError:  # nobody is listening; the exit code still says it
        pass
    return exit_code(error, command)


def describe(error: BaseException) -> str:
    """The whole message, excerpt of a Dockerfile included; empty when nothing is to be said."""
    from builder.cli.govalues import TemplateError
    from builder.errors import BuilderError
    from builder.sandbox import SandboxError
    from grammar import DockerfileError
    from layerstore import FULL_HINT, StoreError

    match error:
        case BrokenPipeError():
            return ""
        case KeyboardInterrupt():
            return "lamina: interrupted"
        case DockerfileError():
            return _cut(_lines(error.render()), BYTES_MAX)
        case BuilderError() | SandboxError() | StoreError() | TemplateError() | UsageError():
            return _with_excerpt(_line(error.message, error.hint), error)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return _with_excerpt(_line(_system_error(error), FULL_HINT), error)
        case OSError(errno=errno.EMFILE):
            return _with_excerpt(_line(_system_error(error), _DESCRIPTORS_HINT), error)
        case OSError() if error.strerror:
            return _with_excerpt(_line(_system_error(error), ""), error)
        case MemoryError():
            return _line("out of memory", "")
        case _:
            name = type(error).__name__
            return _line(f"internal error: {name}: {error}", "`lamina --debug ...` shows where")


def _with_excerpt(text: str, error: BaseException) -> str:
    """The lines of the Dockerfile that it is about, if any, and then the message."""
    notes = [getattr(error, "excerpt", ""), *getattr(error, "__notes__", ())]
    excerpt = _lines("\n".join(note for note in notes if note))
    room = BYTES_MAX - len(text.encode()) - 1
    return f"{_cut(excerpt, room)}\n{text}" if excerpt and room > _EXCERPT_MIN else text


def _line(message: str, hint: str) -> str:
    text = printable(message)
    if hint:
        text += f" ({printable(hint)})"
    return _cut("lamina: " + text, BYTES_MAX)


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.rstrip("\n").split("\n"))


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) < bytes_max:
        return data.decode()
    return data[: bytes_max - 4].decode("utf-8", "ignore") + "..."


def _system_error(error: OSError) -> str:
    where = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
    return ": ".join(
        [" -> ".join(where), error.strerror or ""] if where else [error.strerror or ""]
    )
