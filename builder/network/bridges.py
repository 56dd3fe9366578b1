"""The host's side of a network: its bridge, its rules, and how to see that they are still there.

    ensure    bridge, addresses, forwarding, rules: what is missing of them is made
    remove    all of that goes

    /run/lamina/NETNS/           0700; NETNS is the number of the network namespace
        lock                     flock, while something is made or removed
        BRIDGE.json              what was made last: a Bridge, and the generation of the rules then
        BRIDGE/ADDRESS           flock of the one who has the address (leases.py)

Devices and rules are the machine's, and gone with the next boot: so is /run. The default network is
shared by all stores of root, as its bridge is.

Nothing is remembered that cannot be checked: a bridge is there when its name has the index that it
had; the rules are unchanged while the kernel's generation number of all rules is, else they are
looked at. That costs a container two system calls.
"""

import _socket
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from builder.errors import NetworkError, NetworkUnavailableError
from builder.network import nftables
from builder.network.subnets import Subnet, free_subnet, parse_subnet, unique_local_subnet
from builder.sandbox import netlink
from builder.sandbox.netlink import Channel

HOST_STATE = Path("/run/lamina")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_SETTINGS6 = Path("/proc/sys/net/ipv6/conf")
_MTU = 1500
Reserved = Callable[[], Iterable[Subnet]]
_MAC_PREFIX = b"\x02\x4c"  # locally administered


class Plan(NamedTuple):
    """What a bridge is to be. The default network has no subnets yet: free ones are chosen."""

    bridge: str
    subnet: str = ""
    gateway: str = ""
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False


class Bridge(NamedTuple):
    """A bridge that is there. `subnet6` is empty where there is no IPv6.

    `routes6` says whether IPv6 leads anywhere but to the other containers.
    """

    name: str
    device: int
    subnet: str
    gateway: str
    subnet6: str
    gateway6: str
    internal: bool
    mtu: int
    routes6: bool

    @property
    def leases(self) -> Path:
        """Where the leases of its addresses are."""
        return state_directory() / self.name


def state_directory() -> Path:
    """The directory of this network namespace."""
    return HOST_STATE / str(os.stat("/proc/self/ns/net").st_ino)  # noqa: PTH116 - a magic link


def known(bridge: str) -> Bridge | None:
    """What was made under this name, whether or not it is still there."""
    found = _read(bridge)
    return None if found is None else found[0]


def ensure(plan: Plan, *, reserved: Reserved = tuple) -> Bridge:
    """The bridge of a plan, made where it is not there.

    Args:
        plan: what it is to be.
        reserved: gives subnets that are not to be chosen.

    Raises:
        NetworkUnavailableError: this host, or this user, cannot have one.
    """
    found = _read(plan.bridge)
    if found is not None and _is_current(*found):
        return found[0]
    with _refusals_explained(), _locked(), Channel() as routing:
        found = _read(plan.bridge)  # another may have been faster
        bridge = _make_bridge(plan, found[0] if found else None, routing, reserved)
        with _filter_channel() as filtering:
            generation = _make_rules(bridge, filtering)
        _write(bridge, generation)
    return bridge


def remove(name: str) -> None:
    """A bridge and its rules go, and what is remembered of them."""
    with _refusals_explained(), _locked(), Channel() as routing, _filter_channel() as filtering:
        for family in (nftables.FAMILY_IPV4, nftables.FAMILY_IPV6):
            handles = _foreign_handles(family, name, filtering) or []
            for handle in handles:
                _transact(filtering, [nftables.delete_foreign_rule(family, handle)])
        if _has_table(name, filtering):
            _transact(filtering, [nftables.delete_table(name)])
        if _index_of(name):
            routing.request(netlink.delete_link(name))
        directory = state_directory()
        (directory / f"{name}.json").unlink(missing_ok=True)
        if (directory / name).is_dir():
            for lease in (directory / name).iterdir():
                lease.unlink()
            (directory / name).rmdir()


