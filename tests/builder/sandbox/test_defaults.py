"""What programs get without asking, and that it costs nothing to know."""

import subprocess
import sys

from builder.sandbox import DEFAULT_PATH


def test_the_path_is_that_of_docker() -> None:
    assert DEFAULT_PATH == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_specification_is_not_loaded_for_it() -> None:
    code = "import sys; from builder.sandbox import DEFAULT_PATH; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "builder.sandbox.spec" not in done.stdout.split()
