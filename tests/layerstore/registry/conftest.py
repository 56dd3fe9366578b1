"""Clients that know nothing of the user who runs the tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerstore import Descriptor, Digest, Reference
from layerstore.registry import Bounds, RegistryClient, Repository, Settings
from tests.support.oddregistry import OddRegistry, odd_registry

QUICK = Bounds(
    connect_timeout_s=2,
    idle_timeout_s=0.5,
    head_s=0.5,
    document_s=1,
    window_s=0.5,
    backoff_s=0.01,
    retry_after_max_s=0.05,
)
NewClient = Callable[..., RegistryClient]


def blob(content: bytes, *, size: int | None = None) -> Descriptor:
    return Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar",
        digest=Digest.of(content),
        size_bytes=len(content) if size is None else size,
    )


@pytest.fixture
def odd() -> Iterator[OddRegistry]:
    with odd_registry() as server:
        yield server


@pytest.fixture
def new_client(tmp_path: Path) -> Iterator[NewClient]:
    """Clients with short patience; keywords are those of Settings."""
    with ExitStack() as cleanup:

        def make(**settings: Any) -> RegistryClient:
            (tmp_path / "home").mkdir(exist_ok=True)
            base = Settings(
                bounds=QUICK,
                environment={
                    "HOME": str(tmp_path / "home"),
                    "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf"),
                },
            )
            return cleanup.enter_context(RegistryClient(replace(base, **settings)))

        yield make


@pytest.fixture
def repository(odd: OddRegistry, new_client: NewClient) -> Repository:
    return new_client().repository(Reference.parse(f"{odd.address}/a"))
