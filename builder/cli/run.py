"""`lamina run` and `lamina create`.

`run --rm IMAGE /bin/true` is a headline number (bench/): nothing is imported here that it does not
need, and nothing is copied between the program and the caller where nothing has to be kept.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from builder import runner
from builder.cli import limits, profile
from builder.cli.access import ACCESS
from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.labels import parse_label
from builder.cli.networking import NETWORK_OPTIONS, network_of, networking_of
from builder.cli.output import line, warn
from builder.cli.terminal import RawTerminal, size
from builder.errors import UnsupportedFeatureError

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.runner import ContainerRecord, Hold, MountPoint, RunOptions, Streams
    from layerstore import Store

SHARED = (
    many("-e", "--env", metavar="NAME[=VALUE]", about="Set an environment variable"),
    many("--env-file", metavar="FILE", about="Read environment variables from a file"),
    value("-w", "--workdir", metavar="DIRECTORY", about="Working directory in the container"),
    value("-u", "--user", metavar="NAME|UID[:GROUP]", about="User, by the image's /etc/passwd"),
    many(
        "-v",
        "--volume",
        metavar="[SOURCE:]TARGET[:ro]",
        about="Mount a host directory (SOURCE is a path) or a volume (SOURCE is a name)",
    ),
    many("--mount", metavar="type=...,...", about="The same in words: bind, volume or tmpfs"),
    many("--tmpfs", metavar="TARGET[:size=...,exec]", about="Mount an empty directory in memory"),
    value("--entrypoint", metavar="PROGRAM", about="Replace the image's ENTRYPOINT"),
    value("--name", about="Name of the container (default: a made-up one)"),
    *NETWORK_OPTIONS,
    many("-l", "--label", metavar="NAME=VALUE", about="Label the container"),
    flag("-i", "--interactive", about="Leave standard input open"),
    flag("-t", "--tty", about="Give the program a terminal"),
    flag("--rm", about="Remove the container when its program has ended"),
    flag("--read-only", about="Make the root file system read-only"),
    flag("--init", about="Accepted: there always is a PID 1 that reaps"),
    value(
        "--stop-signal", metavar="SIGNAL", about="What `stop` sends (default: the image's, TERM)"
    ),
    value("--stop-timeout", metavar="SECONDS", about="How long `stop` waits (default: 10)"),
    value("--shm-size", metavar="BYTES", about="Size of /dev/shm (default: 64m)"),
    value("--pids-limit", metavar="NUMBER", about="Most processes at a time (-1: no limit)"),
    value(
        "--runtime",
        metavar="crun|runc|PATH",
        about="Let another OCI runtime run it (default: our own sandbox)",
    ),
    limits.MEMORY,
    *profile.OPTIONS,
    value("--cidfile", metavar="FILE", about="Write the container's id to a new file"),
    value(
        "--pull",
        metavar="POLICY",
        choices=("missing", "always", "newer", "never"),
        about="When to pull the image: missing (default), always, newer or never",
    ),
    flag("-q", "--quiet", about="Show nothing of a pull"),
    *ACCESS,
)
_RUN_ONLY = (
    flag("-d", "--detach", about="Run in the background and print the container's id"),
    flag("--sig-proxy", about="Pass signals on to the program (default: true)"),
)
_NO_LINK = "containers of a network that `network create` made know each other by name"
_NO_LIMIT = "memory, processors and the number of processes can be limited"
REFUSED = {
    **dict.fromkeys(("--link", "--link-local-ip"), _NO_LINK),
    **dict.fromkeys(("--cpu-rt-period", "--cpu-rt-runtime", "--kernel-memory"), _NO_LIMIT),
    **dict.fromkeys(("--blkio-weight", "--blkio-weight-device", "--oom-kill-disable"), _NO_LIMIT),
    **dict.fromkeys(("--device-read-bps", "--device-write-bps"), _NO_LIMIT),
    **dict.fromkeys(("--device-read-iops", "--device-write-iops"), _NO_LIMIT),
    "--device-cgroup-rule": "give the device by --device, or all by --privileged",
    "--gpus": "give their devices by --device",
    "--cgroup-parent": "a control group is made below that of the caller",
    "--restart": "`lamina start` starts it again",
    **dict.fromkeys(("-a", "--attach"), "without -d it is attached; -i gives it standard input"),
    "--detach-keys": "`lamina run -d` does not wait for its end",
    **dict.fromkeys(("--health-cmd", "--no-healthcheck"), "health checks are not carried out"),
    "--volumes-from": "name the volumes with -v",
    "--platform": "images run on the platform they are made for",
}


def run(arguments: Arguments, session: "Session") -> int:
    """Create a container, start it, and mind it unless detached."""
    is_detached = arguments.flag("detach")
    if not is_detached and arguments.values("sig-proxy")[-1:] == ("false",):
        raise UnsupportedFeatureError(
            feature="--sig-proxy=false",
            hint="an attached container ends with lamina; `run -d` and `logs -f` leave it running",
        )
    options = options_of(arguments)
    if options.terminal and options.interactive and not is_detached:
        check_is_terminal()
    session.enter(of_pid=_pid_to_share(session, options))
    with _CidFile(arguments.value("cidfile")) as cid_file:
        record, hold = _made(arguments, session, options)
        cid_file.write(record.id)
    if is_detached:
        for warning in runner.run_detached(session.root, record, hold):
            warn(warning)
        line(record.id)
        return 0
    return run_attached(session, record, hold, interactive=options.interactive)


def create(arguments: Arguments, session: "Session") -> int:
    """Create a container without starting it."""
    options = options_of(arguments)
    session.enter()
    with _CidFile(arguments.value("cidfile")) as cid_file:
        record, hold = _made(arguments, session, options)
        hold.release()
        cid_file.write(record.id)
    line(record.id)
    return 0


def _made(
    arguments: Arguments, session: "Session", options: "RunOptions"
) -> "tuple[ContainerRecord, Hold]":
    """Make the container; its image is pulled where --pull says so."""
    image = arguments.words[0]

    def open_store() -> "Store":
        from builder.cli.obtain import obtained

        return obtained(session.open_store(), image, arguments)

    if arguments.value("pull") in ("always", "newer"):  # whatever is remembered of it
        with open_store():
            pass  # it has been pulled
        return runner.create(session.root, image, options, session.open_store)
    return runner.create(session.root, image, options, open_store)


def run_attached(
    session: "Session", record: "ContainerRecord", hold: "Hold", *, interactive: bool
) -> int:
    """Run a container on our own streams; returns the exit code of its program."""
    streams = runner.Streams(stdin=0 if interactive else None, stdout=1, stderr=2)
    if record.terminal:
        streams = streams._replace(size=lambda: size(0, 1, 2))
    if record.auto_remove:  # nobody could read the log
        return _minded(session, record, hold, streams, raw=record.terminal and interactive)
    log = runner.LogWriter(runner.ContainerStore(session.private).log_path(record.id))
    try:
        streams = streams._replace(log=log)
        return _minded(session, record, hold, streams, raw=record.terminal and interactive)
    finally:
        log.close()


def _minded(
    session: "Session", record: "ContainerRecord", hold: "Hold", streams: "Streams", *, raw: bool
) -> int:
    if not raw:
        status = runner.run(session.root, record, hold, streams, warn=warn)
    else:
        with RawTerminal(0):
            status = runner.run(session.root, record, hold, streams, warn=warn)
    if status.oom_killed and status.shell_code:
        from builder.sizes import short_size

        warn(f"killed: out of memory (limit {short_size(record.memory_bytes)})")
    return status.shell_code


def check_is_terminal() -> None:
    """Refuse `-it` where nobody types.

    Raises:
        UsageError: standard input is no terminal.
    """
    if not os.isatty(0):
        raise UsageError("the input device is not a TTY", hint="use -i alone where input is piped")


def environment(arguments: Arguments) -> tuple[str, ...]:
    """The variables of `--env-file` and `-e`, the latter last."""
    items: list[str] = []
    for name in arguments.values("env-file"):
        items += runner.parse_env_file(Path(name).read_text(), name=name)
    return runner.from_caller((*items, *arguments.values("env")), os.environ)


def options_of(arguments: Arguments) -> "RunOptions":
    """What the options of `SHARED` and the words after the image ask for."""
    command = arguments.words[1:]
    network = network_of(arguments)
    pids = arguments.number("pids-limit", least=-1) or 0
    memory_bytes = limits.memory(arguments.value("memory"))
    return runner.RunOptions(
        command=tuple(command),
        entrypoint=arguments.value("entrypoint"),
        env=environment(arguments),
        cwd=arguments.value("workdir") or "",
        user=arguments.value("user") or "",
        name=arguments.value("name"),
        hostname=arguments.value("hostname") or "",
        network=network,
        networking=networking_of(arguments),
        mounts=_mounts(arguments),
        labels=tuple(parse_label(text) for text in arguments.values("label")),
        terminal=arguments.flag("tty"),
        interactive=arguments.flag("interactive"),
        auto_remove=arguments.flag("rm"),
        stop_signal=arguments.value("stop-signal") or "",
        stop_timeout_s=_or(arguments.number("stop-timeout", least=-1), 10),
        read_only=arguments.flag("read-only"),
        shm_size_bytes=limits.size(arguments.value("shm-size"), "shm-size") or (64 << 20),
        pids_max=max(pids, 0),
        runtime=_runtime(arguments),
        memory_bytes=memory_bytes,
        profile=profile.profile_of(arguments, memory_bytes=memory_bytes),
    )


def _pid_to_share(session: "Session", options: "RunOptions") -> int | None:
    """The process whose user namespace an ordinary user needs, to share others of its."""
    shared = options.profile.shared
    if not shared:
        return None
    return runner.running(runner.ContainerStore(session.private), shared[0]).pid


def _mounts(arguments: Arguments) -> "tuple[MountPoint, ...]":
    kinds = ("volume", "mount", "tmpfs")
    if not any(map(arguments.values, kinds)):
        return ()
    return (
        *map(runner.parse_volume, arguments.values("volume")),
        *map(runner.parse_mount, arguments.values("mount")),
        *map(runner.parse_tmpfs, arguments.values("tmpfs")),
    )


def _runtime(arguments: Arguments) -> str:
    found = arguments.value("runtime") or ""
    if found == runner.OWN_RUNTIME:
        return ""
    if found and arguments.flag("init"):
        raise UsageError(
            "--init is not carried out with --runtime: the program is PID 1 there",
            hint="without --runtime there always is a PID 1 that reaps",
        )
    return found


def _or(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number


class _CidFile:
    """The file of `--cidfile`: made before the container, and taken away if there is none."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._fd = -1

    def __enter__(self) -> "_CidFile":
        if self._name is not None:
            try:
                self._fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            except FileExistsError:
                raise UsageError(
                    f"the container id file {self._name!r} exists",
                    hint="make sure that container is not in use, and remove the file",
                ) from None
        return self

    def write(self, container_id: str) -> None:
        if self._fd >= 0:
            os.write(self._fd, container_id.encode())

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        if kind is not None and self._name is not None:
            Path(self._name).unlink(missing_ok=True)


RUN = Command(
    name="run",
    synopsis="IMAGE [COMMAND] [ARG...]",
    about="Create a container of an image and run it. Ends with the exit code of its program; "
    "125 is our own failure, 126 and 127 say that the program cannot be executed or is not there.",
    act=run,
    options=(*SHARED, *_RUN_ONLY),
    words=(1, None),
    stops_at_word=True,
    refused=REFUSED,
)
CREATE = Command(
    name="create",
    synopsis="IMAGE [COMMAND] [ARG...]",
    about="Create a container of an image; `lamina start` runs it.",
    act=create,
    options=SHARED,
    words=(1, None),
    stops_at_word=True,
    refused=REFUSED,
)
