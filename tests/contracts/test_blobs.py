"""What every BlobStore must do, whatever it keeps its blobs in."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.backends.directory import DirectoryBlobs
from layerstore.backends.memory import MemoryBlobs
from layerstore.blobs import BlobStore, get, is_intact, put
from layerstore.digest import Digest
from layerstore.errors import CorruptBlobError, MalformedDocumentError, NotFoundError

ABSENT = Digest.of(b"nobody has this")
Damage = Callable[[Digest, bytes], None]  # replace the stored bytes behind the store's back


def make_directory(tmp_path: Path) -> tuple[BlobStore, Damage]:
    names = iter(range(1_000_000))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "blobs").mkdir(exist_ok=True)

    def damage(digest: Digest, data: bytes) -> None:
        path = tmp_path / "blobs" / digest.hex
        path.unlink()
        path.write_bytes(data)

    def new_tmp_path() -> Path:
        return tmp_path / "tmp" / f"{next(names)}"

    return DirectoryBlobs(tmp_path / "blobs", new_tmp_path, lambda _: None), damage


def make_memory(_: Path) -> tuple[BlobStore, Damage]:
    blobs = MemoryBlobs()

    def damage(digest: Digest, data: bytes) -> None:
        blobs._stored[digest] = data

    return blobs, damage


MAKERS = {"directory": make_directory, "memory": make_memory}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[BlobStore, Damage]:
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def blobs(made: tuple[BlobStore, Damage]) -> BlobStore:
    return made[0]


@pytest.fixture
def damage(made: tuple[BlobStore, Damage]) -> Damage:
    return made[1]


def test_what_was_committed_is_read_back(blobs: BlobStore) -> None:
    info = put(blobs, b"content")

    assert info.digest == Digest.of(b"content")
    assert info.size_bytes == 7
    assert get(blobs, info.digest) == b"content"


def test_a_blob_is_written_piece_by_piece(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        for _ in range(1000):
            writer.write(b"x" * 1000)
        info = writer.commit()

    assert info.digest == Digest.of(b"x" * 1_000_000)
    assert get(blobs, info.digest) == b"x" * 1_000_000


def test_what_is_written_can_be_read_meanwhile(blobs: BlobStore) -> None:
    with blobs.writer() as writer, writer.written() as reader:
        assert reader.read(10) == b""
        writer.write(b"0123")
        writer.flush()
        assert (reader.read(3), reader.read(3), reader.read(3)) == (b"012", b"3", b"")
        writer.write(b"45")
        writer.flush()
        assert reader.read(10) == b"45"
        assert writer.commit().digest == Digest.of(b"012345")


def test_an_empty_blob_is_a_blob(blobs: BlobStore) -> None:
    info = put(blobs, b"")
    blobs.sync()

    assert blobs.has(info.digest)
    assert get(blobs, info.digest) == b""


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=600), max_size=8), size=st.integers(1, 700))
def test_any_pieces_written_are_the_bytes_read_in_any_pieces(
    blobs: BlobStore, pieces: list[bytes], size: int
) -> None:
    with blobs.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        info = writer.commit()

    with blobs.open(info.digest) as reader:
        found = list(iter(lambda: reader.read(size), b""))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(piece) == size for piece in found[:-1])


def test_it_is_readable_before_and_after_sync(blobs: BlobStore) -> None:
    info = put(blobs, b"content")
    assert blobs.has(info.digest)

    blobs.sync()

    assert blobs.has(info.digest)
    assert get(blobs, info.digest) == b"content"
    assert list(blobs.digests()) == [info.digest]


def test_sync_may_be_called_when_there_is_nothing_to_do(blobs: BlobStore) -> None:
    blobs.sync()
    put(blobs, b"content")
    blobs.sync()
    blobs.sync()


def test_leaving_without_commit_stores_nothing(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"content")
    blobs.sync()

    assert not blobs.has(Digest.of(b"content"))
    assert list(blobs.digests()) == []


def test_an_error_while_writing_stores_nothing(blobs: BlobStore) -> None:
    with pytest.raises(KeyError), blobs.writer() as writer:
        writer.write(b"content")
        raise KeyError
    assert list(blobs.digests()) == []


def test_committing_the_same_twice_is_fine(blobs: BlobStore) -> None:
    assert put(blobs, b"content").is_new
    assert not put(blobs, b"content").is_new
    blobs.sync()
    assert not put(blobs, b"content").is_new
    blobs.sync()

    assert list(blobs.digests()) == [Digest.of(b"content")]
    assert get(blobs, Digest.of(b"content")) == b"content"


def test_a_wrong_digest_is_refused_and_nothing_kept(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"content")
        with pytest.raises(CorruptBlobError) as caught:
            writer.commit(expected_digest=ABSENT)

    assert caught.value.expected == ABSENT
    assert list(blobs.digests()) == []


def test_a_wrong_size_is_refused_and_nothing_kept(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"content")
        with pytest.raises(CorruptBlobError, match="8 bytes"):
            writer.commit(expected_size_bytes=8)
    assert list(blobs.digests()) == []


def test_the_right_expectations_are_accepted(blobs: BlobStore) -> None:
    with blobs.writer() as writer:
        writer.write(b"content")
        writer.commit(expected_digest=Digest.of(b"content"), expected_size_bytes=7)
    assert blobs.has(Digest.of(b"content"))


def test_what_is_absent_is_named(blobs: BlobStore) -> None:
    for ask in (blobs.open, blobs.size_bytes):
        with pytest.raises(NotFoundError) as caught:
            ask(ABSENT)
        assert caught.value.kind == "blob"
        assert caught.value.key == ABSENT
    assert not blobs.has(ABSENT)
    assert blobs.stamp(ABSENT) is None


def test_size_is_that_of_the_bytes(blobs: BlobStore) -> None:
    info = put(blobs, b"content")
    assert blobs.size_bytes(info.digest) == 7
    blobs.sync()
    assert blobs.size_bytes(info.digest) == 7


def test_open_compares_the_size_first(blobs: BlobStore) -> None:
    info = put(blobs, b"content")
    with pytest.raises(CorruptBlobError, match="expected 8 bytes, found 7 bytes"):
        blobs.open(info.digest, size_bytes=8)
    with blobs.open(info.digest, size_bytes=7) as reader:
        assert reader.read() == b"content"


def test_a_flipped_byte_is_never_served_to_the_end(blobs: BlobStore, damage: Damage) -> None:
    content = bytes(range(256)) * 4096
    info = put(blobs, content)
    blobs.sync()
    damage(info.digest, b"X" + content[1:])

    served = b""
    with (
        blobs.open(info.digest) as reader,
        pytest.raises(CorruptBlobError, match=info.digest) as caught,
    ):
        while piece := reader.read(100_000):
            served += piece
    assert len(served) < len(content)
    assert "fsck" in caught.value.hint


def test_reading_exactly_the_size_does_not_escape_verification(
    blobs: BlobStore, damage: Damage
) -> None:
    info = put(blobs, b"content")
    blobs.sync()
    damage(info.digest, b"CONTENT")

    with blobs.open(info.digest) as reader, pytest.raises(CorruptBlobError):
        reader.read(7)


@pytest.mark.parametrize("found", [b"", b"conten", b"content and more"])
def test_a_blob_of_another_length_is_damaged(
    blobs: BlobStore, damage: Damage, found: bytes
) -> None:
    info = put(blobs, b"content")
    blobs.sync()
    damage(info.digest, found)

    with pytest.raises(CorruptBlobError):
        get(blobs, info.digest)
    assert not is_intact(blobs, info.digest)


def test_committing_again_heals_damage(blobs: BlobStore, damage: Damage) -> None:
    info = put(blobs, b"content")
    blobs.sync()
    damage(info.digest, b"CONTENT")

    assert put(blobs, b"content").is_new
    blobs.sync()

    assert get(blobs, info.digest) == b"content"
    assert is_intact(blobs, info.digest)


def test_the_stamp_stays_while_the_bytes_do(blobs: BlobStore, damage: Damage) -> None:
    info = put(blobs, b"content")
    blobs.sync()
    stamp = blobs.stamp(info.digest)
    assert stamp is not None

    get(blobs, info.digest)
    assert blobs.stamp(info.digest) == stamp

    damage(info.digest, b"CONTENT")
    assert blobs.stamp(info.digest) != stamp


def test_discard_forgets_what_is_not_synced(blobs: BlobStore) -> None:
    old = put(blobs, b"old")
    blobs.sync()
    new = put(blobs, b"new")

    blobs.discard(old.digest)
    blobs.discard(new.digest)
    blobs.discard(ABSENT)
    blobs.sync()

    assert list(blobs.digests()) == [old.digest]


def test_remove_is_idempotent(blobs: BlobStore) -> None:
    synced = put(blobs, b"synced").digest
    blobs.sync()
    pending = put(blobs, b"pending").digest

    for digest in (synced, pending, ABSENT, synced):
        blobs.remove(digest)

    assert list(blobs.digests()) == []
    assert not blobs.has(synced)


def test_an_open_reader_survives_removal(blobs: BlobStore) -> None:
    info = put(blobs, b"content")
    blobs.sync()
    with blobs.open(info.digest) as reader:
        blobs.remove(info.digest)
        assert reader.read() == b"content"


def test_pieces_and_drain_read_to_the_end(blobs: BlobStore) -> None:
    info = put(blobs, b"x" * 1_000_000)
    assert b"".join(blobs.open(info.digest).pieces()) == b"x" * 1_000_000
    with blobs.open(info.digest) as reader:
        reader.drain()
        assert reader.read() == b""


def test_get_refuses_what_is_too_large(blobs: BlobStore) -> None:
    info = put(blobs, b"x" * 1000)
    with pytest.raises(MalformedDocumentError, match="1000 bytes"):
        get(blobs, info.digest, size_bytes_max=999)


def test_digests_lists_everything_once(blobs: BlobStore) -> None:
    infos = [put(blobs, bytes([number])) for number in range(20)]
    blobs.sync()
    infos += [put(blobs, bytes([number])) for number in range(20, 30)]

    assert sorted(blobs.digests()) == sorted(info.digest for info in infos)


def test_a_writer_may_be_closed_twice(blobs: BlobStore) -> None:
    writer = blobs.writer()
    writer.write(b"content")
    writer.close()
    writer.close()
    assert list(blobs.digests()) == []
