"""BuildKit's own answers: 800 Dockerfiles, 120 words, and the tables of its parser's tests.

The material lies beside the repository (format in its README.md); LAMINA_CONFORMANCE names another
place. What is deliberately answered differently stands in EXCEPTIONS. `lamina parse` and the debug
filters are held against the same material in tests/builder/cli.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grammar import (
    Copy,
    DockerfileError,
    ExpansionError,
    Run,
    ShellForm,
    as_json,
    expand,
    expand_words,
    parse,
    parse_instruction,
    parse_written,
    unparse,
    variables_used,
)
from grammar.lines import decode, heredoc_of_word, heredocs_of_line, read_directives
from grammar.nodes import Heredoc, Written
from tests.support.tally import RecordProperty, note

MATERIAL = Path(
    os.environ.get(
        "LAMINA_CONFORMANCE", Path(__file__).parents[2].parent / "shared" / "conformance"
    )
)
if not (MATERIAL / "parser_corpus.json").exists():
    pytest.skip(f"the conformance material is not at {MATERIAL}", allow_module_level=True)

Json = Any

# Cases of the parser's tables that we answer otherwise on purpose: name -> why.
EXCEPTIONS = {
    "detect_syntax-066": "a file in JSON can only be for another frontend, and we fetch none",
}


def dockerfiles() -> Iterator[tuple[str, bytes, Json]]:
    for kind in ("parser", "parser_negative", "realworld"):
        for directory in sorted((MATERIAL / kind).iterdir()):
            if directory.is_dir():
                reference = json.loads((directory / "expected.json").read_text())
                yield f"{kind}/{directory.name}", (directory / "Dockerfile").read_bytes(), reference
    for case in json.loads((MATERIAL / "parser_corpus.json").read_text()):
        yield f"corpus/{case['name']}", case["dockerfile"].encode(), case["reference"]


DOCKERFILES = [pytest.param(text, reference, id=name) for name, text, reference in dockerfiles()]
READABLE = [case for case in DOCKERFILES if case.values[1]["parse_ok"]]  # type: ignore[index]


TABLES = json.loads((MATERIAL / "parser_tables.json").read_text())["cases"]


def table(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in TABLES if case["kind"] == kind]


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest, record_property: RecordProperty) -> None:
    """Every case of a table is counted in the summary."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    if case and "kind" in case:
        exception = EXCEPTIONS.get(case["name"], "")
        note(record_property, f"parser_tables {case['kind']}", exception=exception)


def test_every_kind_of_table_has_a_test() -> None:
    tested = {mark.args[1][0].values[0]["kind"] for test in TABLE_TESTS for mark in test.pytestmark}
    assert {case["kind"] for case in TABLES} == tested


def words() -> list[Any]:
    files = [MATERIAL / "shell_env/cases.json", MATERIAL / "shell_words/cases.json"]
    cases = [case for file in files for case in json.loads(file.read_text())["cases"]]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize(("text", "reference"), READABLE)
def test_an_instruction_is_split_as_buildkit_splits_it(text: bytes, reference: Json) -> None:
    split = as_json(parse_written(text))
    for instruction in reference["instructions"]:
        add_missing(instruction)
    assert split["instructions"] == reference["instructions"]
    assert split["directives"] == reference.get("directives", {})


def add_missing(instruction: Json) -> None:
    instruction.setdefault("heredocs", [])
    for arg in instruction["args"]:
        if isinstance(arg, dict):
            add_missing(arg)


@pytest.mark.parametrize(("text", "reference"), DOCKERFILES)
def test_what_buildkit_refuses_is_refused_and_nothing_else(text: bytes, reference: Json) -> None:
    if reference["parse_ok"]:
        parse_written(text)
    else:
        with pytest.raises(DockerfileError):
            parse_written(text)
    if reference["instruction_ok"]:
        parse(text)
    else:
        with pytest.raises(DockerfileError) as caught:
            parse(text)
        assert caught.value.span is not None
        assert "\n" not in str(caught.value)
        line = reference.get("instruction_error", "").partition("error on line ")[2].partition(":")
        if line[0]:
            assert caught.value.span.start_line == int(line[0])


@pytest.mark.parametrize(("text", "reference"), READABLE)
def test_the_text_of_a_tree_parses_to_the_same_tree(text: bytes, reference: Json) -> None:
    if not reference["instruction_ok"]:
        return
    dockerfile = parse(text)
    written = [arg.written for arg in dockerfile.global_args]
    for stage in dockerfile.stages:
        written += [stage.base.written, *(one.written for one in stage.instructions)]
    escape = dockerfile.directives.escape
    again = "\n".join([f"# escape={escape}", *(unparse(one, escape=escape) for one in written)])
    assert list(map(essence, parse_written(again)[1])) == list(map(essence, written))
    for stage in dockerfile.stages:
        for one in stage.instructions:
            if one.written.keyword not in ("MAINTAINER", "ONBUILD"):
                trigger = parse_instruction(unparse(one, escape=escape), escape=escape)
                assert essence(trigger.written) == essence(one.written)


