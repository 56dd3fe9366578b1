"""A store on a small file system of its own, in a mount namespace of its own, until it is full.

    unshare --mount python fulldisk.py DIRECTORY SIZE_KB ARCHIVE CONTEXT

prints a JSON line for every command: what it was, how it ended, and what fsck said after it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.cli import Lamina

SCRIPT = "head -c 3000000 /dev/zero > /x && echo written"


def main(directory: Path, size_kb: str, archive: str, context: str) -> None:
    directory.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(directory)]
    subprocess.run(mount, check=True)
    lamina = Lamina(root=directory / "store")
    for words in (
        ("bootstrap", "busybox"),
        ("build", "--progress=plain", "-t", "built", context),
        ("load", "-i", archive),
        ("run", "--rm", "busybox", "sh", "-c", SCRIPT),
        ("tag", "busybox", "again"),
        ("system", "prune", "--force"),
        ("run", "--rm", "busybox", "echo", "hi"),
    ):
        done = lamina(*words, check=False)
        checked = lamina("fsck", check=False)
        names = lamina("images", "--format", "{{.Repository}}", check=False)
        report: Mapping[str, object] = {
            "words": words,
            "code": done.returncode,
            "out": done.stdout,
            "errors": done.stderr,
            "fsck": checked.returncode,
            "found": checked.stdout + checked.stderr,
            "images": names.stdout.split(),
        }
        sys.stdout.write(json.dumps(report) + "\n")


def fill(
    directory: Path, size_kb: int, archive: Path, context: Path
) -> Sequence[dict[str, object]]:
    """Do it in another process; the reports."""
    repository = Path(__file__).parents[2]
    program = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
    program += "from tests.support.fulldisk import main; main(Path(sys.argv[2]), *sys.argv[3:])"
    words = [sys.executable, "-c", program, repository, directory, size_kb, archive, context]
    done = subprocess.run(
        ["unshare", "--mount", *map(str, words)], check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
