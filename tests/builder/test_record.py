"""Build records: what is kept, how much of it, and that damage never hurts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from builder.record import BuildRecord, StepRecord, of_image, read_all, write

STEP = StepRecord(
    instruction="RUN make",
    line=3,
    stage="build",
    outcome="executed",
    reason="",
    key="sha256:" + "1" * 64,
    layer="sha256:" + "2" * 64,
    seconds=1.25,
)
RECORD = BuildRecord(
    id="0000000000001-7",
    started=1.5,
    seconds=2.5,
    dockerfile="Dockerfile",
    target="",
    names=("hello:1", "hello:2"),
    image_id="sha256:" + "3" * 64,
    manifest_digest="sha256:" + "4" * 64,
    error="",
    steps=(STEP, replace(STEP, outcome="metadata", key="", layer="", seconds=0.0)),
)


def numbered(number: int, **changes: str) -> BuildRecord:
    record = replace(RECORD, id=f"{number:013d}-7")
    return replace(record, image_id=changes.get("image_id", f"image-{number}"))


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(RECORD, tmp_path / "builds")
    assert read_all(tmp_path / "builds") == [RECORD]


def test_a_failed_build_has_a_record_too(tmp_path: Path) -> None:
    failed = replace(RECORD, image_id="", manifest_digest="", error="exit code: 1 \udcff", steps=())
    write(failed, tmp_path)
    assert read_all(tmp_path) == [failed]


def test_the_directory_is_made_private_and_holds_no_leftovers(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "builds"
    write(RECORD, directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in directory.iterdir()] == [f"{RECORD.id}.json"]


def test_records_are_read_newest_first(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write(numbered(number), tmp_path)
    assert [record.image_id for record in read_all(tmp_path)] == ["image-10", "image-2", "image-1"]


def test_writing_a_record_again_replaces_it(tmp_path: Path) -> None:
    write(RECORD, tmp_path)
    write(replace(RECORD, error="again"), tmp_path)
    assert [record.error for record in read_all(tmp_path)] == ["again"]


def test_only_the_newest_two_hundred_are_kept(tmp_path: Path) -> None:
    text = json.dumps(asdict(RECORD))
    for number in range(205):
        (tmp_path / f"{number:013d}-7.json").write_text(text)
    write(numbered(999), tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 200
    assert left[0] == f"{6:013d}-7.json"
    assert left[-1] == f"{999:013d}-7.json"


def test_the_record_of_an_image_is_the_newest_build_that_gave_it(tmp_path: Path) -> None:
    write(numbered(1, image_id="same"), tmp_path)
    write(numbered(2, image_id="same"), tmp_path)
    write(numbered(3, image_id="other"), tmp_path)
    found = of_image("same", tmp_path)
    assert found is not None
    assert found.id == numbered(2).id
    assert of_image("unknown", tmp_path) is None


def test_where_nothing_was_built_there_are_no_records(tmp_path: Path) -> None:
    assert read_all(tmp_path / "absent") == []
    assert of_image("any", tmp_path / "absent") is None


DAMAGED = {
    "empty": b"",
    "cut": json.dumps(asdict(RECORD)).encode()[:50],
    "binary": b"\xff\x00\xfe",
    "number": b"5",
    "list": b"[]",
    "null": b"null",
    "no steps": b"{}",
    "a field too many": json.dumps(asdict(RECORD) | {"later": 1}).encode(),
    "a field too few": json.dumps({"steps": [], "names": []}).encode(),
    "steps of another shape": json.dumps(asdict(RECORD) | {"steps": [{"a": 1}]}).encode(),
    "steps that are none": json.dumps(asdict(RECORD) | {"steps": 3}).encode(),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_left_out_and_the_others_stay(tmp_path: Path, damage: str) -> None:
    (tmp_path / "0000000000000-1.json").write_bytes(DAMAGED[damage])
    write(RECORD, tmp_path)
    assert read_all(tmp_path) == [RECORD]


def test_other_files_beside_the_records_are_no_records(tmp_path: Path) -> None:
    (tmp_path / ".0000000000001-7.99").write_text("a killed build's")
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "directory.json").mkdir()
    write(RECORD, tmp_path)
    assert read_all(tmp_path) == [RECORD]
