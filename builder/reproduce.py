"""Two runs of the same step: what came out otherwise, why, and what would help.

Pure: two tables of contents and a way to read the files that differ. Modification times are only
compared where the build clamps them (SOURCE_DATE_EPOCH); without that every run has times of its
own, and Docker's too.

The reasons are guesses from names and bytes, the most specific first. A guess that finds nothing
says so: the path is right in any case.

Source: reproducible-builds.org/docs, "Achieve deterministic builds"; the formats as documented
(PEP 552, RFC 1952, machine-id(5)).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from layerstore import TocEntry

HOSTNAMES = ("lamina", "perturbed")  # of the first run, and of the second
TIMES_INSIDE = "times in the archive"
RANDOM = "random bytes, or something that is encrypted or compressed with them"
DIGEST = "a digest of something that differs"
ORDER = "directory order"
ORDER_HINT = "sort what lists a directory (sort, tar --sort=name)"
_READ_MAX_BYTES = 8 << 20  # of a larger file only the name is looked at
_DIGITS = re.compile(rb"[0-9]+")
_CLOCK = re.compile(
    rb"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?|[0-9]{4}-[0-9]{2}-[0-9]{2}"
    rb"|(Mon|Tue|Wed|Thu|Fri|Sat|Sun),? |(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[ -]"
)
_UNIX_TIME = re.compile(rb"(?<![0-9])1[0-9]{9}(?:\.[0-9]+|[0-9]{3}|[0-9]{6}|[0-9]{9})?(?![0-9])")

_HEX = re.compile(rb"[0-9a-f]{32,}")

Read = Callable[[TocEntry], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`what` differs at `path` (absolute): content, type, mode, owner, ... `hint` may be empty."""

    path: str
    what: str
    reason: str = ""
    hint: str = ""

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"{self.path} ({self.what}{because})"


def compare(
    first: Iterable[TocEntry],
    second: Iterable[TocEntry],
    read: tuple[Read, Read],
    *,
    with_times: bool,
) -> list[Difference]:
    """What differs between two layers, in byte order of the paths.

    Args:
        read: give the content of a file of the first and of the second layer.
        with_times: modification times count.
    """
    before, after = _by_path(first), _by_path(second)
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        path = f"/{key[1]}"
        if old is None or new is None:
            run = "first" if new is None else "second"
            there = old or new
            assert there is not None
            found.append(_only(path, run, there))
        elif old != new:
            difference = _difference(path, old, new, read, with_times=with_times)
            if difference is not None:
                found.append(difference)
    return found


def explain(path: str, first: bytes, second: bytes) -> tuple[str, str]:
    """Why two contents of a file may differ, and what helps; empty when nothing is known."""
    for guess in (_by_name, _bytecode, _compressed, _host_name, _order, _times, _digest, _random):
        known = guess(path, first, second)
        if known is not None:
            return known
    return "", ""


def may_depend_on_order(difference: Difference) -> bool:
    """Whether what is known of it leaves room for the order of directories as its reason."""
    return difference.what == "content" and (
        difference.reason in ("", TIMES_INSIDE, DIGEST, RANDOM)
    )


def _by_path(entries: Iterable[TocEntry]) -> Mapping[tuple[str, str], TocEntry]:
    """A path may have an entry, and be opaque too."""
    return {("opaque" if e.kind == "opaque" else "", str(e.path)): e for e in entries}


def _only(path: str, run: str, entry: TocEntry) -> Difference:
    what = "removed" if entry.kind in ("remove", "opaque") else "there"
    reason, hint = _by_name(path, b"", b"") or ("", "")
    if not reason and re.search(r"[0-9a-f]{6}|[A-Za-z0-9]{6}$|[0-9]{3,}", path.rpartition("/")[2]):
        reason = "a name made of random characters, a time or a process id"
        hint = "remove it in the same RUN, or give it a fixed name"
    return Difference(path=path, what=f"only {what} after the {run} run", reason=reason, hint=hint)


def _difference(
    path: str, old: TocEntry, new: TocEntry, read: tuple[Read, Read], *, with_times: bool
) -> Difference | None:
    if old.kind != new.kind:
        return Difference(path=path, what=f"{old.kind} or {new.kind}")
    if (old.digest, old.size_bytes) != (new.digest, new.size_bytes):
        small = max(old.size_bytes, new.size_bytes) <= _READ_MAX_BYTES
        contents = (read[0](old), read[1](new)) if small else (b"", b"")
        reason, hint = explain(path, *contents)
        return Difference(path=path, what="content", reason=reason, hint=hint)
    if old.target != new.target:
        return Difference(path=path, what="target of the link")
    if (old.major, old.minor) != (new.major, new.minor):
        return Difference(path=path, what="device")
    if old.meta.mode != new.meta.mode:
        return Difference(path=path, what=f"mode {old.meta.mode:o} or {new.meta.mode:o}")
    if (old.meta.uid, old.meta.gid) != (new.meta.uid, new.meta.gid):
        return Difference(path=path, what="owner")
    if old.meta.xattrs != new.meta.xattrs:
        return Difference(path=path, what="extended attributes")
    if with_times and old.meta.mtime_ns != new.meta.mtime_ns:
        return Difference(
            path=path,
            what="modification time",
            reason="set to a moment before SOURCE_DATE_EPOCH that is not the same each time",
        )
    return None


