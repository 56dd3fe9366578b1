"""`lamina parse`, with every reference parse of the conformance material."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import cli
from tests.support.cli import REPOSITORY
from tests.support.conformance import MATERIAL
from tests.support.tally import RecordProperty, note

Json = Any
Parse = Callable[..., tuple[int, str, str]]

# Files that we read otherwise on purpose: name -> why.
EXCEPTIONS: dict[str, str] = {}


@pytest.fixture
def parse(capsys: pytest.CaptureFixture[str]) -> Parse:
    """Carry out `lamina parse` with these words; its exit code, output and errors."""

    def parse(*words: str | Path) -> tuple[int, str, str]:
        code = cli.carry_out(["parse", *map(str, words)])
        return (code, *capsys.readouterr())

    return parse


def references() -> Iterator[tuple[str, str, bytes, Json]]:
    """Category, name, text and reference of every Dockerfile of the material."""
    for category in ("parser", "parser_negative", "realworld"):
        for folder in sorted((MATERIAL / category).glob("*/")):
            expected = json.loads((folder / "expected.json").read_bytes())
            yield category, folder.name, (folder / "Dockerfile").read_bytes(), expected
    corpus = MATERIAL / "parser_corpus.json"
    for case in json.loads(corpus.read_bytes()) if corpus.exists() else ():
        yield "parser_corpus", case["name"], case["dockerfile"].encode(), case["reference"]


def cases() -> list[Any]:
    found = [
        pytest.param(category, f"{category}/{name}", text, expected, id=f"{category}/{name}")
        for category, name, text, expected in references()
    ]
    reason = f"no conformance material: {MATERIAL} does not exist"
    return found or [pytest.param("", "", b"", None, marks=pytest.mark.skip(reason=reason))]


@pytest.mark.parametrize(("category", "name", "text", "expected"), cases())
def test_a_file_is_what_buildkit_reads_in_it(
    parse: Parse,
    category: str,
    name: str,
    text: bytes,
    expected: Json,
    tmp_path: Path,
    record_property: RecordProperty,
) -> None:
    note(record_property, category, exception=EXCEPTIONS.get(name, ""))
    file = tmp_path / "Dockerfile"
    file.write_bytes(text)
    code, out, err = parse("--format", "json", file)
    if name in EXCEPTIONS:
        assert (code, out) != (0, answer(expected)), "an exception that is none any more"
        return
    assert (code == 0) == (expected["parse_ok"] and expected["instruction_ok"]), err
    assert bool(err) == (code != 0)
    if expected["parse_ok"]:
        assert json.loads(out) == answer(expected)
    else:
        assert out == ""


def answer(expected: Json) -> Json:
    """The reference in full: what it leaves out when it is empty put in."""

    def full(instruction: Json) -> Json:
        args = [full(arg) if isinstance(arg, dict) else arg for arg in instruction["args"]]
        return {"heredocs": [], **instruction, "args": args}

    return {
        "directives": expected.get("directives", {}),
        "instructions": [full(instruction) for instruction in expected["instructions"]],
    }


def test_no_exception_names_a_case_that_is_not_there() -> None:
    names = {f"{category}/{name}" for category, name, _, _ in references()}
    assert not names or set(EXCEPTIONS) <= names


def test_text_is_one_line_for_each_instruction(parse: Parse, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("# a\nfrom  a\n\nrun a \\\n  && b\ncmd [ 'x' ]\n")
    assert parse(file) == (0, "    2  FROM a\n    4  RUN a   && b\n    6  CMD [ 'x' ]\n", "")


def test_text_keeps_the_escape_character_and_heredocs(parse: Parse, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("# escape=`\nFROM a\nRUN <<E\n\ta `\n\x1b[31m\nE\nRUN c:\\\nRUN d\n")
    assert parse(file)[1].splitlines() == [
        "    2  FROM a",
        "    3  RUN <<E",
        "\ta `",
        "\\x1b[31m",
        "E",
        "    7  RUN c:\\",
        "    8  RUN d",
    ]


def test_json_is_one_line_and_pretty_is_the_same(parse: Parse, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text('FROM a\nCMD ["é"]\n')
    line, pretty = parse("--format", "json", file)[1], parse("--format=pretty", file)[1]
    assert line.count("\n") == 1
    assert pretty.count("\n") > 10
    assert json.loads(line) == json.loads(pretty)


def test_what_can_be_split_is_shown_before_it_is_refused(parse: Parse, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("FROM a\nRNU b\n")
    code, out, err = parse("--format", "json", file)
    assert code == 1
    assert [one["keyword"] for one in json.loads(out)["instructions"]] == ["FROM", "RNU"]
    assert "x:2: unknown instruction RNU" in err
    assert parse(file)[:2] == (1, "")


def test_the_file_may_be_standard_input_or_the_dockerfile_here(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"FROM a\n")))
    assert parse("-") == (0, "    1  FROM a\n", "")
    monkeypatch.chdir(tmp_path)
    Path("Dockerfile").write_text("FROM b\n")
    assert parse() == (0, "    1  FROM b\n", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["/nowhere/Dockerfile"], 1, "lamina: /nowhere/Dockerfile: No such file or directory"),
        (["/"], 1, "lamina: /: Is a directory"),
        (["/dev/null"], 1, "/dev/null:1: the file has no instructions"),
        (["/dev/zero"], 1, "/dev/zero: the file is larger than 16 MiB"),
        (["--format", "yaml", "x"], 125, "invalid argument 'yaml' for --format"),
        (["a", "b"], 1, "requires at most 1 argument"),
    ],
)
def test_what_is_no_dockerfile_is_refused(
    parse: Parse, words: list[str], code: int, message: str
) -> None:
    assert parse(*words)[:2] == (code, "")
    assert message in parse(*words)[2]


@pytest.mark.parametrize(
    ("closed", "code", "shown"),
    [
        ("<&-", 1, "-:1: the file has no instructions"),
        (">&-", 1, "-:1: the file has no"),
        ("2>&-", 1, ""),
    ],
)
def test_a_closed_descriptor_is_as_good_as_an_empty_one(closed: str, code: int, shown: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m builder parse - </dev/null {closed}', sys.executable],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(shown)
    assert "Error" not in done.stderr
