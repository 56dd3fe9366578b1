import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import Store
from layerstore.cacheindex import CachedStep, FileStamp
from layerstore.digest import Digest
from layerstore.layers import Layer
from tests.support.stores import cached_step, edit_cache, flip_blob, make_layer

PARENT = Digest.of(b"parent")


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store.open(store_root)


@pytest.fixture
def layer(store: Store) -> Layer:
    return make_layer(store, {"a": b"1"})


def step(name: str, layer: Layer, *, created_by: str = "RUN make") -> CachedStep:
    return cached_step(f'{{"name":"{name}"}}'.encode(), layer, created_by=created_by, seconds=1.5)


def test_an_unknown_key_is_a_miss(store: Store) -> None:
    assert store.cache.get(Digest.of(b"unknown")) is None
    store.close()


def test_a_step_is_found_before_and_after_flush(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    assert store.cache.get(made.key) == made
    store.flush()
    assert store.cache.get(made.key) == made
    store.close()


def test_another_process_finds_it_after_flush_only(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    with Store.open(store.root) as other:
        assert other.cache.get(made.key) is None
        store.flush()
        assert other.cache.get(made.key) == made
    store.close()


def test_a_step_of_any_text_is_kept_exactly(store: Store, layer: Layer) -> None:
    made = step("a", layer, created_by="RUN echo 'é \U0001f600 \x01' \"\n\"")
    store.cache.put(made, parent=None, variant="v")
    store.flush()
    assert store.cache.get(made.key) == made
    store.close()


def test_putting_a_key_again_replaces_it(store: Store, layer: Layer) -> None:
    first, second = step("a", layer), step("a", layer, created_by="again")
    store.cache.put(first, parent=PARENT, variant="")
    store.flush()
    store.cache.put(second, parent=PARENT, variant="")
    assert store.cache.get(first.key) == second
    store.flush()
    assert store.cache.get(first.key) == second
    assert list(store.cache.steps()) == [second]
    store.close()


def test_equal_content_on_the_same_parent_is_found(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    for _ in range(2):
        assert store.cache.same_content(PARENT, layer.content_digest, "") == made
        store.flush()
    store.close()


@pytest.mark.parametrize("flushed", [False, True])
def test_another_parent_content_or_variant_is_another_result(
    store: Store, layer: Layer, flushed: bool
) -> None:
    store.cache.put(step("a", layer), parent=PARENT, variant="0")
    if flushed:
        store.flush()
    for parent, content, variant in (
        (None, layer.content_digest, "0"),
        (Digest.of(b"other"), layer.content_digest, "0"),
        (PARENT, Digest.of(b"other"), "0"),
        (PARENT, layer.content_digest, ""),
    ):
        assert store.cache.same_content(parent, content, variant) is None
    store.close()


def test_no_parent_is_a_parent_of_its_own(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=None, variant="")
    for _ in range(2):
        assert store.cache.same_content(None, layer.content_digest, "") == made
        assert store.cache.same_content(PARENT, layer.content_digest, "") is None
        store.flush()
    store.close()


def test_of_several_equal_results_the_oldest_is_taken(store: Store, layer: Layer) -> None:
    first, second = step("a", layer), step("b", layer)
    store.cache.put(first, parent=PARENT, variant="")
    store.flush()
    store.cache.put(second, parent=PARENT, variant="")
    store.flush()
    assert store.cache.same_content(PARENT, layer.content_digest, "") == first
    store.close()


def test_the_time_of_files_does_not_matter_to_content(store: Store) -> None:
    from layerstore import Meta, PutFile, TreePath

    one, other = (
        store.layers.commit([PutFile(TreePath("a"), Meta(0o644, mtime_ns=s * 10**9), 1, b"1")])
        for s in (1, 2)
    )
    assert one.diff_id != other.diff_id
    store.cache.put(step("a", one), parent=PARENT, variant="")
    found = store.cache.same_content(PARENT, other.content_digest, "")
    assert found is not None
    assert found.diff_id == one.diff_id
    store.close()


def test_a_step_whose_blob_is_gone_is_a_miss(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    store.flush()
    store.blob_path(layer.descriptor.digest).unlink()
    store.close()
    with Store.open(store.root) as again:
        assert again.cache.get(made.key) is None
        assert again.cache.same_content(PARENT, layer.content_digest, "") is None


def test_a_step_whose_blob_is_damaged_is_a_miss(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    store.flush()
    flip_blob(store, layer.descriptor.digest)
    store.close()
    with Store.open(store.root) as again:
        assert again.cache.get(made.key) is None


def test_committing_the_layer_again_makes_it_a_hit_again(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    store.flush()
    flip_blob(store, layer.descriptor.digest)
    store.close()
    with Store.open(store.root) as again:
        assert again.cache.get(made.key) is None
        make_layer(again, {"a": b"1"})
    with Store.open(store.root) as healed:
        assert healed.cache.get(made.key) == made


@pytest.mark.parametrize("column", ["diff_id", "created", "created_by", "document", "parent"])
def test_a_flipped_row_is_a_miss_and_reported(store: Store, layer: Layer, column: str) -> None:
    other = make_layer(store, {"b": b"2"})
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    store.flush()
    value = f"'{other.diff_id}'" if column == "diff_id" else "CAST('x' AS BLOB)"
    edit_cache(store, f"UPDATE steps SET {column} = {value}")

    assert store.cache.get(made.key) is None
    assert list(store.cache.damaged_rows()) == [f"step {made.key}"]
    assert list(store.cache.steps()) == []
    store.close()


def test_a_step_needs_a_layer(store: Store, layer: Layer) -> None:
    from dataclasses import replace

    orphan = replace(step("a", layer), diff_id=Digest.of(b"nothing"))
    with pytest.raises(AssertionError):
        store.cache.put(orphan, parent=None, variant="")
    store.close()


def test_memos_are_kept_by_kind_and_key(store: Store) -> None:
    store.cache.put_memo("a", "k", b"1")
    store.cache.put_memo("b", "k", b"2")
    for _ in range(2):
        assert store.cache.get_memo("a", "k") == b"1"
        assert store.cache.get_memo("b", "k") == b"2"
        assert store.cache.get_memo("b", "other") is None
        store.flush()
    store.cache.put_memo("a", "k", b"3")
    assert store.cache.get_memo("a", "k") == b"3"
    store.close()


def test_a_flipped_memo_is_unknown_and_reported(store: Store) -> None:
    store.cache.put_memo("a", "k", b"1")
    store.flush()
    edit_cache(store, "UPDATE memos SET value = CAST('2' AS BLOB)")
    assert store.cache.get_memo("a", "k") is None
    assert list(store.cache.damaged_rows()) == ["memo a k"]
    store.close()


def stamp(number: int) -> FileStamp:
    return FileStamp(1, number, 3, 4, 5, 0o100644, Digest.of(str(number).encode()))


def test_file_digests_are_kept_by_scope(store: Store) -> None:
    stamps = {"a": stamp(1), "d/é\udcff": stamp(2**63 + 1)}
    store.cache.save_file_digests("/context", stamps)
    for _ in range(2):
        assert store.cache.load_file_digests("/context") == stamps
        assert store.cache.load_file_digests("/other") == {}
        store.flush()
    store.close()


def test_file_digests_are_replaced_as_a_whole(store: Store) -> None:
    store.cache.save_file_digests("/context", {"a": stamp(1), "b": stamp(2)})
    store.cache.save_file_digests("/context", {"b": stamp(3)})
    store.flush()
    assert store.cache.load_file_digests("/context") == {"b": stamp(3)}
    store.cache.save_file_digests("/context", {})
    assert store.cache.load_file_digests("/context") == {}
    store.close()


_numbers = st.integers(0, 2**64 - 1)
_times = st.integers(-(2**63), 2**63 - 1)  # a file may be older than 1970
_names = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]) | st.just("\udc80"),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        _names,
        st.builds(
            FileStamp,
            *[_numbers] * 3,
            *[_times] * 2,
            _numbers,
            st.binary(max_size=3).map(Digest.of),
        ),
        max_size=5,
    )
)
def test_any_file_digests_survive(store: Store, stamps: dict[str, FileStamp]) -> None:
    store.cache.save_file_digests("/context", stamps)
    found = store.cache.load_file_digests("/context")
    assert found == stamps
    assert all(isinstance(kept, FileStamp) for kept in found.values())
    assert all(isinstance(kept.digest, Digest) for kept in found.values())


def test_a_step_is_seen_by_all_when_many_processes_put_it(store: Store, layer: Layer) -> None:
    store.flush()
    others = [Store.open(store.root) for _ in range(3)]
    for number, other in enumerate(others):
        other.cache.put(step(str(number), layer), parent=PARENT, variant="")
    for other in others:
        other.flush()
        other.close()
    assert len(list(store.cache.steps())) == 3
    store.close()


# What explains misses.


def test_a_step_is_found_also_when_its_layer_is_gone(store: Store, layer: Layer) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    assert store.cache.find(made.key) == made
    store.flush()
    store.close()
    path = store.blob_path(layer.descriptor.digest)
    path.chmod(0o600)
    path.unlink()
    with Store.open(store.root) as again:
        assert again.cache.get(made.key) is None
        assert again.cache.find(made.key) == made
        assert again.cache.find(Digest.of(b"unknown")) is None


def test_when_a_step_was_put_is_kept_and_is_no_part_of_what_it_is(
    store: Store, layer: Layer
) -> None:
    made = step("a", layer)
    before = time.time()
    store.cache.put(made, parent=PARENT, variant="")
    for _ in range(2):
        found = store.cache.get(made.key)
        assert found is not None
        assert found == made
        assert before <= found.put_s <= time.time()
        store.flush()
    store.close()


@pytest.mark.parametrize("flushed", [False, True])
def test_neighbours_have_the_parent_or_the_instruction_newest_first(
    store: Store, layer: Layer, flushed: bool
) -> None:
    other = Digest.of(b"other")
    for name, parent, created_by in (
        ("same parent", PARENT, "RUN other"),
        ("same instruction", other, "RUN make"),
        ("neither", other, "RUN other"),
        ("both", PARENT, "RUN make"),
    ):
        store.cache.put(step(name, layer, created_by=created_by), parent=parent, variant="")
    if flushed:
        store.flush()
    found = [each.document for each in store.cache.neighbours(PARENT, "RUN make")]
    assert found == [
        b'{"name":"both"}',
        b'{"name":"same instruction"}',
        b'{"name":"same parent"}',
    ]
    assert list(store.cache.neighbours(None, "RUN nothing")) == []
    store.close()


def test_an_instruction_and_a_path_may_hold_bytes_that_are_not_utf_8(
    store: Store, layer: Layer
) -> None:
    made = step("odd", layer, created_by="RUN touch /\udcff")
    stamp = FileStamp(
        dev=0, ino=1, size_bytes=2, mtime_ns=3, ctime_ns=4, mode=0o644, digest=Digest.of(b"x")
    )
    store.cache.put(made, parent=None, variant="")
    store.cache.save_file_digests("/home/\udcff", {"\udcfe": stamp})
    for _ in range(2):  # pending, then written
        found = store.cache.get(made.key)
        assert found is not None
        assert found.created_by == "RUN touch /\ufffd"  # as the history of the image has it
        neighbours = store.cache.neighbours(None, made.created_by)
        assert [each.key for each in neighbours] == [made.key]
        assert store.cache.load_file_digests("/home/\udcff") == {"\udcfe": stamp}
        store.flush()
    assert list(store.cache.damaged_rows()) == []


def test_only_the_newest_steps_are_neighbours(
    store: Store, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.cacheindex._NEIGHBOURS_MAX", 3)
    for number in range(5):
        store.cache.put(step(str(number), layer), parent=PARENT, variant="")
        store.flush()
    names = [each.document for each in store.cache.neighbours(PARENT, "")]
    assert names == [b'{"name":"4"}', b'{"name":"3"}', b'{"name":"2"}']
    store.close()


LISTING = b'["a","file",420]\n' * 1000


@pytest.mark.parametrize("listing", [LISTING, b"", bytes(range(256))])
def test_a_listing_is_found_by_its_digest(store: Store, listing: bytes) -> None:
    digest = Digest.of(listing)
    assert store.cache.get_listing(digest) is None
    store.cache.put_listing(digest, listing)
    for _ in range(2):
        assert store.cache.get_listing(digest) == listing
        store.flush()
    store.close()


def test_a_listing_is_stored_once_and_compressed(store: Store) -> None:
    digest = Digest.of(LISTING)
    for _ in range(2):
        store.cache.put_listing(digest, LISTING)
        store.flush()
    rows = store.database.query("SELECT digest, length(value) FROM listings")
    assert [row[0] for row in rows] == [digest]
    assert isinstance(rows[0][1], int)
    assert rows[0][1] < len(LISTING) / 10
    store.cache.put_listing(digest, LISTING)
    assert list(store.cache.pending_statements()) == []
    store.close()


def test_a_very_long_listing_is_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerstore.cacheindex._LISTING_MAX_BYTES", 100)
    store.cache.put_listing(Digest.of(LISTING), LISTING)
    assert store.cache.get_listing(Digest.of(LISTING)) is None
    store.close()


def test_the_oldest_listings_go_when_all_take_too_much(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.cacheindex._LISTINGS_MAX_BYTES", 1000)
    listings = [os.urandom(300) for _ in range(6)]
    for listing in listings:
        store.cache.put_listing(Digest.of(listing), listing)
        store.flush()
    kept = [store.cache.get_listing(Digest.of(listing)) == listing for listing in listings]
    assert kept == [False, False, False, True, True, True]
    store.close()


@pytest.mark.parametrize("value", ["CAST('x' AS BLOB)", "NULL", "5", "zeroblob(9)"])
def test_a_damaged_listing_is_none_and_is_reported_and_replaced(store: Store, value: str) -> None:
    digest = Digest.of(LISTING)
    store.cache.put_listing(digest, LISTING)
    store.flush()
    edit_cache(store, f"UPDATE listings SET value = {value}")
    assert store.cache.get_listing(digest) is None
    assert list(store.cache.damaged_rows()) == [f"listing {digest}"]
    store.cache.put_listing(digest, LISTING)
    store.flush()
    assert list(store.cache.damaged_rows()) == []
    store.close()


def test_a_listing_that_unpacks_into_too_much_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = b"x" * 100_000
    store.cache.put_listing(Digest.of(big), big)
    store.flush()
    monkeypatch.setattr("layerstore.cacheindex._LISTING_MAX_BYTES", 1000)
    assert store.cache.get_listing(Digest.of(big)) is None
    store.close()


def test_use_is_noted_once_an_hour(
    store: Store, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = step("a", layer)
    store.cache.put(made, parent=PARENT, variant="")
    store.flush()
    assert store.cache.used() == {}
    now = 5_000_000_000.0
    monkeypatch.setattr("layerstore.cacheindex.time.time", lambda: now)
    for after_s, noted in ((0, now), (3000, now), (4000, now + 4000), (-9000, now - 9000)):
        monkeypatch.setattr("layerstore.cacheindex.time.time", lambda at=now + after_s: at)
        store.cache.get(made.key)
        store.flush()
        assert store.cache.used() == {made.key: noted}
    assert list(store.cache.pending_statements()) == []
    store.close()
