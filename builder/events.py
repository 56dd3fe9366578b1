"""What happened during a build, as values: the only way progress leaves the engine.

The engine calls one `report(event)`; nothing is read back. `vertex` numbers the work of one build
from 1 in the order it was begun (the `#5` of plain progress), and stays the same for all events of
that piece of work. Events of one vertex come in the order
    VertexStarted,
    any of VertexOutput and VertexProgress,
    VertexCached | VertexDone | VertexFailed | VertexCanceled.
Several pieces of work may be under way at once.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexStarted:
    """`title` is what to show: `[build 2/5] RUN make`, `[internal] load build context`."""

    vertex: int
    title: str
    stage: str = ""
    line: int | None = None  # of the Dockerfile


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexOutput:
    """A piece of what the program wrote, as it came (not cut at line ends)."""

    vertex: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexProgress:
    """The layer is being written: `size_bytes` of its tar so far. Some ten a second at most."""

    vertex: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexCached:
    """Nothing was executed. `layer` is a diff_id, empty where no layer belongs to the vertex."""

    vertex: int
    layer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexDone:
    """Executed. `reused` says that the result equals an earlier layer, which was taken instead."""

    vertex: int
    seconds: float
    layer: str = ""
    size_bytes: int = 0
    reason: str = ""
    reused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexFailed:
    vertex: int
    seconds: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexCanceled:
    """Ended before it was done, because another one failed or the user interrupted the build."""

    vertex: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know and that does not stop the build."""

    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWarning:
    """What a build check has against the lines `line` to `end_line` of the Dockerfile."""

    rule: str
    detail: str
    line: int
    end_line: int
    description: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSealed:
    """The result: image id (config digest), manifest digest, and the names it got.

    It is not kept in the store where some of its layers are only `elsewhere`: then it has no names.
    """

    image_id: str
    manifest_digest: str
    names: tuple[str, ...]
    elsewhere: int = 0


Event = (
    VertexStarted
    | VertexOutput
    | VertexProgress
    | VertexCached
    | VertexDone
    | VertexFailed
    | VertexCanceled
    | Notice
    | CheckWarning
    | ImageSealed
)
