"""Registries: everything that other rooms may use.

Names are loaded when they are first asked for (PEP 562): a command pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.registry.build_cache import (
        CacheExporter,
        RepositoryPlace,
        find_inline_cache,
    )
    from layerstore.registry.client import RegistryClient
    from layerstore.registry.connection import retry_after
    from layerstore.registry.copies import RegistryCopies
    from layerstore.registry.credentials import Credentials
    from layerstore.registry.errors import (
        BlockedRegistryError,
        CredentialsError,
        DeniedError,
        RegistryError,
        UnauthorizedError,
        UnexpectedAnswerError,
        UnknownManifestError,
        UnreachableRegistryError,
        UntrustedRegistryError,
    )
    from layerstore.registry.offers import know_image, offer_image
    from layerstore.registry.proxies import proxy_for
    from layerstore.registry.pull import (
        Pulled,
        is_current,
        pull_image,
    )
    from layerstore.registry.push import is_whole, push_image, push_index
    from layerstore.registry.repository import Referrer, RemoteDocument, Repository
    from layerstore.registry.settings import Bounds, Settings
    from layerstore.registry.transfers import Status, Transfer

_HOMES = {
    "BlockedRegistryError": "errors",
    "Bounds": "settings",
    "CacheExporter": "build_cache",
    "Credentials": "credentials",
    "CredentialsError": "errors",
    "DeniedError": "errors",
    "Pulled": "pull",
    "Referrer": "repository",
    "RegistryClient": "client",
    "RegistryCopies": "copies",
    "RegistryError": "errors",
    "RemoteDocument": "repository",
    "Repository": "repository",
    "RepositoryPlace": "build_cache",
    "Settings": "settings",
    "Status": "transfers",
    "Transfer": "transfers",
    "UnauthorizedError": "errors",
    "UnexpectedAnswerError": "errors",
    "UnknownManifestError": "errors",
    "UnreachableRegistryError": "errors",
    "UntrustedRegistryError": "errors",
    "is_current": "pull",
    "is_whole": "push",
    "find_inline_cache": "build_cache",
    "proxy_for": "proxies",
    "retry_after": "connection",
    "know_image": "offers",
    "offer_image": "offers",
    "pull_image": "pull",
    "push_image": "push",
    "push_index": "push",
}

__all__ = [
    "BlockedRegistryError",
    "Bounds",
    "CacheExporter",
    "Credentials",
    "CredentialsError",
    "DeniedError",
    "Pulled",
    "Referrer",
    "RegistryClient",
    "RegistryCopies",
    "RegistryError",
    "RemoteDocument",
    "Repository",
    "RepositoryPlace",
    "Settings",
    "Status",
    "Transfer",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "UnknownManifestError",
    "UnreachableRegistryError",
    "UntrustedRegistryError",
    "find_inline_cache",
    "is_current",
    "is_whole",
    "know_image",
    "offer_image",
    "proxy_for",
    "pull_image",
    "push_image",
    "push_index",
    "retry_after",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
