"""`bisect` and `step`, and the commands that take moments for images."""

import io
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.moments import first_failing
from tests.support.commands import Commands, Result

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


@given(st.integers(0, 300).flatmap(lambda last: st.tuples(st.just(last), st.integers(0, last + 1))))
def test_the_first_that_fails_is_found_in_few_runs(sizes: tuple[int, int]) -> None:
    last, culprit = sizes
    asked: list[int] = []

    def fails(number: int) -> bool:
        asked.append(number)
        return number >= culprit

    found = first_failing(last, fails)
    assert found == (culprit if culprit <= last else None)
    assert len(asked) == len(set(asked))
    most = 1 + math.ceil(math.log2(max(last, 1)))
    assert len(asked) <= most + (culprit <= 1)


def build(box: Commands, folder: Path, lines: list[str]) -> None:
    folder.mkdir()
    (folder / "Dockerfile").write_text("\n".join(["FROM box", *lines, ""]))
    box("build", "-q", "-t", "app", folder)


def test_every_step_of_twenty_can_be_run(box: Commands, tmp_path: Path) -> None:
    build(box, tmp_path / "c", [f"RUN echo {number} > /f" for number in range(1, 21)])
    for number in range(1, 21):
        done = box("run", "--rm", "--network", "none", f"app@{number}", "cat", "/f")
        assert done.out == f"{number}\n"
    done = box("run", "--rm", "--network", "none", "app@L8", "cat", "/f")
    assert done.out == "7\n"
    assert box("run", "--rm", "--network", "none", "app~3", "cat", "/f").out == "17\n"


def test_moments_go_wherever_images_go(box: Commands, tmp_path: Path) -> None:
    build(box, tmp_path / "c", ["ENV A=1", "RUN echo > /one", "ENV A=2", "RUN echo > /two"])
    assert "A=1" in box("inspect", "-f", "{{.Config.Env}}", "app@2").out
    rows = [json.loads(line) for line in box("layers", "--format", "json", "app@2").lines]
    assert [row["position"] for row in rows][-2:] == [1, 2]
    box("save", "-o", tmp_path / "two.tar", "app@2")
    box("tag", "app@2", "kept:2")
    assert box("images", "-q", "kept").lines == [box("inspect", "-f", "{{.Id}}", "app@2").out[7:19]]
    handles = [line.split()[0] for line in box("history", "app").lines[2:5]]
    assert handles == ["@3", "@2", "@1"]
    assert box("history", "-q", "app").lines[1:] == ["<missing>"] * 4
    box("fsck")


def test_a_container_of_a_moment_outlives_a_prune(box: Commands, tmp_path: Path) -> None:
    build(box, tmp_path / "c", ["RUN echo 1 > /f", "RUN echo 2 > /f"])
    container = box("create", "--network", "none", "app@1", "cat", "/f").out.strip()
    box("rmi", "app")
    box("image", "prune", "-a", "-f")
    box("builder", "prune", "-a", "-f")
    assert box("start", "-a", container).out == "1\n"
    box("fsck")


def bisect(box: Commands, *words: str, code: int = 0) -> Result:
    return box("bisect", "--network", "none", *words, code=code)


def test_bisect_finds_the_culprit(box: Commands, tmp_path: Path) -> None:
    lines = [f"RUN echo {number} >> /f" for number in range(1, 17)]
    lines[10] = "RUN rm /f"
    build(box, tmp_path / "c", lines[:11] + ["ENV X=1"] * 5)
    done = bisect(box, "app", "--", "sh", "-c", "test -s /f || exit 7")
    assert "app@11 is the first after which the command fails" in done.out
    assert "RUN /bin/sh -c rm /f  (line 12)" in done.out
    found = json.loads(bisect(box, "--format", "json", "app", "test", "-s", "/f").out)
    assert found["number"] == 11
    assert (found["line"], found["exit_code"]) == (12, 1)
    assert found["runs"] <= 5
    assert box("ps", "-aq").out == ""


def test_bisect_says_when_there_is_nothing_to_find(box: Commands, tmp_path: Path) -> None:
    build(box, tmp_path / "c", ["RUN true", "RUN echo"])
    assert "succeeds after the last instruction" in bisect(box, "app", "true", code=1).err
    assert "in the base already" in bisect(box, "app", "false").out


def test_a_program_that_is_gone_has_failed(box: Commands, tmp_path: Path) -> None:
    build(box, tmp_path / "c", ["RUN true", "RUN rm /bin/cat", "RUN echo"])
    found = json.loads(bisect(box, "--format", "json", "app", "cat", "/etc/passwd").out)
    assert (found["number"], found["exit_code"]) == (2, 127)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("app@1", "true"), "is a moment already"),
        (("--format", "xml", "app", "true"), "invalid argument 'xml'"),
        (("nothing", "true"), "no such image"),
    ],
)
def test_bisect_refuses_what_makes_no_sense(
    box: Commands, words: tuple[str, ...], message: str
) -> None:
    done = box("bisect", *words, code=None)
    assert done.code != 0
    assert message in done.err


def walk(box: Commands, monkeypatch: pytest.MonkeyPatch, *typed: str) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
    return box("step", "app").lines


def test_walking_forward_and_back(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(box, tmp_path / "c", ["ENV A=1", "RUN echo hi > /f; rm /data/file", "CMD x"])
    assert walk(box, monkeypatch, "n", "", "n", "p", "0", "p", "g 2", "q", "n") == [
        "[1/3] ENV A=1  (line 2)",
        "[2/3] RUN /bin/sh -c echo hi > /f; rm /data/file  (line 3)",
        '[3/3] CMD ["/bin/sh" "-c" "x"]  (line 4)',
        "there are the instructions 1 to 3, and the base, 0",
        "[2/3] RUN /bin/sh -c echo hi > /f; rm /data/file  (line 3)",
        "[0/3] the base",
        "there are the instructions 1 to 3, and the base, 0",
        "[2/3] RUN /bin/sh -c echo hi > /f; rm /data/file  (line 3)",
    ]


def test_looking_into_a_step(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(box, tmp_path / "c", ["ENV A=1", "RUN echo hi > /f; rm /data/file; chmod 711 /data"])
    shown = walk(box, monkeypatch, "d", "2", "d", "x cat /f", "x no-such-program", "x false")
    assert shown[1] == "it changes no file"
    assert shown[3:6] == ["C /data", "D /data/file", "A /f  3B"]
    assert shown[6] == "hi"
    assert "executable file not found" in shown[7]
    assert shown[8] == "exit code 1"
    config = "\n".join(walk(box, monkeypatch, "c")[1:])
    assert "A=1" in json.loads(config)["Env"]
    listed = walk(box, monkeypatch, "l")
    assert listed[1:3] == ["    0  the base", ">   1  ENV A=1  (line 2)"]
    assert "leave" in walk(box, monkeypatch, "what?")[-1]


def test_words_can_be_quoted(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(box, tmp_path / "c", ["RUN echo hi > '/a name'"])
    command = """x sh -c 'cat "$0" && echo it is there' "/a name\""""
    assert walk(box, monkeypatch, command, "x cat '/a name", "q")[1:] == [
        "hi",
        "it is there",
        "a quote is not closed",
    ]


def test_an_image_that_was_not_built_here_can_be_walked_too(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("d\n"))
    lines = box("step", "box").lines
    assert lines[0] == "[1/1] COPY root /"
    assert "A /bin/busybox" in "\n".join(lines)
