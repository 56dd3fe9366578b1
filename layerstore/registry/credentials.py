"""Credentials for registries: found where docker and podman keep them, kept where docker does.

Looked for in this order; the first file that knows the registry counts:
    --authfile, else REGISTRY_AUTH_FILE      then nothing else is read
    DOCKER_AUTH_CONFIG                       the text of a config.json, for CI
    DOCKER_CONFIG/config.json, else ~/.docker/config.json
    XDG_RUNTIME_DIR/containers/auth.json, XDG_CONFIG_HOME/containers/auth.json      podman's
In each: `credHelpers` of that registry, `credsStore`, `auths`. An entry for `host/path` is closer
than one for `host`. One that says https:// is not used over plain HTTP.

`login` writes to the first of these files, or into its `credsStore`; whatever else the file holds
stays. The file is 0600 and replaced by a rename.

Spec: docker/cli, "docker login", credential helper protocol; containers-auth.json(5).
"""

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from layerstore.beside import temporary_beside
from layerstore.documents import parse_json
from layerstore.errors import MalformedDocumentError
from layerstore.registry.endpoints import credential_keys, host_of_key, login_key
from layerstore.registry.errors import CredentialsError
from layerstore.registry.helpers import HelperProgram

_FILE_BYTES_MAX = 4 << 20
_TOKEN_USER = "<token>"  # what helpers call an identity token


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user and a password, or a token in their place. Nothing of it is ever in a repr."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # to be exchanged for tokens
    registry_token: str = field(default="", repr=False)  # to be sent as it is


Members = dict[str, object]


