"""Where in the Dockerfile an error happened: added once, by who knows the instruction."""

from builder.errors import BuilderError
from builder.urls import redacted
from grammar import Dockerfile, DockerfileError, Span


class Located:
    """Adds the Dockerfile's lines to an error that passes, once."""

    def __init__(
        self, dockerfile: Dockerfile, span: Span | None, *, in_trigger: bool = False
    ) -> None:
        self._dockerfile = dockerfile
        self._span = span
        self._in_trigger = in_trigger

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DockerfileError):
            if self._in_trigger and error.source is None:
                error.span = None  # a place in the trigger's text, which is no line of the file
            error.place(span=self._span, source=self._dockerfile.source)
            return
        if isinstance(error, BuilderError) and error.span is not None and not error.excerpt:
            error.excerpt = excerpt(self._dockerfile, error.span)
        if error is None or self._span is None:
            return
        if isinstance(error, BuilderError):
            error.excerpt = error.excerpt or excerpt(self._dockerfile, self._span)
        elif isinstance(error, Exception) and not hasattr(error, "__notes__"):
            error.add_note(excerpt(self._dockerfile, self._span))


def excerpt(dockerfile: Dockerfile, span: Span) -> str:
    """`Dockerfile:3` and the lines of an instruction, marked."""
    lines = dockerfile.source.lines
    first, last = max(1, span.start_line - 2), min(len(lines), span.end_line + 2)
    shown = [f"{dockerfile.source.name}:{span.start_line}"]
    for number in range(first, last + 1):
        mark = ">>>" if span.start_line <= number <= span.end_line else "   "
        shown.append(f"{number:4} | {mark} {lines[number - 1]}".rstrip())
    return redacted("\n".join(shown))
