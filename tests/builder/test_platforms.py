from builder.platforms import name_of, platform_args
from layerstore import Platform

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
