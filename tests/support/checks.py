"""Build checks in few words: what a text has against it.

said("FROM a as b\\n") == [("FromAsCasing", 1)]
"""

from collections.abc import Mapping
from typing import Any

from builder.check import Subject, Survey, survey_of
from layerstore import ContainerConfig, ImageConfig, Platform
from tests.support.images import dockerfile

HOST = Platform(os="linux", architecture="amd64")


def look(
    text: str,
    *,
    all_stages: bool = True,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    ignore: str | None = None,
    bases: Mapping[str, ImageConfig] | None = None,
) -> Survey:
    subject = Subject(
        dockerfile=dockerfile(text),
        target=target,
        build_args=build_args or {},
        ignore_file=None if ignore is None else ignore.encode(),
        platform=HOST,
        find_base=(bases or {}).get,
    )
    return survey_of(subject, all_stages=all_stages)


def said(text: str, **more: Any) -> list[tuple[str, int]]:
    found = look(text, **more)
    assert found.failure is None, found.failure
    return [(each.rule, each.line) for each in found.warnings]


def details(text: str, **more: Any) -> list[str]:
    return [each.detail for each in look(text, **more).warnings]


def base(*env: str, os: str = "linux", **config: Any) -> ImageConfig:
    container = ContainerConfig(env=env, **config)
    return ImageConfig(os=os, architecture="amd64", config=container)
