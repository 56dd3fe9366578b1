"""The debug filters, with every case of the conformance material that they can answer."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import cli
from builder.cli.debug import LINE_BYTES_MAX
from tests.support.cli import REPOSITORY
from tests.support.conformance import MATERIAL
from tests.support.tally import RecordProperty, note

Json = Any
Ask = Callable[..., list[Json]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Carry out a filter on lines (values, or texts as they are) and return its answers."""

    def ask(command: str, *lines: Json) -> list[Json]:
        questions = tmp_path / "questions"
        questions.write_bytes(
            b"".join(
                line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                for line in lines
            )
        )
        with questions.open() as stdin, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            assert cli.carry_out(["debug", command]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return [json.loads(line) for line in captured.out.splitlines()]

    return ask


def cases(name: str) -> list[Any]:
    if not (MATERIAL / name).exists():
        reason = f"no conformance material: {MATERIAL / name} does not exist"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    found = json.loads((MATERIAL / name).read_bytes())["cases"]
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize(
    ("category", "case"),
    [
        pytest.param(category, *param.values, id=param.id, marks=param.marks)
        for category in ("shell_env", "shell_words")
        for param in cases(f"{category}/cases.json")
    ],
)
def test_a_word_is_what_buildkit_makes_of_it(
    ask: Ask, category: str, case: Json, record_property: RecordProperty
) -> None:
    note(record_property, category)
    fields = ("mode", "input", "env", "escape")
    (answer,) = ask("expand", {name: case[name] for name in fields if name in case})
    if case.get("error"):
        assert list(answer) == ["error"]
    else:
        assert answer == {"result": case["expect"]}


@pytest.mark.parametrize("case", cases("dockerignore_patterns.json"))
def test_a_path_is_hidden_where_moby_hides_it(
    ask: Ask, case: Json, record_property: RecordProperty
) -> None:
    note(record_property, f"dockerignore_patterns {case['api']}")
    if case["api"] == "matches" and "/" in case["path"].strip("/") and not case["match"]:
        pytest.skip("not how an ignore file matches: the whole path alone")
    (answer,) = ask("ignore", {name: case[name] for name in ("patterns", "path")})
    if case.get("error"):
        assert list(answer) == ["error"]
    else:
        assert answer == {"match": case["match"]}


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"mode": "word", "input": "a $b c", "env": ["b=x y"]}, {"result": "a x y c"}),
        ({"mode": "words", "input": "a $b c", "env": ["b=x y"]}, {"result": ["a", "x", "y", "c"]}),
        ({"mode": "words", "input": "", "env": []}, {"result": []}),
        ({"mode": "word", "input": "$b", "env": ["b=1", "b=2"]}, {"result": "2"}),
        ({"mode": "word", "input": "$b", "env": ["b=1=2"]}, {"result": "1=2"}),
        ({"mode": "word", "input": "${b-unset}", "env": ["b"]}, {"result": ""}),
        ({"mode": "word", "input": "`$b", "env": [], "escape": "`"}, {"result": "$b"}),
        ({"mode": "word", "input": "\\`$b", "env": ["b=1"], "escape": "\\"}, {"result": "`1"}),
        ({"mode": "word", "input": "é\u4e2d\ud800", "env": []}, {"result": "é\u4e2d\ud800"}),
    ],
)
def test_expand_answers_as_asked(ask: Ask, request_: Json, answer: Json) -> None:
    assert ask("expand", request_) == [answer]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"input": "a", "env": []}, "mode is missing"),
        ({"mode": "word", "env": []}, "input is missing"),
        ({"mode": "word", "input": "a"}, "env is missing"),
        ({"mode": "text", "input": "a", "env": []}, "mode is neither word nor words"),
        ({"mode": "word", "input": 1, "env": []}, "input is no string"),
        ({"mode": "word", "input": "a", "env": {}}, "env is no array of strings"),
        ({"mode": "word", "input": "a", "env": [1]}, "env is no array of strings"),
        ({"mode": "word", "input": "a", "env": [], "escape": "x"}, "escape is neither \\ nor `"),
        ({"mode": "word", "input": "a", "env": [], "escape": None}, "escape is no string"),
        ({"mode": "word", "input": "${a:?no}", "env": []}, "cannot expand ${a:?no}: a: no"),
        ([], "the line is no JSON object"),
        (None, "the line is no JSON object"),
        (b"\n", "no JSON: Expecting value: line 2 column 1 (char 1)"),
        (b"{'mode'}\n", "no JSON: Expecting property name enclosed in double quotes"),
        (b"\xff\xfe\n", "no JSON: Expecting value"),
        (b'{"mode":' * 100_000 + b"\n", "no JSON: maximum recursion depth exceeded"),
        (b"1" * 10_000 + b"\n", "no JSON: Exceeds the limit"),
    ],
)
def test_what_asks_nothing_is_an_error_and_the_next_line_is_answered(
    ask: Ask, request_: Json, error: str
) -> None:
    good = {"mode": "word", "input": "x", "env": []}
    before, answer, after = ask("expand", good, request_, good)
    assert before == after == {"result": "x"}
    assert list(answer) == ["error"]
    assert answer["error"].startswith(error)
    assert len(answer["error"]) < 1000


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"patterns": ["a"], "path": "a/b/c"}, {"match": True}),
        ({"patterns": ["a", "!a/b"], "path": "a/b/c"}, {"match": False}),
        ({"patterns": ["!a"], "path": "a"}, {"match": False}),
        ({"patterns": [], "path": "a"}, {"match": False}),
        ({"patterns": ["/a/"], "path": "a"}, {"match": False}),
        ({"patterns": ["["], "path": "a"}, {"error": "syntax error in pattern '['"}),
        ({"patterns": ["a"]}, {"error": "path is missing"}),
        ({"path": "a"}, {"error": "patterns is missing"}),
        ({"patterns": "a", "path": "a"}, {"error": "patterns is no array of strings"}),
        ({"patterns": ["a"], "path": 1}, {"error": "path is no string"}),
    ],
)
def test_ignore_answers_as_asked(ask: Ask, request_: Json, answer: Json) -> None:
    assert ask("ignore", request_) == [answer]


