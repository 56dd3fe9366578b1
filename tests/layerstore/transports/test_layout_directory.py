"""Layouts that are added to: whole files only, names that move, strangers left alone."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from layerstore import Digest, Export, Reference, Store, add_to_layout, load_images
from layerstore.descriptor import OCI_MANIFEST, REF_NAME, Descriptor
from layerstore.errors import MalformedDocumentError, StoreBusyError, StoreError
from layerstore.locks import lock_directory
from layerstore.transports.layout_directory import LayoutDirectory
from tests.support.imagetree import OciLayout
from tests.support.stores import flip, make_image, start


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def entry(name: str, digest: Digest) -> Descriptor:
    annotations = ((REF_NAME, name),) if name else ()
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size_bytes=2, annotations=annotations)


def names(root: Path) -> list[tuple[str, str]]:
    index = json.loads((root / "index.json").read_bytes())
    return [
        (item.get("annotations", {}).get(REF_NAME, ""), item["digest"])
        for item in index["manifests"]
    ]


ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def test_a_new_layout_is_made(tmp_path: Path) -> None:
    layout = LayoutDirectory(tmp_path / "deep" / "layout")
    digest = layout.put_document(b"{}")
    layout.list_entries([entry("it", digest)])
    assert files(layout.root) == [f"blobs/sha256/{digest.hex}", "index.json", "oci-layout"]
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    with pytest.raises(StoreError, match="neither empty nor an OCI image layout"):
        LayoutDirectory(tmp_path)
    assert files(tmp_path) == ["precious"]


def test_a_store_is_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        with pytest.raises(StoreError, match="is a store of lamina"):
            LayoutDirectory(store.root)
        image = make_image(store, "it", {"a": b"1"})
        with pytest.raises(StoreError, match="is a store of lamina"):
            add_to_layout(store, [Export(image=image)], store.root)


def test_a_blob_that_is_there_is_not_read_again(tmp_path: Path) -> None:
    layout = LayoutDirectory(tmp_path)
    digest = layout.put_document(b"content")

    def never() -> list[bytes]:
        raise AssertionError("read")

    layout.put(digest, 7, never)


@pytest.mark.parametrize("damage", ["flip", "cut", "link"])
def test_a_blob_that_is_wrong_is_replaced(tmp_path: Path, damage: str) -> None:
    layout = LayoutDirectory(tmp_path)
    digest = layout.put_document(b"content")
    path = tmp_path / "blobs/sha256" / digest.hex
    match damage:
        case "flip":
            flip(path)
        case "cut":
            path.write_bytes(b"con")
        case _:
            (tmp_path / "elsewhere").write_bytes(b"content")
            path.unlink()
            path.symlink_to(tmp_path / "elsewhere")
    layout.put_document(b"content")
    assert not path.is_symlink()
    assert path.read_bytes() == b"content"


def test_a_blob_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    layout = LayoutDirectory(tmp_path)

    def broken() -> list[bytes]:
        raise StoreError("damaged")

    with pytest.raises(StoreError, match="damaged"):
        layout.put(ONE, 1, broken)
    assert files(tmp_path) == ["oci-layout"]


def test_a_name_moves_and_other_entries_stay(tmp_path: Path) -> None:
    layout = LayoutDirectory(tmp_path)
    layout.list_entries([entry("a", ONE), entry("", ONE)])
    layout.list_entries([entry("b", TWO)])
    layout.list_entries([entry("a", TWO), entry("", ONE)])
    assert names(tmp_path) == [("b", TWO), ("a", TWO), ("", ONE)]


def test_a_damaged_index_is_not_overwritten(tmp_path: Path) -> None:
    layout = LayoutDirectory(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(MalformedDocumentError):
        layout.list_entries([entry("a", ONE)])
    assert (tmp_path / "index.json").read_text() == "{"


def test_images_are_added_one_after_the_other(tmp_path: Path) -> None:
    root = tmp_path / "layout"
    with Store.open(tmp_path / "store") as store:
        for name in ("one:1", "two:1"):
            image = make_image(store, name, {"shared": b"s"}, {name[:3]: b"x"})
            add_to_layout(store, [Export(image=image, names=(Reference.parse(name),))], root)
    assert sorted(OciLayout(root).names()) == ["one:1", "two:1"]
    assert sorted(OciLayout(root).tree("two:1")) == ["shared", "two"]
    with Store.open(tmp_path / "other") as other:
        loaded = load_images(other, root)
        assert sorted(name.familiar for each in loaded for name in each.names) == ["one:1", "two:1"]


def test_adding_the_same_again_changes_no_byte(tmp_path: Path) -> None:
    root = tmp_path / "layout"
    with Store.open(tmp_path / "store") as store:
        image = make_image(store, "it", {"a": b"1"})
        states = []
        for _ in range(2):
            add_to_layout(store, [Export(image=image, names=(Reference.parse("it"),))], root)
            states.append({name: (root / name).read_bytes() for name in files(root)})
    assert states[0] == states[1]


def test_what_a_killed_export_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f".lamina-write-{dead.pid}"
    (tmp_path / name).write_bytes(b"half")  # the first file it would have made
    layout = LayoutDirectory(tmp_path)
    (tmp_path / "blobs/sha256" / name).write_bytes(b"half")
    layout.put_document(b"{}")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(b"half")
    layout.write("x/y", b"z")
    assert not [path for path in tmp_path.rglob("*") if path.name == name]


ADD = """
import sys
from pathlib import Path
from layerstore import Digest
from layerstore.descriptor import OCI_MANIFEST, REF_NAME, Descriptor
from layerstore.transports.layout_directory import LayoutDirectory
layout = LayoutDirectory(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(20):
    name = f"{sys.argv[2]}{number}"
    digest = layout.put_document(name.encode())
    layout.list_entries([Descriptor(media_type=OCI_MANIFEST, digest=digest, size_bytes=len(name),
                                    annotations=((REF_NAME, name),))])
"""


def test_of_several_that_add_at_once_none_is_forgotten(tmp_path: Path) -> None:
    LayoutDirectory(tmp_path / "layout")
    adding = [start(ADD, tmp_path / "layout", letter) for letter in "abc"]
    for process in adding:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in adding:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert len(names(tmp_path / "layout")) == 60


def test_one_that_is_locked_for_long_is_said_to_be_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.transports.layout_directory._WAIT_S", 0.05)
    layout = LayoutDirectory(tmp_path)
    fd = lock_directory(tmp_path)
    assert fd is not None
    with pytest.raises(StoreBusyError):
        layout.list_entries([entry("a", ONE)])
    os.close(fd)
    layout.list_entries([entry("a", ONE)])
