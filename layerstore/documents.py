"""Image documents: config, manifest and index, to and from JSON.

Parsing believes nothing: size, depth, types and ranges are checked, and a document that could be
read in two ways (duplicate keys, a manifest that is an index too) is refused. What is not known is
ignored, and not kept: a document that must keep its digest is kept as bytes, never re-encoded.

Encoding goes through `canonical_json`: equal values give equal bytes.
Maps are tuples of pairs, sets are tuples, both sorted; what JSON has as null is absent here.

Spec: OCI image-spec v1.1, config.md, manifest.md, image-index.md; Docker's image spec v1.2 for
Healthcheck, Shell and OnBuild, which OCI reserves.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from layerstore import descriptor as media
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest
from layerstore.errors import MalformedDocumentError, UnsupportedMediaTypeError

DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
DEPTH_MAX = 32  # nested brackets; an OCI document needs 5
LAYERS_MAX = 500  # OVL_MAX_STACK of the kernel's overlayfs: more could never be mounted
_INT64_MAX = 2**63 - 1
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
_INLINE_CACHE = "lamina.cache.v2"
_MEDIA_TYPE_LETTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&^_.+-"
)

Pairs = tuple[tuple[str, str], ...]
Json = Mapping[str, object]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthcheckConfig:
    """`test` is empty (inherit), ("NONE",), ("CMD", ...) or ("CMD-SHELL", line). 0 is inherit."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """How a container of the image is started; the `config` object of an image config."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=value, in the order in which they were set
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Pairs = ()
    stop_signal: str = ""
    healthcheck: HealthcheckConfig | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One instruction; `empty_layer` says that it made none."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The config of an image, whose digest is the image id. Times are RFC 3339.

    `inline_cache` is what transports/inline_cache.py keeps in it; other builders do not read it.
    """

    architecture: str
    os: str
    variant: str = ""
    author: str = ""
    created: str = ""
    config: ContainerConfig = field(default_factory=ContainerConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    inline_cache: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an image config.

        Raises:
            MalformedDocumentError: it is none, or breaks a bound.
        """
        reader = Reader.of(data, context="image config")
        rootfs = reader.child("rootfs")
        if rootfs is None or rootfs.text("type") not in ("", "layers"):
            raise reader.error("rootfs", "is missing, or its type is not 'layers'")
        return cls(
            architecture=reader.text("architecture", required=True),
            os=reader.text("os", required=True),
            variant=reader.text("variant"),
            author=reader.text("author"),
            created=reader.time("created"),
            config=_parse_container_config(reader.child("config")),
            diff_ids=tuple(map(Digest.parse, rootfs.texts("diff_ids", count_max=LAYERS_MAX) or ())),
            history=reader.items("history", _parse_history),
            inline_cache=reader.text(_INLINE_CACHE),
        )

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(
            _without_empty(
                {
                    "architecture": self.architecture,
                    "os": self.os,
                    "variant": self.variant,
                    "author": self.author,
                    "created": self.created,
                    _INLINE_CACHE: self.inline_cache,
                }
            )
            | {
                "config": _container_config_json(self.config),
                "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
                "history": [_history_json(entry) for entry in self.history],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an image consists of: a config, and layers bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Pairs = ()
    media_type: str = media.OCI_MANIFEST

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest, OCI's or Docker's.

        Raises:
            MalformedDocumentError: it is none, breaks a bound, or could be taken for an index.
        """
        reader = Reader.of(data, context="image manifest")
        reader.check_version()
        reader.check_absent("manifests", "fsLayers")
        media_type = reader.text("mediaType") or media.OCI_MANIFEST
        if media_type not in media.MANIFEST_TYPES:
            raise reader.error("mediaType", f"is {media_type[:80]!r}")
        config = reader.child("config")
        if config is None or reader.value("layers") is None:
            raise reader.error("config" if config is None else "layers", "is missing")
        return cls(
            config=parse_descriptor(config),
            layers=reader.items("layers", parse_descriptor, count_max=LAYERS_MAX),
            annotations=reader.pairs("annotations"),
            media_type=media_type,
        )

    def encode(self) -> bytes:
        """The canonical bytes."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor_json(self.config),
            "layers": [descriptor_json(layer) for layer in self.layers],
        }
        return canonical_json(document | _without_empty({"annotations": dict(self.annotations)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A list of manifests: of a store, of an archive, or of one image's platforms."""

    manifests: tuple[Descriptor, ...] = ()
    annotations: Pairs = ()
    media_type: str = media.OCI_INDEX

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an index, OCI's or Docker's manifest list.

        Raises:
            MalformedDocumentError: it is none, breaks a bound, or could be taken for a manifest.
        """
        reader = Reader.of(data, context="image index")
        reader.check_version()
        reader.check_absent("config", "layers", "fsLayers")
        media_type = reader.text("mediaType") or media.OCI_INDEX
        if media_type not in media.INDEX_TYPES:
            raise reader.error("mediaType", f"is {media_type[:80]!r}")
        if reader.value("manifests") is None:
            raise reader.error("manifests", "is missing")
        return cls(
            manifests=reader.items("manifests", parse_descriptor),
            annotations=reader.pairs("annotations"),
            media_type=media_type,
        )

    def encode(self) -> bytes:
        """The canonical bytes."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [descriptor_json(entry) for entry in self.manifests],
        }
        return canonical_json(document | _without_empty({"annotations": dict(self.annotations)}))


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8. Half a surrogate pair (a name that is not UTF-8) is U+FFFD."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole_characters(text).encode()


def parse_json(data: bytes, *, context: str) -> object:
    """Read JSON of bounded size and depth, without duplicate keys.

    Raises:
        MalformedDocumentError: it is none, or breaks a bound.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise MalformedDocumentError(context=context, problem="a key occurs twice")
        return members

    if len(data) > DOCUMENT_BYTES_MAX:
        raise MalformedDocumentError(
            context=context, problem=f"{len(data)} bytes are more than {DOCUMENT_BYTES_MAX}"
        )
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        _check_depth(data, context=context)
    try:
        document: object = json.loads(data.decode(), object_pairs_hook=unique)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise MalformedDocumentError(context=context, problem=f"not JSON: {error}") from None
    return document


def _check_depth(data: bytes, *, context: str) -> None:
    depth = 0
    for token in re.finditer(_TOKENS, data, re.DOTALL):
        start = token[0][0]
        if start in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise MalformedDocumentError(
                    context=context, problem=f"nested deeper than {DEPTH_MAX} levels"
                )
        elif start in b"]}":
            depth -= 1


# Strings are matched only to be skipped: a bracket in one does not count.
_TOKENS = rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]'


class Reader:
    """One JSON object, read field by field; errors name document and field."""

    __slots__ = ("_context", "_members")

    def __init__(self, members: Json, context: str) -> None:
        self._members = members
        self._context = context

    @classmethod
    def of(cls, data: bytes, *, context: str) -> Self:
        """Read `data`, which must be one object."""
        document = parse_json(data, context=context)
        if not isinstance(document, dict):
            raise MalformedDocumentError(context=context, problem="not a JSON object")
        return cls(document, context)

    def error(self, key: str, problem: str) -> MalformedDocumentError:
        """The error that `key` has `problem`."""
        return MalformedDocumentError(context=self._context, problem=f"{key!r} {problem}")

    def value(self, key: str) -> object:
        """The value as it is; None when absent or null."""
        return self._members.get(key)

    def text(self, key: str, *, required: bool = False) -> str:
        """A string; empty when absent."""
        value = self._members.get(key)
        if value is None and not required:
            return ""
        return self._text(key, value)

    def integer(self, key: str, *, minimum: int = 0, required: bool = False) -> int:
        """An integer of 64 bits; 0 when absent."""
        value = self._members.get(key)
        if value is None and not required:
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "is not an integer")
        if not minimum <= value <= _INT64_MAX:
            raise self.error(key, "is out of range")
        return value

    def boolean(self, key: str) -> bool:
        """A boolean; False when absent."""
        value = self._members.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "is not a boolean")
        return value is True

    def time(self, key: str) -> str:
        """An RFC 3339 time, as written; empty when absent."""
        value = self.text(key)
        if value and not is_rfc3339(value):
            raise self.error(key, "is not an RFC 3339 time")
        return value

    def texts(self, key: str, *, count_max: int | None = None) -> tuple[str, ...] | None:
        """A list of strings; None when absent."""
        value = self._members.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(key, "is not a list")
        if count_max is not None and len(value) > count_max:
            raise self.error(key, f"has more than {count_max} entries")
        return tuple([self._text(key, item) for item in value])

    def pairs(self, key: str) -> Pairs:
        """An object of strings; empty when absent."""
        members = self._object(key)
        return tuple(
            sorted((self._text(key, name), self._text(key, v)) for name, v in members.items())
        )

    def keys(self, key: str) -> tuple[str, ...]:
        """The names of an object used as a set; empty when absent."""
        return tuple(sorted(self._text(key, name) for name in self._object(key)))

    def child(self, key: str) -> "Reader | None":
        """An object; None when absent."""
        if self._members.get(key) is None:
            return None
        return Reader(self._object(key), f"{self._context}: {key}")

    def items(
        self, key: str, parse: Callable[["Reader"], T], *, count_max: int | None = None
    ) -> tuple[T, ...]:
        """A list of objects, each read by `parse`; empty when absent."""
        value = self._members.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(key, "is not a list")
        if count_max is not None and len(value) > count_max:
            raise self.error(key, f"has more than {count_max} entries")
        context = f"{self._context}: {key}"
        found = []
        for item in value:
            if not isinstance(item, dict):
                raise self.error(key, "has an entry that is not an object")
            found.append(parse(Reader(item, context)))
        return tuple(found)

    def check_version(self) -> None:
        """Check the schemaVersion of a manifest or index."""
        version = self.integer("schemaVersion", required=True)
        if version == 1 and self.value("fsLayers") is not None:
            raise UnsupportedMediaTypeError(
                media_type=_SCHEMA_1,
                hint="it is of Docker's schema 1, of before 2016: push the image again from a"
                " newer docker, or convert it with `skopeo copy --format oci`",
            )
        if version != 2:
            raise self.error("schemaVersion", "is not 2")

    def check_absent(self, *keys: str) -> None:
        """Check that no field of another kind of document is there."""
        for key in keys:
            if self._members.get(key) is not None:
                raise self.error(key, "belongs to another kind of document: it is ambiguous")

    def _object(self, key: str) -> Json:
        value = self._members.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(key, "is not an object")
        return value

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(key, "is not a string")
        return value if value.isascii() else whole_characters(value)


def is_rfc3339(text: str) -> bool:
    """Whether `text` has the form of an RFC 3339 time (the calendar is not consulted)."""
    digits = text[:4] + text[5:7] + text[8:10] + text[11:13] + text[14:16] + text[17:19]
    fraction, zone = text[19:], text[-6:]
    if text[-1:] in ("Z", "z"):
        fraction = fraction[:-1]
    elif len(zone) == 6 and zone[0] in "+-" and zone[3] == ":":
        digits += zone[1:3] + zone[4:]
        fraction = fraction[:-6]
    else:
        return False
    if fraction:
        digits += fraction[1:] if fraction[0] == "." and len(fraction) > 1 else "x"
    separators = text[4:5] + text[7:8] + text[13:14] + text[16:17]
    return (
        separators == "--::"
        and text[10] in "Tt "
        and len(digits) >= 14
        and digits.isascii()
        and digits.isdigit()
    )


def whole_characters(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, which UTF-8 cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def _parse_container_config(reader: Reader | None) -> ContainerConfig:
    if reader is None:
        return ContainerConfig()
    healthcheck = reader.child("Healthcheck")
    return ContainerConfig(
        user=reader.text("User"),
        exposed_ports=reader.keys("ExposedPorts"),
        env=reader.texts("Env") or (),
        entrypoint=reader.texts("Entrypoint"),
        cmd=reader.texts("Cmd"),
        volumes=reader.keys("Volumes"),
        working_dir=reader.text("WorkingDir"),
        labels=reader.pairs("Labels"),
        stop_signal=reader.text("StopSignal"),
        healthcheck=None if healthcheck is None else _parse_healthcheck(healthcheck),
        shell=reader.texts("Shell"),
        on_build=reader.texts("OnBuild") or (),
    )


def _container_config_json(config: ContainerConfig) -> dict[str, object]:
    optional = {"Entrypoint": config.entrypoint, "Cmd": config.cmd, "Shell": config.shell}
    document = _without_empty(
        {
            "User": config.user,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Env": config.env,
            "Volumes": {path: {} for path in config.volumes},
            "WorkingDir": config.working_dir,
            "Labels": dict(config.labels),
            "StopSignal": config.stop_signal,
            "OnBuild": config.on_build,
        }
    )
    document.update((key, words) for key, words in optional.items() if words is not None)
    if config.healthcheck is not None:
        document["Healthcheck"] = _healthcheck_json(config.healthcheck)
    return document


def _parse_healthcheck(reader: Reader) -> HealthcheckConfig:
    return HealthcheckConfig(
        test=reader.texts("Test") or (),
        interval_ns=reader.integer("Interval"),
        timeout_ns=reader.integer("Timeout"),
        start_period_ns=reader.integer("StartPeriod"),
        start_interval_ns=reader.integer("StartInterval"),
        retries=reader.integer("Retries"),
    )


def _healthcheck_json(healthcheck: HealthcheckConfig) -> dict[str, object]:
    return _without_empty(
        {
            "Test": healthcheck.test,
            "Interval": healthcheck.interval_ns,
            "Timeout": healthcheck.timeout_ns,
            "StartPeriod": healthcheck.start_period_ns,
            "StartInterval": healthcheck.start_interval_ns,
            "Retries": healthcheck.retries,
        }
    )


def _parse_history(reader: Reader) -> History:
    return History(
        created=reader.time("created"),
        created_by=reader.text("created_by"),
        author=reader.text("author"),
        comment=reader.text("comment"),
        empty_layer=reader.boolean("empty_layer"),
    )


def _history_json(entry: History) -> dict[str, object]:
    return _without_empty(
        {
            "created": entry.created,
            "created_by": entry.created_by,
            "author": entry.author,
            "comment": entry.comment,
            "empty_layer": entry.empty_layer,
        }
    )


def parse_descriptor(reader: Reader) -> Descriptor:
    """Read a descriptor in a document."""
    media_type = reader.text("mediaType", required=True)
    if not _is_media_type(media_type):
        raise reader.error("mediaType", "is no media type")
    if not all(":" in url for url in reader.texts("urls") or ()):
        raise reader.error("urls", "has an entry that is no URL")
    platform = reader.child("platform")
    return Descriptor(
        media_type=media_type,
        digest=Digest.parse(reader.text("digest", required=True)),
        size_bytes=reader.integer("size", required=True),
        annotations=reader.pairs("annotations"),
        platform=None
        if platform is None
        else Platform(
            os=platform.text("os", required=True),
            architecture=platform.text("architecture", required=True),
            variant=platform.text("variant"),
            os_version=platform.text("os.version"),
            os_features=platform.texts("os.features") or (),
        ),
    )


def _is_media_type(text: str) -> bool:
    """Whether `text` is a type and a subtype as RFC 6838, section 4.2, has them."""
    kind, slash, subtype = text.partition("/")
    return bool(slash) and all(
        1 <= len(part) <= 127 and part[0].isalnum() and not set(part) - _MEDIA_TYPE_LETTERS
        for part in (kind, subtype)
    )


def descriptor_json(descriptor: Descriptor) -> dict[str, object]:
    """A descriptor as it stands in a document."""
    document: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size_bytes,
    }
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        document["platform"] = {
            "os": descriptor.platform.os,
            "architecture": descriptor.platform.architecture,
        } | _without_empty(
            {
                "variant": descriptor.platform.variant,
                "os.version": descriptor.platform.os_version,
                "os.features": descriptor.platform.os_features,
            }
        )
    return document


def _without_empty(members: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in members.items() if value}
