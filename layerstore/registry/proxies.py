"""HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case."""

from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(url: str, environment: Mapping[str, str]) -> str:
    """The URL of the proxy on the way to `url`; empty for the straight way."""
    parts = urlsplit(url)
    proxy = _value(environment, f"{parts.scheme}_proxy") or _value(environment, "all_proxy")
    if not proxy or needs_none(parts.hostname or "", environment):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def needs_none(host: str, environment: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names `host`, a domain above it, or `*`."""
    names = [name.strip().lstrip(".") for name in _value(environment, "no_proxy").split(",")]
    return any(name == "*" or f".{host}".endswith(f".{name}") for name in names if name)


def _value(environment: Mapping[str, str], name: str) -> str:
    if name == "http_proxy":  # in upper case it may be a request's header: CVE-2016-5385
        return environment.get(name) or environment.get("HTTP_PROXY", "")
    return environment.get(name) or environment.get(name.upper(), "")
