"""Moments: an image as it was after each of its instructions.

    app@3      after the third instruction below FROM, the number that `layers` and `history` print;
               app@0 is the base. Instructions of the stages that a stage stands on count
    app@L12    after line 12 of the Dockerfile: the last instruction that begins there or above
    app~1      one instruction before the last

A moment is an image like any other, of the same layers: it can be run, looked into, saved, tagged.
It is made of what the build noted beside the image (the configuration after each instruction,
which the image itself does not have). Of an image that was not built here only the history is
known: its instructions are counted from the very first, and every moment has the last one's
configuration.

What is noted is a memo of the cache index: losing it costs the lines and configurations, nothing
else.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from builder.errors import NoSuchMomentError, SquashedMomentError
from layerstore import (
    CacheIndex,
    Image,
    ImageConfig,
    MalformedDocumentError,
    NotFoundError,
    Platform,
    Store,
    check_platform,
)

_ADDRESS = re.compile(
    r"(?P<name>.+)(?:@(?P<number>[0-9]{1,9})|@L(?P<line>[0-9]{1,9})|~(?P<back>[0-9]{0,9}))"
)
_MEMO = "moments with one history"
_VARIABLES_MAX = 1_000_000  # of all moments together; some 10 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """After instruction `number` below FROM; 0 is the base. `line` is 0 where it is not known."""

    number: int
    line: int
    config: ImageConfig
    is_exact: bool = True  # False: the configuration is that of the whole image

    @property
    def instruction(self) -> str:
        """What the history says of it; empty for a base that has none."""
        return self.config.history[-1].created_by if self.config.history else ""


def is_address(name: str) -> bool:
    """Whether `name` means a moment of an image rather than an image."""
    return _ADDRESS.fullmatch(name) is not None


def resolve(store: Store, name: str, platform: Platform | None = None) -> Image:
    """Find an image, or a moment of one, by what the user wrote.

    A moment is sealed like an image, unlisted; it is kept if the store is flushed.

    Raises:
        StoreError: no such image, or none for the `platform`.
        NoSuchMomentError: it has fewer instructions, or none at that line.
        SquashedMomentError: it has layers that only the build cache had.
    """
    address = _ADDRESS.fullmatch(name)
    image = store.images.resolve(name if address is None else address["name"], platform)
    if platform is not None and image.index is None:
        check_platform(image.config, platform)
    if address is None:
        return image
    found = moments(store.cache, image)
    return at(store, image, found, _number(found, address, name))


def at(store: Store, image: Image, found: Sequence[Moment], number: int) -> Image:
    """The image of a moment of `image`, whose moments were `found`.

    Raises:
        SquashedMomentError: it has layers that only the build cache had.
        NotFoundError: a layer is gone that the image has, too.
    """
    if number == found[-1].number:
        return image
    config = found[number].config
    try:  # not the image's own: what was squashed has other layers than its moments
        layers = [store.layers.get(each) for each in config.diff_ids]
    except NotFoundError as error:
        if set(config.diff_ids) <= set(image.config.diff_ids):
            raise
        raise SquashedMomentError(number=number) from error
    sealed = store.images.seal(config, layers)
    if found[number].is_exact:
        until = found[: number + 1]
        remember(store.cache, sealed, [m.line for m in until], (m.config for m in until))
    return sealed


def remember(
    cache: CacheIndex, image: Image, lines: Sequence[int], configs: Iterable[ImageConfig]
) -> None:
    """Note the moments of a built image, the base's first. `configs` are only taken when needed.

    The history of each is a beginning of the last one's, which alone is noted. Where the
    environments alone are too much (thousands of ENV), nothing is.
    """
    header = json.dumps(list(lines)).encode() + b"\n"
    known = cache.get_memo(_MEMO, image.id)
    if known is not None and known.startswith(header):
        return
    import base64
    import zlib

    *others, last = configs
    noted = [(len(last.history), base64.b64encode(last.encode()).decode())]
    size = 0
    for config in others:
        count = len(config.history)
        size += len(config.config.env)
        if size > _VARIABLES_MAX or config.history != last.history[:count]:
            return
        encoded = replace(config, history=()).encode()
        noted.append((count, base64.b64encode(encoded).decode()))
    cache.put_memo(_MEMO, image.id, header + zlib.compress(json.dumps(noted).encode()))


def moments(cache: CacheIndex, image: Image) -> tuple[Moment, ...]:
    """All moments of an image, the base's first."""
    memo = cache.get_memo(_MEMO, image.id)
    noted = None if memo is None else _read(memo)
    extra = None if noted is None else len(image.config.history) - len(noted[-1][1].history)
    if noted is not None and extra in (0, 1):  # squashing adds an entry, for the merged layer
        return tuple(
            Moment(number=number, line=line, config=config)
            for number, (line, config) in enumerate(noted)
        )
    return tuple(_from_history(image))


def base_count(cache: CacheIndex, image: Image) -> int:
    """How many entries of the history are the base's."""
    return len(moments(cache, image)[0].config.history)


def _number(found: Sequence[Moment], address: "re.Match[str]", name: str) -> int:
    last = found[-1].number
    if address["line"] is not None:
        line = int(address["line"])
        if not any(moment.line for moment in found):
            raise NoSuchMomentError(
                name=name, hint="it was not built here, so the lines of its Dockerfile are unknown"
            )
        return max((moment.number for moment in found if moment.line <= line), default=0)
    number = int(address["number"] or 0)
    if address["back"] is not None:
        number = last - int(address["back"] or 1)
    if not 0 <= number <= last:
        raise NoSuchMomentError(
            name=name, hint=f"{address['name']} has {last} instructions: `lamina layers` lists them"
        )
    return number


def _read(memo: bytes) -> list[tuple[int, ImageConfig]] | None:
    import base64
    import zlib

    header, _, packed = memo.partition(b"\n")
    try:
        lines = json.loads(header)
        (_, last), *others = json.loads(zlib.decompress(packed))
        complete = ImageConfig.parse(base64.b64decode(last))
        found = [
            replace(ImageConfig.parse(base64.b64decode(encoded)), history=complete.history[:count])
            for count, encoded in others
        ]
        return list(zip(lines, (*found, complete), strict=True))
    except (ValueError, TypeError, zlib.error, MalformedDocumentError):
        return None  # of another version: as if it had not been built here


def _from_history(image: Image) -> list[Moment]:
    config = image.config
    found = []
    layers = 0
    for number in range(len(config.history) + 1):
        if number:
            layers += not config.history[number - 1].empty_layer
        if number == len(config.history):
            layers = len(image.layers)  # also those that have no entry
        moment = replace(config, history=config.history[:number], diff_ids=config.diff_ids[:layers])
        found.append(Moment(number=number, line=0, config=moment, is_exact=False))
    return found
