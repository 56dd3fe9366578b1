"""Another order of directories: what changes it, and that nothing else is changed by it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import disorder
from builder.disorder import copy_names, free_bytes, listed, open_disordered
from builder.sandbox import ForkServer
from builder.snapshot import open_snapshot
from layerstore import Layer, Store, TreeIndex, tree_changes
from tests.support.rootfs import make_root, need_busybox
from tests.support.sandboxes import Bench

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def layers(store: Store, tmp_path: Path) -> tuple[Layer, ...]:
    """A root; some files; a directory more, a file less and some new ones."""
    need_busybox()
    trees = [make_root(tmp_path / "0"), tmp_path / "1", tmp_path / "2"]
    for tree in trees[1:]:
        (tree / "d").mkdir(parents=True)
    for name in LETTERS:
        (trees[1] / "d" / name).touch()
        (trees[1] / "d" / f"{name}.d").mkdir()
    for name in LETTERS[:5]:
        (trees[2] / "d" / f"new-{name}").touch()
    os.mknod(trees[2] / "d/b", 0o600, os.makedev(1, 3))
    return tuple(store.layers.commit(tree_changes(None, tree)) for tree in trees)


def view(store: Store, layers: tuple[Layer, ...], tmp_path: Path, script: str) -> list[str]:
    with ForkServer() as server, open_snapshot(layers, store) as snapshot:
        bench = Bench(executor=server, lower=tmp_path, scratch=tmp_path)
        return bench.sh(script, root=snapshot.root).lines


def test_directories_of_lower_layers_list_backwards(
    store: Store, layers: tuple[Layer, ...], server: ForkServer, tmp_path: Path
) -> None:
    script = "find /d -maxdepth 1; echo; find /bin"
    before = view(store, layers, tmp_path, script)
    with open_disordered(layers, store, server) as snapshot:
        bench = Bench(executor=server, lower=tmp_path, scratch=tmp_path)
        after = bench.sh(script, root=snapshot.root).lines
    assert len(before) > 60
    for was, now in zip(parts(before), parts(after), strict=True):
        assert now == was[::-1]


def parts(lines: list[str]) -> list[list[str]]:
    at = lines.index("")
    return [lines[1:at], lines[at + 2 :]]  # without the directories themselves


def test_what_is_there_stays_the_same(
    store: Store, layers: tuple[Layer, ...], server: ForkServer, tmp_path: Path
) -> None:
    script = (
        "find / -xdev | sort | while read f; do stat -c '%n %F %a %u %g %t %T' $f; done;"
        " find / -xdev -type f | sort | xargs sha256sum; cat /d/new-a"
    )
    before = view(store, layers, tmp_path, script)
    with open_disordered(layers, store, server) as snapshot:
        bench = Bench(executor=server, lower=tmp_path, scratch=tmp_path)
        assert bench.sh(script, root=snapshot.root).lines == before
        assert list(snapshot.changes()) == []


def test_new_directories_list_in_another_order(
    store: Store, layers: tuple[Layer, ...], server: ForkServer, tmp_path: Path
) -> None:
    script = "mkdir /n; for i in " + " ".join(LETTERS) + "; do touch /n/$i; done; find /n"
    before = view(store, layers, tmp_path, script)
    with open_disordered(layers, store, server) as snapshot:
        bench = Bench(executor=server, lower=tmp_path, scratch=tmp_path)
        after = bench.sh(script, root=snapshot.root).lines
        assert [str(change.path) for change in snapshot.changes()][1:] == [
            f"n/{name}" for name in LETTERS
        ]
    assert sorted(before) == sorted(after)
    assert before != after


def test_nothing_is_left_in_the_store(
    store: Store, layers: tuple[Layer, ...], server: ForkServer
) -> None:
    with open_disordered(layers, store, server) as snapshot:
        assert snapshot.upperdir.is_dir()
    store.lease()
    names = [path.name for path in store.tmp.glob("*/dir*")]
    assert names == []


def test_memory_that_is_used_up_is_an_error(
    store: Store,
    layers: tuple[Layer, ...],
    server: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disorder, "free_bytes", lambda: 4 << 20)
    with open_disordered(layers, store, server) as snapshot:
        bench = Bench(executor=server, lower=tmp_path, scratch=tmp_path)
        bench.sh("head -c 3000000 /dev/zero > /big; true", root=snapshot.root)
        with pytest.raises(OSError, match="No space left"):
            list(snapshot.changes())


def test_there_is_memory() -> None:
    assert free_bytes() > 1 << 20


NAMES = st.lists(st.sampled_from(LETTERS), unique=True, max_size=6)


@settings(deadline=None, max_examples=30)
@given(st.lists(NAMES, min_size=1, max_size=3))
def test_the_lowest_layer_is_listed_first(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]
) -> None:
    top = tmp_path_factory.mktemp("lower")
    tree = TreeIndex()
    for number, each in enumerate(names):
        for name in each:
            (top / str(number) / "d").mkdir(parents=True, exist_ok=True)
            (top / str(number) / "d" / name).touch()
        (top / str(number)).mkdir(exist_ok=True)
        for change in tree_changes(None, top / str(number)):
            tree.apply_change(change)
    lowerdirs = [top / str(number) for number in reversed(range(len(names)))]
    found = listed(tree, lowerdirs, "d")
    assert sorted(found) == sorted({name for each in names for name in each})
    rest = found
    for number in range(len(names)):
        directory = top / str(number) / "d"
        own = [p.name for p in directory.iterdir() if p.name in rest] if directory.exists() else []
        assert rest[: len(own)] == own
        rest = rest[len(own) :]
    assert rest == []


def test_names_that_no_path_can_carry_keep_their_order(tmp_path: Path) -> None:
    tree = TreeIndex()
    deep = "/".join(["n" * 250] * 20)
    source = tmp_path / "source"
    source.mkdir()
    fd = os.open(source, os.O_RDONLY)
    for name in deep.split("/"):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    for change in tree_changes(None, source):
        tree.apply_change(change)
    (tmp_path / "names").mkdir()
    copy_names(tree, [source], tmp_path / "names")
    assert [path.name for path in (tmp_path / "names").iterdir()] == ["n" * 250]
