"""Commands on images: images, tag, untag, rmi, history, image prune, image exists."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.labels import has_label
from builder.cli.output import Listing, line, shortened, show_gone, show_rows, warn
from builder.cli.units import (
    human_size,
    local_time,
    moment_of,
    rfc3339_seconds,
    since,
    unix_seconds,
)
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.runner import ContainerRecord
    from layerstore import Image, ImageRecord, Reference, Store

NONE = "<none>"
Labels = tuple[tuple[str, str], ...]

IMAGES_LISTING = Listing(
    headings={
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "VirtualSize": "SIZE",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "Containers": "CONTAINERS",
    },
    columns=("Repository", "Tag", "ID", "CreatedSince", "Size"),
)
HISTORY_LISTING = Listing(
    headings={
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    },
    columns=("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
)


class ImageInUseError(BuilderError):
    """An image cannot be removed as asked."""


def images(arguments: Arguments, session: "Session") -> int:
    """List images, newest first, one row for each name."""
    whole = arguments.flag("no-trunc")
    patterns = _patterns(arguments)
    with session.open_store(with_reserve=True) as store:
        records = _chosen(store, arguments.values("filter"), patterns)
    for record in records:
        if record.problem:
            warn(f"image {', '.join(record.names) or record.manifest_digest}: {record.problem}")
    rows = [
        image_row(record, name, whole=whole)
        for record in records
        for name in _names_shown(record, patterns)
    ]
    if arguments.flag("quiet"):
        for image_id in dict.fromkeys(row["ID"] for row in rows):
            line(image_id)
        return 0
    listing = IMAGES_LISTING
    if arguments.flag("digests"):
        listing = listing._replace(
            columns=("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")
        )
    show_rows(listing, rows, arguments.value("format"))
    return 0


def image_row(record: "ImageRecord", name: str, *, whole: bool) -> dict[str, str]:
    """An image as `images` shows it, under one of its names (empty: it has none)."""
    repository, tag = _split_name(name)
    created = unix_seconds(record.created) if record.created else None
    return {
        "Repository": repository,
        "Tag": tag,
        "Digest": record.entry.digest,
        "ID": _short(record.id, whole=whole),
        "CreatedSince": "N/A" if created is None else since(created),
        "CreatedAt": "N/A" if created is None else local_time(created),
        "Size": human_size(record.size_bytes),
        "VirtualSize": human_size(record.size_bytes),
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": "N/A",
    }


def tag(arguments: Arguments, session: "Session") -> int:
    """Give an image, or a moment of one, another name."""
    from builder.timetravel import resolve
    from layerstore import Reference

    source, target = arguments.words
    with session.open_store() as store:
        store.lease()
        store.images.tag(resolve(store, source), Reference.parse(target))
    return 0


def untag(arguments: Arguments, session: "Session") -> int:
    """Take names away from an image: those given, or all."""
    from layerstore import NotFoundError, Reference

    source, *words = arguments.words
    with session.open_store() as store:
        image = store.images.resolve(source)
        own = store.images.names(image)
        names = [Reference.parse(word) for word in words or own]
        for name in names:
            if name.familiar not in own:
                hint = f"it has {', '.join(own) or 'none'}"
                raise NotFoundError(kind="name of this image", key=name.familiar, hint=hint)
            store.images.untag(name)
    return 0


def rmi(arguments: Arguments, session: "Session") -> int:
    """Remove names of images, and the images that have none left."""
    from builder.cli.failures import report
    from layerstore import NotFoundError, StoreError

    code = 0
    removed = False
    force = arguments.flag("force")
    with session.open_store(with_reserve=True) as store:
        for word in arguments.words:
            try:
                removed |= _remove(store, session, word, force=force)
                store.flush()
            except (StoreError, ImageInUseError) as error:
                if force and isinstance(error, NotFoundError):
                    continue
                code = report(error, command="", debug=False)
        if removed:
            from layerstore import prune

            prune(store)
    return code


def _remove(store: "Store", session: "Session", word: str, *, force: bool) -> bool:
    """Remove what `word` names; True when an image went."""
    from layerstore import NoPlatformError

    try:
        image = store.images.resolve(word)
    except NoPlatformError:
        return remove_index(store, word)
    names = store.images.names_of(image.entry)
    name = _name_meant(word, names)
    if name is not None and (len(names) > 1 or (force and _runs(session, image))):
        store.images.untag(name)
        line(f"Untagged: {name.familiar}")
        return False
    if name is None and len(names) > 1 and not force:
        raise ImageInUseError(
            f"image {image.id.short} has several names: {', '.join(names)}",
            hint="remove them one by one, or all by -f",
        )
    _check_containers(session, image, force=force)
    store.images.remove(image)
    for each in names:
        line(f"Untagged: {each}")
    line(f"Deleted: {image.id if image.index is None else image.index.digest}")
    return True


def remove_index(store: "Store", word: str) -> bool:
    """Remove a name of a multi-platform index, and the index with the last; True when it went."""
    index = store.images.find(word)
    names = store.images.names_of(index)
    name = _name_meant(word, names)
    if name is not None and len(names) > 1:
        store.images.untag(name)
        line(f"Untagged: {name.familiar}")
        return False
    store.images.remove_entry(index)
    for each in names:
        line(f"Untagged: {each}")
    line(f"Deleted: {index.digest}")
    return True


def _name_meant(word: str, names: tuple[str, ...]) -> "Reference | None":
    """The name that `word` is, None when it is an id."""
    from layerstore import InvalidReferenceError, Reference

    try:
        reference = Reference.parse(word)
    except InvalidReferenceError:
        return None
    return reference if reference.familiar in names else None


def _users(session: "Session", image: "Image") -> "list[ContainerRecord]":
    """The containers of it."""
    from builder.runner import ContainerStore

    containers = ContainerStore(session.private)
    containers.sweep()
    return [record for record in containers.all() if record.image_id == image.id]


def _runs(session: "Session", image: "Image") -> bool:
    """Whether a container of it runs: then the image stays, as with docker, and loses its name."""
    return any(record.state == "running" for record in _users(session, image))


def _check_containers(session: "Session", image: "Image", *, force: bool) -> None:
    for record in _users(session, image):
        if record.state == "running" or not force:
            how = "running" if record.state == "running" else "stopped"
            hint = "stop it first" if record.state == "running" else "remove it first, or use -f"
            raise ImageInUseError(
                f"image {image.id.short} is in use by the {how} container {record.name}", hint=hint
            )


def history(arguments: Arguments, session: "Session") -> int:
    """Show what an image was made by, the last first."""
    from builder.cli.copy import chosen_platform
    from builder.timetravel import base_count, resolve

    platform = chosen_platform(arguments)
    whole = arguments.flag("no-trunc")
    human = not arguments.options["human"] or arguments.flag("human")
    with session.open_store() as store:
        image = resolve(store, arguments.words[0], platform)
        below = base_count(store.cache, image)
    template = arguments.value("format")
    is_table = template in (None, "", "table") and not arguments.flag("quiet")
    rows: list[dict[str, str]] = []
    entries = image.history()
    for position, (entry, layer) in reversed(list(enumerate(entries, 1 - below))):
        created = unix_seconds(entry.created) if entry.created else None
        created_by = entry.created_by.replace("\t", " ")
        if not whole:
            created_by = shortened(created_by, 45)
        at = "" if created is None else rfc3339_seconds(created)
        size_bytes = 0 if layer is None else layer.size_bytes
        rows.append(
            {
                "ID": _short(image.id, whole=whole)
                if not rows
                else _parent(position, is_table=is_table),
                "CreatedSince": (since(created) if human else at) if created is not None else "N/A",
                "CreatedAt": at,
                "CreatedBy": created_by,
                "Size": human_size(size_bytes) if human else str(size_bytes),
                "Comment": entry.comment,
            }
        )
    if arguments.flag("quiet"):
        for row in rows:
            line(row["ID"])
        return 0
    show_rows(HISTORY_LISTING, rows, template)
    return 0


def _parent(position: int, *, is_table: bool) -> str:
    """What to call the image that an earlier instruction made. Differs: the table says @3, which
    goes after the image's name, where docker has `<missing>`, as scripts will find here too."""
    return f"@{position}" if is_table and position > 0 else "<missing>"


