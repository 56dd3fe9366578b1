"""What a build is asked for, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import record
from builder.grants import NO_GRANTS, Grants
from builder.sources import SourceTree
from builder.steps import NO_SETTINGS, RunSettings
from grammar import Dockerfile
from layerstore import Digest, Image, Layer, Platform, Reference

if TYPE_CHECKING:
    from builder.cacheoptions import CacheImport
    from builder.perform import OnFailure
    from builder.pulling import Pulling
    from builder.squash import Squash
    from layerstore import Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build. `context` None: there is none, and COPY from it is an error.

    `contexts` are the named ones as written on a command line, see provide.py. `platform` None is
    this machine's; a base for another one then gives an image for that.
    """

    dockerfile: Dockerfile
    context: Path | SourceTree | None
    contexts: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    ignore_file: bytes | None = None
    names: tuple[Reference, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()  # names or numbers, all of whose steps are carried out
    no_cache_from: int | None = None  # the line from which on all steps are carried out
    cache_ttl_s: float | None = None  # what was carried out longer ago counts as not cached
    jobs: int = 0  # stages that are built at the same time; 0: as many as there are cores
    network: Literal["default", "host", "none"] = "default"
    source_date_epoch: int | None = None
    allowed: frozenset[str] = frozenset()  # rights RUN may ask for: network.host, security.insecure
    run_settings: RunSettings = NO_SETTINGS
    grants: Grants = NO_GRANTS
    verify: bool = False  # run each program that has to run twice, and compare
    on_failure: "OnFailure | None" = None  # where a RUN has failed, before the build ends
    keep: bool = True  # False: the image is for outputs alone, and gets neither name nor listing
    wants_layers: bool = True  # False: what is elsewhere stays there, and such an image is not kept
    squash: "Squash | None" = None
    encoding: "Encoding | None" = None  # of the image in the store
    inline_cache: bool = False  # the image says which steps made its layers
    pulling: "Pulling | None" = None  # None: images come from the store alone
    cache_from: "tuple[CacheImport, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made. `base` and `own`: the layers the image stands on, and those made here.

    They are diff_ids; `own` are the layers before they were squashed. `foreign`: the layers of all
    images that were stood on or copied from. `cache_mounts`: those of all steps, whether carried
    out or cached, by their keys; the values say where they are shown. `is_kept`: whether the image
    is in the store.
    """

    image: Image
    record: record.BuildRecord
    base: frozenset[Digest] = frozenset()
    own: frozenset[Digest] = frozenset()
    foreign: tuple[Layer, ...] = ()
    epoch: int | None = None
    cache_mounts: Mapping[str, str] = field(default_factory=dict)
    is_kept: bool = True
    vertices: int = 0  # how many pieces of work were numbered
