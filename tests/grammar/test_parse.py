import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import grammar
from grammar import (
    Arg,
    Copy,
    DockerfileError,
    Run,
    UnknownFlagError,
    UnknownInstructionError,
    parse,
    parse_instruction,
    warm,
)


def error_of(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    return caught.value


# The shape of a file.


def test_a_file_is_global_args_and_stages() -> None:
    dockerfile = parse(
        "ARG a\nARG b=1\nFROM x AS one\nRUN c\nARG d\nFROM one\nFROM scratch\nCOPY --from=one e f\n"
    )
    assert [arg.declarations[0].name.text for arg in dockerfile.global_args] == ["a", "b"]
    assert [stage.base.image.text for stage in dockerfile.stages] == ["x", "one", "scratch"]
    assert [type(one) for one in dockerfile.stages[0].instructions] == [Run, Arg]
    assert [type(one) for one in dockerfile.stages[2].instructions] == [Copy]
    assert dockerfile.stages[1].instructions == ()


def test_a_file_of_args_alone_has_no_stages() -> None:
    assert parse("ARG a\n").stages == ()


def test_a_file_knows_its_name_and_lines() -> None:
    dockerfile = parse(b"\xef\xbb\xbfFROM x\r\n", name="dir/Dockerfile")
    assert dockerfile.source.name == "dir/Dockerfile"
    assert dockerfile.source.lines == ("FROM x",)


def test_bytes_and_text_are_the_same_file() -> None:
    assert parse("FROM x\nRUN größe\n") == parse("FROM x\nRUN größe\n".encode())


# What is refused, and how it is said.


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("RUN a", "RUN stands before the first FROM", "begin with FROM"),
        ("ARG a\nENV b=c", "ENV stands before the first FROM", "only ARG"),
        ("ONBUILD RUN a", "ONBUILD stands before the first FROM", "begin with FROM"),
        ("FROM", "FROM needs one argument, or three with AS", "FROM image AS name"),
        ("FROM a b", "FROM needs one argument, or three with AS", ""),
        ("FROM a b c", "FROM needs one argument, or three with AS", ""),
        ("FROM a AS", "FROM needs one argument, or three with AS", ""),
        ("FROM a AS b c", "FROM needs one argument, or three with AS", ""),
        ("FROM a AS 1b", "1b is no name for a build stage", "a name is a letter"),
        ("FROM a AS b/c", "b/c is no name for a build stage", ""),
        ("FROM a\nCOPY b", "COPY needs at least two arguments", "COPY source /target"),
        ('FROM a\nCOPY ["b"]', "COPY needs at least two arguments", ""),
        ("FROM a\nCOPY --from=b", "COPY needs at least two arguments", ""),
        ("FROM a\nADD", "ADD needs at least two arguments", ""),
        ("FROM a\nENV", "ENV needs at least one argument", "ENV NAME=value"),
        ("FROM a\nLABEL", "LABEL needs at least one argument", ""),
        ("FROM a\nARG", "ARG needs at least one argument", ""),
        ("FROM a\nEXPOSE", "EXPOSE needs at least one argument", ""),
        ("FROM a\nVOLUME", "VOLUME needs at least one argument", ""),
        ("FROM a\nVOLUME []", "VOLUME needs at least one argument", ""),
        ("FROM a\nUSER", "USER needs exactly one argument", ""),
        ("FROM a\nWORKDIR", "WORKDIR needs exactly one argument", ""),
        ("FROM a\nSTOPSIGNAL", "STOPSIGNAL needs exactly one argument", ""),
        ("FROM a\nMAINTAINER", "MAINTAINER needs exactly one argument", ""),
        ("FROM a\nSHELL", "SHELL needs a JSON array", 'SHELL ["/bin/sh", "-c"]'),
        ("FROM a\nSHELL []", "SHELL needs a JSON array", ""),
        ("FROM a\nSHELL /bin/sh -c", "SHELL needs a JSON array", ""),
        ("FROM a\nONBUILD", "ONBUILD needs an instruction as its argument", ""),
        ("FROM a\nONBUILD FROM b", "FROM is not allowed as an ONBUILD trigger", ""),
        ("FROM a\nONBUILD ONBUILD RUN b", "ONBUILD is not allowed as an ONBUILD trigger", ""),
        ("FROM a\nONBUILD MAINTAINER b", "MAINTAINER is not allowed as an ONBUILD trigger", ""),
        ("FROM a\nONBUILD COPY b", "COPY needs at least two arguments", ""),
        ("FROM a\nHEALTHCHECK", "HEALTHCHECK needs CMD and a command, or NONE alone", ""),
        ("FROM a\nHEALTHCHECK CMD", "HEALTHCHECK needs CMD and a command", ""),
        ("FROM a\nHEALTHCHECK CMD []", "HEALTHCHECK needs CMD and a command", ""),
        ("FROM a\nHEALTHCHECK NONE b", "HEALTHCHECK needs CMD and a command", ""),
        ("FROM a\nHEALTHCHECK curl b", "HEALTHCHECK has no type curl", "try CMD or NONE"),
    ],
)
def test_a_wrong_instruction_is_explained(text: str, message: str, hint: str) -> None:
    error = error_of(text)
    assert error.message.startswith(message)
    assert hint in error.hint
    assert error.span is not None
    assert error.span.start_line == text.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "name", "nearest"),
    [
        ("FROM a\nRNU b", "RNU", "RUN"),
        ("FORM a", "FORM", "FROM"),
        ("FROM a\nentrypiont b", "entrypiont", "ENTRYPOINT"),
        ("FROM a\nONBUILD CPOY b c", "CPOY", "COPY"),
        ("FROM a\napt-get install b", "apt-get", ""),
        ("FROM a\n&& b", "&&", ""),
    ],
)
def test_an_unknown_instruction_is_named(text: str, name: str, nearest: str) -> None:
    error = error_of(text)
    assert isinstance(error, UnknownInstructionError)
    assert (error.name, error.nearest) == (name, nearest)
    assert nearest or "FROM" in error.hint or "escape character" in error.hint