def image_prune(arguments: Arguments, session: "Session") -> int:
    """Remove images without a name, or all that no container uses."""
    from builder.cli.confirm import confirmed
    from layerstore import prune

    everything = arguments.flag("all")
    which = "without a container" if everything else "without a name"
    choose = image_chooser(arguments.values("filter"))
    dry_run = arguments.flag("dry-run")
    question = f"This will remove all images {which}."
    if not dry_run and not arguments.flag("force") and not confirmed(question):
        return 0
    with session.open_store(with_reserve=True) as store:
        pruned = prune(
            store,
            images="unused" if everything else "dangling",
            choose=choose,
            dry_run=dry_run,
        )
    show_pruned_images(pruned.images, is_done=not dry_run)
    word = "Would reclaim" if dry_run else "Total reclaimed space"
    line(f"{word}: {human_size(pruned.freed_bytes, digits=4)}")
    return 0


def show_pruned_images(records: "Iterable[ImageRecord]", *, is_done: bool = True) -> None:
    """The images that went, or would go, as docker lists them."""
    lines = [
        text
        for record in records
        for text in (*(f"untagged: {name}" for name in record.names), f"deleted: {record.id}")
    ]
    show_gone("Deleted Images" if is_done else "Images that would be deleted", lines)


def image_exists(arguments: Arguments, session: "Session") -> int:
    """Exit with 0 if there is such an image, else with 1."""
    from layerstore import NotFoundError

    with session.open_store() as store:
        try:
            store.images.resolve(arguments.words[0])
        except NotFoundError:
            return 1
    return 0


