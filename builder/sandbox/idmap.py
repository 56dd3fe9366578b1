"""uid and gid maps of a user namespace: planned (pure), then written.

Two shapes, both with the user as root inside:
    full     0 -> the user, 1.. -> the ranges that /etc/subuid and /etc/subgid give the user;
             written by the set-uid programs newuidmap and newgidmap
    single   0 -> the user and nothing else; no other owner can be given to a file, and
             supplementary groups can be neither taken nor dropped

Spec: user_namespaces(7), subuid(5), newuidmap(1).
"""

import os
from dataclasses import dataclass
from typing import NamedTuple

_WHOLE = [b"0", b"0", b"4294967295"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """`count` ids from `inside` on stand for those from `outside` on."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


class IdMaps(NamedTuple):
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @property
    def is_single(self) -> bool:
        """Whether an ordinary user may write them without help."""
        return len(self.uids) == len(self.gids) == 1


def plan_maps(*, uid: int, gid: int, user_name: str, subuid: str, subgid: str) -> IdMaps:
    """The widest maps for a user, from the texts of /etc/subuid and /etc/subgid. Pure."""
    owners = (user_name, str(uid))
    uid_ranges, gid_ranges = _ranges(subuid, owners), _ranges(subgid, owners)
    if not uid_ranges or not gid_ranges:
        uid_ranges = gid_ranges = []
    return IdMaps(uids=_extents(uid, uid_ranges), gids=_extents(gid, gid_ranges))


def _ranges(text: str, owners: tuple[str, ...]) -> list[tuple[int, int]]:
    found = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if owner in owners and first.isdecimal() and count.isdecimal() and int(count):
            found.append((int(first), int(count)))
    return found


def _extents(own: int, ranges: list[tuple[int, int]]) -> tuple[Extent, ...]:
    extents = [Extent(inside=0, outside=own, count=1)]
    inside = 1
    for first, count in ranges:
        extents.append(Extent(inside=inside, outside=first, count=count))
        inside += count
    return tuple(extents)


def own_maps() -> IdMaps:
    """The widest maps this process's user has on this host; single ones without the programs."""
    uid, gid = os.geteuid(), os.getegid()
    texts = [_read("/etc/subuid"), _read("/etc/subgid")]
    if find_program("newuidmap") is None or find_program("newgidmap") is None:
        texts = ["", ""]
    return plan_maps(uid=uid, gid=gid, user_name=_user_name(uid), subuid=texts[0], subgid=texts[1])


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def find_program(name: str) -> str | None:
    """A program of the host."""
    for directory in ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


# From here on the kernel is asked, or changed.


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the machine's first one."""
    with open("/proc/self/uid_map", "rb", buffering=0) as file:
        return file.read().split() != _WHOLE


def has_one_id() -> bool:
    """Whether root is the only user, or its group the only one, of this user namespace."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}", "rb", buffering=0) as file:
            rows = [line.split() for line in file.read().splitlines()]
        if len(rows) == 1 and rows[0][2] == b"1":
            return True
    return False


def may_set_groups() -> bool:
    """Whether supplementary groups can be chosen here: not with single maps."""
    with open("/proc/self/setgroups", "rb", buffering=0) as file:
        return file.read().strip() == b"allow"


def maps_group(gid: int) -> bool:
    """Whether a group exists in this user namespace."""
    with open("/proc/self/gid_map", "rb", buffering=0) as file:
        rows = [line.split() for line in file.read().splitlines()]
    return any(int(first) <= gid < int(first) + int(count) for first, _, count in rows)


def write_single(maps: IdMaps) -> None:
    """Write single maps for this process, which has just made its user namespace."""
    for name, text in (
        ("setgroups", "deny"),  # what the kernel wants before it takes the gid map of a user
        ("uid_map", str(maps.uids[0])),
        ("gid_map", str(maps.gids[0])),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def write_full(maps: IdMaps, pid: int) -> int:
    """Write full maps for another process, from outside of its namespace. Returns an exit code."""
    for program, extents in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
        path = find_program(program)
        if path is None:
            return 127
        words = [word for extent in extents for word in str(extent).split()]
        child = os.posix_spawn(path, [program, str(pid), *words], {})
        _, status = os.waitpid(child, 0)
        if status:
            return os.waitstatus_to_exitcode(status)
    return 0
