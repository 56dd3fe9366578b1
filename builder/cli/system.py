"""Commands on the store and the host: system df and prune, builder prune, info, version, fsck."""

import os
import sys
from itertools import chain
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.commands import VERSION as LAMINA_VERSION
from builder.cli.govalues import Struct, Value, plain
from builder.cli.output import Listing, json_line, line, printable, show_gone, show_rows
from builder.cli.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.cli.images import Labels
    from builder.cli.session import Session
    from builder.runner import ContainerRecord
    from layerstore import CacheItem, Store, Usage

DF_LISTING = Listing(
    headings={
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    },
    columns=("Type", "TotalCount", "Active", "Size", "Reclaimable"),
)

_PART_COLUMNS = {
    "Images": {
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "Size": "SIZE",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "Containers": "CONTAINERS",
    },
    "Containers": {
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "LocalVolumes": "LOCAL VOLUMES",
        "Size": "SIZE",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "Names": "NAMES",
    },
    "Volumes": {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"},
    "BuildCache": {
        "ID": "CACHE ID",
        "CacheType": "CACHE TYPE",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "LastUsedSince": "LAST USED",
        "Shared": "SHARED",
    },
}


def df(arguments: Arguments, session: "Session") -> int:
    """Show what the store takes, and what could go."""
    from builder.cli.containers import opened
    from layerstore import cache_items, usage

    is_verbose = arguments.flag("verbose")
    template = arguments.value("format") or "table"
    opened(session)
    with session.open_store(with_reserve=True) as store:
        found = usage(store)
        volumes = _volumes(session, store)
        items = cache_items(store) if is_verbose else []
    if not is_verbose:
        show_rows(DF_LISTING, _df_rows(found, volumes, session), template)
        return 0
    is_table = template == "table"
    parts = _parts(found, volumes, items, session, whole=not is_table)
    if is_table:
        _show_parts(parts, found, volumes)
    else:  # as docker: one document, and not a row for each
        _show(Struct({kind: [*map(_fields, rows)] for kind, rows in parts.items()}), template)
    return 0


def _df_rows(
    found: "Usage", volumes: dict[str, tuple[int, int]], session: "Session"
) -> list[dict[str, str]]:
    running, stopped_bytes = _running(found, session)
    unused = sum(size for size, users in volumes.values() if not users)
    return [
        _df_row(
            "Images",
            len(found.images),
            sum(bool(image.containers) for image in found.images),
            found.images_bytes,
            found.images_reclaimable_bytes,
        ),
        _df_row(
            "Containers", len(found.containers), running, found.containers_bytes, stopped_bytes
        ),
        _df_row(
            "Local Volumes",
            len(volumes),
            sum(bool(users) for _, users in volumes.values()),
            sum(size for size, _ in volumes.values()),
            unused,
        ),
        _df_row(
            "Build Cache",
            found.cache_steps + found.cache_mounts,
            0,
            found.cache_bytes,
            found.cache_reclaimable_bytes,
        ),
    ]


def _df_row(name: str, total: int, active: int, size_bytes: int, free_bytes: int) -> dict[str, str]:
    share = f" ({free_bytes * 100 // size_bytes}%)" if size_bytes else ""
    return {
        "Type": name,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": _size(size_bytes),
        "Reclaimable": _size(free_bytes) + share,
    }


def _running(found: "Usage", session: "Session") -> tuple[int, int]:
    """How many containers run, and the bytes of those that do not."""
    from builder.runner import ContainerStore

    containers = ContainerStore(session.private)
    alive = {usage.id for usage in found.containers if containers.is_running(usage.id)}
    stopped = sum(usage.stored_bytes for usage in found.containers if usage.id not in alive)
    return len(alive), stopped


def _volumes(session: "Session", store: "Store") -> dict[str, tuple[int, int]]:
    """Name -> bytes and number of containers that mount it."""
    from builder.runner import ContainerStore, volume_names
    from layerstore import disk_bytes

    users: dict[str, int] = {}
    for record in ContainerStore(session.private).all():
        for mount in record.mounts:
            if mount.kind == "volume":
                users[mount.source] = users.get(mount.source, 0) + 1
    return {
        name: (disk_bytes(store.private / "volumes" / name), users.get(name, 0))
        for name in volume_names(session.private)
    }


def _parts(
    found: "Usage",
    volumes: dict[str, tuple[int, int]],
    items: "list[CacheItem]",
    session: "Session",
    *,
    whole: bool,
) -> dict[str, list[dict[str, str]]]:
    """Everything one by one, under docker's names for the kinds."""
    from builder.cli.cache import df_row
    from builder.cli.containers import row_of
    from builder.cli.images import image_row
    from builder.runner import ContainerStore

    containers = ContainerStore(session.private)
    sizes = {usage.id: usage.stored_bytes for usage in found.containers}
    return {
        "Images": [
            image_row(image.record, name, whole=whole)
            | {
                "Size": _size(image.shared_bytes + image.unique_bytes),
                "SharedSize": _size(image.shared_bytes),
                "UniqueSize": _size(image.unique_bytes),
                "Containers": str(len(image.containers)),
            }
            for image in found.images
            for name in image.record.names or ("",)
        ],
        "Containers": [
            row_of(record, containers, whole=whole, with_size=False)
            | {"Size": _size(sizes.get(record.id, 0))}
            for record in containers.all()
        ],
        "Volumes": [
            {"Name": name, "Links": str(users), "Size": _size(size)}
            for name, (size, users) in volumes.items()
        ],
        "BuildCache": [df_row(item, whole=whole) for item in items],
    }


def _show_parts(
    parts: dict[str, list[dict[str, str]]], found: "Usage", volumes: dict[str, tuple[int, int]]
) -> None:
    """Everything one by one, as tables."""
    for kind, title in (
        ("Images", "Images space usage:"),
        ("Containers", "\nContainers space usage:"),
        ("Volumes", "\nLocal Volumes space usage:"),
        ("BuildCache", f"\nBuild cache usage: {_size(found.cache_bytes)}"),
    ):
        line(f"{title}\n")
        headings = _PART_COLUMNS[kind]
        show_rows(Listing(headings=headings, columns=tuple(headings)), parts[kind], None)
    other_bytes = found.other_bytes - sum(size for size, _ in volumes.values())
    line(f"\nOther (waiting for prune, indexes): {_size(other_bytes)}")
    line(f"Total: {_size(found.total_bytes)}")


def _fields(row: dict[str, str]) -> Struct:
    return Struct(sorted(row.items()))


def _size(size_bytes: int) -> str:
    return human_size(size_bytes, digits=4)


def prune(arguments: Arguments, session: "Session") -> int:
    """Remove stopped containers, unused networks, images without a name, and build cache."""
    from builder.cli.cache import cache_chooser, pruned_cache
    from builder.cli.confirm import confirmed
    from builder.cli.containers import (
        container_chooser,
        opened,
        prunable_containers,
        prune_containers,
    )
    from builder.cli.images import chooser, image_chooser, show_pruned_images
    from builder.cli.network import prune_networks
    from layerstore import prune as prune_store

    everything = arguments.flag("all")
    with_volumes = arguments.flag("volumes")
    dry_run = arguments.flag("dry-run")
    filters = arguments.values("filter")
    choose, choose_container = image_chooser(filters), container_chooser(filters)
    has_labels = any(text.startswith("label") for text in filters)  # which build cache has not
    if filters and with_volumes:
        raise UsageError("--filter and --volumes do not go together", hint="volumes have no labels")
    warning = _prune_warning(
        everything=everything, with_volumes=with_volumes, filters=filters, has_labels=has_labels
    )
    if not dry_run and not arguments.flag("force") and not confirmed(warning):
        return 0
    containers = opened(session)
    gone: list[ContainerRecord] = []
    if dry_run:
        gone = prunable_containers(containers, choose_container)
        freed = _show_prunable(session, gone, chooser(filters), with_volumes=with_volumes)
    else:
        freed = prune_containers(containers, choose_container)
        prune_networks(session, chooser(filters))
        if with_volumes:
            freed += _prune_volumes(session)
    with session.open_store(with_reserve=True) as store:
        pruned = prune_store(
            store,
            images="unused" if everything else "dangling",
            cache="none" if has_labels else "all" if everything else "unused",
            choose=choose,
            choose_cache=cache_chooser(filters) if filters and not has_labels else None,
            dry_run=dry_run,
            without={record.id for record in gone},
        )
    show_pruned_images(pruned.images, is_done=not dry_run)
    if pruned.steps or pruned.cache_mounts:
        heading = "Build cache that would be deleted" if dry_run else "Deleted build cache"
        line(f"{heading}: {pruned_cache(pruned)}\n")
    word = "Would reclaim" if dry_run else "Total reclaimed space"
    line(f"{word}: {human_size(freed + pruned.freed_bytes, digits=4)}")
    return 0


def _prune_warning(
    *, everything: bool, with_volumes: bool, filters: tuple[str, ...], has_labels: bool
) -> str:
    goes = ["all stopped containers", "all networks not used by a container"]
    if with_volumes:
        goes.append("all anonymous volumes not used by a container")
    goes.append("all images no container uses" if everything else "all images without a name")
    if not has_labels:
        goes.append("all build cache" if everything else "unused build cache")
    text = "This will remove:" + "".join(f"\n  - {each}" for each in goes)
    return text + (f"\nof these, what fits {', '.join(filters)}" if filters else "")


def _show_prunable(
    session: "Session",
    gone: "list[ContainerRecord]",
    choose: "Callable[[Labels, float], bool]",
    *,
    with_volumes: bool,
) -> int:
    """List what would go with these containers; returns its bytes."""
    from builder.cli.network import prunable_networks
    from builder.runner import ContainerStore, disk_usage

    containers = ContainerStore(session.private)
    left = [record for record in containers.all() if record not in gone]
    networks = prunable_networks(session, choose, left)
    volumes = _prunable_volumes(session, left) if with_volumes else {}
    show_gone("Containers that would be deleted", [record.id for record in gone])
    show_gone("Networks that would be deleted", [record.name for record in networks])
    show_gone("Volumes that would be deleted", [*volumes])
    return sum(disk_usage(containers, record) for record in gone) + sum(volumes.values())


def _prune_volumes(session: "Session") -> int:
    """Remove anonymous volumes that no container mounts; returns their bytes."""
    from builder.runner import ContainerStore, remove_volume

    found = _prunable_volumes(session, ContainerStore(session.private).all())
    for name in found:
        remove_volume(session.private, name)
    show_gone("Deleted Volumes", [*found])
    return sum(found.values())


def _prunable_volumes(session: "Session", users: "Iterable[ContainerRecord]") -> dict[str, int]:
    """Anonymous volumes that none of these containers mounts, with their bytes."""
    from builder.runner import volume_names
    from layerstore import disk_bytes

    used = {mount.source for record in users for mount in record.mounts}
    return {
        name: disk_bytes(session.private / "volumes" / name)
        for name in volume_names(session.private)
        if name not in used and len(name) == 64  # named ones are somebody's on purpose
    }


def info(arguments: Arguments, session: "Session") -> int:
    """Show what this host allows, and why not."""
    from builder.sandbox import probe

    report = probe()
    document = Struct(
        ServerVersion=LAMINA_VERSION,
        LaminaRootDir=str(session.root),
        OperatingSystem=_operating_system(),
        OSType="linux",
        KernelVersion=os.uname().release,
        Architecture=os.uname().machine,
        NCPU=os.cpu_count() or 1,
        MemTotal=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        Rootless=os.geteuid() != 0,
        Features=[
            Struct(Name=each.name, Available=each.is_available, Reason=each.reason)
            for each in report.features
        ],
    )
    template = arguments.value("format")
    if template:
        _show(document, template)
        return 0
    line(f"Lamina {LAMINA_VERSION}")
    for heading, content in (
        ("Store", session.root),
        ("Operating system", document["OperatingSystem"]),
        ("Kernel", document["KernelVersion"]),
        ("Architecture", document["Architecture"]),
        ("CPUs", document["NCPU"]),
        ("Memory", human_size(int(str(document["MemTotal"])), digits=4)),
        ("Rootless", "yes" if document["Rootless"] else "no"),
    ):
        line(f" {heading}: {printable(str(content))}")
    line(" Sandbox:")
    for each in report.features:
        why = f" ({printable(each.reason)})" if each.reason else ""
        line(f"  {each.name}: {'yes' if each.is_available else 'no'}{why}")
    return 0


def version(arguments: Arguments, session: "Session") -> int:
    """Show the version of lamina and of what it stands on."""
    from layerstore import host_platform

    document = Struct(
        Version=LAMINA_VERSION,
        PythonVersion=sys.version.split(" ", 1)[0],
        Os="linux",
        Arch=host_platform().architecture,
        KernelVersion=os.uname().release,
    )
    # docker's templates say {{.Client.Version}}, and ask the server whether there is one
    document["Client"] = document["Server"] = Struct(document)
    template = arguments.value("format")
    if template:
        _show(document, template)
        return 0
    line(f"lamina version {LAMINA_VERSION}")
    line(f" Python: {document['PythonVersion']}")
    line(f" OS/Arch: linux/{document['Arch']}")
    line(f" Kernel: {document['KernelVersion']}")
    return 0


def fsck(arguments: Arguments, session: "Session") -> int:
    """Recompute everything in the store; exits with 1 if something is wrong."""
    from builder.record import damaged
    from builder.runner import ContainerStore
    from layerstore import Finding, verify_store

    style = arguments.value("format") or "text"
    if style not in ("text", "json"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="text or json")
    count = 0
    with session.open_store(with_reserve=True) as store:
        of_builds = (
            Finding(kind="build", key=name, problem=problem, hint=f"`lamina builds rm {name}`")
            for name, problem in damaged(store.private / "builds")
        )
        of_containers = (
            Finding(
                kind="container",
                key=name,
                problem=problem,
                hint=f"`lamina rm -f {name[:12]}`: it cannot be started any more",
            )
            for name, problem in ContainerStore(session.private).damaged()
        )
        found = verify_store(store, quick=arguments.flag("quick"))
        for finding in chain(found, of_builds, of_containers):
            count += 1
            if style == "json":
                json_line(
                    {
                        "kind": finding.kind,
                        "key": finding.key,
                        "problem": finding.problem,
                        "hint": finding.hint,
                    }
                )
            else:
                hint = f" ({finding.hint})" if finding.hint else ""
                line(printable(f"{finding}{hint}"))
    if style == "text" and not arguments.flag("quiet"):
        line(f"{count} problems" if count != 1 else "1 problem")
    return 1 if count else 0


def _show(document: Value, template: str) -> None:
    if template == "json":
        json_line(plain(document))
        return
    from builder.cli.gotemplate import Template

    line(printable(Template(template).render(document), keep="\n\t"))


def _operating_system() -> str:
    """PRETTY_NAME of os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for text in file:
                    name, _, content = text.partition("=")
                    if name == "PRETTY_NAME":
                        return content.strip().strip("\"'")
        except OSError:
            continue
    return "Linux"


_FORMAT = value("-f", "--format", about="json or a Go template")

DF = Command(
    name="system df",
    synopsis="",
    about="Show what the store takes on the disk, and what could go.",
    act=df,
    options=(
        flag("-v", "--verbose", about="One by one"),
        value("--format", about="table, json, json-array or a Go template"),
    ),
    words=(0, 0),
)
PRUNE = Command(
    name="system prune",
    synopsis="",
    about="Remove stopped containers, images without a name, and unused build cache.",
    act=prune,
    options=(
        flag("-a", "--all", about="All images that no container uses, and all build cache"),
        flag("-f", "--force", about="Do not ask"),
        flag("--volumes", about="Also anonymous volumes that no container uses"),
        flag("--dry-run", about="Only say what would go"),
        many(
            "--filter",
            metavar="KEY=VALUE",
            about="Only what fits: until=, label= (which build cache has not, and so stays)",
        ),
    ),
    words=(0, 0),
)
INFO = Command(
    name="info",
    synopsis="",
    about="Show what this host allows, and why not.",
    act=info,
    options=(_FORMAT,),
    words=(0, 0),
)
VERSION = Command(
    name="version",
    synopsis="",
    about="Show the version of lamina and of what it stands on.",
    act=version,
    options=(_FORMAT,),
    words=(0, 0),
)
FSCK = Command(
    name="fsck",
    synopsis="",
    about="Recompute everything in the store from its bytes, and report every disagreement.",
    act=fsck,
    options=(
        flag("--quick", about="Only existence, sizes and records"),
        flag("-q", "--quiet", about="Print findings alone"),
        value("--format", about="text or json"),
    ),
    words=(0, 0),
)
