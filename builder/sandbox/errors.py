"""What can go wrong while setting the stage for a program.

SandboxError(phase, errno, message, hint)      our turn: nothing ran, nothing is left behind
  UnsupportedHostError(feature)                this host cannot do it, or does not let us
  UnknownUserError(user)                       the root's /etc/passwd or /etc/group lacks it
  ProgramError(argv0)                          the user's turn: the stage stood, execve failed
    ProgramNotFoundError                       exit code 127
    ProgramNotExecutableError                  exit code 126

A failure in a forked process travels as data (`encode`, `decode`): a half-entered root is no place
for a traceback.
"""

import marshal
import os


class SandboxError(Exception):
    """A phase of our own failed. `errno` is 0 where no system call is to blame."""

    def __init__(self, *, phase: str, errno: int = 0, message: str = "", hint: str = "") -> None:
        self.reason = message or os.strerror(errno)
        super().__init__(f"{phase}: {self.reason}" if phase else self.reason)
        self.phase = phase
        self.errno = errno
        self.message = str(self)
        self.hint = hint


class UnsupportedHostError(SandboxError):
    def __init__(self, *, feature: str, reason: str = "", errno: int = 0, hint: str = "") -> None:
        message = f"this host does not offer {feature}" + (f": {reason}" if reason else "")
        super().__init__(phase="", errno=errno, message=message, hint=hint)
        self.feature = feature
        self.reason = reason


class UnknownUserError(SandboxError):
    def __init__(self, *, user: str, reason: str, hint: str = "") -> None:
        super().__init__(phase="", message=f"user {user!r}: {reason}", hint=hint)
        self.user = user
        self.reason = reason


class ProgramError(SandboxError):
    """`argv0` could not be executed."""

    def __init__(self, *, argv0: str, errno: int, message: str = "", hint: str = "") -> None:
        reason = message or os.strerror(errno).lower()
        super().__init__(phase="execute", errno=errno, message=f"{argv0!r}: {reason}", hint=hint)
        self.argv0 = argv0
        self.reason = reason


class ProgramNotFoundError(ProgramError):
    pass


class ProgramNotExecutableError(ProgramError):
    pass


def encode(error: BaseException, phase: str) -> bytes:
    """Turn whatever stopped a forked process into one record; `phase` is where it was."""
    match error:
        case ProgramError():
            subject = error.argv0
        case UnknownUserError():
            subject = error.user
        case UnsupportedHostError():
            subject = error.feature
        case SandboxError():
            subject = error.phase
        case OSError():
            reason = error.strerror or str(error)
            if isinstance(error.filename, str):
                reason = f"{error.filename}: {reason}"
            return marshal.dumps(("SandboxError", phase, error.errno or 0, reason, ""))
        case _:
            reason = f"{type(error).__name__}: {error}"
            return marshal.dumps(("SandboxError", phase, 0, reason, ""))
    return marshal.dumps((type(error).__name__, subject, error.errno, error.reason, error.hint))


def decode(record: bytes) -> SandboxError:
    """Rebuild the error of `encode`."""
    kind, subject, errno, message, hint = marshal.loads(record)
    match kind:
        case "ProgramNotFoundError":
            return ProgramNotFoundError(argv0=subject, errno=errno, message=message, hint=hint)
        case "ProgramNotExecutableError":
            return ProgramNotExecutableError(argv0=subject, errno=errno, message=message, hint=hint)
        case "UnknownUserError":
            return UnknownUserError(user=subject, reason=message, hint=hint)
        case "UnsupportedHostError":
            return UnsupportedHostError(feature=subject, reason=message, errno=errno, hint=hint)
        case _:
            return SandboxError(phase=subject, errno=errno, message=message, hint=hint)
