"""Steps: what an instruction lowers to when it does work. Hermetic and comparable.

A step holds everything it depends on besides the file system below it, so its identity is its
cache key: the key document is built from exactly the fields that `==` compares. Where something is
found (a locator: which stage, which host path) is `compare=False` and never reaches the key.

Two kinds, and only two:
    ExecStep   run a program on the file system
    FileStep   change files from sources, without running anything of the image
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from builder.sandbox import Limits, ResourceLimit
from builder.sources import EntryKind, Selection
from layerstore import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFile:
    """A here-document that is shown to the program as an executable file, outside of the layer."""

    target: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMount:
    """Something out of a source, shown at `target`. What is written to it is thrown away."""

    target: str
    kind: EntryKind
    digest: Digest
    read_only: bool
    selection: Selection = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """A directory that outlives the build, and belongs to no layer.

    The directory is a new one for each `id`, mode, owner and initial content; what is in it is no
    part of the step. `is_renewed`: it is emptied first.
    """

    target: str
    id: str
    sharing: Literal["shared", "private", "locked"]
    read_only: bool
    mode: int
    uid: int
    gid: int
    initial: Digest | None
    selection: Selection | None = field(default=None, compare=False)
    is_renewed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMount:
    """An empty directory in memory."""

    target: str
    size_bytes: int | None
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """A secret of the caller's as a file, a variable or both; empty names mean neither.

    Its value is no part of the step.
    """

    id: str
    target: str
    variable: str
    is_required: bool
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMount:
    """The socket of an SSH agent of the caller's."""

    id: str
    target: str
    is_required: bool
    mode: int
    uid: int
    gid: int


StepMount = SourceMount | CacheMount | MemoryMount | SecretMount | AgentMount


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What the caller says about every RUN of the build."""

    extra_hosts: tuple[tuple[str, str], ...] = ()  # name, address
    shm_size_bytes: int | None = None
    resource_limits: tuple[ResourceLimit, ...] = ()
    # A step that ends well under them is what it is without them: no part of its identity.
    limits: Limits = field(default=NO_LIMITS, compare=False)


NO_SETTINGS = RunSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStep:
    """RUN. `title` is for people; all paths are inside the root."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: Literal["default", "host", "none"]
    scripts: tuple[ScriptFile, ...] = ()
    mounts: tuple[StepMount, ...] = ()
    security: Literal["sandbox", "insecure"] = "sandbox"
    settings: RunSettings = NO_SETTINGS
    secret_env: tuple[str, ...] = field(default=(), compare=False)  # proxy variables: never keyed
    title: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    """WORKDIR: create the directory and its missing parents, 0755, owned by `user` as written."""

    path: str
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineFile:
    """A here-document source of COPY or ADD."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFiles:
    """COPY and ADD. `destination` is absolute and keeps a trailing slash; `chown` is as written."""

    selections: tuple[Selection, ...]
    inline: tuple[InlineFile, ...]
    destination: str
    chown: str | None
    chmod: str | None
    unpack: bool  # ADD: archives are unpacked
    link: bool = field(default=False, compare=False)  # in the key as a parent that is missing


FileAction = MakeDirectory | CopyFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStep:
    action: FileAction
    title: str = field(default="", compare=False)


Step = ExecStep | FileStep


def stands_alone(step: Step) -> bool:
    """Whether the file system below plays no part in what the step makes: `--link`."""
    return isinstance(step, FileStep) and isinstance(step.action, CopyFiles) and step.action.link


Document = str | int | bool | None | list["Document"] | dict[str, "Document"]


def document_of(value: object) -> Document:
    """The compared fields of a step as plain data, with the type's name beside them."""
    if value is None or isinstance(value, str | bool | int):
        return str(value) if isinstance(value, Digest) else value
    if isinstance(value, bytes):
        return str(Digest.of(value))
    if isinstance(value, tuple):
        return [document_of(item) for item in value]
    described: dict[str, Document] = {"type": type(value).__name__}
    for each in fields(value):  # type: ignore[arg-type]  # only dataclasses are left here
        if each.compare:
            described[each.name] = document_of(getattr(value, each.name))
    return described


def selections_of(value: object) -> Iterator[Selection]:
    """Every selection of files in a step, wherever it is held: also where it is a locator."""
    if isinstance(value, Selection):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from selections_of(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from selections_of(getattr(value, each.name))
