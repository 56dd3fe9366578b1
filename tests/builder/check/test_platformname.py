"""What FROM --platform may name."""

import pytest

from builder.check.platformname import PlatformName, platform_name
from layerstore import Platform

HOST = Platform(os="linux", architecture="riscv64")


@pytest.mark.parametrize(
    ("text", "os", "architecture"),
    [
        ("linux/amd64", "linux", "amd64"),
        ("linux/arm/v7", "linux", "arm"),
        ("windows/amd64", "windows", "amd64"),
        ("windows(10.0.17763)/amd64", "windows", "amd64"),
        ("linux", "linux", "riscv64"),
        ("windows", "windows", "riscv64"),
        ("amd64", "linux", "amd64"),
        ("x86_64", "linux", "amd64"),
        ("linux/aarch64", "linux", "arm64"),
        ("linux/armhf", "linux", "arm"),
        ("macos", "darwin", "riscv64"),
        ("LINUX/AMD64", "linux", "amd64"),
        ("plan/nine", "plan", "nine"),  # two parts are believed
    ],
)
def test_a_platform_is_taken_apart(text: str, os: str, architecture: str) -> None:
    assert platform_name(text, HOST) == PlatformName(os, architecture)


@pytest.mark.parametrize("text", ["", "nope", "a/b/c/d", "linux/", "/amd64", "a b", "linux/amd64 "])
def test_what_is_no_platform_is_none(text: str) -> None:
    assert platform_name(text, HOST) is None
