"""What comes out of a build: the image in the store, archives, directories.

    -o DIR                                  = type=local,dest=DIR
    -o -                                    = type=tar,dest=-
    type=local,dest=DIR                     the root file system of the result as files
    type=tar[,dest=FILE|-]                  the same as a tar
    type=oci[,dest=FILE|-][,tar=false]      the image as an OCI layout, in a tar or as a directory
    type=docker[,dest=FILE|-]               the image as an archive that docker loads; without dest
                                            into the store
    type=image[,name=NAME][,push=true]      the image in the store, and in its registry
    type=registry[,name=NAME]               the image in its registry; also in the store, unless
                                            layers of it are only elsewhere
    type=cacheonly                          nothing

Without any it is type=image. With others alone the image is neither named nor listed in the store,
as docker does.

Differs: oci-mediatypes is true for type=docker, too, so that an image has one digest everywhere.
Where SOURCE_DATE_EPOCH is set, the times in the build's own layers are always bounded by it, as
rewrite-timestamp=true asks for; those of the base image never change. type=local keeps the owners
that the image has when root writes it; docker gives all files to the user. It has no device nodes.

Source: docker buildx, "docker buildx build", --output; BuildKit, exporter/.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, assert_never

from builder.attributes import Attributes, parse_attributes, split_fields
from builder.errors import OutputError, UnsupportedFeatureError
from builder.events import (
    Event,
    Notice,
    VertexDone,
    VertexFailed,
    VertexOutput,
    VertexProgress,
    VertexStarted,
)
from builder.request import BuildResult
from layerstore import (
    Compression,
    Encoding,
    Export,
    Image,
    Layer,
    Reference,
    Store,
    add_to_layout,
    encode_image,
    levels,
    save_images,
    write_rootfs,
    write_rootfs_tar,
    written_beside,
)

if TYPE_CHECKING:
    from layerstore.registry import RegistryClient

_OPTION = "--output"
_COMPRESSIONS: dict[str, Compression] = {"uncompressed": "none", "gzip": "gzip", "zstd": "zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesOutput:
    """type=local"""

    dest: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TarOutput:
    """type=tar. `dest` None is standard output."""

    dest: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOutput:
    """type=oci and type=docker. `dest` None is standard output."""

    format: Literal["oci-archive", "oci-dir", "docker"]
    dest: Path | None
    names: tuple[Reference, ...]
    encoding: Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutput:
    """type=image, type=registry, and type=docker without dest."""

    names: tuple[Reference, ...] = ()
    encoding: Encoding
    push: bool = False  # and to the registries of its names
    load: bool = True  # False: layers that are elsewhere need not come, even if it is not kept then


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOnlyOutput:
    """type=cacheonly"""


Output = FilesOutput | TarOutput | ArchiveOutput | StoreOutput | CacheOnlyOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """All that one build was asked for."""

    all: tuple[Output, ...]
    wants_rewrite: bool = False  # rewrite-timestamp=true was given

    @property
    def stored(self) -> StoreOutput | None:
        """How the image goes into the store, None when it does not."""
        return next((each for each in self.all if isinstance(each, StoreOutput)), None)

    @property
    def need_layers(self) -> bool:
        """Whether layers must come that are elsewhere: not for the cache or a registry alone."""
        return any(
            each.load if isinstance(each, StoreOutput) else not isinstance(each, CacheOnlyOutput)
            for each in self.all
        )

    @property
    def names(self) -> tuple[Reference, ...]:
        """What the image that was asked for is called; none where only files were."""
        images = (each for each in self.all if isinstance(each, StoreOutput | ArchiveOutput))
        return next((each.names for each in images), ())

    @property
    def to_stdout(self) -> bool:
        """Whether one of them is written to standard output."""
        return any(isinstance(o, TarOutput | ArchiveOutput) and o.dest is None for o in self.all)


# ---- reading


def parse_outputs(
    texts: Sequence[str],
    *,
    names: tuple[Reference, ...] = (),
    annotations: Sequence[str] = (),
    load: bool = False,
) -> Outputs:
    """Read the values of --output.

    Args:
        names: those of --tag; they take the place of name=.
        annotations: the values of --annotation, for every image that is written.
        load: --load is given: the image goes into the store as well.

    Raises:
        OutputError, UnsupportedFeatureError, InvalidReferenceError.
    """
    common = _annotations(annotations)
    outputs: list[Output] = []
    wants_rewrite = False
    for text in filter(None, texts):
        output, rewrite = _parse(text, names, common)
        outputs.append(output)
        wants_rewrite |= rewrite
    if not outputs or (load and not any(isinstance(each, StoreOutput) for each in outputs)):
        outputs.append(StoreOutput(names=names, encoding=Encoding(annotations=common)))
    if load:
        outputs = [replace(o, load=True) if isinstance(o, StoreOutput) else o for o in outputs]
    found = Outputs(all=_one_stored(outputs), wants_rewrite=wants_rewrite)
    if sum(isinstance(o, TarOutput | ArchiveOutput) and o.dest is None for o in found.all) > 1:
        raise OutputError(f"{_OPTION}: two outputs for standard output")
    return found


def _annotations(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """[manifest:]KEY=VALUE of every text; an image of one platform has no index to annotate."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        kind, colon, name = key.partition(":")
        if not equals or not key:
            raise OutputError(f"invalid annotation {text!r}", hint="KEY=VALUE")
        if colon and kind != "manifest":
            raise UnsupportedFeatureError(feature=f"--annotation {kind}:")
        found[name if colon else key] = value
    return tuple(found.items())


