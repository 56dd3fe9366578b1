"""Tokens to nodes: what each rule of dockerfile.lark becomes.

A method of `Assembler` has the name of a rule and gets its tokens, the keyword first, whose `value`
is the `Split` it was made of. What the grammar cannot say is checked here: flags given twice and
their values, stage names, durations, empty names, heredocs in impossible places.

Not checked here, because variables decide it: what a `--mount`, a port, a mode or a path means.

Differs: an ONBUILD trigger that could never run is refused where it is written; BuildKit refuses
it in the build that inherits it.

Source: moby/buildkit frontend/dockerfile/instructions: parse.go, bflag.go, commands_run*.go.
"""

import re
from typing import Any, Protocol, cast

from grammar import nodes
from grammar.errors import DockerfileError, ExpansionError
from grammar.lines import HeredocWord, heredoc_of_word
from grammar.source import Span
from grammar.split import Part, Split
from grammar.words import SPACES

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_NETWORKS = ("default", "none", "host")
_SECURITY_MODES = ("sandbox", "insecure")
# Go's strconv.ParseBool.
_BOOLEANS = frozenset(
    ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
)

_CSV_PLAIN = re.compile(r'[^",]*')
_CSV_QUOTED = re.compile(r'"((?:[^"]|"")*)"')

_DURATION = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_MIN_NS = 10**6
_DURATION_MAX_NS = (1 << 63) - 1
_RETRIES_MAX = (1 << 31) - 1

# Arguments; the other tokens mark a form and say nothing more.
_ARGUMENTS = frozenset(("WORD", "TEXT", "NAME", "VALUE"))


class Leaf(Protocol):
    """A token as lark hands it over; `value` is the Split of a keyword, else a Part."""

    type: str
    value: Any


