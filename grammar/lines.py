"""Physical lines to logical lines: the facts of a Dockerfile that are about lines.

    decode              bytes -> SourceText: byte order mark, CR LF, bytes that are not UTF-8
    read_directives     `# syntax=`, `# escape=`, `# check=` at the top
    LineReader          one logical line after the other: continuations joined, comments and blank
                        lines left out, also inside a continuation; and the bodies of heredocs
    heredoc_of_word     `3<<-"EOF"` -> its name and properties
    heredocs_of_line    all of them on one logical line

A `LogicalLine` remembers where each of its pieces stood, so that everything found in its text
keeps a span. Which lines have heredocs is not known here: `split` asks for their bodies.

Invariants (tests/grammar/test_lines.py):
  1. Every character of a logical line maps to the line and column an editor shows.
  2. Time and memory are linear in the text.

Differs: the bytes of a text that is not UTF-8 are kept (surrogateescape); BuildKit keeps them in
some places and turns them into U+FFFD in others.

Differs: `# syntax=` is read and shown, and no frontend is ever fetched.

Source: moby/buildkit frontend/dockerfile/parser: parser.go, directives.go.
"""

import re
from bisect import bisect_right

from grammar.errors import DockerfileError, DockerfileSyntaxError, ExpansionError
from grammar.frozen import frozen
from grammar.nodes import Directives, Heredoc
from grammar.source import SourceText, Span
from grammar.words import SPACES, shell_words

TEXT_BYTES_MAX = 16 << 20  # no larger one reaches BuildKit, in a message of 16 MiB
LINE_BYTES_MAX = 65535  # BuildKit reads lines with a bufio.Scanner of 64 KiB

_DIRECTIVE = re.compile(rf"#[{SPACES}]*([a-zA-Z][a-zA-Z0-9]*)[\t\f\r ]*=(.+)")
_DIRECTIVES = ("syntax", "escape", "check")
_BLANKS = "\t\f\r "  # \\s of Go's regexp

_HEREDOC = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_FILE_DESCRIPTOR_MAX = (1 << 64) - 1


@frozen
class LogicalLine:
    """One instruction's text; `pieces` are (offset in text, line, column), the latter 1-based.

    `end_line` is the last line read for it: comments and blank lines that follow a continuation
    belong to it, heredoc bodies do not.
    """

    source: SourceText
    text: str
    start_line: int
    end_line: int
    pieces: tuple[tuple[int, int, int], ...]

    def span(self, start: int, end: int) -> Span:
        """Where text[start:end] stands; an empty range gives the character at `start`."""
        start_line, start_column = self._position(start)
        end_line, end_column = self._position(max(start, end - 1))
        return Span(
            start_line=start_line,
            start_column=start_column,
            end_line=end_line,
            end_column=end_column,
        )

    def error(self, message: str, start: int, end: int, *, hint: str = "") -> DockerfileError:
        """An error about text[start:end]."""
        return DockerfileSyntaxError(
            message, span=self.span(start, end), source=self.source, hint=hint
        )

    def _position(self, offset: int) -> tuple[int, int]:
        pieces = self.pieces
        if len(pieces) == 1:
            first, line, column = pieces[0]
        else:
            first, line, column = pieces[max(0, bisect_right(pieces, (offset, 1 << 62)) - 1)]
        return line, column + offset - first


@frozen
class HeredocWord:
    """What `3<<-"EOF"` says."""

    name: str
    expand: bool
    chomp: bool
    file_descriptor: int

    def with_content(self, content: str) -> Heredoc:
        """The heredoc of this word."""
        return Heredoc(
            name=self.name,
            content=content,
            expand=self.expand,
            chomp=self.chomp,
            file_descriptor=self.file_descriptor,
        )


def decode(data: bytes | str, *, name: str) -> tuple[SourceText, list[str]]:
    """Take a file apart into lines.

    Returns:
        The source, whose lines are clean, and the lines as heredocs keep them: without LF, with CR.

    Raises:
        DockerfileSyntaxError: longer than TEXT_BYTES_MAX, or a line longer than LINE_BYTES_MAX.
    """
    if len(data) > TEXT_BYTES_MAX:
        raise DockerfileSyntaxError(
            f"the file is larger than {TEXT_BYTES_MAX >> 20} MiB",
            source=SourceText(name=name, lines=()),
        )
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    raw = text.split("\n")
    if not raw[-1]:
        raw.pop()
    if raw and raw[0].startswith("\ufeff"):
        raw[0] = raw[0][1:]
    source = SourceText(name=name, lines=tuple(line.rstrip("\r") for line in raw))
    for number, line in enumerate(raw, 1):
        if len(line) > LINE_BYTES_MAX // 4 and _length_bytes(line) > LINE_BYTES_MAX:
            raise DockerfileSyntaxError(
                f"the line is longer than {LINE_BYTES_MAX} bytes",
                span=Span(start_line=number, start_column=1, end_line=number, end_column=1),
                source=source,
                hint="break it with the escape character, or COPY the content from a file",
            )
    return source, raw


