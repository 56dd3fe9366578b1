"""The warnings of a build: reported as they are, and remembered by all that they come from."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.check import check_build, remembered
from builder.check import survey as survey_module
from builder.errors import CheckFailedError, PlanError
from builder.events import CheckWarning
from layerstore import CacheIndex, ContainerConfig, ImageConfig, Platform, Store
from tests.support.images import dockerfile

HOST = Platform(os="linux", architecture="amd64")
TEXT = "FROM a as b\nCOPY $X /x\nFROM c\nCMD d\n"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheIndex]:
    with Store.open(tmp_path / "store") as store:
        yield store.cache


def rules_of(cache: CacheIndex, text: str = TEXT, **more: Any) -> list[str]:
    found = reported(cache, text, **more)
    return [f"{each.rule} {each.line}" for each in found]


def reported(
    cache: CacheIndex,
    text: str,
    *,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    ignore: bytes | None = None,
    platform: Platform = HOST,
    bases: Mapping[str, tuple[str, ImageConfig]] | None = None,
    seen: list[CheckWarning] | None = None,
) -> list[CheckWarning]:
    found = [] if seen is None else seen
    check_build(
        dockerfile(text),
        target=target,
        build_args=build_args or {},
        ignore_file=ignore,
        platform=platform,
        bases=bases or {},
        cache=cache,
        report=found.append,
    )
    return found


@pytest.fixture
def no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a pass over the file is a mistake."""

    def forbidden(*_: object, **__: Any) -> None:
        raise AssertionError("nothing new to look at")

    monkeypatch.setattr(survey_module, "survey_of", forbidden)


def test_what_the_target_needs_is_checked(cache: CacheIndex) -> None:
    assert rules_of(cache) == ["FromAsCasing 1", "JSONArgsRecommended 4"]
    assert rules_of(cache, target="b") == ["FromAsCasing 1", "UndefinedVar 2"]


def test_the_second_time_they_are_remembered(
    cache: CacheIndex, request: pytest.FixtureRequest
) -> None:
    first = reported(cache, TEXT)
    request.getfixturevalue("no_pass")
    assert reported(cache, TEXT) == first
    assert first[0].url.startswith("https://")


def test_they_are_remembered_in_the_store(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with Store.open(tmp_path / "store") as store:
        first = reported(store.cache, TEXT)
        store.flush()
    request.getfixturevalue("no_pass")
    with Store.open(tmp_path / "store") as store:
        assert reported(store.cache, TEXT) == first


CONFIG = ImageConfig(os="linux", architecture="amd64", config=ContainerConfig(env=("X=1",)))
CHANGES: tuple[dict[str, object], ...] = (
    {"text": TEXT.replace("d", "e")},
    {"text": TEXT + "\n"},
    {"target": "b"},
    {"build_args": {"A": "1"}},
    {"build_args": {"A": "2"}},
    {"ignore": b""},
    {"ignore": b"x"},
    {"platform": Platform(os="linux", architecture="arm64")},
    {"bases": {"c": ("sha256:1", CONFIG)}},
    {"bases": {"c": ("sha256:2", CONFIG)}},
)


def test_whatever_changes_makes_a_new_pass(
    cache: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    real = survey_module.survey_of

    def counted(*args: object, **more: Any) -> object:
        passes.append(args)
        return real(*args, **more)  # type: ignore[arg-type]  # passed on as it is

    monkeypatch.setattr(survey_module, "survey_of", counted)
    reported(cache, TEXT)
    for number, change in enumerate(CHANGES, 2):
        text = str(change.get("text", TEXT))
        more = {name: value for name, value in change.items() if name != "text"}
        rules_of(cache, text, **more)
        assert len(passes) == number, change
    monkeypatch.setattr(remembered, "_fingerprint", lambda: "other code")
    reported(cache, TEXT)
    assert len(passes) == len(CHANGES) + 2


def test_a_known_base_gives_its_variables(cache: CacheIndex) -> None:
    bases = {"a": ("sha256:1", CONFIG)}
    assert rules_of(cache, target="b", bases=bases) == ["FromAsCasing 1"]


def test_warnings_that_are_errors_are_reported_before_they_fail(cache: CacheIndex) -> None:
    seen: list[CheckWarning] = []
    for _ in range(2):  # and they are not forgotten the second time
        with pytest.raises(CheckFailedError, match="FromAsCasing, JSONArgsRecommended"):
            reported(cache, "# check=error=true\n" + TEXT, seen=seen)
    assert [each.rule for each in seen] == ["FromAsCasing", "JSONArgsRecommended"] * 2


def test_another_error_is_left_to_the_build(cache: CacheIndex) -> None:
    assert rules_of(cache, "FROM a as b\nEXPOSE nope\n") == ["FromAsCasing 1"]


def test_options_that_make_no_sense_fail(cache: CacheIndex) -> None:
    with pytest.raises(PlanError, match="invalid check option"):
        reported(cache, "# check=nope\nFROM a\n")


def test_the_code_is_part_of_what_they_come_from() -> None:
    assert remembered._fingerprint() == remembered._fingerprint()
    assert len(remembered._fingerprint()) == 64


def test_remembering_imports_nothing_of_the_pass() -> None:
    program = (
        "import sys; from builder.check import check_build\n"
        "sys.exit(any(name in sys.modules for name in"
        " ('builder.check.survey', 'builder.check.rules', 'lark', 'difflib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
