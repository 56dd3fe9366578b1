"""What a command takes, as data, and the splitting of a command line by that data.

Options are read as docker's library (pflag) reads them, which is what fingers and scripts know:
    --name VALUE  --name=VALUE  -n VALUE  -nVALUE  -n=VALUE
    --flag  --flag=false  -it (= -i -t)      a flag takes a value only behind `=`
    --                                       ends the options
    `run`, `create` and `exec` end them at the first word, all others go on looking.

This file needs no library: a command line in order is split here and carried out without click,
whose import alone would be a quarter of `lamina run`. `application` makes the click commands from
the same tables, to draw help, to complete words in shells and to refuse what is wrong.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from builder.truth import TRUTH

if TYPE_CHECKING:
    from builder.cli.session import Session

# flag: on or off. value: the last one counts. list: all count. maybe: a value only behind `=`.
Kind = Literal["flag", "value", "list", "maybe"]


# Named tuples, not dataclasses: these are made at every start, and defining a frozen dataclass
# takes half a millisecond where this takes a tenth.
class Option(NamedTuple):
    """One option. `names` as typed, the long one last; without its dashes that is the key."""

    names: tuple[str, ...]
    kind: Kind
    about: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    bare: str = "true"  # what a flag or `maybe` means without a value

    @property
    def key(self) -> str:
        """`--no-trunc` -> `no-trunc`."""
        return self.names[-1].lstrip("-")


class Arguments(NamedTuple):
    """A command line, split. Asking for an option that the command has not is a KeyError."""

    options: Mapping[str, list[str]]
    words: list[str]

    def flag(self, key: str) -> bool:
        """Whether the flag is on; the last of several counts."""
        return self.options[key][-1:] == ["true"]

    def value(self, key: str) -> str | None:
        """The value given last, None where there was none."""
        values = self.options[key]
        return values[-1] if values else None

    def values(self, key: str) -> tuple[str, ...]:
        """All values, in the order given."""
        return tuple(self.options[key])

    def number(self, key: str, *, least: int = 0) -> int | None:
        """The value as a whole number.

        Raises:
            UsageError: it is not one, or less than `least`.
        """
        text = self.value(key)
        if text is None:
            return None
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            problem = f"not a whole number of at least {least}"
            raise UsageError(f"invalid argument {text!r} for --{key}: {problem}")
        return number


class Command(NamedTuple):
    """One command. `words` says how few and how many words it takes besides options."""

    name: str
    synopsis: str
    about: str
    act: "Callable[[Arguments, Session], int]"
    options: tuple[Option, ...] = ()
    words: tuple[int, int | None] = (0, None)
    stops_at_word: bool = False
    # options that docker or podman have and this version has not: what to say about each
    refused: Mapping[str, str] = {}


class UsageError(Exception):
    """The command line makes no sense. `is_count`: its options do, the number of words does not."""

    def __init__(self, message: str, *, hint: str = "", is_count: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.is_count = is_count


class HelpWanted(Exception):
    """`--help` stands among the options: not an error, but the way to whoever can draw help."""


def flag(*names: str, about: str) -> Option:
    """Declare an option that is on or off."""
    return Option(names, "flag", about)


def value(
    *names: str, about: str, metavar: str = "STRING", choices: tuple[str, ...] = ()
) -> Option:
    """Declare an option with a value, of which the last one counts."""
    return Option(names, "value", about, metavar, choices)


def many(*names: str, about: str, metavar: str = "STRING") -> Option:
    """Declare an option that may be given several times."""
    return Option(names, "list", about, metavar)


def maybe(*names: str, about: str, bare: str, choices: tuple[str, ...] = ()) -> Option:
    """Declare an option whose value may be left out: `--pull` (= `bare`), `--pull=always`."""
    return Option(names, "maybe", about, "STRING", choices, bare)


def split(command: Command, line: list[str], *, partial: bool = False) -> Arguments:
    """Split `line`, the words behind the command's name.

    `partial` is for a line that is still being typed (completion): nothing is missing yet.

    Raises:
        HelpWanted: `--help` or `-h` (where the command has no other use for it) is asked for.
        UsageError: unknown option, bad or missing value, wrong number of words.
    """
    splitter = _Splitter(command, partial)
    splitter.read(iter(line))
    if not partial:
        _check_count(command, len(splitter.words))
    return Arguments(splitter.options, splitter.words)


class _Splitter:
    def __init__(self, command: Command, partial: bool) -> None:
        self.command = command
        self.partial = partial
        self.table = {name: option for option in command.options for name in option.names}
        self.options: dict[str, list[str]] = {option.key: [] for option in command.options}
        self.words: list[str] = []

    def read(self, line: Iterator[str]) -> None:
        for item in line:
            if item == "--":
                self.words += line
            elif item.startswith("--"):
                self.read_long(item, line)
            elif item.startswith("-") and item != "-":
                self.read_letters(item, line)
            else:
                self.words.append(item)
                if self.command.stops_at_word:
                    self.words += line

    def read_long(self, item: str, line: Iterator[str]) -> None:
        name, equals, given = item.partition("=")
        option = self.table.get(name) or self.refuse(name, f"unknown flag: {name}")
        text: str | None = given if equals else None
        if text is None and option.kind in ("value", "list"):
            text = next(line, None)
        self.keep(option, name, text)

    def read_letters(self, item: str, line: Iterator[str]) -> None:
        letters = item[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = self.table.get(name) or self.refuse(
                name, f"unknown shorthand flag: {name[1]!r} in {item}"
            )
            text: str | None = None
            if letters.startswith("="):
                text, letters = letters[1:], ""
            elif option.kind in ("value", "list"):
                text, letters = letters or next(line, None), ""
            self.keep(option, name, text)

    def keep(self, option: Option, name: str, text: str | None) -> None:
        if text is None:
            if option.kind in ("value", "list"):
                if self.partial:
                    return
                raise UsageError(f"flag needs an argument: {name}", hint=_see(self.command))
            text = option.bare
        if option.kind == "flag":
            if text not in TRUTH:
                raise UsageError(f"invalid argument {text!r} for {name}: neither true nor false")
            text = "true" if TRUTH[text] else "false"
        elif option.choices and text not in option.choices:
            known = ", ".join(choice for choice in option.choices if choice)
            raise UsageError(f"invalid argument {text!r} for {name}: not one of {known}")
        self.options[option.key].append(text)

    def refuse(self, name: str, problem: str) -> Option:
        if name in ("--help", "-h"):
            raise HelpWanted
        reason = self.command.refused.get(name)
        if reason is not None:
            raise UsageError(f"{name} is not supported by this version of lamina", hint=reason)
        from builder.nearest import nearest

        near = nearest(name, self.table)
        hint = f"did you mean {near}?" if near else _see(self.command)
        raise UsageError(problem, hint=hint)


def _check_count(command: Command, count: int) -> None:
    least, most = command.words
    if count >= least and (most is None or count <= most):
        return
    if least == most:
        wanted = f"exactly {least}" if least else "no"
    elif count < least:
        wanted = f"at least {least}"
    else:
        wanted = f"at most {most}"
    noun = "argument" if wanted.endswith(" 1") else "arguments"
    raise UsageError(
        f"{command.name!r} requires {wanted} {noun}",
        hint=f"usage: lamina {command.name} {command.synopsis}".rstrip(),
        is_count=True,
    )


def _see(command: Command) -> str:
    return f"see `{' '.join(['lamina', *command.name.split(), '--help'])}`"


def build_args(given: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE; a bare NAME takes the environment's value, and is left out without one.

    Raises:
        UsageError: no name.
    """
    found = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not name:
            raise UsageError(f"invalid argument {item!r} for --build-arg", hint="NAME=VALUE")
        if equals:
            found[name] = text
        elif name in os.environ:
            found[name] = os.environ[name]
    return found
