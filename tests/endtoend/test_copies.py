"""A store on a file system that carries no overlay: everything works, and gives the same."""

import subprocess
from pathlib import Path

import pytest

from tests.support.cli import Lamina, command
from tests.support.imagetree import OciLayout, difference

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

DOCKERFILE = """\
FROM busybox AS base
RUN mkdir -p /a/b /gone/x && touch /a/b/f /gone/x/y && echo one > /changed && chmod 600 /changed
RUN rm -r /gone && mkdir /gone && touch /gone/new && echo two > /changed && rm /bin/vi \\
 && chown 33:34 /a/b/f && ln /changed /a/hard && ln -s /changed /a/link && mkfifo /a/fifo
FROM base
COPY --from=base /a /copied
RUN --mount=from=base,source=/a,target=/mnt,rw cat /mnt/hard > /seen && touch /mnt/thrown-away
RUN --mount=type=cache,target=/cache echo cached > /cache/f && test ! -e /mnt/thrown-away
CMD ["sh", "-c", "cat /seen /changed; touch /mine; ls /mine"]
"""
SCRIPT = """
set -e
mount -t overlay o -o lowerdir="$1/lower",upperdir="$1/upper",workdir="$1/work" "$1/merged"
export LAMINA_ROOT=$1/merged/store context=$1/context out=$1/out.tar
shift
"$@" bootstrap busybox >/dev/null
"$@" build -q -t it "$context" >/dev/null
"$@" build -q --progress=plain -t again "$context" >/dev/null
"$@" run --name kept it
"$@" start -a kept
"$@" run --rm -v data:/bin it sh -c 'ls /bin | head -1'
"$@" rm kept >/dev/null
"$@" fsck
"$@" save -o "$out" it
"""


def test_it_builds_and_runs_as_elsewhere(busybox: Lamina, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged", "context"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT, "sh", tmp_path, *command()],
        env=busybox.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["two", "two", "/mine"] * 2 + ["[", "0", "problems"]
    busybox("load", "-i", tmp_path / "out.tar")
    busybox("tag", "it", "copied")
    busybox("build", "-t", "it", tmp_path / "context")
    layout = OciLayout(busybox.root)
    assert difference(layout.tree("it:latest"), layout.tree("copied:latest")) == []
