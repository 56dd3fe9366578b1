"""Where a piece of Dockerfile text came from.

All lines and columns are 1-based and physical (what an editor shows); ends are inclusive.
"""

from grammar.frozen import frozen


@frozen
class Span:
    """A range of the Dockerfile. `end_column` is the column of the last character."""

    start_line: int
    start_column: int
    end_line: int
    end_column: int


@frozen
class SourceText:
    """A Dockerfile as read: its display name (a path, or `-` for standard input) and its lines.

    `lines` carry no line terminator; a byte order mark and CR before LF are already removed.
    """

    name: str
    lines: tuple[str, ...]
