"""Recorded owners: a value anybody may have written, beside the owner the kernel knows."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import Meta, TreePath, overlay_changes, owner_of
from layerstore.changeset import PutDir, PutFile, PutNode
from layerstore.overlaydir import write
from layerstore.owners import XATTR, Device, Record, decode, give, read
from layerstore.tarcodec import is_layer_xattr

IDS = st.integers(0, 2**31 - 1)
NUMBERS = st.integers(1, 2**32 - 1)
DEVICES = st.builds(Device, st.sampled_from(["char", "block"]), NUMBERS, NUMBERS)
HERE = (os.geteuid(), os.getegid())


@given(st.builds(Record, IDS, IDS, st.none() | DEVICES))
def test_what_was_encoded_is_decoded(record: Record) -> None:
    assert decode(record.encode()) == record


@given(st.binary(max_size=80))
def test_no_value_crashes_the_decoder(value: bytes) -> None:
    record = decode(value)
    assert record is None or 0 <= record.uid < 2**31


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"33", b"33:", b":33", b"-1:0", b"0:-1", b" 1:1", b"1:1 ", b"1:1\n", b"+1:1"),
        *(b"2147483648:0", b"0:2147483648", b"99999999999:0", "\u0663:0".encode(), b"0x1:0"),
        *(b"0:0:char", b"0:0:char:1", b"0:0:pipe:1:1", b"0:0:char:1:1:1", b"0:0:char:-1:1"),
        *(b"0:0:char:0:0", b"0:0:char:4294967296:0", b"0" * 65 + b":0"),
    ],
)
def test_what_is_no_record_is_none(value: bytes) -> None:
    assert decode(value) is None


def test_no_layer_carries_the_attribute() -> None:
    assert not is_layer_xattr(XATTR)


def test_a_file_without_a_record_belongs_to_whom_the_kernel_says(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert owner_of(tmp_path) == HERE
    os.setxattr(tmp_path, XATTR, b"nonsense")
    assert owner_of(tmp_path) == HERE


def test_a_record_counts_for_paths_and_for_open_files(tmp_path: Path) -> None:
    os.setxattr(tmp_path, XATTR, b"33:34")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert owner_of(tmp_path) == owner_of(fd) == (33, 34)
    finally:
        os.close(fd)


def test_giving_records_nothing_where_the_kernel_agrees(tmp_path: Path) -> None:
    give(tmp_path, *HERE)
    assert os.listxattr(tmp_path) == []


def test_giving_to_an_id_that_is_not_there_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "chown", refuse)
    give(tmp_path, 33, 34)
    assert owner_of(tmp_path) == (33, 34)


def test_giving_what_one_does_not_have_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        give(tmp_path, 33, 34)
    assert os.listxattr(tmp_path) == []


def test_a_layer_is_read_with_recorded_owners_and_devices(tmp_path: Path) -> None:
    meta = Meta(0o640, *HERE, 5)
    puts = [PutDir(TreePath("d"), Meta(0o755, *HERE, 5))]
    write([*puts, *(PutFile(TreePath(f"d/{n}"), meta, 0, b"") for n in "ab")], tmp_path)
    for name, value in (("d", b"1:2"), ("d/a", b"3:4"), ("d/b", b"5:6:char:1:3")):
        os.setxattr(tmp_path / name, XATTR, value)
    recorded = list(overlay_changes(tmp_path, userxattr=True))
    assert recorded == [
        PutDir(TreePath("d"), Meta(0o755, 1, 2, 5)),
        PutFile(TreePath("d/a"), Meta(0o640, 3, 4, 5), 0, b""),
        PutNode(TreePath("d/b"), Meta(0o640, 5, 6, 5), "char", 1, 3),
    ]
    as_root = list(overlay_changes(tmp_path))
    assert {change.meta for change in as_root if isinstance(change, PutFile)} == {meta}


def test_a_file_with_content_is_no_device_whatever_its_record_says(tmp_path: Path) -> None:
    write([PutFile(TreePath("f"), Meta(0o600, *HERE, 5), 1, b"x")], tmp_path)
    os.setxattr(tmp_path / "f", XATTR, b"5:6:char:1:3")
    assert list(overlay_changes(tmp_path, userxattr=True)) == [
        PutFile(TreePath("f"), Meta(0o600, 5, 6, 5), 1, b"x")
    ]
