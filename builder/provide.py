"""Where a build's bases and sources come from.

    FROM name            -> `Provider.image`
    COPY from nothing    -> `Provider.tree(None)`: the build context, opened when first asked for
    COPY --from=name     -> `Provider.tree(name)`: a stage above, by name or number, else an image

The engine knows when something is needed; this file knows where it is.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from builder.context import ContextTree
from builder.errors import ContextError, UnknownStageError
from builder.ignorefile import NO_RULES, IgnoreRules, parse_ignore_file
from builder.patterns import BadPatternError
from builder.plan import PlannedStage
from builder.sources import LayerTree, SourceTree
from builder.state import StageState
from layerstore import Image, InvalidReferenceError, Layer, NotFoundError, Store

if TYPE_CHECKING:
    from builder.engine import BuildRequest


class Provider:
    """Gives one build what it stands on and copies from; closed by `cleanup`.

    `finished` gives the state of a stage by its index.
    """

    def __init__(
        self,
        request: "BuildRequest",
        store: Store,
        cleanup: ExitStack,
        finished: Callable[[int], StageState],
    ) -> None:
        self._request = request
        self._store = store
        self._cleanup = cleanup
        self._finished = finished
        self._context: ContextTree | None = None
        self._layer_trees: dict[tuple[tuple[Layer, ...], str], LayerTree] = {}

    def image(self, name: str, stage: PlannedStage) -> Image:
        """The image that FROM or --from names in `stage`."""
        try:
            return self._store.images.resolve(name)
        except (NotFoundError, InvalidReferenceError) as error:
            from builder.nearest import nearest

            close = nearest(name, [each for each in stage.visible if not each.isdigit()])
            if close is None:
                raise
            raise UnknownStageError(name=name, nearest=close) from error

    def tree(self, name: str | None, stage: PlannedStage) -> SourceTree:
        """What `--from=name` means in `stage`; None is the build context."""
        if name is None:
            return self._get_context()
        index = stage.visible.get(name.lower())
        if index is not None:
            return self._layer_tree(self._finished(index).layers, f"the stage {name!r}")
        if name.isdigit():
            raise UnknownStageError(name=name, nearest=None)
        if name == "scratch":
            return self._layer_tree((), "scratch")
        image = self.image(name, stage)
        return self._layer_tree(image.layers, f"the image {name!r}")

    def remember(self) -> None:
        """Keep for the next build what was learned about the files of the context."""
        if self._context is None:
            return
        stamps = self._context.fresh_stamps()
        if stamps is not None:
            self._store.cache.save_file_digests(self._context_scope(), stamps)

    def _layer_tree(self, layers: tuple[Layer, ...], description: str) -> LayerTree:
        known = self._layer_trees.get((layers, description))
        if known is None:
            known = LayerTree(layers, self._store.layers, description=description)
            self._layer_trees[layers, description] = known
            self._cleanup.callback(known.close)
        return known

    def _get_context(self) -> ContextTree:
        if self._context is None:
            if self._request.context is None:
                raise ContextError(
                    "there is no build context: the Dockerfile came from standard input",
                    hint="give a directory, and the Dockerfile with `-f -`",
                )
            self._context = ContextTree(
                self._request.context,
                self._ignore_rules(),
                stamps=self._store.cache.load_file_digests(self._context_scope()),
            )
            self._cleanup.callback(self._context.close)
        return self._context

    def _ignore_rules(self) -> IgnoreRules:
        if self._request.ignore_file is None:
            return NO_RULES
        try:
            return parse_ignore_file(self._request.ignore_file)
        except BadPatternError as error:
            raise ContextError(f".dockerignore: {error}") from error

    def _context_scope(self) -> str:
        return os.path.realpath(self._request.context or "")
