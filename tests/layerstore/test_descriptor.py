import dataclasses

import pytest

from layerstore import descriptor as media
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest


def make(annotations: tuple[tuple[str, str], ...] = ()) -> Descriptor:
    return Descriptor(
        media_type=media.OCI_MANIFEST,
        digest=Digest.of(b"x"),
        size_bytes=1,
        annotations=annotations,
    )


def test_an_annotation_is_found_by_name() -> None:
    descriptor = make(annotations=(("a", "1"), ("b", "2")))
    assert descriptor.annotation("a") == "1"
    assert descriptor.annotation("b") == "2"


def test_plain_is_without_what_an_index_says() -> None:
    platform = Platform(os="linux", architecture="amd64")
    listed = dataclasses.replace(make(annotations=(("a", "1"),)), platform=platform)
    assert listed.plain == make()


def test_an_annotation_that_is_not_there_is_empty() -> None:
    assert make().annotation("a") == ""


def test_descriptors_are_values() -> None:
    assert make() == make()
    assert len({make(), make(), make((("a", "b"),))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().size_bytes = 2  # type: ignore[misc]  # the types forbid it, too


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        (Platform(os="linux", architecture="amd64"), "linux/amd64"),
        (Platform(os="linux", architecture="arm", variant="v7"), "linux/arm/v7"),
    ],
)
def test_a_platform_is_written_as_docker_writes_it(platform: Platform, text: str) -> None:
    assert str(platform) == text


def test_a_media_type_means_one_thing() -> None:
    kinds = [media.MANIFEST_TYPES, media.INDEX_TYPES, media.CONFIG_TYPES]
    assert sum(map(len, kinds)) == len(frozenset[str]().union(*kinds))
