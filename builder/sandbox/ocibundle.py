"""A sandbox in the words of the OCI runtime-spec: the same walls, put up by crun, runc or another.

Pure. What was found out inside of the root comes as `Facts`; what the words of the specification
cannot say is an error that names it, and never left out.

Differs from our own sandbox, because runtimes are made like that:
  - The program is PID 1: it has to reap orphans, and signals that it does not handle are ignored.
  - Calls that are younger than the runtime's libseccomp get EPERM from some and ENOSYS from others.

Spec: OCI runtime-spec v1.0.2, config.md and config-linux.md: the oldest that has all of it, because
runtimes refuse what is younger than they are.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from builder.sandbox import capabilities, seccomp
from builder.sandbox.errors import SandboxError
from builder.sandbox.limits import Limits
from builder.sandbox.mounts import MASKED, READ_ONLY
from builder.sandbox.spec import Program, SandboxSpec, SeccompProfile
from builder.sandbox.users import Ids

VERSION = "1.0.2"
_SECCOMP_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_ABIS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}
_ENOSYS = 38
NETWORK_SYSCTLS = "net."
# What can be said; another field has to have its default value.
CARRIED: dict[type, frozenset[str]] = {
    SandboxSpec: frozenset(
        {
            *("root", "program", "mounts", "hostname", "network", "shm_size_bytes"),
            *("read_only_root", "limits", "hide_system_paths", "sysctls", "devices"),
        }
    ),
    Program: frozenset(
        {
            *("argv", "env", "cwd", "user", "terminal", "terminal_size", "no_new_privs"),
            *("capabilities", "seccomp", "resource_limits", "callers_umask", "extra_groups"),
            "oom_score_adj",
        }
    ),
    Limits: frozenset(field.name for field in fields(Limits)),
}
# The options of `run` that ask for the others.
_ASKED_BY = {
    "namespaces": "--pid, --ipc, --uts or --cgroupns",
    "unmasked": "--privileged",
    "domainname": "--domainname",
}


class Shown(NamedTuple):
    """A mount of the specification that stands ready: `source` is shown at `target`, in the root.

    `target` is a real path, without links. `device` is what can be opened by it: kind, major and
    minor number.
    """

    target: str
    source: Path
    read_only: bool = False
    is_recursive: bool = False
    options: tuple[str, ...] = ()
    device: tuple[str, int, int] | None = None


class Facts(NamedTuple):
    """What only the root and the machine can tell."""

    root: Path
    ids: Ids
    cgroups_path: str
    shown: tuple[Shown, ...] = ()
    throttled_cpus: tuple[str, ...] = ()
    machine: str = "x86_64"
    has_swap_limit: bool = False
    is_in_user_namespace: bool = False
    has_tty_group: bool = True
    may_set_groups: bool = True


def check(spec: SandboxSpec) -> None:
    """Refuse what cannot be carried out.

    Raises:
        SandboxError: the first field for which there are no words.
    """
    for part in (spec, spec.program, spec.limits):
        for field in fields(part):
            default = field.default_factory() if callable(field.default_factory) else field.default
            value = getattr(part, field.name)
            if field.name not in CARRIED[type(part)] and value != default:
                raise SandboxError(
                    phase="write config.json",
                    message=f"{_ASKED_BY.get(field.name, field.name)} is not carried out by "
                    "another runtime",
                    hint="leave --runtime away",
                )


def config(spec: SandboxSpec, facts: Facts) -> dict[str, Any]:
    """The document config.json."""
    check(spec)
    return {
        "ociVersion": VERSION,
        "process": _process(spec.program, facts),
        "root": {"path": str(facts.root), "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": [*_own_mounts(spec, facts), *map(_mount, facts.shown)],
        "linux": _linux(spec, facts),
    }


def _process(program: Program, facts: Facts) -> dict[str, Any]:
    ids = facts.ids
    # As docker: who is not root has no capability, but may get those of set-uid files.
    names = program.capabilities
    kept = sorted(capabilities.DEFAULT if names is None else names)
    active = kept if ids.uid == 0 else []
    env = list(program.env)
    if not any(pair.startswith("HOME=") for pair in env):
        env.append(f"HOME={ids.home}")
    process = {
        "terminal": program.terminal,
        "user": {
            "uid": ids.uid,
            "gid": ids.gid,
            # the primary group too, as docker has it: `id` lists it
            "additionalGids": list(dict.fromkeys((ids.gid, *ids.groups)))
            if facts.may_set_groups
            else [],
            "umask": 0o022,
        },
        "args": list(program.argv),
        "env": env,
        "cwd": program.cwd,
        "capabilities": {
            "bounding": kept,
            "effective": active,
            "permitted": active,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [
            {
                "type": f"RLIMIT_{limit.name.upper()}",
                "soft": limit.soft % (1 << 64),
                "hard": limit.hard % (1 << 64),
            }
            for limit in program.resource_limits
        ],
        "noNewPrivileges": program.no_new_privs,
    }
    if program.oom_score_adj is not None:
        process["oomScoreAdj"] = program.oom_score_adj
    if program.terminal and program.terminal_size is not None:
        rows, columns = program.terminal_size
        process["consoleSize"] = {"height": rows, "width": columns}
    return process


def _own_mounts(spec: SandboxSpec, facts: Facts) -> list[dict[str, Any]]:
    taken = {mount.target for mount in spec.mounts}
    kernel = ["nosuid", "noexec", "nodev"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    pts += ["gid=5"] if facts.has_tty_group else []
    shm = [*kernel, "mode=1777", f"size={spec.shm_size_bytes}"]
    views = _filesystem("sysfs", "/sys", [*kernel, "ro"])
    groups = _filesystem("cgroup", "/sys/fs/cgroup", [*kernel, "relatime", "ro"])
    if facts.is_in_user_namespace:
        if spec.network == "host":  # whose sysfs only its owner can mount
            views = _filesystem("bind", "/sys", ["rbind", *kernel, "ro"], source="/sys")
        groups = _filesystem("tmpfs", "/sys/fs/cgroup", [*kernel, "ro", "mode=755"])
    own = [
        _filesystem("proc", "/proc", kernel),
        _filesystem("tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _filesystem("devpts", "/dev/pts", pts),
        *([_filesystem("tmpfs", "/dev/shm", shm, source="shm")] if spec.shm_size_bytes else []),
        _filesystem("mqueue", "/dev/mqueue", kernel),
        views,
        groups,
    ]
    return [mount for mount in own if mount["destination"] not in taken]


def _filesystem(kind: str, target: str, options: list[str], *, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": options}


def _mount(shown: Shown) -> dict[str, Any]:
    access = "ro" if shown.read_only else "rw"
    bind = "rbind" if shown.is_recursive else "bind"
    nodev = [] if shown.device else ["nodev"]
    options = [bind, "rprivate", *nodev, access, *shown.options]
    return _filesystem("bind", shown.target, options, source=str(shown.source))


def _linux(spec: SandboxSpec, facts: Facts) -> dict[str, Any]:
    # The network is that of who calls the runtime, and has been made by then.
    namespaces = ["mount", "pid", "ipc", "uts", "cgroup"]
    throttles = [f"/sys/devices/system/cpu/{cpu}/thermal_throttle" for cpu in facts.throttled_cpus]
    found: dict[str, Any] = {
        "namespaces": [{"type": name} for name in namespaces],
        "rootfsPropagation": "private",
        "maskedPaths": [*MASKED, *throttles] if spec.hide_system_paths else [],
        "readonlyPaths": list(READ_ONLY) if spec.hide_system_paths else [],
        # Those of the network have been set by then: a runtime sets them in networks it makes.
        "sysctl": {
            name: value for name, value in spec.sysctls if not name.startswith(NETWORK_SYSCTLS)
        },
    }
    if not facts.is_in_user_namespace:  # where there are no groups, and no device can be opened
        found["cgroupsPath"] = facts.cgroups_path
        found["resources"] = _resources(spec.limits, facts)
    match spec.program.seccomp:
        case SeccompProfile() as profile:
            found["seccomp"] = _profile(profile)
        case "default":
            found["seccomp"] = _seccomp(spec.program, facts.machine)
        case "unconfined":
            pass  # where none is named, a runtime loads none
    return found


def _resources(limits: Limits, facts: Facts) -> dict[str, Any]:
    """No device but those that were asked for, and those that runtimes always make.

    Making nodes is harmless without opening.
    """
    found: dict[str, Any] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "access": "m"},
            {"allow": True, "type": "b", "access": "m"},
            *(_allowed(*shown.device) for shown in facts.shown if shown.device),
        ]
    }
    if limits.pids_max is not None:
        found["pids"] = {"limit": limits.pids_max}
    swap_bytes = limits.memory_swap_bytes
    if swap_bytes is None and limits.memory_bytes is not None and facts.has_swap_limit:
        swap_bytes = 2 * limits.memory_bytes  # as much again, as in docker
    groups: dict[str, dict[str, int | str | None]] = {
        "memory": {
            "limit": limits.memory_bytes,
            "swap": swap_bytes,
            "reservation": limits.memory_reservation_bytes,
            "swappiness": limits.memory_swappiness,
        },
        "cpu": {
            "quota": limits.cpu_quota_us,
            "period": limits.cpu_period_us,
            "shares": limits.cpu_shares,
            "cpus": limits.cpuset_cpus,
            "mems": limits.cpuset_mems,
        },
    }
    for name, group in groups.items():
        given = {key: value for key, value in group.items() if value is not None}
        if given:
            found[name] = given
    return found


def _allowed(kind: str, major: int, minor: int) -> dict[str, Any]:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": "rw"}


def _profile(profile: SeccompProfile) -> dict[str, Any]:
    """A profile of the user's, whose words are those of the specification already."""
    found: dict[str, Any] = {
        "defaultAction": profile.default_action,
        "architectures": list(profile.architectures),
        "syscalls": [
            {
                "names": list(rule.names),
                "action": rule.action,
                **({} if rule.errno is None else {"errnoRet": rule.errno}),
                "args": [
                    {
                        "index": each.position,
                        "value": each.value,
                        "valueTwo": each.value_two,
                        "op": each.operator,
                    }
                    for each in rule.arguments
                ],
            }
            for rule in profile.rules
        ],
    }
    if profile.default_errno is not None:
        found["defaultErrnoRet"] = profile.default_errno
    if profile.flags is not None:
        found["flags"] = list(profile.flags)
    return found