def read_directives(source: SourceText) -> Directives:
    """Read the directives at the top of the file.

    They end at the first line that is none. A `#!` first line is passed over for `syntax` and
    `check`, but ends the search for `escape`, as BuildKit has it.

    Raises:
        DockerfileSyntaxError: a directive given twice, or an escape that is not \\ or `.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(source.lines, 1):
        directive = directive_of_line(line.lstrip(SPACES))
        if directive is None:
            break
        key, value = directive
        if key in found:
            raise _directive_error(
                f"the {key} directive is given twice", source, number, hint="remove one of them"
            )
        if key == "escape" and value not in ("\\", "`"):
            raise _directive_error(
                f"the escape character must be \\ or `, not {value}", source, number
            )
        found[key] = value
    shebang = bool(source.lines) and source.lines[0].startswith("#!")
    shown: dict[str, str] = {}
    for line in source.lines[shebang:]:
        directive = directive_of_line(line)
        if directive is None or directive[0] in shown:
            break
        shown[directive[0]] = directive[1]
    return Directives(
        syntax=shown.get("syntax"),
        escape=found.get("escape", "\\"),
        check=shown.get("check"),
        escape_given="escape" in found,
    )


class LineReader:
    """Reads logical lines from the raw lines of `decode`. Use: `next_line` until it is None."""

    def __init__(self, source: SourceText, raw: list[str], *, escape: str) -> None:
        self.source = source
        self.line_count = 0  # lines read so far
        self._raw = raw
        self._escape = escape

    def next_line(self) -> LogicalLine | None:
        """The next logical line; None at the end of the file."""
        lines = self.source.lines
        while self.line_count < len(lines):
            line = lines[self.line_count]
            text = line.lstrip(SPACES)
            self.line_count += 1
            if text and text[0] != "#":
                return self._continued(text, column=len(line) - len(text) + 1)
        return None

    def _continued(self, text: str, *, column: int) -> LogicalLine:
        lines = self.source.lines
        start_line = self.line_count
        text, open_ = self._cut(text)
        parts = [text]
        pieces = [(0, start_line, column)]
        length = len(text)
        while open_ and self.line_count < len(lines):
            line = lines[self.line_count]
            self.line_count += 1
            content = line.lstrip(SPACES)
            if not content or content[0] == "#":
                continue
            line, open_ = self._cut(line)
            if line:
                pieces.append((length, self.line_count, 1))
                parts.append(line)
                length += len(line)
        return LogicalLine(
            source=self.source,
            text="".join(parts),
            start_line=start_line,
            end_line=self.line_count,
            pieces=tuple(pieces),
        )

    def _cut(self, line: str) -> tuple[str, bool]:
        """The line without its continuation mark, and whether it had one.

        Two escape characters before the end of the line are none.
        """
        escape = self._escape
        trimmed = line.rstrip(" \t")
        if trimmed.endswith(escape) and trimmed[-2:-1] != escape:
            return trimmed[:-1], True
        return line, False

    def heredoc(self, word: HeredocWord) -> Heredoc | None:
        """Read the body of a heredoc up to its terminator; None if the file ends before."""
        raw, name = self._raw, word.name
        for index in range(self.line_count, len(raw)):
            line = self.source.lines[index]
            if (line.lstrip("\t") if word.chomp else line) == name:
                content = "".join(f"{line}\n" for line in raw[self.line_count : index])
                self.line_count = index + 1
                return word.with_content(content)
        return None


def heredoc_of_word(word: str) -> HeredocWord | None:
    """What a word like `<<EOF` announces; None if it is no heredoc.

    Raises:
        ExpansionError: its name has an unclosed quote or brace.
    """
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    names = shell_words(match[3], keep_quotes=False, keep_escapes=False)
    if len(names) != 1:
        return None
    quoted = shell_words(match[3], keep_quotes=True, keep_escapes=False)
    if len(quoted) != 1:
        return None
    return HeredocWord(
        name=names[0],
        expand=_quotes_in(names[0]) == _quotes_in(quoted[0]),
        chomp=match[2] == "-",
        file_descriptor=_file_descriptor(match[1]),
    )


def heredocs_of_line(text: str) -> list[HeredocWord]:
    """The heredocs that a logical line announces, in order.

    A line that is no list of shell words (an unclosed quote) has none. The escape character is the
    backslash here, whatever the directive says.

    Raises:
        ExpansionError: as `heredoc_of_word`.
    """
    if "<<" not in text:
        return []
    try:
        words = shell_words(text, keep_quotes=True, keep_escapes=True)
    except ExpansionError:
        return []
    return [found for word in words if (found := heredoc_of_word(word))]


def directive_of_line(line: str) -> tuple[str, str] | None:
    """The name (in lower case) and value of `# name=value`; None for what is no directive."""
    match = _DIRECTIVE.match(line)
    if match is None or match[1].lower() not in _DIRECTIVES:
        return None
    # `# escape= ` has the value " ", as in BuildKit, and is refused.
    return match[1].lower(), match[2].strip(_BLANKS) or match[2][-1]


def _directive_error(
    message: str, source: SourceText, number: int, *, hint: str = ""
) -> DockerfileError:
    line = source.lines[number - 1]
    span = Span(start_line=number, start_column=1, end_line=number, end_column=max(1, len(line)))
    return DockerfileSyntaxError(message, span=span, source=source, hint=hint)


def _quotes_in(text: str) -> int:
    return text.count("'") + text.count('"')


def _file_descriptor(digits: str) -> int:
    if len(digits) > 20:
        return _FILE_DESCRIPTOR_MAX
    return min(int(digits or "0"), _FILE_DESCRIPTOR_MAX)


def _length_bytes(line: str) -> int:
    escaped = sum("\udc80" <= char <= "\udcff" for char in line)  # one byte each, counted as three
    return len(line.encode("utf-8", "surrogatepass")) - 2 * escaped