class Assembler:
    """The callbacks of the grammar. Stateless: one serves all files."""

    def dockerfile(
        self, children: list[nodes.Arg | nodes.Stage]
    ) -> tuple[tuple[nodes.Arg, ...], tuple[nodes.Stage, ...]]:
        return (
            tuple([child for child in children if isinstance(child, nodes.Arg)]),
            tuple([child for child in children if isinstance(child, nodes.Stage)]),
        )

    def stage(self, children: list[nodes.Instruction]) -> nodes.Stage:
        return nodes.Stage(base=cast(nodes.From, children[0]), instructions=tuple(children[1:]))

    def base(self, children: list[Leaf]) -> nodes.From:
        head, flags, args = _open(children)
        alias = None
        if len(args) > 1:
            alias = args[1].text.lower()
            if not _STAGE_NAME.fullmatch(alias):
                raise head.error(
                    f"{args[1].text} is no name for a build stage",
                    args[1],
                    hint="a name is a letter, then letters, digits, '-', '_' or '.'",
                )
        return nodes.From(
            image=_word(head, args[0]),
            platform=flags.word("--platform"),
            alias=alias,
            written=head.written,
            span=head.span,
        )

    def run(self, children: list[Leaf]) -> nodes.Run:
        head, flags, _args = _open(children)
        network, security = flags.text("--network"), flags.text("--security")
        if network is not None and network not in _NETWORKS:
            raise flags.error("--network", "must be default, none or host")
        if security is not None and security not in _SECURITY_MODES:
            raise flags.error("--security", "must be sandbox or insecure")
        return nodes.Run(
            command=_command(children),
            heredocs=head.heredocs,
            mounts=tuple([_mount(head, part) for part in flags.values("--mount")]),
            network=network,
            security=security,
            devices=tuple([_device(head, part) for part in flags.values("--device")]),
            written=head.written,
            span=head.span,
        )

    def copy(self, children: list[Leaf]) -> nodes.Copy:
        head, flags, args = _open(children)
        sources, heredocs = _sources(head, args)
        return nodes.Copy(
            sources=sources,
            destination=_word(head, args[-1]),
            heredocs=heredocs,
            from_=flags.word("--from"),
            chown=flags.word("--chown"),
            chmod=flags.word("--chmod"),
            link=flags.switch("--link") or False,
            parents=flags.switch("--parents") or False,
            excludes=flags.words("--exclude"),
            written=head.written,
            span=head.span,
        )

    def add(self, children: list[Leaf]) -> nodes.Add:
        head, flags, args = _open(children)
        sources, heredocs = _sources(head, args)
        return nodes.Add(
            sources=sources,
            destination=_word(head, args[-1]),
            heredocs=heredocs,
            chown=flags.word("--chown"),
            chmod=flags.word("--chmod"),
            checksum=flags.word("--checksum"),
            link=flags.switch("--link") or False,
            keep_git_dir=flags.switch("--keep-git-dir"),
            unpack=flags.switch("--unpack"),
            excludes=flags.words("--exclude"),
            written=head.written,
            span=head.span,
        )

    def env(self, children: list[Leaf]) -> nodes.Env:
        head, _flags, args = _open(children)
        return nodes.Env(pairs=_pairs(head, args), written=head.written, span=head.span)

    def label(self, children: list[Leaf]) -> nodes.Label:
        head, _flags, args = _open(children)
        return nodes.Label(pairs=_pairs(head, args), written=head.written, span=head.span)

    def arg(self, children: list[Leaf]) -> nodes.Arg:
        head, _flags, args = _open(children)
        declarations = []
        for part in args:
            name, equals, default = part.text.partition("=")
            if equals and not name:
                raise head.error("a name is missing before the =", part)
            middle = part.start + len(name)
            declarations.append(
                nodes.ArgDeclaration(
                    name=_word(head, Part(name, part.start, middle)),
                    default=_word(head, Part(default, middle + 1, part.end)) if equals else None,
                )
            )
        return nodes.Arg(declarations=tuple(declarations), written=head.written, span=head.span)

    def workdir(self, children: list[Leaf]) -> nodes.Workdir:
        head, _flags, (path,) = _open(children)
        return nodes.Workdir(path=_word(head, path), written=head.written, span=head.span)

    def user(self, children: list[Leaf]) -> nodes.User:
        head, _flags, (user,) = _open(children)
        return nodes.User(user=_word(head, user), written=head.written, span=head.span)

    def cmd(self, children: list[Leaf]) -> nodes.Cmd:
        head, _flags, _args = _open(children)
        return nodes.Cmd(command=_command(children), written=head.written, span=head.span)

    def entrypoint(self, children: list[Leaf]) -> nodes.Entrypoint:
        head, _flags, _args = _open(children)
        return nodes.Entrypoint(command=_command(children), written=head.written, span=head.span)

    def expose(self, children: list[Leaf]) -> nodes.Expose:
        head, _flags, args = _open(children)
        ports = tuple([_word(head, part) for part in args])
        return nodes.Expose(ports=ports, written=head.written, span=head.span)

    def volume(self, children: list[Leaf]) -> nodes.Volume:
        head, _flags, args = _open(children)
        paths = [Part(part.text.strip(SPACES), part.start, part.end) for part in args]
        for path in paths:
            if not path.text:
                raise head.error("a volume may not be an empty string", path)
        return nodes.Volume(
            paths=tuple([_word(head, path) for path in paths]),
            written=head.written,
            span=head.span,
        )

    def stopsignal(self, children: list[Leaf]) -> nodes.Stopsignal:
        head, _flags, (signal,) = _open(children)
        return nodes.Stopsignal(signal=_word(head, signal), written=head.written, span=head.span)

    def healthcheck(self, children: list[Leaf]) -> nodes.Healthcheck:
        head, flags, _args = _open(children)
        none = any(leaf.type == "CHECK_NONE" for leaf in children)
        if none:  # BuildKit does not look at the flags of HEALTHCHECK NONE
            flags = _Flags(head, [])
        return nodes.Healthcheck(
            command=None if none else _command(children),
            interval_ns=_duration_ns(flags, "--interval"),
            timeout_ns=_duration_ns(flags, "--timeout"),
            start_period_ns=_duration_ns(flags, "--start-period"),
            start_interval_ns=_duration_ns(flags, "--start-interval"),
            retries=_retries(flags, "--retries"),
            written=head.written,
            span=head.span,
        )

    def shell(self, children: list[Leaf]) -> nodes.Shell:
        head, _flags, args = _open(children)
        argv = tuple([part.text for part in args])
        return nodes.Shell(argv=argv, written=head.written, span=head.span)

    def maintainer(self, children: list[Leaf]) -> nodes.Maintainer:
        head, _flags, (name,) = _open(children)
        return nodes.Maintainer(name=name.text, written=head.written, span=head.span)

    def onbuild(self, children: list[Any]) -> nodes.Onbuild:
        head: Split = children[0].value
        assert head.trigger is not None
        text = head.line.text[head.trigger.start :]
        for heredoc in head.heredocs:
            text += f"\n{heredoc.content}{heredoc.name}"
        return nodes.Onbuild(text=text, trigger=children[1], written=head.written, span=head.span)