@pytest.mark.parametrize(
    ("text", "flag", "hint"),
    [
        ("COPY --form=a b c", "--form", "did you mean --from?"),
        ("COPY --Chown=a b c", "--Chown", "did you mean --chown?"),
        ("RUN --mout=type=cache b", "--mout", "did you mean --mount?"),
        ("ADD --unpak b c", "--unpak", "did you mean --unpack?"),
        ("ADD --from=a b c", "--from", "ADD has --checksum, --chmod, --chown"),
        ("COPY --unpack a b", "--unpack", "COPY has --chmod, --chown"),
        ("ENV --a b=c", "--a", "ENV has no flags"),
        ("CMD --a b", "--a", "CMD has no flags"),
        ("WORKDIR --a /b", "--a", "WORKDIR has no flags"),
        ("HEALTHCHECK --every=1s CMD a", "--every", "--interval"),
        ("ONBUILD RUN --mout=a b", "--mout", "did you mean --mount?"),
        ("ONBUILD --a RUN b", "--a", "ONBUILD has no flags"),
        ("USER ---- a", "----", "USER has no flags"),
        ("USER --=x a", "--", "USER has no flags"),
    ],
)
def test_an_unknown_flag_is_named_with_the_known_ones(text: str, flag: str, hint: str) -> None:
    error = error_of(f"FROM scratch\n{text}")
    assert isinstance(error, UnknownFlagError)
    assert error.flag == flag
    assert hint in error.hint
    assert error.span is not None
    place = text.index(flag)
    assert (error.span.start_column, error.span.end_column) == (place + 1, place + len(flag))


def test_the_caret_is_under_the_right_word_of_a_continued_line() -> None:
    error = error_of("FROM a\nCOPY --link \\\n  # comment\n  --form=b \\\n  c d\n")
    assert error.render() == (
        "Dockerfile:4: COPY has no flag --form\n"
        "    3 |   # comment\n"
        "    4 |   --form=b \\\n"
        "      |   ^^^^^^\n"
        "hint: did you mean --from?"
    )


