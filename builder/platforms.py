"""Platforms: what we build for, and the ARGs that say so.

Source: OCI image-spec v1.1 config.md ("architecture", "os", GOARCH names); Dockerfile reference,
"Automatic platform ARGs in the global scope".
"""

from layerstore import Platform


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
