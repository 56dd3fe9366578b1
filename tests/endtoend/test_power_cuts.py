"""Power cuts and failing disks: exit code 0 means it survives, and nothing is ever half there.

Every command is followed from one sync to the next. After each, the power is cut in two ways
(tests/support/disks.py): what is left must be a store without a finding, with the old image whole.
After the last, the new one must be there as well.
"""

import errno
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import record
from builder.errors import BuilderError
from builder.imports import import_tar
from builder.runner import ContainerStore
from layerstore import (
    Export,
    Reference,
    Store,
    load_images,
    overlay_changes,
    prune,
    remove_tree,
    save_images,
    verify_store,
)
from layerstore.errors import NotFoundError, StoreError
from tests.support.containers import record_with
from tests.support.disks import Disk, Faults
from tests.support.executors import FakeExecutor
from tests.support.images import run_build
from tests.support.servers import make_tar
from tests.support.stores import cached_step, make_image, make_layer, seal

# They act on the store from within this process, with devices and owners.
pytestmark = pytest.mark.needs_root

TEXT = """\
FROM old AS other
RUN echo other > /other
FROM old
RUN mkdir /d; echo 1 > /d/one
COPY a /d/two
RUN rm -r /d; echo 2 > /three
COPY --from=other /other /other
"""


def build(root: Path, scratch: Path) -> None:
    context = scratch / "context"
    context.mkdir(exist_ok=True)
    (context / "a").write_bytes(b"a" * 10_000)
    with Store.open(root) as store:
        run_build(store, TEXT, context=context, executor=FakeExecutor(), tag="new", epoch=1)


def load(root: Path, scratch: Path) -> None:
    archive = scratch / "new.tar"
    if not archive.exists():
        with Store.open(scratch / "elsewhere") as store:
            image = make_image(store, "new", {"n": b"1" * 5000}, {"m": b"2"})
            with archive.open("wb") as file:
                export = Export(image=image, names=(Reference.parse("new"),))
                save_images(store, [export], file, format="docker")
    with Store.open(root) as store, archive.open("rb") as file:
        load_images(store, file)


def import_(root: Path, scratch: Path) -> None:
    with Store.open(root) as store:
        image = import_tar(store, io.BytesIO(make_tar({"n": b"1"})), changes=(), message="")
        store.images.tag(image, Reference.parse("new"))


def tag(root: Path, scratch: Path) -> None:
    with Store.open(root) as store:
        store.images.tag(store.images.resolve("old"), Reference.parse("new"))


def prune_and_make(root: Path, scratch: Path) -> None:
    """Garbage goes, and a new image takes its place."""
    with Store.open(root) as store:
        store.images.remove(store.images.resolve("dropped"))
        store.flush()
        prune(
            store,
            images="unused",
            cache="all",
            choose=lambda image: "old:latest" not in image.names,
        )
        make_image(store, "new", {"d": b"dropped"}, {"other": b"1"})


def checkout(root: Path, scratch: Path) -> None:
    """Directories that were adopted or extracted are not synced."""
    with Store.open(root) as store:
        with store.new_tmpdir() as directory:
            upper = directory / "upper"
            upper.mkdir()
            (upper / "a").write_bytes(b"a" * 5000)
            layer = store.layers.commit(overlay_changes(upper), upperdir=upper)
        store.cache.put(cached_step(b"k", layer), parent=None, variant="")
        other = make_layer(store, {"n": b"3" * 5000})
        store.layers.lowerdirs([layer, other, *store.images.resolve("old").layers])
        store.images.tag(seal(store, [layer, other]), Reference.parse("new"))