class CredentialStore:
    """What one user has logged in to.

    Args:
        environment: that of the process.
        auth_file: of --authfile.
    """

    def __init__(self, environment: Mapping[str, str], auth_file: Path | None = None) -> None:
        self._environment = environment
        self._auth_file = auth_file
        self._read: dict[Path, Members] = {}

    def find(self, host: str, path: str = "", *, scheme: str = "https") -> Credentials | None:
        """The credentials for a repository, or for a registry when `path` is empty.

        Raises:
            CredentialsError: a file or helper cannot be read.
        """
        for document in self._documents():
            found = self._find_in(document, host, path, scheme)
            if found is not None:
                return found
        return None

    def save(self, host: str, credentials: Credentials) -> str:
        """Keep credentials; returns where they are now, for the user."""
        key = login_key(host)
        file = self._file_to_write()
        document = self._load(file)
        helper = self._helper(document, host)
        entry: Members = {}
        if helper is not None:
            token = credentials.identity_token
            user = _TOKEN_USER if token else credentials.user
            helper.store(key, user, token or credentials.password)
        else:
            pair = f"{credentials.user}:{credentials.password}".encode()
            entry["auth"] = base64.b64encode(pair).decode()
            if credentials.identity_token:
                entry["identitytoken"] = credentials.identity_token
        auths = _object(document, "auths", file)
        self._write(file, document | {"auths": auths | {key: entry}})
        return str(file) if helper is None else f"{helper.name} (credential helper)"

    def erase(self, host: str) -> bool:
        """Forget the credentials for a registry; whether there were any."""
        file = self._file_to_write()
        document = self._load(file)
        keys = set(credential_keys(host, ""))
        auths = _object(document, "auths", file)
        gone = [key for key in auths if key in keys or host_of_key(key)[1] in keys]
        helper = self._helper(document, host)
        was_in_helper = helper is not None and helper.erase(login_key(host))
        if gone:
            kept = {key: value for key, value in auths.items() if key not in gone}
            self._write(file, document | {"auths": kept})
        return bool(gone) or was_in_helper

    # ---- where

    def _documents(self) -> Iterator[Members]:
        explicit = self._explicit_file()
        if explicit is not None:
            yield self._load(explicit)
            return
        inline = self._environment.get("DOCKER_AUTH_CONFIG")
        if inline:
            yield _parse(inline.encode("utf-8", "surrogateescape"), "DOCKER_AUTH_CONFIG")
        for file in (self._docker_file(), *self._podman_files()):
            yield self._load(file)

    def _explicit_file(self) -> Path | None:
        named = self._environment.get("REGISTRY_AUTH_FILE")
        return self._auth_file or (Path(named) if named else None)

    def _docker_file(self) -> Path:
        directory = self._environment.get("DOCKER_CONFIG")
        return (Path(directory) if directory else self._home() / ".docker") / "config.json"

    def _podman_files(self) -> Iterator[Path]:
        runtime = self._environment.get("XDG_RUNTIME_DIR")
        config = self._environment.get("XDG_CONFIG_HOME")
        if runtime:
            yield Path(runtime) / "containers" / "auth.json"
        yield (Path(config) if config else self._home() / ".config") / "containers" / "auth.json"

    def _home(self) -> Path:
        home = self._environment.get("HOME")
        return Path(home) if home else Path("/")

    def _file_to_write(self) -> Path:
        return self._explicit_file() or self._docker_file()

    # ---- what is in a file

    def _find_in(self, document: Members, host: str, path: str, scheme: str) -> Credentials | None:
        keys = credential_keys(host, path)
        helper = self._helper(document, host)
        if helper is not None:
            found = helper.get(login_key(host))
            if found is not None:
                user, secret = found
                if user == _TOKEN_USER:
                    return Credentials(identity_token=secret)
                return Credentials(user=user, password=secret)
        auths = _object(document, "auths", None)
        by_host: dict[str, object] = {}
        for key, entry in auths.items():
            key_scheme, name = host_of_key(key)
            if key_scheme in ("", scheme):
                by_host.setdefault(name, entry)
        for key in keys:
            entry = auths.get(key) if host_of_key(key)[0] in ("", scheme) else None
            found_entry = by_host.get(host_of_key(key)[1]) if entry is None else entry
            credentials = _credentials(found_entry)
            if credentials is not None:
                return credentials
        return None

    def _helper(self, document: Members, host: str) -> HelperProgram | None:
        helpers = _object(document, "credHelpers", None)
        keys = credential_keys(host, "")
        name = next((helpers[key] for key in keys if key in helpers), document.get("credsStore"))
        return HelperProgram(name) if isinstance(name, str) and name else None

    def _load(self, file: Path) -> Members:
        if file not in self._read:
            self._read[file] = _load(file)
        return self._read[file]

    def _write(self, file: Path, document: Members) -> None:
        """Replace the file, or what a link leads to, so that nobody ever sees half of it."""
        target = Path(os.path.realpath(file))
        text = json.dumps(document, indent="\t", ensure_ascii=False) + "\n"
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = temporary_beside(target)
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(fd, "w", encoding="utf-8") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(fd)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise CredentialsError(f"cannot write {file}: {error.strerror}") from error
        self._read.pop(file, None)


def _load(file: Path) -> Members:
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CredentialsError(f"cannot read {file}: {error.strerror}") from error
    return _parse(data, str(file)) if data.strip() else {}


def _parse(data: bytes, name: str) -> Members:
    try:
        document = parse_json(data, context=name)
    except MalformedDocumentError as error:
        raise CredentialsError(error.message, hint="it should be docker's config.json") from None
    if not isinstance(document, dict):
        raise CredentialsError(f"{name}: not a JSON object")
    return document


def _object(document: Members, key: str, file: Path | None) -> Members:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CredentialsError(f"{file or 'credentials'}: {key!r} is not an object")
    return value


def _credentials(entry: object) -> Credentials | None:
    """An entry of `auths`; None where it holds nothing, as when a helper has it."""
    if not isinstance(entry, dict):
        return None

    def text(key: str) -> str:
        value = entry.get(key)
        return value if isinstance(value, str) else ""

    user, password = text("username"), text("password")
    if text("auth"):
        try:
            pair = base64.b64decode(text("auth"), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise CredentialsError("credentials: an 'auth' that is not base64") from None
        user, _, password = pair.rstrip("\0").partition(":")
    identity, registry = text("identitytoken"), text("registrytoken")
    if not (user or identity or registry):
        return None
    return Credentials(
        user=user, password=password, identity_token=identity, registry_token=registry
    )
