"""Platforms: what we build for, the ARGs that say so, and whether programs of it run here.

Source: containerd/platforms (names and their normal forms); OCI image-spec v1.1 config.md
("architecture", "os", GOARCH names); Dockerfile reference, "Automatic platform ARGs in the global
scope"; Linux Documentation/admin-guide/binfmt-misc.rst.
"""

import re
from pathlib import Path

from builder.errors import ForeignPlatformError, PlanError, UnsupportedFeatureError
from layerstore import Platform, host_platform

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_PART = re.compile(r"[A-Za-z0-9_.-]+")
_NORMAL = {  # other names of architectures, and what variants they mean
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_ARCHITECTURES = frozenset(
    (
        *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle"),
        *("ppc64", "ppc64le", "riscv64", "s390x", "wasm"),
    )
)
_USUAL_VARIANTS = {("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")}  # which are left out
_INTERPRETERS = {  # as qemu-user names them
    "386": "i386",
    "amd64": "x86_64",
    "arm64": "aarch64",
    "loong64": "loongarch64",
    "mips64le": "mips64el",
    "mipsle": "mipsel",
}


def parse_platform(text: str) -> Platform:
    """Read `linux/arm/v7`, `linux`, `arm64` or `local`, in normal form.

    Raises:
        PlanError: not a platform.
        UnsupportedFeatureError: a list of them.
    """
    if "," in text:
        raise UnsupportedFeatureError(
            feature="a build for several platforms at once",
            hint="build for one after the other, each with a tag of its own",
        )
    parts = text.strip().split("/")
    if text == "local":
        return host_platform()
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise _unknown(text)
    os, *rest = (part.lower() for part in parts)
    host = host_platform()
    if not rest:
        rest = [host.architecture] if os in ("linux", "windows", "darwin", "freebsd") else [os]
        os = os if os in ("linux", "windows", "darwin", "freebsd") else host.os
    architecture, variant = _NORMAL.get(rest[0], (rest[0], ""))
    variant = rest[1] if len(rest) > 1 else variant
    if architecture == "arm":
        variant = variant if variant.startswith("v") else f"v{variant or 7}"
    if architecture not in _ARCHITECTURES:
        raise _unknown(text)
    if (architecture, variant) in _USUAL_VARIANTS:
        variant = ""
    return Platform(os=os, architecture=architecture, variant=variant)


def _unknown(text: str) -> PlanError:
    return PlanError(
        f"{text!r}: unknown operating system or architecture",
        hint="OS/ARCHITECTURE[/VARIANT], such as linux/arm64",
    )


def check_runnable(platform: Platform) -> None:
    """Make sure that programs of `platform` run on this machine.

    Raises:
        ForeignPlatformError: they do not.
    """
    host = host_platform()
    is_native = (platform.os, platform.architecture) == (host.os, host.architecture)
    if not is_native and not _has_interpreter(platform.architecture):
        raise ForeignPlatformError(wanted=name_of(platform), host=name_of(host))


def _has_interpreter(architecture: str) -> bool:
    """Whether binfmt_misc has one that needs no file in the image: registered with the flag F."""
    name = _INTERPRETERS.get(architecture, architecture)
    try:
        lines = (_BINFMT / f"qemu-{name}").read_text().splitlines()
    except OSError:
        return False
    return "enabled" in lines and any(
        line.startswith("flags:") and "F" in line.removeprefix("flags:") for line in lines
    )


def name_of(platform: Platform) -> str:
    """`linux/arm/v7`."""
    name = f"{platform.os}/{platform.architecture}"
    return f"{name}/{platform.variant}" if platform.variant else name


def platform_args(build: Platform, *, target: Platform) -> dict[str, str]:
    """The predefined platform ARGs."""
    values = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[prefix + "PLATFORM"] = name_of(platform)
        values[prefix + "OS"] = platform.os
        values[prefix + "ARCH"] = platform.architecture
        values[prefix + "VARIANT"] = platform.variant
        values[prefix + "OSVERSION"] = ""  # Windows has one
    return values
