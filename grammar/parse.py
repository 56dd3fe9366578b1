"""Text to tree: the only place that knows lark.

    bytes -> split (lines, words) -> tokens -> LALR (dockerfile.lark) -> Assembler -> Dockerfile

lark gets tokens, not text: the line-level facts and the splitting are done, so its lexer is a
loop over them, and its tables are small. They are kept in a file, because building them takes ten
times as long as loading: in `tables` if the caller gives a directory, else in `__pycache__`
beside the grammar, if it can be written. The file's name has a digest of the grammar and of the
versions of lark and Python, so a stale one is never read; its content begins with its own digest,
so a damaged one is made anew.

The file is a pickle (lark's format): only its owner may be able to write to `tables`.
"""

import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import lark
from lark.lexer import Lexer

from grammar import nodes
from grammar.assemble import Assembler
from grammar.errors import (
    DockerfileError,
    UnknownFlagError,
    UnknownInstructionError,
    nearest,
)
from grammar.lines import decode
from grammar.split import KEYWORDS, Part, Split, split, split_lines

if TYPE_CHECKING:
    from pathlib import Path

_HERE = os.path.dirname(__file__)  # noqa: PTH120  (pathlib, and what it imports, costs 2 ms)
_STARTS = ["dockerfile", "trigger"]

# BuildKit never looks at the flags of these.
_WITHOUT_FLAGS = frozenset(("ARG", "STOPSIGNAL"))
_PAIRS = frozenset(("ENV", "LABEL"))
_PATHS = frozenset(("ADD", "COPY", "VOLUME"))
_LINES = KEYWORDS - _PAIRS - _PATHS - {"ARG", "EXPOSE", "FROM", "ONBUILD"}
_FLAG_NAME = re.compile(r"[a-z]+(-[a-z]+)*")
_GLUED_HEREDOC = re.compile(r"(?<=[^\s<])<<-?['\"]?[A-Za-z_]\w*")
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
    text: bytes | str, *, name: str = "Dockerfile", tables: "Path | None" = None
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
    global_args, stages = _run(splits, "dockerfile", tables)
    return nodes.Dockerfile(
        source=source, directives=directives, global_args=global_args, stages=stages
    )


def parse_instruction(
    text: str, *, escape: str = "\\", name: str = "ONBUILD", tables: "Path | None" = None
) -> nodes.Instruction:
    """Parse one ONBUILD trigger out of an image config.

    Raises:
        DockerfileError: it is not exactly one instruction that may be a trigger.
    """
    source, raw = decode(text, name=name)
    splits = split_lines(source, raw, escape=escape)
    if len(splits) != 1:
        raise splits[1].error("an ONBUILD trigger is one instruction, and this is another")
    return cast(nodes.Instruction, _run(splits, "trigger", tables))


def warm(tables: "Path | None" = None) -> None:
    """Make the file of tables now, for an installation whose users cannot write it.

    Raises:
        OSError: it cannot be written.
    """
    path = _tables_path(tables)
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  (see _HERE)
    _parsers[tables] = _build(path)


def _run(splits: list[Split], start: str, tables: "Path | None") -> Any:
    try:
        # Lark takes any input for a lexer that understands it; its annotations know text only.
        return _parser(tables).parse(cast(str, splits), start=start)
    except lark.UnexpectedToken as error:
        raise _explain(cast(_Token, error.token), error.expected, splits, start) from None


class _Token(lark.Token):
    """`owner` is the instruction it belongs to, `value` the `Part`, or that `Split` itself."""

    __slots__ = ("owner",)
    owner: Split


class _Tokens(Lexer):
    """The lexer: instructions, already split, to tokens."""

    __future_interface__ = 2

    def __init__(self, _conf: object) -> None:
        pass

    def lex(self, lexer_state: Any, _parser_state: Any) -> Iterator[lark.Token]:
        """Yield the tokens of the instructions in `lexer_state.text`."""
        for one in lexer_state.text:
            yield from _tokens(one)


def _tokens(one: Split) -> Iterator[_Token]:
    keyword = one.keyword
    yield _token(keyword if keyword in KEYWORDS else "UNKNOWN", one, one)
    args = one.args
    check = _check_type(one)
    if keyword not in _WITHOUT_FLAGS and check != "CHECK_NONE":
        for flag in one.flags:
            yield _token(_flag_type(flag.text), flag, one)
    if one.trigger:
        yield from _tokens(one.trigger)
    if check:
        yield _token(check, args[0], one)
        args = args[1:]
    if one.is_json and check != "CHECK_NONE":
        yield _token("_JSON" if keyword in _PATHS else "JSON", one, one)
    if keyword in _PAIRS:
        for at in range(0, len(args), 3):
            yield _token("NAME", args[at], one)
            yield _token("VALUE", args[at + 1], one)
    else:
        type_ = "TEXT" if keyword in _LINES and not one.is_json else "WORD"
        for at, part in enumerate(args):
            is_as = at == 1 and keyword == "FROM" and part.text.casefold() == "as"
            yield _token("_AS" if is_as else type_, part, one)
    yield _token("_END", one, one)