def _parse(
    text: str, names: tuple[Reference, ...], common: tuple[tuple[str, str], ...]
) -> tuple[Output, bool]:
    fields = split_fields(text, option=_OPTION)
    if fields == [text] and not text.startswith("type="):
        kind = "tar" if text == "-" else "local"
        given = {"type": kind, "dest": text}
    else:
        given = parse_attributes(fields, option=_OPTION)
    kind = given.pop("type", "")
    if not kind:
        raise OutputError(f"{_OPTION}: type is required: {text}", hint="type=local,dest=DIRECTORY")
    attributes = Attributes(given, what=f"{_OPTION} type={kind}")
    if kind not in ("image", "registry", "oci", "docker"):
        output = _of_files(kind, attributes)
        attributes.end()
        return output, False
    rewrite = attributes.boolean("rewrite-timestamp", default=False)
    if not rewrite and "rewrite-timestamp" in given:
        raise UnsupportedFeatureError(
            feature="rewrite-timestamp=false",
            hint="with SOURCE_DATE_EPOCH the times of the build's own files are always bounded",
        )
    own_names = _names(attributes.text("name"))
    named = names or own_names
    output = _of_image(kind, attributes, named, _encoding(attributes, common))
    attributes.end()
    return output, rewrite


def _of_files(kind: str, attributes: Attributes) -> Output:
    match kind:
        case "local":
            return FilesOutput(dest=_directory(attributes.text("dest"), kind))
        case "tar":
            return TarOutput(dest=_file(attributes.text("dest"), kind))
        case "cacheonly":
            return CacheOnlyOutput()
        case _:
            raise OutputError(
                f"{_OPTION}: unknown type {kind!r}",
                hint="local, tar, oci, docker, image, registry or cacheonly",
            )


def _of_image(
    kind: str, attributes: Attributes, names: tuple[Reference, ...], encoding: Encoding
) -> Output:
    if kind in ("image", "registry"):
        push = attributes.boolean("push", default=kind == "registry")
        if push and not names:
            raise OutputError(
                "tag is needed when pushing to registry", hint="-t NAME, or name=NAME"
            )
        load = kind == "image" or not push
        return StoreOutput(names=names, encoding=encoding, push=push, load=load)
    dest = attributes.text("dest")
    in_tar = attributes.boolean("tar", default=True)
    if kind == "oci":
        if not in_tar:
            target = _directory(dest, kind)
            return ArchiveOutput(format="oci-dir", dest=target, names=names, encoding=encoding)
        return ArchiveOutput(
            format="oci-archive", dest=_file(dest, kind), names=names, encoding=encoding
        )
    if not in_tar:
        raise UnsupportedFeatureError(feature=f"{_OPTION} type=docker,tar=false")
    if not dest:
        return StoreOutput(names=names, encoding=encoding)
    return ArchiveOutput(format="docker", dest=_file(dest, kind), names=names, encoding=encoding)


def _encoding(attributes: Attributes, common: tuple[tuple[str, str], ...]) -> Encoding:
    name = attributes.text("compression")
    level = attributes.number("compression-level")
    if name and name not in _COMPRESSIONS:
        raise attributes.error("compression", name, f"not one of {', '.join(_COMPRESSIONS)}")
    force = attributes.boolean("force-compression", default=False)
    kind = _COMPRESSIONS[name] if name else "gzip" if level is not None or force else None
    if kind is not None and level is not None and level not in levels(kind):
        known = levels(kind)
        problem = f"{known[0]} to {known[-1]}" if known else "there are no levels"
        raise attributes.error("compression-level", str(level), f"{name or kind} has {problem}")
    annotations = {
        **dict(common),
        **attributes.prefixed("annotation."),
        **attributes.prefixed("annotation-manifest."),
    }
    return Encoding(
        compression=kind,
        level=level,
        force=force,
        docker_types=not attributes.boolean("oci-mediatypes", default=True),
        annotations=tuple(annotations.items()),
    )


