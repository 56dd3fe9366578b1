"""The conformance material: the build cases against the recorded result.

Those that are not here are in test_differential.py, where buildah builds them too.
"""

import pytest

from builder.state import DEFAULT_PATH_ENV
from tests.endtoend.conformance_run import (
    ALL_AGREE,
    EXCEPTIONS,
    Runner,
    Verdict,
    is_refused_on_purpose,
    sample,
)
from tests.support import conformance
from tests.support.tally import RecordProperty, note

pytestmark = [
    pytest.mark.needs_overlay,
    pytest.mark.needs_material,
]

DEBIAN = conformance.STATE / "rootfs/debian.tar"
ALONGSIDE = {*sample(), *ALL_AGREE}
CASES = [name for name in conformance.cases() if name not in ALONGSIDE]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_the_recorded_one(
    runner: Runner, name: str, record_property: RecordProperty
) -> None:
    case = conformance.cases()[name]
    if "debian" in conformance.base_kinds(case) and not DEBIAN.exists():
        pytest.skip("needs a Debian root file system: run the peers' setup.sh")
    note(record_property, f"build_cases {case['suite']}", exception=EXCEPTIONS.get(name, ""))
    verdict = runner.run(case)
    if verdict.outcome == "refused":
        assert is_refused_on_purpose(verdict.details[0]), f"refused: {verdict.details[0]}"
        pytest.skip(f"refused as not supported: {verdict.details[0]}")
    if name in EXCEPTIONS:
        assert verdict.outcome == "fail", "an exception that is none any more"
        return
    assert not verdict.details, "\n".join(verdict.details)


def test_a_case_that_gives_something_else_fails(runner: Runner) -> None:
    """The comparison itself: a reference that is changed by one bit is not met."""
    assert _changed(runner, "mode", "0601") == "~ file: mode should be 0601, is 0600"
    assert _changed(runner, "uid", 7) == "~ file: uid should be 7, is 0"
    assert _changed(runner, "", "") == ""


def _changed(runner: Runner, field: str, value: object) -> str:
    entry = {"type": "file", "mode": "0600", "uid": 0, "gid": 0, "size": 1}
    case = {
        "name": "own",
        "steps": [
            {
                "dockerfile": "FROM scratch\nCOPY file /\n",
                "context": {"file": {"type": "file", "content": "x", "mode": "0600"}},
                "checks": [],
                "reference": {
                    "result": "ok",
                    "base": "scratch",
                    "config": {"WorkingDir": "/"},
                    "env_optional": [DEFAULT_PATH_ENV],
                    "fs": {"file": entry | ({field: value} if field else {})},
                    "removed": [],
                },
            }
        ],
    }
    verdict: Verdict = runner.run(case)
    (problem,) = verdict.details or ("",)
    return problem.removeprefix("step 0: ")
