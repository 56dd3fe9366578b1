"""Which of the build cache goes: the arithmetic of limits, and the order."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.evict import CacheItem, CacheLimits, evicted


def item(name: str, size: int, used_s: float, **more: Any) -> CacheItem:
    fields: dict[str, Any] = {
        "kind": "regular",
        "description": f"RUN {name}",
        "created_s": used_s,
        "is_shared": False,
        "is_in_use": False,
    }
    return CacheItem(id=name, stored_bytes=size, used_s=used_s, **(fields | more))


ITEMS = [item("new", 30, 3.0), item("old", 10, 1.0), item("middle", 20, 2.0)]


def gone(items: Iterable[CacheItem], limits: CacheLimits, free_bytes: int = 1000) -> list[str]:
    found = evicted(items, limits, free_bytes=free_bytes, may_go=lambda item: True)
    return [item.id for item in found]


def test_without_a_limit_everything_goes_the_oldest_first() -> None:
    assert gone(ITEMS, CacheLimits()) == ["old", "middle", "new"]


@pytest.mark.parametrize(
    ("limits", "free_bytes", "expected"),
    [
        (CacheLimits(max_used=60), 0, []),
        (CacheLimits(max_used=59), 0, ["old"]),
        (CacheLimits(max_used=30), 0, ["old", "middle"]),
        (CacheLimits(max_used=0), 0, ["old", "middle", "new"]),
        (CacheLimits(min_free=100), 100, []),
        (CacheLimits(min_free=100), 95, ["old"]),
        (CacheLimits(min_free=100), 0, ["old", "middle", "new"]),
        (CacheLimits(reserved=60), 0, []),
        (CacheLimits(reserved=55), 0, ["old"]),
        (CacheLimits(max_used=0, reserved=55), 0, ["old"]),
        (CacheLimits(min_free=100, reserved=55), 0, ["old"]),
        (CacheLimits(max_used=55, min_free=100), 85, ["old", "middle"]),
        (CacheLimits(max_used=30, min_free=100), 95, ["old", "middle"]),
    ],
)
def test_limits_keep_what_was_used_last(
    limits: CacheLimits, free_bytes: int, expected: list[str]
) -> None:
    assert gone(ITEMS, limits, free_bytes) == expected


def test_what_is_in_use_stays_and_counts() -> None:
    items = [item("busy", 50, 0.0, is_in_use=True), *ITEMS]
    assert gone(items, CacheLimits(max_used=100)) == ["old"]
    assert gone(items, CacheLimits(max_used=0)) == ["old", "middle", "new"]


def test_what_frees_nothing_stays_where_room_is_wanted() -> None:
    items = [item("shared", 0, 0.0, is_shared=True), *ITEMS]
    assert gone(items, CacheLimits(max_used=0)) == ["old", "middle", "new"]
    assert gone(items, CacheLimits()) == ["shared", "old", "middle", "new"]


def test_what_was_not_chosen_stays_and_counts() -> None:
    found = evicted(
        ITEMS, CacheLimits(max_used=45), free_bytes=0, may_go=lambda item: item.id != "old"
    )
    assert [item.id for item in found] == ["middle"]


def test_of_steps_used_at_once_the_later_made_goes_first() -> None:
    items = [item("base", 10, 5.0, created_s=1.0), item("top", 10, 5.0, created_s=2.0)]
    assert gone(items, CacheLimits(max_used=10)) == ["top"]


def test_a_limit_of_nothing_is_a_limit() -> None:
    assert not CacheLimits()
    assert CacheLimits(max_used=0)
    assert CacheLimits(reserved=0)
    assert CacheLimits(min_free=0)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5)), max_size=12),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_no_more_goes_than_must(
    sizes: list[tuple[int, int]], max_used: int, min_free: int, reserved: int, free_bytes: int
) -> None:
    items = [item(f"{n}", size, float(used)) for n, (size, used) in enumerate(sizes)]
    limits = CacheLimits(max_used=max_used, min_free=min_free, reserved=reserved)
    found = evicted(items, limits, free_bytes=free_bytes, may_go=lambda item: True)
    used_bytes = sum(item.stored_bytes for item in items)
    left_bytes = used_bytes - sum(item.stored_bytes for item in found)
    kept_bytes = limits.kept_bytes(used_bytes, free_bytes)
    assert left_bytes <= max(0, kept_bytes) or not left_bytes
    assert kept_bytes >= reserved
    if found:
        assert left_bytes + found[-1].stored_bytes > kept_bytes
