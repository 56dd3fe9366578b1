"""The options that limit resources: all forms, docker's bounds, and what is wrong with others."""

import os
from collections.abc import Callable

import pytest

from builder.cli import limits
from builder.cli.arguments import UsageError, split
from builder.cli.build import BUILD
from builder.cli.run import RUN
from builder.sandbox import RESOURCES, Limits, ResourceLimit

CPUS = os.cpu_count() or 1


def problem(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    return f"{caught.value.message} ({caught.value.hint})"


class TestUlimit:
    @pytest.mark.parametrize(
        ("text", "soft", "hard"),
        [
            ("nofile=100", 100, 100),
            ("nofile=100:200", 100, 200),
            ("nofile=-1", -1, -1),
            ("nofile=0:-1", 0, -1),
        ],
    )
    def test_every_form(self, text: str, soft: int, hard: int) -> None:
        assert limits.parse_ulimit(text) == ResourceLimit(name="nofile", soft=soft, hard=hard)

    @pytest.mark.parametrize("name", RESOURCES)
    def test_every_name(self, name: str) -> None:
        assert limits.parse_ulimit(f"{name}=1").name == name

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nofile", "it has no value"),
            ("files=1", "invalid ulimit type 'files'"),
            ("nofile=1:2:3", "too many limits"),
            ("nofile=5:2", "the soft limit is above the hard one"),
            ("nofile=-1:2", "the soft limit is above the hard one"),
            ("nofile=x", "'x' is no limit"),
            ("nofile=-2", "'-2' is no limit"),
            (f"nofile={1 << 63}", "is no limit"),
        ],
    )
    def test_what_makes_no_sense(self, text: str, message: str) -> None:
        assert message in problem(lambda: limits.parse_ulimit(text))

    def test_the_last_of_a_name_counts(self) -> None:
        line = split(RUN, ["--ulimit", "nofile=1", "--ulimit=core=0", "--ulimit=nofile=2", "x"])
        assert [(each.name, each.soft) for each in limits.ulimits(line)] == [
            ("nofile", 2),
            ("core", 0),
        ]


class TestMemory:
    def test_sizes(self) -> None:
        assert limits.memory(None) == 0
        assert limits.memory("64m") == 64 << 20
        assert limits.memory_reservation("32m", 64 << 20) == 32 << 20
        assert limits.memory_reservation("32m", 0) == 32 << 20
        assert limits.memory_swap("-1", 64 << 20) == -1
        assert limits.memory_swap("128m", 64 << 20) == 128 << 20
        assert limits.memory_swap(None, 64 << 20) == limits.memory_swap("0", 5) == 0
        assert limits.swappiness("0") == 0
        assert limits.swappiness("-1") is limits.swappiness(None) is None

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda: limits.memory("1m"), "minimum memory limit allowed is 6MB"),
            (lambda: limits.memory("much"), "'much' for --memory: not a size"),
            (lambda: limits.memory("8192p"), "more than 9223372036854775807 bytes"),
            (lambda: limits.size("9" * 19, "shm-size"), "for --shm-size: more than 92233720368"),
            (lambda: limits.memory("9" * 400), "not a size"),
            (lambda: limits.memory_reservation("1m", 0), "minimum memory reservation"),
            (lambda: limits.memory_reservation("9m", 8 << 20), "less than memory reservation"),
            (lambda: limits.memory_swap("1g", 0), "always set the memory limit"),
            (lambda: limits.memory_swap("9m", 64 << 20), "larger than memory limit"),
            (lambda: limits.swappiness("101"), "range is 0-100"),
            (lambda: limits.swappiness("x"), "not a whole number"),
        ],
    )
    def test_docker_s_bounds(self, act: Callable[[], object], message: str) -> None:
        assert message in problem(act)


