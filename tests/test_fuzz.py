"""Fuzzing of everything that reads text of strangers: nothing but its own errors comes out.

Texts are made of known ones by a few random changes each; what they are is given by the seed, so
that a failure can be had again. About 30 seconds in all; for a longer search:

    LAMINA_FUZZ_SECONDS=600 LAMINA_FUZZ_SEED=$RANDOM pytest tests/test_fuzz.py
"""

import json
import os
import random
import time
from collections.abc import Callable
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

SECONDS = float(os.environ.get("LAMINA_FUZZ_SECONDS", 30))
SEED = int(os.environ.get("LAMINA_FUZZ_SEED", 1))
SLOW_S = 3  # of one text, which is a thousandth of that on an idle machine

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

Target = Callable[[bytes], None]


def changed(text: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """`text` after a few random changes."""
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(text))
        end = min(len(text), at + dice.choice((1, 1, 2, 8, 64)))
        match dice.randint(0, 6):
            case 0:
                text = text[:at] + text[end:]
            case 1:
                text = text[:at] + bytes([dice.randint(0, 255)]) + text[end:]
            case 2 | 3:
                text = text[:at] + dice.choice(TOKENS) * dice.choice((1, 1, 1, 2, 40)) + text[at:]
            case 4:
                text = text[:end] + text[at:end] * dice.choice((1, 2, 30)) + text[end:]
            case 5:
                other = dice.choice(others)
                start = dice.randint(0, len(other))
                text = text[:at] + other[start : start + dice.randint(1, 80)] + text[at:]
            case _:
                lines = text.split(b"\n")
                dice.shuffle(lines)
                text = b"\n".join(lines)
    return text[:20_000]


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
    dice = random.Random(f"{SEED} {target.__name__}")
    pool = list(texts)
    count = 0
    end = time.monotonic() + SECONDS / 5
    while time.monotonic() < end:
        text = changed(dice.choice(pool), texts, dice)
        start = time.thread_time()
        try:
            target(text)
        except Exception as error:
            raise AssertionError(f"{target.__name__}({text!r})") from error
        taken_s = time.thread_time() - start
        assert taken_s < SLOW_S, f"{taken_s:.1f} s: {target.__name__}({text!r})"
        count += 1
        if count % 5 == 0:  # changes may pile up
            pool[dice.randrange(len(pool))] = text if count % 50 else dice.choice(texts)
    assert count > 50
