"""What this host allows, tried out, and the sentence that explains each "no".

Each feature is tried in a process of its own, as the user who asks; nothing is left behind.
The module is not called `probe`: a module of that name would hide the function from whoever
imports it from the room.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.sandbox import capabilities, cgroups, idmap, namespaces, seccomp, syscalls
from builder.sandbox.errors import SandboxError
from builder.sandbox.limits import Limits

_MACHINES = ("x86_64", "aarch64")
_NFT_GET_GENERATION = 10 << 8 | 16  # linux/netfilter/nf_tables.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """`reason` is a sentence; always there for a "no", sometimes for a "yes"."""

    name: str
    is_available: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    features: tuple[Feature, ...]


def probe() -> HostReport:
    """Look at this host. Takes some tens of milliseconds."""
    return HostReport(
        features=(
            _machine(),
            _try("namespaces", _make_namespaces, "every sandbox needs them; run as root"),
            _try("network namespaces", _make_network, "only host networking is possible"),
            _private_networks(),
            _user_namespaces(),
            _subordinate_ids(),
            _recorded_owners(),
            _try("overlayfs", _mount_overlay, "the kernel module `overlay` is missing or denied"),
            _try("seccomp", _load_filter, "the kernel was built without CONFIG_SECCOMP_FILTER"),
            _try(
                "openat2",
                _call_openat2,
                "names are resolved component by component, which is slower",
            ),
            _limit("pids limit", Limits(pids_max=1000)),
            _limit("memory limit", Limits(memory_bytes=1 << 30)),
        )
    )


def _machine() -> Feature:
    machine = syscalls.MACHINE
    if machine in _MACHINES:
        return Feature(name="machine", is_available=True, reason=machine)
    reason = f"{machine} is not one of {', '.join(_MACHINES)}"
    return Feature(name="machine", is_available=False, reason=reason)


def _try(name: str, play: Callable[[], None], why: str) -> Feature:
    errno = namespaces.attempt(play)
    if errno == 0:
        return Feature(name=name, is_available=True)
    problem = "it crashed" if errno == 255 else os.strerror(errno).lower()
    return Feature(name=name, is_available=False, reason=f"{problem}: {why}")


def _become_root() -> None:
    if os.geteuid() != 0:
        try:
            namespaces.enter_user_namespace()
        except SandboxError as error:
            raise OSError(error.errno, str(error)) from error


def _make_namespaces() -> None:
    _become_root()
    syscalls.unshare(
        syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWPID
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWCGROUP
    )


def _make_network() -> None:
    _become_root()
    syscalls.unshare(syscalls.CLONE_NEWNET)


def _private_networks() -> Feature:
    """A bridge and rules for root; for others a program, and what that needs."""
    name, without = "private networks", "there are none and host alone"
    if os.geteuid() == 0 and not idmap.in_user_namespace():
        return _try(name, _make_bridge, without)
    found = idmap.find_program("pasta") or idmap.find_program("slirp4netns")
    if found is None:
        reason = f"neither pasta (package passt) nor slirp4netns is installed: {without}"
        return Feature(name=name, is_available=False, reason=reason)
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        reason = f"{found} needs /dev/net/tun, which this user cannot open: {without}"
        return Feature(name=name, is_available=False, reason=reason)
    return Feature(name=name, is_available=True, reason=f"by {found}")


def _make_bridge() -> None:
    from builder.sandbox import netlink

    syscalls.unshare(syscalls.CLONE_NEWNET)
    with netlink.Channel() as channel:
        channel.request(netlink.new_bridge("probe0", "02:00:00:00:00:01", 1500))
    with netlink.Channel(netlink.NETFILTER) as channel:
        channel.ask(netlink.Message(_NFT_GET_GENERATION, bytes(4)))


def _mount_overlay() -> None:
    is_root = os.geteuid() == 0
    _become_root()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount(b"tmpfs", b"/tmp", b"tmpfs", 0)
    os.chdir("/tmp")
    for name in ("lower", "upper", "work", "merged"):
        Path(name).mkdir()
    options = b"lowerdir=lower,upperdir=upper,workdir=work"
    if not is_root or idmap.in_user_namespace():
        options += b",userxattr"
    syscalls.mount(b"overlay", b"merged", b"overlay", 0, options)


def _load_filter() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.load_seccomp(seccomp.program(capabilities.mask(None)))


def _call_openat2() -> None:
    os.close(syscalls.openat2(syscalls.AT_FDCWD, b".", os.O_PATH, syscalls.RESOLVE_NO_MAGICLINKS))


def _user_namespaces() -> Feature:
    name = "user namespaces"
    errno = namespaces.attempt(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER))
    if errno:
        return Feature(name=name, is_available=False, reason=_why_no_user_namespaces(errno))
    closed = _closed_to_users()
    if closed and os.geteuid() == 0:
        return Feature(name=name, is_available=True, reason=f"for root only: {closed}")
    return Feature(name=name, is_available=True)


def _why_no_user_namespaces(errno: int) -> str:
    return _closed_to_users() or f"{os.strerror(errno).lower()}: a filter around us may forbid it"


def _closed_to_users() -> str:
    for path, closing, why in (
        ("kernel/unprivileged_userns_clone", "0", "set it to 1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "set it to 0, or add a profile"),
        ("user/max_user_namespaces", "0", "raise it"),
    ):
        try:
            with open(f"/proc/sys/{path}") as file:
                value = file.read().strip()
        except OSError:  # not a setting of this kernel
            continue
        if value == closing:
            return f"/proc/sys/{path} is {value}: {why}"
    return ""


def _subordinate_ids() -> Feature:
    name = "subordinate ids"
    if os.geteuid() == 0:
        return Feature(name=name, is_available=True, reason="root needs none")
    if not idmap.own_maps().is_single:
        return Feature(name=name, is_available=True)
    if idmap.find_program("newuidmap") is None or idmap.find_program("newgidmap") is None:
        reason = "newuidmap is not installed (package uidmap): only root exists in a sandbox"
    else:
        reason = "/etc/subuid and /etc/subgid have no line for you: only root exists in a sandbox"
    return Feature(name=name, is_available=False, reason=reason)


def _recorded_owners() -> Feature:
    name = "recorded owners"
    if os.geteuid() == 0 or not idmap.own_maps().is_single:
        return Feature(name=name, is_available=True, reason="not needed: other owners exist")
    from builder.sandbox import recorder

    if not recorder.is_offered():
        reason = "Linux 5.14 is needed: files of other owners than root cannot be made"
        return Feature(name=name, is_available=False, reason=reason)
    return _try(name, _load_listener, "a filter around us may forbid it, or have one of its own")


def _load_listener() -> None:
    from builder.sandbox import notification

    _become_root()
    syscalls.load_seccomp_listener(notification.program())


def _limit(name: str, limits: Limits) -> Feature:
    try:
        group = cgroups.make_group(limits)
    except SandboxError as error:
        return Feature(name=name, is_available=False, reason=str(error))
    if group:
        group.remove()
    return Feature(name=name, is_available=True)