def chooser(filters: Iterable[str]) -> "Callable[[Labels, float], bool]":
    """`until=` and `label=` of the prune commands: is it for what has these labels and that age?

    Raises:
        UsageError: another filter, or a bad time.
    """
    tests: list[Callable[[Labels, float], bool]] = []
    for text in filters:
        key, _, content = text.partition("=")
        if key in ("label", "label!"):
            tests.append(partial(_label_is, content, key == "label"))
        elif key == "until":
            limit = moment_of(content)
            if limit is None:
                raise UsageError(f"invalid filter {text!r}", hint="until=24h, or a time")
            tests.append(partial(_is_before, limit))
        else:
            raise UsageError(f"invalid filter {text!r}", hint="there are until= and label=")
    return lambda labels, created: all(test(labels, created) for test in tests)


def image_chooser(filters: Iterable[str]) -> "Callable[[ImageRecord], bool]":
    """The same for images. Raises as `chooser`."""
    choose = chooser(filters)
    return lambda record: choose(record.labels, _moment(record.created))


def _chosen(store: "Store", filters: Iterable[str], patterns: list[str]) -> "list[ImageRecord]":
    records = sorted(store.images.list(), key=lambda r: _moment(r.created), reverse=True)
    for text in filters:
        key, equals, content = text.partition("=")
        if not equals or key not in _FILTER_NAMES:
            raise UsageError(
                f"invalid filter {text!r}", hint=f"KEY=VALUE; there are {', '.join(_FILTER_NAMES)}"
            )
        if key != "reference":
            records = _FILTERS[key](store, records, content)
    if patterns:
        records = [r for r in records if any(_fits(name, patterns) for name in r.names)]
    return records


def _dangling(store: "Store", records: "list[ImageRecord]", content: str) -> "list[ImageRecord]":
    if content not in ("true", "false", "1", "0"):
        raise UsageError(f"invalid filter 'dangling={content}'", hint="true or false")
    wanted = content in ("true", "1")
    return [record for record in records if (not record.names) == wanted]


def _by_label(store: "Store", records: "list[ImageRecord]", content: str) -> "list[ImageRecord]":
    return [record for record in records if has_label(record.labels, content)]


def _before(store: "Store", records: "list[ImageRecord]", content: str) -> "list[ImageRecord]":
    limit = _moment(store.images.resolve(content).config.created)
    return [record for record in records if _moment(record.created) < limit]


def _since(store: "Store", records: "list[ImageRecord]", content: str) -> "list[ImageRecord]":
    limit = _moment(store.images.resolve(content).config.created)
    return [record for record in records if _moment(record.created) > limit]


def _moment(created: str) -> float:
    """Unix seconds; what says no time is as old as can be."""
    return unix_seconds(created) or 0.0


_FILTERS: "dict[str, Callable[[Store, list[ImageRecord], str], list[ImageRecord]]]" = {
    "dangling": _dangling,
    "label": _by_label,
    "before": _before,
    "since": _since,
}
_FILTER_NAMES = (*_FILTERS, "reference")


