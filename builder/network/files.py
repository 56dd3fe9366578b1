"""/etc/resolv.conf and /etc/hosts of a container or a RUN; never part of a layer.

The resolvers are the host's, but for those on its loopback, which cannot be reached from a network
of one's own. Where systemd-resolved is the host's only one, those that it asks are taken. Where
none is left: public ones, as docker has it.

Source: moby libnetwork/internal/resolvconf, libnetwork/etchosts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_RESOLV_CONF = Path("/etc/resolv.conf")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")
_STUB = "127.0.0.53"
_PUBLIC_RESOLVERS = ("8.8.8.8", "8.8.4.4")
_LOOPBACK_HOSTS = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\nff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
HOST_GATEWAY = "host-gateway"
DEFAULT_NETWORK = "bridge"


class Resolvers(NamedTuple):
    """What the caller asks for in place of the host's."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()  # "." alone: none
    options: tuple[str, ...] = ()


HOST_S_OWN = Resolvers()


def resolv_conf(asked: Resolvers = HOST_S_OWN) -> str:
    """The file for a network of its own."""
    servers, search, options = _parse(_host_text())
    servers = list(asked.servers) or [each for each in servers if not _is_loopback(each)]
    servers = servers or list(_PUBLIC_RESOLVERS)
    search = [each for each in asked.search if each != "."] if asked.search else search
    options = list(asked.options) or options
    return _written(servers, search, options)


def host_resolv_conf(asked: Resolvers = HOST_S_OWN) -> bytes:
    """The file for the host's network: the host's own, unless something is asked for."""
    try:
        data = _RESOLV_CONF.read_bytes()
    except OSError:  # a host without it: names are not resolved there either
        data = b""
    if asked == HOST_S_OWN:
        return data
    servers, search, options = _parse(data.decode(errors="replace"))
    search = [each for each in asked.search if each != "."] if asked.search else search
    servers, options = list(asked.servers) or servers, list(asked.options) or options
    return _written(servers, search, options).encode()


def host_resolvers() -> list[str]:
    """The addresses of the host's resolvers that are not on its loopback."""
    return [each for each in _parse(_host_text())[0] if not _is_loopback(each)]


def host_hosts() -> str:
    """The host's own file, for its network; one with loopback alone where there is none."""
    try:
        return Path("/etc/hosts").read_text(errors="surrogateescape") or _LOOPBACK_HOSTS
    except OSError:
        return _LOOPBACK_HOSTS


def hosts(
    names: Iterable[tuple[str, str]], extra: Sequence[tuple[str, str]] = (), *, start: str = ""
) -> str:
    """A hosts file.

    Args:
        names: addresses with the names that belong to them, separated by blanks.
        extra: names with their addresses, as `--add-host` has them.
        start: what it begins with in place of loopback's own lines.
    """
    text = start or _LOOPBACK_HOSTS
    text = text.removesuffix("\n") + "\n"
    text += "".join(f"{address}\t{known_as}\n" for address, known_as in names)
    return text + "".join(f"{address}\t{name}\n" for name, address in extra)


def _host_text() -> str:
    try:
        text = _RESOLV_CONF.read_text(errors="replace")
        if _parse(text)[0] == [_STUB]:
            text = _BEHIND_STUB.read_text(errors="replace")
    except OSError:
        return ""
    return text


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Servers, search domains, options; of several `search` lines the last counts."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split("#")[0].split(";")[0].split():
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain", *domains]:
                search = domains
            case ["options", *more]:
                options += more
            case _:
                continue  # a comment, or a word that no resolver of a container needs
    return servers, search, options


def _written(servers: Iterable[str], search: Iterable[str], options: Iterable[str]) -> str:
    lines = [f"nameserver {each}" for each in servers]
    lines += [f"{key} {' '.join(values)}" for key, values in _named(search, options) if values]
    return "\n".join(lines) + "\n"


def _named(
    search: Iterable[str], options: Iterable[str]
) -> tuple[tuple[str, list[str]], tuple[str, list[str]]]:
    return ("search", list(search)), ("options", list(options))


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
