"""What a client of registries is told by its caller, and how much of what it accepts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from layerstore.registry.credentials import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of what is accepted from a server that may be broken or hostile."""

    connect_timeout_s: float = 30
    idle_timeout_s: float = 60
    commit_timeout_s: float = 600  # the answer to the last request of an upload: it is hashed there
    head_s: float = 30  # for status and headers, beyond the time without a byte
    document_s: float = 120  # for a whole small answer
    window_s: float = 60  # in which a download has to give `window_bytes`
    window_bytes: int = 4 << 10
    redirects_max: int = 10
    backoff_s: float = 0.5  # doubled at each attempt
    retry_after_max_s: float = 10
    waits_max_s: float = 120  # for all attempts of one request together
    error_bytes_max: int = 64 << 10
    token_bytes_max: int = 1 << 20
    page_bytes_max: int = 4 << 20
    pages_max: int = 1000
    upload_piece_bytes: int = 64 << 20  # of a chunked upload
    cuts_max: int = 100  # of one download that gets on between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`credentials` are for `credentials_host` alone. `tls_verify` None: as registries.conf says.

    `retries` is how often a request is repeated after a transient failure.
    """

    credentials: Credentials | None = None
    credentials_host: str = ""
    auth_file: Path | None = None
    cert_dir: Path | None = None
    tls_verify: bool | None = None
    retries: int = 3
    jobs: int = 4  # blobs that are transferred at the same time
    bounds: Bounds = field(default_factory=Bounds)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
