"""What one build did: a record per step, kept beside the store's other private files.

One JSON file per build, `builds/<id>.json`, written by rename when the build has ended (also when
it failed). `layers`, `history` and later questions ("why did this run?") read it; the engine never
does. Records are numbered by time, newest last.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_KEPT_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One instruction. `outcome`: cached, executed, reused (same result as before), metadata."""

    instruction: str
    line: int
    stage: str
    outcome: str
    reason: str
    key: str
    layer: str  # diff_id, empty for metadata
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """A whole build. `image_id` is empty when it failed; `error` says why. Times: Unix seconds."""

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


def write(record: BuildRecord, directory: Path) -> None:
    """Keep `record` in `directory`, and only the newest few hundred beside it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = directory / f".{record.id}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(record), sort_keys=True))
    temporary.rename(directory / f"{record.id}.json")
    names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(".json"))
    for name in names[:-_KEPT_MAX]:
        (directory / name).unlink(missing_ok=True)


def read_all(directory: Path) -> list[BuildRecord]:
    """All records that can be read, newest first."""
    if not directory.is_dir():
        return []
    records = []
    for path in sorted(directory.glob("*.json"), reverse=True):
        record = _read(path)
        if record is not None:
            records.append(record)
    return records


def of_image(image_id: str, directory: Path) -> BuildRecord | None:
    """The newest record that produced `image_id`."""
    return next((record for record in read_all(directory) if record.image_id == image_id), None)


def _read(path: Path) -> BuildRecord | None:
    try:
        data = json.loads(path.read_bytes())
        steps = tuple(StepRecord(**step) for step in data.pop("steps"))
        data["names"] = tuple(data["names"])
        return BuildRecord(steps=steps, **data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # damaged or of another version: no record
