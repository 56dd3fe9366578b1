"""Platforms: what we build for, and the ARGs that say so.

Source: OCI image-spec v1.1 config.md ("architecture", "os", GOARCH names); Dockerfile reference,
"Automatic platform ARGs in the global scope".
"""

import os

from layerstore import Platform

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


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
    return values


__all__ = ["Platform", "host_platform", "name_of", "platform_args"]
