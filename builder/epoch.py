"""SOURCE_DATE_EPOCH: the moment that an image says it was made at.

A build argument, else the global ARG of that name, holds
    a number        seconds since 1970
    `context`       when the build context was changed last: a commit's time, the newest file of an
                    archive; a directory has no time of its own
    a named context or a stage that does nothing but ADD one remote source from scratch: a commit's
                    time, a file's Last-Modified, else the newest file of the archive

Source: reproducible-builds.org, SOURCE_DATE_EPOCH; BuildKit dockerfile2llb/epoch.go.
"""

from collections.abc import Mapping
from pathlib import Path

from builder.errors import BuilderError, PlanError
from builder.plan import BuildPlan, PlannedStage, ScratchBase, context_name
from builder.provide import Provider
from builder.sources import SourceTree, newest_file_s
from builder.urls import FileUrl, GitUrl, parse_url
from grammar import Add, Arg, Word, expand

NAME = "SOURCE_DATE_EPOCH"
_DIGITS_MAX = 12  # fewer: all years that datetime knows


def written_epoch(
    plan: BuildPlan,
    build_args: Mapping[str, str],
    *,
    escape: str,
    context: Path | SourceTree | None,
    provider: Provider,
) -> int | None:
    """What the build argument or ARG means, None where there is none.

    Raises:
        PlanError: it is neither a moment nor something that has one.
    """
    text = build_args.get(NAME, plan.global_args.get(NAME, ""))
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < _DIGITS_MAX:
        return int(text)
    if text == "context":
        return None if context is None or isinstance(context, Path) else newest_file_s(context)
    if context_name(text) in provider.context_names:
        return provider.context_time(context_name(text))
    for stage in plan.stages:
        if stage.name and stage.name.lower() == text.lower():
            return _time_of_stage(stage, plan, build_args, escape=escape, provider=provider)
    raise PlanError(f"invalid {NAME}: {text}", hint="seconds since 1970")


def _time_of_stage(
    stage: PlannedStage,
    plan: BuildPlan,
    build_args: Mapping[str, str],
    *,
    escape: str,
    provider: Provider,
) -> int | None:
    try:
        url, checksum = _only_source(stage, plan, build_args, escape=escape)
    except BuilderError as error:
        error.span = error.span or stage.from_node.span
        raise
    return provider.remotes().time_of(url, checksum=checksum)


def _only_source(
    stage: PlannedStage, plan: BuildPlan, build_args: Mapping[str, str], *, escape: str
) -> tuple[GitUrl | FileUrl, str]:
    """The one remote source that the stage adds, and its checksum."""
    if not isinstance(stage.base, ScratchBase):
        raise PlanError(f"{NAME} stage must use FROM scratch")
    known = {name: value for name, value in plan.global_args.items() if name != NAME}

    def expanded(word: Word) -> str:
        return expand(word, known, escape=escape)

    found: list[tuple[GitUrl | FileUrl, str]] = []
    for instruction in stage.instructions:
        match instruction:
            case Arg():
                for each in instruction.declarations:
                    name = expanded(each.name)
                    if name in build_args:
                        known[name] = build_args[name]
                    elif each.default is not None:
                        known[name] = expanded(each.default)
            case Add():
                words = [expanded(word) for word in instruction.sources]
                url = parse_url(words[0]) if len(words) == 1 else None
                if url is None or instruction.heredocs:
                    raise PlanError(f"{NAME} stage source must be a single HTTP(S) or Git ADD")
                checksum = instruction.checksum
                found.append((url, "" if checksum is None else expanded(checksum)))
            case _:
                raise PlanError(
                    f"{NAME} stage does not meet source-only requirements: "
                    f"unsupported {instruction.written.keyword} instruction"
                )
    if len(found) != 1:
        raise PlanError(f"{NAME} stage must contain exactly one remote ADD")
    return found[0]
