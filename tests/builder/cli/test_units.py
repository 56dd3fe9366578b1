import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cli.units import (
    duration,
    human_duration,
    human_size,
    local_time,
    moment_of,
    rfc3339,
    rfc3339_seconds,
    since,
    unix_seconds,
)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1023, "1.02kB"),
        (7_812_345, "7.81MB"),
        (123_456_789, "123MB"),
        (1_500_000_000, "1.5GB"),
        (10**15, "1PB"),
    ],
)
def test_sizes_are_powers_of_a_thousand(size_bytes: int, text: str) -> None:
    assert human_size(size_bytes) == text


def test_sizes_may_have_another_precision() -> None:
    assert human_size(1_234_567, digits=4) == "1.235MB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (45, "45 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (150, "2 minutes"),
        (46 * 60, "46 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (61 * 86400, "2 months"),
        (2 * 365 * 86400, "2 years"),
    ],
)
def test_durations_are_docker_s_words(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_the_future_is_now() -> None:
    assert since(200.0, now=100.0) == "Less than a second ago"
    assert since(100.0, now=200.0) == "About a minute ago"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2024-05-06T07:08:09Z", 1714979289.0),
        ("2024-05-06T09:08:09+02:00", 1714979289.0),
        ("2024-05-06T07:08:09.5Z", 1714979289.5),
        ("2024-05-06T07:08:09.123456789Z", 1714979289.123456),
        ("2024-05-06T07:08:09", 1714979289.0),
    ],
)
def test_times_of_any_precision_are_read(text: str, seconds: float) -> None:
    assert unix_seconds(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01T00:00:00Z", "10m"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert unix_seconds(text) is None


def test_times_are_written_with_nine_digits() -> None:
    assert rfc3339(0.5) == "1970-01-01T00:00:00.500000000Z"
    assert rfc3339(0, nanoseconds=7) == "1970-01-01T00:00:00.000000007Z"


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=2**33))
def test_times_written_read_back(moment: int) -> None:
    assert unix_seconds(rfc3339(moment)) == moment


def test_local_times_name_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert local_time(0) == "1970-01-01 00:00:00 +0000 UTC"
    assert rfc3339_seconds(0) == "1970-01-01T00:00:00Z"
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    assert local_time(0) == "1969-12-31 19:00:00 -0500 EST"
    assert rfc3339_seconds(0) == "1969-12-31T19:00:00-05:00"
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600.0),
        ("7d", 604800.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("", None),
        ("10", None),
    ],
)
def test_durations_are_go_s(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["1700000000", "1700000000.0", "2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"],
)
def test_a_moment_is_seconds_or_a_time(text: str) -> None:
    assert moment_of(text) == 1_700_000_000


def test_a_moment_may_be_so_long_ago() -> None:
    found = moment_of("1h30m")
    assert found is not None
    assert abs(time.time() - 5400 - found) < 5


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.2.3", "10 m"])
def test_what_is_no_moment_is_none(text: str) -> None:
    assert moment_of(text) is None
