"""Build records: what is kept, how much of it, and that damage never hurts."""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from builder.explain import Difference, Explanation
from builder.record import (
    BaseRecord,
    BuildRecord,
    NoSuchBuildError,
    StepLog,
    StepRecord,
    damaged,
    id_of,
    log_of,
    of_image,
    of_name,
    of_place,
    read_all,
    remove,
    write,
)
from tests.support.stores import flip

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
    "seconds that are none": json.dumps(asdict(RECORD) | {"seconds": "x"}).encode(),
    "seconds without end": json.dumps(asdict(RECORD) | {"seconds": float("inf")}).encode(),
    "names that are none": json.dumps(asdict(RECORD) | {"names": [1.5]}).encode(),
    "an error that is none": json.dumps(asdict(RECORD) | {"error": ["x"]}).encode(),
    "a line that is none": json.dumps(
        asdict(RECORD) | {"steps": [asdict(STEP) | {"line": "\x1b["}]}
    ).encode(),
    "output before the log": json.dumps(
        asdict(RECORD) | {"steps": [asdict(STEP) | {"log_offset": -5}]}
    ).encode(),
    "the id of another": json.dumps(asdict(RECORD) | {"id": "../../x"}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_left_out_and_the_others_stay(tmp_path: Path, damage: str) -> None:
    (tmp_path / "0000000000000-1.json").write_bytes(DAMAGED[damage])
    write(RECORD, tmp_path)
    assert read_all(tmp_path) == [RECORD]


def test_other_files_beside_the_records_are_no_records(tmp_path: Path) -> None:
    (tmp_path / ".lamina-write-x").write_text("x")
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "directory.json").mkdir()
    write(RECORD, tmp_path)
    assert read_all(tmp_path) == [RECORD]


EXPLAINED = replace(
    STEP,
    reason="a changed",
    explanation=Explanation(
        cause="changed",
        nearest="sha256:" + "9" * 64,
        differences=(Difference(kind="file", name="a\udcff", old="1", new="2"),),
        more_differences=3,
    ),
)


def test_explanations_and_bases_come_back_as_they_were_written(tmp_path: Path) -> None:
    bases = (BaseRecord("build", 1, "busybox", "sha256:5"), BaseRecord("last", 4, "build", ""))
    record = replace(RECORD, steps=(EXPLAINED, STEP), bases=bases, place="/c/Dockerfile")
    write(record, tmp_path)
    assert read_all(tmp_path) == [record]


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    document = asdict(RECORD)
    for name in ("place", "context", "bases"):
        del document[name]
    old = ("instruction", "line", "stage", "outcome", "reason", "key", "layer", "seconds")
    document["steps"] = [{name: step[name] for name in old} for step in document["steps"]]
    (tmp_path / f"{RECORD.id}.json").write_text(json.dumps(document))
    assert read_all(tmp_path) == [RECORD]


@pytest.mark.parametrize(
    "explanation",
    [
        *(5, [], {}, {"cause": "x"}, {"differences": 1}, {"differences": [{"a": 1}]}),
        {"cause": "new", "differences": [], "more_differences": "x"},
        {"cause": "new", "differences": [{"kind": "file", "name": 5}]},
    ],
)
def test_a_damaged_explanation_is_a_damaged_record(tmp_path: Path, explanation: object) -> None:
    document = json.loads(json.dumps(asdict(RECORD)))
    document["steps"][0]["explanation"] = explanation
    (tmp_path / f"{RECORD.id}.json").write_text(json.dumps(document))
    assert read_all(tmp_path) == []


