"""Commands carried out in this process: as `lamina ...`, in a quarter of the time."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder import cli
from layerstore import ContainerConfig, History, ImageConfig, Reference, Store, tree_changes
from tests.support.cli import Lamina
from tests.support.rootfs import make_root

IMAGE = "box"
IMAGE_ENV = ("PATH=/bin", "GREETING=hello")


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(frozen=True, slots=True)
class Commands:
    """Carries out command lines on one store; what they print is taken from `capture` (capfd)."""

    root: Path
    capture: pytest.CaptureFixture[str]
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, code: int | None = 0) -> Result:
        """Carry out one line; another exit code than `code` (None: any) fails the test."""
        line = ["--root", str(self.root), *map(str, words)]
        if os.geteuid() == 0:
            self.capture.readouterr()
            found = cli.carry_out(line)
            sys.stdout.flush()
            sys.stderr.flush()
            captured = self.capture.readouterr()
            result = Result(found, captured.out, captured.err)
        else:  # a command of an ordinary user leaves its process in another user namespace
            done = Lamina(root=self.root)(*words, check=False)
            result = Result(done.returncode, done.stdout, done.stderr)
        assert code is None or result.code == code, f"{line}: {result}"
        return result


def make_box_store(root: Path, rootfs: Path) -> None:
    """A store with the image `box`: busybox, two users, a directory with files for volumes."""
    make_root(rootfs)
    (rootfs / "data/inner").mkdir(parents=True)
    (rootfs / "data").chmod(0o750)
    (rootfs / "data/file").write_text("from the image\n")
    (rootfs / "data/twin").hardlink_to(rootfs / "data/file")
    (rootfs / "data/link").symlink_to("file")
    (rootfs / "etc/not-a-program").write_text("plain text\n")
    with Store.open(root) as store:
        layer = store.layers.commit(tree_changes(None, rootfs))
        image = store.images.seal(
            ImageConfig(
                architecture="amd64",
                os="linux",
                created="2024-05-06T07:08:09Z",
                config=ContainerConfig(
                    env=IMAGE_ENV,
                    cmd=("sh", "-c", "echo the image says $GREETING"),
                    labels=(("maker", "test"),),
                ),
                history=(History(created="2024-05-06T07:08:09Z", created_by="COPY root /"),),
            ),
            (layer,),
        )
        store.images.tag(image, Reference.parse(IMAGE))


def copy_store(template: Path, root: Path) -> Path:
    """Cheaper than making one; the copy is as durable as the original."""
    shutil.copytree(template, root, symlinks=True)
    root.chmod(0o700)
    return root
