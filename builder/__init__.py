"""Dockerfile -> image -> container: the library API of this room.

Names are loaded when they are first used, so that importing one part does not pay for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.engine import build
    from builder.inputs import Inputs, parse_remembered, read_inputs
    from builder.request import BuildRequest, BuildResult

_HOMES = {
    "BuildRequest": "builder.request",
    "BuildResult": "builder.request",
    "build": "builder.engine",
    "Inputs": "builder.inputs",
    "parse_remembered": "builder.inputs",
    "read_inputs": "builder.inputs",
}

__all__ = ["BuildRequest", "BuildResult", "Inputs", "build", "parse_remembered", "read_inputs"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(name)
    return getattr(import_module(home), name)
