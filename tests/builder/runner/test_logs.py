import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.runner.logs import (
    Entry,
    LogWriter,
    follow_log,
    last_entries,
    parse,
    read_log,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def written(path: Path, *pieces: tuple[str, bytes]) -> list[tuple[str, str]]:
    log = LogWriter(path)
    for stream, data in pieces:
        log.add(stream, data)
    log.close()
    return [(entry.stream, entry.text) for entry in read_log(path)]


def test_the_file_is_docker_s_json_lines(path: Path) -> None:
    written(path, ("stdout", b"hello \xc3\xa9\n"))
    fields = json.loads(path.read_text())
    assert list(fields) == ["log", "stream", "time"]
    assert fields["log"] == "hello \u00e9\n"
    assert fields["stream"] == "stdout"
    assert fields["time"].endswith("Z")
    assert len(fields["time"]) == len("2026-01-31T12:00:00.123456789Z")


def test_pieces_become_lines(path: Path) -> None:
    assert written(path, ("stdout", b"a"), ("stdout", b"b\nc"), ("stdout", b"\n")) == [
        ("stdout", "ab\n"),
        ("stdout", "c\n"),
    ]


def test_streams_do_not_mix_within_a_line(path: Path) -> None:
    pieces = (("stdout", b"out"), ("stderr", b"err\n"), ("stdout", b"put\n"))
    assert written(path, *pieces) == [("stderr", "err\n"), ("stdout", "output\n")]


def test_a_line_without_an_end_is_written_at_the_end(path: Path) -> None:
    assert written(path, ("stdout", b"no end")) == [("stdout", "no end")]


def test_long_lines_are_cut_and_only_the_last_piece_ends(path: Path) -> None:
    entries = written(path, ("stdout", b"x" * 40_000 + b"\ny\n"))
    texts = [text for _, text in entries]
    assert "".join(texts) == "x" * 40_000 + "\ny\n"
    assert [text.endswith("\n") for text in texts] == [False, False, True, True]
    assert all(len(text) <= (16 << 10) + 1 for text in texts)


def test_bytes_that_are_not_utf8_do_no_harm(path: Path) -> None:
    assert written(path, ("stdout", b"\xff\x00\x1b\n")) == [("stdout", "\ufffd\x00\x1b\n")]


def test_the_file_is_appended_to_and_is_the_owner_s_alone(path: Path) -> None:
    written(path, ("stdout", b"1\n"))
    assert len(written(path, ("stdout", b"2\n"))) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_file_is_an_empty_log(path: Path) -> None:
    assert list(read_log(path)) == []
    assert list(follow_log(path, lambda: False)) == []


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b"{", b"null", b"[" * 100_000])
def test_damaged_lines_are_passed_over(line: bytes) -> None:
    assert parse(line) is None


def test_following_sees_what_is_written_until_the_end(path: Path) -> None:
    log = LogWriter(path)
    log.add("stdout", b"first\n")
    running = [True]
    seen: list[str] = []
    both = threading.Event()

    def follow() -> None:
        for entry in follow_log(path, lambda: running[0]):
            seen.append(entry.text)
            both.set()

    follower = threading.Thread(target=follow)
    follower.start()
    assert both.wait(10)
    log.add("stderr", b"second\n")
    log.close()
    running[0] = False
    follower.join(timeout=10)
    assert seen == ["first\n", "second\n"]


def test_following_waits_for_the_rest_of_a_line(path: Path) -> None:
    whole = b'{"log":"a\\n","stream":"stdout","time":"t"}\n'
    path.write_bytes(whole[:10])
    answers = iter([True, False])

    def is_running() -> bool:
        answer = next(answers)
        if not answer:
            with path.open("ab") as file:
                file.write(whole[10:])
        return answer

    assert list(follow_log(path, is_running)) == [Entry("a\n", "stdout", "t")]


def entries(*texts: str) -> list[Entry]:
    return [Entry(text, "stdout", "") for text in texts]


def test_the_last_lines_count_pieces_as_one() -> None:
    log = entries("a\n", "b", "c\n", "d\n")
    assert last_entries(iter(log), 2) == entries("b", "c\n", "d\n")
    assert last_entries(iter(log), 0) == []
    assert last_entries(iter(log), 99) == log


def test_the_last_lines_of_two_streams_stay_in_order() -> None:
    log = [Entry("a", "stdout", ""), Entry("b\n", "stderr", ""), Entry("c\n", "stdout", "")]
    assert last_entries(iter(log), 1) == [log[1]]
    assert last_entries(iter(log), 2) == [log[0], log[2], log[1]]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_all_that_goes_in_comes_out(pieces: list[bytes]) -> None:
    path = Path(f"/tmp/lamina-log-{os.getpid()}")
    try:
        texts = [text for _, text in written(path, *(("stdout", piece) for piece in pieces))]
    finally:
        path.unlink()
    lines = b"".join(pieces).split(b"\n")
    expected = "\n".join(line.decode("utf-8", "replace") for line in lines)
    assert "".join(texts) == expected
