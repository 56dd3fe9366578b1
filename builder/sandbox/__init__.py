"""Run a program in namespaces on a root: everything that other rooms may use.

Names are loaded when they are first asked for (PEP 562): a command pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.sandbox import netlink
    from builder.sandbox.capabilities import ALL as ALL_CAPABILITIES
    from builder.sandbox.capabilities import DEFAULT as DEFAULT_CAPABILITIES
    from builder.sandbox.cgroups import PIDS_MAX_DEFAULT
    from builder.sandbox.defaults import DEFAULT_PATH
    from builder.sandbox.errors import (
        ProgramError,
        ProgramNotExecutableError,
        ProgramNotFoundError,
        SandboxError,
        UnknownUserError,
        UnsupportedHostError,
    )
    from builder.sandbox.executor import LocalExecutor
    from builder.sandbox.filesystems import why_no_overlay
    from builder.sandbox.freezer import freeze, is_frozen, remove_freezer, thaw
    from builder.sandbox.hostreport import Feature, HostReport, probe
    from builder.sandbox.idmap import in_user_namespace
    from builder.sandbox.limits import RESOURCES, Limits, ResourceLimit
    from builder.sandbox.namespaces import enter_user_namespace, make_network, recording_child
    from builder.sandbox.network import enter_network
    from builder.sandbox.ociruntime import RuntimeExecutor, find_runtime
    from builder.sandbox.seccompprofile import parse as parse_seccomp_profile
    from builder.sandbox.server import ForkServer
    from builder.sandbox.spec import (
        BindMount,
        Device,
        Executor,
        ExitStatus,
        FileMount,
        Link,
        Mount,
        Namespaces,
        Network,
        OverlayMount,
        OverlayRoot,
        PlainRoot,
        Program,
        Root,
        Running,
        SandboxSpec,
        SeccompArgument,
        SeccompProfile,
        SeccompRule,
        Stdio,
        TmpfsMount,
    )
    from builder.sandbox.syscalls import open_timer
    from builder.sandbox.terminal import set_terminal_size
    from builder.sandbox.users import Ids, find_user

_HOMES = {
    "ALL_CAPABILITIES": "capabilities:ALL",
    "BindMount": "spec",
    "DEFAULT_CAPABILITIES": "capabilities:DEFAULT",
    "DEFAULT_PATH": "defaults",
    "Device": "spec",
    "Executor": "spec",
    "ExitStatus": "spec",
    "Feature": "hostreport",
    "FileMount": "spec",
    "ForkServer": "server",
    "HostReport": "hostreport",
    "Ids": "users",
    "Limits": "limits",
    "Link": "spec",
    "LocalExecutor": "executor",
    "Mount": "spec",
    "Namespaces": "spec",
    "Network": "spec",
    "OverlayMount": "spec",
    "OverlayRoot": "spec",
    "PIDS_MAX_DEFAULT": "cgroups",
    "PlainRoot": "spec",
    "Program": "spec",
    "ProgramError": "errors",
    "ProgramNotExecutableError": "errors",
    "ProgramNotFoundError": "errors",
    "RESOURCES": "limits",
    "ResourceLimit": "limits",
    "Root": "spec",
    "Running": "spec",
    "RuntimeExecutor": "ociruntime",
    "SandboxError": "errors",
    "SandboxSpec": "spec",
    "SeccompArgument": "spec",
    "SeccompProfile": "spec",
    "SeccompRule": "spec",
    "Stdio": "spec",
    "TmpfsMount": "spec",
    "UnknownUserError": "errors",
    "UnsupportedHostError": "errors",
    "enter_network": "network",
    "enter_user_namespace": "namespaces",
    "find_runtime": "ociruntime",
    "find_user": "users",
    "freeze": "freezer",
    "in_user_namespace": "idmap",
    "make_network": "namespaces",
    "is_frozen": "freezer",
    "open_timer": "syscalls",
    "parse_seccomp_profile": "seccompprofile:parse",
    "probe": "hostreport",
    "recording_child": "namespaces",
    "remove_freezer": "freezer",
    "set_terminal_size": "terminal",
    "thaw": "freezer",
    "why_no_overlay": "filesystems",
}

__all__ = [
    "ALL_CAPABILITIES",
    "DEFAULT_CAPABILITIES",
    "DEFAULT_PATH",
    "PIDS_MAX_DEFAULT",
    "RESOURCES",
    "BindMount",
    "Device",
    "Executor",
    "ExitStatus",
    "Feature",
    "FileMount",
    "ForkServer",
    "HostReport",
    "Ids",
    "Limits",
    "Link",
    "LocalExecutor",
    "Mount",
    "Namespaces",
    "Network",
    "OverlayMount",
    "OverlayRoot",
    "PlainRoot",
    "Program",
    "ProgramError",
    "ProgramNotExecutableError",
    "ProgramNotFoundError",
    "ResourceLimit",
    "Root",
    "Running",
    "RuntimeExecutor",
    "SandboxError",
    "SandboxSpec",
    "SeccompArgument",
    "SeccompProfile",
    "SeccompRule",
    "Stdio",
    "TmpfsMount",
    "UnknownUserError",
    "UnsupportedHostError",
    "enter_network",
    "enter_user_namespace",
    "find_runtime",
    "find_user",
    "freeze",
    "in_user_namespace",
    "is_frozen",
    "make_network",
    "netlink",
    "open_timer",
    "parse_seccomp_profile",
    "probe",
    "recording_child",
    "remove_freezer",
    "set_terminal_size",
    "thaw",
    "why_no_overlay",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _HOMES[name].partition(":")
    value = getattr(import_module(f"{__name__}.{module}"), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
