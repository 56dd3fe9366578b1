"""`lamina inspect`: everything about images and containers, in docker's words, as a JSON array."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.govalues import NilList, NilMap, Struct, Value, plain
from builder.cli.output import json_line, json_pretty, line
from builder.cli.units import rfc3339
from builder.errors import BuilderError, NoSuchContainerError

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.runner import ContainerRecord, MountPoint
    from layerstore import ContainerConfig, Image, Platform, Store

_NEVER = "0001-01-01T00:00:00Z"


class Document(Struct):
    """An object of docker's API, whose JSON leaves out what is empty in these fields."""

    omitted_empty = frozenset(
        (
            "ExposedPorts",
            "Healthcheck",
            "StopSignal",
            "Shell",
            "StopTimeout",
            "Variant",
            "Author",
            "StartPeriod",
            "StartInterval",
            "Interval",
            "Timeout",
            "Retries",
        )
    )


class NoSuchObjectError(BuilderError):
    """Nothing goes by that name."""


def inspect(arguments: Arguments, session: "Session") -> int:
    """Show images and containers; containers come first where both have the name."""
    kind = arguments.value("type") or ""
    if kind not in ("", "image", "container"):
        raise UsageError(f"invalid argument {kind!r} for --type", hint="image or container")
    return _inspect(arguments, session, kind)


def inspect_images(arguments: Arguments, session: "Session") -> int:
    """Show images."""
    return _inspect(arguments, session, "image")


def inspect_containers(arguments: Arguments, session: "Session") -> int:
    """Show containers."""
    return _inspect(arguments, session, "container")


def _inspect(arguments: Arguments, session: "Session", kind: str) -> int:
    from builder.cli.copy import chosen_platform
    from builder.cli.failures import report
    from layerstore import StoreError

    style = arguments.value("format")
    template = None if style == "json" else _template(style)
    platform = chosen_platform(arguments) if "platform" in arguments.options else None
    with_size = "size" in arguments.options and arguments.flag("size")
    found: list[Document] = []
    code = 0
    with session.open_store() as store:
        for word in arguments.words:
            try:
                found.append(_find(store, session, word, kind, platform, with_size=with_size))
            except (StoreError, BuilderError) as error:
                code = report(error, command="", debug=False)
    _show(found, style, template)
    return code


def show_documents(documents: Sequence[Value], style: str | None) -> None:
    """As `--format` says: by a template, in one line, or readable."""
    _show(documents, style, None if style == "json" else _template(style))


def _show(
    documents: Sequence[Value], style: str | None, template: Callable[[Value], str] | None
) -> None:
    if template is not None:
        for each in documents:
            line(template(each))
    elif style == "json":
        json_line([plain(each) for each in documents])
    else:
        json_pretty([plain(each) for each in documents])


def _template(text: str | None) -> Callable[[Value], str] | None:
    if not text:
        return None
    from builder.cli.gotemplate import Template
    from builder.cli.output import printable

    template = Template(text)
    return lambda value: printable(template.render(value), keep="\n\t")


def _find(
    store: "Store",
    session: "Session",
    word: str,
    kind: str,
    platform: "Platform | None",
    *,
    with_size: bool,
) -> Document:
    from builder.cli.containers import opened
    from builder.timetravel import resolve
    from layerstore import NotFoundError

    if kind != "image":
        containers = opened(session)
        try:
            record = containers.find(word)
        except NoSuchContainerError:
            if kind == "container":
                raise
        else:
            return container_document(record, session, with_size=with_size)
    try:
        image = resolve(store, word, platform)
    except NotFoundError:
        if kind == "image":
            raise
        raise NoSuchObjectError(
            f"no such object: {word}", hint="`lamina images` and `lamina ps -a` list what there is"
        ) from None
    return image_document(image, store.images.names(image))


def image_document(image: "Image", names: tuple[str, ...]) -> Document:
    """An image as `docker image inspect` describes it."""
    config = image.config
    tags = [name for name in names if "@" not in name]
    repositories = {name.partition("@")[0] for name in names if "@" in name}
    repositories |= {name.rpartition(":")[0] for name in tags}
    return Document(
        Id=image.id,
        RepoTags=tags,
        RepoDigests=[f"{name}@{image.entry.digest}" for name in sorted(repositories)],
        Parent="",
        Comment=config.history[-1].comment if config.history else "",
        Created=config.created,
        DockerVersion="",
        Author=config.author,
        Config=image_config(config.config),
        Architecture=config.architecture,
        Variant=config.variant,
        Os=config.os,
        Size=sum(layer.size_bytes for layer in image.layers),
        GraphDriver=Document(Data=NilMap(), Name="overlayfs"),
        RootFS=Document(Type="layers", Layers=list(config.diff_ids)),
        Metadata=Document(LastTagTime=_NEVER),
        Descriptor=Document(
            mediaType=image.descriptor.media_type,
            digest=image.descriptor.digest,
            size=image.descriptor.size_bytes,
        ),
    )


