import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grammar import (
    Dockerfile,
    DockerfileError,
    Instruction,
    Onbuild,
    Written,
    as_json,
    parse,
    parse_instruction,
    parse_written,
    unparse,
)
from tests.support.strategies import KEYWORD_FLAGS, KEYWORDS, DockerfileText, dockerfiles

EVERY_CHECK = list(HealthCheck)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("run  echo   'a  b' ", "RUN echo   'a  b'"),
        ("RUN a \\\n   b \\\n # c\n d", "RUN a    b  d"),
        ('CMD [ "a" , "b\\u0041" ]', 'CMD ["a", "bA"]'),
        ("CMD", "CMD"),
        ("CMD []", "CMD []"),
        ("COPY  --link   a   b", "COPY --link a b"),
        ("COPY --chown='a b' c d", 'COPY --chown="a b" c d'),
        ("COPY --chown=a\\\\b c d", 'COPY --chown="a\\\\b" c d'),
        ('COPY ["a b", "c"]', 'COPY ["a b", "c"]'),
        ("ENV  a=b   c='d e'", "ENV a=b c='d e'"),
        ("ENV a   b  c", "ENV a b  c"),
        ("LABEL a=", "LABEL a="),
        ("ARG a  b=c", "ARG a b=c"),
        ("EXPOSE  1   2", "EXPOSE 1 2"),
        ("HEALTHCHECK --retries=3 cmd  a  b", "HEALTHCHECK --retries=3 cmd a  b"),
        ('HEALTHCHECK CMD ["a"]', 'HEALTHCHECK CMD ["a"]'),
        ("healthcheck none", "HEALTHCHECK none"),
        ("onbuild  run  a", "ONBUILD RUN a"),
        ("RUN -- --a", "RUN -- --a"),
        ("RUN --network=none -- --a", "RUN --network=none -- --a"),
        ("RUN <<A\nx\nA", "RUN <<A\nx\nA"),
        ("COPY <<A <<-B /c\nx\nA\n\ty\n\tB", "COPY <<A <<-B /c\nx\nA\n\ty\nB"),
        ("RUN a\\\f", "RUN a\\\f"),
        ('COPY ["a",\v"b"]', 'COPY ["a",\f"b"]'),
    ],
)
def test_the_canonical_text_of_an_instruction(text: str, canonical: str) -> None:
    _directives, (written,) = parse_written(text)
    assert unparse(written) == canonical
    assert unparse(parse_written(canonical)[1][0]) == canonical


def test_a_trailing_backslash_is_no_continuation_under_the_backtick() -> None:
    _directives, (written,) = parse_written("# escape=`\nWORKDIR c:\\\n")
    assert unparse(written, escape="`") == "WORKDIR c:\\"


def test_a_node_and_what_was_written_give_the_same_text() -> None:
    copy = parse("FROM a\nCOPY --from=b c d").stages[0].instructions[0]
    assert unparse(copy) == unparse(copy.written) == "COPY --from=b c d"


WORDS = st.text("ab=$'\"\\ -[],<#é`", min_size=1, max_size=8)


