"""Whose a program pretends to be, where the kernel knows one id only. Pure.

Each change follows the kernel's rules for the call of that name, as they are for somebody with or
without the capability in question; a change that is refused is a PermissionError.

Spec: credentials(7), setuid(2), setreuid(2), setresuid(2), setfsuid(2), setgroups(2).
"""

from typing import NamedTuple

KEEP = 0xFFFFFFFF  # -1, as an argument: leave this id as it is
_ID_MAX = 2**31 - 1


class Ids(NamedTuple):
    """One sort of ids, of users or of groups: real, effective, saved, and that of new files."""

    real: int
    effective: int
    saved: int
    file: int

    @classmethod
    def of(cls, number: int) -> "Ids":
        return cls(number, number, number, number)

    @property
    def three(self) -> tuple[int, int, int]:
        return self[:3]


class Credentials(NamedTuple):
    """Of one process.

    `others` are the supplementary groups. `keeps_rights`: it has asked, as root, to keep its
    capabilities when it becomes somebody else (PR_SET_KEEPCAPS), which holds until it executes.
    """

    users: Ids
    groups: Ids
    others: tuple[int, ...] = ()
    keeps_rights: bool = False

    @classmethod
    def of(cls, uid: int, gid: int, others: tuple[int, ...] = ()) -> "Credentials":
        return cls(Ids.of(uid), Ids.of(gid), others)

    @property
    def owner(self) -> tuple[int, int]:
        """Whom the files belong to that the process makes."""
        return self.users.file, self.groups.file

    def may_chown(self, now: tuple[int, int], wanted: tuple[int, int]) -> bool:
        """Whether an owner may change a file's so; one with CAP_CHOWN always may."""
        mine = (self.groups.file, *self.others)
        return self.users.file == now[0] == wanted[0] and (wanted[1] == now[1] or wanted[1] in mine)


def set_one(ids: Ids, wanted: int, *, privileged: bool) -> Ids:
    """setuid(2), setgid(2)."""
    _check(wanted)
    if privileged:
        return Ids.of(wanted)
    if wanted not in (ids.real, ids.saved):
        raise PermissionError
    return Ids(ids.real, wanted, ids.saved, wanted)


def set_two(ids: Ids, real: int, effective: int, *, privileged: bool) -> Ids:
    """setreuid(2), setregid(2)."""
    new_real, new_effective = _kept(real, ids.real), _kept(effective, ids.effective)
    if not privileged:
        if real != KEEP and new_real not in (ids.real, ids.effective):
            raise PermissionError
        if effective != KEEP and new_effective not in ids.three:
            raise PermissionError
    changes_saved = real != KEEP or (effective != KEEP and new_effective != ids.real)
    saved = new_effective if changes_saved else ids.saved
    return Ids(new_real, new_effective, saved, new_effective)


def set_three(ids: Ids, real: int, effective: int, saved: int, *, privileged: bool) -> Ids:
    """setresuid(2), setresgid(2)."""
    asked = (real, effective, saved)
    new = [_kept(want, have) for want, have in zip(asked, ids.three, strict=True)]
    if not privileged and any(number not in ids.three for number in new):
        raise PermissionError
    return Ids(new[0], new[1], new[2], new[1])


def set_file(ids: Ids, wanted: int, *, privileged: bool) -> Ids:
    """setfsuid(2), setfsgid(2), which never fail: what is not allowed changes nothing."""
    if wanted <= _ID_MAX and (privileged or wanted in ids):
        return ids._replace(file=wanted)
    return ids


def _kept(wanted: int, now: int) -> int:
    if wanted == KEEP:
        return now
    _check(wanted)
    return wanted


def _check(number: int) -> None:
    if number > _ID_MAX:
        raise ValueError(f"{number} is no id")
