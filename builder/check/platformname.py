"""The platform that `FROM --platform=...` names: `linux/arm64`, `arm64`, `windows`.

Source: containerd/platforms, Parse and database.go.
"""

import re
from typing import NamedTuple

from layerstore import Platform

_PART = re.compile(r"[A-Za-z0-9_.-]+(?:\([A-Za-z0-9_.-]*\))?")
_SYSTEMS = frozenset(
    (
        *("aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js"),
        *("linux", "nacl", "netbsd", "openbsd", "plan9", "solaris", "windows", "zos"),
    )
)
_ARCHITECTURES = frozenset(
    (
        *("386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips"),
        *("mipsle", "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le"),
        *("riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm"),
    )
)
_OTHER_NAMES = {
    "i386": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
}


class PlatformName(NamedTuple):
    os: str
    architecture: str


def platform_name(text: str, host: Platform) -> PlatformName | None:
    """What `text` names; None if it is no platform."""
    parts = text.split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        return None
    first = parts[0].partition("(")[0].lower()
    if len(parts) > 1:
        return PlatformName(_system(first), _architecture(parts[1]))
    if _system(first) in _SYSTEMS:
        return PlatformName(_system(first), host.architecture)
    if _architecture(first) in _ARCHITECTURES:
        return PlatformName(host.os, _architecture(first))
    return None


def _system(name: str) -> str:
    return "darwin" if name == "macos" else name


def _architecture(name: str) -> str:
    return _OTHER_NAMES.get(name.lower(), name.lower())
