import re

import pytest

from builder.runner.names import is_name, random_name


def test_made_up_names_are_names() -> None:
    for attempt in range(20):
        name = random_name(attempt)
        assert is_name(name)
        assert re.fullmatch(r"[a-z]+_[a-z]+\d*", name)


def test_there_are_many() -> None:
    assert len({random_name() for _ in range(500)}) > 450


def test_later_attempts_have_a_number() -> None:
    assert not random_name()[-1].isdigit()
    assert random_name(2)[-1].isdigit()


@pytest.mark.parametrize("text", ["web", "a1", "A.b-c_d", "0x", "a" * 128])
def test_what_may_be_a_name(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "a", "-a", ".a", "_a", "a b", "a/b", "../x", "a\n", "\u00e9e", "a" * 129, "a\0b"]
)
def test_what_may_not(text: str) -> None:
    assert not is_name(text)


def test_a_name_may_be_shorter_where_that_is_said() -> None:
    assert is_name("a", least=1)
    assert not is_name("-", least=1)
    assert not is_name("", least=1)
