"""Checks of a stage, instruction by instruction, with the variables as they are there.

Metadata instructions are lowered as in a build, so that what they refuse is refused here; RUN,
COPY and ADD would need files, and only their words are looked at.

Source: moby/buildkit frontend/dockerfile/dockerfile2llb: convert.go (dispatch), convert_expose.go,
convert_copy.go, convert_runmount.go, validations.go.
"""

import posixpath
import re
from dataclasses import dataclass, field, replace

from builder.check import rules
from builder.check.filechecks import Base
from builder.check.findings import Environment, Findings, Lines
from builder.check.names import quoted
from builder.check.platformname import PlatformName
from builder.errors import PlanError
from builder.ignorefile import IgnoreRules, compile_rules, read_patterns
from builder.lower import Surroundings, lower
from builder.patterns import BadPatternError
from builder.plan import BuildPlan, ContextBase, ImageBase, PlannedStage, ScratchBase, StageBase
from builder.sources import SourceTree
from builder.state import DEFAULT_PATH_ENV, StageState
from grammar import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Run,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    Word,
    Workdir,
    expand,
    expand_content,
    expand_words,
    parse_instruction,
)
from layerstore import ContainerConfig, ImageConfig

_NO_VARIABLES = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
_SECRET = re.compile(
    r"(?:_|\A)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|\Z)", re.I
)
_NO_SECRET = re.compile(r"(?:_|\A)(?:public|file|version)(?:_|\Z)", re.I)
_REMOTE = re.compile(r"(?i)https?://|git@|git://|ssh://")
_ALL_OF_ROOT = ("*", "**", "**/*")
_PROTOCOLS = ("", "tcp", "udp", "sctp")
_MOUNT_TARGETS = ("target", "dst", "destination")
_TRUE = ("1", "t", "true")
# The first three would need files; the others are only refused where a variable is empty, and
# those of an unknown base image are.
_NOT_LOWERED = (Run, Copy, Add, User, Workdir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An ARG as its stage has it. `name` is as written."""

    name: str
    value: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A secret, an ssh agent or a cache that a RUN mounts."""

    kind: str
    id: str
    is_required: bool
    line: int
    end_line: int


@dataclass(slots=True)
class StageNotes:
    """What a stage takes from outside. `args` inherited from the global scope are only `used`."""

    used: set[str] = field(default_factory=set)
    args: dict[str, Declared] = field(default_factory=dict)
    mounts: dict[tuple[str, str], Mounted] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Stage:
    """A stage on the way.

    `defined` has the names of its variables, the oldest first; `given` the lines of the CMD,
    ENTRYPOINT and HEALTHCHECK so far.
    """

    state: StageState
    defined: dict[str, None]
    notes: StageNotes
    has_workdir: bool = False
    given: dict[type[Instruction], Lines] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """The variables an instruction sees, and the ARGs without a value, which are no surprise."""

    values: dict[str, str]
    declared: set[str]
    defined: dict[str, None]

    def define(self, name: str) -> None:
        """Make `name` the newest variable."""
        self.defined.pop(name, None)
        self.defined[name] = None


class StageChecks:
    """The stages of one plan. Check a stage after those it stands on."""

    def __init__(self, findings: Findings, plan: BuildPlan, bases: list[Base]) -> None:
        subject = findings.subject
        self.notes = tuple(StageNotes(used=set(base.used)) for base in bases)
        self._findings = findings
        self._warn = findings.warn
        self._escape = findings.escape
        self._platforms = [base.platform for base in bases]
        self._stages: dict[int, _Stage] = {}
        self._ignored = _Ignored(subject.ignore_file)
        self._around = Surroundings(
            find_source=_no_source,
            build_args=subject.build_args,
            global_args=plan.global_args,
            escape=findings.escape,
            network="default",
        )

    def check(self, planned: PlannedStage) -> None:
        """Carry out all checks of a stage.

        Raises:
            BuilderError, grammar.DockerfileError: an instruction that can never be carried out.
        """
        findings = self._findings
        findings.enter(planned.from_node)
        findings.at(planned.from_node.written)
        stage = self._stages[planned.index] = self._open(planned)
        triggers = stage.state.config.on_build
        stage.state = replace(stage.state, config=replace(stage.state.config, on_build=()))
        for text in triggers:  # they stand where FROM stands
            self._instruction(parse_instruction(text, name="ONBUILD"), stage)
        for instruction in planned.instructions:
            findings.enter(instruction)
            self._instruction(instruction, stage)

    def _open(self, planned: PlannedStage) -> _Stage:
        notes = self.notes[planned.index]
        path = DEFAULT_PATH_ENV
        match planned.base:
            case StageBase(index=index):
                below = self._stages[index]
                return _Stage(
                    state=below.state,
                    defined=dict(below.defined),
                    notes=notes,
                    has_workdir=below.has_workdir,
                )
            case ScratchBase() | ContextBase():
                config = ContainerConfig()
            case ImageBase(name=name):
                image = self._findings.subject.find_base(name)
                if image is not None:
                    self._base_platform(name, image, self._platforms[planned.index])
                config = ContainerConfig() if image is None else image.config
        if not any(pair.startswith("PATH=") for pair in config.env):
            config = replace(config, env=(*config.env, path))
        names = (pair.partition("=")[0] for pair in config.env)
        return _Stage(state=StageState(config=config), defined=dict.fromkeys(names), notes=notes)

    def _base_platform(self, name: str, image: ImageConfig, given: PlatformName | None) -> None:
        host = self._findings.subject.platform
        wanted = given or PlatformName(host.os, host.architecture)
        found = PlatformName(image.os, image.architecture)
        if found != wanted:
            self._warn(
                rules.INVALID_BASE_IMAGE_PLATFORM,
                name,
                quoted("/".join(found)),
                quoted("/".join(wanted)),
            )

    def _instruction(self, node: Instruction, stage: _Stage) -> None:
        scope = _Scope(
            values=stage.state.environment(),
            declared={name for name, _value in stage.state.args},
            defined=stage.defined,
        )

        def words(*found: Word | None) -> list[str]:
            return [self._word(word, scope) for word in found if word is not None]

        match node:
            case Env() | Label():
                for pair in node.pairs:
                    words(pair.name, pair.value)
                self._pairs(node, scope)
            case Arg():
                self._arg(node, scope, stage.notes)
            case Workdir(path=path):
                (text,) = words(path)
                if not stage.has_workdir and not text.startswith("/"):
                    self._warn(rules.WORKDIR_RELATIVE_PATH, quoted(text))
                stage.has_workdir = True
            case User(user=word) | Stopsignal(signal=word):
                words(word)
            case Volume(paths=paths):
                words(*paths)
            case Expose(ports=ports):
                for port in sorted(ports, key=lambda word: word.text):
                    for text in expand_words(port, scope.values, escape=self._escape):
                        self._port(text)
            case Copy():
                words(node.chown, node.chmod)
                sources = words(*node.sources)
                words(node.destination)
                self._documents(node.heredocs, scope)
                if node.from_ is None:
                    self._sources("Copy", sources)
            case Add():
                words(node.chown, node.chmod, node.checksum)
                sources = words(*node.sources)
                words(node.destination)
                self._documents(node.heredocs, scope)
                self._sources("Add", [each for each in sources if not _REMOTE.match(each)])
            case Run():
                self._mounts(node, scope, stage.notes)
            case Cmd() | Entrypoint() | Healthcheck():
                self._command(node, stage)
            case _:
                pass
        if not isinstance(node, _NOT_LOWERED):
            stage.state = lower(node, stage.state, self._around).state

    # ---- words

    def _word(self, word: Word | str, scope: _Scope) -> str:
        environment = Environment(scope.values)
        try:
            return expand(word, environment, escape=self._escape)
        finally:
            self._unset(environment, scope)

    def _documents(self, heredocs: tuple[Heredoc, ...], scope: _Scope) -> None:
        for heredoc in heredocs:
            if heredoc.expand:
                environment = Environment(scope.values)
                try:
                    expand_content(heredoc.content, environment)
                finally:
                    self._unset(environment, scope)

    def _unset(self, environment: Environment, scope: _Scope) -> None:
        for name in environment.missing:
            if name not in scope.declared and name not in _NO_VARIABLES:
                meant = self._findings.meant(name, reversed(scope.defined), sign="$")
                self._warn(rules.UNDEFINED_VAR, name, meant)

    # ---- instructions

    def _pairs(self, node: Env | Label, scope: _Scope) -> None:
        for pair in node.pairs:
            if pair.legacy:
                self._warn(rules.LEGACY_KEY_VALUE_FORMAT, node.written.spelling)
            if isinstance(node, Env):
                name = expand(pair.name, scope.values, escape=self._escape)
                self._secret("ENV", name)
                scope.define(name)

    def _arg(self, node: Arg, scope: _Scope, notes: StageNotes) -> None:
        """ARG: each default sees what stands before it on the line."""
        given, inherited = self._around.build_args, self._around.global_args
        first, last = self._findings.lines
        for declaration in node.declarations:
            name = declaration.name.text
            self._secret("ARG", name)
            value = given.get(name)
            if value is None and declaration.default is not None:
                value = self._word(declaration.default, scope)
            if value is not None or name not in inherited:
                notes.args[name] = Declared(name=name, value=value or "", line=first, end_line=last)
            if value is None:
                value = inherited.get(name)
            if value is not None:
                scope.values[name] = value
                scope.define(name)
            notes.used.add(name)
            scope.declared.add(name)

    def _secret(self, keyword: str, name: str) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            self._warn(rules.SECRETS_USED_IN_ARG_OR_ENV, keyword, quoted(name))

    def _port(self, text: str) -> None:
        *host, port = text.split(":")
        _number, _, protocol = port.partition("/")
        if protocol.lower() not in _PROTOCOLS:
            return  # refused when it is lowered
        if protocol != protocol.lower():
            self._warn(rules.EXPOSE_PROTO_CASING, text)
        if any(host):
            self._warn(rules.EXPOSE_INVALID_FORMAT, text)

    def _sources(self, verb: str, sources: list[str]) -> None:
        for source in sources:
            path = posixpath.normpath(source)
            if self._ignored(path):
                self._warn(rules.COPY_IGNORED_FILE, verb, quoted(path))

    def _mounts(self, node: Run, scope: _Scope, notes: StageNotes) -> None:
        first, last = self._findings.lines
        for mount in node.mounts:
            options = {
                name.lower(): "true" if value is None else self._word(value, scope)
                for name, value in mount.options
            }
            kind = options.get("type", "bind")
            target = next((options[key] for key in _MOUNT_TARGETS if key in options), "")
            source = options.get("source", options.get("src", ""))
            match kind:
                case "secret":
                    id_ = source or options.get("id") or posixpath.basename(target)
                case "ssh":
                    id_ = options.get("id") or "default"
                case "cache":
                    id_ = options.get("id") or posixpath.normpath(target)
                case _:
                    continue
            mounted = Mounted(
                kind=kind,
                id=id_,
                is_required=options.get("required", "").lower() in _TRUE,
                line=first,
                end_line=last,
            )
            notes.mounts.setdefault((kind, id_), mounted)

    def _command(self, node: Cmd | Entrypoint | Healthcheck, stage: _Stage) -> None:
        name = node.written.spelling
        before = stage.given.get(type(node))
        if before is not None:  # that one is of no use
            self._warn(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, name, lines=before)
        stage.given[type(node)] = self._findings.lines
        is_shell = isinstance(node.command, ShellForm) and not isinstance(node, Healthcheck)
        if is_shell and not stage.state.config.shell:
            self._warn(rules.JSON_ARGS_RECOMMENDED, name)


class _Ignored:
    """Whether the ignore file leaves a source out; it does not say where `!` takes some back."""

    def __init__(self, ignore_file: bytes | None) -> None:
        self._patterns = read_patterns(ignore_file or b"")
        self._is_silent = any(pattern.startswith("!") for pattern in self._patterns)
        self._has_all = any(pattern in _ALL_OF_ROOT for pattern in self._patterns)
        self._rules: IgnoreRules | None = None

    def __call__(self, path: str) -> bool:
        if not self._patterns or self._is_silent:
            return False
        if self._rules is None:
            try:
                self._rules = compile_rules(self._patterns)
            except BadPatternError as error:
                raise PlanError(f".dockerignore: {error}") from error
        if path in (".", "/") and not self._has_all:
            return False
        return self._rules.ignores(path)


def _no_source(_name: str | None) -> SourceTree:
    raise AssertionError("only RUN, COPY and ADD have sources, and they are not lowered here")
