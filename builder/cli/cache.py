"""The build cache: builder prune, buildx du, and the limits that builds keep by themselves.

LAMINA_CACHE_MAX_USED_SPACE=20g   after a build, the unused build cache takes no more than this
LAMINA_CACHE_MIN_FREE_SPACE=10g   and leaves so much of the disk free, as far as it can
LAMINA_CACHE_RESERVED_SPACE=2g    but keeps so much, whatever the others say
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, flag, many, value
from builder.cli.output import Listing, line, printable, shortened, show_rows, warn
from builder.cli.units import human_size, local_time, moment_of, rfc3339_seconds, since

if TYPE_CHECKING:
    from builder.cli.session import Session
    from layerstore import CacheItem, CacheLimits, Pruned

Chooser = Callable[["CacheItem"], bool]

VARIABLES = {
    "max_used": "LAMINA_CACHE_MAX_USED_SPACE",
    "min_free": "LAMINA_CACHE_MIN_FREE_SPACE",
    "reserved": "LAMINA_CACHE_RESERVED_SPACE",
}
_OPTIONS = {
    "max_used": ("max-used-space",),
    "min_free": ("min-free-space",),
    "reserved": ("reserved-space", "keep-storage"),
}
_DU_LISTING = Listing(
    headings={
        "ID": "ID",
        "Reclaimable": "RECLAIMABLE",
        "Size": "SIZE",
        "LastUsed": "LAST ACCESSED",
        "Type": "TYPE",
        "Description": "DESCRIPTION",
        "Shared": "SHARED",
        "InUse": "IN USE",
        "CreatedAt": "CREATED AT",
    },
    columns=("ID", "Reclaimable", "Size", "LastUsed"),
)
_ID_DIGITS = 25  # as BuildKit's
_DESCRIPTION_MAX = 60


def builder_prune(arguments: Arguments, session: "Session") -> int:
    """Remove build cache."""
    from builder.cli.confirm import confirmed
    from layerstore import prune

    everything = arguments.flag("all")
    dry_run = arguments.flag("dry-run")
    choose = cache_chooser(arguments.values("filter"))
    limits = _limits_of(arguments)
    which = "all build cache" if everything else "all unused build cache"
    if not dry_run and not arguments.flag("force") and not confirmed(f"This will remove {which}."):
        return 0
    with session.open_store(with_reserve=True) as store:
        pruned = prune(
            store,
            cache="all" if everything else "unused",
            choose_cache=choose,
            limits=limits,
            dry_run=dry_run,
        )
    heading = "Build cache that would be deleted" if dry_run else "Deleted build cache"
    line(f"{heading}: {pruned_cache(pruned)}")
    line(f"Total: {human_size(pruned.freed_bytes, digits=4)}")
    return 0


def pruned_cache(pruned: "Pruned") -> str:
    """What went, in numbers."""
    mounts = f", {pruned.cache_mounts} cache mounts" if pruned.cache_mounts else ""
    return f"{pruned.steps} steps{mounts}"


def du(arguments: Arguments, session: "Session") -> int:
    """Show the build cache piece by piece."""
    from layerstore import cache_items

    choose = cache_chooser(arguments.values("filter")) or (lambda item: True)
    with session.open_store(with_reserve=True) as store:
        items = [item for item in cache_items(store) if choose(item)]
    items.sort(key=lambda item: item.stored_bytes, reverse=True)
    if arguments.flag("verbose"):
        for item in items:
            _show_item(item)
    else:
        show_rows(_DU_LISTING, map(_row, items), arguments.value("format"))
    if not arguments.value("format"):
        shared = sum(item.is_shared for item in items)
        total = sum(item.stored_bytes for item in items)
        free = sum(item.stored_bytes for item in items if not item.is_in_use)
        if shared:
            line(f"Shared with images:\t{shared} of {len(items)}, counted there")
        line(f"Reclaimable:\t{human_size(free, digits=4)}")
        line(f"Total:\t\t{human_size(total, digits=4)}")
    return 0


def _row(item: "CacheItem") -> dict[str, str]:
    return {
        "ID": item.id[:_ID_DIGITS] + ("" if item.stored_bytes or not item.is_shared else "*"),
        "Reclaimable": _word(not item.is_in_use and not item.is_shared),
        "Size": human_size(item.stored_bytes, digits=4),
        "LastUsed": since(item.used_s),
        "Type": item.kind,
        "Description": printable(shortened(item.description, _DESCRIPTION_MAX)),
        "Shared": _word(item.is_shared),
        "InUse": _word(item.is_in_use),
        "CreatedAt": rfc3339_seconds(item.created_s),
    }


def df_row(item: "CacheItem", *, whole: bool) -> dict[str, str]:
    """A piece as `system df -v` shows it. Differs: how often it was used is not counted."""
    return {
        "ID": (item.id if whole else item.id[:12]) + ("*" if item.is_in_use else ""),
        "CacheType": item.kind,
        "Description": item.description,
        "InUse": _word(item.is_in_use),
        "Shared": _word(item.is_shared),
        "CreatedAt": local_time(item.created_s),
        "CreatedSince": since(item.created_s),
        "LastUsedAt": local_time(item.used_s),
        "LastUsedSince": since(item.used_s),
        "Size": human_size(item.stored_bytes, digits=4),
    }


def _show_item(item: "CacheItem") -> None:
    for name, content in (
        ("ID", item.id),
        ("Created at", rfc3339_seconds(item.created_s)),
        ("Last used", since(item.used_s)),
        ("Reclaimable", _word(not item.is_in_use and not item.is_shared)),
        ("Shared", _word(item.is_shared)),
        ("Size", human_size(item.stored_bytes, digits=4)),
        ("Description", printable(item.description)),
        ("Type", item.kind),
    ):
        line(f"{name}:\t{content}")
    line("")


def _word(is_so: bool) -> str:
    return "true" if is_so else "false"


def keep_limits(session: "Session") -> None:
    """Carry out what the environment says of the build cache, after a build."""
    from layerstore import StoreError, limit_cache

    limits = _limits({name: os.environ.get(variable) for name, variable in VARIABLES.items()})
    if not limits:
        return
    try:
        with session.open_store(with_reserve=True) as store:
            limit_cache(store, limits)
    except (StoreError, OSError) as error:  # the build has succeeded
        warn(f"the build cache could not be limited: {error}")


def _limits_of(arguments: Arguments) -> "CacheLimits":
    given: dict[str, str | None] = {}
    for name, options in _OPTIONS.items():
        given[name] = next(filter(None, map(arguments.value, options)), None)
    return _limits(given)


def _limits(given: dict[str, str | None]) -> "CacheLimits":
    from builder.sizes import parse_size
    from layerstore import CacheLimits

    sizes: dict[str, int] = {}
    for name, text in given.items():
        if text:
            try:
                sizes[name] = parse_size(text)
            except ValueError as error:
                option = f"--{_OPTIONS[name][0]} or {VARIABLES[name]}"
                raise UsageError(f"{option}: {error}", hint="such as 512m, 20g") from None
    return CacheLimits(**sizes)


def cache_chooser(filters: Iterable[str]) -> Chooser | None:
    """The filters of the build cache; None for none, which means everything.

    Raises:
        UsageError: another filter, or a bad value.
    """
    tests = [_test_of(text) for text in filters]
    return (lambda item: all(test(item) for test in tests)) if tests else None


def _test_of(text: str) -> Chooser:
    key, _, content = text.partition("=")
    is_wanted = not key.endswith("!")
    key = key.rstrip("!~")
    if key in ("until", "unused-for"):
        limit = moment_of(content)
        if limit is None:
            raise UsageError(f"invalid filter {text!r}", hint="until=24h, or a time")
        return partial(_is_older, limit)
    if key in _FLAGS:
        if content not in ("", "true", "false", "1", "0"):
            raise UsageError(f"invalid filter {text!r}", hint="true or false")
        return partial(_has_flag, key, is_wanted == (content not in ("false", "0")))
    if key in _TEXTS:
        return partial(_has_text, key, content.removeprefix("="), is_wanted)
    known = ", ".join(("until", "unused-for", *_TEXTS, *_FLAGS))
    raise UsageError(f"invalid filter {text!r}", hint=f"there are {known}")


_FLAGS: dict[str, Chooser] = {
    "inuse": lambda item: item.is_in_use,
    "shared": lambda item: item.is_shared,
    "private": lambda item: not item.is_shared,
}
_TEXTS: dict[str, Callable[["CacheItem"], str]] = {
    "id": lambda item: item.id,
    "type": lambda item: item.kind,
    "description": lambda item: item.description,
}


def _is_older(limit: float, item: "CacheItem") -> bool:
    return item.used_s < limit


def _has_flag(key: str, wanted: bool, item: "CacheItem") -> bool:
    return _FLAGS[key](item) == wanted


def _has_text(key: str, content: str, wanted: bool, item: "CacheItem") -> bool:
    found = _TEXTS[key](item)
    return (content == found if key == "type" else content in found) == wanted


_FILTER = many(
    "--filter",
    metavar="KEY=VALUE",
    about="Only what fits: until=24h (used last before), id=, type=regular|exec.cachemount, "
    "description=, inuse=, shared=, private=",
)
BUILDER_PRUNE = Command(
    name="builder prune",
    synopsis="",
    about="Remove build cache.",
    act=builder_prune,
    options=(
        flag("-a", "--all", about="All of it, not only what is in no image"),
        flag("-f", "--force", about="Do not ask"),
        flag("--dry-run", about="Only say what would go"),
        _FILTER,
        value("--max-used-space", metavar="SIZE", about="Until the cache takes no more than this"),
        value("--min-free-space", metavar="SIZE", about="Until so much of the disk is free"),
        value("--reserved-space", metavar="SIZE", about="Keep so much of the cache in any case"),
        value("--keep-storage", metavar="SIZE", about="The same as --reserved-space"),
    ),
    words=(0, 0),
)
DU = Command(
    name="buildx du",
    synopsis="",
    about="Show what the build cache takes, piece by piece.",
    act=du,
    options=(
        _FILTER,
        flag("--verbose", about="All that is known of each piece"),
        value("--format", about="table, json, json-array or a Go template"),
    ),
    words=(0, 0),
)
