"""What one build did: a record per step, kept beside the store's other private files.

    builds/<id>.json    the record, written when the build has ended (also when it failed)
    builds/<id>.log     what its programs wrote, step after step, where they wrote anything

`layers`, `history` and later questions ("why did this run?") read it. The engine reads records to
explain a miss, and to know whether a step that gave the same layer again is the one that gave it
before, whose words the history keeps. They never decide what is executed. Records are numbered by
time, newest last. Records of earlier versions are read as far as they go. Both files appear by
rename and are synced, the log first: after a power cut a record is there whole, or not at all.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from builder.errors import BuilderError
from layerstore import remove_left_over, replace_file

if TYPE_CHECKING:
    from builder.explain import Difference, Explanation

_KEPT_MAX = 200
_NUMBER_MAX = 1 << 53  # more than any number in a record
_LOG_END_BYTES = 128 << 10  # of a step: so much from its beginning, and so much from its end


class BaseRecord(NamedTuple):
    """What a stage stands on. `digest` is an image's, empty for a stage (`name`) and scratch."""

    stage: str
    line: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One instruction.

    outcome   cached, executed, reused (executed, with the same result as before), failed, canceled,
              metadata; in a prediction cached, miss or depends
    started   seconds after the build began; `seconds` how long it took
    cpu_s, memory_peak_bytes   of the RUN's processes: all their time, the largest one's memory
    size_bytes   of the files in the layer
    not_kept     why the cache does not have the result of a step that did not fail
    document     the key document, where the cache does not have it (it failed, or was not kept)
    log_offset, log_bytes      where its output is in the log
    """

    instruction: str
    line: int
    stage: str
    outcome: str
    reason: str
    key: str
    layer: str  # diff_id, empty for metadata
    seconds: float
    vertex: int = 0
    started: float = 0.0
    cpu_s: float = 0.0
    memory_peak_bytes: int = 0
    size_bytes: int = 0
    not_kept: str = ""
    document: str = ""
    explanation: "Explanation | None" = None
    log_offset: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """A whole build. `image_id` is empty when it failed; `error` says why. Times: Unix seconds.

    `dockerfile` is as the user named it, `place` where it really is (`-`: standard input).
    """

    id: str
    started: float
    seconds: float
    dockerfile: str
    target: str
    names: tuple[str, ...]
    image_id: str
    manifest_digest: str
    error: str
    steps: tuple[StepRecord, ...]
    place: str = ""
    context: str = ""
    bases: tuple[BaseRecord, ...] = ()


class NoSuchBuildError(BuilderError):
    def __init__(self, *, name: str, problem: str = "no such build", is_any: bool = True) -> None:
        hint = "`lamina builds ls` lists them" if is_any else "no build is recorded here"
        super().__init__(f"{problem}: {name}", hint=hint)
        self.name = name


class StepLog:
    """What one step wrote, its middle left out when it is long."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped_bytes = 0

    def add(self, data: bytes) -> None:
        """Take in the next piece."""
        room = _LOG_END_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * _LOG_END_BYTES:  # now and then, not with every piece
            self._shorten()

    def data(self) -> bytes:
        """What is kept."""
        self._shorten()
        if not self._dropped_bytes:
            return bytes(self._head + self._tail)
        gap = f"\n[{self._dropped_bytes} bytes left out]\n".encode()
        return b"".join((self._head, gap, self._tail))

    def _shorten(self) -> None:
        excess = max(0, len(self._tail) - _LOG_END_BYTES)
        del self._tail[:excess]
        self._dropped_bytes += excess