def _seccomp(program: Program, machine: str) -> dict[str, Any]:
    """Our filter, as rules by name."""
    mask = capabilities.mask(program.capabilities)
    answers = [seccomp.answers(mask, abi) for abi in _ABIS[machine]]
    allowed = {name for table in answers for name, word in table.items() if word == "allow"}
    missing = {name for table in answers for name, word in table.items() if word == "enosys"}
    checked = {name for table in answers for name, word in table.items() if word == "check"}
    rules: list[dict[str, Any]] = [
        {"names": sorted(allowed - missing - checked), "action": "SCMP_ACT_ALLOW"},
        {"names": sorted(missing), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]
    for name in sorted(checked):
        rules += [
            {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}
            for argument in _CONDITIONS[name]
        ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": _SECCOMP_ARCHITECTURES[machine],
        "syscalls": [rule for rule in rules if rule["names"]],
    }


def _equal(value: int) -> dict[str, Any]:
    return {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}


# One of them has to hold.
_CONDITIONS: dict[str, list[dict[str, Any]]] = {
    "clone": [
        {
            "index": 0,
            "value": seccomp.CLONE_NAMESPACES,
            "valueTwo": 0,
            "op": "SCMP_CMP_MASKED_EQ",
        }
    ],
    "personality": [_equal(value) for value in seccomp.PERSONALITIES],
    "socket": [_equal(value) for value in seccomp.SOCKET_DOMAINS],
}
