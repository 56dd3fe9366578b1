"""Which of the build cache goes: the least recently used, until the rest fits. Pure.

    max_used    the cache may take so much
    min_free    the disk must have so much free, as far as the cache can give it
    reserved    the cache may keep so much, whatever the others say

As in BuildKit. Without a limit everything that is chosen goes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from layerstore.digest import Digest

ItemKind = Literal["regular", "exec.cachemount"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheItem:
    """What goes at once: the steps that made one layer, or a cache mount (`path`).

    `stored_bytes` is what goes with it: nothing where an image or a container has the layer
    (`is_shared`). `is_in_use`: a build or container that is alive needs it.
    """

    id: str
    kind: ItemKind
    description: str
    stored_bytes: int
    created_s: float
    used_s: float
    is_shared: bool
    is_in_use: bool
    keys: tuple[Digest, ...] = ()
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """In bytes; None for no such limit."""

    max_used: int | None = None
    min_free: int | None = None
    reserved: int | None = None

    def __bool__(self) -> bool:
        return (self.max_used, self.min_free, self.reserved) != (None, None, None)

    def kept_bytes(self, used_bytes: int, free_bytes: int) -> int:
        """How much of `used_bytes` may stay, with `free_bytes` free on the disk."""
        caps = []
        if self.max_used is not None:
            caps.append(self.max_used)
        if self.min_free is not None:
            caps.append(used_bytes - max(0, self.min_free - free_bytes))
        kept = min(caps) if caps else 0 if self else used_bytes
        return max(kept, self.reserved or 0)


def evicted(
    items: Iterable[CacheItem],
    limits: CacheLimits,
    *,
    free_bytes: int,
    may_go: Callable[[CacheItem], bool],
) -> list[CacheItem]:
    """What goes of `items`, the least recently used first; never what is in use."""
    items = list(items)
    candidates = [item for item in items if not item.is_in_use and may_go(item)]
    candidates.sort(key=lambda item: (item.used_s, -item.created_s))
    if not limits:
        return candidates
    used_bytes = sum(item.stored_bytes for item in items)
    kept_bytes = limits.kept_bytes(used_bytes, free_bytes)
    gone = []
    for item in candidates:
        if used_bytes <= kept_bytes:
            break
        if item.stored_bytes:
            used_bytes -= item.stored_bytes
            gone.append(item)
    return gone