def image_config(config: "ContainerConfig") -> Document:
    """The part of it that containers get."""
    health = config.healthcheck
    return Document(
        Hostname="",
        Domainname="",
        User=config.user,
        ExposedPorts=_set(config.exposed_ports),
        Env=list(config.env) or NilList(),
        Cmd=_list(config.cmd),
        Healthcheck=None
        if health is None
        else Document(
            Test=list(health.test),
            Interval=health.interval_ns,
            Timeout=health.timeout_ns,
            StartPeriod=health.start_period_ns,
            StartInterval=health.start_interval_ns,
            Retries=health.retries,
        ),
        Image="",
        Volumes=_set(config.volumes),
        WorkingDir=config.working_dir,
        Entrypoint=_list(config.entrypoint),
        OnBuild=list(config.on_build) or NilList(),
        Labels=dict(config.labels) or NilMap(),
        StopSignal=config.stop_signal,
        Shell=_list(config.shell),
    )


def container_document(
    record: "ContainerRecord", session: "Session", *, with_size: bool
) -> Document:
    """A container as `docker container inspect` describes it."""
    from builder.runner import ContainerStore, disk_usage, is_paused, signal_name

    containers = ContainerStore(session.private)
    document = Document(
        Id=record.id,
        Created=rfc3339(record.created),
        Path=record.argv[0],
        Args=list(record.argv[1:]),
        State=Document(
            Status="paused" if is_paused(record) else record.state,
            Running=record.state == "running",
            Paused=is_paused(record),
            Restarting=False,
            OOMKilled=record.oom_killed,
            Dead=record.state == "dead",
            Pid=record.pid,
            ExitCode=record.exit_code,
            Error=record.error,
            StartedAt=rfc3339(record.started) if record.started else _NEVER,
            FinishedAt=rfc3339(record.finished) if record.finished else _NEVER,
        ),
        Image=record.image_id,
        ResolvConfPath="",
        HostnamePath="",
        HostsPath="",
        LogPath="" if record.auto_remove else str(containers.log_path(record.id)),
        Name=f"/{record.name}",
        RestartCount=0,
        Driver="overlayfs",
        Platform="linux",
        HostConfig=_host_config(record),
        GraphDriver=Document(Data=NilMap(), Name="overlayfs"),
        Mounts=[_mount(mount, session) for mount in record.mounts],
        Config=Document(
            Hostname=record.hostname,
            Domainname=record.networking.domainname,
            User=record.user,
            ExposedPorts=_set(record.networking.exposed),
            Tty=record.terminal,
            OpenStdin=record.interactive,
            Env=list(record.env),
            Cmd=list(record.command) or NilList(),
            Image=record.image,
            Volumes=NilMap(),
            WorkingDir=record.cwd,
            Entrypoint=list(record.entrypoint) or NilList(),
            OnBuild=NilList(),
            Labels=dict(record.labels),
            StopSignal=signal_name(record.stop_signal),
            StopTimeout=record.stop_timeout_s,
        ),
        NetworkSettings=_network_settings(record),
        ImageManifestDescriptor=Document(digest=record.manifest_digest),
    )
    if with_size:
        document["SizeRw"] = disk_usage(containers, record)
    return document


def _network_settings(record: "ContainerRecord") -> Document:
    """Where it is reached; the fields of one network stand outside too, as docker has it."""
    ports: dict[str, Value] = dict.fromkeys(record.networking.exposed)
    for port in record.networking.exposed:
        bindings: list[Value] = [
            Document(HostIp=each.host_ip, HostPort=str(each.host_port))
            for each in record.published
            if each.port == port
        ]
        ports[port] = bindings or None
    networks: dict[str, Value] = {
        each.network: Document(
            Aliases=NilList(),
            MacAddress=each.mac,
            Gateway=each.gateway,
            IPAddress=each.address,
            IPPrefixLen=each.prefix,
            IPv6Gateway=each.gateway6,
            GlobalIPv6Address=each.address6,
            GlobalIPv6PrefixLen=each.prefix6,
        )
        for each in record.attached
    }
    if not networks:
        for name in record.networks:
            networks[name] = Document(MacAddress="", Gateway="", IPAddress="")
    first = record.attached[0] if record.attached else None
    return Document(
        Ports=ports if record.state == "running" else {},
        IPAddress=first.address if first else "",
        IPPrefixLen=first.prefix if first else 0,
        Gateway=first.gateway if first else "",
        GlobalIPv6Address=first.address6 if first else "",
        GlobalIPv6PrefixLen=first.prefix6 if first else 0,
        IPv6Gateway=first.gateway6 if first else "",
        MacAddress=first.mac if first else "",
        Networks=networks,
    )


