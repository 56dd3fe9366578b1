"""One pass over a Dockerfile in the order in which BuildKit converts it, with every check.

    the text      empty continuations; what one instruction alone can do wrong
    the stages    names, casing, the bases that the defaults of the ARGs give
    each base     variables and platforms of FROM
    each stage    instruction by instruction, with the variables as they are there

An error ends the pass, and the warnings up to there stay: `Survey.failure`. Metadata instructions
are lowered as in a build, so that what they refuse is refused here; RUN, COPY and ADD would need
files, and only their words are looked at.

Source: moby/buildkit frontend/dockerfile: dockerfile2llb/convert.go, convert_expose.go,
validations.go; instructions/parse.go.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from builder.check import rules
from builder.check.comments import Comments, comments_of, instructions_of, options_in
from builder.check.excerpt import excerpt_of
from builder.check.names import did_you_mean, quoted
from builder.check.options import NO_OPTIONS, parse_options
from builder.check.platformname import PlatformName, platform_name
from builder.check.rules import Rule
from builder.errors import BuilderError, CheckFailedError, PlanError
from builder.events import CheckWarning
from builder.ignorefile import IgnoreRules, compile_rules, read_patterns
from builder.lower import Surroundings, lower
from builder.lower.run import DEFAULT_PATH
from builder.patterns import BadPatternError
from builder.plan import BuildPlan, ImageBase, PlannedStage, ScratchBase, StageBase, plan
from builder.plan import global_values as values_for_from
from builder.sources import SourceTree
from builder.state import StageState
from grammar import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    DockerfileError,
    Entrypoint,
    Env,
    ExpansionError,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Run,
    ShellForm,
    Span,
    Stopsignal,
    User,
    Volume,
    Word,
    Workdir,
    Written,
    expand,
    expand_content,
    expand_words,
    parse_instruction,
)
from layerstore import (
    ContainerConfig,
    ImageConfig,
    InvalidReferenceError,
    Platform,
    Reference,
    host_platform,
)

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
_RESERVED = ("context", "scratch")
_NO_VARIABLES = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
_SECRET = re.compile(
    r"(?:_|\A)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|\Z)", re.I
)
_NO_SECRET = re.compile(r"(?:_|\A)(?:public|file|version)(?:_|\Z)", re.I)
_REMOTE = re.compile(r"(?i)https?://|git@|git://|ssh://")
_ALL_OF_ROOT = ("*", "**", "**/*")
_GUESSES_MAX = 100  # how often to look for the name that was meant: it takes long
_PROTOCOLS = ("", "tcp", "udp", "sctp")
_MOUNT_TARGETS = ("target", "dst", "destination")
# The first three would need files; the others are only refused where a variable is empty, and
# those of an unknown base image are.
_NOT_LOWERED = (Run, Copy, Add, User, Workdir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to look at. `find_base` gives the config of an image, None where it is unknown."""

    dockerfile: Dockerfile
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    ignore_file: bytes | None = None
    platform: Platform = field(default_factory=host_platform)
    find_base: Callable[[str], ImageConfig | None] = lambda _name: None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The warnings as they were found.

    `failure` is what ended the pass, or a `CheckFailedError` where the file says that warnings are
    errors; it knows its place, as does `failure_span` where there is one.
    """

    warnings: tuple[CheckWarning, ...]
    failure: DockerfileError | BuilderError | None
    failure_span: Span | None
    notes: tuple[StageNotes, ...]
    plan: BuildPlan | None


def survey_of(subject: Subject, *, all_stages: bool) -> Survey:
    """Look at the file; at all stages, or at those alone that the target needs.

    Raises:
        PlanError: options of checks that make no sense.
    """
    walk = _Walk(subject)
    failure: DockerfileError | BuilderError | None = None
    try:
        walk.walk(all_stages=all_stages)
    except DockerfileError as error:
        failure = error.place(span=walk.span, source=subject.dockerfile.source)
    except BuilderError as error:
        failure = error
    if failure is None and walk.warnings and walk.options.is_error:
        failure = CheckFailedError(rules=tuple(dict.fromkeys(w.rule for w in walk.warnings)))
        first = walk.warnings[0]
        walk.span = Span(
            start_line=first.line, start_column=1, end_line=first.end_line, end_column=1
        )
    if isinstance(failure, BuilderError) and walk.span is not None:
        lines = walk.span.start_line, walk.span.end_line
        failure.excerpt = excerpt_of(subject.dockerfile, *lines)
    return Survey(
        warnings=tuple(walk.warnings),
        failure=failure,
        failure_span=walk.span if failure else None,
        notes=tuple(walk.notes),
        plan=walk.plan,
    )


@dataclass(slots=True)
class _Stage:
    """A stage on the way.

    `defined` has the names of its variables, the oldest first; `given` the lines of the CMD,
    ENTRYPOINT and HEALTHCHECK so far.
    """

    state: StageState
    defined: dict[str, None]
    has_workdir: bool = False
    given: dict[type[Instruction], tuple[int, int]] = field(default_factory=dict)


class _Environment(Mapping[str, str]):
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


class _Walk:
    """The pass. `span`, `lines` and `local` are those of the instruction that is looked at."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._file = subject.dockerfile
        self._escape = self._file.directives.escape
        self._comments: Comments = comments_of(self._file)
        self.options = parse_options(
            subject.build_args.get(CHECK_ARG, self._file.directives.check or "")
        )
        self.warnings: list[CheckWarning] = []
        self.notes = [StageNotes() for _stage in self._file.stages]
        self.plan: BuildPlan | None = None
        self.span: Span | None = None
        self._lines = (0, 0)
        self._local = NO_OPTIONS
        self._platforms: list[PlatformName | None] = []
        self._ignored_patterns = read_patterns(subject.ignore_file or b"")
        self._ignore_rules: IgnoreRules | None = None
        self._guesses_left = _GUESSES_MAX
        self._stages: dict[int, _Stage] = {}

    def walk(self, *, all_stages: bool) -> None:
        self._text()
        self._local = NO_OPTIONS  # for the checks of the file as a whole, the file's options count
        self._stage_names()
        self._casing()
        self._default_bases()
        self._bases()
        self.span = None
        self.plan = plan(
            self._file,
            target=self._subject.target,
            build_args=self._subject.build_args,
            platform=self._subject.platform,
        )
        for stage in self.plan.stages:
            if all_stages or stage.index in self.plan.needed:
                self._stage(stage)

    # ---- the text

    def _text(self) -> None:
        for instruction in instructions_of(self._file):
            written = instruction.written
            last = written.end_line - sum(
                heredoc.content.count("\n") + 1 for heredoc in written.heredocs
            )
            lines = self._file.source.lines[written.start_line : last]
            if any(not line.strip() for line in lines):
                self._lines = (last, last)
                self._local = NO_OPTIONS
                self._warn(rules.NO_EMPTY_CONTINUATION)
        for instruction in instructions_of(self._file):
            comments = self._enter(instruction.written)
            match instruction:
                case Maintainer():
                    self._warn(rules.MAINTAINER_DEPRECATED)
                case From(written=written):
                    self._from_as_written(written)
                    if instruction.alias:
                        self._description("FROM", [instruction.alias], comments)
                case Arg():
                    names = [declaration.name.text for declaration in instruction.declarations]
                    self._description("ARG", names, comments)
                case _:
                    pass

    def _from_as_written(self, written: Written) -> None:
        if len(written.args) != 3:
            return
        _base, keyword, name = (str(arg) for arg in written.args)
        if name != name.lower():
            self._warn(rules.STAGE_NAME_CASING, name)
        spelling = written.spelling
        if spelling == spelling.lower():
            is_same = keyword == keyword.lower()
        else:  # a FROM in mixed case says nothing about AS
            is_same = spelling != spelling.upper() or keyword == keyword.upper()
        if not is_same:
            self._warn(rules.FROM_AS_CASING, keyword, spelling)

    def _description(self, keyword: str, names: list[str], comments: tuple[str, ...]) -> None:
        if not comments or comments[-1].split(" ")[0] in names:
            return
        example = names[0] if len(names) == 1 else "<arg_key>"
        self._warn(rules.INVALID_DEFINITION_DESCRIPTION, keyword, example)

    # ---- the stages as a whole

    def _stage_names(self) -> None:
        seen = set()
        for stage in self._file.stages:
            name = stage.base.alias
            if not name:
                continue
            self._at(stage.base.written)
            if name in _RESERVED:
                self._warn(rules.RESERVED_STAGE_NAME, quoted(name))
            if name in seen:
                self._warn(rules.DUPLICATE_STAGE_NAME, quoted(name))
            seen.add(name)

    def _casing(self) -> None:
        counted = [
            instruction.written
            for stage in self._file.stages
            for instruction in (stage.base, *stage.instructions)
        ]
        spellings = [written.spelling for written in counted]
        lower = sum(spelling == spelling.lower() for spelling in spellings)
        upper = sum(spelling == spelling.upper() for spelling in spellings)
        for written in counted:
            spelling = written.spelling
            wanted = spelling.lower() if lower > upper else spelling.upper()
            if spelling != wanted:
                self._at(written)
                casing = "lowercase" if lower > upper else "uppercase"
                self._warn(rules.CONSISTENT_INSTRUCTION_CASING, spelling, casing)

    def _default_bases(self) -> None:
        """Are the bases names of images without any build argument?"""
        subject = self._subject
        try:
            values = values_for_from(self._file, {}, subject.platform, subject.target)
            for stage in self._file.stages:
                self._at(stage.base.written)
                name = expand(stage.base.image, values, escape=self._escape)
                if not _is_image_name(name):
                    self._warn(rules.INVALID_DEFAULT_ARG_IN_FROM, stage.base.image.text)
        except ExpansionError:
            return  # the build arguments may help; if not, it is told there

    def _bases(self) -> None:
        subject = self._subject
        self.span = self._file.global_args[0].span if self._file.global_args else None
        values = values_for_from(self._file, subject.build_args, subject.platform, subject.target)
        known = {
            **dict.fromkeys(
                declaration.name.text
                for arg in self._file.global_args
                for declaration in arg.declarations
            ),
            **dict.fromkeys(values),
        }
        for index, stage in enumerate(self._file.stages):
            node = stage.base
            self._enter(node.written)
            self.span = node.span
            used = self.notes[index].used
            environment = _Environment(values)
            if not self._in_from(node.image, environment, known, used):
                raise PlanError(
                    f"base name ({node.image.text}) should not be blank",
                    hint="give the ARG a default above FROM, or pass --build-arg",
                )
            platform = None
            if node.platform is not None:
                platform = self._platform(node, node.platform, values, known, used)
            self._platforms.append(platform)

    def _in_from(
        self, word: Word, environment: _Environment, known: Mapping[str, None], used: set[str]
    ) -> str:
        try:
            return expand(word, environment, escape=self._escape)
        finally:
            used.update(environment.found)
            for name in environment.missing:
                if name not in known:
                    self._warn(rules.UNDEFINED_ARG_IN_FROM, name, self._meant(name, known))

    def _platform(
        self,
        node: From,
        word: Word,
        values: Mapping[str, str],
        known: Mapping[str, None],
        used: set[str],
    ) -> PlatformName:
        environment = _Environment(values)
        text = self._in_from(word, environment, known, used)
        name = platform_name(text, self._subject.platform)
        if list(environment.found) == ["TARGETPLATFORM"] and not environment.missing:
            if text == values["TARGETPLATFORM"]:
                self._warn(rules.REDUNDANT_TARGET_PLATFORM, word.text)
        elif not environment.found and not environment.missing and name is not None:
            alias = node.alias or ""
            if name.os not in alias and name.architecture not in alias:
                self._warn(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, quoted(text))
        if name is None:
            near = next(iter(environment.missing), "")
            meant = did_you_mean(near, values) if near else ""
            problem = (
                f"failed to parse platform {word.text}"
                if text
                else f"empty platform value from expression {word.text}"
            )
            raise PlanError(problem + meant, hint="a platform is OS/ARCHITECTURE: linux/amd64")
        return name

    # ---- one stage

    def _stage(self, planned: PlannedStage) -> None:
        self._enter(planned.from_node.written)
        self.span = planned.from_node.span
        stage = self._stages[planned.index] = self._opened(planned)
        notes = self.notes[planned.index]
        triggers = stage.state.config.on_build
        stage.state = replace(stage.state, config=replace(stage.state.config, on_build=()))
        self._local = NO_OPTIONS
        for text in triggers:  # they stand where FROM stands
            self._instruction(parse_instruction(text, name="ONBUILD"), stage, notes)
        for instruction in planned.instructions:
            self._enter(instruction.written)
            self.span = instruction.span
            self._instruction(instruction, stage, notes)

    def _opened(self, planned: PlannedStage) -> _Stage:
        default = ContainerConfig(env=(f"PATH={DEFAULT_PATH}",))
        match planned.base:
            case StageBase(index=index):
                below = self._stages[index]
                return _Stage(
                    state=below.state,
                    defined=dict(below.defined),
                    has_workdir=below.has_workdir,
                )
            case ScratchBase():
                return _with(default)
            case ImageBase(name=name):
                image = self._subject.find_base(name)
                if image is None:
                    return _with(default)
                self._base_platform(name, image, self._platforms[planned.index])
                config = image.config
                if not any(pair.startswith("PATH=") for pair in config.env):
                    config = replace(config, env=(*config.env, *default.env))
                return _with(config)

    def _base_platform(self, name: str, image: ImageConfig, given: PlatformName | None) -> None:
        host = self._subject.platform
        wanted = given or PlatformName(host.os, host.architecture)
        found = PlatformName(image.os, image.architecture)
        if found != wanted:
            self._local = options_in(self._comments.get(self._lines[0], ()))
            self._warn(
                rules.INVALID_BASE_IMAGE_PLATFORM,
                name,
                quoted("/".join(found)),
                quoted("/".join(wanted)),
            )

    def _instruction(self, node: Instruction, stage: _Stage, notes: StageNotes) -> None:
        scope = _Scope(
            values=stage.state.environment(),
            declared={name for name, _value in stage.state.args},
            defined=stage.defined,
        )

        def words(*found: Word | None) -> list[str]:
            return [self._word(word, scope) for word in found if word is not None]

        name = node.written.spelling
        match node:
            case Env() | Label():
                for pair in node.pairs:
                    words(pair.name, pair.value)
                for pair in node.pairs:
                    if pair.legacy:
                        self._warn(rules.LEGACY_KEY_VALUE_FORMAT, name)
                    if isinstance(node, Env):
                        key = expand(pair.name, scope.values, escape=self._escape)
                        self._secret("ENV", key)
                        scope.define(key)
            case Arg():
                self._arg(node, scope, notes)
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
                    self._ignored("Copy", sources)
            case Add():
                words(node.chown, node.chmod, node.checksum)
                sources = words(*node.sources)
                words(node.destination)
                self._documents(node.heredocs, scope)
                self._ignored("Add", [each for each in sources if not _REMOTE.match(each)])
            case Run():
                self._mounts(node, scope, notes)
            case Cmd() | Entrypoint() | Healthcheck():
                self._once(node, name, stage)
                is_shell = isinstance(node.command, ShellForm)
                if is_shell and not isinstance(node, Healthcheck) and not stage.state.config.shell:
                    self._warn(rules.JSON_ARGS_RECOMMENDED, name)
            case _:
                pass
        if not isinstance(node, _NOT_LOWERED):
            stage.state = lower(node, stage.state, self._surroundings()).state

    def _word(self, word: Word | str, scope: _Scope) -> str:
        environment = _Environment(scope.values)
        try:
            return expand(word, environment, escape=self._escape)
        finally:
            self._unset(environment, scope)

    def _documents(self, heredocs: tuple[Heredoc, ...], scope: _Scope) -> None:
        for heredoc in heredocs:
            if heredoc.expand:
                environment = _Environment(scope.values)
                try:
                    expand_content(heredoc.content, environment)
                finally:
                    self._unset(environment, scope)

    def _unset(self, environment: _Environment, scope: _Scope) -> None:
        for name in environment.missing:
            if name not in scope.declared and name not in _NO_VARIABLES:
                meant = self._meant(name, reversed(scope.defined), sign="$")
                self._warn(rules.UNDEFINED_VAR, name, meant)

    def _arg(self, node: Arg, scope: _Scope, notes: StageNotes) -> None:
        """ARG: each default sees what stands before it on the line."""
        given = self._subject.build_args
        inherited = self.plan.global_args if self.plan else {}
        for declaration in node.declarations:
            name = declaration.name.text
            self._secret("ARG", name)
            value = given.get(name)
            if value is None and declaration.default is not None:
                value = self._word(declaration.default, scope)
            is_own = value is not None or name not in inherited
            if value is None:
                value = inherited.get(name)
            if value is not None:
                scope.values[name] = value
                scope.define(name)
            if is_own:
                first, last = self._lines
                notes.args[name] = Declared(name=name, value=value or "", line=first, end_line=last)
            notes.used.add(name)
            scope.declared.add(name)

    def _mounts(self, node: Run, scope: _Scope, notes: StageNotes) -> None:
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
            first, last = self._lines
            notes.mounts.setdefault(
                (kind, id_),
                Mounted(
                    kind=kind,
                    id=id_,
                    is_required=options.get("required", "").lower() in ("1", "t", "true"),
                    line=first,
                    end_line=last,
                ),
            )

    def _once(self, node: Cmd | Entrypoint | Healthcheck, name: str, stage: _Stage) -> None:
        """Say that the one before is of no use."""
        lines = self._lines
        before = stage.given.get(type(node))
        if before is not None:
            self._lines = before
            self._warn(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, name)
            self._lines = lines
        stage.given[type(node)] = lines

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

    def _ignored(self, verb: str, sources: list[str]) -> None:
        """Sources that the ignore file leaves out; not told where `!` takes something back in."""
        patterns = self._ignored_patterns
        if not patterns or any(pattern.startswith("!") for pattern in patterns):
            return
        if self._ignore_rules is None:
            try:
                self._ignore_rules = compile_rules(patterns)
            except BadPatternError as error:
                raise PlanError(f".dockerignore: {error}") from error
        for source in sources:
            path = posixpath.normpath(source)
            if path in (".", "/") and not any(pattern in _ALL_OF_ROOT for pattern in patterns):
                continue
            if self._ignore_rules.ignores(path):
                self._warn(rules.COPY_IGNORED_FILE, verb, quoted(path))

    # ---- telling

    def _enter(self, written: Written) -> tuple[str, ...]:
        """Turn to an instruction; returns the comments above it."""
        self._at(written)
        comments = self._comments.get(written.start_line, ())
        self._local = options_in(comments) if comments else NO_OPTIONS
        return comments

    def _at(self, written: Written) -> None:
        self._lines = (written.start_line, written.end_line)

    def _warn(self, rule: Rule, *words: str) -> None:
        if not self.options.with_those_of(self._local).allows(rule):
            return
        first, last = self._lines
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

    def _meant(self, name: str, known: Iterable[str], *, sign: str = "") -> str:
        self._guesses_left -= 1
        return did_you_mean(name, known, sign=sign) if self._guesses_left >= 0 else ""

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            find_source=_no_source,
            build_args=self._subject.build_args,
            global_args=self.plan.global_args if self.plan else {},
            escape=self._escape,
            network="host",
        )


def _with(config: ContainerConfig) -> _Stage:
    names = (pair.partition("=")[0] for pair in config.env)
    return _Stage(state=StageState(config=config), defined=dict.fromkeys(names))


def _no_source(_name: str | None) -> SourceTree:
    raise AssertionError("only RUN, COPY and ADD have sources, and they are not lowered here")


def _is_image_name(text: str) -> bool:
    try:
        Reference.parse(text)
    except InvalidReferenceError:
        return False
    return True