def test_the_last_line_needs_no_end(ask: Ask) -> None:
    assert ask("ignore", b'{"patterns": ["a"], "path": "a"}') == [{"match": True}]
    assert ask("ignore") == []


def test_a_line_without_end_is_passed_over_in_pieces(ask: Ask) -> None:
    good = {"patterns": ["a"], "path": "a"}
    long, answer = ask("ignore", b"x" * (2 * LINE_BYTES_MAX + 5) + b"\n", good)
    assert long == {"error": "the line is longer than 16 MiB"}
    assert answer == {"match": True}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["mode", "input", "env", "escape", "patterns", "path"]), inner
            )
        ),
        max_leaves=6,
    )
)
@settings(max_examples=200)
def test_whatever_is_asked_gets_one_answer(value: Json) -> None:
    from builder.cli import debug

    for answer in (debug.answer_expand, debug.answer_ignore):
        try:
            found = answer(debug.request_of(json.dumps(value).encode()))
        except debug.BadRequest:
            continue
        assert list(found) in (["error"], ["result"], ["match"])


@pytest.mark.parametrize("command", ["expand", "ignore"])
def test_through_a_pipe_every_line_is_answered_at_once(command: str) -> None:
    question = {"mode": "word", "input": "x", "env": [], "patterns": ["x"], "path": "x"}
    with subprocess.Popen(
        [sys.executable, "-m", "builder", "debug", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(3):  # would wait for ever if the answer stayed in a buffer
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) in ({"result": "x"}, {"match": True})
        process.stdin.close()
        assert process.wait() == 0


def test_thousands_of_lines_take_a_second(ask: Ask) -> None:
    lines = [{"mode": "word", "input": f"${{a:-{n}}}", "env": ["b=1"]} for n in range(10_000)]
    start = time.monotonic()
    answers = ask("expand", *lines)
    assert time.monotonic() - start < 5  # it is a tenth of that
    assert answers[-1] == {"result": "9999"}
    patterns = [f"**/*.{n}" for n in range(20)]
    lines = [{"patterns": patterns, "path": f"a/b/c{n}.7"} for n in range(10_000)]
    start = time.monotonic()
    assert ask("ignore", *lines) == [{"match": True}] * 10_000
    assert time.monotonic() - start < 5
