"""index.json and its copy: damage is named and not served, other tools may write."""

import json
from pathlib import Path

import pytest

from layerstore import Reference, Store
from layerstore.beside import write_durably
from layerstore.errors import MalformedDocumentError
from layerstore.indexfile import IndexFile, read_index_file
from tests.support.stores import findings, flip, make_image


@pytest.fixture
def filled(store: Store) -> Store:
    make_image(store, "one", {"a": b"1"})
    make_image(store, "two", {"a": b"2"})
    return store


def names(store: Store) -> list[str]:
    return sorted(name for image in store.images.list() for name in image.names)


def told(store: Store) -> list[str]:
    return [f"{finding.kind} {finding.key}" for finding in findings(store)]


@pytest.mark.parametrize("at", range(0, 700, 47))
def test_a_flipped_byte_anywhere_is_named_and_not_served(filled: Store, at: int) -> None:
    path = filled.root / "index.json"
    flip(path, at % path.stat().st_size)
    assert told(filled) == ["file index.json"]
    assert names(filled) == ["one:latest", "two:latest"]
    filled.images.tag(filled.images.resolve("one"), Reference.parse("three"))
    filled.flush()
    assert told(filled) == []
    assert names(filled) == ["one:latest", "three:latest", "two:latest"]


@pytest.mark.parametrize("data", [b"", b"{", b"null", None])
def test_a_file_that_is_cut_or_gone_is_named_and_not_served(
    filled: Store, data: bytes | None
) -> None:
    path = filled.root / "index.json"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert told(filled) == ["file index.json"]
    assert names(filled) == ["one:latest", "two:latest"]
    make_image(filled, "one", {"a": b"1"})
    assert told(filled) == []


@pytest.mark.parametrize("at", [0, 64, 70, 129, 130, 300, -1])
def test_a_damaged_copy_is_named_and_does_no_harm(filled: Store, at: int) -> None:
    flip(filled.private / "index", at)
    found = told(filled)
    assert found in (["file lamina/index"], [])  # the digest of the one before is nobody's need
    assert names(filled) == ["one:latest", "two:latest"]
    make_image(filled, "three", {"a": b"3"})
    assert told(filled) == []


def test_a_missing_copy_is_as_in_a_layout_of_another_tool(filled: Store) -> None:
    (filled.private / "index").unlink()
    assert told(filled) == []
    (filled.root / "index.json").write_bytes(b"{")
    with pytest.raises(MalformedDocumentError):
        filled.images.list()
    assert told(filled) == ["file index.json"]


def test_another_tool_may_write_it(filled: Store) -> None:
    path = filled.root / "index.json"
    document = json.loads(path.read_bytes())
    del document["manifests"][0]
    path.write_text(json.dumps(document, indent=2))
    assert names(filled) == ["two:latest"]
    assert told(filled) == []
    make_image(filled, "three", {"a": b"3"})
    assert names(filled) == ["three:latest", "two:latest"]


def test_a_crash_between_the_copy_and_the_file_changes_nothing(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the new name differs by one letter from the old one."""

    def die(path: Path, data: bytes, temporary: Path) -> None:
        if path.name == "index.json":
            raise KeyboardInterrupt
        write_durably(path, data, temporary)

    with monkeypatch.context() as patch:
        patch.setattr("layerstore.indexfile.write_durably", die)
        index_file = IndexFile(filled.root, filled.lease().new_path)
        index = index_file.read()
        renamed = json.loads(index.encode())
        renamed["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "onf:latest"
        with pytest.raises(KeyboardInterrupt):
            index_file.replace(type(index).parse(json.dumps(renamed).encode()))
    assert names(filled) == ["one:latest", "two:latest"]
    assert told(filled) == []


def test_the_first_index_of_a_store_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "lamina").mkdir()
    numbers = iter(range(100))
    index_file = IndexFile(tmp_path, lambda prefix: tmp_path / f"{prefix}{next(numbers)}")
    with pytest.raises(MalformedDocumentError):
        index_file.read()
    with Store.open(tmp_path.with_name("other")) as store:
        index = store.images.index_file.read()
    index_file.replace(index)
    assert index_file.read() == index
    assert index_file.damage() == []
    assert read_index_file(tmp_path / "index.json") == index.encode()
