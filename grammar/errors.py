"""What can be wrong with a Dockerfile, and how it is said.

DockerfileError(message, span, source, hint)
  DockerfileSyntaxError            the text is not a Dockerfile
    UnknownInstructionError(name, nearest)
    UnknownFlagError(flag, nearest)
  ExpansionError(variable)         a word cannot be expanded: ${v:?}, a bad pattern, too much text

`str(error)` is one line: `Dockerfile:3: unknown instruction RNU`. `render()` adds the lines of the
file with a caret, and the hint:

    Dockerfile:3: unknown instruction RNU
        2 |
        3 | RNU echo hi
          | ^^^
    hint: did you mean RUN?

Everything that comes from the file is data from a stranger: control characters are escaped and
long lines are cut, so no message can move the cursor or fill the screen.
"""

from collections.abc import Iterable
from typing import Self

from grammar.source import SourceText, Span

_LINE_WIDTH_MAX = 120
_MESSAGE_LENGTH_MAX = 400
_LINES_BEFORE = 1
_LINES_SHOWN_MAX = 6


class DockerfileError(Exception):
    """The Dockerfile cannot be used; `hint` says what to do, empty when nothing helps."""

    def __init__(
        self,
        message: str,
        *,
        span: Span | None = None,
        source: SourceText | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.source = source
        self.hint = hint

    def place(self, *, span: Span | None, source: SourceText | None) -> Self:
        """Add where it happened, for whoever knows more than the raiser did; keeps what is set."""
        self.span = self.span or span
        self.source = self.source or source
        return self

    def __str__(self) -> str:
        message = printable(self.message)
        if len(message) > _MESSAGE_LENGTH_MAX:
            message = message[:_MESSAGE_LENGTH_MAX] + "..."
        name = printable(self.source.name)[-200:] if self.source else ""
        if self.span is None:
            return f"{name}: {message}" if name else message
        return f"{name or 'line '}{':' if name else ''}{self.span.start_line}: {message}"

    def render(self) -> str:
        """The message, the lines it is about with a caret, and the hint. No newline at the end."""
        parts = [str(self)]
        if self.span is not None and self.source is not None:
            parts += _excerpt(self.source.lines, self.span)
        if self.hint:
            parts.append(f"hint: {printable(self.hint)}")
        return "\n".join(parts)


class DockerfileSyntaxError(DockerfileError):
    """The text is not what the Dockerfile language allows."""


class UnknownInstructionError(DockerfileSyntaxError):
    """A line starts with no instruction; `nearest` is the known one it resembles, or empty."""

    def __init__(
        self,
        *,
        name: str,
        nearest: str,
        span: Span | None = None,
        source: SourceText | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(
            f"unknown instruction {name}" if name else "a line without an instruction",
            span=span,
            source=source,
            hint=f"did you mean {nearest}?" if nearest else hint,
        )
        self.name = name
        self.nearest = nearest


class UnknownFlagError(DockerfileSyntaxError):
    """An instruction has no such flag; `nearest` is the one it resembles, or empty."""

    def __init__(
        self,
        *,
        keyword: str,
        flag: str,
        nearest: str,
        span: Span | None = None,
        source: SourceText | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(
            f"{keyword} has no flag {flag}",
            span=span,
            source=source,
            hint=f"did you mean {nearest}?" if nearest else hint,
        )
        self.flag = flag
        self.nearest = nearest


class ExpansionError(DockerfileError):
    """A word cannot be expanded; `variable` is the one at fault, or empty."""

    def __init__(
        self,
        message: str,
        *,
        variable: str = "",
        span: Span | None = None,
        source: SourceText | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, span=span, source=source, hint=hint)
        self.variable = variable


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would act on or could not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The word of `known` that `name` is a slip of the finger away from, or empty."""
    distance_max = 1 if len(name) < 4 else 2
    best, best_distance = "", distance_max + 1
    for word in sorted(known):
        if abs(len(word) - len(name)) <= distance_max:
            distance = _distance(name, word)
            if distance < best_distance:
                best, best_distance = word, distance
    return best


def _excerpt(lines: tuple[str, ...], span: Span) -> list[str]:
    if not 1 <= span.start_line <= len(lines):
        return []
    first = max(1, span.start_line - _LINES_BEFORE)
    end_line = min(max(span.start_line, span.end_line), len(lines))
    shown = list(range(first, end_line + 1))
    if len(shown) > _LINES_SHOWN_MAX:
        shown = shown[: _LINES_SHOWN_MAX - 1]
    width = max(4, len(str(end_line)))
    out = []
    for number in shown:
        text, caret = _shown_line(lines[number - 1], number, span)
        out.append(f"{number:>{width + 1}} | {text}".rstrip())
        if number == span.start_line and caret:
            out.append(f"{'':>{width + 1}} | {caret}")
    if shown[-1] < end_line:
        out.append(f"{'...':>{width + 1}} |")
    return out


def _shown_line(line: str, number: int, span: Span) -> tuple[str, str]:
    """The line as shown and the carets under it; a window around the caret when it is long."""
    if number != span.start_line:
        return _cut(line), ""
    start = min(span.start_column - 1, len(line))
    end = span.end_column if span.end_line == span.start_line else len(line.rstrip())
    end = min(max(end, start + 1), max(len(line), start + 1))
    offset = max(0, start - _LINE_WIDTH_MAX // 2) if len(line) > _LINE_WIDTH_MAX else 0
    window = line[offset : offset + _LINE_WIDTH_MAX]
    before = ("..." if offset else "") + _line_text(window[: start - offset])
    marked = _line_text(window[start - offset : end - offset])
    after = _line_text(window[end - offset :])
    after += "..." if len(line) > offset + _LINE_WIDTH_MAX else ""
    return before + marked + after, " " * len(before) + "^" * max(1, len(marked))


def _cut(line: str) -> str:
    return _line_text(line[:_LINE_WIDTH_MAX]) + ("..." if len(line) > _LINE_WIDTH_MAX else "")


def _line_text(text: str) -> str:
    return printable(text.replace("\t", "  "))


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, carried by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if char in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _distance(a: str, b: str) -> int:
    """How many letters to insert, drop, change or swap with their neighbour to make b of a."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        older, before, row = before, row, [i + 1]
        for j, y in enumerate(b):
            cost = min(before[j] + (x != y), before[j + 1] + 1, row[j] + 1)
            if older and j and x == b[j - 1] and a[i - 1] == y:
                cost = min(cost, older[j - 1] + 1)
            row.append(cost)
    return row[-1]
