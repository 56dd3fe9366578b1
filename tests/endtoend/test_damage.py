"""Damage of every kind of file of the store: named, never served, healed or refused.

LAMINA_DAMAGES=all tries every way to damage each file, and flips at its beginning, middle and end.
"""

import json
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import JSON, OciLayout
from tests.support.stores import flip

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
]

ENV = {"SOURCE_DATE_EPOCH": "1700000000"}
DOCKERFILE = """\
FROM busybox
COPY data /data
RUN md5sum /data > /sum; chmod 640 /sum
RUN rm /data; echo told
CMD cat /sum
"""


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


WAYS: Mapping[str, Callable[[Path], object]] = {
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "missing": Path.unlink,
    "flipped first": lambda path: flip(path, 0),
    "flipped last": flip,
    "truncated": truncate,
    "empty": lambda path: os.truncate(path, 0),
}
CHOSEN = list(WAYS) if os.environ.get("LAMINA_DAMAGES") == "all" else ["flipped", "missing"]

# What of a kind is looked for; whether fsck must name it, when it is not merely missing.
KINDS: Mapping[str, tuple[Callable[[Lamina], Path], bool]] = {
    "base layer": (lambda it: blob(it, manifest(it)["layers"][0]["digest"]), True),
    "layer": (lambda it: blob(it, manifest(it)["layers"][2]["digest"]), True),
    "config": (lambda it: blob(it, manifest(it)["config"]["digest"]), True),
    "manifest": (lambda it: blob(it, OciLayout(it.root).names()["it:latest"]), True),
    "index.json": (lambda it: it.root / "index.json", True),
    "copy of index.json": (lambda it: it.root / "lamina/index", True),
    "oci-layout": (lambda it: it.root / "oci-layout", True),
    "version": (lambda it: it.root / "lamina/version", False),  # written anew at once
    "boot": (lambda it: it.root / "lamina/boot", False),  # the same
    "database": (lambda it: it.root / "lamina/cache.db", False),  # most bytes mean nothing
    "table of contents": (lambda it: it.root / "lamina/toc" / diff_id(it, 2), True),
    "checkout": (lambda it: it.root / "lamina/snapshots" / diff_id(it, 2)[:32] / "sum", True),
    "memory of a run": (lambda it: it.root / "lamina/run/it.json", False),  # made again
    "record": (lambda it: next((it.root / "lamina/builds").glob("*.json")), True),
    "log": (lambda it: next((it.root / "lamina/builds").glob("*.log")), True),
    "container": (lambda it: next((it.root / "lamina/containers").glob("*/*.json")), True),
}
NOT_HEALED = ("record", "log", "container")  # gone for good: what they said is nowhere else


def copy(root: Path, target: Path) -> None:
    """With devices and attributes; other inodes, so that all checkouts are looked at."""
    subprocess.run(["cp", "-a", root, target], check=True)


def blob(it: Lamina, digest: str) -> Path:
    return OciLayout(it.root).blob(digest)


def manifest(it: Lamina) -> JSON:
    return OciLayout(it.root).manifest("it:latest")


def diff_id(it: Lamina, number: int) -> str:
    config = json.loads(blob(it, manifest(it)["config"]["digest"]).read_bytes())
    return str(config["rootfs"]["diff_ids"][number]).removeprefix("sha256:")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store with an image, a container and records, and the context of the image."""
    folder = tmp_path_factory.mktemp("whole")
    context = folder / "context"
    context.mkdir()
    (context / "data").write_bytes(random.Random(1).randbytes(3000))
    (context / "Dockerfile").write_text(DOCKERFILE)
    lamina = Lamina(root=folder / "store")
    lamina("bootstrap", "busybox")
    lamina("build", "-t", "it", context, env=ENV)
    lamina("run", "--name", "kept", "it")
    lamina("run", "--rm", "it")
    return lamina.root, context


@pytest.mark.parametrize("way", CHOSEN)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_not_served_and_healed(
    whole: tuple[Path, Path], tmp_path: Path, kind: str, way: str
) -> None:
    root, context = whole
    lamina = Lamina(root=tmp_path / "store")
    copy(root, lamina.root)
    told = lamina("run", "--rm", "it").stdout
    digest = OciLayout(lamina.root).names()["it:latest"]
    find, is_named = KINDS[kind]
    WAYS[way](find(lamina))

    found = lamina("fsck", check=False)
    assert "Traceback" not in found.stderr
    if is_named and way != "missing":
        assert found.returncode == 1, found.stdout
    ran = lamina("run", "--rm", "it", check=False)
    assert ran.returncode != 0 or ran.stdout == told, "what was damaged is never served"
    saved = lamina("save", "-o", tmp_path / "it.tar", "it", check=False)
    if saved.returncode == 0:
        other = Lamina(root=tmp_path / "other")
        other("load", "-i", tmp_path / "it.tar")
        assert other("run", "--rm", "it").stdout == told
    else:
        assert saved.stderr.startswith("lamina: ")

    lamina("bootstrap", "busybox")
    lamina("build", "-t", "it", context, env=ENV)
    assert OciLayout(lamina.root).names()["it:latest"] == digest
    assert lamina("run", "--rm", "it").stdout == told
    found = lamina("fsck", check=False)
    if kind not in NOT_HEALED:
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("command", ["run", "save", "build"])
def test_a_blob_is_made_again_by_whoever_needs_it(
    whole: tuple[Path, Path], tmp_path: Path, command: str
) -> None:
    lamina = Lamina(root=tmp_path / "store")
    copy(whole[0], lamina.root)
    layer = blob(lamina, manifest(lamina)["layers"][2]["digest"])
    before = layer.read_bytes()
    layer.unlink()
    match command:
        case "run":
            assert "data" in lamina("run", "--rm", "it").stdout
        case "save":
            lamina("save", "-o", tmp_path / "it.tar", "it")
        case _:
            done = lamina("build", "--progress=plain", "-t", "it", whole[1], env=ENV)
            assert "DONE" not in done.stderr, "all of it is cached"
    assert layer.read_bytes() == before
    assert lamina("fsck", check=False).returncode == 0


def test_what_cannot_be_healed_can_be_removed(whole: tuple[Path, Path], tmp_path: Path) -> None:
    lamina = Lamina(root=tmp_path / "store")
    copy(whole[0], lamina.root)
    record = KINDS["record"][0](lamina)
    flip(record, 50)
    container = KINDS["container"][0](lamina)
    flip(container, 50)
    lines = lamina("fsck", check=False).stdout.splitlines()
    assert len(lines) == 3
    lamina("builds", "rm", record.stem)
    assert f"`lamina rm -f {container.parent.name[:12]}`" in "".join(lines)
    lamina("rm", "-f", container.parent.name[:12])
    lamina("fsck")
