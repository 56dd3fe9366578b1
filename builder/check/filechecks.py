"""Checks of the file as a text, of its stages by their names, and of what they stand on.

Source: moby/buildkit frontend/dockerfile: instructions/parse.go; dockerfile2llb/validations.go and
convert.go (buildDispatchStates).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from builder.check import rules
from builder.check.comments import instructions_of
from builder.check.findings import Environment, Findings
from builder.check.names import quoted
from builder.check.platformname import PlatformName, platform_name
from builder.errors import PlanError
from builder.plan import global_values
from grammar import Arg, ExpansionError, From, Maintainer, Word, Written, expand
from layerstore import InvalidReferenceError, Reference

_RESERVED = ("context", "scratch")


class Base(NamedTuple):
    """What a FROM says besides its image: a platform, and the ARGs that it uses."""

    platform: PlatformName | None
    used: frozenset[str]


def check_file(findings: Findings) -> list[Base]:
    """Carry out all checks of this file; returns the base of each stage.

    Raises:
        PlanError, grammar.DockerfileError: no FROM, or one that can never be.
    """
    _check_continuations(findings)
    _check_instructions(findings)
    _check_stage_names(findings)
    _check_casing(findings)
    _check_default_bases(findings)
    return _check_bases(findings)


def _check_continuations(findings: Findings) -> None:
    for instruction in instructions_of(findings.file):
        written = instruction.written
        last = written.end_line - sum(
            heredoc.content.count("\n") + 1 for heredoc in written.heredocs
        )
        lines = findings.file.source.lines[written.start_line : last]
        if any(not line.strip() for line in lines):
            findings.at(written)
            findings.warn(rules.NO_EMPTY_CONTINUATION, lines=(last, last))


def _check_instructions(findings: Findings) -> None:
    """What one instruction alone can do wrong, whatever variables there are."""
    for instruction in instructions_of(findings.file):
        comments = findings.enter(instruction)
        match instruction:
            case Maintainer():
                findings.warn(rules.MAINTAINER_DEPRECATED)
            case From(written=written):
                _check_from_as(findings, written)
                if instruction.alias:
                    _check_description(findings, "FROM", [instruction.alias], comments)
            case Arg():
                names = [declaration.name.text for declaration in instruction.declarations]
                _check_description(findings, "ARG", names, comments)
            case _:
                pass


def _check_from_as(findings: Findings, written: Written) -> None:
    if len(written.args) != 3:
        return
    _base, keyword, name = (str(arg) for arg in written.args)
    if name != name.lower():
        findings.warn(rules.STAGE_NAME_CASING, name)
    spelling = written.spelling
    if spelling == spelling.lower():
        is_same = keyword == keyword.lower()
    else:  # a FROM in mixed case says nothing about AS
        is_same = spelling != spelling.upper() or keyword == keyword.upper()
    if not is_same:
        findings.warn(rules.FROM_AS_CASING, keyword, spelling)


def _check_description(
    findings: Findings, keyword: str, names: list[str], comments: tuple[str, ...]
) -> None:
    if not comments or comments[-1].split(" ")[0] in names:
        return
    example = names[0] if len(names) == 1 else "<arg_key>"
    findings.warn(rules.INVALID_DEFINITION_DESCRIPTION, keyword, example)


def _check_stage_names(findings: Findings) -> None:
    seen = set()
    for stage in findings.file.stages:
        name = stage.base.alias
        if not name:
            continue
        findings.at(stage.base.written)
        if name in _RESERVED:
            findings.warn(rules.RESERVED_STAGE_NAME, quoted(name))
        if name in seen:
            findings.warn(rules.DUPLICATE_STAGE_NAME, quoted(name))
        seen.add(name)


def _check_casing(findings: Findings) -> None:
    counted = [
        instruction.written
        for stage in findings.file.stages
        for instruction in (stage.base, *stage.instructions)
    ]
    spellings = [written.spelling for written in counted]
    lower = sum(spelling == spelling.lower() for spelling in spellings)
    upper = sum(spelling == spelling.upper() for spelling in spellings)
    for written in counted:
        spelling = written.spelling
        wanted = spelling.lower() if lower > upper else spelling.upper()
        if spelling != wanted:
            findings.at(written)
            casing = "lowercase" if lower > upper else "uppercase"
            findings.warn(rules.CONSISTENT_INSTRUCTION_CASING, spelling, casing)


def _check_default_bases(findings: Findings) -> None:
    """Are the bases names of images without any build argument?"""
    subject = findings.subject
    findings.span = None  # where a file without stages is at fault
    try:
        values = global_values(findings.file, {}, subject.platform, subject.target)
        for stage in findings.file.stages:
            findings.at(stage.base.written)
            name = expand(stage.base.image, values, escape=findings.escape)
            if not _is_image_name(name):
                findings.warn(rules.INVALID_DEFAULT_ARG_IN_FROM, stage.base.image.text)
    except ExpansionError:
        return  # the build arguments may help; if not, it is told there


def _check_bases(findings: Findings) -> list[Base]:
    subject, file = findings.subject, findings.file
    findings.span = file.global_args[0].span if file.global_args else None
    values = global_values(file, subject.build_args, subject.platform, subject.target)
    names = [each.name.text for arg in file.global_args for each in arg.declarations]
    known = dict.fromkeys([*names, *values])
    bases = []
    for stage in file.stages:
        node = stage.base
        findings.enter(node)
        environment = Environment(values)
        if not _expanded(findings, node.image, environment, known):
            raise PlanError(
                f"base name ({node.image.text}) should not be blank",
                hint="give the ARG a default above FROM, or pass --build-arg",
            )
        platform, used = None, set(environment.found)
        if node.platform is not None:
            environment = Environment(values)
            platform = _check_platform(findings, node, node.platform, environment, known)
            used.update(environment.found)
        bases.append(Base(platform, frozenset(used)))
    return bases


def _expanded(
    findings: Findings, word: Word, environment: Environment, known: Iterable[str]
) -> str:
    try:
        return expand(word, environment, escape=findings.escape)
    finally:
        for name in environment.missing:
            if name not in known:
                findings.warn(rules.UNDEFINED_ARG_IN_FROM, name, findings.meant(name, known))


def _check_platform(
    findings: Findings,
    node: From,
    word: Word,
    environment: Environment,
    known: Mapping[str, None],
) -> PlatformName:
    text = _expanded(findings, word, environment, known)
    name = platform_name(text, findings.subject.platform)
    if list(environment.found) == ["TARGETPLATFORM"] and not environment.missing:
        if text == environment["TARGETPLATFORM"]:
            findings.warn(rules.REDUNDANT_TARGET_PLATFORM, word.text)
    elif not environment.found and not environment.missing and name is not None:
        alias = node.alias or ""
        if name.os not in alias and name.architecture not in alias:
            findings.warn(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, quoted(text))
    if name is None:
        how = "failed to parse platform" if text else "empty platform value from expression"
        meant = (findings.meant(missing, environment) for missing in environment.missing)
        raise PlanError(
            f"{how} {word.text}{next(filter(None, meant), '')}",
            hint="a platform is OS/ARCHITECTURE: linux/amd64",
        )
    return name


def _is_image_name(text: str) -> bool:
    try:
        Reference.parse(text)
    except InvalidReferenceError:
        return False
    return True