def _names(text: str) -> tuple[Reference, ...]:
    return tuple(Reference.parse(name) for name in text.split(",") if name)


def _directory(dest: str, kind: str) -> Path:
    if not dest:
        raise OutputError(f"dest is required for {_OPTION} type={kind}")
    if dest == "-":
        raise OutputError(f"dest cannot be standard output for {_OPTION} type={kind}")
    if Path(dest).exists() and not Path(dest).is_dir():
        raise OutputError(f"destination directory {dest} is a file")
    return Path(dest)


def _file(dest: str, kind: str) -> Path | None:
    if dest in ("", "-"):
        if sys.stdout.isatty():
            raise OutputError(
                f"dest file is required for {_OPTION} type={kind}: refusing to write to a terminal",
                hint="name a file with dest=, or redirect",
            )
        return None
    if Path(dest).is_dir():
        raise OutputError(f"destination file {dest} is a directory")
    if not Path(dest).parent.is_dir():
        raise OutputError(f"destination file {dest}: there is no directory {Path(dest).parent}")
    return Path(dest)


def _one_stored(outputs: list[Output]) -> tuple[Output, ...]:
    """Several outputs into the store are one with all names."""
    stored = [each for each in outputs if isinstance(each, StoreOutput)]
    if len(stored) < 2:
        return tuple(outputs)
    if len({each.encoding for each in stored}) > 1:
        raise OutputError(f"{_OPTION}: two outputs into the store that are to be different")
    names = dict.fromkeys(name for each in stored for name in each.names)
    others = [each for each in outputs if not isinstance(each, StoreOutput)]
    push, load = any(each.push for each in stored), any(each.load for each in stored)
    return (replace(stored[0], names=tuple(names), push=push, load=load), *others)


# ---- writing


def write_outputs(
    outputs: Outputs,
    result: BuildResult,
    store: Store,
    report: Callable[[Event], None],
    *,
    stdout: BinaryIO,
    client: "Callable[[], RegistryClient] | None" = None,
) -> Image | None:
    """Write everything that is not in the store already.

    Args:
        client: called when something is to be pushed; None is a client with the user's settings.

    Returns:
        The image that was asked for, as it is encoded; None when only files were.

    Raises:
        OutputError, StoreError, OSError: a file or directory that could not be written whole is
            as it was before.
    """
    if outputs.wants_rewrite and result.epoch is None:
        report(Notice(message="rewrite-timestamp=true changes nothing without SOURCE_DATE_EPOCH"))
    images: list[Image] = []
    for number, output in enumerate(outputs.all, result.vertices + 1):
        if isinstance(output, StoreOutput):
            images.append(result.image)
            if output.push:
                with _shown(output, number, report):
                    _push(output, result, store, report, number, client)
        elif not isinstance(output, CacheOnlyOutput):
            with _shown(output, number, report):
                images += _write(output, result, store, report, stdout)
    return images[0] if images else None


@contextmanager
def _shown(output: Output, vertex: int, report: Callable[[Event], None]) -> Iterator[None]:
    started = time.monotonic()
    report(VertexStarted(vertex=vertex, title=f"exporting to {_destination(output)}"))
    try:
        yield
    except BaseException as error:
        seconds = time.monotonic() - started
        report(VertexFailed(vertex=vertex, seconds=seconds, message=str(error)))
        raise
    report(VertexDone(vertex=vertex, seconds=time.monotonic() - started))


def _destination(output: Output) -> str:
    match output:
        case FilesOutput():
            return f"the directory {output.dest}"
        case TarOutput():
            return f"the tar {output.dest or '-'}"
        case ArchiveOutput():
            kind = "docker archive" if output.format == "docker" else "OCI layout"
            return f"the {kind} {output.dest or '-'}"
        case StoreOutput():
            return f"the registry as {', '.join(name.full for name in output.names)}"
        case CacheOnlyOutput():
            raise AssertionError("nothing is written")
        case _:
            assert_never(output)


