"""The options of `run` and `create` that say what a container may do: rights, namespaces, limits.

Source: docker/cli cli/command/container/opts.go (parseSecurityOpts, parseLinuxDevice, validators),
docker/cli opts ValidateSysctl, moby pkg/oci/caps NormalizeLegacyCapabilities.
"""

from pathlib import Path

from builder.cli import limits
from builder.cli.arguments import Arguments, Option, UsageError, flag, many, value
from builder.errors import UnsupportedFeatureError
from builder.runner import NO_PROFILE, Profile
from builder.sandbox import ALL_CAPABILITIES

_ALL = "ALL"
_CONTAINER = "container:"

OPTIONS: tuple[Option, ...] = (
    many("--cap-add", metavar="CAPABILITY|ALL", about="Add a capability"),
    many("--cap-drop", metavar="CAPABILITY|ALL", about="Take a capability away"),
    flag("--privileged", about="All capabilities and devices, no filter, nothing hidden"),
    many(
        "--security-opt",
        metavar="OPTION",
        about="seccomp=FILE|unconfined|builtin, no-new-privileges, systempaths=unconfined",
    ),
    many(
        "--device",
        metavar="HOST[:PATH][:rwm]",
        about="Give access to a device of the host, at PATH in the container",
    ),
    many("--group-add", metavar="GROUP", about="Another group of the program's user"),
    many("--sysctl", metavar="NAME=VALUE", about="A kernel setting of the container's namespaces"),
    limits.ULIMIT,
    *limits.GROUPS,
    limits.CPU_SHARES,
    value("--cpus", metavar="NUMBER", about="How many processors it may use: 2, or 0.5"),
    value(
        "--memory-reservation", metavar="BYTES", about="Memory left to it when the host runs short"
    ),
    value("--memory-swappiness", metavar="0-100", about="How readily its memory is swapped out"),
    value(
        "--oom-score-adj",
        metavar="-1000..1000",
        about="At 1000 the kernel kills it first, when out of memory",
    ),
    value(
        "--pid",
        metavar="host|container:NAME",
        about="Share the processes of the host or a container",
    ),
    value(
        "--ipc",
        metavar="MODE",
        about="Shared memory: private, shareable, none, host or container:NAME",
    ),
    value(
        "--uts",
        metavar="host|container:NAME",
        about="Share the host name of the host or a container",
    ),
    value("--userns", metavar="host", about="Accepted: there is none beside the caller's own"),
    value("--cgroupns", metavar="host|private", about="See all control groups, or only its own"),
)
_SYSCTLS = (
    *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall"),
    *("kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"),
)
_IPC_MODES = ("", "private", "shareable", "none", "host")


def profile_of(arguments: Arguments, *, memory_bytes: int) -> Profile:
    """What the options ask for.

    Raises:
        UsageError: an option makes no sense.
        UnsupportedFeatureError: it is docker's, and not carried out.
    """
    if not any(arguments.options[option.key] for option in OPTIONS):
        return NO_PROFILE
    period, quota = arguments.value("cpu-period"), arguments.value("cpu-quota")
    cpus = limits.nano_cpus(arguments.value("cpus"))
    for given, name in ((period, "CPU Period"), (quota, "CPU Quota")):
        if cpus and given is not None:
            raise UsageError(f"conflicting options: Nano CPUs and {name} cannot both be set")
    security = _Security(arguments.values("security-opt"))
    return Profile(
        cap_add=_capabilities("CapAdd", arguments.values("cap-add")),
        cap_drop=_capabilities("CapDrop", arguments.values("cap-drop")),
        privileged=arguments.flag("privileged"),
        security_opt=arguments.values("security-opt"),
        seccomp=security.seccomp,
        no_new_privileges=security.no_new_privileges,
        unconfined_paths=security.unconfined_paths,
        group_add=arguments.values("group-add"),
        ulimits=tuple((each.name, each.soft, each.hard) for each in limits.ulimits(arguments)),
        sysctls=tuple(dict(map(_sysctl, arguments.values("sysctl"))).items()),
        devices=tuple(map(_device, arguments.values("device"))),
        oom_score_adj=_oom_score_adj(arguments),
        userns=_userns(arguments),
        pid=_mode(arguments, "pid", "PID", ("", "host"), of_container=True),
        ipc=_mode(arguments, "ipc", "IPC", _IPC_MODES, of_container=True),
        uts=_mode(arguments, "uts", "UTS", ("", "host"), of_container=True),
        cgroupns=_mode(arguments, "cgroupns", "CGROUP", ("", "host", "private")),
        memory_reservation_bytes=limits.memory_reservation(
            arguments.value("memory-reservation"), memory_bytes
        ),
        memory_swappiness=limits.swappiness(arguments.value("memory-swappiness")),
        nano_cpus=cpus,
        **limits.groups_of(arguments.value, memory_bytes),
    )


