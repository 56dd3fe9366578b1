"""A finished state -> an image: config, manifest, squashed and encoded as the request wants it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from builder.lower.metadata import with_labels
from builder.plan import begin_of
from builder.record import StepRecord
from builder.request import BuildRequest
from builder.state import StageState
from layerstore import Digest, Image, ImageConfig, Store


class Sealer:
    """Seals the images of one build. `epoch` is SOURCE_DATE_EPOCH, where there is one."""

    def __init__(self, request: BuildRequest, store: Store, epoch: int | None) -> None:
        self._request = request
        self._store = store
        self._epoch = epoch

    def squash(self, state: StageState) -> StageState:
        """The state with the layers merged that the request wants merged."""
        wish = self._request.squash
        if wish is None:
            return state
        from builder.squash import squashed

        first = begin_of(self._request.dockerfile, wish.from_line)
        return squashed(state, replace(wish, from_line=first), self._store)

    def seal(self, state: StageState, steps: Sequence[StepRecord]) -> Image:
        """Make the image of a finished state, which `steps` have led to."""
        config = self.image_config(state)
        if self._request.inline_cache:
            config = replace(config, inline_cache=self._inline_cache(state, steps))
        image = self._store.images.seal(config, state.layers, fetch=self._request.wants_layers)
        return image if self._request.encoding is None else self._encoded(image, state)

    def image_config(self, state: StageState) -> ImageConfig:
        """The image config of a state: labels of the command line included."""
        config = state.config
        platform = self._request.platform or state.platform
        if self._request.labels:
            added = list(self._request.labels.items())
            config = replace(config, labels=with_labels(config.labels, added))
        created = state.created
        if self._epoch is not None:
            created = rfc3339(self._epoch)
        return ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            author=state.author,
            created=created,
            config=config,
            diff_ids=tuple(layer.diff_id for layer in state.layers),
            history=state.history,
        )

    def _inline_cache(self, state: StageState, steps: Sequence[StepRecord]) -> str:
        from layerstore import inline_steps

        own = {layer.diff_id for layer in state.layers} - state.base
        keys = [Digest(step.key) for step in steps if step.key and step.layer in own]
        return inline_steps(self._store, keys, state.layers)

    def _encoded(self, image: Image, state: StageState) -> Image:
        from layerstore import encode_image

        assert self._request.encoding is not None, "asked before"
        encoded = encode_image(
            self._store,
            image,
            self._request.encoding,
            is_own=lambda layer: layer.diff_id not in state.base,
        )
        if encoded is not image:
            self._store.blobs.discard(image.descriptor.digest)  # the manifest nobody will name
        return encoded

    def created_now(self) -> str:
        """The moment a layer made now is said to be of."""
        epoch = self._epoch
        return rfc3339(time.time() if epoch is None else epoch)


def rfc3339(seconds: float) -> str:
    """A moment as image configs have it, RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}Z" if moment.microsecond else text + "Z"
