"""Large Dockerfiles are parsed in linear time, or refused with a sentence.

What no file may have: a line above 64 KiB, 16 MiB in all, ONBUILD in ONBUILD, 33 nested `${`.
"""

from collections.abc import Callable

import pytest

from grammar import Copy, DockerfileError, Env, Run, expand, parse, parse_written, unparse
from tests.support.growth import LINEAR, growth

# Name -> the file with so many of them. Each is parsed with N and 4 N.
FILES: dict[str, tuple[int, Callable[[int], str]]] = {
    "lines": (2500, lambda n: "FROM a\n" + "RUN echo hello && true\n" * n),
    "stages": (250, lambda n: "".join(f"FROM a AS s{i}\nCOPY --from=0 a b\n" for i in range(n))),
    "continuations": (25_000, lambda n: "FROM a\nRUN a \\\n" + "x \\\n" * n + "y\n"),
    "comments in a continuation": (25_000, lambda n: "FROM a\nRUN a \\\n" + "# c\n\n" * n + "y\n"),
    "comments": (25_000, lambda n: "FROM a\n" + "# c\n" * n),
    "pairs of one ENV": (2500, lambda n: "FROM a\nENV " + "a=b \\\n" * n + "c=d\n"),
    "ENV": (2500, lambda n: "FROM a\n" + "".join(f"ENV a{i}=$a\n" for i in range(n))),
    "ARG": (250, lambda n: "".join(f"ARG a{i}=${{a{i - 1}}}\n" for i in range(n)) + "FROM a\n"),
    "lines of a heredoc": (40_000, lambda n: "FROM a\nCOPY <<E /\n" + "a line\n" * n + "E\n"),
    "heredocs": (1000, lambda n: "FROM a\n" + "RUN <<E\necho\nE\n" * n),
    "heredocs of one line": (2500, lambda n: "FROM a\nRUN " + "<<E \\\n" * n + "\n" + "E\n" * n),
    "flags": (2500, lambda n: "FROM a\nRUN " + "--mount=target=/a \\\n" * n + "x\n"),
    "sources": (5000, lambda n: "FROM a\nCOPY " + "a \\\n" * n + "b\n"),
    "strings of a JSON array": (5000, lambda n: "FROM a\nCMD [" + '"a", \\\n' * n + '"b"]\n'),
    "brackets that are no JSON": (5000, lambda n: "FROM a\nCOPY " + "[ \\\n" * n + "b\n"),
    "quotes": (25_000, lambda n: "FROM a\nENV a=" + "'\"' \\\n".replace(" ", "") * n + "\n"),
    "triggers": (1000, lambda n: "FROM a\n" + "ONBUILD RUN x\n" * n),
    "unknown instructions": (2500, lambda n: "FROM a\nRUN " + "a\\\n" * n + "\nRNU\n"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_with_many_of_them_takes_linear_time(kind: str) -> None:
    count, file = FILES[kind]

    def parsed(text: str) -> None:
        try:
            parse(text)
        except DockerfileError as error:
            assert error.render()

    assert growth(parsed, file(count), file(4 * count)) < LINEAR


def test_nothing_of_a_large_file_is_lost() -> None:
    file = parse("FROM a\n" + "RUN x\n" * 10_000)
    assert len(file.stages[0].instructions) == 10_000
    assert file.stages[0].instructions[-1].span.start_line == 10_001
    env = parse("FROM a\nENV " + " \\\n".join(f"a{i}=b" for i in range(10_000))).stages[0]
    assert isinstance(env.instructions[0], Env)
    assert len(env.instructions[0].pairs) == 10_000
    assert env.instructions[0].pairs[-1].name.span.start_line == 10_001
    run = parse("FROM a\nRUN x" + "\\\n" * 100_000 + "y\n").stages[0].instructions[0]
    assert run.written.args == ("xy",)
    assert run.written.end_line == 100_002


def test_a_heredoc_may_have_ten_mebibytes() -> None:
    body = "a line of thirty-two characters.\n" * (10 << 15)
    copy = parse(f"FROM a\nCOPY <<E /x\n{body}E\nRUN y\n").stages[0].instructions
    assert isinstance(copy[0], Copy)
    assert copy[0].heredocs[0].content == body
    assert copy[1].span.start_line == 4 + (10 << 15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nRUN " + "x" * 5_000_000, "2: the line is longer than 65535 bytes"),
        ("FROM a\nRUN <<E\n" + "x" * 65536 + "\nE\n", "3: the line is longer than 65535 bytes"),
        ("FROM a\n" + "#\n" * (8 << 20), "the file is larger than 16 MiB"),
        ("FROM a\n" + "ONBUILD " * 8000 + "RUN x", "2: ONBUILD is nested too deep"),
        ("FROM a\n" + "ONBUILD \\\n" * 100_000 + "RUN x", "11: ONBUILD is nested too deep"),
        ("FROM a\nONBUILD ONBUILD RUN x", "2: ONBUILD is not allowed as an ONBUILD trigger"),
        ("FROM a\nRUN " + "[" * 30_000 + "]" * 30_000, ""),
        ("FROM a\nRUN " + "[\\\n" * 100_000 + "]\\\n" * 100_000, ""),
        ("FROM a\nRUN " + '{"a":\\\n' * 100_000, ""),
        ("FROM a\nRUN " + "[[" * 4000 + "]]" * 4000, "2: a JSON array may have nothing but str"),
        ("FROM a\nRUN <<E\n" + "x\n" * 100_000, "2: the heredoc E does not end"),
        ("FROM a\n" + "RUN <<E\n" * 50_000, "2: the heredoc E does not end"),
        ("# check=a\n" + "# check=a\n" * 100_000, "2: the check directive is given twice"),
    ],
    ids=lambda value: value[:30] if len(value) > 60 else value or "accepted",
)
def test_what_is_too_large_is_refused_where_it_stands(text: str, message: str) -> None:
    if not message:  # no JSON, as in Go beyond its own depth: a command for the shell
        run = parse(text).stages[0].instructions[0]
        assert isinstance(run, Run)
        assert not run.written.is_json
        return
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert f"{caught.value}".startswith(("Dockerfile:" + message, "Dockerfile: " + message))
    assert len(caught.value.render()) < 3000


def test_a_line_may_have_as_many_bytes_as_in_buildkit() -> None:
    assert parse("FROM a\nRUN " + "x" * (65535 - 4)).stages
    with pytest.raises(DockerfileError):
        parse("FROM a\nRUN " + "x" * (65536 - 4))
    with pytest.raises(DockerfileError):
        parse("FROM a\nRUN " + "é" * 32_766)  # 65536 bytes


@pytest.mark.parametrize("form", ["${{a:-{}}}", "${{a:+{}}}", "${{a/x/{}}}", '"${{a:-{}}}"'])
def test_a_word_nested_500_deep_is_refused_with_a_sentence(form: str) -> None:
    word = "x"
    for _ in range(500):
        word = form.format(word)
    with pytest.raises(DockerfileError, match="more than 32 nested"):
        expand(word, {"a": "x"})


@pytest.mark.parametrize("piece", ["$a", "${a:-b}", "'x'", '"$a"', "\\x", "<<", "${a#b}"])
def test_a_long_word_takes_linear_time(piece: str) -> None:
    def expanded(word: str) -> str:
        return expand(word, {"a": "b"})

    assert growth(expanded, piece * 2000, piece * 8000) < LINEAR


def test_splitting_and_writing_take_linear_time_too() -> None:
    def there_and_back(text: str) -> None:
        for written in parse_written(text)[1]:
            unparse(written)

    file = "FROM a\nENV a='b c' d=e\nRUN --mount=target=/a x <<E\nx\nE\n"
    assert growth(there_and_back, file * 500, file * 2000) < LINEAR
