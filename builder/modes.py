"""File modes as `--chmod` takes them: octal, or symbolic as chmod(1) has it (`u=rwX,go=rX`).

As in BuildKit, whose chmod is BSD's: `t` may follow every class but `o`; there is no umask.

Source: POSIX chmod, "Grammar for the symbolic mode"; Dockerfile reference, "COPY --chmod".
"""

import re
from dataclasses import dataclass

from builder.errors import LoweringError

_OCTAL = re.compile(r"0*[0-7]{1,4}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A parsed mode: what `apply` does to the mode that a file has."""

    octal: int | None
    actions: tuple[tuple[str, str, str], ...] = ()  # (who, operator, permissions)

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """The new twelve permission bits."""
        if self.octal is not None:
            return self.octal
        executable = is_dir or bool(mode & 0o111)  # X asks the mode before all changes
        for who, operator, permissions in self.actions:
            mode = _apply(mode, who, operator, permissions, executable=executable)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Read `--chmod`'s value.

    Raises:
        LoweringError: neither an octal number up to 7777 nor a symbolic mode.
    """
    if _OCTAL.fullmatch(text):
        return ModeChange(int(text, 8))
    actions: list[tuple[str, str, str]] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise LoweringError(
                f"invalid chmod parameter: {text!r}",
                hint="an octal number (0755) or a symbolic mode (u=rwX,go=rX)",
            )
        who = match[1] or "a"
        actions.extend((who, each[1], each[2]) for each in _ACTION.finditer(match[2]))
    return ModeChange(None, tuple(actions))


def _apply(mode: int, who: str, operator: str, permissions: str, *, executable: bool) -> int:
    classes = "ugo" if "a" in who else who
    granted = mask = 0
    for each in classes:
        shift = _SHIFTS[each]
        mask |= 7 << shift
        granted |= _class_bits(mode, permissions, executable=executable) << shift
    if "s" in permissions:
        granted |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    if "t" in permissions and classes != "o":
        granted |= 0o1000
    if operator == "+":
        return mode | granted
    if operator == "-":
        return mode & ~granted
    mask |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    return (mode & ~mask) | granted


def _class_bits(mode: int, permissions: str, *, executable: bool) -> int:
    if permissions in _SHIFTS:
        return mode >> _SHIFTS[permissions] & 7
    bits = 0
    for each in permissions:
        if each in _BITS:
            bits |= _BITS[each]
        elif each == "X" and executable:
            bits |= 1
    return bits
