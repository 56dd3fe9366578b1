"""Where a build's bases and sources come from.

    FROM name            -> `Provider.image` or, for a named context, `Provider.context`
    COPY from nothing    -> `Provider.tree(None)`: the build context, opened when first asked for
    COPY --from=name     -> `Provider.tree(name)`: a named context, a stage above, else an image
    ADD url              -> `Provider.remotes().select`

The engine knows when something is needed; this file knows where it is.

A named context (--build-context name=...) is a directory with its own .dockerignore, a repository,
an archive behind a URL, an image of the store or of an OCI layout, or `docker-image://scratch`.
Differs: an archive behind a URL is unpacked; BuildKit gives it as one file.

Source: BuildKit dockerui/namedcontext.go; buildx build, "--build-context".
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from builder.context import ContextTree
from builder.errors import ContextError, UnknownStageError
from builder.ignorefile import NO_RULES, IgnoreRules, parse_ignore_file
from builder.patterns import BadPatternError
from builder.plan import PlannedStage, context_name
from builder.sources import LayerTree, SourceTree
from builder.state import StageState
from builder.urls import FileUrl, GitUrl, other_scheme, parse_url, redacted
from layerstore import (
    Image,
    InvalidReferenceError,
    Layer,
    NotFoundError,
    Platform,
    Reference,
    Store,
)

if TYPE_CHECKING:
    from builder.pulling import Report, Watch
    from builder.remote import Remotes
    from builder.request import BuildRequest


WatchPull = Callable[[PlannedStage, Reference], AbstractContextManager["Report"]]


class Provider:
    """Gives one build what it stands on and copies from; closed by `cleanup`.

    `finished` gives the state of a stage by its index. `watch_pull` shows a pull for a stage.
    """

    def __init__(
        self,
        request: "BuildRequest",
        store: Store,
        cleanup: ExitStack,
        finished: Callable[[int], StageState],
        watch_pull: WatchPull | None = None,
    ) -> None:
        self._request = request
        self._store = store
        self._cleanup = cleanup
        self._finished = finished
        self._watch_pull = watch_pull
        self._images: dict[tuple[str, Platform], Image] = {}  # asked for
        self._contexts = {context_name(name): value for name, value in request.contexts.items()}
        self._opened: dict[tuple[str, Platform], Image | SourceTree | None] = {}
        self._directories: dict[str, ContextTree] = {}  # by what their digests are kept under
        self._layer_trees: dict[tuple[tuple[Layer, ...], str], LayerTree] = {}
        self._remotes: Remotes | None = None

    @property
    def context_names(self) -> frozenset[str]:
        """The names of the named contexts."""
        return frozenset(self._contexts)

    def image(self, name: str, stage: PlannedStage) -> Image:
        """The image that FROM or --from names in `stage`."""
        try:
            watch = None if self._watch_pull is None else partial(self._watch_pull, stage)
            return self._find_image(name, stage.platform, watch)
        except (NotFoundError, InvalidReferenceError) as error:
            from builder.nearest import nearest

            close = nearest(name, [each for each in stage.visible if not each.isdigit()])
            if close is None:
                raise
            raise UnknownStageError(name=name, nearest=close) from error

    def _find_image(self, name: str, platform: Platform, watch: "Watch | None" = None) -> Image:
        key = name, platform
        if key not in self._images:
            self._images[key] = self._get_image(name, platform, watch)
        return self._images[key]

    def _get_image(self, name: str, platform: Platform, watch: "Watch | None") -> Image:
        pulling = self._request.pulling
        if pulling is None:
            return self._store.images.resolve(name, platform)
        from builder.pulling import untold

        return pulling.image(self._store, name, platform, watch or untold, lazily=True)

    def context(self, name: str, platform: Platform) -> Image | SourceTree | None:
        """The named context `name`: an image, a tree, or None for an empty one."""
        key = name, platform
        if key not in self._opened:
            self._opened[key] = self._open_context(name, self._contexts[name], platform)
        return self._opened[key]

    def context_time(self, name: str) -> int | None:
        """When the remote source of a named context was changed last; None for other contexts."""
        url = parse_url(self._contexts[name], is_context=True)
        if url is None:
            return None
        return self.remotes().time_of(url, checksum="", is_context=True)

    def tree(self, name: str | None, stage: PlannedStage) -> SourceTree:
        """What `--from=name` means in `stage`; None is the build context."""
        if name is None:
            return self._main_context()
        if context_name(name) in self._contexts:
            found = self.context(context_name(name), stage.platform)
            return self._as_tree(found, description=f"the build context {name!r}")
        index = stage.visible.get(name.lower())
        if index is not None:
            return self._layer_tree(self._finished(index).layers, f"the stage {name!r}")
        if name.isdigit():
            raise UnknownStageError(name=name, nearest=None)
        if name == "scratch":
            return self._layer_tree((), "scratch")
        return self._as_tree(self.image(name, stage), description=f"the image {name!r}")

    def foreign_layers(self) -> tuple[Layer, ...]:
        """The layers that images have brought, each once."""
        opened = (each for each in self._opened.values() if isinstance(each, Image))
        images = (*self._images.values(), *opened)
        return tuple(dict.fromkeys(layer for image in images for layer in image.layers))

    def remotes(self) -> "Remotes":
        """What fetches."""
        if self._remotes is None:
            from builder.remote import Remotes

            lent = self._request.grants.agents.get("default")
            self._remotes = Remotes(self._store, self._cleanup, lent)
        return self._remotes

    def remember(self) -> None:
        """Keep for the next build what was learned about the files of directories."""
        for scope, directory in self._directories.items():
            stamps = directory.fresh_stamps()
            if stamps is not None:
                self._store.cache.save_file_digests(scope, stamps)

    # ---- contexts

    def _main_context(self) -> SourceTree:
        context = self._request.context
        if context is None:
            raise ContextError(
                "there is no build context: the Dockerfile came from standard input",
                hint="give a directory, and the Dockerfile with `-f -`",
            )
        if not isinstance(context, Path):
            return context
        scope = os.path.realpath(context)
        return self._directories.get(scope) or self._directory(
            context, self._request.ignore_file, description="the build context", scope=scope
        )

    def _open_context(self, name: str, value: str, platform: Platform) -> Image | SourceTree | None:
        description = f"the build context {name!r}"
        kind, scheme, rest = value.partition("://")
        if scheme and kind == "docker-image":
            return None if rest == "scratch" else self._find_image(rest, platform)
        if scheme and kind == "oci-layout":
            return self._layout(rest, platform)
        match parse_url(value, is_context=True):
            case GitUrl() as url:
                return self.remotes().repository(
                    url, keep_git_dir=bool(url.keep_git_dir), description=description
                )
            case FileUrl() as url:
                return self.remotes().archive_or_file(url, description)
            case None:
                return self._local_context(name, value, description)

    def _local_context(self, name: str, value: str, description: str) -> SourceTree:
        if scheme := other_scheme(value):
            raise ContextError(
                f"unsupported context source {scheme} for {name!r}: {redacted(value)}",
                hint="a directory, docker-image://, oci-layout://, http(s):// or a git URL",
            )
        directory = Path(value)
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise ContextError(f"{description}: {value!r} {problem}")
        return self._directory(
            directory,
            _own_ignore_file(directory),
            description=description,
            scope=f"{name} {os.path.realpath(directory)}",
        )

    def _layout(self, rest: str, platform: Platform) -> Image:
        """`DIRECTORY[:TAG][@DIGEST]`."""
        from layerstore import read_layout_image

        path, _, digest = rest.partition("@")
        directory, colon, tag = path.rpartition(":")
        if not colon or "/" in tag:
            directory, tag = path, ""
        if not Path(directory).is_dir():
            raise ContextError(f"the OCI layout {directory!r} is not a directory")
        return read_layout_image(
            self._store, Path(directory), wanted=digest or tag, platform=platform
        )

    def _directory(
        self, path: Path, ignore_file: bytes | None, *, description: str, scope: str
    ) -> ContextTree:
        tree = ContextTree(
            path,
            _ignore_rules(ignore_file),
            stamps=self._store.cache.load_file_digests(scope),
            description=description,
        )
        self._cleanup.callback(tree.close)
        self._directories[scope] = tree
        return tree

    def _as_tree(self, found: Image | SourceTree | None, *, description: str) -> SourceTree:
        if found is None:
            return self._layer_tree((), description)
        return self._layer_tree(found.layers, description) if isinstance(found, Image) else found

    def _layer_tree(self, layers: tuple[Layer, ...], description: str) -> LayerTree:
        known = self._layer_trees.get((layers, description))
        if known is None:
            known = LayerTree(layers, self._store.layers, description=description)
            self._layer_trees[layers, description] = known
            self._cleanup.callback(known.close)
        return known


def _ignore_rules(ignore_file: bytes | None) -> IgnoreRules:
    if ignore_file is None:
        return NO_RULES
    try:
        return parse_ignore_file(ignore_file)
    except BadPatternError as error:
        raise ContextError(f".dockerignore: {error}") from error


def _own_ignore_file(directory: Path) -> bytes | None:
    from builder.inputs import read_ignore_file

    return read_ignore_file(directory)
