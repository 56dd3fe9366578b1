from pathlib import Path

import pytest

from builder.errors import ForeignPlatformError, PlanError, UnsupportedFeatureError
from builder.platforms import check_runnable, name_of, parse_platform, platform_args
from layerstore import Platform, host_platform

ARM = Platform(os="linux", architecture="arm", variant="v7")
AMD = Platform(os="linux", architecture="amd64")


def test_a_name_has_the_variant_only_where_there_is_one() -> None:
    assert name_of(AMD) == "linux/amd64"
    assert name_of(ARM) == "linux/arm/v7"


def test_the_predefined_args_describe_build_and_target() -> None:
    assert platform_args(AMD, target=ARM) == {
        "BUILDPLATFORM": "linux/amd64",
        "BUILDOS": "linux",
        "BUILDARCH": "amd64",
        "BUILDVARIANT": "",
        "BUILDOSVERSION": "",
        "TARGETPLATFORM": "linux/arm/v7",
        "TARGETOS": "linux",
        "TARGETARCH": "arm",
        "TARGETVARIANT": "v7",
        "TARGETOSVERSION": "",
    }


def test_building_for_this_machine_gives_the_same_values_twice() -> None:
    values = platform_args(AMD, target=AMD)
    assert all(
        values[name] == values["TARGET" + name.removeprefix("BUILD")]
        for name in values
        if name.startswith("BUILD")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AArch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/amd64/v1", "linux/amd64"),
        ("s390x", "linux/s390x"),
        ("windows/amd64", "windows/amd64"),
        ("linux", name_of(host_platform())),
        ("local", name_of(host_platform())),
    ],
)
def test_platforms_are_read_in_their_normal_form(text: str, expected: str) -> None:
    assert name_of(parse_platform(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "linux/", "linux/vax", "vax", "a/b/c/d", "linux/amd64 ;", "/"]
)
def test_what_is_no_platform_is_an_error(text: str) -> None:
    with pytest.raises(PlanError, match="unknown operating system or architecture"):
        parse_platform(text)


def test_a_list_of_platforms_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFeatureError, match="several platforms at once"):
        parse_platform("linux/amd64,linux/arm64")


def foreign() -> Platform:
    architecture = "arm64" if host_platform().architecture != "arm64" else "amd64"
    return Platform(os="linux", architecture=architecture)


def test_programs_of_this_machine_run() -> None:
    check_runnable(host_platform())


@pytest.mark.parametrize(
    ("entry", "runs"),
    [
        ("enabled\ninterpreter /usr/bin/qemu\nflags: OCF\n", True),
        ("enabled\ninterpreter /usr/bin/qemu\nflags: OC\n", False),
        ("disabled\ninterpreter /usr/bin/qemu\nflags: F\n", False),
        (None, False),
    ],
)
def test_others_run_by_an_interpreter_that_the_kernel_holds_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str | None, runs: bool
) -> None:
    monkeypatch.setattr("builder.platforms._BINFMT", tmp_path)
    name = {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[foreign().architecture]
    if entry is not None:
        (tmp_path / name).write_text(entry)
    if runs:
        check_runnable(foreign())
        return
    with pytest.raises(ForeignPlatformError, match="binfmt_misc") as caught:
        check_runnable(foreign())
    assert name_of(foreign()) in str(caught.value)
    assert "qemu-user-static" in caught.value.hint
