"""USER words to numbers, by the image's own /etc/passwd and /etc/group. Pure.

The files are data from an enemy: lines that make no sense are passed over, numbers are bounded,
and what cannot be found is an error, never root.

Source: the rules are those of moby/sys/user, GetExecUser: digits are always a number, a given
group switches the supplementary groups off, HOME is / for who is not listed.
"""

from typing import NamedTuple

from builder.sandbox.errors import UnknownUserError

_ID_MAX = 2**31 - 1
_GROUPS_MAX = 65536  # NGROUPS_MAX, linux/limits.h


class Ids(NamedTuple):
    """Who the program is. `groups` are the supplementary ones, in file order, without repeats."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(passwd: bytes, group: bytes, spec: str) -> Ids:
    """Resolve `name|uid[:name|gid]`; empty means uid 0.

    Raises:
        UnknownUserError: a name is not listed, or a number is out of range.
    """
    user_word, _, group_word = spec.partition(":")
    user_name, uid, gid, home = _find_in_passwd(passwd, user_word or "0", spec)
    if group_word:
        gid = _find_in_group(group, group_word, spec)
        return Ids(uid=uid, gid=gid, home=home)
    groups = _groups_of(group, user_name) if user_name else ()
    return Ids(uid=uid, gid=gid, groups=groups, home=home)


def find_groups(group: bytes, words: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of groups, which are names or ids.

    Raises:
        UnknownUserError: as `find_user`.
    """
    return tuple(_find_in_group(group, word, word) for word in words)


def _find_in_passwd(passwd: bytes, word: str, spec: str) -> tuple[bytes, int, int, str]:
    number = _number(word.encode(errors="surrogateescape"), spec) if _is_number(word) else None
    name = word.encode(errors="surrogateescape")
    for fields in _records(passwd, 7):
        uid, gid = _bounded(fields[2]), _bounded(fields[3])
        if uid is None or gid is None:
            continue
        if uid == number if number is not None else fields[0] == name:
            home = fields[5].decode(errors="surrogateescape")
            return fields[0], uid, gid, home or "/"
    if number is None:
        raise UnknownUserError(
            user=spec,
            reason=f"no entry for {word!r} in the image's /etc/passwd",
            hint="create the user first (RUN adduser ...), or give a number",
        )
    return b"", number, 0, "/"


def _find_in_group(group: bytes, word: str, spec: str) -> int:
    name = word.encode(errors="surrogateescape")
    if _is_number(word):
        return _number(name, spec)
    for fields in _records(group, 4):
        gid = _bounded(fields[2])
        if fields[0] == name and gid is not None:
            return gid
    raise UnknownUserError(
        user=spec,
        reason=f"no entry for {word!r} in the image's /etc/group",
        hint="create the group first (RUN addgroup ...), or give a number",
    )


def _groups_of(group: bytes, user_name: bytes) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for fields in _records(group, 4):
        if user_name in fields[3].split(b","):
            gid = _bounded(fields[2])
            if gid is not None and len(found) < _GROUPS_MAX:
                found[gid] = None
    return tuple(found)


def _records(text: bytes, count: int) -> list[list[bytes]]:
    """The lines with at least `count` fields that are neither comments nor NIS includes."""
    records = []
    for line in text.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) >= count and fields[0] and fields[0][:1] not in (b"#", b"+", b"-"):
            records.append(fields)
    return records


def _is_number(word: str) -> bool:
    return word.isascii() and word.removeprefix("-").isdigit()


def _number(digits: bytes, spec: str) -> int:
    number = _bounded(digits)
    if number is None:
        raise UnknownUserError(
            user=spec,
            reason=f"{digits.decode()} is not between 0 and {_ID_MAX}",
            hint="uids and gids are 31-bit numbers",
        )
    return number


def _bounded(digits: bytes) -> int | None:
    if not digits.isdigit() or len(digits) > 64:
        return None
    number = int(digits)
    return number if number <= _ID_MAX else None
