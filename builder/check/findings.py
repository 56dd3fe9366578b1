"""What is looked at, where the look is, and what was found there.

A warning stands at the instruction that was entered last, unless it says otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from builder.check.comments import comments_of, options_in
from builder.check.names import did_you_mean
from builder.check.options import NO_OPTIONS, parse_options
from builder.check.rules import Rule
from builder.events import CheckWarning
from grammar import Dockerfile, Instruction, Span, Written
from layerstore import ImageConfig, Platform, host_platform

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
_GUESSES_MAX = 100  # how often to look for the name that was meant: it takes long

Lines = tuple[int, int]  # the first and the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to look at. `find_base` gives the config of an image, None where it is unknown."""

    dockerfile: Dockerfile
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    ignore_file: bytes | None = None
    platform: Platform = field(default_factory=host_platform)
    find_base: Callable[[str], ImageConfig | None] = lambda _name: None


class Findings:
    """The warnings so far. `span` is where an error would be."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.file = subject.dockerfile
        self.escape = self.file.directives.escape
        self.options = parse_options(
            subject.build_args.get(CHECK_ARG, self.file.directives.check or "")
        )
        self.warnings: list[CheckWarning] = []
        self.lines: Lines = (0, 0)
        self.span: Span | None = None
        self._comments = comments_of(self.file)
        self._local = NO_OPTIONS
        self._guesses_left = _GUESSES_MAX

    def enter(self, instruction: Instruction) -> tuple[str, ...]:
        """Turn to an instruction, with the options above it; returns the comments there."""
        self.at(instruction.written)
        self.span = instruction.span
        comments = self._comments.get(instruction.written.start_line, ())
        if comments:
            self._local = options_in(comments)
        return comments

    def at(self, written: Written) -> None:
        """Turn to an instruction as a part of the file, whose options alone count."""
        self.lines = (written.start_line, written.end_line)
        self._local = NO_OPTIONS

    def warn(self, rule: Rule, *words: str, lines: Lines | None = None) -> None:
        """Note a warning, if its check is in force here."""
        if not self.options.with_those_of(self._local).allows(rule):
            return
        first, last = lines or self.lines
        self.warnings.append(
            CheckWarning(
                rule=rule.name,
                detail=rule.message.format(*words),
                line=first,
                end_line=last,
                description=rule.description,
                url=rule.url,
            )
        )

    def meant(self, name: str, known: Iterable[str], *, sign: str = "") -> str:
        """` (did you mean NAME?)`, as long as there has not been too much to guess."""
        self._guesses_left -= 1
        return did_you_mean(name, known, sign=sign) if self._guesses_left >= 0 else ""


class Environment(Mapping[str, str]):
    """Variables that remember which were asked for and found, or not found."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.found: dict[str, None] = {}
        self.missing: dict[str, None] = {}

    def __getitem__(self, name: str) -> str:
        value = self._values.get(name)
        (self.missing if value is None else self.found)[name] = None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
