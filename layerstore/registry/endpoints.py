"""Where the registry of a name is, and what plain HTTP may be used for.

    docker.io/library/hello  -> DOCKER_HUB; its credentials are under DOCKER_HUB_KEY
    localhost:5000/hello     -> localhost:5000, by plain HTTP or by TLS: loopback
    other.example/hello      -> other.example, by TLS; plain HTTP only where the user asks for it

Source: moby registry/config.go ("127.0.0.0/8 is insecure by default").
"""

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from layerstore.reference import DEFAULT_HOST

# One host in names, one that answers, and one that logins are kept under.
_HUB_INDEX = f"index.{DEFAULT_HOST}"
DOCKER_HUB = f"registry-1.{DEFAULT_HOST}"
DOCKER_HUB_KEY = f"https://{_HUB_INDEX}/v1/"
_HUB_NAMES = frozenset((DEFAULT_HOST, _HUB_INDEX, DOCKER_HUB))
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """What credentials are bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of an absolute URL.

        Raises:
            ValueError: it is none, or not of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("not an http or https URL")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if port == 0:
            raise ValueError("port 0")
        return cls(parts.scheme, parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def server_of(host: str) -> str:
    """The host[:port] to connect to for the host of an image name."""
    return DOCKER_HUB if host in _HUB_NAMES else host


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is this machine and nothing else."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def credential_keys(host: str, path: str) -> list[str]:
    """Under what credentials for a repository may be kept, the closest first."""
    names = sorted(_HUB_NAMES) if host in _HUB_NAMES else [host]
    parts = path.split("/") if path else []
    keys = [
        f"{name}/{'/'.join(parts[:size])}" for size in range(len(parts), 0, -1) for name in names
    ]
    if host in _HUB_NAMES:
        return [*keys, DOCKER_HUB_KEY, *names]
    return [*keys, *names]


def login_key(host: str) -> str:
    """Under what credentials for a registry are kept by `login`."""
    return DOCKER_HUB_KEY if host in _HUB_NAMES else host


def host_of_key(key: str) -> tuple[str, str]:
    """The scheme (empty: any) and `host[:port][/path]` of a key of a configuration file.

    `https://host/v1/` and `https://host/v2/` are the registry `host`, as docker writes them.
    """
    scheme, separator, rest = key.partition("://")
    if not separator:
        scheme, rest = "", key
    rest = rest.rstrip("/")
    for version in ("/v1", "/v2"):
        rest = rest.removesuffix(version)
    return scheme.lower(), rest
