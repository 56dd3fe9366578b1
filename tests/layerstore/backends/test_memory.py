"""What is special about blobs in memory; the rest: tests/contracts/test_blobs.py."""

from typing import cast

from layerstore.backends.memory import MemoryBlobs
from layerstore.blobs import get, put


def test_two_stores_in_memory_know_nothing_of_each_other() -> None:
    one, other = MemoryBlobs(), MemoryBlobs()
    digest = put(one, b"content").digest
    one.sync()
    assert one.has(digest)
    assert not other.has(digest)


def test_a_writer_keeps_a_copy_of_what_it_is_given() -> None:
    blobs = MemoryBlobs()
    buffer = bytearray(b"content")
    with blobs.writer() as writer:
        writer.write(cast(bytes, buffer))
        buffer[:] = b"CHANGED"
        info = writer.commit()
    assert get(blobs, info.digest) == b"content"


def test_the_stamp_of_a_pending_blob_is_that_of_its_bytes() -> None:
    blobs = MemoryBlobs()
    digest = put(blobs, b"content").digest
    pending = blobs.stamp(digest)
    blobs.sync()
    assert blobs.stamp(digest) == pending
