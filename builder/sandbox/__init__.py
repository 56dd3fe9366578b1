"""Run a program in namespaces on a root: everything that other rooms may use.

Names are loaded when they are first asked for (PEP 562): a command pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.sandbox.cgroups import PIDS_MAX_DEFAULT
    from builder.sandbox.errors import (
        ProgramError,
        ProgramNotExecutableError,
        ProgramNotFoundError,
        SandboxError,
        UnknownUserError,
        UnsupportedHostError,
    )
    from builder.sandbox.executor import LocalExecutor
    from builder.sandbox.hostreport import Feature, HostReport, probe
    from builder.sandbox.idmap import in_user_namespace
    from builder.sandbox.namespaces import enter_user_namespace
    from builder.sandbox.server import ForkServer
    from builder.sandbox.spec import (
        DEFAULT_PATH,
        BindMount,
        Executor,
        ExitStatus,
        FileMount,
        Limits,
        Mount,
        OverlayRoot,
        PlainRoot,
        Program,
        Root,
        Running,
        SandboxSpec,
        Stdio,
        TmpfsMount,
    )
    from builder.sandbox.terminal import set_terminal_size
    from builder.sandbox.users import Ids, find_user

_HOMES = {
    "BindMount": "spec",
    "DEFAULT_PATH": "spec",
    "Executor": "spec",
    "ExitStatus": "spec",
    "Feature": "hostreport",
    "FileMount": "spec",
    "ForkServer": "server",
    "HostReport": "hostreport",
    "Ids": "users",
    "Limits": "spec",
    "LocalExecutor": "executor",
    "Mount": "spec",
    "OverlayRoot": "spec",
    "PIDS_MAX_DEFAULT": "cgroups",
    "PlainRoot": "spec",
    "Program": "spec",
    "ProgramError": "errors",
    "ProgramNotExecutableError": "errors",
    "ProgramNotFoundError": "errors",
    "Root": "spec",
    "Running": "spec",
    "SandboxError": "errors",
    "SandboxSpec": "spec",
    "Stdio": "spec",
    "TmpfsMount": "spec",
    "UnknownUserError": "errors",
    "UnsupportedHostError": "errors",
    "enter_user_namespace": "namespaces",
    "find_user": "users",
    "in_user_namespace": "idmap",
    "probe": "hostreport",
    "set_terminal_size": "terminal",
}

__all__ = [
    "DEFAULT_PATH",
    "PIDS_MAX_DEFAULT",
    "BindMount",
    "Executor",
    "ExitStatus",
    "Feature",
    "FileMount",
    "ForkServer",
    "HostReport",
    "Ids",
    "Limits",
    "LocalExecutor",
    "Mount",
    "OverlayRoot",
    "PlainRoot",
    "Program",
    "ProgramError",
    "ProgramNotExecutableError",
    "ProgramNotFoundError",
    "Root",
    "Running",
    "SandboxError",
    "SandboxSpec",
    "Stdio",
    "TmpfsMount",
    "UnknownUserError",
    "UnsupportedHostError",
    "enter_user_namespace",
    "find_user",
    "in_user_namespace",
    "probe",
    "set_terminal_size",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
