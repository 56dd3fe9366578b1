import os

import pytest

from builder.platforms import Platform, host_platform, name_of, platform_args

ARM = Platform(os="linux", architecture="arm", variant="v7")
AMD = Platform(os="linux", architecture="amd64")


def test_a_name_has_the_variant_only_where_there_is_one() -> None:
    assert name_of(AMD) == "linux/amd64"
    assert name_of(ARM) == "linux/arm/v7"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("s390x", "linux/s390x"),
        ("loongarch64", "linux/loongarch64"),
    ],
)
def test_machines_have_the_names_that_go_gives_them(
    monkeypatch: pytest.MonkeyPatch, machine: str, expected: str
) -> None:
    named = os.uname_result(("Linux", "host", "6", "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: named)
    assert name_of(host_platform()) == expected


def test_this_machine_has_a_platform() -> None:
    assert host_platform().os == "linux"
    assert host_platform().architecture


def test_the_predefined_args_describe_build_and_target() -> None:
    assert platform_args(AMD, target=ARM) == {
        "BUILDPLATFORM": "linux/amd64",
        "BUILDOS": "linux",
        "BUILDARCH": "amd64",
        "BUILDVARIANT": "",
        "TARGETPLATFORM": "linux/arm/v7",
        "TARGETOS": "linux",
        "TARGETARCH": "arm",
        "TARGETVARIANT": "v7",
    }
