"""Threads that transfer, and one that looks on."""

import os
import threading
import time
from functools import partial

import pytest

from layerstore import CorruptBlobError, Descriptor, Digest, Reference, Store
from layerstore.backends.memory import MemoryBlobs
from layerstore.registry import RegistryError, transfers
from layerstore.registry.errors import CanceledError
from layerstore.registry.transfers import Download, Transfer, Workers
from tests.layerstore.registry.conftest import NewClient
from tests.support.oddregistry import OddRegistry, Reply

DIGEST = Digest.of(b"")


def ignore(event: Transfer) -> None:
    """Look at none."""


def event(size: int) -> Transfer:
    return Transfer(digest=DIGEST, status="downloading", done_bytes=size)


def test_jobs_run_a_few_at_a_time_and_all_of_them() -> None:
    lock = threading.Lock()
    running, most, done = 0, 0, 0

    def job() -> None:
        nonlocal running, most, done
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
            done += 1

    with Workers(3, ignore, threading.Event()) as workers:
        for _ in range(10):
            workers.add(job)
    assert (most, done) == (3, 10)


def test_events_are_told_by_the_thread_that_looks_on() -> None:
    told: list[tuple[int, int]] = []

    def report(found: Transfer) -> None:
        told.append((found.done_bytes, threading.get_ident()))

    with Workers(2, report, threading.Event()) as workers:
        for size in range(5):
            workers.add(partial(workers.tell, event(size)))
    assert sorted(size for size, _ in told) == [0, 1, 2, 3, 4]
    assert {thread for _, thread in told} == {threading.get_ident()}


def test_who_waits_tells_events_meanwhile() -> None:
    told: list[Transfer] = []
    condition = threading.Condition()
    with Workers(1, told.append, threading.Event()) as workers:
        workers.add(lambda: workers.tell(event(1)))
        with condition:
            workers.wait(condition, lambda: bool(told))
    assert len(told) == 1


def test_after_a_failure_no_job_is_begun_and_all_threads_end() -> None:
    before = threading.active_count()
    begun: list[int] = []
    stop = threading.Event()
    started = threading.Event()

    def long_job() -> None:
        begun.append(1)
        started.set()
        stop.wait(20)

    with pytest.raises(ZeroDivisionError), Workers(1, ignore, stop) as workers:
        workers.add(long_job)
        workers.add(long_job)
        started.wait(20)
        raise ZeroDivisionError
    assert begun == [1]
    assert threading.active_count() == before


def test_who_cannot_be_ended_is_waited_for_once_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfers, "_JOIN_S", 0.3)
    stops = threading.Event(), threading.Event()
    deaf = threading.Event()
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), Workers(8, ignore, *stops) as workers:
        for _ in range(8):
            workers.add(lambda: deaf.wait(20))
        raise ZeroDivisionError
    assert time.monotonic() - started < 1.5
    assert all(stop.is_set() for stop in stops)  # for those who are still there
    deaf.set()