@pytest.mark.parametrize(
    "text", ["ARG --a=b c", "STOPSIGNAL --a b", "HEALTHCHECK --a NONE", "HEALTHCHECK --a NONE []"]
)
def test_flags_that_buildkit_never_looks_at_are_passed_over(text: str) -> None:
    parse(f"FROM scratch\n{text}")


def test_the_first_error_is_the_one_that_is_said() -> None:
    assert error_of("FROM a\nFOO\nBAR\n").span == error_of("FROM a\nFOO\n").span


# Triggers.


def test_a_trigger_is_one_instruction() -> None:
    assert isinstance(parse_instruction("RUN <<EOF\na\nEOF"), Run)
    copy = parse_instruction("COPY a` b /c", escape="`")
    assert isinstance(copy, Copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file has no instructions"),
        ("RUN a\nRUN b", "an ONBUILD trigger is one instruction"),
        ("FROM a", "FROM is not allowed as an ONBUILD trigger"),
        ("ONBUILD RUN a", "ONBUILD is not allowed as an ONBUILD trigger"),
        ("MAINTAINER a", "MAINTAINER is not allowed as an ONBUILD trigger"),
        ("RNU a", "unknown instruction RNU"),
        ("COPY a", "COPY needs at least two arguments"),
    ],
)
def test_what_is_no_trigger_is_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_instruction(text, name="base image")
    assert caught.value.message.startswith(message)
    assert str(caught.value).startswith("base image:")


# Any input.

PIECES = st.sampled_from(
    [
        *[
            "FROM",
            "RUN",
            "COPY",
            "ADD",
            "ENV",
            "ARG",
            "LABEL",
            "CMD",
            "SHELL",
            "HEALTHCHECK",
            "ONBUILD",
            "VOLUME",
            "EXPOSE",
            "USER",
        ],
        *[
            "--from=a",
            "--mount=type=b,c",
            "--chown='d e'",
            "--link",
            "--interval=1s",
            "--",
            "--x=$y",
        ],
        *["\n", "\n\n", " \\\n", "\\\\\n", "\n# c\n", "\n# escape=`\n", "`\n", "\r\n", "\ufeff"],
        *[
            "<<EOF",
            "<<-'E F'",
            "\nEOF\n",
            "\n\tE F\n",
            "<< A",
            "3<<<",
            "as",
            "AS b",
            "NONE",
            "none",
        ],
        *['["a", "b"]', '["a"', "[1]", "[", "{}", '"', "'", "\\", "$", "${a:-b}", "a=b", "=", "a"],
        *["\x00", "\x1b[31m", "\u202e", "é", "\udc80", "\u2028", "\x85", "\v", "  ", "\t"],
    ]
)


@given(st.lists(PIECES, max_size=25).map(" ".join))
@settings(max_examples=400)
@example("FROM a\nONBUILD ONBUILD ONBUILD")
@example("HEALTHCHECK --x NONE a")
@example("# escape=`\nRUN a`")
def test_any_text_parses_or_is_explained(text: str) -> None:
    check(text)


@given(st.lists(PIECES, max_size=25).map(lambda pieces: "FROM scratch\n" + " ".join(pieces)))
@settings(max_examples=400)
def test_any_text_after_a_from_parses_or_is_explained(text: str) -> None:
    check(text)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_parse_or_are_explained(text: bytes | str) -> None:
    check(text)


def check(text: bytes | str) -> None:
    try:
        dockerfile = parse(text)
    except DockerfileError as error:
        rendered = error.render()
        assert all(char.isprintable() or char == "\n" for char in rendered)
        assert len(str(error).encode()) <= 1000
        assert error.span is not None
        assert error.source is not None
    else:
        lines = len(dockerfile.source.lines)
        for stage in dockerfile.stages:
            for one in (stage.base, *stage.instructions):
                assert 1 <= one.span.start_line <= one.span.end_line <= lines


