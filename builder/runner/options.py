"""What the user asks of a container, and how that goes together with what the image says. Pure.

Source: docker/cli cli/command/container/opts.go, moby daemon/commit.go `merge`,
container/container_unix.go and daemon/container_operations for the environment.
"""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from builder.errors import ContainerError
from builder.network import Publication, parse_exposed
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.networking import DEFAULT, Networking
from builder.runner.profile import NO_PROFILE, Profile
from builder.runner.runnable import RunnableImage
from builder.sandbox import DEFAULT_PATH
from builder.sizes import parse_size

STOP_TIMEOUT_S = 10
_SIGTERM = 15
SHM_BYTES = 64 << 20


class RunOptions(NamedTuple):
    """The options of `run` and `create`; empty or None means that the image decides."""

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()  # NAME=value, the last of a name counts
    cwd: str = ""
    user: str = ""
    name: str | None = None
    hostname: str = ""
    network: str = DEFAULT
    networking: Networking = Networking()
    mounts: tuple[MountPoint, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    terminal: bool = False
    interactive: bool = False
    auto_remove: bool = False
    stop_signal: str = ""
    stop_timeout_s: int = STOP_TIMEOUT_S
    read_only: bool = False
    shm_size_bytes: int = SHM_BYTES
    pids_max: int = 0
    memory_bytes: int = 0
    runtime: str = ""
    profile: Profile = NO_PROFILE


def record_of(
    image: RunnableImage, options: RunOptions, *, container_id: str, name: str, now: float
) -> ContainerRecord:
    """The record of a new container.

    Raises:
        ContainerError: there is nothing to execute, or an option makes no sense.
    """
    entrypoint, command = _program(image, options)
    if not entrypoint and not command:
        raise ContainerError(
            "no command specified", hint="the image has no CMD: name one behind the image"
        )
    cwd = options.cwd or image.working_dir or "/"
    if not cwd.startswith("/"):
        raise ContainerError(
            f"the working directory {cwd!r} is invalid", hint="it needs to be an absolute path"
        )
    if options.hostname and options.profile.uts:
        raise ContainerError(
            "conflicting options: hostname and the UTS mode",
            hint="who shares a host name cannot set it",
        )
    has_hosts_name = options.network == "host" or options.profile.uts == "host"
    hostname = options.hostname or _hostname(container_id, is_hosts=has_hosts_name)
    mounts = _all_mounts(image, options)
    return ContainerRecord(
        id=container_id,
        name=name,
        image=image.name,
        image_id=image.image_id,
        manifest_digest=image.manifest_digest,
        layers=image.layers,
        directories=image.directories,
        created=now,
        argv=(*entrypoint, *command),
        env=environment(image.env, options.env, hostname=hostname, terminal=options.terminal),
        cwd=cwd,
        user=options.user or image.user,
        entrypoint_length=len(entrypoint),
        terminal=options.terminal,
        interactive=options.interactive,
        hostname=hostname,
        network=options.network,
        networking=options.networking._replace(
            exposed=_exposed(
                (*image.exposed, *options.networking.exposed), options.networking.ports
            )
        ),
        mounts=mounts,
        labels=tuple(sorted({**dict(image.labels), **dict(options.labels)}.items())),
        auto_remove=options.auto_remove,
        stop_signal=_stop_signal(options.stop_signal or image.stop_signal),
        stop_timeout_s=options.stop_timeout_s,
        read_only=options.read_only,
        shm_size_bytes=options.shm_size_bytes,
        pids_max=options.pids_max,
        memory_bytes=options.memory_bytes,
        runtime=options.runtime,
        profile=options.profile,
    )


def _exposed(written: Iterable[str], ports: Iterable[Publication]) -> tuple[str, ...]:
    """What is exposed: by the image, by --expose, and what is published."""
    found = {port: None for each in written for port in parse_exposed(each)}
    return tuple(found | {port.port: None for port in ports})


def _program(image: RunnableImage, options: RunOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The entrypoint and what follows it; a new entrypoint makes the image's CMD meaningless."""
    if options.entrypoint is not None:
        return (options.entrypoint,) if options.entrypoint else (), options.command
    return image.entrypoint, options.command or image.command


def _all_mounts(image: RunnableImage, options: RunOptions) -> tuple[MountPoint, ...]:
    """The user's mounts, and an anonymous volume for each VOLUME of the image without one."""
    taken: set[str] = set()
    for mount in options.mounts:
        if mount.target in taken:
            raise ContainerError(f"duplicate mount point: {mount.target}")
        taken.add(mount.target)
    targets = [check_target("/" + target.lstrip("/"), target) for target in image.volumes]
    return (
        *options.mounts,
        *(
            MountPoint(kind="volume", target=target, anonymous=True)
            for target in dict.fromkeys(targets)
            if target not in taken
        ),
    )


def environment(
    image_env: Iterable[str], own: Iterable[str], *, hostname: str, terminal: bool
) -> tuple[str, ...]:
    """What the program sees: defaults, then the image's, then the user's, in docker's order.

    HOME is missing: it is the sandbox's to add, because it stands in the image's /etc/passwd.
    """
    found = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if terminal:
        found["TERM"] = "xterm"
    for item in (*image_env, *own):
        name, equals, value = item.partition("=")
        if equals:
            found[name] = value
        else:  # a name alone takes a variable away
            found.pop(name, None)
    return tuple(f"{name}={value}" for name, value in found.items())


def from_caller(items: Iterable[str], caller: Mapping[str, str]) -> tuple[str, ...]:
    """`-e NAME` without a value takes the caller's; where the caller has none, it unsets.

    Raises:
        ContainerError: a name is empty.
    """
    found = []
    for item in items:
        name, equals, _ = item.partition("=")
        if not name:
            raise ContainerError(f"invalid environment variable: {item!r}")
        if not equals and name in caller:
            item = f"{name}={caller[name]}"
        found.append(item)
    return tuple(found)


def parse_env_file(text: str, *, name: str) -> tuple[str, ...]:
    """The lines of an `--env-file`: NAME=value or NAME, `#` for comments, nothing is unquoted.

    Raises:
        ContainerError: a line has no name, or white space in it.
    """
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.lstrip()
        if not line or line.startswith("#"):
            continue
        variable = line.partition("=")[0]
        if not variable or any(char.isspace() for char in variable):
            raise ContainerError(
                f"{name}:{number}: {variable!r} is no name of an environment variable"
            )
        found.append(line)
    return tuple(found)


def parse_volume(text: str) -> MountPoint:
    """`-v [SOURCE:]TARGET[:OPTIONS]`; a source with a slash or a leading dot is a host path.

    Raises:
        ContainerError: it makes no sense.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise ContainerError(
            f"invalid volume {text!r}", hint="[SOURCE:]TARGET[:ro], TARGET an absolute path"
        )
    flags: set[str] = set()
    last = set(parts[-1].split(","))
    if len(parts) == 3 or (len(parts) == 2 and last <= _VOLUME_FLAGS):
        flags = last
        parts.pop()
    unknown = flags - _VOLUME_FLAGS
    if unknown:
        raise ContainerError(
            f"invalid volume {text!r}: unknown option {sorted(unknown)[0]!r}",
            hint="there are ro, rw and nocopy",
        )
    if len(parts) > 2:
        raise ContainerError(f"invalid volume {text!r}", hint="[SOURCE:]TARGET[:ro]")
    source, target = parts if len(parts) == 2 else ("", parts[0])
    return _mount(source, target, read_only="ro" in flags, copy_up="nocopy" not in flags, text=text)


# z and Z relabel for SELinux, cached and delegated are macOS's: without meaning here
_VOLUME_FLAGS = {"ro", "rw", "nocopy", "z", "Z", "cached", "delegated", "consistent", "rprivate"}


def _mount(source: str, target: str, *, read_only: bool, copy_up: bool, text: str) -> MountPoint:
    target = check_target(target, text)
    if source.startswith(("/", "./", "../")) or source in (".", ".."):
        path = os.path.abspath(source)  # noqa: PTH100 - links stay, `..` goes
        return MountPoint(kind="bind", target=target, source=path, read_only=read_only)
    return MountPoint(
        kind="volume",
        target=target,
        source=source,
        read_only=read_only,
        anonymous=not source,
        copy_up=copy_up,
    )


def check_target(target: str, text: str) -> str:
    """The place in the container, cleaned.

    Raises:
        ContainerError: it is not absolute, or the root itself.
    """
    if not target.startswith("/"):
        raise ContainerError(
            f"invalid mount {text!r}: {target!r} is no absolute path",
            hint="[SOURCE:]TARGET[:ro], TARGET an absolute path in the container",
        )
    clean = os.path.normpath("/" + target.lstrip("/"))
    if clean == "/":
        raise ContainerError(f"invalid mount {text!r}: the target cannot be the root")
    return clean


def parse_mount(text: str) -> MountPoint:
    """`--mount type=bind|volume|tmpfs,source=...,target=...[,readonly]`.

    Raises:
        ContainerError: it makes no sense.
    """
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = _MOUNT_KEYS.get(key.strip().lower(), "")
        if not key:
            raise ContainerError(f"invalid mount {text!r}: unknown option {part!r}")
        fields[key] = value if equals else "true"
    kind = fields.get("type", "volume")
    read_only = fields.get("readonly", "false").lower() in ("true", "1")
    target = check_target(fields.get("target", ""), text)
    source = fields.get("source", "")
    if kind == "bind":
        if not source:
            raise ContainerError(f"invalid mount {text!r}: source is missing")
        path = os.path.abspath(source)  # noqa: PTH100
        if not os.path.lexists(path):
            raise ContainerError(f"invalid mount {text!r}: {path!r} does not exist")
        return MountPoint(kind="bind", target=target, source=path, read_only=read_only)
    if kind == "volume":
        copy_up = fields.get("volume-nocopy", "false") not in ("true", "1")
        if "/" in source:
            raise ContainerError(f"invalid mount {text!r}: {source!r} is no name of a volume")
        return _mount(source, target, read_only=read_only, copy_up=copy_up, text=text)
    if kind == "tmpfs":
        wanted = {
            key.removeprefix("tmpfs-"): content
            for key, content in fields.items()
            if key.startswith("tmpfs-")
        }
        return _tmpfs(target, wanted | ({"ro": ""} if read_only else {}), text)
    raise ContainerError(
        f"invalid mount {text!r}: unknown type {kind!r}", hint="there are bind, volume and tmpfs"
    )


_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "volume-nocopy": "volume-nocopy",
    "tmpfs-size": "tmpfs-size",
    "tmpfs-mode": "tmpfs-mode",
}


def parse_tmpfs(text: str) -> MountPoint:
    """`--tmpfs TARGET[:size=64m,mode=1777,uid=0,gid=0,ro,exec]`; noexec without a word, as docker.

    Raises:
        ContainerError: it makes no sense.
    """
    target, _, options = text.partition(":")
    fields = dict(item.partition("=")[::2] for item in options.split(",") if item)
    for word in fields:
        if word in ("suid", "dev"):
            raise ContainerError(f"invalid tmpfs {text!r}: it is nosuid and nodev here")
        if word not in _TMPFS_OPTIONS:
            raise ContainerError(f"invalid tmpfs {text!r}: unknown option {word!r}")
    return _tmpfs(check_target(target, text), fields, text)


_TMPFS_OPTIONS = {
    *("size", "mode", "uid", "gid"),
    *("ro", "rw", "exec", "noexec", "nosuid", "nodev"),
}
_ID_MAX = (1 << 31) - 1


def _tmpfs(target: str, fields: Mapping[str, str], text: str) -> MountPoint:
    try:
        return MountPoint(
            kind="tmpfs",
            target=target,
            size_bytes=parse_size(fields.get("size", "0")),
            mode=int(fields.get("mode", "1777"), 8) & 0o7777,
            read_only="ro" in fields,
            no_exec="exec" not in fields,
            uid=_id(fields.get("uid", "0")),
            gid=_id(fields.get("gid", "0")),
        )
    except ValueError:
        raise ContainerError(
            f"invalid tmpfs {text!r}", hint="size=64m, an octal mode=1777, uid=0, gid=0"
        ) from None


def _id(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _ID_MAX:
        raise ValueError(f"{text} is no id")
    return number


def _stop_signal(word: str) -> int:
    return signal_number(word) if word else _SIGTERM


def signal_number(word: str) -> int:
    """`TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`.

    Raises:
        ContainerError: there is no such signal.
    """
    import signal

    name = word.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    number = getattr(signal, f"SIG{base}", None)
    if isinstance(number, signal.Signals) and base.isalnum():
        if not plus:
            return int(number)
        if offset.isdecimal() and base == "RTMIN" and number + int(offset) <= signal.SIGRTMAX:
            return number + int(offset)
    raise ContainerError(f"invalid signal: {word}", hint="a name such as SIGTERM, or a number")


def signal_name(number: int) -> str:
    """`SIGTERM`; the number itself for real-time signals."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _hostname(container_id: str, *, is_hosts: bool) -> str:
    """As docker: with the host's network also its name, else the short id."""
    return os.uname().nodename if is_hosts else container_id[:12]