def _write(
    output: FilesOutput | TarOutput | ArchiveOutput,
    result: BuildResult,
    store: Store,
    report: Callable[[Event], None],
    stdout: BinaryIO,
) -> list[Image]:
    layers = result.image.layers
    match output:
        case FilesOutput():
            write_rootfs(
                store,
                layers,
                output.dest,
                mtime_s=result.epoch,
                chown=_is_root(),
                on_skip=lambda path, why: report(Notice(message=f"{path} is left out: {why}")),
            )
            return []
        case TarOutput():
            with _writing(output.dest, stdout) as file:
                write_rootfs_tar(store, layers, file.write, mtime_s=result.epoch)
            return []
        case ArchiveOutput():
            return [_write_archive(output, result, store, stdout)]
        case _:
            assert_never(output)


def _push(
    output: StoreOutput,
    result: BuildResult,
    store: Store,
    report: Callable[[Event], None],
    vertex: int,
    client: "Callable[[], RegistryClient] | None",
) -> None:
    from builder.transferred import Transferred
    from layerstore.registry import RegistryClient, push_image

    def write(text: str) -> None:
        report(VertexOutput(vertex=vertex, stream="stderr", data=f"{text}\n".encode()))

    shown = Transferred(
        line=write,
        total=lambda size: report(VertexProgress(vertex=vertex, size_bytes=size)),
    )
    to_registry = RegistryClient() if client is None else client()
    with nullcontext() if result.is_kept else _documents(store, result.image):
        for name in output.names:
            digest = push_image(to_registry, store, result.image, name, report=shown.report)
            write(f"pushed {name.full}@{digest}")


@contextmanager
def _documents(store: Store, image: Image) -> Iterator[None]:
    """Have manifest and config of an image that is not kept in the store for the time being."""
    plain = store.images.seal(image.config, image.layers, fetch=False)
    store.images.assemble_as(image.manifest, image.config, image.layers)
    try:
        yield
    finally:
        for digest in (plain.descriptor.digest, image.descriptor.digest, image.id):
            store.blobs.discard(digest)


def _write_archive(
    output: ArchiveOutput, result: BuildResult, store: Store, stdout: BinaryIO
) -> Image:
    def is_own(layer: Layer) -> bool:
        return layer.diff_id not in result.base

    plain = store.images.seal(result.image.config, result.image.layers)
    image = encode_image(store, plain, output.encoding, is_own=is_own)
    exports = [Export(image=image, names=output.names)]
    try:
        if output.format == "oci-dir":
            assert output.dest is not None, "a directory is never standard output"
            add_to_layout(store, exports, output.dest)
        else:
            with _writing(output.dest, stdout) as file:
                save_images(store, exports, file, format=output.format)
    finally:
        blobs = (plain.descriptor, image.descriptor, image.manifest.config, *image.manifest.layers)
        for blob in blobs:
            store.blobs.discard(blob.digest)  # what was made for the archive alone
    return image


def _is_root() -> bool:
    """Whether files may be given to anybody; in a user namespace all are the user's own."""
    from layerstore import in_user_namespace

    return os.geteuid() == 0 and not in_user_namespace()


@contextmanager
def _writing(dest: Path | None, stdout: BinaryIO) -> Iterator[BinaryIO]:
    """Standard output, or a file that is written beside and renamed when it is whole."""
    if dest is None:
        yield stdout
        stdout.flush()
        return
    parent = Path(os.path.realpath(dest)).parent
    if not parent.is_dir():
        raise OutputError(f"{dest} cannot be written: there is no directory {parent}")
    with written_beside(dest) as file:
        yield file


# ---- telling scripts


def write_metadata(
    path: Path, result: BuildResult, image: Image | None, names: Sequence[Reference]
) -> None:
    """Write what the build made as JSON, with docker's names, whole or not at all.

    Source: docker buildx, "--metadata-file".
    """
    document: dict[str, object] = {"buildx.build.ref": f"lamina/lamina/{result.record.id}"}
    if image is not None:
        config = image.config
        platform = {"architecture": config.architecture, "os": config.os}
        document |= {
            "containerimage.config.digest": image.id,
            "containerimage.descriptor": {
                "mediaType": image.descriptor.media_type,
                "digest": image.descriptor.digest,
                "size": image.descriptor.size_bytes,
                "platform": platform | ({"variant": config.variant} if config.variant else {}),
            },
            "containerimage.digest": image.descriptor.digest,
        }
        if names:
            document["image.name"] = ",".join(name.full for name in names)
    import json

    with _writing(path, sys.stdout.buffer) as file:
        file.write(json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
