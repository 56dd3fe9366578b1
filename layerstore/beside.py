"""Files that appear whole: written beside their place under a temporary name, then renamed.

    .lamina-write-PID     what the process PID writes, and removes when that fails

A process that is killed cannot remove it; the next one that writes into the directory does.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".lamina-write-"


def temporary_beside(path: Path) -> Path:
    """A name in the directory of `path` for one file at a time of this process."""
    return path.with_name(f"{_PREFIX}{os.getpid()}")


def left_over(directory: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """What processes that are dead have left in `directory`, if there is one, as `prefix` + PID."""
    for path in directory.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix)
        if process.isdecimal() and not Path("/proc", process).exists():
            yield path


def remove_left_over(directory: Path) -> None:
    """Remove what writers that are dead have left in `directory`, if there is one."""
    for path in left_over(directory):
        path.unlink(missing_ok=True)
