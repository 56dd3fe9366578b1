import copy
import pickle
from typing import Any, cast

import pytest

from grammar.frozen import frozen


@frozen
class Point:
    """A place."""

    x: int
    y: int = 0


@frozen
class Other:
    x: int
    y: int = 0


def test_fields_are_given_by_name_and_defaults_fill_in() -> None:
    assert Point(x=1, y=2).y == 2
    assert Point(x=1).y == 0


def test_values_are_equal_by_class_and_fields() -> None:
    assert Point(x=1) == Point(x=1, y=0)
    assert Point(x=1) != Point(x=2)
    others: list[object] = [Other(x=1), "Point(x=1, y=0)"]
    assert Point(x=1) not in others


def test_equal_values_have_equal_hashes() -> None:
    assert len({Point(x=1), Point(x=1), Point(x=2)}) == 2


def test_a_value_cannot_be_changed() -> None:
    point = cast(Any, Point(x=1))
    with pytest.raises(AttributeError, match=r"Point\.x cannot be changed"):
        point.x = 2
    with pytest.raises(AttributeError, match=r"Point\.x cannot be deleted"):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 2
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize("values", [{}, {"y": 1}, {"x": 1, "z": 2}, {"x": 1, "y": 2, "z": 3}])
def test_missing_and_unexpected_fields_are_named(values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"Point: missing or unexpected: (x|z)"):
        Point(**values)


def test_a_value_shows_its_fields() -> None:
    assert repr(Point(x=1)) == "Point(x=1, y=0)"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_survives_pickle(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(Point(x=1, y=2), protocol)) == Point(x=1, y=2)


def test_a_value_survives_copy() -> None:
    assert copy.copy(Point(x=1)) == copy.deepcopy(Point(x=1)) == Point(x=1)


def test_the_class_keeps_its_name_and_docstring() -> None:
    assert (Point.__name__, Point.__doc__, Point.__module__) == ("Point", "A place.", __name__)


def test_a_value_matches_by_its_fields() -> None:
    match Point(x=1, y=2):
        case Point(x=1, y=found):
            assert found == 2
        case _:
            pytest.fail("did not match")
