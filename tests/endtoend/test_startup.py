"""Start-up is a budget: which modules a command may import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import REPOSITORY, Lamina

HEAVY = {
    *("lark", "zstandard", "isal", "click", "rich", "urllib3", "textual", "jinja2", "pyroute2"),
    *("subprocess", "tarfile", "asyncio", "argparse", "difflib", "tempfile", "http", "email"),
}


# What only a step that is carried out has a use for.
EXPLAINING = {"builder.explain", "builder.earlier", "builder.predict", "resource"}
PERFORMING = {
    *("builder.execution", "builder.perform", "builder.mounting", "builder.fileops"),
    *("builder.sandbox.server", "builder.sandbox.spec"),
    *("layerstore.tarcodec", "layerstore.compression", "layerstore.overlaydir"),
}


def imported(store: Lamina, *args: str | Path) -> set[str]:
    """Modules, and packages of modules, loaded while the command ran, in its main process."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "builder", *map(str, args)],
        cwd=REPOSITORY,
        env=store.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    assert "builder" in names
    return {name.partition(".")[0] for name in names} | set(names)


@pytest.mark.parametrize("command", [["--version"], ["images"], ["ps"]], ids=" ".join)
def test_small_commands_import_nothing_heavy(lamina: Lamina, command: list[str]) -> None:
    assert imported(lamina, *command) & HEAVY == set()


@pytest.mark.needs_overlay
def test_run_imports_nothing_heavy(busybox: Lamina) -> None:
    busybox("run", "--rm", "busybox", "true")  # the first one has a layer to unpack
    assert imported(busybox, "run", "--rm", "busybox", "true") & HEAVY == set()


@pytest.mark.needs_overlay
def test_a_fully_cached_build_imports_nothing_heavy(busybox: Lamina, context: Path) -> None:
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text("FROM busybox\nCOPY f /f\nRUN cp /f /g\nENV A=b\n")
    busybox("build", "-t", "it", context)
    unwanted = HEAVY | EXPLAINING | PERFORMING
    if os.geteuid() != 0:  # entering a user namespace is the sandbox room's
        unwanted = {name for name in unwanted if not name.startswith("builder.sandbox")}
    assert imported(busybox, "build", "-t", "it", context) & unwanted == set()
