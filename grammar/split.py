"""Logical lines to instructions: keyword, flags, arguments, as BuildKit's parser splits them.

Each keyword has one of these ways to split what follows the flags:

    BLANKS      at blanks                                        FROM EXPOSE
    PATHS       a JSON array of strings, else at blanks          ADD COPY VOLUME
    PAIRS       NAME=value ..., or the old NAME value            ENV LABEL
    WORDS       at blanks that no quote protects                 ARG
    TEXT        not at all                                       MAINTAINER STOPSIGNAL USER WORKDIR
    COMMAND     a JSON array of strings, else not at all         CMD ENTRYPOINT RUN SHELL
    CHECK       a word, then as COMMAND                          HEALTHCHECK
    TRIGGER     another instruction                              ONBUILD

Words stay raw: quotes and variables are kept, except in flags, whose quotes the split removes.
What an instruction may contain is not known here; `parse` knows that. So an unknown keyword is no
error yet: it has one empty argument, as in BuildKit.

Every part carries its offsets in the logical line, for spans.

Differs: BuildKit reads flags byte by byte and so spoils those with characters beyond ASCII.

Source: moby/buildkit frontend/dockerfile/parser: split_command.go, line_parsers.go.
"""

import re
from functools import cache
from typing import NamedTuple

from grammar.errors import DockerfileError, DockerfileSyntaxError, ExpansionError
from grammar.lines import LineReader, LogicalLine, decode, heredocs_of_line, read_directives
from grammar.nodes import Directives, Heredoc, Written
from grammar.source import SourceText, Span
from grammar.words import SPACES

ONBUILD_DEPTH_MAX = 8  # a chain of two is refused by `parse`; this only bounds the recursion
JSON_DEPTH_MAX = 10000  # as Go's encoding/json

_BLANKS, _PATHS, _PAIRS, _WORDS, _TEXT, _COMMAND, _CHECK, _TRIGGER = range(8)

_WAYS = {
    "ADD": _PATHS,
    "ARG": _WORDS,
    "CMD": _COMMAND,
    "COPY": _PATHS,
    "ENTRYPOINT": _COMMAND,
    "ENV": _PAIRS,
    "EXPOSE": _BLANKS,
    "FROM": _BLANKS,
    "HEALTHCHECK": _CHECK,
    "LABEL": _PAIRS,
    "MAINTAINER": _TEXT,
    "ONBUILD": _TRIGGER,
    "RUN": _COMMAND,
    "SHELL": _COMMAND,
    "STOPSIGNAL": _TEXT,
    "USER": _TEXT,
    "VOLUME": _PATHS,
    "WORKDIR": _TEXT,
}
KEYWORDS = frozenset(_WAYS)
_BY_LOWER = {keyword.lower(): keyword for keyword in _WAYS}
_WITH_HEREDOCS = frozenset(("ADD", "COPY", "RUN"))

_KEYWORD_END = re.compile(r"[\t\v\f\r ]+")
_WORD_BLANKS = re.compile(r"[^\t\v\f\r ]+")
_SPACES = re.compile(f"[{SPACES}]*")
_NOT_SPACES = re.compile(f"[^{SPACES}]*")

# A piece of a flag; the groups are quoted text, an escaped character, plain text.
_FLAG_PIECE = re.compile(
    rf"""(["'])((?:(?!\1)[^\\]|\\.)*)(?:\1|\\?\Z)|\\(.?)|([^{SPACES}"'\\]+)""", re.S
)
_BACKSLASHED = re.compile(r"\\(.)", re.S)

_JSON = re.compile(
    r'[ \t\r\n]*(?:("[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*")'
    r"|(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"
    r"|([\[\]{},:]))"
)
_JSON_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))"
)
_JSON_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Part(NamedTuple):
    """A flag or an argument, and where it stands: text[start:end] of the logical line."""

    text: str
    start: int
    end: int