class TestProcessors:
    @pytest.mark.parametrize(
        ("text", "nano"),
        [(None, 0), ("0", 0), ("1", 10**9), (".5", 5 * 10**8), ("0.25", 25 * 10**7), ("1.", 10**9)],
    )
    def test_numbers(self, text: str | None, nano: int) -> None:
        assert limits.nano_cpus(text) == nano

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda: limits.nano_cpus("x"), "failed to parse x as a rational number"),
            (lambda: limits.nano_cpus("-1"), "failed to parse"),
            (lambda: limits.nano_cpus("1e3"), "failed to parse"),
            (lambda: limits.nano_cpus("."), "failed to parse"),
            (lambda: limits.nano_cpus("0.0000000001"), "value is too precise"),
            (lambda: limits.nano_cpus("0.001"), "range of CPUs is from 0.01"),
            (lambda: limits.nano_cpus(f"{CPUS}.1"), f"only {CPUS} CPUs available"),
            (lambda: limits.cpu_period("999"), "can not be less than 1ms"),
            (lambda: limits.cpu_period("1000001"), "larger than 1s"),
            (lambda: limits.cpu_quota("999"), "less than 1ms"),
            (lambda: limits.cpu_quota("-2"), "less than 1ms"),
            (lambda: limits.cpu_shares("-1"), "at least 0"),
            (lambda: limits.cpu_shares("x"), "not a whole number"),
        ],
    )
    def test_docker_s_bounds(self, act: Callable[[], object], message: str) -> None:
        assert message in problem(act)

    def test_time_and_shares(self) -> None:
        assert limits.cpu_period("50000") == 50_000
        assert limits.cpu_quota("25000") == 25_000
        assert limits.cpu_quota("-1") == limits.cpu_quota(None) == 0
        assert [limits.cpu_shares(text) for text in (None, "0", "1", "512", "9999999")] == [
            *(0, 0, 2, 512, 262144)
        ]

    def test_sets(self) -> None:
        assert limits.cpuset("cpuset-cpus", "0") == "0"
        assert limits.cpuset("cpuset-cpus", "0-0,0") == "0-0,0"
        assert limits.cpuset("cpuset-mems", "0") == "0"
        assert limits.cpuset("cpuset-cpus", None) == ""

    @pytest.mark.parametrize("text", ["x", "-1", "1-", "3-2", "0,", "0--1", "999999999"])
    def test_sets_that_are_none(self, text: str) -> None:
        wrong = problem(lambda: limits.cpuset("cpuset-cpus", text))
        assert f"invalid value {text} for cpuset cpus" in wrong

    def test_sets_that_are_not_there(self) -> None:
        found = problem(lambda: limits.cpuset("cpuset-cpus", "0,9999"))
        assert "requested CPUs are not available - requested 0,9999, available: 0" in found
        found = problem(lambda: limits.cpuset("cpuset-mems", "99"))
        assert "requested memory nodes are not available" in found


class TestBuild:
    def limits(self, *words: str) -> Limits:
        return limits.of_build(split(BUILD, [*words, "."]))

    def test_options_and_resources_say_the_same(self) -> None:
        options = ("-m=64m", "--memory-swap=96m", "-c=512", "--cpu-quota=5000", "--cpuset-cpus=0")
        pairs = ("memory=64m", "memory-swap=96m", "cpu-shares=512", "cpu-quota=5000")
        resources = [f"--resource={pair}" for pair in (*pairs, "cpuset-cpus=0")]
        expected = Limits(
            memory_bytes=64 << 20,
            memory_swap_bytes=96 << 20,
            cpu_shares=512,
            cpu_quota_us=5000,
            cpuset_cpus="0",
        )
        assert self.limits(*options) == self.limits(*resources) == expected

    def test_an_option_goes_before_a_resource_and_the_last_of_these_counts(self) -> None:
        resources = ("--resource=memory=32m", "--resource=memory=48m")
        assert self.limits(*resources).memory_bytes == 48 << 20
        assert self.limits("-m=64m", *resources).memory_bytes == 64 << 20

    def test_nothing_is_limited_without_a_word(self) -> None:
        assert self.limits() == Limits()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--resource=memory",), "it has no value"),
            (("--resource=disk=1g",), "unknown resources key 'disk' (there are memory, "),
            (("--resource=memory=1m",), "minimum memory limit allowed is 6MB"),
            (("--resource=cpu-shares=x",), "not a whole number"),
            (("--memory-swap=1g",), "always set the memory limit"),
        ],
    )
    def test_what_makes_no_sense(self, words: tuple[str, ...], message: str) -> None:
        assert message in problem(lambda: self.limits(*words))
