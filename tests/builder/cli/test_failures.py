import pytest

from builder.cli.arguments import UsageError
from builder.cli.failures import describe, report
from builder.cli.govalues import TemplateError
from builder.errors import BuilderError
from builder.sandbox import ProgramNotFoundError, SandboxError
from grammar import DockerfileError, parse
from layerstore import FULL_HINT, NotFoundError

Capture = pytest.CaptureFixture[str]


def test_an_error_is_one_line_with_its_hint() -> None:
    error = NotFoundError(kind="image", key="hello", hint="`lamina load` gets one")
    assert describe(error) == "lamina: no such image: hello (`lamina load` gets one)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("unknown flag: --x", hint="see help"), "lamina: unknown flag: --x (see help)"),
        (BuilderError("it went wrong"), "lamina: it went wrong"),
        (TemplateError("no field"), "lamina: bad template: no field"),
        (SandboxError(phase="mount", errno=1), "lamina: mount: Operation not permitted"),
        (OSError(28, "No space left", "/a"), f"lamina: /a: No space left ({FULL_HINT})"),
        (OSError(122, "Disk quota exceeded"), f"lamina: Disk quota exceeded ({FULL_HINT})"),
        (
            OSError(24, "Too many open files"),
            "lamina: Too many open files (a higher `ulimit -n` allows more,"
            " a build with fewer --jobs needs fewer)",
        ),
        (OSError(2, "No such file", "/a"), "lamina: /a: No such file"),
        (OSError(18, "Cross-device", "/a", None, "/b"), "lamina: /a -> /b: Cross-device"),
        (MemoryError(), "lamina: out of memory"),
        (KeyboardInterrupt(), "lamina: interrupted"),
        (BrokenPipeError(), ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_kind_of_error_has_its_line(error: BaseException, text: str) -> None:
    assert describe(error) == text


def test_a_missing_program_is_named() -> None:
    text = describe(ProgramNotFoundError(argv0="nope", errno=2))
    assert "nope" in text
    assert "\n" not in text


def test_a_mistake_of_ours_says_so_and_how_to_find_it() -> None:
    assert describe(ZeroDivisionError("x")) == (
        "lamina: internal error: ZeroDivisionError: x (`lamina --debug ...` shows where)"
    )


def test_control_characters_are_escaped() -> None:
    text = describe(BuilderError("a\nb\x1b[2J\udcff", hint="c\rd"))
    assert text == "lamina: a\\nb\\x1b[2J\\xff (c\\rd)"


@pytest.mark.parametrize("filler", ["x", "\u00e9", "\x1b", "\udcff"])
def test_no_message_is_longer_than_a_thousand_bytes(filler: str) -> None:
    for size in (900, 990, 1000, 1010, 5000):
        text = describe(BuilderError(filler * size, hint="never mind"))
        assert len((text + "\n").encode()) <= 1000


def test_the_lines_of_the_dockerfile_come_before_the_message() -> None:
    error = BuilderError("it went wrong", hint="mend it")
    error.excerpt = "Dockerfile:3\n   3 | >>> RUN \x1b[1mfalse"
    assert describe(error).splitlines() == [
        "Dockerfile:3",
        "   3 | >>> RUN \\x1b[1mfalse",
        "lamina: it went wrong (mend it)",
    ]


def test_errors_of_other_rooms_carry_the_lines_as_a_note() -> None:
    error = NotFoundError(kind="image", key="x")
    error.add_note("Dockerfile:1\n   1 | >>> FROM x")
    assert describe(error).splitlines()[0] == "Dockerfile:1"
    assert describe(error).splitlines()[-1] == "lamina: no such image: x"


def test_a_long_excerpt_leaves_room_for_the_message() -> None:
    error = BuilderError("the end")
    error.excerpt = "\n".join(f"{n} | RUN something" for n in range(500))
    text = describe(error)
    assert len(text.encode()) <= 1000
    assert text.endswith("\nlamina: the end")


def test_a_dockerfile_error_shows_place_and_caret() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse("FROM scratch\nRNU x\n", name="Dockerfile")
    text = describe(caught.value)
    assert text.splitlines()[0].startswith("Dockerfile:2: ")
    assert "^" in text


def test_reporting_prints_and_gives_the_exit_code(capsys: Capture) -> None:
    code = report(NotFoundError(kind="image", key="x"), command="run", debug=False)
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err) == (125, "", "lamina: no such image: x\n")


def test_tracebacks_are_for_debug_alone(capsys: Capture) -> None:
    report(ZeroDivisionError("x"), command="ps", debug=False)
    assert "Traceback" not in capsys.readouterr().err
    report(ZeroDivisionError("x"), command="ps", debug=True)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_usage_error_has_no_traceback_even_then(capsys: Capture) -> None:
    report(UsageError("unknown flag: --x"), command="ps", debug=True)
    assert capsys.readouterr().err == "lamina: unknown flag: --x\n"


def test_a_closed_pipe_is_nothing_to_talk_about(capsys: Capture) -> None:
    assert report(BrokenPipeError(), command="ps", debug=False) == 141
    assert capsys.readouterr().err == ""
