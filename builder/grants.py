"""What the caller of a build lends to its programs: in no cache key, record or line of output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What the caller lends to the programs of a build. Never keyed, recorded or printed."""

    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    agents: Mapping[str, Path] = field(default_factory=dict)  # id -> socket


NO_GRANTS = Grants()
