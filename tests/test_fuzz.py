"""Fuzzing of everything that reads text of strangers: nothing but its own errors comes out.

How, and how to search longer: tests/support/fuzzing.py.
"""

import json
from pathlib import Path

import pytest

from builder.cli.debug import BadRequest, answer_expand, answer_ignore, request_of
from builder.ignorefile import compile_rules, parse_ignore_file
from builder.patterns import BadPatternError
from grammar import (
    DockerfileError,
    ExpansionError,
    expand,
    expand_content,
    expand_words,
    parse,
    parse_instruction,
    parse_written,
    unparse,
    variables_used,
)
from tests.support.conformance import MATERIAL
from tests.support.fuzzing import Target, changes, search

FILES = [
    path.read_bytes() for path in sorted((Path(__file__).parent / "golden").glob("*/Dockerfile"))
]
FILES += [path.read_bytes() for path in sorted((MATERIAL / "parser").glob("*/Dockerfile"))]
WORDS = [
    *(b"plain", b"'a $v'", b'"a $v\\""', b"a\\ b", b"$v${v}", b"${v:-w}", b"${v-w}", b"${v:+w}"),
    *(b"${v+w}", b"${v:?w}", b"${v?w}", b"${v#p*}", b"${v##p?}", b"${v%p}", b"${v%%*p}"),
    *(b"${v/p/r}", b"${v//p/r}", b"${a:-${b:+$c}}", b"${a:-'}'}", b"<< EOF", b"80${v:-1 2}"),
]
PATTERNS = [
    *(b"a\n!a/b\n", b"**/*.go", b"a/**/b", b"[a-z]?", b"\\*", b"[^]a]", b"**", b"!**/x", b"a**b"),
    *(b"/a/", b"./a/../b", b"# c\n", b"[]a-]", b"a\\", b"{a,b}", b"(a|b)+$", b"*/*/*"),
]
QUESTIONS = [
    b'{"mode": "word", "input": "${a:-b}", "env": ["a=1"], "escape": "`"}',
    b'{"mode": "words", "input": "$a b", "env": ["a=1 2"]}',
    b'{"patterns": ["a/**", "!a/b"], "path": "a/b/c"}',
]
# What a change may put in: the texts that mean something somewhere.
TOKENS = [
    *(b"\n", b"\\\n", b"`\n", b"\r\n", b"\0", b"\t", b" ", b"#", b"# escape=`\n", b"# syntax=a\n"),
    *(b"--", b"--mount=", b"--from=", b"=", b",", b":", b"'", b'"', b"\\", b"`", b"$", b"${", b"}"),
    *(b"<<EOF", b"<<-'E'\n", b"EOF\n", b"E\n", b"[", b"]", b'["a"]', b"{", b'"\\u0', b"\xff\xfe"),
    *(b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"FROM a\n", b"RUN ", b"COPY ", b"ONBUILD "),
    *(b"ENV a=b ", b"HEALTHCHECK ", b"CMD ", b" AS b", b"**", b"/", b"!", b"?", b"*", b"[^", b"-"),
]


def read_dockerfile(text: bytes) -> None:
    try:
        written = parse_written(text)[1]
        dockerfile = parse(text)
    except DockerfileError as error:
        shown = error.render()
        assert all(char.isprintable() or char == "\n" for char in shown)
        assert len(shown) < 5000
        return
    assert len(written) == len(dockerfile.global_args) + sum(
        1 + len(stage.instructions) for stage in dockerfile.stages
    )
    escape = dockerfile.directives.escape
    for one in written:
        again = parse_written(f"# escape={escape}\n{unparse(one, escape=escape)}")[1]
        assert [(other.keyword, other.flags, other.is_json) for other in again] == [
            (one.keyword, one.flags, one.is_json)
        ]


def read_trigger(text: bytes) -> None:
    try:
        parse_instruction(text.decode("utf-8", "surrogateescape"))
    except DockerfileError as error:
        assert error.render()


def read_word(text: bytes) -> None:
    word = text.decode("utf-8", "surrogateescape")
    env = {"v": "a p b/p", "a": "", "c": "x\ny"}
    for escape in ("\\", "`"):
        for function in (expand, expand_words):
            try:
                function(word, env, escape=escape)
            except ExpansionError as error:
                assert error.message
        try:
            used = variables_used(word, escape=escape)
        except ExpansionError:
            continue
        assert all(isinstance(name, str) for name in used)
    try:
        expand_content(word, env)
    except ExpansionError as error:
        assert error.render()


def read_ignore_file(text: bytes) -> None:
    for make in (parse_ignore_file, lambda data: compile_rules([data.decode("latin-1")])):
        try:
            rules = make(text)
        except BadPatternError:
            continue
        for path in ("a", "a/b/c", ".git/x.go", "é/\n", "a" * 200, "a/" * 50 + "b"):
            rules.ignores(path)
            rules.may_take_back(path)


def read_question(text: bytes) -> None:
    for answer in (answer_expand, answer_ignore):
        try:
            found = answer(request_of(text))
        except BadRequest:
            continue
        assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("target", "texts"),
    [
        pytest.param(read_dockerfile, FILES, id="parser"),
        pytest.param(read_trigger, [b"RUN <<E\nx\nE", b"COPY --from=a b c", *FILES], id="trigger"),
        pytest.param(read_word, WORDS, id="words"),
        pytest.param(read_ignore_file, PATTERNS, id="dockerignore"),
        pytest.param(read_question, QUESTIONS, id="debug"),
    ],
)
def test_nothing_but_its_own_errors_comes_out(target: Target, texts: list[bytes]) -> None:
    search(target, texts, changes(texts, TOKENS))
