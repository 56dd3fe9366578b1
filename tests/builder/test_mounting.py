"""Mounts of a step: what the sandbox is given for each, and what is gone afterwards."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from builder.context import ContextTree
from builder.errors import LoweringError, MissingGrantError
from builder.grants import Grants
from builder.ignorefile import NO_RULES, IgnoreRules, parse_ignore_file
from builder.mounting import OpenedMounts, caches_of, is_as_keyed, open_mounts
from builder.sandbox import BindMount, FileMount, OverlayMount, TmpfsMount
from builder.schedule import Later
from builder.sources import LayerTree, SourceTree, select
from builder.steps import (
    AgentMount,
    CacheMount,
    ExecStep,
    FileStep,
    MakeDirectory,
    MemoryMount,
    SecretMount,
    SourceMount,
    StepMount,
)
from layerstore import Store
from tests.support.layers import make_layer
from tests.support.sources import DictTree, Dir, File, Hard, Items, Link, write_files
from tests.support.steps import cache_mount
from tests.support.work import run_one

ITEMS: Items = {
    "d": Dir(mode=0o750),
    "d/f": File(content=b"text", mode=0o640),
    "d/link": Link("f"),
    "d/same": Hard("d/f"),
    "g": b"other",
}


class Bench:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.cleanup = ExitStack()
        self.told: list[str] = []

    def open(self, *mounts: StepMount, grants: Grants | None = None) -> OpenedMounts:
        return run_one(
            open_mounts(
                mounts,
                store=self.store,
                grants=grants or Grants(),
                cleanup=self.cleanup,
                tell=self.told.append,
            )
        )

    def left(self) -> list[str]:
        """What is still in the directory of temporary files."""
        return sorted(
            path.name for path in self.store.lease().path.iterdir() if path.name.startswith("dir")
        )


@pytest.fixture
def bench(store: Store) -> Iterator[Bench]:
    bench = Bench(store)
    with bench.cleanup:
        yield bench
    assert bench.left() == []


def mount_of(tree: SourceTree, path: str, *, read_only: bool = True) -> SourceMount:
    selection = select(tree, path)
    assert selection is not None
    return SourceMount(
        target="/x",
        kind=selection.kind,
        digest=selection.digest,
        read_only=read_only,
        selection=selection,
    )


def context(
    folder: Path, items: Items, cleanup: ExitStack, rules: IgnoreRules = NO_RULES
) -> ContextTree:
    tree = ContextTree(write_files(folder, items), rules)
    cleanup.callback(tree.close)
    return tree


class TestSources:
    def test_layers_are_an_overlay_and_nothing_is_copied(self, bench: Bench, store: Store) -> None:
        layers = (make_layer(store, ITEMS), make_layer(store, {"h": b"upper"}))
        tree = LayerTree(layers, store.layers, description="base")
        (mount,) = bench.open(mount_of(tree, "d")).mounts
        assert isinstance(mount, OverlayMount)
        assert mount.overlay.lowerdirs == store.layers.lowerdirs(layers)
        assert mount.overlay.volatile
        assert (mount.source_beneath, mount.is_directory, mount.read_only) == ("d", True, True)
        assert list(mount.overlay.upperdir.iterdir()) == []

    def test_a_file_of_layers(self, bench: Bench, store: Store) -> None:
        tree = LayerTree((make_layer(store, ITEMS),), store.layers, description="base")
        (mount,) = bench.open(mount_of(tree, "d/link", read_only=False)).mounts
        assert isinstance(mount, OverlayMount)
        assert (mount.source_beneath, mount.is_directory, mount.read_only) == ("d/f", False, False)

    def test_nothing_at_all_is_an_empty_directory(self, bench: Bench, store: Store) -> None:
        (mount,) = bench.open(
            mount_of(LayerTree((), store.layers, description="scratch"), "")
        ).mounts
        assert isinstance(mount, OverlayMount)
        assert [list(path.iterdir()) for path in mount.overlay.lowerdirs] == [[]]

    @pytest.mark.needs_root
    def test_the_context_is_shown_itself(self, bench: Bench, tmp_path: Path) -> None:
        tree = context(tmp_path / "context", ITEMS, bench.cleanup)
        opened = bench.open(mount_of(tree, "d"), mount_of(tree, ""), mount_of(tree, "g"))
        assert opened.mounts == [
            BindMount(source=tmp_path / "context", source_beneath=path, target="/x", read_only=True)
            for path in ("d", "", "g")
        ]

    @pytest.mark.needs_root
    def test_a_context_that_hides_something_is_copied_without_it(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        rules = parse_ignore_file(b"d/same\n")
        tree = context(tmp_path / "context", ITEMS, bench.cleanup, rules)
        (mount,) = bench.open(mount_of(tree, "")).mounts
        assert isinstance(mount, BindMount)
        copied = sorted(str(path.relative_to(mount.source)) for path in mount.source.rglob("*"))
        assert copied == ["d", "d/f", "d/link", "g"]
        # elsewhere nothing is hidden
        (other,) = bench.open(mount_of(tree, "g")).mounts
        assert isinstance(other, BindMount)
        assert other.source == tmp_path / "context"

    @pytest.mark.needs_root
    def test_files_of_a_context_belong_to_root(self, bench: Bench, tmp_path: Path) -> None:
        items: Items = {"d/f": File(content=b"x", uid=1000, gid=1000, mode=0o600), "g": b"root's"}
        tree = context(tmp_path / "context", items, bench.cleanup)
        (mount,) = bench.open(mount_of(tree, "d")).mounts
        assert isinstance(mount, BindMount)
        status = (mount.source / "f").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)

    @pytest.mark.needs_root
    def test_what_may_be_written_to_is_a_copy(self, bench: Bench, tmp_path: Path) -> None:
        tree = context(tmp_path / "context", ITEMS, bench.cleanup)
        (mount,) = bench.open(mount_of(tree, "d", read_only=False)).mounts
        assert isinstance(mount, BindMount)
        assert not mount.read_only
        assert mount.source != tmp_path / "context"
        (mount.source / "f").write_text("changed")
        assert (tmp_path / "context/d/f").read_text() == "text"

    def test_any_tree_can_be_copied(self, bench: Bench) -> None:
        (mount,) = bench.open(mount_of(DictTree(ITEMS), "d")).mounts
        assert isinstance(mount, BindMount)
        assert (mount.source / "f").read_bytes() == b"text"
        assert (mount.source / "link").readlink() == Path("f")
        assert (mount.source / "same").samefile(mount.source / "f")
        assert stat.S_IMODE(mount.source.stat().st_mode) == 0o750
        assert stat.S_IMODE((mount.source / "f").stat().st_mode) == 0o640

    def test_a_file_of_any_tree_can_be_copied(self, bench: Bench) -> None:
        (mount,) = bench.open(mount_of(DictTree(ITEMS), "g")).mounts
        assert isinstance(mount, BindMount)
        assert (mount.source / mount.source_beneath).read_bytes() == b"other"


class TestChanges:
    """A context that is shown as it is can change while the program looks at it."""

    @pytest.mark.needs_root
    def test_a_change_of_what_is_shown_is_noticed(self, bench: Bench, tmp_path: Path) -> None:
        tree = context(tmp_path / "context", ITEMS, bench.cleanup)
        mounts = [mount_of(tree, "d"), mount_of(tree, "g")]
        assert is_as_keyed(mounts)
        os.utime(tmp_path / "context/g", (1, 1))
        assert is_as_keyed(mounts[:1])
        assert not is_as_keyed(mounts)

    @pytest.mark.needs_root
    def test_of_what_was_copied_nothing_can_change(self, bench: Bench, tmp_path: Path) -> None:
        rules = parse_ignore_file(b"d/same\n")
        tree = context(tmp_path / "context", ITEMS, bench.cleanup, rules)
        mounts = [mount_of(tree, "d"), mount_of(tree, "g", read_only=False)]
        for name in ("d/f", "g"):
            os.utime(tmp_path / "context" / name, (1, 1))
        assert is_as_keyed(mounts)

    def test_other_sources_never_change(self, bench: Bench, store: Store) -> None:
        layers = LayerTree((make_layer(store, ITEMS),), store.layers, description="base")
        assert is_as_keyed([mount_of(layers, "d"), mount_of(DictTree(ITEMS), "d"), cache_mount()])


class TestCaches:
    def source(self, bench: Bench, *mounts: CacheMount) -> list[Path]:
        found = []
        for mount in bench.open(*mounts).mounts:
            assert isinstance(mount, BindMount)
            found.append(mount.source)
        return found

    def test_the_same_cache_is_the_same_directory(self, bench: Bench) -> None:
        first, second = self.source(
            bench, cache_mount(), cache_mount(target="/elsewhere", sharing="locked")
        )
        assert first == second
        assert self.source(bench, cache_mount(id="/other")) != [first]

    @pytest.mark.needs_root
    def test_owner_and_mode_are_those_asked_for(self, bench: Bench) -> None:
        (path,) = self.source(bench, cache_mount(mode=0o2751, uid=3, gid=4))
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o2751, 3, 4)
        assert self.source(bench, cache_mount()) != [path]

    def test_it_begins_with_what_it_is_given(self, bench: Bench) -> None:
        selection = select(DictTree(ITEMS), "d")
        assert selection is not None
        mount = cache_mount(initial=selection.digest, selection=selection)
        (path,) = self.source(bench, mount)
        assert (path / "f").read_bytes() == b"text"
        (path / "f").unlink()
        assert self.source(bench, mount) == [path]
        assert not (path / "f").exists()

    def test_a_renewed_one_is_empty(self, bench: Bench) -> None:
        with bench.cleanup:
            (path,) = self.source(bench, cache_mount(mode=0o700))
            (path / "old").touch()
        (again,) = self.source(bench, cache_mount(mode=0o700, is_renewed=True))
        assert list(again.iterdir()) == []

    def test_a_renewed_one_is_not_filled_from_elsewhere(self, bench: Bench, store: Store) -> None:
        class Source:
            def fill(self, key: str, directory: Path) -> bool:
                (directory / "elsewhere").touch()
                return True

            def copy(self, key: str, layout: object) -> bytes | None:
                return None

        store.cache_mounts.add_source(Source())
        (warm,) = self.source(bench, cache_mount())
        assert [path.name for path in warm.iterdir()] == ["elsewhere"]
        (renewed,) = self.source(bench, cache_mount(id="/other", is_renewed=True))
        assert list(renewed.iterdir()) == []

    def test_a_step_says_which_ones_it_uses(self, bench: Bench, store: Store) -> None:
        one, two = cache_mount(sharing="locked"), cache_mount(target="/d", id="/d", mode=0o700)
        tree = LayerTree((make_layer(store, ITEMS),), store.layers, description="base")
        step = ExecStep(
            argv=("true",),
            env=(),
            cwd="/",
            user="",
            network="none",
            mounts=(one, mount_of(tree, "d"), two),
        )
        found = caches_of(step)
        assert list(found.values()) == ["/c", "/d"]
        self.source(bench, one, two)
        made = {path.name for path in store.cache_mounts.paths()}
        assert {f"{key[:32]}-0" for key in found} == made
        assert caches_of(FileStep(action=MakeDirectory(path="/d"))) == {}

    def test_locks_are_given_up_with_the_rest(self, bench: Bench, store: Store) -> None:
        with bench.cleanup:
            bench.open(cache_mount(sharing="locked"), cache_mount(id="/b", sharing="private"))
            assert store.cache_mounts.unused() == []
        assert len(store.cache_mounts.unused()) == 2

    def test_one_that_another_step_has_locked_is_waited_for(
        self, bench: Bench, store: Store
    ) -> None:
        with ExitStack() as first, ExitStack() as second:
            waiting = open_mounts(
                [cache_mount(sharing="locked")],
                store=store,
                grants=Grants(),
                cleanup=second,
                tell=bench.told.append,
            )
            with first:
                bench.cleanup = first
                bench.open(cache_mount(sharing="locked"))
                assert [next(waiting), next(waiting)] == [Later(0.05)] * 2
                assert bench.told == ["waiting for the cache /c, which another step or build uses"]
            with pytest.raises(StopIteration):
                next(waiting)
        bench.cleanup = ExitStack()

    def test_nothing_is_held_when_one_cannot_be_made(self, bench: Bench, store: Store) -> None:
        selection = select(DictTree({"d/f": b"1"}), "d")
        assert selection is not None

        class Broken(DictTree):
            def content(self, entry: object) -> bytes:
                raise OSError("unreadable")

        broken = select(Broken({"d/f": b"1"}), "d")
        assert broken is not None
        with pytest.raises(OSError, match="unreadable"), bench.cleanup:
            bench.open(
                cache_mount(id="/a"), cache_mount(id="/b", initial=broken.digest, selection=broken)
            )
        assert store.cache_mounts.unused() == store.cache_mounts.paths()


def test_memory_is_asked_for_as_it_is(bench: Bench) -> None:
    mount = MemoryMount(target="/t", size_bytes=7, read_only=True)
    assert bench.open(mount).mounts == [TmpfsMount(target="/t", size_bytes=7, read_only=True)]


class TestSecrets:
    def secret(self, **changes: Any) -> SecretMount:
        fields: dict[str, Any] = {
            "id": "token",
            "target": "/run/secrets/token",
            "variable": "",
            "is_required": False,
            "mode": 0o400,
            "uid": 1,
            "gid": 2,
        }
        return SecretMount(**(fields | changes))

    def test_a_file_in_memory(self, bench: Bench) -> None:
        opened = bench.open(self.secret(), grants=Grants(secrets={"token": b"\xff\0"}))
        assert opened.mounts == [
            FileMount(
                target="/run/secrets/token",
                content=b"\xff\0",
                mode=0o400,
                uid=1,
                gid=2,
                read_only=True,
            )
        ]
        assert opened.env == []

    def test_a_variable(self, bench: Bench) -> None:
        mount = self.secret(target="", variable="TOKEN")
        opened = bench.open(mount, grants=Grants(secrets={"token": b"\xffx\n"}))
        assert (opened.env, opened.mounts) == (["TOKEN=\udcffx\n"], [])

    @pytest.mark.parametrize(("variable", "value"), [("A", b"\0"), ("A=B", b"x")])
    def test_what_cannot_be_a_variable(self, bench: Bench, variable: str, value: bytes) -> None:
        with pytest.raises(LoweringError, match="cannot be the variable"):
            bench.open(self.secret(variable=variable), grants=Grants(secrets={"token": value}))

    def test_one_that_is_not_given_is_left_out(self, bench: Bench) -> None:
        opened = bench.open(self.secret(variable="TOKEN"), grants=Grants(secrets={"other": b"x"}))
        assert (opened.mounts, opened.env) == ([], [])

    def test_one_that_is_required_has_to_be_given(self, bench: Bench) -> None:
        with pytest.raises(MissingGrantError, match="the secret 'token' is required") as caught:
            bench.open(self.secret(is_required=True))
        assert "--secret id=token,src=FILE" in caught.value.hint

    def test_values_are_never_printed(self, bench: Bench) -> None:
        grants = Grants(secrets={"token": b"hunter2"})
        opened = bench.open(self.secret(variable="TOKEN"), grants=grants)
        assert "hunter2" not in repr(grants) + repr(opened)


class TestAgents:
    def agent(self, **changes: Any) -> AgentMount:
        fields: dict[str, Any] = {
            "id": "default",
            "target": "/agent",
            "is_required": False,
            "mode": 0o620,
            "uid": 0,
            "gid": 0,
        }
        return AgentMount(**(fields | changes))

    def test_a_socket_of_our_own_leads_there(self, bench: Bench, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(tmp_path / "agent"))
            listener.listen()
            opened = bench.open(self.agent(), grants=Grants(agents={"default": tmp_path / "agent"}))
        (mount,), (relay,) = opened.mounts, opened.relays
        assert mount == BindMount(source=relay.path, target="/agent")
        assert stat.S_IMODE(relay.path.stat().st_mode) == 0o620

    def test_one_that_is_not_given_is_left_out(self, bench: Bench) -> None:
        opened = bench.open(self.agent())
        assert (opened.mounts, opened.relays) == ([], [])

    def test_one_that_is_required_has_to_be_given(self, bench: Bench) -> None:
        with pytest.raises(
            MissingGrantError, match="the ssh agent 'default' is required"
        ) as caught:
            bench.open(self.agent(is_required=True))
        assert "--ssh default" in caught.value.hint