def _patterns(arguments: Arguments) -> list[str]:
    """What names must look like, by filters or by the word behind `images`; one is enough."""
    from builder.patterns import BadPatternError, check

    texts = (text.partition("=") for text in arguments.values("filter"))
    patterns = [pattern for key, _, pattern in texts if key == "reference"]
    patterns += [word for word in arguments.words if word]
    for pattern in patterns:
        try:
            check(pattern)
        except BadPatternError as error:
            raise UsageError(f"invalid reference filter: {error}") from None
    return patterns


def _fits(name: str, patterns: list[str]) -> bool:
    """Whether one of the patterns, in which `*` stops at `/`, is the name or its repository."""
    from builder.patterns import component_regex

    repository, _ = _split_name(name)
    regexes = [component_regex(pattern) for pattern in patterns]
    return any(regex.match(name) or regex.match(repository) for regex in regexes)


def _names_shown(record: "ImageRecord", patterns: list[str]) -> Iterable[str]:
    names = [name for name in record.names if not patterns or _fits(name, patterns)]
    return names or [""]


def _label_is(text: str, wanted: bool, labels: Labels, _created: float) -> bool:
    return has_label(labels, text) == wanted


def _is_before(limit: float, _labels: Labels, created: float) -> bool:
    return created < limit


def _split_name(name: str) -> tuple[str, str]:
    """Repository and tag of a familiar name."""
    if not name:
        return NONE, NONE
    if "@" in name:  # pulled by digest
        return name.partition("@")[0], NONE
    repository, colon, found = name.rpartition(":")
    return (repository, found) if colon and "/" not in found else (name, NONE)


def _short(image_id: str, *, whole: bool) -> str:
    return image_id if whole else image_id.removeprefix("sha256:")[:12]


_FORMAT = value("--format", about="table, json, json-array or a Go template")

IMAGES = Command(
    name="images",
    synopsis="[REPOSITORY[:TAG]]",
    about="List images.",
    act=images,
    options=(
        flag("-a", "--all", about="Accepted: there are no intermediate images"),
        flag("-q", "--quiet", about="Only ids"),
        flag("--digests", about="Show manifest digests"),
        flag("--no-trunc", about="Do not shorten ids"),
        many("-f", "--filter", metavar="KEY=VALUE", about="Only those that fit"),
        _FORMAT,
    ),
    words=(0, 1),
    refused={"--tree": "`lamina layers IMAGE` shows what is in an image"},
)
TAG = Command(
    name="tag",
    synopsis="IMAGE NAME[:TAG]",
    about="Give an image another name.",
    act=tag,
    words=(2, 2),
)
UNTAG = Command(
    name="untag",
    synopsis="IMAGE [NAME[:TAG]...]",
    about="Take names away from an image; it stays.",
    act=untag,
    words=(1, None),
)
RMI = Command(
    name="rmi",
    synopsis="IMAGE...",
    about="Remove names of images, and images that have no name left.",
    act=rmi,
    options=(
        flag("-f", "--force", about="Also with several names, or used by stopped containers"),
        flag("--no-prune", about="Accepted: there are no untagged parents"),
    ),
    words=(1, None),
    refused={"--platform": "an image goes with all that it has"},
)
HISTORY = Command(
    name="history",
    synopsis="IMAGE",
    about="Show what an image was made by.",
    act=history,
    options=(
        flag("-H", "--human", about="Sizes and times for people (default: true)"),
        flag("--no-trunc", about="Do not shorten anything"),
        flag("-q", "--quiet", about="Only ids"),
        value("--platform", metavar="OS/ARCH", about="Which image of a multi-platform one"),
        _FORMAT,
    ),
    words=(1, 1),
)
IMAGE_PRUNE = Command(
    name="image prune",
    synopsis="",
    about="Remove images without a name.",
    act=image_prune,
    options=(
        flag("-a", "--all", about="All images that no container uses"),
        flag("-f", "--force", about="Do not ask"),
        flag("--dry-run", about="Only say what would go"),
        many("--filter", metavar="KEY=VALUE", about="Only those that fit: until=, label="),
    ),
    words=(0, 0),
)
IMAGE_EXISTS = Command(
    name="image exists",
    synopsis="IMAGE",
    about="Exit with 0 if there is such an image, else with 1.",
    act=image_exists,
    words=(1, 1),
)