def _token(type_: str, value: Split | Part, owner: Split) -> _Token:
    token = _Token(type_, "")
    token.value = value
    token.owner = owner
    return token


def _flag_type(flag: str) -> str:
    name = flag.partition("=")[0][2:]
    return "FLAG_" + (name.upper().replace("-", "_") if _FLAG_NAME.fullmatch(name) else "")


def _check_type(one: Split) -> str:
    """The type of HEALTHCHECK's first argument; empty for other instructions, or without one."""
    if one.keyword != "HEALTHCHECK" or not one.args:
        return ""
    return _CHECK_TYPES.get(one.args[0].text.upper(), "CHECK_UNKNOWN")


def _explain(token: _Token, expected: set[str], splits: list[Split], start: str) -> DockerfileError:
    """The grammar knows which token it did not expect, and which it would have; say it in words."""
    one, value = token.owner, token.value
    if token.type == "UNKNOWN":
        return _unknown_instruction(one)
    if token.type in KEYWORDS:
        return _misplaced(
            one, is_trigger=start == "trigger" or not any(one is other for other in splits)
        )
    if token.type.startswith("FLAG_"):
        return _unknown_flag(one, value, expected)
    if token.type == "CHECK_UNKNOWN":
        return one.error(f"HEALTHCHECK has no type {value.text}", value, hint="try CMD or NONE")
    needs, example = _NEEDS[one.keyword]
    part = value if isinstance(value, Part) and value.end > value.start else None
    return one.error(f"{one.keyword} needs {needs}", part, hint=example)


def _unknown_instruction(one: Split) -> DockerfileError:
    name = one.written.spelling
    before = one.line.source.lines[one.line.start_line - 2] if one.line.start_line > 1 else ""
    glued = _GLUED_HEREDOC.search(before)
    hint = "instructions are " + ", ".join(sorted(KEYWORDS))
    if name and not name[0].isalpha():
        hint = "to continue the line above, end that one with the escape character"
    if glued:
        hint = f"only with a blank before it {glued[0][:40]} begins a heredoc"
    return UnknownInstructionError(
        name=name[:40],
        nearest="" if glued else nearest(one.keyword, KEYWORDS),
        span=one.line.span(one.start, one.start + len(name)),
        source=one.line.source,
        hint=hint,
    )


def _misplaced(one: Split, *, is_trigger: bool) -> DockerfileError:
    if is_trigger:
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


_parsers: dict["Path | None", lark.Lark] = {}


def _parser(tables: "Path | None") -> lark.Lark:
    parser = _parsers.get(tables)
    if parser is None:
        parser = _parsers[tables] = _load(tables)
    return parser


def _load(tables: "Path | None") -> lark.Lark:
    path = _tables_path(tables)
    try:
        with open(path, "rb") as file:
            kept = file.read()
    except OSError:
        kept = b""
    if kept and hashlib.sha256(kept[32:]).digest() == kept[:32]:
        return lark.Lark.load(io.BytesIO(kept[32:]))
    if tables is None and sys.dont_write_bytecode:
        return _make()
    try:
        return _build(path)
    except OSError:  # it only costs the next process some time
        return _make()


def _tables_path(tables: "Path | None") -> str:
    versions = f"{lark.__version__} {sys.version_info[:2]} "
    digest = hashlib.sha256((versions + _grammar()).encode()).hexdigest()[:16]
    return f"{tables or _HERE + '/__pycache__'}/dockerfile.{digest}.tables"


def _grammar() -> str:
    with open(f"{_HERE}/dockerfile.lark", encoding="utf-8") as file:
        return file.read()


def _build(path: str) -> lark.Lark:
    from pathlib import Path

    parser = _make()
    buffer = io.BytesIO()
    parser.save(buffer)
    content = buffer.getvalue()
    scratch = Path(f"{path}.{os.getpid()}")
    try:
        scratch.write_bytes(hashlib.sha256(content).digest() + content)
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
    return parser


def _make() -> lark.Lark:
    return lark.Lark(
        _grammar(),
        parser="lalr",
        lexer=_Tokens,
        start=_STARTS,
        maybe_placeholders=False,
        transformer=cast(Any, Assembler()),
    )
