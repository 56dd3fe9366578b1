"""Text to tree: the only place that knows lark.

    bytes -> split (lines, words) -> tokens -> LALR (dockerfile.lark) -> Assembler -> Dockerfile

lark gets tokens, not text: the line-level facts and the splitting are done, so its lexer is a
loop over them, and its tables are small. They are kept in a file, because building them takes ten
times as long as loading: in `tables` if the caller gives a directory, else in `__pycache__`
beside the grammar, if it can be written. The file's name has a digest of the grammar and of the
versions of lark and Python, so a stale one is never read; a damaged one is made anew.

The file is a pickle: `tables` must be a directory that only its owner can write.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lark
from lark.lexer import Lexer

from grammar import nodes
from grammar.assemble import Assembler
from grammar.errors import (
    DockerfileError,
    DockerfileSyntaxError,
    UnknownFlagError,
    UnknownInstructionError,
    nearest,
)
from grammar.lines import decode
from grammar.source import SourceText
from grammar.split import KEYWORDS, Part, Split, split, split_lines

_GRAMMAR = Path(__file__).with_name("dockerfile.lark")
_STARTS = ["dockerfile", "trigger"]

# BuildKit never looks at the flags of these.
_WITHOUT_FLAGS = frozenset(("ARG", "STOPSIGNAL"))
_JSON_MARK = {"ADD": "_JSON", "COPY": "_JSON", "VOLUME": "_JSON"}
_ARGUMENT_TYPE = {
    "CMD": "TEXT",
    "ENTRYPOINT": "TEXT",
    "HEALTHCHECK": "TEXT",
    "MAINTAINER": "TEXT",
    "RUN": "TEXT",
    "SHELL": "TEXT",
    "STOPSIGNAL": "TEXT",
    "USER": "TEXT",
    "WORKDIR": "TEXT",
}
_CHECK_TYPES = {"CMD": "CHECK_CMD", "NONE": "CHECK_NONE"}

# What each instruction needs, for the error when it has something else.
_NEEDS = {
    "ADD": ("at least two arguments: what to add, and where to", "ADD archive.tar /target"),
    "ARG": ("at least one argument", "ARG NAME or ARG NAME=default"),
    "COPY": ("at least two arguments: what to copy, and where to", "COPY source /target"),
    "ENV": ("at least one argument", "ENV NAME=value"),
    "EXPOSE": ("at least one argument", "EXPOSE 8080/tcp"),
    "FROM": ("one argument, or three with AS", "FROM image or FROM image AS name"),
    "HEALTHCHECK": ("CMD and a command, or NONE alone", "HEALTHCHECK CMD curl -f http://localhost"),
    "LABEL": ("at least one argument", "LABEL name=value"),
    "MAINTAINER": ("exactly one argument", ""),
    "ONBUILD": ("an instruction as its argument", "ONBUILD RUN make"),
    "SHELL": ("a JSON array with at least one string", 'SHELL ["/bin/sh", "-c"]'),
    "STOPSIGNAL": ("exactly one argument", "STOPSIGNAL SIGTERM"),
    "USER": ("exactly one argument", "USER name or USER name:group"),
    "VOLUME": ("at least one argument", "VOLUME /data"),
    "WORKDIR": ("exactly one argument", "WORKDIR /src"),
}


def parse(
    text: bytes | str, *, name: str = "Dockerfile", tables: Path | None = None
) -> nodes.Dockerfile:
    """Parse a Dockerfile.

    A file that has ARG but no FROM parses, without stages, as it does in BuildKit.

    Args:
        text: the file.
        name: what messages call it.
        tables: a directory for the parser's tables; see the head of this file.

    Raises:
        DockerfileError: it is not one; everything that BuildKit refuses before it expands
            variables.
    """
    source, directives, splits = split(text, name=name)
    global_args, stages = _run(splits, "dockerfile", source, tables)
    return nodes.Dockerfile(
        source=source, directives=directives, global_args=global_args, stages=stages
    )


def parse_instruction(
    text: str, *, escape: str = "\\", name: str = "ONBUILD", tables: Path | None = None
) -> nodes.Instruction:
    """Parse one ONBUILD trigger out of an image config.

    Raises:
        DockerfileError: it is not exactly one instruction that may be a trigger.
    """
    source, raw = decode(text, name=name)
    splits = split_lines(source, raw, escape=escape)
    if len(splits) != 1:
        raise splits[1].error("an ONBUILD trigger is one instruction, and this is another")
    return cast(nodes.Instruction, _run(splits, "trigger", source, tables))


def warm(tables: Path | None = None) -> None:
    """Make the file of tables, for an installation whose users cannot write it."""
    _parsers.pop(tables, None)
    _parser(tables)


def _run(splits: list[Split], start: str, source: SourceText, tables: Path | None) -> Any:
    try:
        # Lark takes any input for a lexer that understands it; its annotations know text only.
        return _parser(tables).parse(cast(str, splits), start=start)
    except lark.UnexpectedToken as error:
        raise _explain(splits, error, start, source) from None


class _Tokens(Lexer):
    """The lexer: instructions, already split, to tokens."""

    __future_interface__ = 2

    def __init__(self, _conf: object) -> None:
        pass

    def lex(self, lexer_state: Any, _parser_state: Any) -> Iterator[lark.Token]:
        for index, one in enumerate(lexer_state.text):
            yield from _tokens(one, index)
            yield _token("_END", Part("", len(one.line.text), len(one.line.text)), index)


def _tokens(one: Split, index: int) -> Iterator[lark.Token]:
    keyword = one.keyword
    if keyword not in KEYWORDS:
        yield _token("UNKNOWN", one, index)
        return
    yield _token(keyword, one, index)
    args = one.args
    check = _check_type(one)
    if keyword not in _WITHOUT_FLAGS and check != "CHECK_NONE":
        for flag in one.flags:
            yield _token(_flag_type(flag.text), flag, index)
    if keyword == "ONBUILD":
        if one.trigger:
            yield from _tokens(one.trigger, index)
            yield _token("_END", Part("", len(one.line.text), len(one.line.text)), index)
        return
    if check:
        yield _token(check, args[0], index)
        args = args[1:]
        if check == "CHECK_NONE" and not args:
            return
    if one.is_json:
        yield _token(_JSON_MARK.get(keyword, "JSON"), one, index)
    if keyword in ("ENV", "LABEL"):
        for at in range(0, len(args), 3):
            yield _token("NAME", args[at], index)
            yield _token("VALUE", args[at + 1], index)
        return
    type_ = "WORD" if one.is_json else _ARGUMENT_TYPE.get(keyword, "WORD")
    for at, part in enumerate(args):
        is_as = at == 1 and keyword == "FROM" and part.text.casefold() == "as"
        yield _token("_AS" if is_as else type_, part, index)


def _token(type_: str, value: Split | Part, index: int) -> lark.Token:
    token = lark.Token(type_, "", line=index)
    token.value = value
    return token


def _flag_type(flag: str) -> str:
    name = flag.partition("=")[0][2:]
    if re.fullmatch(r"[a-z]+(-[a-z]+)*", name):
        return "FLAG_" + name.upper().replace("-", "_")
    return "FLAG_"


def _check_type(one: Split) -> str:
    """The type of HEALTHCHECK's first argument; empty for other instructions, or without one."""
    if one.keyword != "HEALTHCHECK" or not one.args:
        return ""
    return _CHECK_TYPES.get(one.args[0].text.upper(), "CHECK_UNKNOWN")