@given(
    st.sampled_from(
        ["RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "CMD", "VOLUME", "EXPOSE", "USER"]
    ),
    st.lists(WORDS, max_size=5),
    st.sampled_from("\\`"),
)
def test_the_canonical_text_says_the_same(keyword: str, words: list[str], escape: str) -> None:
    try:
        first = parse_instruction(f"{keyword} {' '.join(words)}", escape=escape)
    except DockerfileError:
        return
    second = parse_instruction(unparse(first, escape=escape), escape=escape)
    assert without_places(second) == without_places(first)


@given(st.sampled_from(["RUN", "COPY", "VOLUME"]), st.lists(st.text(), min_size=2, max_size=4))
def test_json_forms_carry_any_text(keyword: str, strings: list[str]) -> None:
    text = f"{keyword} {json.dumps(strings, ensure_ascii=False)}"
    try:
        _directives, (first,) = parse_written(text)
    except DockerfileError:  # a newline in the middle of the line
        return
    if first.is_json:
        assert first.args == tuple(strings)
        assert parse_written(unparse(first))[1][0].args == first.args


# The text of a trigger is kept as it stands, like the spelling of a keyword.
PLACES = ("span", "start_line", "end_line", "spelling")


def without_places(instruction: Instruction) -> object:
    def strip(value: object) -> object:
        if isinstance(value, tuple):
            return [strip(item) for item in value]
        names = getattr(type(value), "__slots__", None)
        if names is None:
            return value
        kept = [n for n in names if n not in PLACES]
        if isinstance(value, Onbuild):
            kept.remove("text")
        return type(value).__name__, [(name, strip(getattr(value, name))) for name in kept]

    return strip(instruction)


# Whole files.


@given(dockerfiles())
@settings(max_examples=150, suppress_health_check=EVERY_CHECK)
def test_a_file_written_anew_is_the_same_file(file: DockerfileText) -> None:
    first = parse(file.text)
    again = parse(as_text(first))
    assert [without_places(one) for one in instructions(again)] == [
        without_places(one) for one in instructions(first)
    ]
    assert again.directives.escape == first.directives.escape
    assert as_text(again) == as_text(first)


@given(dockerfiles())
@settings(suppress_health_check=EVERY_CHECK)
def test_nothing_of_a_file_is_lost(file: DockerfileText) -> None:
    found = [one.written for one in instructions(parse(file.text))]
    assert [one.keyword for one in found] == [line.keyword for line in file.lines]
    assert [one.flags for one in found] == [line.flags for line in file.lines]
    ends = [0, *(one.end_line for one in found)]
    starts = [one.start_line for one in found]
    assert all(end < start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] <= len(file.text.splitlines()) or "\x0b" in file.text


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_the_files_that_are_made_have_everything_in_them(keyword: str) -> None:
    seen: set[str] = set()

    @given(dockerfiles(keyword))
    @settings(max_examples=80, derandomize=True, database=None, suppress_health_check=EVERY_CHECK)
    def look(file: DockerfileText) -> None:
        for one in instructions(parse(file.text)):
            for written in (one.written, *one.written.args):
                if isinstance(written, Written):
                    seen.update(f"{written.keyword} {f.partition('=')[0]}" for f in written.flags)
                    seen.add(f"{written.keyword} {'json' if written.is_json else 'plain'}")
                    seen.update(
                        f"{written.keyword} {'<<-' if h.chomp else '<<'}"
                        for h in one.written.heredocs
                    )

    look()
    forms = {"plain"} - ({"plain"} if keyword == "SHELL" else set())
    forms |= {"json"} if keyword in JSON_FORMS else set()
    forms |= {"<<", "<<-"} if keyword in ("RUN", "COPY", "ADD", "ONBUILD") else set()
    wanted = {f"{keyword} {form}" for form in (*forms, *KEYWORD_FLAGS.get(keyword, ()))}
    assert wanted <= seen, wanted - seen


JSON_FORMS = ("ADD", "CMD", "COPY", "ENTRYPOINT", "HEALTHCHECK", "RUN", "SHELL", "VOLUME")


def instructions(dockerfile: Dockerfile) -> list[Instruction]:
    found: list[Instruction] = [*dockerfile.global_args]
    for stage in dockerfile.stages:
        found += [stage.base, *stage.instructions]
    return found


def as_text(dockerfile: Dockerfile) -> str:
    escape = dockerfile.directives.escape
    lines = [unparse(one, escape=escape) for one in instructions(dockerfile)]
    return "\n".join([f"# escape={escape}", *lines])


# JSON.


def test_a_whole_file_as_json() -> None:
    text = (
        "# syntax=docker/dockerfile:1\nARG v=1\nfrom scratch\n"
        "RUN --network=none <<-EOF cat\n\thi $v\n\tEOF\nONBUILD COPY a b\n"
    )
    expected = {
        "directives": {"syntax": "docker/dockerfile:1"},
        "instructions": [
            instruction("ARG", ["v=1"], 2),
            instruction("from", ["scratch"], 3),
            instruction("RUN", ["<<-EOF cat"], 4, 6)
            | {
                "flags": ["--network=none"],
                "heredocs": [
                    {"name": "EOF", "content": "\thi $v\n", "expand": True, "chomp": True, "fd": 0}
                ],
            },
            instruction("ONBUILD", [instruction("COPY", ["a", "b"], 0)], 7),
        ],
    }
    assert as_json(parse(text)) == expected
    assert as_json(parse_written(text)) == expected


def instruction(
    keyword: str, args: list[object], start: int, end: int | None = None
) -> dict[str, object]:
    return {
        "keyword": keyword,
        "flags": [],
        "args": args,
        "json": False,
        "heredocs": [],
        "start_line": start,
        "end_line": start if end is None else end,
    }


def test_directives_are_shown_when_they_are_given() -> None:
    assert as_json(parse_written("# escape=\\\n# check=skip=all\nRUN a"))["directives"] == {
        "escape": "\\",
        "check": "skip=all",
    }
    assert as_json(parse_written("RUN a"))["directives"] == {}


def test_json_carries_no_surrogates() -> None:
    shown = as_json(parse_written(b"COPY caf\xe9 /\n"))
    assert shown["instructions"][0]["args"] == ["caf\ufffd", "/"]
    json.dumps(shown, ensure_ascii=False).encode()


def test_written_nodes_compare_by_value() -> None:
    one, two = (parse_written("RUN a")[1][0] for _ in range(2))
    assert isinstance(one, Written)
    assert one == two
