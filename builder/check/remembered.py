"""The warnings of a build, remembered: the same Dockerfile has the same ones.

What is remembered goes by everything the pass sees, and by the digest of the files that make it.
A build that finds its warnings here imports nothing of the pass.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict

from builder.errors import CheckFailedError
from builder.events import CheckWarning
from grammar import Dockerfile
from layerstore import CacheIndex, Digest, ImageConfig, Platform

_MEMO = "checked"
_HERE = os.path.dirname(__file__)  # noqa: PTH120  (os is loaded anyway, pathlib costs 3 ms)
_CODE = (_HERE, f"{_HERE}/../lower")


def check_build(
    dockerfile: Dockerfile,
    *,
    target: str,
    build_args: Mapping[str, str],
    ignore_file: bytes | None,
    platform: Platform,
    bases: Mapping[str, tuple[str, ImageConfig]],
    cache: CacheIndex,
    report: Callable[[CheckWarning], None],
) -> None:
    """Report the warnings about what the target needs.

    Args:
        bases: the base images that are known, by the names in FROM: image id and config.

    Raises:
        CheckFailedError: there are some, and the file says that they are errors.
        PlanError: options of checks that make no sense.
    """
    key = Digest.of(
        json.dumps(
            [
                _fingerprint(),
                dockerfile.source.lines,
                target,
                sorted(build_args.items()),
                None if ignore_file is None else ignore_file.decode("latin-1"),
                (platform.os, platform.architecture, platform.variant),
                sorted((name, image_id) for name, (image_id, _config) in bases.items()),
            ]
        ).encode()
    )
    kept = cache.get_memo(_MEMO, key)
    if kept is not None:
        for fields in json.loads(kept):
            report(CheckWarning(**fields))
        return
    from builder.check.findings import Subject
    from builder.check.survey import survey_of

    found = survey_of(
        Subject(
            dockerfile=dockerfile,
            target=target,
            build_args=build_args,
            ignore_file=ignore_file,
            platform=platform,
            find_base=lambda name: bases[name][1] if name in bases else None,
        ),
        all_stages=False,
    )
    for warning in found.warnings:
        report(warning)
    if isinstance(found.failure, CheckFailedError):
        raise found.failure  # another failure is told better by the build that runs into it
    cache.put_memo(_MEMO, key, json.dumps([asdict(each) for each in found.warnings]).encode())


def _fingerprint() -> str:
    """The digest of the code that makes warnings."""
    total = hashlib.sha256()
    for folder in _CODE:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".py"))
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                total.update(f"{name}\0".encode() + file.read() + b"\0")
    return total.hexdigest()
