"""Tree to text: one instruction on one line, as history lists and round-trip tests want it.

    unparse(instruction)   canonical text; with the heredocs' bodies after it
    as_json(...)           the plain values that `lamina parse --format json` prints

Invariant (tests/grammar/test_unparse.py): parse(unparse(x)) is x, but for spans and line numbers,
under the same escape character.
"""

import re
from typing import Any

from grammar.nodes import Directives, Dockerfile, Instruction, Written
from grammar.words import SPACES

_NEEDS_QUOTES = re.compile(rf"""[{SPACES}"'\\]""")
_QUOTED = re.compile(r'["\\]')
_SURROGATES = re.compile("[\ud800-\udfff]")
_JSON_ESCAPES = {
    **{chr(code): f"\\u{code:04x}" for code in range(0x20)},
    '"': '\\"',
    "\\": "\\\\",
}


def unparse(instruction: Instruction | Written, *, escape: str = "\\") -> str:
    """The instruction as one logical line; continuations are joined, no newline at the end."""
    written = instruction if isinstance(instruction, Written) else instruction.written
    text = _line(written)
    if text.endswith(escape) and text[-2:-1] != escape:
        text += "\f"  # else it would be a continuation; unlike a blank, this is not passed over
    for heredoc in written.heredocs:
        text += f"\n{heredoc.content}{heredoc.name}"
    return text


def as_json(parsed: Dockerfile | tuple[Directives, tuple[Written, ...]]) -> dict[str, Any]:
    """Directives and instructions as lists, dicts, strings, numbers and booleans.

    Directives that are absent are left out. Bytes that are not UTF-8 become U+FFFD.
    """
    if isinstance(parsed, Dockerfile):
        directives = parsed.directives
        instructions = [arg.written for arg in parsed.global_args]
        for stage in parsed.stages:
            instructions.append(stage.base.written)
            instructions += [one.written for one in stage.instructions]
    else:
        directives, instructions = parsed[0], list(parsed[1])
    named = {"syntax": directives.syntax, "check": directives.check}
    if directives.escape_given:
        named["escape"] = directives.escape
    return {
        "directives": {key: _text(value) for key, value in named.items() if value is not None},
        "instructions": [_as_json(written) for written in instructions],
    }


def _as_json(written: Written) -> dict[str, Any]:
    return {
        "keyword": _text(written.spelling),
        "flags": [_text(flag) for flag in written.flags],
        "args": [_as_json(arg) if isinstance(arg, Written) else _text(arg) for arg in written.args],
        "json": written.is_json,
        "heredocs": [
            {
                "name": _text(heredoc.name),
                "content": _text(heredoc.content),
                "expand": heredoc.expand,
                "chomp": heredoc.chomp,
                "fd": heredoc.file_descriptor,
            }
            for heredoc in written.heredocs
        ],
        "start_line": written.start_line,
        "end_line": written.end_line,
    }


def _line(written: Written) -> str:
    args = [arg if isinstance(arg, str) else _line(arg) for arg in written.args]
    if written.keyword in ("ENV", "LABEL"):
        args = [
            f"{name}{separator or ' '}{value}"
            for name, value, separator in zip(args[::3], args[1::3], args[2::3], strict=True)
        ]
    elif written.is_json:
        kind = args[:1] if written.keyword == "HEALTHCHECK" else []
        args = [*kind, "[" + ", ".join(_json(arg) for arg in args[len(kind) :]) + "]"]
    elif len(args) > 1 and args[0].startswith("[") and args[-1].endswith("]"):
        args = ["\f".join(args)]  # a blank that no JSON has: this was none, and must stay so
    args = [arg for arg in args if arg]
    flags = [_flag(flag) for flag in written.flags]
    if args and args[0].startswith("--"):
        flags.append("--")
    return " ".join([written.keyword, *flags, *args])


def _flag(flag: str) -> str:
    """The split has removed the quotes of a flag; put back what it needs."""
    if not _NEEDS_QUOTES.search(flag):
        return flag
    name, equals, value = flag.partition("=")
    if _NEEDS_QUOTES.search(name):
        name, equals, value = "--", "", flag[2:]
    quoted = _QUOTED.sub(r"\\\g<0>", value)
    return f'{name}{equals}"{quoted}"'


def _json(text: str) -> str:
    return '"' + "".join(_JSON_ESCAPES.get(char, char) for char in text) + '"'


def _text(text: str) -> str:
    """`text` as JSON can carry it: what is not Unicode becomes U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