def _explain(
    splits: list[Split], error: lark.UnexpectedToken, start: str, source: SourceText
) -> DockerfileError:
    """The grammar says which token it did not expect and which it would have; say it in words."""
    token, expected = error.token, error.expected
    if token.type == "$END":
        return DockerfileSyntaxError("the file ends too early", source=source)
    one = splits[token.line]
    value = token.value
    while isinstance(value, Part) and one.trigger and value.start >= one.trigger.start:
        one = one.trigger
    if isinstance(value, Split):
        one = value if value.keyword == token.type or token.type == "UNKNOWN" else one
    if token.type == "UNKNOWN":
        return _unknown_instruction(one)
    if token.type in KEYWORDS:
        return _misplaced(one, splits[token.line], start)
    if token.type.startswith("FLAG_"):
        return _unknown_flag(one, value, expected)
    if token.type == "CHECK_UNKNOWN":
        return one.error(f"HEALTHCHECK has no type {value.text}", value, hint="try CMD or NONE")
    needs, example = _NEEDS.get(one.keyword, ("something else", ""))
    part = value if isinstance(value, Part) and value.end > value.start else None
    return one.error(f"{one.keyword} needs {needs}", part, hint=example)


def _unknown_instruction(one: Split) -> DockerfileError:
    name = one.keyword
    hint = "instructions are " + ", ".join(sorted(KEYWORDS))
    if name and not name[0].isalpha():
        hint = "to continue the line above, end that one with the escape character"
    return UnknownInstructionError(
        name=name[:40],
        nearest=nearest(name, KEYWORDS),
        span=one.line.span(one.start, one.start + len(name)),
        source=one.line.source,
        hint=hint,
    )


