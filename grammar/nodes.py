"""The syntax tree: one frozen value per instruction, and the `Instruction` union.

Rules:
  - Words are raw: quotes and `$variables` are kept, `grammar.expand` resolves them later, because
    what a variable means depends on the stage the word stands in.
  - Every node has a `span`, and `written`: the instruction as BuildKit's parser would report it
    (keyword, flags, args), which is what `lamina parse` prints and `unparse` starts from.
  - Nothing here refuses anything; `parse` does that before a node exists.

Source: Dockerfile reference, docs.docker.com/reference/dockerfile; BuildKit's `parser` and
`instructions` packages for the splitting of arguments.
"""

from typing import Union

from grammar.frozen import frozen
from grammar.source import SourceText, Span


@frozen
class Heredoc:
    """One here-document. `content` is as written, before `<<-` removes leading tabs."""

    name: str
    content: str
    expand: bool  # False when the name was quoted: <<"EOF"
    chomp: bool  # True for <<-EOF: leading tabs of every line are to be removed
    file_descriptor: int = 0  # the 3 of 3<<EOF


@frozen
class Written:
    """An instruction as it stands in the file, split as BuildKit's parser splits it.

    `args` of ENV and LABEL are (name, value, separator) triples, flattened; those of a shell-form
    RUN, CMD or ENTRYPOINT are one string; those of ONBUILD one nested `Written`.
    """

    keyword: str  # upper case
    flags: tuple[str, ...]
    args: tuple[Union[str, "Written"], ...]
    is_json: bool
    heredocs: tuple[Heredoc, ...] = ()
    start_line: int = 0  # 0 inside ONBUILD, as BuildKit has it
    end_line: int = 0
    spelling: str = ""  # the keyword as it stands in the file: `From`


@frozen
class Word:
    """One unexpanded word."""

    text: str
    span: Span


@frozen
class ShellForm:
    """A command line for the stage's SHELL."""

    text: str


@frozen
class ExecForm:
    """A JSON array: executed as it is, without a shell."""

    argv: tuple[str, ...]


Command = ShellForm | ExecForm


@frozen
class Pair:
    """One NAME=value of ENV or LABEL; `legacy` for the `ENV NAME value` form."""

    name: Word
    value: Word
    legacy: bool


@frozen
class ArgDeclaration:
    """One NAME or NAME=default of ARG."""

    name: Word
    default: Word | None


@frozen
class RunMount:
    """One `--mount` of RUN: its options in written order; a bare option has value None."""

    options: tuple[tuple[str, str | None], ...]
    span: Span


@frozen
class From:
    image: Word
    platform: Word | None
    alias: str | None  # lower case
    written: Written
    span: Span


@frozen
class Run:
    command: Command
    heredocs: tuple[Heredoc, ...]
    mounts: tuple[RunMount, ...]
    network: str | None
    security: str | None
    devices: tuple[str, ...]
    written: Written
    span: Span


@frozen
class Copy:
    """COPY. A heredoc source has its place in `heredocs`, not in `sources`."""

    sources: tuple[Word, ...]
    destination: Word
    heredocs: tuple[Heredoc, ...]
    from_: Word | None
    chown: Word | None
    chmod: Word | None
    link: bool
    parents: bool
    excludes: tuple[Word, ...]
    written: Written
    span: Span


@frozen
class Add:
    """ADD. `keep_git_dir` and `unpack` are None where the flag is absent."""

    sources: tuple[Word, ...]
    destination: Word
    heredocs: tuple[Heredoc, ...]
    chown: Word | None
    chmod: Word | None
    checksum: Word | None
    link: bool
    keep_git_dir: bool | None
    unpack: bool | None
    excludes: tuple[Word, ...]
    written: Written
    span: Span


@frozen
class Env:
    pairs: tuple[Pair, ...]
    written: Written
    span: Span


@frozen
class Label:
    pairs: tuple[Pair, ...]
    written: Written
    span: Span


@frozen
class Arg:
    declarations: tuple[ArgDeclaration, ...]
    written: Written
    span: Span


@frozen
class Workdir:
    path: Word
    written: Written
    span: Span


@frozen
class User:
    user: Word
    written: Written
    span: Span


@frozen
class Cmd:
    command: Command
    written: Written
    span: Span


@frozen
class Entrypoint:
    command: Command
    written: Written
    span: Span


@frozen
class Expose:
    ports: tuple[Word, ...]
    written: Written
    span: Span


@frozen
class Volume:
    paths: tuple[Word, ...]
    written: Written
    span: Span


@frozen
class Stopsignal:
    signal: Word
    written: Written
    span: Span


@frozen
class Healthcheck:
    """HEALTHCHECK; `command` is None for HEALTHCHECK NONE. What is absent is 0."""

    command: Command | None
    interval_ns: int
    timeout_ns: int
    start_period_ns: int
    start_interval_ns: int
    retries: int
    written: Written
    span: Span


@frozen
class Shell:
    argv: tuple[str, ...]
    written: Written
    span: Span


@frozen
class Maintainer:
    name: str
    written: Written
    span: Span


@frozen
class Onbuild:
    """ONBUILD. `text` is the trigger as it goes into the image config (`OnBuild`)."""

    text: str
    trigger: "Instruction"
    written: Written
    span: Span


Instruction = (
    From
    | Run
    | Copy
    | Add
    | Env
    | Label
    | Arg
    | Workdir
    | User
    | Cmd
    | Entrypoint
    | Expose
    | Volume
    | Stopsignal
    | Healthcheck
    | Shell
    | Maintainer
    | Onbuild
)


@frozen
class Stage:
    """A FROM and the instructions after it, up to the next FROM."""

    base: From
    instructions: tuple[Instruction, ...]


@frozen
class Directives:
    """Parser directives; None where absent. `escape` is the character in force."""

    syntax: str | None
    escape: str
    check: str | None
    escape_given: bool = False  # False: `escape` is the default


@frozen
class Dockerfile:
    """A whole file: directives, the ARGs before the first FROM, and the stages in file order."""

    source: SourceText
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
