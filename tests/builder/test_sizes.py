"""Sizes: powers of 1024, in all of docker's spellings."""

import pytest

from builder.sizes import parse_size, short_size


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


@pytest.mark.parametrize("text", ["", "b", "x", "-1", "1q", "k", "inf", "nan", "1.2.3", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0"), (1, "1"), (1000, "1000"), (1024, "1k"), (64 << 20, "64m")),
        *((3 << 29, "1536m"), (1 << 40, "1t")),
    ],
)
def test_the_shortest_form_reads_back(size: int, text: str) -> None:
    assert short_size(size) == text
    assert parse_size(text) == size