def _misplaced(one: Split, outer: Split, start: str) -> DockerfileError:
    if outer.keyword == "ONBUILD" or start == "trigger":
        return one.error(f"{one.keyword} is not allowed as an ONBUILD trigger")
    return one.error(
        f"{one.keyword} stands before the first FROM",
        hint="begin with FROM; only ARG may stand before it",
    )


def _unknown_flag(one: Split, flag: Part, expected: set[str]) -> DockerfileError:
    name = flag.text.partition("=")[0]
    known = ["--" + t[5:].lower().replace("_", "-") for t in sorted(expected) if t[:5] == "FLAG_"]
    return UnknownFlagError(
        keyword=one.keyword,
        flag=name[:40],
        nearest=nearest(name, known),
        span=one.line.span(flag.start, min(flag.end, flag.start + len(name))),
        source=one.line.source,
        hint=f"{one.keyword} has {', '.join(known)}" if known else f"{one.keyword} has no flags",
    )


_parsers: dict[Path | None, lark.Lark] = {}


def _parser(tables: Path | None) -> lark.Lark:
    parser = _parsers.get(tables)
    if parser is None:
        parser = _parsers[tables] = _load(tables)
    return parser


def _load(tables: Path | None) -> lark.Lark:
    grammar = _GRAMMAR.read_text(encoding="utf-8")
    versions = f"{lark.__version__} {sys.version_info[:2]} "
    digest = hashlib.sha256((versions + grammar).encode()).hexdigest()[:16]
    path = (tables or _GRAMMAR.parent / "__pycache__") / f"dockerfile.{digest}.tables"
    if path.exists():
        return _lark(grammar, path)
    if tables is None and (sys.dont_write_bytecode or not os.access(path.parent, os.W_OK)):
        return _lark(grammar, None)
    # lark writes in place; another process must never see half a file.
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parser = _lark(grammar, scratch)
        scratch.rename(path)
    except OSError:
        return _lark(grammar, None)
    finally:
        scratch.unlink(missing_ok=True)
    return parser


def _lark(grammar: str, cache: Path | None) -> lark.Lark:
    assembler = Assembler()
    vars(assembler)["from"] = assembler.from_
    return lark.Lark(
        grammar,
        parser="lalr",
        lexer=_Tokens,
        start=_STARTS,
        maybe_placeholders=False,
        transformer=cast(Any, assembler),
        cache=str(cache) if cache else False,
    )
