"""What was built before: the step that one which missed is compared with, and why it missed.

The step at the same place is asked first: the last build of the same Dockerfile and target that
came so far, the same stage, the counterpart of the same instruction. Where there is none, the most
similar of the newest steps that have the same parent or the same instruction.

A parent that differs is traced to the instruction above that gave another layer, through the stages
it stands on, down to the base image.

Nothing is read until the first step misses; a fully cached build does not even import this file.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from builder import record
from builder.explain import (
    Cause,
    Change,
    Difference,
    Explanation,
    Fields,
    Scene,
    changed,
    compare,
    core,
    similarity,
)
from builder.record import BaseRecord, BuildRecord, StepRecord
from builder.sources import LayerTree, Selection
from builder.steps import Step, selections_of
from layerstore import CachedStep, CacheIndex, Digest

_BUILDS_MAX = 8
_CANDIDATES_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A step that is not in the cache, and what is above it in this build.

    `number` is its place among the `instructions` of its stage (as text); `forced` the option that
    lets it be carried out in any case, `is_expired` that its result was too old; `bases` and
    `steps` are those of the build so far.
    """

    step: Step
    key: Digest
    document: bytes
    created_by: str
    stage: str
    number: int
    instructions: tuple[str, ...]
    arguments: frozenset[str]
    shell: tuple[str, ...]
    forced: str
    is_expired: bool
    bases: Sequence[BaseRecord]
    steps: Sequence[StepRecord]


class Earlier:
    """The builds before this one of one Dockerfile and target."""

    def __init__(
        self, cache: CacheIndex, builds: Path, *, place: str, context: str, target: str
    ) -> None:
        self._cache = cache
        self._unread = record.of_place(place, context, target, builds)
        self._read: list[BuildRecord] = []

    def explain(self, missed: Missed) -> Explanation:
        """Say why `missed` has to be carried out, compared with the nearest earlier step."""
        explained = self._compared(missed)
        if missed.forced:
            return replace(explained, cause="forced", detail=missed.forced)
        return explained

    def same_result(self, missed: Missed, diff_id: Digest) -> CachedStep | None:
        """The step that this one replaces, if it gave the layer `diff_id`.

        None for a layer that another place of this Dockerfile, or another Dockerfile, has made:
        what its history says is not this one's.
        """
        _, counterpart = self._counterpart(missed) or (None, None)
        if counterpart is None or counterpart.layer != diff_id:
            return None
        return self._cache.find(Digest(counterpart.key))

    def _compared(self, missed: Missed) -> Explanation:
        before, counterpart = self._counterpart(missed) or (None, None)
        same = self._same_key(missed, counterpart)
        if same is not None:
            return same
        new: Fields = json.loads(missed.document)
        if before is not None and counterpart is not None:
            document = self._document(counterpart)
            if document is not None:
                above = _above(missed, before, counterpart)
                return self._differences(missed, counterpart.key, json.loads(document), new, above)
        return self._of_neighbours(missed, new)

    def _same_key(self, missed: Missed, counterpart: StepRecord | None) -> Explanation | None:
        """Why a result of exactly this step cannot be used; None when there never was one."""
        cause: Cause
        detail = ""
        if missed.is_expired:
            cause = "expired"
        elif self._cache.find(missed.key) is not None:
            cause = "damaged"
        elif counterpart is None or counterpart.key != missed.key:
            return None
        elif counterpart.outcome == "failed":
            cause = "failed"
        elif counterpart.outcome == "canceled":
            cause = "canceled"
        elif counterpart.not_kept:
            cause, detail = "unkept", counterpart.not_kept
        else:
            cause = "pruned"
        return Explanation(cause=cause, detail=detail, nearest=missed.key)

    def _counterpart(self, missed: Missed) -> tuple[BuildRecord, StepRecord] | None:
        for before in self._builds():
            steps = [step for step in before.steps if step.stage == missed.stage]
            pairs = counterparts([step.instruction for step in steps], missed.instructions)
            number = pairs.get(missed.number)
            if number is not None and steps[number].key:
                return before, steps[number]
        return None

    def _builds(self) -> Iterator[BuildRecord]:
        """The last builds at this place, newest first; each is read once."""
        yield from self._read
        while len(self._read) < _BUILDS_MAX and (found := next(self._unread, None)) is not None:
            self._read.append(found)
            yield found

    def _document(self, step: StepRecord) -> str | bytes | None:
        if step.document:
            return step.document
        found = self._cache.find(Digest(step.key))
        return None if found is None else found.document

    def _of_neighbours(self, missed: Missed, new: Fields) -> Explanation:
        """By the most similar step with the same parent or instruction."""
        parent = str(new.get("parent") or "")
        best: tuple[int, str, Fields] | None = None
        candidates = self._cache.neighbours(Digest(parent) if parent else None, missed.created_by)
        for _, candidate in zip(range(_CANDIDATES_MAX), candidates, strict=False):
            old: Fields = json.loads(candidate.document)
            if core(old) == core(new):
                score = similarity(old, new)
                if best is None or score > best[0]:
                    best = score, candidate.key, old
        if best is None:
            return Explanation(cause="new")
        return self._differences(missed, best[1], best[2], new, None)

    def _differences(
        self, missed: Missed, nearest: str, old: Fields, new: Fields, above: Difference | None
    ) -> Explanation:
        found = compare(old, new, self._scene(missed))
        parents = str(old.get("parent") or ""), str(new.get("parent") or "")
        if parents[0] != parents[1]:
            above = above or Difference(kind="parent", name="")
            found.append(
                above if above.kind == "base" else replace(above, old=parents[0], new=parents[1])
            )
        return changed(nearest, found)

    def _scene(self, missed: Missed) -> Scene:
        selections = list(selections_of(missed.step))
        listings = {each.digest: each.listing for each in selections if each.listing}

        def listing(digest: str) -> bytes | None:
            found = listings.get(Digest(digest))
            return self._cache.get_listing(Digest(digest)) if found is None else found

        return Scene(
            listing=listing,
            paths={
                (each.digest, name): _path(each) for each in selections for name in ("", each.name)
            },
            arguments=missed.arguments,
            shell=missed.shell,
        )


