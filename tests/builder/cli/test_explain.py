"""`lamina why` and `lamina plan`, as their user sees them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Lamina
from tests.support.commands import Commands

COPIES = "FROM scratch\nENV A=1\nCOPY src /src\nCOPY other /other\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "src").mkdir(parents=True)
    for number in range(1000):
        (folder / f"src/f{number}").write_text(str(number))
    (folder / "other").write_text("other")
    (folder / "Dockerfile").write_text(COPIES)
    return folder


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("cache.db")
    }


def why(run: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("why", "--format", "json", *words).out)
    return found


def plan(run: Commands, context: Path, *words: str, code: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("plan", "--format=json", *words, context, code=code).out)
    return found


# why


def test_one_file_of_a_thousand_is_named_alone(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    (context / "src/f512").write_text("changed")
    bare("build", "-q", context)
    found = why(bare)
    first, second = found["steps"]
    assert [first["differences"][0][key] for key in ("kind", "name", "change", "what")] == [
        "file", "src/f512", "changed", "content",
    ]  # fmt: skip
    assert len(first["differences"]) == 1
    assert first["reason"] == "src/f512 changed"
    assert first["line"] == 3
    assert (first["outcome"], first["cause"]) == ("executed", "changed")
    assert [each["kind"] for each in second["differences"]] == ["parent"]
    assert second["differences"][0]["line"] == 3


def test_new_times_alone_miss_nothing(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    for path in (context / "src").iterdir():
        os.utime(path, (5, 5))
    assert plan(bare, context, code=0)["cached"] is True
    bare("build", "-q", context)
    assert why(bare)["steps"] == []


def test_why_is_told_in_words(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    (context / "src/f512").write_text("changed")
    (context / "src/f7").chmod(0o755)
    bare("build", "-q", context)
    out = bare("why").lines
    assert out[0].startswith("build 0") or out[0].startswith("build 1")
    assert out[0].endswith("Dockerfile: 2 of 2 steps executed")
    assert out[1:] == [
        "",
        "line 3  COPY src /src",
        "    src/f512 changed",
        "      - sha256:" + out[4].partition("sha256:")[2],
        "      + sha256:" + out[5].partition("sha256:")[2],
        "    src/f7: mode 0644 -> 0755",
        "",
        "line 4  COPY other /other",
        "    follows line 3, COPY src /src",
    ]


def test_builds_are_named_by_id_number_and_image(bare: Commands, context: Path) -> None:
    bare("build", "-q", "-t", "one", context)
    (context / "other").write_text("changed")
    bare("build", "-q", "-t", "two", context)
    last, before = why(bare), why(bare, "^1")
    assert last["build"] != before["build"]
    assert [step["cause"] for step in before["steps"]] == ["new", "new"]
    assert [step["reason"] for step in last["steps"]] == ["other changed"]
    assert why(bare, before["build"]) == why(bare, "one") == before
    assert why(bare, "two") == last


@pytest.mark.parametrize("name", ["nothing", "^7", "0"])
def test_a_build_that_is_not_there_is_an_error(bare: Commands, context: Path, name: str) -> None:
    bare("build", "-q", context)
    failed = bare("why", name, code=1)
    assert failed.err.startswith(f"lamina: no such build: {name} (`lamina builds ls`")
    assert failed.out == ""


def test_an_image_that_was_not_built_here_has_no_build(box: Commands) -> None:
    assert "no build kept here made it: box" in box("why", "box", code=1).err


def test_without_a_store_there_is_no_build(bare: Commands) -> None:
    assert "no such build: ^0 (no build is recorded here)" in bare("why", code=1).err
    assert not bare.root.exists()


def test_another_format_is_refused(bare: Commands, context: Path) -> None:
    assert "--format" in bare("why", "--format", "xml", code=125).err
    assert "--format" in bare("plan", "--format", "xml", context, code=125).err


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_secrets_are_told_without_values(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM box\nARG TOKEN\nRUN true\n")
    for number in "12":
        given = (f"TOKEN=hunter{number}", f"http_proxy=hunter{number}")
        told = box("build", *(f"--build-arg={each}" for each in given), context).err
    assert "DONE" in told
    assert "(ARG TOKEN changed)" in told
    assert "hunter" not in told
    for words in (["why"], ["why", "--format=json"], ["builds", "show", "--format=json"]):
        assert "hunter" not in box(*words).out
    assert "http_proxy" not in box("why", "--format=json").out


def test_what_comes_from_a_dockerfile_is_escaped(bare: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY other /\x1b[2J\n")
    bare("build", "-q", context)
    assert "\x1b" not in bare("why").out
    assert "\x1b" not in bare("plan", context).out


# plan


def test_a_plan_says_what_would_be_executed(bare: Commands, context: Path) -> None:
    found = plan(bare, context, code=2)
    assert [step["prediction"] for step in found["steps"]] == ["metadata", "miss", "miss"]
    assert found["cached"] is False
    assert found["unknown"] == 2
    bare("build", "-q", context)
    found = plan(bare, context, code=0)
    assert [step["prediction"] for step in found["steps"]] == ["metadata", "hit", "hit"]
    assert found["seconds"] == {"least": 0, "most": 0}
    assert found["bytes"] == {"least": 0, "most": 0}
    (context / "src/f3").write_text("changed")
    found = plan(bare, context, code=2)
    assert [step["prediction"] for step in found["steps"]] == ["metadata", "miss", "depends"]
    assert found["steps"][1]["reason"] == "src/f3 changed"
    assert found["steps"][1]["bytes"] == sum(len(str(number)) for number in range(1000))
    assert 0 < found["seconds"]["least"] < found["seconds"]["most"]
    assert [each["name"] for each in found["steps"][1]["differences"]] == ["src/f3"]


def test_a_plan_is_told_in_words(bare: Commands, context: Path) -> None:
    assert bare("plan", context, code=2).lines[-1] == (
        "2 of 2 steps would be executed: nothing is known of what they take"
    )
    bare("build", "-q", context)
    out = bare("plan", context).lines
    assert out[0].split() == [
        "LINE", "STAGE", "INSTRUCTION", "PREDICTION", "SECONDS", "SIZE", "WHY",
    ]  # fmt: skip
    assert out[1].split() == ["3", "stage-0", "COPY", "src", "/src", "hit"]
    assert out[-1] == "everything is cached"
    (context / "src/f3").write_text("changed")
    out = bare("plan", context, code=2).lines
    assert out[1].endswith("src/f3 changed")
    assert out[2].endswith("follows line 3, COPY src /src")
    assert out[-1].startswith("1 of 2 steps would be executed, 1 more if the results above differ")
    assert out[-1].endswith(", as last time")
    (context / "Dockerfile").write_text(f"{COPIES}RUN --mount=from=scratch,target=/x false\n")
    assert bare("plan", context, code=2).lines[-1].endswith(", as last time; nothing is known of 1")


def test_a_plan_writes_nothing(bare: Commands, context: Path) -> None:
    bare("build", "-q", "-t", "it", context)
    (context / "src/f3").write_text("changed")
    (context / "Dockerfile").write_text(COPIES + "COPY src/f3 /again\n")
    before, rows = tree(bare.root), dump(bare.root)
    plan(bare, context, "-t", "other", code=2)
    assert tree(bare.root) == before
    assert dump(bare.root) == rows
    assert "other" not in bare("images").out


def dump(root: Path) -> list[str]:
    import sqlite3

    connection = sqlite3.connect(root / "lamina/cache.db")
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_a_plan_makes_no_store(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    lamina = Lamina(root=tmp_path / "nowhere" / "store")
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    done = lamina("plan", context, env={"TMPDIR": str(tmp)}, check=False)
    assert done.returncode == 2
    assert "never built before" in done.stdout
    assert not (tmp_path / "nowhere").exists()
    assert list(tmp.iterdir()) == []


def test_a_plan_takes_the_options_of_a_build(bare: Commands, context: Path) -> None:
    bare("build", "-q", context)
    assert [
        [step["prediction"] for step in plan(bare, context, *options, code=code)["steps"]]
        for options, code in (
            (["--no-cache"], 2),
            (["--no-cache-from", "4"], 2),
            (["--no-cache-filter", "0"], 2),
            (["--cache-ttl", "0s"], 2),
            (["--cache-ttl", "7d"], 0),
            (["--build-arg", "A=5"], 0),
        )
    ] == [
        ["metadata", "miss", "miss"],
        ["metadata", "hit", "miss"],
        ["metadata", "miss", "miss"],
        ["metadata", "miss", "depends"],
        ["metadata", "hit", "hit"],
        ["metadata", "hit", "hit"],
    ]


def test_what_is_copied_from_a_stage_that_is_not_built_is_open(
    bare: Commands, context: Path
) -> None:
    (context / "Dockerfile").write_text(
        "FROM scratch AS one\nCOPY other /o\nFROM scratch\nCOPY --from=one /o /o\nCOPY other /x\n"
    )
    found = plan(bare, context, code=2)
    assert [step["prediction"] for step in found["steps"]] == ["miss", "depends", "miss"]
    assert found["steps"][1]["reason"] == "what it copies from is not built yet"
    assert found["steps"][1]["seconds"] is None
    assert "?" in bare("plan", context, code=2).lines[2]
    forced = plan(bare, context, "--no-cache", code=2)
    assert [step["prediction"] for step in forced["steps"]] == ["miss", "miss", "miss"]


def test_an_error_of_the_build_is_one_of_the_plan(bare: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    failed = bare("plan", context, code=1)
    assert "'absent' not found" in failed.err
    assert bare("builds", "ls", "--format", "{{.Ref}}").out == ""


@pytest.mark.parametrize("value", ["", "tomorrow", "5", "-1h"])
def test_a_bad_time_to_live_is_refused(bare: Commands, context: Path, value: str) -> None:
    assert "--cache-ttl" in bare("build", f"--cache-ttl={value}", context, code=125).err


@pytest.mark.parametrize("value", ["0", "x"])
def test_a_bad_line_is_refused(bare: Commands, context: Path, value: str) -> None:
    assert "--no-cache-from" in bare("build", "--no-cache-from", value, context, code=125).err


def test_stages_are_given_by_commas_or_several_times(bare: Commands, context: Path) -> None:
    bare("build", "-q", "--no-cache-filter=0, 0", "--no-cache-filter", "stage-0", context, code=1)
    (context / "Dockerfile").write_text(
        "FROM scratch AS one\nCOPY other /\nFROM scratch AS two\nCOPY --from=one other /\n"
    )
    bare("build", "-q", context)
    for options in (["--no-cache-filter=one,two"], ["--no-cache-filter=one"] * 2):
        bare("build", "-q", *options, context)
    assert len(why(bare, "^1")["steps"]) == 2
