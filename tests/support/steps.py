"""Mounts of steps, of which only what matters is said."""

from typing import Any

from builder.steps import CacheMount


def cache_mount(**changes: Any) -> CacheMount:
    fields: dict[str, Any] = {
        "target": "/c",
        "id": "/c",
        "sharing": "shared",
        "read_only": False,
        "mode": 0o755,
        "uid": 0,
        "gid": 0,
        "initial": None,
    }
    return CacheMount(**(fields | changes))
