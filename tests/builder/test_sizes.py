"""Sizes: powers of 1024, in all of docker's spellings."""

import pytest

from builder.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1k", 1024),
        ("512m", 512 << 20),
        ("1.5GB", 3 << 29),
        ("2KiB", 2048),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "b", "x", "-1", "1q", "k", "inf", "nan", "1.2.3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
