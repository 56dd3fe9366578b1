"""Commands on containers: exec, ps, logs, start, stop, restart, kill, wait, rm, prune."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from builder import runner
from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.labels import has_label, parse_filters
from builder.cli.output import Listing, line, shortened, show_gone, show_rows
from builder.cli.run import check_is_terminal, environment, run_attached
from builder.cli.terminal import RawTerminal, size
from builder.cli.units import human_duration, human_size, local_time, moment_of, since
from builder.errors import ContainerError, NoSuchContainerError

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.runner import ContainerRecord, ContainerStore, Entry

PS_LISTING = Listing(
    headings={
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "State": "STATE",
        "Ports": "PORTS",
        "Names": "NAMES",
        "Labels": "LABELS",
        "Mounts": "MOUNTS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Networks": "NETWORKS",
        "Size": "SIZE",
    },
    columns=("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
)


def opened(session: "Session") -> "ContainerStore":
    """The containers of the store, with what killed commands left put in order."""
    session.enter()
    containers = runner.ContainerStore(session.private)
    containers.sweep()
    return containers


def execute(arguments: Arguments, session: "Session") -> int:
    """Execute another program in a running container."""
    container, *command = arguments.words
    interactive, terminal = arguments.flag("interactive"), arguments.flag("tty")
    is_detached = arguments.flag("detach")
    if interactive and terminal and not is_detached:
        check_is_terminal()
    options = runner.ExecOptions(
        command=tuple(command),
        env=environment(arguments),
        cwd=arguments.value("workdir") or "",
        user=arguments.value("user") or "",
        terminal=terminal,
        privileged=arguments.flag("privileged"),
    )
    record = runner.running(runner.ContainerStore(session.private), container)
    session.enter(of_pid=record.pid)
    if is_detached:
        runner.exec_detached(session.root, record, options)
        return 0
    streams = runner.Streams(stdin=0 if interactive else None, stdout=1, stderr=2)
    if not terminal:
        return runner.execute(session.root, container, options, streams).shell_code
    streams = streams._replace(size=lambda: size(0, 1, 2))
    with RawTerminal(0 if interactive else -1):
        return runner.execute(session.root, container, options, streams).shell_code


def ps(arguments: Arguments, session: "Session") -> int:
    """List containers."""
    containers = opened(session)
    keep = _filters(arguments.values("filter"), containers)
    number = 1 if arguments.flag("latest") else arguments.number("last", least=-1)
    everything = arguments.flag("all") or number is not None or _asks_for_state(arguments)
    found = [
        record
        for record in sorted(containers.all(), key=lambda record: -record.created)
        if (everything or record.state == "running") and all(test(record) for test in keep)
    ]
    if number is not None and number >= 0:
        found = found[:number]
    whole = arguments.flag("no-trunc")
    if arguments.flag("quiet"):
        for record in found:
            line(record.id if whole else record.id[:12])
        return 0
    listing = PS_LISTING
    if arguments.flag("size"):
        listing = listing._replace(columns=(*listing.columns, "Size"))
    with_size = arguments.flag("size") or "Size" in (arguments.value("format") or "")
    rows = (row_of(record, containers, whole=whole, with_size=with_size) for record in found)
    show_rows(listing, rows, arguments.value("format"))
    return 0


def row_of(
    record: "ContainerRecord", containers: "ContainerStore", *, whole: bool, with_size: bool
) -> dict[str, str]:
    """A container as `ps` shows it."""
    command = " ".join(record.argv)
    if not whole:
        command = shortened(command, 20)
    names = [mount.source or mount.target for mount in record.mounts]
    return {
        "ID": record.id if whole else record.id[:12],
        "Image": record.image,
        "Command": f'"{command}"',
        "CreatedAt": local_time(record.created),
        "RunningFor": since(record.created),
        "Status": status(record),
        "State": "paused" if runner.is_paused(record) else record.state,
        "Ports": _ports(record),
        "Names": record.name,
        "Labels": ",".join(f"{name}={content}" for name, content in record.labels),
        "Mounts": ",".join(name if whole else shortened(name, 15) for name in names),
        "LocalVolumes": str(sum(mount.kind == "volume" for mount in record.mounts)),
        "Networks": ",".join(record.networks),
        "Size": _size(record, containers) if with_size else "",
    }


def _ports(record: "ContainerRecord") -> str:
    """`0.0.0.0:8080->80/tcp, 81/tcp`; nothing is reached of a container that does not run."""
    if record.state != "running" or not record.networking.exposed:
        return ""
    from builder.network import displayed

    return displayed(record.published, record.networking.exposed)


def port(arguments: Arguments, session: "Session") -> int:
    """Print what the published ports of a container are on the host."""
    container, *wanted = arguments.words
    record = opened(session).find(container)
    if not wanted:
        for each in record.published:
            line(f"{each.port} -> {each.address}")
        return 0
    from builder.network import parse_exposed

    (asked,) = parse_exposed(wanted[0])[:1]
    found = [each for each in record.published if each.port == asked]
    if not found:
        raise ContainerError(f"no public port {asked!r} published for {container}")
    for each in found:
        line(each.address)
    return 0


def status(record: "ContainerRecord") -> str:
    """`Up 2 minutes`, `Exited (0) 3 seconds ago`, `Created`."""
    match record.state:
        case "running":
            up = "Up " + human_duration(max(0.0, time.time() - record.started))
            return f"{up} (Paused)" if runner.is_paused(record) else up
        case "exited":
            told = f"Exited ({record.exit_code}) {since(record.finished)}"
            return f"{told} (out of memory)" if record.oom_killed else told
        case "created":
            return "Created"
        case "dead":
            return "Dead"


def logs(arguments: Arguments, session: "Session") -> int:
    """Show what a container wrote: standard output and standard error, each to ours."""
    containers = opened(session)
    record = containers.find(arguments.words[0])
    path = containers.log_path(record.id)
    tail = arguments.value("tail")
    if record.auto_remove and not path.exists():
        raise UsageError(f"container {record.name} runs with --rm: nothing is logged")
    if arguments.flag("follow"):
        entries: Iterable[Entry] = runner.follow_log(path, lambda: containers.is_running(record.id))
        if tail not in (None, "all"):
            entries = _tail_then_follow(arguments, containers, record)
    elif tail not in (None, "all"):
        entries = runner.last_entries(runner.read_log(path), arguments.number("tail") or 0)
    else:
        entries = runner.read_log(path)
    after, before = _moment(arguments, "since"), _moment(arguments, "until")
    for entry in entries:
        if (after and entry.time < after) or (before and entry.time > before):
            continue
        stamp = f"{entry.time} " if arguments.flag("timestamps") else ""
        stream = sys.stderr if entry.stream == "stderr" else sys.stdout
        stream.write(stamp + entry.text)
        stream.flush()
    return 0


def start(arguments: Arguments, session: "Session") -> int:
    """Start containers that have been created or have ended."""
    attach = arguments.flag("attach") or arguments.flag("interactive")
    if attach and len(arguments.words) > 1:
        raise UsageError("only one container can be attached to", is_count=True)
    containers = opened(session)
    if attach:
        record = containers.find(arguments.words[0])
        hold, record = containers.own(record)
        record = runner.restored(session.root, record, session.open_store)
        interactive = arguments.flag("interactive") and record.interactive
        return run_attached(session, record, hold, interactive=interactive)
    return _each(arguments.words, lambda word: _start(session, containers, word))


def _start(session: "Session", containers: "ContainerStore", word: str) -> None:
    record = containers.find(word)
    if containers.is_running(record.id):  # as docker: nothing to do
        return
    hold, record = containers.own(record)
    containers.write(runner.restored(session.root, record, session.open_store))
    runner.run_detached(session.root, record, hold)


def stop(arguments: Arguments, session: "Session") -> int:
    """Ask programs to end; kill those that do not."""
    containers = opened(session)
    number, timeout_s = _stop_options(arguments)
    return _each(
        arguments.words,
        lambda word: runner.stop(
            containers, containers.find(word), number=number, timeout_s=timeout_s
        ),
    )


def restart(arguments: Arguments, session: "Session") -> int:
    """Stop containers, and start them again."""
    containers = opened(session)
    number, timeout_s = _stop_options(arguments)

    def one(word: str) -> None:
        record = containers.find(word)
        runner.stop(containers, record, number=number, timeout_s=timeout_s)
        _start(session, containers, record.id)

    return _each(arguments.words, one)


def kill(arguments: Arguments, session: "Session") -> int:
    """Send a signal to programs."""
    containers = opened(session)
    number = runner.signal_number(arguments.value("signal") or "KILL")
    return _each(
        arguments.words, lambda word: runner.kill(containers, containers.find(word), number)
    )


def pause(arguments: Arguments, session: "Session") -> int:
    """Stop all processes of containers where they are."""
    containers = opened(session)
    return _each(arguments.words, lambda word: runner.pause(containers, containers.find(word)))


def unpause(arguments: Arguments, session: "Session") -> int:
    """Let paused containers go on."""
    containers = opened(session)
    return _each(arguments.words, lambda word: runner.unpause(containers, containers.find(word)))


def wait(arguments: Arguments, session: "Session") -> int:
    """Wait for the end of containers, and print their exit codes."""
    containers = opened(session)
    records = [containers.find(word) for word in arguments.words]
    for record in records:
        line(str(runner.wait(containers, record)))
    return 0


def rm(arguments: Arguments, session: "Session") -> int:
    """Remove containers; with --force one that is not there is told, but no failure, as docker."""
    containers = opened(session)
    force = arguments.flag("force")

    def one(word: str) -> None:
        try:
            record = containers.find(word)
        except NoSuchContainerError:
            if force and containers.remove_damaged(word):
                return
            raise
        runner.remove(containers, record, force=force, with_volumes=arguments.flag("volumes"))

    return _each(arguments.words, one, forgiven=(NoSuchContainerError,) if force else ())


def prune(arguments: Arguments, session: "Session") -> int:
    """Remove all containers that do not run."""
    from builder.cli.confirm import confirmed

    choose = container_chooser(arguments.values("filter"))
    if not arguments.flag("force") and not confirmed("This will remove all stopped containers."):
        return 0
    freed = prune_containers(opened(session), choose)
    line(f"Total reclaimed space: {human_size(freed, digits=4)}")
    return 0


def container_chooser(filters: "Iterable[str]") -> "Callable[[ContainerRecord], bool]":
    """`until=` and `label=` of the prune commands, for containers.

    Raises:
        UsageError: another filter, or a bad time.
    """
    from builder.cli.images import chooser

    choose = chooser(filters)
    return lambda record: choose(record.labels, record.created)


def prune_containers(
    containers: "ContainerStore", choose: "Callable[[ContainerRecord], bool]"
) -> int:
    """Remove those that do not run and are chosen, and list them. Returns the bytes freed."""
    removed = []
    freed = 0
    for record in prunable_containers(containers, choose):
        taken = runner.disk_usage(containers, record)
        try:
            hold, fresh = containers.own(record)
        except ContainerError:  # started or removed in this moment
            continue
        containers.remove(fresh, hold, with_volumes=False)
        removed.append(record.id)
        freed += taken
    show_gone("Deleted Containers", removed)
    return freed


def prunable_containers(
    containers: "ContainerStore", choose: "Callable[[ContainerRecord], bool]"
) -> "list[ContainerRecord]":
    """Those that do not run and are chosen."""
    return [each for each in containers.all() if each.state != "running" and choose(each)]


def exists(arguments: Arguments, session: "Session") -> int:
    """Exit with 0 if there is such a container, else with 1."""
    try:
        opened(session).find(arguments.words[0])
    except NoSuchContainerError:
        return 1
    return 0


def _each(
    words: list[str],
    act: Callable[[str], None],
    *,
    forgiven: tuple[type[ContainerError], ...] = (),
) -> int:
    """Do one thing to many; what fails is told, the rest is done nevertheless.

    Returns:
        The exit code; errors that are `forgiven` are told and do not count.
    """
    from builder.cli.failures import report
    from builder.sandbox import SandboxError

    code = 0
    for word in dict.fromkeys(words):
        try:
            act(word)
        except forgiven as error:
            report(error, command="", debug=False)
        except (ContainerError, SandboxError, OSError) as error:
            code = report(error, command="", debug=False)
        else:
            line(word)
    return code


def _stop_options(arguments: Arguments) -> tuple[int | None, int | None]:
    word = arguments.value("signal")
    number = None if word is None else runner.signal_number(word)
    timeout_s = arguments.number("timeout", least=-1)
    if timeout_s is None:
        timeout_s = arguments.number("time", least=-1)
    return number, timeout_s


Test = Callable[["ContainerRecord"], bool]


def _filters(texts: Iterable[str], containers: "ContainerStore") -> list[Test]:
    """Filters of one key are alternatives, those of different keys go together."""

    def alternatives(key: str, values: list[str]) -> Test:
        if key == "label":  # except labels, which all must be there
            return lambda record: all(has_label(record.labels, text) for text in values)
        if key in ("before", "since"):
            moments = [containers.find(word).created for word in values]
            return lambda record: any(
                record.created < each if key == "before" else record.created > each
                for each in moments
            )
        test = _FILTERS[key]
        return lambda record: any(test(record, text) for text in values)

    return [alternatives(key, values) for key, values in parse_filters(texts, _FILTERS).items()]


def _has_mount(record: "ContainerRecord", text: str) -> bool:
    return any(text in (mount.source, mount.target) for mount in record.mounts)


def _is_of_image(record: "ContainerRecord", text: str) -> bool:
    known = {record.image, record.image.partition(":")[0], record.image_id}
    return text in known or record.image_id.removeprefix("sha256:").startswith(text)


_FILTERS: "dict[str, Callable[[ContainerRecord, str], bool]]" = {
    "id": lambda record, text: record.id.startswith(text),
    "name": lambda record, text: text in record.name,
    "status": lambda record, text: text == ("paused" if runner.is_paused(record) else record.state),
    "exited": lambda record, text: record.state == "exited" and str(record.exit_code) == text,
    "label": lambda record, text: has_label(record.labels, text),
    "ancestor": _is_of_image,
    "volume": _has_mount,
    "network": lambda record, text: text in record.networks,
    "before": lambda record, text: False,
    "since": lambda record, text: False,
}


def _asks_for_state(arguments: Arguments) -> bool:
    return any(text.startswith(("status=", "exited=")) for text in arguments.values("filter"))


def _moment(arguments: Arguments, key: str) -> str:
    """`10m`, Unix seconds or RFC 3339 -> how log entries write it; empty when not asked for."""
    text = arguments.value(key)
    if text is None:
        return ""
    moment = moment_of(text)
    if moment is None:
        raise UsageError(
            f"invalid argument {text!r} for --{key}", hint="10m, 2026-01-31T12:00:00Z, or seconds"
        )
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 10**9):09d}Z"


def _tail_then_follow(
    arguments: Arguments, containers: "ContainerStore", record: "ContainerRecord"
) -> "Iterable[Entry]":
    path = containers.log_path(record.id)
    lines = arguments.number("tail") or 0
    entries = list(runner.read_log(path))
    yield from runner.last_entries(iter(entries), lines)
    seen = len(entries)
    for index, entry in enumerate(
        runner.follow_log(path, lambda: containers.is_running(record.id))
    ):
        if index >= seen:
            yield entry


def _size(record: "ContainerRecord", containers: "ContainerStore") -> str:
    return human_size(runner.disk_usage(containers, record))


_MANY = (1, None)
_TIMEOUT = (
    value("-t", "--timeout", metavar="SECONDS", about="How long to wait (-1: for ever)"),
    value("--time", metavar="SECONDS", about="The same as --timeout"),
    value("-s", "--signal", about="The signal that asks (default: the container's)"),
)

EXEC = Command(
    name="exec",
    synopsis="CONTAINER COMMAND [ARG...]",
    about="Execute another program in a running container.",
    act=execute,
    options=(
        flag("-i", "--interactive", about="Leave standard input open"),
        flag("-t", "--tty", about="Give the program a terminal"),
        flag("-d", "--detach", about="Do not wait for its end"),
        many("-e", "--env", metavar="NAME[=VALUE]", about="Set an environment variable"),
        many("--env-file", metavar="FILE", about="Read environment variables from a file"),
        value("-u", "--user", metavar="NAME|UID[:GROUP]", about="User (default: the container's)"),
        value("-w", "--workdir", metavar="DIRECTORY", about="Directory (default: the container's)"),
        flag("--privileged", about="Give the program all capabilities, and no filter"),
    ),
    words=(2, None),
    stops_at_word=True,
    refused={"--detach-keys": "end the program instead"},
)
PS = Command(
    name="ps",
    synopsis="",
    about="List containers: those that run, unless -a is given.",
    act=ps,
    options=(
        flag("-a", "--all", about="Also those that do not run"),
        flag("-q", "--quiet", about="Only ids"),
        flag("-s", "--size", about="How much each has written"),
        flag("-l", "--latest", about="The one created last, in whatever state"),
        value("-n", "--last", metavar="NUMBER", about="The last NUMBER, in whatever state"),
        flag("--no-trunc", about="Do not shorten anything"),
        many("-f", "--filter", metavar="KEY=VALUE", about="Only those that fit"),
        value("--format", about="table, json, json-array or a Go template"),
    ),
    words=(0, 0),
)
LOGS = Command(
    name="logs",
    synopsis="CONTAINER",
    about="Show what a container wrote.",
    act=logs,
    options=(
        flag("-f", "--follow", about="Go on until the container ends"),
        value("-n", "--tail", metavar="NUMBER", about="Only the last lines (default: all)"),
        value("--since", metavar="TIME", about="Only what is younger: 10m, or a time"),
        value("--until", metavar="TIME", about="Only what is older"),
        flag("-t", "--timestamps", about="Show when"),
        flag("--details", about="Accepted: there are none"),
    ),
    words=(1, 1),
)
START = Command(
    name="start",
    synopsis="CONTAINER...",
    about="Start containers that do not run.",
    act=start,
    options=(
        flag("-a", "--attach", about="Mind it in the foreground"),
        flag("-i", "--interactive", about="The same, with standard input"),
    ),
    words=_MANY,
)
STOP = Command(
    name="stop",
    synopsis="CONTAINER...",
    about="Ask programs to end, and kill those that have not after ten seconds.",
    act=stop,
    options=_TIMEOUT,
    words=_MANY,
)
PAUSE = Command(
    name="pause",
    synopsis="CONTAINER...",
    about="Stop all processes of containers where they are, until `unpause`.",
    act=pause,
    words=_MANY,
)
UNPAUSE = Command(
    name="unpause",
    synopsis="CONTAINER...",
    about="Let paused containers go on.",
    act=unpause,
    words=_MANY,
)
RESTART = Command(
    name="restart",
    synopsis="CONTAINER...",
    about="Stop containers, and start them again.",
    act=restart,
    options=_TIMEOUT,
    words=_MANY,
)
KILL = Command(
    name="kill",
    synopsis="CONTAINER...",
    about="Send a signal to the programs of containers.",
    act=kill,
    options=(value("-s", "--signal", about="Which (default: KILL)"),),
    words=_MANY,
)
WAIT = Command(
    name="wait",
    synopsis="CONTAINER...",
    about="Wait for the end of containers, and print their exit codes.",
    act=wait,
    words=_MANY,
)
RM = Command(
    name="rm",
    synopsis="CONTAINER...",
    about="Remove containers.",
    act=rm,
    options=(
        flag("-f", "--force", about="Kill it first if it runs; do not mind if there is none"),
        flag("-v", "--volumes", about="Remove its anonymous volumes as well"),
    ),
    words=_MANY,
)
PORT = Command(
    name="port",
    synopsis="CONTAINER [PORT[/tcp|udp]]",
    about="List the published ports of a container, or say where one of them is.",
    act=port,
    words=(1, 2),
)
CONTAINER_PRUNE = Command(
    name="container prune",
    synopsis="",
    about="Remove all containers that do not run.",
    act=prune,
    options=(
        flag("-f", "--force", about="Do not ask"),
        many("--filter", metavar="KEY=VALUE", about="Only those that fit: until=, label="),
    ),
    words=(0, 0),
)
CONTAINER_EXISTS = Command(
    name="container exists",
    synopsis="CONTAINER",
    about="Exit with 0 if there is such a container, else with 1.",
    act=exists,
    words=(1, 1),
)
