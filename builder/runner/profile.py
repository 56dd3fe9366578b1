"""The rights, namespaces and limits of a container: what was asked for, and what the sandbox gets.

    --cap-add, --security-opt, --ulimit ... --cli--> Profile --record--> SandboxSpec

A `Profile` is what the user said, in the words and with the defaults of docker's inspect; what it
means is settled when the container is started, on the machine and by the rights of that moment.

Source: moby daemon/oci_linux.go, daemon/pkg/oci/caps (utils.go), oci/devices_linux.go.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from builder.errors import ContainerError

if TYPE_CHECKING:
    from builder.sandbox import SandboxSpec

ALL = "ALL"
UNCONFINED = "unconfined"
CONTAINER = "container:"
_NANO = 1_000_000_000
_PERIOD_US = 100_000
_DEV = "/dev"
# Of /dev, what is made for each container, or is no device; moby pkg/devices.
_NO_HOST_DEVICES = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev")
_NO_HOST_NODES = ("console", "ptmx")
# What docker sets in every network namespace of its own: nobody needs a right for ports and ping.
_NETWORK_SYSCTLS = (
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
)


class Profile(NamedTuple):
    """What was asked for; the defaults stand for nothing.

    `pid`, `ipc`, `uts`: empty, "host", "container:ID", for `ipc` also "none", "private" and
    "shareable". `devices` are (source, target, access), `ulimits` (name, soft, hard).
    """

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    security_opt: tuple[str, ...] = ()  # as given; what follows is what it means
    seccomp: str = ""  # "unconfined", or the text of a profile
    no_new_privileges: bool = False
    unconfined_paths: bool = False
    group_add: tuple[str, ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    devices: tuple[tuple[str, str, str], ...] = ()
    oom_score_adj: int | None = None
    userns: str = ""
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    cgroupns: str = ""
    memory_swap_bytes: int = 0  # 0: not asked for, -1: no limit
    memory_reservation_bytes: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""

    @property
    def shared(self) -> tuple[str, ...]:
        """The containers whose namespaces it shares, as they are called."""
        modes = (self.pid, self.ipc, self.uts)
        return tuple(mode.removeprefix(CONTAINER) for mode in modes if mode.startswith(CONTAINER))


NO_PROFILE = Profile()


def program_fields(profile: Profile, *, privileged: bool = False) -> dict[str, Any]:
    """The fields of `Program` that a profile has a say in.

    Args:
        profile: of the container.
        privileged: of `exec`: this program has all rights, whatever the container has. Differs:
            Docker leaves it behind the filter of the container, which allows little of them.

    Raises:
        SandboxError: the seccomp profile is none.
    """
    if profile == NO_PROFILE and not privileged:
        return {}
    from builder.sandbox import ResourceLimit

    rights = _capabilities(profile)
    return {
        "capabilities": _capabilities(Profile(privileged=True)) if privileged else rights,
        "seccomp": "unconfined" if privileged else _seccomp(profile, rights),
        "no_new_privs": profile.no_new_privileges,
        "resource_limits": tuple(
            ResourceLimit(name=name, soft=soft, hard=hard) for name, soft, hard in profile.ulimits
        ),
        "extra_groups": profile.group_add,
        "oom_score_adj": profile.oom_score_adj,
    }


def sandbox_fields(profile: Profile, *, has_own_network: bool) -> dict[str, Any]:
    """The fields of `SandboxSpec` that a profile has a say in, but for its limits.

    Raises:
        ContainerError: a device is not there.
    """
    sysctls = _network_sysctls() if has_own_network else ()
    if profile == NO_PROFILE:
        return {"sysctls": sysctls}
    from builder.sandbox import Device

    asked_for = dict(profile.sysctls)
    devices = _host_devices(_DEV) if profile.privileged else {}
    for source, target, _ in profile.devices:
        devices |= _devices(source, target)
    return {
        "unmasked": profile.privileged,
        "hide_system_paths": not (profile.privileged or profile.unconfined_paths),
        "devices": tuple(
            Device(source=Path(source), target=target) for target, source in devices.items()
        ),
        "sysctls": tuple((dict(sysctls) | asked_for).items()),
    }


def namespaces_fields(profile: Profile, pid_of: Callable[[str], int]) -> dict[str, Any]:
    """The fields of `Namespaces`; `pid_of` gives PID 1 of a container that runs."""

    def mode(text: str) -> Literal["private", "host"] | int:
        if text.startswith(CONTAINER):
            return pid_of(text.removeprefix(CONTAINER))
        return "host" if text == "host" else "private"

    return {
        "pid": mode(profile.pid),
        "ipc": mode(profile.ipc),
        "uts": mode(profile.uts),
        "cgroup": "host" if profile.cgroupns == "host" else "private",
    }


def check_sysctls(sysctls: tuple[tuple[str, str], ...], spec: "SandboxSpec") -> None:
    """What is set must be a namespace's of the container, not the host's.

    Args:
        sysctls: what was asked for.
        spec: names the namespaces the container will be in.

    Raises:
        ContainerError: a setting is of a namespace that the container shares with the host.
    """
    network, ipc = spec.network, spec.namespaces.ipc
    on_host = {
        "network": network == "host" or (isinstance(network, Path) and _is_ours("net", network)),
        "IPC": ipc == "host" or (isinstance(ipc, int) and _is_ours("ipc", f"/proc/{ipc}/ns/ipc")),
    }
    for name, _ in sysctls:
        namespace = "network" if name.startswith("net.") else "IPC"
        if on_host[namespace]:
            raise ContainerError(
                f"sysctl {name!r} is not allowed in the host's {namespace} namespace",
                hint="set it on the host, or give the container a namespace of its own",
            )


def _is_ours(kind: str, namespace: str | Path) -> bool:
    try:
        return Path(f"/proc/self/ns/{kind}").samefile(namespace)
    except OSError:
        return False  # gone: joining it will fail


def limits_fields(profile: Profile) -> dict[str, Any]:
    """The fields of `Limits` that a profile has."""
    quota_us, period_us = profile.cpu_quota_us, profile.cpu_period_us
    if profile.nano_cpus:
        quota_us, period_us = profile.nano_cpus * _PERIOD_US // _NANO, _PERIOD_US
    return {
        "memory_swap_bytes": profile.memory_swap_bytes or None,
        "memory_reservation_bytes": profile.memory_reservation_bytes or None,
        "memory_swappiness": profile.memory_swappiness,
        "cpu_quota_us": quota_us or None,
        "cpu_period_us": period_us or None,
        "cpu_shares": profile.cpu_shares or None,
        "cpuset_cpus": profile.cpuset_cpus or None,
        "cpuset_mems": profile.cpuset_mems or None,
    }


def _capabilities(profile: Profile) -> frozenset[str]:
    """Docker's rules: ALL dropped leaves what is added, ALL added what is not dropped."""
    from builder.sandbox import ALL_CAPABILITIES, DEFAULT_CAPABILITIES

    added, dropped = frozenset(profile.cap_add), frozenset(profile.cap_drop)
    if profile.privileged:
        return ALL_CAPABILITIES
    if ALL in added:
        return ALL_CAPABILITIES - dropped
    if ALL in dropped:
        return added
    return DEFAULT_CAPABILITIES - dropped | added


