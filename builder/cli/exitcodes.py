"""Which error ends the command with which exit code: one table.

As docker's (measured on its client 28.2):
    125  an unknown or bad flag of any command; our own failure in run, create and exec
      1  a wrong number of arguments, an unknown command; our own failure elsewhere; for exec, a
         container that is not there or does not run
    126  the program of run or exec cannot be executed        127  it is not there
    126  for exec also a user or a directory that is not there, and what else stops a program
    130  interrupted (128 + SIGINT); 143 ended (128 + SIGTERM)
Otherwise run and exec end with the program's own code, or 128 plus the signal that killed it.
"""

from builder.cli.arguments import UsageError

FAILURE = 1
OWN_FAILURE = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BROKEN_PIPE = 141
_SIGINT = 2

# commands whose 1 would be taken for the program's own exit code
_RUNNERS = frozenset({"run", "create", "exec"})


def exit_code(error: BaseException, command: str) -> int:
    """The exit code for `error` in `command` (as typed: `run`, `container run`)."""
    from builder.errors import NoSuchContainerError, WrongStateError
    from builder.runner import DetachedError
    from builder.sandbox import ProgramNotExecutableError, ProgramNotFoundError, SandboxError

    is_exec = command.removeprefix("container ") == "exec"
    own = OWN_FAILURE if command.removeprefix("container ") in _RUNNERS else FAILURE
    match error:
        case UsageError(is_count=is_count):
            return FAILURE if is_count else OWN_FAILURE
        case ProgramNotFoundError() if own == OWN_FAILURE:
            return NOT_FOUND
        case ProgramNotExecutableError() if own == OWN_FAILURE:
            return NOT_EXECUTABLE
        case DetachedError() if own == OWN_FAILURE:
            return error.code
        case NoSuchContainerError() | WrongStateError() if is_exec:
            return FAILURE
        case SandboxError() if is_exec:
            return NOT_EXECUTABLE
        case KeyboardInterrupt():  # its argument, where it has one, is the signal: see cli.main
            return 128 + (error.args[0] if error.args else _SIGINT)
        case BrokenPipeError():
            return BROKEN_PIPE
        case _:
            return own
