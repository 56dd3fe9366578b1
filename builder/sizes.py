"""Sizes as people write and read them. Pure."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")

_DIGITS_MAX = 30  # no machine has more bytes


def parse_size(text: str) -> int:
    """`512m`, `64K`, `1g`, `1024`: powers of 1024, as docker reads sizes of memory.

    Raises:
        ValueError: it is none.
    """
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    power = "kmgtp".find(number[-1]) + 1 if number else 0
    digits = number[:-1] if power else number
    if not digits.replace(".", "", 1).isdecimal() or len(digits) > _DIGITS_MAX:
        raise ValueError(f"{text!r} is no size")
    return int(float(digits) * 1024**power)


def short_size(size_bytes: int) -> str:
    """The shortest form that `parse_size` reads back: `64m`, `1g`, `1000`."""
    for letter in "ptgmk":
        unit = 1024 ** ("kmgtp".index(letter) + 1)
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{letter}"
    return str(size_bytes)


def human_size(size_bytes: int, *, digits: int = 3) -> str:
    """`7.81MB`: powers of 1000, so many significant digits."""
    size = float(size_bytes)
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.{digits}g}{_UNITS[unit]}"