def mac_of(address: str) -> str:
    """The hardware address that goes with an IPv4 address: who gets the latter has no other."""
    return (_MAC_PREFIX + netlink.address_bytes(address)).hex(":")


def _is_current(bridge: Bridge, generation: int) -> bool:
    if _index_of(bridge.name) != bridge.device:
        return False
    try:
        with Channel(netlink.NETFILTER) as filtering:
            answer = filtering.ask(nftables.generation())
    except OSError:
        return False
    return nftables.generation_of(answer) == generation


def _index_of(name: str) -> int:
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        return 0


def _read(name: str) -> tuple[Bridge, int] | None:
    try:
        fields, generation = json.loads((state_directory() / f"{name}.json").read_bytes())
        return Bridge._make(fields), int(generation)
    except (OSError, ValueError, TypeError):  # none, or damaged: it is made again
        return None


def _write(bridge: Bridge, generation: int) -> None:
    path = state_directory() / f"{bridge.name}.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps([list(bridge), generation]))
    temporary.rename(path)


@contextmanager
def _locked() -> Iterator[None]:
    directory = state_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def _refusals_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NetworkUnavailableError(
            f"this host does not let us make a private network: {error.strerror}",
            hint="that needs CAP_NET_ADMIN and a kernel with bridges, veth and nf_tables; "
            "--network host and --network none need nothing",
        ) from error


def _filter_channel() -> Channel:
    return Channel(netlink.NETFILTER)


def _make_bridge(plan: Plan, before: Bridge | None, routing: Channel, reserved: Reserved) -> Bridge:
    routes = [netlink.route_of(answer) for answer in routing.dump(netlink.all_routes())]
    has_ipv6 = _has_ipv6()
    default = {
        route.family: route.device
        for route in routes
        if not route.prefix and route.is_unicast and route.device
    }
    if before is None and not plan.subnet and _index_of(plan.bridge):
        # Nobody knows what it was to be: the note is damaged, or of another version.
        routing.request(netlink.delete_link(plan.bridge))
        with _filter_channel() as filtering:
            if _has_table(plan.bridge, filtering):
                _transact(filtering, [nftables.delete_table(plan.bridge)])
        return _make_bridge(plan, None, routing, reserved)
    mtu = _MTU
    for way_out in default.values():
        mtu = min(mtu, netlink.mtu_of(routing.ask(netlink.get_link(way_out))))
    if plan.subnet:
        subnet, gateway = plan.subnet, plan.gateway
        subnet6, gateway6 = (plan.subnet6, plan.gateway6) if has_ipv6 else ("", "")
    elif before is not None and (_index_of(plan.bridge) or _is_free(before, routes, reserved())):
        subnet, gateway = before.subnet, before.gateway
        subnet6, gateway6 = before.subnet6, before.gateway6
    else:
        chosen = free_subnet([*_taken(routes), *reserved()])
        subnet, gateway = str(chosen), chosen.address(1)
        chosen6 = unique_local_subnet(os.urandom(7)) if has_ipv6 else None
        subnet6, gateway6 = (str(chosen6), chosen6.address(1)) if chosen6 else ("", "")
    device = _index_of(plan.bridge)
    if not device:
        routing.request(netlink.new_bridge(plan.bridge, mac_of(gateway), mtu))
        device = _index_of(plan.bridge)
        _set(_SETTINGS6 / plan.bridge / "accept_ra", "0")
        addresses = [f"{gateway}/{subnet.rpartition('/')[2]}"]
        if gateway6:
            addresses.append(f"{gateway6}/{subnet6.rpartition('/')[2]}")
        routing.request(
            *(netlink.new_address(device, address) for address in addresses),
            netlink.bring_up(plan.bridge),
        )
    routes6 = bool(subnet6) and not plan.internal and (bool(plan.subnet6) or 10 in default)
    if not plan.internal:
        _forward()
        if routes6:
            _forward6()
    return Bridge(
        name=plan.bridge,
        device=device,
        subnet=subnet,
        gateway=gateway,
        subnet6=subnet6,
        gateway6=gateway6,
        internal=plan.internal,
        mtu=mtu,
        routes6=routes6,
    )


