"""The tools that `make test` runs before the tests: are they there, and do they really check?

`make test` runs ruff and mypy over everything. Here each is given one bad file under the project's
own settings, so that a setting that switches it off is noticed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MUST_CHECK_ALL

REPOSITORY = Path(__file__).parents[1]


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None and MUST_CHECK_ALL:
        pytest.fail(f"{name} is not installed, and this machine must check everything")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_ruff_finds_what_the_house_style_forbids(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from .x import y\ndef public(a):\n    print(a)\n")
    done = run(tool("ruff"), "check", "--config", "pyproject.toml", "--no-cache", str(bad))
    assert done.returncode == 1
    for rule in ("TID252", "ANN001", "T201", "D1"):
        assert rule in done.stdout


def test_mypy_is_strict(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f(a): return a\nx: list = []\ny = 1  # type: ignore\n")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    done = run(tool("mypy"), "--config-file", "pyproject.toml", *cache, str(bad))
    assert done.returncode == 1
    for code in ("no-untyped-def", "type-arg", "unused-ignore"):
        assert f"[{code}]" in done.stdout