class Split(NamedTuple):
    """One instruction taken apart. `trigger` is the instruction of an ONBUILD."""

    line: LogicalLine
    start: int  # of the keyword
    keyword: str  # upper case
    flags: list[Part]
    args: list[Part]
    is_json: bool
    trigger: "Split | None"
    heredocs: tuple[Heredoc, ...]
    end_line: int  # the last one, that of the heredocs' terminators included
    written: Written

    @property
    def span(self) -> Span:
        """All of the instruction, heredocs included."""
        line = self.line
        span = line.span(self.start, max(len(line.text), self.start + 1))
        if self.end_line <= line.end_line:
            return span
        return Span(
            start_line=span.start_line,
            start_column=span.start_column,
            end_line=self.end_line,
            end_column=max(1, len(line.source.lines[self.end_line - 1])),
        )

    def error(self, message: str, part: Part | None = None, *, hint: str = "") -> DockerfileError:
        """An error about one part, or about the keyword."""
        start, end = part[1:] if part else (self.start, self.start + len(self.keyword))
        return self.line.error(message, start, end, hint=hint)


def parse_written(
    text: bytes | str, *, name: str = "Dockerfile"
) -> tuple[Directives, tuple[Written, ...]]:
    """Split a Dockerfile into directives and instructions, and check nothing else.

    Raises:
        DockerfileSyntaxError: no instruction at all, a heredoc without end, a JSON array with
            other things than strings, ENV or LABEL without a value, a directive given twice.
    """
    _source, directives, splits = split(text, name=name)
    return directives, tuple(one.written for one in splits)


def split(text: bytes | str, *, name: str) -> tuple[SourceText, Directives, list[Split]]:
    """Split a Dockerfile, keeping where everything stands. Raises as `parse_written`."""
    source, raw = decode(text, name=name)
    directives = read_directives(source)
    return source, directives, split_lines(source, raw, escape=directives.escape)


def split_lines(source: SourceText, raw: list[str], *, escape: str) -> list[Split]:
    """Split the instructions of a file whose directives are known. Raises as `parse_written`."""
    reader = LineReader(source, raw, escape=escape)
    splits = []
    while line := reader.next_line():
        splits.append(_with_heredocs(_split_line(line, 0, escape, depth=0), reader))
    if not splits:
        raise DockerfileSyntaxError(
            "the file has no instructions",
            span=Span(start_line=1, start_column=1, end_line=1, end_column=1),
            source=source,
            hint="begin with FROM",
        )
    return splits


def _with_heredocs(one: Split, reader: LineReader) -> Split:
    inner = one.trigger or one
    words = []
    if inner.keyword in _WITH_HEREDOCS and not inner.is_json:
        try:
            words = heredocs_of_line(one.line.text)
        except ExpansionError as error:
            raise one.error(f"the name of a heredoc is malformed: {error.message}") from None
    heredocs = []
    for word in words:
        heredoc = reader.heredoc(word)
        if heredoc is None:
            raise one.error(
                f"the heredoc {word.name} does not end",
                _place_of_heredocs(one),
                hint=_terminator_hint(word.name, reader),
            )
        heredocs.append(heredoc)
    end_line = reader.line_count
    written = Written(
        keyword=one.keyword,
        flags=one.written.flags,
        args=one.written.args,
        is_json=one.is_json,
        heredocs=tuple(heredocs),
        start_line=one.line.start_line,
        end_line=end_line,
        spelling=one.written.spelling,
    )
    one = one._replace(heredocs=tuple(heredocs), end_line=end_line, written=written)
    if heredocs and one.trigger:
        return one._replace(trigger=one.trigger._replace(heredocs=one.heredocs, end_line=end_line))
    return one


def _terminator_hint(name: str, reader: LineReader) -> str:
    """What to do about a heredoc that does not end; often its end is only indented."""
    for number, line in enumerate(reader.source.lines[reader.line_count :], reader.line_count + 1):
        if line.strip(SPACES) == name:
            return (
                f"line {number} has blanks beside {name}; <<- takes tabs before it, and no others"
            )
    return f"put {name} on a line of its own after its text"


def _place_of_heredocs(one: Split) -> Part:
    start = one.line.text.find("<<")
    return Part("", start, start + 2)


