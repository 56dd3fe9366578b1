"""The options that limit resources, of `run` and of `build`: --memory, --cpus, --ulimit and so on.

Sentences and bounds are docker's (daemon/daemon_unix.go verifyPlatformContainerResources,
docker/cli opts, go-units ulimit.go), but that what cannot be had is refused and not discarded.
"""

import os
from collections.abc import Callable
from typing import Any

from builder.cli.arguments import Arguments, Option, UsageError, many, value
from builder.sandbox import RESOURCES, Limits, ResourceLimit
from builder.sizes import parse_size

_MEMORY_MIN = 6 << 20
_LIMIT_MAX = (1 << 63) - 1
_NANO = 1_000_000_000
_SHARES = (2, 262144)

ULIMIT = many("--ulimit", metavar="NAME=SOFT[:HARD]", about="Limit a resource (-1: unlimited)")
MEMORY = value("-m", "--memory", metavar="BYTES", about="Memory limit")
CPU_SHARES = value(
    "-c", "--cpu-shares", metavar="WEIGHT", about="Its share of busy processors (others: 1024)"
)
GROUPS: tuple[Option, ...] = (
    value(
        "--memory-swap", metavar="BYTES", about="Limit of memory and swap together (-1: all swap)"
    ),
    value("--cpu-period", metavar="US", about="Period of --cpu-quota, in microseconds"),
    value("--cpu-quota", metavar="US", about="Processor time in each period, in microseconds"),
    value("--cpuset-cpus", metavar="0-3,5", about="Processors that may be used"),
    value("--cpuset-mems", metavar="0-3,5", about="Memory nodes that may be used"),
)

# What `build` takes of these: as options, which are those of podman, and as buildx has them.
OF_BUILD: tuple[Option, ...] = (
    MEMORY,
    CPU_SHARES,
    *GROUPS,
    many(
        "--resource",
        metavar="KEY=VALUE",
        about="A limit by its name: memory=1g, cpu-quota=50000, ...",
    ),
)
_RESOURCE_KEYS = tuple(option.key for option in (MEMORY, CPU_SHARES, *GROUPS))


