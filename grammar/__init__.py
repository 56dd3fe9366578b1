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
    from grammar import nodes as nodes
    from grammar.errors import DockerfileError as DockerfileError
    from grammar.errors import DockerfileSyntaxError as DockerfileSyntaxError
    from grammar.errors import ExpansionError as ExpansionError
    from grammar.errors import UnknownFlagError as UnknownFlagError
    from grammar.errors import UnknownInstructionError as UnknownInstructionError
    from grammar.errors import nearest as nearest
    from grammar.errors import printable as printable
    from grammar.fingerprint import fingerprint as fingerprint
    from grammar.nodes import Add as Add
    from grammar.nodes import Arg as Arg
    from grammar.nodes import ArgDeclaration as ArgDeclaration
    from grammar.nodes import Cmd as Cmd
    from grammar.nodes import Command as Command
    from grammar.nodes import Copy as Copy
    from grammar.nodes import Directives as Directives
    from grammar.nodes import Dockerfile as Dockerfile
    from grammar.nodes import Entrypoint as Entrypoint
    from grammar.nodes import Env as Env
    from grammar.nodes import ExecForm as ExecForm
    from grammar.nodes import Expose as Expose
    from grammar.nodes import From as From
    from grammar.nodes import Healthcheck as Healthcheck
    from grammar.nodes import Heredoc as Heredoc
    from grammar.nodes import Instruction as Instruction
    from grammar.nodes import Label as Label
    from grammar.nodes import Maintainer as Maintainer
    from grammar.nodes import Onbuild as Onbuild
    from grammar.nodes import Pair as Pair
    from grammar.nodes import Run as Run
    from grammar.nodes import RunMount as RunMount
    from grammar.nodes import Shell as Shell
    from grammar.nodes import ShellForm as ShellForm
    from grammar.nodes import Stage as Stage
    from grammar.nodes import Stopsignal as Stopsignal
    from grammar.nodes import User as User
    from grammar.nodes import Volume as Volume
    from grammar.nodes import Word as Word
    from grammar.nodes import Workdir as Workdir
    from grammar.nodes import Written as Written
    from grammar.parse import parse as parse
    from grammar.parse import parse_instruction as parse_instruction
    from grammar.parse import warm as warm
    from grammar.source import SourceText as SourceText
    from grammar.source import Span as Span
    from grammar.split import parse_written as parse_written
    from grammar.unparse import as_json as as_json
    from grammar.unparse import unparse as unparse
    from grammar.words import expand as expand
    from grammar.words import expand_content as expand_content
    from grammar.words import expand_words as expand_words
    from grammar.words import variables_used as variables_used

_HOMES = {
    "DockerfileError": "errors",
    "DockerfileSyntaxError": "errors",
    "ExpansionError": "errors",
    "UnknownFlagError": "errors",
    "UnknownInstructionError": "errors",
    "nearest": "errors",
    "printable": "errors",
    "fingerprint": "fingerprint",
    "Dockerfile": "nodes",
    "Add": "nodes",
    "Arg": "nodes",
    "ArgDeclaration": "nodes",
    "Cmd": "nodes",
    "Command": "nodes",
    "Copy": "nodes",
    "Directives": "nodes",
    "Entrypoint": "nodes",
    "Env": "nodes",
    "ExecForm": "nodes",
    "Expose": "nodes",
    "From": "nodes",
    "Healthcheck": "nodes",
    "Heredoc": "nodes",
    "Label": "nodes",
    "Maintainer": "nodes",
    "Onbuild": "nodes",
    "Pair": "nodes",
    "Run": "nodes",
    "RunMount": "nodes",
    "Shell": "nodes",
    "ShellForm": "nodes",
    "Stopsignal": "nodes",
    "User": "nodes",
    "Volume": "nodes",
    "Workdir": "nodes",
    "Written": "nodes",
    "Instruction": "nodes",
    "Stage": "nodes",
    "Word": "nodes",
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
    """`grammar.parse` is the function, also after the import system binds the module to the name."""

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
