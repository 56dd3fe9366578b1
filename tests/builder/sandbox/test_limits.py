"""Limits: nothing is limited unless somebody says so, and the names are the kernel's."""

import resource
from dataclasses import fields

import pytest

from builder.sandbox import RESOURCES, Limits, ResourceLimit


def test_nothing_is_limited_by_default() -> None:
    assert {getattr(Limits(), field.name) for field in fields(Limits)} == {None}


@pytest.mark.parametrize("name", RESOURCES)
def test_numbers_are_those_of_the_kernel(name: str) -> None:
    assert RESOURCES[name] == getattr(resource, f"RLIMIT_{name.upper()}", RESOURCES[name])


def test_there_is_one_number_for_each_name() -> None:
    assert len(set(RESOURCES.values())) == len(RESOURCES) == 15


def test_limits_are_values() -> None:
    assert ResourceLimit(name="nofile", soft=1, hard=2) == ResourceLimit(
        name="nofile", soft=1, hard=2
    )
    assert hash(Limits(pids_max=5)) == hash(Limits(pids_max=5))
    assert Limits(pids_max=5) != Limits(pids_max=6)
