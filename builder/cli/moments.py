"""`lamina bisect` and `lamina step`: an image instruction by instruction."""

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from builder import runner
from builder.cli.arguments import Arguments, Command, UsageError, flag, value
from builder.cli.output import json_line, json_pretty, line, printable, shortened, warn, write
from builder.cli.run import REFUSED, SHARED, options_of, run_attached
from builder.cli.units import human_size

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.timetravel import Moment
    from layerstore import Image, Store

_INSTRUCTION_MAX = 100
_HELP = """\
  n, Enter   one instruction forward      p          one back
  g N, N     to instruction N             0          to the base
  d          what it changed              c          the configuration after it
  s          a shell in it                x COMMAND  run a command in it
  l          all instructions             q          leave"""


def bisect(arguments: Arguments, session: "Session") -> int:
    """Find the instruction after which a command fails."""
    style = arguments.value("format") or "text"
    if style not in ("text", "json"):
        raise UsageError(f"invalid argument {style!r} for --format", hint="text, json")
    name, *command = arguments.words
    if command[:1] == ["--"]:
        del command[0]
    options = options_of(Arguments(arguments.options, [name, *command]))._replace(auto_remove=True)
    with session.open_store() as store:
        found = _moments(store, name)
    trial = _Trial(session, name, options, is_verbose=arguments.flag("verbose"))
    number = first_failing(found[-1].number, trial.fails)
    if number is None:
        warn(f"the command succeeds after the last instruction of {name}: there is nothing to find")
        return 1
    moment = found[number]
    if style == "json":
        json_line(
            {
                "image": name,
                "number": number,
                "line": moment.line,
                "instruction": moment.instruction,
                "exit_code": trial.codes[number],
                "runs": len(trial.codes),
            }
        )
    elif number:
        line(f"{name}@{number} is the first after which the command fails:")
        line(f"  {_described(moment)}")
    else:
        line(f"the command fails in the base already: {printable(moment.instruction)}")
    return 0


class _Trial:
    """Runs the command after one instruction or another, and remembers how it ended."""

    def __init__(
        self, session: "Session", name: str, options: "runner.RunOptions", *, is_verbose: bool
    ) -> None:
        self.codes: dict[int, int] = {}
        self._session = session
        self._name = name
        self._options = options
        self._is_verbose = is_verbose

    def fails(self, number: int) -> bool:
        """Whether the command ends with another code than 0."""
        started = time.monotonic()
        code = self.codes[number] = self._run(f"{self._name}@{number}")
        result = "succeeds" if code == 0 else f"fails with exit code {code}"
        warn(f"{self._name}@{number}: {result} ({time.monotonic() - started:.1f}s)")
        return code != 0

    def _run(self, name: str) -> int:
        from builder.cli.exitcodes import exit_code
        from builder.sandbox import ProgramNotExecutableError, ProgramNotFoundError

        session = self._session
        outputs = (1, 2) if self._is_verbose else (None, None)
        streams = runner.Streams(None, *outputs)
        record, hold = runner.create(session.root, name, self._options, session.open_store)
        try:
            ended = runner.run(session.root, record, hold, streams, is_interruptible=True)
            return ended.shell_code
        except (ProgramNotFoundError, ProgramNotExecutableError) as error:
            return exit_code(error, "run")


def first_failing(last: int, fails: Callable[[int], bool]) -> int | None:
    """The first number in 0..last that fails, if those before it do not and those after it do.

    Asks about `last`, then about log2(last) others, and about 0 only where 1 fails.
    None when `last` does not fail.
    """
    if not fails(last):
        return None
    good, bad = 0, last
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(middle):
            bad = middle
        else:
            good = middle
    if bad <= 1 and (bad == 0 or fails(0)):
        return 0
    return bad


def step(arguments: Arguments, session: "Session") -> int:
    """Walk over the instructions of an image."""
    from shlex import split

    session.enter()
    name = arguments.words[0]
    with session.open_store() as store:
        walk = _Walk(store, session, name)
        walk.show()
        while True:
            if sys.stdin.isatty():
                write(f"{printable(name)}@{walk.number}> ")
                sys.stdout.flush()
            typed = sys.stdin.readline()
            if not typed:
                return 0
            try:
                words = split(typed)
            except ValueError:
                line("a quote is not closed")
                continue
            if not walk.obey(words):
                return 0