# ---- guesses


_Known = tuple[str, str] | None

# A pattern of the path -> reason, hint.
_NAMES: tuple[tuple[str, str, str], ...] = (
    (r"^/etc/machine-id$|^/var/lib/dbus/machine-id$", "machine-id", ": > /etc/machine-id"),
    (r"^/etc/ssh/ssh_host_.*key", "keys made for this machine", "rm /etc/ssh/ssh_host_*"),
    (r"^/etc/ssl/private/|ssl-cert-snakeoil", "keys made for this machine", "make them at start"),
    (r"^/var/log/|\.log$", "log", "rm -rf /var/log/* in the same RUN"),
    (r"^/var/cache/ldconfig/", "cache of ldconfig", "rm -rf /var/cache/ldconfig"),
    (r"^/var/cache/|/\.cache/|^/root/\.npm/", "cache", "remove it in the same RUN, or mount it"),
    (r"^/var/lib/apt/lists/", "package lists", "rm -rf /var/lib/apt/lists/*"),
    (r"^/(tmp|var/tmp)/", "temporary file", "remove it in the same RUN"),
    (r"^/etc/shadow-?$", "day of the last password change", "give SOURCE_DATE_EPOCH to useradd"),
    (r"^/etc/.+-$", "backup of a file that differs", "remove it in the same RUN"),
    (r"\.(jar|zip|whl|egg)$", TIMES_INSIDE, "zip -X, or strip-nondeterminism"),
    (r"\.(tar|deb|a)$", TIMES_INSIDE, "tar --mtime, ar D, or strip-nondeterminism"),
)


def _by_name(path: str, _first: bytes, _second: bytes) -> _Known:
    return next(
        ((reason, hint) for pattern, reason, hint in _NAMES if re.search(pattern, path)), None
    )


def _bytecode(path: str, first: bytes, second: bytes) -> _Known:
    """PEP 552: magic, flags, then the source's time and size, or its hash."""
    if not path.endswith(".pyc") or first[:4] != second[:4]:
        return None
    hint = "SOURCE_DATE_EPOCH in its environment, pip --no-compile, or PYTHONDONTWRITEBYTECODE=1"
    if first[16:] == second[16:]:
        return "timestamp in .pyc", hint
    return ".pyc of different code", "look at the source it was made of"


def _compressed(_path: str, first: bytes, second: bytes) -> _Known:
    """RFC 1952: bytes 4 to 8 are the time of the original file."""
    is_gzip = first[:2] == second[:2] == b"\x1f\x8b"
    if is_gzip and first[4:8] != second[4:8] and first[8:] == second[8:]:
        return "timestamp in the gzip header", "gzip -n"
    return None


def _host_name(_path: str, first: bytes, second: bytes) -> _Known:
    old, new = (name.encode() for name in HOSTNAMES)
    if new in second and first.replace(old, new) == second.replace(old, new):
        return "host name", "do not write $(hostname) into files"
    return None


def _order(_path: str, first: bytes, second: bytes) -> _Known:
    old, new = first.splitlines(), second.splitlines()
    if len(old) > 1 and sorted(old) == sorted(new):
        return f"{ORDER} (the same lines in another order)", ORDER_HINT
    return None


def _times(_path: str, first: bytes, second: bytes) -> _Known:
    if not first or not second:
        return None
    if _UNIX_TIME.sub(b"", first) == _UNIX_TIME.sub(b"", second):
        return "timestamp in seconds since 1970", "use $SOURCE_DATE_EPOCH in place of the clock"
    if _DIGITS.sub(b"0", first) != _DIGITS.sub(b"0", second):
        return None
    if _CLOCK.search(first) and _CLOCK.search(second):
        return "timestamp", 'date -u -d "@$SOURCE_DATE_EPOCH" in place of date'
    return "a number: a time, a process id, a count of processors", "give it a fixed value"


def _digest(_path: str, first: bytes, second: bytes) -> _Known:
    if first and second and _HEX.sub(b"", first) == _HEX.sub(b"", second):
        return DIGEST, ""
    return None


def _random(_path: str, first: bytes, second: bytes) -> _Known:
    if len(first) == len(second) >= 16 and sum(map(int.__eq__, first, second)) < len(first) // 8:
        return RANDOM, ""
    return None