def _above(missed: Missed, before: BuildRecord, counterpart: StepRecord) -> Difference | None:
    place = next(at for at, step in enumerate(before.steps) if step is counterpart)
    old = lineage(before.bases, before.steps[:place], missed.stage)
    return first_difference(old, lineage(missed.bases, missed.steps, missed.stage))


def _path(selection: Selection) -> str:
    """Where a selection lies: relative in a context, absolute in a stage or an image."""
    return f"/{selection.path}" if isinstance(selection.tree, LayerTree) else selection.path


def counterparts(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Which of the `old` instructions each of the `new` ones was, by number.

    Equal ones belong together, from both ends and then in order; of what lies between them, those
    with the same keyword do.
    """
    pairs: dict[int, int] = {}
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        pairs[start] = start
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
        pairs[len(new) - end] = len(old) - end
    at = start
    for number in range(start, len(new) - end):
        same = next((each for each in range(at, len(old) - end) if old[each] == new[number]), None)
        if same is not None:
            pairs[number] = same
            at = same + 1
    at = start
    for number in range(start, len(new) - end):
        if number in pairs:
            at = pairs[number] + 1
            continue
        taken = min((pairs[each] for each in pairs if each > number), default=len(old))
        keyword = new[number].split(" ", 1)[0]
        free = (each for each in range(at, taken) if old[each].split(" ", 1)[0] == keyword)
        like = next(free, None)
        if like is not None:
            pairs[number] = like
            at = like + 1
    return pairs


class Link(NamedTuple):
    """One layer, or the base image, of what a step stands on."""

    line: int
    instruction: str
    content: str  # diff_id; of a base its digest


def lineage(bases: Sequence[BaseRecord], steps: Sequence[StepRecord], stage: str) -> list[Link]:
    """What a stage consists of so far, from its base image up, through the stages it stands on."""
    parts: list[list[Link]] = []
    names = {base.stage: base for base in bases}
    seen: set[str] = set()
    while stage and stage not in seen:
        seen.add(stage)
        parts.append(
            [
                Link(step.line, step.instruction, step.layer)
                for step in steps
                if step.stage == stage and step.layer
            ]
        )
        base = names.get(stage)
        if base is None:
            break
        if base.digest or base.name not in names:
            parts.append([Link(base.line, f"FROM {base.name}", base.digest)])
            break
        stage = base.name
    return [link for part in reversed(parts) for link in part]


def first_difference(old: Sequence[Link], new: Sequence[Link]) -> Difference | None:
    """The lowest thing by which two lineages differ; None when they are equal."""
    for before, after in zip_longest(old, new):
        if before is not None and after is not None and before.content == after.content:
            continue
        for link in (after, before):
            if link is not None and link.instruction.startswith("FROM "):
                return Difference(
                    kind="base",
                    name=link.instruction.removeprefix("FROM "),
                    old="" if before is None else before.content,
                    new="" if after is None else after.content,
                    line=link.line,
                )
        was_removed = before is not None and not _is_among(before, new)
        if after is not None and not _is_among(after, old):
            return _parent(after, "changed" if was_removed else "added")
        if before is not None and was_removed:
            return _parent(before, "removed")
        return _parent(after or before or Link(0, "", ""), "changed")
    return None


def _is_among(link: Link, links: Sequence[Link]) -> bool:
    return any(link.instruction == other.instruction for other in links)


def _parent(link: Link, change: Change) -> Difference:
    return Difference(kind="parent", name=link.instruction, line=link.line, change=change)
