import errno

import pytest

from builder.sandbox import (
    ProgramError,
    ProgramNotExecutableError,
    ProgramNotFoundError,
    SandboxError,
    UnknownUserError,
    UnsupportedHostError,
)
from builder.sandbox.errors import decode, encode

ERRORS = [
    SandboxError(phase="mount /proc", errno=errno.EPERM),
    SandboxError(phase="mount /proc", errno=errno.EPERM, hint="try as root"),
    SandboxError(phase="execute", message="there is no program: none", hint="give one"),
    SandboxError(phase="", message="plain"),
    UnsupportedHostError(feature="overlayfs"),
    UnsupportedHostError(feature="overlayfs", reason="no: module", errno=19, hint="load it"),
    UnknownUserError(user="ada:x", reason="no entry: there", hint="make it"),
    ProgramNotFoundError(argv0="sh: it", errno=errno.ENOENT),
    ProgramNotFoundError(argv0="sh", errno=errno.ENOENT, message="not found in $PATH"),
    ProgramNotExecutableError(argv0="/x", errno=errno.ENOEXEC, hint="no #! line"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_error_survives_the_way_out_of_a_sandbox(error: SandboxError) -> None:
    again = decode(encode(error, "whatever"))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_messages_say_where_and_what() -> None:
    assert str(ERRORS[0]) == "mount /proc: Operation not permitted"
    assert str(ERRORS[4]) == "this host does not offer overlayfs"
    assert str(ERRORS[5]) == "this host does not offer overlayfs: no: module"
    assert str(ERRORS[6]) == "user 'ada:x': no entry: there"
    assert str(ERRORS[8]) == "execute: 'sh': not found in $PATH"


def test_operating_system_errors_get_the_phase_they_happened_in() -> None:
    error = decode(encode(FileNotFoundError(errno.ENOENT, "No such file", "/x"), "mount /dev"))
    assert (error.phase, error.errno) == ("mount /dev", errno.ENOENT)
    assert str(error) == "mount /dev: /x: No such file"


def test_what_nobody_expected_is_named() -> None:
    error = decode(encode(ValueError("surprise"), "look up the user"))
    assert str(error) == "look up the user: ValueError: surprise"


def test_the_tree_is_as_documented() -> None:
    assert issubclass(UnsupportedHostError, SandboxError)
    assert issubclass(UnknownUserError, SandboxError)
    assert issubclass(ProgramNotFoundError, ProgramError)
    assert issubclass(ProgramNotExecutableError, ProgramError)
    assert issubclass(ProgramError, SandboxError)
