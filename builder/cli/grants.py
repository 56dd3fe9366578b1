"""What `lamina build` lends to the RUNs of a build, and what it says about all of them.

    --secret --ssh        lent: never in a cache key
    --allow               rights that a Dockerfile may ask for
    --add-host --shm-size --ulimit     settings: another value is another cache key

Source: docker/buildx util/buildflags (secrets.go, ssh.go, entitlements.go) and build/opt.go;
docker/cli opts (hosts.go, ulimit.go); BuildKit session/secrets/secretsprovider.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from builder.cli.arguments import Arguments, UsageError
from builder.cli.limits import bad, of_build, size, ulimits
from builder.cli.networking import parse_host
from builder.errors import BuilderError, UnsupportedFeatureError
from builder.grants import Grants
from builder.steps import RunSettings

_RIGHTS = ("network.host", "security.insecure")
_SECRET_KEYS = ("id", "src", "source", "env", "type")
_SECRET_MAX_BYTES = 500 << 10  # BuildKit's


def grants_of(arguments: Arguments) -> Grants:
    """The secrets and agents of a command line.

    Raises:
        UsageError: one makes no sense.
        BuilderError: one is not there, or cannot be read.
    """
    return Grants(
        secrets=dict(map(_secret, arguments.values("secret"))),
        agents=dict(map(_agent, arguments.values("ssh"))),
    )


def settings_of(arguments: Arguments) -> RunSettings:
    """The settings of a command line. Raises UsageError."""
    return RunSettings(
        extra_hosts=tuple(map(parse_host, arguments.values("add-host"))),
        shm_size_bytes=size(arguments.value("shm-size"), "shm-size") or None,
        resource_limits=ulimits(arguments),
        limits=of_build(arguments),
    )


def rights_of(arguments: Arguments) -> frozenset[str]:
    """The rights of a command line; who names the host's network grants it.

    Raises:
        UsageError: there is no such right.
    """
    rights = set(arguments.values("allow"))
    for right in rights.difference(_RIGHTS):
        raise UsageError(
            f"invalid argument {right!r} for --allow", hint="there are " + " and ".join(_RIGHTS)
        )
    if arguments.value("network") == "host":
        rights.add("network.host")
    return frozenset(rights)


def _secret(text: str) -> tuple[str, bytes]:
    """id=ID[,src=FILE|,env=NAME][,type=file|env]; alone, ID is a variable's name or a file's."""
    found: dict[str, str] = {}
    for field in _fields(text):
        key, equals, content = field.partition("=")
        key = key.lower()
        if not equals:
            raise bad("secret", text, f"{field!r} must be a key=value pair")
        if key not in _SECRET_KEYS:
            raise bad("secret", text, f"unexpected key {key!r}", "there are id, src, env and type")
        found["src" if key == "source" else key] = content
    secret_id, kind = found.get("id", ""), found.get("type", "")
    if not secret_id:
        raise bad("secret", text, "it has no id", "write id=NAME,src=FILE")
    if kind not in ("", "file", "env"):
        raise bad("secret", text, f"unsupported type {kind!r}", "there are file and env")
    path, variable = found.get("src", ""), found.get("env", "")
    if kind == "env" and not variable:
        path, variable = "", path
    if not path and not variable:
        if kind != "file" and (kind == "env" or secret_id in os.environ):
            variable = secret_id
        else:
            path = secret_id
    if variable:
        return secret_id, os.fsencode(os.environ.get(variable, ""))
    return secret_id, _read(secret_id, Path(path))


def _read(secret_id: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_MAX_BYTES + 1)
    except OSError as error:
        raise BuilderError(
            f"the secret {secret_id!r} cannot be read: {str(path)!r}: {error.strerror}",
            hint=f"--secret id={secret_id},src=FILE or --secret id={secret_id},env=NAME",
        ) from error
    if len(data) > _SECRET_MAX_BYTES:
        raise BuilderError(
            f"the secret {secret_id!r} is too big", hint=f"at most {_SECRET_MAX_BYTES} bytes"
        )
    return data


def _agent(text: str) -> tuple[str, Path]:
    """ID[=SOCKET]; without a socket the one of SSH_AUTH_SOCK."""
    agent_id, _, path = text.partition("=")
    agent_id = agent_id or "default"
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise BuilderError(
            f"there is no agent for --ssh {agent_id}: SSH_AUTH_SOCK is not set",
            hint=f"start ssh-agent, or build with --ssh {agent_id}=SOCKET",
        )
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise BuilderError(
            f"there is no agent for --ssh {agent_id}: {path!r}: {error.strerror}",
            hint="start ssh-agent",
        ) from error
    if not stat.S_ISSOCK(mode):
        raise UnsupportedFeatureError(
            feature=f"--ssh with a key file ({path!r})",
            hint="start ssh-agent, add the key to it by ssh-add, and build with --ssh default",
        )
    return agent_id, Path(os.path.abspath(path))  # noqa: PTH100 - links stay


def _fields(text: str) -> Iterable[str]:
    """Comma-separated values, with quotes around those that hold a comma."""
    import csv

    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise bad("secret", text, str(error)) from error