BIG = 1 << 19


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"FROM x\n" + b"RUN a\n" * (BIG // 40), id="instructions"),
        pytest.param(b"FROM x\n" * (BIG // 40), id="stages"),
        pytest.param(b"FROM x\n" + b"# a\n" * (BIG // 4), id="comments"),
        pytest.param(b"FROM x\nRUN a" + b" \\\n b" * (BIG // 5), id="continuations"),
        pytest.param(b"FROM x\nENV" + b' a=\'b\'"c\\""\\\n' * (BIG // 13), id="pairs"),
        pytest.param(b"FROM x\nARG" + b" a\\\n" * (BIG // 12), id="words"),
        pytest.param(b"FROM x\nCOPY" + b" --exclude=a\\\n" * (BIG // 14) + b" b c", id="flags"),
        pytest.param(b"FROM x\nCMD " + b"[\\\n" * (BIG // 3), id="brackets"),
        pytest.param(b"FROM x\nCMD [" + b'"a",\\\n' * (BIG // 6) + b'"b"]', id="strings"),
        pytest.param(b'FROM x\nCMD ["' + b"\\\\n\\\n" * (BIG // 5), id="unclosed string"),
        pytest.param(b"FROM x\n" + b"RUN <<A\nb\nA\n" * (BIG // 60), id="heredocs"),
        pytest.param(b"FROM x\nRUN <<A\n" + b"b\n" * (BIG // 2), id="heredoc without end"),
        pytest.param(b"FROM x\nRUN " + b" <<A\\\n" * (BIG // 12), id="heredoc words"),
        pytest.param(b"FROM x\nRUN <<" + b"${a:-\\\n" * (BIG // 7), id="braces"),
        pytest.param(b"FROM x\n" + b"ONBUILD \\\n" * (BIG // 10), id="triggers"),
        pytest.param(b"\x00" * 60_000, id="zeros"),
    ],
)
def test_a_big_file_takes_time_in_proportion(text: bytes) -> None:
    start = time.monotonic()
    try:
        parse(text)
    except DockerfileError as error:
        assert len(error.render()) < 3000
    assert time.monotonic() - start < 30


# Tables.


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    forget(tmp_path)


def test_tables_are_kept_in_the_directory_that_is_given(tables: Path) -> None:
    parse("FROM scratch", tables=tables)
    (file,) = tables.iterdir()
    before = file.stat()
    forget(tables)
    parse("FROM scratch", tables=tables)
    assert [entry.name for entry in tables.iterdir()] == [file.name]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"\n", b"garbage", None])
def test_damaged_tables_are_made_anew(tables: Path, damage: bytes | None) -> None:
    warm(tables)
    (file,) = tables.iterdir()
    damaged = file.read_bytes()[:-100] if damage is None else damage
    file.write_bytes(damaged)
    forget(tables)
    assert parse("FROM scratch AS a", tables=tables).stages[0].base.alias == "a"
    assert file.read_bytes() != damaged
    forget(tables)
    assert parse("FROM scratch AS a", tables=tables).stages[0].base.alias == "a"


def test_a_changed_byte_anywhere_is_noticed(tables: Path) -> None:
    warm(tables)
    (file,) = tables.iterdir()
    whole = bytearray(file.read_bytes())
    for place in (0, 31, 32, len(whole) // 2, len(whole) - 1):
        damaged = whole.copy()
        damaged[place] ^= 1
        file.write_bytes(damaged)
        forget(tables)
        assert parse("FROM scratch", tables=tables).stages
        assert file.read_bytes() != damaged


def test_a_directory_that_cannot_be_written_costs_only_time(tables: Path) -> None:
    missing = tables / "missing"
    assert parse("FROM scratch", tables=missing).stages
    assert not missing.exists()
    forget(missing)


def test_warm_makes_the_directory(tables: Path) -> None:
    warm(tables / "new")
    assert len(list((tables / "new").iterdir())) == 1
    forget(tables / "new")


def test_several_processes_may_make_the_tables_at_once(tables: Path) -> None:
    code = "import pathlib, grammar, sys; grammar.parse('FROM a', tables=pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(grammar.__file__).parents[1])}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tables)], env=environment)
        for _ in range(4)
    ]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    assert len(list(tables.iterdir())) == 1


def forget(tables: Path) -> None:
    sys.modules["grammar.parse"]._parsers.pop(tables, None)