def write(record: BuildRecord, directory: Path, log: bytes = b"") -> None:
    """Keep `record` in `directory`, and only the newest few hundred beside it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_left_over(directory)
    if log:
        replace_file(directory / f"{record.id}.log", log)
    replace_file(directory / f"{record.id}.json", _sealed(_plain(record), log))
    # by either file: of a build that was killed there may be the log alone
    names = os.listdir(directory)  # noqa: PTH208 - hundreds, at every build
    ids = {name.rpartition(".")[0] for name in names if name.endswith((".json", ".log"))}
    for build_id in sorted(ids)[:-_KEPT_MAX]:
        remove(build_id, directory)


def remove(build_id: str, directory: Path) -> None:
    """Remove the record of a build and its log."""
    for suffix in (".json", ".log"):
        (directory / (build_id + suffix)).unlink(missing_ok=True)


def read_all(directory: Path) -> list[BuildRecord]:
    """All records that can be read, newest first."""
    return list(_records(directory, lambda _: True))


def of_image(image_id: str, directory: Path) -> BuildRecord | None:
    """The newest record that produced `image_id`."""
    wanted = image_id.encode()
    records = _records(directory, lambda data: wanted in data)
    return next((record for record in records if record.image_id == image_id), None)


def of_place(place: str, context: str, target: str, directory: Path) -> Iterator[BuildRecord]:
    """The records of one Dockerfile and target, newest first.

    Dockerfiles that are no files, those of standard input say, are told apart by their contexts.
    """
    wanted = json.dumps(place).encode()
    for record in _records(directory, lambda data: wanted in data):
        if (record.place, record.target) == (place, target) and (
            place != "-" or record.context == context
        ):
            yield record


def of_name(name: str, directory: Path) -> BuildRecord:
    """The record that `name` means, as `id_of`.

    Raises:
        NoSuchBuildError: none, or several, or it is damaged.
    """
    record = _read(directory / f"{id_of(name, directory)}.json")
    if record is None:
        raise NoSuchBuildError(name=name, problem="the record cannot be read")
    return record


def id_of(name: str, directory: Path) -> str:
    """The build that `name` means: an id, a unique beginning of one, or `^1`, the one before last.

    Raises:
        NoSuchBuildError: none, or several.
    """
    names = sorted(path.stem for path in directory.glob("*.json")) if directory.is_dir() else []
    if name.startswith("^"):
        back = int(name[1:] or 1) if name[1:].isdecimal() or name == "^" else -1
        found = names[-1 - back : len(names) - back] if 0 <= back < len(names) else []
    else:
        found = [each for each in names if each.startswith(name)]
        found = [name] if name in found else found
    if len(found) != 1:
        raise NoSuchBuildError(
            name=name,
            problem="several builds begin with this" if found else "no such build",
            is_any=bool(names),
        )
    return found[0]


def damaged(directory: Path) -> Iterator[tuple[str, str]]:
    """The ids of builds whose records or logs are damaged, and what is wrong with them."""
    for path in sorted(directory.glob("*.json")):
        record = _read(path)
        if record is None:
            if path.exists():  # it may be removed meanwhile
                yield path.stem, "the record cannot be read"
            continue
        wanted_bytes = max((step.log_offset + step.log_bytes for step in record.steps), default=0)
        try:
            log = path.with_suffix(".log").read_bytes()
            checksum = json.loads(path.read_bytes()).get("log_checksum")
        except FileNotFoundError:
            log, checksum = b"", None
        is_whole = wanted_bytes == len(log) and checksum in (None, zlib.crc32(log))
        if not is_whole and path.exists():
            yield path.stem, "the log is missing or not what it was"


def log_of(record: BuildRecord, step: StepRecord, directory: Path) -> bytes:
    """What a step wrote; nothing where the log is gone."""
    if not step.log_bytes:
        return b""
    try:
        with (directory / f"{record.id}.log").open("rb") as file:
            file.seek(step.log_offset)
            return file.read(step.log_bytes)
    except OSError:
        return b""


def _records(directory: Path, is_wanted: Callable[[bytes], bool]) -> Iterator[BuildRecord]:
    """Newest first; only those are parsed whose bytes are wanted."""
    if not directory.is_dir():
        return
    for path in sorted(directory.glob("*.json"), reverse=True):
        record = _read(path, is_wanted)
        if record is not None:
            yield record


def _read(path: Path, is_wanted: Callable[[bytes], bool] = lambda _: True) -> BuildRecord | None:
    try:
        data = path.read_bytes()
        if not is_wanted(data):
            return None
        fields = json.loads(data)
        if fields.pop("checksum", None) not in (None, zlib.crc32(json.dumps(fields).encode())):
            return None
        fields.pop("log_checksum", None)
        steps = tuple(_step(**step) for step in fields.pop("steps"))
        fields["names"] = tuple(fields["names"])
        fields["bases"] = tuple(BaseRecord(*base) for base in fields.get("bases", ()))
        record = BuildRecord(steps=steps, **fields)
        explanations = [step.explanation for step in steps if step.explanation is not None]
        differences = [each for explained in explanations for each in explained.differences]
        _check_kinds(record, *steps, *explanations, *differences)
        return record if record.id == path.stem else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # damaged or of another version: no record


_KINDS: dict[object, type | tuple[type, ...]] = {
    str: str,
    int: int,
    float: (int, float),
    tuple[str, ...]: tuple,
}


def _check_kinds(record: BuildRecord, *others: "StepRecord | Explanation | Difference") -> None:
    """Raise TypeError or ValueError for a field that holds what it never does."""
    for value in (record, *others):
        for each in fields(value):
            item = getattr(value, each.name)
            if not isinstance(item, _KINDS.get(each.type, object)):
                raise TypeError(each.name)
            if isinstance(item, int | float) and not 0 <= item < _NUMBER_MAX:
                raise ValueError(each.name)
    texts = (*record.names, *(text for base in record.bases for text in base[::2]))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("names")


def _plain(value: BuildRecord | StepRecord) -> dict[str, object]:
    """What differs from the defaults, by name: shorter and faster than all there is."""
    found: dict[str, object] = {}
    for each in fields(value):
        item = getattr(value, each.name)
        if item != each.default:
            found[each.name] = item
    if isinstance(value, BuildRecord):
        found["steps"] = [_plain(step) for step in value.steps]
    elif value.explanation is not None:
        found["explanation"] = asdict(value.explanation)
    return found


def _sealed(fields: dict[str, object], log: bytes) -> bytes:
    """The record as a file, which knows when it or its log is damaged."""
    if log:
        fields["log_checksum"] = zlib.crc32(log)
    return json.dumps(fields | {"checksum": zlib.crc32(json.dumps(fields).encode())}).encode()


def _step(*, explanation: dict[str, Any] | None = None, **fields: Any) -> StepRecord:
    """What `_plain` made, read back; a TypeError or KeyError is no record."""
    if explanation is None:
        return StepRecord(**fields)
    from builder.explain import Difference, Explanation

    differences = tuple(Difference(**each) for each in explanation.pop("differences"))
    explained = Explanation(differences=differences, **explanation)
    return StepRecord(explanation=explained, **fields)
