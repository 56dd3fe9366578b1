"""The attribute as text: read as it was written, by the store as well, whatever it says."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox.ownerattribute import (
    OWNER_XATTR,
    Owned,
    decode,
    encode,
    record,
    recorded,
)
from layerstore.owners import XATTR, Device, Record
from layerstore.owners import decode as decode_for_layers

IDS = st.integers(0, 2**31 - 1)
DEVICES = st.tuples(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]), *[st.integers(1, 4095)] * 2)


@given(st.builds(Owned, IDS, IDS, st.none() | DEVICES))
def test_a_record_is_read_as_it_was_written(owned: Owned) -> None:
    assert decode(encode(owned)) == owned


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9:]{0,40}", fullmatch=True))
def test_no_value_crashes_the_reader(value: bytes) -> None:
    owned = decode(value)
    assert owned is None or max(owned.uid, owned.gid) < 2**31


@given(st.builds(Owned, IDS, IDS, st.none() | DEVICES))
def test_the_store_reads_the_same(owned: Owned) -> None:
    assert XATTR == OWNER_XATTR
    record = decode_for_layers(encode(owned))
    device = None
    if owned.device is not None:
        kind, major, minor = owned.device
        device = Device("char" if kind == stat.S_IFCHR else "block", major, minor)
    assert record == Record(owned.uid, owned.gid, device)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def test_what_is_recorded_of_a_file_is_found_by_name_and_descriptor(
    file: int, tmp_path: Path
) -> None:
    name = os.fsencode(tmp_path / "f")
    assert recorded(file) is recorded(name) is None
    record(file, Owned(33, 34), (0, 0))
    assert recorded(file) == recorded(name) == Owned(33, 34)
    (tmp_path / "link").symlink_to("f")
    link = os.fsencode(tmp_path / "link")
    assert recorded(link) == Owned(33, 34)
    assert recorded(link, follow=False) is None
    os.setxattr(file, OWNER_XATTR, b"nonsense")
    assert recorded(file) is None
    assert recorded(name + b"-missing") is None


def test_who_owns_a_file_really_needs_no_record(file: int) -> None:
    record(file, Owned(0, 0), (0, 0))  # there is none to remove
    record(file, Owned(33, 34), (0, 0))
    record(file, Owned(0, 0), (0, 0))
    assert os.listxattr(file) == []
    record(file, Owned(0, 0, (stat.S_IFCHR, 1, 3)), (0, 0))
    assert os.getxattr(file, OWNER_XATTR) == b"0:0:char:1:3"


def test_a_file_system_without_attributes_is_passed_over_but_no_other_failure(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, "")

    monkeypatch.setattr(os, "setxattr", refuse)
    reason = errno.EOPNOTSUPP
    record(file, Owned(33, 34), (0, 0))
    reason = errno.ENOSPC
    with pytest.raises(OSError, match=str(errno.ENOSPC)):
        record(file, Owned(33, 34), (0, 0))