def test_what_a_killed_build_has_left_goes_with_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".lamina-write-{dead.pid}"
    left.write_text("half")
    (tmp_path / "0000000000000-1.log").write_text("of a build without a record")
    write(RECORD, tmp_path)
    assert not left.exists()
    for number in range(1, 201):
        write(numbered(number), tmp_path)
    assert not list(tmp_path.glob("*.log"))


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{RECORD.id}.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write(RECORD, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{RECORD.id}.json"]


# Logs.


def test_a_log_is_read_step_by_step(tmp_path: Path) -> None:
    first = replace(STEP, log_offset=0, log_bytes=4)
    second = replace(STEP, log_offset=4, log_bytes=6)
    write(RECORD, tmp_path, b"one\ntwo\n\xff\n")
    assert log_of(RECORD, first, tmp_path) == b"one\n"
    assert log_of(RECORD, second, tmp_path) == b"two\n\xff\n"
    assert log_of(RECORD, STEP, tmp_path) == b""
    remove(RECORD.id, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert log_of(RECORD, first, tmp_path) == b""


def test_the_logs_of_old_records_go_with_them(tmp_path: Path) -> None:
    for number in range(203):
        (tmp_path / f"{number:013d}-7.json").write_text("{}")
        (tmp_path / f"{number:013d}-7.log").write_text("log")
    write(numbered(999), tmp_path, b"log")
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.log"))) == 200


@pytest.mark.parametrize("piece", [1, 1000, 100_000])
def test_a_short_log_is_kept_whole(piece: int) -> None:
    data = bytes(range(256)) * 800
    log = StepLog()
    for start in range(0, len(data), piece):
        log.add(data[start : start + piece])
    assert log.data() == data
    assert log.data() == data


def test_of_a_long_log_the_beginning_and_the_end_are_kept() -> None:
    log = StepLog()
    for number in range(200_000):
        log.add(b"line %06d\n" % number)
    text = log.data()
    assert len(text) < 300 << 10
    assert text.startswith(b"line 000000\n")
    assert text.endswith(b"line 199999\n")
    left_out = 200_000 * 12 - 2 * (128 << 10)
    assert b"\n[%d bytes left out]\n" % left_out in text


# Finding one.


def test_a_record_is_found_by_its_id_or_a_beginning_of_it(tmp_path: Path) -> None:
    for number in (1, 20, 21):
        write(numbered(number), tmp_path)
    assert of_name(f"{1:013d}-7", tmp_path).image_id == "image-1"
    assert of_name(f"{20:013d}", tmp_path).image_id == "image-20"
    with pytest.raises(NoSuchBuildError, match="several builds begin with this: 000"):
        of_name("000", tmp_path)
    with pytest.raises(NoSuchBuildError, match="no such build: 1"):
        of_name("1", tmp_path)


@pytest.mark.parametrize(
    ("name", "image"), [("^0", "image-3"), ("^1", "image-2"), ("^", "image-2"), ("^2", "image-1")]
)
def test_a_record_is_found_by_how_many_came_after_it(tmp_path: Path, name: str, image: str) -> None:
    for number in (1, 2, 3):
        write(numbered(number), tmp_path)
    assert of_name(name, tmp_path).image_id == image


@pytest.mark.parametrize("name", ["^3", "^x", "^-1", "^²", "nothing", "../x", "*"])
def test_what_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 3):
        write(numbered(number), tmp_path)
    with pytest.raises(NoSuchBuildError, match="no such build"):
        of_name(name, tmp_path)
    with pytest.raises(NoSuchBuildError):
        of_name(name, tmp_path / "absent")


def test_a_record_that_is_damaged_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "0000000000001-7.json").write_text("{")
    with pytest.raises(NoSuchBuildError, match="cannot be read"):
        of_name("^0", tmp_path)


def test_a_record_that_is_damaged_is_named_and_can_be_removed(tmp_path: Path) -> None:
    log = b"made\n"
    logged = replace(STEP, log_offset=0, log_bytes=len(log))
    write(replace(RECORD, steps=(logged,)), tmp_path, log)
    (tmp_path / "0000000000002-7.json").write_text("{")
    assert list(damaged(tmp_path)) == [("0000000000002-7", "the record cannot be read")]
    remove(id_of("^0", tmp_path), tmp_path)
    assert not list(damaged(tmp_path))
    (tmp_path / f"{RECORD.id}.log").write_bytes(log[1:])
    assert [name for name, _ in damaged(tmp_path)] == [RECORD.id]
    (tmp_path / f"{RECORD.id}.log").unlink()
    assert [name for name, _ in damaged(tmp_path)] == [RECORD.id]
    assert not list(damaged(tmp_path / "absent"))


def test_the_builds_of_a_dockerfile_and_target_are_found(tmp_path: Path) -> None:
    for number, (place, context, target) in enumerate(
        [("/a", "/c", ""), ("/b", "/c", ""), ("/a", "/c", "t"), ("-", "/c", ""), ("-", "/d", "")]
    ):
        record = replace(numbered(number), place=place, context=context, target=target)
        write(record, tmp_path)

    def found(place: str, context: str, target: str) -> str:
        records = of_place(place, context, target, tmp_path)
        return next((record.image_id for record in records), "")

    assert found("/a", "/other", "") == "image-0"
    assert found("/a", "/c", "t") == "image-2"
    assert found("-", "/c", "") == "image-3"
    assert found("-", "/d", "") == "image-4"
    assert found("-", "/x", "") == ""
    assert found("/a", "/c", "x") == ""
    assert list(of_place("/a", "/c", "", tmp_path / "absent")) == []
    write(replace(numbered(9), place="/a"), tmp_path)
    assert [record.image_id for record in of_place("/a", "", "", tmp_path)] == [
        "image-9",
        "image-0",
    ]


def test_what_is_as_usual_takes_no_room(tmp_path: Path) -> None:
    write(RECORD, tmp_path)
    document = json.loads((tmp_path / f"{RECORD.id}.json").read_text())
    assert "place" not in document
    assert document["steps"][0] == {
        "instruction": "RUN make",
        "line": 3,
        "stage": "build",
        "outcome": "executed",
        "reason": "",
        "key": STEP.key,
        "layer": STEP.layer,
        "seconds": 1.25,
    }


@pytest.mark.parametrize("at", [*range(0, 200, 11), -1])
def test_a_flipped_byte_anywhere_in_a_record_is_named(tmp_path: Path, at: int) -> None:
    write(numbered(1), tmp_path)
    flip(tmp_path / f"{numbered(1).id}.json", at)
    assert [name for name, _ in damaged(tmp_path)] == [numbered(1).id]
    assert read_all(tmp_path) == []


def test_a_flipped_byte_in_a_log_is_named(tmp_path: Path) -> None:
    step = replace(STEP, log_offset=0, log_bytes=5)
    record = replace(numbered(1), steps=(step,))
    write(record, tmp_path, b"hello")
    assert list(damaged(tmp_path)) == []
    flip(tmp_path / f"{record.id}.log", 2)
    assert list(damaged(tmp_path)) == [(record.id, "the log is missing or not what it was")]
