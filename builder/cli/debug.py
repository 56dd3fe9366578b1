"""`lamina debug`: single rules of the Dockerfile language as filters, one JSON line for another.

    lamina debug expand   {"mode": "word"|"words", "input": "...", "env": ["K=V"], "escape": "`"}
                          -> {"result": "..."} or, for words, {"result": ["..."]}
    lamina debug ignore   {"patterns": ["..."], "path": "..."}  -> {"match": true}

They call what a build calls, so that another program can ask thousands of questions of the real
code. `escape` may be left out: the backslash. What cannot be answered, and a line that asks
nothing, is answered by {"error": "..."}, and the next line is read.
"""

import os
import stat
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

from builder.cli.arguments import Arguments, Command
from builder.cli.output import write

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.ignorefile import IgnoreRules

LINE_BYTES_MAX = 16 << 20  # as long as a Dockerfile may be
_ERROR_LENGTH_MAX = 900

Request = Mapping[str, object]
Answer = Mapping[str, object]


class BadRequest(Exception):
    """The line asks nothing that can be answered."""


def expand(arguments: Arguments, session: "Session") -> int:
    """Expand one word for each line of standard input."""
    return _filter(answer_expand)


def ignore(arguments: Arguments, session: "Session") -> int:
    """Say for each line of standard input whether patterns of .dockerignore hide a path."""
    return _filter(answer_ignore)


def answer_expand(request: Request) -> Answer:
    """Expand the word that is asked for.

    Raises:
        BadRequest: a field is missing, or no such value.
    """
    import grammar

    mode = _text(request, "mode")
    word = _text(request, "input")
    env = dict(each.partition("=")[::2] for each in _texts(request, "env"))
    escape = _text(request, "escape") if "escape" in request else "\\"
    if escape not in ("\\", "`"):
        raise BadRequest("escape is neither \\ nor `")
    try:
        if mode == "word":
            return {"result": grammar.expand(word, env, escape=escape)}
        if mode == "words":
            return {"result": grammar.expand_words(word, env, escape=escape)}
    except grammar.DockerfileError as error:
        return _error(error.message)
    raise BadRequest("mode is neither word nor words")


def answer_ignore(request: Request) -> Answer:
    """Match the path that is asked for. Raises as `answer_expand`."""
    from builder.patterns import BadPatternError

    patterns = tuple(_texts(request, "patterns"))
    path = _text(request, "path")
    try:
        return {"match": _compiled(patterns).ignores(path)}
    except BadPatternError as error:
        return _error(str(error))


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> "IgnoreRules":
    from builder.ignorefile import compile_rules

    return compile_rules(patterns)


def _filter(answer: Callable[[Request], Answer]) -> int:
    """Answer every line; at once unless the questions are a file, which waits for no answer."""
    import json

    source = sys.stdin.buffer
    hurried = not stat.S_ISREG(os.fstat(source.fileno()).st_mode)
    while line := source.readline(LINE_BYTES_MAX + 1):
        try:
            _skip_rest(line, source)
            found = answer(request_of(line))
        except BadRequest as error:
            found = _error(str(error))
        write(json.dumps(found, separators=(",", ":")) + "\n")
        if hurried:
            sys.stdout.flush()
    return 0


def _skip_rest(line: bytes, source: BinaryIO) -> None:
    if len(line) > LINE_BYTES_MAX:
        while line and not line.endswith(b"\n"):
            line = source.readline(LINE_BYTES_MAX)
        raise BadRequest(f"the line is longer than {LINE_BYTES_MAX >> 20} MiB")


def request_of(line: bytes) -> Request:
    """The question of a line. Raises as `answer_expand`."""
    import json

    try:
        request = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"no JSON: {error}") from None
    if not isinstance(request, dict):
        raise BadRequest("the line is no JSON object")
    return request


def _text(request: Request, name: str) -> str:
    value = _value(request, name)
    if not isinstance(value, str):
        raise BadRequest(f"{name} is no string")
    return value


def _texts(request: Request, name: str) -> list[str]:
    value = _value(request, name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRequest(f"{name} is no array of strings")
    return value


def _value(request: Request, name: str) -> object:
    if name not in request:
        raise BadRequest(f"{name} is missing")
    return request[name]


def _error(message: str) -> Answer:
    cut = len(message) > _ERROR_LENGTH_MAX
    return {"error": message[:_ERROR_LENGTH_MAX] + "..." if cut else message}


EXPAND = Command(
    name="debug expand",
    synopsis="< QUESTIONS",
    about="Expand words of a Dockerfile: JSON lines in, JSON lines out.",
    act=expand,
    words=(0, 0),
)
IGNORE = Command(
    name="debug ignore",
    synopsis="< QUESTIONS",
    about="Match paths with patterns of .dockerignore: JSON lines in, JSON lines out.",
    act=ignore,
    words=(0, 0),
)
