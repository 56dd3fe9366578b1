"""What `system df` says of stores of real builds, beside du."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import Lamina

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

DOCKERFILE = """\
FROM busybox AS other
RUN head -c 2000000 /dev/urandom > /other
FROM busybox
COPY data /data
RUN ln /data /hard && dd if=/dev/zero of=/sparse bs=1 count=1 seek=50000000 2>/dev/null
RUN --mount=type=cache,target=/c head -c 700000 /dev/urandom > /c/kept; cp /data /copy
COPY --from=other /other /other
VOLUME /v
RUN mkdir -p /v && head -c 300000 /dev/urandom > /v/file
"""
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def size_of(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]+)", text)
    assert found is not None, text
    return float(found[1]) * _UNITS[found[2]]


def du(*paths: Path) -> int:
    done = subprocess.run(
        ["du", "-s", "-B1", "-c", *map(str, paths)], check=True, capture_output=True, text=True
    )
    return int(done.stdout.splitlines()[-1].split()[0])


@pytest.fixture
def used(busybox: Lamina, context: Path) -> Lamina:
    """Two images that share layers, one that lost its name, containers, volumes, cache mounts."""
    (context / "data").write_bytes(os.urandom(1 << 20))
    for number, name in enumerate(("one", "two", "two")):
        (context / "Dockerfile").write_text(
            f"{DOCKERFILE}RUN head -c 90{number}000 /dev/urandom > /n\n"
        )
        busybox("build", "-q", "-t", name, context)
    write = "head -c 400000 /dev/urandom > /written; head -c 200000 /dev/urandom > /v/more"
    busybox("run", "--name", "kept", "one", "sh", "-c", write)
    busybox("run", "--rm", "-v", "named:/v", "two", "sh", "-c", write)
    (context / "Dockerfile").write_text("FROM busybox\nRUN head -c 800000 /dev/urandom > /gone\n")
    busybox("build", "-q", "-t", "gone", context)
    busybox("rmi", "gone")
    return busybox


def within_a_hundredth(said: float, measured: float) -> bool:
    return abs(said - measured) <= 0.01 * measured + 4096


def test_the_total_is_that_of_du(used: Lamina) -> None:
    text = used("system", "df", "-v").stdout
    total = re.search(r"^Total: (.*)$", text, re.MULTILINE)
    assert total is not None
    assert within_a_hundredth(size_of(total[1]), du(used.root))


def test_the_kinds_add_up_to_the_total(used: Lamina) -> None:
    rows = [
        json.loads(line) for line in used("system", "df", "--format", "json").stdout.splitlines()
    ]
    sizes = {row["Type"]: size_of(row["Size"]) for row in rows}
    text = used("system", "df", "-v").stdout
    other = re.search(r"^Other .*: (.*)$", text, re.MULTILINE)
    assert other is not None
    assert within_a_hundredth(sum(sizes.values()) + size_of(other[1]), du(used.root))
    private = used.root / "lamina"
    volumes = list((private / "volumes").iterdir())
    assert within_a_hundredth(sizes["Local Volumes"], du(*volumes))
    containers = list((private / "containers").iterdir())
    assert within_a_hundredth(sizes["Containers"], du(*containers))


def test_shared_and_unique_bytes_add_up_to_the_images(used: Lamina) -> None:
    """Every unique byte is one image's; the shared ones are counted for each that shares them."""
    lines = used("system", "df", "-v").stdout.split("\n\n")[1].splitlines()
    columns = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert columns[0][-4:] == ["SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]
    for row in columns[1:]:
        whole, shared, unique = map(size_of, row[-4:-1])
        assert abs(whole - shared - unique) <= 0.001 * whole + 1000
    rows = [
        json.loads(line) for line in used("system", "df", "--format", "json").stdout.splitlines()
    ]
    (images,) = (row for row in rows if row["Type"] == "Images")
    unique = sum(size_of(row[-2]) for row in columns[1:])
    shared = max(size_of(row[-3]) for row in columns[1:])
    assert unique + shared <= size_of(images["Size"]) * 1.001
    assert images["TotalCount"] == str(len(columns) - 1)


def test_what_is_reclaimable_is_freed(used: Lamina) -> None:
    def rows() -> dict[str, dict[str, str]]:
        lines = used("system", "df", "--format", "json").stdout.splitlines()
        return {row["Type"]: row for row in map(json.loads, lines)}

    before, before_bytes = rows(), du(used.root)
    free = size_of(before["Build Cache"]["Reclaimable"].split(" ")[0])
    assert free > 700_000
    used("builder", "prune", "--all", "--force")
    assert within_a_hundredth(before_bytes - du(used.root), free)
    free = size_of(rows()["Images"]["Reclaimable"].split(" ")[0])
    assert free > 2_000_000
    before_bytes = du(used.root)
    used("image", "prune", "--all", "--force")
    assert within_a_hundredth(before_bytes - du(used.root), free)
    assert used("ps", "-aq").stdout != ""
    used("fsck")
