"""Names in what a check says: quoted as Go's %q, and the one that was probably meant.

Source: Go strconv.Quote; moby/buildkit util/suggest.
"""

from collections.abc import Iterable
from itertools import islice

_DISTANCE_MAX = 2
# Nobody means a name by accident that is longer, or chooses among more.
_LENGTH_MAX = 64
_KNOWN_MAX = 100
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quoted(text: str) -> str:
    """`text` in double quotes, with everything escaped that is not printable."""
    return '"' + "".join(_ESCAPES.get(char) or _shown(char) for char in text) + '"'


def did_you_mean(name: str, known: Iterable[str], *, sign: str = "") -> str:
    """` (did you mean NAME?)`, or nothing when no name is close, or it is known itself."""
    if len(name) > _LENGTH_MAX:
        return ""
    best, best_distance = "", _DISTANCE_MAX + 1
    for other in islice(known, _KNOWN_MAX):
        if other == name:
            return ""
        if abs(len(other) - len(name)) < best_distance:
            distance = _distance(name, other)
            if distance < best_distance:
                best, best_distance = other, distance
    return f" (did you mean {sign}{best}?)" if best else ""


def _distance(a: str, b: str) -> int:
    """How many letters to insert, drop or change to make b of a (Levenshtein).

    Exact up to `_DISTANCE_MAX`, which is why letters further apart than that are not compared.
    """
    far = _DISTANCE_MAX + 1
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [far] * (len(b) + 1)
        row[0] = i
        for j in range(max(1, i - _DISTANCE_MAX), min(len(b), i + _DISTANCE_MAX) + 1):
            row[j] = min(before[j - 1] + (x != b[j - 1]), before[j] + 1, row[j - 1] + 1)
        if min(row) >= far:
            break
    return row[-1]


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, carried by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
