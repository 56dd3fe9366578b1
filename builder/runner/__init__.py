"""Containers: start and mind them. What other rooms may use of this one.

Names are loaded when they are first used: `lamina run` pays for what it needs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.runner.attend import Streams, pump_terminal
    from builder.runner.container import OWN_RUNTIME, ContainerRecord, MountPoint
    from builder.runner.liveness import Hold
    from builder.runner.logs import Entry, LogWriter, follow_log, last_entries, read_log
    from builder.runner.lookup import running
    from builder.runner.monitor import DetachedError, exec_detached, run_detached
    from builder.runner.networking import Endpoint, Networking, is_private
    from builder.runner.networks import PREDEFINED as PREDEFINED_NETWORKS
    from builder.runner.networks import (
        NetworkRecord,
        NetworkRequest,
        NetworkStore,
        default_subnets,
    )
    from builder.runner.options import (
        RunOptions,
        from_caller,
        parse_env_file,
        parse_mount,
        parse_tmpfs,
        parse_volume,
        signal_name,
        signal_number,
    )
    from builder.runner.profile import NO_PROFILE, Profile
    from builder.runner.start import create, run
    from builder.runner.store import ContainerStore
    from builder.runner.verbs import (
        ExecOptions,
        disk_usage,
        execute,
        is_paused,
        kill,
        pause,
        remove,
        restored,
        stop,
        unpause,
        wait,
    )
    from builder.runner.volumes import names as volume_names
    from builder.runner.volumes import remove as remove_volume

_HOMES = {
    "ContainerRecord": "container",
    "ContainerStore": "store",
    "DetachedError": "monitor",
    "Endpoint": "networking",
    "Entry": "logs",
    "ExecOptions": "verbs",
    "Hold": "liveness",
    "LogWriter": "logs",
    "MountPoint": "container",
    "NO_PROFILE": "profile",
    "NetworkRecord": "networks",
    "NetworkRequest": "networks",
    "NetworkStore": "networks",
    "Networking": "networking",
    "OWN_RUNTIME": "container",
    "PREDEFINED_NETWORKS": "networks:PREDEFINED",
    "Profile": "profile",
    "RunOptions": "options",
    "Streams": "attend",
    "create": "start",
    "default_subnets": "networks",
    "disk_usage": "verbs",
    "exec_detached": "monitor",
    "execute": "verbs",
    "follow_log": "logs",
    "from_caller": "options",
    "is_private": "networking",
    "is_paused": "verbs",
    "kill": "verbs",
    "last_entries": "logs",
    "pause": "verbs",
    "parse_env_file": "options",
    "pump_terminal": "attend",
    "parse_mount": "options",
    "parse_tmpfs": "options",
    "parse_volume": "options",
    "read_log": "logs",
    "remove": "verbs",
    "restored": "verbs",
    "remove_volume": "volumes:remove",
    "run": "start",
    "run_detached": "monitor",
    "running": "lookup",
    "signal_name": "options",
    "signal_number": "options",
    "stop": "verbs",
    "volume_names": "volumes:names",
    "unpause": "verbs",
    "wait": "verbs",
}

__all__ = [
    "NO_PROFILE",
    "OWN_RUNTIME",
    "PREDEFINED_NETWORKS",
    "ContainerRecord",
    "ContainerStore",
    "DetachedError",
    "Endpoint",
    "Entry",
    "ExecOptions",
    "Hold",
    "LogWriter",
    "MountPoint",
    "NetworkRecord",
    "NetworkRequest",
    "NetworkStore",
    "Networking",
    "Profile",
    "RunOptions",
    "Streams",
    "create",
    "default_subnets",
    "disk_usage",
    "exec_detached",
    "execute",
    "follow_log",
    "from_caller",
    "is_paused",
    "is_private",
    "kill",
    "last_entries",
    "parse_env_file",
    "parse_mount",
    "parse_tmpfs",
    "parse_volume",
    "pause",
    "pump_terminal",
    "read_log",
    "remove",
    "remove_volume",
    "restored",
    "run",
    "run_detached",
    "running",
    "signal_name",
    "signal_number",
    "stop",
    "unpause",
    "volume_names",
    "wait",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file, _, own_name = home.partition(":")
    module = __import__(f"{__name__}.{file}", fromlist=[name])  # importlib is not yet imported
    value: object = getattr(module, own_name or name)
    globals()[name] = value
    return value