def _port_bindings(record: "ContainerRecord") -> dict[str, Value]:
    """What was asked for."""
    found: dict[str, list[Value]] = {}
    for each in record.networking.ports:
        wanted = str(each.host_port or "")
        if each.host_port_last:
            wanted = f"{each.host_port}-{each.host_port_last}"
        found.setdefault(each.port, []).append(Document(HostIp=each.host_ip, HostPort=wanted))
    return dict(found.items())


def _host_config(record: "ContainerRecord") -> Document:
    from builder.runner import OWN_RUNTIME

    binds = [
        f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")
        for mount in record.mounts
        if mount.kind == "bind" or (mount.kind == "volume" and not mount.anonymous)
    ]
    profile = record.profile
    tmpfs = {mount.target: "" for mount in record.mounts if mount.kind == "tmpfs"}
    return Document(
        Binds=binds or NilList(),
        NetworkMode="bridge" if record.network == "default" else record.network,
        PortBindings=_port_bindings(record),
        PublishAllPorts=record.networking.publish_all,
        ExtraHosts=[f"{name}:{address}" for name, address in record.networking.extra_hosts]
        or NilList(),
        Dns=list(record.networking.servers) or NilList(),
        DnsSearch=list(record.networking.search) or NilList(),
        DnsOptions=list(record.networking.options) or NilList(),
        RestartPolicy=Document(Name="no", MaximumRetryCount=0),
        AutoRemove=record.auto_remove,
        CapAdd=_list(profile.cap_add or None),
        CapDrop=_list(profile.cap_drop or None),
        CgroupnsMode=profile.cgroupns or "private",
        GroupAdd=_list(profile.group_add or None),
        IpcMode=profile.ipc or "private",
        OomScoreAdj=profile.oom_score_adj or 0,
        PidMode=profile.pid,
        Privileged=profile.privileged,
        ReadonlyRootfs=record.read_only,
        SecurityOpt=_list(profile.security_opt or None),
        Tmpfs=tmpfs or NilMap(),
        UTSMode=profile.uts,
        UsernsMode=profile.userns,
        ShmSize=record.shm_size_bytes,
        Sysctls=Document(**dict(profile.sysctls)) if profile.sysctls else NilMap(),
        CpuShares=profile.cpu_shares,
        Memory=record.memory_bytes,
        NanoCpus=profile.nano_cpus,
        CpuPeriod=profile.cpu_period_us,
        CpuQuota=profile.cpu_quota_us,
        CpusetCpus=profile.cpuset_cpus,
        CpusetMems=profile.cpuset_mems,
        Devices=[
            Document(PathOnHost=source, PathInContainer=target, CgroupPermissions=access)
            for source, target, access in profile.devices
        ],
        MemoryReservation=profile.memory_reservation_bytes,
        MemorySwap=profile.memory_swap_bytes or 2 * record.memory_bytes,
        MemorySwappiness=profile.memory_swappiness,
        PidsLimit=record.pids_max or None,
        Runtime=record.runtime or OWN_RUNTIME,
        Ulimits=[Document(Name=name, Hard=hard, Soft=soft) for name, soft, hard in profile.ulimits],
    )


def _mount(mount: "MountPoint", session: "Session") -> Document:
    is_volume = mount.kind == "volume"
    path = session.private / "volumes" / mount.source / "_data"
    return Document(
        Type=mount.kind,
        Name=mount.source if is_volume else "",
        Source=str(path) if is_volume else mount.source,
        Destination=mount.target,
        Driver="local" if is_volume else "",
        Mode="ro" if mount.read_only else "",
        RW=not mount.read_only,
        Propagation="rprivate" if mount.kind == "bind" else "",
    )


def _list(items: tuple[str, ...] | None) -> Value:
    return NilList() if items is None else list(items)


def _set(items: tuple[str, ...]) -> Value:
    """Go's map[string]struct{}."""
    return {item: Document() for item in items} if items else NilMap()


_FORMAT = value("-f", "--format", about="A Go template, or json")

INSPECT = Command(
    name="inspect",
    synopsis="NAME|ID...",
    about="Show everything about images and containers, as a JSON array.",
    act=inspect,
    options=(
        _FORMAT,
        flag("-s", "--size", about="Also how much a container has written"),
        value("--type", about="image or container"),
    ),
    words=(1, None),
)
IMAGE_INSPECT = Command(
    name="image inspect",
    synopsis="IMAGE...",
    about="Show everything about images, as a JSON array.",
    act=inspect_images,
    options=(
        _FORMAT,
        value("--platform", metavar="OS/ARCH", about="Which image of a multi-platform one"),
    ),
    words=(1, None),
)
CONTAINER_INSPECT = Command(
    name="container inspect",
    synopsis="CONTAINER...",
    about="Show everything about containers, as a JSON array.",
    act=inspect_containers,
    options=(_FORMAT, flag("-s", "--size", about="Also how much it has written")),
    words=(1, None),
)
