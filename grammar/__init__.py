"""Dockerfile text to syntax tree, and words to values. Pure; imports nothing of ours.

The names are loaded when first used (PEP 562), so that what needs no parser imports no lark:

    parse(text)             the whole file, typed; refuses what BuildKit refuses
    parse_written(text)     only the split into instructions; without lark
    parse_instruction(text) one ONBUILD trigger
    expand, expand_words, expand_content, variables_used     one word
    unparse(instruction)    one instruction as text
    as_json(dockerfile)     what `lamina parse --format json` prints
    fingerprint()           changes whenever the same text might give another tree
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grammar import nodes
    from grammar.errors import (
        DockerfileError,
        DockerfileSyntaxError,
        ExpansionError,
        UnknownFlagError,
        UnknownInstructionError,
        nearest,
        printable,
    )
    from grammar.fingerprint import fingerprint
    from grammar.lines import directive_of_line
    from grammar.nodes import (
        Add,
        Arg,
        ArgDeclaration,
        Cmd,
        Command,
        Copy,
        Directives,
        Dockerfile,
        Entrypoint,
        Env,
        ExecForm,
        Expose,
        From,
        Healthcheck,
        Heredoc,
        Instruction,
        Label,
        Maintainer,
        Onbuild,
        Pair,
        Run,
        RunMount,
        Shell,
        ShellForm,
        Stage,
        Stopsignal,
        User,
        Volume,
        Word,
        Workdir,
        Written,
    )
    from grammar.parse import parse, parse_instruction, warm
    from grammar.source import SourceText, Span
    from grammar.split import parse_written
    from grammar.unparse import as_json, unparse
    from grammar.words import expand, expand_content, expand_words, variables_used

# Where each name lives.
_HOMES = {
    "DockerfileError": "errors",
    "DockerfileSyntaxError": "errors",
    "ExpansionError": "errors",
    "UnknownFlagError": "errors",
    "UnknownInstructionError": "errors",
    "nearest": "errors",
    "printable": "errors",
    "fingerprint": "fingerprint",
    "directive_of_line": "lines",
    "Add": "nodes",
    "Arg": "nodes",
    "ArgDeclaration": "nodes",
    "Cmd": "nodes",
    "Command": "nodes",
    "Copy": "nodes",
    "Directives": "nodes",
    "Dockerfile": "nodes",
    "Entrypoint": "nodes",
    "Env": "nodes",
    "ExecForm": "nodes",
    "Expose": "nodes",
    "From": "nodes",
    "Healthcheck": "nodes",
    "Heredoc": "nodes",
    "Instruction": "nodes",
    "Label": "nodes",
    "Maintainer": "nodes",
    "Onbuild": "nodes",
    "Pair": "nodes",
    "Run": "nodes",
    "RunMount": "nodes",
    "Shell": "nodes",
    "ShellForm": "nodes",
    "Stage": "nodes",
    "Stopsignal": "nodes",
    "User": "nodes",
    "Volume": "nodes",
    "Word": "nodes",
    "Workdir": "nodes",
    "Written": "nodes",
    "parse": "parse",
    "parse_instruction": "parse",
    "warm": "parse",
    "SourceText": "source",
    "Span": "source",
    "parse_written": "split",
    "as_json": "unparse",
    "unparse": "unparse",
    "expand": "words",
    "expand_content": "words",
    "expand_words": "words",
    "variables_used": "words",
}

__all__ = [
    "Add",
    "Arg",
    "ArgDeclaration",
    "Cmd",
    "Command",
    "Copy",
    "Directives",
    "Dockerfile",
    "DockerfileError",
    "DockerfileSyntaxError",
    "Entrypoint",
    "Env",
    "ExecForm",
    "ExpansionError",
    "Expose",
    "From",
    "Healthcheck",
    "Heredoc",
    "Instruction",
    "Label",
    "Maintainer",
    "Onbuild",
    "Pair",
    "Run",
    "RunMount",
    "Shell",
    "ShellForm",
    "SourceText",
    "Span",
    "Stage",
    "Stopsignal",
    "UnknownFlagError",
    "UnknownInstructionError",
    "User",
    "Volume",
    "Word",
    "Workdir",
    "Written",
    "as_json",
    "directive_of_line",
    "expand",
    "expand_content",
    "expand_words",
    "fingerprint",
    "nearest",
    "nodes",
    "parse",
    "parse_instruction",
    "parse_written",
    "printable",
    "unparse",
    "variables_used",
    "warm",
]


class _Room(ModuleType):
    """`grammar.parse` stays the function when the import system binds the module to it."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name == "nodes":
        return import_module("grammar.nodes")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'grammar' has no attribute {name!r}")
    value: object = getattr(import_module(f"grammar.{home}"), name)
    globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Room
