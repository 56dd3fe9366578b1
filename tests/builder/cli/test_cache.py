"""builder prune, buildx du, and the limits that builds keep."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from layerstore import Digest, Store
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.stores import cached_step, edit_cache, make_image, make_layer, problems

BIG = 200_000


@pytest.fixture
def cached(bare: Commands) -> Commands:
    """Three cached steps of different ages in no image, one of an image, and a cache mount."""
    with Store.open(bare.root) as store:
        image = make_image(store, "kept", {"k": os.urandom(BIG)})
        store.cache.put(
            cached_step(document("shared"), image.layers[0], created_by="RUN shared"),
            parent=None,
            variant="",
        )
        for name in ("first", "second", "third"):
            layer = make_layer(store, {name: os.urandom(BIG)})
            step = cached_step(document(name), layer, created_by=f"RUN {name}")
            store.cache.put(step, parent=None, variant="")
            store.flush()
        held = store.cache_mounts.hold("ab" * 32, "shared", fill)
        assert held is not None, "nobody excludes it"
        with held:
            assert (held.path / "file").exists()
    age(bare.root, first=72, second=48, third=24, shared=96)
    return bare


def document(name: str) -> bytes:
    return json.dumps({"name": name}).encode()


def fill(path: Path) -> None:
    (path / "file").write_bytes(os.urandom(BIG))


def age(root: Path, **hours: float) -> None:
    """Let steps have been used so many hours ago."""
    with Store.open(root) as store:
        for name, ago in hours.items():
            key, used_s = Digest.of(document(name)), time.time() - ago * 3600
            edit_cache(store, f"INSERT OR REPLACE INTO used VALUES ('{key}', {used_s})")
    # put_s is part of a row with a checksum: put anew, long ago
    with Store.open(root) as store:
        rows = [store.cache.row(Digest.of(document(name))) for name in hours]
        from dataclasses import replace

        for row in rows:
            assert row is not None
            store.cache._pending[row.step.key] = replace(row, step=replace(row.step, put_s=1.0))


def steps(root: Path) -> set[str]:
    with Store.open(root) as store:
        return {step.created_by.removeprefix("RUN ") for step in store.cache.steps()}


def mounts(root: Path) -> int:
    with Store.open(root) as store:
        return len(store.cache_mounts.paths())


class TestDu:
    def test_every_piece_is_listed(self, cached: Commands) -> None:
        lines = cached("buildx", "du").lines
        assert lines[0].split() == ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]
        assert len([line for line in lines if "ago" in line or "second" in line]) == 5
        assert lines[-2].startswith("Reclaimable:")
        assert lines[-1].startswith("Total:")

    def test_the_builder_s_is_the_same(self, cached: Commands) -> None:
        assert cached("builder", "du").lines[0] == cached("buildx", "du").lines[0]

    def test_fields_can_be_had_as_json(self, cached: Commands) -> None:
        rows = [json.loads(line) for line in cached("buildx", "du", "--format", "json").lines]
        found = {row["Description"]: row for row in rows}
        assert found["RUN shared"]["Shared"] == "true"
        assert found["RUN shared"]["Reclaimable"] == "false"
        assert found["RUN first"]["LastUsed"] == "3 days ago"
        assert {row["Type"] for row in rows} == {"regular", "exec.cachemount"}

    def test_all_that_is_known_of_a_piece(self, cached: Commands) -> None:
        text = cached("buildx", "du", "--verbose", "--filter", "description=second").out
        assert "Description:\tRUN second\n" in text
        assert "Last used:\t2 days ago\n" in text
        assert "first" not in text

    @pytest.mark.parametrize(
        ("words", "count"),
        [
            (("until=60h",), 2),
            (("unused-for=60h",), 2),
            (("type=exec.cachemount",), 1),
            (("type!=regular",), 1),
            (("shared=true",), 1),
            (("shared",), 1),
            (("private=true",), 4),
            (("inuse=true",), 0),
            (("inuse=false",), 5),
            (("description~=RUN ",), 4),
            (("type=regular", "until=36h"), 3),
            ((f"id={Digest.of(document('first')).hex[:20]}",), 1),
        ],
    )
    def test_filters_choose(self, cached: Commands, words: tuple[str, ...], count: int) -> None:
        options = [option for word in words for option in ("--filter", word)]
        assert len(cached("buildx", "du", "--format", "json", *options).lines) == count

    @pytest.mark.parametrize("text", ["parents=x", "until=soon", "shared=perhaps", "label=x"])
    def test_other_filters_are_refused(self, cached: Commands, text: str) -> None:
        for command in (("buildx", "du"), ("builder", "prune", "-f")):
            done = cached(*command, "--filter", text, code=125)
            assert f"invalid filter '{text}'" in done.err

    def test_it_adds_up_with_the_summary(self, cached: Commands) -> None:
        rows = [json.loads(line) for line in cached("system", "df", "--format", "json").lines]
        (of_cache,) = (row for row in rows if row["Type"] == "Build Cache")
        assert cached("buildx", "du").lines[-1].split()[-1] == of_cache["Size"]


class TestPrune:
    def test_filters_choose_what_goes(self, cached: Commands) -> None:
        cached("builder", "prune", "-f", "--filter", "until=60h")
        assert steps(cached.root) == {"second", "third", "shared"}
        assert mounts(cached.root) == 1
        cached("builder", "prune", "-f", "--filter", "type=exec.cachemount")
        assert mounts(cached.root) == 0
        cached("builder", "prune", "-af", "--filter", "until=30h")
        assert steps(cached.root) == {"third"}
        assert problems(cached.root) == []

    @pytest.mark.parametrize(
        ("options", "left"),
        [
            (("--max-used-space", "10m"), {"first", "second", "third", "shared"}),
            (("--max-used-space", "700k"), {"second", "third", "shared"}),
            (("--reserved-space", "500k"), {"third", "shared"}),
            (("--keep-storage", "500k"), {"third", "shared"}),
            (("--max-used-space", "0"), {"shared"}),
            (("--max-used-space", "0", "--reserved-space", "700k"), {"second", "third", "shared"}),
            (("--min-free-space", "1k"), {"first", "second", "third", "shared"}),
            (("--min-free-space", "8000t"), {"shared"}),
            (("--max-used-space", "0", "--filter", "until=60h"), {"second", "third", "shared"}),
        ],
    )
    def test_limits_keep_what_was_used_last(
        self, cached: Commands, options: tuple[str, ...], left: set[str]
    ) -> None:
        told = cached("builder", "prune", "-f", "--dry-run", *options)
        assert len(steps(cached.root)) == 4
        done = cached("buildx", "prune", "-f", *options)
        assert steps(cached.root) == left
        assert told.lines[-1] == done.lines[-1]
        assert problems(cached.root) == []

    def test_a_dry_run_asks_nothing_and_does_nothing(self, cached: Commands) -> None:
        done = cached("builder", "prune", "--dry-run", "-a")
        assert done.lines[0] == "Build cache that would be deleted: 4 steps, 1 cache mounts"
        assert len(steps(cached.root)) == 4

    def test_a_bad_size_is_refused_by_name(self, cached: Commands) -> None:
        done = cached("builder", "prune", "-f", "--max-used-space", "much", code=125)
        assert "--max-used-space" in done.err
        assert "'much' is no size" in done.err

    def test_system_prune_knows_the_age_of_cache(self, cached: Commands) -> None:
        cached("system", "prune", "-f", "--filter", "until=60h")
        assert steps(cached.root) == {"second", "third", "shared"}
        cached("system", "prune", "-f", "--filter", "label=x")
        assert steps(cached.root) == {"second", "third", "shared"}


def kept(lamina: Lamina, **env: str) -> Any:
    text = b"FROM scratch\nCOPY --from=kept / /\n"
    return lamina("build", "-q", "-", stdin=text, env=env)


class TestLimits:
    @pytest.mark.parametrize(
        ("env", "left"),
        [
            ({}, {"first", "second", "third"}),
            ({"LAMINA_CACHE_MAX_USED_SPACE": "10m"}, {"first", "second", "third"}),
            ({"LAMINA_CACHE_MAX_USED_SPACE": "700k"}, {"second", "third"}),
            ({"LAMINA_CACHE_RESERVED_SPACE": "500k"}, {"third"}),
            ({"LAMINA_CACHE_MIN_FREE_SPACE": "8000t"}, set()),
        ],
    )
    def test_a_build_keeps_them(
        self, cached: Commands, env: dict[str, str], left: set[str]
    ) -> None:
        kept(Lamina(root=cached.root), **env)
        assert steps(cached.root) & {"first", "second", "third"} == left
        assert problems(cached.root) == []

    def test_a_bad_one_is_named(self, cached: Commands) -> None:
        done = Lamina(root=cached.root)(
            "build",
            "-q",
            "-",
            stdin=b"FROM scratch\n",
            env={"LAMINA_CACHE_MAX_USED_SPACE": "much"},
            check=False,
        )
        assert "LAMINA_CACHE_MAX_USED_SPACE" in done.stderr