def essence(written: Written) -> object:
    """What must survive: all but the lines and the spelling of the keyword."""
    args = [essence(arg) if isinstance(arg, Written) else arg for arg in written.args]
    return written.keyword, written.flags, args, written.is_json, written.heredocs


@pytest.mark.parametrize("case", words())
def test_a_word_is_expanded_as_buildkit_expands_it(case: Json) -> None:
    env = dict(entry.partition("=")[::2] for entry in case["env"])
    function = expand if case["mode"] == "word" else expand_words
    if case.get("error"):
        with pytest.raises(ExpansionError):
            function(case["input"], env)
        return
    assert function(case["input"], env) == case["expect"]
    names = variables_used(case["input"])
    assert sorted(names & env.keys()) == sorted(case.get("used", names & env.keys()))
    assert sorted(names - env.keys()) == sorted(case.get("unset", names - env.keys()))


@pytest.mark.parametrize("case", table("json_array"))
def test_a_json_array(case: Json) -> None:
    if case.get("error"):
        with pytest.raises(DockerfileError):
            parse_written(f"RUN {case['input']}")
    else:
        _directives, (written,) = parse_written(f"RUN {case['input']}")
        assert written.is_json
        assert list(written.args) == case["expect"]


@pytest.mark.parametrize("case", table("heredoc_word"))
def test_a_heredoc_word(case: Json) -> None:
    if case.get("error"):
        with pytest.raises(ExpansionError):
            heredoc_of_word(case["input"])
    else:
        word = heredoc_of_word(case["input"])
        assert (word and word.name) == case["expect"]


@pytest.mark.parametrize("case", table("heredocs_from_line"))
def test_the_heredocs_of_a_line(case: Json) -> None:
    assert [word.name for word in heredocs_of_line(case["input"])] == case["expect"]


@pytest.mark.parametrize("case", table("words"))
def test_the_words_of_a_line(case: Json) -> None:
    _directives, (written,) = parse_written(f"ARG {case['input']}")
    assert list(written.args) == case["expect"]


@pytest.mark.parametrize("case", table("directives"))
def test_the_directives_of_a_file(case: Json) -> None:
    found = read_directives(decode(case["input"], name="Dockerfile")[0])
    assert found.syntax == case["expect"].get("syntax")
    assert found.check == case["expect"].get("check")


@pytest.mark.parametrize("case", table("detect_syntax"))
def test_the_frontend_that_a_file_asks_for(case: Json) -> None:
    found = read_directives(decode(case["input"], name="Dockerfile")[0])
    if case["name"] in EXCEPTIONS:
        with pytest.raises(DockerfileError):
            parse(case["input"])
    else:
        assert found.syntax == case["expect"]


@pytest.mark.parametrize("case", table("instruction_error"))
def test_a_lone_instruction_is_refused(case: Json) -> None:
    with pytest.raises(DockerfileError):
        parse(f"FROM scratch\n{case['input']}")


@pytest.mark.parametrize("case", table("copy_heredoc"))
def test_copy_of_heredocs(case: Json) -> None:
    copy = parse(f"FROM scratch\n{case['input']}").stages[0].instructions[0]
    assert isinstance(copy, Copy)
    assert copy.destination.text == case["expect"]["dest"]
    assert [source.text for source in copy.sources] == case["expect"]["sources"]
    assert [
        {"path": one.name, "data": content_of(one), "expand": one.expand} for one in copy.heredocs
    ] == case["expect"]["contents"]


@pytest.mark.parametrize("case", table("run_heredoc"))
def test_run_of_heredocs(case: Json) -> None:
    run = parse(f"FROM scratch\n{case['input']}").stages[0].instructions[0]
    assert isinstance(run, Run)
    assert isinstance(run.command, ShellForm) == case["expect"]["shell"]
    assert list(run.written.args) == case["expect"]["command"]
    assert [one.name for one in run.heredocs] == [f["name"] for f in case["expect"]["files"]]


def content_of(heredoc: Heredoc) -> str:
    if not heredoc.chomp:
        return heredoc.content
    return "".join(line.lstrip("\t") for line in heredoc.content.splitlines(keepends=True))


TABLE_TESTS: tuple[Any, ...] = (
    test_a_json_array,
    test_a_heredoc_word,
    test_the_heredocs_of_a_line,
    test_the_words_of_a_line,
    test_the_directives_of_a_file,
    test_the_frontend_that_a_file_asks_for,
    test_a_lone_instruction_is_refused,
    test_copy_of_heredocs,
    test_run_of_heredocs,
)
