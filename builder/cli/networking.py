"""The words about networks on a command line: --network, --add-host, --dns and the like.

Source: docker/cli opts (hosts.go, network.go) and cli/command/container/opts.go; moby
api/types/container/hostconfig.go, runconfig for what excludes what.
"""

from builder import runner
from builder.cli.arguments import Arguments, UsageError, flag, many, value
from builder.cli.limits import bad
from builder.network import parse_exposed, parse_publication

NETWORK_OPTIONS = (
    many(
        "--network",
        metavar="bridge|host|none|container:NAME|NETWORK",
        about="bridge (default), a network of `network create` (may be repeated), the host's "
        "network, none, or a container's",
    ),
    many("--net", metavar="NETWORK", about="The same as --network"),
    value("--ip", metavar="ADDRESS", about="Its IPv4 address on the network"),
    value("--ip6", metavar="ADDRESS", about="Its IPv6 address on the network"),
    many("--network-alias", metavar="NAME", about="Another name on the network"),
    value("-h", "--hostname", about="Host name in the container"),
    value("--domainname", about="Domain name in the container"),
    many(
        "--add-host",
        metavar="NAME:ADDRESS",
        about="Add a line to /etc/hosts (ADDRESS host-gateway: the host)",
    ),
    many("--dns", metavar="ADDRESS", about="Ask this resolver, not the host's"),
    many("--dns-search", metavar="DOMAIN", about="Search this domain (`.`: none)"),
    many("--dns-option", metavar="OPTION", about="Set an option of resolv.conf"),
    many("--dns-opt", metavar="OPTION", about="The same as --dns-option"),
    many("-p", "--publish", metavar="[[IP:]HOST:]PORT[/udp]", about="Publish a port on the host"),
    flag("-P", "--publish-all", about="Publish all exposed ports on free ports of the host"),
    many("--expose", metavar="PORT[/udp]", about="Expose a port, for -P and others to see"),
    value("--mac-address", metavar="ADDRESS", about="Hardware address of the network device"),
)
_HOST_GATEWAY = "host-gateway"
_OF_CONTAINER = "container:"


def network_of(arguments: Arguments) -> str:
    """The word of --network; `default` where nothing was said.

    Raises:
        UsageError: it is no word.
    """
    return _networks_of(arguments)[0]


def _networks_of(arguments: Arguments) -> tuple[str, ...]:
    words = (*arguments.values("network"), *arguments.values("net"))
    names = tuple(dict.fromkeys(word for word in words if word)) or ("default",)
    if _OF_CONTAINER in names:
        raise UsageError("--network container: names no container")
    if len(names) > 1:
        for name in names:
            if not runner.is_private(name):
                raise UsageError(f"--network {name} cannot be one of several networks")
    return names


def networking_of(arguments: Arguments) -> "runner.Networking":
    """What is asked for beside the network's name.

    Raises:
        UsageError: something makes no sense, or not with this network.
    """
    network = network_of(arguments)
    asked = runner.Networking(
        servers=tuple(_address("dns", each) for each in arguments.values("dns")),
        search=arguments.values("dns-search"),
        options=(*arguments.values("dns-option"), *arguments.values("dns-opt")),
        extra_hosts=tuple(parse_host(each) for each in arguments.values("add-host")),
        domainname=arguments.value("domainname") or "",
        publish_all=arguments.flag("publish-all"),
    )
    if arguments.values("publish") or arguments.values("expose"):
        asked = asked._replace(
            ports=tuple(
                port for each in arguments.values("publish") for port in parse_publication(each)
            ),
            exposed=tuple(
                port for each in arguments.values("expose") for port in parse_exposed(each)
            ),
        )
    if network.startswith(_OF_CONTAINER):
        _refuse_own(arguments)
    return asked._replace(endpoints=_endpoints(arguments))


def _endpoints(arguments: Arguments) -> "tuple[runner.Endpoint, ...]":
    """What it wants to be on each network; what is said about one is about the first."""
    names = _networks_of(arguments)
    aliases = arguments.values("network-alias")
    first = runner.Endpoint(
        network=names[0],
        aliases=aliases,
        address=_own_address(arguments, "ip", is_wide=False),
        address6=_own_address(arguments, "ip6", is_wide=True),
        mac=_mac(arguments.value("mac-address")),
    )
    is_named = names[0] not in ("default", "bridge") and runner.is_private(names[0])
    for key, given in (("ip", first.address), ("ip6", first.address6), ("network-alias", aliases)):
        if given and not is_named:
            raise UsageError(
                f"--{key} needs a network with a name of its own",
                hint="`lamina network create NAME`, and --network NAME",
            )
    if first.mac and not runner.is_private(names[0]):
        raise UsageError(f"--mac-address makes no sense with --network {names[0]}")
    if first == runner.Endpoint(network=names[0]) and not is_named and len(names) == 1:
        return ()
    return (first, *(runner.Endpoint(network=name, aliases=aliases) for name in names[1:]))


def _own_address(arguments: Arguments, option: str, *, is_wide: bool) -> str:
    text = arguments.value(option) or ""
    if text and (not is_address(text) or (":" in text) != is_wide):
        raise bad(option, text, f"it is no IPv{6 if is_wide else 4} address")
    return text


def parse_host(text: str) -> tuple[str, str]:
    """NAME:ADDRESS or NAME=ADDRESS, IPv6 in brackets if one likes; the address may be a word.

    Raises:
        UsageError: it is not that.
    """
    end = min((at for at in map(text.find, ":=") if at >= 0), default=-1)
    name, address = text[:end], text[end + 1 :]
    if end < 1 or not address or not name.isprintable() or " " in name:
        raise bad("add-host", text, "it is no host and address", "write NAME:ADDRESS")
    if address == _HOST_GATEWAY:
        return name, address
    address = address.removeprefix("[").removesuffix("]")
    if not is_address(address):
        raise bad("add-host", text, f"{address!r} is no IP address", "write NAME:ADDRESS")
    return name, address


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _address(option: str, text: str) -> str:
    if not is_address(text.partition("%")[0]):
        raise bad(option, text, "it is no IP address")
    return text


def _mac(text: str | None) -> str:
    if text is None:
        return ""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or any(len(part) != 2 or not _is_hex(part) for part in parts):
        raise bad("mac-address", text, "it is no hardware address", "as 02:42:ac:11:00:02")
    if int(parts[0], 16) & 1:
        raise bad("mac-address", text, "it is a multicast address")
    return ":".join(parts).lower()


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)


_OWN = (
    *("hostname", "domainname", "add-host", "dns", "mac-address"),
    *("publish", "publish-all", "expose"),
)


def _refuse_own(arguments: Arguments) -> None:
    """The other container has those settings: as docker refuses them."""
    for key in _OWN:
        if arguments.values(key):
            raise UsageError(
                f"--{key} makes no sense with --network container:...",
                hint="the network, and what is said about it, is the other container's",
            )
