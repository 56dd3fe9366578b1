"""`import`: a tar of a root file system becomes an image of one layer."""

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.archives import kept
from builder.errors import LoweringError
from builder.fileops import KEEP, FileChanges
from builder.lower import Surroundings, lower
from builder.sources import SourceTree
from builder.state import StageState
from grammar import parse_instruction
from layerstore import (
    Content,
    History,
    Image,
    ImageConfig,
    Node,
    Opaque,
    Peeked,
    Remove,
    Store,
    TreeIndex,
    decompressor,
    detect,
    host_platform,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore import Change, Platform, Reader

_CHANGES = "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR"


def import_tar(
    store: Store,
    stream: "Reader",
    *,
    changes: tuple[str, ...],
    message: str,
    platform: "Platform | None" = None,
) -> Image:
    """Store the tar as a layer, and an image of it; `changes` are instructions, as docker has them.

    What stands twice in the tar counts as it stands last, and links lead where they would lead if
    it was unpacked. The layer's times are the tar's; the image's is the newest of them, so that the
    same tar gives the same image. It is for this host, unless a `platform` is given.
    """
    buffered = Peeked(stream)
    newest = _Newest()
    tar = decompressor(detect(buffered.head) or "none", buffered)
    files = FileChanges(TreeIndex(), now_ns=0, read=_nothing_below)
    with ExitStack() as cleanup:
        members = kept(unpack(tar), cleanup, cleanup.enter_context(store.new_tmpdir()))
        files.unpack(newest.passing(members), "/", KEEP, is_root=True)
        layer = store.layers.commit(files.changes())
    platform = platform or host_platform()
    state = StageState()
    for text in changes:
        state = _changed(state, text)
    created = newest.created()
    return store.images.seal(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=created,
            config=state.config,
            diff_ids=(layer.diff_id,),
            history=(History(created=created, created_by="", comment=message),),
        ),
        (layer,),
    )


def _changed(state: StageState, text: str) -> StageState:
    words = text.split(None, 1)
    keyword = words[0].upper() if words else "an empty text"
    if keyword not in _CHANGES.split():
        raise LoweringError(f"{keyword} is not a valid change command", hint=f"one of {_CHANGES}")
    is_onbuild = keyword == "ONBUILD"  # what stands behind it is what the parser of triggers reads
    text = "".join(words[1:]) if is_onbuild else text
    instruction = parse_instruction(text, escape="\\", name="--change")
    if is_onbuild:
        config = replace(state.config, on_build=(*state.config.on_build, text))
        return replace(state, config=config)
    around = Surroundings(
        find_source=_no_source, build_args={}, global_args={}, escape="\\", network="none"
    )
    return replace(lower(instruction, state, around).state, history=())


def _nothing_below(node: Node) -> Content:
    raise AssertionError("there are no layers below a root file system")


def _no_source(name: str | None) -> SourceTree:
    raise AssertionError("no change command copies files")


class _Newest:
    """Remembers the newest time that passes."""

    def __init__(self) -> None:
        self._mtime_ns = 0

    def passing(self, changes: "Iterator[Change]") -> "Iterator[Change]":
        for change in changes:
            if isinstance(change, Remove | Opaque):
                raise LoweringError(
                    f"the archive holds the whiteout of {change.path!r}",
                    hint="it is a layer, not a root file system",
                )
            meta = getattr(change, "meta", None)
            if meta is not None:
                self._mtime_ns = max(self._mtime_ns, meta.mtime_ns)
            yield change

    def created(self) -> str:
        from builder.sealing import rfc3339

        return rfc3339(self._mtime_ns // 1_000_000_000)
