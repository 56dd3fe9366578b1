"""Whether a checkout is the layer that it is said to be: every file, link and attribute of it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.toc import TocEntry

_NAMED_MAX = 3  # paths named in one answer


def compare_checkout(expected: "Iterable[TocEntry]", directory: Path, *, userxattr: bool) -> str:
    """What differs between a table of contents and a checkout; empty when nothing does.

    All of it is read. `userxattr`: as overlaydir.changes has it.
    """
    from layerstore import overlaydir

    there = overlaydir.survey(overlaydir.changes(directory, userxattr=userxattr))
    if userxattr:  # whose root cannot give everything to everybody (see owners.py)
        expected, there = _without_unrecorded(expected), _without_unrecorded(there)
    wanted, found = _by_path(expected), _by_path(there)
    implied = {path.rpartition("/")[0] for _, path in wanted}
    while parents := {path.rpartition("/")[0] for path in implied} - implied:
        implied |= parents
    differing = sorted(
        path
        for kind, path in wanted.keys() | found.keys()
        if wanted.get((kind, path)) != found.get((kind, path))
        and not (path in implied and (kind, path) not in wanted and kind == "put")
    )
    if not differing:
        return ""
    named = ", ".join(repr(path) for path in differing[:_NAMED_MAX])
    more = f" and {len(differing) - _NAMED_MAX} more" if len(differing) > _NAMED_MAX else ""
    return f"differs from its layer in {named}{more}"


def _without_unrecorded(entries: "Iterable[TocEntry]") -> "list[TocEntry]":
    """The entries, without the owners of what none can be recorded for."""
    entries = list(entries)
    bare = {entry.path for entry in entries if entry.kind in ("symlink", "fifo")}
    return [
        entry._replace(meta=replace(entry.meta, uid=0, gid=0))
        if entry.path in bare or (entry.kind == "hardlink" and entry.target in bare)
        else entry
        for entry in entries
    ]


def _by_path(entries: "Iterable[TocEntry]") -> "dict[tuple[str, str], TocEntry]":
    """Entries by what they do and where, with whole seconds and without the root."""
    found: dict[tuple[str, str], TocEntry] = {}
    for entry in entries:
        does: str = entry.kind if entry.kind in ("remove", "opaque") else "put"
        meta = entry.meta
        seconds = meta.mtime_ns // 1_000_000_000
        whole = type(meta)(meta.mode, meta.uid, meta.gid, seconds, meta.xattrs)
        if entry.path or does != "put":
            found[does, str(entry.path)] = entry._replace(meta=whole)
    return found
