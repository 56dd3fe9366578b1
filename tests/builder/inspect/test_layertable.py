from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import record
from builder.inspect.layertable import LayerRow, layer_table
from layerstore import (
    Change,
    ContainerConfig,
    History,
    Image,
    ImageConfig,
    Layer,
    Meta,
    Opaque,
    PutDir,
    PutFile,
    PutSymlink,
    Remove,
    Store,
    TreePath,
)
from tests.support.executors import FakeExecutor
from tests.support.images import run_build
from tests.support.layers import changes_of, make_layer
from tests.support.sources import Dir, File, Hard, Items, Link

BASE: Items = {
    "etc/conf/a": b"1",
    "etc/conf/b": b"22",
    "etc/conf/deep/c": b"333",
    "etc/passwd": b"root",
    "link": Link("etc"),
}


def sealed(store: Store, *layers: Layer, history: tuple[History, ...] = ()) -> Image:
    return store.images.seal(
        ImageConfig(
            architecture="amd64",
            os="linux",
            config=ContainerConfig(),
            history=history or tuple(History(created_by=f"step {n}") for n in range(len(layers))),
        ),
        layers,
    )


def counts(store: Store, *layers: Items | list[Change]) -> list[tuple[int, int, int]]:
    """(added, changed, removed) of each layer."""
    made = [
        store.layers.commit(each) if isinstance(each, list) else make_layer(store, each)
        for each in layers
    ]
    rows = layer_table(sealed(store, *made), store)
    return [(row.added, row.changed, row.removed) for row in rows]