def _seccomp(profile: Profile, rights: frozenset[str]) -> Any:
    if profile.seccomp == UNCONFINED or (profile.privileged and not profile.seccomp):
        return "unconfined"
    if not profile.seccomp:
        return "default"
    from builder.sandbox import parse_seccomp_profile

    host = os.uname()
    return parse_seccomp_profile(
        profile.seccomp, capabilities=rights, machine=host.machine, kernel=_version(host.release)
    )


def _version(release: str) -> tuple[int, int]:
    """`6.18.44-fc` -> (6, 18)."""
    major, _, rest = release.partition(".")
    minor = "".join(char if char.isdigit() else " " for char in rest).split() or ["0"]
    return int(major) if major.isdigit() else 0, int(minor[0])


def _network_sysctls() -> tuple[tuple[str, str], ...]:
    from builder.sandbox import in_user_namespace

    # A range of groups needs all of them, and a user namespace rarely has these.
    return _NETWORK_SYSCTLS[:1] if in_user_namespace() else _NETWORK_SYSCTLS


def _devices(source: str, target: str) -> dict[str, str]:
    """The device, or those of a directory: target -> source."""
    try:
        mode = Path(source).stat().st_mode
    except OSError as error:
        raise ContainerError(
            f"error gathering device information while adding custom device {source!r}: "
            f"{(error.strerror or '').lower()}"
        ) from error
    if stat.S_ISDIR(mode):
        found = _host_devices(source)
        return {target + name.removeprefix(source): path for name, path in found.items()}
    if not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode):
        raise ContainerError(
            f"error gathering device information while adding custom device {source!r}: "
            "not a device node"
        )
    return {target: source}


def _host_devices(directory: str) -> dict[str, str]:
    """All device files below a directory of the host, each under its own name."""
    found: dict[str, str] = {}
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NO_HOST_DEVICES:
                    found |= _host_devices(entry.path)
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
            if is_device and entry.name not in _NO_HOST_NODES:
                found[entry.path] = entry.path
    return found