class _Walk:
    """Where the user is."""

    def __init__(self, store: "Store", session: "Session", name: str) -> None:
        from builder.timetravel import resolve

        self._store = store
        self._session = session
        self._name = name
        self._image = resolve(store, name)
        self._moments = _moments(store, name)
        self.number = min(1, self._moments[-1].number)

    def obey(self, words: list[str]) -> bool:
        """Do what was typed; False to leave."""
        match words:
            case [] | ["n" | "next"]:
                self._go(self.number + 1)
            case ["p" | "prev" | "previous"]:
                self._go(self.number - 1)
            case ["g" | "go", number] | [number] if number.isdecimal():
                self._go(int(number))
            case ["d" | "diff"]:
                self._show_changes()
            case ["c" | "config"]:
                self._show_config()
            case ["l" | "list"]:
                self._list()
            case ["s" | "shell"]:
                self._run("sh")
            case ["x" | "run", *command] if command:
                self._run(*command)
            case ["q" | "quit" | "exit"]:
                return False
            case _:
                line(_HELP)
        return True

    def show(self) -> None:
        """Say where we are."""
        moment = self._moments[self.number]
        line(f"[{self.number}/{self._moments[-1].number}] {_described(moment)}")

    def _go(self, number: int) -> None:
        last = self._moments[-1].number
        if not 0 <= number <= last:
            line(f"there are the instructions 1 to {last}, and the base, 0")
            return
        self.number = number
        self.show()

    def _list(self) -> None:
        for moment in self._moments:
            mark = ">" if moment.number == self.number else " "
            line(f"{mark} {moment.number:3}  {_described(moment)}")

    def _show_changes(self) -> None:
        from builder.inspect.layertable import changes
        from layerstore import TreeIndex

        now = self._at(self.number)
        below = 0 if self.number == 0 else len(self._at(self.number - 1).layers)
        if len(now.layers) == below:
            line("it changes no file")
            return
        tree = TreeIndex()
        for layer in now.layers[:below]:
            tree.add_layer(self._store.layers.toc(layer))
        for layer in now.layers[below:]:
            entries = self._store.layers.toc(layer)
            for change in changes(entries, tree):
                size = f"  {human_size(change.size_bytes)}" if change.size_bytes else ""
                line(f"{change.letter} /{printable(change.path)}{size}")
            tree.add_layer(entries)

    def _show_config(self) -> None:
        from builder.cli.inspect import image_config

        json_pretty(image_config(self._moments[self.number].config.config))

    def _run(self, *command: str) -> None:
        """In a container of its own; what it does to files goes with it."""
        from builder.sandbox import SandboxError

        self._store.flush()
        is_terminal = os.isatty(0) and os.isatty(1)
        options = runner.RunOptions(
            command=command,
            entrypoint="",
            terminal=is_terminal,
            interactive=is_terminal,
            auto_remove=True,
        )
        address = f"{self._name}@{self.number}"
        create = runner.create(self._session.root, address, options, self._session.open_store)
        try:
            code = run_attached(self._session, *create, interactive=is_terminal)
        except SandboxError as error:
            line(printable(error.message))
        else:
            if code:
                line(f"exit code {code}")

    def _at(self, number: int) -> "Image":
        from builder.timetravel import at

        return at(self._store, self._image, self._moments, number)


def _moments(store: "Store", name: str) -> "tuple[Moment, ...]":
    from builder.timetravel import is_address, moments

    if is_address(name):
        raise UsageError(f"{name} is a moment already", hint="name the image")
    return moments(store.cache, store.images.resolve(name))


def _described(moment: "Moment") -> str:
    if not moment.number:
        return "the base"
    instruction = shortened(" ".join(moment.instruction.split()), _INSTRUCTION_MAX)
    where = f"  (line {moment.line})" if moment.line else ""
    return printable(instruction) + where


BISECT = Command(
    name="bisect",
    synopsis="IMAGE [--] COMMAND [ARG...]",
    about="Find the first instruction after which COMMAND fails, running it as few times as "
    "possible. It is to fail after the last one, and to succeed before the one that is looked for.",
    act=bisect,
    options=(
        *SHARED,
        value("--format", metavar="STYLE", about="text (default) or json"),
        flag("--verbose", about="Show what the command prints"),
    ),
    words=(2, None),
    stops_at_word=True,
    refused=REFUSED,
)
STEP = Command(
    name="step",
    synopsis="IMAGE",
    about="Walk forward and back over the instructions of an image: what each changed, the "
    "configuration after it, a shell in it.",
    act=step,
    words=(1, 1),
)
