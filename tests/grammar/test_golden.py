"""Folders in tests/golden: a Dockerfile, and the tree or the error it gives.

`UPDATE_GOLDEN=1` writes what is there now; read the difference before keeping it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from grammar import Dockerfile, DockerfileError, ExecForm, ShellForm, Span, Word, Written, parse

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/Dockerfile"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_file_gives_the_tree_or_the_error_that_is_kept(case: Path) -> None:
    try:
        text = "\n".join(shown(parse((case / "Dockerfile").read_bytes()))) + "\n"
        kept, other = case / "tree.txt", case / "error.txt"
    except DockerfileError as error:
        text = f"{type(error).__name__}\n{error.render()}\n"
        kept, other = case / "error.txt", case / "tree.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        kept.write_text(text)
        other.unlink(missing_ok=True)
    assert kept.read_text() == text
    assert not other.exists()


def test_there_are_cases_of_both_kinds() -> None:
    assert len(list(GOLDEN.glob("*/tree.txt"))) >= 5
    assert len(list(GOLDEN.glob("*/error.txt"))) >= 5


def shown(dockerfile: Dockerfile) -> Iterator[str]:
    yield f"directives {fields(dockerfile.directives)}"
    for arg in dockerfile.global_args:
        yield from instruction(arg, "")
    for stage in dockerfile.stages:
        yield from instruction(stage.base, "")
        for one in stage.instructions:
            yield from instruction(one, "  ")


def instruction(one: object, indent: str) -> Iterator[str]:
    yield f"{indent}{type(one).__name__} {place(one.span)}"  # type: ignore[attr-defined]
    for name in type(one).__slots__:  # type: ignore[attr-defined]
        value = getattr(one, name)
        if name == "trigger":
            yield from instruction(value, indent + "    ")
        elif name not in ("span", "written") and value not in ((), None, False, 0):
            yield f"{indent}    {name}: {plain(value)}"


def plain(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, Word):
        return f"{value.text!r}@{place(value.span)}"
    if isinstance(value, Span):
        return place(value)
    if isinstance(value, ShellForm):
        return f"shell {value.text!r}"
    if isinstance(value, ExecForm):
        return f"exec {list(value.argv)!r}"
    if hasattr(type(value), "__slots__") and not isinstance(value, str | Written):
        return f"{type(value).__name__}({fields(value)})"
    return repr(value)


def fields(value: object) -> str:
    names = type(value).__slots__  # type: ignore[attr-defined]
    return ", ".join(f"{name}={plain(getattr(value, name))}" for name in names)


def place(span: Span) -> str:
    end = "" if span.end_line == span.start_line else f"{span.end_line}:"
    return f"{span.start_line}:{span.start_column}-{end}{span.end_column}"
