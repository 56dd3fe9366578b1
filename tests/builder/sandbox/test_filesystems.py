"""What file systems are told apart; a mount of one needs root."""

import subprocess
import sys
from pathlib import Path

import pytest

from builder.sandbox import why_no_overlay
from tests.support.cli import REPOSITORY


def test_what_carries_an_overlay_is_fine(tmp_path: Path) -> None:
    assert why_no_overlay(tmp_path) == ""


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        why_no_overlay(tmp_path / "missing")


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_an_overlay_carries_none(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    script = """
        cd "$1"; mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work merged
        shift; exec "$@"
    """
    ask = "from builder.sandbox import why_no_overlay as why; from pathlib import Path; import sys"
    code = f"{ask}; print(why(Path(sys.argv[1])))"
    program = [sys.executable, "-c", code, str(tmp_path / "merged")]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, *program],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "overlayfs\n"