COMMANDS = [build, load, import_, tag, prune_and_make, checkout]
CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
Command = Callable[[Path, Path], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an old image in it."""
    root = tmp_path / "disk" / "store"
    root.parent.mkdir()
    with Store.open(root) as store:
        make_image(store, "old", {"etc/passwd": b"root:x:0:0::/root:/bin/sh\n"}, {"a": b"1"})
        make_image(store, "dropped", {"d": b"dropped"})
    return root


def problems(root: Path) -> list[str]:
    with Store.open(root) as store:
        found = [str(finding) for finding in verify_store(store)]
        found += [f"build {name}: {why}" for name, why in record.damaged(store.private / "builds")]
    return found


def is_whole(root: Path, name: str) -> bool:
    """Whether the image is there, and all of it can be unpacked."""
    with Store.open(root) as store:
        try:
            image = store.images.resolve(name)
        except NotFoundError:
            return False
        for layer in image.layers:
            store.layers.reread(layer)
        store.layers.lowerdirs(image.layers)
    return True


class Cuts:
    """Cuts the power after each sync, and looks at what is left."""

    def __init__(self, top: Path, root: Path, scratch: Path, patch: pytest.MonkeyPatch) -> None:
        self._place = root.relative_to(top)
        self._scratch = scratch
        self._number = 0
        self._is_old = root.exists()
        self.disk = Disk(top, patch, self.check)

    def left(self) -> Iterator[Path]:
        for keeps_names in (False, True):
            self._number += 1
            target = self._scratch / f"left{self._number}"
            self.disk.lose_power(target, keeps_names=keeps_names)
            boot = target / self._place / "lamina" / "boot"
            if boot.exists():  # the next boot
                boot.write_text("another\n")
            yield target / self._place

    def check(self) -> None:
        for root in self.left():
            assert problems(root) == [], f"after sync {self.disk.syncs}"
            assert is_whole(root, "old") or not self._is_old
            is_whole(root, "new")

    def check_end(self) -> None:
        with self.disk.unwatched():
            for root in self.left():
                assert problems(root) == []
                assert is_whole(root, "new")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.__name__)
def test_what_was_done_survives_a_power_cut(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    with monkeypatch.context() as patch:
        cuts = Cuts(root.parent, root, tmp_path, patch)
        command(root, tmp_path)
        cuts.check_end()
    assert cuts.disk.syncs >= 1


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.__name__)
def test_a_call_that_fails_is_an_error_and_leaves_a_good_store(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    persistent: bool,
) -> None:
    """The first call fails, then the second, and so on, until there is none left to fail."""
    for number in range(1, 1000):
        copy = tmp_path / "copies" / str(number)
        shutil.copytree(root, copy, symlinks=True)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        failed = None
        with monkeypatch.context() as patch:
            faults = Faults(patch, number, CODES[number % len(CODES)], persistent=persistent)
            try:
                command(copy, scratch)
            except (OSError, StoreError, BuilderError) as error:
                failed = error
        if not faults.happened:
            break
        assert problems(copy) == [], f"call {number}"
        assert is_whole(copy, "old")
        assert is_whole(copy, "new") == (failed is None), f"call {number}: {failed!r}"
        assert not list((copy / "lamina" / "tmp").iterdir())
        remove_tree(copy)
    assert 5 < number < 999


def test_a_new_store_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk" / "deep" / "store"
    (tmp_path / "disk").mkdir()
    with monkeypatch.context() as patch:
        cuts = Cuts(tmp_path / "disk", root, tmp_path, patch)
        with Store.open(root) as store:
            make_image(store, "new", {"a": b"1"})
        cuts.check_end()


def test_a_container_survives_with_its_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is made to stay; what its program writes is its own business."""
    made = record_with(id="a" * 64, name="kept", manifest_digest="", layers=())
    with monkeypatch.context() as patch:
        cuts = Cuts(root.parent, root, tmp_path, patch)
        containers = ContainerStore(root / "lamina")
        assert containers.claim_name("kept", made.id) == "kept"
        containers.make(made)
        with cuts.disk.unwatched():
            for left in cuts.left():
                assert ContainerStore(left / "lamina").find("kept") == made
                assert list(ContainerStore(left / "lamina").damaged()) == []
