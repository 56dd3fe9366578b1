"""A store on a small file system of its own, in a mount namespace of its own, until it is full.

    unshare --mount python fulldisk.py DIRECTORY SIZE_KB ARCHIVE CONTEXT all|filled|packed

prints a JSON line for every command: what it was, how it ended, and what fsck said after it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.cli import Lamina

ALL: tuple[tuple[str, ...], ...] = (
    ("bootstrap", "busybox"),
    ("build", "--progress=plain", "-t", "built", "CONTEXT"),
    ("load", "-i", "ARCHIVE"),
    ("run", "--rm", "busybox", "sh", "-c", "head -c 3000000 /dev/zero > /x && echo written"),
    ("tag", "busybox", "again"),
    ("system", "prune", "--force"),
    ("run", "--rm", "busybox", "echo", "hi"),
)
# Others write until not a byte is left.
FILLED: tuple[tuple[str, ...], ...] = (
    ("bootstrap", "busybox"),
    ("build", "--progress=plain", "-t", "built", "CONTEXT"),
    ("fill",),
    ("images",),
    ("tag", "busybox", "again"),
    ("rmi", "built"),
    ("system", "df"),
    ("system", "prune", "--force"),
    ("run", "--rm", "busybox", "echo", "hi"),
)
# The same, and they take what was put aside for those who look, too.
PACKED: tuple[tuple[str, ...], ...] = (
    ("bootstrap", "busybox"),
    ("fill",),
    ("images",),
    ("fill",),
    ("images",),
    ("system", "df"),
    ("empty",),
    ("images",),
)


def main(directory: Path, size_kb: str, archive: str, context: str, commands: str) -> None:
    directory.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(directory)]
    subprocess.run(mount, check=True)
    lamina = Lamina(root=directory / "store")
    known = {"CONTEXT": context, "ARCHIVE": archive}
    for words in {"all": ALL, "filled": FILLED, "packed": PACKED}[commands]:
        if words == ("fill",):
            filling = f"cat /dev/zero >> {directory}/filler"
            subprocess.run(["sh", "-c", filling], check=False, stderr=subprocess.DEVNULL)
            continue
        if words == ("empty",):
            (directory / "filler").unlink()
            continue
        words = tuple(known.get(word, word) for word in words)
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
    directory: Path, size_kb: int, archive: Path, context: Path, commands: str = "all"
) -> Sequence[dict[str, Any]]:
    """Do it in another process; the reports."""
    repository = Path(__file__).parents[2]
    program = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
    program += "from tests.support.fulldisk import main; main(Path(sys.argv[2]), *sys.argv[3:])"
    words = [sys.executable, "-c", program, repository, directory, size_kb, archive, context]
    words.append(commands)
    done = subprocess.run(
        ["unshare", "--mount", *map(str, words)], check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
