"""A full disk is one clear line and a code other than 0: no name, no damage, and room again later.

LAMINA_FULL_DISKS says how many sizes are tried; they are drawn at random.
"""

import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import cli
from tests.support.cli import Lamina
from tests.support.fulldisk import fill

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.usefixtures("clean_machine"),
    pytest.mark.timeout(3600),
]

DISKS = int(os.environ.get("LAMINA_FULL_DISKS", "4"))
SIZES_KB = (100, *random.Random(7).sample(range(1500, 16_000), DISKS))
FULL = "No space left on device"
DOCKERFILE = """\
FROM busybox
COPY data /data
RUN head -c 1500000 /dev/urandom > /r && for n in $(seq 200); do echo $n > /f$n || exit 1; done
RUN cat /r /r > /s
"""


@pytest.fixture
def archive(busybox: Lamina, tmp_path: Path) -> Path:
    path = tmp_path / "loaded.tar"
    context = tmp_path / "first"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN head -c 900000 /dev/urandom > /r\nRUN head -c 900000 /dev/urandom > /s\n"
    )
    busybox("build", "-t", "loaded", context)
    busybox("save", "-o", path, "loaded")
    return path


def is_clear(report: dict[str, Any]) -> bool:
    """Whether a failure is told by one line, and by the full disk or the program that met it."""
    lines = [line for line in str(report["errors"]).splitlines() if line.startswith("lamina: ")]
    if str(report["errors"]).strip() == "" or "Traceback" in str(report["errors"]):
        return False
    (last,) = lines[-1:] or [FULL]
    return any(
        word in last for word in (f"{FULL} (`lamina system df`", "did not complete", FULL)
    ) or last.startswith("lamina: no such image")


@pytest.mark.parametrize("size_kb", SIZES_KB)
def test_a_full_disk_is_told_and_harms_nothing(
    archive: Path, context: Path, tmp_path: Path, size_kb: int
) -> None:
    (context / "data").write_bytes(random.Random(1).randbytes(1 << 20))
    (context / "Dockerfile").write_text(DOCKERFILE)
    reports: Sequence[dict[str, Any]] = fill(tmp_path / "small", size_kb, archive, context)
    for report in reports:
        words, images = report["words"], report["images"]
        if size_kb > 1000:  # else there is no store to look at
            assert report["fsck"] == 0, report
        assert report["code"] == 0 or is_clear(report), report
        for command, name in (("build", "built"), ("load", "loaded"), ("bootstrap", "busybox")):
            if words[0] == command:
                assert (report["code"] == 0) == (name in images), report
    made, *_, pruned, ran = reports
    if made["code"] == 0:
        assert pruned["code"] == 0
    if size_kb > 4000:  # the image and its directory
        assert (ran["code"], ran["out"]) == (0, "hi\n")


def test_what_others_fill_can_be_looked_at_and_emptied(
    archive: Path, context: Path, tmp_path: Path
) -> None:
    """A little room is kept for those who look and remove."""
    (context / "data").write_bytes(random.Random(1).randbytes(1 << 20))
    (context / "Dockerfile").write_text(DOCKERFILE)
    reports = fill(tmp_path / "small", 60_000, archive, context, commands="filled")
    codes = {" ".join(report["words"][:2]): report["code"] for report in reports}
    assert codes.pop("tag busybox") in (0, 1)
    assert set(codes.values()) == {0}, reports
    assert all(report["fsck"] == 0 for report in reports)
    assert reports[-1]["out"] == "hi\n"


def test_a_disk_elsewhere_that_is_full_is_told_by_the_name_on_it(
    busybox: Lamina, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=300k none "$1" && shift && exec "$@"'
    for words, name in (
        (("save", "-o", small / "it.tar", "busybox"), "it.tar"),
        (("save", "--format", "oci-dir", "-o", small / "it", "busybox"), "it"),
        (("copy", "-q", "busybox", f"dir:{small}"), ""),
        (("copy", "-q", "busybox", f"oci-archive:{small}/it.tar"), "it.tar"),
    ):
        inside = ["unshare", "--mount", "sh", "-c", script, "sh", small, *cli.command(), *words]
        done = subprocess.run(
            [*map(str, inside)],
            check=False,
            capture_output=True,
            text=True,
            env=busybox.environment(),
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"lamina: {small / name}")
        assert f": {FULL} (" in done.stderr
    assert busybox("fsck", check=False).returncode == 0


def test_where_not_a_byte_is_left_nothing_is_taken_for_damage(
    archive: Path, context: Path, tmp_path: Path
) -> None:
    """The room that is kept has been given up, and others have filled it as well."""
    reports = fill(tmp_path / "small", 12_000, archive, context, commands="packed")
    made, first, *without_a_byte, again = reports
    assert (made["code"], first["code"], again["code"]) == (0, 0, 0)
    assert again["images"] == first["images"] == ["busybox"]
    for report in without_a_byte:
        assert (report["code"], report["out"]) == (1, "")
        assert report["errors"].count("\n") == 1
        assert f"cache.db: {FULL} (`lamina system df`" in report["errors"]
        assert report["fsck"] == 1
        assert report["found"].startswith("lamina: ")
        assert FULL in report["found"]
