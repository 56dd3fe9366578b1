"""How commands reach registries: the options they share, and the client these ask for."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Option, UsageError, flag, value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore import Reference
    from layerstore.registry import Credentials, RegistryClient

AUTH_FILE = value("--authfile", metavar="FILE", about="File of credentials (default: docker's)")
ACCESS: tuple[Option, ...] = (
    AUTH_FILE,
    value(
        "--cert-dir",
        metavar="DIRECTORY",
        about="*.crt of authorities; *.cert and *.key of the client",
    ),
    flag("--tls-verify", about="Use TLS and check certificates (default: true)"),
    value("--retry", metavar="N", about="Attempts after a transient failure (default: 3)"),
)
PROGRESS = value("--progress", metavar="STYLE", about="auto, plain, tty, json or quiet")
DIGEST_FILE = value("--digestfile", metavar="FILE", about="Write the digest to a file")
CREDS = value("--creds", metavar="USER[:PASSWORD]", about="Log in as this user for this command")


def client_of(
    arguments: Arguments, reference: "Reference | None" = None, *, side: str = ""
) -> "RegistryClient":
    """The client that the options of `ACCESS` ask for, as far as the command has them, and those of
    `CREDS` for the registry of one name. Those that begin with `side` (`src-`, `dest-`) go before
    those that do not.

    Raises:
        UsageError: an option makes no sense.
    """
    from layerstore.registry import RegistryClient, Settings

    def given(name: str) -> str | None:
        found = arguments.options.get(f"{side}{name}") or arguments.options.get(name)
        return found[-1] if found else None

    creds = None if reference is None else given("creds")
    verify = given("tls-verify")
    retries = arguments.number("retry") if "retry" in arguments.options else None
    return RegistryClient(
        Settings(
            credentials=None if creds is None else parse_creds(creds),
            credentials_host="" if reference is None else reference.host,
            auth_file=_path(given("authfile")),
            cert_dir=_path(given("cert-dir")),
            tls_verify=None if verify is None else verify == "true",
            retries=3 if retries is None else retries,
        )
    )


def write_digest(arguments: Arguments, digest: str) -> None:
    """Do what `DIGEST_FILE` asks for."""
    path = arguments.value("digestfile")
    if path is not None:
        Path(path).write_text(digest)


class Access:
    """A client of registries that is made when it is asked for, and closed by a `with`.

    With a `reference`, in whose registry `CREDS` are to be used, it is made at once: a password may
    be asked for, and later on the terminal has other uses.
    """

    def __init__(self, arguments: Arguments, reference: "Reference | None" = None) -> None:
        self._arguments = arguments
        self._client: RegistryClient | None = None
        if reference is not None:
            self._client = client_of(arguments, reference)

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


def registry_of(names: "Iterable[str]") -> "Reference | None":
    """One of the names, all of which are of one registry; None where there is none to be asked.

    Raises:
        UsageError: they are of several, and the options of `CREDS` cannot be for all of them.
    """
    from builder.pulling import reference_of

    found = {each.host: each for each in map(reference_of, names) if each is not None}
    if len(found) > 1:
        raise UsageError(
            f"--creds is for one registry, and there are images of {', '.join(sorted(found))}",
            hint="lamina login, to each that wants it",
        )
    return next(iter(found.values()), None)


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
