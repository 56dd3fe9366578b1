"""`lamina parse`: the syntax tree of a Dockerfile.

JSON is what the file says, split as BuildKit's parser splits it; a file that can be split and has
instructions that mean nothing is printed all the same, and then refused.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, value
from builder.cli.output import json_line, json_pretty, line, printable

if TYPE_CHECKING:
    from builder.cli.session import Session
    from grammar import Instruction

_BYTES_MAX = 16 << 20  # what is longer is no Dockerfile: grammar refuses it


def parse(arguments: Arguments, session: "Session") -> int:
    """Print the tree: one line per instruction, or JSON. The store is not touched.

    Raises:
        grammar.DockerfileError: the file is not a Dockerfile.
    """
    import grammar

    style = arguments.value("format") or "text"
    if style not in ("text", "json", "pretty"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="text, json or pretty")
    name = arguments.words[0] if arguments.words else "Dockerfile"
    with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
        text = file.read(_BYTES_MAX + 1)
    if style != "text":
        show = json_line if style == "json" else json_pretty
        show(grammar.as_json(grammar.parse_written(text, name=name)))
    tree = grammar.parse(text, name=name)
    if style == "text":
        escape = tree.directives.escape
        instructions: list[Instruction] = [*tree.global_args]
        for stage in tree.stages:
            instructions.extend((stage.base, *stage.instructions))
        for instruction in instructions:
            text_of = printable(grammar.unparse(instruction, escape=escape), keep="\n\t")
            line(f"{instruction.span.start_line:5}  {text_of}")
    return 0


PARSE = Command(
    name="parse",
    synopsis="[FILE|-]",
    about="Print the syntax tree of a Dockerfile.",
    act=parse,
    options=(value("--format", metavar="STYLE", about="text (default), json or pretty"),),
    words=(0, 1),
)
