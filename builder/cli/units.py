"""Sizes, durations and times as docker writes them.

Source: docker/go-units size.go, duration.go; Go time.Time.String.
"""

import time
from datetime import UTC, datetime

from builder.sizes import human_size as human_size  # among the others

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def human_duration(seconds: float) -> str:
    """`2 minutes`, `About an hour`."""
    whole = int(seconds)
    hours = int(seconds / _HOUR + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < _MINUTE:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if whole < _HOUR:
        minutes = whole // _MINUTE
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{days // 365} years"


def since(moment: float, now: float | None = None) -> str:
    """`2 minutes ago`; `moment` in Unix seconds."""
    return human_duration(max(0.0, (time.time() if now is None else now) - moment)) + " ago"


def unix_seconds(text: str) -> float | None:
    """An RFC 3339 time, of any precision, in Unix seconds; None if it is none."""
    head, dot, tail = text.partition(".")
    if dot:  # Python reads six digits at most, Go writes nine
        digits = 0
        while digits < len(tail) and tail[digits].isdigit():
            digits += 1
        text = f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def moment_of(text: str) -> float | None:
    """`10m` (ago), Unix seconds or RFC 3339, in Unix seconds; None if it is none of these."""
    ago = duration(text)
    if ago is not None:
        return time.time() - ago
    return float(text) if text.replace(".", "", 1).isdecimal() else unix_seconds(text)


def duration(text: str) -> float | None:
    """Go's `1h30m`, and `7d`, in seconds; None if it is none."""
    import re

    if not re.fullmatch(r"(\d+(\.\d+)?(ms|d|h|m|s))+", text):
        return None
    seconds = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(
        float(number) * seconds[unit]
        for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|d|h|m|s)", text)
    )


def rfc3339(moment: float, nanoseconds: int | None = None) -> str:
    """`2026-01-31T12:00:00.123456789Z`."""
    whole = int(moment)
    fraction = int((moment - whole) * 1e9) if nanoseconds is None else nanoseconds
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{fraction:09d}Z"


def rfc3339_seconds(moment: float) -> str:
    """`2026-01-31T12:00:00Z`, in the local zone."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(moment))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"


def local_time(moment: float) -> str:
    """`2026-01-31 12:00:00 +0000 UTC`, in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))