def taken_subnets() -> list[Subnet]:
    """What the host's routes and resolvers lie in: nothing of ours may."""
    with Channel() as routing:
        routes = [netlink.route_of(answer) for answer in routing.dump(netlink.all_routes())]
    return _taken(routes)


def _taken(routes: list[netlink.Route]) -> list[Subnet]:
    from builder.network.files import host_resolvers

    found = []
    for route in routes:
        if route.prefix and route.destination:
            address = netlink.address_text(route.destination)
            bits = 8 * len(route.destination)
            if route.prefix <= bits - 2:
                found.append(parse_subnet(f"{address}/{route.prefix}"))
    for address in host_resolvers():
        bits = 128 if ":" in address else 32
        found.append(parse_subnet(f"{address.partition('%')[0]}/{bits - 2}"))
    return found


def _is_free(bridge: Bridge, routes: list[netlink.Route], reserved: Iterable[Subnet]) -> bool:
    subnet = parse_subnet(bridge.subnet)
    return not any(subnet.overlaps(other) for other in (*_taken(routes), *reserved))


def _has_ipv6() -> bool:
    try:
        return (_SETTINGS6 / "all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def _forward() -> None:
    if _FORWARDING.read_text().strip() != "1":
        _FORWARDING.write_text("1")


def _forward6() -> None:
    """A host that forwards ignores router advertisements, unless told otherwise: it must not lose
    its own route because of us."""
    switch = _SETTINGS6 / "all/forwarding"
    if switch.read_text().strip() == "1":
        return
    for interface in sorted(os.listdir(_SETTINGS6)):  # noqa: PTH208 - names are all that is wanted
        setting = _SETTINGS6 / interface / "accept_ra"
        if interface not in ("all", "lo") and setting.read_text().strip() == "1":
            setting.write_text("2")
    switch.write_text("1")


def _set(path: Path, value: str) -> None:
    with suppress(FileNotFoundError):  # no IPv6 here
        path.write_text(value)


def _make_rules(bridge: Bridge, filtering: Channel) -> int:
    """Make what is missing of the rules; returns the generation in which they are there."""
    while True:
        before = nftables.generation_of(filtering.ask(nftables.generation()))
        messages = []
        if not _has_table(bridge.name, filtering):
            subnets = [parse_subnet(each) for each in (bridge.subnet, bridge.subnet6) if each]
            messages += nftables.table_of(bridge.name, subnets, internal=bridge.internal)
        for family in (nftables.FAMILY_IPV4, nftables.FAMILY_IPV6):
            if _foreign_handles(family, bridge.name, filtering) == []:
                messages += nftables.pass_foreign_chain(family, bridge.name)
        if not messages:
            return before
        _transact(filtering, messages)


def _has_table(name: str, filtering: Channel) -> bool:
    try:
        filtering.ask(nftables.find_table(name))
    except FileNotFoundError:
        return False
    return True


def _foreign_handles(family: int, bridge: str, filtering: Channel) -> list[bytes] | None:
    """Our rules in iptables' chain; None where there is no such chain."""
    try:
        filtering.ask(nftables.find_foreign_chain(family))
        return nftables.handles_of(bridge, filtering.dump(nftables.foreign_rules(family)))
    except FileNotFoundError:
        return None


def _transact(filtering: Channel, messages: list[netlink.Message]) -> None:
    filtering.transact(*nftables.batch(messages))


def check_is_free(subnet: Subnet, *, taken: list[Subnet]) -> None:
    """Raises NetworkError: the host or another network has addresses of it."""
    for other in taken:
        if subnet.overlaps(other):
            raise NetworkError(
                f"the subnet {subnet} overlaps {other}, which is in use",
                hint="choose another by --subnet, or let a free one be chosen",
            )
