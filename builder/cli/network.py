"""`lamina network`: create, ls, inspect, rm, prune.

Source: docker/cli cli/command/network.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from builder import runner
from builder.cli.arguments import Arguments, Command, flag, many, value
from builder.cli.govalues import Struct, Value
from builder.cli.inspect import show_documents
from builder.cli.labels import has_label, parse_filters, parse_label
from builder.cli.output import Listing, line, show_gone, show_rows
from builder.cli.units import local_time, rfc3339
from builder.errors import BuilderError, NetworkError, NoSuchNetworkError, UnsupportedFeatureError

if TYPE_CHECKING:
    from builder.cli.session import Session
    from builder.runner import ContainerRecord, NetworkRecord, NetworkStore

_LISTING = Listing(
    headings={
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "IPv6": "IPV6",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    },
    columns=("ID", "Name", "Driver", "Scope"),
)
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


def create(arguments: Arguments, session: "Session") -> int:
    """Create a network."""
    driver = arguments.value("driver") or "bridge"
    if driver != "bridge":
        raise UnsupportedFeatureError(feature=f"--driver {driver}", hint="there is bridge")
    session.enter()
    record = _networks(session).create(
        runner.NetworkRequest(
            name=arguments.words[0],
            subnets=arguments.values("subnet"),
            gateways=arguments.values("gateway"),
            ipv6=arguments.flag("ipv6"),
            internal=arguments.flag("internal"),
            labels=tuple(parse_label(text) for text in arguments.values("label")),
        )
    )
    line(record.id)
    return 0


def ls(arguments: Arguments, session: "Session") -> int:
    """List networks."""
    wanted = parse_filters(arguments.values("filter"), _FILTERS)
    found = [each for each in _all(session) if _fits(each, wanted)]
    rows = [_row(each, whole=arguments.flag("no-trunc")) for each in found]
    if arguments.flag("quiet"):
        for row in rows:
            line(row["ID"])
        return 0
    show_rows(_LISTING, rows, arguments.value("format"))
    return 0


def inspect(arguments: Arguments, session: "Session") -> int:
    """Describe networks, in JSON or by a template."""
    users = list(_containers(session).all())
    found: list[Value] = []
    problems: list[str] = []
    for word in arguments.words:
        try:
            found.append(_document(session, word, users))
        except NetworkError as error:
            problems.append(error.message)
    show_documents(found, arguments.value("format"))
    if problems:
        raise BuilderError("; ".join(problems), hint="`lamina network ls` lists them")
    return 0


def rm(arguments: Arguments, session: "Session") -> int:
    """Remove networks; what fails is told, the rest is done nevertheless."""
    from builder.cli.failures import report

    session.enter()
    networks = _networks(session)
    users = list(_containers(session).all())
    code = 0
    for word in arguments.words:
        try:
            networks.remove(_removable(networks, word), users)
        except NetworkError as error:
            if not (arguments.flag("force") and isinstance(error, NoSuchNetworkError)):
                code = report(error, command="", debug=False)
        else:
            line(word)
    return code


def _removable(networks: "NetworkStore", word: str) -> "NetworkRecord":
    if word in runner.PREDEFINED_NETWORKS:
        raise NetworkError(f"{word} is a pre-defined network and cannot be removed")
    return networks.find(word)


def prune(arguments: Arguments, session: "Session") -> int:
    """Remove all networks that no container belongs to."""
    from builder.cli.confirm import confirmed
    from builder.cli.images import chooser

    choose = chooser(arguments.values("filter"))
    warning = "This will remove all custom networks not used by at least one container."
    if not arguments.flag("force") and not confirmed(warning):
        return 0
    prune_networks(session, choose)
    return 0


def prune_networks(
    session: "Session", choose: "Callable[[tuple[tuple[str, str], ...], float], bool]"
) -> None:
    """Remove those that no container is to be on and that are chosen, and list them."""
    networks = _networks(session)
    users = list(_containers(session).all())
    found = prunable_networks(session, choose, users)
    for record in found:
        networks.remove(record, users)
    show_gone("Deleted Networks", [record.name for record in found])


def prunable_networks(
    session: "Session",
    choose: "Callable[[tuple[tuple[str, str], ...], float], bool]",
    users: "Sequence[ContainerRecord]",
) -> "list[NetworkRecord]":
    """Those that none of these containers is to be on and that are chosen."""
    used = {name for user in users for name in user.networks}
    return [
        record
        for record in _networks(session).all()
        if record.name not in used and choose(record.labels, record.created)
    ]


def connect(arguments: Arguments, session: "Session") -> int:
    """Say that a container is to be on another network."""
    network, name = arguments.words
    endpoint = runner.Endpoint(
        network=_networks(session).find(network).name if network != "bridge" else network,
        aliases=arguments.values("alias"),
        address=arguments.value("ip") or "",
        address6=arguments.value("ip6") or "",
    )

    def with_it(record: "ContainerRecord") -> "ContainerRecord":
        if not runner.is_private(record.network):
            raise NetworkError(f"container {name} has --network {record.network}, and no other")
        if endpoint.network in record.networks:
            raise NetworkError(f"container {name} is on the network {endpoint.network} already")
        before = record.networking.endpoints or (runner.Endpoint(network=record.network),)
        return _on(record, (*before, endpoint))

    _change(session, name, with_it)
    return 0


def disconnect(arguments: Arguments, session: "Session") -> int:
    """Say that a container is not to be on a network any more."""
    network, name = arguments.words
    wanted = _networks(session).find(network).name if network != "bridge" else network

    def without_it(record: "ContainerRecord") -> "ContainerRecord":
        if wanted not in record.networks:
            raise NetworkError(f"container {name} is not on the network {wanted}")
        before = record.networking.endpoints or (runner.Endpoint(network=record.network),)
        return _on(record, tuple(each for each in before if _named(each) != wanted))

    _change(session, name, without_it)
    return 0


def _named(endpoint: "runner.Endpoint") -> str:
    return "bridge" if endpoint.network == "default" else endpoint.network


def _on(record: "ContainerRecord", endpoints: "tuple[runner.Endpoint, ...]") -> "ContainerRecord":
    network = endpoints[0].network if endpoints else "none"
    return record._replace(
        network=network, networking=record.networking._replace(endpoints=endpoints)
    )


def _change(
    session: "Session", name: str, change: "Callable[[ContainerRecord], ContainerRecord]"
) -> None:
    """Differs: a container that runs keeps the networks it was started with."""
    containers = _containers(session)
    record = containers.find(name)
    if record.state == "running":
        raise UnsupportedFeatureError(
            feature="another network for a container that runs",
            hint="stop it first, or name several networks by `run --network A --network B`",
        )
    hold, fresh = containers.own(record)
    try:
        containers.write(change(fresh))
    finally:
        hold.release()


def _networks(session: "Session") -> "NetworkStore":
    return runner.NetworkStore(session.private)


def _containers(session: "Session") -> "runner.ContainerStore":
    from builder.cli.containers import opened

    return opened(session)


class _Network(NamedTuple):
    """One that was made, with its record, or one that is always there."""

    name: str
    id: str
    driver: str
    record: "NetworkRecord | None" = None

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        return self.record.labels if self.record else ()


def _all(session: "Session") -> list[_Network]:
    predefined = [_Network(name, _predefined_id(name), _DRIVERS[name]) for name in _DRIVERS]
    made = [_Network(each.name, each.id, "bridge", each) for each in _networks(session).all()]
    return sorted([*predefined, *made], key=lambda each: each.name)


_FILTERS: dict[str, Callable[[_Network, str], bool]] = {
    "name": lambda network, text: text in network.name,
    "id": lambda network, text: text in network.id,
    "driver": lambda network, text: text == network.driver,
    "scope": lambda network, text: text == "local",
    "type": lambda network, text: text == ("custom" if network.record else "builtin"),
    "label": lambda network, text: has_label(network.labels, text),
}


def _fits(network: _Network, wanted: dict[str, list[str]]) -> bool:
    def fits(key: str, texts: list[str]) -> bool:
        found = (_FILTERS[key](network, text) for text in texts)
        return all(found) if key == "label" else any(found)

    return all(fits(key, texts) for key, texts in wanted.items())


def _row(network: _Network, *, whole: bool) -> dict[str, str]:
    record = network.record
    return {
        "ID": network.id if whole else network.id[:12],
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPv6": str(bool(record and record.subnet6)).lower(),
        "Internal": str(bool(record and record.internal)).lower(),
        "Labels": ",".join(f"{name}={content}" for name, content in network.labels),
        "CreatedAt": local_time(record.created) if record else "",
    }


def _predefined_id(name: str) -> str:
    """Always the same: these networks are not made."""
    import hashlib

    return hashlib.sha256(f"lamina {name}".encode()).hexdigest()


def _document(session: "Session", word: str, users: "list[ContainerRecord]") -> Value:
    ids = {name: _predefined_id(name) for name in _DRIVERS}
    for name, network_id in ids.items():
        if word == name or (len(word) > 3 and network_id.startswith(word)):
            subnets = runner.default_subnets() if name == "bridge" else []
            return _described(name, network_id, _DRIVERS[name], subnets, users)
    record = _networks(session).find(word)
    subnets = [(record.subnet, record.gateway)]
    if record.subnet6:
        subnets.append((record.subnet6, record.gateway6))
    return _described(record.name, record.id, "bridge", subnets, users, record)


def _described(
    name: str,
    network_id: str,
    driver: str,
    subnets: "list[tuple[str, str]]",
    users: "list[ContainerRecord]",
    record: "NetworkRecord | None" = None,
) -> Value:
    containers = {
        user.id: Struct(
            Name=user.name,
            MacAddress=each.mac,
            IPv4Address=f"{each.address}/{each.prefix}",
            IPv6Address=f"{each.address6}/{each.prefix6}" if each.address6 else "",
        )
        for user in users
        for each in user.attached
        if each.network == name
    }
    return Struct(
        Name=name,
        Id=network_id,
        Created=rfc3339(record.created) if record else "",
        Scope="local",
        Driver=driver,
        EnableIPv6=any(":" in subnet for subnet, _ in subnets),
        IPAM=Struct(
            Driver="default",
            Config=[Struct(Subnet=subnet, Gateway=gateway) for subnet, gateway in subnets],
        ),
        Internal=record.internal if record else False,
        Containers=containers,
        Options={},
        Labels=dict(record.labels) if record else {},
    )


CREATE = Command(
    name="network create",
    synopsis="NETWORK",
    about="Create a network, whose containers reach each other by their names.",
    act=create,
    options=(
        value("-d", "--driver", metavar="bridge", about="How it is made: as a bridge"),
        many("--subnet", metavar="SUBNET", about="Its addresses, as 10.20.0.0/16 (default: free)"),
        many("--gateway", metavar="ADDRESS", about="The host's address in it (default: the first)"),
        flag("--internal", about="Without a way out of the network"),
        flag("--ipv6", about="With IPv6 as well"),
        many("--label", metavar="NAME=VALUE", about="Label the network"),
    ),
    words=(1, 1),
    refused={
        "--ip-range": "every address of the subnet is given out",
        "--aux-address": "every address of the subnet is given out",
        **dict.fromkeys(("-o", "--opt"), "the driver has no options"),
        **dict.fromkeys(("--attachable", "--ingress", "--scope"), "these are for clusters"),
        **dict.fromkeys(("--ipam-driver", "--ipam-opt"), "addresses are given out by lamina"),
        **dict.fromkeys(("--config-from", "--config-only"), "these are for clusters"),
    },
)
LS = Command(
    name="network ls",
    synopsis="",
    about="List networks.",
    act=ls,
    options=(
        flag("-q", "--quiet", about="Only ids"),
        flag("--no-trunc", about="Whole ids"),
        many(
            "-f",
            "--filter",
            metavar="KEY=VALUE",
            about="name=, id=, driver=, scope=, type=, label=",
        ),
        value("--format", about="A Go template, `table ...` or json"),
    ),
    words=(0, 0),
)
INSPECT = Command(
    name="network inspect",
    synopsis="NETWORK...",
    about="Describe networks in JSON.",
    act=inspect,
    options=(value("-f", "--format", about="A Go template, or json"),),
    words=(1, None),
)
RM = Command(
    name="network rm",
    synopsis="NETWORK...",
    about="Remove networks.",
    act=rm,
    options=(flag("-f", "--force", about="Do not mind if there is none"),),
    words=(1, None),
)
CONNECT = Command(
    name="network connect",
    synopsis="NETWORK CONTAINER",
    about="Put a stopped container on another network.",
    act=connect,
    options=(
        value("--ip", metavar="ADDRESS", about="Its IPv4 address there"),
        value("--ip6", metavar="ADDRESS", about="Its IPv6 address there"),
        many("--alias", metavar="NAME", about="Another name of it there"),
    ),
    words=(2, 2),
    refused={
        **dict.fromkeys(("--link", "--link-local-ip"), "give it an --alias"),
        "--driver-opt": "the driver has no options",
    },
)
DISCONNECT = Command(
    name="network disconnect",
    synopsis="NETWORK CONTAINER",
    about="Take a stopped container off a network.",
    act=disconnect,
    options=(flag("-f", "--force", about="Accepted: a stopped container needs no force"),),
    words=(2, 2),
)
PRUNE = Command(
    name="network prune",
    synopsis="",
    about="Remove all networks that no container belongs to.",
    act=prune,
    options=(
        flag("-f", "--force", about="Do not ask"),
        many("--filter", metavar="KEY=VALUE", about="Only those that fit: until=, label="),
    ),
    words=(0, 0),
)
