"""What lowering needs besides the state: the same for every instruction of a stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from builder.errors import UnsupportedFeatureError
from builder.sources import Selection, SourceTree
from builder.state import StageState
from builder.steps import NO_SETTINGS, RunSettings, Step
from builder.urls import FileUrl, GitUrl
from grammar import Word, expand


class SelectRemote(Protocol):
    """What ADD selects at a URL: see `remote.Remotes.select`."""

    def __call__(
        self, url: GitUrl | FileUrl, *, checksum: str, keep_git_dir: bool | None, unpack: bool
    ) -> Selection: ...


def no_remote(
    url: GitUrl | FileUrl, *, checksum: str, keep_git_dir: bool | None, unpack: bool
) -> Selection:
    """Where nothing may be fetched."""
    raise UnsupportedFeatureError(feature="a remote source here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`find_source(None)` is the build context, `find_source(name)` what `--from=name` means.

    `allowed` holds what RUN may ask for only with the caller's leave (`network.host`).
    """

    find_source: Callable[[str | None], SourceTree]
    select_remote: SelectRemote = no_remote
    build_args: Mapping[str, str]
    global_args: Mapping[str, str]
    escape: str
    network: Literal["default", "host", "none"]
    allowed: frozenset[str] = frozenset()
    settings: RunSettings = NO_SETTINGS
    no_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The next state; with a step, the engine adds its layer under `created_by`."""

    state: StageState
    created_by: str
    step: Step | None = None
    notices: tuple[str, ...] = ()  # what the user should know


def expanded(word: Word, state: StageState, around: Surroundings) -> str:
    """A word with its quotes removed and the stage's variables put in."""
    env = state.environment() if "$" in word.text else {}  # costs as much as it has variables
    return expand(word, env, escape=around.escape)
