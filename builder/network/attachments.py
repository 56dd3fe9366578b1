"""One end of a network for one sandbox: an address, and the device that will have it."""

from typing import NamedTuple

from builder.errors import NetworkUnavailableError
from builder.network.bridges import Bridge, Plan, Reserved, ensure, mac_of
from builder.network.leases import Lease, take, take_this
from builder.network.subnets import parse_subnet
from builder.sandbox import Link

DEFAULT_PLAN = Plan(bridge="lamina0")


class Wish(NamedTuple):
    """What the caller asks of an attachment; empty is ours to choose."""

    address: str = ""
    address6: str = ""
    mac: str = ""
    interface: str = "eth0"


NO_WISH = Wish()


class Attachment(NamedTuple):
    """Where a sandbox is attached; `lease` is its holder's to release."""

    bridge: Bridge
    address: str
    address6: str
    mac: str
    link: Link
    lease: Lease


def without_network(error: NetworkUnavailableError) -> str:
    """What is said where nobody asked for the network that cannot be had."""
    return f"no network: {error}" + (f" ({error.hint})" if error.hint else "")


def attach(
    plan: Plan = DEFAULT_PLAN,
    wish: Wish = NO_WISH,
    *,
    is_first: bool = True,
    reserved: Reserved = tuple,
) -> Attachment:
    """Take an address of a network, whose bridge is made where it is not there.

    Args:
        plan: the network.
        wish: what the caller asks for.
        is_first: whether the default route is this network's.
        reserved: gives subnets that are not to be chosen.

    Raises:
        NetworkUnavailableError: this host cannot have private networks.
        NetworkError: the address cannot be had.
    """
    bridge = ensure(plan, reserved=reserved)
    subnet = parse_subnet(bridge.subnet)
    if wish.address:
        lease = take_this(bridge.leases, subnet, gateway=bridge.gateway, address=wish.address)
    else:
        lease = take(bridge.leases, subnet, gateway=bridge.gateway)
    mac = wish.mac or mac_of(lease.address)
    addresses = [f"{lease.address}/{subnet.prefix}"]
    gateways = [bridge.gateway] if is_first and not bridge.internal else []
    address6 = ""
    if bridge.subnet6:
        subnet6 = parse_subnet(bridge.subnet6)
        # the same place in it as in the other: who has that lease has this address
        address6 = wish.address6 or subnet6.address(subnet.number_of(lease.address))
        addresses.append(f"{address6}/{subnet6.prefix}")
        if bridge.routes6 and is_first:
            gateways.append(bridge.gateway6)
    link = Link(
        bridge=bridge.name,
        mac=mac,
        addresses=tuple(addresses),
        gateways=tuple(gateways),
        name=wish.interface,
        mtu=bridge.mtu,
    )
    return Attachment(bridge, lease.address, address6, mac, link, lease)