def _split_line(line: LogicalLine, start: int, escape: str, *, depth: int) -> Split:
    text = line.text
    start, end = _trimmed(text, start, len(text))
    blank = _KEYWORD_END.search(text, start, end)
    keyword_end, at = blank.span() if blank else (end, end)
    name = text[start:keyword_end]
    keyword = _BY_LOWER.get(name.lower(), "")
    flags, at = _take_flags(text, at, end)
    at, end = _trimmed(text, at, end)
    way = _WAYS.get(keyword)
    trigger, is_json = None, False
    if way is None:
        # The upper case of a foreign letter may be that of a known keyword.
        keyword = name if name.upper() in KEYWORDS else name.upper()
        args = [Part("", at, at)]
    elif way is _COMMAND:
        args, is_json = _split_command(line, at, end)
    elif way is _PATHS:
        args, is_json = _split_paths(line, at, end)
    elif way is _BLANKS:
        args = _split_blanks(text, at, end)
    elif way is _PAIRS:
        args = _split_pairs(line, at, end, escape, keyword)
    elif way is _WORDS:
        args = _split_words(text, at, end, escape)
    elif way is _TEXT:
        args = [Part(text[at:end], at, end)] if at < end else []
    elif way is _CHECK:
        args, is_json = _split_check(line, at, end)
    else:
        args = []
        if at < end:
            if depth == ONBUILD_DEPTH_MAX:
                raise line.error("ONBUILD is nested too deep", at, end)
            trigger = _split_line(line, at, escape, depth=depth + 1)
    written = Written(
        keyword=keyword,
        flags=tuple([flag.text for flag in flags]),
        args=(trigger.written,) if trigger else tuple([arg.text for arg in args]),
        is_json=is_json,
        spelling=name,
    )
    return Split(line, start, keyword, flags, args, is_json, trigger, (), line.end_line, written)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without spaces at its ends."""
    blank = _SPACES.match(text, start, end)
    start = blank.end() if blank else start
    return start, start + len(text[start:end].rstrip(SPACES))


def _take_flags(text: str, at: int, end: int) -> tuple[list[Part], int]:
    """The leading `--flags` and where the rest begins; a bare `--` ends them and vanishes."""
    flags: list[Part] = []
    while True:
        blank = _SPACES.match(text, at, end)
        at = blank.end() if blank else at
        if not text.startswith("--", at, end):
            return flags, at
        start, pieces = at, []
        while piece := _FLAG_PIECE.match(text, at, end):
            quoted, escaped, plain = piece.group(2, 3, 4)
            if plain is not None:
                pieces.append(plain)
            else:
                pieces.append(escaped if quoted is None else _BACKSLASHED.sub(r"\1", quoted))
            at = piece.end()
        flag = "".join(pieces)
        if flag == "--":
            return flags, at
        flags.append(Part(flag, start, at))


def _split_blanks(text: str, at: int, end: int) -> list[Part]:
    return [Part(word[0], *word.span()) for word in _WORD_BLANKS.finditer(text, at, end)]


@cache
def _quoted_word(escape: str) -> re.Pattern[str]:
    """A word of ENV, LABEL or ARG. `drop` is an escape character with nothing after it."""
    e = re.escape(escape)
    return re.compile(
        rf"""(?:[^{SPACES}'"{e}]+|{e}.|(?P<drop>{e})\Z|'[^']*(?:'|\Z)"""
        rf"""|"[^"{e}]*(?:{e}.[^"{e}]*)*(?:"|(?P<cut>{e}?)\Z))+""",
        re.S,
    )


def _split_words(text: str, at: int, end: int, escape: str) -> list[Part]:
    pattern = _quoted_word(escape)
    words: list[Part] = []
    while at < end:
        blank = _SPACES.match(text, at, end)
        at = blank.end() if blank else at
        word = pattern.match(text, at, end)
        if word is None:
            break
        stop = word.end()
        at = stop
        if word.start("drop") >= 0 or (word.start("cut") == end - 1 and word["cut"]):
            stop -= 1
        if stop > word.start():
            words.append(Part(text[word.start() : stop], word.start(), stop))
    return words


def _split_pairs(line: LogicalLine, at: int, end: int, escape: str, keyword: str) -> list[Part]:
    """Name, value, separator of each pair; the separator is "=", or "" for the old form."""
    text = line.text
    words = _split_words(text, at, end, escape)
    if not words:
        return []
    if "=" not in words[0].text:
        blank = _KEYWORD_END.search(text, at, end)
        if blank is None:
            raise line.error(
                f"{keyword} needs a name and a value",
                at,
                end,
                hint=f"{keyword} {text[at:end]}=value",
            )
        value = Part(text[blank.end() : end], blank.end(), end)
        return [Part(text[at : blank.start()], at, blank.start()), value, Part("", end, end)]
    parts = []
    for word in words:
        name, equals, value_text = word.text.partition("=")
        if not equals:
            raise line.error(
                f"{keyword} needs the form name=value, and {name} has no =",
                word.start,
                word.end,
                hint="a value with spaces needs quotes around it",
            )
        middle = word.start + len(name)
        parts.append(Part(name, word.start, middle))
        parts.append(Part(value_text, middle + 1, word.end))
        parts.append(Part(equals, middle, middle + 1))
    return parts


def _split_check(line: LogicalLine, at: int, end: int) -> tuple[list[Part], bool]:
    if at == end:
        return [], False
    word = _NOT_SPACES.match(line.text, at, end)
    stop = word.end() if word else end
    kind = Part(line.text[at:stop], at, stop)
    command, is_json = _split_command(line, _trimmed(line.text, stop, end)[0], end)
    return [kind, *command], is_json


def _split_command(line: LogicalLine, at: int, end: int) -> tuple[list[Part], bool]:
    if at == end:
        return [], False
    strings = _json_strings(line, at, end)
    if strings is not None:
        return strings, True
    return [Part(line.text[at:end], at, end)], False


def _split_paths(line: LogicalLine, at: int, end: int) -> tuple[list[Part], bool]:
    strings = _json_strings(line, at, end)
    if strings is not None:
        return strings, True
    return _split_blanks(line.text, at, end), False


def _json_strings(line: LogicalLine, at: int, end: int) -> list[Part] | None:
    """The strings of a JSON array; None if the text is no JSON array.

    Raises:
        DockerfileSyntaxError: it is one, and not all its elements are strings.
    """
    text = line.text
    if not text.startswith("[", at, end):
        return None
    strings: list[Part] = []
    other: tuple[int, int] | None = None
    closers: list[str] = []
    expect = "value"
    while True:
        token = _JSON.match(text, at, end)
        if token is None:
            return None
        string, scalar, mark = token.groups()
        start, at = token.end() - len(token[0].lstrip(" \t\r\n")), token.end()
        if mark and mark in "]}":
            if expect not in ("value or end", "key or end", "comma") or closers.pop() != mark:
                return None
            if not closers:
                break
            expect = "comma"
        elif mark == ",":
            if expect != "comma":
                return None
            expect = "value" if closers[-1] == "]" else "key"
        elif mark == ":":
            if expect != "colon":
                return None
            expect = "value"
        elif expect.startswith("key"):
            if string is None:
                return None
            expect = "colon"
        elif not expect.startswith("value"):
            return None
        elif mark:
            if closers:
                other = other or (start, at)
            closers.append("]" if mark == "[" else "}")
            if len(closers) > JSON_DEPTH_MAX:
                return None
            expect = "value or end" if mark == "[" else "key or end"
        else:
            if len(closers) == 1 and string is not None:
                strings.append(Part(_json_text(string), start, at))
            elif string is None:
                if scalar[-1].isdigit() and float(scalar) in (float("inf"), float("-inf")):
                    return None  # Go refuses to decode it, and so it is no JSON
                other = other or (start, at)
            expect = "comma"
    if text[at:end].strip(" \t\r\n"):
        return None
    if other:
        raise line.error(
            "a JSON array may have nothing but strings here",
            *other,
            hint="put every element in double quotes",
        )
    return strings


def _json_text(string: str) -> str:
    return _JSON_ESCAPE.sub(_json_escape, string[1:-1]) if "\\" in string else string[1:-1]


def _json_escape(match: re.Match[str]) -> str:
    high, low, code, letter = match.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if code:
        number = int(code, 16)
        return "\ufffd" if 0xD800 <= number <= 0xDFFF else chr(number)
    return _JSON_LETTERS.get(letter, letter)