class _Flags:
    """The flags of one instruction by name, quotes removed.

    Raises:
        DockerfileSyntaxError: from any method: given twice, or a value missing or impossible.
    """

    def __init__(self, split: Split, flags: list[Part]) -> None:
        self._split = split
        self._flags = flags

    def values(self, name: str) -> list[Part]:
        """The values of a flag that may be given several times."""
        found = []
        for part in self._flags:
            flag, equals, value = part.text.partition("=")
            if flag == name:
                if not equals:
                    raise self._split.error(
                        f"{name} needs a value", part, hint=f"write {name}=VALUE"
                    )
                found.append(self._value_part(part, flag, value))
        return found

    def text(self, name: str) -> str | None:
        part = self._only(self.values(name))
        return part.text if part else None

    def word(self, name: str) -> nodes.Word | None:
        part = self._only(self.values(name))
        return _word(self._split, part) if part else None

    def words(self, name: str) -> tuple[nodes.Word, ...]:
        return tuple([_word(self._split, part) for part in self.values(name)])

    def switch(self, name: str) -> bool | None:
        """A flag that is true when it stands there; None when it does not."""
        found = [part for part in self._flags if part.text.partition("=")[0] == name]
        part = self._only(found)
        if part is None:
            return None
        _flag, equals, value = part.text.partition("=")
        if equals and value.lower() not in ("true", "false"):
            raise self._split.error(f"{name} is true or false, not '{value}'", part)
        return value.lower() != "false"

    def error(self, name: str, problem: str) -> DockerfileError:
        part = self.values(name)[0]
        return self._split.error(f"{name} {problem}, not '{part.text}'", part)

    def _only(self, found: list[Part]) -> Part | None:
        if len(found) > 1:
            raise self._split.error("the flag is given twice", found[1], hint="remove one of them")
        return found[0] if found else None

    @staticmethod
    def _value_part(part: Part, flag: str, value: str) -> Part:
        exact = part.end - part.start == len(part.text)  # no quotes were removed
        return Part(value, part.start + len(flag) + 1 if exact else part.start, part.end)


def _open(children: list[Leaf]) -> tuple[Split, _Flags, list[Part]]:
    head: Split = children[0].value
    args = [leaf.value for leaf in children if leaf.type in _ARGUMENTS]
    return head, _Flags(head, head.flags), args


def _word(split: Split, part: Part) -> nodes.Word:
    return nodes.Word(text=part.text, span=split.line.span(part.start, part.end))


def _command(children: list[Leaf]) -> nodes.Command:
    texts = tuple([leaf.value.text for leaf in children if leaf.type in _ARGUMENTS])
    if any(leaf.type == "JSON" for leaf in children):
        return nodes.ExecForm(argv=texts)
    return nodes.ShellForm(text=texts[0] if texts else "")


def _pairs(split: Split, args: list[Part]) -> tuple[nodes.Pair, ...]:
    legacy = split.args[2].text == ""
    pairs = []
    for name, value in zip(args[::2], args[1::2], strict=True):
        if not name.text:
            raise split.error("a name is missing before the =", value)
        pairs.append(nodes.Pair(name=_word(split, name), value=_word(split, value), legacy=legacy))
    return tuple(pairs)


