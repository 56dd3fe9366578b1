"""`lamina parse`: the syntax tree of a Dockerfile."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, UsageError, value
from builder.cli.output import json_line, json_pretty, line

if TYPE_CHECKING:
    from builder.cli.session import Session
    from grammar import Instruction


def parse(arguments: Arguments, session: "Session") -> int:
    """Print the tree: one line per instruction, or JSON. The store is not touched."""
    import grammar

    style = arguments.value("format") or "text"
    if style not in ("text", "json", "pretty"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="text, json or pretty")
    name = arguments.words[0] if arguments.words else "Dockerfile"
    text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    tree = grammar.parse(text, name=name)
    if style == "json":
        json_line(grammar.as_json(tree))
    elif style == "pretty":
        json_pretty(grammar.as_json(tree))
    else:
        instructions: list[Instruction] = [*tree.global_args]
        for stage in tree.stages:
            instructions.extend((stage.base, *stage.instructions))
        for instruction in instructions:
            line(f"{instruction.span.start_line:5}  {grammar.unparse(instruction)}")
    return 0


PARSE = Command(
    name="parse",
    synopsis="[FILE|-]",
    about="Print the syntax tree of a Dockerfile.",
    act=parse,
    options=(value("--format", metavar="STYLE", about="text (default), json or pretty"),),
    words=(0, 1),
)
