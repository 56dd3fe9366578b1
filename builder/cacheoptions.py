"""--cache-to and --cache-from: the cached steps of a build, to and from other places.

    type=local,dest=DIR[,mode=min|max][,mounts=true][,ignore-error=true]    --cache-to
    type=local,src=DIR              --cache-from
    type=inline                     --cache-to: into the image's config
    NAME                            --cache-from: such an image

mode=min, the default, exports the steps that made the layers of the result; mode=max those of all
stages. mounts=true adds what is in the cache mounts of all stages, whatever the mode. A bare NAME
means an image of the store. Other kinds (registry, gha, s3 ...) are refused by name.

Differs: docker has no mounts=.

Differs: a directory to import from that is not there, or is damaged, never stops a build, as with
docker; here it is also never the reason of an error later on.

Source: docker buildx, "--cache-to", "--cache-from"; BuildKit, cache/remotecache/local.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.attributes import Attributes, parse_attributes, split_fields
from builder.errors import OutputError, SecretLeakError, UnsupportedFeatureError
from builder.events import Event, Notice, VertexDone, VertexStarted
from builder.grants import NO_GRANTS
from builder.leaks import without_secrets
from builder.request import BuildResult
from layerstore import Digest, Reference, Store, StoreError, export_mount, export_steps

_HINT = "type=local,dest=DIRECTORY writes a directory that can be cached or copied anywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExport:
    """One --cache-to type=local."""

    dest: Path
    mode: Literal["min", "max"]
    mounts: bool
    ignore_error: bool


def parse_cache_to(texts: Sequence[str]) -> tuple[tuple[CacheExport, ...], bool]:
    """Read the values of --cache-to: the directories to write, and whether it is inline as well.

    Raises:
        OutputError, UnsupportedFeatureError.
    """
    found = [_parse_export(text) for text in texts]
    return tuple(filter(None, found)), None in found


def parse_cache_from(texts: Sequence[str]) -> tuple[Path | str, ...]:
    """Read the values of --cache-from: directories and names of images, to be asked in this order.

    Raises:
        OutputError, UnsupportedFeatureError.
    """
    return tuple(_parse_import(text) for text in texts)


def write_caches(
    exports: Sequence[CacheExport],
    result: BuildResult,
    store: Store,
    report: Callable[[Event], None],
    *,
    secrets: Mapping[str, bytes] = NO_GRANTS.secrets,
    done: int = 0,
) -> None:
    """Carry out every --cache-to.

    Args:
        secrets: what no cache mount may carry outside.
        done: pieces of work that came after those of the build.
    """

    def notice(message: str) -> None:
        report(Notice(message=message))

    for vertex, export in enumerate(exports, result.vertices + done + 1):
        started = time.monotonic()
        report(VertexStarted(vertex=vertex, title=f"exporting cache to {export.dest}"))
        try:
            export_steps(store, _keys(result, export.mode), export.dest)
            if export.mounts:
                _write_mounts(result, store, export.dest, secrets, notice)
        except (StoreError, OSError) as error:
            if not export.ignore_error:
                raise
            notice(f"cache not exported to {export.dest}: {error}")
        report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))


def _write_mounts(
    result: BuildResult,
    store: Store,
    dest: Path,
    secrets: Mapping[str, bytes],
    notice: Callable[[str], None],
) -> None:
    """Export what is in the cache mounts of the build. One that cannot be stops no other."""
    for key, target in sorted(result.cache_mounts.items()):
        try:
            sockets = export_mount(
                store, key, dest, filtered=lambda changes: without_secrets(changes, secrets)
            )
        except SecretLeakError as error:
            notice(
                f"cache mount {target} is not exported: the secret {error.id!r} is in it,"
                f" at {error.path!r}"
            )
        except StoreError as error:
            notice(f"cache mount {target} is not exported: {error}")
        else:
            if sockets:
                rest = f" and {len(sockets) - 1} more" if len(sockets) > 1 else ""
                notice(f"cache mount {target} is exported without the socket {sockets[0]!r}{rest}")


def _keys(result: BuildResult, mode: str) -> list[Digest]:
    """The keys of the steps to export, in the order of the build."""
    return [
        Digest.parse(step.key)
        for step in result.record.steps
        if step.key and (mode == "max" or step.layer in result.own)
    ]


def _parse_export(text: str) -> CacheExport | None:
    """What one --cache-to says; None for type=inline."""
    kind, attributes = _kind_of(split_fields(text, option="--cache-to"), text, "--cache-to")
    if kind == "inline":
        attributes.end()
        return None
    dest = attributes.text("dest")
    if not dest:
        raise OutputError("dest is required for --cache-to type=local")
    mode = attributes.text("mode") or "min"
    if mode not in ("min", "max"):
        raise attributes.error("mode", mode, "neither min nor max")
    export = CacheExport(
        dest=Path(dest),
        mode="max" if mode == "max" else "min",
        mounts=attributes.boolean("mounts", default=False),
        ignore_error=attributes.boolean("ignore-error", default=False),
    )
    attributes.end()
    return export


def _parse_import(text: str) -> Path | str:
    fields = split_fields(text, option="--cache-from")
    if len(fields) == 1 and "=" not in fields[0]:
        return Reference.parse(fields[0]).familiar
    kind, attributes = _kind_of(fields, text, "--cache-from")
    if kind == "inline":
        raise OutputError("--cache-from: type=inline is for --cache-to", hint="name the image")
    source = attributes.text("src")
    if not source:
        raise OutputError("src is required for --cache-from type=local")
    attributes.end()
    return Path(source)


def _kind_of(fields: list[str], text: str, option: str) -> tuple[str, Attributes]:
    bare = len(fields) == 1 and "=" not in fields[0]  # docker's short form of type=registry
    given = {"type": "registry"} if bare else parse_attributes(fields, option=option)
    kind = given.pop("type", "")
    if not kind:
        raise OutputError(f"{option}: type is required: {text}", hint="type=local")
    if kind not in ("local", "inline"):
        raise UnsupportedFeatureError(feature=f"{option} type={kind}", hint=_HINT)
    return kind, Attributes(given, what=f"{option} type={kind}")