def test_every_stop_ends_the_others_and_is_good_for_the_next_time() -> None:
    stops = threading.Event(), threading.Event()
    ended: list[int] = []

    def job(number: int) -> None:
        stops[number].wait(20)
        ended.append(number)

    with pytest.raises(ZeroDivisionError), Workers(3, ignore, *stops) as workers:
        workers.carry_out([partial(job, 0), partial(job, 1), lambda: 1 // 0])
    assert sorted(ended) == [0, 1]
    assert not any(stop.is_set() for stop in stops)


def test_jobs_go_side_by_side_and_the_first_error_ends_them() -> None:
    before = threading.active_count()
    done: list[int] = []
    stop = threading.Event()
    with Workers(2, ignore, stop) as workers:
        workers.carry_out([partial(done.append, n) for n in range(4)])
    assert sorted(done) == [0, 1, 2, 3]

    def fail() -> None:
        raise ZeroDivisionError

    def canceled() -> None:
        stop.wait(20)
        raise CanceledError

    with pytest.raises(ZeroDivisionError), Workers(2, ignore, stop) as workers:
        workers.carry_out([canceled, fail, lambda: done.append(9)])
    assert 9 not in done
    assert threading.active_count() == before


# Downloads.


def download(
    odd: OddRegistry, new_client: NewClient, workers: Workers[Transfer], content: bytes
) -> Download:
    client = new_client()
    repository = client.repository(Reference.parse(f"{odd.address}/a"))
    descriptor = Descriptor(
        media_type="application/x", digest=Digest.of(content), size_bytes=len(content)
    )
    return Download(repository, descriptor, MemoryBlobs().writer(), workers)


@pytest.mark.parametrize("size", [0, 1, 262_144, 1_000_001])
def test_what_has_come_is_read_while_more_comes(
    odd: OddRegistry, new_client: NewClient, size: int
) -> None:
    content = os.urandom(size)
    odd.add_blob("a", content)
    told: list[Transfer] = []
    with Workers(1, told.append, threading.Event()) as workers:
        one = download(odd, new_client, workers, content)
        workers.add(one.run)
        assert one.read(10) == content[:10]
        assert one.read() == content[10:]
        assert one.read(10) == b""
        one.writer.commit(expected_digest=Digest.of(content))
        one.close()
    assert told[-1].status == "downloaded"
    assert told[-1].done_bytes == size


def test_a_file_is_read_while_it_is_written(
    odd: OddRegistry, new_client: NewClient, store: Store
) -> None:
    content = os.urandom(1_000_000)
    odd.add_blob("a", content)
    client = new_client()
    repository = client.repository(Reference.parse(f"{odd.address}/a"))
    descriptor = Descriptor(
        media_type="application/x", digest=Digest.of(content), size_bytes=len(content)
    )
    with (
        store.blobs.writer() as writer,
        Workers(1, ignore, threading.Event()) as workers,
    ):
        one = Download(repository, descriptor, writer, workers)
        workers.add(one.run)
        assert one.read() == content
        writer.commit(expected_digest=descriptor.digest)
        one.close()
    assert store.blobs.has(descriptor.digest)


def test_what_goes_wrong_is_raised_where_it_is_read(
    odd: OddRegistry, new_client: NewClient
) -> None:
    content = b"x" * 100
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = Reply(b"x" * 101)
    with Workers(1, ignore, threading.Event()) as workers:
        one = download(odd, new_client, workers, content)
        workers.add(one.run)
        with pytest.raises(CorruptBlobError):
            one.read()
    missing = b"y"
    with Workers(1, ignore, threading.Event()) as workers:
        one = download(odd, new_client, workers, missing)
        workers.add(one.run)
        with pytest.raises(RegistryError):
            one.read()


def test_a_download_that_nobody_wants_is_cut(odd: OddRegistry, new_client: NewClient) -> None:
    content = os.urandom(1000)
    odd.replies[f"GET /v2/a/blobs/{Digest.of(content)}"] = Reply(
        content[:10], length=1000, stall_s=20
    )
    client = new_client(bounds=type(new_client().settings.bounds)())  # a minute's patience
    repository = client.repository(Reference.parse(f"{odd.address}/a"))
    descriptor = Descriptor(media_type="application/x", digest=Digest.of(content), size_bytes=1000)
    started = time.monotonic()
    ended: list[BaseException] = []
    with pytest.raises(ZeroDivisionError), Workers(1, ignore, client.stop) as workers:
        one = Download(repository, descriptor, MemoryBlobs().writer(), workers)

        def job() -> None:
            one.run()
            try:
                one.read()
            except CanceledError as error:
                ended.append(error)

        workers.add(job)
        time.sleep(0.3)
        raise ZeroDivisionError
    odd.ended.set()
    assert time.monotonic() - started < 5
    assert len(ended) == 1