def _sources(
    split: Split, args: list[Part]
) -> tuple[tuple[nodes.Word, ...], tuple[nodes.Heredoc, ...]]:
    """What COPY and ADD take: paths, and heredocs with the content that was read for them."""
    if _heredoc(args[-1].text):
        raise split.error(f"{split.keyword} cannot have a heredoc as its destination", args[-1])
    contents = {heredoc.name: heredoc.content for heredoc in split.heredocs}
    paths, heredocs = [], []
    for part in args[:-1]:
        word = _heredoc(part.text)
        if word is None:
            paths.append(_word(split, part))
        else:
            heredocs.append(word.with_content(contents.get(word.name, "")))
    return tuple(paths), tuple(heredocs)


def _heredoc(text: str) -> HeredocWord | None:
    try:
        return heredoc_of_word(text) if "<<" in text else None
    except ExpansionError:
        return None  # an unclosed quote: BuildKit takes it for a path


def _mount(split: Split, part: Part) -> nodes.RunMount:
    options: list[tuple[str, str | None]] = []
    for field in _csv_fields(split, part):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "from" and "$" in value[:-1]:
            raise split.error(
                "from= of a mount cannot have variables",
                part,
                hint="name a stage with FROM ... AS, where variables are allowed, and use that",
            )
        options.append((key, value if equals else None))
    return nodes.RunMount(options=tuple(options), span=_span(split, part))


def _device(split: Split, part: Part) -> str:
    name = ""
    for field in _csv_fields(split, part):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            if equals and value not in _BOOLEANS:
                raise split.error(f"required is true or false, not '{value}'", part)
        elif key == "name" and equals:
            if name:
                raise split.error(f"the device already has the name {name}", part)
            name = value
        elif not name:
            name = field
        else:
            raise split.error(f"{field} is no option of a device", part, hint="try required")
    return part.text


def _csv_fields(split: Split, part: Part) -> list[str]:
    """The fields of one line of comma-separated values, as Go's encoding/csv reads it."""
    text, at, fields = part.text, 0, list[str]()
    if not text:
        raise split.error("the flag needs a value", part)
    while True:
        quoted = _CSV_QUOTED.match(text, at)
        field = quoted or _CSV_PLAIN.match(text, at)
        assert field is not None
        fields.append(quoted[1].replace('""', '"') if quoted else field[0])
        at = field.end()
        if at == len(text):
            return fields
        if text[at] != ",":
            raise split.error(
                f"'{text}' has a quote in the wrong place",
                part,
                hint="the fields are separated by commas; quote a whole field or nothing",
            )
        at += 1


def _duration_ns(flags: _Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    nanoseconds = _parse_duration_ns(text)
    if nanoseconds is None:
        raise flags.error(name, "must be a duration such as 30s or 1m30s")
    if nanoseconds and nanoseconds < _DURATION_MIN_NS:
        raise flags.error(name, "must be at least 1ms")
    return nanoseconds


def _parse_duration_ns(text: str) -> int | None:
    """A duration as Go's time.ParseDuration reads it; None where that fails."""
    sign = -1 if text[0] == "-" else 1
    text = text[1:] if text[0] in "+-" else text
    if text == "0":
        return 0
    total = at = 0
    while at < len(text) or not at:
        match = _DURATION.match(text, at)
        if match is None or not (match[1] or match[2]) or len(match[1]) > 19:
            return None
        unit = _UNITS_NS[match[3]]
        fraction = (match[2] or "")[:18]
        total += int(match[1] or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        if total > _DURATION_MAX_NS:
            return None
        at = match.end()
    return sign * total


def _retries(flags: _Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdecimal()) or len(digits.lstrip("0")) > 10:
        raise flags.error(name, "must be a whole number")
    number = int(digits.lstrip("0") or "0")
    if number > _RETRIES_MAX or (number and text[0] == "-"):
        raise flags.error(name, f"must be from 0 to {_RETRIES_MAX}")
    return number


def _span(split: Split, part: Part) -> Span:
    return split.line.span(part.start, part.end)