def _capabilities(key: str, given: tuple[str, ...]) -> tuple[str, ...]:
    """`net_admin` -> CAP_NET_ADMIN; ALL stays."""
    found: dict[str, None] = {}
    for word in given:
        name = word.strip().upper()
        if name != _ALL:
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in ALL_CAPABILITIES:
                raise UsageError(
                    f'invalid {key}: unknown capability: "{name}"',
                    hint="see capabilities(7); with or without CAP_, in any case",
                )
        found[name] = None
    return tuple(sorted(found))


class _Security:
    """`--security-opt`, split; docker takes `:` for `=` still."""

    def __init__(self, given: tuple[str, ...]) -> None:
        self.seccomp = ""
        self.no_new_privileges = False
        self.unconfined_paths = False
        for text in given:
            at = min((at for at in map(text.find, "=:") if at >= 0), default=len(text))
            self._take(text, text[:at], text[at + 1 :] if at < len(text) else None)

    def _take(self, text: str, key: str, content: str | None) -> None:
        match key, content:
            case "no-new-privileges", None | "true":
                self.no_new_privileges = True
            case "no-new-privileges", "false":
                self.no_new_privileges = False
            case "seccomp", "unconfined":
                self.seccomp = "unconfined"
            case "seccomp", "builtin" | "default":
                self.seccomp = ""
            case "seccomp", str(name) if name:
                self.seccomp = _profile_text(name)
            case "systempaths", "unconfined":
                self.unconfined_paths = True
            case ("label", "disable") | ("apparmor", "unconfined"):
                pass  # neither SELinux nor AppArmor confines a container here
            case "label" | "apparmor" | "writable-cgroups" | "proc-opts" | "mask" | "unmask", str():
                raise UnsupportedFeatureError(
                    feature=f"--security-opt {text}",
                    hint="there are seccomp=FILE|unconfined, no-new-privileges[=false], "
                    "systempaths=unconfined, label=disable, apparmor=unconfined",
                )
            case _:
                raise UsageError(f"invalid --security-opt: {text!r}")


def _profile_text(name: str) -> str:
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"opening seccomp profile ({name}) failed: {reason}") from error


def _sysctl(text: str) -> tuple[str, str]:
    name, _, content = text.partition("=")
    # As sysctl(8): whichever of both separators comes first is the separator.
    if "/" in name and ("." not in name or name.index("/") < name.index(".")):
        name = name.translate({ord("/"): ".", ord("."): "/"})
    is_known = name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))
    parts = name.replace(".", "/").split("/")
    if not is_known or "=" not in text or "" in parts:
        raise UsageError(
            f"sysctl {text!r} is not allowed",
            hint="there are net.*, fs.mqueue.* and those of kernel.* that belong to IPC",
        )
    return name, content


def _device(text: str) -> tuple[str, str, str]:
    """SOURCE[:TARGET][:ACCESS]."""
    source, *rest = text.split(":")
    target, access = source, "rwm"
    if len(rest) > 2:
        raise limits.bad("device", text, "invalid device specification")
    if rest and (len(rest) == 2 or not _is_access(rest[0])):
        target = rest.pop(0) or source
    if rest:
        access = rest[0]
    if not _is_access(access):
        raise limits.bad("device", text, f"bad mode specified: {access}", "r, w and m")
    for path in (source, target):
        if not path.startswith("/") or ".." in path.split("/"):
            if "=" in text:
                raise UnsupportedFeatureError(feature=f"--device {text} (a CDI name)")
            raise limits.bad("device", text, f"{path} is not an absolute path")
    if not {"r", "w"} <= set(access):
        raise UnsupportedFeatureError(
            feature=f"--device with the access {access!r}",
            hint="a device is given to read and write it: rw or rwm",
        )
    return source, target, access


def _is_access(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def _oom_score_adj(arguments: Arguments) -> int | None:
    number = arguments.number("oom-score-adj", least=-(1 << 31))
    if number is not None and not -1000 <= number <= 1000:
        raise UsageError(f"invalid value {number}, range for oom score adj is [-1000, 1000]")
    return number


def _userns(arguments: Arguments) -> str:
    text = arguments.value("userns") or ""
    if text.startswith(("keep-id", "auto", "nomap", "private", "ns:", "container:")):  # podman's
        raise UnsupportedFeatureError(
            feature=f"--userns {text}",
            hint="an ordinary user is root in the container, and files of theirs belong to root",
        )
    return _mode(arguments, "userns", "USER", ("", "host"))


def _mode(
    arguments: Arguments,
    key: str,
    name: str,
    known: tuple[str, ...],
    *,
    of_container: bool = False,
) -> str:
    text = arguments.value(key) or ""
    if text in known or (of_container and text.startswith(_CONTAINER) and text != _CONTAINER):
        return text
    there_are = [mode for mode in known if mode]
    if of_container:
        there_are.append("container:NAME")
    raise UsageError(f"--{key}: invalid {name} mode {text!r}", hint=" or ".join(there_are))
