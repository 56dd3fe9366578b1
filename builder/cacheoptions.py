"""--cache-to and --cache-from: the cached steps of a build, to and from other places.

    type=local,dest=DIR[,mode=min|max][,mounts=true][,ignore-error=true]    --cache-to
    type=local,src=DIR              --cache-from
    type=registry,ref=NAME[,mode=min|max][,mounts=true][,ignore-error=true]     --cache-to
    type=registry,ref=NAME          --cache-from: such a cache, or an image with type=inline
    type=inline                     --cache-to: into the image's config
    NAME                            --cache-from: such an image of the store, else type=registry

mode=min, the default, exports the steps that made the layers of the result; mode=max those of all
stages. mounts=true adds what is in the cache mounts of all stages, whatever the mode.
registry.insecure=true is for a registry without TLS, or with any certificate. Other kinds (gha, s3
...) are refused by name.

Differs: docker has no mounts=.

Differs: a cache to import from that is not there, cannot be reached, or is damaged, never stops a
build, as with docker; here it is also never the reason of an error later on.

Source: docker buildx, "--cache-to", "--cache-from"; BuildKit, cache/remotecache/local, registry.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.attributes import Attributes, parse_attributes, split_fields
from builder.errors import OutputError, SecretLeakError, UnsupportedFeatureError
from builder.events import Event, Notice, VertexDone, VertexStarted
from builder.grants import NO_GRANTS
from builder.leaks import without_secrets
from builder.request import BuildResult
from layerstore import (
    CachedMounts,
    CachePlace,
    Digest,
    DirectoryPlace,
    InlineCache,
    NotFoundError,
    Reference,
    StepCache,
    Store,
    StoreError,
    export_descriptions,
    export_mount,
    export_steps,
)

if TYPE_CHECKING:
    from layerstore.registry import RegistryClient

_HINT = "there are type=local, registry and inline; a directory can be cached or copied anywhere"

Connect = Callable[[bool], "RegistryClient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryCache:
    """A cache in a registry. `is_bare`: only a name was given, that of an image of the store first.

    The `client` is whoever's who gave it, and open as long as the build and its exports go on.
    """

    reference: Reference
    client: "RegistryClient" = field(repr=False, compare=False)
    is_bare: bool = False

    def __str__(self) -> str:
        return self.reference.familiar


CacheImport = Path | RegistryCache


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExport:
    """One --cache-to, to a directory or a registry."""

    dest: Path | RegistryCache
    mode: Literal["min", "max"]
    mounts: bool
    ignore_error: bool


def parse_cache_to(texts: Sequence[str], connect: Connect) -> tuple[tuple[CacheExport, ...], bool]:
    """Read the values of --cache-to: what to write, and whether it is inline as well.

    Args:
        connect: makes a client of registries, also of insecure ones.

    Raises:
        OutputError, UnsupportedFeatureError.
    """
    found = [_parse_export(text, connect) for text in texts]
    return tuple(filter(None, found)), None in found


def parse_cache_from(texts: Sequence[str], connect: Connect) -> tuple[CacheImport, ...]:
    """Read the values of --cache-from: directories and registries, to be asked in this order.

    Raises:
        OutputError, UnsupportedFeatureError.
    """
    return tuple(_parse_import(text, connect) for text in texts)


def add_cache(source: CacheImport, store: Store, notice: Callable[[str], None]) -> None:
    """Have the store look for steps and cache mounts in `source`, too.

    Args:
        notice: told why nothing of it, or not all of it, can be used.
    """
    if isinstance(source, Path):
        _add_place(DirectoryPlace(source), store, notice)
        return
    try:
        if not (source.is_bare and _add_image(source, store, notice)):
            _add_remote(source, store, notice)
    except StoreError as error:
        notice(f"no build cache in {source}: {error.message}")


def _add_place(place: CachePlace, store: Store, notice: Callable[[str], None]) -> None:
    store.cache.add_source(StepCache(place, store, notice))
    store.cache_mounts.add_source(CachedMounts(place, store, notice))


def _add_image(source: RegistryCache, store: Store, notice: Callable[[str], None]) -> bool:
    """Look into an image of the store; False when there is none."""
    try:
        image = store.images.resolve(source.reference.full)
    except NotFoundError:
        return False
    store.cache.add_source(InlineCache(image.manifest, image.config, store, notice))
    return True


def _add_remote(source: RegistryCache, store: Store, notice: Callable[[str], None]) -> None:
    from layerstore.registry import RepositoryPlace, find_inline_cache

    place = RepositoryPlace.find(source.client, source.reference)
    if place is not None:
        _add_place(place, store, notice)
        return
    inline = find_inline_cache(source.client, store, source.reference, notice)
    if inline is not None:
        store.cache.add_source(inline)
    else:
        notice(f"no build cache in {source}: it is an image without one: build it with type=inline")


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
            _write(export, result, store, secrets, notice)
        except (StoreError, OSError) as error:
            if not export.ignore_error:
                raise
            notice(f"cache not exported to {export.dest}: {error}")
        report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))


def _write(
    export: CacheExport,
    result: BuildResult,
    store: Store,
    secrets: Mapping[str, bytes],
    notice: Callable[[str], None],
) -> None:
    keys, dest = _keys(result, export.mode), export.dest
    if isinstance(dest, Path):
        export_steps(store, keys, dest)
        export_descriptions(store, result.foreign, dest)
        if export.mounts:
            write = partial(export_mount, store, root=dest)
            _write_mounts(result, write, secrets, notice)
        return
    from layerstore.registry import CacheExporter

    exporter = CacheExporter(store=store, client=dest.client, reference=dest.reference)
    exporter.add_steps(keys)
    exporter.add_descriptions(result.foreign)
    with store.new_tmpdir() as folder:
        if export.mounts:
            write = partial(exporter.add_mount, folder=folder / "mounts")
            _write_mounts(result, write, secrets, notice)
        exporter.send()


def _write_mounts(
    result: BuildResult,
    write: Callable[..., tuple[str, ...]],
    secrets: Mapping[str, bytes],
    notice: Callable[[str], None],
) -> None:
    """Export what is in the cache mounts of the build. One that cannot be stops no other.

    Args:
        write: exports one, by its key and what it is `filtered` by; returns the sockets in it.
    """
    for key, target in sorted(result.cache_mounts.items()):
        try:
            sockets = write(key, filtered=lambda changes: without_secrets(changes, secrets))
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


def _parse_export(text: str, connect: Connect) -> CacheExport | None:
    """What one --cache-to says; None for type=inline."""
    kind, attributes = _kind_of(split_fields(text, option="--cache-to"), text, "--cache-to")
    if kind == "inline":
        attributes.end()
        return None
    dest: Path | RegistryCache
    if kind == "registry":
        for name in ("image-manifest", "oci-mediatypes"):
            if not attributes.boolean(name, default=True):
                raise UnsupportedFeatureError(
                    feature=f"--cache-to type=registry,{name}=false",
                    hint="a cache is a manifest of OCI's",
                )
        dest = _registry_cache(attributes, connect, "--cache-to")
    else:
        given = attributes.text("dest")
        if not given:
            raise OutputError("dest is required for --cache-to type=local")
        dest = Path(given)
    mode = attributes.text("mode") or "min"
    if mode not in ("min", "max"):
        raise attributes.error("mode", mode, "neither min nor max")
    export = CacheExport(
        dest=dest,
        mode="max" if mode == "max" else "min",
        mounts=attributes.boolean("mounts", default=False),
        ignore_error=attributes.boolean("ignore-error", default=False),
    )
    attributes.end()
    return export


def _registry_cache(attributes: Attributes, connect: Connect, option: str) -> RegistryCache:
    reference = attributes.text("ref")
    if not reference:
        raise OutputError(f"ref is required for {option} type=registry")
    insecure = attributes.boolean("registry.insecure", default=False)
    return RegistryCache(reference=Reference.parse(reference), client=connect(insecure))


def _parse_import(text: str, connect: Connect) -> CacheImport:
    fields = split_fields(text, option="--cache-from")
    if len(fields) == 1 and "=" not in fields[0]:
        reference = Reference.parse(fields[0])
        return RegistryCache(reference=reference, client=connect(False), is_bare=True)
    kind, attributes = _kind_of(fields, text, "--cache-from")
    if kind == "inline":
        raise OutputError("--cache-from: type=inline is for --cache-to", hint="name the image")
    if kind == "registry":
        cache = _registry_cache(attributes, connect, "--cache-from")
        attributes.end()
        return cache
    source = attributes.text("src")
    if not source:
        raise OutputError("src is required for --cache-from type=local")
    attributes.end()
    return Path(source)


def _kind_of(fields: list[str], text: str, option: str) -> tuple[str, Attributes]:
    bare = len(fields) == 1 and "=" not in fields[0]  # docker's short form
    given = (
        {"type": "registry", "ref": fields[0]} if bare else parse_attributes(fields, option=option)
    )
    kind = given.pop("type", "")
    if not kind:
        raise OutputError(
            f"{option}: type is required: {text}", hint="type=local, registry or inline"
        )
    if kind not in ("local", "inline", "registry"):
        raise UnsupportedFeatureError(feature=f"{option} type={kind}", hint=_HINT)
    return kind, Attributes(given, what=f"{option} type={kind}")
