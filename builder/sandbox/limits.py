"""What programs may use of resources: the part of a specification that every build knows.

Apart from the rest of it, whose classes cost time at every start.

Source: OCI runtime-spec v1.2 config.md (POSIX process), config-linux.md (control groups).
"""

from dataclasses import dataclass

# Docker's names to RLIMIT_..., asm-generic/resource.h.
RESOURCES = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimit:
    """A bound of setrlimit(2): `name` is one of RESOURCES, -1 stands for no bound."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of all processes together; None means no limit of ours.

    Names and meanings as in the runtime-spec (linux.resources): `memory_swap_bytes` is memory and
    swap together, -1 for no limit of swap, None for as much swap as memory; `cpu_shares` is of
    cgroup v1's scale, 1024 for the weight of the others.
    """

    pids_max: int | None = None
    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swappiness: int | None = None
    cpu_quota_us: int | None = None  # of processor time in each `cpu_period_us`
    cpu_period_us: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None  # 0-2,7
    cpuset_mems: str | None = None
