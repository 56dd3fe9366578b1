"""The files of archives, hostile ones among them."""

import io
import os
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import Digest, Store
from layerstore.blobs import put
from layerstore.documents import DOCUMENT_BYTES_MAX
from layerstore.errors import (
    CorruptBlobError,
    MalformedDocumentError,
    NotFoundError,
    StoreError,
    UnsafePathError,
)
from layerstore.transports.members import Members, read_members
from tests.support.rawtar import header
from tests.support.stores import make_image

CONTENT = b"content"
BLOB = f"blobs/sha256/{Digest.of(CONTENT).hex}"
Contents = dict[str, bytes | str]


def tar(members: Contents, *, kind: bytes = tarfile.SYMTYPE) -> io.BytesIO:
    """An archive; text is the target of a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


def read(store: Store, members: Contents, **options: bytes) -> Members:
    with read_members(store, tar(members, **options)) as found:
        return found


def test_files_are_found_by_name(store: Store) -> None:
    with read_members(store, tar({"a": b"1", "d/b": b"2"})) as members:
        assert members.document("a") == b"1"
        assert members.document("d/b") == b"2"
        assert "a" in members
        assert "d" not in members
        with pytest.raises(NotFoundError, match="file in the archive: missing"):
            members.find("missing")


@pytest.mark.parametrize("written", ["./a", "/a", "d/../a", ".//a"])
def test_names_have_one_form(store: Store, written: str) -> None:
    with read_members(store, tar({written: b"1"})) as members:
        assert members.document("a") == b"1"


def test_the_last_of_two_equal_names_counts(store: Store) -> None:
    out = tar({"a": b"1"}).getvalue()[:1024] + tar({"a": b"2"}).getvalue()
    with read_members(store, io.BytesIO(out)) as members:
        assert members.document("a") == b"2"


@pytest.mark.parametrize("target", ["../one/layer.tar", "./../one/layer.tar", "../one//layer.tar"])
def test_links_between_members_are_followed(store: Store, target: str) -> None:
    with read_members(store, tar({"one/layer.tar": b"1", "two/layer.tar": target})) as members:
        assert members.document("two/layer.tar") == b"1"
        assert "two/layer.tar" in members


def test_hard_links_between_members_are_followed(store: Store) -> None:
    archive = tar({"a": b"1", "b": "a"}, kind=tarfile.LNKTYPE)
    with read_members(store, archive) as members:
        assert members.document("b") == b"1"


def test_links_to_links_are_followed_but_not_for_ever(store: Store) -> None:
    with read_members(store, tar({"a": b"1", "b": "a", "c": "b"})) as members:
        assert members.document("c") == b"1"
    with (
        read_members(store, tar({"a": "b", "b": "a"})) as members,
        pytest.raises(NotFoundError),
    ):
        members.document("a")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "d/../../../x"])
def test_links_that_lead_outside_are_refused(store: Store, target: str) -> None:
    with pytest.raises(MalformedDocumentError, match="leads outside"):
        read(store, {"d/link": target})


def test_a_link_to_nothing_is_not_found(store: Store) -> None:
    with read_members(store, tar({"a": "missing"})) as members, pytest.raises(NotFoundError):
        members.find("a")


def test_a_name_that_leads_outside_is_refused(store: Store, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsafePathError):
        read(store, {"../../../../../../tmp/lamina-escape": b"x"})
    assert not Path("/tmp/lamina-escape").exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if "lamina" not in path.parts] == [
        path for path in before if "lamina" not in path.parts
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [(b"3", "c"), (b"4", "b"), (b"6", "p"), (b"0", ".wh.a"), (b"0", "d/.wh.a")]
)
def test_only_files_directories_and_links_are_accepted(
    store: Store, kind: bytes, name: str
) -> None:
    data = header(name, kind=kind, device=(1, 3)) + bytes(1024)
    with pytest.raises(StoreError), read_members(store, io.BytesIO(data)):
        pass


def test_a_blob_must_be_what_its_name_says(store: Store) -> None:
    with read_members(store, tar({BLOB: CONTENT})) as members:
        assert members.find(BLOB).digest == Digest.of(CONTENT)
    with pytest.raises(CorruptBlobError):
        read(store, {BLOB: b"another"})


def test_a_document_must_be_small(store: Store) -> None:
    big = b" " * (DOCUMENT_BYTES_MAX + 1)
    with (
        read_members(store, tar({"manifest.json": big})) as members,
        pytest.raises(MalformedDocumentError, match="more than a document may have"),
    ):
        members.document("manifest.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"not a tar at all" * 100, b"\x1f\x8b\x08broken", b"\x28\xb5\x2f\xfdbroken"],
    ids=["empty", "short", "text", "gzip", "zstd"],
)
def test_what_is_no_archive_is_a_typed_error(store: Store, data: bytes) -> None:
    from layerstore import load_images

    with pytest.raises(StoreError):
        load_images(store, io.BytesIO(data))


def test_an_endless_stream_of_zeros_is_not_read_for_ever(store: Store) -> None:
    class Zeros:
        """As many as one would wait for, not more."""

        left = 1 << 30

        def read(self, size: int = -1) -> bytes:
            size = min(size if size >= 0 else 1 << 20, self.left)
            self.left -= size
            return bytes(size)

    started = time.monotonic()
    with read_members(store, Zeros()) as members:
        assert "manifest.json" not in members
    assert time.monotonic() - started < 30


def test_an_error_of_the_stream_is_passed_on(store: Store) -> None:
    class Broken:
        def read(self, _: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"), read_members(store, Broken()):
        pass


# ---- what is dropped


def test_what_nobody_keeps_is_dropped(store: Store) -> None:
    read(store, {"a": b"1", BLOB: CONTENT})
    store.flush()
    assert list(store.blobs.digests()) == []


def test_what_was_there_before_is_not_dropped(store: Store) -> None:
    put(store.blobs, b"flushed")
    store.flush()
    put(store.blobs, b"pending")
    read(store, {"a": b"flushed", "b": b"pending", "c": b"new"})
    store.flush()
    assert set(store.blobs.digests()) == {Digest.of(b"flushed"), Digest.of(b"pending")}


def test_after_an_error_all_is_dropped(store: Store) -> None:
    with pytest.raises(KeyError), read_members(store, tar({"a": b"1"})):
        raise KeyError
    with pytest.raises(StoreError):
        read(store, {"a": b"1", BLOB: b"another"})
    store.flush()
    assert list(store.blobs.digests()) == []


def test_the_parts_of_an_image_are_kept(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as other:
        image = make_image(other, "app", {"a": b"1"})
        blobs: Contents = {
            f"blobs/sha256/{digest.hex}": other.blob_path(digest).read_bytes()
            for digest in other.blobs.digests()
        }
    with read_members(store, tar({**blobs, "rest": b"not needed"})) as members:
        members.keep(image.descriptor)
    assert len(blobs) == 3
    assert set(store.blobs.digests()) == {Digest(f"sha256:{name[-64:]}") for name in blobs}


# ---- directories


def layout(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in ({"oci-layout": b"{}", "index.json": b"{}"} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    return root


def test_the_files_of_a_layout_are_found(store: Store, tmp_path: Path) -> None:
    with read_members(store, layout(tmp_path / "l", {BLOB: CONTENT, "other": b"x"})) as members:
        assert members.document(BLOB) == CONTENT
        assert "other" not in members, "nothing else is read"


def test_a_directory_that_is_no_layout_is_not_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with (
        pytest.raises(MalformedDocumentError, match="no file oci-layout"),
        read_members(store, tmp_path / "d"),
    ):
        pass


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the path is too long for a socket
        server.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize("damage", [link_out, make_fifo, make_socket, Path.unlink])
@pytest.mark.parametrize("name", ["index.json", BLOB])
def test_what_is_no_file_in_a_layout_is_refused(
    store: Store, tmp_path: Path, damage: Callable[[Path], object], name: str
) -> None:
    root = layout(tmp_path / "l", {BLOB: CONTENT})
    damage(root / name)
    if damage is Path.unlink and name == BLOB:
        return
    with pytest.raises(StoreError), read_members(store, root):
        pass


def test_a_path_that_does_not_exist_is_an_os_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), read_members(store, tmp_path / "missing"):
        pass