def parse_ulimit(text: str) -> ResourceLimit:
    """NAME=SOFT[:HARD]; -1 is unlimited.

    Raises:
        UsageError: it is none.
    """
    name, equals, bounds = text.partition("=")
    if not equals:
        raise bad("ulimit", text, "it has no value", "write NAME=SOFT[:HARD]")
    if name not in RESOURCES:
        known = ", ".join(sorted(RESOURCES))
        raise bad("ulimit", text, f"invalid ulimit type {name!r}", f"there are {known}")
    numbers = [_bound(text, bound) for bound in bounds.split(":")]
    if len(numbers) > 2:
        raise bad("ulimit", text, "too many limits", "write NAME=SOFT[:HARD]")
    soft, hard = numbers[0], numbers[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        raise bad("ulimit", text, "the soft limit is above the hard one")
    return ResourceLimit(name=name, soft=soft, hard=hard)


def ulimits(arguments: Arguments) -> tuple[ResourceLimit, ...]:
    """The last of each name."""
    limits = {limit.name: limit for limit in map(parse_ulimit, arguments.values("ulimit"))}
    return tuple(limits.values())


def size(text: str | None, key: str) -> int:
    """A number of bytes; 0 where there is none."""
    if text is None:
        return 0
    try:
        found = parse_size(text)
    except ValueError:
        raise bad(key, text, "not a size, as 64m is") from None
    if found > _LIMIT_MAX:
        raise bad(key, text, f"more than {_LIMIT_MAX} bytes")
    return found


def memory(text: str | None) -> int:
    """`--memory`, which is none or enough."""
    return _enough("memory", size(text, "memory"), "limit")


def memory_reservation(text: str | None, memory_bytes: int) -> int:
    """`--memory-reservation`."""
    found = _enough("memory-reservation", size(text, "memory-reservation"), "reservation")
    if memory_bytes and found > memory_bytes:
        raise UsageError(
            "minimum memory limit can not be less than memory reservation limit",
            hint="--memory is the larger of both",
        )
    return found


def memory_swap(text: str | None, memory_bytes: int) -> int:
    """`--memory-swap`: of memory and swap together; -1 for no limit, 0 for not asked for."""
    found = -1 if text == "-1" else size(text, "memory-swap")
    if found > 0 and not memory_bytes:
        raise UsageError(
            "you should always set the memory limit when using memoryswap limit",
            hint="set --memory as well",
        )
    if 0 < found < memory_bytes:
        raise UsageError(
            "minimum memoryswap limit should be larger than memory limit",
            hint="--memory-swap is memory and swap together",
        )
    return found


def swappiness(text: str | None) -> int | None:
    """`--memory-swappiness`; docker's -1 is not asked for."""
    number = _number("memory-swappiness", text)
    if number is None or number == -1:
        return None
    if not 0 <= number <= 100:
        raise UsageError(f"invalid value: {number}, valid memory swappiness range is 0-100")
    return number


def nano_cpus(text: str | None) -> int:
    """`--cpus 1.5` -> 1500000000."""
    if text is None:
        return 0
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdigit() or not (whole + fraction).isascii() or len(whole) > 9:
        raise bad("cpus", text, f"failed to parse {text} as a rational number", "1.5, or 0.25")
    if len(fraction.rstrip("0")) > 9:
        raise bad("cpus", text, "value is too precise")
    found = int(whole or "0") * _NANO + int(fraction[:9].ljust(9, "0"))
    number = os.cpu_count() or 1
    if found > number * _NANO:
        raise UsageError(
            f"range of CPUs is from 0.01 to {number}.00, as there are only {number} CPUs available"
        )
    if 0 < found < _NANO // 100:
        raise UsageError(f"range of CPUs is from 0.01 to {number}.00")
    return found


def cpu_period(text: str | None) -> int:
    """`--cpu-period` in microseconds."""
    number = _number("cpu-period", text) or 0
    if number and not 1000 <= number <= 1_000_000:
        raise UsageError(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    return number


def cpu_quota(text: str | None) -> int:
    """`--cpu-quota` in microseconds; -1 is no limit."""
    number = _number("cpu-quota", text) or 0
    if number < -1 or 0 < number < 1000:
        raise UsageError("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    return max(number, 0)


def cpu_shares(text: str | None) -> int:
    """`--cpu-shares`, brought into the kernel's bounds."""
    number = _number("cpu-shares", text) or 0
    if number < 0:
        raise bad("cpu-shares", str(text), "not a whole number of at least 0")
    return min(max(number, _SHARES[0]), _SHARES[1]) if number else 0


def cpuset(key: str, text: str | None) -> str:
    """`0-3,5`, as far as these exist."""
    if not text:
        return ""
    place = "/sys/devices/system/" + ("cpu/online" if key == "cpuset-cpus" else "node/online")
    try:
        wanted = _members(text)
    except ValueError:
        raise UsageError(f"invalid value {text} for {key.replace('-', ' ')}") from None
    try:
        with open(place) as file:
            available = file.read().strip()
    except OSError:  # a machine without nodes has one
        available = "0"
    if not wanted <= _members(available):
        what = "CPUs" if key == "cpuset-cpus" else "memory nodes"
        raise UsageError(
            f"requested {what} are not available - requested {text}, available: {available}"
        )
    return text


def _members(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and len(first) < 6):
            raise ValueError(part)
        if dash and not (last.isascii() and last.isdigit() and len(last) < 6):
            raise ValueError(part)
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise ValueError(part)
        found.update(range(low, high + 1))
    return found


def of_build(arguments: Arguments) -> Limits:
    """The limits of every RUN, by `--resource` and by options, which go before it."""
    texts: dict[str, str] = {}
    for text in arguments.values("resource"):
        key, equals, content = text.partition("=")
        if not equals or key not in _RESOURCE_KEYS:
            raise bad(
                "resource",
                text,
                f"unknown resources key {key!r}" if equals else "it has no value",
                "there are " + ", ".join(_RESOURCE_KEYS),
            )
        texts[key] = content
    for key in _RESOURCE_KEYS:
        given = arguments.value(key)
        if given is not None:
            texts[key] = given
    memory_bytes = memory(texts.get("memory"))
    groups = groups_of(texts.get, memory_bytes)
    return Limits(
        memory_bytes=memory_bytes or None,
        **{name: value or None for name, value in groups.items()},
    )


def groups_of(value_of: Callable[[str], str | None], memory_bytes: int) -> dict[str, Any]:
    """What `run` and `build` have in common, by the names of `Profile` and `Limits`."""
    return {
        "memory_swap_bytes": memory_swap(value_of("memory-swap"), memory_bytes),
        "cpu_quota_us": cpu_quota(value_of("cpu-quota")),
        "cpu_period_us": cpu_period(value_of("cpu-period")),
        "cpu_shares": cpu_shares(value_of("cpu-shares")),
        "cpuset_cpus": cpuset("cpuset-cpus", value_of("cpuset-cpus")),
        "cpuset_mems": cpuset("cpuset-mems", value_of("cpuset-mems")),
    }


def _enough(key: str, size_bytes: int, what: str) -> int:
    if 0 < size_bytes < _MEMORY_MIN:
        raise UsageError(f"minimum memory {what} allowed is 6MB", hint=f"--{key} 6m or more")
    return size_bytes


def _number(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise bad(key, text, "not a whole number")
    return int(text)


def _bound(text: str, bound: str) -> int:
    digits = bound.removeprefix("-")
    number = int(bound) if digits.isascii() and digits.isdigit() and len(digits) < 20 else -2
    if not -1 <= number <= _LIMIT_MAX:
        raise bad("ulimit", text, f"{bound!r} is no limit", "write a number, or -1 for unlimited")
    return number


def bad(option: str, text: str, problem: str, hint: str = "") -> UsageError:
    """An option whose value makes no sense."""
    return UsageError(f"invalid argument {text!r} for --{option}: {problem}", hint=hint)
