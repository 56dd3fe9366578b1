"""Errors learn once where they happened."""

import pytest

from builder.errors import LoweringError
from builder.located import Located, excerpt
from grammar import DockerfileError, parse_instruction
from tests.support.images import dockerfile

TEXT = "FROM scratch\nRUN one\nRUN two \\\n  three\nRUN four\nRUN five\n"


def test_lines_around_an_instruction_are_shown_and_its_own_marked() -> None:
    file = dockerfile(TEXT)
    assert excerpt(file, file.stages[0].instructions[1].span).splitlines() == [
        "Dockerfile:3",
        "   1 |     FROM scratch",
        "   2 |     RUN one",
        "   3 | >>> RUN two \\",
        "   4 | >>>   three",
        "   5 |     RUN four",
        "   6 |     RUN five",
    ]


def test_passwords_of_urls_are_not_shown() -> None:
    file = dockerfile("FROM scratch\nADD https://me:secret@host.invalid/x /\n")
    assert "secret" not in excerpt(file, file.stages[0].instructions[0].span)


def test_the_innermost_place_stays() -> None:
    file = dockerfile(TEXT)
    one, two = (file.stages[0].instructions[number].span for number in (0, 1))
    with pytest.raises(LoweringError) as caught, Located(file, two), Located(file, one):
        raise LoweringError("no")
    assert caught.value.excerpt.startswith("Dockerfile:2")
    assert not hasattr(caught.value, "__notes__")


def test_other_errors_get_a_note() -> None:
    file = dockerfile(TEXT)
    with pytest.raises(OSError) as caught, Located(file, file.stages[0].instructions[0].span):
        raise OSError("no")
    assert caught.value.__notes__[0].startswith("Dockerfile:2")


def test_without_a_place_and_without_an_error_nothing_happens() -> None:
    file = dockerfile(TEXT)
    with pytest.raises(LoweringError) as caught, Located(file, None):
        raise LoweringError("no")
    assert caught.value.excerpt == ""
    with Located(file, file.stages[0].instructions[0].span):
        pass
    with pytest.raises(KeyboardInterrupt) as interrupt, Located(file, file.stages[0].base.span):
        raise KeyboardInterrupt
    assert not hasattr(interrupt.value, "__notes__")


def test_a_place_in_a_trigger_is_no_line_of_the_file() -> None:
    file = dockerfile(TEXT)
    base = file.stages[0].base.span
    with pytest.raises(DockerfileError) as caught, Located(file, base, in_trigger=True):
        parse_instruction("NONSENSE x")
    assert caught.value.span is not None
