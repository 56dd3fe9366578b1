"""The comments right above an instruction, and what they say about it.

    # check=skip=StageNameCasing         options for this instruction
    # build compiles the program         a description of the stage `build`
    FROM alpine AS build

An empty comment (`#`) cuts off those above it; a blank line does not, and neither does a parser
directive, which is no comment.

Source: moby/buildkit frontend/dockerfile: parser/parser.go, instructions/parse.go.
"""

from collections.abc import Iterator, Mapping

from builder.check.options import NO_OPTIONS, Options, parse_options
from builder.errors import PlanError
from grammar import Dockerfile, Instruction, directive_of_line

Comments = Mapping[int, tuple[str, ...]]


def instructions_of(dockerfile: Dockerfile) -> Iterator[Instruction]:
    """All instructions in file order, those before the first FROM included."""
    yield from dockerfile.global_args
    for stage in dockerfile.stages:
        yield stage.base
        yield from stage.instructions


def comments_of(dockerfile: Dockerfile) -> Comments:
    """The comments above each instruction that has some, by the line it starts on."""
    found: dict[int, tuple[str, ...]] = {}
    lines = dockerfile.source.lines
    is_head = True  # directives stand before everything else
    after = 0
    for instruction in instructions_of(dockerfile):
        written = instruction.written
        above: list[str] = []
        for line in lines[after : written.start_line - 1]:
            is_head = is_head and directive_of_line(line.lstrip()) is not None
            if is_head or not line.lstrip().startswith("#"):
                continue
            text = line[1:].strip()  # of a line with blanks before the #, as in BuildKit
            if text:
                above.append(text)
            else:
                above.clear()
        if above:
            found[written.start_line] = tuple(above)
        after = written.end_line
        is_head = False
    return found


def options_in(comments: tuple[str, ...]) -> Options:
    """The options that the comments above an instruction set for it.

    The first `check=` counts, up to a blank; one that cannot be read says nothing.
    """
    for comment in comments:
        directive = directive_of_line(f"#{comment}")
        if directive is not None and directive[0] == "check":
            try:
                return parse_options(directive[1].partition(" ")[0])
            except PlanError:
                return NO_OPTIONS
    return NO_OPTIONS


def description(comments: tuple[str, ...], name: str) -> str:
    """What the comments say about `name`: the rest of the first one that begins with it."""
    prefix = f"{name} "
    found = (comment for comment in comments if name and comment.startswith(prefix))
    return next(found, "").removeprefix(prefix)
