"""The gates of conftest.py: an unmet need is a skip that is told, or a failure where asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.needs_peers("no-such-tool", "sh")
@pytest.mark.parametrize("number", range(3))
def test_with_another_tool(number): pass

@pytest.mark.needs_peers("sh")
def test_with_a_shell(): pass

def test_skipped_by_itself(): pytest.skip("the moon is not full")
"""


CASES = """
import pytest
from tests.support.tally import note, note_row

@pytest.mark.parametrize("number", range(5))
def test_case(number, record_property):
    exception = "so be it" if number == 4 else ""
    note(record_property, "even" if number % 2 == 0 else "odd", exception=exception)
    same = number != 2
    note_row(record_property, f"row of {number}", answers=f"ours=ref same, buildah=ref same, "
             f"ours=buildah {'same' if same else 'differs'}")
    if number == 1: pytest.skip("refused as not supported: x")
    if number == 3: pytest.skip("no use")
    assert number != 2
"""


def run_tests(
    folder: Path, *, must_check_all: bool = False, tests: str = TESTS
) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(tests)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(folder), str(folder)),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"LAMINA_MUST_CHECK_ALL": "1" if must_check_all else ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_not_checked_is_listed_with_reasons_and_numbers(tmp_path: Path) -> None:
    done = run_tests(tmp_path, must_check_all=False)
    assert done.returncode == 0
    assert "1 passed, 4 skipped" in done.stdout
    section = done.stdout.partition("this machine could not check")[2]
    assert "    3 tests  needs_peers: no-such-tool is not installed\n" in section
    assert "    1 tests  the moon is not full\n" in section


def test_where_everything_must_be_checked_an_unmet_need_fails(tmp_path: Path) -> None:
    done = run_tests(tmp_path, must_check_all=True)
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "this machine must check everything, but needs_peers: no-such-tool" in done.stdout


def test_cases_are_counted_by_category_with_the_reasons_of_exceptions(tmp_path: Path) -> None:
    shown = run_tests(tmp_path, tests=CASES).stdout
    table = shown.partition("= conformance =")[2].splitlines()[1:5]
    assert [line.split() for line in table] == [
        ["passed", "failed", "refused", "exception", "not", "applicable"],
        ["even", "1", "1", "0", "1", "0"],
        ["odd", "0", "0", "1", "0", "1"],
        ["exception:", "4:", "so", "be", "it"],
    ]
    rows = shown.partition("= beside buildah =")[2].splitlines()[1:5]
    assert rows[0].split() == ["ours=ref", "bah=ref", "ours=bah"]
    assert rows[1:] == [
        "row of 2",
        "    4 cases  ours=ref same, buildah=ref same, ours=buildah same",
        "    1 cases  ours=ref same, buildah=ref same, ours=buildah differs",
    ]


def test_a_need_that_nobody_defined_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_typo.py").write_text(TESTS.replace("needs_peers", "needs_pears"))
    done = run_tests(tmp_path, must_check_all=False)
    assert done.returncode != 0
    assert "needs_pears" in done.stdout


@pytest.mark.parametrize(
    "name", ["needs_root", "needs_overlay", "needs_userns", "needs_registry", "needs_debian"]
)
def test_every_gate_is_a_marker_that_is_explained(name: str, pytestconfig: pytest.Config) -> None:
    assert any(line.startswith(f"{name}: ") for line in pytestconfig.getini("markers"))
