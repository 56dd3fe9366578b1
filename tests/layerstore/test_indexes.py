"""Indexes put together: what their entries say, and which name leads where."""

import json

import pytest

from layerstore import (
    Descriptor,
    Digest,
    EntryWishes,
    Image,
    Index,
    Platform,
    Reference,
    Store,
    find_index,
    index_changed,
    index_entries,
    index_with,
    index_without,
    name_index,
    prune,
)
from layerstore import descriptor as media
from layerstore.errors import NotFoundError, StoreError
from layerstore.locks import read_uses
from tests.support.schemas import SCHEMAS, schema_error
from tests.support.stores import make_image, problems

HERE = Platform(os="linux", architecture="amd64")
OTHER = Platform(os="linux", architecture="arm", variant="v7")


def ref(name: str) -> Reference:
    return Reference.parse(name)


def entry(text: bytes, platform: Platform | None = None) -> Descriptor:
    return Descriptor(
        media_type=media.OCI_MANIFEST, digest=Digest.of(text), size_bytes=1, platform=platform
    )


@pytest.fixture
def image(store: Store) -> Image:
    return make_image(store, "app:1", {"a": b"a"})


def test_what_it_lists_is_held_until_it_is_named(store: Store, image: Image) -> None:
    index = index_with(Index(), index_entries(store, image.descriptor, whole=False))
    with Store.open(store.root) as other:
        name_index(other, ref("list"), index)
        held = read_uses(other.lease().path)
        parts = {image.descriptor, image.manifest.config, *image.manifest.layers}
        assert {part.digest for part in parts} <= held
        store.images.remove(image)
        store.flush()
        prune(store)
    assert store.images.resolve("list") == image
    assert problems(store.root) == []


def test_an_image_that_went_meanwhile_is_not_listed(store: Store, image: Image) -> None:
    index = index_with(Index(), index_entries(store, image.descriptor, whole=False))
    store.blobs.remove(image.manifest.layers[0].digest)
    with pytest.raises(NotFoundError, match="no such blob"):
        name_index(store, ref("list"), index)


def test_an_index_is_named_and_found(store: Store, image: Image) -> None:
    index = index_with(Index(), index_entries(store, image.descriptor, whole=False))
    made = name_index(store, ref("list"), index)
    store.flush()
    assert find_index(store, "list") == (made, index)
    assert store.images.resolve("list") == image
    assert problems(store.root) == []


def test_an_entry_says_what_its_image_runs_on(store: Store, image: Image) -> None:
    (found,) = index_entries(store, image.descriptor, whole=False)
    assert found.plain == image.descriptor
    assert found.platform == Platform(os="linux", architecture="amd64")


def test_of_another_index_this_hosts_image_is_listed_or_all(store: Store, image: Image) -> None:
    far = EntryWishes(architecture="s390x")
    twin = make_image(store, "twin", {"b": b"b"})
    entries = [
        *index_entries(store, image.descriptor, whole=False),
        *map(far.applied, index_entries(store, twin.descriptor, whole=False)),
    ]
    inner = name_index(store, ref("inner"), index_with(Index(), entries))
    assert index_entries(store, inner, whole=False) == entries[:1]
    assert index_entries(store, inner, whole=True) == entries


def test_a_change_takes_the_name_and_the_older_index_goes(store: Store, image: Image) -> None:
    first = name_index(store, ref("list"), Index())
    store.flush()
    second = name_index(
        store, ref("list"), index_with(Index(), index_entries(store, image.descriptor, whole=False))
    )
    store.flush()
    assert find_index(store, "list")[0] == second
    assert first.digest not in {each.digest for each in store.images.entries()}
    assert problems(store.root) == []


def test_an_older_index_with_another_name_stays(store: Store, image: Image) -> None:
    first = name_index(store, ref("list"), Index())
    store.images.tag_entry(first, ref("kept"))
    name_index(
        store, ref("list"), index_with(Index(), index_entries(store, image.descriptor, whole=False))
    )
    store.flush()
    assert find_index(store, "kept") == (first, Index())


def test_naming_what_has_the_name_changes_nothing(store: Store) -> None:
    first = name_index(store, ref("list"), Index())
    store.flush()
    assert name_index(store, ref("list"), Index()) == first
    store.flush()
    assert find_index(store, "list")[0] == first


def test_an_image_is_no_index(store: Store, image: Image) -> None:
    with pytest.raises(StoreError, match="app:1 is an image"):
        find_index(store, "app:1")
    with pytest.raises(NotFoundError):
        find_index(store, "missing")


def test_an_image_that_is_added_again_is_listed_once() -> None:
    old, new, other = entry(b"1", HERE), entry(b"1", OTHER), entry(b"2", HERE)
    index = index_with(index_with(Index(), [old, other]), [new])
    assert index.manifests == (other, new)


def test_one_entry_is_changed_or_taken_out() -> None:
    one, two = entry(b"1", HERE), entry(b"2", HERE)
    index = index_with(Index(), [one, two])
    wishes = EntryWishes(architecture="arm", variant="v7", annotations=(("a", "b"),))
    changed = index_changed(index, two.digest, wishes)
    assert changed.manifests[0] == one
    assert changed.manifests[1].platform == OTHER
    assert changed.manifests[1].annotations == (("a", "b"),)
    assert index_without(index, one.digest).manifests == (two,)
    with pytest.raises(NotFoundError, match="entry of the index"):
        index_changed(index, Digest.of(b"3"), wishes)
    with pytest.raises(NotFoundError, match="entry of the index"):
        index_without(index, Digest.of(b"3"))


def test_what_is_not_wished_stays_as_it_is() -> None:
    windows = Platform(
        os="windows", architecture="amd64", os_version="10.0.1", os_features=("win32k",)
    )
    assert EntryWishes().applied(entry(b"1", windows)).platform == windows
    newer = EntryWishes(os_version="10.0.2").applied(entry(b"1", windows)).platform
    assert newer == Platform(
        os="windows", architecture="amd64", os_version="10.0.2", os_features=("win32k",)
    )
    assert EntryWishes(os="linux").applied(entry(b"1")).platform == Platform(
        os="linux", architecture="unknown"
    )


def test_versions_and_features_of_a_system_survive_the_document() -> None:
    windows = Platform(
        os="windows", architecture="amd64", os_version="10.0.1", os_features=("win32k",)
    )
    index = index_with(Index(), [entry(b"1", windows)])
    assert Index.parse(index.encode()) == index
    assert b'"os.version":"10.0.1"' in index.encode()


@pytest.mark.needs_material
def test_an_index_is_valid_by_the_specifications_schema() -> None:
    windows = Platform(
        os="windows", architecture="amd64", os_version="10.0.1", os_features=("win32k",)
    )
    wishes = EntryWishes(annotations=(("a", "b"),))
    index = index_with(Index(), [wishes.applied(entry(b"1", windows)), entry(b"2", OTHER)])
    assert schema_error(SCHEMAS[media.OCI_INDEX], json.loads(index.encode())) == ""