class TestCounts:
    def test_the_first_layer_adds_all_of_its_names(self, store: Store) -> None:
        names = {"etc", "etc/conf", "etc/conf/deep"} | set(BASE)
        assert counts(store, BASE) == [(len(names), 0, 0)]

    def test_a_directory_that_leads_to_a_change_is_none(self, store: Store) -> None:
        assert counts(store, BASE, {"etc/conf/new": b""})[1] == (1, 0, 0)

    def test_new_attributes_of_a_directory_are_a_change(self, store: Store) -> None:
        assert counts(store, BASE, {"etc/conf": Dir(mode=0o700)})[1] == (0, 1, 0)
        assert counts(store, BASE, {"etc/conf": Dir(mode=0o755, mtime_s=5)})[1] == (0, 0, 0)

    def test_a_file_that_is_put_again_is_a_change(self, store: Store) -> None:
        assert counts(store, BASE, {"etc/passwd": b"other"})[1] == (0, 1, 0)
        assert counts(store, BASE, {"etc/passwd": File(content=b"root", mode=0o600)})[1] == (
            (0, 1, 0)
        )

    def test_every_name_beneath_a_removed_directory_vanishes(self, store: Store) -> None:
        assert counts(store, BASE, [Remove(TreePath("etc/conf"))])[1] == (0, 0, 5)
        assert counts(store, BASE, [Remove(TreePath("etc/conf/a"))])[1] == (0, 0, 1)

    def test_removing_what_is_not_there_counts_nothing(self, store: Store) -> None:
        assert counts(store, BASE, [Remove(TreePath("etc/none"))])[1] == (0, 0, 0)

    def test_what_an_opaque_directory_puts_again_does_not_vanish(self, store: Store) -> None:
        again: list[Change] = [
            PutDir(TreePath("etc"), Meta(0o755)),
            PutDir(TreePath("etc/conf"), Meta(0o755)),
            Opaque(TreePath("etc/conf")),
            PutFile(TreePath("etc/conf/a"), Meta(0o644), 1, b"1"),
            PutFile(TreePath("etc/conf/z"), Meta(0o644), 1, b"1"),
        ]
        assert counts(store, BASE, again)[1] == (1, 1, 3)

    def test_a_directory_that_becomes_a_file_takes_its_names_along(self, store: Store) -> None:
        assert counts(store, BASE, {"etc/conf": b"file"})[1] == (0, 1, 4)
        link: list[Change] = [PutSymlink(TreePath("etc/conf"), Meta(0o777), "/none")]
        assert counts(store, BASE, link)[1] == (0, 1, 4)

    def test_a_link_that_becomes_a_directory_is_a_change(self, store: Store) -> None:
        assert counts(store, BASE, {"link/file": b""})[1] == (1, 1, 0)

    def test_hard_links_are_names_of_their_own(self, store: Store) -> None:
        assert counts(store, BASE, {"x": b"1", "y": Hard("x")})[1] == (2, 0, 0)

    def test_what_a_lower_layer_removed_is_new_again(self, store: Store) -> None:
        removed: list[Change] = [Remove(TreePath("etc/conf"))]
        assert counts(store, BASE, removed, {"etc/conf/a": b"1"})[2] == (2, 0, 0)

    trees = st.dictionaries(
        st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "f/a"]),
        st.sampled_from([b"", b"1"]),
        max_size=5,
    )

    @settings(
        deadline=None,
        max_examples=40,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(below=trees, above=trees, gone=st.sets(st.sampled_from(["a", "b", "d", "d/e", "f"])))
    def test_names_before_plus_added_minus_removed_are_the_names_after(
        self, store: Store, below: dict[str, bytes], above: dict[str, bytes], gone: set[str]
    ) -> None:
        put = changes_of(above)
        paths = {change.path for change in put}
        gone -= {path for path in gone if path.rpartition("/")[0] in gone}
        removals: list[Change] = [Remove(TreePath(path)) for path in sorted(gone - paths)]
        layers = [make_layer(store, below), store.layers.commit([*removals, *put])]
        rows = layer_table(sealed(store, *layers), store)

        def names(upto: int) -> set[str]:
            return {str(node.entry.path) for node in store.layers.tree(layers[:upto]).walk()}

        before, after = names(1), names(2)
        assert rows[1].added == len(after - before)
        assert rows[1].removed == len(before - after)


class TestRows:
    def test_an_instruction_without_a_layer_has_an_empty_row(self, store: Store) -> None:
        layer = make_layer(store, {"a": b"12345"})
        history = (
            History(created_by="ENV A=1", created="2024-05-06T07:08:09Z", empty_layer=True),
            History(created_by="COPY a /"),
        )
        first, second = layer_table(sealed(store, layer, history=history), store)
        assert first == LayerRow(
            position=1,
            instruction="ENV A=1",
            created="2024-05-06T07:08:09Z",
            layer="",
            diff_id="",
            size_bytes=0,
            blob_bytes=0,
            added=0,
            changed=0,
            removed=0,
            outcome="",
            seconds=None,
        )
        assert (second.position, second.instruction) == (2, "COPY a /")
        assert (second.layer, second.diff_id) == (layer.descriptor.digest, layer.diff_id)
        assert (second.size_bytes, second.blob_bytes) == (5, layer.descriptor.size_bytes)
        assert (second.outcome, second.seconds) == ("", None)

    def test_layers_without_history_have_rows_without_words(self, store: Store) -> None:
        image = sealed(store, make_layer(store, {"a": b"1"}))
        bare = store.images.seal(replace(image.config, history=()), image.layers)
        (row,) = layer_table(bare, store)
        assert (row.instruction, row.added) == ("", 1)

    def test_an_image_without_layers_has_no_rows(self, store: Store) -> None:
        assert layer_table(sealed(store), store) == []


class TestOutcomes:
    TEXT = "FROM scratch\nRUN echo 1 > /a\nENV A=1\nRUN echo 2 > /b\n"

    def test_a_build_says_what_ran_and_for_how_long(self, store: Store) -> None:
        built = run_build(store, self.TEXT, executor=FakeExecutor())
        rows = layer_table(built.image, store)
        assert [row.outcome for row in rows] == ["executed", "", "executed"]
        assert rows[0].seconds is not None
        assert rows[0].seconds >= 0
        assert rows[1].seconds is None

    def test_the_newest_build_of_the_same_image_counts(self, store: Store) -> None:
        run_build(store, self.TEXT, executor=FakeExecutor())
        built = run_build(store, self.TEXT, executor=FakeExecutor())
        assert [row.outcome for row in layer_table(built.image, store)] == ["cached", "", "cached"]

    def test_the_base_has_no_outcomes(self, store: Store) -> None:
        run_build(store, self.TEXT, executor=FakeExecutor(), tag="base")
        built = run_build(store, "FROM base\nRUN echo 3 > /c\n", executor=FakeExecutor())
        assert [row.outcome for row in layer_table(built.image, store)] == ["", "", "", "executed"]

    def test_equal_layers_keep_their_own_outcomes(self, store: Store) -> None:
        """An empty layer is like every other: each has the seconds of its own step."""
        text = "FROM scratch\nRUN true\nRUN true\nRUN echo > /a\nRUN true\n"
        built = run_build(store, text, executor=FakeExecutor())
        (found,) = record.read_all(store.private / "builds")
        steps = tuple(replace(s, seconds=float(n)) for n, s in enumerate(found.steps))
        record.write(replace(found, steps=steps), store.private / "builds")
        wanted = [step.seconds for step in steps if step.layer]
        assert [row.seconds for row in layer_table(built.image, store)] == wanted
        diff_ids = [layer.diff_id for layer in built.image.layers]
        assert len(set(diff_ids)) == 2

    def test_a_damaged_record_is_none(self, store: Store) -> None:
        built = run_build(store, self.TEXT, executor=FakeExecutor())
        for path in (store.private / "builds").iterdir():
            path.write_bytes(b"{")
        assert [row.outcome for row in layer_table(built.image, store)] == ["", "", ""]
