"""How commands reach registries: the options they share, and the client these ask for."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Option, UsageError, flag, value

if TYPE_CHECKING:
    from layerstore import Reference
    from layerstore.registry import Credentials, RegistryClient

ACCESS: tuple[Option, ...] = (
    value("--authfile", metavar="FILE", about="Where credentials are (default: docker's file)"),
    value("--cert-dir", metavar="DIRECTORY", about="Certificates of authorities (*.crt) and ours"),
    flag("--tls-verify", about="Check certificates, and use TLS (default: true)"),
    value("--retry", metavar="N", about="Attempts after a transient failure (default: 3)"),
)
CREDS = value("--creds", metavar="USER[:PASSWORD]", about="Credentials for this registry")


def client_of(arguments: Arguments, reference: "Reference | None" = None) -> "RegistryClient":
    """The client that the options of `ACCESS` ask for, and for one name those of `CREDS`.

    Raises:
        UsageError: an option makes no sense.
    """
    from layerstore.registry import RegistryClient, Settings

    creds = None if reference is None else arguments.value("creds")
    verify = arguments.options["tls-verify"]
    retries = arguments.number("retry")
    return RegistryClient(
        Settings(
            credentials=None if creds is None else parse_creds(creds),
            credentials_host="" if reference is None else reference.host,
            auth_file=_path(arguments.value("authfile")),
            cert_dir=_path(arguments.value("cert-dir")),
            tls_verify=arguments.flag("tls-verify") if verify else None,
            retries=3 if retries is None else retries,
        )
    )


class Access:
    """A client of registries that is made when it is asked for, and closed by a `with`."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._client: RegistryClient | None = None

    def client(self) -> "RegistryClient":
        """The client, the same one each time."""
        if self._client is None:
            self._client = client_of(self._arguments)
        return self._client

    def __enter__(self) -> "Access":
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()


def parse_creds(text: str) -> "Credentials":
    """USER:PASSWORD; without a password it is asked for, as podman does."""
    from layerstore.registry import Credentials

    user, colon, password = text.partition(":")
    if not user:
        raise UsageError("invalid argument for --creds: it has no user", hint="USER:PASSWORD")
    return Credentials(user=user, password=password if colon else ask_password())


def ask_password() -> str:
    """What the user types, unseen.

    Raises:
        UsageError: nobody can type.
    """
    if not os.isatty(0):
        raise UsageError(
            "cannot ask for a password: the input device is not a TTY",
            hint="pipe it in with --password-stdin",
        )
    from getpass import getpass

    return getpass("Password: ")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
